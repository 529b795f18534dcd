"""Strategies of the search for weights: all improve the criterion, and the same seed gives the same weights."""

import numpy as np
import pytest

from birdsong.scores import search
from birdsong.scores.ensemble import Ensemble
from helpers import model_scores, plain_maps

GOLDEN = ('eval/blender_greedy',)
STRATEGIES = 'greedy', 'forward', 'hyperopt', 'hyperopt_zero', 'hyperopt_log'


def find(strategy, scores, truth, background, criterion='fg+bg', patience=None, seed=0):
    found = search.Search(Ensemble(list(scores), truth, background), criterion)
    search.run(strategy, found, np.ones(len(scores)), patience, seed)
    return found


def test_greedy_is_as_good_as_the_original(golden):
    description, arrays = golden('eval/blender_greedy')
    for case in description['cases']:
        fg, bg = plain_maps(arrays['preds'], arrays['truth'], description['bg'], case['weights'])
        original = fg + bg if case['criterion'] == 'fg+bg' else fg
        ours = [
            find('greedy', arrays['preds'], arrays['truth'], description['bg'], case['criterion'], 10, seed).best
            for seed in range(8)
        ]
        assert np.median(ours) > original - 0.003 and max(ours) >= original


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('criterion', ('fg', 'bg', 'fg+bg'))
def test_every_strategy_improves_the_criterion(strategy, criterion):
    scores, truth, background = model_scores(models=5, recordings=150)
    scores[0] = np.random.default_rng(1).normal(size=scores[0].shape)
    patience = 40 if strategy.startswith('hyper') else None
    found = find(strategy, scores, truth, background, criterion, patience)
    fg, bg = plain_maps(scores, truth, background, found.weights)
    assert found.best == pytest.approx({'fg': fg, 'bg': bg, 'fg+bg': fg + bg}[criterion], abs=1e-3)
    start = plain_maps(scores, truth, background, np.ones(5))
    assert found.best > {'fg': start[0], 'bg': start[1], 'fg+bg': sum(start)}[criterion]
    assert (found.weights >= 0).all() and found.weights.any()


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(strategy):
    scores, truth, background = model_scores(models=5, recordings=60)
    patience = 30 if strategy.startswith('hyper') else None
    results = [find(strategy, scores, truth, background, 'fg', patience, seed).weights.tolist() for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_weights_of_hyperopt_are_in_their_ranges_and_of_hyperopt_zero_often_zero():
    scores, truth, background = model_scores(models=6, recordings=60)
    seen = {}
    for strategy in STRATEGIES[2:]:
        found = search.Search(Ensemble(list(scores), truth, background), 'fg')
        seen[strategy] = []
        found.consider = lambda weights, maps, own=seen[strategy]: own.append(weights) or maps[0]
        search.run(strategy, found, np.ones(6), 30, 0)
    trials = {k: np.array(v[2:]) for k, v in seen.items()}
    assert all(len(t) == 30 for t in trials.values())
    assert (trials['hyperopt'] > 0).all() and (trials['hyperopt'] <= 1).all()
    assert 0.2 < (trials['hyperopt_zero'] == 0).mean() < 0.8
    assert (trials['hyperopt_log'] >= np.exp(-6)).all() and (trials['hyperopt_log'] <= 1).all()
    assert np.median(trials['hyperopt_log']) < 0.2


def test_hyperopt_improves_with_the_number_of_trials():
    scores, truth, background = model_scores(models=3, recordings=150)
    scores[:2] = 3 * np.random.default_rng(1).normal(size=scores[:2].shape)
    found, values = search.Search(Ensemble(list(scores), truth, background), 'fg'), []
    consider = found.consider
    found.consider = lambda weights, maps: values.append(maps[0]) or consider(weights, maps)
    search.run('hyperopt', found, np.ones(3), 80, 0)
    assert np.median(values[-40:]) > np.median(values[1:21]) + 0.05


def test_forward_gives_random_models_small_weights():
    scores, truth, background = model_scores(models=8, recordings=400)
    scores[:5] = 3 * np.random.default_rng(1).normal(size=scores[:5].shape)
    weights = find('forward', scores, truth, background).weights
    assert weights[:5].sum() < 0.2 * weights[5:].sum()


def test_hyperopt_begins_with_the_initial_weights_scaled_into_its_range():
    scores, truth, background = model_scores(models=3, recordings=60)
    for strategy, expected in zip(STRATEGIES[2:], ([0.5, 0, 1], [0.5, 0, 1], [0.5, np.exp(-6), 1]), strict=True):
        found, seen = search.Search(Ensemble(list(scores), truth, background), 'fg'), []
        found.consider = lambda weights, maps, seen=seen: seen.append(weights.tolist()) or maps[0]
        search.run(strategy, found, np.array([2.0, 0, 4]), 1, 0)
        assert seen[:2] == [[2, 0, 4], expected] and len(seen) == 3
