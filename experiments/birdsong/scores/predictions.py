"""Predictions of a model for the recordings of a list: container and file format.

`MODEL.pred.npz` is an uncompressed `.npz` of the arrays `files` (paths as in the file list), `offsets` (int64, one more
than files) and `scores` (float32, rows x classes); rows offsets[i]:offsets[i + 1] belong to files[i]. Files written by
predict.py also have `key`, a text that identifies model, settings and dataset, so that rows can be reused when the list
changes. `.pred.pkl` files of 2018 can be read, too.
"""

import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence

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
    2018; those of a `.pred.npz` are mapped from the file, not read into memory. `.key` is empty if the file has none.
    """

    key = ''

    def __init__(self, files: Iterable[str], offsets: Sequence[int], scores: np.ndarray, filename: str = 'predictions'):
        self.files = list(files)
        self.offsets = np.asarray(offsets, np.int64)
        self.scores = scores
        self.filename = filename
        self._where = {key: i for i, key in enumerate(self.files)}

    def __len__(self):
        return len(self.files)

    def __contains__(self, key):
        return key in self._where

    def __getitem__(self, key):
        i = self._where[key]
        return self.scores[self.offsets[i] : self.offsets[i + 1]]

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
        starts, counts = self.offsets[which], np.diff(self.offsets)[which]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        return Predictions(files, offsets, self.scores[rows], self.filename)

    def max(self) -> np.ndarray:
        """Maximum of the scores over the rows of each recording, (recordings, classes)."""
        if len(self.scores) == len(self.files):
            return self.scores
        return np.maximum.reduceat(self.scores, self.offsets[:-1], axis=0)


# -- Reading --


def load(filename: str | os.PathLike, num_classes: int | None = None) -> Predictions:
    """Read predictions, `.pred.npz` or the original's `.pred.pkl`.

    Raises Problem if the file is missing or damaged, has scores that are not finite, or a number of classes other than
    `num_classes`.
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
    if num_classes is not None and result.num_classes != num_classes:
        raise Problem(
            f'{filename}: predictions of {result.num_classes} classes, but the dataset has {num_classes}; select the '
            'dataset that they belong to with --dataset'
        )
    return result


def _load_zip(f, filename):
    with reading_archive(filename, 'predictions', CURE), zipfile.ZipFile(f) as z:
        members = {info.filename: info for info in z.infolist()}
        if not {'files.npy', 'offsets.npy', 'scores.npy'} <= set(members):
            return _from_dict(load_npz(filename), filename)
        scores = members['scores.npy']
        scores = _mapped(f, scores) if scores.compress_type == zipfile.ZIP_STORED else None
    small = load_npz(filename, only=('files', 'offsets', 'key') if scores is not None else None)
    if small['files'].ndim != 1 or small['files'].dtype.kind not in 'UT':
        raise Problem(f'{filename}: its files are not a list of paths; {CURE}')
    scores = small['scores'] if scores is None else scores
    result = _checked(small['files'].tolist(), small['offsets'], scores, filename)
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


def _checked(files, offsets, scores, filename):
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
    result = Predictions(files, offsets, scores, filename)
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
) -> None:
    """Write predictions atomically.

    `rows` is a list of arrays (classes) or (n_i, classes), one per file, or with `offsets` (one more than files) a
    single array of all rows. Raises Problem if scores are not finite or do not fit the files.
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
    checked = _checked(files, offsets, rows, filename)
    write(filename, files, checked.offsets, map(as_float32, _blocks(checked.scores)), checked.num_classes)


def as_float32(scores: np.ndarray) -> np.ndarray:
    """Scores as they are stored: contiguous float32, with doubles clipped to its range."""
    limits = np.finfo(np.float32)
    return np.ascontiguousarray(np.clip(scores, limits.min, limits.max), '<f4')


def write(
    filename: str | os.PathLike,
    files: Iterable[str],
    offsets: np.ndarray,
    blocks: Iterator[np.ndarray],
    num_classes: int,
    key: str = '',
) -> None:
    """Write a prediction file without checks; `blocks` yields all scores in order, contiguous float32."""
    arrays = {'files': np.array(list(files), dtype=str), 'offsets': offsets}
    if key:
        arrays['key'] = np.array(key)
    with writing(filename) as f, zipfile.ZipFile(f, 'w', zipfile.ZIP_STORED, allowZip64=True) as z:
        for name, value in arrays.items():
            with z.open(zipfile.ZipInfo(f'{name}.npy'), 'w', force_zip64=True) as member:
                npy.write_array(member, value, allow_pickle=False)
        info = zipfile.ZipInfo('scores.npy')
        # An extra field pads the local header (30 bytes, the name, 20 bytes for zip64), so that scores are aligned and
        # can be mapped.
        padding = -(f.tell() + 30 + len(info.filename) + 20 + 4) % 64
        info.extra = struct.pack('<HH', 0xD935, padding) + bytes(padding)
        header = {'descr': '<f4', 'fortran_order': False, 'shape': (int(offsets[-1]), num_classes)}
        with z.open(info, 'w', force_zip64=True) as member:
            npy.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(memoryview(block).cast('B'))
