"""Prediction files: whole, quick, and nothing else than what they say they are."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdsong.files import Problem
from birdsong.scores.predictions import Writer, load, save
from helpers import ROOT

FILES = ['train/2014/b_RN2.wav', 'train/2014/a_RN1.wav', 'test/ü_RN3.wav']


def some_rows(classes=5, counts=(2, 1, 4), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, classes)).astype(np.float32) for n in counts]


def assert_holds(loaded, files, rows):
    assert loaded.files == list(files)
    for key, expected in zip(files, rows):
        np.testing.assert_array_equal(loaded[key], np.atleast_2d(expected))


def test_what_is_written_is_read(tmp_path):
    rows = some_rows()
    save(tmp_path / 'p.npz', FILES, rows)
    loaded = load(tmp_path / 'p.npz', num_classes=5)
    assert_holds(loaded, FILES, rows)
    assert loaded.scores.dtype == np.float32
    np.testing.assert_array_equal(loaded.max(), [r.max(0) for r in rows])


def test_the_file_is_three_plain_arrays(tmp_path):
    rows = some_rows()
    save(tmp_path / 'p.npz', FILES, np.concatenate(rows), offsets=[0, 2, 3, 7])
    with np.load(tmp_path / 'p.npz', allow_pickle=False) as f:
        assert f.files == ['files', 'offsets', 'scores']
        assert f['files'].tolist() == FILES
        assert f['offsets'].tolist() == [0, 2, 3, 7] and f['offsets'].dtype == np.int64
        np.testing.assert_array_equal(f['scores'], np.concatenate(rows))
    assert zipfile.ZipFile(tmp_path / 'p.npz').testzip() is None


def test_files_that_numpy_wrote_are_read(tmp_path):
    rows = some_rows()
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / 'p.npz', files=FILES, offsets=[0, 2, 3, 7], scores=np.concatenate(rows))
        assert_holds(load(tmp_path / 'p.npz'), FILES, rows)
    np.savez(tmp_path / 'p.npz', files=FILES, offsets=[0, 2, 3, 7], scores=np.asfortranarray(np.concatenate(rows)))
    assert_holds(load(tmp_path / 'p.npz'), FILES, rows)
    np.savez(tmp_path / 'p.npz', **dict(zip(FILES, rows)))
    assert_holds(load(tmp_path / 'p.npz'), FILES, rows)


def test_a_file_with_an_array_per_recording_is_read_without_searching_its_names_for_each(tmp_path, monkeypatch):
    class Names(list):
        def __contains__(self, name):
            raise AssertionError('searched the names')

    namelist = zipfile.ZipFile.namelist
    monkeypatch.setattr(zipfile.ZipFile, 'namelist', lambda self: Names(namelist(self)))
    np.savez(tmp_path / 'p.npz', **dict(zip(FILES, some_rows())))
    assert_holds(load(tmp_path / 'p.npz'), FILES, some_rows())


@given(
    st.lists(
        st.text(st.characters(exclude_categories=('Cs',), exclude_characters='\0'), min_size=1),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.integers(1, 6),
    st.randoms(),
)
def test_any_names_and_shapes_come_back(tmp_path_factory, files, classes, random):
    rows = some_rows(classes, [random.randint(1, 4) for _ in files])
    filename = tmp_path_factory.mktemp('any') / 'p.npz'
    save(filename, files, rows)
    assert_holds(load(filename), files, rows)


def test_select_gives_the_order_of_the_list(tmp_path):
    rows = some_rows()
    save(tmp_path / 'p.npz', FILES, rows)
    loaded = load(tmp_path / 'p.npz')
    assert_holds(loaded.select(FILES[::-1]), FILES[::-1], rows[::-1])
    assert_holds(loaded.select(FILES[1:2]), FILES[1:2], rows[1:2])
    with pytest.raises(Problem, match='1 of 2 recordings are missing, such as x.wav'):
        loaded.select([FILES[0], 'x.wav'])
    with pytest.raises(Problem, match='p.npz: .*another data set'):
        loaded.select(['x.wav', 'y.wav'])


def test_digests_tell_predictions_apart(tmp_path):
    rows = some_rows()
    save(tmp_path / 'a.npz', FILES, rows)
    save(tmp_path / 'b.npz', FILES, rows)
    rows[1][0, 0] += 1
    save(tmp_path / 'c.npz', FILES, rows)
    a, b, c = (load(tmp_path / name).digest() for name in ('a.npz', 'b.npz', 'c.npz'))
    assert a == b != c


def write_arrays(filename, **changes):
    arrays = {'files': FILES, 'offsets': [0, 2, 3, 7], 'scores': np.concatenate(some_rows()), **changes}
    np.savez(filename, **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'offsets': [0, 2, 3, 8]}, 'do not divide 7 rows'),
        ({'offsets': [0, 3, 3, 7]}, 'do not divide 7 rows'),
        ({'offsets': [0, 2, 7]}, 'not predictions'),
        ({'files': [FILES[0], FILES[1], FILES[0]]}, 'twice'),
        ({'files': [1, 2, 3]}, 'no list of paths'),
        ({'scores': np.zeros(7, np.float32)}, 'not predictions'),
        ({'scores': np.zeros((7, 5), np.int32)}, 'not predictions'),
        ({'scores': np.array([[None] * 5] * 7)}, 'p.npz'),
        ({'scores': np.full((7, 5), np.nan, np.float32)}, f'scores of {FILES[0]} are not finite'),
    ],
)
def test_what_is_no_prediction_file_is_said(tmp_path, changes, message):
    write_arrays(tmp_path / 'p.npz', **changes)
    with pytest.raises(Problem, match=message):
        load(tmp_path / 'p.npz')


@pytest.mark.parametrize('bad', (np.nan, np.inf, -np.inf))
def test_the_recording_of_a_score_that_is_not_finite_is_named(tmp_path, bad):
    scores = np.concatenate(some_rows())
    scores[2, 4] = bad
    write_arrays(tmp_path / 'p.npz', scores=scores)
    with pytest.raises(Problem, match=f'scores of {FILES[1]} are not finite'):
        load(tmp_path / 'p.npz')


def test_another_number_of_classes_is_another_data_set(tmp_path):
    save(tmp_path / 'p.npz', FILES, some_rows())
    with pytest.raises(Problem, match='5 classes, but the data set has 6'):
        load(tmp_path / 'p.npz', num_classes=6)


def test_damaged_files_are_refused(tmp_path):
    save(tmp_path / 'whole.npz', FILES, some_rows(classes=200))
    content = (tmp_path / 'whole.npz').read_bytes()
    damaged = tmp_path / 'p.npz'
    for length in (0, 1, 2, 100, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:length])
        with pytest.raises(Problem, match='p.npz'):
            load(damaged)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    damaged.write_bytes(flipped)
    with pytest.raises(Problem, match='checksum'):
        load(damaged)
    with pytest.raises(Problem, match='no such file'):
        load(tmp_path / 'none.npz')
    with pytest.raises(Problem, match='folder'):
        load(tmp_path)


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'p.npz', 'w', zipfile.ZIP_DEFLATED) as z:
        for name, value in (('files', np.array(['a'])), ('offsets', np.array([0, 1]))):
            with z.open(f'{name}.npy', 'w') as f:
                np.save(f, value)
        with z.open('scores.npy', 'w') as f:
            np.lib.format.write_array_header_1_0(f, {'descr': '<f4', 'fortran_order': False, 'shape': (1, 50 << 20)})
            for _ in range(200):
                f.write(bytes(1 << 20))
    with pytest.raises(Problem, match='refused'):
        load(tmp_path / 'p.npz')


def test_nothing_that_is_not_finite_is_saved(tmp_path):
    rows = some_rows()
    rows[1][0, 0] = np.nan
    with pytest.raises(Problem, match=FILES[1]):
        save(tmp_path / 'p.npz', FILES, rows)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Problem, match='3 files, but scores of 2'):
        save(tmp_path / 'p.npz', FILES, rows[:2])


def test_doubles_beyond_single_precision_stay_finite(tmp_path):
    save(tmp_path / 'p.npz', ['a'], [np.array([1.0, -1e100])])
    assert np.isfinite(load(tmp_path / 'p.npz').scores).all()


# -- The writer --


def test_the_writer_writes_what_save_writes(tmp_path):
    rows = some_rows()
    save(tmp_path / 'saved.npz', FILES, rows)
    with Writer(tmp_path / 'p.npz', FILES, 5) as writer:
        for i in (2, 0, 1):
            writer.add(FILES[i], rows[i])
        writer.finish()
    assert (tmp_path / 'p.npz').read_bytes() == (tmp_path / 'saved.npz').read_bytes()
    assert sorted(os.listdir(tmp_path)) == ['p.npz', 'saved.npz']


@pytest.mark.parametrize('whole', (True, False), ids=('whole', 'in parts'))
def test_a_writer_goes_on_wherever_its_journal_was_cut_off(tmp_path, whole):
    def given(values):
        return values if whole else iter(np.atleast_2d(values)[:, None])

    rows = some_rows()
    save(tmp_path / 'saved.npz', FILES, rows)
    first = Writer(tmp_path / 'p.npz', FILES, 5, key='model')
    for name, values in zip(FILES[:2], rows):
        first.add(name, given(values))
    first.close()
    journal = tmp_path / '.p.npz.journal'
    content = journal.read_bytes()
    seen = set()
    for length in range(len(content) + 1):
        journal.write_bytes(content[:length])
        with Writer(tmp_path / 'p.npz', FILES, 5, key='model') as writer:
            seen.add(len(writer.done))
            assert writer.done == set(FILES[: len(writer.done)])
            for name, values in zip(FILES, rows):
                if name not in writer.done:
                    writer.add(name, given(values))
            writer.finish()
        assert (tmp_path / 'p.npz').read_bytes() == (tmp_path / 'saved.npz').read_bytes()
        assert not journal.exists()
    assert seen == {0, 1, 2}


def test_a_recording_that_was_left_halfway_begins_anew(tmp_path):
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


def test_a_journal_with_rubbish_at_its_end_is_used_up_to_there(tmp_path):
    rows = some_rows()
    with Writer(tmp_path / 'p.npz', FILES, 5) as writer:
        writer.add(FILES[0], rows[0])
    journal = tmp_path / '.p.npz.journal'
    whole = journal.read_bytes()
    with Writer(tmp_path / 'p.npz', FILES, 5) as writer:
        writer.add(FILES[1], rows[1])
    second = bytearray(journal.read_bytes()[len(whole) :])
    second[-1] ^= 1
    for rubbish in (bytes(second), bytes(1000), b'\xff' * 1000, struct.pack('<qqqI', 1, 0, 1 << 60, 0), whole[-30:]):
        journal.write_bytes(whole + rubbish)
        with Writer(tmp_path / 'p.npz', FILES, 5) as writer:
            assert writer.done == {FILES[0]}
        assert journal.read_bytes() == whole


@pytest.mark.parametrize('change', ({'key': 'other'}, {'files': FILES[:2]}, {'num_classes': 4}))
def test_a_journal_of_something_else_is_started_anew(tmp_path, change):
    same = {'files': FILES, 'num_classes': 5, 'key': 'model'}
    with Writer(tmp_path / 'p.npz', **same) as writer:
        writer.add(FILES[0], some_rows()[0])
    with Writer(tmp_path / 'p.npz', **same) as writer:
        assert writer.done == {FILES[0]}
    with Writer(tmp_path / 'p.npz', **{**same, **change}) as writer:
        assert writer.done == set()


def test_a_killed_writer_loses_nothing_that_it_added(tmp_path):
    code = f"import os, sys; sys.path.insert(0, {str(ROOT / 'experiments')!r}); import numpy as np; from birdsong.scores.predictions import Writer\nw = Writer({str(tmp_path / 'p.npz')!r}, ['a', 'b'], 3, 'k'); w.add('a', np.ones((2, 3))); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    with Writer(tmp_path / 'p.npz', ['a', 'b'], 3, 'k') as writer:
        assert writer.done == {'a'}
        writer.add('b', np.zeros(3))
        writer.finish()
    assert_holds(load(tmp_path / 'p.npz'), ['a', 'b'], [np.ones((2, 3)), np.zeros(3)])


def test_the_writer_takes_nothing_wrong(tmp_path):
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


# -- The original's pickles --


def load_bytes(tmp_path, content):
    (tmp_path / 'p.pkl').write_bytes(content)
    return load(tmp_path / 'p.pkl')


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('kind', (np.float32, np.float64, '>f4'))
def test_pickles_of_python_3_are_read(tmp_path, protocol, kind):
    rows = [r.astype(kind) for r in some_rows()]
    rows[1] = rows[1][0]
    loaded = load_bytes(tmp_path, pickle.dumps(dict(zip(FILES, rows)), protocol))
    assert_holds(loaded, FILES, rows)
    assert loaded.scores.dtype == (np.float64 if kind == np.float64 else np.float32)


@pytest.mark.parametrize('core', ['core', '_core'])
def test_pickles_of_protocol_5_are_read_whichever_numpy_wrote_them(tmp_path, core):
    rows = some_rows() + [np.asfortranarray(some_rows()[0]), some_rows()[2][::2]]
    rows[0].flags.writeable = False  # stored as bytes, others as a bytearray
    content = pickle.dumps(dict(zip('abcde', rows)), 5)
    own = '_core' if np.__version__ >= '2' else 'core'
    for module in ('numeric', 'multiarray'):
        there, wanted = (
            bytes([len(name)]) + name.encode() for name in (f'numpy.{own}.{module}', f'numpy.{core}.{module}')
        )
        assert there in content
        content = content.replace(there, wanted)
    content = content[:3] + struct.pack('<Q', len(content) - 11) + content[11:]  # the length of its only frame
    assert_holds(load_bytes(tmp_path, content), 'abcde', rows)


def test_large_arrays_of_protocol_5_are_read(tmp_path):
    rows = [np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32)] * 2
    assert_holds(load_bytes(tmp_path, pickle.dumps({'a': rows[0], 'b': rows[0].copy()}, 5)), 'ab', rows)


def python2_pickle(arrays):
    """What cPickle of Python 2 writes with protocol 2 for a dict of byte strings and arrays."""

    def text(value):
        return b'U' + bytes([len(value)]) + value if len(value) < 256 else b'T' + struct.pack('<i', len(value)) + value

    content = b'\x80\x02}('
    for key, value in arrays.items():
        content += text(key.encode('utf-8'))
        content += b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01'
        content += b''.join(b'K' + bytes([n]) for n in value.shape) + (b'\x85' if value.ndim == 1 else b'\x86')
        content += b'cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
        content += b'\x89' + text(value.astype('<f4').tobytes()) + b'tb'
    return content + b'u.'


def test_pickles_of_python_2_are_read(tmp_path):
    rows = some_rows()
    rows[1] = rows[1][0]
    assert_holds(load_bytes(tmp_path, python2_pickle(dict(zip(FILES, rows)))), FILES, rows)


def test_pickles_of_python_2_with_protocol_0_are_read(tmp_path):
    content = (
        b"(dp1\nS'a_RN1.wav'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\ntp5\nS'b'\np6\ntp7\n"
        b"Rp8\n(I1\n(I2\ntp9\ncnumpy\ndtype\np10\n(S'f4'\np11\nI0\nI1\ntp12\nRp13\n(I3\nS'<'\np14\nNNNI-1\nI-1\nI0\n"
        b"tp15\nbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\np16\ntp17\nbs."
    )
    assert_holds(load_bytes(tmp_path, content), ['a_RN1.wav'], [[1, 2]])


class Hostile:
    """Creates a file when it is unpickled by anything that trusts it."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def test_pickles_that_run_something_are_refused_by_name(tmp_path):
    mark = tmp_path / 'ran'
    for content, name in [
        (pickle.dumps(Hostile(os.mkdir, str(mark))), 'mkdir'),
        (pickle.dumps({'a': Hostile(os.mkdir, str(mark))}, 0), 'mkdir'),
        (pickle.dumps({'a': Hostile(exec, f'import os; os.mkdir({str(mark)!r})')}), 'builtins.exec'),
        (pickle.dumps({'a': Hostile(np.fromfile, str(mark))}), 'fromfile'),
        (b"c__builtin__\neval\n(S'1'\ntR.", '__builtin__.eval|builtins.eval'),
        (b"(S'" + str(mark).encode() + b"'\nios\nmkdir\n.", 'os.mkdir'),
    ]:
        # Protocol 0 starts with other bytes: only those of a dict or tuple are taken for pickles at all.
        with pytest.raises(Problem, match=f'refused: it holds .*({name})|neither .npz nor pickled'):
            load_bytes(tmp_path, content)
        assert not mark.exists()


