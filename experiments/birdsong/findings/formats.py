"""Tables of findings in the formats of analysis programs.

| format | files | columns |
|---|---|---|
| csv | findings.csv | COLUMNS, of which the first six are as BirdNET-Analyzer writes them |
| parquet | findings.parquet | the same; numbers are numbers, what is unknown is null |
| kaleidoscope | kaleidoscope.csv | INDIR, FOLDER, IN FILE, OFFSET, DURATION, TOP1MATCH |
| raven | raven/PATH.selections.txt, one per recording | RAVEN_COLUMNS, tab-separated |
| audacity | audacity/PATH.txt, one per recording | start, end, names, confidence; tab-separated, without a header |

PATH is the path of the recording without '.wav'. Recordings without detections have a table without rows, too. Files
of earlier findings are replaced atomically when all recordings have been written.

Spreadsheets take a text that begins with = + - @ for a formula. In CSV files, such names get an apostrophe in front,
and such paths './', which is the same file. `read` removes both.
"""

import contextlib
import csv
import functools
import itertools
import math
import operator
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from birdsong.files import Problem, naming, open_regular, writing

FORMATS = ('csv', 'raven', 'audacity', 'parquet', 'kaleidoscope')
# Formats with a single file for all recordings, and its name.
TABLES = {'csv': 'findings.csv', 'parquet': 'findings.parquet', 'kaleidoscope': 'kaleidoscope.csv'}
SUFFIXES = {'raven': '.selections.txt', 'audacity': '.txt'}
COLUMNS = (
    'Start (s)',
    'End (s)',
    'Scientific name',
    'Common name',
    'Confidence',
    'File',
    'Class',
    'Score',
    'Probability',
    'Date',
    'Time',
    'Time zone',
    'lat',
    'lon',
    'Model',
)
RAVEN_COLUMNS = (
    'Selection',
    'View',
    'Channel',
    'Begin Time (s)',
    'End Time (s)',
    'Low Freq (Hz)',
    'High Freq (Hz)',
    'Common Name',
    'Scientific Name',
    'Species Code',
    'Confidence',
    'Begin Path',
    'File Offset (s)',
)
KALEIDOSCOPE_COLUMNS = ('INDIR', 'FOLDER', 'IN FILE', 'OFFSET', 'DURATION', 'TOP1MATCH')
# Rows of a Parquet table that are written at once.
BATCH = 1 << 16
FORMULA = '[=+\\-@\t\r]'


class Finding(NamedTuple):
    """A detection with all that is known about it, in the order of COLUMNS. Unknown texts are '', numbers None."""

    start: float  # seconds from the start of the recording
    end: float
    scientific_name: str
    common_name: str
    confidence: float  # the probability, or the score if it is not calibrated
    file: str
    class_id: str
    score: float
    probability: float | None
    date: str  # of the start
    time: str
    zone: str
    latitude: float | None
    longitude: float | None
    model: str


NUMBERS = [i for i, kind in enumerate(Finding.__annotations__.values()) if kind is not str]
NEEDED = [i for i, kind in enumerate(Finding.__annotations__.values()) if kind is float]

# Adds the findings of a recording (file, findings) to a table.
Add = Callable[[str, list[Finding]], None]


def writer(kind: str, output: str, folder: str, highest: float) -> contextlib.AbstractContextManager[Add]:
    """A context in which a function adds findings to a table in format `kind`; the table is written at its end.

    `output`: the file of a format in TABLES, else a folder. `folder`: where the recordings are, for formats that name
    it. `highest`: highest frequency in Hz that Raven shows for a selection.
    """
    if kind == 'csv':
        return _csv(output, COLUMNS, _csv_rows)
    if kind == 'kaleidoscope':
        return _csv(output, KALEIDOSCOPE_COLUMNS, lambda file, found: _kaleidoscope_rows(folder, file, found))
    if kind == 'parquet':
        return _parquet(output)
    if kind == 'raven':
        return _per_recording(output, SUFFIXES[kind], lambda file, found: _raven(folder, highest, file, found))
    return _per_recording(output, SUFFIXES[kind], _audacity)


