"""Reviewed detections: the CSV table that the page of review.py saves.

Columns: `File,Start (s),End (s),Class,Score,Verdict,Other class,Batch`, in any order. The verdict is `right`, `wrong`,
`unsure`, or `other`: another species, whose class id, or name if it is no class, is in `Other class`. Texts that
spreadsheets would take for formulas are written as in `formats`.
"""

import csv
import io
import os
from typing import NamedTuple

from birdsong.files import Problem, open_regular
from birdsong.findings.formats import unguarded

RIGHT, WRONG, UNSURE, OTHER = VERDICTS = ('right', 'wrong', 'unsure', 'other')
COLUMNS = ('File', 'Start (s)', 'End (s)', 'Class', 'Score', 'Verdict', 'Other class', 'Batch')
NEEDED = COLUMNS[:6]
MAX_BYTES = 200 << 20


class Review(NamedTuple):
    """A reviewed detection: start and end in seconds, class id, score, verdict."""

    file: str
    start: float
    end: float
    class_id: str
    score: float
    verdict: str
    other: str = ''
    batch: str = ''


def read(filename: str | os.PathLike) -> list[Review]:
    """The reviews of a table, in its order. Rows without verdict are left out.

    Raises Problem if the file is missing, is not such a table, or for values that are not possible.
    """
    filename = os.fspath(filename)
    try:
        with open_regular(filename) as f:
            content = f.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise Problem(f'{filename}: larger than {MAX_BYTES >> 20} MiB; divide it')
        rows = csv.DictReader(io.StringIO(content.decode('utf-8-sig'), newline=''), strict=True)
        missing = [name for name in NEEDED if name not in (rows.fieldnames or ())]
        if missing:
            raise Problem(
                f'{filename}: no column {missing[0]!r}; expected a table saved by the page of review.py, with the '
                f'columns {",".join(COLUMNS)}'
            )
        return [_review(filename, rows.line_num, row) for row in rows if (row['Verdict'] or '').strip()]
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file') from None
    except UnicodeDecodeError:
        raise Problem(f'{filename}: not UTF-8 text; save it again from the page') from None
    except csv.Error as e:
        raise Problem(f'{filename}: not a CSV table ({e}); save it again from the page') from None


def _review(filename, number, row):
    where = f'{filename}, line {number}'
    values = {}
    for name in ('Start (s)', 'End (s)', 'Score'):
        try:
            values[name] = float(row[name])
        except (TypeError, ValueError):
            raise Problem(f'{where}: {name} is {row[name]!r}, not a number') from None
    start, end, score = values.values()
    if not 0 <= start < end < float('inf'):
        raise Problem(f'{where}: a detection from {start:g} to {end:g} s is not possible')
    if not 0 <= score <= 1:
        raise Problem(f'{where}: the score {score:g} is not between 0 and 1; calibration needs scores that are')
    verdict = row['Verdict'].strip().lower()
    if verdict not in VERDICTS:
        raise Problem(f'{where}: verdict {verdict!r} is none of {", ".join(VERDICTS)}')
    file, class_id = unguarded((row['File'] or '').strip(), './'), unguarded((row['Class'] or '').strip())
    if not file or not class_id:
        raise Problem(f'{where}: no {"class" if file else "file"}')
    other, batch = ((row.get(name) or '').strip() for name in ('Other class', 'Batch'))
    return Review(file, start, end, class_id, score, verdict, unguarded(other), batch)
