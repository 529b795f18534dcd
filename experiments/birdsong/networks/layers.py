"""The layers of the 2018 networks as torch modules, with the arithmetic of the original.

Maps are (batch, channels, time, frequency). Modules register their arrays in the order of the original's files. If the
original stores an array in another layout, `to_original` and `from_original` convert it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from birdsong.files import Problem

# batch normalisation
EPSILON = 1e-4
FACTOR = 0.1


def orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A random float32 array with orthonormal rows or columns, seen as a matrix (shape[0], product of the rest).

    The same as lasagne.init.Orthogonal with gain 1 (Saxe et al. 2013, arXiv:1312.6120).
    """
    flat = shape[0], int(np.prod(shape[1:]))
    u, _, v = np.linalg.svd(rng.normal(0.0, 1.0, flat), full_matrices=False)
    return np.ascontiguousarray((u if u.shape == flat else v).reshape(shape), dtype=np.float32)


def full_precision(x: Tensor) -> Tensor:
    """x as float32 if it has less precision, else x."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


# == Nonlinearities and dropout ==

# nonlinearities over the classes, by the values of arch.prepool and arch.output
PREPOOL = {
    'none': lambda x: x,
    'sigmoid': torch.sigmoid,
    'softmax': lambda x: torch.softmax(x, 1),
    'logsoftmax': lambda x: torch.log_softmax(x, 1),
}
OUTPUT = {
    'linear': lambda x: x,
    'sigmoid': torch.sigmoid,
    'softmax': lambda x: torch.softmax(x, 1),
}


def reeu(x: Tensor) -> Tensor:
    """Rectified exponential unit: e^x - 1 for x > 0, otherwise 0."""
    return torch.expm1(F.relu(x))


class Nonlinearity(nn.Module):
    """lrelu (slope 0.01), relu, elu, reeu or linear. lrelu and relu overwrite their input to save memory."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 'lrelu':
            return F.leaky_relu(x, 0.01, inplace=True)
        if self.kind == 'relu':
            return F.relu(x, inplace=True)
        return {'elu': F.elu, 'reeu': reeu, 'linear': lambda x: x}[self.kind](x)

    def extra_repr(self) -> str:
        return self.kind


