"""Layers against the original's: outputs, gradients, running statistics, initialisation, errors."""

import re

import numpy as np
import pytest
import torch

from birdsong import config
from birdsong.files import Problem
from birdsong.networks import architecture, frontend, layers, model, pooling

GOLDEN = (
    'layers/arch_Conv',
    'layers/arch_avgpool',
    'layers/arch_avgpool_stride',
    'layers/arch_conv',
    'layers/arch_conv_elu',
    'layers/arch_conv_groups',
    'layers/arch_conv_groups_bad',
    'layers/arch_conv_meanfree',
    'layers/arch_conv_neg',
    'layers/arch_conv_neg3',
    'layers/arch_conv_nobn',
    'layers/arch_conv_reeu',
    'layers/arch_conv_relu',
    'layers/arch_conv_stride',
    'layers/arch_convdrop_channels',
    'layers/arch_convdrop_groups',
    'layers/arch_dense_after_conv',
    'layers/arch_dense_after_groups',
    'layers/arch_groupdrop',
    'layers/arch_lme0.5pool',
    'layers/arch_lme1pool',
    'layers/arch_lme5pool',
    'layers/arch_pool',
    'layers/arch_pool_2x1',
    'layers/arch_pool_neg',
    'layers/arch_pool_stride',
    'layers/attention_pool',
    'layers/attention_pool_freq3',
    'layers/bn_conv',
    'layers/bn_dense',
    'layers/bn_spect',
    'layers/bn_tiny_variance',
    'layers/globalmax',
    'layers/log',
    'layers/log1p_learn',
    'layers/logmeanexp_1',
    'layers/logmeanexp_5',
    'layers/melbank',
    'layers/melbank_fixed',
    'layers/melbank_init',
    'layers/noisy_or',
    'layers/pcen',
    'layers/pow_learn',
    'layers/pow_plain',
    'layers/res_actbug_plain',
    'layers/res_actbug_start',
    'layers/res_dilated',
    'layers/res_dilated5x3',
    'layers/res_end',
    'layers/res_even',
    'layers/res_fewer',
    'layers/res_fewer_pool',
    'layers/res_nobn',
    'layers/res_plain',
    'layers/res_pool',
    'layers/res_same',
    'layers/res_slice',
    'layers/res_start',
    'layers/res_startend',
    'layers/res_stride1_2units',
    'layers/res_stride1_2units_same',
    'layers/res_stride_1unit',
    'layers/res_stride_2units',
    'layers/resunit_stride2_pool',
    'layers/resunit_stride2_project',
    'layers/resunit_stride2_slice',
    'layers/spatial_logsoftmax',
    'layers/spatial_softmax',
    'misc/orthogonal_init',
)
ARCHES = [case for case in GOLDEN if re.match('layers/(arch|res)_', case)]
FAILING = {'layers/arch_conv_groups_bad', 'layers/res_even'}
MENDED = {
    'layers/arch_dense_after_groups',
    'layers/res_stride1_2units',
    'layers/res_stride1_2units_same',
    'layers/res_stride_1unit',
    'layers/res_stride_2units',
}
RNG = np.random.default_rng(0)


def make(arch, *settings, channels=4, bands=14):
    """The layers of an architecture string, ready to predict, and their Chain."""
    cfg = config.load([], [f'arch={arch}', *(s for setting in settings for s in setting.split())])
    chain = architecture.Chain(channels, bands)
    return torch.nn.Sequential(
        *architecture.make_layers(architecture.parse(cfg), cfg, 'arch', chain, RNG)
    ).eval(), chain


def fill(module, arrays, prefix='param'):
    """Set a module's arrays to those of the original; all must be used."""
    slots = list(model._slots(module))
    assert len(slots) == sum(k.startswith(prefix) for k in arrays)
    for i, (name, owner, own, tensor) in enumerate(slots):
        array = arrays[f'{prefix}{int(i)}']
        array = owner.from_original(own, array) if hasattr(owner, 'from_original') else array
        assert array.shape == tuple(tensor.shape), name
        tensor.copy_(torch.from_numpy(np.array(array)))
    return module.double()


