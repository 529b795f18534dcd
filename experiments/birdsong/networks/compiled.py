"""Runs compiled networks: fast prediction for recordings of any length, in constant memory.

A trained network is compiled into a list of operations (compiler.py), which process a recording in blocks that fit the
cache of the processor. Operations on several frames keep those that the next block needs, so that nothing is computed
twice and the result does not depend on the blocks. Maps are in channels-last order.
"""

import dataclasses
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from birdsong.files import Problem
from birdsong.networks import frontend, layers, operations, winograd
from birdsong.networks.compiler import compile_network
from birdsong.networks.model import Network
from birdsong.networks.operations import ACTIVATIONS, Operation

# Approximate size of the largest map of a block, to fit the cache of the processor.
BLOCK_BYTES = 1 << 23
# Convolutions with more weights than this wait for ENOUGH positions, so that they read their weights less often.
MANY_WEIGHTS = 1 << 17
ENOUGH = 384


# == Operations on a recording that arrives block by block ==
#
# Each class has two methods: `push` processes the next block of maps, `end` ends the recording. Both return the maps
# that can be computed now, or None.


class _Pointwise:
    """An operation on each frame separately."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.push = function

    def end(self) -> Tensor | None:
        return None


class _Window:
    """An operation on windows of `span` frames every `stride` frames, with `pad` frames of zeros at both ends.

    It waits for `enough(bands)` new windows and processes a multiple of `unit` windows at a time, except at the end of
    the recording.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        span: int,
        stride: int,
        pad: int = 0,
        enough: Callable[[int], int] = lambda bands: 1,
        unit: int = 1,
    ):
        self.function, self.span, self.stride, self.pad = function, span, stride, pad
        self.enough, self.unit = enough, unit
        # blocks that are still needed, their number of frames, and how many of the first frames are not needed
        self.pending, self.length, self.skip = [], 0, 0

    def _zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros((len(x), self.pad, x.shape[3], x.shape[1])).permute(0, 3, 1, 2)

    def push(self, x: Tensor, least: int | None = None) -> Tensor | None:
        if self.pad and not self.pending:
            self._append(self._zeros(x))
        self._append(x)
        count = (self.length - self.skip - self.span) // self.stride + 1
        if not least:
            count -= count % self.unit
        if count < (least or max(1, self.enough(x.shape[3]))):
            return None
        x = torch.cat(self.pending, 2) if len(self.pending) > 1 else self.pending[0]
        first, used = self.skip, self.skip + count * self.stride
        self.pending, self.length = [x[:, :, used:]], max(0, x.shape[2] - used)
        self.skip = max(0, used - x.shape[2])
        return self.function(x[:, :, first : first + (count - 1) * self.stride + self.span])

    def _append(self, x: Tensor) -> None:
        self.pending.append(x)
        self.length += x.shape[2]

    def end(self) -> Tensor | None:
        if not self.pending:
            return None
        last = self.pending[-1]
        return self.push(self._zeros(last) if self.pad else last[:, :, :0], 1)


class _Thin:
    """The operation Thin."""

    def __init__(self, op: operations.Thin):
        self.op = op
        span = (op.size[0] - 1) * op.dilation + 1
        self.window = _Window(self._average, span, op.step) if op.mean else _Window(self._pick, 1, op.step)

    def _pick(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.op.step, :: self.op.size[1]]

    def _bands(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, (1, self.op.size[1]), ceil_mode=True)

    def _average(self, x: Tensor) -> Tensor:
        size, step, dilation = self.op.size[0], self.op.step, self.op.dilation
        return layers.windows(self._bands(x), (size, 1), (step, 1), (dilation, 1)).mean((-2, -1))

    def push(self, x: Tensor) -> Tensor | None:
        return self.window.push(x)

    def end(self) -> Tensor | None:
        if not self.op.mean or not self.window.length > self.window.skip:
            return None
        rest = self._bands(torch.cat(self.window.pending, 2)[:, :, self.window.skip :])
        starts = range(0, rest.shape[2], self.op.step)
        windows = (rest[:, :, start :: self.op.dilation][:, :, : self.op.size[0]] for start in starts)
        return torch.cat([window.mean(2, keepdim=True) for window in windows], 2)


class _Pcen:
    """The operation Pcen; its smoother continues from block to block."""

    def __init__(self, module: frontend.PCEN):
        self.module, self.last = module, None

    def push(self, x: Tensor) -> Tensor | None:
        smooth = self.module.smooth(x, self.last)
        self.last = smooth[:, -1]
        return self.module.normalise(x, smooth)


