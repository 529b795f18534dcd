"""Folds of a dataset: the datasets NAME-fold1, NAME-fold2, ..., which differ from NAME only in their file lists.

`prepare_birdclef.sh --folds K` makes them. Each training and validation recording of NAME is in the validation list of
one fold and in the training lists of the others, so that a model of each fold predicts recordings that it has not seen.
(Some may be in all training lists, for example those of a class that is not divided.)
"""

import glob
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from birdsong.data.dataset import Dataset
from birdsong.files import Problem, read_lines, writing

# In the folder of a fold's results: all recordings that were ever in its training list.
TRAINED = 'trained.list'


class Fold(NamedTuple):
    """A fold: name of its dataset, and keys of its training and validation recordings."""

    name: str
    train: list[str]
    valid: list[str]


def find(dataset: Dataset) -> list[Fold]:
    """The folds of a dataset, in the order of their numbers.

    Raises Problem if there are fewer than two, if a number is missing, or if their lists are not those of a
    cross-validation: a recording must be in the validation list of one fold only, and never in both lists of a fold.
    """
    parent, stem = os.path.split(os.path.abspath(dataset.path))
    found = [re.fullmatch(rf'{re.escape(stem)}-fold([1-9][0-9]*)', name) for name in os.listdir(parent)]
    found = [match for match in found if match and os.path.isdir(os.path.join(parent, match.group(), 'filelists'))]
    numbers = sorted(int(match.group(1)) for match in found)
    if len(numbers) < 2 or numbers != list(range(1, len(numbers) + 1)):
        some = ', '.join(f'fold{number}' for number in numbers)
        raise Problem(
            f'{os.path.join(parent, stem)}-fold1, ...: {f"only {some}" if numbers else "no such folds"}; create them '
            f'with ./prepare_birdclef.sh SOURCE --dataset {stem} --folds 5'
        )
    folds, holder = [], {}
    for number in numbers:
        part = Dataset(os.path.join(parent, f'{stem}-fold{number}'))
        fold = Fold(part.name, part.filelist('train'), part.filelist('valid'))
        for key in fold.valid:
            if key in holder:
                where = f'of {holder[key]} and of {fold.name}' if holder[key] != fold.name else f'of {fold.name} twice'
                raise Problem(f'{key}: in the validation list {where}; prepare the folds again')
            holder[key] = fold.name
        both = set(fold.train) & set(fold.valid)
        if both:
            raise Problem(f'{fold.name}: {min(both)} is in both of its lists; prepare the folds again')
        folds.append(fold)
    return folds


def groups(dataset: Dataset, keys: Sequence[str]) -> list[str] | None:
    """The group of each recording according to filelists/groups.tsv, or None if there is no such file.

    Recordings without a row are a group of their own.
    """
    filename = os.path.join(dataset.path, 'filelists', 'groups.tsv')
    if not os.path.exists(filename):
        return None
    known = {}
    for number, line in enumerate(read_lines(filename), 1):
        key, tab, group = line.partition('\t')
        if not tab:
            raise Problem(f'{filename}, line {number}: expected KEY, tab, GROUP; prepare the dataset again')
        known[key] = f'group {group}'
    return [known.get(key, f'recording {key}') for key in keys]


def remember_training(fold: Fold, folder: str) -> None:
    """Add the training recordings of a fold to trained.list in the folder of its results.

    Raises Problem if a validation recording is in it: models trained earlier have seen that recording. Without models
    in the folder, the list starts again.
    """
    filename = os.path.join(folder, TRAINED)
    started = any(glob.glob(os.path.join(glob.escape(folder), f'*.npz{suffix}')) for suffix in ('', '.lock'))
    earlier = read_lines(filename) if started and os.path.exists(filename) else []
    seen = set(earlier) & set(fold.valid)
    if seen:
        raise Problem(
            f'{folder}: its models were trained when {len(seen)} of the {len(fold.valid)} recordings of the validation '
            f'list were in the training list, such as {min(seen)}; the folds have changed since: delete '
            f'{os.path.join(os.path.dirname(folder), fold.name.rpartition("-fold")[0])}-fold*/ to train all again'
        )
    known = set(earlier)
    keys = earlier + [key for key in fold.train if key not in known]
    if keys != earlier:
        os.makedirs(folder, exist_ok=True)
        with writing(filename, 'w', encoding='utf-8') as f:
            f.writelines(f'{key}\n' for key in keys)
