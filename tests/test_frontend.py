"""The input stage: magnitudes, filterbanks and magnitude scales, against the original."""

import numpy as np
import pytest
import torch
from golden_layers import check, close, fill

from birdsong import config
from birdsong.data import stft
from birdsong.files import Problem
from birdsong.networks import compiled, fcn, frontend, model

GOLDEN = (
    'layers/log',
    'layers/log1p_learn',
    'layers/melbank',
    'layers/melbank_fixed',
    'layers/melbank_init',
    'layers/pcen',
    'layers/pow_learn',
    'layers/pow_plain',
)
SMALL = [
    'frame_len=256',
    'mel_bands=20',
    'mel_max=8000',
    'arch=conv:4x3x3,Conv:5x3x-1',
    'arch.pool=logmeanexp:1',
    'arch.output=linear',
]


@pytest.mark.parametrize(
    'name, settings',
    [
        ('log', 'magscale=log'),
        ('log1p_learn', 'magscale=log1p_learn'),
        ('pcen', 'magscale=pcen'),
        ('pow_learn', 'magscale=pow_learn'),
    ],
)
def test_magnitude_scales(golden, name, settings):
    _, arrays = golden(f'layers/{name}')
    scale = fill(frontend.make_magnitude_scale(config.load([], [settings]), 10), arrays)
    tolerance = 5e-6
    if name == 'pow_learn':  # if x is 0, the gradient of the original is infinite, ours is 0
        zeros = arrays['x0'] == 0
        assert zeros.any() and not np.isfinite(arrays['grad_x0'][zeros]).any()
        arrays['grad_x0'][zeros] = 0
    if name == 'pcen':
        tolerance = 2e-5
    check(lambda x: scale(x[:, 0])[:, None], scale, arrays, tolerance)


def test_power_with_a_plain_exponent(golden):
    _, arrays = golden('layers/pow_plain')
    x = torch.from_numpy(arrays['x0'].astype('f8')).requires_grad_()
    exponent = torch.tensor(float(arrays['param0']), dtype=torch.double, requires_grad=True)
    out = frontend.power(x, exponent)
    close(out, arrays['out'], 1e-5)
    (out * torch.from_numpy(arrays['R'])).sum().backward()
    close(x.grad, arrays['grad_x0'], 1e-5)
    close(exponent.grad, arrays['grad_param0'], 1e-5)


@pytest.mark.parametrize(
    'setting, parameter',
    [
        ('log1p_learn0.5', 0.5),
        ('log1p_learn:-2', -2),
        ('log1p_learn', 0),
        ('pow_learn', 0),
        ('pow_learn:0.5', 0.5),
        ('pow_learn0.5', 0.5),
    ],
)
def test_initial_value_of_a_learnable_scale(setting, parameter):
    scale = frontend.make_magnitude_scale(config.load([], [f'magscale={setting}']), 10)
    assert [p.item() for p in scale.parameters()] == [parameter]


@pytest.mark.parametrize('steps', [1, 2, 31, 32, 33, 64, 65, 1025, 2000])
def test_smoother_of_pcen_equals_its_recursion(steps):
    pcen = frontend.PCEN(3).double()
    with torch.no_grad():
        pcen.log_s.copy_(torch.log(torch.tensor([0.025, 0.5, 1.2])))
    x = torch.rand(2, steps, 3, dtype=torch.double)
    s = pcen.log_s.exp()
    expected = [x[:, 0]]
    for t in range(1, steps):
        expected.append((1 - s) * expected[-1] + s * x[:, t])
    torch.testing.assert_close(pcen.smooth(x), torch.stack(expected, 1), rtol=1e-9, atol=1e-9)


def test_alpha_of_pcen_can_be_fixed():
    scale = frontend.make_magnitude_scale(config.load([], ['magscale=pcen', 'pcen_fix_alpha=1']), 10)
    assert [n for n, p in scale.named_parameters() if not p.requires_grad] == ['log_alpha']
    assert list(scale.state_dict()) == ['log_s', 'log_alpha', 'log_delta', 'log_r']


