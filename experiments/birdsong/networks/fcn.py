"""Fully convolutional networks: class scores at every frame of a recording, of any length in constant memory.

A score belongs to a window: it is what the trained network says of an excerpt of that length that begins there, but
the layers are computed once for all windows, with strides in time turned into dilations (Long et al. 2015,
arXiv:1411.4038; dilated pooling: Sercu & Goel 2016, arXiv:1604.01792), and pooling slides.
"""

import itertools
import json
import math

import numpy as np
import torch

from birdsong import files
from birdsong.data import audio, stft
from birdsong.files import Problem
from birdsong.networks import layers, operations, pooling
from birdsong.networks.compiled import CompiledNetwork
from birdsong.networks.compiler import compile_metadata, compile_network

# frames of a recording whose spectrogram is computed at a time
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


def spectrograms(samples, cfg, least):
    """Yields the spectrogram of a recording in blocks, float32 (frames, bins) with no seam; looped to `least` frames if shorter.

    samples: int16 or float32 (N,), a memory map may be.
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
    """A recording on its way: `push` blocks of its spectrogram (batch, frames, bins) in order, then `end`.

    Both return a dict of 'output' (and 'output_bg') (batch, scores, classes), or None if there is nothing yet.
    """

    def __init__(self, fcn, meta):
        self.fcn, self.extra = fcn, fcn.metadata(meta)
        self.stream = fcn.compiled.stream()
        self.pool = pooling.SlidingPooling(fcn.pool, fcn.count, fcn.spacing)

    def _finish(self, parts):
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

    def _pooled(self, maps):
        return None if maps is None else self.pool.push(layers.full_precision(maps))

    @torch.no_grad()
    def push(self, spect):
        spect = layers.full_precision(spect).to(self.fcn.compiled.device)
        return self._finish(
            [self._pooled(self.stream.push(block)) for block in spect.split(self.fcn.compiled.block, 1)]
        )

    @torch.no_grad()
    def end(self):
        return self._finish([self._pooled(self.stream.end()), self.pool.end()])


class FullyConvolutional:
    """A converted network.

    step: frames from one score to the next; window: frames that a score looks at; least: frames that the network needs
    at least; margin: frames at both ends of a recording where padding reaches what padded layers put out, 0 without such.
    """

    def __init__(self, operations, meta, settings, window, least, count, margin, network_step, step, device='cpu'):
        self.operations, self.meta, self.settings = operations, meta, settings
        self.pool, self.count = pooling.make_global_pooling(settings['arch.pool']), count
        self.least, self.step, self.network_step = least, step, network_step
        self.spacing = network_step // step
        self.window = least + ((count if self.pool.pools else 1) - 1) * network_step
        self.excerpt = window
        self.margin = margin
        self.compiled = CompiledNetwork(operations, device)
        self.hop = stft.hop(settings)

    def metadata(self, meta):
        """What metadata (1, values) add to the logits, (1, classes, 1), or None."""
        if self.meta is None:
            return None
        wanted, given = self.meta[0].weight.shape[1], 'none' if meta is None else meta.shape[-1]
        if given != wanted:
            raise Problem(f'the network takes {wanted} metadata values, not {given}')
        x = layers.full_precision(meta).to(self.meta[0].weight.device)
        for op in self.meta:
            x = op.apply(x)
        return (float(self.settings['arch_meta.weight']) * x)[:, :, None].to(self.compiled.device)

    def describe(self):
        """What the scores are, for users: one or two lines."""
        rate, frame_len = self.settings['sample_rate'], self.settings['frame_len']
        text = f'a score every {int(self.step)} frame{"s" * (self.step > 1)} ({1000.0 * self.step * self.hop / rate:.1f} ms), for windows of {int(self.window)} frames ({((self.window - 1) * self.hop + frame_len) / rate:.2f} s); the network alone looks at {int(self.least)} frames'
        if self.margin:
            text += f'\npadded layers: equal to the network on excerpts that are longer by a margin of {int(self.margin)} frames ({self.margin * self.hop / rate:.2f} s) on both sides; so far from the ends of a recording, padding does not reach'
        if any(isinstance(op, operations.Pcen) for op in self.operations[0].main):
            text += '\nmagscale=pcen: its smoother starts with the recording, not with each window; scores differ by what that changes'
        return text

    def stream(self, meta=None):
        """A Scores for one recording, with its metadata (1, values) if the network takes such."""
        return Scores(self, meta)

    def times(self, first, count):
        """Seconds of the middles of the windows of `count` scores from number `first` on."""
        middle = ((self.window - 1) * self.hop + self.settings['frame_len']) / 2
        return ((first + np.arange(count)) * self.step * self.hop + middle) / self.settings['sample_rate']

    def recording(self, samples, meta=None):
        """Scores of a recording, block by block: yields (number of the first, dict of arrays (scores, classes)).

        samples: as for `spectrograms`. A recording shorter than a window has one score.
        """
        stream, first = self.stream(meta), 0
        for spect in itertools.chain(spectrograms(samples, self.settings, self.least), [None]):
            scores = stream.end() if spect is None else stream.push(torch.from_numpy(spect)[None])
            if scores is not None:
                scores = {k: v[0].cpu().numpy() for k, v in scores.items()}
                yield first, scores
                first += len(scores['output'])

    def save(self, filename):
        """Write the converted network: plain arrays, and a description of the operations as JSON."""
        arrays = {}
        description = {
            'operations': operations.describe(self.operations, 'operations', arrays),
            'meta': operations.describe(self.meta, 'meta', arrays),
            'settings': self.settings,
            'window': self.excerpt,
            'least': self.least,
            'count': self.count,
            'margin': self.margin,
            'network_step': self.network_step,
            'step': self.step,
        }
        files.save_npz(filename, dict(description=np.array(json.dumps(description)), **arrays))


def load(filename, device='cpu'):
    """A converted network from a file that `FullyConvolutional.save` wrote."""
    arrays = files.load_npz(filename)
    try:
        description = json.loads(str(arrays['description']))
        if description['settings']['filterbank'] == 'none':
            # older files have all bins and do not say so
            description['settings'].setdefault('bins', description['operations'][0]['bands'])
        for name in ('operations', 'meta'):
            description[name] = operations.restore(description[name], arrays)
        return FullyConvolutional(device=device, **description)
    except (AttributeError, KeyError, ValueError, TypeError):
        raise Problem(f'{filename}: not a converted network; make one by model_to_fcn.py') from None


@torch.no_grad()
def to_fcn(net, window=5.0, step=1):
    """The FullyConvolutional form of a trained network.

    window: seconds of the excerpts whose scores it gives; step: frames from score to score, 1 or the network's own
    step (`net.frame_step`), which is cheaper. Metadata are the same all over a recording; PCEN smooths from the start of
    the recording, not of the window.
    Raises Problem for a network on metadata alone, one with a layer that needs its excerpt whole, or too short a window.
    """
    net.eval()
    cfg = net.cfg
    if net.audio is None:
        raise Problem(
            'a network on metadata alone has nothing to say about single frames; choose one with a spectrogram side'
        )
    if step not in (1, net.frame_step):
        raise Problem(f"a step of {step} frames: it must be 1 or the network's own, {int(net.frame_step)}")
    frames = stft.num_frames(round(window * cfg['sample_rate']), cfg['frame_len'], stft.hop(cfg))
    if frames < net.min_frames:
        least = ((net.min_frames - 1) * stft.hop(cfg) + cfg['frame_len']) / cfg['sample_rate']
        raise Problem(
            f'a window of {window:g} s has {int(frames)} frames, the network needs {int(net.min_frames)}: take at least {math.ceil(least * 100) / 100:.2f} s'
        )
    dense = compile_network(net, dense=True)
    # a multiple of the network's step, so that an excerpt that is longer by it is cut in the same places
    margin = -(-operations.padding_reach(dense) // net.frame_step) * net.frame_step
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
