"""Classes by the names that people use, and choices of classes: thresholds, and the classes to report."""

import csv
import os
from typing import NamedTuple

import numpy as np

from birdsong.data.dataset import Dataset
from birdsong.files import Problem, open_regular, read_lines
from birdsong.names import did_you_mean

# In a table of thresholds, all classes that have no row.
OTHERS = '*'
COLUMNS = ('class', 'threshold')


class Species(NamedTuple):
    """A class: its id and its names. Unknown names are the scientific name, or the class id."""

    class_id: str
    scientific_name: str
    common_name: str


def of(dataset: Dataset) -> list[Species]:
    """All classes of a dataset, in the order of class indices."""
    ids = dataset.labelset
    latin, common = (_names(dataset, name, len(ids)) for name in ('labelset_latin', 'labelset_common'))
    return [Species(i, s or i, c or s or i) for i, s, c in zip(ids, latin, common, strict=True)]


def _names(dataset: Dataset, name: str, count: int) -> list[str]:
    filename = os.path.join(dataset.path, 'labels', name)
    names = [line.strip() for line in read_lines(filename)] if os.path.exists(filename) else []
    return (names + [''] * count)[:count]


def indices(species: list[Species], names: list[str], origin: str) -> list[int]:
    """Class indices of class ids, scientific or common names.

    Raises Problem, with `origin`, for a name that no class or several classes have.
    """
    ids, known = {one.class_id: i for i, one in enumerate(species)}, {}
    for i, one in enumerate(species):
        for name in one:
            known.setdefault(name.casefold(), set()).add(i)
    result = []
    for name in names:
        found = {ids[name]} if name in ids else known.get(name.casefold(), ())
        if not found:
            hint = did_you_mean(name, [n for one in species for n in one], 'give class ids, scientific or common names')
            raise Problem(f'{origin}: {name!r} is no class of the dataset; {hint}')
        if len(found) > 1:
            both = ', '.join(species[i].class_id for i in sorted(found))
            raise Problem(f'{origin}: {name!r} is the name of several classes; give one of their ids: {both}')
        result += found
    return result


def chosen(species: list[Species], text: str) -> np.ndarray:
    """Mask (classes,) of the classes in a file, one per line, or in a list of names separated by commas."""
    if os.path.exists(text):
        names = [line.strip() for line in read_lines(text)]
        names = [name for name in names if name and not name.startswith('#')]
    else:
        names = [name.strip() for name in text.split(',') if name.strip()]
    if not names:
        raise Problem(f'--classes={text}: no class; give a file with one class per line, or names separated by commas')
    result = np.zeros(len(species), bool)
    result[indices(species, names, f'--classes={text}')] = True
    return result


def thresholds(species: list[Species], text: str) -> np.ndarray:
    """Threshold (classes,) of each class, given a number, or a CSV table with the columns class and threshold.

    Classes without a row have that of the row '*', or NaN. Raises Problem for rows that are not valid.
    """
    try:
        value = float(text)
    except ValueError:
        return _table(species, text)
    if np.isnan(value):
        raise Problem(f'--threshold={text}: give a number, or a CSV table with the columns class,threshold')
    return np.full(len(species), value)


def _table(species: list[Species], filename: str) -> np.ndarray:
    result, others, seen = np.full(len(species), np.nan), np.nan, set()
    rows = [[(row[column] or '').strip() for column in COLUMNS] for row in _rows(filename)]
    for number, (name, value) in enumerate(rows, 2):
        origin = f'{filename}, row {number}'
        try:
            value = float(value) if value else np.nan
        except ValueError:
            raise Problem(f'{origin}: {value!r} is no number; leave it empty for a class without detections') from None
        if name == OTHERS:
            others = value
            continue
        index = indices(species, [name], origin)[0]
        if index in seen:
            raise Problem(f'{origin}: {name} has an earlier row, too; remove one of them')
        seen.add(index)
        result[index] = value
    result[[i for i in range(len(species)) if i not in seen]] = others
    return result


def _rows(filename: str) -> list[dict[str, str]]:
    try:
        with open_regular(filename, 'r', encoding='utf-8-sig', newline='') as f:
            reader = csv.DictReader(f, strict=True)
            columns, rows = reader.fieldnames or (), list(reader)
    except FileNotFoundError:
        raise Problem(f'--threshold={filename}: neither a number nor a file') from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise Problem(f'{filename}: not a CSV table in UTF-8 ({e})') from None
    if not set(COLUMNS) <= set(columns):
        raise Problem(f'{filename}: no columns {",".join(COLUMNS)} in its first row')
    return rows
