"""Metrics of detections against labelled segments: were the events found, with their times?

An event is a class in a recording from a start to an end. Segments of a class that overlap or touch are one event, and
so are detections, because both are often divided into windows. A detection is right if a true event of its class has

- a start that differs by at most `tolerance` seconds, and
- an end that differs by at most `tolerance` seconds or OFFSET_SHARE of the length of the true event, whichever is more.

Each event and each detection is used once: as many pairs are formed as possible (maximum bipartite matching). These are
the event-based metrics of Mesaros et al. (2016, doi 10.3390/app6060162) and of sed_eval, with the rule for ends that
DCASE challenges have used since 2018 (task 4).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from birdsong.scores.metrics import resample

OFFSET_SHARE = 0.2
# Difference of times, in seconds, that is attributed to rounding.
ROUNDING = 1e-6

Event = tuple[float, float, int | None]  # start and end in seconds, class index; None: no class is active


class Counts(NamedTuple):
    """Numbers of events, (recordings, classes) each."""

    right: np.ndarray  # pairs of a true event and a detection
    detected: np.ndarray
    true: np.ndarray


def merged(events: Iterable[Event]) -> dict[int, list[tuple[float, float]]]:
    """Starts and ends of the events of each class, in order; those that overlap or touch are one."""
    result = {}
    for start, end, index in sorted(event for event in events if event[2] is not None):
        own = result.setdefault(index, [])
        if own and start <= own[-1][1] + ROUNDING:
            own[-1] = own[-1][0], max(own[-1][1], end)
        else:
            own.append((start, end))
    return result


def number_of_pairs(true: Sequence[tuple[float, float]], found: Sequence[tuple[float, float]], tolerance: float) -> int:
    """Largest number of pairs of a true and a found event, (start, end) each, that agree as described above."""
    true, found = np.array(true)[:, None], np.array(found)[None]
    allowed = np.maximum(tolerance, OFFSET_SHARE * (true[..., 1] - true[..., 0]))
    difference = np.abs(true - found)
    agree = (difference[..., 0] <= tolerance + ROUNDING) & (difference[..., 1] <= allowed + ROUNDING)
    return int((maximum_bipartite_matching(csr_array(agree)) >= 0).sum())


def count(
    true: Sequence[Iterable[Event]], found: Sequence[Iterable[Event]], num_classes: int, tolerance: float = 1.0
) -> Counts:
    """Numbers of events, given the true and the detected ones of each recording."""
    result = Counts(*np.zeros((3, len(true), num_classes)))
    for i, pair in enumerate(zip(true, found, strict=True)):
        labelled, detected = map(merged, pair)
        for c, events in labelled.items():
            result.true[i, c] = len(events)
        for c, events in detected.items():
            result.detected[i, c] = len(events)
            result.right[i, c] = number_of_pairs(labelled[c], events, tolerance) if c in labelled else 0
    return result


def evaluate(counts: Counts) -> dict[str, float]:
    """F1 score, precision and recall over all events ('micro'), and their means over the classes ('macro').

    Means are over the classes with true events, that of the precision over those of them with detections. Undefined
    metrics are NaN.
    """
    return {name: float(values[0]) for name, values in _evaluate(counts, np.ones((1, len(counts.true)))).items()}


def intervals(
    counts: Counts, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals (low, high) of the metrics of `evaluate`; recordings are drawn (percentile method)."""
    drawn = np.stack(list(resample(len(counts.true), None, samples, seed)))
    bounds = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: (float('nan'), float('nan')) if np.isnan(values).all() else tuple(np.nanquantile(values, bounds).tolist())
        for name, values in _evaluate(counts, drawn).items()
    }


def per_class(counts: Counts) -> dict[str, np.ndarray]:
    """(classes,) 'events', 'detections', 'right', 'precision', 'recall' and 'F1'. Undefined ones are NaN."""
    right, detected, true = (values.sum(axis=0) for values in counts)
    names = ('precision', 'recall', 'F1')
    ratios = dict(zip(names, _ratios(right, detected, true), strict=True))
    return {'events': true, 'detections': detected, 'right': right} | ratios


def _evaluate(counts, drawn):
    """Each metric (samples,), for `drawn` (samples, recordings): how often each recording is in each sample."""
    each = [drawn @ values for values in counts]
    micro = _ratios(*(values.sum(axis=1) for values in each))
    macro = [_mean(np.where(each[2] > 0, values, np.nan)) for values in _ratios(*each)]
    return {
        f'{name}-{kind}': values[i]
        for kind, values in (('micro', micro), ('macro', macro))
        for i, name in ((2, 'F1'), (0, 'precision'), (1, 'recall'))
    }


def _ratios(right, detected, true):
    """Precision, recall and F1 score."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return right / detected, right / true, 2 * right / (detected + true)


def _mean(values):
    """Mean (samples,) over the classes, values (samples, classes), for which they are defined."""
    with np.errstate(invalid='ignore'):
        return np.nansum(values, axis=1) / np.count_nonzero(~np.isnan(values), axis=1)
