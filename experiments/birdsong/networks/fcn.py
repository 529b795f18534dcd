"""Fully convolutional networks: class scores at every frame of a recording of any length, in constant memory.

The scores at a frame are those of the trained network for an excerpt of fixed length (the window) that begins there.
The layers are computed once for all windows: strides along time become dilations (Long et al. 2015, arXiv:1411.4038;
dilated pooling: Sercu & Goel 2016, arXiv:1604.01792). Then the global pooling slides over the maps.
"""

import itertools
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birdsong import files
from birdsong.data import audio, stft
from birdsong.files import Problem
from birdsong.networks import layers, pooling
from birdsong.networks.compiled import CompiledNetwork
from birdsong.networks.compiler import compile_metadata, compile_network
from birdsong.networks.model import Network
from birdsong.networks.operations import (
    Linear,
    Operation,
    Pcen,
    describe_operations,
    padding_reach,
    restore_operations,
)

# number of frames whose spectrogram is computed at a time
READ_FRAMES = 4200
# settings that a converted network needs to know
SETTINGS = (
    'sample_rate',
    'fps',
    'frame_len',
    'mel_max',
    'filterbank',
    'bins',
    'arch.pool',
    'arch.output',
    'arch.output_bg',
    'arch_meta.weight',
    'input_meta',
)


def spectrograms(samples: np.ndarray, cfg: dict[str, Any], least: int) -> Iterator[np.ndarray]:
    """Yield the spectrogram of a recording in blocks, float32 (frames, bins).

    samples: int16 or float32 (N,), possibly a memory map. They are repeated if there are fewer than `least` frames.
    """
    frame_len, hop = cfg['frame_len'], stft.hop(cfg)
    needed = (least - 1) * hop + frame_len
    if len(samples) < needed:
        samples = np.resize(samples if len(samples) else np.zeros(1, np.int16), needed)
    frames = stft.num_frames(len(samples), frame_len, hop)
    for start in range(0, frames, READ_FRAMES):
        part = samples[start * hop : (min(start + READ_FRAMES, frames) - 1) * hop + frame_len]
        yield stft.spectrogram(part, cfg['sample_rate'], frame_len, cfg['fps'], bins=stft.num_bins(cfg))
        audio.release(samples)


class Scores:
    """Computes the scores of a recording: `push` blocks of its spectrogram (batch, frames, bins) in order, then `end`.

    Both return a dict of 'output' (and 'output_bg'), (batch, scores, classes), or None if no score is complete yet.
    """

    def __init__(self, fcn: 'FullyConvolutional', meta: Tensor | None):
        self.fcn, self.extra = fcn, fcn.metadata(meta)
        self.stream = fcn.compiled.stream()
        self.pool = pooling.SlidingPooling(fcn.pool, fcn.count, fcn.spacing)

    def _finish(self, parts: list[Tensor | None]) -> dict[str, Tensor] | None:
        parts = [p for p in parts if p is not None]
        if not parts:
            return None
        logits = torch.cat(parts, 2)
        if self.extra is not None:
            logits = logits + self.extra
        outputs = {'output': layers.OUTPUT[self.fcn.settings['arch.output']](logits)}
        if self.fcn.settings['arch.output_bg']:
            outputs['output_bg'] = torch.sigmoid(logits)
        return {k: v.transpose(1, 2) for k, v in outputs.items()}

    def _pooled(self, maps: Tensor | None) -> Tensor | None:
        return None if maps is None else self.pool.push(layers.full_precision(maps))

    @torch.no_grad()
    def push(self, spect: Tensor) -> dict[str, Tensor] | None:
        spect = layers.full_precision(spect).to(self.fcn.compiled.device)
        return self._finish(
            [self._pooled(self.stream.push(block)) for block in spect.split(self.fcn.compiled.block, 1)]
        )

    @torch.no_grad()
    def end(self) -> dict[str, Tensor] | None:
        return self._finish([self._pooled(self.stream.end()), self.pool.end()])


