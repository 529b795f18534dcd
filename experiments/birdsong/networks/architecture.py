"""Architecture strings, as in the settings `arch` and `arch_meta`, and the layers that they describe.

A string lists layers separated by commas. Parts in brackets are optional.

conv:FILTERSxTIMExBANDS[xSTRIDExSTRIDE]     convolution of TIME x BANDS, batch normalisation or bias, nonlinearity
convg1:...                                  the same, never in groups (see arch.conv_groups)
Conv:...                                    the same, with arch.fulldrop before it, in arch.dense_groups groups
full:UNITS, dense:UNITS                     dense layer at each position in time, or on metadata
pool:TIMExBANDS[xSTRIDExSTRIDE]             maximum of windows; by default, the stride is the size
avgpool:...                                 mean of windows
lmeApool:TIMExBANDS                         log-mean-exp of windows, with sharpness A
groupdrop:GROUPS:RATE                       dropout of groups of channels
resblock[_start][_end][_dilated]:UNITSxFILTERSxTIMExBANDS[xSTRIDE[xSTRIDE]]     see residual.ResidualBlock

timm:NAME, as the whole of `arch`, is a network of timm (backbone.py).

A negative size of BANDS is relative to the map: -1 means all bands, -2 all but one. In pooling, so is one of TIME.
"""

import math
import re
from typing import Any, NamedTuple, NoReturn

import numpy as np
from torch import nn

from birdsong.files import Problem
from birdsong.networks import layers, residual

ISMIR2016 = (
    'conv:32x3x3,conv:32x3x3,pool:3x3,conv:32x3x3,conv:32x3x3,conv:64x3x-Shift,pool:3xShift,'
    'Conv:Fullx9x-1,Conv:Fullx1x1'
)
# numbers of sizes that each kind of layer takes
SIZES = {
    'conv': (3, 5),
    'convg1': (3, 5),
    'Conv': (3, 5),
    'pool': (2, 4),
    'avgpool': (2, 4),
    'lmepool': (2,),
    'groupdrop': (1,),
    'resblock': (4, 6),
    'full': (1,),
    'dense': (1,),
}
RESBLOCK_OPTIONS = ('start', 'end', 'dilated')
POOLS = {'pool': 'max', 'avgpool': 'mean', 'lmepool': 'logmeanexp'}


class LayerSpec:
    """One layer of an architecture string.

    `kind` is a key of SIZES, `sizes` a list of integers. `options` are those of a resblock, `sharpness` is that of an
    lmepool, `extra` is the text after the sizes. `where` is the position of the layer, for error messages.
    """

    def __init__(self, text: str, where: str):
        self.text, self.where = text, where
        self.name, _, rest = text.partition(':')
        sizes, _, self.extra = rest.partition(':')
        lme = re.fullmatch(r'lme([0-9.]+(?:e[-+]?[0-9]+)?)pool', self.name)
        self.options = self.name.split('_')[1:] if self.name.startswith('resblock') else []
        self.kind = 'lmepool' if lme else 'resblock' if self.options else self.name
        self.sharpness = float(lme.group(1)) if lme else 1.0
        if self.kind == 'timm':
            self.fail('timm:NAME must be the whole value of arch')
        if self.kind not in SIZES or not set(self.options) <= set(RESBLOCK_OPTIONS):
            kinds = ', '.join(kind for kind in SIZES if kind not in ('lmepool', 'resblock'))
            self.fail(f'there is no layer {self.name!r}; known: {kinds}, lmeApool, resblock[_start][_end][_dilated]')
        try:
            self.sizes = [int(s) for s in sizes.split('x')]
        except ValueError:
            self.fail('sizes must be whole numbers separated by x')
        if self.kind == 'resblock' and len(self.sizes) == 5:
            self.sizes.append(self.sizes[4])  # one number is the stride in time and in frequency
        if len(self.sizes) not in SIZES[self.kind]:
            self.fail(f'{self.name} takes {" or ".join(map(str, SIZES[self.kind]))} sizes')
        if self.extra and self.kind != 'groupdrop':
            self.fail(f'unexpected {self.extra!r} after the sizes')

    def fail(self, message: str) -> NoReturn:
        """Raise Problem with the name of the layer in the message."""
        raise Problem(f'{self.where}, layer {self.text}: {message}')


