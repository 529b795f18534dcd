#!/usr/bin/env python3
"""Write the file lists of a dataset. The validation recordings are those of a given list, or chosen at random.

Lists the recordings in datasets/NAME/audio/ in filelists/train, valid, test, soundscapes_val and soundscapes_test.
Training recordings without a label (no XML) are not listed. The list of --valid-list is copied to filelists/valid.given
and used again in later runs. Without it, about 8 % of each species are drawn, always the same ones. Every species with
at least two recordings has one on each side, and recordings with the same author, day and place stay together.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import collections
import hashlib
from collections.abc import Iterable

from birdsong.files import Problem, read_lines
from shared import dataset as datasets
from shared.metadata_values import repair_date
from shared.tables import read_table, write_if_changed
from shared.xml_fields import read_records

SHARE = 0.08


def sessions(keys: Iterable[str], records: dict[str, dict[str, str]]) -> list[list[str]]:
    """Group recordings (keys) with the same author, day and place; if these are unknown, a recording is its own group.

    Places are the same if their names or their coordinates are equal.
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
            date = repair_date(fields.get('Date', ''))
        except ValueError:
            continue
        if not author:
            continue
        coordinates = fields['Latitude'] and fields['Longitude'] and (fields['Latitude'], fields['Longitude'])
        for place in filter(None, (fields['Locality'].lower(), coordinates)):
            leader[lead(key)] = lead(first.setdefault((author, date, place), key))
    groups = collections.defaultdict(list)
    for key in keys:
        groups[lead(key)].append(key)
    return list(groups.values())


def draw(species: dict[str, str], groups: list[list[str]], share: float = SHARE, seed: int = 0) -> tuple[set[str], int]:
    """Draw a validation set -> (set of keys, number of groups that had to be divided).

    `species`: dict of key -> species, `groups`: lists of keys that stay together. Of each species with at least two
    recordings, at least one is drawn and at least one is not. Groups are divided only if this is impossible otherwise.
    The result depends on the keys and the seed, not on their order.
    """

    def order(keys):
        return hashlib.sha256(f'{seed}|{min(keys)}'.encode()).digest()

    groups = sorted(groups, key=order)
    drawing = _Drawing(species, groups, share)
    valid, divided = set(), set()
    # the rarest species first: they have the least choice
    for s in sorted(drawing.sizes, key=lambda s: (drawing.sizes[s], s)):
        while drawing.drawn[s] < drawing.wanted[s]:
            number = drawing.best_group(s)
            if number is not None:
                drawing.taken.add(number)
                drawing.drawn.update(drawing.counts[number])
                valid.update(groups[number])
            elif drawing.drawn[s]:
                break
            else:
                number = max(drawing.groups_of[s], key=lambda number: (drawing.counts[number][s], -number))  # noqa: B023
                keys = [key for key in groups[number] if species[key] == s and key not in valid]
                valid.add(min(keys, key=lambda key: order([key])))
                drawing.drawn[s] += 1
                divided.add(number)
    return valid, len(divided)


class _Drawing:
    """How many recordings of each species are wanted and drawn, and what each group would add."""

    def __init__(self, species, groups, share):
        self.sizes = collections.Counter(species.values())
        self.wanted = {s: max(1, round(share * n)) if n > 1 else 0 for s, n in self.sizes.items()}
        self.drawn = collections.Counter()
        self.counts = [collections.Counter(species[key] for key in group) for group in groups]
        self.taken = set()
        self.groups_of = collections.defaultdict(list)
        for number, count in enumerate(self.counts):
            for s in count:
                self.groups_of[s].append(number)

    def excess(self, number):
        """Number of recordings too many if this group is taken; None if a species had none left for training."""
        total = 0
        for s, n in self.counts[number].items():
            if self.drawn[s] + n >= self.sizes[s]:
                return None
            total += max(0, self.drawn[s] + n - self.wanted[s])
        return total

    def best_group(self, s):
        """The group with species `s` that has the least excess, or None.

        If the species has a recording already, groups whose excess is above what they help are not taken.
        """
        numbers = [number for number in self.groups_of[s] if number not in self.taken]
        costs = [(cost, number) for number in numbers if (cost := self.excess(number)) is not None]
        missing = self.wanted[s] - self.drawn[s]
        costs = [c for c in costs if not self.drawn[s] or c[0] <= min(self.counts[c[1]][s], missing)]
        return min(costs)[1] if costs else None


