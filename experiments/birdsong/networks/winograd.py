"""Fast convolutions for prediction on a CPU: a minimal filtering algorithm on top of private operators of PyTorch.

Algorithm: F(4, 3) of Lavin & Gray 2015, arXiv:1509.09308, along time. It computes four frames of the output of a
convolution over three frames with six products of transformed input and transformed weights, instead of twelve. The
products are convolutions over one frame. Rounding errors are a few times those of a direct convolution.

Speed: the compiled network is 2.3 times as fast as eager PyTorch with this module, and 1.35 times without it (the
published network, one thread; tests/benchmarks/bench_predict.py). The factors of the residual network are 1.9 and 1.6.

Private operators: torch.ops.mkldnn._reorder_convolution_weight stores weights in the order that is fastest for oneDNN,
and _convolution_pointwise convolves with such weights and applies a nonlinearity while it writes the result. If a
version of PyTorch does not have them, or if they fail or give wrong results for a small convolution (`operators_work`),
torch.nn.functional.conv2d is used instead, which is slower. The results differ only by rounding.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from birdsong.networks.operations import ACTIVATIONS, Conv

# frames of output that are computed from six products
TILE = 4
# number of channels and filters from which the fast algorithm is faster
MIN_CHANNELS = 32
# arguments of _convolution_pointwise for the nonlinearities that it supports
FUSED = {'linear': ('none', [], ''), 'lrelu': ('leaky_relu', [0.01], ''), 'relu': ('relu', [], '')}
OPERATORS = torch.ops.mkldnn


@functools.cache
def operators_work() -> bool:
    """Whether this version of PyTorch has the private operators, and their results equal those of F.conv2d."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((4, 2, 2, 3), (4,), (1, 2, 5, 6)))
    weight = weight.contiguous(memory_format=torch.channels_last)
    try:
        for activation in FUSED:
            op = Conv(weight, bias, stride=(1, 2), padding=(0, 1), dilation=(2, 1))
            expected, found = (PaddedConvolution(op, packed)(x, activation) for packed in (False, True))
            if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
                return False
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


class PaddedConvolution:
    """Convolution of maps that are already padded along time, and a nonlinearity.

    packed: use the private operators, for maps in float32 on the CPU.
    """

    def __init__(self, op: Conv, packed: bool):
        self.arguments = op.stride, (0, op.padding[1]), op.dilation, op.groups
        # In one thread, the private operator writes out of bounds if a step is longer than the filters.
        packed = packed and all(step <= size for step, size in zip(op.stride, op.weight.shape[2:], strict=True))
        self.packed, self.bias = packed, op.bias
        self.weight = op.weight.contiguous(memory_format=torch.channels_last)
        if packed:
            stride, padding, dilation, groups = self.arguments
            self.weight = OPERATORS._reorder_convolution_weight(self.weight, padding, stride, dilation, groups)

    def __call__(self, x: Tensor, activation: str = 'linear') -> Tensor:
        stride, padding, dilation, groups = self.arguments
        if not self.packed or x.dtype != torch.float32:
            return ACTIVATIONS[activation](F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups))
        fused = activation if activation in FUSED else 'linear'
        y = OPERATORS._convolution_pointwise(
            x, self.weight, self.bias, padding, stride, dilation, groups, *FUSED[fused]
        )
        return y if fused == activation else ACTIVATIONS[activation](y)


def pays(op: Conv) -> bool:
    """Whether FastConvolution supports a convolution and is faster on a CPU than PaddedConvolution."""
    return op.weight.shape[2] == 3 and op.stride[0] == 1 and min(op.weight.shape[:2]) >= MIN_CHANNELS


class FastConvolution:
    """Convolution over three frames by F(4, 3), and a nonlinearity, for one recording at a time.

    The number of output frames must be a multiple of `unit`.
    """

    def __init__(self, op: Conv, packed: bool):
        self.dilation, self.activation = op.dilation[0], op.activation
        self.unit = TILE * self.dilation
        bands = (1, op.dilation[1])
        # The second product is added to each frame of output, with a factor of 1, so it includes the bias.
        self.products = [
            PaddedConvolution(Conv(weight, bias, op.groups, 'linear', op.stride, op.padding, bands), packed)
            for weight, bias in zip(_transformed(op.weight), [None, op.bias, None, None, None, None], strict=True)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Maps (1, channels, frames + 2 * dilation, bands) -> (1, filters, frames, bands)."""
        x = x.permute(0, 2, 3, 1)
        tiles = (x.shape[1] - 2 * self.dilation) // self.unit
        shape = (1, tiles * self.dilation) + x.shape[2:]
        products = [
            multiply(part.view(shape).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            for multiply, part in zip(self.products, self._split(x, tiles), strict=True)
        ]
        y0, y1, y2, y3, y4, y5 = (y.view((tiles, self.dilation) + y.shape[2:]) for y in products)
        out = y0.new_empty((tiles, TILE, self.dilation) + y0.shape[2:])
        near, near2 = y1 + y2, y1.sub_(y2)
        far, far2 = y3 + y4, y3.sub_(y4)
        torch.add(y0.add_(near), far, out=out[:, 0])
        torch.add(near2, far2, alpha=2, out=out[:, 1])
        torch.add(near, far, alpha=4, out=out[:, 2])
        torch.add(y5.add_(near2), far2, alpha=8, out=out[:, 3])
        return ACTIVATIONS[self.activation](out).view((1, -1) + out.shape[3:]).permute(0, 3, 1, 2)

    def _split(self, x: Tensor, tiles: int) -> list[Tensor]:
        """The six transformed inputs (tiles, dilation, bands, channels) of maps (1, frames, bands, channels)."""
        row = x.stride(1)
        size, strides = (tiles, self.dilation) + x.shape[2:], (self.unit * row, row) + x.stride()[2:]
        x0, x1, x2, x3, x4, x5 = (
            x.as_strided(size, strides, x.storage_offset() + i * self.dilation * row) for i in range(6)
        )
        even, odd = torch.sub(x4, x2, alpha=4), torch.sub(x3, x1, alpha=4)
        even2, odd2 = x4 - x2, (x3 - x1).mul_(2)
        return [
            torch.sub(x0, x2).mul_(4).add_(even2),
            even + odd,
            even.sub_(odd),
            even2 + odd2,
            even2.sub_(odd2),
            torch.sub(x5, x3).sub_(odd2, alpha=2),
        ]


def _transformed(weight: Tensor) -> list[Tensor]:
    """The six kernels of one frame for kernels of three frames."""
    transform = weight.new_tensor(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    )
    return list(torch.einsum('it,fctb->ifcb', transform, weight)[:, :, :, None].unbind())
