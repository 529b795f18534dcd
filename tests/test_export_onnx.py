"""export_onnx.py: networks and ensembles as ONNX files give the probabilities of the predictor."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from birdsong import config, model_table
from birdsong.data import metadata
from birdsong.data.dataset import Dataset
from birdsong.identification.choice import Choice, Member
from birdsong.identification.ensemble import Ensemble
from birdsong.identification.windows import Windows
from birdsong.networks import model
from birdsong.networks.frontend import Magnitudes
from birdsong.prediction.predictor import Predictor, load_model
from birdsong.scores import predictions
from helpers import NETWORK_SETTINGS, NETWORKS, PLAIN, ROOT, randomise, run_program

onnx = pytest.importorskip('onnx', reason='needs onnx, see requirements.txt')
onnxruntime = pytest.importorskip('onnxruntime', reason='needs onnxruntime, see requirements.txt')

SETTINGS = [*NETWORK_SETTINGS, f'arch={PLAIN}', 'len_min=0.5', 'len_max=3', 'arch.output=softmax']
META = [
    'input_meta=date,time,latitude,longitude,elevation',
    'input_meta.date_encoding.size=2',
    'arch_meta=full:5,full:6',
]
META_ONLY = [*META, 'arch=', 'len_min=0', 'len_max=0']
VALUES = {'date': 127, 'time': 390.5, 'latitude': -6.5, 'longitude': -62.25, 'elevation': 340}
# lengths of recordings in samples: shorter than a frame, than len_min, and longer than it. A loop of a few samples has
# bins without energy, in which the logarithm makes rounding errors large.
LENGTHS = 60, 200, 8000, 11025, 30011


def saved(path, *settings, classes=3):
    """Write a network with random values and its settings; returns the name of its file."""
    cfg = config.load([], [*SETTINGS, *settings])
    net = model.build(cfg, classes, metadata.size(cfg))
    if net.audio is None or net.audio.backbone is None:
        randomise(net, seed=cfg['seed'])
    if net.audio:
        spread_logits(net.eval())
    model.save(net, path)
    config.write_vars(f'{path}.vars', {**cfg, 'classes': classes})
    return str(path)


@torch.no_grad()
def spread_logits(net):
    """Change the last layer such that the logits of random recordings have a mean of 0 and a deviation of 1."""
    spectrograms = Magnitudes(net.cfg)(torch.from_numpy(recordings(45000, 8)))
    head = net.audio.head
    maps = head(net.audio.features(spectrograms))
    mean, deviation = maps.mean((0, 2, 3)), maps.std((0, 2, 3)).clamp_min(1e-3)
    head.weight /= deviation[:, None, None, None]
    head.bias.sub_(mean).div_(deviation)


def export(*args):
    """Export to the last of the arguments. Returns a session of ONNX Runtime."""
    done = run_program('experiments/export_onnx.py', *args)
    assert done.returncode == 0, done.stderr
    return onnxruntime.InferenceSession(str(args[-1]), providers=['CPUExecutionProvider'])


def about(session):
    return session.get_modelmeta().custom_metadata_map


def recordings(length, count=1, seed=0):
    """Random recordings with different spectra, int16 (count, length)."""
    rng = np.random.default_rng([seed, length])
    samples = rng.normal(0, 2000, (count, length + 9))
    return np.stack([np.convolve(row, rng.normal(size=10), 'valid') for row in samples]).astype(np.int16)


def run(session, samples=None, meta=None, name='probabilities'):
    """An output of a session for recordings, int16 (batch, samples), and metadata (batch, values)."""
    inputs = {} if samples is None else {'samples': samples.astype(np.float32) / 32768}
    if meta is not None:
        inputs['metadata'] = meta
    return session.run([name], inputs)[0]


def predictor_of(filename, *settings):
    cfg = config.load([f'{filename}.vars'], settings)
    net = load_model(filename, cfg, metadata.size(cfg))
    return Predictor(net, cfg, torch.device('cpu'))


def expected(filename, samples=None, meta=None, *settings):
    """The probabilities of our predictor (batch, classes); as for TestFeed, short recordings are looped to len_min."""
    predictor = predictor_of(filename, *settings)
    rows = []
    for i in range(len(meta if samples is None else samples)):
        item = {} if meta is None else {'meta': meta[i : i + 1]}
        if samples is not None:
            shortest = int(predictor.cfg['len_min'] * predictor.cfg['sample_rate'])
            item['samples'] = np.resize(samples[i], max(shortest, samples.shape[1]))
        rows.append(predictor.predict(item)['output'].max(0))
    return np.stack(rows)


def assert_equal_outputs(session, filename, meta=None, tolerance=1e-4):
    """The file gives the probabilities of our predictor for recordings of several lengths, alone and in batches."""
    seen = []
    for length in LENGTHS:
        for count in 1, 3:
            samples = recordings(length, count)
            values = None if meta is None else np.repeat(meta, count, 0)
            found = run(session, samples, values)
            np.testing.assert_allclose(found, expected(filename, samples, values), atol=tolerance, rtol=0)
            seen.append(found)
    assert np.ptp(np.concatenate(seen), axis=0).max() > 0.03


# == Networks ==

MORE = {
    'logarithm': [],
    'centred': ['band_centre=1', 'magscale=log1p_learn'],
    'learnt_filters': ['filterbank=mel_learn', 'magscale=pow_learn', 'arch.output=sigmoid'],
    'mean': ['arch.pool=mean'],
    'max': ['arch.pool=max', 'arch.output=sigmoid'],
    'sharp': ['arch.pool=logmeanexp:20'],
    'noisy_or': ['arch.pool=noisy-or', 'arch.prepool=sigmoid', 'arch.output=linear'],
    'attention_maps': ['arch.pool=attention:4'],
    'time_pooled': ['arch=conv:4x3x3,pool:-1x3,conv:5x1x1'],
    'time_averaged': ['arch=conv:4x3x3,avgpool:-1x3,conv:5x1x1'],
    'time_lme': ['arch=conv:4x3x3,lme2pool:-1x3,conv:5x1x1'],
    'background': ['arch.output_bg=sigmoid'],
    'least_frames': ['len_min=0.1'],
    'odd_frames': ['frame_len=255'],
    'other_rate': ['sample_rate=32000', 'frame_len=300', 'mel_max=15000'],
}


@pytest.mark.parametrize('name', [*NETWORKS, *MORE])
def test_probabilities_are_those_of_the_predictor_for_any_length_and_batch(name, tmp_path):
    own = NETWORKS.get(name) or MORE[name]
    if name in NETWORKS and any('prepool' in setting for setting in own):
        own = [*own, 'arch.output=linear']
    filename = saved(tmp_path / 'net.npz', *own)
    session = export(filename, tmp_path / 'net.onnx')
    if 'arch.prepool=logsoftmax' in own:
        for length in LENGTHS:
            samples = recordings(length)
            np.testing.assert_allclose(run(session, samples), np.exp(expected(filename, samples)), atol=1e-5, rtol=0)
    else:
        assert_equal_outputs(session, filename)
    onnx.checker.check_model(str(tmp_path / 'net.onnx'), full_check=True)


@pytest.mark.parametrize('pool', ['none', 'attention_nopool:2'])
def test_without_pooling_the_highest_probability_of_all_positions_counts(pool, tmp_path):
    filename = saved(tmp_path / 'net.npz', f'arch.pool={pool}')
    session = export('--frames', filename, tmp_path / 'net.onnx')
    assert_equal_outputs(session, filename)
    samples = recordings(30011)
    item = {'samples': samples[0]}
    np.testing.assert_allclose(
        run(session, samples, name='frames')[0], predictor_of(filename).predict(item)['output'], atol=1e-5
    )


@pytest.mark.parametrize('output, cost, kind', [('linear', 'softmax', 'softmax'), ('linear', 'ce', 'sigmoid')])
def test_logits_become_the_probabilities_that_the_network_was_trained_for(output, cost, kind, tmp_path):
    filename = saved(tmp_path / 'net.npz', f'arch.output={output}', f'cost={cost}')
    session, samples = export(filename, tmp_path / 'net.onnx'), recordings(20000)
    np.testing.assert_allclose(
        run(session, samples), expected(filename, samples, None, f'arch.output={kind}'), atol=1e-5
    )
    assert about(session)['output'] == kind


def test_frames_are_the_outputs_at_each_position_and_have_times(tmp_path):
    filename = saved(tmp_path / 'net.npz', 'arch.pool=mean', 'arch.output=sigmoid', 'arch.prepool=none')
    session = export('--frames', filename, tmp_path / 'net.onnx')
    predictor, samples = predictor_of(filename), recordings(30011, 2)
    frames = run(session, samples, name='frames')
    net = predictor.plain
    positions = net.audio.chain.positions(predictor.frames(samples[0]))
    assert frames.shape == (2, positions, 3)
    # a sound in silence is at the time of the position that changes most
    first, step = (float(about(session)[f'frames_{name}']) for name in ('first', 'step'))
    assert step == pytest.approx(net.frame_step * predictor.hop / 22050, abs=1e-6)
    silence = recordings(60000) // 100
    loud = silence.copy()
    loud[0, 30000:31000] = recordings(1000)[0]
    change = np.abs(run(session, loud, name='frames') - run(session, silence, name='frames'))[0].sum(1)
    middle = (change * (first + step * np.arange(len(change)))).sum() / change.sum()
    assert middle == pytest.approx(30500 / 22050, abs=0.2)
    with torch.no_grad():
        maps = predictor.maps(predictor.block(samples[1], 0, predictor.frames(samples[1])))
    np.testing.assert_allclose(frames[1], torch.sigmoid(maps).amax(3)[0].T.numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'tf_efficientnet_lite0', 'resnet10t'])
def test_networks_of_timm(name, tmp_path):
    pytest.importorskip('timm', reason='needs timm, see requirements.txt')
    settings = f'arch=timm:{name}', 'mel_bands=64', 'arch.pool=mean', 'len_min=0.1', 'arch.output=linear'
    filename = saved(tmp_path / 'net.npz', *settings)
    for options in [[], ['--float16']] if name == 'mobilenetv3_small_050' else [[]]:
        session = export(*options, filename, tmp_path / 'net.onnx')
        for length in LENGTHS:
            samples = recordings(length, 2)
            np.testing.assert_allclose(
                run(session, samples),
                expected(filename, samples, None, 'arch.output=sigmoid'),
                atol=1e-2 if options else 1e-4,
            )


# Networks that differ in more than their training and the number of attention maps
PUBLISHED = {
    tuple(preset for preset in m.presets if preset != 'mixfgbg')
    for m in model_table.read_table().values()
    if model_table.kind(m) == 'audio' and 'att64' not in m.presets
}


@pytest.mark.slow
@pytest.mark.parametrize('presets', sorted(PUBLISHED), ids=' '.join)
def test_published_networks_on_audio(presets, tmp_path):
    files = [str(ROOT / 'experiments' / 'vars' / f'{preset}.vars') for preset in presets]
    cfg = config.load(files)
    net = randomise(model.build(cfg, 5, metadata.size(cfg)))
    model.save(net, tmp_path / 'net.npz')
    config.write_vars(f'{tmp_path}/net.npz.vars', {**cfg, 'classes': 5})
    meta = np.ones((1, net.num_meta), np.float32) if net.num_meta else None
    session, samples = export(tmp_path / 'net.npz', tmp_path / 'net.onnx'), recordings(6 * 22050)
    np.testing.assert_allclose(run(session, samples, meta), expected(tmp_path / 'net.npz', samples, meta), atol=1e-4)


# == Metadata ==


def encoded(filename, values):
    cfg = config.load([f'{filename}.vars'])
    return metadata.encode(metadata.numbers([values], metadata.sources(cfg)), cfg)


def test_metadata_is_a_second_input(tmp_path):
    filename = saved(tmp_path / 'net.npz', *META, 'arch_meta.weight=0.33')
    session = export('--frames', filename, tmp_path / 'net.onnx')
    here, unknown = encoded(filename, VALUES), encoded(filename, {})
    assert_equal_outputs(session, filename, here)
    samples = recordings(20000)
    assert np.abs(run(session, samples, here) - run(session, samples, unknown)).max() > 0.001


def test_metadata_alone_is_the_only_input(tmp_path):
    filename = saved(tmp_path / 'net.npz', *META_ONLY)
    session = export(filename, tmp_path / 'net.onnx')
    assert [i.name for i in session.get_inputs()] == ['metadata']
    meta = np.concatenate([encoded(filename, VALUES), encoded(filename, {'date': 300}), encoded(filename, {})])
    np.testing.assert_allclose(run(session, None, meta), expected(filename, None, meta), atol=1e-6)
    assert 'sample_rate' not in about(session)


def test_the_file_says_how_metadata_is_encoded(tmp_path):
    filename = saved(tmp_path / 'net.npz', *META_ONLY)
    lines = json.loads(about(export(filename, tmp_path / 'net.onnx'))['metadata'])
    values = encoded(filename, VALUES)[0]
    assert len(lines) == len(values)
    for line, value in zip(lines, values, strict=True):
        formula = line.partition(' if ')[0]
        assert eval(formula, {'sin': math.sin, 'sqrt': math.sqrt, 'pi': math.pi, **VALUES}) == pytest.approx(value)


# == Ensembles ==


@pytest.fixture
def three(tmp_path):
    """Files of three networks with different input stages, which fit together."""
    return [
        saved(tmp_path / 'a.npz', 'len_min=1'),
        saved(tmp_path / 'b.npz', f'arch={PLAIN}', 'frame_len=512', 'mel_bands=40', 'magscale=log1p', 'len_min=0.2'),
        saved(tmp_path / 'c.npz', *NETWORKS['residual'], 'seed=1', 'band_centre=1', 'len_min=1'),
    ]


def test_an_ensemble_is_the_weighted_mean_of_probabilities(three, tmp_path):
    weights = 0.5, 2, 1
    session = export(*(f'{f}:{w}' for f, w in zip(three, weights, strict=True)), tmp_path / 'ensemble.onnx')
    for length in LENGTHS:
        samples = recordings(length, 2)
        longer = np.stack([np.resize(row, max(length, 22050)) for row in samples])
        members = [expected(filename, longer) for filename in three]
        np.testing.assert_allclose(run(session, samples), np.average(members, 0, weights), atol=1e-5)
    assert json.loads(about(session)['ensemble']) == {'a': 0.5, 'b': 2, 'c': 1}
    # a and c share their spectrogram
    squares = [node for node in onnx.load(tmp_path / 'ensemble.onnx').graph.node if node.op_type == 'Sqrt']
    assert len(squares) == 2


@pytest.mark.parametrize('options', ['', ' --softmax'])
def test_a_table_gives_what_identify_computes_with_it(options, three, tmp_path, tiny_dataset):
    (tmp_path / 'ensembles').mkdir()
    table = tmp_path / 'ensembles' / 'mine.tsv'
    table.write_text(f'# options:{options}\na\t0.5\nb\t2\nc\t1.1\n')
    session = export('--dataset', tiny_dataset, table, tmp_path / 'ensemble.onnx')
    members = [Member(name, weight) for name, weight in zip(three, (0.5, 2, 1.1), strict=True)]
    settings = [config.load([f'{name}.vars']) for name in three]
    choice, windows = Choice(members, bool(options), ''), Windows(settings)
    ours = Ensemble(choice, settings, windows, 3, torch.device('cpu'))
    samples = recordings(30011)
    scores = np.concatenate(list(ours.scores(samples[0], {})))
    np.testing.assert_allclose(run(session, samples), ours.outputs(scores), atol=1e-5)


def test_frames_of_an_ensemble(three, tmp_path):
    other = saved(tmp_path / 'd.npz', 'seed=4', 'arch.output=softmax')
    session = export('--frames', f'{three[0]}:1', f'{other}:3', tmp_path / 'both.onnx')
    single = [export('--frames', f, tmp_path / 'one.onnx') for f in (three[0], other)]
    samples = recordings(30011)
    frames = [run(s, samples, name='frames') for s in single]
    np.testing.assert_allclose(run(session, samples, name='frames'), np.average(frames, 0, (1, 3)), atol=1e-5)


# == Files ==


def test_float16_halves_the_weights_of_the_network_but_not_of_the_input_stage(tmp_path):
    filename = saved(tmp_path / 'net.npz', *NETWORKS['wide'], 'magscale=pow_learn')
    single = export(filename, tmp_path / 'single.onnx')
    assert about(single)['weights'] == 'float32'
    half = export('--float16', filename, tmp_path / 'half.onnx')
    assert about(half)['weights'] == 'float16'
    assert_equal_outputs(half, filename, tolerance=1e-2)
    sizes = {np.float16: 0, np.float32: 0}
    for tensor in onnx.load(tmp_path / 'half.onnx').graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == 'f':
            sizes[array.dtype.type] += array.size
    weights = sum(p.numel() for p in predictor_of(filename).plain.parameters() if p.ndim == 4)
    assert sizes[np.float16] == weights
    saved_bytes = (tmp_path / 'single.onnx').stat().st_size - (tmp_path / 'half.onnx').stat().st_size
    assert saved_bytes == pytest.approx(2 * weights, rel=0.05)


def test_weights_beyond_the_range_of_float16_are_refused(tmp_path):
    filename = saved(tmp_path / 'net.npz', 'arch.batch_norm=0')
    arrays = dict(np.load(filename))
    arrays['audio.layers.0.linear.weight'] *= 1e6
    np.savez(filename, **arrays)
    failed = run_program('experiments/export_onnx.py', '--float16', filename, tmp_path / 'net.onnx')
    assert failed.returncode == 1 and 'too large' in failed.stderr and not (tmp_path / 'net.onnx').exists()


def test_a_file_names_classes_rate_window_version_and_source(tiny_dataset, tmp_path):
    filename = saved(tmp_path / 'net.npz', classes=4)
    known = about(export('--dataset', tiny_dataset, filename, tmp_path / 'net.onnx'))
    assert json.loads(known['classes']) == Dataset(str(tiny_dataset)).labelset
    assert len(json.loads(known['names'])) == 4
    assert (known['sample_rate'], known['len_min'], known['len_max']) == ('22050', '0.5', '3')
    assert known['version'] and list(json.loads(known['source'])) == [filename]
    again = tmp_path / 'again.onnx'
    export('--dataset', tiny_dataset, filename, again)
    assert again.read_bytes() == (tmp_path / 'net.onnx').read_bytes()


def test_without_its_dataset_classes_are_numbers(tmp_path):
    assert json.loads(about(export(saved(tmp_path / 'net.npz'), tmp_path / 'net.onnx'))['classes']) == ['0', '1', '2']


def test_recordings_of_a_dataset_have_the_scores_of_predict(tiny_dataset, tmp_path):
    soundfile = pytest.importorskip('soundfile')
    filename = saved(tmp_path / 'net.npz', 'len_max=63', classes=4)
    arguments = '--dataset', tiny_dataset, filename, tmp_path / 'net.pred.npz'
    assert run_program('experiments/predict.py', *arguments).returncode == 0
    scores = predictions.load(tmp_path / 'net.pred.npz')
    names = [Dataset(str(tiny_dataset)).audio_path(key) for key in scores.files]
    checks = [f'--check={name}' for name in names[:2]]
    session = export(*checks, '--dataset', tiny_dataset, filename, tmp_path / 'net.onnx')
    for key, name in zip(scores.files, names, strict=True):
        samples, _ = soundfile.read(name, dtype='float32')
        found = session.run(['probabilities'], {'samples': samples[None]})[0]
        np.testing.assert_allclose(found, scores[key], atol=1e-3)  # stored in float16


def test_the_documented_example_runs_with_onnxruntime_alone(tiny_dataset, tmp_path):
    soundfile = pytest.importorskip('soundfile')
    filename = saved(tmp_path / 'net.npz', classes=4)
    session = export('--dataset', tiny_dataset, filename, tmp_path / 'net.onnx')
    section = (ROOT / 'experiments/EXPORT.md').read_text()
    (tmp_path / 'example.py').write_text(re.search(r'```python\n(.*?)```', section, re.DOTALL)[1])
    for module in 'torch', 'birdsong':
        (tmp_path / f'{module}.py').write_text('raise ImportError("not needed")')
    samples = np.concatenate([recordings(3 * 22050)[0], recordings(2 * 22050, seed=1)[0]])
    soundfile.write(tmp_path / 'a.wav', samples, 22050)
    command = [sys.executable, 'example.py', 'net.onnx', 'a.wav']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines, classes = [line.split() for line in done.stdout.splitlines()], Dataset(str(tiny_dataset)).labelset
    assert [line[0] for line in lines] == 3 * ['0.0'] + 3 * ['3.0']
    for i, part in enumerate((samples[: 3 * 22050], samples[3 * 22050 :])):
        row = run(session, part[None])[0]
        top = np.argsort(-row)[:3]
        assert [line[2:] for line in lines[3 * i : 3 * i + 3]] == [['s', f'{row[k]:.3f}', classes[k]][1:] for k in top]


# == Errors ==


def test_a_file_that_differs_from_our_predictor_is_not_written(tmp_path, monkeypatch):
    from birdsong.export import translation
    from birdsong.networks.operations import Standardise

    filename, out = saved(tmp_path / 'net.npz'), tmp_path / 'net.onnx'
    out.write_text('before')
    monkeypatch.setitem(translation.NODES, Standardise, lambda graph, op, x: graph.add('Mul', x, op.scale))
    failed = run_program('experiments/export_onnx.py', filename, out)
    assert failed.returncode == 1 and 'not written' in failed.stderr
    assert out.read_text() == 'before' and not list(tmp_path.glob('.*part'))


@pytest.mark.parametrize(
    'words, arguments',
    [
        ('no such file', ['missing.npz', 'out.onnx']),
        ('.vars: missing', ['array.npz', 'out.onnx']),
        ('does not fit the settings', ['strange.npz', 'out.onnx']),
        ('must end in .onnx', ['a.npz', 'out.npz']),
        ('no such folder', ['a.npz', 'nowhere/out.onnx']),
        ('a folder; name a file in it', ['a.npz', 'folder.onnx']),
        ('a.npz has 3 classes, but four.npz has 4', ['a.npz:1', 'four.npz:1', 'out.onnx']),
        ('a.npz has 22050 Hz, but fast.npz has 24000', ['a.npz', 'fast.npz', 'out.onnx']),
        ('uses metadata', ['a.npz', 'meta.npz', 'out.onnx']),
        ('uses metadata alone, which has no time axis', ['--frames', 'meta.npz', 'out.onnx']),
        ('uses metadata alone; leave out --check', ['--check', 'a.wav', 'meta.npz', 'out.onnx']),
        ('different positions in time', ['--frames', 'a.npz', 'strided.npz', 'out.onnx']),
        ('needs models of one kind', ['--mean', 'logits', 'a.npz', 'strided.npz', 'out.onnx']),
        ('the weight must be above 0', ['a.npz:0', 'strided.npz:1', 'out.onnx']),
        ('expected a model and its weight', ['table.tsv', 'out.onnx']),
        ('cannot be read', ['--check', 'a.npz', 'a.npz', 'out.onnx']),
        ('44100 Hz, 2 channel(s)', ['--check', 'a.wav', 'a.npz', 'out.onnx']),
        ('pools over -2 frames', ['most.npz', 'out.onnx']),
    ],
)
def test_errors_are_one_line_and_write_nothing(words, arguments, tmp_path_factory, networks):
    failed = run_program('experiments/export_onnx.py', *arguments, cwd=networks)
    *notes, line = failed.stderr.splitlines()
    assert failed.returncode == 1 and words in line and line.startswith('export_onnx.py: ')
    assert all(note.startswith('note: ') for note in notes)
    assert [path.name for path in networks.glob('*.onnx')] == ['folder.onnx'] and not list(networks.glob('.*'))


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    """A folder of networks that do not fit together, and of other files."""
    soundfile = pytest.importorskip('soundfile')
    folder = tmp_path_factory.mktemp('networks')
    (folder / 'folder.onnx').mkdir()
    saved(folder / 'a.npz')
    saved(folder / 'four.npz', classes=4)
    saved(folder / 'fast.npz', 'sample_rate=24000')
    saved(folder / 'meta.npz', *META_ONLY)
    saved(folder / 'strided.npz', *NETWORKS['strided'], 'arch.output=sigmoid')
    saved(folder / 'most.npz', 'arch=conv:4x3x3,pool:-2x3')
    np.savez(folder / 'array.npz', a=np.zeros(3))
    np.savez(folder / 'strange.npz', a=np.zeros(3))
    config.write_vars(f'{folder}/strange.npz.vars', config.read_vars(f'{folder}/a.npz.vars'))
    (folder / 'table.tsv').write_text('a\tmuch\n')
    soundfile.write(folder / 'a.wav', np.zeros((100, 2)), 44100)
    return folder
