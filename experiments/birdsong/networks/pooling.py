"""Global pooling (`arch.pool`): class maps over time and frequency to one score per class."""

import math

import torch
from torch import nn

from birdsong.files import Problem
from birdsong.networks.layers import full_precision


def _accurate(x):
    """x in double precision where the device has it."""
    return x if x.device.type == 'mps' else x.double()


class MeanPooling:
    """Mean of maps that come block by block."""

    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, maps):
        """maps: (batch, maps, steps, bands), the next of the recording."""
        maps = full_precision(maps).flatten(2)
        self.total = self.total + _accurate(maps).sum(2)
        self.count += maps.shape[2]
        self.dtype = maps.dtype

    def result(self):
        """(batch, classes)."""
        return (self.total / self.count).to(self.dtype)


class MaxPooling:
    """Maximum of maps that come block by block."""

    best = None

    def add(self, maps):
        maps = full_precision(maps).flatten(2).amax(2)
        self.best = maps if self.best is None else torch.maximum(self.best, maps)

    def result(self):
        return self.best


class NoisyOrPooling:
    """1 minus the product of 1 - p over maps that come block by block."""

    none = 1.0

    def add(self, maps):
        maps = full_precision(maps)
        self.none = self.none * (1 - _accurate(maps.flatten(2))).prod(2)
        self.dtype = maps.dtype

    def result(self):
        return (1 - self.none).to(self.dtype)


class LogMeanExpPooling:
    """log(mean(exp(A x))) / A of maps that come block by block."""

    total, count = None, 0

    def __init__(self, sharpness):
        self.sharpness = sharpness

    def add(self, maps):
        maps = full_precision(maps).flatten(2)
        block = torch.logsumexp(_accurate(maps) * self.sharpness, 2)
        self.total = block if self.total is None else torch.logaddexp(self.total, block)
        self.count += maps.shape[2]
        self.dtype = maps.dtype

    def result(self):
        return ((self.total - math.log(self.count)) / self.sharpness).to(self.dtype)


class AttentionPooling:
    """Attention pooling of maps that come block by block; the last `attention` maps are the attention's."""

    peak = None

    def __init__(self, attention):
        self.attention = attention

    def add(self, maps):
        maps = full_precision(maps)[..., 0]
        data, attention = _accurate(maps[:, : -self.attention]), _accurate(maps[:, -self.attention :])
        peak = attention.amax(2, keepdim=True)
        if self.peak is not None:
            peak = torch.maximum(peak, self.peak)
        weights = (attention - peak).exp()
        total, weighted = weights.sum(2, keepdim=True), weights @ data.transpose(1, 2)  # batch, attention, classes
        if self.peak is not None:
            faded = (self.peak - peak).exp()
            total, weighted = total + self.total * faded, weighted + self.weighted * faded
        self.peak, self.total, self.weighted, self.dtype = peak, total, weighted, maps.dtype

    def result(self):
        return (self.weighted / self.total).mean(1).to(self.dtype)


class NoPooling:
    """Joins maps that come block by block."""

    def __init__(self, attention=0):
        self.attention, self.blocks = attention, []

    def add(self, maps):
        maps = full_precision(maps)
        self.blocks.append(maps[:, : maps.shape[1] - self.attention].flatten(2))

    def result(self):
        """(batch, classes, steps)."""
        return torch.cat(self.blocks, 2)


