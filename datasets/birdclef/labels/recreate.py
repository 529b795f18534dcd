#!/usr/bin/env python3
"""Create the labels and metadata of a dataset from the fields of its XML files.

Reads datasets/NAME/xml/recordings.tsv (written by xml/collect.py) and writes into datasets/NAME/labels/: labelset,
labelset_latin, labelset_2014, _2015, _2017, fg.tsv, bg.tsv, meta.tsv, and repairs.tsv: each date, time, place or
elevation that was repaired or dropped. XML names foreground species by class id and background species by Latin name;
a class gets the name with which it occurs most often in the training recordings.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import collections
from collections.abc import Iterable

from birdsong.files import Problem
from shared.dataset import dataset_folder, year_of
from shared.metadata_values import metadata
from shared.tables import REPAIRS, table, write_if_changed
from shared.xml_fields import read_records

# Editions of the challenge -> years of their training recordings.
EDITIONS = {'2014': ('2014',), '2015': ('2014', '2015'), '2017': ('2017',)}


def latin_name(fields: dict[str, str]) -> str:
    """Genus, space, species; '' unless both are known."""
    known = fields['Genus'] and fields['Species']
    return ' '.join(f'{fields["Genus"]} {fields["Species"]}'.split()) if known else ''


def match_names(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Match Latin names with class ids, given pairs (class id, name): the most frequent one wins.

    Returns (dict class id -> name, dict name -> class id, a line for each inconsistency). If several are equally
    frequent, the first in alphabetical order is taken.
    """
    counts = collections.Counter(pair for pair in pairs if pair[1])
    lines, results = [], []
    for here, there in (0, 1), (1, 0):
        partners = collections.defaultdict(list)
        for pair, count in counts.items():
            partners[pair[here]].append((-count, pair[there]))
        results.append({one: min(others)[1] for one, others in sorted(partners.items())})
        for one, others in sorted(partners.items()):
            if len(others) > 1:
                listed = ', '.join(f'{other} ({-count}x)' for count, other in sorted(others))
                lines.append(f'{one} goes with {listed}; the first counts')
    return *results, lines


def recreate(records: dict[str, dict[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Content of the files of labels/ from the XML fields of all recordings (key -> fields).

    Returns (dict of file name -> text, a line for each inconsistency). Raises Problem if there are no classes.
    """
    train = {key: fields for key, fields in sorted(records.items()) if key.startswith('train/') and fields['ClassId']}
    if not train:
        raise Problem(
            'no training recording has XML with a ClassId; is the source complete, with the .xml beside the .wav?'
        )
    names, classes, inconsistencies = match_names((fields['ClassId'], latin_name(fields)) for fields in train.values())
    labelset = sorted({fields['ClassId'] for fields in train.values()})
    result = {
        'labelset': ''.join(f'{class_id}\n' for class_id in labelset),
        'labelset_latin': ''.join(f'{names.get(class_id, class_id)}\n' for class_id in labelset),
    }
    for edition, years in EDITIONS.items():
        members = {fields['ClassId'] for key, fields in train.items() if year_of(os.path.basename(key)) in years}
        result[f'labelset_{edition}'] = ''.join(f'{class_id}\n' for class_id in sorted(members))
    index = {class_id: i for i, class_id in enumerate(labelset)}
    result['fg.tsv'] = table((key, index[fields['ClassId']]) for key, fields in train.items())
    result['bg.tsv'] = table((key, background(fields, classes, index)) for key, fields in train.items())
    meta, repairs = [], []
    for key, fields in sorted(records.items()):
        values, problems = metadata(fields)
        meta.append((key, *values))
        repairs += [(key, *problem) for problem in problems]
        if key.startswith('train/') and not fields['ClassId']:
            repairs.append((key, 'no ClassId', 'left out'))
    result['meta.tsv'], result[REPAIRS] = table(meta), table(repairs)
    return result, inconsistencies


def background(fields: dict[str, str], classes: dict[str, str], index: dict[str, int]) -> str:
    """Comma-separated class indices of a recording's background species; names without a class are dropped."""
    names = [' '.join(name.split()) for name in fields['BackgroundSpecies'].split(',')]
    return ','.join(dict.fromkeys(str(index[classes[name]]) for name in names if name in classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    args = parser.parse_args()
    dataset = dataset_folder(args.dataset)
    folder = os.path.join(dataset, 'labels')
    result, inconsistencies = recreate(read_records(dataset))
    changed = sum([write_if_changed(os.path.join(folder, name), text) for name, text in result.items()])
    for line in inconsistencies:
        print(f'- {line}')
    classes, train, known = (result[name].count('\n') for name in ('labelset', 'fg.tsv', 'meta.tsv'))
    repairs = result[REPAIRS].splitlines()
    dropped = sum(line.endswith('\tdropped') for line in repairs)
    repaired = sum(not line.endswith(('\tdropped', '\tleft out')) for line in repairs)
    print(
        f'{folder}: {classes} classes, {train} training recordings, {known} with metadata '
        f'({repaired} values repaired, {dropped} dropped); {f"{changed} files written" if changed else "nothing new"}'
    )


if __name__ == '__main__':
    program.run(main)
