"""The headers of the recordings of a dataset, stored in its index.npz, so that programs need not read them again."""

import concurrent.futures
import os
import sys
from collections.abc import Sequence

import numpy as np

from birdsong.data import audio
from birdsong.files import Problem, load_npz, save_npz

FILENAME = 'index.npz'
COLUMNS = audio.Header._fields + ('size', 'mtime_ns')
THREADS = 8
# Number of headers to read above which a progress bar is shown
PROGRESS_FROM = 2000


def load_index(dataset_dir: str, files: Sequence[str]) -> dict[str, np.ndarray]:
    """The fields of audio.Header and the 'size' in bytes of recordings (paths below audio/), int64 (len(files),) each.

    Headers that are not in the index are read from the recordings and added to it. Raises Problem for recordings that
    are missing or broken.
    """
    known, table = _read(dataset_dir)
    return _complete(dataset_dir, files, known, table)


def empty_headers(count: int) -> dict[str, np.ndarray]:
    """As `load_index`, for `count` recordings of a metadata-only dataset: zeros."""
    return {name: np.zeros(count, np.int64) for name in COLUMNS[:-1]}


def refresh_index(dataset_dir: str, files: Sequence[str]) -> dict[str, np.ndarray]:
    """Like `load_index`, but the headers of files whose size or modification time has changed are read again.

    Recordings that no longer exist are removed from the index.
    """
    known, table = _read(dataset_dir)
    root = os.path.join(dataset_dir, 'audio')
    sizes, times = table[:, COLUMNS.index('size')].tolist(), table[:, COLUMNS.index('mtime_ns')].tolist()

    def unchanged(item: tuple[str, int]) -> bool:
        key, row = item
        try:
            stat = os.stat(os.path.join(root, key))
        except OSError:
            return False
        return stat.st_size == sizes[row] and stat.st_mtime_ns == times[row]

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        fresh = {
            key: row for (key, row), good in zip(known.items(), pool.map(unchanged, known.items()), strict=True) if good
        }
    return _complete(dataset_dir, files, fresh, table, changed=len(fresh) < len(known))


def _complete(
    dataset_dir: str, files: Sequence[str], known: dict[str, int], table: np.ndarray, changed: bool = False
) -> dict[str, np.ndarray]:
    """Read missing headers, write the index if it has changed, and return the rows of `files`."""
    missing = [key for key in dict.fromkeys(files) if key not in known]
    if missing:
        rows = _read_headers(dataset_dir, missing)
        known = dict(known)
        known.update(zip(missing, range(len(table), len(table) + len(rows)), strict=True))
        table = np.concatenate([table, rows])
    if missing or changed:
        _write(dataset_dir, known, table)
    rows = table[np.fromiter((known[key] for key in files), np.int64, len(files))]
    return {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(COLUMNS[:-1])}


def _read(dataset_dir: str) -> tuple[dict[str, int], np.ndarray]:
    """Row of each recording in the index, and the table of headers; both are empty if there is no usable index."""
    filename = os.path.join(dataset_dir, FILENAME)
    empty = {}, np.empty((0, len(COLUMNS)), np.int64)
    if not os.path.exists(filename):
        return empty
    try:
        arrays = load_npz(filename)
        keys = arrays['files'].tobytes().decode().split('\n') if arrays['files'].size else []
        table = arrays['headers']
        if table.shape != (len(keys), len(COLUMNS)) or table.dtype != np.int64:
            raise Problem(f'{filename}: not an index')
    except (Problem, KeyError, UnicodeDecodeError, AttributeError):
        sys.stderr.write(f'{filename}: damaged or of another version; reading all headers again\n')
        return empty
    return {key: row for row, key in enumerate(keys)}, table


def _write(dataset_dir: str, known: dict[str, int], table: np.ndarray) -> None:
    # the folds of a dataset share its index: a link must not be replaced by a file
    filename = os.path.realpath(os.path.join(dataset_dir, FILENAME))
    keys = list(known)
    order = np.fromiter(known.values(), np.int64, len(keys))
    try:
        # If two processes write at the same time, the headers of one are lost and will be read again later.
        save_npz(filename, {'files': np.frombuffer('\n'.join(keys).encode(), np.uint8), 'headers': table[order]})
    except OSError as e:
        sys.stderr.write(f'{filename}: not written ({e.strerror}); headers will be read again each time\n')


def _read_headers(dataset_dir: str, files: Sequence[str]) -> np.ndarray:
    root = os.path.join(dataset_dir, 'audio')

    def read(key: str) -> tuple | Exception:
        filename = os.path.join(root, key)
        if '\n' in key:
            return Problem(f'{filename!r}: a line break in the name of a recording; rename it')
        try:
            header = audio.read_header(filename)
            stat = os.stat(filename)
            return header + (stat.st_size, stat.st_mtime_ns)
        except (Problem, OSError) as e:
            return e

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        rows = pool.map(read, files)
        if len(files) >= PROGRESS_FROM:
            from tqdm import tqdm

            rows = tqdm(rows, 'headers', len(files), file=sys.stderr, disable=None)
        rows = list(rows)
    faults = [row for row in rows if isinstance(row, Exception)]
    if faults:
        more = f' (and {len(faults) - 1} more of {len(files)})' if len(faults) > 1 else ''
        raise Problem(f'{faults[0]}{more}')
    return np.array(rows, np.int64).reshape(len(files), len(COLUMNS))
