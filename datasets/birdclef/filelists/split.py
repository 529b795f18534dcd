#!/usr/bin/env python3
"""Write the file lists of a dataset, draw validation and test recordings, and create datasets for cross-validation.

Reads datasets/NAME/recordings.tsv and writes filelists/train, valid, test, soundscapes_val, soundscapes_test, noise and
unlabelled, one list for each value of the column `part` that occurs, with the recordings that are in audio/. Training
and validation recordings without a label are not listed. filelists/groups.tsv contains the group of each recording in
train, valid and test: recordings of one group, such as clips of one original recording, are on the same side.

Validation recordings are those with the part `valid`, and those of --valid-list, which is copied to
filelists/valid.given and used again in later runs. If there are none, 8 % of each class are drawn. --valid SHARE draws
even if there are some, and --test SHARE draws test recordings. In later runs, recordings stay in their list, and new
ones join the list of their group or are drawn. If the options change, the lists are drawn again. Options that are not
given are those of the last run (preparation.json).

--folds K also creates the datasets NAME-fold1 to NAME-foldK: each recording in train or valid is held out, that is, in
the list valid, in one of them.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import collections
import dataclasses
from collections.abc import Callable, Iterable

from birdsong.files import Problem, read_lines
from shared import dataset as datasets
from shared import folds as fold_datasets
from shared.drawing import SHARE, draw, draw_side
from shared.groups import KINDS, group, members
from shared.options import remembered, stored
from shared.recordings import PARTS, TRAINING, WITHOUT_LABEL, Recording, read_recordings
from shared.tables import read_table, table, write_if_changed
from shared.xml_fields import records_file

__all__ = ['draw', 'given_list', 'split']

STEP, GIVEN = 'split', 'valid.given'
DEFAULT_GROUP = 'original'
DRAWN = ('train', 'valid', 'test')
# What to do if recordings are in one group by mistake.
NO_CLIPS = '; use --group none if numbers in file names do not mean clips'


@dataclasses.dataclass
class Options:
    """Options of the program. None means the default, except for `folds`, where it means none."""

    valid: float | None = None
    test: float | None = None
    folds: int | str | None = None
    fold_pattern: str | None = None
    group: str | None = None
    seed: int | None = None

    def __post_init__(self):
        """Raises Problem for values that are not allowed."""
        for name in ('valid', 'test'):
            share = getattr(self, name)
            if share is not None and not (isinstance(share, (int, float)) and 0 <= share < 1):
                raise Problem(f'--{name} {share}: expected a share from 0 to below 1, such as 0.1')
        if (self.valid or 0) + (self.test or 0) >= 1:
            raise Problem(f'--valid {self.valid:g} and --test {self.test:g}: nothing would be left to train on')
        if isinstance(self.folds, str) and self.folds.isdecimal():
            self.folds = int(self.folds)
        count = self.folds if isinstance(self.folds, int) else 0
        if self.folds not in (None, 'given', count) or count == 1 or not 0 <= count <= fold_datasets.MOST:
            expected = f'a number from 2 to {fold_datasets.MOST}, "given", or 0 for none'
            raise Problem(f'--folds {self.folds}: expected {expected}')
        if not isinstance(self.fold_pattern or '', str) or not isinstance(self.seed or 0, int):
            raise Problem(f'--fold-pattern {self.fold_pattern}, --seed {self.seed}: expected a text and a number')
        if self.fold_pattern and self.folds is None:
            self.folds = 'given'
        if self.group not in (None, *KINDS):
            raise Problem(f'--group {self.group}: expected one of {", ".join(KINDS)}')

    def lists(self) -> tuple:
        """The options that the lists depend on."""
        return self.valid, self.test, self.group or DEFAULT_GROUP, self.seed or 0

    def divisions(self) -> tuple:
        """The options that the folds depend on."""
        return self.folds, self.fold_pattern, self.group or DEFAULT_GROUP, self.seed or 0


@dataclasses.dataclass
class Content:
    """The recordings of a dataset that can be listed."""

    dataset: str
    recordings: dict[str, Recording]  # by key
    lists: dict[str, list[str]]  # part -> sorted keys
    labels: dict[str, str]  # key -> class index
    groups: dict[str, str]  # key -> group, for train, valid and test
    archives: bool  # whether this is the layout of BirdCLEF 2018

    def class_sizes(self, keys: list[str], options: Options) -> dict[str, int]:
        """Number of recordings of each class that the shares refer to: of `keys`, and of given test recordings."""
        test = self.lists['test'] if options.test else []
        return collections.Counter(self.labels[key] for key in [*keys, *test] if key in self.labels)

    def name_of(self, label: str) -> str:
        """Id of the class with an index."""
        found = (self.recordings[key].class_id for key, index in self.labels.items() if index == label)
        return next(filter(None, found), label)


def read_labels(dataset: str, needed: bool) -> dict[str, str]:
    """Dict of key -> class index. Raises Problem if labels/fg.tsv is damaged, or if it is missing but `needed`."""
    filename = os.path.join(dataset, 'labels', 'fg.tsv')
    if not os.path.exists(filename):
        if not needed:
            return {}
        raise Problem(f'{filename}: no such file; run datasets/birdclef/labels/recreate.py first')
    return {key: label for key, label in read_table(filename, 2)}


def read_content(dataset: str, kind: str) -> tuple[Content, list[str]]:
    """The recordings of a dataset's folder, without those that cannot be listed, and messages about them."""
    rows = {recording.key: recording for recording in read_recordings(dataset)}
    if not stored(dataset, 'collect').get('no_audio'):
        existing = set(datasets.recordings(dataset))
        rows = {key: recording for key, recording in rows.items() if key in existing}
    archives = os.path.exists(records_file(dataset))
    if archives:
        # as in 2018, copies with other names, and the test recordings of the challenge, do not influence what is drawn
        for recording in rows.values():
            recording.copy_of = ''
    labels = read_labels(dataset, needed=any(recording.part in TRAINING for recording in rows.values()))
    labels = {key: label for key, label in labels.items() if key in rows}
    messages, lists = [], {}
    for part in PARTS:
        keys = sorted(key for key, recording in rows.items() if recording.part == part)
        if part in TRAINING:
            unlabelled = [key for key in keys if key not in labels]
            if unlabelled:
                what = 'training' if part == 'train' else 'validation'
                text = f'{len(unlabelled)} {what} recordings have no label and are not listed'
                messages.append(f'{text}, such as {unlabelled[0]}')
            keys = [key for key in keys if key in labels]
            if unlabelled and not keys and part == 'train':
                raise Problem(f'{dataset}: 0 training recordings with label; at least 2 are needed')
        lists[part] = keys
    training, test = ([rows[key] for part in parts for key in lists[part]] for parts in (TRAINING, ('test',)))
    groups = group(training, kind) | group(test, kind) if archives else group(training + test, kind)
    return Content(dataset, rows, lists, labels, groups, archives), messages


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
        example = f'; expected lines such as {min(train)}' if train else ''
        raise Problem(f'{name}: names no training recording of this dataset{example}')
    if len(keys) == len(train):
        raise Problem(f'{name}: names all training recordings; none would be left to train on')
    return list(keys), unknown


