"""Scores of an ensemble for the windows of a recording."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from birdsong import config
from birdsong.data import audio, metadata, stft
from birdsong.findings import calibration
from birdsong.identification.choice import Choice
from birdsong.identification.windows import Windows, kind_of
from birdsong.networks import model
from birdsong.prediction.predictor import Predictor, load_model
from birdsong.scores import combination
from birdsong.scores.predictions import Predictions

# Windows whose scores are combined at once.
BATCH = 64


class Ensemble:
    """The networks of a choice of models, on a device.

    `.kind` is what turns the scores into outputs, see `calibration.KINDS`. Raises Problem if models do not fit.
    """

    def __init__(
        self,
        choice: Choice,
        settings: Sequence[config.Settings],
        windows: Windows,
        num_classes: int,
        device: torch.device,
        amp: bool = False,
    ):
        self.choice, self.windows, self.num_classes = choice, windows, num_classes
        self.weights = [member.weight for member in choice.members]
        self.kind = kind_of(choice, settings)
        self.sources = [metadata.sources(cfg) for cfg in settings]
        self.predictors = []
        for member, cfg in zip(choice.members, settings, strict=True):
            cfg = {**cfg, 'arch.output': 'linear', 'arch.output_bg': ''}
            model.note_bins(cfg, member.filename)
            net = load_model(member.filename, cfg, metadata.size(cfg))
            self.predictors.append(Predictor(net, cfg, device, amp=amp))

    def scores(self, samples: np.ndarray, inputs: Mapping[str, float]) -> Iterator[np.ndarray]:
        """Yields the combined scores (n, classes), float32, of consecutive windows of a recording.

        samples: int16 (N,), at the sample rate of the networks; `inputs`: {source: number} of its metadata.
        """
        length = len(samples)
        shortest = int(self.windows.shortest * self.windows.rate)
        if length < shortest:
            samples = np.resize(samples, shortest)
        items = [self._item(i, samples, inputs) for i in range(len(self.predictors))]
        cuts = [self.windows.cut(len(samples), p.frame_len, p.hop) if p.cfg['arch'] else None for p in self.predictors]
        count = len(self.windows.times(length)[0])
        for first in range(0, count, BATCH):
            parts, blocks = [], {}
            last = min(first + BATCH, count)
            for predictor, item, cut in zip(self.predictors, items, cuts, strict=True):
                rows = self._rows(predictor, item, cut and cut[first:last], blocks)
                parts.append(Predictions(['recording'], [0, len(rows)], self._completed(rows)))
            combined = combination.combine(parts, self.weights).scores
            yield np.broadcast_to(combined, (last - first, self.num_classes)).astype(np.float32)
            audio.release(samples)

    def _item(self, i, samples, inputs):
        item = {'file': 'recording', 'samples': samples}
        if self.sources[i]:
            numbers = metadata.numbers([inputs], self.sources[i])
            item['meta'] = metadata.encode(numbers, self.predictors[i].cfg)
        return item

    def _rows(self, predictor, item, cut, blocks):
        """Scores of windows (start, stop), one row for each; a single one for a network on metadata alone.

        `blocks` are spectrograms of these windows that were computed for other networks.
        """
        if cut is None:
            return predictor.predict(item)['output']
        # networks that need the same input share it
        same = (predictor.hop, predictor.frame_len, stft.num_bins(predictor.cfg), predictor.net.min_frames)
        rows = []
        for start, stop in cut:
            key = (*same, predictor.on_device, start, stop)
            if key not in blocks:
                blocks[key] = predictor.block(item['samples'], start, stop)
            rows.append(predictor.predict(item, [blocks[key]])['output'].max(axis=0))
        return np.stack(rows)

    def _completed(self, rows):
        """Rows with the softmax, if wanted, and with the lowest score for classes that were added after training."""
        if self.choice.softmax:
            rows = combination.softmax(rows)
        missing = self.num_classes - rows.shape[1]
        return np.concatenate([rows, np.repeat(rows.min(axis=1, keepdims=True), missing, axis=1)], axis=1)

    def outputs(self, scores: np.ndarray) -> np.ndarray:
        """Outputs (rows, classes) between 0 and 1, of combined scores."""
        if self.kind == calibration.OUTPUTS:
            # combined scores are divided by the number of members, so they may be more or less than their mean
            return np.clip(scores * (len(self.weights) / sum(self.weights)), 0, 1)
        return calibration.sigmoid(calibration.logits(scores, self.kind))
