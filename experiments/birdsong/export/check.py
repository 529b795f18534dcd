"""Comparison of an ONNX file with the networks that it was made of, in ONNX Runtime and PyTorch."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime
import torch

from birdsong.export.members import LOGITS, Part
from birdsong.export.network import FRAMES, METADATA, PROBABILITIES, SAMPLES, factors
from birdsong.export.waveform import FULL_SCALE
from birdsong.prediction.inspection import output_of
from birdsong.prediction.predictor import Predictor

# Largest length of random recordings, in seconds
LONGEST = 6


def session(filename: str, threads: int = 0) -> onnxruntime.InferenceSession:
    """The file in ONNX Runtime, on the CPU. threads: 0 for all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(filename, options, providers=['CPUExecutionProvider'])


class Reference:
    """The probabilities of networks according to the predictor of this project; arguments as for `network.to_onnx`."""

    def __init__(self, parts: Sequence[Part], how: str):
        self.parts, self.how = parts, how
        self.factors = factors(parts, how)
        self.shortest = max(part.shortest for part in parts)
        self.predictors = [Predictor(part.net, part.net.cfg, torch.device('cpu')) for part in parts]

    def probabilities(self, samples: np.ndarray | None, meta: np.ndarray | None = None) -> np.ndarray:
        """(classes,) for a recording, int16 (N,), as one block, and metadata (1, values)."""
        item = self._item(samples, meta)
        parts = []
        for part, predictor in zip(self.parts, self.predictors, strict=True):
            blocks = None if samples is None else [_block(predictor, item)]
            rows = torch.from_numpy(predictor.predict(item, blocks)['output'])
            parts.append(self._output(part, rows).amax(0, keepdim=True))
        return self._mean(parts)[0]

    @torch.no_grad()
    def frames(self, samples: np.ndarray, meta: np.ndarray | None = None) -> np.ndarray:
        """(positions, classes) for the same arguments: the outputs at each position in time."""
        item = self._item(samples, meta)
        parts = []
        for part, predictor in zip(self.parts, self.predictors, strict=True):
            maps = predictor.maps(_block(predictor, item))
            size = maps.shape[2:]
            logits = predictor.net.finish(maps[:, : part.net.classes].flatten(2), predictor.meta(item))['logits']
            outputs = self._output(part, logits[0].T).unflatten(0, size)
            parts.append(outputs.amax(1))
        return self._mean(parts)

    def _item(self, samples, meta):
        item = {} if meta is None else {'meta': meta}
        if samples is not None:
            item['samples'] = np.resize(samples, max(len(samples), self.shortest))
        return item

    def _output(self, part, logits):
        return logits if self.how == LOGITS else output_of(part.kind)(logits)

    def _mean(self, parts):
        mean = sum(factor * value for factor, value in zip(self.factors, parts, strict=True))
        return (output_of(self.parts[0].kind)(mean) if self.how == LOGITS else mean).numpy()


def _block(predictor, item):
    """The whole recording as one block."""
    return predictor.block(item['samples'], 0, predictor.frames(item['samples']))


def noise(parts: Sequence[Part], seed: int = 0) -> Iterator[np.ndarray]:
    """Random recordings, int16, one shorter than the shortest excerpt, others longer; louder and softer."""
    generator = np.random.default_rng(seed)
    rate, shortest = parts[0].cfg['sample_rate'], max(part.shortest for part in parts)
    longest = max(shortest, int(min(LONGEST, min(part.cfg['len_max'] for part in parts)) * rate))
    for length, level in (shortest // 2 + 1, 1000), ((shortest + longest) // 2 + 1, 10), (longest, 8000):
        yield np.clip(generator.normal(0, level, length), -32768, 32767).astype(np.int16)


def differences(
    filename: str, parts: Sequence[Part], how: str, recordings: Sequence[np.ndarray] = ()
) -> dict[str, float]:
    """Largest difference between each output of a file, PROBABILITIES and FRAMES, and that of its networks.

    recordings: int16 (N,); by default noise. Metadata are random, each value known or not. NaN counts as infinite.
    """
    runtime, reference = session(filename, torch.get_num_threads()), Reference(parts, how)
    net = parts[0].net
    generator = np.random.default_rng(0)
    outputs = [output.name for output in runtime.get_outputs()]
    worst = dict.fromkeys(outputs, 0.0)
    for samples in (recordings or list(noise(parts))) if net.audio is not None else [None] * 3:
        batch, expected = {}, []
        meta = None
        if net.meta is not None:
            meta = generator.normal(size=(2, net.num_meta)) * generator.integers(0, 2, (2, net.num_meta))
            meta = batch[METADATA] = meta.astype(np.float32)
        pair = [None, None] if samples is None else [samples, samples[::-1].copy()]
        if samples is not None:
            batch[SAMPLES] = np.stack(pair).astype(np.float32) / FULL_SCALE
        for name, found in zip(outputs, runtime.run(outputs, batch), strict=True):
            compute = {PROBABILITIES: reference.probabilities, FRAMES: reference.frames}[name]
            expected = [compute(one, None if meta is None else meta[i : i + 1]) for i, one in enumerate(pair)]
            gap = float(np.abs(found - np.stack(expected)).max())
            worst[name] = max(worst[name], gap) if np.isfinite(gap) else np.inf
    return worst
