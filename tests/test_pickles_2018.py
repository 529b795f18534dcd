"""The restricted reader of pickled predictions: arrays are read, everything else is refused by name."""

import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdsong.files import Problem
from birdsong.scores.predictions import load
from helpers import PREDICTED, assert_holds, some_rows


def load_bytes(tmp_path, content):
    (tmp_path / 'p.pkl').write_bytes(content)
    return load(tmp_path / 'p.pkl')


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('kind', (np.float32, np.float64, '>f4'))
def test_pickles_of_python_3_are_read(tmp_path, protocol, kind):
    rows = [r.astype(kind) for r in some_rows()]
    rows[1] = rows[1][0]
    loaded = load_bytes(tmp_path, pickle.dumps(dict(zip(PREDICTED, rows, strict=True)), protocol))
    assert_holds(loaded, PREDICTED, rows)
    assert loaded.scores.dtype == (np.float64 if kind == np.float64 else np.float32)


@pytest.mark.parametrize('core', ['core', '_core'])
def test_pickles_of_protocol_5_are_read_for_any_version_of_numpy(tmp_path, core):
    rows = some_rows() + [np.asfortranarray(some_rows()[0]), some_rows()[2][::2]]
    rows[0].flags.writeable = False  # stored as bytes, others as a bytearray
    content = pickle.dumps(dict(zip('abcde', rows, strict=True)), 5)
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
    """Bytes that cPickle of Python 2 writes with protocol 2 for a dict of byte strings and arrays."""

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
    assert_holds(load_bytes(tmp_path, python2_pickle(dict(zip(PREDICTED, rows, strict=True)))), PREDICTED, rows)


def test_pickles_of_python_2_with_protocol_0_are_read(tmp_path):
    content = (
        b"(dp1\nS'a_RN1.wav'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\ntp5\nS'b'\np6\ntp7\n"
        b"Rp8\n(I1\n(I2\ntp9\ncnumpy\ndtype\np10\n(S'f4'\np11\nI0\nI1\ntp12\nRp13\n(I3\nS'<'\np14\nNNNI-1\nI-1\nI0\n"
        b"tp15\nbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\np16\ntp17\nbs."
    )
    assert_holds(load_bytes(tmp_path, content), ['a_RN1.wav'], [[1, 2]])


class Hostile:
    """Runs a call when it is unpickled without restrictions."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def test_pickles_that_run_code_are_refused_by_name(tmp_path):
    mark = tmp_path / 'ran'
    for content, name in [
        (pickle.dumps(Hostile(os.mkdir, str(mark))), 'mkdir'),
        (pickle.dumps({'a': Hostile(os.mkdir, str(mark))}, 0), 'mkdir'),
        (pickle.dumps({'a': Hostile(exec, f'import os; os.mkdir({str(mark)!r})')}), 'builtins.exec'),
        (pickle.dumps({'a': Hostile(np.fromfile, str(mark))}), 'fromfile'),
        (b"c__builtin__\neval\n(S'1'\ntR.", '__builtin__.eval|builtins.eval'),
        (b"(S'" + str(mark).encode() + b"'\nios\nmkdir\n.", 'os.mkdir'),
    ]:
        # Protocol 0 starts with other bytes: only those of a dict or a tuple are recognised as a pickle.
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


def test_pickles_with_absurd_lengths_are_refused(tmp_path):
    for content in (
        b'\x80\x04\x8e' + struct.pack('<Q', 1 << 60),
        b'\x80\x02T\xff\xff\xff\x7f',
        b'\x80\x05\x96' + struct.pack('<Q', 1 << 45),
        b'\x80\x04\x95' + struct.pack('<Q', 1 << 60),
    ):
        with pytest.raises(Problem, match='p.pkl'):
            load_bytes(tmp_path, content)


@given(st.data())
def test_a_damaged_pickle_is_refused_or_gives_arrays(tmp_path_factory, data):
    content = bytearray(python2_pickle({'a': np.arange(4, dtype=np.float32)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        loaded = load_bytes(tmp_path_factory.mktemp('bad'), bytes(content[: data.draw(st.integers(0, len(content)))]))
        assert loaded.scores.ndim == 2
    except Problem:
        pass


def test_pickled_arrays_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(Problem, match='scores of b are'):
        load_bytes(tmp_path, pickle.dumps({'a': np.zeros(3), 'b': np.zeros(4)}))
    with pytest.raises(Problem, match='no predictions'):
        load_bytes(tmp_path, pickle.dumps({}))
