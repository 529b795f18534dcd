"""Tables of other programs: CSV and TSV in any encoding and with any delimiter, and Parquet."""

import csv
import io
import os
from collections.abc import Iterable, Iterator

from birdsong.files import Problem, open_regular

DELIMITERS = ',;\t|'
csv.field_size_limit(1 << 24)


class Table:
    """A table of another program: `.columns`, their names, and iteration over rows, {column: text}.

    Spaces around names and values are removed; missing values are ''. Rows that are empty are skipped. Raises Problem
    if the file cannot be read, or is no table.
    """

    def __init__(self, filename: str):
        self.filename = filename
        read = _read_parquet if filename.lower().endswith('.parquet') else _read_text
        self.columns, self._rows = read(filename)

    def __iter__(self) -> Iterator[dict[str, str]]:
        for row in self._rows:
            yield dict(zip(self.columns, (*row, *[''] * (len(self.columns) - len(row))), strict=False))

    def need(self, *columns: str | Iterable[str]) -> None:
        """Raise Problem unless the table has the columns; of a group of names, one is enough."""
        for names in columns:
            names = [names] if isinstance(names, str) else list(names)
            if not set(names) & set(self.columns):
                found = ', '.join(self.columns)
                raise Problem(f'{self.filename}: no column {" or ".join(names)}; its columns are {found}')


def decode(data: bytes) -> str:
    """Text in UTF-8 or UTF-16 (with byte order mark), otherwise Latin-1 (the variant of Windows)."""
    if data[:2] in (b'\xff\xfe', b'\xfe\xff'):
        return data.decode('utf-16', 'replace')
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError:
        return data.decode('cp1252', 'replace')


def _read_text(filename):
    with open_regular(filename) as f:
        text = decode(f.read()).lstrip('\ufeff')
    if not text.strip():
        raise Problem(f'{filename}: empty; expected a table with a line of column names')
    delimiter = max(DELIMITERS, key=text.lstrip().partition('\n')[0].count)
    try:
        rows = [
            [field.strip() for field in row] for row in csv.reader(io.StringIO(text, newline=''), delimiter=delimiter)
        ]
    except csv.Error as e:
        raise Problem(f'{filename}: not a table: {e}') from None
    rows = [row for row in rows if any(row)]
    return rows[0], rows[1:]


def _read_parquet(filename):
    try:
        import pyarrow.parquet
    except ImportError:
        raise Problem(f'{filename}: reading Parquet needs pyarrow; type: pip install pyarrow') from None
    try:
        content = pyarrow.parquet.read_table(filename)
    except (OSError, pyarrow.ArrowException) as e:
        raise Problem(f'{filename}: not a Parquet table: {str(e).splitlines()[0]}') from None
    columns = content.column_names
    rows = zip(*(content.column(name).to_pylist() for name in columns), strict=True)
    return columns, (['' if value is None else str(value).strip() for value in row] for row in rows)


def is_table(filename: str) -> bool:
    """Whether the name of a file is that of a table."""
    return os.path.splitext(filename)[1].lower() in ('.csv', '.tsv', '.parquet')