def read(filename: str) -> Iterator[Finding]:
    """The findings in a table that was written in the format csv, or parquet if its name ends so, in order.

    Columns may be in any order. Raises Problem if one is missing, or for a value that is not a finite number.
    """
    for number, row in enumerate(_parquet_rows(filename) if filename.endswith('.parquet') else _rows(filename), 2):
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise Problem(f'{filename}: no column {missing[0]!r}; give a table that findings.py has written')
        try:
            values = [_value(row[name], i) for i, name in enumerate(COLUMNS)]
        except ValueError as e:
            raise Problem(f'{filename}, row {number}: {e}') from None
        yield Finding(*values)


def read_recordings(filename: str) -> Iterator[tuple[str, list[Finding]]]:
    """As `read`: the path and the findings of each recording. The findings of a recording follow each other."""
    for file, found in itertools.groupby(read(filename), key=operator.attrgetter('file')):
        yield file, list(found)


def _value(value: Any, i: int) -> Any:
    """The value of column i. Raises ValueError if it is not possible."""
    if i not in NUMBERS:
        return value or ''
    if value in ('', None) and i not in NEEDED:
        return None
    with contextlib.suppress(ValueError, TypeError):
        if math.isfinite(float(value)):
            return float(value)
    raise ValueError(f'{value!r} is no number, in {COLUMNS[i]!r}')


@functools.lru_cache(1 << 16)  # the same names occur in many rows
def guarded(text: str, prefix: str = "'") -> str:
    """A text that no spreadsheet takes for a formula."""
    return prefix + text if re.match(f'({re.escape(prefix)})*{FORMULA}', text) else text


@functools.lru_cache(1 << 16)
def unguarded(text: str, prefix: str = "'") -> str:
    """The text that `guarded` was given."""
    return text[len(prefix) :] if re.match(f'({re.escape(prefix)})+{FORMULA}', text) else text


# -- CSV --


@contextlib.contextmanager
def _csv(filename: str, columns: tuple, rows: Callable[[str, list[Finding]], Iterable]) -> Iterator[Add]:
    with writing(filename, 'w', encoding='utf-8', newline='') as f:
        out = csv.writer(f, lineterminator='\n')
        out.writerow(columns)
        yield lambda file, found: out.writerows(rows(file, found))


def _csv_rows(file: str, found: list[Finding]) -> Iterator[tuple]:
    path = guarded(file, './')
    for one in found:
        yield (
            _seconds(one.start),
            _seconds(one.end),
            guarded(one.scientific_name),
            guarded(one.common_name),
            f'{one.confidence:.4f}',
            path,
            guarded(one.class_id),
            _number(one.score),
            _number(one.probability),
            one.date,
            one.time,
            one.zone,  # '+02:00' is no formula, and neither are negative numbers
            _number(one.latitude),
            _number(one.longitude),
            guarded(one.model),
        )


def cells(one: Finding) -> dict[str, str]:
    """The texts of a finding in a CSV file, by column."""
    return dict(zip(COLUMNS, next(_csv_rows(one.file, [one])), strict=True))


def _kaleidoscope_rows(folder: str, file: str, found: list[Finding]) -> Iterator[tuple]:
    inside, name = os.path.split(file)
    for one in found:
        times = _seconds(one.start), _seconds(one.end - one.start)
        yield guarded(folder, './'), guarded(inside, './'), guarded(name, './'), *times, guarded(one.scientific_name)


def _rows(filename: str) -> Iterator[dict[str, Any]]:
    """Rows of a CSV file as dicts, with texts as they were before they were guarded."""
    try:
        with open_regular(filename, 'r', encoding='utf-8-sig', newline='') as f:
            reader = csv.DictReader(f, strict=True)
            # a table without rows has its columns checked, too
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                yield dict.fromkeys(reader.fieldnames or ())
            for row in reader:
                yield {
                    name: unguarded(value or '', './' if name == 'File' else "'")
                    for name, value in row.items()
                    if isinstance(name, str)
                }
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise Problem(f'{filename}: not a CSV file in UTF-8 ({e})') from None


