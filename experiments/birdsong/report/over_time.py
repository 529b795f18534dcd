"""Scores of a class over the time of a recording, from the rows of a prediction file or from a network."""

import os
from typing import NamedTuple

import numpy as np

from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.scores import predictions

# The settings with which the drivers predict, too.
PREDICTION = os.path.join(config.EXPERIMENTS, 'vars', 'predict_audio.vars')


class Curves(NamedTuple):
    """Values at `n` times: scores of all classes, and the weight of each position in them relative to the mean."""

    seconds: np.ndarray  # (n,), the middles
    scores: np.ndarray  # (n, classes)
    attention: tuple[np.ndarray, np.ndarray] | None  # seconds (m,), weights (m,)
    length: float  # of the recording in seconds


class Rows:
    """The rows of a prediction file with times."""

    def __init__(self, filename: str):
        self.found = predictions.load(filename)

    def __call__(self, key: str) -> Curves | None:
        """The scores of a recording, or None if it has a single row or no times."""
        times = self.found.times(key) if key in self.found else None
        if times is None or len(times[0]) < 2:
            return None
        return Curves((times[0] + times[1]) / 2, self.found[key], None, float(times[1].max()))


class Networks:
    """Networks that compute the scores; `files` is the file of the network for each recording. Needs torch."""

    def __init__(self, dataset: Dataset, files: dict[str, str]):
        self.dataset, self.files, self.loaded = dataset, files, {}

    def __call__(self, key: str) -> Curves | None:
        """The probabilities of a recording and the attention, or None without a network for it.

        Raises Problem if the recording or the network cannot be read.
        """
        from birdsong.prediction import inspection

        if key not in self.files:
            return None
        feed, predictor, probability = self._prepared(key)
        cfg, item = predictor.cfg, feed.item(0)
        chances, attention = (columns.result() for columns in inspection.over_time(predictor, item, probability))
        weights = None
        if attention[1].shape[1]:
            weights = inspection.seconds(cfg, attention[0]), inspection.attention_weights(attention[1])
        length = len(item['samples']) / cfg['sample_rate']
        return Curves(inspection.seconds(cfg, chances[0]), chances[1], weights, length)

    def _prepared(self, key):
        """The feed of a recording, and its network; only the last network is kept in memory."""
        from birdsong import devices
        from birdsong.data.feeds import TestFeed
        from birdsong.networks import model
        from birdsong.prediction import inspection
        from birdsong.prediction.predictor import Predictor, load_model

        filename = self.files[key]
        cfg = config.load([f'{filename}.vars', PREDICTION])
        model.note_bins(cfg, filename)
        cfg['classes'] = cfg.get('classes') or self.dataset.num_classes
        feed = TestFeed(self.dataset, cfg, files=[key])
        if filename not in self.loaded:
            predictor = Predictor(load_model(filename, cfg, feed.num_meta), cfg, devices.pick(None))
            self.loaded = {filename: (predictor, inspection.probabilities(config.load([f'{filename}.vars'])))}
        return feed, *self.loaded[filename]


def uses_audio(filename: str) -> bool:
    """Whether a file is a trained network that reads recordings."""
    if not (os.path.exists(filename) and os.path.exists(f'{filename}.vars')):
        return False
    return bool(config.load([f'{filename}.vars'])['arch'])
