"""Annotations of times: selection tables of Raven and label tracks of Audacity."""

import re
from typing import NamedTuple

from birdsong.files import Problem, open_regular
from shared.delimited import Table, decode
from shared.intervals import seconds
from shared.report import Report

START, END, OFFSET = 'Begin Time (s)', 'End Time (s)', 'File Offset (s)'
LABELS = (
    'Species',
    'Species Code',
    'Class',
    'Label',
    'Annotation',
    'Annotations',
    'Common Name',
    'Scientific Name',
    'Tag',
)
# The kind of a file is found from this many bytes.
HEAD = 1 << 13
EMPTY, SELECTIONS, LABEL_TRACK = 'empty', 'a selection table', 'a label track'


class Selection(NamedTuple):
    """An annotation: from `start` to `end` seconds, which are not checked, there is `label`.

    `file` is the recording that a table of several recordings names, else ''; `offset` the start within it, None if the
    table does not say it. `names` are the scientific and the common name of the label, '' if unknown.
    """

    line: int
    start: float
    end: float
    label: str
    file: str = ''
    offset: float | None = None
    names: tuple[str, str] = ('', '')


def kind_of(filename: str) -> str:
    """Whether a file is EMPTY, SELECTIONS or a LABEL_TRACK; '' if it is something else."""
    with open_regular(filename) as f:
        text = decode(f.read(HEAD))
    lines = [line for line in _lines(text) if line.strip() and not line.startswith('\\')]
    if not lines:
        return EMPTY
    header = lines[0].lower()
    if START.lower() in header and END.lower() in header:
        return SELECTIONS
    return LABEL_TRACK if any(map(_times, lines[:20])) else ''


def read_selections(filename: str, name: str, report: Report) -> tuple[list[Selection], bool]:
    """(rows of a selection table, whether these are all). `name` is its name in `report`, which gets malformed rows.

    Raises Problem if it is no table, or if it has no column with labels.
    """
    table = Table(filename)
    columns = [table.column(column) for column in (START, END, OFFSET)]
    label = table.column(*LABELS)
    file = table.column('Begin Path', 'Begin File')
    names = [table.column('Scientific Name'), table.column('Common Name')]
    if not label or not all(columns[:2]):
        needed = f'{START}, {END} and one with classes ({", ".join(LABELS)})'
        raise Problem(f'{filename}: needs the columns {needed}; it has {", ".join(table.columns)}')
    result, is_complete = [], True
    for line, row in table.numbered():
        try:
            start, end = (seconds(row[column]) for column in columns[:2])
            offset = seconds(row[columns[2]]) if columns[2] and row[columns[2]] else None
        except ValueError as e:
            report.add('malformed annotations', 'left out', f'{name}, line {line} ({e})')
            is_complete = False
            continue
        known = tuple(row[column] if column else '' for column in names)
        path = row[file] if file else ''
        result.append(Selection(line, start, end, ' '.join(row[label].split()), path, offset, known))
    report.add_table_problems(name, table.problems)
    return result, is_complete


def read_label_track(filename: str, name: str, report: Report) -> tuple[list[Selection], bool]:
    """(labels of a label track, whether these are all). `name` is its name in `report`, which gets malformed lines."""
    with open_regular(filename) as f:
        text = decode(f.read()).lstrip('\ufeff')
    result, is_complete = [], True
    for number, line in enumerate(_lines(text), 1):
        if not line.strip() or line.startswith('\\'):
            continue  # lines with a backslash have the frequencies of the label before
        times = _times(line)
        if times is None:
            where = f'{name}, line {number} (expected start TAB end TAB label)'
            report.add('malformed annotations', 'left out', where)
            is_complete = False
        else:
            label = line.strip('\r\n').split('\t', 2)[2:]
            result.append(Selection(number, *times, ' '.join(''.join(label).split())))
    return result, is_complete


def _lines(text):
    return re.split(r'\r\n|\r|\n', text)


def _times(line):
    """(start, end) of a line of a label track, or None if it is no such line."""
    try:
        start, end, *_ = line.split('\t')
        return seconds(start), seconds(end)
    except ValueError:
        return None
