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
from birdsong.networks import layers

ISMIR2016 = (
    'conv:32x3x3,conv:32x3x3,pool:3x3,conv:32x3x3,conv:32x3x3,conv:64x3x-Shift,pool:3xShift,'
    'Conv:Fullx9x-1,Conv:Fullx1x1'
)
# sizes that each kind of layer takes: (least, most)
SIZES = {
    'conv': (3, 5),
    'convg1': (3, 5),
    'Conv': (3, 5),
    'pool': (2, 4),
    'avgpool': (2, 4),
    'lmepool': (2, 2),
    'groupdrop': (1, 1),
    'resblock': (4, 6),
    'full': (1, 1),
    'dense': (1, 1),
}


class LayerSpec:
    """One layer of an architecture string: `kind`, `sizes`, and what else its text says."""

    def __init__(self, text, where):
        self.text, self.where = text, where
        self.name, _, rest = text.partition(':')
        sizes, _, self.extra = rest.partition(':')
        lme = re.fullmatch(r'lme([0-9.]+(?:e[-+]?[0-9]+)?)pool', self.name)
        self.options = self.name.split('_')[1:] if self.name.startswith('resblock') else []
        self.kind = 'lmepool' if lme else 'resblock' if self.options else self.name
        self.sharpness = float(lme.group(1)) if lme else 1.0
        if self.kind not in SIZES or set(self.options) - {'start', 'end', 'dilated'}:
            self.fail(
                f'there is no layer {self.name!r}; there are {", ".join(k for k in SIZES if k not in ("lmepool", "resblock"))}, lmeApool, resblock[_start][_end][_dilated]'
            )
        try:
            self.sizes = [int(s) for s in sizes.split('x')]
        except ValueError:
            self.fail('sizes must be whole numbers parted by x')
        low, high = SIZES[self.kind]
        if self.kind == 'resblock' and len(self.sizes) == 5:
            self.sizes.append(self.sizes[4])  # one number is the stride in time and in frequency
        if not low <= len(self.sizes) <= high or (high - low == 2 and len(self.sizes) == low + 1):
            self.fail('{} takes {} sizes'.format(self.name, low if low == high else '%d or %d' % (low, high)))
        if self.extra and self.kind != 'groupdrop':
            self.fail(f'{self.extra!r} after the sizes means nothing here')

    def fail(self, message):
        raise Problem(f'{self.where}, layer {self.text}: {message}')


def parse(cfg, side='arch'):
    """The Layers of `arch` or `arch_meta`. Raises Problem for what can't be read."""
    text = str(cfg[side])
    if text == 'ismir2016':
        text = ISMIR2016
    if cfg['arch.nolastfreqpool']:
        text = text.replace('pool:3xShift', 'pool:3x1')
    text = text.replace('Shift', str(cfg['arch.shiftable'])).replace('Full', str(cfg['arch.fullsize']))
    return (
        [
            LayerSpec(part, f'{side}, layer {int(i + 1)} of {int(text.count(",") + 1)}')
            for i, part in enumerate(text.split(','))
        ]
        if text
        else []
    )


class Chain:
    """Grows a list of modules, keeping the size of the maps: channels x bands, frames counted by what they need."""

    def __init__(self, channels, bands=None):
        self.channels, self.bands = channels, bands
        self.steps = []  # (size, stride, padded) along time

    def shape(self):
        return (
            f'{int(self.channels)} values'
            if self.bands is None
            else f'{int(self.channels)} channels x time x {int(self.bands)} bands'
        )

    def window(self, layer, size, stride, fill=False):
        """Account for windows of `size` and `stride` without padding; returns the size in numbers."""
        time, freq = size
        if freq <= 0:
            freq = self.bands + 1 + freq
        if freq < 1 or freq > self.bands:
            layer.fail(f'nothing is left of {self.shape()} by windows of {int(time)}x{int(size[1])}')
        if stride and min(stride) < 1:
            layer.fail('strides must be 1 or more')
        if time <= 0 and not fill:
            layer.fail('needs a fixed length in time: recordings differ in length, and its weights cannot')
        steps = stride or (max(time, 1), freq)
        self.steps.append((max(time, 1 - time), steps[0], False))
        self.bands = (self.bands - freq) // steps[1] + 1
        return time, freq

    def min_frames(self):
        frames = 1
        for size, stride, padded in reversed(self.steps):
            frames = (frames - 1) * stride + (1 if padded else size)
        return frames


