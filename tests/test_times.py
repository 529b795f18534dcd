"""predict.py writes the time of each row: blocks, windows, positions and frames are where they say."""

import numpy as np
import pytest
import soundfile
import torch

from birdsong import config
from birdsong.data import stft
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import TestFeed
from birdsong.networks import model
from birdsong.prediction.full_resolution import FullResolution
from birdsong.prediction.predictor import Predictor
from birdsong.prediction.times import RowTimes
from birdsong.scores.predictions import load
from helpers import NETWORK_SETTINGS, NETWORKS, build_network, random_spectrogram, run_program

RATE, HOP, FRAME_LEN = 22050, 315, 1024
# Seconds of the recordings: of one block, of several, with a remainder, shorter than a frame, than the network, empty.
LENGTHS = {'long/a.wav': 12.3, 'b.wav': 5.0, 'c.wav': 7.77, 'one frame.wav': 0.008, 'short.wav': 0.4, 'empty.wav': 0}


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('times') / 'set'
    (folder / 'filelists').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for key, seconds in LENGTHS.items():
        path = folder / 'audio' / key
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, round(seconds * RATE)), RATE, 'PCM_16')
    (folder / 'filelists/all').write_text(''.join(f'{key}\n' for key in LENGTHS))
    (folder / 'filelists/single').write_text('b.wav\nshort.wav\n')
    return folder


def settings(name, *extra):
    return [*NETWORK_SETTINGS, f'frame_len={FRAME_LEN}', *NETWORKS[name], 'len_min=0', 'len_max=5', *extra]


@pytest.fixture
def predicted(dataset, tmp_path):
    """Runs predict.py with a network of NETWORKS. Returns the predictions."""

    def run(name, *extra, options=(), out='out.npz', filelist='all', reused=0):
        if not (tmp_path / 'm.npz').exists():
            model.save(build_network(name, *settings(name, *extra)), tmp_path / 'm.npz')
        lines = [*settings(name, *extra), 'classes=3']
        (tmp_path / 'm.npz.vars').write_text(''.join(f'{line}\n' for line in lines))
        arguments = ['--dataset', dataset, '--filelists', filelist, '--device', 'cpu', *options]
        done = run_program('experiments/predict.py', tmp_path / 'm.npz', tmp_path / 'out.npz', *arguments)
        assert done.returncode == 0, done.stderr
        assert (f'reused {reused} recordings' in done.stdout) == bool(reused)
        return load(tmp_path / out)

    return run


def spans(found, key):
    return [(round(start, 6), round(stop, 6)) for start, stop in zip(*found.times(key), strict=True)]


def test_blocks_meet_and_the_last_one_ends_with_the_recording(predicted):
    found = predicted('plain', options=['--score-rest'])
    assert [times.tolist() for times in found.times('long/a.wav')] == [[0, 5, 10], [5, 10, 12.3]]
    assert spans(found, 'b.wav') == [(0, 5)]
    assert spans(found, 'c.wav') == [(0, 5), (5, round(round(7.77 * RATE) / RATE, 6))]
    assert spans(found, 'short.wav') == [(0, 0.4)]
    assert spans(found, 'one frame.wav') == [(0, round(HOP / RATE, 6))]
    assert spans(found, 'empty.wav') == [(0, round(HOP / RATE, 6))]


def test_a_remainder_that_is_not_scored_has_no_time(predicted):
    found = predicted('plain')
    assert spans(found, 'long/a.wav') == [(0, 5), (5, 10)]
    assert spans(found, 'c.wav') == [(0, 5)]


def test_overlapping_blocks_start_after_the_step(predicted):
    found = predicted('plain', 'len_min=1')
    assert spans(found, 'long/a.wav') == [(0, 5), (4, 9), (8, 12.3)]
    assert spans(found, 'short.wav') == [(0, 0.4)]


@pytest.mark.parametrize('options', ([], ['--split-pool']), ids=('one block', 'pooled'))
def test_one_row_per_recording_has_no_times(options, predicted):
    found = predicted('plain', filelist='all' if options else 'single', options=options)
    assert found.starts is None and found.stops is None and len(found.scores) == len(found.files)


