"""Choosing among the results of several searches for ensemble weights, and estimating how well they generalise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from birdsong.scores import search

if TYPE_CHECKING:  # importing it at run time would load Numba
    from birdsong.scores.ensemble import Ensemble

# As was done by hand in 2018, the winner is the candidate that is best on most of 50 random subsets of 10 %.
SUBSETS, SUBSET_SHARE = 50, 0.1


class Candidate(NamedTuple):
    """A search that may give the best weights."""

    strategy: str
    seed: int = 0
    patience: int | None = None

    def __str__(self):
        return self.strategy if self.strategy == search.INITIAL else f'{self.strategy}, seed {self.seed}'


class Comparison(NamedTuple):
    """The criterion of each candidate: mean, bounds of a 95 % interval, and number of subsets on which it is best."""

    means: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    wins: np.ndarray
    best: int  # index of the winner
    size: int  # recordings in each subset


def compare(values: np.ndarray, seed: int) -> Comparison:
    """Compare candidates on random subsets of the recordings; values: (candidates, N), the criterion per recording."""
    count = values.shape[1]
    size = max(round(count * SUBSET_SHARE), min(20, count // 2), 1)
    rng = np.random.default_rng([seed, count])
    results = np.stack([values[:, rng.permutation(count)[:size]].mean(axis=1) for _ in range(SUBSETS)], axis=1)
    best = results >= results.max(axis=0) - search.EPSILON
    wins = (best / best.sum(axis=0)).sum(axis=1)
    winner = np.lexsort((-values.mean(axis=1), -np.round(wins, 6)))[0]
    lows, highs = np.quantile(results, [0.025, 0.975], axis=1)
    return Comparison(values.mean(axis=1), lows, highs, wins, int(winner), size)


def rounded(weights: np.ndarray) -> np.ndarray:
    """Weights as they are printed (6 digits), so that the metrics are those of the printed weights."""
    return np.array([float(f'{weight:g}') for weight in weights])


class Selection:
    """Runs the searches of candidates and chooses one of them.

    `start` (M,) are the initial weights. `report` is called for improvements (see `Search`), `say` with lines about the
    progress. `.weights` (M,) are the weights chosen or, after an interruption, the best so far; `.chosen` is the
    candidate chosen, None at first.
    """

    def __init__(
        self, ensemble: Ensemble, criterion: str, start: np.ndarray, report: Callable, say: Callable[[str], None]
    ):
        self.ensemble, self.criterion, self.start, self.report, self.say = ensemble, criterion, start, report, say
        self.searches, self.chosen, self._weights = [], None, None

    @property
    def weights(self) -> np.ndarray:
        if self.chosen is not None:
            return self._weights
        best = max(self.searches, key=lambda found: found.best, default=None)
        return self.start if best is None or best.weights is None else rounded(best.weights)

    def find(self, candidate: Candidate, recordings: np.ndarray | None = None) -> np.ndarray:
        """The weights (M,) that a candidate finds on all recordings (rounded), or on some (indices)."""
        found = search.Search(self.ensemble, self.criterion, recordings, self.report if recordings is None else None)
        if recordings is None:
            self.searches.append(found)
        weights = search.run(candidate.strategy, found, self.start, candidate.patience, candidate.seed)
        return rounded(weights) if recordings is None else weights

    def held_out(self, candidates: list[Candidate], folds: int, seed: int) -> np.ndarray:
        """Reciprocal ranks and average precisions (candidates, 2, N) by cross-validation with `folds` folds."""
        order = np.random.default_rng([seed, folds]).permutation(self.ensemble.recordings)
        results = np.empty((len(candidates), 2, self.ensemble.recordings))
        for k in range(folds):
            part = np.sort(order[k::folds])
            rest = np.setdiff1d(order, part)
            for i, candidate in enumerate(candidates):
                self.say(f'fold {k + 1} of {folds}, {candidate}')
                results[i][:, part] = self.ensemble.each(self.find(candidate, rest), part)
        return results

    def choose(
        self, candidates: list[Candidate], folds: int, seed: int, show: Callable[[Comparison], None]
    ) -> np.ndarray | None:
        """Search with all candidates and choose one; `show` is called with the comparison.

        With `folds`, candidates are compared on held-out recordings. Returns the chosen candidate's `held_out` (2, N),
        or None without folds.
        """

        def on_all(candidate):
            if len(candidates) > 1:
                self.say(str(candidate))
            return self.find(candidate)

        best, each = 0, self.held_out(candidates, folds, seed) if folds else None
        found = [] if folds else [on_all(candidate) for candidate in candidates]
        if folds or len(candidates) > 1:
            values = each if folds else np.array([self.ensemble.each(weights) for weights in found])
            comparison = compare(search.criterion_value(self.criterion, (values[:, 0], values[:, 1])), seed)
            show(comparison)
            best = comparison.best
        weights = on_all(candidates[best]) if folds else found[best]
        self.chosen, self._weights = candidates[best], weights
        return each[best] if folds else None