class Dropout(nn.Module):
    """Dropout with probability `rate`, scaled by 1 / (1 - rate); `kind` says which values are dropped together.

    independent: each value separately; channels: all positions of a channel; bands: all channels and times of a band;
    groups: all positions of each of the `groups` groups of neighbouring channels.
    """

    def __init__(self, rate: float, kind: str = 'independent', groups: int = 1):
        super().__init__()
        self.rate, self.kind, self.groups = float(rate), kind, groups

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        if self.kind == 'independent':
            return F.dropout(x, self.rate)
        shape = {
            'channels': (len(x), x.shape[1], 1, 1),
            'bands': (len(x), 1, 1, x.shape[3]),
            'groups': (len(x), self.groups, 1, 1),
        }[self.kind]
        mask = F.dropout(x.new_ones(shape), self.rate)
        if self.kind == 'groups':
            mask = mask.repeat_interleave(x.shape[1] // self.groups, 1)
        return x * mask

    def extra_repr(self) -> str:
        return f'{self.rate:g}, {self.kind}'


# == Layers with arrays ==


class Convolution(nn.Module):
    """Convolution with weights (filters, channels / groups, time, frequency), and a bias if `bias`.

    The original stores flipped kernels, but for dilated convolutions kernels (channels, filters, time, frequency) that
    are not flipped. With `meanfree`, the mean over time and frequency is subtracted from each kernel.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        size: Sequence[int],
        rng: np.random.Generator,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
        bias: bool = False,
        meanfree: bool = False,
    ):
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = tuple(stride), tuple(padding), tuple(dilation), groups
        self.meanfree, self.dilated = meanfree, tuple(dilation) != (1, 1)
        shape = (filters, channels // groups) + tuple(size)
        initial = orthogonal((shape[1], shape[0]) + shape[2:] if self.dilated else shape, rng)
        self.weight = nn.Parameter(torch.from_numpy(self.from_original('weight', initial)))
        self.bias = nn.Parameter(torch.zeros(filters)) if bias else None

    def kernels(self) -> Tensor:
        """The weights that the convolution uses, which differ from the stored ones if `meanfree`."""
        return self.weight - self.weight.mean((2, 3), keepdim=True) if self.meanfree else self.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernels(), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def to_original(self, name: str, array: np.ndarray) -> np.ndarray:
        if name == 'weight':
            array = array.swapaxes(0, 1) if self.dilated else array[:, :, ::-1, ::-1]
        return array.copy()

    from_original = to_original

    def extra_repr(self) -> str:
        return 'x'.join(map(str, self.weight.shape))


class Dense(nn.Module):
    """Dense layer on vectors (batch, inputs), or on all channels and frequencies of maps at each time step.

    The output is (batch, units), or (batch, units, time, 1) for maps. Weights are (units, inputs); the original stores
    (inputs, units).
    """

    def __init__(self, inputs: int, units: int, rng: np.random.Generator, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(orthogonal((inputs, units), rng).T.copy()))
        self.bias = nn.Parameter(torch.zeros(units)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return F.linear(x, self.weight, self.bias)
        return F.linear(x.transpose(1, 2).flatten(2), self.weight, self.bias).transpose(1, 2)[..., None]

    def to_original(self, name: str, array: np.ndarray) -> np.ndarray:
        return array.T.copy()

    from_original = to_original

    def extra_repr(self) -> str:
        return 'x'.join(map(str, self.weight.shape))


class Bias(nn.Module):
    """Adds a bias per channel; replaces batch normalisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view((-1,) + (1,) * (x.ndim - 2))


class _Normalise(torch.autograd.Function):
    """(normalised x, mean, inverse standard deviation), computed by the kernels of torch.

    On the CPU, the kernels for channels-last maps are accurate to three digits only, and the gradient is wrong if x and
    the gradient of the output differ in memory layout. So both are converted to the same layout first.
    """

    @staticmethod
    def _layout(x: Tensor) -> torch.memory_format:
        if x.device.type != 'cpu' and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        return torch.contiguous_format

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=_Normalise._layout(x))
        y, mean, inv_std = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, EPSILON)
        ctx.save_for_backward(x, gamma, mean, inv_std)
        ctx.mark_non_differentiable(mean, inv_std)
        return y, mean, inv_std

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        x, gamma, mean, inv_std = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=_Normalise._layout(x))
        return torch.ops.aten.native_batch_norm_backward(
            gradient, x, gamma, None, None, mean, inv_std, True, EPSILON, list(ctx.needs_input_grad)
        )


