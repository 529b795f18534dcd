"""Is the difference between two sets of predictions real? Paired bootstrap and permutation tests over recordings."""

from collections.abc import Sequence

import numpy as np

from birdsong.scores import metrics
from birdsong.scores.resampling import resampled

# Up to this many groups, all assignments are tried; with more, RANDOM random ones.
MOST_GROUPS, RANDOM = 13, 9999
# Sums of differences that differ by less are regarded as equal.
ROUNDING = 1e-9
LEVEL = 0.95


def compare(
    scores: Sequence[np.ndarray],
    truth: Sequence[int],
    background: list | None = None,
    groups: Sequence | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """For each metric, its values 'A' and 'B', and 'difference', 'low', 'high' and 'p' of B - A.

    scores: those of A and B, (N, classes) each; truth, background: as for `metrics.evaluate`; groups: a label per
    recording. The interval (95 %, percentile method) is that of the differences in bootstrap samples of groups, in each
    of which both are evaluated. 'p' is the probability of a difference at least as large if A and B were exchangeable
    in each group (two-sided permutation test; Smucker et al., CIKM 2007); NaN for metrics that are no means over
    recordings.
    """
    weights = np.stack(list(metrics.resample(len(truth), groups, samples, seed)))
    once = np.ones((1, len(truth)), np.int64)
    values, drawn = ([resampled(each, truth, background, w) for each in scores] for w in (once, weights))
    differences = _per_recording_differences(scores, truth, background)
    rng, result = np.random.default_rng(seed), {}
    for name in values[0]:
        a, b = (float(each[name][0]) for each in values)
        low, high = np.nanquantile(drawn[1][name] - drawn[0][name], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        p = permutation_test(differences[name], groups, rng) if name in differences else float('nan')
        result[name] = {'A': a, 'B': b, 'difference': b - a, 'low': low, 'high': high, 'p': p}
    return result


def _per_recording_differences(scores, truth, background):
    """Differences (N,) of the metrics that are means over recordings."""
    parts = []
    for each in scores:
        first, precisions = metrics.per_recording(each, truth, background)
        parts.append({'MAP': 1 / first, 'top-1': (first <= 1).astype(float)})
        if precisions is not None:
            parts[-1]['MAP-bg'] = precisions
    return {name: parts[1][name] - parts[0][name] for name in parts[0]}


def permutation_test(differences: np.ndarray, groups: Sequence | None, rng: np.random.Generator) -> float:
    """Probability of a sum of `differences` (N,) at least as far from 0, if the sign of each group were random."""
    sums = np.asarray(differences, float)
    if groups is not None:
        sums = np.bincount(np.unique(np.asarray(groups), return_inverse=True)[1], sums)
    if len(sums) <= MOST_GROUPS:
        signs = 1 - 2 * (np.arange(1 << len(sums))[:, None] >> np.arange(len(sums)) & 1)
        return float(np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - ROUNDING))
    found = 0
    for _ in range(RANDOM):
        found += abs(rng.choice((-1, 1), len(sums)) @ sums) >= abs(sums.sum()) - ROUNDING
    return (1 + found) / (1 + RANDOM)


def classes(scores: Sequence[np.ndarray], truth: Sequence[int], background: list | None = None) -> np.ndarray:
    """Average precision of each class in A and B, (2, classes), NaN for classes that do not occur."""
    return np.stack([metrics.per_class(np.asarray(each), truth, background)['AP'] for each in scores])
