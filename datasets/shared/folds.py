"""Folds for cross-validation: a division of recordings into K parts, and the K datasets NAME-fold1 to NAME-foldK.

In NAME-fold2, the validation list contains the recordings of fold 2, and the training list those of the other folds.
Everything but the lists is shared with NAME, by relative symbolic links.
"""

import collections
import contextlib
import os
import re
from collections.abc import Iterable

from birdsong.files import Problem, read_lines
from shared.drawing import hash_order
from shared.recordings import Recording
from shared.tables import table, write_if_changed

# What a fold shares with its dataset. The link to labels is created first: it marks the folder as a fold.
SHARED = ('labels', 'audio', 'index.npz', 'dataset.vars', 'recordings.tsv')
# Files that may not exist yet when the folds are created.
CREATED_LATER = ('index.npz',)
LISTS = ('train', 'valid', 'noise', 'unlabelled')
GROUPS = 'groups.tsv'
NAME = re.compile(r'(.+)-fold([1-9]\d*)')
MOST, LONGEST_NAME = 100, 50
LONGEST_PATTERN = 200

# Key -> number of its fold, from 1; None for recordings that are in the training list of every fold.
Folds = dict[str, int | None]


def given(recordings: Iterable[Recording], pattern: str | None = None) -> tuple[dict[str, int], list[str]]:
    """Folds that the source gives, in the column `fold` or in file names -> (folds by key, their names in order).

    `pattern` is a regular expression that is matched at the start of each file name; its first group is the name of the
    fold. Names that are numbers are sorted as such. Raises Problem if the pattern cannot be used.
    """
    if pattern is not None:
        named = _from_file_names(recordings, pattern)
    else:
        named = {recording.key: recording.fold for recording in recordings if recording.fold}
    names = sorted(set(named.values()), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    if len(names) > MOST or any(len(name) > LONGEST_NAME for name in names):
        raise Problem(f'{len(names)} folds are given, such as {names[0][:LONGEST_NAME]}; expected at most {MOST}')
    numbers = {name: number for number, name in enumerate(names, 1)}
    return {key: numbers[name] for key, name in named.items()}, names


def _from_file_names(recordings, pattern):
    try:
        expression = re.compile(pattern if len(pattern) <= LONGEST_PATTERN else '(')
    except re.error:
        expression = None
    if not expression or not expression.groups:
        raise Problem(
            f'--fold-pattern {pattern[:LONGEST_PATTERN]!r}: expected a regular expression of at most '
            f"{LONGEST_PATTERN} characters with a group that is the fold, such as '(\\d)-' for 1-17367-A-10.ogg"
        )
    found = {r.key: expression.match(os.path.basename(r.source or r.key)) for r in recordings}
    others = sorted(key for key, match in found.items() if not match or not match.group(1))
    if others:
        text = f'{len(others)} of {len(found)} file names do not match, such as {others[0]}'
        raise Problem(f'--fold-pattern {pattern!r}: {text}; correct the pattern')
    return {key: match.group(1) for key, match in found.items()}


def assign(
    labels: dict[str, str], groups: list[list[str]], count: int, seed: int = 0, fixed: Folds | None = None
) -> Folds:
    """Divide recordings into `count` folds by groups, such that each class is spread evenly as far as groups allow.

    `labels`: dict of key -> class, `groups`: lists of keys that stay together, `fixed`: known folds.
    A group without which a class would have no training recordings gets None, as do groups with the only recordings of
    a class. The result depends on the keys and the seed, not on their order.
    """
    division = _Division(labels, count, fixed or {})
    free = []
    for keys in groups:
        known = [division.folds[key] for key in keys if key in division.folds]
        if known:
            division.put([key for key in keys if key not in division.folds], _most_frequent(known))
        else:
            free.append(keys)
    groups_of = collections.Counter(s for keys in groups for s in {labels[key] for key in keys})
    for keys in sorted(free, key=lambda keys: (-len(keys), hash_order(keys, seed))):
        only = any(groups_of[labels[key]] == 1 for key in keys)
        division.put(keys, None if only else division.best_fold(keys))
    division.release(free)
    return division.folds


def _most_frequent(folds):
    return max(sorted(folds, key=lambda fold: fold or 0), key=folds.count)


class _Division:
    """The folds of recordings, and how many of each class are in each fold."""

    def __init__(self, labels, count, fixed):
        self.labels = labels
        self.sizes = collections.Counter(labels.values())
        self.counts = {fold: collections.Counter() for fold in (None, *range(1, count + 1))}
        self.totals = collections.Counter()
        self.folds = {}
        for key, fold in fixed.items():
            self.put([key], fold)

    def put(self, keys, fold):
        for key in keys:
            before = self.folds.get(key, fold)
            if before != fold:
                self.counts[before][self.labels[key]] -= 1
                self.totals[before] -= 1
            if before != fold or key not in self.folds:
                self.counts[fold][self.labels[key]] += 1
                self.totals[fold] += 1
            self.folds[key] = fold

    def best_fold(self, keys):
        """The fold that has the smallest shares of the classes of `keys`, of these the smallest fold."""
        wanted = sorted(collections.Counter(self.labels[key] for key in keys).items())

        def cost(fold):
            counts = self.counts[fold]
            return sum(counts[s] * n / self.sizes[s] ** 2 for s, n in wanted), self.totals[fold], fold

        return min((fold for fold in self.counts if fold), key=cost)

    def release(self, groups):
        """Take groups out of the folds so that no fold has all recordings of a class, the smallest groups first."""
        groups_of = collections.defaultdict(list)
        for keys in groups:
            for s in {self.labels[key] for key in keys}:
                groups_of[s].append(keys)
        for s in sorted(self.sizes):
            if any(self.counts[fold][s] == self.sizes[s] for fold in self.counts if fold) and groups_of[s]:
                self.put(min(groups_of[s], key=lambda keys: (len(keys), min(keys))), None)


def folder_of(dataset: str, number: int) -> str:
    """The folder of a fold's dataset."""
    return f'{dataset}-fold{number}'


def base_of(dataset: str) -> str:
    """The folder of the dataset that `dataset` is a fold of, '' if it is not a fold."""
    found = NAME.fullmatch(os.path.basename(dataset))
    base = os.path.join(os.path.dirname(dataset), found.group(1)) if found else ''
    return base if base and _link(dataset, 'labels') == _target(base, 'labels') else ''


def refuse_fold(dataset: str) -> None:
    """Raise Problem if a dataset is a fold of another one, since it would change files of that."""
    if base := base_of(dataset):
        raise Problem(f'{dataset}: a fold of {os.path.basename(base)}; prepare that dataset, with --folds')


def known(dataset: str, count: int) -> Folds:
    """Folds of the recordings in the lists of existing fold datasets."""
    result = {}
    for number in range(1, count + 1):
        folder = folder_of(dataset, number)
        lists = {name: os.path.join(folder, 'filelists', name) for name in ('train', 'valid')}
        if base_of(folder) == dataset and all(map(os.path.exists, lists.values())):
            for key in read_lines(lists['train']):
                result.setdefault(key, None)
            result.update(dict.fromkeys(read_lines(lists['valid']), number))
    return result


def existing(dataset: str) -> list[str]:
    """Folders of the fold datasets of a dataset, in no order."""
    parent = os.path.dirname(dataset)
    paths = [os.path.join(parent, name) for name in os.listdir(parent) if name.startswith(os.path.basename(dataset))]
    return [path for path in paths if base_of(path) == dataset]


def check(dataset: str, count: int) -> None:
    """Raise Problem if a folder that a fold needs contains something else, or if `dataset` has the name of a fold."""
    if NAME.fullmatch(os.path.basename(dataset)):
        raise Problem(f'{dataset}: has the name of a fold; rename it to divide it into folds')
    for number in range(1, count + 1):
        folder = folder_of(dataset, number)
        if os.path.lexists(folder) and base_of(folder) != dataset and not _is_empty(folder):
            raise Problem(f'{folder}: exists, but is not a fold of {os.path.basename(dataset)}; rename it')


def write(dataset: str, lists: dict[str, list[str]], folds: Folds, groups: dict[str, str]) -> int:
    """Create or update the datasets of all folds -> number of those that changed.

    `lists`: lists of the dataset, of which those that a fold copies are used; `folds`: folds of the recordings in train
    and valid. Datasets of folds that are no longer needed are removed.
    """
    count = max((fold for fold in folds.values() if fold), default=0)
    changed = 0
    for number in range(1, count + 1):
        folder = folder_of(dataset, number)
        own = {
            **{name: lists[name] for name in LISTS if lists.get(name)},
            'train': sorted(key for key, fold in folds.items() if fold != number),
            'valid': sorted(key for key, fold in folds.items() if fold == number),
        }
        changed += _update(dataset, folder, own, groups)
    for folder in existing(dataset):
        if int(NAME.fullmatch(folder)[2]) > count:
            _remove(folder)
    return changed


def _update(dataset, folder, lists, groups):
    """Write the links and lists of a fold -> whether something has changed."""
    os.makedirs(os.path.join(folder), exist_ok=True)
    changed = [_update_link(dataset, folder, name) for name in SHARED]
    filelists = os.path.join(folder, 'filelists')
    for name, keys in lists.items():
        changed.append(write_if_changed(os.path.join(filelists, name), ''.join(f'{key}\n' for key in keys)))
    rows = ((key, groups[key]) for key in sorted(lists['train'] + lists['valid']))
    changed.append(write_if_changed(os.path.join(filelists, GROUPS), table(rows)))
    for name in set(LISTS) - set(lists):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(filelists, name))
    return any(changed)


