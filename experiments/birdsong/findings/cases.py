"""Cases: scores of which is known whether the class was there, for calibration.

They come from the predictions for labelled recordings or windows (one case per row and class), or from a table of
detections that a person has reviewed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from birdsong.data import folds
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from birdsong.findings import calibration, reviews
from birdsong.scores import metrics
from birdsong.scores.predictions import Predictions
from birdsong.scores.segments import windows


class Cases(NamedTuple):
    """One value per case in each array (n,)."""

    logits: np.ndarray  # of the outputs, see `calibration.logits`
    classes: np.ndarray  # class indices
    right: np.ndarray  # bool: the class was there
    groups: np.ndarray  # indices of groups of recordings, from 0
    best: np.ndarray  # bool: the class has the highest score of its row (never, if the others are not known)

    def take(self, which: np.ndarray) -> 'Cases':
        """The cases of a mask, or in the order of indices. Groups keep their indices."""
        return Cases(*(values[which] for values in self))

    @property
    def num_groups(self) -> int:
        return len(np.unique(self.groups))


def of_recordings(predicted: Predictions, dataset: Dataset, kind: str, background: str | None, filelist: str) -> Cases:
    """Cases of all recordings and classes. The scores of a recording are the maximum over its rows.

    Right are the foreground class and, if `background` is the name of a label file, the background classes.
    """
    truth, others = dataset.truth(predicted.files, dataset.label_file, background, filelist)
    scores = predicted.max()
    right = np.zeros(scores.shape, bool)
    right[metrics.relevant(truth, others)] = True
    return _dense(scores, right, np.arange(len(scores)), predicted.files, dataset, kind)


def of_windows(predicted: Predictions, dataset: Dataset, kind: str, seconds: float) -> Cases:
    """Cases of all windows and classes, see `scores.segments`; the recordings must be annotated."""
    found = windows(predicted, dataset.segments(), seconds)
    return _dense(found.scores, found.truth, found.recording, predicted.files, dataset, kind)


def of_reviews(found: Sequence[reviews.Review], dataset: Dataset) -> Cases:
    """Cases of reviewed detections, whose scores are outputs (between 0 and 1). Unsure ones are left out.

    Of several reviews of one detection, the last one counts. Raises Problem if nothing is left, or for classes and
    scores that are not possible.
    """
    index = {name: i for i, name in enumerate(dataset.labelset)}
    last = {(each.file, each.start, each.end, each.class_id): each for each in found}
    known = [each for each in last.values() if each.verdict != reviews.UNSURE]
    if not known:
        raise Problem(f'{len(found)} reviewed detections, but none of them is right, wrong or other: review some')
    unknown = next((each for each in known if each.class_id not in index), None)
    if unknown:
        raise Problem(
            f'class {unknown.class_id} of a reviewed detection in {unknown.file} is not in {dataset.path}/labels/'
            'labelset; select the dataset that it belongs to with --dataset'
        )
    outputs = np.array([[each.score] for each in known])
    return Cases(
        calibration.logits(outputs, calibration.OUTPUTS)[:, 0],
        np.array([index[each.class_id] for each in known]),
        np.array([each.verdict == reviews.RIGHT for each in known]),
        _groups(dataset, [each.file for each in known]),
        np.zeros(len(known), bool),
    )


def _dense(scores, right, recording, files, dataset, kind):
    """Cases of all rows and classes; recording: index in `files` of each row."""
    rows, classes = scores.shape
    best = np.zeros(scores.shape, bool)
    best[np.arange(rows), scores.argmax(axis=1)] = True
    groups = np.repeat(_groups(dataset, files)[recording], classes)
    return Cases(
        calibration.logits(scores, kind).ravel(), np.tile(np.arange(classes), rows), right.ravel(), groups, best.ravel()
    )


def _groups(dataset, keys):
    """Index of the group of each recording: those of filelists/groups.tsv or, without it, a group per recording."""
    return np.unique(folds.groups(dataset, keys) or keys, return_inverse=True)[1]
