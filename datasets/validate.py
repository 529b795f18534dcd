#!/usr/bin/env python3
"""Check a dataset against the contract in datasets/README.md.

Prints its contents: recordings, hours, classes, groups, metadata. If something is wrong, prints the first fault of each
kind and what to do, and exits with status 1. The headers of the recordings are kept in datasets/NAME/index.npz, which
training uses. --quick trusts the headers in that file; without it, all recordings are checked again.

--for is the purpose that the dataset must be complete for. Everything else that exists is checked, too.

  train     (default) audio/, filelists/train, filelists/valid, labels/labelset, labels/fg.tsv
  predict   audio/ and a file list
  evaluate  a file list and labels: labels/labelset, labels/fg.tsv
  metadata  as train, with labels/meta.tsv instead of audio/

A dataset that was prepared with --no-audio needs labels/meta.tsv instead of audio/ for training and prediction.

--repair-times corrects wrong times of day in a labels/meta.tsv of 2018, such as 24:10:00 for "12:10pm" and 700:00:00
for "0700", and removes invalid ones. The old file is kept as meta.tsv.old.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import collections
import re
import shutil
from collections.abc import Iterable

import numpy as np

from birdsong.data import index
from birdsong.files import Problem, read_lines, writing
from shared.dataset import dataset_folder
from shared.dataset_vars import sample_rate
from shared.description import Content, Lists, Rows, describe
from shared.folds import base_of
from shared.metadata_values import VALID_TIME, repair_time_of_2018
from shared.options import stored
from shared.recordings import PARTS, WITHOUT_LABEL

AGAIN = 'run prepare_birdclef.sh again, or correct the file'
# The lists that are required for a purpose unless others are given, and whether labels, recordings and metadata are.
Purpose = collections.namedtuple('Purpose', 'lists labels audio metadata')
PURPOSES = {
    'train': Purpose(('train', 'valid'), True, True, False),
    'predict': Purpose((), False, True, False),
    'evaluate': Purpose(('valid',), True, False, False),
    'metadata': Purpose(('train', 'valid'), True, False, True),
}
LABELS = ('labels/labelset', 'labels/fg.tsv')
# Files and folders that may be links to those of another dataset or on another disk.
LINKS = ('audio', 'labels', 'filelists', 'recordings.tsv', 'dataset.vars')
META = (
    ('date', r'[0-9]{4}-[0-9]{2}-[0-9]{2}'),
    ('time', VALID_TIME),
    ('latitude', r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-?[0-9]+)?'),
    ('longitude', r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-?[0-9]+)?'),
    ('elevation', r'-?[0-9]+(-[0-9]+)*'),
)
SECONDS = r'[0-9]{1,9}(\.[0-9]{1,12})?'
# An empty field means unknown.
META_ROW = re.compile('\t'.join(f'(?:{pattern})?' for _, pattern in META))


class Faults:
    """Collects faults: the first of each kind is shown, the others are counted."""

    def __init__(self):
        self.first, self.counts = {}, collections.Counter()

    def add(self, kind: str, text: str, number: int = 1) -> None:
        self.first.setdefault(kind, text)
        self.counts[kind] += number

    def lines(self) -> list[str]:
        more = {kind: f' (and {n - 1} more of this kind)' if n > 1 else '' for kind, n in self.counts.items()}
        return [text + more[kind] for kind, text in self.first.items()]


def is_without_audio(folder: str) -> bool:
    """Whether a dataset's folder was prepared with --no-audio, or is a fold of such a dataset."""
    no_audio = stored(base_of(folder) or folder, 'collect').get('no_audio')
    return bool(no_audio) and not os.path.lexists(os.path.join(folder, 'audio'))


def read_keyed(folder: str, name: str, columns: int, faults: Faults) -> Rows:
    """A table, such as labels/fg.tsv, as dict of path -> rest of the line. Rows with faults are added to `faults`."""
    result = {}
    for number, line in enumerate(read_lines(os.path.join(folder, name)), 1):
        key, tab, rest = line.partition('\t')
        if not tab or rest.count('\t') != columns - 2:
            text = f'{name}, line {number}: expected {columns} fields, separated by tabs; {AGAIN}'
            faults.add(f'shape {name}', text)
        elif key in result:
            faults.add(f'twice {name}', f'{name}, line {number}: {key} has a row already; delete one')
        else:
            result[key] = rest
    return result


