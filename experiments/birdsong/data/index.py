"""The headers of a data set's recordings, read once and kept in its index.npz.

With a warm index, work on 100 000 recordings starts without opening any of them.
"""

import concurrent.futures
import os
import sys

import numpy as np

from birdsong.data import audio
from birdsong.files import Problem, load_npz, save_npz

FILENAME = 'index.npz'
COLUMNS = audio.Header._fields + ('size', 'mtime_ns')
THREADS = 8
# A header read alone costs too little to draw a bar for fewer.
PROGRESS_FROM = 2000


def load_index(dataset_dir, files):
    """Dict of int64 arrays in the order of `files` (paths below audio/): length, sample_rate, channels, width,
    offset (as audio.Header) and size in bytes.

    Reads the headers of those recordings only that the index lacks, and writes it anew if any were added.
    Raises Problem for recordings that are missing or broken.
    """
    known, table = _read(dataset_dir)
    return _complete(dataset_dir, files, known, table)


def refresh_index(dataset_dir, files):
    """As `load_index`, but looks at every file, and reads those again whose size or time of change differs.

    Also leaves out of the index what isn't in `files` and exists no longer.
    """
    known, table = _read(dataset_dir)
    root = os.path.join(dataset_dir, 'audio')
    sizes, times = table[:, COLUMNS.index('size')].tolist(), table[:, COLUMNS.index('mtime_ns')].tolist()

    def unchanged(item):
        key, row = item
        try:
            stat = os.stat(os.path.join(root, key))
        except OSError:
            return False
        return stat.st_size == sizes[row] and stat.st_mtime_ns == times[row]

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        fresh = {key: row for (key, row), good in zip(known.items(), pool.map(unchanged, known.items())) if good}
    return _complete(dataset_dir, files, fresh, table, changed=len(fresh) < len(known))


def _complete(dataset_dir, files, known, table, changed=False):
    missing = [key for key in dict.fromkeys(files) if key not in known]
    if missing:
        rows = _read_headers(dataset_dir, missing)
        known = dict(known)
        known.update(zip(missing, range(len(table), len(table) + len(rows))))
        table = np.concatenate([table, rows])
    if missing or changed:
        _write(dataset_dir, known, table)
    rows = table[np.fromiter((known[key] for key in files), np.int64, len(files))]
    return {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(COLUMNS[:-1])}


def _read(dataset_dir):
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
        # Everything in it can be read again.
        sys.stderr.write(f'{filename}: damaged or of another version; reading all headers again\n')
        return empty
    return dict(zip(keys, range(len(keys)))), table


def _write(dataset_dir, known, table):
    filename = os.path.join(dataset_dir, FILENAME)
    keys = list(known)
    order = np.fromiter(known.values(), np.int64, len(keys))
    try:
        # Two processes that write at once lose at worst some headers, to be read again.
        save_npz(filename, {'files': np.frombuffer('\n'.join(keys).encode(), np.uint8), 'headers': table[order]})
    except OSError as e:
        sys.stderr.write(f'{filename}: not written ({e.strerror}); headers will be read again each time\n')


def _read_headers(dataset_dir, files):
    root = os.path.join(dataset_dir, 'audio')

    def read(key):
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
        more = f' (and {int(len(faults) - 1)} more of {len(files)})' if len(faults) > 1 else ''
        raise Problem(f'{faults[0]}{more}')
    return np.array(rows, np.int64).reshape(len(files), len(COLUMNS))
