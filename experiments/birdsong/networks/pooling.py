"""Global pooling (`arch.pool`): from maps over time and frequency to one value per class.

Each kind of pooling is a class that reduces positions to a partial result, combines partial results, and computes the
pooled value from them. It can be applied to complete maps (`GlobalPooling.forward`), block by block (`PoolingStream`),
and to sliding windows (`SlidingPooling`), in float32 or better.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from birdsong.files import Problem
from birdsong.networks.layers import full_precision


def slide(x: Tensor, count: int, spacing: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`count` values x[t], x[t + spacing], ... combined, for each t along the last axis.

    `combine` must be associative. It is called at most 2 log2(count) times, for partial results that double in width.
    """
    length = x.shape[-1] - (count - 1) * spacing
    result, done, width = None, 0, 1
    while True:
        if count & width:
            part = x[..., done * spacing : done * spacing + length]
            result = part if result is None else combine(result, part)
            done += width
        if 2 * width > count:
            return result
        x = combine(x[..., : -width * spacing], x[..., width * spacing :])
        width *= 2


class GlobalPooling(nn.Module):
    """Pools maps (batch, maps, time, frequency) to (batch, classes); the base class of all kinds.

    text: the value of arch.pool, KIND or KIND:NUMBER. The last `attention` maps are not class maps. `pools` is False if
    all positions are kept. `accumulates` is False if combining partial results causes no rounding errors.
    """

    attention = 0
    pools = True
    accumulates = True

    def __init__(self, text: str):
        super().__init__()
        self.text = text
        self.kind, _, number = text.partition(':')
        self.number = float(number or 1)

    def used(self, maps: Tensor) -> Tensor:
        """The part of the maps that this kind of pooling uses."""
        return maps

    def reduce(self, x: Tensor) -> Any:
        """The partial result of all positions along the last axis of x (batch, maps, ..., positions)."""
        raise NotImplementedError

    def combine(self, one: Any, other: Any) -> Any:
        """The partial result of the positions of both partial results."""
        raise NotImplementedError

    def finish(self, partial: Any, count: int) -> Tensor:
        """The pooled values, given the partial result of `count` positions."""
        return partial

    def pool(self, x: Tensor) -> Tensor:
        """(batch, maps, positions) -> (batch, classes)."""
        return self.finish(self.reduce(x), x.shape[2])

    def forward(self, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            return self.pool(self.used(full_precision(maps)).flatten(2))

    def slide(self, maps: Tensor, count: int, spacing: int) -> Tensor:
        """Pooled values (batch, classes, windows) of a window from each row on: `count` rows, `spacing` apart."""
        x = self.used(maps)
        return self.finish(slide(self.reduce(x), count, spacing, self.combine), count * x.shape[3])

    def extra_repr(self) -> str:
        return self.text


class MaxPooling(GlobalPooling):
    """The maximum."""

    accumulates = False

    def reduce(self, x: Tensor) -> Tensor:
        return x.amax(-1)

    def combine(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.maximum(one, other)


class MeanPooling(GlobalPooling):
    """The arithmetic mean."""

    def reduce(self, x: Tensor) -> Tensor:
        return x.sum(-1)

    def combine(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other

    def finish(self, partial: Tensor, count: int) -> Tensor:
        return partial / count


class LogMeanExpPooling(GlobalPooling):
    """log(mean(exp(A x))) / A with sharpness A: close to the mean for a small A, to the maximum for a large one."""

    def __init__(self, text: str):
        super().__init__(text)
        if not self.number > 0:
            raise Problem(f'arch.pool={text}: the sharpness must be above 0')

    def reduce(self, x: Tensor) -> Tensor:
        return torch.logsumexp(x * self.number, -1)

    def combine(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.logaddexp(one, other)

    def finish(self, partial: Tensor, count: int) -> Tensor:
        return (partial - math.log(count)) / self.number


class NoisyOrPooling(GlobalPooling):
    """The probability that at least one of several independent events occurs: 1 - product of (1 - x)."""

    def reduce(self, x: Tensor) -> Tensor:
        return (1 - x).prod(-1)

    def combine(self, one: Tensor, other: Tensor) -> Tensor:
        return one * other

    def finish(self, partial: Tensor, count: int) -> Tensor:
        return 1 - partial


def _number_of_attention_maps(pooling: GlobalPooling) -> int:
    if pooling.number < 1 or pooling.number != int(pooling.number):
        raise Problem(f'arch.pool={pooling.text}: the number of attention maps must be an integer above 0')
    return int(pooling.number)


class AttentionPooling(GlobalPooling):
    """Mean of the class maps, weighted by the softmax over time of each attention map, then averaged over these.

    The last K maps are the attention maps (attention:K). All maps are used at frequency 0 only.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.attention = _number_of_attention_maps(self)

    def used(self, maps: Tensor) -> Tensor:
        return maps[..., :1]

    def reduce(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maximum of each attention map, sum of exp(attention - maximum), sum of the class maps weighted by this."""
        classes, attention = x[:, : -self.attention], x[:, -self.attention :]
        peak = attention.amax(2, keepdim=True)
        weights = (attention - peak).exp()
        return peak, weights.sum(2, keepdim=True), weights @ classes.transpose(1, 2)

    def combine(self, one: tuple, other: tuple) -> tuple[Tensor, Tensor, Tensor]:
        peak = torch.maximum(one[0], other[0])
        first, second = (one[0] - peak).exp(), (other[0] - peak).exp()
        return peak, one[1] * first + other[1] * second, one[2] * first + other[2] * second

    def finish(self, partial: tuple, count: int) -> Tensor:
        _, total, weighted = partial
        return (weighted / total).mean(1)

    # If all positions are available, weights are cheaper than partial results, which have K values per class.

    @staticmethod
    def weights(attention: Tensor) -> Tensor:
        """Weights of the positions (batch, ..., positions), given attention maps (batch, K, ..., positions)."""
        return torch.softmax(attention, -1).mean(1)

    def pool(self, x: Tensor) -> Tensor:
        return (x[:, : -self.attention] @ self.weights(x[:, -self.attention :])[:, :, None])[..., 0]

    def slide(self, maps: Tensor, count: int, spacing: int) -> Tensor:
        classes, attention = maps[:, : -self.attention, :, 0], maps[:, -self.attention :, :, 0]
        span = (count - 1) * spacing + 1
        rows = maps.shape[2] - span + 1
        weights = self.weights(attention.unfold(2, span, 1)[..., ::spacing])[:, None]
        total = 0
        for i in range(count):
            total = total + weights[..., i] * classes[:, :, i * spacing : i * spacing + rows]
        return total


class NoPooling(GlobalPooling):
    """Keeps all positions of the class maps, (batch, classes, time * frequency); drops attention maps."""

    pools = False
    accumulates = False

    def __init__(self, text: str):
        super().__init__(text)
        if self.kind == 'attention_nopool':
            self.attention = _number_of_attention_maps(self)

    def used(self, maps: Tensor) -> Tensor:
        return maps[:, : maps.shape[1] - self.attention]

    def reduce(self, x: Tensor) -> list[Tensor]:
        return [x]

    def combine(self, one: list[Tensor], other: list[Tensor]) -> list[Tensor]:
        return one + other

    def finish(self, partial: list[Tensor], count: int) -> Tensor:
        return torch.cat(partial, 2)

    def slide(self, maps: Tensor, count: int, spacing: int) -> Tensor:
        return self.used(maps).flatten(2)


KINDS = {
    'max': MaxPooling,
    'mean': MeanPooling,
    'logmeanexp': LogMeanExpPooling,
    'noisy-or': NoisyOrPooling,
    'attention': AttentionPooling,
    'attention_nopool': NoPooling,
    'none': NoPooling,
}


def make_global_pooling(text: str) -> GlobalPooling:
    """The pooling for a value of arch.pool. Raises Problem if its number is out of range."""
    return KINDS[text.partition(':')[0]](text)


class PoolingStream:
    """Pools the maps of one recording, given block by block over time. Stores only partial results."""

    def __init__(self, pooling: GlobalPooling):
        self.pooling, self.partial, self.count = pooling, None, 0

    def add(self, maps: Tensor) -> None:
        """Add the next maps (batch, maps, time, frequency)."""
        x = self.pooling.used(full_precision(maps)).flatten(2)
        self.dtype = x.dtype
        self.count += x.shape[2]
        if self.pooling.accumulates and x.device.type != 'mps':  # mps has no double precision
            x = x.double()
        partial = self.pooling.reduce(x)
        self.partial = partial if self.partial is None else self.pooling.combine(self.partial, partial)

    def result(self) -> Tensor:
        """The pooled values of all maps so far."""
        return self.pooling.finish(self.partial, self.count).to(self.dtype)


class SlidingPooling:
    """Pools sliding windows of the maps of one recording, given block by block over time.

    A window has `count` rows of the maps, `spacing` rows apart. There is a window from each row on.
    """

    def __init__(self, pooling: GlobalPooling, count: int, spacing: int):
        self.pooling, self.spacing = pooling, spacing
        self.count = count if pooling.pools else 1
        self.rest, self.found = None, False

    def push(self, maps: Tensor) -> Tensor | None:
        """Add maps (batch, maps, rows, frequency). Returns the completed windows (batch, classes, windows) or None."""
        if self.rest is not None:
            maps = torch.cat([self.rest, maps], 2)
        windows = maps.shape[2] - (self.count - 1) * self.spacing
        self.rest = maps[:, :, max(0, windows) :]
        if windows < 1:
            return None
        self.found = True
        return self.pooling.slide(maps, self.count, self.spacing)

    def end(self) -> Tensor | None:
        """If the recording was shorter than a window, a single window with all rows, pooled; otherwise None."""
        if self.found or self.rest is None or not self.rest.shape[2]:
            return None
        maps = self.rest[:, :, :: self.spacing]
        return self.pooling.slide(maps, maps.shape[2], 1)
