"""Targets of excerpts of annotated recordings: the classes that are active in them, from labels/segments.tsv."""

import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from birdsong.config import Settings
from birdsong.data.dataset import Dataset

# Share of the excerpts of annotated recordings that contain a segment; the others start anywhere.
AIMED = 0.5
# Where the aimed-at time is in such an excerpt, as fractions of its length
MIDDLE = 0.25, 0.75


class SegmentTargets:
    """The segments of the recordings `files`.

    table: as `Dataset.segments` returns it. rate: samples per second. overlap: seconds of a segment that must be in an
    excerpt for its class to be a target; half of the segment or of the excerpt suffices.
    """

    def __init__(
        self,
        table: Mapping[str, Sequence[tuple[float, float, int | None]]],
        files: Sequence[str],
        num_classes: int,
        rate: int,
        overlap: float,
    ):
        self.num_classes, self.overlap = num_classes, overlap * rate
        self.annotated = np.array([key in table for key in files])
        active = [[segment for segment in table.get(key, ()) if segment[2] is not None] for key in files]
        self.first = np.cumsum([0, *map(len, active)])  # recording i has the segments first[i] to first[i + 1] - 1
        times = np.array([segment[:2] for own in active for segment in own], np.float64).reshape(-1, 2)
        self.starts, self.stops = times.T * rate
        self.classes = np.array([segment[2] for own in active for segment in own], np.int64)

    def active(self, items: np.ndarray, starts: Sequence[int], length: int) -> np.ndarray:
        """The classes that are active in excerpts of `length` samples, bool (B, classes).

        items: indices of recordings (B,); starts: of the excerpts, in samples (B,).
        """
        result = np.zeros((len(items), self.num_classes), bool)
        for row, item, begin in zip(result, items, starts, strict=True):
            own = slice(self.first[item], self.first[item + 1])
            overlap = np.minimum(self.stops[own], begin + length) - np.maximum(self.starts[own], begin)
            needed = np.minimum(self.overlap, np.minimum(self.stops[own] - self.starts[own], length) / 2)
            row[self.classes[own][overlap >= np.maximum(needed, 1)]] = True
        return result

    def aim(
        self, starts: np.ndarray, items: np.ndarray, lengths: np.ndarray, length: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Starts (B,) of excerpts, of which about half are replaced so that the excerpt contains a segment.

        A class is drawn from those of the recording, then one of its segments, then a time in this segment, which will
        be in the middle half of the excerpt unless the recording begins or ends there.

        items, lengths: indices and lengths in samples of the recordings (B,); length: of the excerpts.
        """
        starts = np.array(starts)
        for i in np.flatnonzero(rng.random(len(items)) < AIMED):
            own = np.arange(self.first[items[i]], self.first[items[i] + 1])
            if len(own) and lengths[i] > length:
                chosen = rng.choice(np.unique(self.classes[own]))
                segment = rng.choice(own[self.classes[own] == chosen])
                time = rng.uniform(self.starts[segment], self.stops[segment])
                starts[i] = np.clip(int(time - rng.uniform(*MIDDLE) * length), 0, lengths[i] - length)
        return starts


def load(dataset: Dataset, cfg: Settings, files: Sequence[str], filelist: str) -> SegmentTargets | None:
    """The segments of the recordings `files`, or None if segment_targets=0 or none of the recordings is annotated.

    Raises Problem for a table that is not valid.
    """
    if not cfg['segment_targets']:
        return None
    exists = os.path.exists(os.path.join(dataset.path, 'labels', 'segments.tsv'))
    table = dataset.segments() if exists else {}
    if not any(key in table for key in files):
        sys.stderr.write(f'{filelist}: no recording is in labels/segments.tsv: segment_targets has no effect\n')
        return None
    return SegmentTargets(table, files, dataset.num_classes, cfg['sample_rate'], cfg['segment_overlap'])
