"""band_centre=1: the input stage takes away what is steady in an excerpt."""

import numpy as np
import pytest
import torch

from birdsong import config
from birdsong.files import Problem
from birdsong.networks import compiled, fcn, model

SETTINGS = [
    'frame_len=256',
    'mel_bands=20',
    'mel_max=8000',
    'arch=conv:4x3x3,Conv:5x3x-1',
    'arch.pool=logmeanexp:1',
    'arch.output=linear',
]


def build(*settings):
    net = model.build(config.load([], SETTINGS + list(settings)), 3)
    return net.eval()


def spectrogram(net, frames=40):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, frames, net.audio.front.bins, generator=generator) * 1e4 + 1


def test_gain_changes_nothing_for_a_network_that_centres():
    net = build('band_centre=1')
    spect = spectrogram(net)
    torch.testing.assert_close(net(spect * 30)['output'], net(spect)['output'], rtol=1e-4, atol=1e-4)
    plain = build()
    assert (plain(spect * 30)['output'] - plain(spect)['output']).abs().max() > 1e-2


def test_each_excerpt_is_centred_by_itself():
    net = build('band_centre=1')
    found = net.audio.front(spectrogram(net))
    np.testing.assert_allclose(found.mean(2).detach(), 0, atol=1e-5)
    spect = spectrogram(net)
    torch.testing.assert_close(net(spect)['output'][:1], net(spect[:1])['output'])


def test_the_default_is_not_to_centre():
    net = build()
    assert net.audio.front(spectrogram(net)).mean(2).abs().max() > 1


def test_prediction_is_by_the_network_as_it_is():
    net = build('band_centre=1')
    spect = spectrogram(net)
    with torch.no_grad():
        torch.testing.assert_close(compiled.for_inference(net)(spect)['output'], net(spect)['output'])


def test_there_is_no_score_at_every_frame():
    with pytest.raises(Problem, match='band_centre=1.*whole') as caught:
        fcn.to_fcn(build('band_centre=1'), 1)
    assert '\n' not in str(caught.value)
