"""The result of a shard, an .npz: its recordings, what was heard in them, and problems.

| array | contents |
|---|---|
| `recordings` | text (n, columns): what is known about each recording, as the caller gives it; the path is the first |
| `about` | float64 (m, 5): recording, start, end, score, probability (NaN without calibration) of each detection |
| `classes` | int32 (m,): class index of each detection |
| `covered` | float64 (k, 3): recording, start, end of each part that was listened to |
| `problems` | text (p, 3): path, problem, what was done |
"""

import os
from collections.abc import Sequence

import numpy as np

from birdsong.files import load_npz, save_npz
from birdsong.findings.detections import Detection

# What was done with a recording that has a problem.
LEFT_OUT, USED = 'left out', 'the rest is used'


class Result:
    """Collects the result of a shard, or holds one that was read."""

    def __init__(self):
        self.recordings, self.about, self.classes, self.covered, self.problems = [], [], [], [], []

    def add(self, row: Sequence[str], found: Sequence[Detection], covered: Sequence[tuple[float, float]]) -> None:
        """Add a recording: texts, of which the first is its path, its detections, and what was listened to."""
        number = len(self.recordings)
        self.recordings.append(list(row))
        for one in found:
            probability = np.nan if one.probability is None else one.probability
            self.about.append((number, one.start, one.end, one.score, probability))
            self.classes.append(one.class_index)
        self.covered += [(number, start, end) for start, end in covered]

    def save(self, filename: str | os.PathLike) -> None:
        """Write the result, atomically."""
        save_npz(
            filename,
            {
                'recordings': np.array(self.recordings or np.empty((0, 1)), str),
                'about': np.array(self.about, np.float64).reshape(-1, 5),
                'classes': np.array(self.classes, np.int32),
                'covered': np.array(self.covered, np.float64).reshape(-1, 3),
                'problems': np.array(self.problems, str).reshape(-1, 3),
            },
        )


def read(filename: str) -> tuple[list[tuple[list[str], list[Detection], list[tuple[float, float]]]], list[list[str]]]:
    """([(texts, detections, parts listened to) of each recording], problems). Raises Problem if it is damaged."""
    arrays = load_npz(filename, cure='delete it, and start the same command again')
    rows = arrays['recordings'].tolist()
    recordings = [(row, [], []) for row in rows]
    for (number, start, end, score, probability), c in zip(
        arrays['about'].tolist(), arrays['classes'].tolist(), strict=True
    ):
        row, found, _ = recordings[int(number)]
        found.append(Detection(row[0], start, end, c, score, None if np.isnan(probability) else probability))
    for number, start, end in arrays['covered'].tolist():
        recordings[int(number)][2].append((start, end))
    return recordings, arrays['problems'].tolist()
