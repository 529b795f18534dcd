"""Networks: outputs for files of the original, reading and writing, initialisation, the 37 published networks."""

import numpy as np
import pytest
import torch

from birdsong import config, files
from birdsong.files import Problem
from birdsong.networks import layers, model

NETS = (
    'attention_nopool',
    'combined',
    'dummy_att16',
    'dummy_lme1',
    'ismir2016',
    'log1p_learn_groups',
    'mel_learn_pcen',
    'mel_learn_pow',
    'meta_bn_drop',
    'meta_date12_time3',
    'meta_dtenc12',
    'meta_dtenc3',
    'meta_nodate_dtenc3',
    'noisy_or',
    'output_bg',
    'resnet1_att16',
    'resnet1_lme1',
)
GOLDEN = (
    'experiments',
    'nets/attention_nopool.out',
    'nets/attention_nopool.out64',
    'nets/combined.out',
    'nets/combined.out64',
    'nets/dummy_att16.out',
    'nets/dummy_att16.out64',
    'nets/dummy_lme1.out',
    'nets/dummy_lme1.out64',
    'nets/input_spect',
    'nets/ismir2016.out',
    'nets/ismir2016.out64',
    'nets/log1p_learn_groups.out',
    'nets/log1p_learn_groups.out64',
    'nets/mel_learn_pcen.out',
    'nets/mel_learn_pcen.out64',
    'nets/mel_learn_pow.out',
    'nets/mel_learn_pow.out64',
    'nets/meta_bn_drop.out',
    'nets/meta_bn_drop.out64',
    'nets/meta_date12_time3.out',
    'nets/meta_date12_time3.out64',
    'nets/meta_dtenc12.out',
    'nets/meta_dtenc12.out64',
    'nets/meta_dtenc3.out',
    'nets/meta_dtenc3.out64',
    'nets/meta_nodate_dtenc3.out',
    'nets/meta_nodate_dtenc3.out64',
    'nets/noisy_or.out',
    'nets/noisy_or.out64',
    'nets/output_bg.out',
    'nets/output_bg.out64',
    'nets/resnet1_att16.out',
    'nets/resnet1_att16.out64',
    'nets/resnet1_lme1.out',
    'nets/resnet1_lme1.out64',
)
# twice the difference between float32 and float64 in the original, because both sides have rounding errors
TOLERANCE = {'mel_learn_pow': 4e-5, 'mel_learn_pcen': 4e-4}
SMALL = [
    'arch=conv:4x3x3,pool:3x3,conv:5x3x-Shift,pool:3xShift,Conv:Fullx3x-1',
    'arch.fullsize=6',
    'mel_bands=20',
    'frame_len=256',
    'arch.pool=logmeanexp:1',
    'arch.output=softmax',
]


def load_original(golden, filename, arrays, **overrides):
    """A network of the original, ready to predict, and its inputs."""
    cfg = dict(config.load([f'{filename}.vars']), **overrides)
    meta = torch.from_numpy(arrays['meta']) if 'meta' in arrays else None
    net = model.build(cfg, cfg['classes'], 0 if meta is None else meta.shape[1])
    model.load(net, filename)
    spect = (
        torch.from_numpy(golden('nets/input_spect')[1]['spect'])[:, :, : net.audio.front.bins] if net.audio else None
    )
    return net.eval(), spect, meta


def small(*settings, classes=3, num_meta=0):
    return model.build(config.load([], SMALL + list(settings)), classes, num_meta).eval()


