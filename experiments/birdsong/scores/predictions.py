"""Predictions of a model for the recordings of a list: container and file format.

`MODEL.pred.npz` is an uncompressed `.npz` of the arrays `files` (paths as in the file list), `offsets` (int64, one more
than files) and `scores` (float32, rows x classes); rows offsets[i]:offsets[i + 1] belong to files[i]. Files written by
predict.py also have `key`, a text that identifies model, settings and dataset, so that rows can be reused when the list
changes. `.pred.pkl` files of 2018 can be read, too.

`starts` and `stops` (float64, one value per row of scores) are the times of the rows in seconds from the start of the
recording. A file has both, for all rows, or neither. predict.py writes them if a recording has more than one row:
- blocks (`len_max`): from the start of the first frame of the block to the start of the frame after its last one, so
  that blocks without overlap meet; a block that contains the last frame ends with the recording;
- `--full-resolution`: the window that the row is based on, which starts at a frame;
- unpooled outputs and attention (arch.pool=none, attention_nopool): the frames that the position of the map depends
  on, apart from those that padded layers add on both sides; positions of several frequencies have the same time;
- saliency: the frame.
Times end with the recording, also where a short one is repeated because the network needs more. A single row of a
recording in a file with times is the time of its block or of the whole recording (--split-pool).
"""

import functools
import mmap
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.lib import format as npy

from birdsong.files import Problem, load_npz, open_regular, reading_archive, writing
from birdsong.scores import pickles_2018

CURE = 'create it again with predict.py'
# Rows are copied and checked in blocks of this size: they fit the cache, and the overhead of Python is small.
BLOCK_BYTES = 1 << 20


