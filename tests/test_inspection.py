"""predict.py --full-resolution, --saliency and --plot: inspecting a network."""

import sys

import numpy as np
import pytest
import soundfile
import torch

import predict
from birdsong import config
from birdsong.data import metadata, stft
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import TestFeed
from birdsong.files import Problem
from birdsong.networks import fcn, layers, model
from birdsong.prediction import inspection, saliency
from birdsong.prediction.predictor import Predictor, load_model
from birdsong.scores.predictions import load
from helpers import build_network

GOLDEN = ('predict/saliency',)
RECORDING = 'train/LIFECLEF2015_BIRDAMAZON_XC_WAV_RN2101.wav'
SETTINGS = [
    'len_min=1',
    'len_max=2',
    'mel_bands=20',
    'frame_len=256',
    'mel_max=8000',
    'bg_threads=1',
    'arch.pool=logmeanexp:1',
    'arch.output=softmax',
]
NETWORKS = {
    'plain': ['arch=conv:4x3x3,pool:3x3,Conv:8x3x-1'],
    'residual': ['arch=conv:4x3x3,resblock_start_end:1x4x3x3,pool:3x3,Conv:8x3x-1'],
    'attention': ['arch=conv:4x3x3,pool:3x3,Conv:8x3x-1', 'arch.pool=attention:2'],
    'whole': ['arch=conv:4x3x3,pool:-1x3,Conv:8x1x-1'],
    'centred': ['arch=conv:4x3x3,pool:3x3,Conv:8x3x-1', 'band_centre=1'],
    'combined': ['arch=conv:4x3x3,pool:3x3,Conv:8x3x-1', 'arch_meta=full:4', 'input_meta=date,elevation'],
    'metadata': ['arch=', 'arch_meta=full:4', 'input_meta=date,elevation'],
}


@pytest.fixture
def call(monkeypatch):
    def run_main(*args):
        monkeypatch.setattr(sys, 'argv', ['predict.py', *map(str, args), '--device', 'cpu'])
        predict.main()

    return run_main


@pytest.fixture
def dataset(tiny_dataset):
    return Dataset(str(tiny_dataset))


