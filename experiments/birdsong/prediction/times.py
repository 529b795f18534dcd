"""The times of the rows of predictions: see birdsong/scores/predictions.py for what they are."""

from collections.abc import Callable, Mapping

import numpy as np

from birdsong.data import stft
from birdsong.data.embeddings import Embeddings
from birdsong.prediction.full_resolution import FullResolution
from birdsong.prediction.predictor import Predictor, cut

# Starts and stops (count,) in seconds of the rows from index `first` on: (first, count) -> (starts, stops).
Times = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


class RowTimes:
    """The times of the rows that a predictor, or `full_resolution`, computes for recordings.

    lengths: number of samples of each recording (key). embeddings: those that a network on metadata alone uses.
    """

    def __init__(
        self,
        predictor: Predictor,
        lengths: Mapping[str, int],
        full_resolution: FullResolution | None = None,
        embeddings: Embeddings | None = None,
    ):
        self.predictor, self.lengths = predictor, lengths
        self.full_resolution, self.embeddings = full_resolution, embeddings
        self.rate, self.hop = predictor.cfg['sample_rate'], predictor.hop
        self.net = predictor.plain
        # Shorter recordings are repeated, see TestFeed.
        self.shortest = int(predictor.cfg['len_min'] * self.rate)

    def of(self, output: str, file: str) -> Times | None:
        """The times of the rows of an output of `Predictor.predict` for a recording.

        They are None for a network on metadata alone, unless it uses embeddings that have times.
        """
        if self.net.audio is None:
            known = self.embeddings.times(file) if self.embeddings else None
            return known and (lambda first, count: tuple(each[first : first + count] for each in known))
        length = self.lengths[file]
        end = max(length, self.hop) / self.rate
        if output == 'saliency':
            return lambda first, count: self._until(end, *self._frames(first, count))
        if self.full_resolution is not None:
            return lambda first, count: self._until(end, *self._windows(first, count))
        samples = max(length, self.shortest)
        frames = max(1, stft.num_frames(samples, self.predictor.frame_len, self.hop))
        starts, stops = self._until(end, *self._rows(output, frames, max(samples, self.hop) / self.rate))
        return lambda first, count: (starts[first : first + count], stops[first : first + count])

    def _seconds(self, frames):
        """Time of the start of frames."""
        return frames * self.hop / self.rate

    def _until(self, end, starts, stops):
        """The times without what is after the end of the recording; no row is empty."""
        return np.minimum(starts, max(0, end - self._seconds(1))), np.minimum(stops, end)

    def _frames(self, first, count):
        frames = np.arange(first, first + count)
        return self._seconds(frames), self._seconds(frames + 1)

    def _windows(self, first, count):
        """The windows of --full-resolution."""
        fcn, numbers = self.full_resolution.fcn, np.arange(first, first + count)
        if fcn.pool.pools:
            starts = self._seconds(numbers * fcn.step)
            return starts, starts + self.full_resolution.window
        frames = numbers // self.net.audio.chain.bands * fcn.step
        return self._seconds(frames), self._seconds(frames + fcn.least)

    def _rows(self, output, frames, end):
        """The blocks of a recording of so many frames, or the positions in them."""
        predictor = self.predictor
        blocks = cut(frames, predictor.longest, predictor.overlap, predictor.score_rest)
        if output == 'attention' or not self.net.global_pool.pools:
            parts = [self._positions(start, stop, end if stop == frames else None) for start, stop in blocks]
            return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        if predictor.split_pool:
            return np.zeros(1), np.full(1, end)
        starts, stops = np.array(blocks).T
        return self._seconds(starts), np.where(stops == frames, end, self._seconds(stops))

    def _positions(self, start, stop, end):
        """The positions of the maps of a block, which ends at frame `stop`, or `end` seconds if that is not None."""
        chain, least = self.net.audio.chain, self.net.min_frames
        positions = np.arange(chain.positions(max(stop - start, least)))
        begins = start + np.repeat(positions, chain.bands) * chain.frame_step()
        starts, stops = self._seconds(begins), self._seconds(np.minimum(begins + least, stop))
        # What remains after the last frame of a recording is shorter than a frame.
        return starts, stops if end is None else np.where(begins + least >= stop, end, stops)
