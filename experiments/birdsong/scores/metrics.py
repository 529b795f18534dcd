"""Metrics of scores: mean average precisions (MAP), accuracies, and the metrics of later challenges.

Of classes with equal scores, the one with the lower index comes first, so that a network with the same score for all
classes is not better than guessing.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from birdsong.files import Problem

# Recordings whose scores are compared at once, so that they stay in the cache.
BLOCK = 64


def relevant(truth: Sequence[int], background: list | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (recording, class) of the foreground and background classes, as two int64 arrays sorted by recording.

    truth: (N,) class indices; background: list of N lists of class indices, or None. The foreground class of each
    recording comes first; no class is repeated.
    """
    truth = np.asarray(truth, np.int64)
    rows, classes = [], []
    for i, label in enumerate(truth.tolist()):
        others = sorted(set(background[i]) - {label}) if background is not None else []
        rows += [i] * (1 + len(others))
        classes += [label] + list(others)
    return np.array(rows, np.int64), np.array(classes, np.int64)


def ranks(scores: np.ndarray, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Ranks, from 1, of `classes` (P,) among all classes in `rows` (P,) of scores (N, C); rows must be sorted."""
    result = np.empty(len(rows), np.int64)
    index = np.arange(scores.shape[1])
    bounds = np.searchsorted(rows, np.arange(0, len(scores) + BLOCK, BLOCK))
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        those = scores[rows[start:end]]
        own = those[np.arange(end - start), classes[start:end]][:, None]
        result[start:end] = 1 + np.count_nonzero(those > own, axis=1)
        # Ties are rare, so the order of equal scores is determined only where there are any.
        ties = np.flatnonzero(np.count_nonzero(those == own, axis=1) > 1)
        if len(ties):
            before = (those[ties] == own[ties]) & (index < classes[start + ties, None])
            result[start + ties] += np.count_nonzero(before, axis=1)
    return result


def average_precisions(rows: np.ndarray, found: np.ndarray, count: int) -> np.ndarray:
    """Average precision of each recording (count,), given the recordings (sorted) and ranks of all pairs."""
    order = np.lexsort((found, rows))
    starts = np.searchsorted(rows, np.arange(count))
    nth = np.arange(len(rows)) - starts[rows] + 1
    return np.add.reduceat(nth / found[order], starts) / np.diff(np.append(starts, len(rows)))


def per_recording(
    scores: np.ndarray, truth: Sequence[int], background: list | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Each recording's rank of its foreground class (N,) and average precision (N,), or None without background.

    Raises Problem for scores that are NaN and labels that are no class.
    """
    scores, truth = np.asarray(scores), np.asarray(truth, np.int64)
    if scores.ndim != 2 or len(scores) != len(truth) or not len(truth):
        raise Problem(f'scores of shape {scores.shape} do not fit {len(truth)} recordings')
    if background is not None and len(background) != len(truth):
        raise Problem(f'background species of {len(background)} recordings, but {len(truth)} recordings')
    rows, classes = relevant(truth, background)
    if classes.min() < 0 or classes.max() >= scores.shape[1]:
        raise Problem(
            f'labels name class {classes.max() if classes.min() >= 0 else classes.min()}, but the scores are of '
            f'{scores.shape[1]} classes: labels of another dataset?'
        )
    if np.isnan(np.min(scores)):
        raise Problem('scores are not numbers (NaN)')
    found = ranks(scores, rows, classes)
    first = found[np.searchsorted(rows, np.arange(len(truth)))]
    return first, None if background is None else average_precisions(rows, found, len(truth))


def _values(scores, truth, background, top_k):
    """The metrics of `evaluate` per recording: dict of (N,) arrays."""
    first, precisions = per_recording(scores, truth, background)
    result = {'MAP': 1 / first}
    if precisions is not None:
        result['MAP-bg'] = precisions
    for k in range(1, min(top_k, np.shape(scores)[1]) + 1):
        result[f'top-{k}'] = first <= k
    return result


def evaluate(
    scores: np.ndarray, truth: Sequence[int], background: list | None = None, top_k: int = 5
) -> dict[str, float]:
    """The original's metrics: 'MAP', with background also 'MAP-bg', then 'top-1', 'top-2', ... 'top-K'.

    scores: (N, C), any real numbers; truth: (N,) class indices; background: list of N lists of class indices, or
    None. 'MAP' is the mean reciprocal rank of the foreground class, 'MAP-bg' the mean over recordings of the average
    precision over foreground and background classes, 'top-K' the share of recordings whose foreground class is among
    the K highest scores. Raises Problem if these do not fit.
    """
    return {name: float(np.mean(values)) for name, values in _values(scores, truth, background, top_k).items()}


def line(values: dict[str, float]) -> str:
    """Metrics as a line: 'MAP: 0.754, MAP-bg: 0.677, top-1: 0.68, ...'."""
    return ', '.join(f'{name}: {value:.{2 if name.startswith("top") else 3}f}' for name, value in values.items())


def resample(count: int, groups: Sequence | None = None, samples: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """For each bootstrap sample, how often each of `count` recordings is in it, (count,) int64.

    Recordings are drawn with replacement or, with `groups` (a label per recording), all recordings of a group together
    (Davison and Hinkley 1997, sec. 3.8), which is needed where recordings of a group are alike.
    """
    rng = np.random.default_rng(seed)
    number, group = count, slice(None)
    if groups is not None:
        names, group = np.unique(np.asarray(groups), return_inverse=True)
        number = len(names)
    for _ in range(samples):
        yield np.bincount(rng.integers(number, size=number), minlength=number)[group]


def intervals(
    scores: np.ndarray,
    truth: Sequence[int],
    background: list | None = None,
    top_k: int = 5,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence | None = None,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals (low, high) of the metrics of `evaluate`.

    Percentile method (Efron and Tibshirani 1993, ch. 13). For `groups` see `resample`.
    """
    values = _values(scores, truth, background, top_k)
    table = np.stack(list(values.values()), axis=1).astype(float)
    means = [drawn @ table / drawn.sum() for drawn in resample(len(table), groups, samples, seed)]
    lows, highs = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    return dict(zip(values, zip(lows, highs, strict=True), strict=True))


# -- Metrics of later challenges --


def per_class(
    scores: np.ndarray, truth: Sequence[int], background: list | None = None, padding: int = 5
) -> dict[str, np.ndarray]:
    """Metrics of each class over recordings: dict of (C,) arrays, NaN for classes that do not occur.

    'AP': average precision of the recordings with the class in foreground or background; 'AP-padded': the same after
    adding `padding` recordings with the class and the highest scores (BirdCLEF 2023; it reduces the influence of rare
    classes, and is defined also for classes that do not occur); 'ROC-AUC': area under the receiver operating
    characteristic (NaN also for classes in all recordings). Equal scores share a threshold, as in scikit-learn.
    """
    rows, classes = relevant(truth, background)
    order = np.argsort(classes, kind='stable')
    rows, bounds = rows[order], np.searchsorted(classes[order], np.arange(scores.shape[1] + 1))
    result = {name: np.full(scores.shape[1], np.nan) for name in ('AP', 'AP-padded', 'ROC-AUC')}
    result['AP-padded'][:] = 1 if padding else np.nan
    for c, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        if start == end:
            continue
        everything = np.sort(scores[:, c])
        own = np.sort(scores[rows[start:end], c])
        positives = len(own) - np.searchsorted(own, own)
        found = len(everything) - np.searchsorted(everything, own)
        result['AP'][c] = np.mean(positives / found)
        result['AP-padded'][c] = (np.sum((positives + padding) / (found + padding)) + padding) / (len(own) + padding)
        others = len(everything) - len(own)
        if others:
            below, upto = (
                np.searchsorted(everything, own, side) - np.searchsorted(own, own, side) for side in ('left', 'right')
            )
            result['ROC-AUC'][c] = np.mean((below + upto) / 2) / others
    return result


def current(scores: np.ndarray, truth: Sequence[int], background: list | None = None) -> dict[str, float]:
    """'cmAP', 'cmAP-padded', 'ROC-AUC': means of `per_class` over the classes for which they are defined.

    'cmAP-padded' includes all classes (Klinck et al., BirdCLEF 2023); 'ROC-AUC' is the metric of BirdCLEF 2024.
    """
    values = per_class(np.asarray(scores), truth, background)
    return {
        name: float('nan') if np.isnan(values[key]).all() else float(np.nanmean(values[key]))
        for name, key in (('cmAP', 'AP'), ('cmAP-padded', 'AP-padded'), ('ROC-AUC', 'ROC-AUC'))
    }
