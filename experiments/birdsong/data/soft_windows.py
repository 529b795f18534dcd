"""Self-training: windows of unlabelled recordings with soft targets from teachers, mixed into training examples.

Xie et al., "Self-training with noisy student", CVPR 2020; the noise is the mixture with labelled recordings, as in the
best systems of BirdCLEF 2025.
"""

from typing import NamedTuple

import numpy as np


class SoftWindows(NamedTuple):
    """Windows of recordings `files` (keys): recording i has the windows offsets[i] to offsets[i + 1] - 1."""

    files: list[str]
    offsets: np.ndarray  # (recordings + 1,)
    middles: np.ndarray  # (windows,), in seconds
    targets: np.ndarray  # (windows, classes), float32, from 0 to 1

    def draw(
        self, count: int, length: int, rate: int, samples: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[int], list[int], np.ndarray]:
        """Random excerpts of `length` samples around windows, all of which are equally likely.

        samples: lengths of the recordings (N,); rate: samples per second. Returns recordings, starts in samples, and
        targets, float32 (count, classes): the maximum over the windows whose middle is in the excerpt.
        """
        window = rng.integers(len(self.middles), size=count)
        recording = np.searchsorted(self.offsets, window, 'right') - 1
        starts = (self.middles[window] * rate).astype(np.int64) - length // 2
        starts = np.clip(starts, 0, np.maximum(samples[recording] - length, 0))
        targets = [
            self._target(i, w, start / rate, (start + length) / rate)
            for i, w, start in zip(recording.tolist(), window.tolist(), starts.tolist(), strict=True)
        ]
        return recording.tolist(), starts.tolist(), np.stack(targets)

    def _target(self, recording, window, start, end):
        own = np.arange(self.offsets[recording], self.offsets[recording + 1])
        inside = own[(self.middles[own] > start) & (self.middles[own] < end)]
        return self.targets[np.append(inside, window)].max(axis=0)