class _Frontend:
    """The operation Frontend."""

    def __init__(self, parts: list):
        self.parts = parts

    def push(self, x: Tensor) -> Tensor | None:
        with torch.autocast(x.device.type, enabled=False):
            for part in self.parts:
                x = part.push(x)
            return x[:, None]

    def end(self) -> Tensor | None:
        return None


class Stream:
    """A sequence of operations that processes one recording."""

    def __init__(self, parts: list):
        self.parts = parts

    def push(self, x: Tensor) -> Tensor | None:
        for part in self.parts:
            x = part.push(x)
            if x is None:
                return None
        return x

    def end(self) -> Tensor | None:
        x = None
        for part in self.parts:
            pieces = [y for y in (part.push(x) if x is not None else None, part.end()) if y is not None]
            x = torch.cat(pieces, 2) if pieces else None
        return x


class _Residual:
    """The operation Residual. One of its two sides may be ahead of the other."""

    def __init__(self, main: Stream, short: Stream):
        self.sides, self.rests = (main, short), [None, None]

    def _join(self, parts: list[Tensor | None]) -> Tensor | None:
        for i, part in enumerate(parts):
            if part is not None:
                self.rests[i] = part if self.rests[i] is None else torch.cat([self.rests[i], part], 2)
        count = min(0 if rest is None else rest.shape[2] for rest in self.rests)
        if not count:
            return None
        main, short = (rest[:, :, :count] for rest in self.rests)
        self.rests = [rest[:, :, count:] if rest.shape[2] > count else None for rest in self.rests]
        return main + short

    def push(self, x: Tensor) -> Tensor | None:
        return self._join([side.push(x) for side in self.sides])

    def end(self) -> Tensor | None:
        return self._join([side.end() for side in self.sides])


# == Networks ==


class _Convolution:
    """The fastest way to compute a convolution of maps with `bands` bands that are already padded along time."""

    def __init__(self, op: operations.Conv, bands: int, cpu: bool):
        packed = cpu and winograd.operators_work()
        self.fast = winograd.FastConvolution(op, packed) if cpu and winograd.pays(op) else None
        single = bands == op.weight.shape[3] == op.groups == 1
        self.matrix = op.weight[..., 0].transpose(1, 2).flatten(1).contiguous() if single else None
        self.plain = winograd.PaddedConvolution(op, packed)
        # output frames should be computed in multiples of this number
        self.unit = self.fast.unit if self.fast else 1
        # from here on, only the shape of the weight is needed
        self.op = dataclasses.replace(op, weight=op.weight.to('meta'))

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == 1 and self.fast:
            around = self.op.span - 1
            whole = (x.shape[2] - around) // self.unit * self.unit
            parts = [self.fast(x[:, :, : whole + around])] if whole else []
            if whole < x.shape[2] - around:
                parts.append(self._direct(x[:, :, whole:]))
            return torch.cat(parts, 2) if len(parts) > 1 else parts[0]
        return self._direct(x)

    def _direct(self, x: Tensor) -> Tensor:
        if self.matrix is None or len(x) > 1:
            return self.plain(x, self.op.activation)
        # With a single band, a matrix product is faster.
        x = x[0, :, :, 0].t()
        stride, dilation, size = self.op.stride[0], self.op.dilation[0], self.op.weight.shape[2]
        count = (len(x) - self.op.span) // stride + 1
        x = x.as_strided((count, size, x.shape[1]), (stride * x.stride(0), dilation * x.stride(0), x.stride(1)))
        y = F.linear(x.reshape(count, -1), self.matrix, self.op.bias)
        return ACTIVATIONS[self.op.activation](y).t()[None, :, :, None]


