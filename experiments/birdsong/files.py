"""Reading and writing files safely: results are written atomically, and files from elsewhere cannot run code."""

import contextlib
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

# Limits on the unpacked size of an array in an .npz file, so that a zip bomb cannot fill the memory. Models and
# predictions have much smaller ratios.
MAX_ARRAY_BYTES = 64 << 30
MAX_COMPRESSION_RATIO = 200


class Problem(Exception):
    """Something is wrong with the input. The message has one line: what is wrong, where, and what to do."""


def open_regular(filename: str, mode: str = 'rb', **kwargs: Any) -> IO:
    """Like `open` for reading, but raises Problem for a pipe or a device, which may never end."""

    def opener(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            os.close(descriptor)
            raise Problem(f'{filename}: a pipe or a device, not a file; write its content to a file and name that')
        return descriptor

    return open(filename, mode, opener=opener, **kwargs)


@contextlib.contextmanager
def naming(filename: str) -> Iterator[None]:
    """Add `filename` to an OSError in the block that has no file name, for example if the disk is full."""
    try:
        yield
    except OSError as e:
        if e.filename is None and e.errno is not None:
            e.filename = filename
        raise


@contextlib.contextmanager
def writing(filename: str | os.PathLike, mode: str = 'wb', **kwargs: Any) -> Iterator[IO]:
    """Open a temporary file that is flushed to disk and renamed to `filename` when the block ends without an exception.

    If the block fails, `filename` is not changed, and the temporary file is removed.
    """
    filename = os.fspath(filename)
    if os.path.exists(filename) and not (os.path.isfile(filename) or os.path.isdir(filename)):
        raise Problem(f'{filename}: a pipe or a device, not a file; name a file')
    folder, base = os.path.split(filename)
    temporary = os.path.join(folder, f'.{base}.{os.getpid()}.part')
    try:
        with naming(filename), open(temporary, mode, **kwargs) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, filename)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def save_npz(filename: str | os.PathLike, arrays: Mapping[str, Any], compress: bool = False) -> None:
    """Write arrays to an .npz file, atomically; equal arrays give equal bytes."""
    for name, value in arrays.items():
        if np.asarray(value).dtype.hasobject:
            raise TypeError(f'{filename}: {name} holds Python objects')
    with writing(filename) as f:
        (np.savez_compressed if compress else np.savez)(f, **arrays)


@contextlib.contextmanager
def reading_archive(filename: str, of: str, cure: str = 'create it again') -> Iterator[None]:
    """Turn the exceptions of zipfile and numpy for a damaged archive into Problem; `of` is its expected content."""
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
        if getattr(e, 'filename', None):  # not damaged, but cannot be opened, or a folder
            raise
        raise Problem(f'{filename}: not a complete .npz of {of} ({e}); {cure}') from None


def load_npz(
    filename: str | os.PathLike, only: Collection[str] | None = None, cure: str = 'create it again'
) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, in its order, or only those whose names are in `only`.

    Raises Problem if the file is missing or damaged, holds Python objects, or would unpack to an implausible size.
    """
    with (
        reading_archive(filename, 'plain arrays', cure),
        open_regular(filename) as file,
        zipfile.ZipFile(file) as z,
    ):
        for info in z.infolist():
            ratio = info.file_size / max(1, info.compress_size)
            if info.file_size > MAX_ARRAY_BYTES or info.file_size > 1 << 26 and ratio > MAX_COMPRESSION_RATIO:
                raise Problem(
                    f'{filename}: {info.filename} would unpack to {info.file_size / 1e9:.1f} GB '
                    f'from {info.compress_size / 1e6:.1f} MB; refused. Is the file what you think it is?'
                )
        # not numpy.load, which searches a list of all names for each array
        arrays = {}
        for info in z.infolist():
            name = info.filename.removesuffix('.npy')
            if only is None or name in only:
                with z.open(info) as member:
                    arrays[name] = npy.read_array(member, allow_pickle=False)
        return arrays


def read_lines(filename: str | os.PathLike) -> list[str]:
    """Lines of a text file without line breaks and byte order marks. Raises Problem if it is missing or not UTF-8."""
    try:
        with open_regular(filename, 'r', encoding='utf-8', newline=None) as f:
            # concatenated files can have a byte order mark at the start of each part
            return [line.lstrip('\ufeff') for line in f.read().splitlines()]
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except UnicodeDecodeError:
        raise Problem(f'{filename}: not UTF-8 text') from None