@pytest.mark.parametrize('name', ['melbank', 'melbank_init', 'melbank_fixed'])
def test_learnable_filterbank(golden, name):
    _, arrays = golden(f'layers/{name}')
    trainable = int(name != 'melbank_fixed')
    cfg = config.load([], ['frame_len=256', 'mel_bands=40', 'mel_max=10000', f'arch.mel_trainable={trainable}'])
    bank = frontend.LearnableMelBank(cfg)
    if name == 'melbank_init':
        close(model.original_arrays(bank)[0], arrays['param0'])
    # float32 and float64 of the original differ by 1e-5 here
    check(fill(bank, arrays), bank, arrays, 2e-5)


def test_random_spread_scales_all_peaks_by_the_same_factor():
    bank = frontend.LearnableMelBank(
        config.load([], ['filterbank=mel_learn', 'arch.mel_rndspread=0.1', 'mel_max=8000'])
    )
    torch.manual_seed(1)
    assert torch.equal(bank.eval().filterbank(), bank.filterbank())
    drawn = bank.train().filterbank()
    still = bank.eval().filterbank()
    # the last band's support ends at its right peak
    ratio = (drawn > 0).any(1).nonzero().max().item() / (still > 0).any(1).nonzero().max().item()
    assert 0.89 < ratio < 1.11 and not torch.equal(drawn, still)


def test_magnitudes_equal_the_spectrogram_computed_by_the_feed():
    cfg = config.load([], ['mel_max=10000'])
    samples = (np.random.default_rng(0).normal(0, 3000, 22050)).astype(np.int16)
    expected = stft.spectrogram(samples, cfg['sample_rate'], cfg['frame_len'], cfg['fps'], bins=stft.num_bins(cfg))
    found = frontend.Magnitudes(cfg)(torch.from_numpy(np.stack([samples, samples[::-1]])))
    assert found.shape == (2,) + expected.shape and found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4, atol=0.05)
    assert frontend.Magnitudes(cfg)(torch.zeros(2, 1023, dtype=torch.int16)).shape == (2, 0, 465)


def build(*settings):
    net = model.build(config.load([], SMALL + list(settings)), 3)
    return net.eval()


def spectrogram(net, frames=40):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, frames, net.audio.front.bins, generator=generator) * 1e4 + 1


def test_a_network_with_band_centre_does_not_depend_on_the_gain():
    net = build('band_centre=1')
    spect = spectrogram(net)
    torch.testing.assert_close(net(spect * 30)['output'], net(spect)['output'], rtol=1e-4, atol=1e-4)
    plain = build()
    assert (plain(spect * 30)['output'] - plain(spect)['output']).abs().max() > 1e-2


def test_band_centre_subtracts_the_mean_of_each_excerpt():
    net = build('band_centre=1')
    found = net.audio.front(spectrogram(net))
    np.testing.assert_allclose(found.mean(2).detach(), 0, atol=1e-5)
    spect = spectrogram(net)
    torch.testing.assert_close(net(spect)['output'][:1], net(spect[:1])['output'])


def test_bands_are_not_centred_by_default():
    net = build()
    assert net.audio.front(spectrogram(net)).mean(2).abs().max() > 1


def test_a_network_with_band_centre_is_not_compiled():
    net = build('band_centre=1')
    spect = spectrogram(net)
    with torch.no_grad():
        torch.testing.assert_close(compiled.for_inference(net)(spect)['output'], net(spect)['output'])


def test_a_network_with_band_centre_has_no_fully_convolutional_form():
    with pytest.raises(Problem, match='band_centre=1.*complete excerpts') as caught:
        fcn.to_fcn(build('band_centre=1'), 1)
    assert '\n' not in str(caught.value)
