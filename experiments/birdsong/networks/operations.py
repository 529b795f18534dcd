"""The operations of a compiled network: plain descriptions of arithmetic, without training or state.

compiler.py turns a trained network into a list of operations, compiled.py runs them, and fcn.py stores them in files.
The fields of the classes, their order and `kind` are part of that file format: do not change them.

Maps are (batch, channels, time, frequency). Pairs of numbers are for (time, frequency).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birdsong.networks import layers

# nonlinearities; they may overwrite their input
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'linear': lambda x: x,
    'lrelu': lambda x: F.leaky_relu_(x, 0.01),
    'relu': F.relu_,
    'elu': F.elu_,
    'reeu': layers.reeu,
}


class Operation:
    """Base class. Operations that process each frame separately have a method `apply`, from maps to maps."""

    kind: ClassVar[str]  # its name in files

    def bands_out(self, bands: int) -> int:
        """Number of frequency bands of the output for an input of `bands` bands."""
        return bands

    def padding_reach(self) -> int:
        """Frames at each end of the output that depend on padding, if compiled with dense=True (compile_network)."""
        return 0

    def to(self, device: torch.device) -> 'Operation':
        """A copy with its tensors on the device, in float32."""
        tensors = {k: v for k, v in vars(self).items() if torch.is_tensor(v)}
        moved = {k: v.detach().to(device, torch.float32).contiguous() for k, v in tensors.items()}
        return dataclasses.replace(self, **moved)


# == The input stage: spectrograms (batch, frames, bins or bands) ==


@dataclasses.dataclass
class Matrix(Operation):
    """Product with a filterbank."""

    matrix: Tensor  # (bins, bands)
    kind = 'matrix'

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.matrix


@dataclasses.dataclass
class Log(Operation):
    """log(max(1e-7, x))."""

    kind = 'log'

    def apply(self, x: Tensor) -> Tensor:
        return torch.log(x.clamp_min(1e-7))


@dataclasses.dataclass
class Log1p(Operation):
    """log(1 + scale * x)."""

    scale: Tensor | None = None  # (), or None for 1
    kind = 'log1p'

    def apply(self, x: Tensor) -> Tensor:
        return torch.log1p(x if self.scale is None else x * self.scale)


@dataclasses.dataclass
class Power(Operation):
    """x ** exponent."""

    exponent: Tensor  # ()
    kind = 'power'

    def apply(self, x: Tensor) -> Tensor:
        return x**self.exponent


@dataclasses.dataclass
class Pcen(Operation):
    """Per-channel energy normalisation. The fields are the parameters of frontend.PCEN, (bands,) each."""

    log_s: Tensor
    log_alpha: Tensor
    log_delta: Tensor
    log_r: Tensor
    kind = 'pcen'


@dataclasses.dataclass
class Centre(Operation):
    """Subtracts the mean over time from each frequency band. Needs complete excerpts."""

    kind = ''  # not stored in files


@dataclasses.dataclass
class Standardise(Operation):
    """scale * x + shift for each frequency band."""

    scale: Tensor  # (bands,)
    shift: Tensor  # (bands,)
    kind = 'standardise'

    def apply(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


@dataclasses.dataclass
class Frontend(Operation):
    """The complete input stage: (batch, frames, bins) -> (batch, 1, frames, bands), always in float32."""

    main: list[Operation]
    bands: int
    kind = 'front'

    def bands_out(self, bands: int) -> int:
        return self.bands


# == Maps ==


@dataclasses.dataclass
class Conv(Operation):
    """Convolution, bias, and a nonlinearity; also used for dense layers."""

    weight: Tensor  # (filters, channels / groups, time, frequency)
    bias: Tensor | None  # (filters,)
    groups: int = 1
    activation: str = 'linear'  # a key of ACTIVATIONS
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)  # zeros at both ends
    dilation: tuple[int, int] = (1, 1)
    kind = 'conv'

    @property
    def span(self) -> int:
        """Frames of input that one frame of output depends on."""
        return (self.weight.shape[2] - 1) * self.dilation[0] + 1

    def bands_out(self, bands: int) -> int:
        size = (self.weight.shape[3] - 1) * self.dilation[1] + 1
        return (bands + 2 * self.padding[1] - size) // self.stride[1] + 1

    def padding_reach(self) -> int:
        return self.padding[0]


@dataclasses.dataclass
class Pool(Operation):
    """Pooling of windows, and a nonlinearity. Incomplete windows are dropped."""

    how: str  # max, mean or logmeanexp
    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: int  # along time
    sharpness: float  # of logmeanexp
    activation: str = 'linear'
    kind = 'pool'

    @property
    def span(self) -> int:
        """Frames of input that one frame of output depends on."""
        return (self.size[0] - 1) * self.dilation + 1

    def bands_out(self, bands: int) -> int:
        return (bands - self.size[1]) // self.stride[1] + 1

    def apply(self, x: Tensor) -> Tensor:
        """Maps of at least `span` frames -> pooled maps."""
        activation = ACTIVATIONS[self.activation]
        if self.how != 'max':
            return activation(layers.pool(x, self.how, self.size, self.stride, (self.dilation, 1), self.sharpness))
        # faster than max_pool2d, which also stores the position of each maximum
        for axis, dilation in ((2, self.dilation), (3, 1)):
            size, stride = self.size[axis - 2], self.stride[axis - 2]
            count = (x.shape[axis] - (size - 1) * dilation - 1) // stride + 1
            best = None
            for i in range(size):
                part = x.narrow(axis, i * dilation, (count - 1) * stride + 1)
                part = part[:, :, ::stride] if axis == 2 else part[..., ::stride]
                best = part if best is None else torch.maximum(best, part)
            x = best
        return activation(x.clone() if size == 1 else x)


@dataclasses.dataclass
class PoolTime(Operation):
    """Pooling over all frames. Needs complete excerpts."""

    how: str  # max, mean or logmeanexp
    sharpness: float  # of logmeanexp
    kind = ''  # not stored in files


@dataclasses.dataclass
class Affine(Operation):
    """scale * x + shift for each channel, and a nonlinearity."""

    scale: Tensor  # (channels,)
    shift: Tensor  # (channels,)
    activation: str
    kind = 'affine'

    def apply(self, x: Tensor) -> Tensor:
        scale, shift = (v.view(1, -1, 1, 1) for v in (self.scale, self.shift))
        return ACTIVATIONS[self.activation](torch.addcmul(shift, x, scale).to(x.dtype))


@dataclasses.dataclass
class Thin(Operation):
    """Lower resolution for the shortcut of a residual unit: single frames and bands, or means of windows.

    Incomplete windows at the end of a recording or at the last band are averages of the existing values.
    """

    mean: bool
    size: tuple[int, int]
    step: int  # frames between outputs
    dilation: int  # along time, within windows
    kind = 'thin'

    def padding_reach(self) -> int:
        return (self.size[0] - 1) * self.dilation if self.mean else 0


@dataclasses.dataclass
class Widen(Operation):
    """Adds `channels` channels of zeros."""

    channels: int
    kind = 'widen'

    def apply(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.channels))


@dataclasses.dataclass
class Residual(Operation):
    """The sum of two sequences of operations on the same input."""

    main: list[Operation]
    short: list[Operation]
    kind = 'residual'

    def bands_out(self, bands: int) -> int:
        return bands_out(self.main, bands)

    def padding_reach(self) -> int:
        return max(padding_reach(self.main), padding_reach(self.short))


@dataclasses.dataclass
class Prepool(Operation):
    """`arch.prepool` of the class maps, which come first; attention maps are not changed."""

    name: str  # a key of layers.PREPOOL
    classes: int
    kind = 'prepool'

    def apply(self, x: Tensor) -> Tensor:
        x = layers.full_precision(x)
        return torch.cat([layers.PREPOOL[self.name](x[:, : self.classes]), x[:, self.classes :]], 1)


@dataclasses.dataclass
class Backbone(Operation):
    """A network of timm (backbone.Backbone), which computes maps of one band. Needs complete excerpts."""

    module: nn.Module
    bands: int  # of its input
    least: int  # frames of its shortest input
    kind = ''  # not stored in files

    def bands_out(self, bands: int) -> int:
        return 1


@dataclasses.dataclass
class Linear(Operation):
    """Dense layer on metadata (batch, inputs) -> (batch, outputs), and a nonlinearity."""

    weight: Tensor  # (outputs, inputs)
    bias: Tensor  # (outputs,)
    activation: str
    kind = ''  # not stored in files

    def apply(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](F.linear(x, self.weight, self.bias))


def bands_out(operations: list[Operation], bands: int) -> int:
    """Like Operation.bands_out, for a sequence of operations."""
    for op in operations:
        bands = op.bands_out(bands)
    return bands


def padding_reach(operations: list[Operation]) -> int:
    """Like Operation.padding_reach, for a sequence of operations."""
    return sum(op.padding_reach() for op in operations)


# == Files ==

KINDS = {cls.kind: cls for cls in Operation.__subclasses__() if cls.kind} | {'': Linear}


def describe_operations(value: Any, name: str, arrays: dict) -> Any:
    """Operations, or lists of them, as dicts and lists for JSON.

    Tensors are added to `arrays`, under names that begin with `name`.
    """
    if torch.is_tensor(value):
        arrays[name] = value.detach().cpu().numpy()
        return {'array': name}
    if isinstance(value, Operation):
        fields = {k: v for k, v in vars(value).items() if v is not None}
        value = {'kind': value.kind, **fields} if value.kind else fields
    if isinstance(value, dict):
        return {k: describe_operations(v, f'{name}.{k}', arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe_operations(v, f'{name}.{i}', arrays) for i, v in enumerate(value)]
    return value


def restore_operations(value: Any, arrays: dict) -> Any:
    """The inverse of `describe_operations`. Raises KeyError or TypeError for other values."""
    if isinstance(value, list):
        items = [restore_operations(v, arrays) for v in value]
        return tuple(items) if items and all(isinstance(v, int) for v in items) else items
    if not isinstance(value, dict):
        return value
    if 'array' in value:
        return torch.from_numpy(arrays[value['array']])
    value = {k: restore_operations(v, arrays) for k, v in value.items()}
    return KINDS[value.pop('kind', '')](**value)
