"""Fast evaluation of weighted combinations: the same metrics as by the plain definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsong.files import Problem
from birdsong.scores.ensemble import Ensemble
from helpers import model_scores, plain_maps


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 7),
    st.integers(1, 20),
    st.integers(1, 30),
    st.sampled_from((None, 1, 3)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_fast_evaluation_agrees_with_the_definition(models, recordings, classes, levels, with_background, prune, seed):
    rng = np.random.default_rng(seed)
    scores, truth, background = model_scores(models, recordings, max(classes, 4), levels, seed)
    background = background if with_background else None
    ensemble = Ensemble(list(scores), truth, background, prune=prune)
    # Small integers, so that sums are exact and ties remain ties.
    weights = rng.integers(4, size=(5, models)).astype(float)
    weights[:, 0] += 1
    expected = np.array([plain_maps(scores, truth, background, w) for w in weights])
    np.testing.assert_allclose(np.stack(ensemble.evaluate(weights), axis=1), expected, rtol=1e-12)
    np.testing.assert_allclose(ensemble.evaluate(weights[0]), expected[0], rtol=1e-12)
    walk = ensemble.walk(weights[0])
    for w in weights:
        m = rng.integers(models)
        changed = walk.weights.copy()
        changed[m] = w[m] + 1
        np.testing.assert_allclose(walk.change(m, w[m] + 1), plain_maps(scores, truth, background, changed), rtol=1e-12)
        walk.start(w)


def test_only_the_given_recordings_are_evaluated():
    scores, truth, background = model_scores()
    ensemble, weights = Ensemble(list(scores), truth, background), np.array([0.3, 0.1, 0.7, 0.2])
    some = np.array([3, 4, 17, 60])
    expected = plain_maps(scores[:, some], truth[some], [background[i] for i in some], weights)
    np.testing.assert_allclose(ensemble.evaluate(weights, some), expected)
    np.testing.assert_allclose(ensemble.walk(weights, some).change(1, 0.1), expected)
    firsts, precisions = ensemble.each(weights)
    assert (firsts[some].mean(), precisions[some].mean()) == pytest.approx(expected)


@pytest.mark.parametrize('low, high', ((0, 1), (0.2, 0.3)))
def test_a_line_agrees_with_the_evaluation_of_its_points(low, high):
    scores, truth, background = model_scores(models=5, recordings=120, classes=40)
    ensemble = Ensemble(list(scores), truth, background)
    walk = ensemble.walk([0.5, 0.2, 0, 0.9, 1])
    for model in range(5):
        curves = np.array(walk.line(model, low, high, count=50))
        weights = np.tile(walk.weights.astype(float), (50, 1))
        shares = low + (high - low) / 50 * np.arange(50)
        weights[:, model] = shares / (1 - shares) * walk.others(model)
        np.testing.assert_allclose(curves, ensemble.evaluate(weights), atol=1e-3)
        assert np.mean(np.abs(curves - ensemble.evaluate(weights)) > 1e-12) < 0.05


def test_pruning_leaves_few_classes():
    scores, truth, background = model_scores(models=6, recordings=200, classes=300)
    scores += np.float32(3) * (np.arange(300) == truth[:, None])
    everything, pruned = (Ensemble(list(scores), truth, None, prune=p) for p in (False, True))
    assert everything.nbytes == scores.nbytes and pruned.nbytes < scores.nbytes / 4


def test_without_weights_the_metrics_are_zero():
    scores, truth, background = model_scores()
    ensemble = Ensemble(list(scores), truth, background)
    assert ensemble.evaluate(np.zeros(4)) == (0, 0)
    assert ensemble.walk([0, 1, 0, 0]).change(1, 0) == (0, 0)
    with pytest.raises(Problem, match='not negative'):
        ensemble.evaluate([1, 1, -1, 1])
    with pytest.raises(Problem, match='no other'):
        ensemble.walk([0, 1, 0, 0]).line(1)
    with pytest.raises(Problem, match='class 8'):
        Ensemble(list(scores[..., :5]), truth, background)
