"""Architecture strings (`arch`, `arch_meta`) and the layers that they describe."""

import re

from torch import nn

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
                        f'arch.convdrop=groups: {int(chain.channels)} channels cannot be divided into arch.conv_groups={int(dropout.groups)}'
                    )
            if chain.channels % groups or sizes[0] % groups:
                layer.fail(
                    f'{int(chain.channels)} channels in and {int(sizes[0])} out cannot both be divided into {"arch.dense_groups" if kind == "Conv" else "arch.conv_groups"}={int(groups)}'
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
                layer.fail(f'{int(chain.channels)} channels cannot be divided into {int(sizes[0])} groups')
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