def _seconds(value: float) -> str:
    """3.0 -> '3.0', 4.98866 -> '4.989'"""
    return str(round(value, 3))


def _number(value: float | None) -> str:
    """Seven significant digits, which are all of float32."""
    return '' if value is None else f'{value:.7g}'


# -- Parquet --


@contextlib.contextmanager
def _parquet(filename: str) -> Iterator[Add]:
    arrow, parquet = pyarrow_for(filename)
    schema = arrow.schema([(n, arrow.float64() if i in NUMBERS else arrow.string()) for i, n in enumerate(COLUMNS)])
    rows = []

    def flush():
        columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
        # what is unknown is null
        columns = [
            arrow.array([None if value == '' else value for value in c], f.type)
            for c, f in zip(columns, schema, strict=True)
        ]
        out.write_table(arrow.Table.from_arrays(columns, schema=schema))
        rows.clear()

    def add(file: str, found: list[Finding]) -> None:
        rows.extend(found)
        if len(rows) >= BATCH:
            flush()

    with writing(filename) as f, naming(filename), parquet.ParquetWriter(f, schema) as out:
        yield add
        flush()


def _parquet_rows(filename: str) -> Iterator[dict[str, Any]]:
    arrow, parquet = pyarrow_for(filename)
    try:
        with open_regular(filename) as f:
            table = parquet.ParquetFile(f)
            if not set(COLUMNS) <= set(table.schema_arrow.names):
                yield dict.fromkeys(table.schema_arrow.names)
            for batch in table.iter_batches(BATCH):
                yield from batch.to_pylist()
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except arrow.ArrowException as e:
        raise Problem(f'{filename}: not a Parquet table ({e})') from None


def pyarrow_for(filename: str) -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet. Raises Problem if they are missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Problem(f'{filename}: Parquet tables need pyarrow; type: pip install pyarrow') from None
    return pyarrow, pyarrow.parquet


# -- One table per recording --


@contextlib.contextmanager
def _per_recording(folder: str, suffix: str, text: Callable[[str, list[Finding]], str]) -> Iterator[Add]:
    """Tables in `folder`, each named like its recording. They are moved there at the end of the context."""
    os.makedirs(folder, exist_ok=True)
    aside, names = os.path.join(folder, f'.{os.getpid()}.part'), set()

    def add(file: str, found: list[Finding]) -> None:
        if os.path.isabs(file) or os.pardir in file.split('/'):
            raise Problem(f'{file}: no path below a folder, so that no table can be named like it; use --format csv')
        name = file.removesuffix('.wav') + suffix
        name = file + suffix if name in names else name
        names.add(name)
        filename = os.path.join(aside, name)
        os.makedirs(os.path.dirname(filename), exist_ok=True)
        with naming(filename), open(filename, 'w', encoding='utf-8', newline='') as f:
            f.write(text(file, found))

    try:
        yield add
        os.sync()  # once for all files, because flushing each would take as long as everything else
        for name in names:
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            os.replace(os.path.join(aside, name), os.path.join(folder, name))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _raven(folder: str, highest: float, file: str, found: list[Finding]) -> str:
    lines = [RAVEN_COLUMNS]
    for number, one in enumerate(found, 1):
        start = _seconds(one.start)
        names = one.common_name, one.scientific_name, one.class_id
        times = start, _seconds(one.end), '0', f'{highest:.7g}'
        path = os.path.join(folder, file)
        lines.append((number, 'Spectrogram 1', 1, *times, *names, f'{one.confidence:.4f}', path, start))
    return ''.join('\t'.join(map(_field, line)) + '\n' for line in lines)


def _audacity(file: str, found: list[Finding]) -> str:
    return ''.join(
        '\t'.join(map(_field, (_seconds(one.start), _seconds(one.end), label(one), f'{one.confidence:.4f}'))) + '\n'
        for one in found
    )


def label(one: Finding) -> str:
    """'Scientific name, Common name', or the one that is known."""
    return ', '.join(dict.fromkeys((one.scientific_name, one.common_name)))


def _field(value: Any) -> str:
    """A value in a tab-separated table, which knows no quotes."""
    return re.sub(r'[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+', ' ', str(value))