def gradients(module):
    """Gradients of a module's parameters in the original's layout, by their number."""
    parameters = dict(module.named_parameters())
    return {
        i: getattr(owner, 'to_original', lambda own, a: a)(own, parameters[name].grad.numpy())
        for i, (name, owner, own, _) in enumerate(model._slots(module))
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
        close(value.grad, arrays[f'grad_x{int(i)}'], tolerance)
    ours = gradients(module) if module is not None else {}
    theirs = {int(k[10:]) for k in arrays if k.startswith('grad_param')}
    assert set(ours) == theirs
    for i in theirs:
        close(ours[i], arrays[f'grad_param{int(i)}'], tolerance)


@pytest.mark.parametrize('case', [c for c in ARCHES if c not in FAILING | MENDED])
def test_architecture_string_computes_what_the_original_does(golden, case):
    description, arrays = golden(case)
    net, chain = make(description['arch'], *description['settings'])
    fill(net, arrays)
    check(net, net, arrays, squeeze=arrays['out'].ndim == 2)
    assert chain.channels == arrays['out'].shape[1]
    if arrays['out'].ndim == 4:
        assert chain.bands == arrays['out'].shape[3]


@pytest.mark.parametrize(
    'case, named',
    [
        (
            'layers/arch_conv_groups_bad',
            'arch, layer 3 of 3, layer Conv:6x2x-1: 8 channels in and 6 out cannot both be parted into arch.dense_groups=3',
        ),
        ('layers/res_even', 'arch, layer 1 of 1, layer resblock:1x6x2x2.*odd'),
    ],
)
def test_impossible_architectures_are_refused_as_in_the_original(golden, case, named):
    description, _ = golden(case)
    with pytest.raises(Problem, match=named):
        make(description['arch'], *description['settings'])


def test_groups_of_convolutions_do_not_leak_into_dense_layers(golden):
    description, _ = golden('layers/arch_dense_after_groups')
    net, chain = make(description['arch'], *description['settings'])
    assert net(torch.zeros(2, 4, 12, 14)).shape == (2, 5, 12, 1)
    assert net[1].linear.groups == 2


def test_dense_layers_apply_at_each_time_step():
    net, _ = make('dense:5', channels=3, bands=4)
    x = torch.randn(2, 3, 7, 4)
    together = net(x)
    for t in range(7):
        torch.testing.assert_close(together[:, :, t : t + 1], net(x[:, :, t : t + 1]))


@pytest.mark.parametrize(
    'case', ['layers/res_stride_2units', 'layers/res_stride1_2units', 'layers/res_stride1_2units_same']
)
@pytest.mark.parametrize('shortcut', ['project', 'pool', 'slice'])
def test_strides_of_residual_blocks_work(golden, case, shortcut):
    description, _ = golden(case)
    stride = int(description['arch'][-1])
    net, chain = make(description['arch'], f'resnet.shortcut={shortcut}')
    out = net(torch.randn(2, 4, 13, 14))
    assert out.shape == (2, chain.channels, -(-13 // stride), 14 // stride)
    assert chain.bands == 14 // stride


def test_stride_of_a_single_residual_unit_is_taken_and_without_it_all_is_as_the_original(golden):
    description, arrays = golden('layers/res_stride_1unit')
    net, _ = make(description['arch'].replace('x2x2', ''))
    check(fill(net, arrays), net, arrays)
    strided, _ = make(description['arch'])
    assert strided(torch.zeros(2, 4, 12, 14)).shape == (2, 8, 6, 7)


@pytest.mark.parametrize('shortcut', ['pool', 'project', 'slice'])
def test_strided_residual_unit(golden, shortcut):
    _, arrays = golden(f'layers/resunit_stride2_{shortcut}')
    unit = fill(layers.ResidualUnit(4, 8, (3, 3), RNG, (2, 2), shortcut=shortcut).eval(), arrays)
    check(unit, unit, arrays)


@pytest.mark.parametrize('name', ['bn_conv', 'bn_dense', 'bn_spect', 'bn_tiny_variance'])
def test_batch_normalisation_averages_mean_and_inverse_standard_deviation(golden, name):
    _, arrays = golden(f'layers/{name}')
    channels = arrays['before0'].size
    norm = layers.Standardise(channels) if name == 'bn_spect' else layers.BatchNorm(channels)
    fill(norm, arrays, 'before').train()
    x = [torch.from_numpy(arrays[k].astype('f8')) for k in ('x0', 'x1')]
    if name == 'bn_spect':
        run = lambda x: norm(x[:, 0])[:, None]
    else:
        run = norm
    tolerance = 2e-4 if name == 'bn_tiny_variance' else 5e-6
    x[0].requires_grad_()
    out = run(x[0])
    close(out, arrays['train_out0'], tolerance)
    (out * torch.from_numpy(arrays['R'])).sum().backward()
    close(x[0].grad, arrays['grad_x'], tolerance)
    for i, gradient in gradients(norm).items():
        close(gradient, arrays[f'grad_param{int(i)}'], tolerance)
    for number, batch in ((1, None), (2, x[1])):
        if batch is not None:
            close(run(batch), arrays['train_out1'], tolerance)
        for i, array in enumerate(model.original_arrays(norm)):
            close(array, arrays[f'after_{int(number)}_{int(i)}'], tolerance)
    norm.eval()
    close(run(x[0]), arrays['determ_out'], tolerance)


def test_batch_normalisation_in_mixed_precision_keeps_its_statistics_in_float32():
    norm = layers.BatchNorm(3).train()
    x = torch.randn(8, 3, 5, 4) * 3 + 1
    with torch.autocast('cpu', torch.bfloat16):
        out = norm(x.bfloat16())
    assert out.dtype == torch.bfloat16 and norm.mean.dtype == torch.float32
    torch.testing.assert_close(norm.mean, 0.1 * x.bfloat16().float().mean((0, 2, 3)), atol=1e-4, rtol=1e-4)


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
    if name == 'pow_learn':  # where x is 0 the original's gradient is infinite, ours 0
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
def test_initial_value_of_a_learnt_scale(setting, parameter):
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
def test_learnt_filterbank(golden, name):
    _, arrays = golden(f'layers/{name}')
    cfg = config.load(
        [], ['frame_len=256', 'mel_bands=40', 'mel_max=10000', 'arch.mel_trainable=%d' % (name != 'melbank_fixed')]
    )
    bank = frontend.LearnableMelBank(cfg)
    if name == 'melbank_init':
        close(model.original_arrays(bank)[0], arrays['param0'])
    # the original's own float32 and float64 differ by 1e-5 here
    check(fill(bank, arrays), bank, arrays, 2e-5)


def test_random_spread_scales_all_peaks_alike():
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


@pytest.mark.parametrize(
    'name, pool',
    [
        ('globalmax', 'max'),
        ('logmeanexp_1', 'logmeanexp:1'),
        ('logmeanexp_5', 'logmeanexp:5'),
        ('noisy_or', 'noisy-or'),
    ],
)
def test_global_pooling(golden, name, pool):
    _, arrays = golden(f'layers/{name}')
    check(pooling.GlobalPool(pool), None, arrays)


@pytest.mark.parametrize('name', ['attention_pool', 'attention_pool_freq3'])
def test_attention_pooling(golden, name):
    _, arrays = golden(f'layers/{name}')
    pool = pooling.GlobalPool(f'attention:{int(arrays["x1"].shape[1])}')
    check(lambda x, attention: pool(torch.cat([x, attention], 1)), None, arrays)


@pytest.mark.parametrize('name', ['softmax', 'logsoftmax'])
def test_nonlinearity_over_classes_before_pooling(golden, name):
    _, arrays = golden(f'layers/spatial_{name}')
    check(layers.PREPOOL[name], None, arrays)


@pytest.mark.parametrize(
    'pool', ['max', 'mean', 'logmeanexp:1', 'logmeanexp:5', 'noisy-or', 'attention:2', 'attention_nopool:2', 'none']
)
@pytest.mark.parametrize('bands', [1, 3])
def test_pooling_block_by_block_equals_pooling_at_once(pool, bands):
    generator = torch.Generator().manual_seed(0)
    maps = (
        torch.rand(2, 6, 50, bands, generator=generator)
        if pool == 'noisy-or'
        else 30 * torch.randn(2, 6, 50, bands, generator=generator)
    )
    pool = pooling.GlobalPool(pool)
    streaming = pool.streaming()
    for start, stop in ((0, 1), (1, 20), (20, 27), (27, 50)):
        streaming.add(maps[:, :, start:stop])
    torch.testing.assert_close(streaming.result(), pool(maps), rtol=1e-5, atol=1e-5)


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
def test_what_shares_one_draw_of_dropout(kind, shape):
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


@pytest.mark.parametrize(
    'arch, message',
    [
        ('conv:8x3x15', 'layer 1 of 1, layer conv:8x3x15: nothing is left of 4 channels x time x 14 bands'),
        ('conv:8x3x-15', 'nothing is left'),
        ('pool:3x3,conv:8x3x5', 'layer 2 of 2.*4 channels x time x 4 bands'),
        ('conv:8x-1x3', 'fixed length in time'),
        ('conv:0x3x3', 'filter'),
        ('conv:8', 'sizes'),
        ('conv:8x3x3x2', 'sizes'),
        ('conv:8xax3', 'whole numbers'),
        ('konv:8x3x3', "no layer 'konv'"),
        ('resblock_begin:1x8x3x3', 'no layer'),
        ('groupdrop:3:0.5', '4 channels cannot be parted into 3 groups'),
        ('groupdrop:2', 'RATE'),
        ('lme0pool:2x2', 'sharpness'),
        ('conv:8x3x3,,pool:2x2', 'layer 2 of 3'),
    ],
)
def test_impossible_layers_are_named(arch, message):
    with pytest.raises(Problem, match=message):
        make(arch)


def test_the_stride_of_a_residual_block_may_be_one_number():
    one, chain = make('resblock:2x4x3x3x2')
    two, expected = make('resblock:2x4x3x3x2x2')
    two.load_state_dict(one.state_dict())
    x = torch.rand(1, 4, 9, 14)
    assert torch.equal(one(x), two(x)) and (chain.channels, chain.bands) == (expected.channels, expected.bands) == (
        4,
        7,
    )


def test_pooling_over_all_of_time():
    net, _ = make('pool:-1x2')
    assert net(torch.zeros(1, 4, 9, 14)).shape == (1, 4, 1, 7)
    assert net(torch.zeros(1, 4, 5, 14)).shape == (1, 4, 1, 7)


def test_magnitudes_equal_the_front_end_on_the_host():
    from birdsong.data import stft

    cfg = config.load([], ['mel_max=10000'])
    samples = (np.random.default_rng(0).normal(0, 3000, 22050)).astype(np.int16)
    expected = stft.spectrogram(samples, cfg['sample_rate'], cfg['frame_len'], cfg['fps'], bins=stft.num_bins(cfg))
    found = frontend.Magnitudes(cfg)(torch.from_numpy(np.stack([samples, samples[::-1]])))
    assert found.shape == (2,) + expected.shape and found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4, atol=0.05)
    assert frontend.Magnitudes(cfg)(torch.zeros(2, 1023, dtype=torch.int16)).shape == (2, 0, 465)


def test_batch_statistics_are_exact_whatever_the_memory_layout():
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
