"""Networks on embeddings that other programs computed for windows of recordings."""

import numpy as np
import pytest
import torch

from birdsong import config
from birdsong.data import audio, embeddings, stft
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import TestFeed, ValidFeed
from birdsong.data.training_feed import TrainFeed
from birdsong.files import Problem
from birdsong.prediction.predictor import load_model
from birdsong.scores import predictions
from helpers import run_program, run_scores, write_lines

WIDTH = 6
ROWS = [1 + i % 3 for i in range(60)]
KEYS = [f'{i}.wav' for i in range(60)]
SETTINGS = ['arch=', 'len_min=0', 'len_max=0', 'arch_meta=full:8', 'batchsize=16', 'epochs=2', 'epochsize=40']
SETTINGS += ['cost=softmax', 'arch.output=softmax', 'pred_clip=0', 'bg_threads=0', 'initial_eta=0.03']


def vectors():
    """The vectors (rows, WIDTH) of each recording: those of a class have a large value at the place of the class."""
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((rows, WIDTH)) for rows in ROWS]
    return [each + 5 * np.eye(WIDTH)[i % 3] for i, each in enumerate(noise)]


def times(rows):
    return 5.0 * np.arange(rows), 5.0 * np.arange(rows) + 5


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / 'birds'
    write_lines(folder / 'filelists' / 'train', KEYS[:40])
    write_lines(folder / 'filelists' / 'valid', KEYS[40:])
    write_lines(folder / 'labels' / 'labelset', ['a', 'b', 'c'])
    write_lines(folder / 'labels' / 'fg.tsv', [f'{key}\t{i % 3}' for i, key in enumerate(KEYS)])
    write_lines(folder / 'labels' / 'bg.tsv', [f'{key}\t' for key in KEYS])
    write_lines(folder / 'labels' / 'meta.tsv', [f'{key}\t\t\t{i}\t{i}\t' for i, key in enumerate(KEYS)])
    for name, part in ('one', slice(50)), ('two', slice(50, 60)):
        embeddings.write(tmp_path / f'{name}.npz', KEYS[part], vectors()[part], [times(rows) for rows in ROWS[part]])
    return folder


@pytest.fixture
def settings(dataset):
    """Settings that name both tables."""
    return [*SETTINGS, f'input_embeddings={dataset.parent}/one.npz,{dataset.parent}/two.npz']


def scaled(rows):
    return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True))


def test_a_network_is_trained_on_embeddings_and_predicts_each_of_their_windows(dataset, settings, tmp_path):
    words = [word for setting in settings for word in ('--var', setting)]
    train = run_program('experiments/train.py', '--dataset', dataset, '--validate', *words, tmp_path / 'a.npz')
    assert train.returncode == 0, train.stderr
    predict = run_program('experiments/predict.py', '--dataset', dataset, tmp_path / 'a.npz', tmp_path / 'a.pred.npz')
    assert predict.returncode == 0, predict.stderr
    found = predictions.load(tmp_path / 'a.pred.npz')
    assert np.diff(found.offsets).tolist() == ROWS[40:]
    for key, rows in zip(KEYS[40:], ROWS[40:], strict=True):
        np.testing.assert_array_equal(found.times(key), times(rows))
    metrics = run_scores(dataset, tmp_path / 'a.pred.npz').stdout
    assert float(metrics.split('MAP: ')[1].split(',')[0]) > 0.9