class GlobalPool(nn.Module):
    """Pooling of maps (batch, maps, time, frequency) over time and frequency to (batch, classes), as `arch.pool` says.

    attention:K takes the last K maps for attention, at frequency 0 as the classes; attention_nopool:K leaves them
    out; it and none give (batch, classes, time * frequency). Computes in float32 under autocast, too.
    """

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.kind, _, number = text.partition(':')
        self.number = float(number or 1)
        self.attention = int(self.number) if self.kind.startswith('attention') else 0
        if self.kind.startswith('attention') and (self.attention < 1 or self.attention != self.number):
            raise Problem(f'arch.pool={text}: the number of attention maps must be a whole number above 0')
        if self.kind == 'logmeanexp' and not self.number > 0:
            raise Problem(f'arch.pool={text}: the sharpness must be above 0')

    def streaming(self):
        """An object with `add(maps)`, to be called block by block over time, and `result()`."""
        return {
            'mean': MeanPooling,
            'max': MaxPooling,
            'noisy-or': NoisyOrPooling,
            'none': NoPooling,
            'logmeanexp': lambda: LogMeanExpPooling(self.number),
            'attention': lambda: AttentionPooling(self.attention),
            'attention_nopool': lambda: NoPooling(self.attention),
        }[self.kind]()

    def forward(self, maps):
        with torch.autocast(maps.device.type, enabled=False):
            maps = full_precision(maps)
            if self.kind == 'attention':
                weights = torch.softmax(maps[:, -self.attention :, :, 0], 2).mean(1)
                return (maps[:, : -self.attention, :, 0] @ weights[:, :, None])[..., 0]
            maps = maps[:, : maps.shape[1] - self.attention].flatten(2)
            if self.kind == 'max':
                return maps.amax(2)
            if self.kind == 'mean':
                return maps.mean(2)
            if self.kind == 'logmeanexp':
                return (torch.logsumexp(maps * self.number, 2) - math.log(maps.shape[2])) / self.number
            if self.kind == 'noisy-or':
                return 1 - (1 - maps).prod(2)
            return maps

    def extra_repr(self):
        return self.text


def slide(x, count, spacing, combine):
    """combine(x[t], x[t + spacing], ..., `count` of them) for each t along the last axis, by doubling."""
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


class SlidingPool:
    """`arch.pool` over sliding windows of `count` positions that are `spacing` rows apart, of maps that come block by block."""

    def __init__(self, pool, count, spacing):
        self.pool, self.spacing = pool, spacing
        self.count = 1 if pool.kind in ('none', 'attention_nopool') else count
        self.rest, self.emitted = None, False

    def push(self, maps):
        """Maps (batch, maps, rows, bands) -> (batch, classes, rows) of the windows that are complete now, or None."""
        if self.rest is not None:
            maps = torch.cat([self.rest, maps], 2)
        rows = maps.shape[2] - (self.count - 1) * self.spacing
        self.rest = maps[:, :, max(0, rows) :]
        if rows < 1:
            return None
        self.emitted = True
        return self._slide(maps)

    def end(self):
        """What there is, pooled, if the recording is shorter than a window; else None."""
        if self.emitted or self.rest is None or not self.rest.shape[2]:
            return None
        maps = self.rest[:, :, :: self.spacing]
        self.count = maps.shape[2]
        return SlidingPool(self.pool, maps.shape[2], 1)._slide(maps)

    def _slide(self, maps):
        kind, attention = self.pool.kind, self.pool.attention
        if kind == 'attention':
            return self._attend(maps[..., 0])
        x = maps[:, : maps.shape[1] - attention]
        bands, sharpness = x.shape[3], self.pool.number
        if kind in ('none', 'attention_nopool'):
            return x.flatten(2)
        if kind == 'max':
            return slide(x.amax(3), self.count, self.spacing, torch.maximum)
        if kind == 'mean':
            return slide(x.mean(3), self.count, self.spacing, torch.add) / self.count
        if kind == 'noisy-or':
            return 1 - slide((1 - x).prod(3), self.count, self.spacing, torch.mul)
        x = slide(torch.logsumexp(x * sharpness, 3), self.count, self.spacing, torch.logaddexp)
        return (x - math.log(self.count * bands)) / sharpness

    def _attend(self, maps):
        data, attention = maps[:, : -self.pool.attention], maps[:, -self.pool.attention :]
        rows = maps.shape[2] - (self.count - 1) * self.spacing
        weights = torch.softmax(
            attention.unfold(2, (self.count - 1) * self.spacing + 1, 1)[..., :: self.spacing], 3
        ).mean(1)
        total = 0
        for i in range(self.count):
            total = total + weights[:, None, :, i] * data[:, :, i * self.spacing : i * self.spacing + rows]
        return total