def network(folder, name, *settings):
    """A network with random weights, and its file."""
    cfg = config.load([], SETTINGS + NETWORKS[name] + ['classes=4'] + list(settings))
    net = model.build(cfg, 4, metadata.size(cfg)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(
                0.3 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    model.save(net, folder / f'{name}.npz')
    config.write_vars(folder / f'{name}.npz.vars', cfg)
    return net, folder / f'{name}.npz'


def samples_of(dataset, file):
    return soundfile.read(dataset.audio_path(file), dtype='int16')[0]


# == Saliency ==


def guided_by_hooks(net, spect, index):
    """Guided backpropagation for leaky rectifiers: the gradient of autograd where it and the input are positive."""

    class Leaky(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.leaky_relu(x, 0.01)

    for layer in net.audio.layers:
        if isinstance(layer, layers.ConvLayer) and layer.nonlin.kind == 'lrelu':
            layer.nonlin = Leaky()
            layer.nonlin.register_full_backward_hook(
                lambda module, given, got: (given[0].clamp_min(0) * (given[0] == got[0]),)
            )
    spect = spect.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(spect)['logits'][:, index].sum(), spect)
    return gradient.numpy()


def test_saliency_equals_that_of_the_original(golden, golden_net, golden_dataset, tmp_path, call):
    case, expected = golden('predict/saliency')
    frames = slice(None, None, case.get('every', 1))
    name = golden_net('nets/dummy_lme1')
    settings = ['len_min=0', 'len_max=30', 'arch.output=linear']
    found = {}
    for kind in saliency.KINDS:
        call(
            name,
            tmp_path / 'out.npz',
            '--dataset',
            golden_dataset,
            '--file',
            RECORDING,
            '--saliency',
            2,
            '--saliency-kind',
            kind,
            *(x for s in settings for x in ('--var', s)),
        )
        np.testing.assert_allclose(load(tmp_path / 'out.npz')[RECORDING], expected['pred'], atol=1e-4)
        found[kind] = load(tmp_path / 'out.saliency.npz')[RECORDING]
    cfg = config.load([f'{name}.vars'], settings)
    net = load_model(name, cfg, 0).eval()
    samples, _ = soundfile.read(golden_dataset / 'audio' / RECORDING, dtype='int16')
    spect = torch.from_numpy(stft.spectrogram(samples, 22050, 1024, 70, bins=465))[None]
    scale = np.abs(expected['plain']).max()
    np.testing.assert_allclose(found['gradient'][frames], expected['plain'][0], atol=1e-4 * scale)
    np.testing.assert_allclose(found['gradient-times-magnitude'], found['gradient'] * spect[0].numpy(), rtol=1e-5)
    # Guided backpropagation of the original was in fact the plain gradient; ours is guided backpropagation.
    np.testing.assert_allclose(expected['saliency'], expected['plain'], atol=1e-4 * scale)
    assert np.abs(found['guided'][frames] - expected['plain'][0]).max() > 0.1 * scale
    np.testing.assert_allclose(found['guided'], guided_by_hooks(net, spect, 2)[0], atol=1e-4 * scale)


def test_saliency_has_a_row_for_each_frame_also_of_long_recordings(tiny_dataset, dataset, tmp_path, call):
    net, name = network(tmp_path, 'plain')
    call(name, tmp_path / 'out.npz', '--dataset', tiny_dataset, '--filelists', 'soundscapes_val', '--saliency', 0)
    call(name, tmp_path / 'without.npz', '--dataset', tiny_dataset, '--filelists', 'soundscapes_val')
    assert (tmp_path / 'out.npz').read_bytes() == (tmp_path / 'without.npz').read_bytes()
    found = load(tmp_path / 'out.saliency.npz')
    for file in found.files:
        spect = stft.spectrogram(samples_of(dataset, file), 22050, 256, 70, bins=stft.num_bins(net.cfg))
        assert found[file].shape == spect.shape
        _, first = saliency.saliency(net, torch.from_numpy(spect[:140])[None], 0, guided=False)
        first = (first[0].numpy() * spect[:140])[: 140 - net.min_frames - net.frame_step]
        np.testing.assert_allclose(found[file][: len(first)], first, atol=1e-6 * np.abs(first).max(), rtol=1e-4)


def test_saliency_of_long_recordings_does_not_fade_between_blocks(dataset, tmp_path, monkeypatch):
    samples = np.random.default_rng(0).normal(0, 1000, 22050 * 9).astype(np.int16)
    figure = drawn(tmp_path, 'plain', dataset, samples, monkeypatch, class_index=1)
    strength = np.convolve(figure.axes[-1].images[0].get_array().data.mean(0), np.full(12, 1 / 12), 'valid')[10:-10]
    assert strength.min() > 0.6 * np.median(strength) and strength.max() < 1.6 * np.median(strength)


def test_saliency_is_where_the_sound_is_except_for_the_plain_gradient(dataset, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).normal(size=22050 * 2)
    low = np.fft.rfft(noise)
    low[len(low) // 4 :] = 0  # silent above 2.8 kHz
    samples = (8000 * np.fft.irfft(low)).astype(np.int16)
    silent = {}
    for kind in 'gradient', 'gradient-times-magnitude':
        saliency = (
            drawn(tmp_path, 'plain', dataset, samples, monkeypatch, class_index=1, kind=kind)
            .axes[-1]
            .images[0]
            .get_array()
        )
        silent[kind] = saliency[len(saliency) // 2 :].sum() / saliency.sum()
    assert silent['gradient'] > 0.7 and silent['gradient-times-magnitude'] < 0.2


def test_classes_are_found_by_index_id_and_latin_name(dataset):
    names = inspection.class_names(dataset, 4)
    for index in range(4):
        for text in (str(index), dataset.labelset[index], names[index], names[index].upper()):
            assert inspection.find_class(text, dataset, 4) == index
    for text in ('4', '-1', '1.5', 'Parus major'):
        with pytest.raises(Problem, match='neither a class of tiny_demo nor an index below 4'):
            inspection.find_class(text, dataset, 4)
    with pytest.raises(Problem, match=f'did you mean {names[2]}'):
        inspection.find_class(names[2][:-1], dataset, 4)


# == Full resolution ==


@pytest.mark.parametrize(
    'name, options', [('plain', ()), ('plain', ('--own-step',)), ('residual', ()), ('combined', ()), ('attention', ())]
)
def test_full_resolution_gives_the_score_of_each_window(
    name, options, tiny_dataset, dataset, tmp_path, call, monkeypatch, capsys
):
    net, filename = network(tmp_path, name)
    monkeypatch.setattr(fcn, 'READ_FRAMES', 100)
    call(filename, tmp_path / 'out.npz', '--dataset', tiny_dataset, '--full-resolution', '--window', 0.8, *options)
    found = load(tmp_path / 'out.npz')
    converted = fcn.to_fcn(net, 0.8, net.frame_step if options else 1)
    assert converted.describe() in capsys.readouterr().out
    feed = TestFeed(dataset, net.cfg)
    assert found.files == feed.files
    for i in range(0, len(feed), 3):
        item = feed.item(i)
        spect = torch.from_numpy(stft.spectrogram(item['samples'], 22050, 256, 70, bins=stft.num_bins(net.cfg)))[None]
        meta = torch.from_numpy(item['meta']) if 'meta' in item else None
        rows = found[item['file']]
        assert len(rows) == (spect.shape[1] - converted.window) // converted.step + 1
        before = converted.margin
        for row in range(before // converted.step, len(rows) - before, 17):
            start = row * converted.step - before
            with torch.no_grad():
                maps = net.maps(spect[:, start : start + converted.excerpt + 2 * before])[
                    :, :, before // net.frame_step :
                ][:, :, : converted.count]
                np.testing.assert_allclose(rows[row], net.finish(net.pool(maps), meta)['output'][0], atol=1e-4)


# == Plots ==


@pytest.mark.parametrize('name, kind', [('plain', 'pdf'), ('attention', 'png'), ('whole', 'png')])
def test_plots_are_written(name, kind, tiny_dataset, dataset, tmp_path, call):
    _, filename = network(tmp_path, name)
    call(
        filename,
        tmp_path / 'out.npz',
        '--dataset',
        tiny_dataset,
        '--filelists',
        'soundscapes_val',
        '--plot',
        tmp_path / 'plots',
        '--plot-format',
        kind,
        '--saliency',
        inspection.class_names(dataset, 4)[3],
    )
    files = sorted((tmp_path / 'plots').iterdir())
    assert [p.name for p in files] == sorted(
        f'{f[:-4].replace("/", "_")}.{kind}' for f in dataset.filelist('soundscapes_val')
    )
    assert all(p.read_bytes().startswith(dict(png=b'\x89PNG', pdf=b'%PDF')[kind]) for p in files)


def drawn(tmp_path, name, dataset, samples, monkeypatch, file='a/b.wav', trained=None, **options):
    """The figure of a recording."""
    import matplotlib.pyplot as plt

    net, _ = network(tmp_path, name)
    item = {
        'file': file,
        'samples': samples,
        **({'meta': np.ones((1, net.num_meta), np.float32)} if net.num_meta else {}),
    }
    predictor = Predictor(net, net.cfg, torch.device('cpu'))
    monkeypatch.setattr(plt, 'close', lambda figure: None)
    plotter = inspection.Plotter(predictor, dataset, [file], str(tmp_path), trained=trained)
    outputs = inspection.Inspector(predictor, plotter, **options).predict(item)
    if 'saliency' in outputs:
        assert sum(map(len, outputs['saliency'])) == predictor.frames(samples)
    figure = plt.gcf()
    monkeypatch.undo()
    plt.close(figure)
    return figure


def test_curves_of_long_recordings_have_no_seams_from_padding():
    # In blocks, the zeros that pad a residual network would show at both ends of each block.
    net = build_network('residual', 'frame_len=1024', 'len_max=2')
    samples = np.random.default_rng(0).integers(-9999, 9999, 22050 * 7).astype(np.int16)
    predictor = Predictor(net, net.cfg, torch.device('cpu'))
    found = torch.cat([maps for _, maps in predictor.all_maps(samples)], 2)
    spect = predictor.spectrogram(samples, 0, predictor.frames(samples))
    with torch.no_grad():
        expected = net.maps(torch.from_numpy(spect)[None])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_curves_are_where_the_sound_is(dataset, tmp_path, monkeypatch):
    samples = np.zeros(22050 * 10, np.int16)
    samples[22050 * 7 : 22050 * 7 + 200] = 10000
    figure = drawn(tmp_path, 'attention', dataset, samples, monkeypatch, class_index=1)
    spectrogram, curves, attention, saliency = figure.axes
    for line in curves.lines:
        x, y = line.get_data()
        changing = x[np.abs(y - np.median(y)) > 0.01 * np.ptp(y)]
        assert changing.min() < changing.max() < changing.min() + 0.5 and (
            changing.min() + changing.max()
        ) / 2 == pytest.approx(7, abs=0.05)
    for axes in (spectrogram, saliency):
        image = axes.images[0]
        assert image.get_extent()[1] == 10 and image.get_extent()[3] == pytest.approx(8, abs=0.1)
    loudest = spectrogram.images[0].get_array().sum(0).argmax() / spectrogram.images[0].get_array().shape[1]
    assert loudest == pytest.approx(0.7, abs=0.01)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        'frequency (kHz)',
        'probability',
        'attention\n(1: even)',
        'frequency (kHz)',
    ]


@pytest.mark.parametrize('seconds', [0, 0.01, 1, 121])
def test_recordings_of_any_length_and_silence_are_plotted(seconds, dataset, tmp_path, monkeypatch):
    figure = drawn(tmp_path, 'plain', dataset, np.zeros(int(22050 * seconds), np.int16), monkeypatch)
    assert all(axes.images[0].get_array().shape[1] <= inspection.COLUMNS for axes in figure.axes if axes.images)
    assert figure.axes[-1].get_xlabel() == ('time (h:mm:ss)' if seconds > 120 else 'time (s)')


def test_plots_show_probabilities_true_species_and_scales(dataset, tmp_path, monkeypatch):
    file, truth = next(iter(dataset.labels().items()))
    figure = drawn(tmp_path, 'combined', dataset, samples_of(dataset, file), monkeypatch, file, class_index=0)
    names = inspection.class_names(dataset, 4)
    spectrogram, curves, saliency = figure.axes
    assert f'{file}\ntrue species: {names[truth]}' in spectrogram.get_title()
    assert [line.get_label().split(' (')[0] for line in curves.lines if ', true' in line.get_label()] == [names[truth]]
    chances = np.array([line.get_ydata() for line in curves.lines])
    assert chances.min() >= 0 and np.ptp(chances) > 0.01
    np.testing.assert_allclose(chances.sum(0), 1, atol=1e-5)
    assert [axes.child_axes[0].get_ylabel() for axes in (spectrogram, saliency)] == ['level (dB)', 'relative strength']
    assert 'if the sound in the bin were a little louder or softer' in ' '.join(figure.get_supxlabel().split())


def test_scores_that_were_written_as_logits_are_plotted_as_probabilities(dataset, tmp_path, monkeypatch):
    trained = config.load([], SETTINGS + NETWORKS['plain'])
    samples = samples_of(dataset, dataset.filelist('valid')[0])
    legends = []
    for output in 'softmax', 'linear':
        monkeypatch.setitem(NETWORKS, output, NETWORKS['plain'] + [f'arch.output={output}'])
        figure = drawn(tmp_path, output, dataset, samples, monkeypatch, trained=trained)
        legends.append([line.get_label() for line in figure.axes[1].lines])
    assert legends[0] == legends[1]


def test_curves_of_long_recordings_have_no_gap_between_blocks(dataset, tmp_path, monkeypatch):
    samples = np.random.default_rng(0).normal(0, 1000, 22050 * 9).astype(np.int16)
    times = {
        name: drawn(tmp_path, name, dataset, samples, monkeypatch).axes[1].lines[0].get_xdata()
        for name in ('plain', 'centred', 'whole')
    }
    np.testing.assert_allclose(times['centred'], times['plain'])  # blocks of 2 s, and all at once
    np.testing.assert_allclose(np.diff(times['whole'])[:-1], 2, atol=0.1)  # a position for each block


def test_columns_contain_the_maxima_however_the_rows_are_divided():
    rows = np.random.default_rng(0).normal(size=(5000, 3))
    results = []
    for size in (1, 7, 5000):
        columns = inspection.Columns(5000)
        for start in range(0, 5000, size):
            columns.add(rows[start : start + size], start + np.arange(len(rows[start : start + size])))
        results.append(columns.result())
    for frames, values in results:
        assert len(frames) == inspection.COLUMNS
        np.testing.assert_array_equal(frames, results[0][0])
        np.testing.assert_array_equal(values, results[0][1])
    np.testing.assert_array_equal(results[0][1].max(0), rows.max(0))


# == Interruptions and bad input ==


@pytest.mark.parametrize(
    'options, after', [(('--full-resolution', '--window', 1), 3), (('--saliency', 0, '--plot', 'PLOTS'), 13)]
)
def test_an_interrupted_inspection_continues(
    options, after, tiny_dataset, dataset, tmp_path, call, monkeypatch, capsys
):
    _, name = network(tmp_path, 'plain')
    options = [tmp_path / 'plots' if o == 'PLOTS' else o for o in options]
    call(name, tmp_path / 'whole.npz', '--dataset', tiny_dataset, *options)
    plain, calls = stft.spectrogram, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(stft, 'spectrogram', interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(name, tmp_path / 'out.npz', '--dataset', tiny_dataset, '--var', 'bg_threads=0', *options)
    assert not (tmp_path / 'out.npz').exists()
    capsys.readouterr()
    call(name, tmp_path / 'out.npz', '--dataset', tiny_dataset, *options)
    assert 'continuing after' in capsys.readouterr().out
    assert (tmp_path / 'out.npz').read_bytes() == (tmp_path / 'whole.npz').read_bytes()
    if '--saliency' in options:
        assert (tmp_path / 'out.saliency.npz').read_bytes() == (tmp_path / 'whole.saliency.npz').read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]


@pytest.mark.parametrize(
    'name, options, words',
    [
        ('metadata', ('--full-resolution',), 'uses metadata alone.*leave out --full-resolution'),
        ('metadata', ('--plot', 'x', '--saliency', 0), 'leave out --plot and --saliency'),
        ('plain', ('--full-resolution', '--saliency', 0), 'cannot be combined with --plot, --saliency'),
        ('plain', ('--full-resolution', '--window', 0.01), 'take at least'),
        ('whole', ('--full-resolution',), 'pools over all frames'),
        ('centred', ('--full-resolution',), 'band_centre=1.*train one with band_centre=0'),
        ('plain', ('--saliency', 'Parus major'), 'neither a class'),
        ('plain', ('--plot',), 'no display here'),
        ('plain', ('--var', 'len_max=0'), 'len_max=0.*needs recordings'),
    ],
)
def test_impossible_requests_give_a_message_of_one_line_and_write_nothing(
    name, options, words, tiny_dataset, tmp_path, call
):
    _, filename = network(tmp_path, name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Problem, match=words) as caught:
        call(filename, tmp_path / 'out.npz', '--dataset', tiny_dataset, *options)
    assert '\n' not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
