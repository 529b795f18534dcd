"""Tables of other programs: CSV and TSV in any encoding and with any delimiter, and Parquet; lists in their fields."""

import ast
import csv
import functools
import io
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator

from birdsong.files import Problem, open_regular
from shared.parquet import read_parquet

DELIMITERS = ',;\t|'
# The delimiter is found from this many characters, and at most this many rows.
SAMPLE, SAMPLE_ROWS = 1 << 16, 200
# Longer fields are not parsed as lists.
MAX_LIST = 100_000
# A list of names in Python syntax that can be divided at its commas.
PLAIN_LIST = re.compile(r"""\[ *'[^'",\\]*'(?: *, *'[^'",\\]*')* *\]""")
# A row after the last one: if it is not read as such, a quotation mark is not closed.
END = '\x03'
# This also limits the field that a quotation mark begins which is never closed.
csv.field_size_limit(1 << 24)


class Table:
    """A table of another program: `.columns`, their names, and iteration over rows, {column: text}.

    Spaces around names and values are removed; missing values are ''. Rows that are empty are skipped. Rows with too
    many or too few fields are noted in `.problems`, (line, problem, what was done), while the table is read: missing
    fields are '', a row with more fields than columns is left out. Raises Problem if the file cannot be read, or is no
    table.
    """

    def __init__(self, filename: str):
        self.filename = filename
        self.problems: list[tuple[int, str, str]] = []
        read = read_parquet if filename.lower().endswith('.parquet') else _read_text
        self.columns, self._rows = read(filename)
        repeated = [name for name, count in Counter(self.columns).items() if name and count > 1]
        if repeated:
            raise Problem(f'{filename}: several columns are named {", ".join(repeated)}; rename or remove all but one')

    def __iter__(self) -> Iterator[dict[str, str]]:
        return (row for _, row in self.numbered())

    def numbered(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, row) of each row; in a Parquet table, the number of the row, starting from 1."""
        self.problems.clear()
        count = len(self.columns)
        for line, fields in self._rows():
            if any(fields[count:]):
                cure = 'left out; put quotes around fields that contain the delimiter'
                self.problems.append((line, 'rows with more fields than columns', cure))
                continue
            if len(fields) < count:
                self.problems.append((line, 'rows with fewer fields than columns', 'the other fields are empty'))
            fields = (fields + [''] * count)[:count]
            yield line, dict(zip(self.columns, fields, strict=True))

    def column(self, *names: str) -> str:
        """The column with the first of these names that the table has, in upper or lower case; '' if it has none."""
        found = {column.casefold(): column for column in reversed(self.columns)}
        return next((found[name.casefold()] for name in names if name.casefold() in found), '')

    def need(self, *columns: str | Iterable[str]) -> None:
        """Raise Problem unless the table has the columns; of a group of names, one is enough."""
        for names in columns:
            names = [names] if isinstance(names, str) else list(names)
            if not set(names) & set(self.columns):
                found = ', '.join(self.columns)
                raise Problem(f'{self.filename}: no column {" or ".join(names)}; its columns are {found}')


def is_table(filename: str) -> bool:
    """Whether the name of a file is that of a table."""
    return os.path.splitext(filename)[1].lower() in ('.csv', '.tsv', '.parquet')


def decode(data: bytes) -> str:
    """Text in UTF-8 or UTF-16; lines that are not UTF-8 are read as Latin-1 (the variant of Windows)."""
    start = data[:1000]
    if start[:2] in (b'\xff\xfe', b'\xfe\xff'):
        return data.decode('utf-16', 'replace')
    for encoding, zeros in ('utf-16-le', start[1::2]), ('utf-16-be', start[::2]):
        if zeros and zeros.count(0) > 0.6 * len(zeros):
            return data.decode(encoding, 'replace')
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError:
        return '\n'.join(map(_decode_line, data.removeprefix(b'\xef\xbb\xbf').split(b'\n')))


def same_value(one: str, other: str) -> bool:
    """Whether two fields are equal as text, or as numbers up to rounding."""
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=0, abs_tol=1e-6)
    except ValueError:
        return False


def list_literal(text: str) -> list[str]:
    """The texts of a list: "['a', 'b']", '["a", "b"]', '[a, b]', 'a;b' or 'a,b'. Empty ones are dropped.

    A text that contains ';' outside brackets is not divided at commas; no item contains ';'. Numbers stay as they are
    written.
    """
    text = text.strip()
    bracketed = text[:1] == '[' and text[-1:] == ']'
    items = _evaluated(text) if bracketed and len(text) <= MAX_LIST and re.search('["\']', text) else None
    if items is None:
        inner = text[1:-1] if bracketed else text
        items = inner.split(',' if bracketed or ';' not in inner else ';')
        items = [item.strip().strip('"\'') for item in items]
    names = [name for item in items if item is not None for name in str(item).split(';')]
    return [name for name in (' '.join(name.split()) for name in names) if name]


def labels_of(text: str) -> list[str]:
    """The labels in a field, separated by ';', or in a list with brackets. A label may contain commas."""
    is_list = text[:1] == '[' and text[-1:] == ']'
    labels = list_literal(text) if is_list else (' '.join(label.split()) for label in text.split(';'))
    return list(dict.fromkeys(filter(None, labels)))


def _evaluated(text):
    """Items of a list in JSON or Python syntax, nested ones flattened; None if it is neither."""
    if PLAIN_LIST.fullmatch(text):
        return text[1:-1].replace("'", '').split(',')
    for parse in functools.partial(json.loads, parse_int=str, parse_float=str), ast.literal_eval:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # about escape sequences
                value = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, list | tuple):
            nested = (item if isinstance(item, list | tuple) else [item] for item in value)
            return [item for items in nested for item in items]
    return None


def _decode_line(line):
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode('cp1252', 'replace')


def _read_text(filename):
    with open_regular(filename) as f:
        text = decode(f.read()).lstrip('\ufeff')
    text = re.sub(r'\Asep=.\r?\n', '', text)  # a line for Excel
    if not text.strip():
        raise Problem(f'{filename}: empty; expected a table with a line of column names')
    if '\0' in text:
        raise Problem(f'{filename}: contains NUL bytes, so it is no text; save it as CSV in UTF-8')
    delimiter = _delimiter(text)
    # Programs that write tabs often use no quotes.
    quoted = delimiter != '\t' or '"' not in text or _quotes_close(text)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    columns = next(_parsed(filename, text, delimiter, quoting), (0, []))[1]

    def rows():
        rows = _parsed(filename, text, delimiter, quoting)
        next(rows, None)
        return rows

    return columns, rows


def _delimiter(text):
    """The delimiter with which the most rows have as many fields as the header, which must have two or more."""
    sample = text[:SAMPLE]
    if len(text) > SAMPLE:
        sample = sample[: sample.rfind('\n') + 1] or sample

    def fit(delimiter):
        counts = []
        try:
            for row in csv.reader(io.StringIO(sample, newline=''), delimiter=delimiter):
                if any(row):
                    counts.append(len(row))
                if len(counts) == SAMPLE_ROWS:
                    break
        except csv.Error:
            pass
        columns = counts[0] if counts else 0
        return columns > 1, columns > 1 and counts.count(columns) / len(counts), columns

    return max(DELIMITERS, key=fit)


def _reader(text, delimiter, quoting=csv.QUOTE_MINIMAL):
    return csv.reader(io.StringIO(f'{text}\n{END}\n', newline=''), delimiter=delimiter, quoting=quoting)


def _quotes_close(text):
    """Whether no quotation mark in a table with tabs is left open."""
    try:
        return list(_reader(text, '\t'))[-1] == [END]
    except csv.Error:
        return False


def _parsed(filename, text, delimiter, quoting):
    """(number of the last line, fields) of each row that is not empty."""
    start, reader = 1, _reader(text, delimiter, quoting)
    try:
        for row in reader:
            if row == [END]:
                return
            if row and row[-1].endswith(f'\n{END}\n'):
                break
            fields = [field.strip() for field in row]
            if any(fields):
                yield reader.line_num, fields
            start = reader.line_num + 1
    except csv.Error as e:
        raise Problem(f'{filename}, line {start}: not a table: {e}') from None
    raise Problem(f'{filename}, line {start}: contains a quotation mark that is not closed; close it, or double it')
