#!/usr/bin/env python3
"""Hold a dataset to the contract in datasets/README.md.

Prints what it holds: recordings, hours, classes, metadata. If something is wrong, prints the first fault of each kind
with its cure, and exits with status 1. The headers of the recordings are kept in datasets/NAME/index.npz, which
training uses; --quick trusts those that are in it, else every recording is looked at again.

--for says what the dataset has to be complete for. "train", the default, checks everything. "predict" needs only
audio/ and the file lists: no labels. "evaluate" needs only file lists and labels: no recordings.

--repair-times corrects times of day that the scripts of 2018 wrote wrongly into labels/meta.tsv, such as 24:10:00 for
"12:10pm" and 700:00:00 for "0700", and leaves out those that can't be known. The old file is kept as meta.tsv.old.
"""

import os
import sys

DATASETS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(DATASETS), 'experiments'), DATASETS]
from birdsong import program  # isort: skip
import argparse
import collections
import re
import shutil

import numpy as np

import layout
from birdsong import config
from birdsong.data import index
from birdsong.files import Problem, read_lines, writing

AGAIN = 'run prepare_birdclef.sh again, or correct the file'
# What the dataset has to be complete for -> the lists that are required unless others are named, and whether labels
# and recordings are required, too.
Purpose = collections.namedtuple('Purpose', 'lists labels audio')
PURPOSES = {
    'train': Purpose(('train', 'valid'), True, True),
    'predict': Purpose((), False, True),
    'evaluate': Purpose(('valid',), True, False),
}
LISTS = ('train', 'valid', 'test', 'soundscapes_val', 'soundscapes_test')
LABELS = ('labels/labelset', 'labels/fg.tsv')
TIME = r'([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]'
META = (
    ('date', r'[0-9]{4}-[0-9]{2}-[0-9]{2}'),
    ('time', TIME),
    ('latitude', r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-?[0-9]+)?'),
    ('longitude', r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-?[0-9]+)?'),
    ('elevation', r'-?[0-9]+(-[0-9]+)*'),
)
# Each pattern takes the empty text, too: unknown.
META_ROW = re.compile('\t'.join(f'(?:{pattern})?' for _, pattern in META))


class Faults:
    """Collects faults: the first of each kind is shown, the others are counted."""

    def __init__(self):
        self.first, self.counts = {}, collections.Counter()

    def add(self, kind, text, number=1):
        self.first.setdefault(kind, text)
        self.counts[kind] += number

    def lines(self):
        for kind, text in self.first.items():
            more = self.counts[kind] - 1
            yield text + (' (and %d more of this kind)' % more if more else '')


def read_keyed(folder, name, columns, faults):
    """Table labels/NAME as dict of path -> rest of the line; faults in its shape are noted."""
    result = {}
    for number, line in enumerate(read_lines(os.path.join(folder, 'labels', name)), 1):
        key, _, rest = line.partition('\t')
        if rest.count('\t') != columns - 2 or '\t' not in line:
            faults.add(
                'shape ' + name, f'labels/{name}, line {number}: expected {columns} fields, separated by tabs; ' + AGAIN
            )
        elif key in result:
            faults.add('twice ' + name, 'labels/%s, line %d: %s has a row already; delete one' % (name, number, key))
        else:
            result[key] = rest
    return result


def check_labelset(folder, faults):
    """Class ids of labels/labelset; faults there and in its companions are noted."""
    labels = os.path.join(folder, 'labels')
    labelset = read_lines(os.path.join(labels, 'labelset'))
    if not labelset:
        faults.add('labelset', 'labels/labelset: no classes; ' + AGAIN)
        return labelset
    if len(set(labelset)) < len(labelset) or labelset != sorted(labelset):
        faults.add(
            'labelset',
            'labels/labelset: class ids have to be sorted, each once; sort it, and create fg.tsv and bg.tsv again',
        )
    for class_id in labelset:
        if not class_id.strip() or re.search(r'[\t;,]', class_id):
            faults.add(
                'class id',
                f'labels/labelset: {class_id!r} can not be a class id in tables and submissions; rename the class',
            )
    if os.path.exists(os.path.join(labels, 'labelset_latin')):
        names = read_lines(os.path.join(labels, 'labelset_latin'))
        if len(names) != len(labelset):
            faults.add('latin', f'labels/labelset_latin: {len(names)} names for {len(labelset)} classes; {AGAIN}')
    for name in sorted(os.listdir(labels)):
        if re.fullmatch(r'labelset_\d{4}', name):
            for class_id in set(read_lines(os.path.join(labels, name))) - set(labelset):
                faults.add('edition', f'labels/{name}: {class_id} is not in labels/labelset; {AGAIN}')
    return labelset


