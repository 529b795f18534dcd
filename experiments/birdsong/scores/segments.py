"""Metrics of windows of fixed length against labelled segments, as in BirdCLEF since 2021.

Each annotated recording is divided into windows of equal length from 0 to its end, which is the last time of its
predictions or the last annotated time, whichever is later; a rest of less than MIN_REST seconds is no window.
- Truth: the classes of which a segment overlaps the window by MIN_OVERLAP seconds or more, so that labels of the
  neighbouring window do not count because times were rounded. Of shorter segments, half must be in the window.
- Scores: the maximum over the rows whose middle is in the window. If there are none, those of the row that overlaps it
  most or, if none does, of the nearest row. Or, if asked for, the mean over the rows that overlap the window, weighted
  by the overlap; if none does, those of the nearest row.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from birdsong.files import Problem
from birdsong.scores.predictions import CURE, Predictions

MIN_OVERLAP, MIN_REST = 0.01, 0.1
# Difference of times, relative to the length of a window, that is attributed to rounding.
TOLERANCE = 1e-6
# Rows added by the padded average precision of BirdCLEF 2023, with the class and the highest scores.
PADDING = 5
# Largest number of windows, over all bootstrap samples, that are evaluated at once.
BLOCK = 1 << 22


class Windows(NamedTuple):
    """Windows of several recordings, one after another."""

    scores: np.ndarray  # (windows, classes)
    truth: np.ndarray  # bool (windows, classes)
    recording: np.ndarray  # (windows,) index of the recording of each window


def number_of_windows(end: float, seconds: float) -> int:
    """Number of windows from 0 to `end`."""
    return max(1, int(np.ceil((end - min(MIN_REST, seconds / 2)) / seconds)))


def window_of(starts: np.ndarray, stops: np.ndarray, seconds: float) -> np.ndarray:
    """Number (n,) of the window of `seconds` in which the middle of each row is, given the times (n,) of the rows."""
    return np.floor((starts + stops) / 2 / seconds + TOLERANCE).astype(np.int64)


def window_scores(
    starts: np.ndarray, stops: np.ndarray, scores: np.ndarray, seconds: float, count: int, average: bool = False
) -> np.ndarray:
    """Scores (count, classes) of the windows of `seconds` from 0 on, given the times (n,) and scores of rows.

    `average`: means over overlapping rows instead of maxima, see above.
    """
    if average:
        return _averages(starts, stops, scores, seconds, count)
    window = window_of(starts, stops, seconds)
    order = np.argsort(window, kind='stable')
    bounds = np.searchsorted(window[order], np.arange(count + 1))
    filled = np.flatnonzero(np.diff(bounds))
    result = np.empty((count, scores.shape[1]), scores.dtype)
    if len(filled):
        result[filled] = np.maximum.reduceat(scores[order[: bounds[-1]]], bounds[filled])
    for k in np.flatnonzero(np.diff(bounds) == 0):
        result[k] = scores[np.argmax(_overlap(starts, stops, k * seconds, seconds))]
    return result


def _overlap(starts, stops, begin, seconds):
    """Seconds that each span of time shares with the window from `begin` on; if none, minus their distance."""
    return np.minimum(stops, begin + seconds) - np.maximum(starts, begin)


def _averages(starts, stops, scores, seconds, count):
    """The means over the rows that overlap each window, weighted by the overlap."""
    order = np.argsort(starts, kind='stable')
    starts, stops, scores = starts[order], stops[order], scores[order]
    begins = np.arange(count) * seconds
    # all rows that overlap a window are between these two, and maybe others
    first = np.searchsorted(np.maximum.accumulate(stops), begins, side='right')
    last = np.searchsorted(starts, begins + seconds, side='left')
    result = np.empty((count, scores.shape[1]), scores.dtype)
    for k, begin in enumerate(begins):
        rows = slice(first[k], last[k])
        weights = np.maximum(_overlap(starts[rows], stops[rows], begin, seconds), 0)
        if weights.any():
            result[k] = (weights / weights.sum()).astype(scores.dtype) @ scores[rows]
        else:
            result[k] = scores[np.argmax(_overlap(starts, stops, begin, seconds))]
    return result


def window_truth(
    segments: Sequence[tuple[float, float, int | None]], seconds: float, count: int, num_classes: int
) -> np.ndarray:
    """Whether each class is active in each window, bool (count, num_classes)."""
    result = np.zeros((count, num_classes), bool)
    begins = np.arange(count) * seconds
    for start, end, index in segments:
        if index is not None:
            overlap = _overlap(start, end, begins, seconds)
            needed = min(MIN_OVERLAP, (end - start) / 2)
            result[overlap >= needed * (1 - TOLERANCE), index] = True
    return result


def windows(
    predicted: Predictions,
    segments: dict[str, list[tuple[float, float, int | None]]],
    seconds: float,
    average: bool = False,
) -> Windows:
    """The windows of all recordings of `predicted`, which must be annotated (have an entry in `segments`).

    `average`: as for `window_scores`. A single row without time is that of the whole recording. Raises Problem for
    several rows without times.
    """
    parts = []
    for i, key in enumerate(predicted.files):
        rows, times = predicted[key], predicted.times(key)
        end = max(end for _, end, _ in segments[key])
        if times is None:
            if len(rows) > 1:
                raise Problem(f'{predicted.filename}: {key} has {len(rows)} rows without times; {CURE}')
            times = np.zeros(1), np.full(1, end)
        count = number_of_windows(max(end, times[1].max()), seconds)
        truth = window_truth(segments[key], seconds, count, predicted.num_classes)
        parts.append((window_scores(*times, rows, seconds, count, average), truth, np.full(count, i)))
    return Windows(*map(np.concatenate, zip(*parts, strict=True)))


# == Metrics ==


def evaluate(found: Windows, threshold: float = 0.5) -> dict[str, float]:
    """Metrics of windows.

    'ROC-AUC': mean over the classes with positive and negative windows (BirdCLEF 2024 to 2026); 'cmAP': mean average
    precision of the classes with positive windows; 'cmAP-padded': that of all classes after adding PADDING rows with
    the class and the highest scores (BirdCLEF 2023); 'F1-micro': F1 score over all pairs of a window and a class
    (BirdCLEF 2021), where scores of at least `threshold` are detections; 'F1-macro': mean F1 score of the classes with
    positive windows (BirdCLEF 2022). Undefined ones are NaN.
    """
    once = np.ones((1, found.recording[-1] + 1))
    return {name: float(values[0]) for name, values in resampled(found, once, threshold).items()}


def intervals(
    found: Windows, threshold: float = 0.5, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals (low, high) of the metrics of `evaluate`.

    Recordings are drawn, with all their windows, since windows of one recording are not independent. Percentile method
    (Efron and Tibshirani 1993, ch. 13).
    """
    recordings = found.recording[-1] + 1
    rng, step, results = np.random.default_rng(seed), max(1, BLOCK // len(found.recording)), []
    for start in range(0, samples, step):
        drawn = rng.integers(recordings, size=(min(step, samples - start), recordings))
        counts = np.stack([np.bincount(row, minlength=recordings) for row in drawn]).astype(float)
        results.append(resampled(found, counts, threshold))
    bounds = [(1 - level) / 2, (1 + level) / 2]
    merged = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    return {
        name: (float('nan'), float('nan')) if np.isnan(values).all() else tuple(np.nanquantile(values, bounds).tolist())
        for name, values in merged.items()
    }


def per_class(found: Windows, threshold: float = 0.5) -> dict[str, np.ndarray]:
    """(classes,) 'windows', the number of positive windows, 'AP', 'ROC-AUC', 'precision', 'recall' and 'F1'.

    Undefined ones are NaN.
    """
    once = np.ones((1, found.recording[-1] + 1))
    ranked = np.array([[value[0] for value in values] for values in _ranked(found, once)])
    right, detected, active = (counts.sum(axis=0) for counts in _counts(found, threshold))
    with np.errstate(invalid='ignore'):
        return {
            'windows': active,
            'AP': ranked[:, 0],
            'ROC-AUC': ranked[:, 2],
            'precision': right / detected,
            'recall': right / active,
            'F1': 2 * right / (detected + active),
        }


def resampled(found: Windows, counts: np.ndarray, threshold: float = 0.5) -> dict[str, np.ndarray]:
    """Each metric of `evaluate`, (samples,), for `counts` (samples, recordings): how often each recording occurs."""
    precision, padded, area = (np.stack(values) for values in zip(*_ranked(found, counts), strict=True))
    right, detected, active = (counts @ values for values in _counts(found, threshold))
    with np.errstate(invalid='ignore', divide='ignore'):
        micro = 2 * right.sum(axis=1) / (detected + active).sum(axis=1)
        each = np.where(active > 0, 2 * right / (detected + active), np.nan)
    return {
        'ROC-AUC': _mean(area),
        'cmAP': _mean(precision),
        'cmAP-padded': _mean(padded),
        'F1-micro': micro,
        'F1-macro': _mean(each.T),
    }


def _mean(values):
    """Mean over the classes, values (classes, samples), for which they are defined."""
    defined = np.count_nonzero(~np.isnan(values), axis=0)
    with np.errstate(invalid='ignore'):
        return np.nansum(values, axis=0) / defined


def _counts(found, threshold):
    """Numbers (recordings, classes) of windows that are detected rightly, that are detected, and that are active."""
    starts = np.searchsorted(found.recording, np.arange(found.recording[-1] + 1))
    detected = found.scores >= threshold
    return [
        np.add.reduceat(part, starts, axis=0, dtype=float) for part in (detected & found.truth, detected, found.truth)
    ]


def _ranked(found, counts) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield average precision, padded average precision and area under the ROC curve of each class, (samples,) each.

    counts: (samples, recordings). Equal scores share a threshold, as in scikit-learn.
    """
    none = np.full(len(counts), np.nan)
    for scores, truth in zip(found.scores.T, found.truth.T, strict=True):
        if not truth.any():
            yield none, np.ones(len(counts)), none
            continue
        # Only the scores of positive windows matter as thresholds. The first one is the highest; windows below all of
        # them have the number `width`.
        thresholds = np.unique(scores[truth])
        width, number = len(thresholds), len(thresholds) - np.searchsorted(thresholds, scores, 'right')
        tied = ~truth & (thresholds[width - 1 - np.minimum(number, width - 1)] == scores)
        gained, more, ties = (
            _by_threshold(counts, found.recording[mask], number[mask], width) for mask in (truth, number < width, tied)
        )
        right, upto = np.cumsum(gained, axis=1), np.cumsum(more, axis=1)
        positives, negatives = right[:, -1], counts @ np.bincount(found.recording[~truth], minlength=counts.shape[1])
        lower = negatives[:, None] - (upto - right) + ties / 2
        with np.errstate(invalid='ignore', divide='ignore'):
            precision = np.nansum(gained * right / upto, axis=1) / positives
            padded = (np.sum(gained * (right + PADDING) / (upto + PADDING), axis=1) + PADDING) / (positives + PADDING)
            area = np.sum(gained * lower, axis=1) / (positives * negatives)
        yield np.where(positives > 0, precision, np.nan), padded, np.where(positives * negatives > 0, area, np.nan)


def _by_threshold(counts, recording, number, width):
    """Numbers of windows (samples, width), given the recording and the number of the threshold of each window."""
    cells = np.bincount(recording * width + number, minlength=counts.shape[1] * width)
    return counts @ cells.reshape(-1, width).astype(float)
