"""What a dataset contains: its lists, and how many recordings and hours each class has in them."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from birdsong.data import audio, index
from birdsong.data.dataset import LABEL_FILE, Dataset
from birdsong.files import Problem

GROUPS = 'groups.tsv'
PARTS = ('train', 'valid', 'test', 'soundscapes_val', 'soundscapes_test', 'noise', 'unlabelled')


class Headers(NamedTuple):
    """Properties of recordings (N,): NaN and 0 where unknown. `faults`: (key, reason) of those that cannot be read."""

    seconds: np.ndarray  # float64
    rates: np.ndarray  # int64, Hz
    faults: list[tuple[str, str]]


class Contents(NamedTuple):
    """All recordings in the lists of a dataset, each once."""

    keys: list[str]
    lists: dict[str, np.ndarray]  # list -> indices in `keys`
    classes: np.ndarray  # int64 (N,), -1 without label
    headers: Headers
    problems: list[str]  # lists that cannot be read, one line each


class Amounts(NamedTuple):
    """Numbers of recordings and hours (classes, lists) of the recordings with a label."""

    lists: list[str]
    recordings: np.ndarray
    hours: np.ndarray


def read(dataset: Dataset) -> Contents:
    """Read all lists of a dataset. What cannot be read is left out, and named in `problems` or `headers.faults`."""
    lists, problems = {}, []
    for name in list_names(dataset):
        try:
            lists[name] = dataset.filelist(name)
        except (Problem, OSError) as e:
            problems.append(without_folder(dataset, e))
    rows = {key: i for i, key in enumerate(dict.fromkeys(key for keys in lists.values() for key in keys))}
    labels = {}
    if dataset.has_labels and os.path.exists(os.path.join(dataset.path, 'labels', LABEL_FILE)):
        labels = dataset.labels()
    keys = list(rows)
    return Contents(
        keys,
        {name: np.array([rows[key] for key in dict.fromkeys(those)], np.int64) for name, those in lists.items()},
        np.array([labels.get(key, -1) for key in keys], np.int64),
        headers(dataset, keys),
        problems,
    )


def list_names(dataset: Dataset) -> list[str]:
    """Names of the file lists: first those of the parts, then others."""
    folder = os.path.join(dataset.path, 'filelists')
    found = {name for name in os.listdir(folder) if name != GROUPS and os.path.isfile(os.path.join(folder, name))}
    found = {name for name in found if not name.startswith('.')}
    return [name for name in PARTS if name in found] + sorted(found.difference(PARTS))


def headers(dataset: Dataset, keys: Sequence[str]) -> Headers:
    """Lengths and sample rates of recordings; those that are missing or broken do not stop it."""
    seconds, rates, faults = np.full(len(keys), np.nan), np.zeros(len(keys), np.int64), []
    if not dataset.has_audio:
        return Headers(seconds, rates, faults)
    try:
        found = index.load_index(dataset.path, keys)
    except Problem:
        for i, key in enumerate(keys):
            try:
                header = audio.read_header(dataset.audio_path(key))
                seconds[i], rates[i] = header.length / header.sample_rate, header.sample_rate
            except Problem as e:
                faults.append((key, without_folder(dataset, e)))
        return Headers(seconds, rates, faults)
    return Headers(found['length'] / np.maximum(found['sample_rate'], 1), found['sample_rate'], faults)


def without_folder(dataset: Dataset, problem: object) -> str:
    """The text of a problem, with paths below the folder of the dataset."""
    return str(problem).replace(os.path.join(dataset.path, ''), '')


def amounts(found: Contents, classes: int) -> Amounts:
    """Recordings and hours per class and list, of the lists of parts that have recordings with a label."""
    names = [name for name in found.lists if name in PARTS and np.any(found.classes[found.lists[name]] >= 0)]
    recordings, hours = np.zeros((classes, len(names)), np.int64), np.zeros((classes, len(names)))
    for column, name in enumerate(names):
        rows = found.lists[name][found.classes[found.lists[name]] >= 0]
        recordings[:, column] = np.bincount(found.classes[rows], minlength=classes)
        seconds = np.nan_to_num(found.headers.seconds[rows])
        hours[:, column] = np.bincount(found.classes[rows], seconds, minlength=classes) / 3600
    return Amounts(names, recordings, hours)
