"""Detections: from the scores of the windows of a recording to the times at which a class was heard.

The steps, in this order: the scores are smoothed over neighbouring windows; each window whose confidence for a class
reaches the threshold is a detection; detections of a class that follow each other are merged; short ones are dropped;
the ones with the highest confidence are kept. Each step is optional. The confidence is the probability if the scores
are calibrated, else the score.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

# Difference of times, in seconds, that is attributed to rounding.
TOLERANCE = 1e-6


class Detection(NamedTuple):
    """A class heard in a recording, from `start` to `end` seconds."""

    key: str
    start: float
    end: float
    class_index: int
    score: float
    probability: float | None  # None if the scores are not calibrated

    @property
    def confidence(self) -> float:
        """The probability if there is one, else the score."""
        return self.score if self.probability is None else self.probability


@dataclasses.dataclass
class Rules:
    """What counts as a detection.

    `thresholds` (classes,): the lowest confidence of each class, or with `of_scores` the lowest score; a class with NaN
    is never detected. `smooth`: number of windows to average, odd. `merge`: longest gap in seconds between detections
    that become one, or None. `shortest`: the least duration in seconds, after merging. `top`: number of detections to
    keep per recording, or None.
    """

    thresholds: np.ndarray
    of_scores: bool = False
    smooth: int = 1
    merge: float | None = None
    shortest: float = 0
    top: int | None = None


def detect(
    key: str,
    starts: np.ndarray,
    stops: np.ndarray,
    scores: np.ndarray,
    rules: Rules,
    probabilities: np.ndarray | None = None,
) -> list[Detection]:
    """The detections in a recording, in the order of their starts, then the highest confidence first.

    Given are the times (n,) of its windows in seconds, which may overlap and be in any order, and their scores
    (n, classes) and probabilities (n, classes), if the scores are calibrated.
    """
    order = np.lexsort((stops, starts))
    starts, stops = starts[order], stops[order]
    scores = smoothed(scores[order], starts, stops, rules.smooth)
    if probabilities is not None:
        probabilities = smoothed(probabilities[order], starts, stops, rules.smooth)
    with np.errstate(invalid='ignore'):
        found = (scores if probabilities is None or rules.of_scores else probabilities) >= rules.thresholds
    # by class, then by time
    classes, rows = np.nonzero(found.T)
    detections = [
        Detection(key, start, end, c, score, probability)
        for start, end, c, score, probability in zip(
            starts[rows].tolist(),
            stops[rows].tolist(),
            classes.tolist(),
            scores[rows, classes].tolist(),
            [None] * len(rows) if probabilities is None else probabilities[rows, classes].tolist(),
            strict=True,
        )
    ]
    if rules.merge is not None:
        detections = merged(detections, rules.merge)
    detections = [d for d in detections if d.end - d.start >= rules.shortest - TOLERANCE]
    if rules.top is not None:
        detections = sorted(detections, key=lambda d: (-d.confidence, d.start, d.class_index))[: rules.top]
    return sorted(detections, key=lambda d: (d.start, -d.confidence, d.class_index))


def smoothed(values: np.ndarray, starts: np.ndarray, stops: np.ndarray, count: int) -> np.ndarray:
    """`values` (n, classes), each replaced by the mean of `count` (odd) windows around it, in order of their starts.

    There are fewer neighbours at the ends of a recording and at gaps between windows.
    """
    if count <= 1 or len(values) <= 1:
        return values
    half, index = count // 2, np.arange(len(values))
    # number of the uninterrupted series in which a window is
    series = np.concatenate([[0], np.cumsum(starts[1:] > np.maximum.accumulate(stops)[:-1] + TOLERANCE)])
    first = np.maximum(index - half, np.searchsorted(series, series))
    last = np.minimum(index + half + 1, np.searchsorted(series, series, 'right'))
    total, number = np.zeros(values.shape), np.zeros((len(values), 1))
    for shift in range(-half, half + 1):
        inside = (index + shift >= first) & (index + shift < last)
        total[inside] += values[index[inside] + shift]
        number[inside] += 1
    return total / number


def merged(detections: list[Detection], gap: float) -> list[Detection]:
    """Detections of one class at most `gap` seconds apart, or overlapping, as one with the highest confidence of them.

    The detections of a recording are sorted by class, then by their starts.
    """
    result = []
    for one in detections:
        before = result[-1] if result else None
        if before and before.class_index == one.class_index and one.start <= before.end + gap + TOLERANCE:
            best = one if one.confidence > before.confidence else before
            result[-1] = best._replace(start=before.start, end=max(before.end, one.end))
        else:
            result.append(one)
    return result


def covered(starts: np.ndarray, stops: np.ndarray) -> list[tuple[float, float]]:
    """The parts of a recording that are in at least one window: starts and ends in seconds, in order."""
    result = []
    for start, stop in sorted(zip(starts.tolist(), stops.tolist(), strict=True)):
        if result and start <= result[-1][1] + TOLERANCE:
            result[-1] = result[-1][0], max(result[-1][1], stop)
        else:
            result.append((start, stop))
    return result
