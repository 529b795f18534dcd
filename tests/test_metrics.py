"""Metrics: equal to those of the original, and to their definitions."""

import numpy as np
import pytest

from birdsong.files import Problem
from birdsong.scores import metrics, resampling

GOLDEN = ('eval/evaluate',)


def named(result):
    """A result under the name that it has in the golden case."""
    top = [v for k, v in result.items() if k.startswith('top-')]
    return {
        'map': result['MAP'],
        'accuracy': top[0],
        'top-acc': top,
        **({'map-bg': result['MAP-bg']} if 'MAP-bg' in result else {}),
    }


def test_metrics_agree_with_the_original(golden):
    description, arrays = golden('eval/evaluate')
    checked = 0
    for case in description['cases']:
        if case['preds'] in arrays and isinstance(case['bg'], bool):
            result = metrics.evaluate(
                arrays[case['preds']], arrays['truth'], description['bg'] if case['bg'] else None, case['top_k']
            )
            result = named(result)
            assert result.keys() == case['result'].keys()
            for key, value in case['result'].items():
                np.testing.assert_allclose(result[key], value, rtol=1e-12, err_msg=str(case))
            checked += 1
    assert checked == 20


def test_with_the_same_order_of_ties_metrics_agree_with_the_original(golden):
    description, arrays = golden('eval/evaluate')
    case = description['cases'][-1]
    assert case['preds'].startswith('ties')
    order = arrays['ties_order']
    scores = np.empty(order.shape)
    np.put_along_axis(scores, order, np.broadcast_to(np.arange(order.shape[1])[::-1], order.shape), axis=1)
    if np.take_along_axis(arrays['ties'], order, 1)[0, 0] < arrays['ties'][0].max():
        scores = -scores
    result = named(metrics.evaluate(scores, arrays['truth'], description['bg'], case['top_k']))
    for key, value in case['result'].items():
        np.testing.assert_allclose(result[key], value, rtol=1e-12)


