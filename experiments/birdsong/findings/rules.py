"""What counts as a detection, as users say it: a threshold or a table of them, some classes, smoothing, merging."""

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from birdsong.files import Problem
from birdsong.findings import species
from birdsong.findings.calibration import Calibration
from birdsong.findings.detections import Rules

THRESHOLD = 0.5


class Wanted(NamedTuple):
    """The options of findings.py and identify.sh, of the same names. Times are in seconds."""

    threshold: str | None = None  # a number, or a CSV table
    classes: str | None = None  # a file, or names separated by commas
    smooth: int = 1
    merge: float | None = None
    min_duration: float = 0
    top: int | None = None

    def check(self) -> None:
        """Raise Problem for values that are not possible, without reading files."""
        if self.smooth < 1 or self.smooth % 2 == 0:
            raise Problem(f'--smooth={self.smooth}: give an odd number of windows, such as 3')
        if self.merge is not None and not 0 <= self.merge < math.inf:
            raise Problem(f'--merge={self.merge:g}: give a gap in seconds, at least 0')
        if not 0 <= self.min_duration < math.inf:
            raise Problem(f'--min-duration={self.min_duration:g}: give seconds, at least 0')
        if self.top is not None and self.top < 1:
            raise Problem(f'--top={self.top}: at least 1')

    def rules(
        self, known: Sequence[species.Species], curves: Calibration | None = None, calibration: str | None = None
    ) -> Rules:
        """The rules for the classes `known`. Prints how many of them have no threshold.

        Without a threshold, those of `curves` are used, which are in the file `calibration`; if it has none, THRESHOLD.
        """
        own = self.threshold is None and curves is not None and np.isfinite(curves.thresholds).any()
        limits = curves.thresholds.copy() if own else species.thresholds(known, self.threshold or str(THRESHOLD))
        chosen = species.chosen(known, self.classes) if self.classes else np.ones(len(known), bool)
        without = int(np.isnan(limits[chosen]).sum())
        if without:
            print(
                f'note: {calibration if own else self.threshold}: no threshold for {without} of {chosen.sum()} '
                'classes, which are not reported',
                file=sys.stderr,
            )
        limits[~chosen] = np.nan
        return Rules(limits, bool(own), self.smooth, self.merge, self.min_duration, self.top)
