"""Metrics of many bootstrap samples of recordings. Compiled: class-wise metrics depend on the order of all scores."""

from collections.abc import Sequence

import numba
import numpy as np

from birdsong.scores import metrics


@numba.njit(nogil=True, error_model='numpy')
def _class_values(weights, totals, order, own, starts, ends, precisions, areas):
    """Average precision and ROC-AUC of a class in each sample; weights: (samples, N), totals: their sums.

    order: recordings by falling score; own: whether these have the class; starts, ends: bounds in `order` of each
    score that a recording with the class has. Written to precisions, areas (samples,); NaN where undefined.
    """
    for s in range(len(weights)):
        row = weights[s]
        at, above, found = 0, 0, 0  # above: recordings before `at` in the sample; found: those of them with the class
        precision, penalty = 0.0, 0.0
        for t in range(len(starts)):
            for i in range(at, starts[t]):
                above += row[order[i]]
            mine, equal = 0, 0
            for i in range(starts[t], ends[t]):
                equal += row[order[i]]
                mine += row[order[i]] * own[i]
            penalty += mine * (above - found + (equal - mine) / 2)
            above, found, at = above + equal, found + mine, ends[t]
            if mine:
                precision += mine * found / above
        precisions[s] = precision / found
        areas[s] = 1 - penalty / (found * (totals[s] - found))


def resampled(
    scores: np.ndarray, truth: Sequence[int], background: list | None, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of samples in which recording i is contained weights[s, i] times: dict of (samples,) arrays.

    scores: (N, C); weights: (samples, N), whole numbers. 'MAP', with background 'MAP-bg', 'top-1', 'cmAP' and
    'ROC-AUC', as `metrics.evaluate` and `metrics.current` would return them if the recordings were repeated; NaN where
    a metric is undefined.
    """
    first, precisions = metrics.per_recording(scores, truth, background)
    values = {'MAP': 1 / first} | ({} if precisions is None else {'MAP-bg': precisions}) | {'top-1': first <= 1}
    totals = weights.sum(axis=1, dtype=np.int64)
    # row by row, since each row is converted to doubles
    result = {
        name: np.array([row @ each.astype(np.float64) for row in weights]) / totals for name, each in values.items()
    }
    result['cmAP'], result['ROC-AUC'] = _class_means(scores, truth, background, weights, totals)
    return result


def _class_means(scores, truth, background, weights, totals):
    """cmAP and macro ROC-AUC of each sample, (2, samples)."""
    rows, classes = metrics.relevant(truth, background)
    total, defined = np.zeros((2, len(weights))), np.zeros((2, len(weights)), int)
    values = np.empty((2, len(weights)))
    for c in np.unique(classes):
        own = np.zeros(len(scores), np.uint8)
        own[rows[classes == c]] = 1
        order = np.argsort(-scores[:, c])
        falling = -scores[order, c]
        thresholds = np.unique(falling[own[order] == 1])
        starts, ends = (np.searchsorted(falling, thresholds, side) for side in ('left', 'right'))
        _class_values(weights, totals, order, own[order], starts, ends, *values)
        exists = ~np.isnan(values)
        total[exists] += values[exists]
        defined += exists
    return np.where(defined, total / np.maximum(defined, 1), np.nan)
