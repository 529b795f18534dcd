"""Combining predictions: the weighted mean of the rows, and their times."""

import numpy as np
import pytest

from birdsong.files import Problem
from birdsong.scores import combination, predictions
from birdsong.scores.combination import combine
from birdsong.scores.predictions import Predictions
from helpers import run_scores, write_lines

KEYS = ['north/a.wav', 'south/a.wav', 'b.wav']


def blocks(*counts, seconds=5.0):
    """Starts and stops of consecutive blocks, for recordings of so many rows."""
    starts = seconds * np.concatenate([np.arange(n) for n in counts])
    return starts, starts + seconds


def member(counts, times=None, name='a.npz', seed=0):
    scores = np.random.default_rng(seed).normal(size=(sum(counts), 3)).astype(np.float32)
    return Predictions(KEYS, np.concatenate([[0], np.cumsum(counts)]), scores, name, *(times or (None, None)))


def both_orders(one, other):
    for members in ((one, other), (other, one)):
        yield combine(iter(members), [1, 1])


def assert_times(found, times):
    assert [t.tolist() for t in (found.starts, found.stops)] == [t.tolist() for t in times]


def test_members_with_the_same_times_keep_them():
    times = blocks(3, 1, 2)
    almost = (times[0] + 5e-7, times[1] - 5e-7)
    assert_times(combine(iter([member([3, 1, 2], times), member([3, 1, 2], almost, seed=1)]), [2, 1]), times)


def test_a_member_without_times_takes_those_of_the_others():
    times = blocks(3, 1, 2)
    for found in both_orders(member([3, 1, 2], times), member([3, 1, 2], seed=1)):
        assert_times(found, times)
    three = [member([3, 1, 2]), member([1, 1, 1]), member([3, 1, 2], times)]
    assert_times(combine(iter(three), [1, 1, 1]), times)


@pytest.mark.parametrize('own', (None, (np.zeros(3), np.full(3, 15.0))), ids=('without times', 'whole recordings'))
def test_a_single_row_of_each_recording_takes_the_times_of_the_others(own):
    times = blocks(3, 1, 2)
    for found in both_orders(member([3, 1, 2], times), member([1, 1, 1], own)):
        assert_times(found, times)
        assert found.offsets.tolist() == [0, 3, 4, 6]


def test_rows_without_times_do_not_get_those_of_whole_recordings():
    for found in both_orders(member([3, 1, 2]), member([1, 1, 1], (np.zeros(3), np.full(3, 15.0)))):
        assert found.starts is None and found.stops is None


def test_each_recording_has_the_times_of_the_member_with_more_rows():
    for found in both_orders(member([3, 1, 1], blocks(3, 1, 1)), member([1, 1, 2], blocks(1, 1, 2))):
        assert_times(found, blocks(3, 1, 2))
    for found in both_orders(member([3, 1, 1], blocks(3, 1, 1)), member([1, 1, 2])):
        assert found.starts is None


@pytest.mark.parametrize('change', ('starts', 'stops'))
def test_different_times_are_refused_with_both_files_and_the_recording(change):
    one, other = (member([3, 1, 2], blocks(3, 1, 2), name) for name in ('one.npz', 'other.npz'))
    getattr(other, change)[3] += 0.01
    with pytest.raises(Problem, match=f'one.npz and other.npz have different times for the rows of {KEYS[1]}: '):
        combine(iter([one, other]), [1, 1])


def test_the_message_names_the_files_that_differ_not_the_first_one():
    times = blocks(3, 1, 2)
    first, plain = member([1, 1, 1], name='first.npz'), member([3, 1, 2], name='plain.npz')
    timed, later = member([3, 1, 2], times, 'timed.npz'), member([3, 1, 2], (times[0] + 1, times[1] + 1), 'later.npz')
    with pytest.raises(Problem, match='^timed.npz and later.npz have different times'):
        combine(iter([first, plain, timed, later]), [1] * 4)
    with pytest.raises(Problem, match=f'^plain.npz has 3 rows for {KEYS[0]}, but other.npz has 2'):
        combine(iter([first, plain, member([2, 1, 2], name='other.npz')]), [1] * 3)


def test_pooled_rows_have_no_times(tmp_path):
    starts, stops = blocks(3, 1, 2)
    given = member([3, 1, 2])
    predictions.save(tmp_path / 'p.npz', KEYS, given.scores, given.offsets, starts, stops)
    assert combination.prepared(tmp_path / 'p.npz', KEYS).starts is None
    assert_times(combination.prepared(tmp_path / 'p.npz', KEYS, maxpool=False), (starts, stops))


@pytest.mark.parametrize('name', ('starts', 'stops'))
def test_eval_saves_combinations_with_their_times(tmp_path, name):
    dataset = tmp_path / 'set'
    write_lines(dataset / 'filelists/valid', KEYS)
    one, other = member([3, 1, 2]), member([3, 1, 2], seed=1)
    times = dict(zip(('starts', 'stops'), blocks(3, 1, 2), strict=True))
    predictions.save(tmp_path / 'one.npz', KEYS, one.scores, one.offsets, **times)
    predictions.save(tmp_path / 'other.npz', KEYS, other.scores, other.offsets)
    options = ['--save-predictions=out.npz', '--no-maxpool']
    assert run_scores(dataset, 'one.npz', 'other.npz', *options).returncode == 0
    assert_times(predictions.load(tmp_path / 'out.npz'), blocks(3, 1, 2))
    times[name] = times[name] + 0.001
    predictions.save(tmp_path / 'other.npz', KEYS, other.scores, other.offsets, **times)
    done = run_scores(dataset, 'one.npz', 'other.npz', *options)
    assert done.returncode == 1 and 'one.npz and other.npz have different times' in done.stderr
    assert run_scores(dataset, 'one.npz', 'other.npz', '--save-predictions=pooled.npz').returncode == 0
    assert predictions.load(tmp_path / 'pooled.npz').starts is None
