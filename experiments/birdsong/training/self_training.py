"""Soft targets for self-training: predictions of teachers for windows of unlabelled recordings."""

from typing import Any

import numpy as np
from scipy.special import expit

from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.data.soft_windows import SoftWindows
from birdsong.files import Problem
from birdsong.scores import combination, predictions

KINDS = {'softmax': combination.softmax, 'sigmoid': expit}


def load(cfg: dict[str, Any], dataset: Dataset) -> SoftWindows | None:
    """The windows for the setting `self_training`, FILE[,FILE...]:softmax or :sigmoid, or None if it is empty.

    The targets are the mean of the probabilities of the teachers to a power: above 1, it makes low probabilities, which
    are mostly wrong, still lower. Raises Problem if predictions are missing, are not those of windows, or do not fit
    the dataset or each other.
    """
    setting = cfg['self_training']
    if not setting:
        return None
    names, _, kind = setting.rpartition(':')
    if kind not in KINDS or not names:
        raise Problem(f'self_training={setting}: expected FILE[,FILE...]:softmax or FILE[,FILE...]:sigmoid')
    if not cfg['arch']:
        raise Problem(f'self_training={setting}: for networks with a spectrogram branch; set arch')
    teachers = [predictions.load(name) for name in map(config.find, names.split(','))]
    first = teachers[0]
    for one in teachers:
        _check(one, first, dataset)
    probabilities = [KINDS[kind](one.select(first.files).scores) for one in teachers]
    targets = np.mean(probabilities, axis=0) ** cfg['self_training_power']
    return SoftWindows(first.files, first.offsets, (first.starts + first.stops) / 2, targets.astype(np.float32))


def _check(one, first, dataset):
    """Raise Problem unless predictions have times, and fit the dataset and the first ones."""
    name, cure = one.filename, 'predict the list again with vars/predict_soundscapes.vars'
    if one.num_classes != dataset.num_classes:
        raise Problem(
            f'{name}: {one.num_classes} classes, expected {dataset.num_classes}; it belongs to another dataset'
        )
    if one.starts is None:
        raise Problem(f'{name}: its rows have no times, so they are not those of windows; {cure}')
    if set(one.files) != set(first.files):
        raise Problem(
            f'{name}: other recordings than those of {first.filename}; predict the same list with all teachers'
        )
    again = one.select(first.files)
    if not np.array_equal(again.offsets, first.offsets) or not np.allclose(again.starts, first.starts):
        raise Problem(f'{name}: other windows than those of {first.filename}; {cure}')