def given_list(lines: list[str], train: set[str], name: str) -> tuple[list[str], list[str]]:
    """Entries of a given validation list -> (keys of training recordings, in their order; entries that are none).

    An entry is a key, or a file name with or without suffix; it means the recording with that file name whose key has
    the fewest folders. Raises Problem if no training recording is listed, or all.
    """
    by_base = {_base(key): key for key in sorted(train, key=lambda key: (-key.count('/'), key))}
    entries = [line.strip() for line in lines if line.strip() and not line.startswith('#')]
    keys, unknown = {}, []
    for entry in entries:
        key = entry if entry in train else by_base.get(_base(entry))
        if key:
            keys[key] = True
        else:
            unknown.append(entry)
    if not keys:
        raise Problem(f'{name}: names no training recording of this dataset; expected lines such as {min(train)}')
    if len(keys) == len(train):
        raise Problem(f'{name}: names all training recordings; none would be left to train on')
    return list(keys), unknown


def _base(path):
    return os.path.splitext(os.path.basename(path))[0]


def existing_recordings(dataset: str) -> dict[str, list[str]]:
    """Dict of file list -> sorted keys of its recordings in audio/."""
    lists = {name: [] for name in datasets.LISTS.values()}
    for key in datasets.recordings(dataset):
        if datasets.list_of(key):
            lists[datasets.list_of(key)].append(key)
    return lists


def read_labels(dataset: str) -> dict[str, str]:
    """Dict of key -> class index. Raises Problem if labels/fg.tsv is missing or damaged."""
    filename = os.path.join(dataset, 'labels', 'fg.tsv')
    if not os.path.exists(filename):
        raise Problem(f'{filename}: no such file; run datasets/birdclef/labels/recreate.py first')
    return {key: label for key, label in read_table(filename, 2)}


def choose_validation(
    dataset: str, labels: dict[str, str], train: set[str], lines: list[str] | None, name: str, seed: int
) -> tuple[list[str], list[str]]:
    """Validation recordings from the lines of a given list, or drawn if there is none -> (keys, messages)."""
    if lines is not None:
        valid, unknown = given_list(lines, train, name)
        text = f'{len(unknown)} entries of the validation list are no training recordings, such as '
        return valid, [text + unknown[0]] if unknown else []
    groups = sessions(sorted(train), read_records(dataset))
    valid, divided = draw({key: labels[key] for key in train}, groups, seed=seed)
    if not valid:
        raise Problem(f'{dataset}: no species has two recordings to split; give a validation list')
    text = f'{divided} sessions of one author, day and place had to be divided, so that their species are on both sides'
    return sorted(valid), [text] if divided else []


def split(dataset: str, valid_list: str | None = None, seed: int = 0) -> list[str]:
    """Write the file lists of a dataset's folder -> messages. Raises Problem, before anything is written."""
    folder = os.path.join(dataset, 'filelists')
    given = os.path.join(folder, 'valid.given')
    lines = read_lines(valid_list) if valid_list else None
    lists, labels = existing_recordings(dataset), read_labels(dataset)
    train = {key for key in lists['train'] if key in labels}
    messages, unlabelled = [], set(lists['train']) - train
    if unlabelled:
        text = f'{len(unlabelled)} training recordings have no label and are not listed'
        messages.append(f'{text}, such as {min(unlabelled)}')
    if len(train) < 2:
        raise Problem(f'{dataset}: {len(train)} training recordings with label; at least 2 are needed')
    if lines is None and os.path.exists(given):
        lines = read_lines(given)
    valid, more = choose_validation(dataset, labels, train, lines, valid_list or given, seed)
    if valid_list:
        # with all entries, since the recordings of unknown ones may be added later
        write_if_changed(given, ''.join(f'{line}\n' for line in lines))
    lists['train'] = sorted(train - set(valid))
    lists['valid'] = valid
    changed = [
        name
        for name, keys in lists.items()
        if (keys or os.path.exists(os.path.join(folder, name)))
        and write_if_changed(os.path.join(folder, name), ''.join(f'{key}\n' for key in keys))
    ]
    sizes = ', '.join(f'{len(keys)} {name}' for name, keys in lists.items() if keys)
    how = 'drawn' if lines is None else 'as given'
    news = f'{", ".join(changed)} written' if changed else 'nothing new'
    return [*messages, *more, f'{folder}: {sizes}; validation {how}; {news}']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    text = 'validation recordings, one per line: train/YEAR/BASE.wav or BASE'
    parser.add_argument('--valid-list', metavar='FILE', help=text)
    parser.add_argument('--seed', type=int, default=0, help='seed of the random choice (0)')
    args = parser.parse_args()
    for line in split(datasets.dataset_folder(args.dataset), args.valid_list, args.seed):
        print(line)


if __name__ == '__main__':
    program.run(main)