def by_definition(scores, truth, background):
    """Mean average precisions from a stable sort of every recording's classes."""
    fg, bg = [], []
    for row, label, others in zip(scores, truth, background, strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        fg.append(1 / (order.index(label) + 1))
        found = sorted(order.index(c) + 1 for c in {label, *others})
        bg.append(np.mean([(i + 1) / rank for i, rank in enumerate(found)]))
    return np.mean(fg), np.mean(bg)


@pytest.mark.parametrize('levels', (2, 5, 1000000))
def test_ties_go_to_the_class_of_the_lower_index(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(150, 11)).astype(np.float32)
    truth = rng.integers(11, size=150)
    background = [rng.choice(11, rng.integers(4), replace=False).tolist() for _ in truth]
    result = metrics.evaluate(scores, truth, background)
    assert (result['MAP'], result['MAP-bg']) == pytest.approx(by_definition(scores, truth, background), abs=1e-12)


def test_constant_scores_are_not_better_than_guessing():
    truth = np.tile(np.arange(100), 3)
    result = metrics.evaluate(np.zeros((300, 100)), truth)
    assert result['MAP'] == pytest.approx(np.mean(1 / np.arange(1, 101)))
    assert result['top-1'] == pytest.approx(0.01)


def test_background_counts_the_foreground_and_no_class_twice():
    scores = np.array([[3.0, 2.0, 1.0, 0.0]])
    assert metrics.evaluate(scores, [1], [[]])['MAP-bg'] == 1 / 2
    assert metrics.evaluate(scores, [1], [[1, 1]])['MAP-bg'] == 1 / 2
    assert metrics.evaluate(scores, [1], [[2, 2]])['MAP-bg'] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_scores_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(Problem, match='class 7'):
        metrics.evaluate(np.zeros((2, 5)), [0, 7])
    with pytest.raises(Problem, match='2 recordings'):
        metrics.evaluate(np.zeros((3, 5)), [0, 1])
    with pytest.raises(Problem, match='NaN'):
        metrics.evaluate(np.full((1, 5), np.nan), [0])
    with pytest.raises(Problem, match='class -1'):
        metrics.evaluate(np.zeros((1, 5)), [-1])


def test_current_metrics_agree_with_the_definitions_of_scikit_learn():
    rng = np.random.default_rng(1)
    scores = rng.integers(6, size=(60, 8)).astype(np.float32)
    truth = rng.integers(7, size=60)
    background = [rng.choice(7, rng.integers(3), replace=False).tolist() for _ in truth]

    def average_precision(labels, values):
        result = 0
        for threshold in set(values[labels]):
            chosen = values >= threshold
            result += np.sum(labels & (values == threshold)) / labels.sum() * labels[chosen].mean()
        return result

    precisions, padded, areas = [], [], []
    for c in range(8):
        labels = np.array([t == c or c in b for t, b in zip(truth, background, strict=True)])
        padded.append(average_precision(np.append(labels, [True] * 5), np.append(scores[:, c], [99] * 5)))
        if labels.any():
            precisions.append(average_precision(labels, scores[:, c]))
            pairs = scores[labels, c][:, None] - scores[~labels, c]
            areas.append(np.mean((pairs > 0) + (pairs == 0) / 2))
    assert metrics.current(scores, truth, background) == pytest.approx(
        {'cmAP': np.mean(precisions), 'cmAP-padded': np.mean(padded), 'ROC-AUC': np.mean(areas)}
    )


def test_constant_scores_are_not_better_than_guessing_in_current_metrics():
    truth = np.arange(40) % 4
    assert metrics.current(np.zeros((40, 4)), truth) == pytest.approx(
        {'cmAP': 1 / 4, 'cmAP-padded': (10 * 15 / 45 + 5) / 15, 'ROC-AUC': 1 / 2}
    )


def test_intervals_have_the_width_that_theory_gives():
    rng = np.random.default_rng(0)
    hits = rng.random(400) < 0.3
    scores = np.stack([hits, ~hits], axis=1).astype(float)
    low, high = metrics.intervals(scores, np.zeros(400, int))['top-1']
    error = np.sqrt(hits.mean() * (1 - hits.mean()) / 400)
    assert (low, high) == pytest.approx((hits.mean() - 1.96 * error, hits.mean() + 1.96 * error), abs=0.01)
    assert metrics.intervals(scores, np.zeros(400, int))['top-1'] == (low, high)


def test_recordings_of_a_group_are_drawn_together():
    groups = ['a', 'b', 'a', 'c', 'b', 'a']
    drawn = np.array(list(metrics.resample(6, groups, samples=200)))
    assert (drawn[:, 0] == drawn[:, 2]).all() and (drawn[:, 2] == drawn[:, 5]).all()
    assert (drawn[:, 1] == drawn[:, 4]).all() and (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(drawn, axis=0)) == 10  # the ways to draw 3 of 3 with replacement


def test_intervals_of_groups_are_as_wide_as_if_each_group_was_one_recording():
    rng = np.random.default_rng(0)
    hits = rng.random(100) < 0.3
    scores = np.stack([hits, ~hits], axis=1).astype(float)
    alone = metrics.intervals(scores, np.zeros(100, int), seed=3)
    each = np.repeat(np.arange(100), 4)
    together = metrics.intervals(scores[each], np.zeros(400, int), seed=3, groups=each)
    assert together == pytest.approx({name: pytest.approx(bounds) for name, bounds in alone.items()})
    separate = metrics.intervals(scores[each], np.zeros(400, int))['top-1']
    assert np.diff(separate) == pytest.approx(np.diff(together['top-1']) / 2, rel=0.15)


@pytest.mark.parametrize('with_background', [False, True])
def test_metrics_of_resampled_recordings_are_those_of_repeated_recordings(with_background):
    rng = np.random.default_rng(2)
    scores = rng.integers(7, size=(40, 6)).astype(np.float32)
    truth = rng.integers(5, size=40)
    background = [rng.choice(5, rng.integers(3), replace=False).tolist() for _ in truth] if with_background else None
    weights = np.array(list(metrics.resample(40, samples=30)))
    weights[0] = truth == 2  # one class in all recordings: no ROC-AUC
    found = resampling.resampled(scores, truth, background, weights)
    for i, times in enumerate(weights):
        each = np.repeat(np.arange(40), times)
        others = [background[j] for j in each] if with_background else None
        expected = metrics.evaluate(scores[each], truth[each], others, top_k=1)
        expected.update(metrics.current(scores[each], truth[each], others))
        del expected['cmAP-padded']
        assert {name: values[i] for name, values in found.items()} == pytest.approx(expected, nan_ok=True)
