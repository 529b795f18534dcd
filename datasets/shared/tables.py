"""Tab-separated tables of a dataset, among them repairs.tsv: what was wrong with a recording, and what was done."""

import os
import re
from collections.abc import Iterable

from birdsong.files import Problem, open_regular, read_lines, writing

REPAIRS = 'repairs.tsv'
# Begin of the last column in a table of repairs for files of the source that were not used.
SKIPPED = 'left out; '


def write_if_changed(filename: str, text: str) -> bool:
    """Write a text file atomically, unless it already has this content. Returns whether it was written."""
    os.makedirs(os.path.dirname(filename), exist_ok=True)
    try:
        with open_regular(filename, 'r', encoding='utf-8', newline='') as f:
            if f.read() == text:
                return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    with writing(filename, 'w', encoding='utf-8', newline='') as f:
        f.write(text)
    return True


def table(rows: Iterable[Iterable]) -> str:
    """Text of a table from rows of fields; tabs and line breaks in fields become spaces."""
    return ''.join('\t'.join(map(_one_line, row)) + '\n' for row in rows)


def _one_line(field):
    text = str(field)
    return text if text.isprintable() else re.sub(r'[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+', ' ', text)


def read_table(filename: str, columns: int = 0) -> list[list[str]]:
    """Rows of a table. Raises Problem if it is missing, or if a row does not have `columns` fields (0: any)."""
    rows = [line.split('\t') for line in read_lines(filename)]
    for number, row in enumerate(rows, 1):
        if columns and len(row) != columns:
            raise Problem(f'{filename}, line {number}: {len(row)} fields instead of {columns}; create the file again')
    return rows


def read_repairs(filename: str) -> dict[str, tuple[str, str]]:
    """Table of repairs as dict of path -> (problem, what was done), {} without a file.

    An unfinished line, which a conversion that was killed may leave, is ignored.
    """
    if not os.path.exists(filename):
        return {}
    with open_regular(filename, 'r', encoding='utf-8', errors='replace') as f:
        rows = (line.rstrip('\n').split('\t') for line in f if line.endswith('\n'))
        return {path: (problem, done) for path, problem, done in (row for row in rows if len(row) == 3)}


def write_repairs(
    filename: str, repairs: dict[str, tuple[str, str]], skipped: Iterable[tuple[str, str, str]] = ()
) -> dict[str, tuple[str, str]]:
    """Write a table of repairs, sorted, if it has changed, and return its content.

    `skipped` are (path in the source, problem, what was done) of all files of the source that were not used. They
    replace those of earlier runs, since files may have been renamed.
    """
    result = {path: repair for path, repair in repairs.items() if not repair[1].startswith(SKIPPED)}
    for path, problem, done in skipped:
        result.setdefault(path, (problem, done))
    if result or os.path.exists(filename):
        write_if_changed(filename, table((path, *repair) for path, repair in sorted(result.items())))
    return result