def parse(cfg: dict[str, Any], branch: str = 'arch') -> list[LayerSpec]:
    """The layers of `arch` or `arch_meta`. Raises Problem for a string that is not valid."""
    text = str(cfg[branch])
    if text == 'ismir2016':
        text = ISMIR2016
    if cfg['arch.nolastfreqpool']:
        text = text.replace('pool:3xShift', 'pool:3x1')
    text = text.replace('Shift', str(cfg['arch.shiftable'])).replace('Full', str(cfg['arch.fullsize']))
    parts = text.split(',') if text else []
    return [LayerSpec(part, f'{branch}, layer {i} of {len(parts)}') for i, part in enumerate(parts, 1)]


class TimeStep(NamedTuple):
    """How a layer changes the length in time: one output every `stride` inputs, for each complete window of `size`, or
    if `padded`, also for incomplete windows.
    """

    size: int
    stride: int
    padded: bool


class Chain:
    """Size of the maps after each layer: `channels`, frequency `bands` (None for metadata), and `steps` in time."""

    def __init__(self, channels: int, bands: int | None = None):
        self.channels, self.bands = channels, bands
        self.steps: list[TimeStep] = []

    def __str__(self) -> str:
        if self.bands is None:
            return f'{self.channels} values'
        return f'{self.channels} channels x time x {self.bands} bands'

    def add_windows(
        self, spec: LayerSpec, size: list[int], stride: list[int], any_time: bool = False
    ) -> tuple[int, int]:
        """Account for a layer with windows of `size` (time, frequency) without padding; returns their size.

        A size in time of 0 or less is an error unless `any_time`. stride: empty if it is equal to the size.
        """
        time, bands = size
        if bands <= 0:
            bands = self.bands + 1 + bands
        if bands < 1 or bands > self.bands:
            spec.fail(f'windows of {time}x{size[1]} do not fit {self}')
        if stride and min(stride) < 1:
            spec.fail('strides must be 1 or more')
        if time <= 0 and not any_time:
            spec.fail('needs a fixed size in time, because the lengths of recordings differ')
        stride = stride or (max(time, 1), bands)
        self.steps.append(TimeStep(max(time, 1 - time), stride[0], False))
        self.bands = (self.bands - bands) // stride[1] + 1
        return time, bands

    def min_frames(self) -> int:
        """Frames of the shortest excerpt for which the last maps are not empty."""
        frames = 1
        for size, stride, padded in reversed(self.steps):
            frames = (frames - 1) * stride + (1 if padded else size)
        return frames

    def frame_step(self) -> int:
        """Frames between two positions of the last maps."""
        return math.prod(step.stride for step in self.steps)

    def positions(self, frames: int) -> int:
        """Positions in time of the last maps, for an excerpt of `frames` frames."""
        for size, stride, padded in self.steps:
            frames = -(-frames // stride) if padded else (frames - size) // stride + 1
        return frames

    def first_middle(self) -> float:
        """The middle frame of the receptive field of the first position of the last maps."""
        middle, distance = 0.0, 1
        for size, stride, padded in self.steps:
            middle, distance = middle + (0 if padded else (size - 1) / 2 * distance), distance * stride
        return middle

    @property
    def context(self) -> int:
        """Frames before and after a part of an excerpt that are needed to inspect it."""
        return self.min_frames() + self.frame_step()


class LayerMaker:
    """Makes the modules of one branch (`arch` or `arch_meta`) in order, and updates `chain`."""

    def __init__(self, cfg: dict[str, Any], branch: str, chain: Chain, rng: np.random.Generator):
        self.cfg, self.branch, self.chain, self.rng = cfg, branch, chain, rng
        self.nonlin, self.batch_norm = cfg[f'{branch}.nonlin'], bool(cfg[f'{branch}.batch_norm'])
        self.fulldrop = float(cfg[f'{branch}.fulldrop'])

    def make(self, spec: LayerSpec, first: bool) -> nn.Module:
        """The module for a layer. first: whether it is the first one of the branch."""
        if spec.kind in ('full', 'dense'):
            return self.dense(spec, first)
        if self.chain.bands is None:
            spec.fail('only full and dense layers can process metadata')
        if spec.kind in POOLS:
            return self.pool(spec)
        if spec.kind == 'groupdrop':
            return self.group_dropout(spec)
        if spec.kind == 'resblock':
            return self.residual_block(spec)
        return self.convolution(spec, first)

    def convolution(self, spec: LayerSpec, first: bool) -> nn.Module:
        """conv, convg1 or Conv."""
        filters, chain = spec.sizes[0], self.chain
        self._check_filters(spec, filters)
        setting = 'arch.dense_groups' if spec.kind == 'Conv' else 'arch.conv_groups'
        groups = 1 if spec.kind == 'convg1' or (spec.kind == 'conv' and first) else self.cfg[setting]
        dropout = self._dropout_before_convolution(spec, first)
        if chain.channels % groups or filters % groups:
            spec.fail(f'{chain.channels} channels in and {filters} out cannot both be divided into {setting}={groups}')
        stride = spec.sizes[3:] or (1, 1)
        size = chain.add_windows(spec, spec.sizes[1:3], stride)
        meanfree = first and self.branch == 'arch' and self.cfg['arch.firstconv_meanfree'] == 'params'
        convolution = layers.Convolution(
            chain.channels,
            filters,
            size,
            self.rng,
            stride,
            groups=groups,
            bias=not self.batch_norm,
            meanfree=meanfree,
        )
        chain.channels = filters
        return layers.ConvLayer(convolution, filters, self.batch_norm, self.nonlin, dropout)

    def _dropout_before_convolution(self, spec: LayerSpec, first: bool) -> layers.Dropout | None:
        if spec.kind == 'Conv':
            return layers.Dropout(self.fulldrop)
        kind, groups = self.cfg[f'{self.branch}.convdrop'], self.cfg['arch.conv_groups']
        if first or kind == 'none':
            return None
        if kind == 'groups' and self.chain.channels % groups:
            spec.fail(
                f'arch.convdrop=groups: {self.chain.channels} channels cannot be divided into arch.conv_groups={groups}'
            )
        return layers.Dropout(self.cfg['arch.convdrop_rate'], kind, groups)

    def dense(self, spec: LayerSpec, first: bool) -> nn.Module:
        """full or dense."""
        units, chain = spec.sizes[0], self.chain
        self._check_filters(spec, units)
        dropout = layers.Dropout(self.fulldrop) if self.fulldrop and not first else None
        dense = layers.Dense(chain.channels * (chain.bands or 1), units, self.rng, bias=not self.batch_norm)
        chain.channels, chain.bands = units, chain.bands and 1
        return layers.ConvLayer(dense, units, self.batch_norm, self.nonlin, dropout)

    def pool(self, spec: LayerSpec) -> nn.Module:
        """pool, avgpool or lmeApool."""
        size, stride = spec.sizes[:2], spec.sizes[2:]
        self.chain.add_windows(spec, size, stride, any_time=True)
        if spec.sharpness <= 0:
            spec.fail('the sharpness must be above 0')
        return layers.Pool(POOLS[spec.kind], size, stride, spec.sharpness)

    def group_dropout(self, spec: LayerSpec) -> nn.Module:
        """groupdrop."""
        groups = spec.sizes[0]
        try:
            rate = float(spec.extra)
        except ValueError:
            rate = -1
        if not 0 <= rate < 1:
            spec.fail('expected groupdrop:GROUPS:RATE with a rate from 0 to below 1')
        if groups < 1 or self.chain.channels % groups:
            spec.fail(f'{self.chain.channels} channels cannot be divided into {groups} groups')
        return layers.Dropout(rate, 'groups', groups)

    def residual_block(self, spec: LayerSpec) -> nn.Module:
        """resblock with its options."""
        units, filters, *size = spec.sizes[:4]
        stride = spec.sizes[4:] or [1, 1]
        self._check_filters(spec, min(units, filters))
        if min(size) < 1 or min(s % 2 for s in size) == 0:
            spec.fail(f"padding that keeps the map's size needs odd filter sizes, not {size[0]}x{size[1]}")
        if min(stride) < 1:
            spec.fail('strides must be 1 or more')
        block = residual.ResidualBlock(
            units,
            self.chain.channels,
            filters,
            size,
            self.rng,
            stride,
            *(option in spec.options for option in RESBLOCK_OPTIONS),
            shortcut=self.cfg['resnet.shortcut'],
            act_bug=bool(self.cfg['resnet.act_bug']),
            batch_norm=self.batch_norm,
        )
        self.chain.steps.append(TimeStep(size[0], stride[0], True))
        self.chain.channels, self.chain.bands = filters, -(-self.chain.bands // stride[1])
        return block

    @staticmethod
    def _check_filters(spec: LayerSpec, filters: int) -> None:
        if filters < 1:
            spec.fail('a layer needs at least one filter')


def make_layers(
    specs: list[LayerSpec], cfg: dict[str, Any], branch: str, chain: Chain, rng: np.random.Generator
) -> nn.ModuleList:
    """The modules of a branch (`arch` or `arch_meta`), with random initial weights.

    chain: size of the input; changed to that of the output. Raises Problem, naming setting, layer and shapes.
    """
    maker = LayerMaker(cfg, branch, chain, rng)
    return nn.ModuleList([maker.make(spec, not i) for i, spec in enumerate(specs)])