@pytest.mark.parametrize('name', NETS)
def test_outputs_equal_the_originals(golden, golden_net, name):
    _, arrays = golden(f'nets/{name}.out')
    tolerance = TOLERANCE.get(name, 8e-6)
    net, spect, meta = load_original(golden, golden_net(f'nets/{name}'), arrays)
    with torch.no_grad():
        for output in ('linear', 'sigmoid', 'softmax'):
            if f'out_{output}' not in arrays:
                continue
            net.cfg['arch.output'] = output
            outputs = net(spect, meta)
            expected = arrays[f'out_{output}']
            np.testing.assert_allclose(
                outputs['output'].numpy(), expected.reshape(outputs['output'].shape), atol=tolerance, rtol=tolerance
            )
            side = arrays.get(f'out_{output}_side1')
            if side is not None:
                found = outputs['output_bg' if name == 'output_bg' else 'attention']
                np.testing.assert_allclose(found.numpy(), side.reshape(found.shape), atol=tolerance, rtol=tolerance)
        if net.audio:
            np.testing.assert_allclose(
                net.audio.front(spect)[:, :, ::8].numpy(), arrays['after_first_bn'], atol=2e-4, rtol=2e-4
            )
        if net.audio and net.cfg['arch.prepool'] == 'none':
            np.testing.assert_allclose(net.maps(spect).numpy(), arrays['before_pool'], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize('name', NETS)
def test_outputs_in_double_precision_equal_the_originals(golden, golden_net, name):
    _, arrays = golden(f'nets/{name}.out')
    _, precise = golden(f'nets/{name}.out64')
    net, spect, meta = load_original(golden, golden_net(f'nets/{name}'), arrays, **{'arch.output': 'linear'})
    net.double()
    with torch.no_grad():
        outputs = net(None if spect is None else spect.double(), None if meta is None else meta.double())
    expected = precise['out_linear'].reshape(outputs['output'].shape)
    # the fixed filterbank is kept in float32; PCEN magnifies
    np.testing.assert_allclose(outputs['output'].numpy(), expected, atol=2e-5 if 'pcen' in name else 1e-6, rtol=1e-6)


@pytest.mark.parametrize('name', NETS)
def test_files_of_the_original_are_written_as_they_were_read(golden, golden_net, tmp_path, name):
    _, arrays = golden(f'nets/{name}.out')
    net, _, _ = load_original(golden, golden_net(f'nets/{name}'), arrays)
    model.save_original(net, tmp_path / 'copy.npz')
    original, copy = (files.load_npz(f) for f in (golden_net(f'nets/{name}'), tmp_path / 'copy.npz'))
    assert list(copy) == [f'param{i}' for i in range(len(original))]
    for key in original:
        np.testing.assert_array_equal(copy[key], original[key])
        assert copy[key].dtype == np.float32


@pytest.mark.parametrize(
    'settings, num_meta',
    [
        (['filterbank=mel_learn', 'magscale=pcen'], 0),
        (['magscale=pow_learn', 'arch.pool=attention:2'], 0),
        (['arch=resblock_start_end_dilated:2x4x3x3,pool:3x3,Conv:5x2x-1'], 0),
        (['arch=', 'arch_meta=full:4'], 5),
        (['arch_meta=full:4', 'arch_meta.batch_norm=1'], 5),
    ],
)
def test_our_files_contain_all_arrays(tmp_path, settings, num_meta):
    net = small(*settings, num_meta=num_meta)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(torch.rand_like(tensor))
    model.save(net, tmp_path / 'net.npz')
    other = small('seed=1', *settings, num_meta=num_meta)
    model.load(other, str(tmp_path / 'net.npz'))
    assert list(net.state_dict()) == list(other.state_dict()) == list(files.load_npz(tmp_path / 'net.npz'))
    for key, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


@pytest.mark.parametrize(
    'first, second', [('ours', 'ours'), ('original', 'original'), ('ours', 'original'), ('original', 'ours')]
)
def test_a_combined_network_starts_from_two_files(tmp_path, first, second):
    audio, meta = small(), small('arch=', 'arch_meta=full:4', num_meta=5)
    for net, kind, name in ((audio, first, 'audio'), (meta, second, 'meta')):
        {'ours': model.save, 'original': model.save_original}[kind](net, tmp_path / f'{name}.npz')
    both = small('arch_meta=full:4', 'seed=3', num_meta=5)
    model.load(both, f'{tmp_path / "audio.npz"}:{tmp_path / "meta.npz"}')
    expected = list(audio.state_dict().values()) + list(meta.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(both.state_dict().values(), expected, strict=True))


@pytest.mark.parametrize('write', [model.save, model.save_original])
def test_a_file_with_other_arrays_is_refused_and_both_lists_of_arrays_are_shown(tmp_path, write):
    filename = str(tmp_path / 'net.npz')
    write(small(), filename)
    before = {k: v.clone() for k, v in small('seed=7', classes=4).state_dict().items()}
    net = small('seed=7', classes=4)
    with pytest.raises(Problem) as e:
        model.load(net, filename)
    assert '3x6x1x1' in str(e.value) and '4x6x1x1' in str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with pytest.raises(Problem, match='holds the arrays 19 .* network has 25'):
        model.load(small('arch_meta=full:4,full:4', num_meta=2), filename)
    with pytest.raises(Problem, match='holds the arrays 19 .* network has 6'):
        model.load(small('arch=', 'arch_meta=full:4,full:4', num_meta=2), filename)


def test_damaged_files_are_refused(tmp_path):
    net = small()
    arrays = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    arrays['audio.head.bias'][1] = np.nan
    files.save_npz(tmp_path / 'nan.npz', arrays)
    with pytest.raises(Problem, match='audio.head.bias.*not finite'):
        model.load(net, str(tmp_path / 'nan.npz'))
    files.save_npz(tmp_path / 'gap.npz', {'param0': np.zeros(3), 'param2': np.zeros(3)})
    with pytest.raises(Problem, match='numbered'):
        model.load(net, str(tmp_path / 'gap.npz'))
    with pytest.raises(Problem, match='no such file'):
        model.load(net, str(tmp_path / 'none.npz'))
    files.save_npz(tmp_path / 'empty.npz', {})
    with pytest.raises(Problem, match='holds the arrays 0'):
        model.load(net, str(tmp_path / 'empty.npz'))


def test_initialisation_depends_only_on_the_seed():
    torch.manual_seed(1), np.random.seed(1)
    first = small('seed=5')
    torch.manual_seed(2), np.random.seed(2)
    state = torch.get_rng_state()
    second, other = small('seed=5'), small('seed=6')
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.audio.head.weight, other.audio.head.weight)
    weight = first.audio.layers[0].linear.weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    'settings, bins, extra',
    [
        (['mel_max=5000'], 58, 0),
        (['filterbank=none'], 93, 0),
        (['magscale=log1p'], 93, 0),
        (['magscale=none'], 93, 0),
        (['arch.pool=mean', 'arch.prepool=softmax', 'arch.output=linear'], 93, 0),
        (['arch.pool=noisy-or', 'arch.prepool=sigmoid', 'arch.output=linear'], 93, 0),
        (['arch.lastdrop=0.2', 'arch.convdrop=bands'], 93, 0),
        (['arch.convdrop=groups', 'arch.conv_groups=1'], 93, 0),
        (['arch=dense:4', 'arch.pool=max'], 93, 0),
        (['arch.batch_norm=0'], 93, 0),
        (['arch_meta=dense:4,full:3', 'arch_meta.fulldrop=0.5'], 93, 4),
        (['arch=groupdrop:1:0.5,lme2pool:2x2,avgpool:2x2,convg1:4x1x1'], 93, 0),
        (['arch.output_bg=sigmoid'], 93, 0),
    ],
)
def test_networks_train_in_all_settings(settings, bins, extra):
    torch.manual_seed(0)
    net = small(*settings, num_meta=extra).train()
    outputs = net(torch.rand(3, 40, bins) * 1e4, torch.randn(3, extra))
    assert outputs['output'].shape == (3, 3)
    outputs['output'].square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize('pool', ['none', 'attention_nopool:2'])
