"""Choosing among searches: held-out recordings are never used for the search, and the most stable candidate wins."""

import numpy as np
import pytest

from birdsong.scores.ensemble import Ensemble
from birdsong.scores.selection import Candidate, Selection, compare
from helpers import model_scores


def test_held_out_recordings_are_not_used_for_the_search(monkeypatch):
    scores, truth, background = model_scores()
    ensemble, searched, judged = Ensemble(list(scores), truth, background), [], []
    selection = Selection(ensemble, 'fg', np.ones(4), None, lambda line: None)

    def find(candidate, recordings):
        searched.append(set(recordings.tolist()))
        return np.ones(4)

    each = ensemble.each
    monkeypatch.setattr(selection, 'find', find)
    ensemble.each = lambda weights, part: judged.append(set(part.tolist())) or each(weights, part)
    results = selection.held_out([Candidate('forward')], 3, 0)
    assert len(searched) == 3 and not any(s & j for s, j in zip(searched, judged, strict=True))
    assert set.union(*judged) == set(range(80)) and sum(map(len, judged)) == 80
    np.testing.assert_array_equal(results[0], each(np.ones(4)))


def test_the_candidate_that_is_best_on_most_subsets_wins_over_one_with_a_higher_mean():
    rng = np.random.default_rng(0)
    steady, lucky = np.full(400, 0.55), np.where(rng.random(400) < 0.003, 20.0, 0.5)
    found = compare(np.array([lucky, steady, steady]), 0)
    assert found.means.argmax() == 0 and found.best == 1
    assert found.size == 40 and found.wins.sum() == pytest.approx(50) and found.wins[1] == found.wins[2] > found.wins[0]
    assert found.lows == pytest.approx([0.5, 0.55, 0.55]) and found.highs[0] > found.means[0]


@pytest.mark.parametrize('folds', (0, 2))
def test_the_weights_are_the_chosen_ones_and_before_that_the_best_so_far(folds):
    scores, truth, background = model_scores()
    selection = Selection(Ensemble(list(scores), truth, background), 'fg', np.ones(4), None, lambda line: None)
    assert selection.weights.tolist() == [1, 1, 1, 1] and selection.chosen is None
    worse = selection.find(Candidate('initial weights'))
    better = selection.find(Candidate('forward'))
    assert selection.weights.tolist() == better.tolist() != worse.tolist()
    shown = []
    each = selection.choose([Candidate('forward'), Candidate('initial weights')], folds, 0, shown.append)
    assert (each is None) == (folds == 0)
    assert selection.chosen == Candidate(('forward', 'initial weights')[shown[0].best])
    assert selection.weights.tolist() == (better, worse)[shown[0].best].tolist()
