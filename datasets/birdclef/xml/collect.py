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

from layouts.birdclef2018 import UNCERTAIN, find_xml
from shared.dataset import dataset_folder
from shared.xml_fields import records_file
from shared.xml_table import update_xml_table


def collect(source: str, dataset: str) -> str:
    """Update the tables of a dataset from a source folder -> line that summarises the result."""
    found, skipped, uncertain = find_xml(source)
    rows, read = update_xml_table(found, skipped, dataset)
    line = f'{records_file(dataset)}: {len(rows)} recordings have XML ({read} files read now)'
    return line + (f'; {uncertain} {UNCERTAIN}' if uncertain else '')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SOURCE', help='folder that the archives were extracted into')
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    args = parser.parse_args()
    print(collect(args.source, dataset_folder(args.dataset)))


if __name__ == '__main__':
    program.run(main)
