"""Predictions of a model for the recordings of a list: reading, writing, and writing across interruptions.

`MODEL.pred.npz` is an uncompressed `.npz` of the arrays `files` (paths as in the file list), `offsets`
(int64, one more than files) and `scores` (float32, rows x classes); rows offsets[i]:offsets[i + 1] belong
to files[i]. What predict.py writes also has `key`, a text that is the same for the same model, settings and dataset,
so that rows can be reused when the list has changed. The original's `.pred.pkl` are read, too, by a loader that admits
arrays alone.
"""

import contextlib
import hashlib
import json
import mmap
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
from numpy.lib import format as npy

from birdsong.files import Problem, load_npz, naming, open_regular, reading_archive, writing

CURE = 'make it anew with predict.py'
# Rows that are copied or checked at once: small enough for the cache, large enough to hide Python.
BLOCK_BYTES = 1 << 20


class Predictions:
    """Scores of recordings: `.files` (list of keys), `.offsets` (int64), `.scores` (rows, classes).

    `predictions[key]` are the rows of one recording, (n, classes). Scores are float32, or float64 where
    a file of the original holds those; those of a file of ours are mapped, not read. `.key` tells model,
    settings and dataset from others; it is empty where the file does not say.
    """

    key = ''

    def __init__(self, files, offsets, scores, filename='predictions'):
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
    def num_classes(self):
        return self.scores.shape[1]

    def select(self, files):
        """Predictions of `files`, in that order.

        Raises Problem if recordings are missing, saying how many and which is the first.
        """
        files = list(files)
        if files == self.files:
            return self
        missing = [key for key in files if key not in self._where]
        if len(missing) == len(files) and files:
            raise Problem(
                f'{self.filename}: none of the {len(files)} recordings of the list (such as {files[0]}) is in it (but {self.files[0] if self.files else "nothing"}): predictions of another data set or list; {CURE}'
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

    def max(self):
        """(recordings, classes): scores max-pooled over the rows of each recording."""
        if len(self.scores) == len(self.files):
            return self.scores
        return np.maximum.reduceat(self.scores, self.offsets[:-1], axis=0)

    def digest(self):
        """Text that tells these predictions from others: a checksum of all they hold."""
        value = zlib.crc32('\n'.join(self.files).encode(), zlib.crc32(self.offsets))
        for block in _blocks(self.scores):
            value = zlib.crc32(np.ascontiguousarray(block), value)
        return f'{value:08x}'


def _blocks(scores):
    step = max(1, BLOCK_BYTES // max(1, scores.shape[1] * scores.itemsize))
    for start in range(0, len(scores), step):
        yield scores[start : start + step]


def _checked(files, offsets, scores, filename):
    """Predictions of arrays that may be anything. Raises Problem, naming `filename`."""
    offsets = np.asarray(offsets)
    if (
        scores.ndim != 2
        or scores.dtype not in (np.float32, np.float64)
        or offsets.ndim != 1
        or offsets.dtype.kind not in 'iu'
        or len(offsets) != len(files) + 1
    ):
        raise Problem(
            f'{filename}: not predictions: {len(files)} files, offsets {offsets.shape}, scores {scores.dtype} {scores.shape}; {CURE}'
        )
    if offsets[0] != 0 or offsets[-1] != len(scores) or len(files) and np.diff(offsets.astype(np.int64)).min() < 1:
        raise Problem(f'{filename}: its offsets do not divide {len(scores)} rows among {len(files)} recordings; {CURE}')
    result = Predictions(files, offsets, scores, filename)
    if len(result._where) < len(files):
        twice = next(key for i, key in enumerate(files) if result._where[key] != i)
        raise Problem(f'{filename}: {twice} is in it twice; {CURE}')
    row, zeros = 0, np.zeros(BLOCK_BYTES // scores.itemsize + scores.shape[1], scores.dtype)
    for block in _blocks(scores):
        # A sum of products with 0 is NaN as soon as one factor isn't finite, and quicker than looking at each.
        if not np.dot(np.ravel(block), zeros[: block.size]) == 0:
            bad = row + np.argmin(np.isfinite(block).all(axis=1))
            raise Problem(
                f'{filename}: scores of {files[np.searchsorted(offsets, bad, "right") - 1]} are not finite; the model is broken, or the file is: {CURE}'
            )
        row += len(block)
    return result


def load(filename, num_classes=None):
    """Read predictions, of ours or of the original, into `Predictions`.

    The scores of a file of ours are mapped, so that only what is used stays in memory. Raises Problem if the
    file is missing or damaged, has other than `num_classes` classes, or scores that are not finite.
    """
    filename = os.fspath(filename)
    try:
        with open_regular(filename) as f:
            start = f.read(2)
            if start == b'PK':
                result = _load_zip(f, filename)
            elif start[:1] in (b'\x80', b'(', b'}'):
                f.seek(0)
                result = _from_dict(_load_pickle(f, filename), filename)
            else:
                raise Problem(f'{filename}: neither .npz nor pickled predictions; {CURE}')
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except IsADirectoryError:
        raise Problem(f'{filename}: a folder, not predictions') from None
    if num_classes is not None and result.num_classes != num_classes:
        raise Problem(
            f'{filename}: predictions of {int(result.num_classes)} classes, but the data set has {int(num_classes)}; name the --dataset that they are of'
        )
    return result


def _load_zip(f, filename):
    with reading_archive(filename, 'predictions', CURE), zipfile.ZipFile(f) as z:
        members = {info.filename: info for info in z.infolist()}
        if not {'files.npy', 'offsets.npy', 'scores.npy'} <= set(members):
            return _from_dict(load_npz(filename), filename)
        scores = members['scores.npy']
        scores = _mapped(f, scores, filename) if scores.compress_type == zipfile.ZIP_STORED else None
    small = load_npz(filename, only=('files', 'offsets', 'key') if scores is not None else None)
    if small['files'].ndim != 1 or small['files'].dtype.kind not in 'UT':
        raise Problem(f'{filename}: its files are no list of paths; {CURE}')
    result = _checked(
        small['files'].tolist(), small['offsets'], small['scores'] if scores is None else scores, filename
    )
    result.key = str(small.get('key', ''))
    return result


def _mapped(f, info, filename):
    """The array of a stored zip member as a read-only map of the file."""
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
    """Predictions of a dict path -> scores (classes) or (rows, classes), as the original stores them."""
    files, rows = [], []
    for key, value in arrays.items():
        value = value[None] if value.ndim == 1 else value
        if value.ndim != 2 or value.dtype.kind not in 'fiu' or rows and value.shape[1] != rows[0].shape[1]:
            raise Problem(
                f'{filename}: scores of {key} are {value.dtype} {value.shape}, not (classes) or (rows, {rows[0].shape[1] if rows else "classes"}); {CURE}'
            )
        files.append(key)
        rows.append(value)
    if not files:
        raise Problem(f'{filename}: holds no predictions; {CURE}')
    kind = np.float64 if any(r.dtype.itemsize > 4 for r in rows) else np.float32
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    return _checked(files, offsets, np.concatenate(rows).astype(kind, copy=False), filename)


# -- The original's pickles --


class _Array:
    """What `numpy.ndarray` means in a pickle here: its state, made an array by us, never by numpy's unpickling."""

    value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype, shape, 'F' if fortran else 'C')

    def fill(self, content, dtype, shape, order):
        if not isinstance(dtype, _Type) or not isinstance(content, bytes):
            raise Problem('arrays of objects')
        self.value = np.frombuffer(content, dtype.order + dtype.kind).reshape(shape, order=order)


class _Type:
    """What `numpy.dtype` means in a pickle here: a plain number type and its byte order."""

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
    """How protocol 5 stores an array."""
    array = _Array()
    array.fill(content, dtype, shape, order)
    return array


def _encode(text, encoding):
    # Protocol 2 of Python 3 stores bytes as text.
    if encoding not in ('latin1', b'latin1'):
        raise Problem(f'text encoded as {encoding}')
    return text.encode('latin1')


ADMITTED = {
    ('numpy', 'ndarray'): _Array,
    ('numpy', 'dtype'): _Type,
    ('_codecs', 'encode'): _encode,
    # numpy.core is the name of numpy 1, numpy._core that of numpy 2
    ('numpy.core.multiarray', '_reconstruct'): _reconstruct,
    ('numpy.core.numeric', '_frombuffer'): _frombuffer,
    ('numpy._core.multiarray', '_reconstruct'): _reconstruct,
    ('numpy._core.numeric', '_frombuffer'): _frombuffer,
}


# In Python, since the one in C sets aside whatever memory a pickle claims to need.
class _Unpickler(pickle._Unpickler):
    def load_bytearray8(self):
        """As bytes: for a bytearray, memory would be set aside before it is known whether the file holds that much."""
        (length,) = struct.unpack('<Q', self.read(8))
        self.append(self.read(length))

    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module, name):
        if (module, name) not in ADMITTED:
            raise Problem(f'{module}.{name}')
        return ADMITTED[module, name]


class _Bounded:
    """A file that refuses to read more than it has, so that a length in it can't claim memory."""

    def __init__(self, f):
        self.f, self.size = f, os.fstat(f.fileno()).st_size

    def read(self, n):
        if n > self.size - self.f.tell():
            raise EOFError('cut off')
        return self.f.read(n)

    def readinto(self, buffer):
        return self.f.readinto(buffer)

    def readline(self):
        return self.f.readline()


def _load_pickle(f, filename):
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
            f'{filename}: refused: it holds {e}; only a dict of plain arrays is read. If you trust it, store it again as one'
        ) from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as e:  # whatever the bytes of a stranger make of the unpickler
        raise Problem(f'{filename}: not a whole pickle of arrays ({e or type(e).__name__}); {CURE}') from None


