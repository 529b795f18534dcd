#!/usr/bin/env python3
"""Collect the fields of the XML files of a source folder in one table.

Writes datasets/NAME/xml/recordings.tsv: a line of column names, then one line per recording that has XML, with the
original values (labels/recreate.py corrects them); and xml/repairs.tsv: problems of XML files, and what was done.
If run again, it reads only files that are new or have changed, and adds them to the table.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse

from tqdm import tqdm

from layouts.birdclef2018 import find_xml
from shared.dataset import dataset_folder
from shared.tables import REPAIRS, read_repairs, read_table, table, write_if_changed, write_repairs
from shared.xml_fields import FIELDS, MAX_BYTES, parse, records_file

HEADER = ['path', *FIELDS]


def known_rows(filename: str) -> tuple[dict[str, list[str]], float]:
    """Rows of an earlier table by key, and its modification time; no rows if it has other columns."""
    if not os.path.exists(filename):
        return {}, 0
    rows = read_table(filename)
    known = {row[0]: row for row in rows[1:] if len(row) == len(HEADER)} if rows[:1] == [HEADER] else {}
    return known, os.stat(filename).st_mtime


def read_xml(path: str) -> tuple[dict[str, str] | None, list[str]]:
    """Fields and problems of an XML file, as `parse` returns them."""
    try:
        with open(path, 'rb') as f:
            return parse(f.read(MAX_BYTES + 1))
    except OSError as e:
        return None, [e.strerror]


def collect(source: str, dataset: str) -> str:
    """Update the tables of a dataset from a source folder -> line that summarises the result."""
    found, skipped, uncertain = find_xml(source)
    filename = records_file(dataset)
    repairs_file = os.path.join(os.path.dirname(filename), REPAIRS)
    known, since = known_rows(filename)
    known_repairs = read_repairs(repairs_file)
    rows, repairs, read = dict(known), dict(known_repairs), 0
    for key, path in tqdm(found, desc='XML', disable=None):
        if (key in known or key in known_repairs) and os.stat(path).st_ctime < since:
            continue
        read += 1
        rows.pop(key, None)
        repairs.pop(key, None)
        fields, problems = read_xml(path)
        if problems:
            repairs[key] = '; '.join(problems), 'as if without XML' if fields is None else 'fields kept'
        if fields is not None:
            rows[key] = [key] + [fields[name] for name in FIELDS]
    # an unchanged table keeps its date, which the next run compares with the XML files
    write_if_changed(filename, table([HEADER, *sorted(rows.values())]))
    write_repairs(repairs_file, repairs, skipped)
    line = f'{filename}: {len(rows)} recordings have XML ({read} files read now)'
    if uncertain:
        line += f'; {uncertain} XML files are not next to a recording, but several recordings have their file name: '
        line += 'each was assigned to the first of them'
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SOURCE', help='folder that the archives were extracted into')
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    args = parser.parse_args()
    print(collect(args.source, dataset_folder(args.dataset)))


if __name__ == '__main__':
    program.run(main)