def check_labelset(folder: str, faults: Faults) -> list[str]:
    """Class ids of labels/labelset. Faults there, in the names and in labelset_YEAR are added to `faults`."""
    labels = os.path.join(folder, 'labels')
    labelset = read_lines(os.path.join(labels, 'labelset'))
    if not labelset:
        faults.add('labelset', f'labels/labelset: no classes; {AGAIN}')
        return labelset
    twice = [class_id for class_id, number in collections.Counter(labelset).items() if number > 1]
    if twice:
        text = f'labels/labelset: {twice[0]!r} is there twice; each class id must be unique; {AGAIN}'
        faults.add('labelset', text, len(twice))
    for class_id in labelset:
        if not class_id.strip() or re.search(r'[\t;,]', class_id):
            text = f'labels/labelset: {class_id!r} cannot be a class id in tables and submissions; rename the class'
            faults.add('class id', text)
    for name in 'labelset_latin', 'labelset_common':
        names = read_lines(os.path.join(labels, name)) if os.path.exists(os.path.join(labels, name)) else labelset
        if len(names) != len(labelset):
            faults.add(name, f'labels/{name}: {len(names)} names for {len(labelset)} classes; {AGAIN}')
    for name in sorted(os.listdir(labels)):
        if re.fullmatch(r'labelset_\d{4}', name):
            for class_id in sorted(set(read_lines(os.path.join(labels, name))) - set(labelset)):
                faults.add('edition', f'labels/{name}: {class_id} is not in labels/labelset; {AGAIN}')
    return labelset


def read_lists(folder: str, names: Iterable[str], faults: Faults) -> Lists:
    """Those of the file lists `names` that exist. Faults in them are added to `faults`."""
    lists, where = {}, {}
    for name in names:
        path = os.path.join(folder, 'filelists', name)
        if os.path.exists(path):
            lists[name] = read_lines(path)
    for name, keys in lists.items():
        if not keys:
            faults.add('empty list', f'filelists/{name}: lists nothing; {AGAIN}')
        for number, key in enumerate(keys, 1):
            line = f'filelists/{name}, line {number}'
            if not key or key.startswith('/') or '..' in key.split('/') or '\t' in key:
                faults.add('path', f'{line}: {key!r} is no path below audio/; correct or delete the line')
            elif key in where:
                faults.add('listed twice', f'{line}: {key} is in filelists/{where[key]} already; delete one')
            where.setdefault(key, name)
    return lists


def check_foreground(folder: str, lists: Lists, classes: int, faults: Faults) -> Rows:
    """Rows of labels/fg.tsv. Their faults, and listed recordings without a row, are added to `faults`."""
    rows, indices = read_keyed(folder, 'labels/fg.tsv', 2, faults), set(map(str, range(classes)))
    for key, label in rows.items():
        if label not in indices:
            faults.add('fg', f'labels/fg.tsv: {key} has class {label!r}; expected 0 to {classes - 1}; {AGAIN}')
    for name, keys in lists.items():
        for key in keys:
            if key not in rows:
                text = f'filelists/{name}: {key} has no row in labels/fg.tsv; delete it from the list or label it'
                faults.add('unlabelled', text)
    return rows


def check_background(folder: str, lists: Lists, classes: int, foreground: Rows, faults: Faults) -> Rows:
    """Rows of labels/bg.tsv, {} without that file. Faults, and recordings without a row, are added to `faults`."""
    if not os.path.exists(os.path.join(folder, 'labels', 'bg.tsv')):
        return {}
    rows, indices = read_keyed(folder, 'labels/bg.tsv', 2, faults), set(map(str, range(classes)))
    for key, labels in rows.items():
        if labels and not indices.issuperset(labels.split(',')):
            expected = f'numbers from 0 to {classes - 1}, separated by commas'
            faults.add('bg', f'labels/bg.tsv: {key} has classes {labels!r}; expected {expected}; {AGAIN}')
    for key in (key for keys in lists.values() for key in keys):
        if key in foreground and key not in rows:
            faults.add('no bg', f'labels/bg.tsv: no row for {key}; add one, empty if there is no other species')
    return rows