def test_training_draws_a_row_and_validation_uses_the_central_one(dataset, settings):
    cfg = config.load([], [*settings, 'input_meta=latitude'])
    expected = [scaled(rows) for rows in vectors()]
    feed = TrainFeed(Dataset(dataset), cfg)
    assert feed.num_meta == 2 + WIDTH
    seen = set()
    for k in range(60):
        batch = feed.batch(k)
        np.testing.assert_array_equal(batch['meta'], feed.batch(k)['meta'])
        for item, vector in zip(batch['item'].tolist(), batch['meta'][:, 2:], strict=True):
            distance = np.abs(expected[item] - vector).max(axis=1)
            assert distance.min() < 1e-6
            seen.add((item, int(distance.argmin())))
    assert len(seen) == sum(ROWS[:40])
    valid = ValidFeed(Dataset(dataset), cfg).batch(0)
    for item, vector in zip(valid['item'].tolist(), valid['meta'], strict=True):
        rows = expected[40 + item]
        np.testing.assert_allclose(vector[2:], rows[len(rows) // 2], rtol=1e-6)
    item = TestFeed(Dataset(dataset), cfg, files=[KEYS[2]]).item(0)
    assert item['meta'].shape == (3, 2 + WIDTH)
    np.testing.assert_allclose(item['meta'][:, 2:], expected[2], rtol=1e-6)


def test_metadata_alone_gives_the_same_batches_as_before(dataset):
    cfg = config.load([], [*SETTINGS, 'input_meta=latitude,longitude'])
    feed = TrainFeed(Dataset(dataset), cfg)
    assert feed.num_meta == feed.batch(0)['meta'].shape[1] == 4


def test_a_table_of_another_program_needs_only_files_and_embeddings(tmp_path):
    np.savez(tmp_path / 'a.npz', files=np.array(['x', 'y']), embeddings=np.array([[1, 1], [0, 0]], np.int16))
    found = embeddings.Embeddings(str(tmp_path / 'a.npz'), ['y', 'x'])
    assert found.width == 2 and found.times('x') is None
    np.testing.assert_array_equal(found.central(['x', 'y']), [[1, 1], [0, 0]])


def test_unusable_tables_are_refused_with_one_line(dataset, settings, tmp_path):
    good = {'files': np.array(['x', 'y']), 'embeddings': np.ones((3, 2)), 'offsets': np.array([0, 1, 3])}
    cases = {
        'no array': {'files': good['files']},
        'not a table of embeddings': good | {'offsets': np.array([0, 3, 3])},
        'not a table': good | {'embeddings': np.ones(3)},
        'not a table of': good | {'starts': np.zeros(3)},
        'not finite': good | {'embeddings': np.full((3, 2), np.nan)},
        'Python objects|not a complete': good | {'files': np.array(['x', None], object)},
        'no embeddings of z': good,
    }
    for message, arrays in cases.items():
        np.savez(tmp_path / 'bad.npz', **arrays)
        with pytest.raises(Problem, match=message):
            embeddings.Embeddings(str(tmp_path / 'bad.npz'), ['x', 'z'])
    np.savez(tmp_path / 'bad.npz', **good)
    with pytest.raises(Problem, match='embeddings of 2 numbers, but others have 6'):
        embeddings.Embeddings(f'{tmp_path}/one.npz,{tmp_path}/bad.npz', KEYS[:1])
    with pytest.raises(Problem, match='without spectrogram branch'):
        TrainFeed(Dataset(dataset), config.load([], [*settings, 'arch=Conv:8x1x-1', 'input_meta=']))


def test_embeddings_of_a_network_are_the_means_of_its_last_maps(golden_net, golden_dataset, tmp_path):
    net = golden_net('nets/ismir2016')
    arguments = ['--dataset', golden_dataset, '--filelists', 'test', '--window', 10, '--hop', 5]
    done = run_program('experiments/embed.py', *arguments, net, tmp_path / 'e.npz')
    assert done.returncode == 0, done.stderr
    found = embeddings.read(tmp_path / 'e.npz')
    dataset = Dataset(golden_dataset)
    assert [key for key, _, _ in found] == dataset.filelist('test')
    cfg = config.load([f'{net}.vars'])
    cfg['classes'] = cfg.get('classes') or dataset.num_classes
    plain = load_model(net, cfg, 0).eval()
    compared = 0
    for key, vectors, (starts, stops) in found:
        length = len(audio.WavFile(dataset.audio_path(key))) / cfg['sample_rate']
        np.testing.assert_array_equal(starts, 5.0 * np.arange(len(starts)))
        np.testing.assert_allclose(stops[:-1], starts[:-1] + 10, atol=0.02)
        assert stops[-1] == pytest.approx(length, abs=0.02)
        samples = audio.WavFile(dataset.audio_path(key))[: 11 * cfg['sample_rate']]
        spect = stft.spectrogram(samples, cfg['sample_rate'], cfg['frame_len'], cfg['fps'], bins=stft.num_bins(cfg))
        spect = spect[: round(10 * cfg['fps'])]
        if length < 5:
            continue  # it is repeated
        with torch.no_grad():
            expected = plain.audio.features(torch.from_numpy(spect)[None]).mean((0, 2, 3)).numpy()
        np.testing.assert_allclose(vectors[0], expected, atol=1e-4)
        compared += 1
    assert compared > 2


def test_embed_refuses_networks_without_audio_and_impossible_windows(golden_net, golden_dataset, tmp_path):
    for arguments, message in (
        (['--hop', 6, golden_net('nets/ismir2016')], '--hop=6: expected'),
        ([golden_net('nets/meta_dtenc3')], 'uses metadata alone'),
    ):
        done = run_program('experiments/embed.py', '--dataset', golden_dataset, *arguments, tmp_path / 'e.npz')
        assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1
