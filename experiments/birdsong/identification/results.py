"""The result of a shard, an .npz: its recordings, what was heard in them, and problems.

| array | contents |
|---|---|
| `recordings` | text (n, columns): what is known about each recording, as the caller gives it; the path is the first |
| `about` | float64 (m, 5): recording, start, end, score, probability (NaN without calibration) of each detection |
| `classes` | int32 (m,): class index of each detection |
| `covered` | float64 (k, 3): recording, start, end of each part that was listened to |
| `problems` | text (p, 3): path, problem, what was done |

With a prior (see `prior`), also:

| `factors` | float64 (m,): factor of the odds of each detection |
| `counts` | int32 (c, 4): recording, class, detections without and with the prior |
| `unplaced` | int32 (u,): recordings to which no prior was applied, because too little is known |
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from birdsong.files import load_npz, save_npz
from birdsong.findings.detections import Detection

# What was done with a recording that has a problem.
LEFT_OUT, USED = 'left out', 'the rest is used'


class Result:
    """Collects the result of a shard."""

    def __init__(self, with_prior: bool = False):
        self.recordings, self.about, self.classes, self.covered, self.problems = [], [], [], [], []
        self.with_prior, self.factors, self.counts, self.unplaced = with_prior, [], [], []

    def add(
        self,
        row: Sequence[str],
        found: Sequence[Detection],
        covered: Sequence[tuple[float, float]],
        without_prior: Sequence[Detection] | None = None,
    ) -> None:
        """Add a recording: texts, of which the first is its path, its detections, and what was listened to.

        without_prior: the detections without the prior, None if it could not be applied.
        """
        number = len(self.recordings)
        self.recordings.append(list(row))
        for one in found:
            probability = np.nan if one.probability is None else one.probability
            self.about.append((number, one.start, one.end, one.score, probability))
            self.classes.append(one.class_index)
            self.factors.append(one.factor)
        if without_prior is None:
            self.unplaced.append(number)
        else:
            before, after = (Counter(one.class_index for one in some) for some in (without_prior, found))
            self.counts += [(number, c, before[c], after[c]) for c in sorted(before | after)]
        self.covered += [(number, start, end) for start, end in covered]

    def save(self, filename: str | os.PathLike) -> None:
        """Write the result, atomically."""
        prior = {
            'factors': np.array(self.factors, np.float64),
            'counts': np.array(self.counts, np.int32).reshape(-1, 4),
            'unplaced': np.array(self.unplaced, np.int32),
        }
        save_npz(
            filename,
            {
                'recordings': np.array(self.recordings or np.empty((0, 1)), str),
                'about': np.array(self.about, np.float64).reshape(-1, 5),
                'classes': np.array(self.classes, np.int32),
                'covered': np.array(self.covered, np.float64).reshape(-1, 3),
                'problems': np.array(self.problems, str).reshape(-1, 3),
                **(prior if self.with_prior else {}),
            },
        )


class Recording(NamedTuple):
    """What is in a result about a recording: texts, detections, (start, end) of the parts that were listened to.

    counts: {class index: detections (without, with) the prior}; None if there is no prior, or it was not applied.
    """

    row: list[str]
    found: list[Detection]
    covered: list[tuple[float, float]]
    counts: dict[int, tuple[int, int]] | None


def read(filename: str) -> tuple[list[Recording], list[list[str]]]:
    """The recordings and the problems in the result of a shard. Raises Problem if it is damaged."""
    arrays = load_npz(filename, cure='delete it, and start the same command again')
    with_prior = 'counts' in arrays
    recordings = [Recording(row, [], [], {} if with_prior else None) for row in arrays['recordings'].tolist()]
    factors = arrays['factors'].tolist() if with_prior else [1.0] * len(arrays['classes'])
    for (number, start, end, score, probability), c, factor in zip(
        arrays['about'].tolist(), arrays['classes'].tolist(), factors, strict=True
    ):
        one = recordings[int(number)]
        probability = None if np.isnan(probability) else probability
        one.found.append(Detection(one.row[0], start, end, c, score, probability, factor))
    for number, start, end in arrays['covered'].tolist():
        recordings[int(number)].covered.append((start, end))
    if with_prior:
        for number, c, before, after in arrays['counts'].tolist():
            recordings[number].counts[c] = before, after
        for number in arrays['unplaced'].tolist():
            recordings[number] = recordings[number]._replace(counts=None)
    return recordings, arrays['problems'].tolist()