@pytest.mark.parametrize(
    'content, name',
    [
        ({'a': [1, 2]}, 'list'),
        ({'a': 'text'}, 'str'),
        ({1: np.zeros(3)}, '1'),
        ([np.zeros(3)], 'list'),
        ({'a': {'b': np.zeros(3)}}, 'dict'),
        ({'a': np.float32(1)}, 'scalar'),
        ({'a': np.array([None])}, 'O8'),
        ({'a': np.zeros(3, 'f4,f4')}, 'V8'),
        ({'a': np.array(['x'])}, 'U1'),
        ({'a': np.ma.zeros(3)}, 'ma'),
    ],
)
def test_pickles_of_anything_but_arrays_are_refused_by_name(tmp_path, content, name):
    with pytest.raises(Problem, match=f'p.pkl: refused: it holds .*{name}'):
        load_bytes(tmp_path, pickle.dumps(content))


def test_pickles_that_claim_memory_are_refused(tmp_path):
    for content in (
        b'\x80\x04\x8e' + struct.pack('<Q', 1 << 60),
        b'\x80\x02T\xff\xff\xff\x7f',
        b'\x80\x05\x96' + struct.pack('<Q', 1 << 45),
        b'\x80\x04\x95' + struct.pack('<Q', 1 << 60),
    ):
        with pytest.raises(Problem, match='p.pkl'):
            load_bytes(tmp_path, content)


@given(st.data())
def test_a_damaged_pickle_is_a_problem_or_arrays(tmp_path_factory, data):
    content = bytearray(python2_pickle({'a': np.arange(4, dtype=np.float32)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        loaded = load_bytes(tmp_path_factory.mktemp('bad'), bytes(content[: data.draw(st.integers(0, len(content)))]))
        assert loaded.scores.ndim == 2
    except Problem:
        pass


def test_pickled_arrays_of_different_classes_are_refused(tmp_path):
    with pytest.raises(Problem, match='scores of b are'):
        load_bytes(tmp_path, pickle.dumps({'a': np.zeros(3), 'b': np.zeros(4)}))
    with pytest.raises(Problem, match='no predictions'):
        load_bytes(tmp_path, pickle.dumps({}))


def test_nothing_here_needs_torch():
    code = 'import sys; sys.path.insert(0, %r); from birdsong.scores import predictions, metrics; print("torch" in sys.modules)'
    out = subprocess.run([sys.executable, '-c', code % str(ROOT / 'experiments')], capture_output=True, text=True)
    assert out.stdout == 'False\n', out.stderr