def test_outputs_over_time_without_pooling(pool):
    net = small(f'arch.pool={pool}', 'arch_meta=full:2', num_meta=3)
    outputs = net(torch.rand(2, net.min_frames + 4 * net.frame_step, 93), torch.randn(2, 3))
    assert outputs['output'].shape == (2, 3, 5)
    assert outputs['maps'].shape == (2, 3 + (2 if ':' in pool else 0), 5, 1)
    torch.testing.assert_close(outputs['output'].sum(1), torch.ones(2, 5))
    assert ('attention' in outputs) == (':' in pool)


@pytest.mark.parametrize(
    'arch',
    [
        'conv:4x3x3,pool:3x3,conv:5x3x-Shift,pool:3xShift,Conv:Fullx3x-1',
        'conv:4x5x3x3x1,avgpool:4x2x2x2',
        'resblock:2x4x3x3x2x2,pool:2x2,conv:4x2x2',
        'ismir2016',
    ],
)
def test_shortest_excerpt_and_step(arch):
    net = small(f'arch={arch}', 'mel_bands=80')
    least, step = net.min_frames, net.frame_step
    assert net.maps(torch.rand(1, least, 93)).shape[2] == 1
    assert net.maps(torch.rand(1, least + 10 * step, 93)).shape[2] == 11
    with pytest.raises(Problem, match=f'{least - 1} frames is too short for this network, which needs {least}'):
        net.maps(torch.rand(1, least - 1, 93))


