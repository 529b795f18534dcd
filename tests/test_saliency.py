"""Saliency: plain gradients and guided backpropagation."""

import pytest
import torch

from birdsong import config
from birdsong.files import Problem
from birdsong.networks import model
from birdsong.prediction.saliency import saliency
from helpers import build_network, random_spectrogram


def test_plain_saliency_is_the_gradient():
    net = build_network('plain', 'magscale=pow_learn', 'arch.nonlin=elu').double()
    spect = random_spectrogram(net, 60).double() + 1
    outputs, gradient = saliency(net, spect, 1, guided=False)
    assert gradient.shape == spect.shape and not outputs['output'].requires_grad
    for position in ((0, 20, 7), (0, 41, 3)):
        moved = []
        for step in (-1e-3, 1e-3):
            other = spect.clone()
            other[position] += step
            with torch.no_grad():
                moved.append(net(other)['logits'][0, 1])
        assert gradient[position].item() == pytest.approx((moved[1] - moved[0]).item() / 2e-3, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize('nonlin', ['lrelu', 'relu', 'elu', 'reeu'])
def test_guided_saliency_passes_only_positive_gradients_at_positive_inputs(nonlin):
    net = build_network(
        'plain',
        'arch=Conv:4x1x-1,Conv:5x1x1',
        'magscale=none',
        'filterbank=none',
        'frame_len=32',
        f'arch.nonlin={nonlin}',
        'arch.pool=mean',
    ).double()
    spect = random_spectrogram(net, 6).double()
    expected, gradient = saliency(net, spect, 2)
    with torch.no_grad():
        x, inputs = net.audio.front(spect), []
        for layer in net.audio.layers:
            inputs.append(layer.norm(layer.linear(x)))
            x = layer(x)
        flow = net.audio.head.weight[2].view(1, -1, 1, 1).expand_as(inputs[1]) / 6
        for layer, before in reversed(list(zip(net.audio.layers, inputs, strict=True))):
            flow = flow.clamp(min=0) * (before > 0) * (before.exp() if nonlin == 'reeu' else 1)
            flow = flow * layer.norm.folded()[0].view(1, -1, 1, 1)
            flow = torch.nn.functional.conv_transpose2d(flow, layer.linear.weight)
        flow = flow[:, 0] * net.audio.front.standardise.inv_std
    torch.testing.assert_close(gradient, flow)
    # afterwards, the network is unchanged
    _, plain = saliency(net, spect, 2, guided=False)
    assert not torch.allclose(plain, gradient)
    with torch.no_grad():
        torch.testing.assert_close(net(spect)['output'], expected['output'])


def test_saliency_of_silence_and_of_nonsense():
    net = build_network('attention', 'arch_meta=full:4', num_meta=2)
    _, gradient = saliency(net, torch.zeros(1, 60, net.audio.front.bins), 0, torch.zeros(1, 2))
    assert torch.isfinite(gradient).all()
    for index in (-1, 3):
        with pytest.raises(Problem, match='expected 0 to 2'):
            saliency(net, torch.zeros(1, 60, net.audio.front.bins), index, torch.zeros(1, 2))
    with pytest.raises(Problem, match='metadata alone'):
        saliency(model.build(config.load([], ['arch=', 'arch_meta=full:4']), 3, 2), None, 0, torch.zeros(1, 2))