class CompiledNetwork:
    """A list of operations on a device. `stream` starts a recording; a call computes the maps of one spectrogram.

    block: number of spectrogram frames to push at a time for the highest speed.
    """

    def __init__(self, compiled: list[Operation], device: torch.device | str):
        self.device = torch.device(device)
        self.cpu = self.device.type == 'cpu'
        # after the operations so far: bands of the maps, their frames per frame of the spectrogram, and the largest
        # number of bytes of any maps per frame of the spectrogram
        self.bands, self.rate, self.widest = 1, 1.0, 1.0
        self.makers = [self._prepare(op) for op in compiled]
        self.block = max(16, int(BLOCK_BYTES / self.widest)) if self.cpu else 4096

    def _prepare(self, op: Operation) -> Callable[[], object]:
        """A function that creates the object that applies the operation to a new recording."""
        op = op.to(self.device)
        if isinstance(op, operations.Conv):
            maker = self._prepare_convolution(op)
        elif isinstance(op, operations.Pool):
            self.rate /= op.stride[0]
            maker = functools.partial(_Window, op.apply, op.span, op.stride[0])
        elif isinstance(op, operations.Thin):
            maker = functools.partial(_Thin, op)
        elif isinstance(op, operations.Pcen):
            module = frontend.PCEN(len(op.log_s)).to(self.device).requires_grad_(False)
            module.load_state_dict(vars(op))
            maker = functools.partial(_Pcen, module)
        elif isinstance(op, operations.Frontend):
            steps = [self._prepare(step) for step in op.main]
            maker = lambda: _Frontend([make() for make in steps])  # noqa: E731
        elif isinstance(op, operations.Residual):
            return self._prepare_residual(op)
        else:
            maker = functools.partial(_Pointwise, op.apply)
        self.bands = op.bands_out(self.bands)
        return maker

    def _prepare_convolution(self, op: operations.Conv) -> Callable[[], _Window]:
        convolution = _Convolution(op, self.bands, self.cpu)
        self.rate /= op.stride[0]
        self.widest = max(self.widest, 4 * self.rate * len(op.weight) * op.bands_out(self.bands))
        least = ENOUGH if self.cpu and op.weight.numel() > MANY_WEIGHTS else 1
        op = convolution.op

        def enough(bands: int) -> int:
            return -(-least // op.bands_out(bands))

        return lambda: _Window(convolution, op.span, op.stride[0], op.padding[0], enough, convolution.unit)

    def _prepare_residual(self, op: operations.Residual) -> Callable[[], _Residual]:
        before = self.bands, self.rate
        short = [self._prepare(step) for step in op.short]
        self.bands, self.rate = before
        main = [self._prepare(step) for step in op.main]
        return lambda: _Residual(*(Stream([make() for make in side]) for side in (main, short)))

    def stream(self) -> Stream:
        """A Stream from spectrograms (batch, frames, bins) to maps (batch, maps, time, frequency)."""
        return Stream([make() for make in self.makers])

    @torch.no_grad()
    def __call__(self, spect: Tensor) -> Tensor:
        """(batch, frames, bins) -> (batch, maps, time, frequency)."""
        if len(spect) > 1:
            # One at a time: several recordings are not adjacent in memory after they are split into blocks, and strided
            # convolutions of such maps by oneDNN can be wrong with two threads.
            return torch.cat([self(one) for one in spect.split(1)])
        stream = self.stream()
        parts = [stream.push(block) for block in layers.full_precision(spect).split(self.block, 1)] + [stream.end()]
        return torch.cat([layers.full_precision(p) for p in parts if p is not None], 2)


class InferenceNetwork:
    """A trained network for prediction only, with the interface of Network; a CompiledNetwork computes its maps."""

    def __init__(self, net: Network):
        self.net = net.eval()
        self.compiled = CompiledNetwork(compile_network(net), next(net.parameters()).device)
        self.cfg, self.classes, self.min_frames, self.frame_step = net.cfg, net.classes, net.min_frames, net.frame_step
        self.pool, self.pooling, self.finish = net.pool, net.pooling, net.finish

    def maps(self, spect: Tensor) -> Tensor:
        """As `Network.maps`."""
        if spect.shape[1] < self.min_frames or spect.shape[2] != self.net.audio.front.bins:
            return self.net.maps(spect)  # raises Problem, with a message
        return self.compiled(spect)

    def __call__(self, spect: Tensor, meta: Tensor | None = None) -> dict[str, Tensor]:
        """As `Network.forward`."""
        maps = self.maps(spect)
        outputs = self.finish(self.pool(maps), meta)
        outputs['maps'] = maps
        if self.net.global_pool.attention:
            outputs['attention'] = layers.full_precision(maps[:, self.classes :].flatten(2))
        return outputs


def for_inference(net: Network) -> Network | InferenceNetwork:
    """The trained network, compiled if possible: callable, with the methods maps, pool, pooling and finish."""
    net.eval()
    if net.audio is None:
        return net
    try:
        return InferenceNetwork(net)
    except Problem:
        return net
