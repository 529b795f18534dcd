"""Layers against the original: outputs, gradients, running statistics, initialisation."""

import numpy as np
import pytest
import torch
from golden_layers import check, close, fill, gradients

from birdsong.networks import layers, model, residual

GOLDEN = (
    'layers/bn_conv',
    'layers/bn_dense',
    'layers/bn_spect',
    'layers/bn_tiny_variance',
    'layers/resunit_stride2_pool',
    'layers/resunit_stride2_project',
    'layers/resunit_stride2_slice',
    'layers/spatial_logsoftmax',
    'layers/spatial_softmax',
    'misc/orthogonal_init',
)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize('shortcut', ['pool', 'project', 'slice'])
def test_strided_residual_unit(golden, shortcut):
    _, arrays = golden(f'layers/resunit_stride2_{shortcut}')
    unit = fill(residual.ResidualUnit(4, 8, (3, 3), RNG, (2, 2), shortcut=shortcut).eval(), arrays)
    check(unit, unit, arrays)


@pytest.mark.parametrize('name', ['bn_conv', 'bn_dense', 'bn_spect', 'bn_tiny_variance'])
def test_batch_normalisation_averages_mean_and_inverse_standard_deviation(golden, name):
    _, arrays = golden(f'layers/{name}')
    channels = arrays['before0'].size
    norm = layers.Standardise(channels) if name == 'bn_spect' else layers.BatchNorm(channels)
    fill(norm, arrays, 'before').train()
    x = [torch.from_numpy(arrays[k].astype('f8')) for k in ('x0', 'x1')]

    def run(x):
        return norm(x[:, 0])[:, None] if name == 'bn_spect' else norm(x)

    tolerance = 2e-4 if name == 'bn_tiny_variance' else 5e-6
    x[0].requires_grad_()
    out = run(x[0])
    close(out, arrays['train_out0'], tolerance)
    (out * torch.from_numpy(arrays['R'])).sum().backward()
    close(x[0].grad, arrays['grad_x'], tolerance)
    for i, gradient in gradients(norm).items():
        close(gradient, arrays[f'grad_param{i}'], tolerance)
    for number, batch in ((1, None), (2, x[1])):
        if batch is not None:
            close(run(batch), arrays['train_out1'], tolerance)
        for i, array in enumerate(model.original_arrays(norm)):
            close(array, arrays[f'after_{number}_{i}'], tolerance)
    norm.eval()
    close(run(x[0]), arrays['determ_out'], tolerance)


def test_batch_normalisation_in_mixed_precision_keeps_its_statistics_in_float32():
    norm = layers.BatchNorm(3).train()
    x = torch.randn(8, 3, 5, 4) * 3 + 1
    with torch.autocast('cpu', torch.bfloat16):
        out = norm(x.bfloat16())
    assert out.dtype == torch.bfloat16 and norm.mean.dtype == torch.float32
    torch.testing.assert_close(norm.mean, 0.1 * x.bfloat16().float().mean((0, 2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('name', ['softmax', 'logsoftmax'])
def test_nonlinearity_over_classes_before_pooling(golden, name):
    _, arrays = golden(f'layers/spatial_{name}')
    check(layers.PREPOOL[name], None, arrays)


def test_orthogonal_initialisation(golden):
    description, arrays = golden('misc/orthogonal_init')
    for case in description['cases']:
        ours = layers.orthogonal(case['shape'], np.random.RandomState(case['seed']))
        theirs = arrays[case['key']]
        flat = [w.reshape(len(w), -1) for w in (ours, theirs)]
        # signs may differ with another LAPACK: of columns where they are orthogonal, else of rows
        axis = 1 if flat[0].shape[0] >= flat[0].shape[1] else 0
        signs = np.sign((flat[0] * flat[1]).sum(1 - axis, keepdims=True))
        np.testing.assert_allclose(flat[0] * signs, flat[1], atol=1e-5)


@pytest.mark.parametrize(
    'kind, shape',
    [
        ('independent', (40, 6, 10, 10)),
        ('channels', (40, 6, 1, 1)),
        ('bands', (40, 1, 1, 10)),
        ('groups', (40, 3, 1, 1)),
    ],
)
def test_units_that_are_dropped_together(kind, shape):
    torch.manual_seed(0)
    dropout = layers.Dropout(0.3, kind, 3)
    x = torch.ones(40, 6, 10, 10)
    assert dropout.eval()(x) is x
    out = dropout.train()(x)
    if kind == 'groups':
        assert torch.equal(out[:, ::2], out[:, 1::2])
        out = out[:, ::2]
    draws = out[tuple(slice(n) for n in shape)]
    assert torch.equal(draws.expand_as(out), out)
    torch.testing.assert_close(draws.unique(), torch.tensor([0, 1 / 0.7]))
    assert abs((draws == 0).float().mean() - 0.3) < 0.15
    assert len(draws.flatten(1).unique(dim=0)) > 1


def test_batch_statistics_are_exact_for_any_memory_layout():
    torch.manual_seed(0)
    x = torch.randn(8, 8, 300, 100) * 0.1 + 1
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        norm = layers.BatchNorm(8).train()
        norm(x.contiguous(memory_format=layout))
        results.append(norm.inv_std)
    exact = 0.9 + 0.1 / torch.sqrt(x.double().var((0, 2, 3), correction=0) + 1e-4)
    for result in results:
        torch.testing.assert_close(result.double(), exact, rtol=1e-6, atol=0)
