"""Fully convolutional networks: they give the scores of the trained network at every frame, in constant memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import model_to_fcn
from birdsong import config, model_table
from birdsong.data import metadata, stft
from birdsong.files import Problem
from birdsong.networks import fcn, model
from helpers import NETWORK_SETTINGS, NETWORKS, ROOT, build_network, random_spectrogram, randomise

WINDOW = 1.5


def scores_of(converted, spect, meta=None, block=None):
    stream = converted.stream(meta)
    parts = [stream.push(part) for part in spect.split(block or spect.shape[1], 1)] + [stream.end()]
    return torch.cat([p['output'] for p in parts if p is not None], 1)


def excerpt_score(net, spect, offset, converted, meta=None):
    """Scores of the trained network for an excerpt. It also gets the margin on both sides; its maps are not pooled."""
    first = converted.margin // net.frame_step
    with torch.no_grad():
        maps = net.maps(spect[:, offset - converted.margin : offset + converted.excerpt + converted.margin])
        output = net.finish(net.pool(maps[:, :, first : first + converted.count]), meta)['output']
    return output if output.ndim == 2 else output[:, :, 0]


POOLS = ['max', 'mean', 'logmeanexp:2', 'noisy-or', 'attention:3', 'attention_nopool:2', 'none']


@pytest.mark.parametrize('name', [n for n in NETWORKS if n != 'pcen'])
def test_scores_at_every_frame_are_those_of_the_trained_network(name):
    net = build_network(name)
    converted = fcn.to_fcn(net, WINDOW)
    assert bool(converted.margin) == ('residual' in name or name == 'no_batch_norm')
    spect = random_spectrogram(net, converted.excerpt + 2 * converted.margin + 40)
    scores = scores_of(converted, spect)
    assert scores.shape == (1, spect.shape[1] - converted.window + 1, 3)
    for offset in range(converted.margin, converted.margin + 40, 1 if converted.margin < 50 else 3):
        torch.testing.assert_close(
            scores[:, offset], excerpt_score(net, spect, offset, converted), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize('pool', POOLS)
@pytest.mark.parametrize('own_step', [False, True])
def test_every_kind_of_pooling_gives_the_scores_of_the_trained_network(pool, own_step):
    net = build_network('plain', f'arch.pool={pool}', 'arch.prepool=sigmoid')
    converted = fcn.to_fcn(net, WINDOW, net.frame_step if own_step else 1)
    spect = random_spectrogram(net, 180, batch=2)
    scores = scores_of(converted, spect)
    assert scores.shape[1] == (180 - converted.window) // converted.step + 1
    for number in (0, 1, 5):
        torch.testing.assert_close(
            scores[:, number], excerpt_score(net, spect, number * converted.step, converted), rtol=1e-4, atol=1e-4
        )


def test_without_padded_layers_excerpts_need_no_margin():
    net = build_network('plain')
    converted = fcn.to_fcn(net, WINDOW)
    spect = random_spectrogram(net, 170)
    with torch.no_grad():
        direct = net(spect[:, 23 : 23 + converted.excerpt])['output']
    torch.testing.assert_close(scores_of(converted, spect)[:, 23], direct, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'name', ['plain', 'wide', 'residual', 'strided_residual', 'attention', 'residual_pool', 'pcen']
)
@pytest.mark.parametrize('block', [1, 10, 97])
def test_scores_do_not_depend_on_the_size_of_blocks(name, block):
    net = build_network(name)
    converted = fcn.to_fcn(net, WINDOW)
    spect = random_spectrogram(net, 250)
    torch.testing.assert_close(
        scores_of(converted, spect, block=block), scores_of(converted, spect), rtol=1e-4, atol=3e-5
    )


def test_memory_does_not_grow_with_the_length_of_a_recording():
    net = build_network('residual', 'arch.pool=attention:3')
    stream = fcn.to_fcn(net, WINDOW).stream()

    def kept(value, seen):
        if id(value) in seen:
            return 0
        seen.add(id(value))
        if torch.is_tensor(value):
            return value.untyped_storage().nbytes()
        if isinstance(value, dict):
            return sum(kept(v, seen) for v in value.values())
        if isinstance(value, (list, tuple)):
            return sum(kept(v, seen) for v in value)
        return kept(vars(value), seen) if hasattr(value, '__dict__') and not callable(value) else 0

    sizes = []
    for number in range(40):
        stream.push(random_spectrogram(net, 50, seed=number))
        sizes.append(kept([stream.stream, stream.pool], set()))
    assert max(sizes[20:]) <= max(sizes[5:20])


def test_metadata_apply_to_all_scores_of_a_recording():
    net = build_network(
        'plain',
        'arch_meta=full:4,full:5',
        'arch_meta.weight=0.3',
        'arch_meta.batch_norm=1',
        'arch.output=softmax',
        num_meta=3,
    )
    converted = fcn.to_fcn(net, WINDOW)
    spect, meta = random_spectrogram(net, 130), torch.tensor([[0.5, -1, 2]])
    scores = scores_of(converted, spect, meta)
    for offset in (0, 11):
        torch.testing.assert_close(
            scores[:, offset], excerpt_score(net, spect, offset, converted, meta), rtol=1e-4, atol=1e-4
        )
    with pytest.raises(Problem, match='3 metadata values, not none'):
        converted.stream()


def test_the_second_output_is_computed_if_the_network_has_one():
    net = build_network('plain', 'arch.output_bg=sigmoid')
    stream = fcn.to_fcn(net, WINDOW).stream()
    outputs = stream.push(random_spectrogram(net, 400))
    torch.testing.assert_close(outputs['output_bg'], torch.sigmoid(outputs['output']))


def architectures():
    """One published model per architecture; the others differ only in their training."""
    return {
        tuple(i for i in m.settings.items() if i[0].startswith(('arch', 'input_meta'))): name
        for name, m in model_table.read_table().items()
    }.values()


@pytest.mark.slow
@pytest.mark.parametrize('name', architectures())
def test_every_published_architecture_can_be_converted(name):
    cfg = config.load([], [f'{k}={v}' for k, v in model_table.read_table()[name].settings.items()])
    net = model.build(cfg, 3, metadata.size(cfg))
    if not cfg['arch']:
        with pytest.raises(Problem, match='metadata alone'):
            fcn.to_fcn(net)
        return
    randomise(net)
    meta = torch.ones(1, net.num_meta) if net.num_meta else None
    for step in (1, net.frame_step):
        converted = fcn.to_fcn(net, 3, step)
        assert bool(converted.margin) == ('resnet' in name)
        spect = random_spectrogram(net, converted.excerpt + 2 * converted.margin + 40)
        scores = scores_of(converted, spect, meta)
        for offset in (0, 18, 36):
            torch.testing.assert_close(
                scores[:, (offset + converted.margin) // step],
                excerpt_score(net, spect, offset + converted.margin, converted, meta),
                rtol=1e-4,
                atol=1e-4,
            )


def test_networks_and_windows_that_cannot_be_converted_are_refused():
    with pytest.raises(Problem, match='metadata alone'):
        fcn.to_fcn(model.build(config.load([], ['arch=', 'arch_meta=full:4']), 3, 2))
    with pytest.raises(Problem, match='pools over all frames'):
        fcn.to_fcn(model.build(config.load([], NETWORK_SETTINGS + ['arch=conv:4x3x3,pool:-1x2']), 3))
    net = build_network('plain')
    with pytest.raises(Problem, match='must be 1 or the network.s own, 9'):
        fcn.to_fcn(net, step=3)
    with pytest.raises(Problem, match='take at least') as e:
        fcn.to_fcn(net, 0.1)
    least = float(str(e.value).split()[-2])
    assert fcn.to_fcn(net, least).count == 1
    with pytest.raises(Problem):
        fcn.to_fcn(net, least - 0.02)


def test_scores_of_a_recording_do_not_depend_on_how_it_is_read(monkeypatch):
    net = build_network('plain', 'frame_len=128', 'mel_bands=30')
    converted = fcn.to_fcn(net, WINDOW)
    samples = np.random.default_rng(0).normal(0, 3000, 22050 * 4).astype(np.int16)
    settings = converted.settings
    spect = torch.from_numpy(np.asarray(stft.spectrogram(samples, 22050, 128, 70, bins=stft.num_bins(settings))))[None]
    whole = scores_of(converted, spect)[0].numpy()
    for frames in (4200, 50, 33):
        monkeypatch.setattr(fcn, 'READ_FRAMES', frames)
        parts = list(converted.recording(samples))
        np.testing.assert_allclose(np.concatenate([s['output'] for _, s in parts]), whole, rtol=1e-4, atol=3e-5)
        assert [first for first, _ in parts] == list(np.cumsum([0] + [len(s['output']) for _, s in parts[:-1]]))
    times = converted.times(0, 2)
    assert times[0] == pytest.approx(((converted.window - 1) * 315 + 128) / 2 / 22050)
    assert times[1] - times[0] == pytest.approx(315 / 22050)


@pytest.mark.parametrize('seconds', [0, 0.001, 0.5, 1])
def test_a_recording_shorter_than_a_window_has_one_score(seconds):
    net = build_network('plain', 'frame_len=128')
    converted = fcn.to_fcn(net, WINDOW)
    samples = np.random.default_rng(0).normal(0, 3000, int(22050 * seconds)).astype(np.int16)
    ((first, scores),) = converted.recording(samples)
    assert first == 0 and scores['output'].shape == (1, 3)
    if seconds == 1:
        spect = torch.from_numpy(
            np.asarray(stft.spectrogram(samples, 22050, 128, 70, bins=stft.num_bins(converted.settings)))
        )[None]
        with torch.no_grad():
            np.testing.assert_allclose(scores['output'], net(spect)['output'].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['plain', 'residual', 'strided_residual', 'pcen', 'attention', 'log1p'])
def test_a_converted_network_can_be_written_and_read(tmp_path, name):
    net = build_network(name, 'arch_meta=full:4', num_meta=2)
    converted = fcn.to_fcn(net, WINDOW)
    converted.save(tmp_path / 'fcn.npz')
    again = fcn.load(str(tmp_path / 'fcn.npz'))
    again.save(tmp_path / 'again.npz')
    assert (tmp_path / 'again.npz').read_bytes() == (tmp_path / 'fcn.npz').read_bytes()
    spect, meta = random_spectrogram(net, 200), torch.ones(1, 2)
    assert torch.equal(scores_of(again, spect, meta), scores_of(converted, spect, meta))
    assert (again.window, again.excerpt, again.margin, again.step) == (
        converted.window,
        converted.excerpt,
        converted.margin,
        converted.step,
    )
    model.save(net, tmp_path / 'net.npz')
    with pytest.raises(Problem, match='not a converted network'):
        fcn.load(str(tmp_path / 'net.npz'))


def test_files_of_earlier_versions_are_written_again_with_the_same_operations(tmp_path):
    old = ROOT / 'tests/fixtures/all_bins.fcn.npz'
    fcn.load(old).save(tmp_path / 'again.npz')
    with np.load(old) as expected, np.load(tmp_path / 'again.npz') as found:
        assert found.files == expected.files
        for name in set(found.files) - {'description'}:
            np.testing.assert_array_equal(found[name], expected[name])
        found, expected = (json.loads(str(f['description'])) for f in (found, expected))
    assert found['settings'].pop('bins') == 33  # which older files do not have
    assert json.dumps(found) == json.dumps(expected)


def write(tmp_path, name, *settings):
    net = build_network(name, *settings)
    model.save(net, tmp_path / 'net.npz')
    config.write_vars(tmp_path / 'net.npz.vars', net.cfg)
    return net


def test_the_program_reports_and_writes_the_converted_network(tmp_path):
    net = write(tmp_path, 'residual', 'classes=3')
    program = str(ROOT / 'experiments' / 'model_to_fcn.py')
    arguments = (str(tmp_path / 'net.npz'), str(tmp_path / 'fcn.npz'), '--window', str(WINDOW))
    done = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, cwd='/')
    assert done.returncode == 0 and not done.stderr, done.stderr
    expected = fcn.to_fcn(net, WINDOW)
    assert f'margin of {expected.margin} frames' in done.stdout and 'compared for 5 excerpts' in done.stdout
    assert done.stdout.splitlines()[-1] == f'wrote {tmp_path / "fcn.npz"}'
    spect = random_spectrogram(net, 200)
    assert torch.equal(scores_of(fcn.load(tmp_path / 'fcn.npz'), spect), scores_of(expected, spect))


def test_the_program_refuses_bad_input_and_writes_nothing(tmp_path, monkeypatch):
    write(tmp_path, 'plain')
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (('none.npz', 'fcn.npz'), 'no such file'),
        (('net.npz', 'fcn'), 'must end in .npz'),
        (('net.npz', 'net.npz'), 'overwrite'),
        (('net.npz', 'fcn.npz'), 'no value for classes'),
        (('net.npz', 'fcn.npz', '--var', 'classes=3', '--window', '.01'), 'take at least'),
    ):
        monkeypatch.setattr(sys, 'argv', ['model_to_fcn.py', *arguments])
        with pytest.raises(Problem, match=message):
            model_to_fcn.main()
        assert not os.path.exists('fcn.npz')