def synchronised_norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, group: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch normalisation of axis 1, where the processes of `group` (True: the default one) have parts of the batch.

    Returns the normalised x, mean, inverse standard deviation (both per channel), and the number of values per channel.
    """
    from torch.distributed.nn.functional import all_reduce

    group = dist.group.WORLD if group is True else group
    dtype, full = x.dtype, full_precision(x)
    axes = [0] + list(range(2, x.ndim))
    shape = [1, -1] + [1] * (x.ndim - 2)
    # Two passes, because E[x^2] - E[x]^2 would lose precision by cancellation.
    count = full.new_full((1,), full.numel() // full.shape[1])
    total = all_reduce(torch.cat([full.sum(axes), count]), group=group)
    mean = total[:-1] / total[-1]
    full = full - mean.view(shape)
    inv_std = torch.rsqrt(all_reduce(full.square().sum(axes), group=group) / total[-1] + epsilon)
    full = full * inv_std.view(shape)
    if gamma is not None:
        full = full * gamma.view(shape) + beta.view(shape)
    return full.to(dtype), mean.detach(), inv_std.detach(), total[-1].detach()


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) of axis 1 over all other axes.

    As in Lasagne, there are running averages of the mean and the *inverse standard deviation* (not the variance), with
    factor 0.1, epsilon 1e-4 and the biased variance.
    `group`: None, or a process group (True: the default one) whose batches are normalised together.
    """

    def __init__(self, channels: int, affine: bool = True):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(channels)) if affine else None
        self.gamma = nn.Parameter(torch.ones(channels)) if affine else None
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('inv_std', torch.ones(channels))
        self.group = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.mean, self.inv_std**-2, self.gamma, self.beta, False, 0.0, 0.0)
        if self.group is not None:
            x, mean, inv_std, _ = synchronised_norm(x, self.gamma, self.beta, EPSILON, self.group)
        else:
            x, mean, inv_std = _Normalise.apply(x, self.gamma, self.beta)
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean.dtype), FACTOR)
            self.inv_std.lerp_(inv_std.to(self.inv_std.dtype), FACTOR)
        return x

    def folded(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) of each channel, which are equivalent to the layer in prediction."""
        scale = self.inv_std if self.gamma is None else self.gamma * self.inv_std
        shift = -self.mean * scale
        return scale, shift if self.beta is None else self.beta + shift

    def extra_repr(self) -> str:
        return str(len(self.mean))


class Standardise(BatchNorm):
    """Batch normalisation of each frequency band over batch and time, without scale and shift; (batch, time, bands)."""

    def __init__(self, bands: int):
        super().__init__(bands, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, bands, time, 1) is a map in channels-last order, so nothing is copied
        return super().forward(x[:, None].permute(0, 3, 2, 1)).permute(0, 3, 2, 1)[:, 0]

    def to_original(self, name: str, array: np.ndarray) -> np.ndarray:
        return array[None]

    def from_original(self, name: str, array: np.ndarray) -> np.ndarray:
        return array[0] if array.ndim == 2 and len(array) == 1 else array


# == Pooling within maps ==


def windows(x: Tensor, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int] = (1, 1)) -> Tensor:
    """The windows of maps as a view: (batch, channels, time, frequency, *size)."""
    for axis in (0, 1):
        x = x.unfold(2 + axis, (size[axis] - 1) * dilation[axis] + 1, stride[axis])[..., :: dilation[axis]]
    return x


def pool(
    x: Tensor,
    kind: str,
    size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    sharpness: float = 1.0,
) -> Tensor:
    """The maximum, mean or log-mean-exp (`kind`: max, mean, logmeanexp) of each complete window of maps."""
    if kind == 'max':
        return F.max_pool2d(x, size, stride, 0, dilation)
    if kind == 'mean' and tuple(dilation) == (1, 1):
        return F.avg_pool2d(x, size, stride)
    x = windows(x, size, stride, dilation)
    if kind == 'mean':
        return x.mean((-2, -1))
    return (torch.logsumexp(x * sharpness, (-2, -1)) - math.log(size[0] * size[1])) / sharpness


class Pool(nn.Module):
    """`pool` as a module. A negative size is relative to the map: -1 means all positions, -2 all but one.

    stride: by default, the size. Raises Problem for maps smaller than the window.
    """

    def __init__(self, kind: str, size: Sequence[int], stride: Sequence[int] | None = None, sharpness: float = 1.0):
        super().__init__()
        self.kind, self.size, self.stride, self.sharpness = kind, tuple(size), stride and tuple(stride), sharpness

    def forward(self, x: Tensor) -> Tensor:
        size = [s if s > 0 else x.shape[2 + i] + 1 + s for i, s in enumerate(self.size)]
        if min(size) < 1:
            wanted = 'x'.join(map(str, self.size))
            raise Problem(
                f'pooling over {wanted}: the map has only {x.shape[2]} x {x.shape[3]} positions; use longer excerpts'
            )
        return pool(x, self.kind, size, self.stride or size, sharpness=self.sharpness)

    def extra_repr(self) -> str:
        return f'{self.kind}, {"x".join(map(str, self.size))}'


class ConvLayer(nn.Module):
    """[dropout], convolution or dense layer, batch normalisation or bias, nonlinearity."""

    def __init__(self, linear: nn.Module, units: int, batch_norm: bool, nonlin: str, dropout: Dropout | None = None):
        super().__init__()
        self.dropout = dropout
        self.linear = linear
        self.norm = BatchNorm(units) if batch_norm else None
        self.nonlin = Nonlinearity(nonlin)

    def forward(self, x: Tensor) -> Tensor:
        if self.dropout is not None:
            x = self.dropout(x)
        x = self.linear(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.nonlin(x)
