"""Compilation by numba, with a cache on disk whose errors never stop the program.

numba's own cache stops the program if an entry is damaged or the disk is full, and a damaged entry can crash LLVM. Here
each entry has a digest. A function is compiled again if its entry cannot be read, for example because it could not be
written. Entries are code, as those of Python's own __pycache__. They are only loaded if everybody who can have written
them could also change the source: they belong to the user, root or the owner of the source, and nobody else may write.
"""

import contextlib
import hashlib
import os
import pickle
import stat
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

from birdsong.files import writing


class _Entries:
    """One file per function and signature: a SHA-256 digest, followed by the data of numba."""

    def __init__(self, base: str, stamp: tuple, source: str):
        self.base, self.stamp = base, repr((numba.__version__, stamp)).encode()
        self.trusted = {0, os.geteuid(), os.stat(source).st_uid}

    def _filename(self, key: object) -> str:
        return f'{self.base}.{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.nbc'

    def _digest(self, data: bytes) -> bytes:
        return hashlib.sha256(self.stamp + data).digest()

    def load(self, key: object) -> Any:
        """What was saved under `key`; None if it is damaged, of other source code or numba, or of an untrusted user."""
        with open(self._filename(key), 'rb') as f:
            status = os.fstat(f.fileno())
            if status.st_uid not in self.trusted or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            digest, data = f.read(32), f.read()
        return pickle.loads(data) if digest == self._digest(data) else None

    def save(self, key: object, data: Any) -> None:
        data = dumps(data)
        with writing(self._filename(key)) as f:
            os.fchmod(f.fileno(), 0o644)  # whatever the umask, since others may not write to it
            f.write(self._digest(data) + data)


class _Cache(FunctionCache):
    """The cache of a function. It never raises, except RuntimeError at creation if no folder can be written."""

    def __init__(self, function: Callable):
        super().__init__(function)
        self._cache_file = _Entries(
            os.path.join(self._cache_path, self._impl.filename_base),
            self._impl.locator.get_source_stamp(),
            function.__code__.co_filename,
        )

    def load_overload(self, *args: Any) -> Any:
        with contextlib.suppress(Exception):
            return super().load_overload(*args)

    def save_overload(self, *args: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(*args)


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Decorator that compiles a function by numba with `options`; it runs without the global interpreter lock."""

    def decorate(function: Callable) -> Callable:
        dispatcher = numba.njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError, OSError):
            dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate
