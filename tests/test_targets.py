"""Targets of annotated recordings: the classes that are active in an excerpt, and where excerpts are cut."""

import re

import numpy as np
import pytest
from scipy import stats

import train
from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import ValidFeed
from birdsong.data.targets import SegmentTargets
from birdsong.data.training_feed import TrainFeed
from birdsong.files import Problem
from helpers import FULL_TRAINING, run_program, training_arguments, wav_bytes, write_lines

RATE = 22050
SECONDS = (60, 40, 30, 30, 1)  # lengths of the recordings
KEYS = [f'{i}.wav' for i in range(len(SECONDS))]
# Recording 2 is annotated, but no class is active; 3 is not annotated; 4 is shorter than an excerpt.
SEGMENTS = {
    0: [(3, 3.1, 0), (10, 14, 1), (12, 20, 2), (50, 58, 1)],
    1: [(5, 5.5, 0), (30, 31, 2)],
    2: [(0, 30, None)],
    4: [(0.5, 0.9, 1)],
}
CFG = [
    'batchsize=5',
    'len_min=2',
    'len_max=2',
    'len_buckets=1',
    'bg_threads=0',
    'arch.output=sigmoid',
    'cost=ce',
    'segment_targets=1',
    'segment_overlap=0.25',
]


@pytest.fixture
def annotated(tmp_path):
    """Recordings in which the samples tell which classes are active: the sum of 1, 2 and 4 for classes 0, 1 and 2."""
    (tmp_path / 'audio').mkdir()
    for i, key in enumerate(KEYS):
        samples = np.zeros(SECONDS[i] * RATE, '<i2')
        for start, end, index in SEGMENTS.get(i, ()):
            if index is not None:
                samples[int(start * RATE) : int(end * RATE)] += 1 << index
        (tmp_path / 'audio' / key).write_bytes(wav_bytes(samples))
    rows = [(i, *segment) for i, own in SEGMENTS.items() for segment in own]
    lines = {
        'filelists/train': KEYS,
        'filelists/valid': KEYS,
        'labels/labelset': 'abc',
        'labels/fg.tsv': [f'{key}\t2' for key in KEYS],
        'labels/bg.tsv': [f'{key}\t0,1' for key in KEYS],
        'labels/segments.tsv': [f'{KEYS[i]}\t{a}\t{b}\t{"" if c is None else c}' for i, a, b, c in rows],
    }
    for name, content in lines.items():
        write_lines(tmp_path / name, content)
    return Dataset(tmp_path)


def settings(*assignments):
    return config.load([], [*CFG, *assignments])


def seconds_active(samples):
    """Seconds in which each of the 3 classes is active, (B, 3)."""
    return np.stack([(samples.astype(int) >> index & 1).sum(1) / RATE for index in range(3)], 1)


def assert_follows(targets, batch):
    """The targets (B, 3) of a batch are the classes that are in its samples; those of recording 3 are its label.

    Of segments of recording 0, class 0, half (0.05 s) suffice, of all others, 0.25 s.
    """
    for row, item, times in zip(targets, batch['item'], seconds_active(batch['samples']), strict=True):
        needed = np.array([0.05 if item == 0 else 0.25, 0.25, 0.25])
        expected = [0, 0, 1] if item == 3 else times > needed
        clear = np.abs(times - needed) > 0.001
        np.testing.assert_array_equal(row[clear], np.array(expected)[clear])


# == Active classes ==


def test_a_class_is_active_if_enough_of_a_segment_is_in_the_excerpt():
    rng = np.random.default_rng(0)
    for _ in range(50):
        table = {
            str(i): [(a, a + rng.uniform(0.05, 3), int(rng.integers(4))) for a in rng.uniform(0, 20, rng.integers(5))]
            for i in range(3)
        }
        files, overlap, length = ['0', '1', '2', 'x'], rng.uniform(0, 1), rng.uniform(0.2, 5)
        starts = rng.uniform(0, 20, 4)
        found = SegmentTargets(table, files, 4, 1000, overlap).active(
            np.arange(4), (starts * 1000).astype(int).tolist(), int(length * 1000)
        )
        expected = np.zeros((4, 4), bool)
        for i, start in enumerate(starts):
            for a, b, index in table.get(files[i], ()):
                inside = min(b, start + length) - max(a, start)
                needed = min(overlap, (b - a) / 2, length / 2)
                if abs(inside - needed) < 0.005:  # rounding decides
                    expected[i, index] = found[i, index]
                else:
                    expected[i, index] |= inside >= needed and inside > 0
        np.testing.assert_array_equal(found, expected)


def test_targets_are_the_classes_in_the_excerpt(annotated):
    feed = TrainFeed(annotated, settings('mix_fg_bg=1'), on_device=True)
    empty = 0
    for k in range(200):
        batch = feed.batch(k)
        assert_follows(batch['active'], batch)
        assert batch['active'].dtype == np.float32 and batch['label_bg'].dtype == bool
        own = batch['item'] == 3
        assert batch['label_bg'][own].all()
        np.testing.assert_array_equal(batch['label_bg'][~own], batch['active'][~own] == 1)
        assert not batch['active'][batch['item'] == 2].any()
        assert (batch['active'][batch['item'] == 4] == [0, 1, 0]).all()
        empty += (batch['active'].sum(1) == 0).sum()
        assert (batch['label'] == 2).all() and 'mixed_label' not in batch
    assert empty > 100


def test_validation_uses_the_classes_in_the_centre(annotated):
    batch = ValidFeed(annotated, settings(), on_device=True).batch(0)
    assert_follows(batch['active'], batch)


