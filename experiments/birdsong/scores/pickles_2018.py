"""A restricted reader of the predictions of 2018 (`MODEL.pred.pkl`): pickled dicts of plain arrays, and nothing else.

Unpickling can run any code. Here only the few names that numpy arrays need are allowed, and each is replaced by a class
or function of this module, so that a file cannot call code of any other module.
"""

import os
import pickle
import struct
from typing import BinaryIO

import numpy as np

from birdsong.files import Problem


def read(f: BinaryIO, filename: str) -> dict[str, np.ndarray]:
    """Read a pickled dict of arrays from an open file. Raises Problem if it contains anything else or is damaged."""
    try:
        content = _Unpickler(_Bounded(f), encoding='bytes').load()
        if type(content) is not dict:
            raise Problem(f'a {type(content).__name__} instead of a dict')
        result = {}
        for key, value in content.items():
            key = key.decode('utf-8') if isinstance(key, bytes) else key
            if type(key) is not str or type(value) is not _Array or value.value is None:
                raise Problem(f'{type(value).__name__} under {key!r:.60}')
            result[key] = value.value
        return result
    except Problem as e:
        raise Problem(
            f'{filename}: refused: it holds {e}; only a dict of plain arrays is read. If you trust the file, convert it'
        ) from None
    except Exception as e:  # damaged content can raise any exception in the unpickler
        raise Problem(
            f'{filename}: not a complete pickle of arrays ({e or type(e).__name__}); copy it again, or predict again'
        ) from None


class _Array:
    """Replaces `numpy.ndarray` in a pickle: creates the array without the unpickling code of numpy."""

    value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype, shape, 'F' if fortran else 'C')

    def fill(self, content, dtype, shape, order):
        if not isinstance(dtype, _Type) or not isinstance(content, bytes):
            raise Problem('arrays of objects')
        self.value = np.frombuffer(content, dtype.order + dtype.kind).reshape(shape, order=order)


class _Type:
    """Replaces `numpy.dtype` in a pickle: a plain number type and its byte order."""

    order = '='

    def __init__(self, kind, *_):
        self.kind = kind.decode('ascii') if isinstance(kind, bytes) else kind
        if self.kind not in ('f2', 'f4', 'f8', 'i4', 'i8', 'u1'):
            raise Problem(f'arrays of type {self.kind}')

    def __setstate__(self, state):
        order = state[1].decode('ascii') if isinstance(state[1], bytes) else state[1]
        if order not in '<>|=' or any(state[2:5]):
            raise Problem('arrays of structures')
        self.order = order


def _reconstruct(kind, shape, letter):
    if kind is not _Array:
        raise Problem('arrays of another class')
    return _Array()


def _frombuffer(content, dtype, shape, order):
    """Protocol 5 stores an array as a call of this function."""
    array = _Array()
    array.fill(content, dtype, shape, order)
    return array


def _encode(text, encoding):
    """Protocol 2 of Python 3 stores bytes as text and a call of this function."""
    if encoding not in ('latin1', b'latin1'):
        raise Problem(f'text encoded as {encoding}')
    return text.encode('latin1')


ALLOWED = {
    ('numpy', 'ndarray'): _Array,
    ('numpy', 'dtype'): _Type,
    ('_codecs', 'encode'): _encode,
    # numpy.core is the name in numpy 1, numpy._core the name in numpy 2.
    ('numpy.core.multiarray', '_reconstruct'): _reconstruct,
    ('numpy.core.numeric', '_frombuffer'): _frombuffer,
    ('numpy._core.multiarray', '_reconstruct'): _reconstruct,
    ('numpy._core.numeric', '_frombuffer'): _frombuffer,
}


class _Unpickler(pickle._Unpickler):
    """The unpickler written in Python, as the one in C allocates as much memory as a pickle claims to need."""

    def load_bytearray8(self):
        """Read a bytearray as bytes; its memory would be allocated before the size of the file is checked."""
        (length,) = struct.unpack('<Q', self.read(8))
        self.append(self.read(length))

    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise Problem(f'{module}.{name}')
        return ALLOWED[module, name]


class _Bounded:
    """A file that refuses to read beyond its end, so that no memory is allocated for a wrong length in it."""

    def __init__(self, f):
        self.f, self.size = f, os.fstat(f.fileno()).st_size

    def read(self, n):
        if n > self.size - self.f.tell():
            raise EOFError('cut off')
        return self.f.read(n)

    def readline(self):
        return self.f.readline()
