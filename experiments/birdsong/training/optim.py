"""The optimisers of 2018, with the same arithmetic, AdamW, and weight decay.

adam is the variant at the end of section 2 of Kingma & Ba (2015), which adds epsilon before the bias correction; in
nesterov and momentum, the velocity includes the learning rate. The first arrays of the network can have another
learning rate.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from birdsong.files import Problem

BETA2 = 0.999
EPSILON = 1e-8


class Optimiser(torch.optim.Optimizer):
    """Updates the trainable parameters, given in the order of the network.

    eta: the learning rate; the attribute can be set at any time.
    first, first_scale: the first `first` parameters have `first_scale` times that rate; with 0 they are not updated.
    """

    names = ()  # of the arrays that are kept per parameter

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        eta: float,
        momentum: float,
        first: int = 0,
        first_scale: float = 1.0,
    ):
        parameters = list(parameters)
        groups = [
            {'params': part, 'scale': float(scale)}
            for part, scale in ((parameters[:first], first_scale), (parameters[first:], 1.0))
            if part
        ]
        super().__init__(groups, {})
        self.eta, self.momentum, self.steps = float(eta), float(momentum), 0
        self.slots = {name: [torch.zeros_like(p) for p in parameters] for name in self.names}
        self.parameters = parameters

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters that have a gradient."""
        self.steps += 1
        start = 0
        for group in self.param_groups:
            stop = start + len(group['params'])
            live = [i for i in range(start, stop) if self.parameters[i].grad is not None]
            if live and group['scale']:
                params = [self.parameters[i] for i in live]
                self._update(
                    params,
                    [p.grad for p in params],
                    self.eta * group['scale'],
                    *([slot[i] for i in live] for slot in self.slots.values()),
                )
            start = stop

    def state_arrays(self) -> dict[str, np.ndarray]:
        """The state of the optimiser: 'steps', 'eta', and for each of `names`, one array per parameter."""
        arrays = {'steps': np.array(self.steps), 'eta': np.array(self.eta)}
        for name, slot in self.slots.items():
            arrays.update((f'{name}{i}', value.cpu().numpy()) for i, value in enumerate(slot))
        return arrays

    def load_state_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state_arrays` returned. Raises Problem if it belongs to another optimiser or network."""
        expected = {k: v.shape for k, v in self.state_arrays().items()}
        found = {k: np.shape(v) for k, v in arrays.items()}
        if expected != found:
            name = min(k for k in set(expected) | set(found) if expected.get(k) != found.get(k))
            raise Problem(
                f"the optimiser's state does not fit: {name} is {found.get(name, 'missing')}, expected "
                f'{expected.get(name, "nothing")}; was learn_scheme or the network different?'
            )
        self.steps, self.eta = int(arrays['steps']), float(arrays['eta'])
        for name, slot in self.slots.items():
            for i, value in enumerate(slot):
                value.copy_(torch.from_numpy(np.asarray(arrays[f'{name}{i}'])))


class Adam(Optimiser):
    """With beta1 = `momentum`, p -= eta sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon)."""

    names = 'm', 'v'

    def _update(self, params, grads, eta, m, v):
        torch._foreach_lerp_(m, grads, 1 - self.momentum)
        torch._foreach_mul_(v, BETA2)
        torch._foreach_addcmul_(v, grads, grads, 1 - BETA2)
        denominators = torch._foreach_sqrt(v)
        torch._foreach_add_(denominators, EPSILON)
        rate = eta * np.sqrt(1 - BETA2**self.steps) / (1 - self.momentum**self.steps)
        torch._foreach_addcdiv_(params, m, denominators, -float(rate))


class AdamW(Optimiser):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2).

    As in torch.optim.AdamW, with beta1 = `momentum`, p -= eta weight_decay p for the parameters in `decayed`, then
    p -= eta m' / (sqrt(v') + epsilon) for all, with the bias-corrected m' = m / (1 - beta1^t), v' = v / (1 - beta2^t).
    """

    names = 'm', 'v'

    def __init__(self, *args: Any, weight_decay: float = 0.0, decayed: Iterable[torch.nn.Parameter] = ()):
        super().__init__(*args)
        self.weight_decay, self.decayed = weight_decay, set(map(id, decayed))

    def _update(self, params, grads, eta, m, v):
        decayed = [p for p in params if id(p) in self.decayed]
        if decayed and self.weight_decay:
            torch._foreach_mul_(decayed, 1 - eta * self.weight_decay)
        torch._foreach_lerp_(m, grads, 1 - self.momentum)
        torch._foreach_mul_(v, BETA2)
        torch._foreach_addcmul_(v, grads, grads, 1 - BETA2)
        denominators = torch._foreach_sqrt(v)
        torch._foreach_div_(denominators, math.sqrt(1 - BETA2**self.steps))
        torch._foreach_add_(denominators, EPSILON)
        torch._foreach_addcdiv_(params, m, denominators, -eta / (1 - self.momentum**self.steps))


class Momentum(Optimiser):
    """v = momentum v - eta g; p += v."""

    names = ('velocity',)

    def _update(self, params, grads, eta, velocity):
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, grads, alpha=-eta)
        torch._foreach_add_(params, velocity)


class Nesterov(Momentum):
    """v = momentum v - eta g; p += momentum v - eta g (Bengio et al. 2013, arXiv:1212.0901, eq. 7)."""

    def _update(self, params, grads, eta, velocity):
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, grads, alpha=-eta)
        torch._foreach_add_(params, velocity, alpha=self.momentum)
        torch._foreach_add_(params, grads, alpha=-eta)


def make_optimiser(net: torch.nn.Module, cfg: dict[str, Any]) -> Optimiser:
    """The optimiser for the setting `learn_scheme` and the trainable parameters of the network."""
    scheme = {'adam': Adam, 'adamw': AdamW, 'nesterov': Nesterov, 'momentum': Momentum}[cfg['learn_scheme']]
    if scheme in (Adam, AdamW) and float(cfg['momentum']) >= 1:
        raise Problem(f'momentum={cfg["momentum"]}: {cfg["learn_scheme"]} needs less than 1')
    decay = {}
    if scheme is AdamW:
        # neither biases nor batch normalisation
        decay = dict(weight_decay=cfg['weight_decay'], decayed=(p for p in net.regularisable() if p.ndim > 1))
    elif cfg['weight_decay']:
        raise Problem(f'weight_decay={cfg["weight_decay"]}: needs learn_scheme=adamw; for others, set l2_decay')
    return scheme(
        [p for p in net.parameters() if p.requires_grad],
        cfg['initial_eta'],
        cfg['momentum'],
        int(cfg['first_params']),
        float(cfg['first_params_eta_scale']),
        **decay,
    )


def l2_penalty(net: torch.nn.Module, cfg: dict[str, Any]) -> torch.Tensor | float:
    """The setting l2_decay times the sum of squares of weights and gammas."""
    if not float(cfg['l2_decay']):
        return 0.0
    return float(cfg['l2_decay']) * sum(p.square().sum() for p in net.regularisable())
