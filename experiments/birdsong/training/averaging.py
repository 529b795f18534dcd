"""Averages of networks: the moving average over all updates, and the mean of the networks after several epochs."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of a network: of its weights and of the statistics of batch normalisation.

    `net` is the averaged network, in eval mode. The decay is lower in the first updates, min(decay, (1 + t) / (10 + t))
    after t earlier ones, as in TensorFlow's ExponentialMovingAverage, so that it forgets the initial weights.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.net, self.decay = copy.deepcopy(net).requires_grad_(False).eval(), decay
        pairs = list(zip(self.net.state_dict().values(), net.state_dict().values(), strict=True))
        self.means, self.currents = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def update(self, earlier: int) -> None:
        """Account for an update of the network, given the number of earlier ones."""
        decay = min(self.decay, (1 + earlier) / (10 + earlier))
        torch._foreach_lerp_(self.means, self.currents, 1 - decay)
        for counter, current in self.counters:
            counter.copy_(current)


def mean(networks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean of networks, given as their named arrays, including the statistics of batch normalisation.

    Integers, which count batches, are those of the last network.
    """
    return {
        name: np.mean([net[name] for net in networks], 0, np.float64).astype(last.dtype)
        if last.dtype.kind == 'f'
        else last
        for name, last in networks[-1].items()
    }
