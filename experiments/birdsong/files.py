"""Reading and writing files so that a file that is there is whole, and none can do harm.

`Problem` is what every program here raises on bad input; `writing` is how every result is written.
"""

import contextlib
import os
import stat
import struct
import tokenize
import zipfile
import zlib

import numpy as np
from numpy.lib import format as npy

# An array of a file that a user was handed may unpack to at most so many bytes.
MAX_ARRAY_BYTES = 64 << 30
# A ratio that no recording, model or prediction reaches, but every zip bomb does.
MAX_RATIO = 200


class Problem(Exception):
    """Something is wrong with the input: what, where and what to do, in one line."""


def open_regular(filename, mode='rb', **kwargs):
    """`open` for reading, except that a pipe or a device, which may have no end, is refused at once. Raises Problem."""

    def opener(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            os.close(descriptor)
            raise Problem(f'{filename}: a pipe or a device, not a file; write its content to a file and name that')
        return descriptor

    return open(filename, mode, opener=opener, **kwargs)


@contextlib.contextmanager
def naming(filename: str):
    """An OSError of the block that names no file, such as a full disk, names this one."""
    try:
        yield
    except OSError as e:
        if e.filename is None and e.errno is not None:
            e.filename = filename
        raise


@contextlib.contextmanager
def writing(filename, mode='wb', **kwargs):
    """Open a file to be written aside, flushed to disk, and renamed to `filename` when the block ends well.

    If the block fails, what was there before stays and nothing else remains.
    """
    filename = os.fspath(filename)
    if os.path.exists(filename) and not (os.path.isfile(filename) or os.path.isdir(filename)):
        raise Problem(f'{filename}: a pipe or a device, not a file; name a file')
    folder, base = os.path.split(filename)
    aside = os.path.join(folder, f'.{base}.{int(os.getpid())}.part')
    try:
        with naming(filename), open(aside, mode, **kwargs) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, filename)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def save_npz(filename, arrays, compress=False):
    """Write a dict of arrays as `.npz`: whole or not at all, the same bytes for the same arrays."""
    for name, value in arrays.items():
        if np.asarray(value).dtype.hasobject:
            raise TypeError(f'{filename}: {name} holds Python objects')
    with writing(filename) as f:
        (np.savez_compressed if compress else np.savez)(f, **arrays)


@contextlib.contextmanager
def reading_archive(filename, of, cure='make it anew'):
    """Whatever zipfile and numpy raise on a damaged archive becomes a Problem; `of` says what it should hold."""
    try:
        yield
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        tokenize.TokenError,
        ValueError,
        EOFError,
        KeyError,
        RuntimeError,
        MemoryError,
    ) as e:
        if getattr(e, 'filename', None):  # the system's word on the file itself: a folder, not to be read
            raise
        raise Problem(f'{filename}: not a whole .npz of {of} ({e}); {cure}') from None


def load_npz(filename, only=None, cure='make it anew'):
    """Read an `.npz` of plain arrays into a dict, in the order of the file; `only` names those wanted.

    Raises Problem if the file is missing, damaged, holds objects, or unpacks to absurd sizes.
    """
    with reading_archive(filename, 'plain arrays', cure):
        with open_regular(filename) as file, zipfile.ZipFile(file) as z:
            for info in z.infolist():
                if info.file_size > MAX_ARRAY_BYTES or (
                    info.file_size > 1 << 26 and info.file_size > MAX_RATIO * info.compress_size
                ):
                    raise Problem(
                        f'{filename}: {info.filename} would unpack to {info.file_size / 1000000000.0:.1f} GB from {info.compress_size / 1000000.0:.1f} MB; refused. Is it what it claims to be?'
                    )
            # Not by numpy.load, which searches a list of all names for each array.
            arrays = {}
            for info in z.infolist():
                name = info.filename.removesuffix('.npy')
                if only is None or name in only:
                    with z.open(info) as member:
                        arrays[name] = npy.read_array(member, allow_pickle=False)
            return arrays


def read_lines(filename):
    """Lines of a text file without their ends and byte order marks. Raises Problem if it is missing or not UTF-8."""
    try:
        with open_regular(filename, 'r', encoding='utf-8', newline=None) as f:
            # files that were joined have such a mark at the start of each part
            return [line.lstrip('\ufeff') for line in f.read().splitlines()]
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except UnicodeDecodeError:
        raise Problem(f'{filename}: not UTF-8 text') from None
