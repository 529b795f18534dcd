#!/usr/bin/env python3
"""Check a dataset against the contract in datasets/README.md.

Prints its contents: recordings, hours, classes, metadata. If something is wrong, prints the first fault of each kind
and what to do, and exits with status 1. The headers of the recordings are kept in datasets/NAME/index.npz, which
training uses. --quick trusts the headers in that file; without it, all recordings are checked again.

--for is the purpose that the dataset must be complete for. "train", the default, checks everything. "predict" needs
audio/ and the file lists, but no labels. "evaluate" needs file lists and labels, but no recordings.

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
import dataclasses
import re
import shutil
from collections.abc import Iterable, Iterator

import numpy as np

from birdsong import config
from birdsong.data import index
from birdsong.files import Problem, read_lines, writing
from shared.dataset import LISTS, dataset_folder, recordings
from shared.metadata_values import VALID_TIME, repair_time_of_2018
from shared.tables import REPAIRS, read_repairs

AGAIN = 'run prepare_birdclef.sh again, or correct the file'
# The lists that are required for a purpose unless others are given, and whether labels and recordings are required.
Purpose = collections.namedtuple('Purpose', 'lists labels audio')
PURPOSES = {
    'train': Purpose(('train', 'valid'), True, True),
    'predict': Purpose((), False, True),
    'evaluate': Purpose(('valid',), True, False),
}
ALL_LISTS = ('train', 'valid', *(name for name in LISTS.values() if name != 'train'))
LABELS = ('labels/labelset', 'labels/fg.tsv')
META = (
    ('date', r'[0-9]{4}-[0-9]{2}-[0-9]{2}'),
    ('time', VALID_TIME),
    ('latitude', r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-?[0-9]+)?'),
    ('longitude', r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-?[0-9]+)?'),
    ('elevation', r'-?[0-9]+(-[0-9]+)*'),
)
# An empty field means unknown.
META_ROW = re.compile('\t'.join(f'(?:{pattern})?' for _, pattern in META))


Lists, Rows = dict[str, list[str]], dict[str, str]


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


@dataclasses.dataclass
class Content:
    """The content of a dataset."""

    folder: str
    lists: Lists  # file list -> keys
    labelset: list[str] = dataclasses.field(default_factory=list)  # class ids
    foreground: Rows = dataclasses.field(default_factory=dict)  # key -> class index
    background: Rows = dataclasses.field(default_factory=dict)  # key -> comma-separated class indices
    metadata: Rows = dataclasses.field(default_factory=dict)  # key -> tab-separated fields
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # key -> length, {} if not checked

    def keys(self) -> list[str]:
        """Keys of all lists, each once."""
        return list(dict.fromkeys(key for keys in self.lists.values() for key in keys))


def read_keyed(folder: str, name: str, columns: int, faults: Faults) -> Rows:
    """Table labels/NAME as dict of path -> rest of the line. Rows with faults are added to `faults`."""
    result = {}
    for number, line in enumerate(read_lines(os.path.join(folder, 'labels', name)), 1):
        key, tab, rest = line.partition('\t')
        if not tab or rest.count('\t') != columns - 2:
            text = f'labels/{name}, line {number}: expected {columns} fields, separated by tabs; {AGAIN}'
            faults.add(f'shape {name}', text)
        elif key in result:
            faults.add(f'twice {name}', f'labels/{name}, line {number}: {key} has a row already; delete one')
        else:
            result[key] = rest
    return result


def check_labelset(folder: str, faults: Faults) -> list[str]:
    """Class ids of labels/labelset. Faults there, in labelset_latin and in labelset_YEAR are added to `faults`."""
    labels = os.path.join(folder, 'labels')
    labelset = read_lines(os.path.join(labels, 'labelset'))
    if not labelset:
        faults.add('labelset', f'labels/labelset: no classes; {AGAIN}')
        return labelset
    if len(set(labelset)) < len(labelset) or labelset != sorted(labelset):
        text = 'labels/labelset: class ids have to be sorted, each once; sort it, and create fg.tsv and bg.tsv again'
        faults.add('labelset', text)
    for class_id in labelset:
        if not class_id.strip() or re.search(r'[\t;,]', class_id):
            text = f'labels/labelset: {class_id!r} cannot be a class id in tables and submissions; rename the class'
            faults.add('class id', text)
    if os.path.exists(os.path.join(labels, 'labelset_latin')):
        names = read_lines(os.path.join(labels, 'labelset_latin'))
        if len(names) != len(labelset):
            faults.add('latin', f'labels/labelset_latin: {len(names)} names for {len(labelset)} classes; {AGAIN}')
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
    rows, indices = read_keyed(folder, 'fg.tsv', 2, faults), set(map(str, range(classes)))
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
    rows, indices = read_keyed(folder, 'bg.tsv', 2, faults), set(map(str, range(classes)))
    for key, labels in rows.items():
        if labels and not indices.issuperset(labels.split(',')):
            expected = f'numbers from 0 to {classes - 1}, separated by commas'
            faults.add('bg', f'labels/bg.tsv: {key} has classes {labels!r}; expected {expected}; {AGAIN}')
    for key in (key for keys in lists.values() for key in keys):
        if key in foreground and key not in rows:
            faults.add('no bg', f'labels/bg.tsv: no row for {key}; add one, empty if there is no other species')
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
    rows = read_keyed(folder, 'meta.tsv', 1 + len(META), faults)
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
    rate = int(config.load()['sample_rate'])
    try:
        headers = (index.load_index if quick else index.refresh_index)(folder, keys)
    except Problem as e:
        faults.add('audio', str(e))
        return {}
    form = (headers['sample_rate'] != rate) | (headers['channels'] != 1) | (headers['width'] != 2)
    again = 'delete it and run prepare_birdclef.sh again'
    for wrong, text in (
        (form, f'is not mono, 16 bit, {rate} Hz; {again}, or convert it'),
        (headers['length'] == 0, f'has no samples; {again}'),
    ):
        if wrong.any():
            faults.add(text, f'audio/{keys[np.flatnonzero(wrong)[0]]}: {text}', np.count_nonzero(wrong))
    return dict(zip(keys, headers['length'] / rate, strict=True))


def check_files(folder: str, need: Purpose, names: Iterable[str], faults: Faults) -> None:
    """Missing files and folders are added to `faults`. Raises Problem if this is no dataset at all."""
    anything = ['audio', *LABELS, *(f'filelists/{name}' for name in ALL_LISTS)]
    if not os.path.isdir(folder) or not any(os.path.exists(os.path.join(folder, name)) for name in anything):
        cure = 'prepare_birdclef.sh creates one (datasets/README.md describes its files)'
        raise Problem(f'{folder}: not a dataset; {cure}')
    for name in [f'filelists/{name}' for name in names] + list(LABELS if need.labels else ()):
        if not os.path.exists(os.path.join(folder, name)):
            faults.add(f'missing {name}', f'{name}: missing; {AGAIN}')
    if need.audio and not os.path.isdir(os.path.join(folder, 'audio')):
        cure = 'if it is a link, is its disk mounted? Otherwise run prepare_birdclef.sh again'
        faults.add('audio', f'audio: no such folder; {cure}')


def check(folder: str, quick: bool = False, purpose: str = 'train', names: Iterable[str] = ()) -> tuple[list, list]:
    """Check a dataset's folder -> (lines with faults, lines that describe it).

    `purpose` is a key of PURPOSES; `names` are the file lists that are required instead of the usual ones.
    Raises Problem for files that cannot be read.
    """
    need, faults = PURPOSES[purpose], Faults()
    required = names or need.lists
    check_files(folder, need, required, faults)
    if faults.first:
        return faults.lines(), []
    # without `names`, training and prediction use all existing lists
    content = Content(folder, read_lists(folder, names or (ALL_LISTS if need.audio else need.lists), faults))
    if not content.lists:
        faults.add('lists', f'filelists: none of {", ".join(ALL_LISTS)}; write one, one path below audio/ per line')
    if need.labels:
        content.labelset = check_labelset(folder, faults)
        if not content.labelset:
            return faults.lines(), []
        labelled, classes = {name: content.lists[name] for name in required}, len(content.labelset)
        content.foreground = check_foreground(folder, labelled, classes, faults)
        content.background = check_background(folder, labelled, classes, content.foreground, faults)
    if need.audio:
        content.metadata = check_metadata(folder, quick, faults)
        if 'path' not in faults.first and content.keys():
            content.seconds = check_recordings(folder, content.keys(), quick, faults)
    return (faults.lines(), []) if faults.first else ([], list(describe(content, quick)))


def describe(content: Content, quick: bool) -> Iterator[str]:
    """Lines that describe a dataset without faults."""
    keys, seconds = content.keys(), content.seconds
    hours = f', {sum(seconds.values()) / 3600:.2f} hours' if seconds else ''
    classes = f', {len(content.labelset)} classes' if content.labelset else ''
    yield f'{os.path.basename(content.folder.rstrip("/"))}: {len(keys)} recordings{hours}{classes}'
    for name, listed in content.lists.items():
        line = f'  {name:16} {len(listed):6d} recordings'
        if seconds:
            lengths = [seconds[key] for key in listed]
            line += f' {sum(lengths) / 3600:8.2f} hours, {min(lengths):.1f} to {max(lengths):.1f} s'
        labels = {content.foreground[key] for key in listed if key in content.foreground}
        yield line + (f', {len(labels)} classes' if labels else '')
    if content.labelset:
        yield from describe_labels(content)
    if seconds:
        rows = [content.metadata[key].split('\t') for key in keys if key in content.metadata]
        known = [sum(bool(row[i]) for row in rows) for i in range(len(META))]
        shares = (f'{field} {100 * n / len(keys):.0f} %' for (field, _), n in zip(META, known, strict=True))
        yield f'  metadata: {", ".join(shares)}'
    tables = [f'{folder}/{REPAIRS}' for folder in ('audio', 'xml', 'labels')]
    counts = {table: len(read_repairs(os.path.join(content.folder, table))) for table in tables}
    if any(counts.values()):
        yield '  recordings with repairs: ' + ', '.join(f'{n} in {table}' for table, n in counts.items() if n)
    if not quick and seconds:
        unlisted = set(recordings(content.folder)) - set(keys)
        if unlisted:
            yield f'  in audio/ but in no list: {len(unlisted)}, such as {min(unlisted)}'


def describe_labels(content: Content) -> Iterator[str]:
    """Lines that describe the labels of a dataset without faults."""
    if 'train' in content.lists:
        counts = collections.Counter(content.foreground[key] for key in content.lists['train'])
        absent = [class_id for i, class_id in enumerate(content.labelset) if not counts[str(i)]]
        least = 0 if absent else min(counts.values())
        more = f'; none of {len(absent)} classes, such as {absent[0]}' if absent else ''
        yield f'  training recordings per class: {least} to {max(counts.values())}{more}'
    yield f'  with background species: {sum(map(bool, content.background.values()))} of {len(content.foreground)}'


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