def test_wrong_inputs_are_refused_with_a_message_that_names_them():
    net = small('arch_meta=full:2', num_meta=3)
    with pytest.raises(Problem, match='2x50x94.*93 bins'):
        net(torch.rand(2, 50, 94), torch.randn(2, 3))
    with pytest.raises(Problem, match='3 metadata values, not 4'):
        net(torch.rand(2, 50, 93), torch.randn(2, 4))
    with pytest.raises(Problem, match='3 metadata values, not none'):
        net(torch.rand(2, 50, 93))
    with pytest.raises(Problem, match='input_meta'):
        small('arch_meta=full:2')
    with pytest.raises(Problem, match='both empty'):
        small('arch=')
    with pytest.raises(Problem, match='arch_meta, layer 1 of 1, layer conv:3x3x3'):
        small('arch=', 'arch_meta=conv:3x3x3', num_meta=2)
    for pool in ('attention:0', 'attention:1.5', 'logmeanexp:-1'):
        with pytest.raises(Problem, match='arch.pool'):
            small(f'arch.pool={pool}')


def test_last_pooling_over_frequency_can_be_left_out():
    net = model.build(config.load([], ['arch.nolastfreqpool=1']), 3)
    assert net.maps(torch.rand(1, net.min_frames, 372)).shape == (1, 3, 1, 1)
    assert [m.size for m in net.audio.layers if isinstance(m, layers.Pool)] == [(3, 3), (3, 1)]


@pytest.mark.parametrize('pool', ['logmeanexp:1', 'attention:2'])
def test_mixed_precision_stays_close_and_pools_in_float32(pool):
    net = small(f'arch.pool={pool}', 'magscale=pow_learn', 'arch.output=linear')
    spect = torch.rand(2, 60, 93) * 1e4
    with torch.no_grad():
        expected = net(spect)['output']
        with torch.autocast('cpu', torch.bfloat16):
            found = net(spect)
    assert found['output'].dtype == torch.float32
    torch.testing.assert_close(found['output'], expected, atol=0.05, rtol=0.05)


def test_weight_decay_applies_to_weights_and_gammas_but_not_to_the_frontend():
    net = small('magscale=log1p_learn', 'arch_meta=full:2', 'arch_meta.batch_norm=1', num_meta=3)
    names = {id(p): n for n, p in net.named_parameters()}
    covered = {names[id(p)] for p in net.regularisable()}
    assert covered == {n for n in names.values() if n.endswith(('weight', 'gamma'))}
    net = small('magscale=pow_learn', 'filterbank=mel_learn')
    assert {id(p) for p in net.regularisable()}.isdisjoint({id(p) for p in net.audio.front.parameters()})