# -- Writing --


def _write(filename, files, offsets, blocks, num_classes, key=''):
    """Write a prediction file of ours; `blocks` gives the scores, contiguous float32, in order of the rows."""
    arrays = {'files': np.array(list(files), dtype=str), 'offsets': offsets}
    if key:
        arrays['key'] = np.array(key)
    with writing(filename) as f, zipfile.ZipFile(f, 'w', zipfile.ZIP_STORED, allowZip64=True) as z:
        for name, value in arrays.items():
            with z.open(zipfile.ZipInfo(f'{name}.npy'), 'w', force_zip64=True) as member:
                npy.write_array(member, value, allow_pickle=False)
        info = zipfile.ZipInfo('scores.npy')
        # An extra field pads the local header (30 bytes, the name, 20 bytes for zip64) so that scores can be mapped.
        padding = -(f.tell() + 30 + len(info.filename) + 20 + 4) % 64
        info.extra = struct.pack('<HH', 0xD935, padding) + bytes(padding)
        with z.open(info, 'w', force_zip64=True) as member:
            npy.write_array_header_1_0(
                member, {'descr': '<f4', 'fortran_order': False, 'shape': (int(offsets[-1]), num_classes)}
            )
            for block in blocks:
                member.write(memoryview(block).cast('B'))


