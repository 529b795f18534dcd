#!/usr/bin/env python3
"""Hold a dataset to the contract in datasets/README.md.

Prints what it holds: recordings, hours, classes, metadata. If something is wrong, prints the first fault of each kind
with its cure, and exits with status 1. The headers of the recordings are kept in datasets/NAME/index.npz, which
training uses; --quick trusts those that are in it, else every recording is looked at again.
"""
import argparse
import collections
import os
import re
import sys

import numpy as np

DATASETS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(DATASETS), 'experiments'), DATASETS]
import config
import index
import layout
from files import Problem, program, read_lines

AGAIN = 'run prepare_birdclef.sh again, or mend the file'
REQUIRED = ('filelists/train', 'filelists/valid', 'labels/labelset', 'labels/fg.tsv')
META = (('date', r'[0-9]{4}-[0-9]{2}-[0-9]{2}'), ('time', r'([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]'),
        ('latitude', r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-?[0-9]+)?'),
        ('longitude', r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-?[0-9]+)?'), ('elevation', r'-?[0-9]+(-[0-9]+)*'))
# Each pattern takes the empty text, too: unknown.
META_ROW = re.compile('\t'.join('(?:%s)?' % pattern for _, pattern in META))


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
            faults.add('shape ' + name, 'labels/%s, line %d: expected %d fields parted by tabs; %s' % (name, number, columns, AGAIN))
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
        faults.add('labelset', 'labels/labelset: class ids have to be sorted, each once; sort it, and make fg.tsv and bg.tsv anew')
    for class_id in labelset:
        if not class_id.strip() or re.search(r'[\t;,]', class_id):
            faults.add('class id', 'labels/labelset: %r can not be a class id in tables and submissions; rename the class' % class_id)
    if os.path.exists(os.path.join(labels, 'labelset_latin')):
        names = read_lines(os.path.join(labels, 'labelset_latin'))
        if len(names) != len(labelset):
            faults.add('latin', 'labels/labelset_latin: %d names for %d classes; %s' % (len(names), len(labelset), AGAIN))
    for name in sorted(os.listdir(labels)):
        if re.fullmatch(r'labelset_\d{4}', name):
            for class_id in set(read_lines(os.path.join(labels, name))) - set(labelset):
                faults.add('edition', 'labels/%s: %s is not in labels/labelset; %s' % (name, class_id, AGAIN))
    return labelset


def read_lists(folder, faults):
    """Dict of the file lists of a dataset -> paths; faults in them are noted."""
    lists, where = {}, {}
    for name in ('train', 'valid', 'test', 'soundscapes_val', 'soundscapes_test'):
        path = os.path.join(folder, 'filelists', name)
        if os.path.exists(path):
            lists[name] = read_lines(path)
    for name, keys in lists.items():
        if not keys:
            faults.add('empty list', 'filelists/%s: lists nothing; %s' % (name, AGAIN))
        for number, key in enumerate(keys, 1):
            if not key or key.startswith('/') or '..' in key.split('/') or '\t' in key:
                faults.add('path', 'filelists/%s, line %d: %r is no path below audio/; mend or delete the line' % (name, number, key))
            elif key in where:
                faults.add('listed twice', 'filelists/%s, line %d: %s is in filelists/%s already; delete one' %
                           (name, number, key, where[key]))
            where.setdefault(key, name)
    return lists


def check(folder, quick=False):
    """Check a dataset's folder -> (list of faults, list of lines that describe it). Raises Problem for what can't be read."""
    name = os.path.basename(folder.rstrip('/'))
    if not os.path.isdir(folder) or not any(os.path.exists(os.path.join(folder, f)) for f in REQUIRED):
        raise Problem('%s: not a dataset; prepare_birdclef.sh makes one (datasets/README.md says what belongs in it)' % folder)
    faults = Faults()
    for required in REQUIRED:
        if not os.path.exists(os.path.join(folder, required)):
            faults.add('missing ' + required, '%s: missing; %s' % (required, AGAIN))
    if not os.path.isdir(os.path.join(folder, 'audio')):
        faults.add('audio', 'audio: no such folder; if it is a link, is its disk mounted? Else run prepare_birdclef.sh again')
    if faults.first:
        return list(faults.lines()), []
    labelset = check_labelset(folder, faults)
    if not labelset:
        return list(faults.lines()), []
    lists = read_lists(folder, faults)
    indices = {str(i) for i in range(len(labelset))}

    fg = read_keyed(folder, 'fg.tsv', 2, faults)
    for key, label in fg.items():
        if label not in indices:
            faults.add('fg', 'labels/fg.tsv: %s has class %r; expected 0 to %d; %s' % (key, label, len(labelset) - 1, AGAIN))
    for list_name in 'train', 'valid':
        for key in lists[list_name]:
            if key not in fg:
                faults.add('unlabelled', 'filelists/%s: %s has no row in labels/fg.tsv; delete it from the list or label it' % (list_name, key))
    bg = {}
    if os.path.exists(os.path.join(folder, 'labels', 'bg.tsv')):
        bg = read_keyed(folder, 'bg.tsv', 2, faults)
        for key, labels in bg.items():
            if labels and not indices.issuperset(labels.split(',')):
                faults.add('bg', 'labels/bg.tsv: %s has classes %r; expected numbers from 0 to %d parted by commas; %s' %
                           (key, labels, len(labelset) - 1, AGAIN))
        for key in lists['train'] + lists['valid']:
            if key in fg and key not in bg:
                faults.add('no bg', 'labels/bg.tsv: no row for %s; add one, empty if nothing else is heard' % key)
    meta = {}
    if os.path.exists(os.path.join(folder, 'labels', 'meta.tsv')):
        meta = read_keyed(folder, 'meta.tsv', 6, faults)
        for key, row in meta.items():
            if not META_ROW.fullmatch(row):
                for (field, pattern), value in zip(META, row.split('\t')):
                    if value and not re.fullmatch(pattern, value):
                        faults.add('meta ' + field, 'labels/meta.tsv: %s has the %s %r; mend it or leave it empty' % (key, field, value))

    everything = list(dict.fromkeys(key for keys in lists.values() for key in keys))
    headers = None
    if 'path' not in faults.first:
        try:
            headers = (index.load_index if quick else index.refresh_index)(folder, everything)
        except Problem as e:
            faults.add('audio', str(e))
    rate = int(config.load()['sample_rate'])
    if headers:
        for wrong, text in (
                ((headers['sample_rate'] != rate) | (headers['channels'] != 1) | (headers['width'] != 2),
                 'is not mono, 16 bit, %d Hz; delete it and run prepare_birdclef.sh again, or convert it' % rate),
                (headers['length'] == 0, 'has no samples; delete it and run prepare_birdclef.sh again')):
            if wrong.any():
                faults.add(text, 'audio/%s: %s' % (everything[np.flatnonzero(wrong)[0]], text), np.count_nonzero(wrong))
    if faults.first:
        return list(faults.lines()), []

    seconds = dict(zip(everything, headers['length'] / rate))
    told = ['%s: %d recordings, %.2f hours, %d classes' % (name, len(everything), sum(seconds.values()) / 3600, len(labelset))]
    for list_name, keys in lists.items():
        lengths = [seconds[key] for key in keys]
        classes = len({fg[key] for key in keys if key in fg})
        told.append('  %-16s %6d recordings %8.2f hours, %.1f to %.1f s%s' % (
            list_name, len(keys), sum(lengths) / 3600, min(lengths), max(lengths), ', %d classes' % classes if classes else ''))
    counts = collections.Counter(fg[key] for key in lists['train'])
    absent = [class_id for i, class_id in enumerate(labelset) if not counts[str(i)]]
    told.append('  training recordings a class: %d to %d%s' % (
        0 if absent else min(counts.values()), max(counts.values()),
        '; none of %d classes, such as %s' % (len(absent), absent[0]) if absent else ''))
    told.append('  with background species: %d of %d' % (sum(map(bool, bg.values())), len(fg)))
    columns = list(zip(*(meta[key].split('\t') for key in everything if key in meta))) or [()] * len(META)
    told.append('  metadata: ' + ', '.join('%s %.0f %%' % (field, 100 * sum(map(bool, column)) / len(everything))
                                           for (field, _), column in zip(META, columns)))
    repairs = [(sub, len(layout.read_repairs(os.path.join(folder, sub, layout.REPAIRS)))) for sub in ('audio', 'xml', 'labels')]
    if any(count for _, count in repairs):
        told.append('  recordings with repairs: ' + ', '.join('%d in %s/%s' % (count, sub, layout.REPAIRS) for sub, count in repairs if count))
    if not quick:
        unlisted = set(layout.recordings(folder)) - set(everything)
        if unlisted:
            told.append('  in audio/ but in no list: %d, such as %s' % (len(unlisted), min(unlisted)))
    return [], told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', metavar='NAME', help='name or path of the dataset')
    parser.add_argument('--quick', action='store_true', help='trust the headers in the index, and say nothing unless something is wrong')
    args = parser.parse_args()
    faults, told = check(layout.dataset_folder(args.dataset), args.quick)
    for fault in faults:
        print('validate.py: %s: %s' % (args.dataset, fault), file=sys.stderr)
    if not args.quick:
        for line in told:
            print(line)
    return 1 if faults else 0


if __name__ == '__main__':
    program(main)
