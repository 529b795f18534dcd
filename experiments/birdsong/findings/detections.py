"""Detections: from the scores of the windows of a recording to the times at which a class was heard.

The steps, in this order: the scores are smoothed over neighbouring windows; each window whose confidence for a class
reaches the threshold is a detection; detections of a class that follow each other are merged; short ones are dropped;
the ones with the highest confidence are kept. Each step is optional. The confidence is the probability if the scores
are calibrated, else the score; if there are factors, its odds are multiplied by them.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from birdsong.findings import calibration

# Difference of times, in seconds, that is attributed to rounding.
TOLERANCE = 1e-6
# Number of scores that are processed at once.
BLOCK = 1 << 20


class Detection(NamedTuple):
    """A class heard in a recording, from `start` to `end` seconds."""

    key: str
    start: float
    end: float
    class_index: int
    score: float
    probability: float | None  # None if the scores are not calibrated
    factor: float = 1.0  # by which the odds are multiplied

    @property
    def confidence(self) -> float:
        """The probability if there is one, else the score, with its odds multiplied by the factor."""
        value = self.score if self.probability is None else self.probability
        return value if self.factor == 1 else float(multiplied_odds(value, self.factor))


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
    outputs: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]] = lambda scores: (scores, None),
    factors: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[Detection]:
    """The detections in a recording, in the order of their starts, then the highest confidence first.

    Given are the times (n,) of its windows in seconds, which may overlap and be in any order, and their scores
    (n, classes), of which `outputs` computes the scores and probabilities of detections, (n, classes) each; the
    probabilities are None if they are not calibrated. `factors` computes, from starts (n,), factors (n, classes) of the
    odds; classes with 0 are not detected. Memory does not depend on n, apart from the arguments.
    """
    order = np.lexsort((stops, starts))
    starts, stops = starts[order], stops[order]
    series = series_of(starts, stops)
    half, step = rules.smooth // 2, max(1, BLOCK // scores.shape[1])
    detections = []
    for begin in range(0, len(order), step):
        rows = slice(begin, min(begin + step, len(order)))
        # with the neighbours that smoothing needs
        first, last = max(0, rows.start - half), min(rows.stop + half, len(order))
        inside = slice(rows.start - first, rows.stop - first)
        values = [
            None if part is None else smoothed(part, series[first:last], rules.smooth)[inside]
            for part in outputs(scores[order[first:last]])
        ]
        odds = factors(starts[rows]) if factors else None
        detections += _above_threshold(key, starts[rows], stops[rows], *values, rules, odds)
    if rules.merge is not None:
        detections = merged(sorted(detections, key=lambda d: d.class_index), rules.merge)
    detections = [d for d in detections if d.end - d.start >= rules.shortest - TOLERANCE]
    if rules.top is not None:
        detections = sorted(detections, key=lambda d: (-d.confidence, d.start, d.class_index))[: rules.top]
    return sorted(detections, key=lambda d: (d.start, -d.confidence, d.class_index))


def _above_threshold(key, starts, stops, scores, probabilities, rules, factors):
    """The detections in single windows, in the order of the windows."""
    values = scores if probabilities is None or rules.of_scores else probabilities
    if factors is not None:
        values = np.where(factors > 0, multiplied_odds(values, np.where(factors > 0, factors, 1)), np.nan)
    with np.errstate(invalid='ignore'):
        found = values >= rules.thresholds
    rows, classes = np.nonzero(found)
    columns = (
        starts[rows].tolist(),
        stops[rows].tolist(),
        classes.tolist(),
        scores[rows, classes].tolist(),
        [None] * len(rows) if probabilities is None else probabilities[rows, classes].tolist(),
        [1.0] * len(rows) if factors is None else factors[rows, classes].tolist(),
    )
    return [Detection(key, *values) for values in zip(*columns, strict=True)]


def multiplied_odds(values: np.ndarray | float, factors: np.ndarray | float) -> np.ndarray:
    """Values between 0 and 1 whose odds, p / (1 - p), are multiplied by factors above 0; a factor of 1 changes nothing.

    Values of 0 and 1 count as the smallest and largest logits of a calibration.
    """
    logits = calibration.logits(values, calibration.OUTPUTS)
    return np.where(np.equal(factors, 1), values, calibration.sigmoid(logits + np.log(factors)))


def series_of(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Number (n,) of the uninterrupted series in which each window is, in order of their starts."""
    gaps = starts[1:] > np.maximum.accumulate(stops)[:-1] + TOLERANCE
    return np.concatenate([[0], np.cumsum(gaps)])


def smoothed(values: np.ndarray, series: np.ndarray, count: int) -> np.ndarray:
    """`values` (n, classes), each replaced by the mean of `count` (odd) windows around it of the same series (n,).

    At the ends of a series, there are fewer windows.
    """
    if count <= 1 or len(values) <= 1:
        return values
    half, index = count // 2, np.arange(len(values))
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