def _base(path):
    return os.path.splitext(os.path.basename(path))[0]


def earlier_lists(content: Content) -> dict[str, str]:
    """Dict of key -> list it is in (train, valid or test), of recordings whose part is train."""
    result = {}
    for name in DRAWN:
        filename = os.path.join(content.dataset, 'filelists', name)
        if os.path.exists(filename):
            result.update(dict.fromkeys(read_lines(filename), name))
    return {key: result[key] for key in content.lists['train'] if key in result}


def choose_validation(
    content: Content, given: list[str], options: Options, earlier: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Validation recordings: those that are given, then those that are drawn -> (keys, messages).

    `earlier`: see `earlier_lists`. Raises Problem if recordings should be drawn, but none can be.
    """
    share = options.valid if options.valid is not None else 0 if given else SHARE
    train = sorted(set(content.lists['train']) - set(given))
    if not share or not train:
        return given, []
    if len(train) < 2:
        raise Problem(f'{content.dataset}: {len(train)} training recordings with label; at least 2 are needed')
    settled = {key: name == 'valid' for key, name in earlier.items()}
    if not options.test:
        settled = {key: side for key, side in settled.items() if earlier[key] != 'test'}
    settled |= dict.fromkeys(content.lists['test'], False) | dict.fromkeys(given, True)
    tested = {key for key in train if options.test and earlier.get(key) == 'test'}
    labels = {key: content.labels[key] for key in [*train, *given] if key not in tested}
    totals = content.class_sizes([*train, *given], options)
    clips = clips_of(content) if content.archives and options.group in (None, DEFAULT_GROUP) else None
    drawn, divided = draw_side(labels, members(content.groups), settled, share, options.seed or 0, totals, clips)
    if not drawn:
        kind = options.group or DEFAULT_GROUP
        text = f'no class has two recordings to split, of different groups (by {KINDS[kind]}); give a validation list'
        raise Problem(f'{content.dataset}: {text}{NO_CLIPS if kind == DEFAULT_GROUP else ""}')
    text = f'{divided} sessions of one author, day and place had to be divided, so that their classes are on both sides'
    return given + sorted(drawn - set(given)), [text] if divided else []


def choose_test(content: Content, valid: list[str], options: Options, earlier: dict[str, str]) -> list[str]:
    """Sorted test recordings: those with the part test, and those that are drawn."""
    test, train = content.lists['test'], sorted(set(content.lists['train']) - set(valid))
    if not options.test or not train:
        return test
    settled = {key: name == 'test' for key, name in earlier.items()}
    settled |= dict.fromkeys(test, True) | dict.fromkeys(valid, False)
    labels = {key: content.labels[key] for key in [*train, *test] if key in content.labels}
    totals = content.class_sizes([*train, *valid], options)
    drawn, _ = draw_side(labels, members(content.groups), settled, options.test, options.seed or 0, totals)
    return sorted(drawn)


def clips_of(content: Content) -> Callable[[str], list[str]]:
    """Function that returns the clips of the same original recording as a key, with itself.

    The layout of BirdCLEF 2018 divides sessions as in 2018, but never these.
    """
    groups = group((content.recordings[key] for key in content.groups), 'clips')
    together = {keys[0]: keys for keys in members(groups)}
    return lambda key: together[groups[key]]


def choose_folds(
    content: Content, keys: list[str], options: Options, same: bool
) -> tuple[fold_datasets.Folds, list[str]]:
    """Folds of the recordings `keys` -> (folds, messages). If `same`, recordings stay in their fold of the last run.

    Raises Problem if the recordings cannot be divided so.
    """
    if not options.folds:
        return {}, []
    count, rows = options.folds, [content.recordings[key] for key in keys]
    fixed, names = fold_datasets.given(rows, options.fold_pattern)
    if options.folds == 'given' and len(names) < 2:
        raise Problem(f'{content.dataset}: {len(names)} folds are given; give a column "fold", or --fold-pattern')
    if options.folds == 'given':
        count = len(names)
    elif names and count != len(names):
        raise Problem(f'{content.dataset}: {len(names)} folds are given, not {count}; use --folds given')
    messages = [f'folds as given: {", ".join(f"{name} (fold{i})" for i, name in enumerate(names, 1))}'] if names else []
    if same and not names:
        known = fold_datasets.known(content.dataset, count)
        fixed = {key: known[key] for key in keys if key in known}
    groups = members({key: content.groups[key] for key in keys})
    folds = fold_datasets.assign({key: content.labels[key] for key in keys}, groups, count, options.seed or 0, fixed)
    sizes = collections.Counter(folds.values())
    if not all(sizes[fold] for fold in range(1, count + 1)):
        raise Problem(f'{content.dataset}: {len(groups)} groups are too few for {count} folds; use fewer')
    fold_datasets.check(content.dataset, count)
    held_out = ', '.join(str(sizes[fold]) for fold in range(1, count + 1))
    messages.append(f'{os.path.basename(content.dataset)}-fold1 to -fold{count} hold out {held_out} recordings')
    divided = sum(len({folds[key] for key in keys}) > 1 for keys in groups)
    if divided:
        messages.append(f'{divided} groups are divided, since their folds are given or those of an earlier run')
    if sizes[None]:
        text = f'{sizes[None]} recordings are for training in every fold'
        messages.append(f'{text}, because a class would have no training recordings without them')
    return folds, messages


def describe_groups(content: Content, lists: dict[str, list[str]], kind: str, divided_now: bool) -> Iterable[str]:
    """Lines about the groups of the recordings in train, valid and test.

    `divided_now`: whether groups were divided in this run, which has been said already.
    """
    where = {key: name for name in DRAWN for key in lists[name]}
    groups = members({key: content.groups[key] for key in where})
    if not groups:
        return
    yield f'{len(groups)} groups (by {KINDS[kind]}), the largest with {max(map(len, groups))} recordings'
    both = sum(len({where[key] for key in keys}) > 1 for keys in groups)
    if both and not divided_now:
        yield f'{both} groups are divided, since their parts are given or those of an earlier run'
    number = collections.Counter(s for keys in groups for s in {content.labels.get(key) for key in keys} if s)
    single = sorted(s for s, n in number.items() if n == 1)
    if single and any(len(keys) > 1 for keys in groups):
        hint = NO_CLIPS if kind == DEFAULT_GROUP and len(single) > len(number) / 2 else ''
        yield f'{len(single)} of {len(number)} classes have only one group, such as {content.name_of(single[0])}{hint}'


def write_lists(content: Content, lists: dict[str, list[str]], again: bool) -> list[str]:
    """Write the lists and groups.tsv of a dataset -> names of the lists that have changed.

    Lists that became empty are kept, since they show that recordings are missing, unless they were drawn `again`, or
    need no label: then their recordings have another part now.
    """
    folder = os.path.join(content.dataset, 'filelists')
    changed = []
    for name, keys in lists.items():
        path = os.path.join(folder, name)
        removed = name in WITHOUT_LABEL or (again and name in DRAWN)
        if removed and not keys and os.path.exists(path):
            os.unlink(path)
            changed.append(name)
        if (keys or os.path.exists(path)) and write_if_changed(path, ''.join(f'{key}\n' for key in keys)):
            changed.append(name)
    listed = sorted(key for name in DRAWN for key in lists[name])
    if listed or os.path.exists(os.path.join(folder, fold_datasets.GROUPS)):
        write_if_changed(
            os.path.join(folder, fold_datasets.GROUPS), table((key, content.groups[key]) for key in listed)
        )
    return changed


def split(dataset: str, valid_list: str | None = None, **given: float | int | str | None) -> list[str]:
    """Write the file lists of a dataset's folder and its folds -> messages. `given`: fields of Options.

    Raises Problem, before anything is written.
    """
    fold_datasets.refuse_fold(dataset)
    given = dataclasses.asdict(Options(**given))
    options = Options(**remembered(dataset, STEP, given, store=False))
    before = Options(**{name: stored(dataset, STEP).get(name) for name in given})
    lines, name = given_lines(dataset, valid_list)
    content, messages = read_content(dataset, options.group or DEFAULT_GROUP)
    valid = list(content.lists['valid'])
    if lines is not None:
        listed, unknown = given_list(lines, set(content.lists['train'] + valid), name)
        valid = list(dict.fromkeys(valid + listed))
        if unknown:
            text = f'{len(unknown)} entries of the validation list are no training recordings, such as {unknown[0]}'
            messages.append(text)
    how = ' and '.join(['as given'] * bool(valid) + ['drawn'] * bool(not valid or options.valid))
    earlier = earlier_lists(content)
    again = options.lists() != before.lists()
    if earlier and again:
        messages.append('the options have changed: the lists are drawn again')
        earlier = {}
    valid, more = choose_validation(content, valid, options, earlier)
    test = choose_test(content, valid, options, earlier)
    lists = dict(content.lists, valid=valid, test=test)
    lists['train'] = sorted(set(content.lists['train']) - {*valid, *test})
    same_folds = options.divisions() == before.divisions()
    folds, about_folds = choose_folds(content, sorted(lists['train'] + valid), options, same_folds)
    messages += [*more, *describe_groups(content, lists, options.group or DEFAULT_GROUP, bool(more)), *about_folds]
    if before.folds and options.folds and not same_folds:
        messages.append('the options have changed: the folds are created again')

    if valid_list:
        # with all entries, since the recordings of unknown ones may be added later
        write_if_changed(os.path.join(dataset, 'filelists', GIVEN), ''.join(f'{line}\n' for line in lines))
    changed = write_lists(content, lists, again)
    new_folds = fold_datasets.write(dataset, lists, folds, content.groups)
    # last, so that an interrupted run draws again
    remembered(dataset, STEP, given)
    changed += [f'{new_folds} folds'] if new_folds else []
    sizes = ', '.join(f'{len(keys)} {name}' for name, keys in lists.items() if keys)
    news = f'{", ".join(changed)} written' if changed else 'nothing new'
    how = f'; validation {how}' if valid else ''
    return [*messages, f'{os.path.join(dataset, "filelists")}: {sizes}{how}; {news}']


def given_lines(dataset: str, valid_list: str | None) -> tuple[list[str] | None, str]:
    """Lines of the given validation list, or of that of an earlier run, None if there is none; and its file name."""
    earlier = os.path.join(dataset, 'filelists', GIVEN)
    filename = valid_list or earlier
    return (read_lines(filename) if valid_list or os.path.exists(earlier) else None), filename


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    add('--valid-list', metavar='FILE', help='validation recordings, one per line: a key such as a/b.wav, or b')
    text = 'share of each class that is drawn for validation (0.08, or 0 if some are given)'
    add('--valid', type=float, metavar='SHARE', help=text)
    add('--test', type=float, metavar='SHARE', help='share of each class that is drawn for the test (0)')
    text = 'what is never divided: the clips of an original recording or session (original, the default), or also all '
    text += 'recordings of a recordist or site; none: each recording is a group (if numbers in file names are no clips)'
    add('--group', choices=KINDS, help=text)
    text = 'number of folds; "given" for those of the column fold or of --fold-pattern; 0 for none (0)'
    add('--folds', metavar='K', help=text)
    text = "regular expression that matches the start of each file name; its first group is the fold, such as '(\\d)-'"
    add('--fold-pattern', metavar='REGEX', help=text)
    add('--seed', type=int, help='seed of the random choice (0)')
    args = vars(parser.parse_args())
    for line in split(datasets.dataset_folder(args.pop('dataset')), args.pop('valid_list'), **args):
        print(line)


if __name__ == '__main__':
    program.run(main)