def _join(rank, filename, results, x, targets):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{filename}', rank=rank, world_size=2)
    net = small('magscale=pow_learn').train()
    model.synchronise(net)
    rows = slice(0, 2) if rank == 0 else slice(2, 5)
    net.audio.dropout.rate = 0
    for layer in net.audio.layers:
        if getattr(layer, 'dropout', None):
            layer.dropout.rate = 0
    ((net(x[rows])['logits'] * targets[rows]).sum()).backward()
    for p in net.parameters():
        dist.all_reduce(p.grad)
    results[rank] = ([p.grad.numpy() for p in net.parameters()], [b.numpy() for b in net.state_dict().values()])
    dist.destroy_process_group()


def test_batch_normalisation_over_two_processes_equals_that_in_one_process(tmp_path):
    x, targets = torch.rand(5, 40, 93) * 1e4, torch.randn(5, 3)
    net = small('magscale=pow_learn').train()
    net.audio.dropout.rate = 0
    for layer in net.audio.layers:
        if getattr(layer, 'dropout', None):
            layer.dropout.rate = 0
    (net(x)['logits'] * targets).sum().backward()
    context = torch.multiprocessing.get_context('fork')
    with context.Manager() as manager:
        results = manager.dict()
        workers = [
            context.Process(target=_join, args=(rank, str(tmp_path / 'meet'), results, x, targets)) for rank in (0, 1)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        results = dict(results)
    for rank in (0, 1):
        for ours, expected in zip(results[rank][0], net.parameters(), strict=True):
            np.testing.assert_allclose(
                ours, expected.grad.numpy(), rtol=2e-3, atol=2e-4 * max(1, expected.grad.abs().max())
            )
        for ours, expected in zip(results[rank][1], net.state_dict().values(), strict=True):
            np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-4, atol=1e-4)


def published(golden):
    """The different architectures among the 37 models: a list of (settings, names of models)."""
    unique = {}
    for experiment in golden('experiments')[0]:
        settings = experiment['settings']
        key = tuple(
            (k, v)
            for k, v in settings.items()
            if k.startswith('arch') or k in ('input_meta', 'magscale', 'mel_max') or 'size' in k
        )
        unique.setdefault(key, (settings, []))[1].append(experiment['model'])
    return list(unique.values())


@pytest.mark.slow
def test_all_37_published_networks_can_be_built_and_pass_a_batch(golden, monkeypatch):
    # orthogonal matrices of this size take seconds each, and are not needed here
    monkeypatch.setattr(layers, 'orthogonal', lambda shape, rng: rng.normal(0, 0.03, shape).astype(np.float32))
    networks = published(golden)
    assert sum(len(models) for _, models in networks) == 37
    for settings, _ in networks:
        cfg = config.load([], [f'{name}={value}' for name, value in settings.items()])
        values = {'date': cfg['input_meta.date_encoding.size'], 'time': cfg['input_meta.time_encoding.size']}
        num_meta = sum(1 + values.get(source, 1) for source in cfg['input_meta'].split(',')) if cfg['input_meta'] else 0
        net = model.build(cfg, 1500, num_meta)
        assert net.min_frames == (103 if cfg['arch'].startswith('conv') else 87 if cfg['arch'] else 0)
        spect = torch.rand(2, net.min_frames + 9, 465) * 1e4 if cfg['arch'] else None
        for mode in (True, False):
            with torch.no_grad():
                outputs = net.train(mode)(spect, torch.randn(2, num_meta) if num_meta else None)
            assert outputs['output'].shape == (2, 1500)
            torch.testing.assert_close(outputs['output'].sum(1), torch.ones(2))
