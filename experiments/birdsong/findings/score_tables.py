"""Scores and detections in the tables of other programs: BirdNET-Analyzer, Raven, Perch, OpenSoundscape, Kaggle.

A table is CSV, with any of the delimiters , ; | and tab, or Parquet if its name ends so. It has a row per detection, or
a row per time and a column per class. Columns are found by their names, see ROLES, in upper or lower case; spaces and
punctuation do not matter. A detection without times is one of the whole recording.
"""

import codecs
import contextlib
import csv
import itertools
import math
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from birdsong.files import Problem, open_regular
from birdsong.findings.formats import BATCH, pyarrow_for, unguarded

# Usual names of columns, the most specific first. In Raven tables of several recordings, `Begin Time (s)` counts from
# the start of the first one, and `File Offset (s)` from the start of the recording.
ROLES = {
    'file': ('Begin Path', 'File', 'Filename', 'File path', 'Path', 'Begin File', 'Recording', 'Audio', 'Soundscape'),
    'start': ('Start (s)', 'Begin Time (s)', 'Start', 'Start time', 'Start s', 'Begin', 'Begin time', 'Timestamp s'),
    'end': ('End (s)', 'End Time (s)', 'End', 'End time', 'End s', 'Stop', 'Stop time'),
    'class': (
        'Class',
        'Species code',
        'eBird code',
        'Scientific name',
        'Common name',
        'Species',
        'Label',
        'Class name',
    ),
    'score': ('Confidence', 'Score', 'Probability', 'Logit', 'Logits', 'Prob', 'Prediction'),
    'offset': ('File Offset (s)',),
    'row_id': ('row_id',),  # of Kaggle's matrix: the file name without suffix, _, and the end of the window in seconds
}
# The roles whose columns users can name.
NAMED = ('file', 'start', 'end', 'class', 'score')
DELIMITERS = ',;\t|'
# Length of Kaggle's windows in seconds.
ROW_ID_SECONDS = 5.0
# What programs append to the name of a recording to name its table.
TABLE_SUFFIX = re.compile(r'(\.BirdNET)?(\.results|\.selection\.table|\.selections?)?\.\w+$', re.I)


class Score(NamedTuple):
    """A score of a class, given by its names, in a file from `start` to `end` seconds."""

    line: int
    file: str
    start: float
    end: float
    names: tuple[str, ...]
    score: float


def read(filename: str, columns: dict[str, str], seconds: float | None = None) -> Iterator[Score]:
    """The scores in a table, in its order.

    `columns`: names of columns that are not found by themselves, {role: name}. `seconds`: duration of the windows in a
    table without ends. Raises Problem for a table that cannot be read, or without the columns needed, and for values
    that are not possible.
    """
    rows = _parquet(filename) if filename.lower().endswith('.parquet') else _text(filename)
    _, header = next(rows, (0, []))
    found = _find_columns(filename, header, columns)
    if 'start' in found and 'end' not in found and seconds is None:
        raise Problem(f'{filename}: {_none("end", header)}, or give the duration of its windows with --seconds')
    wide = _class_columns(filename, header, found)
    for number, fields in rows:
        if len(fields) > len(header):
            raise Problem(f'{filename}, line {number}: more fields than columns; quote fields that contain a delimiter')
        fields += [''] * (len(header) - len(fields))
        try:
            file, start, end = _place(filename, fields, found, seconds)
            if wide:
                scores = [((header[i],), _number(fields[i], 'score')) for i in wide if fields[i]]
            else:
                names = tuple(filter(None, (unguarded(fields[i]) for i in found['class'])))
                scores = [(names, _number(fields[found['score'][0]], 'score'))]
        except ValueError as e:
            raise Problem(f'{filename}, line {number}: {e}') from None
        yield from (Score(number, file, start, end, *one) for one in scores)


def _find_columns(filename, header, chosen):
    """{role: [indices of its columns]}. Only a class has several: all its names."""
    places, result = {}, {}
    for i, name in enumerate(header):
        places.setdefault(_plain(name), i)
    for role, names in ROLES.items():
        found = [places[_plain(name)] for name in names if _plain(name) in places]
        if role in chosen:
            if chosen[role] not in header:
                raise Problem(f'{filename}: no column {chosen[role]!r}; its columns are {", ".join(header)}')
            found = [header.index(chosen[role])]
        if found:
            result[role] = found if role == 'class' else found[:1]
    return result


