"""The fast convolution over three frames, with and without the private operators of PyTorch."""

import types

import pytest
import torch
import torch.nn.functional as F

from birdsong.networks import compiled, winograd
from birdsong.networks.operations import ACTIVATIONS, Conv
from helpers import build_network, random_spectrogram

REORDER, CONVOLVE = '_reorder_convolution_weight', '_convolution_pointwise'
# possible replacements of the private operators in later versions of PyTorch
REPLACEMENTS = {
    'missing': {},
    'other arguments': {REORDER: lambda weight: weight, CONVOLVE: lambda x, weight: x},
    'other result': {REORDER: lambda weight, *_: weight, CONVOLVE: lambda *args: F.conv2d(*args[:7]) + 1},
}


@pytest.fixture(params=['available', *REPLACEMENTS])
def operators(request, monkeypatch):
    """The state of the private operators."""
    if request.param in REPLACEMENTS:
        monkeypatch.setattr(winograd, 'OPERATORS', types.SimpleNamespace(**REPLACEMENTS[request.param]))
    winograd.operators_work.cache_clear()
    yield request.param
    winograd.operators_work.cache_clear()


def test_the_private_operators_are_used_only_if_they_give_the_right_result(operators):
    assert winograd.operators_work() == (operators == 'available' and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('dilation, groups, padding', [((1, 1), 1, 0), ((3, 2), 1, 1), ((2, 1), 2, 2)])
def test_the_fast_convolution_equals_conv2d(operators, activation, dilation, groups, padding):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 32, 3, 3, generator=generator) / 20
    bias = torch.randn(40, generator=generator)
    op = Conv(weight, bias, groups, activation, stride=(1, 2), padding=(0, padding), dilation=dilation)
    fast = winograd.FastConvolution(op, winograd.operators_work())
    for tiles in (1, 5):
        frames = tiles * fast.unit + 2 * dilation[0]
        x = torch.randn(1, 32 * groups, frames, 13, generator=generator).contiguous(memory_format=torch.channels_last)
        expected = F.conv2d(x, weight, bias, op.stride, op.padding, dilation, groups)
        torch.testing.assert_close(fast(x), ACTIVATIONS[activation](expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['wide', 'wide_residual', 'grouped'])
def test_scores_do_not_depend_on_the_private_operators(operators, name):
    net = build_network(name)
    spect = random_spectrogram(net, 131)
    with torch.no_grad():
        torch.testing.assert_close(
            compiled.for_inference(net)(spect)['output'], net(spect)['output'], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize('name, count', [('plain', 0), ('wide', 2), ('grouped', 2)])
def test_the_fast_convolution_is_used_where_it_pays(monkeypatch, name, count):
    calls, fast = [], winograd.FastConvolution.__call__
    monkeypatch.setattr(winograd.FastConvolution, '__call__', lambda self, x: calls.append(self) or fast(self, x))
    net = build_network(name)
    compiled.for_inference(net).maps(random_spectrogram(net, 200))
    assert len(set(calls)) == count