def check_segments(folder: str, classes: int, faults: Faults) -> list[list[str]]:
    """Rows of labels/segments.tsv, [] without that file. Their faults are added to `faults`."""
    filename = os.path.join(folder, 'labels', 'segments.tsv')
    rows = [line.split('\t') for line in read_lines(filename)] if os.path.exists(filename) else []
    indices, good, previous = {'', *map(str, range(classes))}, [], ('', 0.0, 0.0, -1)
    for number, row in enumerate(rows, 1):
        line = f'labels/segments.tsv, line {number}'
        if len(row) != 4 or not row[0]:
            text = f'{line}: expected path, start, end and class index, separated by tabs; {AGAIN}'
            faults.add('shape segments.tsv', text)
            continue
        key, start, end, label = row
        if not (re.fullmatch(SECONDS, start) and re.fullmatch(SECONDS, end) and float(start) < float(end)):
            text = f'{line}: {start!r} to {end!r}; expected seconds, the start before the end; {AGAIN}'
            faults.add('seconds', text)
            continue
        if label not in indices:
            text = f'{line}: class {label!r}; expected 0 to {classes - 1}, or nothing if no class is active; {AGAIN}'
            faults.add('segment class', text)
            continue
        current = key, float(start), float(end), int(label or -1)
        if current < previous:
            faults.add('segment order', f'{line}: rows must be sorted by path, start, end and class; {AGAIN}')
        previous = current
        good.append(row)
    return good


def check_groups(folder: str, lists: Lists, faults: Faults) -> Rows:
    """Rows of filelists/groups.tsv, {} without that file. Faults, and recordings without group, are in `faults`."""
    if not os.path.exists(os.path.join(folder, 'filelists', 'groups.tsv')):
        return {}
    rows = read_keyed(folder, 'filelists/groups.tsv', 2, faults)
    for name in {'train', 'valid', 'test'} & lists.keys():
        for key in lists[name]:
            if key not in rows:
                faults.add('no group', f'filelists/groups.tsv: no row for {key}; run prepare_birdclef.sh again')
    return rows


def repair_times(folder: str) -> str:
    """Correct the times in labels/meta.tsv of a dataset -> line that summarises the result."""
    filename = os.path.join(folder, 'labels', 'meta.tsv')
    rows, corrected, removed = [line.split('\t') for line in read_lines(filename)], 0, 0
    for row in rows:
        if len(row) > 2 and row[2] and not re.fullmatch(VALID_TIME, row[2]):
            row[2] = repair_time_of_2018(row[2])
            corrected, removed = corrected + bool(row[2]), removed + (not row[2])
    if not corrected + removed:
        return f'{filename}: all times are right, nothing changed'
    old = f'{filename}.old'
    if os.path.exists(old):
        raise Problem(f'{old}: already exists; move it away, so that the current file can be kept under this name')
    shutil.copy2(filename, old)
    with writing(filename, 'w', encoding='utf-8') as f:
        f.writelines('\t'.join(row) + '\n' for row in rows)
    return f'{filename}: {corrected} times corrected, {removed} left out; the old file is {old}'


def check_metadata(folder: str, quick: bool, faults: Faults) -> Rows:
    """Rows of labels/meta.tsv, {} without that file. Faults in them are added to `faults`.

    `quick` does not check the values: training and prediction treat a value that cannot be read as missing.
    """
    if not os.path.exists(os.path.join(folder, 'labels', 'meta.tsv')):
        return {}
    rows = read_keyed(folder, 'labels/meta.tsv', 1 + len(META), faults)
    for key, row in rows.items():
        if not quick and not META_ROW.fullmatch(row):
            for (field, pattern), value in zip(META, row.split('\t'), strict=True):
                if value and not re.fullmatch(pattern, value):
                    cure = 'correct it or leave it empty'
                    if field == 'time':
                        cure = 'type datasets/validate.py NAME --repair-times'
                    faults.add(f'meta {field}', f'labels/meta.tsv: {key} has the {field} {value!r}; {cure}')
    return rows


def check_recordings(folder: str, keys: list[str], quick: bool, faults: Faults) -> dict[str, float]:
    """Length of each recording in seconds; {} if their headers cannot be read. Faults are added to `faults`."""
    rate = sample_rate(folder)
    try:
        headers = (index.load_index if quick else index.refresh_index)(folder, keys)
    except Problem as e:
        faults.add('audio', str(e))
        return {}
    form = (headers['sample_rate'] != rate) | (headers['channels'] != 1) | (headers['width'] != 2)
    again = 'delete it and run prepare_birdclef.sh again'
    for wrong, text in (
        (form, f'is not mono, 16 bit, {rate} Hz (sample_rate in dataset.vars); {again}, or convert it'),
        (headers['length'] == 0, f'has no samples; {again}'),
    ):
        if wrong.any():
            faults.add(text, f'audio/{keys[np.flatnonzero(wrong)[0]]}: {text}', np.count_nonzero(wrong))
    return dict(zip(keys, headers['length'] / rate, strict=True))


