"""Datasets without recordings: networks on metadata alone are trained, predict, are evaluated and combined."""

import numpy as np
import pytest

from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import TestFeed, ValidFeed
from birdsong.data.training_feed import TrainFeed
from birdsong.files import load_npz
from birdsong.scores import predictions
from helpers import run_program, run_scores, write_lines

META = ['arch=', 'len_min=0', 'len_max=0', 'input_meta=time,latitude,longitude', 'arch_meta=full:8']
TRAINING = ['batchsize=16', 'epochs=2', 'epochsize=40', 'initial_eta=0.03', 'cost=softmax', 'arch.output=softmax']
TRAINING += ['pred_clip=0', 'bg_threads=0', 'input_meta.latitude_noise=0', 'input_meta.longitude_noise=0']


def lines_of(count):
    """(key, class, fields of meta.tsv) of recordings: each of three classes lives at another latitude."""
    rng = np.random.default_rng(0)
    for i in range(count):
        latitude, longitude, hour = 40 + 3 * (i % 3) + rng.random(), 8 + rng.random(), rng.integers(24)
        yield f'site {i % 7}/{i}.wav', i % 3, f'\t{hour:02}:30:00\t{latitude:.4f}\t{longitude:.4f}\t'


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / 'places'
    rows = list(lines_of(60))
    keys = [key for key, _, _ in rows]
    write_lines(folder / 'filelists' / 'train', keys[:40])
    write_lines(folder / 'filelists' / 'valid', keys[40:])
    write_lines(folder / 'labels' / 'labelset', ['a', 'b', 'c'])
    write_lines(folder / 'labels' / 'fg.tsv', [f'{key}\t{label}' for key, label, _ in rows])
    write_lines(folder / 'labels' / 'bg.tsv', [f'{key}\t' for key in keys])
    write_lines(folder / 'labels' / 'meta.tsv', [f'{key}\t{meta}' for key, _, meta in rows])
    scales = {'latitude_mean': 43.5, 'latitude_std': 2.5, 'longitude_mean': 8.5, 'longitude_std': 0.3}
    write_lines(folder / 'dataset.vars', [f'input_meta.{name}={value}' for name, value in scales.items()])
    return folder


def train(dataset, out, *more, settings=()):
    words = [word for setting in [*META, *TRAINING, *settings] for word in ('--var', setting)]
    return run_program('experiments/train.py', '--dataset', dataset, '--validate', '--keep-state', *words, *more, out)


def predict(dataset, model, out, *more):
    return run_program('experiments/predict.py', '--dataset', dataset, *more, model, out)


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_network_is_trained_predicts_and_is_evaluated_and_combined(dataset, tmp_path):
    for seed in 0, 1:
        succeeded(train(dataset, tmp_path / f'{seed}.npz', settings=[f'seed={seed}']))
        succeeded(predict(dataset, tmp_path / f'{seed}.npz', tmp_path / f'{seed}.pred.npz'))
    found = predictions.load(tmp_path / '0.pred.npz')
    assert found.files == Dataset(dataset).filelist('valid') and found.scores.shape == (20, 3)
    metrics = succeeded(run_scores(dataset, tmp_path / '0.pred.npz', tmp_path / '1.pred.npz'))
    assert float(metrics.split('MAP: ')[1].split(',')[0]) > 0.9
    both = [tmp_path / f'{seed}.pred.npz' for seed in (0, 1)]
    succeeded(run_scores(dataset, '--strategy', 'greedy', '--output', tmp_path / 'e.tsv', *both, program='blender.py'))
    assert (tmp_path / 'e.tsv').exists() and not (dataset / 'index.npz').exists()


