"""Networks built from settings; reading and writing their files, those of the original among them.

A network has a spectrogram side (input stage, the layers of `arch`, class and attention maps, pooling), a metadata
side (the layers of `arch_meta`, class logits), or both, whose logits are added.
"""

import os
import re

import numpy as np
import torch
from torch import nn

from birdsong import files
from birdsong.files import Problem
from birdsong.networks import frontend, layers
from birdsong.networks.architecture import Chain, make_layers, parse
from birdsong.networks.pooling import PoolingStream, make_global_pooling


class AudioBranch(nn.Module):
    """Spectrogram (batch, frames, bins) -> maps before pooling (batch, classes + attention, time, frequency)."""

    def __init__(self, cfg, classes, attention, rng):
        super().__init__()
        self.front = frontend.Frontend(cfg)
        chain = Chain(1, self.front.bands)
        self.layers = make_layers(parse(cfg), cfg, 'arch', chain, rng)
        self.dropout = layers.Dropout(cfg['arch.fulldrop' if cfg['arch.lastdrop'] == '' else 'arch.lastdrop'])
        self.head = layers.Convolution(chain.channels, classes + attention, (1, 1), rng, bias=True)
        self.classes, self.prepool = classes, cfg['arch.prepool']
        self.steps, self.min_frames = chain.steps, chain.min_frames()
        self.frame_step = int(np.prod([s for _, s, _ in chain.steps], dtype=np.int64)) if chain.steps else 1

    def forward(self, spect):
        if spect.ndim == 3 and spect.shape[1] < self.min_frames:
            raise Problem(
                f'an excerpt of {int(spect.shape[1])} frames is too short for this network, which needs {int(self.min_frames)}; set a greater len_min'
            )
        x = self.front(spect)
        for layer in self.layers:
            x = layer(x)
        return self.classify(x)

    def classify(self, x):
        """Class and attention maps from the last layer's."""
        x = self.head(self.dropout(x))
        if self.prepool == 'none':
            return x
        with torch.autocast(x.device.type, enabled=False):
            x = layers.full_precision(x)
            return torch.cat([layers.PREPOOL[self.prepool](x[:, : self.classes]), x[:, self.classes :]], 1)


class MetadataBranch(nn.Module):
    """Metadata (batch, values) -> logits (batch, classes)."""

    def __init__(self, cfg, num_meta, classes, rng):
        super().__init__()
        self.num_meta = num_meta
        chain = Chain(num_meta)
        self.layers = make_layers(parse(cfg, 'arch_meta'), cfg, 'arch_meta', chain, rng)
        self.head = layers.Dense(chain.channels, classes, rng, bias=True)

    def forward(self, meta):
        if meta is None or meta.shape[-1] != self.num_meta:
            raise Problem(
                f'the network takes {int(self.num_meta)} metadata values, not {"none" if meta is None else meta.shape[-1]}; input_meta must be as in its training'
            )
        for layer in self.layers:
            meta = layer(meta)
        return self.head(meta)