class FullyConvolutional:
    """A trained network, converted by `to_fcn` or read by `load`. Its attributes, all in frames:

    step: distance of two scores; network_step: distance of two positions of the maps of the trained network.
    excerpt: length of the excerpts that are scored; window: number of these frames that a score depends on.
    least: shortest input of the network.
    margin: distance from the ends of a recording within which scores depend on padding (0 without padded layers).
    """

    def __init__(
        self,
        operations: list[Operation],
        meta: list[Linear] | None,
        settings: dict[str, Any],
        window: int,
        least: int,
        count: int,
        margin: int,
        network_step: int,
        step: int,
        device: torch.device | str = 'cpu',
    ):
        """operations: compiled with dense=True if step is 1; count: number of positions in the maps of an excerpt."""
        self.operations, self.meta, self.settings = operations, meta, settings
        self.pool, self.count = pooling.make_global_pooling(settings['arch.pool']), count
        self.least, self.step, self.network_step = least, step, network_step
        self.spacing = network_step // step
        self.window = least + ((count if self.pool.pools else 1) - 1) * network_step
        self.excerpt = window
        self.margin = margin
        self.compiled = CompiledNetwork(operations, device)
        self.hop = stft.hop(settings)

    def metadata(self, meta: Tensor | None) -> Tensor | None:
        """Contribution of metadata (1, values) to the logits, (1, classes, 1); None for a network without metadata."""
        if self.meta is None:
            return None
        wanted, given = self.meta[0].weight.shape[1], 'none' if meta is None else meta.shape[-1]
        if given != wanted:
            raise Problem(f'the network takes {wanted} metadata values, not {given}')
        x = layers.full_precision(meta).to(self.meta[0].weight.device)
        for op in self.meta:
            x = op.apply(x)
        return (float(self.settings['arch_meta.weight']) * x)[:, :, None].to(self.compiled.device)

    def describe(self) -> str:
        """One to three lines that explain the scores."""
        rate, step = self.settings['sample_rate'], self.step
        seconds = ((self.window - 1) * self.hop + self.settings['frame_len']) / rate
        lines = [
            f'a score every {step} frame{"s" * (step > 1)} ({1000.0 * step * self.hop / rate:.1f} ms), for windows of '
            f'{self.window} frames ({seconds:.2f} s); each position of the maps looks at {self.least} frames'
        ]
        if self.margin:
            lines.append(
                f'padded layers: scores equal those of the network for excerpts with a margin of {self.margin} frames '
                f'({self.margin * self.hop / rate:.2f} s) on both sides; nearer to the ends of a recording, padding '
                'changes them'
            )
        if any(isinstance(op, Pcen) for op in self.operations[0].main):
            lines.append(
                'magscale=pcen: smoothing starts at the beginning of the recording, not of each window, which changes '
                'scores slightly'
            )
        return '\n'.join(lines)

    def stream(self, meta: Tensor | None = None) -> Scores:
        """A new Scores for a recording, with its metadata (1, values) if the network uses metadata."""
        return Scores(self, meta)

    def times(self, first: int, count: int) -> np.ndarray:
        """Times in the middle of the windows of the scores `first` to first + count - 1, in seconds."""
        middle = ((self.window - 1) * self.hop + self.settings['frame_len']) / 2
        return ((first + np.arange(count)) * self.step * self.hop + middle) / self.settings['sample_rate']

    def recording(self, samples: np.ndarray, meta: Tensor | None = None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield the scores of a recording block by block: number of the first, dict of arrays (scores, classes).

        samples: as for `spectrograms`. A recording that is shorter than a window has one score.
        """
        stream, first = self.stream(meta), 0
        for spect in itertools.chain(spectrograms(samples, self.settings, self.least), [None]):
            scores = stream.end() if spect is None else stream.push(torch.from_numpy(spect)[None])
            if scores is not None:
                scores = {k: v[0].cpu().numpy() for k, v in scores.items()}
                yield first, scores
                first += len(scores['output'])

    def save(self, filename: str | os.PathLike) -> None:
        """Write a file with plain arrays and a description of the operations in JSON."""
        arrays = {}
        description = {
            'operations': describe_operations(self.operations, 'operations', arrays),
            'meta': describe_operations(self.meta, 'meta', arrays),
            'settings': self.settings,
            'window': self.excerpt,
            'least': self.least,
            'count': self.count,
            'margin': self.margin,
            'network_step': self.network_step,
            'step': self.step,
        }
        files.save_npz(filename, dict(description=np.array(json.dumps(description)), **arrays))


def load(filename: str | os.PathLike, device: torch.device | str = 'cpu') -> FullyConvolutional:
    """Read a converted network that `FullyConvolutional.save` wrote. Raises Problem for other files."""
    arrays = files.load_npz(filename)
    try:
        description = json.loads(str(arrays['description']))
        if description['settings']['filterbank'] == 'none':
            # Older files are for all bins and do not state it.
            description['settings'].setdefault('bins', description['operations'][0]['bands'])
        for name in ('operations', 'meta'):
            description[name] = restore_operations(description[name], arrays)
        return FullyConvolutional(device=device, **description)
    except (AttributeError, KeyError, ValueError, TypeError):
        raise Problem(f'{filename}: not a converted network; create one with model_to_fcn.py') from None


@torch.no_grad()
def to_fcn(net: Network, window: float = 5.0, step: int = 1) -> FullyConvolutional:
    """Convert a trained network.

    window: length in seconds of the excerpts that are scored.
    step: frames from one score to the next, 1 or the network's own step (`net.frame_step`), which is faster.
    Metadata is the same for all windows of a recording. PCEN starts smoothing at the beginning of the recording.
    Raises Problem for a network on metadata alone, a layer that needs complete excerpts, another step, and a window
    that is too short.
    """
    net.eval()
    cfg = net.cfg
    if net.audio is None:
        raise Problem('a network on metadata alone has no scores for frames; choose one that processes spectrograms')
    if step not in (1, net.frame_step):
        raise Problem(f"a step of {step} frames: it must be 1 or the network's own, {net.frame_step}")
    hop = stft.hop(cfg)
    frames = stft.num_frames(round(window * cfg['sample_rate']), cfg['frame_len'], hop)
    if frames < net.min_frames:
        least = ((net.min_frames - 1) * hop + cfg['frame_len']) / cfg['sample_rate']
        raise Problem(
            f'a window of {window:g} s has {frames} frames, the network needs {net.min_frames}: '
            f'take at least {math.ceil(least * 100) / 100:.2f} s'
        )
    dense = compile_network(net, dense=True)
    # A multiple of the network's step, so that the maps of an excerpt with this margin include those of the excerpt.
    margin = -(-padding_reach(dense) // net.frame_step) * net.frame_step
    return FullyConvolutional(
        dense if step == 1 else compile_network(net),
        compile_metadata(net),
        {k: cfg[k] for k in SETTINGS if k in cfg},
        frames,
        net.min_frames,
        net.audio.chain.positions(frames),
        margin,
        net.frame_step,
        step,
        next(net.parameters()).device,
    )