def make_layers(parsed, cfg, side, chain, rng):
    """nn.ModuleList of the parsed layers; `chain` is carried on. Raises Problem naming setting, layer and shapes."""
    modules = nn.ModuleList()
    nonlin, batch_norm = cfg[f'{side}.nonlin'], bool(cfg[f'{side}.batch_norm'])
    fulldrop = float(cfg[f'{side}.fulldrop'])
    for i, layer in enumerate(parsed):
        sizes, kind = layer.sizes, layer.kind
        if chain.bands is None and kind not in ('full', 'dense'):
            layer.fail('only full and dense layers can process metadata')
        if (
            kind in ('conv', 'convg1', 'Conv', 'full', 'dense', 'resblock')
            and min(sizes[:2] if kind == 'resblock' else sizes[:1]) < 1
        ):
            layer.fail('a layer needs at least one filter')
        if kind in ('conv', 'convg1', 'Conv'):
            groups = (
                1
                if kind == 'convg1'
                else cfg['arch.dense_groups']
                if kind == 'Conv'
                else cfg['arch.conv_groups']
                if i
                else 1
            )
            dropout = None
            if kind == 'Conv':
                dropout = layers.Dropout(fulldrop)
            elif i and cfg[f'{side}.convdrop'] != 'none':
                dropout = layers.Dropout(cfg['arch.convdrop_rate'], cfg[f'{side}.convdrop'], cfg['arch.conv_groups'])
                if dropout.kind == 'groups' and chain.channels % dropout.groups:
                    layer.fail(
                        f'arch.convdrop=groups: {int(chain.channels)} channels cannot be parted into arch.conv_groups={int(dropout.groups)}'
                    )
            if chain.channels % groups or sizes[0] % groups:
                layer.fail(
                    f'{int(chain.channels)} channels in and {int(sizes[0])} out cannot both be parted into {"arch.dense_groups" if kind == "Conv" else "arch.conv_groups"}={int(groups)}'
                )
            stride = sizes[3:] or (1, 1)
            size = chain.window(layer, sizes[1:3], stride)
            meanfree = not i and side == 'arch' and cfg['arch.firstconv_meanfree'] == 'params'
            modules.append(
                layers.ConvLayer(
                    layers.Convolution(
                        chain.channels,
                        sizes[0],
                        size,
                        rng,
                        stride,
                        groups=groups,
                        bias=not batch_norm,
                        meanfree=meanfree,
                    ),
                    sizes[0],
                    batch_norm,
                    nonlin,
                    dropout,
                )
            )
            chain.channels = sizes[0]
        elif kind in ('full', 'dense'):
            inputs = chain.channels * (chain.bands or 1)
            dropout = layers.Dropout(fulldrop) if i and fulldrop else None
            modules.append(
                layers.ConvLayer(
                    layers.Dense(inputs, sizes[0], rng, bias=not batch_norm), sizes[0], batch_norm, nonlin, dropout
                )
            )
            chain.channels, chain.bands = sizes[0], chain.bands and 1
        elif kind.endswith('pool'):
            stride = sizes[2:] or None
            chain.window(layer, sizes[:2], stride, fill=True)
            modules.append(
                layers.Pool(
                    {'pool': 'max', 'avgpool': 'mean', 'lmepool': 'logmeanexp'}[kind],
                    sizes[:2],
                    stride,
                    layer.sharpness,
                )
            )
            if layer.sharpness <= 0:
                layer.fail('the sharpness must be above 0')
        elif kind == 'groupdrop':
            try:
                rate = float(layer.extra)
            except ValueError:
                rate = -1
            if not 0 <= rate < 1:
                layer.fail('expected groupdrop:GROUPS:RATE with a rate from 0 to below 1')
            if sizes[0] < 1 or chain.channels % sizes[0]:
                layer.fail(f'{int(chain.channels)} channels cannot be parted into {int(sizes[0])} groups')
            modules.append(layers.Dropout(rate, 'groups', sizes[0]))
        else:
            units, filters, size, stride = sizes[0], sizes[1], sizes[2:4], sizes[4:] or [1, 1]
            if min(size) < 1 or min(s % 2 for s in size) == 0:
                layer.fail("padding that keeps the map's size needs odd filter sizes, not %dx%d" % tuple(size))
            if min(stride) < 1:
                layer.fail('strides must be 1 or more')
            modules.append(
                layers.ResidualBlock(
                    units,
                    chain.channels,
                    filters,
                    size,
                    rng,
                    stride,
                    *(o in layer.options for o in ('start', 'end', 'dilated')),
                    shortcut=cfg['resnet.shortcut'],
                    act_bug=bool(cfg['resnet.act_bug']),
                    batch_norm=batch_norm,
                )
            )
            chain.steps.append((size[0], stride[0], True))
            chain.channels, chain.bands = filters, -(-chain.bands // stride[1])
    return modules


class AudioBranch(nn.Module):
    """Spectrogram (batch, frames, bins) -> maps before pooling (batch, classes + attention, time, frequency)."""

    def __init__(self, cfg, classes, attention, rng):
        super().__init__()
        self.front = layers.Frontend(cfg)
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
        self.global_pool = layers.GlobalPool(str(cfg['arch.pool']))
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
        return self.global_pool.streaming()

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


def for_inference(net):
    """The trained network as it predicts fastest: the same interface and scores, for prediction alone."""
    from birdsong.networks import compiled

    return compiled.for_inference(net)
