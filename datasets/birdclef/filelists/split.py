#!/usr/bin/env python3
"""Write the file lists of a dataset, with a validation list that is given, kept, or drawn.

Lists what lies in datasets/NAME/audio/ in filelists/train, valid, test, soundscapes_val and soundscapes_test; training
recordings without a label (no XML) leave the lists. A validation list that was given once (--valid-list) is kept in
filelists/valid.given and used again; without one, about 8 % of each species are drawn, always the same: every species
of at least two recordings has one on each side, and recordings of one author on one day at one place stay together.
"""

import os
import sys

DATASETS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [
    os.path.join(os.path.dirname(DATASETS), 'experiments'),
    DATASETS,
    os.path.join(DATASETS, 'birdclef', 'xml'),
    os.path.join(DATASETS, 'birdclef', 'labels'),
]
from birdsong import program  # isort: skip
import argparse
import collections
import hashlib

import collect
import layout
import recreate
from birdsong.files import Problem, read_lines

SHARE = 0.08


def sessions(keys, records):
    """Group recordings (keys) of one author on one day at one place -> list of lists; what isn't told groups nothing.

    A place is the same if its name is, or if its coordinates are.
    """
    leader = {key: key for key in keys}

    def lead(key):
        while leader[key] != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    first = {}
    for key in keys:
        fields = records.get(key, {})
        author = fields.get('AuthorID') or fields.get('Author')
        try:
            date = recreate.repair_date(fields.get('Date', ''))
        except ValueError:
            continue
        if not author:
            continue
        for place in (
            fields['Locality'].lower(),
            fields['Latitude'] and fields['Longitude'] and (fields['Latitude'], fields['Longitude']),
        ):
            if place:
                leader[lead(key)] = lead(first.setdefault((author, date, place), key))
    groups = collections.defaultdict(list)
    for key in keys:
        groups[lead(key)].append(key)
    return list(groups.values())


def draw(species, groups, share=SHARE, seed=0):
    """Draw a validation set -> (set of keys, number of groups that had to be parted).

    `species`: dict of key -> species, `groups`: lists of keys that stay together. Every species of at least two
    recordings gets one or more on either side; a group is parted only where that is impossible otherwise.
    The outcome depends on the keys and the seed, not on their order.
    """

    def order(keys):
        return hashlib.sha256(f'{seed}|{min(keys)}'.encode()).digest()

    sizes = collections.Counter(species.values())
    want = {s: max(1, round(share * n)) if n > 1 else 0 for s, n in sizes.items()}
    valid, have, parted = set(), collections.Counter(), set()
    groups = sorted(groups, key=order)
    counts = [collections.Counter(species[key] for key in group) for group in groups]
    by_species = collections.defaultdict(list)
    for number, count in enumerate(counts):
        for s in count:
            by_species[s].append(number)
    taken = set()

    def excess(number):
        """Recordings more than wanted if this group goes to validation; None if a species would lose its last for training."""
        total = 0
        for s, n in counts[number].items():
            if have[s] + n >= sizes[s]:
                return None
            total += max(0, have[s] + n - want[s])
        return total

    # the rarest first: they have the least choice
    for s in sorted(sizes, key=lambda s: (sizes[s], s)):
        while have[s] < want[s]:
            costs = [
                (cost, number)
                for number in by_species[s]
                if number not in taken
                for cost in [excess(number)]
                if cost is not None
            ]
            # once there is one recording, no group is taken that overshoots by more than it helps
            costs = [c for c in costs if not have[s] or c[0] <= min(counts[c[1]][s], want[s] - have[s])]
            if costs:
                number = min(costs)[1]
                taken.add(number)
                valid.update(groups[number])
                have.update(counts[number])
            elif have[s]:
                break
            else:
                number = max(by_species[s], key=lambda number: (counts[number][s], -number))
                valid.add(
                    min(
                        (key for key in groups[number] if species[key] == s and key not in valid),
                        key=lambda k: order([k]),
                    )
                )
                have[s] += 1
                parted.add(number)
    return valid, len(parted)