def test_mixed_excerpts_have_mixed_targets(annotated):
    plain = TrainFeed(annotated, settings('batchsize=10'), on_device=True)
    mixed = TrainFeed(annotated, settings('mixup2=0.5'), on_device=True)
    other = np.array([0, 0, 1.0])
    checked = 0
    for k in range(40):
        both, batch = plain.batch(k), mixed.batch(k)  # the same excerpts, in pairs
        np.testing.assert_array_equal(both['item'][:5], batch['item'])
        for i in range(5):
            one, two = both['active'][i], both['active'][5 + i]
            if np.array_equal(one, other) and not two.any():
                weight = batch['active'][i][2]
                np.testing.assert_allclose(batch['active'][i], weight * one, rtol=1e-6)
                samples = np.stack([both['samples'][i], both['samples'][5 + i]]) * [[weight], [1 - weight]]
                np.testing.assert_allclose(batch['samples'][i], samples.sum(0), atol=1e-3)
                checked += 0 < weight < 1
    assert checked


# == Where excerpts are cut ==


def test_half_of_the_excerpts_contain_a_segment_and_the_others_are_anywhere(annotated):
    feed = TrainFeed(annotated, settings(), on_device=True)
    batches = [feed.batch(k) for k in range(1200)]
    targets = np.concatenate([batch['active'] for batch in batches])
    items = np.concatenate([batch['item'] for batch in batches])
    own = targets[items == 1]
    # An excerpt that starts anywhere contains the first segment if it starts between 3.25 and 5.25 s, out of 38 s, and
    # the second one if it starts between 28.25 and 30.75 s. The other half is divided equally between the classes.
    for index, chance in ((0, 2 / 38), (2, 2.5 / 38)):
        expected = 0.25 + 0.5 * chance
        assert stats.binomtest(int(own[:, index].sum()), len(own), expected).pvalue > 0.001


def test_aimed_excerpts_are_within_the_recording_and_contain_a_segment():
    rng = np.random.default_rng(1)
    table = {'a': [(0, 0.3, 0), (99.8, 100, 1), (40, 70, 2), (80, 81, 2)]}
    targets = SegmentTargets(table, ['a'], 3, 1000, 0.25)
    items, lengths = np.zeros(3000, int), np.full(3000, 100_000)
    starts = targets.aim(np.full(3000, -1), items, lengths, 5000, rng)
    aimed = starts[starts >= 0]
    assert stats.binomtest(len(aimed), 3000, 0.5).pvalue > 0.001
    assert aimed.max() <= 95_000
    active = targets.active(items[: len(aimed)], aimed.tolist(), 5000)
    assert active.any(1).all()
    assert stats.chisquare(active.sum(0)).pvalue > 0.001  # classes are equally likely, whatever their durations


@pytest.mark.parametrize('more', [[], ['mixup2=0.3', 'class_balance=1', 'mix_fg_bg=1']])
def test_batches_are_the_same_for_any_number_of_threads(annotated, more):
    cfg = settings(*more)
    batches = list(TrainFeed(annotated, cfg).batches(0, 6))
    for way in ({'bg_threads': 3}, {'bg_processes': 2}):
        for k, batch in enumerate(TrainFeed(annotated, dict(cfg, **way)).batches(2, 6), 2):
            assert list(batch) == list(batches[k])
            for name in batch:
                np.testing.assert_array_equal(batch[name], batches[k][name])


def test_nothing_changes_without_annotations_or_without_the_setting(annotated, tmp_path, capsys):
    cfg = settings()
    plain = TrainFeed(annotated, dict(cfg, segment_targets=0)).batch(0)
    (tmp_path / 'labels' / 'segments.tsv').write_text('')
    for _ in range(2):
        batch = TrainFeed(annotated, cfg).batch(0)
        assert list(batch) == list(plain) and 'active' not in batch
        for name in batch:
            np.testing.assert_array_equal(batch[name], plain[name])
        assert re.search(r'train: no recording is in labels/segments.tsv: .*no effect\n', capsys.readouterr().err)
        (tmp_path / 'labels' / 'segments.tsv').unlink(missing_ok=True)


def test_a_line_of_the_table_that_is_not_valid_is_named(annotated, tmp_path):
    write_lines(tmp_path / 'labels' / 'segments.tsv', ['0.wav\t1\t2\t0', '0.wav\t3\t2\t0'])
    with pytest.raises(Problem, match='segments.tsv, line 2: expected'):
        TrainFeed(annotated, settings())


# == Training ==

TRAINING = dict(
    segment_targets=1,
    frame_cost=0.5,
    cost='focal:2',
    arch__output='sigmoid',
    arch__pool='attention:1',
    smooth_positives=0.05,
    mixup2=0.3,
    first_params_log=0,
)


def run_train(tmp_path, *flags, **changes):
    arguments = training_arguments(tmp_path, tmp_path / 'm.npz', *flags, **{**TRAINING, **changes})
    return run_program(train.__file__, *arguments)


def test_a_network_trains_on_annotated_recordings_and_notices_other_annotations(annotated, tmp_path):
    done = run_train(tmp_path, *FULL_TRAINING, '--amp', epochs=1)
    assert done.returncode == 0, done.stderr
    table = tmp_path / 'labels' / 'segments.tsv'
    table.write_text(table.read_text() + '3.wav\t1\t2\t0\n')
    again = run_train(tmp_path, *FULL_TRAINING, '--amp', epochs=2)
    assert again.returncode == 1 and 'm.state: does not fit this run: data was' in again.stderr


def test_softmax_outputs_are_refused_in_one_line(annotated, tmp_path):
    done = run_train(tmp_path, cost='softmax', arch__output='softmax', smooth_positives=0)
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert 'set arch.output=sigmoid' in done.stderr