def _float32(scores):
    limits = np.finfo(np.float32)
    return np.ascontiguousarray(np.clip(scores, limits.min, limits.max), '<f4')


def save(filename, files, rows, offsets=None):
    """Write predictions, whole or not at all.

    `rows`: list of (classes) or (n_i, classes), one a file; or, with `offsets` (one more than files), all rows
    joined. Raises Problem if scores are not finite or don't fit the files.
    """
    files = list(files)
    if offsets is None:
        rows = [np.atleast_2d(r) for r in rows]
        if len(rows) != len(files):
            raise Problem(f'{filename}: {len(files)} files, but scores of {len(rows)}')
        if not rows:
            raise Problem(f'{filename}: no recordings to write predictions of; is the file list empty?')
        offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
        rows = np.concatenate(rows)
    rows = np.asarray(rows)
    checked = _checked(
        files, offsets, rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False), filename
    )
    _write(filename, files, checked.offsets, (_float32(b) for b in _blocks(checked.scores)), checked.num_classes)


class Writer:
    """Writes predictions that take long: what is done is journaled, so that a killed program goes on there.

    `files` are all recordings that the result will hold, in its order; `key` is a text that identifies model and
    settings: a journal of another key, other files or another number of classes is started from scratch. `rows_key` is the
    part of it that decides the rows: the result says of which it is, so that `.reuse` can take over its rows later. `.done` is the set of files that need
    no prediction any more; `.add(file, rows)` in any order; `.finish()` writes `filename`, the same bytes as if nothing
    had been interrupted, and removes the journal (`.NAME.journal` beside it).
    """

    # A record: index of the file (~index if more of it follow), number of its rows before, number of rows, checksum of these
    # and the scores; then the scores.
    RECORD = struct.Struct('<qqqI')

    def __init__(self, filename, files, num_classes, key='', rows_key=''):
        self.filename, self.files, self.num_classes = os.fspath(filename), list(files), int(num_classes)
        self._where = {name: i for i, name in enumerate(self.files)}
        if len(self._where) < len(self.files):
            twice = next(name for i, name in enumerate(self.files) if self._where[name] != i)
            raise Problem(f'{self.filename}: the file list names {twice} twice; remove one of them')
        if not self.files:
            raise Problem(f'{self.filename}: no recordings to write predictions of; is the file list empty?')
        self.key = hashlib.sha256(rows_key.encode()).hexdigest() if rows_key else ''
        folder, base = os.path.split(self.filename)
        self.journal = os.path.join(folder, f'.{base}.journal')
        self._head = (
            json.dumps(
                {
                    'predictions': base,
                    'key': key,
                    'classes': self.num_classes,
                    'files': hashlib.sha256('\n'.join(self.files).encode()).hexdigest(),
                }
            ).encode()
            + b'\n'
        )
        self._records, self.done = {}, set()
        self._open()

    def _open(self):
        """Open the journal: read what is in it, cut off a torn end; anew if it is of something else."""
        with contextlib.suppress(FileNotFoundError), open(self.journal, 'rb') as f:
            end = len(self._head)
            if f.read(end) != self._head:
                os.unlink(self.journal)
            else:
                record = self._read(f, end)
                while record is not None:
                    self._note(end, *record)
                    end = f.tell()
                    record = self._read(f, end)
                os.truncate(self.journal, end)
        # Appending in one call, so that even two writers of one file can't tear each other's records.
        self._file = open(self.journal, 'ab+', buffering=0)
        if os.fstat(self._file.fileno()).st_size == 0:
            with naming(self.journal):
                self._file.write(self._head)

    def _note(self, at, index, before, rows):
        """Remember the record at `at`; one that doesn't go on where the last one ended is of an attempt that was given up."""
        more = index < 0
        index = ~index if more else index
        if not before:
            self._records[index] = []
        records = self._records.get(index, [])
        if before == sum(count for _, count in records):
            records.append((at, len(rows)))
            if not more:
                self.done.add(self.files[index])

    def _read(self, f, at):
        """(index or ~index, rows before, rows) of the record at `at`, or None if there is no whole one."""
        f.seek(at)
        head = f.read(self.RECORD.size)
        if len(head) < self.RECORD.size:
            return None
        index, before, count, check = self.RECORD.unpack(head)
        if not (
            -len(self.files) <= index < len(self.files) and before >= 0 and 0 < count * self.num_classes * 4 < 1 << 40
        ):
            return None
        size = count * self.num_classes * 4
        if size > os.fstat(f.fileno()).st_size - f.tell():
            return None
        content = f.read(size)
        if len(content) < size or zlib.crc32(content, zlib.crc32(head[:24])) != check:
            return None
        return index, before, np.frombuffer(content, '<f4').reshape(count, self.num_classes)

    def reuse(self, filename):
        """Take over from a prediction file what it holds of our files, if it says that it is of our key.

        Returns the number of recordings, or None if the file is of another key or of none. Raises Problem if it is damaged.
        """
        old = load(filename)
        if not self.key or old.key != self.key or old.num_classes != self.num_classes:
            return None
        taken = [file for file in self.files if file in old and file not in self.done]
        for file in taken:
            self.add(file, old[file])
        return len(taken)

    def add(self, file, rows):
        """Journal `rows` of a recording, (classes) or (n, classes), or an iterator over such, so that not all of them need
        be in memory. Raises Problem for scores that are not finite."""
        if file not in self._where:
            raise Problem(f'{self.filename}: {file} is not in the file list')
        if file in self.done:
            raise Problem(f'{self.filename}: {file} is in it already')
        parts = rows if hasattr(rows, '__next__') else iter([rows])
        part, before = next(parts), 0
        for following in parts:
            before += self._add(~self._where[file], before, part)
            part = following
        self._add(self._where[file], before, part)

    def _add(self, index, before, rows):
        """Journal a record; returns its number of rows."""
        rows = np.atleast_2d(rows)
        file = self.files[max(index, ~index)]
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != self.num_classes:
            raise Problem(f'{self.filename}: scores of {file} are {rows.shape}, not (rows, {int(self.num_classes)})')
        if not np.isfinite(rows).all():
            raise Problem(
                f'{self.filename}: scores of {file} are not finite: the recording or the model is broken; validate the data set, or train the model anew'
            )
        content = _float32(rows).tobytes()
        head = struct.pack('<qqq', index, before, len(rows))
        record = head + struct.pack('<I', zlib.crc32(content, zlib.crc32(head))) + content
        with naming(self.journal):
            written = self._file.write(record)
            if written != len(record):
                # The rest may succeed, or says why not (disk full); a torn record is cut off at the next start.
                self._file.write(record[written:])
        self._note(self._file.tell() - len(record), index, before, rows)
        return len(rows)

    def finish(self):
        """Write the prediction file and remove the journal. Raises Problem if recordings are missing."""
        missing = [name for name in self.files if name not in self.done]
        if missing:
            raise Problem(f'{self.filename}: {len(missing)} recordings were not predicted, such as {missing[0]}')
        counts = [sum(count for _, count in self._records[i]) for i in range(len(self.files))]

        def blocks():
            for i in range(len(self.files)):
                for at, _ in self._records[i]:
                    record = self._read(self._file, at)
                    if record is None or i not in (record[0], ~record[0]):
                        raise Problem(f'{self.journal}: damaged while it was in use; start again')
                    yield record[2]

        offsets = np.concatenate([[0], np.cumsum(counts)])
        _write(self.filename, self.files, offsets, blocks(), self.num_classes, self.key)
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.journal)

    def close(self):
        """Close the journal; what is in it stays for the next time."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# -- Several files --


def parse_weighted(text):
    """'FILE[:WEIGHT]' -> (FILE, WEIGHT or None). Raises Problem for a weight that is no finite number."""
    name, colon, weight = text.rpartition(':')
    if not colon or not name or os.path.exists(text):
        return text, None
    try:
        weight = float(weight)
    except ValueError:
        return text, None
    if not np.isfinite(weight):
        raise Problem(f'{text}: the weight has to be a finite number')
    return name, weight


def softmax(scores):
    """Softmax over the last axis, in the precision of `scores`."""
    result = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result /= result.sum(axis=-1, keepdims=True)
    return result


def prepared(filename, files, num_classes=None, use_softmax=False, maxpool=True):
    """Predictions of `files`, in that order, max-pooled over their rows unless told not to, then softmaxed if told to."""
    chosen = load(filename, num_classes).select(files)
    offsets, scores = chosen.offsets, chosen.scores
    if maxpool:
        offsets, scores = np.arange(len(chosen) + 1), chosen.max()
    if use_softmax:
        scores = softmax(scores)
    return Predictions(chosen.files, offsets, scores, filename)


def combine(members, weights):
    """The weighted mean of `Predictions` of the same files: the sum of weight x scores, divided by their number.

    A member with one row a recording is added to every row of the others. `members` may be a generator, so that only
    one is in memory at a time. Raises Problem where rows don't fit.
    """
    total, count = None, 0
    for member, weight in zip(members, weights):
        count += 1
        if total is None:
            total = Predictions(member.files, member.offsets, member.scores * weight, member.filename)
            continue
        if member.scores.shape[1] != total.scores.shape[1]:
            raise Problem(
                f'{total.filename} has {total.scores.shape[1]} classes, but {member.filename} has '
                f'{member.scores.shape[1]}: they belong to different datasets'
            )
        have, more = np.diff(total.offsets), np.diff(member.offsets)
        wrong = np.flatnonzero((have != more) & (have != 1) & (more != 1))
        if len(wrong):
            raise Problem(
                f'{total.filename} has {int(have[wrong[0]])} rows for {total.files[wrong[0]]}, but {member.filename} has {int(more[wrong[0]])}: they were predicted with other settings'
            )
        rows = np.maximum(have, more)
        scores = [_repeated(p.scores, n, rows) for p, n in ((total, have), (member, more))]
        total = Predictions(
            total.files, np.concatenate([[0], np.cumsum(rows)]), scores[0] + scores[1] * weight, total.filename
        )
    total.scores /= count
    return total


def _repeated(scores, have, want):
    """`scores` with the single row of a recording repeated where others have more."""
    return (
        scores
        if np.array_equal(have, want)
        else np.repeat(scores, np.repeat(np.where(have == 1, want, 1), have), axis=0)
    )