def check_files(folder: str, purpose: str, need: Purpose, names: Iterable[str], faults: Faults) -> None:
    """Files and folders that are missing for a purpose are added to `faults`. Raises Problem if this is no dataset."""
    anything = ['audio', *LABELS, *(f'filelists/{name}' for name in PARTS)]
    if not os.path.isdir(folder) or not any(os.path.exists(os.path.join(folder, name)) for name in anything):
        cure = 'prepare_birdclef.sh creates one (datasets/README.md describes its files)'
        raise Problem(f'{folder}: not a dataset; {cure}')
    for name in LINKS:
        path = os.path.join(folder, name)
        if os.path.islink(path) and not os.path.exists(path):
            text = f'{name}: no such file or folder: the link leads to {os.readlink(path)}, which is missing'
            faults.add(name, f'{text}; is its disk mounted? Otherwise run prepare_birdclef.sh again')
    required = [f'filelists/{name}' for name in names] + list(LABELS if need.labels else ())
    for name in [*required, *(['labels/meta.tsv'] if need.metadata else [])]:
        if not os.path.exists(os.path.join(folder, name)) and name.partition('/')[0] not in faults.first:
            faults.add(f'missing {name}', f'{name}: missing, but needed by --for {purpose}; {AGAIN}')
    if need.audio and not os.path.isdir(os.path.join(folder, 'audio')) and 'audio' not in faults.first:
        faults.add(
            'audio', 'audio: no such folder; run prepare_birdclef.sh again (--no-audio if there is only metadata)'
        )


def check(folder: str, quick: bool = False, purpose: str = 'train', names: Iterable[str] = ()) -> tuple[list, list]:
    """Check a dataset's folder -> (lines with faults, lines that describe it).

    `purpose` is a key of PURPOSES; `names` are the file lists that are required instead of the usual ones.
    Raises Problem for files that cannot be read.
    """
    need, faults = PURPOSES[purpose], Faults()
    if need.audio and is_without_audio(folder):
        need = need._replace(audio=False, metadata=True)
    required = names or need.lists
    check_files(folder, purpose, need, required, faults)
    if faults.first:
        return faults.lines(), []
    # without `names`, training and prediction use all existing lists
    everything = need.audio or need.metadata
    content = Content(folder, read_lists(folder, names or (PARTS if everything else need.lists), faults))
    if not content.lists:
        faults.add('lists', f'filelists: none of {", ".join(PARTS)}; write one, one path below audio/ per line')
    if need.labels:
        content.labelset = check_labelset(folder, faults)
        if not content.labelset:
            return faults.lines(), []
        # networks may be trained with recordings without a label, but no metrics can be computed for them
        exempt = () if purpose == 'evaluate' else WITHOUT_LABEL
        labelled = {name: content.lists[name] for name in required if name not in exempt}
        classes = len(content.labelset)
        content.foreground = check_foreground(folder, labelled, classes, faults)
        content.background = check_background(folder, labelled, classes, content.foreground, faults)
        content.segments = [] if quick else check_segments(folder, classes, faults)
        content.groups = {} if quick else check_groups(folder, content.lists, faults)
    if everything:
        content.metadata = check_metadata(folder, quick, faults)
    if need.audio and 'path' not in faults.first and content.keys():
        content.seconds = check_recordings(folder, content.keys(), quick, faults)
    return (faults.lines(), []) if faults.first else ([], list(describe(content, quick)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', metavar='NAME', help='name or path of the dataset')
    parser.add_argument(
        '--quick', action='store_true', help='trust the headers in the index, and print nothing if nothing is wrong'
    )
    parser.add_argument(
        '--for', dest='purpose', choices=PURPOSES, default='train', help='what the dataset must be complete for (train)'
    )
    parser.add_argument(
        '--filelists',
        default='',
        metavar='LIST[,LIST...]',
        help='lists that are required and checked (default: for training all, of which train and valid are required; '
        'for prediction all that exist; for evaluation valid)',
    )
    parser.add_argument('--repair-times', action='store_true', help='correct times in labels/meta.tsv, see above')
    args = parser.parse_args()
    folder, names = dataset_folder(args.dataset), tuple(filter(None, args.filelists.split(',')))
    if args.repair_times:
        print(repair_times(folder))
        return 0
    faults, description = check(folder, args.quick, args.purpose, names)
    for fault in faults:
        print(f'validate.py: {args.dataset}: {fault}', file=sys.stderr)
    if not args.quick:
        for line in description:
            print(line)
    return 1 if faults else 0


if __name__ == '__main__':
    program.run(main)
