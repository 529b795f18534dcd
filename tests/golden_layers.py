"""Comparison of a module with the golden cases of the original: arrays, outputs, gradients."""

import numpy as np
import torch

from birdsong.networks import model


def fill(module, arrays, prefix='param'):
    """Set a module's arrays to those of the original, and check that all arrays of the original are used."""
    slots = list(model.slots(module))
    assert len(slots) == sum(k.startswith(prefix) for k in arrays)
    for i, (name, owner, own, tensor) in enumerate(slots):
        array = arrays[f'{prefix}{i}']
        array = owner.from_original(own, array) if hasattr(owner, 'from_original') else array
        assert array.shape == tuple(tensor.shape), name
        tensor.copy_(torch.from_numpy(np.array(array)))
    return module.double()


def gradients(module):
    """Gradients of a module's parameters in the original's layout, by their number."""
    parameters = dict(module.named_parameters())
    return {
        i: getattr(owner, 'to_original', lambda own, a: a)(own, parameters[name].grad.numpy())
        for i, (name, owner, own, _) in enumerate(model.slots(module))
        if name in parameters and parameters[name].grad is not None
    }


def close(ours, theirs, tolerance=5e-6):
    ours = ours.detach().numpy() if torch.is_tensor(ours) else ours
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1, np.abs(theirs).max()))


def check(function, module, arrays, tolerance=5e-6, squeeze=False, prefix='param'):
    """Compare output and gradients of sum(R * output) with the golden ones."""
    x = [torch.from_numpy(arrays[k].astype('f8')).requires_grad_() for k in ('x0', 'x1') if k in arrays]
    out = function(*x)
    if squeeze:
        out = out.flatten(1)
    close(out, arrays['out'], tolerance)
    (out * torch.from_numpy(arrays['R'])).sum().backward()
    for i, value in enumerate(x):
        close(value.grad, arrays[f'grad_x{i}'], tolerance)
    ours = gradients(module) if module is not None else {}
    theirs = {int(k[10:]) for k in arrays if k.startswith('grad_param')}
    assert set(ours) == theirs
    for i in theirs:
        close(ours[i], arrays[f'grad_param{i}'], tolerance)
