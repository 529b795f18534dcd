"""Networks compiled for prediction: same scores as as trained, in blocks of any size; what a network looks at."""

import pytest
import torch

from birdsong import config
from birdsong.files import Problem
from birdsong.networks import compiled, model

BASE = ['frame_len=256', 'mel_bands=30', 'mel_max=8000', 'arch.output=linear', 'arch.pool=logmeanexp:1']
PLAIN = 'conv:4x3x3,conv:5x3x3,pool:3x3,conv:6x3x-Shift,pool:3xShift,Conv:8x3x-1,Conv:7x1x1'
RESIDUAL = 'resblock_start:2x4x3x3,pool:3x3,resblock_end:2x6x3x3,conv:7x3x-Shift,pool:3xShift,Conv:8x3x-1,Conv:7x1x1'
NETWORKS = {
    'plain': [f'arch={PLAIN}'],
    'residual': [f'arch={RESIDUAL}'],
    'wide': ['arch=conv:32x3x3,conv:33x3x3,pool:3x3,conv:34x3x-3,Conv:40x5x-1,Conv:33x1x1'],
    'wide_residual': [
        'arch=resblock_start:1x32x3x3,pool:2x2,resblock_dilated_end:2x36x3x3,Conv:40x3x-1',
        'arch.conv_groups=1',
    ],
    'grouped': ['arch=conv:64x3x3,conv:64x3x3,conv:64x3x3', 'arch.conv_groups=2'],
    'strided': ['arch=conv:4x5x3x2x1,avgpool:4x2x3x2,conv:5x2x2x3x2,lme2pool:2x2'],
    'sparse': ['arch=conv:4x1x3x4x1,pool:2x2x3x2,conv:5x2x2'],
    'strided_residual': ['arch=resblock:2x4x3x3x2x2,resblock_dilated:1x6x5x3x3x1,conv:5x2x-1'],
    'residual_pool': ['arch=resblock:2x4x3x3x2x2,resblock:1x6x3x3x3x2,conv:5x2x-1', 'resnet.shortcut=pool'],
    'residual_slice': ['arch=resblock:2x4x3x3x2x2,resblock:1x6x3x3x3x2,conv:5x2x-1', 'resnet.shortcut=slice'],
    'no_batch_norm': [f'arch={RESIDUAL}', 'arch.batch_norm=0', 'arch.nonlin=elu'],
    'reeu': ['arch=conv:4x3x3', 'arch.nonlin=reeu'],
    'dense': ['arch=conv:4x3x3,groupdrop:2:0.3,dense:6,full:5', 'arch.nonlin=elu', 'arch.firstconv_meanfree=params'],
    'pcen': [f'arch={PLAIN}', 'magscale=pcen', 'filterbank=mel_learn', 'arch.nonlin=relu'],
    'log1p': [f'arch={PLAIN}', 'magscale=log1p_learn:-3', 'arch.prepool=logsoftmax', 'arch.nonlin=linear'],
    'attention': [f'arch={PLAIN}', 'magscale=pow_learn', 'arch.pool=attention:3', 'arch.prepool=sigmoid'],
    'bins': [f'arch={PLAIN}', 'magscale=log1p', 'filterbank=none', 'frame_len=128'],
}


