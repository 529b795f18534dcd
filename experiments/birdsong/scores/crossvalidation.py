"""Metrics of models and ensembles by cross-validation, from predictions of each fold for its held-out recordings."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from birdsong.scores import metrics, search

# Strategy and seed of the search for the weights of ensembles.
STRATEGY, SEED = 'forward', 0


class Recordings(NamedTuple):
    """The held-out recordings of all folds, fold by fold.

    files: keys; fold: index of the fold of each, (N,); truth: class indices (N,); background: list of N lists of class
    indices, or None.
    """

    files: list[str]
    fold: np.ndarray
    truth: np.ndarray
    background: list[list[int]] | None

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1

    def of_fold(self, number: int, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, list | None]:
        """Scores, truth and background of the recordings of one fold."""
        which = np.flatnonzero(self.fold == number)
        return scores[which], self.truth[which], self.background and [self.background[i] for i in which]


def fit_weights(members: Sequence[np.ndarray], recordings: Recordings) -> np.ndarray:
    """For each fold, weights of an ensemble that are fitted to the recordings of the other folds: (folds, members).

    members: one array (N, C) per model. The weights of each fold sum to 1, so that the scores of all folds have the
    same scale. They maximise the MAP plus, if there are background classes, the MAP with background.
    """
    # Imported here, since loading Numba and the compiled functions takes a while.
    from birdsong.scores.ensemble import Ensemble

    ensemble = Ensemble(members, recordings.truth, recordings.background)
    criterion = 'fg' if recordings.background is None else 'fg+bg'
    weights = np.empty((recordings.folds, len(members)))
    for number in range(recordings.folds):
        others = np.flatnonzero(recordings.fold != number)
        found = search.Search(ensemble, criterion, others)
        weights[number] = search.run(STRATEGY, found, np.ones(len(members)), None, SEED)
    return weights / weights.sum(axis=1, keepdims=True)


def combine(members: Sequence[np.ndarray], weights: np.ndarray, recordings: Recordings) -> np.ndarray:
    """Scores (N, C) of an ensemble whose weights differ from fold to fold: (folds, members)."""
    return sum(each * weights[recordings.fold, m, None] for m, each in enumerate(members))


class Estimate:
    """Metrics of a model or an ensemble, trained with one or several seeds.

    `.pooled[metric]` has one value per seed, from the scores of all held-out recordings together; `.folds[metric]` is a
    list with one array (folds,) per seed; `.resampled[metric]` (samples,) is the mean over the seeds for each
    bootstrap sample. The metrics are those of `resampling.resampled`.
    """

    def __init__(self, name: str):
        self.name, self.seeds = name, 0
        self.pooled, self.folds, self.resampled = {}, {}, {}

    def add(self, scores: np.ndarray, recordings: Recordings, drawn: np.ndarray) -> None:
        """Add the scores (N, C) of another seed. drawn: how often recordings are in bootstrap samples, (samples, N)."""
        for name, value in _evaluate(scores, recordings.truth, recordings.background).items():
            self.pooled.setdefault(name, []).append(value)
        folds = [_evaluate(*recordings.of_fold(number, scores)) for number in range(recordings.folds)]
        for name in folds[0]:
            self.folds.setdefault(name, []).append(np.array([values[name] for values in folds]))
        from birdsong.scores.resampling import resampled  # here, since it takes a while to load Numba

        for name, values in resampled(scores, recordings.truth, recordings.background, drawn).items():
            self.resampled[name] = (self.resampled.get(name, 0) * self.seeds + values) / (self.seeds + 1)
        self.seeds += 1

    def minus(self, other: 'Estimate') -> 'Estimate':
        """The differences from another estimate with the same recordings, bootstrap samples and number of seeds."""
        result = Estimate(self.name)
        result.seeds = self.seeds
        for name in self.pooled:
            result.pooled[name] = [a - b for a, b in zip(self.pooled[name], other.pooled[name], strict=True)]
            result.folds[name] = [a - b for a, b in zip(self.folds[name], other.folds[name], strict=True)]
            result.resampled[name] = self.resampled[name] - other.resampled[name]
        return result

    def summary(self) -> dict[str, dict[str, float]]:
        """For each metric: 'pooled' (mean over seeds), 'low', 'high', 'sd' (over seeds) and 'folds' (mean)."""
        result = {}
        for name, values in self.pooled.items():
            low, high = interval(self.resampled[name])
            result[name] = {
                'pooled': float(np.mean(values)),
                'low': low,
                'high': high,
                'sd': float(np.std(values, ddof=1)) if self.seeds > 1 else float('nan'),
                'folds': mean_of_defined(self.folds[name]),
            }
        return result


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval (low, high) from the values of all samples, by the percentile method; NaN is left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float('nan'), float('nan')
    return tuple(np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist())


def mean_of_defined(values: Sequence) -> float:
    """The mean of the numbers that are not NaN, or NaN."""
    values = np.ravel(values)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float('nan')


def _evaluate(scores, truth, background):
    """The metrics of `resampling.resampled`, of all recordings."""
    values = metrics.evaluate(scores, truth, background, top_k=1) | metrics.current(scores, truth, background)
    del values['cmAP-padded']
    return values
