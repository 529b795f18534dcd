"""The resumable writer of predictions: the same bytes as without interruptions, wherever it was stopped."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from birdsong.files import Problem
from birdsong.scores.journal import Writer
from birdsong.scores.predictions import load, save
from helpers import PREDICTED, ROOT, assert_holds, some_rows


def test_the_writer_writes_the_same_bytes_as_save(tmp_path):
    rows = some_rows()
    save(tmp_path / 'saved.npz', PREDICTED, rows)
    with Writer(tmp_path / 'p.npz', PREDICTED, 5) as writer:
        for i in (2, 0, 1):
            writer.add(PREDICTED[i], rows[i])
        writer.finish()
    assert (tmp_path / 'p.npz').read_bytes() == (tmp_path / 'saved.npz').read_bytes()
    assert sorted(os.listdir(tmp_path)) == ['p.npz', 'saved.npz']


@pytest.mark.parametrize('whole', (True, False), ids=('whole', 'in parts'))
def test_writing_continues_wherever_the_journal_was_cut_off(tmp_path, whole):
    def given(values):
        return values if whole else iter(np.atleast_2d(values)[:, None])

    rows = some_rows()
    save(tmp_path / 'saved.npz', PREDICTED, rows)
    first = Writer(tmp_path / 'p.npz', PREDICTED, 5, key='model')
    for name, values in zip(PREDICTED[:2], rows[:2], strict=True):
        first.add(name, given(values))
    first.close()
    journal = tmp_path / '.p.npz.journal'
    content = journal.read_bytes()
    seen = set()
    for length in range(len(content) + 1):
        journal.write_bytes(content[:length])
        with Writer(tmp_path / 'p.npz', PREDICTED, 5, key='model') as writer:
            seen.add(len(writer.done))
            assert writer.done == set(PREDICTED[: len(writer.done)])
            for name, values in zip(PREDICTED, rows, strict=True):
                if name not in writer.done:
                    writer.add(name, given(values))
            writer.finish()
        assert (tmp_path / 'p.npz').read_bytes() == (tmp_path / 'saved.npz').read_bytes()
        assert not journal.exists()
    assert seen == {0, 1, 2}


def test_a_recording_that_was_interrupted_is_written_again_from_its_beginning(tmp_path):
    def parts():
        yield np.ones(3)
        yield np.ones(3)
        yield np.ones((2, 3))
        raise KeyboardInterrupt

    for _ in range(2):
        with Writer(tmp_path / 'p.npz', ['a'], 3) as writer, pytest.raises(KeyboardInterrupt):
            writer.add('a', parts())
    with Writer(tmp_path / 'p.npz', ['a'], 3) as writer:
        assert not writer.done
        writer.add('a', iter([np.zeros(3), np.zeros((4, 3))]))
        writer.finish()
    assert_holds(load(tmp_path / 'p.npz'), ['a'], [np.zeros((5, 3))])


def test_damaged_records_at_the_end_of_a_journal_are_cut_off(tmp_path):
    rows = some_rows()
    with Writer(tmp_path / 'p.npz', PREDICTED, 5) as writer:
        writer.add(PREDICTED[0], rows[0])
    journal = tmp_path / '.p.npz.journal'
    whole = journal.read_bytes()
    with Writer(tmp_path / 'p.npz', PREDICTED, 5) as writer:
        writer.add(PREDICTED[1], rows[1])
    second = bytearray(journal.read_bytes()[len(whole) :])
    second[-1] ^= 1
    for damaged in (bytes(second), bytes(1000), b'\xff' * 1000, struct.pack('<qqqI', 1, 0, 1 << 60, 0), whole[-30:]):
        journal.write_bytes(whole + damaged)
        with Writer(tmp_path / 'p.npz', PREDICTED, 5) as writer:
            assert writer.done == {PREDICTED[0]}
        assert journal.read_bytes() == whole


@pytest.mark.parametrize('change', ({'key': 'other'}, {'files': PREDICTED[:2]}, {'num_classes': 4}))
def test_a_journal_of_something_else_is_discarded(tmp_path, change):
    same = {'files': PREDICTED, 'num_classes': 5, 'key': 'model'}
    with Writer(tmp_path / 'p.npz', **same) as writer:
        writer.add(PREDICTED[0], some_rows()[0])
    with Writer(tmp_path / 'p.npz', **same) as writer:
        assert writer.done == {PREDICTED[0]}
    with Writer(tmp_path / 'p.npz', **{**same, **change}) as writer:
        assert writer.done == set()


def test_a_killed_writer_loses_no_added_recordings(tmp_path):
    code = (
        f'import os, sys; sys.path.insert(0, {str(ROOT / "experiments")!r}); import numpy as np\n'
        'from birdsong.scores.journal import Writer\n'
        f'w = Writer({str(tmp_path / "p.npz")!r}, ["a", "b"], 3, "k"); w.add("a", np.ones((2, 3)))\n'
        'os.kill(os.getpid(), 9)'
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    with Writer(tmp_path / 'p.npz', ['a', 'b'], 3, 'k') as writer:
        assert writer.done == {'a'}
        writer.add('b', np.zeros(3))
        writer.finish()
    assert_holds(load(tmp_path / 'p.npz'), ['a', 'b'], [np.ones((2, 3)), np.zeros(3)])


def test_wrong_recordings_and_scores_are_refused(tmp_path):
    with pytest.raises(Problem, match='twice'):
        Writer(tmp_path / 'p.npz', ['a', 'a'], 3)
    with pytest.raises(Problem, match='empty'):
        Writer(tmp_path / 'p.npz', [], 3)
    with Writer(tmp_path / 'p.npz', ['a', 'b'], 3) as writer:
        writer.add('a', np.zeros(3))
        for name, values, message in (
            ('a', np.zeros(3), 'already'),
            ('c', np.zeros(3), 'not in the file list'),
            ('b', np.zeros(4), r'not \(rows, 3\)'),
            ('b', np.full(3, np.nan), 'not finite'),
            ('b', np.zeros((0, 3)), 'rows'),
        ):
            with pytest.raises(Problem, match=message):
                writer.add(name, values)
        with pytest.raises(Problem, match='1 recordings were not predicted, such as b'):
            writer.finish()
    assert not (tmp_path / 'p.npz').exists()
