"""Which recordings stand for a class, and which recordings cost a metric most."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from birdsong.scores import metrics

BEST, TYPICAL, WORST, ONLY = 'best', 'typical', 'worst', 'the only one'
FALSE_ALARM, MISSED = 'false alarm', 'missed in the background'


class Scored(NamedTuple):
    """What is known about N recordings: one value for each."""

    truth: np.ndarray  # class index
    other: np.ndarray  # class with the highest score among the others
    ranks: np.ndarray  # of the true class, from 1
    own: np.ndarray  # score of the true class
    others: np.ndarray  # score of `other`
    precisions: np.ndarray | None  # average precision of foreground and background classes


def scored(scores: np.ndarray, truth: np.ndarray, background: list | None) -> Scored:
    """Ranks and strongest competitors, for scores (N, classes)."""
    rows = np.arange(len(truth))
    ranks, precisions = metrics.per_recording(scores, truth, background)
    rest = scores.astype(np.float64)
    rest[rows, truth] = -np.inf
    other = rest.argmax(axis=1) if scores.shape[1] > 1 else truth
    return Scored(truth, other, ranks, scores[rows, truth], scores[rows, other], precisions)


def of_class(found: Scored, index: int, count: int) -> list[tuple[int, str]]:
    """At most `count` recordings of a class, from the best to the worst, and what they are: (row, name or '').

    They are evenly spaced in the order of the rank of the class and its score; a single one is the worst.
    """
    rows = np.flatnonzero(found.truth == index)
    rows = rows[np.lexsort((-found.own[rows], found.ranks[rows]))]
    count = min(count, len(rows))
    places = np.rint(np.linspace(0, len(rows) - 1, count)).astype(int) if count > 1 else [len(rows) - 1] * count
    named = dict.fromkeys(range(count), '')
    if count > 2:
        named[(count - 1) // 2] = TYPICAL
    if count > 1:
        named[0] = BEST
    if count:
        named[count - 1] = WORST if len(rows) > 1 else ONLY
    return [(int(rows[place]), named[i]) for i, place in enumerate(places)]


def errors(scores: np.ndarray, with_class: np.ndarray) -> list[tuple[int, str]]:
    """What else lowers the average precision of a class: (row, FALSE_ALARM or MISSED), at most one of each.

    `scores` (N,) are those for the class, `with_class` (N,) says which recordings have it: 0 not, 1 in the background,
    2 in the foreground. A false alarm is the highest score without the class, if a recording with it has a lower one.
    """
    without, background = np.flatnonzero(with_class == 0), np.flatnonzero(with_class == 1)
    if not len(without) or not with_class.any():
        return []
    highest = int(without[scores[without].argmax()])
    if scores[highest] < scores[with_class > 0].min():
        return []
    result = [(highest, FALSE_ALARM)]
    if len(background):
        lowest = int(background[scores[background].argmin()])
        if scores[lowest] <= scores[highest]:
            result.append((lowest, MISSED))
    return result


def costs(found: Scored) -> dict[str, np.ndarray]:
    """By how much each recording (N,) lowers a metric, so that the sum is 1 minus the metric: MAP, top-1, MAP-bg."""
    count = len(found.truth)
    result = {'MAP': (1 - 1 / found.ranks) / count, 'top-1': (found.ranks > 1) / count}
    if found.precisions is not None:
        result['MAP-bg'] = (1 - found.precisions) / count
    return result


def costliest(found: Scored, cost: np.ndarray, most: int) -> Sequence[int]:
    """The recordings with the highest costs, at most `most`; equal costs in the order of how clear the error is."""
    margin = found.others.astype(np.float64) - found.own
    order = np.lexsort((-margin, -cost))
    return [int(row) for row in order[:most] if cost[row] > 0]
