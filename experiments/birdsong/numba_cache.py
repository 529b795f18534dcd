"""Functions compiled by numba, and kept on disk from one start to the next where that is possible.

numba's own cache stops the program when an entry is damaged or the disk is full, and a damaged entry can crash LLVM.
Here each entry has a digest. What cannot be read is compiled again, and what cannot be written is not kept.
"""

import contextlib
import hashlib
import os
import pickle
from typing import Any, Callable

import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

from birdsong.files import writing


class _Entries:
    """One file for each function and signature: a SHA-256 digest, then what numba wants to keep."""

    def __init__(self, base: str, stamp: tuple):
        self.base, self.stamp = base, repr((numba.__version__, stamp)).encode()

    def _filename(self, key):
        return f'{self.base}.{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.nbc'

    def _digest(self, data):
        return hashlib.sha256(self.stamp + data).digest()

    def load(self, key):
        """What was saved under `key`, or None if it is missing, damaged, or of other source code or another numba."""
        with open(self._filename(key), 'rb') as f:
            digest, data = f.read(32), f.read()
        return pickle.loads(data) if digest == self._digest(data) else None

    def save(self, key, data):
        data = dumps(data)
        with writing(self._filename(key)) as f:
            f.write(self._digest(data) + data)


class _Cache(FunctionCache):
    """numba's cache of a function, which never raises. Raises RuntimeError when made if no folder can be written."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = _Entries(
            os.path.join(self._cache_path, self._impl.filename_base), self._impl.locator.get_source_stamp()
        )

    def load_overload(self, *args):
        with contextlib.suppress(Exception):
            return super().load_overload(*args)

    def save_overload(self, *args):
        with contextlib.suppress(OSError):
            super().save_overload(*args)


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Decorator: the function compiled by numba with `options`, without the global interpreter lock."""

    def decorate(function):
        dispatcher = numba.njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError, OSError):
            dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate
