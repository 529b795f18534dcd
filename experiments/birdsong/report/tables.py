"""Tables of a report: shown on the page, sorted there, and downloaded as CSV."""

import base64
import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from birdsong.findings.formats import guarded


class Column(NamedTuple):
    """A column: its title; with `digits`, numbers with that many decimals; `note` explains it.

    A hidden column is only in the CSV file.
    """

    title: str
    digits: int | None = None
    note: str = ''
    hidden: bool = False


class Cell(NamedTuple):
    """A cell that shows something else than its value, or that is a link to a part of the page."""

    value: str | float | None
    text: str | None = None
    link: str = ''


class Table(NamedTuple):
    """A table with a caption. `name` is its id and the name of its CSV file; missing values are None or NaN."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | float | None | Cell]]


def shown(table: Table) -> list[list[tuple[Column, Cell]]]:
    """The cells of each row with their columns, without those that are hidden."""
    return [
        [(column, _cell(value, column)) for column, value in zip(table.columns, row, strict=True) if not column.hidden]
        for row in table.rows
    ]


def _cell(value, column):
    """What to show of a value: its text, and the value to sort by, which is empty if there is none."""
    one = value if isinstance(value, Cell) else Cell(value)
    if one.value is None or one.value != one.value:
        return Cell('', one.text or '', one.link)
    if one.text is not None:
        return one
    if isinstance(one.value, str):
        return one._replace(text=one.value)
    return one._replace(text=number(one.value, column.digits or 0))


def number(value: float, digits: int) -> str:
    """'-1234.5' -> '−1 234.5'; no minus if only zeros are left."""
    text = f'{abs(value):,.{digits}f}'.replace(',', '\u202f')
    return f'−{text}' if value < 0 and text.strip('0.') else text


def without_empty_columns(table: Table) -> Table:
    """The table without columns that have no value in any row."""
    values = [[each.value if isinstance(each, Cell) else each for each in row] for row in table.rows]
    kept = [
        i for i in range(len(table.columns)) if any(row[i] not in (None, '') and row[i] == row[i] for row in values)
    ]
    rows = [[row[i] for i in kept] for row in table.rows]
    return table._replace(columns=[table.columns[i] for i in kept], rows=rows)


def is_number(column: Column) -> bool:
    """Whether the column has numbers, which are aligned to the right."""
    return column.digits is not None


def as_csv(table: Table) -> str:
    """The table as CSV: values, not the texts that are shown."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([column.title for column in table.columns])
    for row in table.rows:
        values = (each.value if isinstance(each, Cell) else each for each in row)
        writer.writerow(['' if v is None or v != v else guarded(v) if isinstance(v, str) else v for v in values])
    return buffer.getvalue()


def as_link(table: Table) -> str:
    """A data: URL of the CSV file, which works without JavaScript."""
    # the byte order mark tells spreadsheets that it is UTF-8
    return f'data:text/csv;charset=utf-8;base64,{base64.b64encode(as_csv(table).encode("utf-8-sig")).decode()}'