def test_a_fold_of_such_a_dataset_has_no_recordings_either(dataset, tmp_path):
    fold = tmp_path / 'places-fold1'
    (fold / 'filelists').mkdir(parents=True)
    for name in ('labels', 'dataset.vars', 'index.npz'):  # there is no index yet
        (fold / name).symlink_to(f'../places/{name}')
    for name in ('train', 'valid'):
        (fold / 'filelists' / name).write_bytes((dataset / 'filelists' / name).read_bytes())
    succeeded(train(fold, tmp_path / 'fold.npz', settings=['epochs=1']))
    succeeded(train(dataset, tmp_path / 'whole.npz', settings=['epochs=1']))
    assert (tmp_path / 'fold.npz').read_bytes() == (tmp_path / 'whole.npz').read_bytes()


def test_means_and_deviations_of_the_dataset_reach_the_network(dataset, tmp_path):
    succeeded(train(dataset, tmp_path / 'm.npz', settings=['epochs=0']))
    own = config.read_vars(str(tmp_path / 'm.npz.vars'))
    assert (own['input_meta.latitude_mean'], own['input_meta.longitude_std']) == (43.5, 0.3)
    assert own['input_meta.elevation_mean'] == 967  # the dataset has none
    feed = TrainFeed(Dataset(dataset), own)
    values = np.concatenate([feed.batch(k)['meta'] for k in range(5)])[:, -2:]
    assert abs(values.mean()) < 0.3 and abs(values.std() - 1) < 0.3
    # A trained model keeps its own, even if those of the dataset change.
    (dataset / 'dataset.vars').write_text('input_meta.latitude_mean=0\n')
    for name in 'before', 'after':
        succeeded(predict(dataset, tmp_path / 'm.npz', tmp_path / f'{name}.npz'))
        (dataset / 'dataset.vars').unlink(missing_ok=True)
    before, after = (load_npz(tmp_path / f'{name}.npz')['scores'] for name in ('before', 'after'))
    np.testing.assert_array_equal(before, after)


def test_training_says_if_means_do_not_fit_the_dataset(dataset, tmp_path):
    assert 'input_meta' not in succeeded(train(dataset, tmp_path / 'm.npz', settings=['epochs=0']))
    (dataset / 'dataset.vars').unlink()
    said = succeeded(train(dataset, tmp_path / 'm.npz', settings=['epochs=0']))
    assert 'input_meta.longitude_mean=-62: the mean of the training recordings is 8.' in said
    assert 'input_meta.latitude_mean=-6.4: the mean of the training recordings is 43.' in said
    write_lines(dataset / 'labels' / 'meta.tsv', [])  # nothing is known
    assert 'input_meta' not in succeeded(train(dataset, tmp_path / 'm.npz', settings=['epochs=0']))


def test_an_interrupted_run_continues(dataset, tmp_path):
    succeeded(train(dataset, tmp_path / 'm.npz', settings=['epochs=1']))
    assert 'continuing from' in succeeded(train(dataset, tmp_path / 'm.npz'))
    succeeded(train(dataset, tmp_path / 'whole.npz'))
    assert (tmp_path / 'm.npz').read_bytes() == (tmp_path / 'whole.npz').read_bytes()


def test_batches_are_drawn_from_all_recordings(dataset):
    cfg = config.load([], META + TRAINING)
    train_feed, valid_feed = TrainFeed(Dataset(dataset), cfg), ValidFeed(Dataset(dataset), cfg)
    drawn = np.concatenate([train_feed.batch(k)['item'] for k in range(50)])
    counts = np.bincount(drawn, minlength=40)
    assert counts.min() > 5 and counts.max() < 45  # 20 each on average
    assert [len(set(train_feed.batch(k)['item'].tolist())) for k in range(5)] == [16] * 5
    seen = np.concatenate([valid_feed.batch(k)['item'] for k in range(len(valid_feed))])
    assert seen.tolist() == list(range(20))
    assert set(TestFeed(Dataset(dataset), cfg).item(3)) == {'file', 'meta'}