@pytest.mark.parametrize('own_step', (False, True))
def test_windows_of_full_resolution_start_at_each_frame_or_step(own_step, predicted):
    found = predicted('plain', options=['--full-resolution', '--window=2'] + ['--own-step'] * own_step)
    step = (9 if own_step else 1) * HOP / RATE
    starts, stops = found.times('long/a.wav')
    np.testing.assert_allclose(starts, step * np.arange(len(starts)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(stops, np.minimum(starts + 2, 12.3), rtol=0, atol=1e-9)
    assert stops[-1] > 12.3 - step - 2 * HOP / RATE
    assert spans(found, 'short.wav') == [(0, 0.4)]


def test_positions_of_unpooled_outputs_have_the_times_of_the_frames_they_depend_on(predicted):
    found = predicted('plain', 'arch.pool=none', options=['--score-rest'])
    net = build_network('plain')
    least, step = net.min_frames, net.frame_step
    starts, stops = found.times('long/a.wav')
    per_block = (350 - least) // step + 1
    np.testing.assert_allclose(starts[:per_block], step * HOP / RATE * np.arange(per_block), atol=1e-9)
    np.testing.assert_allclose(stops[:per_block] - starts[:per_block], least * HOP / RATE, atol=1e-9)
    assert starts[per_block] == 5 and stops.max() <= 12.3
    # Here, the last position reaches the last frame.
    found = predicted('plain', 'arch.pool=none', 'len_max=1.7', options=['--score-rest'])
    assert found.times('b.wav')[1].max() == 5
    assert spans(found, 'short.wav') == [(0, 0.4)]


def test_side_outputs_have_the_times_of_their_rows(predicted, tmp_path):
    options = ['--include-side-outputs', '--saliency', '1', '--score-rest']
    extra = ('arch.pool=attention_nopool:2', 'arch.output_bg=sigmoid')
    scores = predicted('plain', *extra, options=options)
    for name in ('background', 'attention'):
        found = load(tmp_path / f'out.{name}.npz')
        assert found.starts.tolist() == scores.starts.tolist() and found.stops.tolist() == scores.stops.tolist()
    frames = load(tmp_path / 'out.saliency.npz')
    starts, stops = frames.times('b.wav')
    assert len(starts) == stft.num_frames(5 * RATE, FRAME_LEN, HOP)
    np.testing.assert_allclose(starts, np.arange(len(starts)) * HOP / RATE, atol=1e-9)
    np.testing.assert_allclose(stops, starts + HOP / RATE, atol=1e-9)


def test_rows_of_a_file_of_an_earlier_version_are_reused_and_get_their_times(predicted, tmp_path):
    whole = predicted('plain', options=['--score-rest'])
    content = (tmp_path / 'out.npz').read_bytes()
    arrays = {name: value for name, value in np.load(tmp_path / 'out.npz').items() if name not in ('starts', 'stops')}
    np.savez(tmp_path / 'earlier.npz', **arrays)
    again = predicted('plain', options=['--score-rest', '--reuse', tmp_path / 'earlier.npz'], reused=len(LENGTHS))
    assert (tmp_path / 'out.npz').read_bytes() == content
    assert again.starts.tolist() == whole.starts.tolist()
    np.testing.assert_array_equal(again.scores, whole.scores)


def test_an_interrupted_run_gives_the_same_file(predicted, tmp_path, monkeypatch):
    predicted('plain', options=['--score-rest'])
    content = (tmp_path / 'out.npz').read_bytes()
    (tmp_path / 'out.npz').unlink()
    predict, calls = Predictor.predict, []

    def interrupted(self, item, blocks=None):
        calls.append(item['file'])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, item, blocks)

    monkeypatch.setattr(Predictor, 'predict', interrupted)
    with pytest.raises(AssertionError, match='interrupted'):
        predicted('plain', options=['--score-rest'])
    assert not (tmp_path / 'out.npz').exists()
    predicted('plain', options=['--score-rest'])
    assert (tmp_path / 'out.npz').read_bytes() == content
    assert calls[2:4] == [list(LENGTHS)[2]] * 2


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_has_as_many_rows_as_times(name, dataset):
    cfg = config.load([], settings(name, 'arch.pool=attention_nopool:2', 'len_min=0.5'))
    net = build_network(name, *settings(name, 'arch.pool=attention_nopool:2'))
    feed = TestFeed(Dataset(dataset), cfg, 'all')
    predictor = Predictor(net, cfg, torch.device('cpu'), score_rest=True, with_attention=True)
    lengths = dict(zip(feed.files, feed.index['length'].tolist(), strict=True))
    row_times = RowTimes(predictor, lengths)
    for i, (key, length) in enumerate(lengths.items()):
        for output, rows in predictor.predict(feed.item(i)).items():
            starts, stops = row_times.of(output, key)(0, 10**6)
            assert len(starts) == len(stops) == len(rows), output
            assert (starts >= 0).all() and (starts < stops).all()
            assert stops.max() <= max(length, HOP) / RATE


def changed_positions(net, frame, frames=200):
    """Whether each position of the maps depends on a frame."""
    spect = random_spectrogram(net, frames)
    other = spect.clone()
    other[:, frame] = 0
    with torch.no_grad():
        return ((net.maps(spect) - net.maps(other)).abs().amax((0, 1, 3)) > 1e-6).numpy()


@pytest.mark.parametrize('name', ['plain', 'strided', 'sparse'])
def test_a_position_depends_on_the_frames_of_its_time(name):
    net = build_network(name)
    for frame in (60, 61, 64, 100):
        differ = changed_positions(net, frame)
        starts = net.frame_step * np.arange(len(differ))
        assert (differ <= ((starts <= frame) & (frame < starts + net.min_frames))).all()


@pytest.mark.parametrize('name', ['residual', 'wide_residual', 'strided_residual'])
def test_with_padded_layers_a_position_depends_on_the_frames_around_its_time(name):
    net = build_network(name)
    differ = changed_positions(net, 100)
    middles = net.frame_step * np.flatnonzero(differ) + net.min_frames / 2
    assert abs(middles.mean() - 100.5) <= net.frame_step


@pytest.mark.parametrize('pool', ('max', 'none'))
@pytest.mark.parametrize('own_step', (False, True))
def test_full_resolution_of_unpooled_networks_has_the_times_of_positions(pool, own_step, dataset):
    cfg = config.load([], settings('strided', f'arch.pool={pool}'))
    net = build_network('strided', *settings('strided', f'arch.pool={pool}'))
    predictor = Predictor(net, cfg, torch.device('cpu'))
    full = FullResolution(predictor, 2, own_step)
    feed = TestFeed(Dataset(dataset), cfg, 'all')
    lengths = dict(zip(feed.files, feed.index['length'].tolist(), strict=True))
    row_times = RowTimes(predictor, lengths, full)
    for i, (key, length) in enumerate(lengths.items()):
        rows = np.concatenate(list(full.predict(feed.item(i))['output']))
        starts, stops = row_times.of('output', key)(0, len(rows))
        assert starts[0] == 0 and (starts < stops).all() and stops.max() <= max(length, HOP) / RATE
        bands = 1 if pool == 'max' else net.audio.chain.bands
        assert len(np.unique(starts)) == len(rows) // bands
        assert len(rows) == bands or stops[-1] > length / RATE - 3 * net.frame_step * HOP / RATE