def given_list(lines, train, name):
    """Entries of a given validation list that are training recordings -> (keys in their order, entries that are not).

    An entry is a key, or its file name alone, with any suffix. Raises Problem if none fits.
    """
    by_base = {os.path.splitext(os.path.basename(key))[0]: key for key in train}
    entries = [line.strip() for line in lines if line.strip() and not line.startswith('#')]
    keys, unknown = {}, []
    for entry in entries:
        key = entry if entry in train else by_base.get(os.path.splitext(os.path.basename(entry))[0])
        if key:
            keys[key] = True
        else:
            unknown.append(entry)
    if not keys:
        raise Problem(f'{name}: names no training recording of this dataset; expected lines such as {min(train)}')
    if len(keys) == len(train):
        raise Problem(f'{name}: names all training recordings; none would be left to train on')
    return list(keys), unknown


def split(dataset, valid_list=None, seed=0):
    """Write the lists of a dataset's folder -> list of lines that tell what was done."""
    folder = os.path.join(dataset, 'filelists')
    given = os.path.join(folder, 'valid.given')
    lines = read_lines(valid_list) if valid_list else None
    lists = {name: [] for name in layout.LISTS.values()}
    for key in layout.recordings(dataset):
        if layout.folder_of(key):
            lists[layout.LISTS[layout.folder_of(key)]].append(key)
    records = collect.read(dataset)
    label_file = os.path.join(dataset, 'labels', 'fg.tsv')
    if not os.path.exists(label_file):
        raise Problem(f'{label_file}: no such file; run datasets/birdclef/labels/recreate.py first')
    labels = {key: label for key, label in layout.read_table(label_file, 2)}
    train = {key for key in lists['train'] if key in labels}
    told = []
    if len(train) < len(lists['train']):
        told.append(
            f'{int(len(lists["train"]) - len(train))} training recordings have no label and leave the lists, such as {min(set(lists["train"]) - train)}'
        )
    if len(train) < 2:
        raise Problem(f'{dataset}: {len(train)} training recordings with label; at least 2 are needed')
    if lines is None and os.path.exists(given):
        lines = read_lines(given)
    if lines is not None:
        valid, unknown = given_list(lines, train, valid_list or given)
        if unknown:
            told.append(
                f'{len(unknown)} entries of the validation list are no training recordings, such as {unknown[0]}'
            )
    else:
        chosen, parted = draw({key: labels[key] for key in train}, sessions(sorted(train), records), seed=seed)
        valid = sorted(chosen)
        if parted:
            told.append(
                f'{int(parted)} sessions of one author, day and place had to be parted, to have their species on both sides'
            )
    if not valid:
        raise Problem(f'{dataset}: no species has two recordings to split; give a validation list')
    if valid_list:
        # entries that are no recordings yet may become some
        layout.write_if_changed(given, ''.join(f'{line}\n' for line in lines))
    lists['train'] = sorted(train - set(valid))
    lists['valid'] = valid
    changed = [
        name
        for name, keys in lists.items()
        if (keys or os.path.exists(os.path.join(folder, name)))
        and layout.write_if_changed(os.path.join(folder, name), ''.join(f'{key}\n' for key in keys))
    ]
    told.append(
        '{}: {}; validation {}; {}'.format(
            folder,
            ', '.join('%d %s' % (len(keys), name) for name, keys in lists.items() if keys),
            'as given' if lines is not None else 'drawn',
            '{} written'.format(', '.join(changed)) if changed else 'nothing new',
        )
    )
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    parser.add_argument(
        '--valid-list', metavar='FILE', help='validation recordings, one a line: train/YEAR/BASE.wav or BASE'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the draw (0)')
    args = parser.parse_args()
    for line in split(layout.dataset_folder(args.dataset), args.valid_list, args.seed):
        print(line)


if __name__ == '__main__':
    program.run(main)