def randomise(net, seed=0):
    """Parameters and running statistics as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith('inv_std') and 'front' not in name:
                tensor.copy_(0.5 + noise)
            elif name.endswith(('beta', 'bias', 'mean')) and 'front' not in name:
                tensor.copy_(noise - 0.5)
            elif name.endswith('gamma'):
                tensor.copy_(0.5 + noise)
            elif 'log_' in name or name.endswith('exponent'):
                tensor.add_(0.2 * noise)
        if net.audio:
            net.train()(random_spectrogram(net, 150, 4, seed), torch.zeros(4, net.num_meta))
            front = net.audio.front.standardise
            front.mean.mul_(10)
            front.inv_std.sub_(0.9).mul_(10)
    return net.eval()


def random_spectrogram(net, frames, batch=1, seed=0):
    return torch.rand(batch, frames, net.audio.front.bins, generator=torch.Generator().manual_seed(seed)) * 1e3


def build(name, *settings, num_meta=0):
    return randomise(model.build(config.load([], BASE + NETWORKS[name] + list(settings)), 3, num_meta))


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('batch', [1, 2])
def test_scores_are_those_of_the_network_as_trained(name, batch):
    net = build(name)
    fast = compiled.for_inference(net)
    assert isinstance(fast, compiled.FastNetwork)
    for frames in (net.min_frames, net.min_frames + 1, 131, 200):
        spect = random_spectrogram(net, max(frames, net.min_frames), batch)
        with torch.no_grad():
            expected, found = net(spect), fast(spect)
        assert set(found) == set(expected)
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('block', [1, 7, 64])
def test_blocks_join_without_a_seam(name, block):
    net = build(name)
    program = compiled.for_inference(net).program
    spect = random_spectrogram(net, 203)
    program.block = 1000
    whole = program(spect)
    program.block = block
    torch.testing.assert_close(program(spect), whole, rtol=1e-4, atol=3e-5)
    with torch.no_grad():
        torch.testing.assert_close(whole, net.maps(spect), rtol=1e-4, atol=1e-4)


def test_the_fast_convolution_is_used_where_it_pays(monkeypatch):
    used = []
    plain = compiled._convolve_fast
    monkeypatch.setattr(compiled, '_convolve_fast', lambda x, op: used.append(op['weight'].shape) or plain(x, op))
    compiled.for_inference(build('plain')).maps(random_spectrogram(build('plain'), 200))
    assert not used
    compiled.for_inference(build('wide')).maps(random_spectrogram(build('wide'), 200))
    assert len(used) == 2


def test_large_values_keep_their_precision():
    net = build('wide')
    with torch.no_grad():
        for layer in net.audio.layers:
            if hasattr(layer, 'norm'):
                layer.norm.gamma.mul_(5)
        spect = random_spectrogram(net, 300)
        expected = net.double()(spect.double())['logits']
        scale = expected.abs().max()
        found = compiled.for_inference(net.float())(spect)['logits']
    assert (found - expected).abs().max() < 2e-5 * scale


def test_parts_and_errors_are_those_of_the_network():
    net = build('plain', 'arch_meta=full:4', 'arch_meta.weight=0.5', num_meta=2)
    fast = compiled.for_inference(net)
    spect, meta = random_spectrogram(net, 150), torch.ones(1, 2)
    pooling = fast.pooling()
    pooling.add(fast.maps(spect[:, :100]))
    with torch.no_grad():
        expected = net.finish(net.pool(net.maps(spect[:, :100])), meta)['output']
        torch.testing.assert_close(fast.finish(pooling.result(), meta)['output'], expected, rtol=1e-4, atol=1e-4)
    assert (fast.min_frames, fast.frame_step, fast.classes) == (net.min_frames, net.frame_step, 3)
    with pytest.raises(Problem, match='too short'):
        fast.maps(spect[:, : net.min_frames - 1])
    with pytest.raises(Problem, match='bins'):
        fast.maps(spect[:, :, 1:])
    # a later change of the network is not meant to arrive; the network itself is left as it was
    assert not any(isinstance(m, compiled.CompiledNetwork) for m in vars(net).values())


def test_networks_that_cannot_be_compiled_predict_as_they_are():
    meta_only = model.build(config.load([], BASE + ['arch=', 'arch_meta=full:4']), 3, 2)
    assert compiled.for_inference(meta_only) is meta_only and not meta_only.training
    whole = model.build(config.load([], BASE + ['arch=conv:4x3x3,pool:-1x2']), 3)
    assert compiled.for_inference(whole) is whole


def test_mixed_precision_is_left_to_the_caller():
    net = build('attention')
    spect = random_spectrogram(net, 150)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found = compiled.for_inference(net)(spect)['output']
    with torch.no_grad():
        torch.testing.assert_close(found, net(spect)['output'], rtol=0.05, atol=0.05)


# == Saliency ==


def test_plain_saliency_is_the_gradient():
    net = build('plain', 'magscale=pow_learn', 'arch.nonlin=elu').double()
    spect = random_spectrogram(net, 60).double() + 1
    outputs, gradient = compiled.saliency(net, spect, 1, guided=False)
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
def test_guided_saliency_passes_positive_gradients_at_positive_inputs_alone(nonlin):
    net = build(
        'plain',
        'arch=Conv:4x1x-1,Conv:5x1x1',
        'magscale=none',
        'filterbank=none',
        'frame_len=32',
        f'arch.nonlin={nonlin}',
        'arch.pool=mean',
    ).double()
    spect = random_spectrogram(net, 6).double()
    expected, gradient = compiled.saliency(net, spect, 2)
    with torch.no_grad():
        x, inputs = net.audio.front(spect), []
        for layer in net.audio.layers:
            inputs.append(layer.norm(layer.linear(x)))
            x = layer(x)
        flow = net.audio.head.weight[2].view(1, -1, 1, 1).expand_as(inputs[1]) / 6
        for layer, before in reversed(list(zip(net.audio.layers, inputs))):
            flow = flow.clamp(min=0) * (before > 0) * (before.exp() if nonlin == 'reeu' else 1)
            flow = flow * layer.norm.folded()[0].view(1, -1, 1, 1)
            flow = torch.nn.functional.conv_transpose2d(flow, layer.linear.weight)
        flow = flow[:, 0] * net.audio.front.standardise.inv_std
    torch.testing.assert_close(gradient, flow)
    # and everything is as before afterwards
    _, plain = compiled.saliency(net, spect, 2, guided=False)
    assert not torch.allclose(plain, gradient)
    with torch.no_grad():
        torch.testing.assert_close(net(spect)['output'], expected['output'])


def test_saliency_of_silence_and_of_nonsense():
    net = build('attention', 'arch_meta=full:4', num_meta=2)
    _, gradient = compiled.saliency(net, torch.zeros(1, 60, net.audio.front.bins), 0, torch.zeros(1, 2))
    assert torch.isfinite(gradient).all()
    for index in (-1, 3):
        with pytest.raises(Problem, match='classes 0 to 2'):
            compiled.saliency(net, torch.zeros(1, 60, net.audio.front.bins), index, torch.zeros(1, 2))
    with pytest.raises(Problem, match='metadata alone'):
        compiled.saliency(model.build(config.load([], ['arch=', 'arch_meta=full:4']), 3, 2), None, 0, torch.zeros(1, 2))