def _class_columns(filename, header, found):
    """The columns that are classes, in a table with a row per time; [] if there is a row per detection."""
    if 'class' in found and 'score' in found:
        return []
    if 'class' in found or 'score' in found:
        raise Problem(f'{filename}: {_none("class" if "score" in found else "score", header)}')
    known = {i for indices in found.values() for i in indices}
    classes = [i for i in range(len(header)) if i not in known]
    if not classes or 'file' not in found and 'row_id' not in found:
        raise Problem(
            f'{filename}: neither a table of detections nor one with a column per class: {_none("score", header)}'
        )
    return classes


def _none(role, header):
    return (
        f'no column for the {role}, such as {ROLES[role][0]!r}; its columns are {", ".join(header) or "missing"}; '
        f'name one with --column {role}=NAME'
    )


def _plain(name):
    """'Start (s)' -> 'starts', 'start_s' -> 'starts'"""
    return re.sub(r'[\W_]+', '', name.casefold())


def _place(filename, fields, found, seconds):
    """File, start and end of a row. Raises ValueError if they are not possible."""
    first = {role: fields[indices[0]] for role, indices in found.items()}
    start, end = 0.0, math.inf
    if 'row_id' in found and 'file' not in found:
        file, _, text = first['row_id'].rpartition('_')
        end = _number(text, 'end in row_id')
        start = max(0.0, end - (seconds or ROW_ID_SECONDS))
    else:
        # Tables without a column of files are about the recording that they are named after.
        file = first['file'] if 'file' in found else TABLE_SUFFIX.sub('', os.path.basename(filename))
        if 'start' in found:
            start = _number(first['start'], 'start')
            end = _number(first['end'], 'end') if 'end' in found else start + seconds
            if first.get('offset'):
                offset = _number(first['offset'], 'file offset')
                start, end = offset, offset + end - start
    if not file:
        raise ValueError('no file')
    if not 0 <= start < end:
        raise ValueError(f'a detection from {start:g} to {end:g} s is not possible')
    return file, start, end


def _number(text, what):
    with contextlib.suppress(ValueError):
        value = float(text.replace(',', '.'))
        if math.isfinite(value):
            return value
    raise ValueError(f'the {what} is {text!r}, not a number')


# == Rows ==


def _text(filename):
    """Yield (line number, fields) of each row that is not empty, the first one with the names of columns."""
    try:
        encoding = _encoding(filename)
        with open_regular(filename, 'r', encoding=encoding, errors='replace', newline='') as f:
            first = f.readline()
            if first.startswith('sep='):  # a line for Excel
                first = f.readline()
            delimiter = max(DELIMITERS, key=first.count)
            # Programs that write tabs use no quotes, except R, which puts them around all names.
            plain = delimiter == '\t' and '"' not in first
            lines = itertools.chain([first], f)
            reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)
            try:
                for row in reader:
                    fields = [field.strip() for field in row]
                    if any(fields):
                        yield reader.line_num, fields
            except csv.Error as e:
                raise Problem(f'{filename}, line {reader.line_num}: not a table: {e}') from None
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None


def _encoding(filename):
    """UTF-16 with a byte order mark, else UTF-8, else Latin-1 (the variant of Windows)."""
    with open_regular(filename) as f:
        if f.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return 'utf-16'
    try:
        with open_regular(filename, 'r', encoding='utf-8-sig') as f:
            while f.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return 'cp1252'
    return 'utf-8-sig'


def _parquet(filename):
    """As `_text`, for a Parquet table; instead of lines, its rows are numbered."""
    arrow, parquet = pyarrow_for(filename)
    try:
        with open_regular(filename) as f:
            table = parquet.ParquetFile(f)
            yield 0, list(table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(BATCH):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield number, ['' if value is None else str(value).strip() for value in row]
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except arrow.ArrowException as e:
        raise Problem(f'{filename}: not a Parquet table ({e})') from None