def _update_link(dataset, folder, name):
    """Create, correct or remove a link of a fold -> whether it has changed."""
    target, path = _target(dataset, name), os.path.join(folder, name)
    if not (name in CREATED_LATER or os.path.exists(os.path.join(dataset, name))):
        target = ''
    if _link(folder, name) == target:
        return False
    if os.path.lexists(path):
        os.unlink(path)
    if target:
        os.symlink(target, path)
    return True


def _target(dataset, name):
    return os.path.join(os.pardir, os.path.basename(dataset), name)


def _link(folder, name):
    """What a link in a folder points to, '' if there is no such link."""
    try:
        return os.readlink(os.path.join(folder, name))
    except OSError:
        return ''


def _is_empty(folder):
    return os.path.isdir(folder) and not os.listdir(folder)


def _remove(folder):
    """Remove the links and lists of a fold, and its folders unless they contain other files."""
    filelists = os.path.join(folder, 'filelists')
    files = [os.path.join(filelists, name) for name in (*LISTS, GROUPS)]
    # the link that marks the folder as a fold is removed last
    links = [os.path.join(folder, name) for name in reversed(SHARED) if _link(folder, name)]
    for path in files + links:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    for path in (filelists, folder):
        with contextlib.suppress(OSError):
            os.rmdir(path)
