"""Pseudo-labels: the mean of stored predictions of other models for the training recordings."""

from collections.abc import Callable, Sequence

import numpy as np

from birdsong import config
from birdsong.files import Problem
from birdsong.scores import predictions


def load(setting: str, files: Sequence[str], num_classes: int) -> Callable[[np.ndarray], np.ndarray] | None:
    """Read the predictions for the setting `pseudo_labels`, which is FILE[,FILE...]:softmax.

    Returns None if the setting is empty, else a function from indices into `files` (B,) to float32 (B, classes): the
    softmax of the mean over the prediction files. Rows of the same recording are max-pooled.

    Raises Problem if predictions are missing or have another number of classes.
    """
    if not setting:
        return None
    names, _, kind = setting.rpartition(':')
    if kind != 'softmax' or not names:
        raise Problem(f'pseudo_labels={setting}: expected FILE[,FILE...]:softmax')
    stored = []
    for name in map(config.find, names.split(',')):
        stored.append(predictions.load(name))
        missing = next((key for key in files if key not in stored[-1]), None)
        if missing is not None:
            raise Problem(f'{name}: no predictions for {missing}; predict the training list with that model')
        if stored[-1].num_classes != num_classes:
            raise Problem(
                f'{name}: {stored[-1].num_classes} classes, expected {num_classes}; it belongs to another dataset'
            )

    def softmax(items: np.ndarray) -> np.ndarray:
        rows = []
        for item in items.tolist():
            mean = np.mean([np.atleast_2d(one[files[item]]).max(axis=0) for one in stored], axis=0)
            rows.append(np.exp(mean - mean.max()))
        rows = np.array(rows)
        return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)

    return softmax
