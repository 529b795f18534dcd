"""Residual units and blocks of the 2018 networks, with the arithmetic of the original. Maps: see layers.py."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from birdsong.networks.layers import BatchNorm, Bias, Convolution, Nonlinearity


class Activation(nn.Module):
    """Batch normalisation (or a bias) and relu, as in residual units."""

    def __init__(self, channels: int, batch_norm: bool):
        super().__init__()
        self.norm = BatchNorm(channels) if batch_norm else Bias(channels)
        self.nonlin = Nonlinearity('relu')

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlin(self.norm(x))


class ResidualUnit(nn.Module):
    """Pre-activation residual unit (He et al. 2016, arXiv:1603.05027) with 'same' padding.

    The first convolution has the stride; the second has dilation 2 if `dilated`. `leading`: with an activation before
    the first convolution. If the number of channels or the resolution changes, `shortcut` defines how the input is
    added: project: after a 1x1 convolution with bias (always, if the number of channels decreases); pool: its mean over
    windows of the stride, to the first channels; slice: the positions that the stride keeps, to the first channels.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        size: Sequence[int],
        rng: np.random.Generator,
        stride: Sequence[int] = (1, 1),
        leading: bool = True,
        dilated: bool = False,
        shortcut: str = 'project',
        batch_norm: bool = True,
    ):
        super().__init__()
        same = [s // 2 for s in size]
        self.stride = tuple(stride)
        self.leading = Activation(channels, batch_norm) if leading else None
        self.conv1 = Convolution(channels, filters, size, rng, self.stride, same)
        self.inner = Activation(filters, batch_norm)
        dilation = 2 if dilated else 1
        self.conv2 = Convolution(
            filters, filters, size, rng, (1, 1), [dilation * s for s in same], (dilation, dilation)
        )
        self.widen = filters - channels
        changes = self.widen or self.stride != (1, 1)
        self.kind = shortcut if changes and self.widen >= 0 else 'project' if changes else 'identity'
        self.shortcut = (
            Convolution(channels, filters, (1, 1), rng, self.stride, bias=True) if self.kind == 'project' else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.leading is None else self.leading(x)
        y = self.conv2(self.inner(self.conv1(y)))
        return self.add(x, y)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """y plus the shortcut of x."""
        if self.shortcut is not None:
            return y + self.shortcut(x)
        if self.kind == 'pool' and self.stride != (1, 1):
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        elif self.stride != (1, 1):
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
        return y + (F.pad(x, (0, 0, 0, 0, 0, self.widen)) if self.widen else x)


class ResidualBlock(nn.Module):
    """`units` residual units of `filters` channels; only the first one has the stride.

    start: no leading activation in the first unit; end: an activation after the last one; act_bug: no leading
    activation in the other units, as in models of 2018; dilated, shortcut: see ResidualUnit.
    """

    def __init__(
        self,
        units: int,
        channels: int,
        filters: int,
        size: Sequence[int],
        rng: np.random.Generator,
        stride: Sequence[int] = (1, 1),
        start: bool = False,
        end: bool = False,
        dilated: bool = False,
        shortcut: str = 'project',
        act_bug: bool = False,
        batch_norm: bool = True,
    ):
        super().__init__()
        self.units = nn.ModuleList(
            ResidualUnit(
                filters if u else channels,
                filters,
                size,
                rng,
                (1, 1) if u else stride,
                leading=not act_bug if u else not start,
                dilated=dilated,
                shortcut=shortcut,
                batch_norm=batch_norm,
            )
            for u in range(units)
        )
        self.end = Activation(filters, batch_norm) if end else None

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = unit(x)
        return x if self.end is None else self.end(x)
