"""Tables of a report: shown on the page, sorted there, and downloaded as CSV."""

import base64
import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

from birdsong.findings.formats import guarded


class Column(NamedTuple):
    """A column: its title; with `digits`, numbers with that many decimals; `note` explains it."""

    title: str
    digits: int | None = None
    note: str = ''


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


def cell(value: str | float | None | Cell, column: Column) -> Cell:
    """What to show of a value: its text, and the value to sort by."""
    one = value if isinstance(value, Cell) else Cell(value)
    number = one.value
    if number is None or isinstance(number, float) and math.isnan(number):
        return Cell('', '' if one.text is None else one.text, one.link)
    if one.text is not None:
        return one
    if isinstance(number, str):
        return one._replace(text=number)
    return one._replace(text=f'{number:,.{column.digits or 0}f}'.replace(',', '\u202f'))


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