def read_lists(folder, names, faults):
    """Dict of those of the file lists `names` that exist -> paths; faults in them are noted."""
    lists, where = {}, {}
    for name in names:
        path = os.path.join(folder, 'filelists', name)
        if os.path.exists(path):
            lists[name] = read_lines(path)
    for name, keys in lists.items():
        if not keys:
            faults.add('empty list', f'filelists/{name}: lists nothing; {AGAIN}')
        for number, key in enumerate(keys, 1):
            if not key or key.startswith('/') or '..' in key.split('/') or '\t' in key:
                faults.add(
                    'path',
                    f'filelists/{name}, line {number}: {key!r} is no path below audio/; correct or delete the line',
                )
            elif key in where:
                faults.add(
                    'listed twice',
                    f'filelists/{name}, line {number}: {key} is in filelists/{where[key]} already; delete one',
                )
            where.setdefault(key, name)
    return lists


def check_labels(folder, lists, labelset, faults):
    """Rows of labels/fg.tsv and labels/bg.tsv as dicts; faults, and listed recordings without a row, are noted."""
    indices = {str(i) for i in range(len(labelset))}
    fg, bg = read_keyed(folder, 'fg.tsv', 2, faults), {}
    for key, label in fg.items():
        if label not in indices:
            faults.add('fg', f'labels/fg.tsv: {key} has class {label!r}; expected 0 to {len(labelset) - 1}; {AGAIN}')
    for name, keys in lists.items():
        for key in keys:
            if key not in fg:
                faults.add(
                    'unlabelled',
                    f'filelists/{name}: {key} has no row in labels/fg.tsv; delete it from the list or label it',
                )
    if os.path.exists(os.path.join(folder, 'labels', 'bg.tsv')):
        bg = read_keyed(folder, 'bg.tsv', 2, faults)
        for key, labels in bg.items():
            if labels and not indices.issuperset(labels.split(',')):
                faults.add(
                    'bg',
                    f'labels/bg.tsv: {key} has classes {labels!r}; expected numbers from 0 to '
                    f'{len(labelset) - 1}, separated by commas; {AGAIN}',
                )
        for key in (key for keys in lists.values() for key in keys):
            if key in fg and key not in bg:
                faults.add('no bg', f'labels/bg.tsv: no row for {key}; add one, empty if nothing else is heard')
    return fg, bg


def repair_time(text):
    """Correct a time of the 2018 scripts: '24:10:00' -> '12:10:00', '700:00:00' -> '07:00:00'; '' if it is not known.

    They added 12 hours to every time with "pm", and took "0700" for hours. 24:00:00 counts as noon: among the 20 000
    recordings of xeno-canto that we looked at, there are several at "12pm" and none at "24:00".
    """
    found = re.fullmatch(r'([0-9]{1,4}):([0-9]{1,2}):([0-9]{1,2})', text)
    if not found:
        return ''
    hour, minute, second = map(int, found.groups())
    if hour >= 100 and not minute:
        hour, minute = divmod(hour, 100)
    elif 24 <= hour < 36:
        hour -= 12
    time = f'{hour:02d}:{minute:02d}:{second:02d}'
    return time if re.fullmatch(TIME, time) else ''