class Predictions:
    """Scores of recordings: `.files` (list of keys), `.offsets` (int64), `.scores` (rows, classes).

    `predictions[key]` are the rows of one recording, (n, classes). Scores are float32, or float64 from some files of
    2018; those of a `.pred.npz` are mapped from the file, not read into memory. `.starts` and `.stops` are the times of
    the rows in seconds, float64 (rows,), or both None. `.key` is empty if the file has none.
    """

    key = ''

    def __init__(
        self,
        files: Iterable[str],
        offsets: Sequence[int],
        scores: np.ndarray,
        filename: str = 'predictions',
        starts: np.ndarray | None = None,
        stops: np.ndarray | None = None,
    ):
        self.files = list(files)
        self.offsets = np.asarray(offsets, np.int64)
        self.scores = scores
        self.filename = filename
        self.starts, self.stops = starts, stops
        self._where = {key: i for i, key in enumerate(self.files)}

    def __len__(self):
        return len(self.files)

    def __contains__(self, key):
        return key in self._where

    def __getitem__(self, key):
        i = self._where[key]
        return self.scores[self.offsets[i] : self.offsets[i + 1]]

    def times(self, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Starts and stops (n,) of the rows of one recording, in seconds, or None if the file has none."""
        if self.starts is None:
            return None
        i = self._where[key]
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.starts[rows], self.stops[rows]

    @property
    def num_classes(self) -> int:
        return self.scores.shape[1]

    def select(self, files: Iterable[str]) -> 'Predictions':
        """Predictions of `files`, in that order. Raises Problem if recordings are missing."""
        files = list(files)
        if files == self.files:
            return self
        missing = [key for key in files if key not in self._where]
        if len(missing) == len(files) and files:
            raise Problem(
                f'{self.filename}: none of the {len(files)} recordings of the list (such as {files[0]}) is in it (but '
                f'{self.files[0] if self.files else "nothing"}): predictions of another dataset or list; {CURE}'
            )
        if missing:
            raise Problem(
                f'{self.filename}: {len(missing)} of {len(files)} recordings are missing, such as {missing[0]}; '
                'predict_missing.sh and submit_all.sh add them, or predict this file list again with predict.py'
            )
        which = np.array([self._where[key] for key in files], np.int64)
        first, counts = self.offsets[which], np.diff(self.offsets)[which]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], counts)
        times = (None, None) if self.starts is None else (self.starts[rows], self.stops[rows])
        return Predictions(files, offsets, self.scores[rows], self.filename, *times)

    def max(self) -> np.ndarray:
        """Maximum of the scores over the rows of each recording, (recordings, classes). It has no times."""
        if len(self.scores) == len(self.files):
            return self.scores
        return np.maximum.reduceat(self.scores, self.offsets[:-1], axis=0)


# -- Reading --


def load(filename: str | os.PathLike, num_classes: int | None = None) -> Predictions:
    """Read predictions, `.pred.npz` or the original's `.pred.pkl`.

    If there are fewer classes than `num_classes`, the others get the smallest score of each row, so that they rank
    last, and a line on standard error says so. Raises Problem if the file is missing or damaged, has scores that are
    not finite, or more classes.
    """
    filename = os.fspath(filename)
    try:
        with open_regular(filename) as f:
            start = f.read(2)
            if start == b'PK':
                result = _load_zip(f, filename)
            elif start[:1] in (b'\x80', b'(', b'}'):
                f.seek(0)
                result = _from_dict(pickles_2018.read(f, filename), filename)
            else:
                raise Problem(f'{filename}: neither .npz nor pickled predictions; {CURE}')
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except IsADirectoryError:
        raise Problem(f'{filename}: a folder, not predictions') from None
    if num_classes is not None and result.num_classes > num_classes:
        raise Problem(
            f'{filename}: predictions of {result.num_classes} classes, but the dataset has {num_classes}; select the '
            'dataset that they belong to with --dataset'
        )
    return result if num_classes in (None, result.num_classes) else _with_new_classes(result, num_classes)


def _with_new_classes(old, num_classes):
    """Predictions with columns added for the classes that the model does not know, which have the highest indices."""
    _warn(
        f'{old.filename}: predictions of {old.num_classes} classes, but the dataset has {num_classes}; the others get '
        'the lowest scores (if they were added later; otherwise, select another --dataset)'
    )
    scores = np.empty((len(old.scores), num_classes), old.scores.dtype)
    scores[:, : old.num_classes] = old.scores
    scores[:, old.num_classes :] = old.scores.min(axis=1, keepdims=True)
    result = Predictions(old.files, old.offsets, scores, old.filename, old.starts, old.stops)
    result.key = old.key
    return result


@functools.cache
def _warn(line):
    """Write a line to standard error, once per process: some programs read files repeatedly."""
    print(f'warning: {line}', file=sys.stderr)


def _load_zip(f, filename):
    with reading_archive(filename, 'predictions', CURE), zipfile.ZipFile(f) as z:
        members = {info.filename: info for info in z.infolist()}
        if not {'files.npy', 'offsets.npy', 'scores.npy'} <= set(members):
            return _from_dict(load_npz(filename), filename)
        scores = members['scores.npy']
        scores = _mapped(f, scores) if scores.compress_type == zipfile.ZIP_STORED else None
    small = load_npz(filename, only=('files', 'offsets', 'starts', 'stops', 'key') if scores is not None else None)
    if small['files'].ndim != 1 or small['files'].dtype.kind not in 'UT':
        raise Problem(f'{filename}: its files are not a list of paths; {CURE}')
    scores = small['scores'] if scores is None else scores
    times = small.get('starts'), small.get('stops')
    result = _checked(small['files'].tolist(), small['offsets'], scores, filename, *times)
    result.key = str(small.get('key', ''))
    return result


def _mapped(f, info):
    """The array of an uncompressed zip member as a read-only memory map. Raises ValueError if it is damaged."""
    f.seek(info.header_offset)
    header = f.read(30)
    if len(header) < 30 or header[:4] != b'PK\3\4':
        raise ValueError('no entry where the directory says')
    f.seek(sum(struct.unpack('<HH', header[26:])), 1)
    start = f.tell()
    version = npy.read_magic(f)
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(f)
    if dtype.hasobject:
        raise ValueError('scores hold Python objects')
    offset = f.tell()
    count = int(np.prod(shape, dtype=object))
    if offset - start + count * dtype.itemsize != info.file_size:
        raise ValueError('scores are cut off')
    content = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    value, view = 0, memoryview(content)
    for at in range(start, start + info.file_size, BLOCK_BYTES):
        value = zlib.crc32(view[at : min(at + BLOCK_BYTES, start + info.file_size)], value)
    if value != info.CRC:
        raise ValueError('bad checksum of scores')
    array = np.frombuffer(content, dtype, count, offset).reshape(shape, order='F' if fortran else 'C')
    return array if array.flags.aligned else array.copy()


def _from_dict(arrays, filename):
    """Predictions from a dict path -> scores (classes) or (rows, classes), the format of 2018."""
    files, rows = [], []
    for key, value in arrays.items():
        value = value[None] if value.ndim == 1 else value
        if value.ndim != 2 or value.dtype.kind not in 'fiu' or rows and value.shape[1] != rows[0].shape[1]:
            raise Problem(
                f'{filename}: scores of {key} are {value.dtype} {value.shape}, not (classes) or '
                f'(rows, {rows[0].shape[1] if rows else "classes"}); {CURE}'
            )
        files.append(key)
        rows.append(value)
    if not files:
        raise Problem(f'{filename}: holds no predictions; {CURE}')
    kind = np.float64 if any(r.dtype.itemsize > 4 for r in rows) else np.float32
    return _checked(files, _offsets(rows), np.concatenate(rows).astype(kind, copy=False), filename)


def _offsets(rows):
    return np.concatenate([[0], np.cumsum([len(r) for r in rows])])


def _checked(files, offsets, scores, filename, starts=None, stops=None):
    """Predictions from unchecked arrays. Raises Problem, with `filename` in the message, if they are invalid."""
    offsets = np.asarray(offsets)
    if (
        scores.ndim != 2
        or scores.dtype not in (np.float32, np.float64)
        or offsets.ndim != 1
        or offsets.dtype.kind not in 'iu'
        or len(offsets) != len(files) + 1
    ):
        raise Problem(
            f'{filename}: not predictions: {len(files)} files, offsets {offsets.shape}, '
            f'scores {scores.dtype} {scores.shape}; {CURE}'
        )
    if offsets[0] != 0 or offsets[-1] != len(scores) or len(files) and np.diff(offsets.astype(np.int64)).min() < 1:
        raise Problem(f'{filename}: its offsets do not divide {len(scores)} rows among {len(files)} recordings; {CURE}')
    starts, stops = _checked_times(starts, stops, files, offsets, filename)
    result = Predictions(files, offsets, scores, filename, starts, stops)
    if len(result._where) < len(files):
        twice = next(key for i, key in enumerate(files) if result._where[key] != i)
        raise Problem(f'{filename}: contains {twice} twice; {CURE}')
    row, zeros = 0, np.zeros(BLOCK_BYTES // scores.itemsize + scores.shape[1], scores.dtype)
    for block in _blocks(scores):
        # A dot product with zeros is NaN if any value is not finite; this is faster than np.isfinite.
        if np.dot(np.ravel(block), zeros[: block.size]) != 0:
            bad = row + np.argmin(np.isfinite(block).all(axis=1))
            raise Problem(
                f'{filename}: scores of {files[np.searchsorted(offsets, bad, "right") - 1]} are not finite; the model '
                f'is broken, or the file is: {CURE}'
            )
        row += len(block)
    return result


def _checked_times(starts, stops, files, offsets, filename):
    """Starts and stops as float64 arrays, or None and None. Raises Problem if they are no times of the rows."""
    if starts is None and stops is None:
        return None, None
    rows = int(offsets[-1])
    if any(t is None or t.shape != (rows,) or t.dtype.kind not in 'fiu' for t in (starts, stops)):
        found = ' and '.join('none' if t is None else f'{t.dtype} {t.shape}' for t in (starts, stops))
        raise Problem(f'{filename}: its starts and stops ({found}) are not a time for each of {rows} rows; {CURE}')
    starts, stops = starts.astype(np.float64, copy=False), stops.astype(np.float64, copy=False)
    wrong = np.flatnonzero(~((starts >= 0) & (starts < stops) & np.isfinite(stops)))
    if len(wrong):
        file = files[np.searchsorted(offsets, wrong[0], 'right') - 1]
        raise Problem(
            f'{filename}: a row of {file} lasts from {starts[wrong[0]]:g} to {stops[wrong[0]]:g} s, which is not '
            f'possible; {CURE}'
        )
    return starts, stops


def _blocks(scores):
    step = max(1, BLOCK_BYTES // max(1, scores.shape[1] * scores.itemsize))
    for start in range(0, len(scores), step):
        yield scores[start : start + step]


# -- Writing --


def save(
    filename: str | os.PathLike,
    files: Iterable[str],
    rows: np.ndarray | list[np.ndarray],
    offsets: Sequence[int] | None = None,
    starts: Sequence[float] | None = None,
    stops: Sequence[float] | None = None,
) -> None:
    """Write predictions atomically.

    `rows` is a list of arrays (classes) or (n_i, classes), one per file, or with `offsets` (one more than files) a
    single array of all rows. `starts` and `stops` are the times of all rows in seconds, or None. Raises Problem if
    scores or times are not finite or do not fit the files.
    """
    files = list(files)
    if offsets is None:
        rows = [np.atleast_2d(r) for r in rows]
        if len(rows) != len(files):
            raise Problem(f'{filename}: {len(files)} files, but scores of {len(rows)}')
        if not rows:
            raise Problem(f'{filename}: no recordings to write predictions of; is the file list empty?')
        offsets, rows = _offsets(rows), np.concatenate(rows)
    rows = np.asarray(rows)
    rows = rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False)
    times = (None if t is None else np.asarray(t) for t in (starts, stops))
    checked = _checked(files, offsets, rows, filename, *times)
    times = None if checked.starts is None else ([checked.starts], [checked.stops])
    blocks = map(as_float32, _blocks(checked.scores))
    write(filename, files, checked.offsets, blocks, checked.num_classes, times=times)


def as_float32(scores: np.ndarray) -> np.ndarray:
    """Scores as they are stored: contiguous float32, with doubles clipped to its range."""
    limits = np.finfo(np.float32)
    return np.ascontiguousarray(np.clip(scores, limits.min, limits.max), '<f4')


def write(
    filename: str | os.PathLike,
    files: Iterable[str],
    offsets: np.ndarray,
    blocks: Iterable[np.ndarray],
    num_classes: int,
    key: str = '',
    times: tuple[Iterable[np.ndarray], Iterable[np.ndarray]] | None = None,
) -> None:
    """Write a prediction file without checks.

    `blocks` yields all scores in order, contiguous float32; `times` are two iterables that yield all starts and all
    stops in order, float64, or None.
    """
    rows = int(offsets[-1])
    with writing(filename) as f, zipfile.ZipFile(f, 'w', zipfile.ZIP_STORED, allowZip64=True) as z:
        _write_array(z, 'files', np.array(list(files), dtype=str))
        _write_array(z, 'offsets', offsets)
        for name, parts in zip(('starts', 'stops'), times or (), strict=False):
            _write_parts(z, zipfile.ZipInfo(f'{name}.npy'), '<f8', (rows,), parts)
        if key:
            _write_array(z, 'key', np.array(key))
        info = zipfile.ZipInfo('scores.npy')
        # An extra field pads the local header (30 bytes, the name, 20 bytes for zip64), so that scores are aligned and
        # can be mapped.
        padding = -(f.tell() + 30 + len(info.filename) + 20 + 4) % 64
        info.extra = struct.pack('<HH', 0xD935, padding) + bytes(padding)
        _write_parts(z, info, '<f4', (rows, num_classes), blocks)


def _write_array(archive, name, value):
    with archive.open(zipfile.ZipInfo(f'{name}.npy'), 'w', force_zip64=True) as member:
        npy.write_array(member, value, allow_pickle=False)


def _write_parts(archive, info, dtype, shape, parts):
    """Write an array, given as consecutive contiguous parts, so that not all of it must be in memory."""
    with archive.open(info, 'w', force_zip64=True) as member:
        npy.write_array_header_1_0(member, {'descr': dtype, 'fortran_order': False, 'shape': shape})
        for part in parts:
            member.write(memoryview(np.ascontiguousarray(part, dtype)).cast('B'))
