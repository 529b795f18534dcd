"""Writing predictions so that a program that was killed can continue where it stopped."""

import contextlib
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from birdsong.files import Problem, naming
from birdsong.scores.predictions import as_float32, load, write

# Starts and stops, in seconds, of a number of rows of a recording, given the index of the first one and their number.
Times = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


class _Record(NamedTuple):
    """Consecutive rows of a recording."""

    index: int  # of the recording
    more: bool  # whether more records of the recording follow
    before: int  # rows of the recording in earlier records
    scores: np.ndarray  # float32 (rows, classes)
    times: np.ndarray  # float64 (2, rows): starts and stops, or (2, 0) if they are unknown


class Writer:
    """Writes predictions of many recordings; finished ones are kept in a journal, `.NAME.journal` beside `filename`.

    `files` are all recordings of the result, in its order. `key` is a text that identifies model and settings; a
    journal with another key, other files or another number of classes is discarded. `rows_key` is the part of it that
    the rows depend on; it is stored in the result, so that `reuse` can copy rows from there later.

    `.done` is the set of finished files. Recordings may be added in any order. `finish` writes `filename` and removes
    the journal. The bytes are the same as without interruptions. The result has times if all recordings were added with
    times and one of them has several rows.
    """

    # A record in the journal starts with the index of the file (~index if more records of the file follow), the number
    # of its rows in earlier records, the number of rows, that of rows with times (all or 0), and a checksum of these
    # and the rest. Scores, starts and stops follow.
    RECORD = struct.Struct('<qqqqI')
    VERSION = 2

    def __init__(
        self, filename: str | os.PathLike, files: list[str], num_classes: int, key: str = '', rows_key: str = ''
    ):
        self.filename, self.files, self.num_classes = os.fspath(filename), list(files), int(num_classes)
        self._where = {name: i for i, name in enumerate(self.files)}
        if len(self._where) < len(self.files):
            twice = next(name for i, name in enumerate(self.files) if self._where[name] != i)
            raise Problem(f'{self.filename}: the file list contains {twice} twice; remove one of them')
        if not self.files:
            raise Problem(f'{self.filename}: no recordings to write predictions of; is the file list empty?')
        self.key = hashlib.sha256(rows_key.encode()).hexdigest() if rows_key else ''
        folder, base = os.path.split(self.filename)
        self.journal = os.path.join(folder, f'.{base}.journal')
        files_hash = hashlib.sha256('\n'.join(self.files).encode()).hexdigest()
        head = {'predictions': base, 'version': self.VERSION, 'key': key}
        head.update(classes=self.num_classes, files=files_hash)
        self._head = json.dumps(head).encode() + b'\n'
        self._records, self.done = {}, set()
        self._open()

    def _open(self):
        """Open the journal, read its records and cut off an incomplete end. Discard a journal of another run."""
        with contextlib.suppress(FileNotFoundError), open(self.journal, 'rb') as f:
            end = len(self._head)
            if f.read(end) != self._head:
                os.unlink(self.journal)
            else:
                record = self._read(f, end)
                while record is not None:
                    self._note(end, record)
                    end = f.tell()
                    record = self._read(f, end)
                os.truncate(self.journal, end)
        # Each record is appended by one call, so that the records of two writers of the same file do not mix.
        self._file = open(self.journal, 'ab+', buffering=0)  # noqa: SIM115 - closed by close()
        if os.fstat(self._file.fileno()).st_size == 0:
            with naming(self.journal):
                self._file.write(self._head)

    def _note(self, at, record):
        """Remember the record at `at`, if it continues the last one; otherwise its recording was not completed."""
        if not record.before:
            self._records[record.index] = []
        records = self._records.get(record.index, [])
        if record.before == sum(count for _, count, _ in records):
            records.append((at, len(record.scores), record.times.shape[1]))
            if not record.more:
                self.done.add(self.files[record.index])

    def _read(self, f, at):
        """The record at `at`, or None if there is no complete one."""
        f.seek(at)
        head = f.read(self.RECORD.size)
        if len(head) < self.RECORD.size:
            return None
        index, before, count, timed, check = self.RECORD.unpack(head)
        scores = count * self.num_classes * 4
        if not (-len(self.files) <= index < len(self.files) and before >= 0 and 0 < scores < 1 << 40):
            return None
        size = scores + timed * 16
        if timed not in (0, count) or size > os.fstat(f.fileno()).st_size - f.tell():
            return None
        content = f.read(size)
        if len(content) < size or zlib.crc32(content, zlib.crc32(head[:-4])) != check:
            return None
        values = np.frombuffer(content, '<f4', count * self.num_classes).reshape(count, self.num_classes)
        times = np.frombuffer(content[scores:], '<f8').reshape(2, timed)
        return _Record(max(index, ~index), index < 0, before, values, times)

    def reuse(self, filename: str | os.PathLike, times: Callable[[str], Times] | None = None) -> int | None:
        """Copy the rows of our recordings from a prediction file with the same key.

        `times` returns the times of the rows of a recording, for a file without times: it was written by an earlier
        version, or all its recordings have one row. Returns the number of recordings, or None if the file has another
        key or none. Raises Problem if it is damaged.
        """
        old = load(filename)
        if not self.key or old.key != self.key or old.num_classes != self.num_classes:
            return None
        taken = [file for file in self.files if file in old and file not in self.done]
        for file in taken:
            self.add(file, old[file], times and times(file) if old.starts is None else _slices(*old.times(file)))
        return len(taken)

    def add(self, file: str, rows: np.ndarray | Iterator[np.ndarray], times: Times | None = None) -> None:
        """Add a recording: `rows` (classes) or (n, classes), or, to save memory, an iterator over such arrays.

        Raises Problem for scores that are not finite.
        """
        if file not in self._where:
            raise Problem(f'{self.filename}: {file} is not in the file list')
        if file in self.done:
            raise Problem(f'{self.filename}: already contains {file}')
        parts = rows if hasattr(rows, '__next__') else iter([rows])
        part, before = next(parts), 0
        for following in parts:
            before += self._add(file, True, before, part, times)
            part = following
        self._add(file, False, before, part, times)

    def _add(self, file, more, before, rows, times):
        """Write a record to the journal. Returns its number of rows."""
        rows = np.atleast_2d(rows)
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != self.num_classes:
            raise Problem(f'{self.filename}: scores of {file} are {rows.shape}, not (rows, {self.num_classes})')
        if not np.isfinite(rows).all():
            raise Problem(
                f'{self.filename}: scores of {file} are not finite: the recording or the model is broken; validate the '
                'dataset, or train the model again'
            )
        columns = np.empty((2, 0), '<f8') if times is None else np.array(times(before, len(rows)), '<f8')
        if times is not None and columns.shape != (2, len(rows)):
            raise ValueError(f'{file}: times {columns.shape} of {len(rows)} rows')
        content = as_float32(rows).tobytes() + columns.tobytes()
        index = self._where[file]
        head = self.RECORD.pack(~index if more else index, before, len(rows), columns.shape[1], 0)[:-4]
        record = head + struct.pack('<I', zlib.crc32(content, zlib.crc32(head))) + content
        with naming(self.journal):
            written = self._file.write(record)
            if written != len(record):
                # Write the rest, or raise the reason (disk full); the next start cuts off incomplete records.
                self._file.write(record[written:])
        self._note(self._file.tell() - len(record), _Record(index, more, before, rows, columns))
        return len(rows)

    def finish(self) -> None:
        """Write the prediction file and remove the journal. Raises Problem if recordings are missing."""
        missing = [name for name in self.files if name not in self.done]
        if missing:
            raise Problem(f'{self.filename}: {len(missing)} recordings were not predicted, such as {missing[0]}')
        counts = np.array([sum(count for _, count, _ in self._records[i]) for i in range(len(self.files))])
        timed = np.array([sum(timed for _, _, timed in self._records[i]) for i in range(len(self.files))])
        times = None
        if counts.max() > 1 and np.array_equal(counts, timed):
            times = (self._column(0), self._column(1))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        write(self.filename, self.files, offsets, self._blocks(), self.num_classes, self.key, times)
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.journal)

    def _blocks(self):
        """Yield the scores of all records, in the order of the files."""
        for i in range(len(self.files)):
            for at, _, _ in self._records[i]:
                record = self._read(self._file, at)
                if record is None or record.index != i:
                    raise Problem(f'{self.journal}: damaged while it was in use; start again')
                yield record.scores

    def _column(self, column):
        """Yield the starts (0) or stops (1) of all records. `_blocks` checks the records."""
        for i in range(len(self.files)):
            for at, count, _ in self._records[i]:
                self._file.seek(at + self.RECORD.size + count * (self.num_classes * 4 + column * 8))
                yield np.frombuffer(self._file.read(count * 8), '<f8')

    def close(self) -> None:
        """Close the journal, which is kept for the next run."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _slices(starts, stops):
    """Times that are known, as a function."""
    return lambda first, count: (starts[first : first + count], stops[first : first + count])
