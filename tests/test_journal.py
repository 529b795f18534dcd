"""The resumable writer of predictions: the same bytes as without interruptions, wherever it was stopped."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib

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


def blocks(first, count):
    """The times of blocks of 5 s."""
    starts = 5.0 * np.arange(first, first + count)
    return starts, starts + 5


def all_times():
    """The times of some_rows() as blocks."""
    times = [blocks(0, len(rows)) for rows in some_rows()]
    return {'starts': np.concatenate([t[0] for t in times]), 'stops': np.concatenate([t[1] for t in times])}


@pytest.mark.parametrize('times', (None, blocks), ids=('without times', 'with times'))
@pytest.mark.parametrize('whole', (True, False), ids=('whole', 'in parts'))
def test_writing_continues_wherever_the_journal_was_cut_off(tmp_path, whole, times):
    def given(values):
        return values if whole else iter(np.atleast_2d(values)[:, None])

    rows = some_rows()
    save(tmp_path / 'saved.npz', PREDICTED, rows, **(all_times() if times else {}))
    first = Writer(tmp_path / 'p.npz', PREDICTED, 5, key='model')
    for name, values in zip(PREDICTED[:2], rows[:2], strict=True):
        first.add(name, given(values), times)
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
                    writer.add(name, given(values), times)
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
    for damaged in (bytes(second), bytes(1000), b'\xff' * 1000, Writer.RECORD.pack(1, 0, 1 << 60, 0, 0), whole[-30:]):
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


def test_times_are_written_only_if_all_rows_have_them_and_a_recording_has_several(tmp_path):
    def written(rows, times):
        with Writer(tmp_path / 'p.npz', PREDICTED, 5) as writer:
            for name, values, given in zip(PREDICTED, rows, times, strict=True):
                writer.add(name, values, given)
            writer.finish()
        return load(tmp_path / 'p.npz')

    single = [rows[:1] for rows in some_rows()]
    assert written(some_rows(), [blocks] * 3).stops.tolist() == all_times()['stops'].tolist()
    assert written(some_rows(), [blocks, None, blocks]).starts is None
    written(single, [blocks] * 3)
    save(tmp_path / 'saved.npz', PREDICTED, single)
    assert (tmp_path / 'p.npz').read_bytes() == (tmp_path / 'saved.npz').read_bytes()


def test_reused_rows_have_their_times_or_those_that_are_given(tmp_path):
    def write(name, files, times, reused=None, missing=None):
        with Writer(tmp_path / name, files, 5, rows_key='model') as writer:
            assert reused is None or writer.reuse(tmp_path / reused, missing) == len(files) - 1
            for key, rows in zip(PREDICTED, some_rows(), strict=True):
                if key in files and key not in writer.done:
                    writer.add(key, rows, times)
            writer.finish()
        return (tmp_path / name).read_bytes()

    whole = write('whole.npz', PREDICTED, blocks)
    write('timed.npz', PREDICTED[1:], blocks)
    write('earlier.npz', PREDICTED[1:], None)
    assert write('new.npz', PREDICTED, blocks, 'timed.npz') == whole
    assert write('new.npz', PREDICTED, blocks, 'earlier.npz', lambda key: blocks) == whole
    write('new.npz', PREDICTED, blocks, 'earlier.npz')
    assert load(tmp_path / 'new.npz').starts is None


def test_a_journal_of_the_version_without_times_is_discarded(tmp_path):
    files_hash = hashlib.sha256('\n'.join(PREDICTED).encode()).hexdigest()
    head = json.dumps({'predictions': 'p.npz', 'key': 'model', 'classes': 5, 'files': files_hash}).encode() + b'\n'
    start, scores = struct.pack('<qqq', 0, 0, 2), some_rows()[0].tobytes()
    record = start + struct.pack('<I', zlib.crc32(scores, zlib.crc32(start))) + scores
    (tmp_path / '.p.npz.journal').write_bytes(head + record)
    with Writer(tmp_path / 'p.npz', PREDICTED, 5, key='model') as writer:
        assert writer.done == set()
        for name, rows in zip(PREDICTED, some_rows(), strict=True):
            writer.add(name, rows)
        writer.finish()
    assert_holds(load(tmp_path / 'p.npz'), PREDICTED, some_rows())
