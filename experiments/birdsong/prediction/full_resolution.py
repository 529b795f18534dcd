"""Scores at every spectrogram frame of a recording, computed by a fully convolutional network."""

from collections.abc import Iterator

import numpy as np

from birdsong.networks.fcn import to_fcn
from birdsong.prediction.predictor import Predictor


class FullResolution:
    """Scores of the windows of `window` seconds that begin at each frame, or at each step of the network (own_step)."""

    def __init__(self, predictor: Predictor, window: float, own_step: bool = False):
        self.predictor, self.window = predictor, window
        self.fcn = to_fcn(predictor.plain, window, predictor.plain.frame_step if own_step else 1)

    def predict(self, item: dict, blocks: None = None) -> dict[str, Iterator[np.ndarray]]:
        """{'output': iterator over parts (rows, classes)} for an item of a TestFeed, like `Predictor.predict`."""
        parts = self.fcn.recording(item['samples'], self.predictor.meta(item))
        return {'output': (scores['output'] for _, scores in parts)}
