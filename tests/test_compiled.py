"""Compiled networks: they give the scores of the trained network, for blocks of any size."""

import pytest
import torch

from birdsong import config
from birdsong.files import Problem
from birdsong.networks import compiled, compiler, model
from helpers import NETWORK_SETTINGS, NETWORKS, build_network, random_spectrogram


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('batch', [1, 2])
def test_scores_are_those_of_the_trained_network(name, batch):
    net = build_network(name)
    fast = compiled.for_inference(net)
    assert isinstance(fast, compiled.InferenceNetwork)
    for frames in (net.min_frames, net.min_frames + 1, 131, 200):
        spect = random_spectrogram(net, max(frames, net.min_frames), batch)
        with torch.no_grad():
            expected, found = net(spect), fast(spect)
        assert set(found) == set(expected)
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('block', [1, 7, 64])
def test_maps_do_not_depend_on_the_size_of_blocks(name, block):
    net = build_network(name)
    program = compiled.for_inference(net).compiled
    spect = random_spectrogram(net, 203)
    program.block = 1000
    whole = program(spect)
    program.block = block
    torch.testing.assert_close(program(spect), whole, rtol=1e-4, atol=3e-5)
    with torch.no_grad():
        torch.testing.assert_close(whole, net.maps(spect), rtol=1e-4, atol=1e-4)


def test_large_values_keep_their_precision():
    net = build_network('wide')
    with torch.no_grad():
        for layer in net.audio.layers:
            if hasattr(layer, 'norm'):
                layer.norm.gamma.mul_(5)
        spect = random_spectrogram(net, 300)
        expected = net.double()(spect.double())['logits']
        scale = expected.abs().max()
        found = compiled.for_inference(net.float())(spect)['logits']
    assert (found - expected).abs().max() < 2e-5 * scale


def test_interface_and_errors_are_those_of_the_trained_network():
    net = build_network('plain', 'arch_meta=full:4', 'arch_meta.weight=0.5', num_meta=2)
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


def test_a_network_that_cannot_be_compiled_is_used_as_it_is():
    meta_only = model.build(config.load([], NETWORK_SETTINGS + ['arch=', 'arch_meta=full:4']), 3, 2)
    assert compiled.for_inference(meta_only) is meta_only and not meta_only.training
    whole = model.build(config.load([], NETWORK_SETTINGS + ['arch=conv:4x3x3,pool:-1x2']), 3)
    assert compiled.for_inference(whole) is whole


class Unknown(torch.nn.Module):
    """A layer that the compiler does not know."""

    def forward(self, x):
        return 2 * x


def test_a_layer_without_an_operation_is_refused_and_the_network_is_used_as_it_is():
    spect = random_spectrogram(build_network('plain'), 100)
    for place in ('layers', 'scale', 'filterbank'):
        net = build_network('plain')
        if place == 'layers':
            net.audio.layers.insert(1, Unknown())
        else:
            setattr(net.audio.front, place, torch.nn.Sequential(getattr(net.audio.front, place), Unknown()))
        for dense in (False, True):
            with pytest.raises(Problem, match='(Unknown|Sequential): there is no operation for such a layer'):
                compiler.compile_network(net, dense)
        assert compiled.for_inference(net) is net and net(spect)['output'].shape == (1, 3)


def test_compiled_networks_work_in_mixed_precision():
    net = build_network('attention')
    spect = random_spectrogram(net, 150)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found = compiled.for_inference(net)(spect)['output']
    with torch.no_grad():
        torch.testing.assert_close(found, net(spect)['output'], rtol=0.05, atol=0.05)