@pytest.mark.parametrize('program', ['train', 'predict'])
def test_a_network_that_needs_recordings_is_refused(program, dataset, tiny_dataset, tmp_path):
    audio = ['--var', 'arch=conv:4x3x3,Conv:4x3x-1', '--var', 'len_max=2', '--var', 'len_min=1', '--var', 'epochs=0']
    if program == 'train':
        done = train(dataset, tmp_path / 'm.npz', *audio)
    else:
        assert train(tiny_dataset, tmp_path / 'm.npz', *audio).returncode == 0
        done = predict(dataset, tmp_path / 'm.npz', tmp_path / 'p.npz')
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert 'has no recordings (no audio/), but the network needs them' in done.stderr


def test_recordings_are_named_by_key(dataset, tmp_path):
    succeeded(train(dataset, tmp_path / 'm.npz', settings=['epochs=0']))
    succeeded(predict(dataset, tmp_path / 'm.npz', tmp_path / 'p.npz', '--file', 'site 1/1.wav'))
    assert predictions.load(tmp_path / 'p.npz').files == ['site 1/1.wav']
    done = predict(dataset, tmp_path / 'm.npz', tmp_path / 'p.npz', '--file', 'none.wav')
    assert done.returncode == 1 and 'none.wav: no such recording in' in done.stderr


def test_unlabelled_recordings_are_predicted(dataset, tmp_path):
    succeeded(train(dataset, tmp_path / 'm.npz', settings=['epochs=0']))
    write_lines(dataset / 'filelists' / 'unlabelled', ['unknown place.wav', 'site 0/0.wav'])
    for name in ('labelset', 'fg.tsv', 'bg.tsv'):
        (dataset / 'labels' / name).unlink()
    succeeded(predict(dataset, tmp_path / 'm.npz', tmp_path / 'p.npz', '--filelists', 'unlabelled'))
    assert predictions.load(tmp_path / 'p.npz').files == ['unknown place.wav', 'site 0/0.wav']


def test_plotting_the_feed_needs_recordings(dataset, tmp_path):
    done = train(dataset, tmp_path / 'm.npz', settings=['plot_datafeed=1'])
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'plot_datafeed' in done.stderr


@pytest.mark.slow
def test_drivers_prepare_train_and_evaluate_a_table_without_recordings(checkout, tmp_path):
    rows = []
    for key, label, meta in lines_of(90):
        _, time, latitude, longitude, _ = meta.split('\t')
        rows.append(f'"{key}",species {label},{time},{latitude},{longitude}')
    write_lines(tmp_path / 'table.csv', ['file,label,time,latitude,longitude', *rows])
    succeeded(checkout.run('prepare_birdclef.sh', tmp_path / 'table.csv', '--dataset', 'places', '--no-audio'))
    assert not (checkout.path / 'datasets' / 'places' / 'audio').exists()
    options = ['--dataset', 'places', '--models', 'small_meta.tsv']
    short = ['--var', 'epochs=1', '--var', 'epochsize=5']
    done = checkout.run('experiments/train_all.sh', *options, *short, cwd=checkout.experiments)
    assert done.returncode == 0, done.output
    for name in 'meta_place_time', 'meta_all':
        own = config.read_vars(str(checkout.experiments / 'places' / f'{name}.npz.vars'))
        assert 40 < own['input_meta.latitude_mean'] < 50
    lines = succeeded(checkout.run('experiments/eval_all.sh', '--dataset', 'places')).splitlines()
    assert len(lines) == 2 and all('MAP: ' in line for line in lines)
    # Networks that need recordings fail with a reason.
    write_lines(checkout.experiments / 'audio.tsv', ['cnn\trecipe recipe_cnn'])
    options = ['--dataset', 'places', '--models', 'audio.tsv']
    done = checkout.run('experiments/train_all.sh', *options, cwd=checkout.experiments)
    assert done.returncode == 1 and 'has no recordings (no audio/), but the network needs them' in done.output