def repair_times(folder):
    """Correct the times in labels/meta.tsv of a dataset's folder -> line that tells what was done."""
    filename = os.path.join(folder, 'labels', 'meta.tsv')
    rows, known, unknown = [line.split('\t') for line in read_lines(filename)], 0, 0
    for row in rows:
        if len(row) > 2 and row[2] and not re.fullmatch(TIME, row[2]):
            row[2] = repair_time(row[2])
            known, unknown = known + bool(row[2]), unknown + (not row[2])
    if not known + unknown:
        return f'{filename}: all times are right, nothing changed'
    old = filename + '.old'
    if os.path.exists(old):
        raise Problem(f'{old}: exists already; move it away, so that the file that is to be repaired can be kept there')
    shutil.copy2(filename, old)
    with writing(filename, 'w', encoding='utf-8') as f:
        f.writelines('\t'.join(row) + '\n' for row in rows)
    return f'{filename}: {known} times corrected, {unknown} left out; the old file is {old}'


def check_metadata(folder, quick, faults):
    """Rows of labels/meta.tsv as a dict, empty if there is none; faults in them are noted.

    `quick` doesn't judge the values: a value that can't be read counts as missing in training and prediction.
    """
    if not os.path.exists(os.path.join(folder, 'labels', 'meta.tsv')):
        return {}
    meta = read_keyed(folder, 'meta.tsv', 6, faults)
    if quick:
        return meta
    for key, row in meta.items():
        if not META_ROW.fullmatch(row):
            for (field, pattern), value in zip(META, row.split('\t')):
                if value and not re.fullmatch(pattern, value):
                    cure = (
                        'type datasets/validate.py NAME --repair-times'
                        if field == 'time'
                        else 'correct it or leave it empty'
                    )
                    faults.add('meta ' + field, f'labels/meta.tsv: {key} has the {field} {value!r}; {cure}')
    return meta


def check_recordings(folder, keys, quick, faults):
    """Seconds of each recording (float64 array), or None if some can't be used; faults in their headers are noted."""
    rate = int(config.load()['sample_rate'])
    try:
        headers = (index.load_index if quick else index.refresh_index)(folder, keys)
    except Problem as e:
        faults.add('audio', str(e))
        return None
    for wrong, text in (
        (
            (headers['sample_rate'] != rate) | (headers['channels'] != 1) | (headers['width'] != 2),
            f'is not mono, 16 bit, {rate} Hz; delete it and run prepare_birdclef.sh again, or convert it',
        ),
        (headers['length'] == 0, 'has no samples; delete it and run prepare_birdclef.sh again'),
    ):
        if wrong.any():
            faults.add(text, f'audio/{keys[np.flatnonzero(wrong)[0]]}: {text}', np.count_nonzero(wrong))
    return headers['length'] / rate


def check(folder, quick=False, purpose='train', names=()):
    """Check a dataset's folder -> (list of faults, list of lines that describe it).

    `purpose` is a key of PURPOSES; `names` are the file lists that are required instead of the usual ones.
    Raises Problem for what can't be read.
    """
    need = PURPOSES[purpose]
    required = [f'filelists/{name}' for name in names or need.lists] + list(LABELS if need.labels else ())
    anything = ['audio', *LABELS, *(f'filelists/{name}' for name in LISTS)]
    if not os.path.isdir(folder) or not any(os.path.exists(os.path.join(folder, f)) for f in anything):
        raise Problem(
            f'{folder}: not a dataset; prepare_birdclef.sh makes one (datasets/README.md says what belongs in it)'
        )
    faults = Faults()
    for name in required:
        if not os.path.exists(os.path.join(folder, name)):
            faults.add('missing ' + name, f'{name}: missing; {AGAIN}')
    if need.audio and not os.path.isdir(os.path.join(folder, 'audio')):
        faults.add(
            'audio', 'audio: no such folder; if it is a link, is its disk mounted? Else run prepare_birdclef.sh again'
        )
    if faults.first:
        return list(faults.lines()), []
    # without names, training and prediction use whatever lists there are
    lists = read_lists(folder, names or (need.lists if not need.audio else LISTS), faults)
    if not lists:
        faults.add('lists', f'filelists: none of {", ".join(LISTS)}; write one, a path below audio/ per line')
    labelset, fg, bg, meta, seconds = [], {}, {}, {}, None
    if need.labels:
        labelset = check_labelset(folder, faults)
        if not labelset:
            return list(faults.lines()), []
        labelled = names or need.lists
        labelled = {name: keys for name, keys in lists.items() if name in labelled}
        fg, bg = check_labels(folder, labelled, labelset, faults)
    everything = list(dict.fromkeys(key for keys in lists.values() for key in keys))
    if need.audio:
        meta = check_metadata(folder, quick, faults)
        if 'path' not in faults.first and everything:
            seconds = check_recordings(folder, everything, quick, faults)
    if faults.first:
        return list(faults.lines()), []
    return [], describe(folder, lists, everything, seconds, labelset, fg, bg, meta, quick)


