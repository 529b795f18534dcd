"""Collects the XML files of a source folder in xml/recordings.tsv, a table of their original values.

If the table exists, only XML files that are new or have changed are read, and added to it.
"""

import os
from collections.abc import Iterable

from tqdm import tqdm

from shared.tables import REPAIRS, read_repairs, read_table, table, write_if_changed, write_repairs
from shared.xml_fields import FIELDS, MAX_BYTES, parse, records_file

HEADER = ['path', *FIELDS]


def update_xml_table(
    found: Iterable[tuple[str, str]], skipped: Iterable[tuple[str, str, str]], dataset: str | None
) -> tuple[dict[str, dict[str, str]], int]:
    """Read XML files and update xml/recordings.tsv and xml/repairs.tsv of a dataset's folder.

    `found` are (key, path) of XML files, `skipped` (path in the source, problem, what was done) of unused ones. Without
    a dataset, everything is read and nothing written. Returns (key -> dict of FIELDS, with those of earlier runs;
    number of files that were read).
    """
    filename = records_file(dataset) if dataset else ''
    repairs_file = os.path.join(os.path.dirname(filename), REPAIRS)
    known, since = _known_rows(filename)
    known_repairs = read_repairs(repairs_file) if dataset else {}
    rows, repairs, read = dict(known), dict(known_repairs), 0
    for key, path in tqdm(found, desc='XML', disable=None):
        if (key in known or key in known_repairs) and os.stat(path).st_ctime < since:
            continue
        read += 1
        rows.pop(key, None)
        repairs.pop(key, None)
        fields, problems = _read_xml(path)
        if problems:
            repairs[key] = '; '.join(problems), 'as if without XML' if fields is None else 'fields kept'
        if fields is not None:
            rows[key] = [key] + [fields[name] for name in FIELDS]
    if dataset:
        # an unchanged table keeps its date, which the next run compares with the XML files
        write_if_changed(filename, table([HEADER, *sorted(rows.values())]))
        write_repairs(repairs_file, repairs, skipped)
    return {key: dict(zip(FIELDS, values, strict=True)) for key, (_, *values) in rows.items()}, read


def _known_rows(filename):
    """(rows of an earlier table by key, its modification time); no rows if it has other columns."""
    if not os.path.exists(filename):
        return {}, 0
    rows = read_table(filename)
    known = {row[0]: row for row in rows[1:] if len(row) == len(HEADER)} if rows[:1] == [HEADER] else {}
    return known, os.stat(filename).st_mtime


def _read_xml(path):
    """Fields and problems of an XML file, as `parse` returns them."""
    try:
        with open(path, 'rb') as f:
            return parse(f.read(MAX_BYTES + 1))
    except OSError as e:
        return None, [e.strerror]
