"""Figures of merit, against the original's and against what they are by definition."""

import numpy as np
import pytest

from birdsong.files import Problem
from birdsong.scores import metrics

GOLDEN = ('eval/evaluate',)


def named(result):
    """A result as the golden case names it."""
    top = [v for k, v in result.items() if k.startswith('top-')]
    return {
        'map': result['MAP'],
        'accuracy': top[0],
        'top-acc': top,
        **({'map-bg': result['MAP-bg']} if 'MAP-bg' in result else {}),
    }


def test_figures_are_the_originals(golden):
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


def test_with_the_originals_order_of_ties_even_its_figures_on_ties_come_out(golden):
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
    for row, label, others in zip(scores, truth, background):
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


def test_a_constant_network_does_not_look_good():
    truth = np.tile(np.arange(100), 3)
    result = metrics.evaluate(np.zeros((300, 100)), truth)
    assert result['MAP'] == pytest.approx(np.mean(1 / np.arange(1, 101)))
    assert result['top-1'] == pytest.approx(0.01)


def test_background_counts_the_foreground_and_no_class_twice():
    scores = np.array([[3.0, 2.0, 1.0, 0.0]])
    assert metrics.evaluate(scores, [1], [[]])['MAP-bg'] == 1 / 2
    assert metrics.evaluate(scores, [1], [[1, 1]])['MAP-bg'] == 1 / 2
    assert metrics.evaluate(scores, [1], [[2, 2]])['MAP-bg'] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_what_does_not_fit_is_said():
    with pytest.raises(Problem, match='class 7'):
        metrics.evaluate(np.zeros((2, 5)), [0, 7])
    with pytest.raises(Problem, match='2 recordings'):
        metrics.evaluate(np.zeros((3, 5)), [0, 1])
    with pytest.raises(Problem, match='NaN'):
        metrics.evaluate(np.full((1, 5), np.nan), [0])
    with pytest.raises(Problem, match='class -1'):
        metrics.evaluate(np.zeros((1, 5)), [-1])