class Network(nn.Module):
    """A network as the settings describe it; made by `build`."""

    def __init__(self, cfg, classes, num_meta, rng):
        super().__init__()
        self.cfg, self.classes, self.num_meta = dict(cfg), classes, num_meta
        self.global_pool = make_global_pooling(str(cfg['arch.pool']))
        self.audio = AudioBranch(cfg, classes, self.global_pool.attention, rng) if cfg['arch'] else None
        self.meta = MetadataBranch(cfg, num_meta, classes, rng) if cfg['arch_meta'] else None

    @property
    def min_frames(self):
        """Frames of the shortest excerpt that the network can process; 0 if it processes metadata only."""
        return self.audio.min_frames if self.audio else 0

    @property
    def frame_step(self):
        """Frames between two positions of the maps; 0 if there are none."""
        return self.audio.frame_step if self.audio else 0

    def positions(self, frames):
        """Positions along time of the maps of an excerpt of so many frames."""
        for size, stride, padded in self.audio.steps:
            frames = -(-frames // stride) if padded else (frames - size) // stride + 1
        return frames

    def maps(self, spect):
        """Spectrogram (batch, frames, bins) -> maps before arch.pool, after arch.prepool: (batch, maps, time, frequency).

        The class maps come first, then those for attention.
        """
        return self.audio(spect)

    def pool(self, maps):
        """Maps -> (batch, classes), or (batch, classes, time) without pooling."""
        return self.global_pool(maps)

    def pooling(self):
        """An object with `add(maps)`, to be called block by block over time, and `result()`: `pool` in constant memory."""
        return PoolingStream(self.global_pool)

    def finish(self, pooled, meta=None):
        """Pooled maps (None for metadata alone) and metadata (batch, values) -> dict of 'logits', 'output'[, 'output_bg']."""
        logits = pooled
        if self.meta is not None:
            extra = layers.full_precision(self.meta(meta))
            if pooled is None:
                logits = extra
            else:
                logits = pooled + float(self.cfg['arch_meta.weight']) * extra.view(
                    extra.shape + (1,) * (pooled.ndim - 2)
                )
        outputs = {'logits': logits, 'output': layers.OUTPUT[self.cfg['arch.output']](logits)}
        if self.cfg['arch.output_bg']:
            outputs['output_bg'] = torch.sigmoid(logits)
        return outputs

    def forward(self, spect=None, meta=None):
        """As `finish`, and 'maps' and 'attention' (batch, K, time * frequency; before its softmax) where there are such."""
        if self.audio is None:
            return self.finish(None, meta)
        maps = self.maps(spect)
        outputs = self.finish(self.pool(maps), meta)
        outputs['maps'] = maps
        if self.global_pool.attention:
            outputs['attention'] = layers.full_precision(maps[:, self.classes :].flatten(2))
        return outputs

    def regularisable(self):
        """The parameters that l2_decay covers: weights and gammas."""
        for module in self.modules():
            if isinstance(module, (layers.Convolution, layers.Dense)):
                yield module.weight
            elif isinstance(module, layers.BatchNorm) and module.gamma is not None:
                yield module.gamma


def build(cfg, classes, num_meta=0):
    """The network that the settings describe, initialised from cfg['seed'] alone.

    classes: number of classes; num_meta: length of the metadata vector.
    Raises Problem, naming setting, layer and shapes, for an architecture that can't be.
    """
    if classes < 1:
        raise Problem('a network needs at least one class')
    if not cfg['arch'] and not cfg['arch_meta']:
        raise Problem('arch and arch_meta are both empty: there is no network; set one of them')
    if cfg['arch_meta'] and num_meta < 1:
        raise Problem(f'arch_meta={cfg["arch_meta"]}: there are no metadata; set input_meta')
    return Network(cfg, int(classes), int(num_meta), np.random.default_rng(cfg['seed']))


def synchronise(net, group=True):
    """Have batch normalisation take the batches of all processes of `group` (True: all there are) together."""
    for module in net.modules():
        if isinstance(module, layers.BatchNorm):
            module.group = group


# == Files ==


def _slots(net):
    """(name, module, its own name, tensor) of all arrays, in the order of the original's files."""
    modules = dict(net.named_modules())
    for name, tensor in net.state_dict().items():
        parent, _, own = name.rpartition('.')
        yield name, modules[parent], own, tensor


def original_arrays(net):
    """The network's arrays as the original stores them: list of copies, in its order and layout."""
    return [
        np.array(getattr(module, 'to_original', lambda own, a: a)(own, tensor.detach().cpu().numpy()))
        for _, module, own, tensor in _slots(net)
    ]


def save_original(net, filename):
    """Write the network as the original would: param0, param1, ..."""
    files.save_npz(filename, {f'param{int(i)}': array for i, array in enumerate(original_arrays(net))})


def save(net, filename):
    """Write the network's arrays under their names, whole or not at all."""
    files.save_npz(filename, {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()})


def _listing(arrays):
    return '%d (%s)' % (
        len(arrays),
        ', '.join('{} {}'.format(name, 'x'.join(map(str, shape)) or 'scalar') for name, shape in arrays),
    )


def note_bins(cfg, filename, prefix=''):
    """Sets cfg['bins'] if filterbank=none and the file holds a network on all frequency bins.

    Such files were written before bins above mel_max were left out, as in 2018. `filename` is as for `load`; `prefix` comes
    before the names of the arrays.
    """
    if cfg['filterbank'] != 'none' or not cfg['arch']:
        return
    for part in _parts(filename):
        arrays = files.load_npz(part, [f'{prefix}audio.front.standardise.mean', 'param0', 'param1'])
        lengths = [arrays[name].shape[-1] for name in sorted(arrays) if arrays[name].ndim]
        if lengths:
            if lengths[0] == cfg['frame_len'] // 2 + 1:
                cfg['bins'] = lengths[0]
            return


def _parts(filename):
    """The files that `filename` names: itself, or A:B."""
    return [filename] if os.path.exists(filename) else filename.split(':')


def load(net, filename):
    """Read the arrays of a file of ours or of the original's, or of several (A:B, spectrogram side first), into the network.

    Raises Problem, listing what is there and what is wanted, if number or shapes don't fit.
    """
    named, numbered = {}, []
    for part in _parts(filename):
        arrays = files.load_npz(part)
        if arrays and all(re.fullmatch(r'param\d+', k) for k in arrays):
            if sorted(arrays, key=lambda k: int(k[5:])) != [f'param{int(i)}' for i in range(len(arrays))]:
                raise Problem(
                    f'{part}: its arrays are not numbered param0 to param{int(len(arrays) - 1)}; is it whole?'
                )
            numbered += [(f'param{int(i)}', arrays[f'param{int(i)}']) for i in range(len(arrays))]
        else:
            twice = sorted(set(named) & set(arrays))
            if twice:
                raise Problem(
                    f'{part}: {twice[0]} is in another of the files, too; join a spectrogram side and a metadata side'
                )
            named.update(arrays)
    slots = list(_slots(net))
    state, queue, fits = {}, iter(numbered), True
    for name, module, own, tensor in slots:
        if name in named:
            array = named[name]
        else:
            array = next(queue, (None, None))[1]
            if array is not None and hasattr(module, 'from_original') and array.ndim:
                try:
                    array = module.from_original(own, array)
                except (IndexError, ValueError):
                    array = None
        if array is None or array.shape != tuple(tensor.shape) or array.dtype.kind not in 'fiu':
            fits = False
            break
        if not np.isfinite(array).all():
            raise Problem(f'{filename}: {name} holds values that are not finite; train the model anew')
        state[name] = torch.from_numpy(
            np.array(array, dtype=np.float64 if tensor.dtype == torch.float64 else np.float32)
        )
    if not fits or len(slots) != len(named) + len(numbered):
        there = [(k, a.shape) for k, a in list(named.items()) + numbered]
        wanted = [
            (
                name,
                getattr(module, 'to_original', lambda own, a: a)(own, np.empty(tuple(tensor.shape), np.int8)).shape
                if numbered
                else tuple(tensor.shape),
            )
            for name, module, own, tensor in slots
        ]
        raise Problem(
            f'{filename} does not fit the settings of the network. It holds the arrays {_listing(there)}; the network has {_listing(wanted)}. Use the .vars file that belongs to it'
        )
    net.load_state_dict(state)