def describe(folder, lists, everything, seconds, labelset, fg, bg, meta, quick):
    """Lines that tell what a good dataset holds."""
    name = os.path.basename(folder.rstrip('/'))
    told = [f'{name}: {len(everything)} recordings']
    if seconds is not None:
        told[0] += f', {seconds.sum() / 3600:.2f} hours'
        seconds = dict(zip(everything, seconds))
    if labelset:
        told[0] += f', {len(labelset)} classes'
    for list_name, keys in lists.items():
        line = f'  {list_name:16} {len(keys):6d} recordings'
        if seconds:
            lengths = [seconds[key] for key in keys]
            line += f' {sum(lengths) / 3600:8.2f} hours, {min(lengths):.1f} to {max(lengths):.1f} s'
        classes = len({fg[key] for key in keys if key in fg})
        told.append(line + (f', {classes} classes' if classes else ''))
    if labelset and 'train' in lists:
        counts = collections.Counter(fg[key] for key in lists['train'])
        absent = [class_id for i, class_id in enumerate(labelset) if not counts[str(i)]]
        least = 0 if absent else min(counts.values())
        told.append(
            f'  training recordings per class: {least} to {max(counts.values())}'
            + (f'; none of {len(absent)} classes, such as {absent[0]}' if absent else '')
        )
    if labelset:
        told.append(f'  with background species: {sum(map(bool, bg.values()))} of {len(fg)}')
    if seconds:
        columns = list(zip(*(meta[key].split('\t') for key in everything if key in meta))) or [()] * len(META)
        told.append(
            '  metadata: '
            + ', '.join(
                f'{field} {100 * sum(map(bool, column)) / len(everything):.0f} %'
                for (field, _), column in zip(META, columns)
            )
        )
    tables = [f'{sub}/{layout.REPAIRS}' for sub in ('audio', 'xml', 'labels')]
    repairs = [(table, len(layout.read_repairs(os.path.join(folder, table)))) for table in tables]
    if any(count for _, count in repairs):
        told.append(
            '  recordings with repairs: ' + ', '.join(f'{count} in {table}' for table, count in repairs if count)
        )
    if not quick and seconds:
        unlisted = set(layout.recordings(folder)) - set(everything)
        if unlisted:
            told.append(f'  in audio/ but in no list: {len(unlisted)}, such as {min(unlisted)}')
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', metavar='NAME', help='name or path of the dataset')
    parser.add_argument(
        '--quick', action='store_true', help='trust the headers in the index, and say nothing unless something is wrong'
    )
    parser.add_argument(
        '--for', dest='purpose', choices=PURPOSES, default='train', help='what it has to be complete for (train)'
    )
    parser.add_argument(
        '--filelists',
        default='',
        metavar='LIST[,LIST...]',
        help='lists that are required and checked (without: for training all, train and valid being '
        'required; for prediction all that exist; for evaluation valid)',
    )
    parser.add_argument('--repair-times', action='store_true', help='correct times in labels/meta.tsv, see above')
    args = parser.parse_args()
    folder, names = layout.dataset_folder(args.dataset), tuple(filter(None, args.filelists.split(',')))
    if args.repair_times:
        print(repair_times(folder))
        return 0
    faults, told = check(folder, args.quick, args.purpose, names)
    for fault in faults:
        print(f'validate.py: {args.dataset}: {fault}', file=sys.stderr)
    if not args.quick:
        for line in told:
            print(line)
    return 1 if faults else 0


if __name__ == '__main__':
    program.run(main)
