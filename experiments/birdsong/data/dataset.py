"""Datasets: the recordings, file lists, labels and metadata of a folder."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from birdsong import config
from birdsong.data import index, metadata
from birdsong.files import Problem, read_lines

DATASETS = os.path.join(os.path.dirname(config.EXPERIMENTS), 'datasets')
LABEL_FILE = 'fg.tsv'
SETTINGS = 'dataset.vars'
# Larger class indices are errors in a label file.
MAX_CLASSES = 10**6


class Dataset:
    """A folder of recordings, file lists and labels, see datasets/README.md.

    `name` is the name of a folder in datasets/, or a path. A `label_file` in labels/ other than fg.tsv may have more
    classes than labelset; the names of these are their indices. Raises Problem if there is no such folder.
    """

    def __init__(self, name: str | os.PathLike, label_file: str = LABEL_FILE):
        name = os.fspath(name)
        path = os.path.join(DATASETS, name)
        if not _is_dataset(path) and os.path.isdir(name):
            path = name
        if not _is_dataset(path):
            raise Problem(
                f'{path}: no dataset (a folder with audio/, filelists/, labels/); '
                'create it with ./prepare_birdclef.sh, or choose another with --dataset'
            )
        self.path = path
        self.name = os.path.basename(os.path.abspath(path))
        self.label_file = label_file
        self._cache = {}

    @property
    def has_audio(self) -> bool:
        """Whether there are recordings. A metadata-only dataset has neither audio/ nor the headers of recordings."""
        # A link to audio/ may lead to a disk that is not mounted. That to an index exists before the index.
        audio, headers = (os.path.join(self.path, name) for name in ('audio', index.FILENAME))
        return os.path.lexists(audio) or os.path.exists(headers)

    @property
    def settings_files(self) -> list[str]:
        """[dataset.vars], the settings of the dataset, which override the defaults; [] if it has none."""
        filename = os.path.join(self.path, SETTINGS)
        return [filename] if os.path.exists(filename) else []

    def audio_path(self, key: str) -> str:
        """Path of the recording `key`."""
        return os.path.join(self.path, 'audio', key)

    def key(self, name: str) -> str:
        """Key of a recording, given its key or the path of its file. Raises Problem if it does not exist.

        In a metadata-only dataset, a recording exists if it has metadata.
        """
        for key in (name, os.path.relpath(name, os.path.join(self.path, 'audio'))):
            outside = os.path.isabs(key) or os.pardir in key.split(os.sep)
            if not outside and (os.path.isfile(self.audio_path(key)) or not self.has_audio and key in self.metadata()):
                return key
        where = 'audio' if self.has_audio else 'labels/meta.tsv'
        raise Problem(f'{name}: no such recording in {self.path}/{where}; name it as the lists in filelists/ do')

    def filelist(self, name: str) -> list[str]:
        """Keys (paths below audio/) of a file list, in its order. Raises Problem if the list is missing or empty."""
        filename = os.path.join(self.path, 'filelists', name)
        keys = [line for line in read_lines(filename) if line.strip()]
        if not keys:
            raise Problem(f'{filename}: an empty list; prepare the dataset again')
        return keys

    @property
    def labelset(self) -> list[str]:
        """Class ids, in the order of the class indices."""
        return self._cached('labelset', self._read_labelset)

    @property
    def num_classes(self) -> int:
        return len(self.labelset)

    @property
    def has_labels(self) -> bool:
        """Whether there is a list of class ids, which evaluation and submission need."""
        return os.path.exists(self._label_path('labelset'))

    def need_labels(self, names: list[str], why: str) -> None:
        """Raise Problem, with `why` in the message, if one of the files `names` in labels/ is missing."""
        for name in names:
            if not os.path.exists(self._label_path(name)):
                raise Problem(f'{self._label_path(name)}: no such file; {why}')

    def labels(self, label_file: str = LABEL_FILE) -> dict[str, int]:
        """Class index of each labelled recording. Raises Problem for a line without key and class index."""
        return {key: self._class_index(label_file, number, text) for number, key, text in self._table(label_file)}

    def background(self, label_file: str = 'bg.tsv') -> dict[str, list[int]]:
        """Class indices of the background species of each recording that has a line in `label_file`."""
        return {
            key: [self._class_index(label_file, number, part) for part in text.split(',') if part.strip()]
            for number, key, text in self._table(label_file)
        }

    def segments(self) -> dict[str, list[tuple[float, float, int | None]]]:
        """The labelled segments of each annotated recording: start and end in seconds, class index.

        The class is None where a recording is annotated, but no class is active. Raises Problem if labels/segments.tsv
        is missing, or for a line that is not valid.
        """
        self.need_labels(['labelset', 'segments.tsv'], 'windows need labels with times, see datasets/README.md')
        filename, segments = self._label_path('segments.tsv'), {}
        for number, line in enumerate(read_lines(filename), 1):
            fields = line.split('\t')
            try:
                key, start, end, label = fields[0], float(fields[1]), float(fields[2]), fields[3]
            except (IndexError, ValueError):
                start = end = 0.0
            if len(fields) != 4 or not 0 <= start < end < np.inf:
                raise Problem(
                    f'{filename}, line {number}: expected path, start, end (seconds) and class index, separated by '
                    'tabs, with the start before the end; prepare the dataset again'
                )
            index = self._class_index('segments.tsv', number, label) if label else None
            segments.setdefault(key, []).append((start, end, index))
        return segments

    def annotated(
        self, files: list[str], filelist: str
    ) -> tuple[dict[str, list[tuple[float, float, int | None]]], list[str]]:
        """The labelled segments of all annotated recordings, and those of `files` that are annotated.

        Raises Problem, with `filelist` in the message, if there are none.
        """
        labelled = self.segments()
        found = [key for key in files if key in labelled]
        if not found:
            raise Problem(
                f'{self.path}/labels/segments.tsv: no recording of list {filelist} is annotated, but '
                f'{next(iter(labelled), "nothing")}; choose another --filelist'
            )
        return labelled, found

    def truth(
        self, files: list[str], label_file: str, background_file: str | None, filelist: str
    ) -> tuple[np.ndarray, list[list[int]] | None]:
        """Class indices (N,) of `files`, and their background classes (None without `background_file`).

        Raises Problem, with `filelist` in the message, if a label file or the label of a recording is missing.
        """
        names = ['labelset', label_file, *filter(None, [background_file])]
        self.need_labels(names, 'metrics need labels (predict.py does not)')
        labels = np.array(self._lookup(self.labels(label_file), label_file, files, filelist))
        if not background_file:
            return labels, None
        return labels, self._lookup(self.background(background_file), background_file, files, filelist)

    def metadata(self) -> dict[str, dict[str, float]]:
        """Metadata of each recording, {source: number}, see `metadata.read_table`."""
        return self._cached('metadata', lambda: metadata.read_table(self._label_path('meta.tsv')))

    def recordings(self) -> Iterator[dict[str, str]]:
        """Rows of recordings.tsv by column, if there is one."""
        filename = os.path.join(self.path, 'recordings.tsv')
        lines = iter(read_lines(filename) if os.path.exists(filename) else ())
        columns = next(lines, 'key').split('\t')
        if 'key' not in columns:
            raise Problem(f'{filename}: no column key; delete the file and run prepare_birdclef.sh again')
        for line in lines:
            yield dict(zip(columns, line.split('\t'), strict=False))

    def column(self, name: str, keys: Sequence[str]) -> list[str]:
        """The values of recordings `keys` in a column of recordings.tsv, '' if unknown; `year` and `month` of the date.

        Raises Problem if there is no such column.
        """
        filename = os.path.join(self.path, 'recordings.tsv')
        source, part = {'year': ('date', slice(0, 4)), 'month': ('date', slice(5, 7))}.get(name, (name, slice(None)))
        known, columns = {}, ['key']
        for row in self.recordings():
            columns = list(row)
            known[row['key']] = row.get(source, '')[part]
        if source not in columns[1:]:
            found = ', '.join([*columns[1:], 'year', 'month'] if 'date' in columns else columns[1:]) or 'none'
            raise Problem(f'{filename}: no column {name}; its columns are {found}')
        return [known.get(key, '') for key in keys]

    def edition_classes(self, key: str) -> np.ndarray | None:
        """Sorted class indices of the challenge edition of a recording, which is the year in its file name.

        None if the name contains no year (LIFECLEF2014...) or there is no labelset_YEAR: all classes are possible.
        """
        found = re.search(r'LIFECLEF(\d{4})', os.path.basename(key))
        if not found:
            return None
        name = f'labelset_{found.group(1)}'
        return self._cached(name, lambda: self._read_edition(name))

    def _cached(self, name: str, read: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = read()
        return self._cache[name]

    def _read_labelset(self) -> list[str]:
        filename = self._label_path('labelset')
        ids = [line.strip() for line in read_lines(filename) if line.strip()]
        if not ids or len(set(ids)) < len(ids):
            raise Problem(f'{filename}: {"repeated class ids" if ids else "empty"}; prepare the dataset again')
        if self.label_file != LABEL_FILE:
            highest = max((int(text) for _, _, text in self._table(self.label_file) if text.isdecimal()), default=0)
            ids += [str(number) for number in range(len(ids), min(highest, MAX_CLASSES) + 1)]
        return ids

    def _read_edition(self, name: str) -> np.ndarray | None:
        filename = self._label_path(name)
        if not os.path.exists(filename):
            return None
        index = {name: i for i, name in enumerate(self.labelset)}
        ids = [line.strip() for line in read_lines(filename) if line.strip()]
        unknown = [name for name in ids if name not in index]
        if unknown:
            raise Problem(f'{filename}: {unknown[0]} is not in labelset; prepare the dataset again')
        return np.array(sorted(index[name] for name in ids), np.int64)

    def _label_path(self, name: str) -> str:
        return os.path.join(self.path, 'labels', name)

    def _table(self, name: str) -> Iterator[tuple[int, str, str]]:
        """Line numbers, keys and second columns of a label file."""
        filename = self._label_path(name)
        for number, line in enumerate(read_lines(filename), 1):
            key, tab, text = line.partition('\t')
            if not tab or '\t' in text:
                raise Problem(f'{filename}, line {number}: expected two tab-separated columns')
            yield number, key, text

    def _lookup(self, table: dict, name: str, files: list[str], filelist: str) -> list:
        missing = [key for key in files if key not in table]
        if missing:
            raise Problem(
                f'{self._label_path(name)}: {len(missing)} of {len(files)} recordings of list {filelist} have no row, '
                f'such as {missing[0]}; choose another --filelist'
            )
        return [table[key] for key in files]

    def _class_index(self, name: str, number: int, text: str) -> int:
        try:
            value = int(text)
            if 0 <= value < self.num_classes:
                return value
        except ValueError:
            pass
        raise Problem(
            f'{self._label_path(name)}, line {number}: {text!r} is not a class index below {self.num_classes}, '
            'the length of labelset; prepare the dataset again'
        )


def _is_dataset(path: str) -> bool:
    return os.path.isdir(os.path.join(path, 'filelists'))


def dataset_of(result: str) -> str:
    """Name of the dataset that a model or a prediction file was created with, for commands without --dataset.

    The name is read from the .run.json next to the file. Without one, it is NAME if the file is in experiments/NAME/
    and there is such a dataset, else birdclef. Raises Problem if the dataset in .run.json is not in datasets/.
    """

    def exists(name):
        return _is_dataset(os.path.join(DATASETS, name))

    root = re.sub(r'(\.pred)?\.(npz|pkl)$', '', os.path.abspath(result))
    try:
        with open(f'{root}.run.json', encoding='utf-8') as f:
            name = json.load(f)['dataset']
        if os.path.basename(name) != name:
            raise ValueError('not a name')
    except (OSError, ValueError, KeyError, TypeError):
        name = os.path.relpath(root, config.EXPERIMENTS).split(os.sep)[0]
        name = name if name != os.pardir and exists(name) else 'birdclef'
    else:
        if not exists(name):
            raise Problem(
                f'{result}: made with dataset {name}, which is not in {DATASETS}; give its folder with --dataset'
            )
    if name != 'birdclef':
        sys.stderr.write(f'dataset: {name}, to which {result} belongs\n')
    return name
