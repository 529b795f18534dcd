"""Thresholds of scores at which a detection has a wanted probability, or all detections a wanted precision.

A threshold is never outside the range of scores of a class whose truth is known, and a class with too few cases gets
none: curves of such classes are mostly those of other classes.
"""

from typing import NamedTuple

import numpy as np

from birdsong.findings.calibration import sigmoid
from birdsong.findings.cases import Cases
from birdsong.findings.curves import Curves

# Least number of groups of recordings with right cases: many of one recording are one piece of evidence.
MIN_GROUPS = 3
# Thresholds are lower by this, in logits, so that rounding does not exclude the score that they were taken from.
MARGIN = 1e-9
# Curves are assumed to be lower by this many standard deviations: with a probability of 90 %, they are above that.
CAUTION = 1.2816

TOO_FEW, NOT_REACHED = 'not enough cases', 'not reached by the scores looked at'


class Evidence(NamedTuple):
    """What is known about each class, (classes,) each; range of the logits of its cases, NaN without cases."""

    cases: np.ndarray
    right: np.ndarray
    groups: np.ndarray  # groups of recordings with right cases
    lowest: np.ndarray
    highest: np.ndarray

    def enough(self, least: int) -> np.ndarray:
        """Mask of the classes with at least `least` right cases, in at least MIN_GROUPS groups."""
        return (self.right >= least) & (self.groups >= min(MIN_GROUPS, least)) & (self.cases > 0)


def evidence(cases: Cases, num_classes: int) -> Evidence:
    """Numbers and ranges of the cases of each class."""
    count = np.bincount(cases.classes, minlength=num_classes)
    right = np.bincount(cases.classes[cases.right], minlength=num_classes)
    pairs = np.unique(np.stack([cases.classes, cases.groups])[:, cases.right], axis=1)
    lowest, highest = np.full(num_classes, np.inf), np.full(num_classes, -np.inf)
    np.minimum.at(lowest, cases.classes, cases.logits)
    np.maximum.at(highest, cases.classes, cases.logits)
    none = count == 0
    lowest[none] = highest[none] = np.nan
    return Evidence(count, right, np.bincount(pairs[0], minlength=num_classes), lowest, highest)


def for_probability(curves: Curves, known: Evidence, wanted: float, least: int) -> tuple[np.ndarray, list[str]]:
    """Logits (classes,) at which the curves reach a probability, and for each class why it has none, or ''.

    The threshold is the lowest score with a case if the curve is above the probability there already.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        found = (np.log(wanted / (1 - wanted)) - curves.intercepts) / curves.slopes
    flat = curves.slopes == 0
    found[flat] = np.where(sigmoid(curves.intercepts[flat]) >= wanted, -np.inf, np.inf)
    return _settled(found, known, least)


def for_precision(
    curves: Curves, known: Evidence, wanted: float, least: int, logits: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Logits (classes,) above which the expected precision is the wanted one, and for each class why it has none.

    The expected precision of a threshold is the mean probability of all detections from it on (Tseng et al. 2025);
    `logits` and `classes` (n,) are those of all detections. The probability is the lower end of its 80 % interval, so
    that chance, which also decides which threshold is the lowest with that precision, rarely leads to a lower one.
    Above the range of the cases, the probability is assumed to be that at its end.
    """
    found = np.full(len(curves.slopes), np.nan)
    order = np.lexsort((-logits, classes))
    bounds = np.searchsorted(classes[order], np.arange(len(found) + 1))
    for c in np.flatnonzero(known.enough(least)):
        own = logits[order[bounds[c] : bounds[c + 1]]]
        own = own[own >= known.lowest[c] - MARGIN]
        if not len(own):
            found[c] = np.inf
            continue
        inside = np.minimum(own, known.highest[c]), np.full(len(own), c)
        chances = sigmoid(curves.apply(*inside) - CAUTION * curves.uncertainty(*inside))
        means = np.cumsum(chances) / np.arange(1, len(own) + 1)
        # Detections with equal scores are above a threshold together.
        last = np.diff(own, append=-np.inf) != 0
        good = np.flatnonzero(last & (means >= wanted))
        found[c] = own[good[-1]] if len(good) else np.inf
        found[c] = min(found[c], known.highest[c]) if len(good) else np.inf
    return _settled(found, known, least)


def _settled(found, known, least):
    """Thresholds within the range of the cases, and reasons for those that are missing."""
    enough = known.enough(least)
    above = found > known.highest
    result = np.where(enough & ~above, np.maximum(found, known.lowest) - MARGIN, np.nan)
    reasons = [TOO_FEW if not e else NOT_REACHED if a else '' for e, a in zip(enough, above, strict=True)]
    return result, reasons
