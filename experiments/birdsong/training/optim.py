"""The original's optimisers, with its arithmetic, and weight decay.

adam (Kingma & Ba 2015, the variant before section 2.1: epsilon is added before the bias correction), nesterov and
momentum with the learning rate folded into the velocity. The first arrays of the network can have a rate of their own.
"""

import numpy as np
import torch

from birdsong.files import Problem

BETA2 = 0.999
EPSILON = 1e-8


class Optimiser(torch.optim.Optimizer):
    """Updates the trainable parameters, in the order of the network; `eta` is the learning rate, to be set at any time.

    `first` parameters at the front have `first_scale` times the rate; 0 leaves them as they are.
    """

    names = ()

    def __init__(self, parameters, eta, momentum, first=0, first_scale=1.0):
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
    def step(self, closure=None):
        """Update all parameters by their gradients."""
        self.steps += 1
        start = 0
        for group in self.param_groups:
            stop = start + len(group['params'])
            live = [i for i in range(start, stop) if self.parameters[i].grad is not None]
            if live and group['scale']:
                params = [self.parameters[i] for i in live]
                self.update(
                    params,
                    [p.grad for p in params],
                    self.eta * group['scale'],
                    *([slot[i] for i in live] for slot in self.slots.values()),
                )
            start = stop

    def state_arrays(self):
        """Dict of all that goes on from step to step: 'steps', 'eta', and an array of each kind for each parameter."""
        arrays = {'steps': np.array(self.steps), 'eta': np.array(self.eta)}
        for name, slot in self.slots.items():
            arrays.update((f'{name}{int(i)}', value.cpu().numpy()) for i, value in enumerate(slot))
        return arrays

    def load_state_arrays(self, arrays):
        """Go on from what `state_arrays` returned. Raises Problem if it is of another optimiser or network."""
        expected = {k: v.shape for k, v in self.state_arrays().items()}
        found = {k: np.shape(v) for k, v in arrays.items()}
        if expected != found:
            differing = sorted(k for k in set(expected) | set(found) if expected.get(k) != found.get(k))
            raise Problem(
                f"the optimiser's state does not fit: {differing[0]} is {found.get(differing[0], 'missing')}, expected {expected.get(differing[0], 'nothing')}; was it another learn_scheme or network?"
            )
        self.steps, self.eta = int(arrays['steps']), float(arrays['eta'])
        for name, slot in self.slots.items():
            for i, value in enumerate(slot):
                value.copy_(torch.from_numpy(np.asarray(arrays[f'{name}{int(i)}'])))


class Adam(Optimiser):
    """beta1 is `momentum`; p -= eta sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon)."""

    names = 'm', 'v'

    def update(self, params, grads, eta, m, v):
        torch._foreach_lerp_(m, grads, 1 - self.momentum)
        torch._foreach_mul_(v, BETA2)
        torch._foreach_addcmul_(v, grads, grads, 1 - BETA2)
        denominators = torch._foreach_sqrt(v)
        torch._foreach_add_(denominators, EPSILON)
        rate = eta * np.sqrt(1 - BETA2**self.steps) / (1 - self.momentum**self.steps)
        torch._foreach_addcdiv_(params, m, denominators, -float(rate))


class Momentum(Optimiser):
    """v = momentum v - eta g; p += v."""

    names = ('velocity',)

    def update(self, params, grads, eta, velocity):
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, grads, alpha=-eta)
        torch._foreach_add_(params, velocity)


class Nesterov(Momentum):
    """v = momentum v - eta g; p += momentum v - eta g (Bengio et al. 2013, arXiv:1212.0901, eq. 7)."""

    def update(self, params, grads, eta, velocity):
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, grads, alpha=-eta)
        torch._foreach_add_(params, velocity, alpha=self.momentum)
        torch._foreach_add_(params, grads, alpha=-eta)


def make_optimiser(net, cfg):
    """The optimiser that `learn_scheme` names, for the trainable parameters of the network."""
    scheme = {'adam': Adam, 'nesterov': Nesterov, 'momentum': Momentum}[cfg['learn_scheme']]
    if scheme is Adam and float(cfg['momentum']) >= 1:
        raise Problem(f'momentum={cfg["momentum"]}: adam needs less than 1')
    return scheme(
        [p for p in net.parameters() if p.requires_grad],
        cfg['initial_eta'],
        cfg['momentum'],
        int(cfg['first_params']),
        float(cfg['first_params_eta_scale']),
    )


def l2_penalty(net, cfg):
    """l2_decay times the sum of squares of weights and gammas; 0. without l2_decay."""
    if not float(cfg['l2_decay']):
        return 0.0
    return float(cfg['l2_decay']) * sum(p.square().sum() for p in net.regularisable())
