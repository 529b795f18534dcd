"""Datasets of 32 kHz: settings, training, prediction, plots and full resolution at another sample rate."""

import numpy as np
import pytest

from birdsong import config
from birdsong.data import stft
from birdsong.scores import predictions
from helpers import ROOT, run_program, wav_bytes, write_lines

PRESETS = ROOT / 'experiments' / 'vars'
TINY = ['arch=conv:4x3x3x2x2,pool:3x3,Conv:8x3x-1', 'batchsize=4', 'epochs=1', 'epochsize=2', 'bg_threads=0']
TINY += ['len_min=1', 'len_max=1', 'cost=softmax', 'arch.output=softmax', 'arch.pool=logmeanexp:1']
SECONDS = (0.5, 1, 1.5, 2, 2.5, 3)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Six recordings of 0.5 to 3 s at 32 kHz, of two classes: tones of 13 kHz and 14 kHz in noise."""
    folder = tmp_path_factory.mktemp('datasets') / 'high'
    rng = np.random.default_rng(0)
    keys = [f'{i}.wav' for i in range(len(SECONDS))]
    (folder / 'audio').mkdir(parents=True)
    for i, (key, seconds) in enumerate(zip(keys, SECONDS, strict=True)):
        times = np.arange(int(seconds * 32000)) / 32000
        samples = 8000 * np.sin(2 * np.pi * (13000 + 1000 * (i % 2)) * times) + rng.normal(0, 100, len(times))
        (folder / 'audio' / key).write_bytes(wav_bytes(samples.astype('<i2'), rate=32000))
    write_lines(folder / 'filelists' / 'train', keys[:4])
    write_lines(folder / 'filelists' / 'valid', keys[4:])
    write_lines(folder / 'labels' / 'labelset', ['low', 'high'])
    write_lines(folder / 'labels' / 'fg.tsv', [f'{key}\t{i % 2}' for i, key in enumerate(keys)])
    write_lines(folder / 'dataset.vars', ['sample_rate=32000'])
    return folder


def train(dataset, out, *more, settings=TINY):
    words = [word for setting in settings for word in ('--var', setting)]
    return run_program('experiments/train.py', '--dataset', dataset, '--validate', *words, *more, out)


@pytest.fixture(scope='module')
def trained(dataset, tmp_path_factory):
    model = tmp_path_factory.mktemp('models') / 'm.npz'
    done = train(dataset, model, '--vars', PRESETS / '32khz.vars')
    assert done.returncode == 0 and 'mel_max' not in done.stdout, done
    return model


def test_the_preset_keeps_the_resolution_of_the_published_networks():
    at_22050 = config.load([], ['mel_max=10000'])
    at_32000 = config.load([str(PRESETS / '32khz.vars')], ['sample_rate=32000'])
    assert stft.hop(at_32000) / 32000 == pytest.approx(stft.hop(at_22050) / 22050, rel=0.01)
    assert at_32000['frame_len'] / 32000 == pytest.approx(1024 / 22050, rel=0.05)

    def mels_per_band(cfg):
        low, high = (1127 * np.log1p(cfg[name] / 700) for name in ('mel_min', 'mel_max'))
        return (high - low) / (cfg['mel_bands'] + 1)

    assert mels_per_band(at_32000) == pytest.approx(mels_per_band(at_22050), rel=0.01)
    for name in ('32khz', 'recipe_32khz'):
        cfg = config.load([str(PRESETS / f'{name}.vars')], ['sample_rate=32000'])
        bank = stft.create_mel_filterbank(32000, *(cfg[k] for k in ('frame_len', 'mel_bands', 'mel_min', 'mel_max')))
        np.testing.assert_allclose(bank.sum(axis=0), 1, rtol=1e-6)


@pytest.mark.parametrize('table, preset', [('models.tsv', '32khz'), ('recipe.tsv', 'recipe_32khz')])
def test_every_network_can_be_built_with_the_preset(table, preset):
    from birdsong import model_table
    from birdsong.data import metadata
    from birdsong.networks import model

    built = set()
    for one in model_table.read_table(str(ROOT / 'experiments' / table)).values():
        if one.settings.get('arch') and one.settings['arch'] not in built:
            built.add(one.settings['arch'])
            presets = [str(PRESETS / f'{name}.vars') for name in [*one.presets, preset]]
            cfg = config.load(presets, ['sample_rate=32000', 'arch.fullsize=8'])
            assert model.build(cfg, 3, metadata.size(cfg)).min_frames > 0
    assert built


def test_training_says_if_high_frequencies_are_not_used(dataset, tmp_path):
    done = train(dataset, tmp_path / 'm.npz', '--var', 'epochs=0')
    assert 'mel_max=8000: ' in done.stdout and '16000 Hz' in done.stdout and 'vars/32khz.vars' in done.stdout
    silent = train(dataset, tmp_path / 'm.npz', '--var', 'epochs=0', '--var', 'filterbank=mel_learn')
    assert silent.returncode == 0 and '32khz.vars' not in silent.stdout


def test_the_rate_of_model_and_dataset_must_agree(dataset, tiny_dataset, trained, tmp_path):
    done = run_program('experiments/predict.py', '--dataset', tiny_dataset, trained, tmp_path / 'p.npz')
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert 'recordings have 22050 Hz, but the model was trained at 32000 Hz; prepare' in done.stderr
    done = train(dataset, tmp_path / 'm.npz', '--var', 'sample_rate=22050')
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert 'recordings have 32000 Hz, but sample_rate=22050 is set; train with --var sample_rate=32000' in done.stderr
    done = train(tiny_dataset, tmp_path / 'm.npz', '--vars', PRESETS / '32khz.vars')
    assert 'mel_max=15000: must not be above half of sample_rate=22050' in done.stderr


def test_predictions_have_a_row_per_block_of_seconds(dataset, trained, tmp_path):
    blocks = ['--var', 'len_min=0', '--var', 'len_max=1']
    lists = ['--dataset', dataset, '--filelists', 'train,valid']
    done = run_program('experiments/predict.py', *lists, *blocks, trained, tmp_path / 'p.npz')
    assert done.returncode == 0, done.stderr
    found = predictions.load(tmp_path / 'p.npz')
    assert [len(found[key]) for key in found.files] == [1, 1, 1, 1, 2, 2]


def test_frames_at_full_resolution_are_at_their_own_rate(dataset, trained, tmp_path):
    options = ['--dataset', dataset, '--full-resolution', '--window', '1']
    done = run_program('experiments/predict.py', *options, trained, tmp_path / 'p.npz')
    assert done.returncode == 0, done.stderr
    found = predictions.load(tmp_path / 'p.npz')
    # 2.5 and 3 s: windows of 1 s that begin every 457 samples
    for key, seconds in zip(found.files, SECONDS[4:], strict=True):
        assert len(found[key]) == pytest.approx((seconds - 1) * 70, abs=3)
    done = run_program('experiments/model_to_fcn.py', '--window', '1', trained, tmp_path / 'fcn.npz')
    assert done.returncode == 0, done.stderr


def test_the_device_computes_the_same_spectrograms(dataset, trained, tmp_path):
    for where in 'cpu', 'device':
        options = ['--dataset', dataset, '--split-pool', '--var', f'spectrogram={where}', '--var', 'len_min=0']
        done = run_program('experiments/predict.py', *options, trained, tmp_path / f'{where}.npz')
        assert done.returncode == 0, done.stderr
    host, device = (predictions.load(tmp_path / f'{where}.npz').scores for where in ('cpu', 'device'))
    np.testing.assert_allclose(host, device, atol=1e-4)


def test_plots_are_drawn(dataset, trained, tmp_path):
    options = ['--dataset', dataset, '--var', 'len_min=0', '--plot', tmp_path / 'plots']
    done = run_program('experiments/predict.py', *options, trained, tmp_path / 'p.npz')
    assert done.returncode == 0 and len(list((tmp_path / 'plots').iterdir())) == 2, done.stderr
