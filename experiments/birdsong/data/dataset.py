"""A dataset: the recordings, lists, labels and metadata of a folder, as datasets/README.md describes it. Needs no torch."""

import json
import os
import re
import sys

import numpy as np

from birdsong import config
from birdsong.data import metadata
from birdsong.files import Problem, read_lines

DATASETS = os.path.join(os.path.dirname(config.EXPERIMENTS), 'datasets')
LABEL_FILE = 'fg.tsv'
# No label file has as many classes: a higher class index is a mistake.
MAX_CLASSES = 10**6


class Dataset:
    """A folder of recordings, lists and labels, as datasets/README.md describes it.

    `name` is that of a folder in datasets/, or a path. A `label_file` in labels/ other than fg.tsv may have more classes
    than labelset, which are then named by their numbers. Raises Problem if there is no such folder.
    """

    def __init__(self, name, label_file: str = LABEL_FILE):
        name = os.fspath(name)
        path = os.path.join(DATASETS, name)
        if not os.path.isdir(os.path.join(path, 'filelists')) and os.path.isdir(name):
            path = name
        if not os.path.isdir(os.path.join(path, 'filelists')):
            raise Problem(
                f'{path}: no data set (a folder with audio/, filelists/, labels/); make it with ./prepare_birdclef.sh, or name another with --dataset'
            )
        self.path = path
        self.name = os.path.basename(os.path.abspath(path))
        self.label_file = label_file
        self._read = {}

    def audio_path(self, key):
        """Where the recording `key` lies."""
        return os.path.join(self.path, 'audio', key)

    def key(self, name: str) -> str:
        """Key of the recording that is called by its key, or by the path of its file. Raises Problem if there is none."""
        for key in (name, os.path.relpath(name, os.path.join(self.path, 'audio'))):
            if not key.startswith(('/', '..')) and os.path.isfile(self.audio_path(key)):
                return key
        raise Problem(f'{name}: no such recording in {self.path}/audio; name it as the lists in filelists/ do')

    def filelist(self, name):
        """Keys (paths below audio/) that a file list holds, in its order. Raises Problem if it is missing or empty."""
        filename = os.path.join(self.path, 'filelists', name)
        keys = [line for line in read_lines(filename) if line.strip()]
        if not keys:
            raise Problem(f'{filename}: an empty list; prepare the data set again')
        return keys

    @property
    def labelset(self):
        """Class ids; the place of an id in the list is its class index."""
        return self._once('labelset', self._read_labelset)

    @property
    def num_classes(self):
        return len(self.labelset)

    @property
    def has_labels(self):
        """Whether there is a list of class ids, as evaluation and submission need it."""
        return os.path.exists(self._label_path('labelset'))

    def need_labels(self, names: list[str], why: str) -> None:
        """Raises Problem, with the reason why they are needed, if files of these names are missing in labels/."""
        for name in names:
            if not os.path.exists(self._label_path(name)):
                raise Problem(f'{self._label_path(name)}: no such file; {why}')

    def labels(self, label_file=LABEL_FILE):
        """Dict of each labelled recording's class index. Raises Problem for what doesn't fit the label set."""
        return {key: self._class_index(label_file, number, text) for number, key, text in self._table(label_file)}

    def background(self, label_file='bg.tsv'):
        """Dict of each labelled recording's list of background class indices."""
        name = label_file
        return {
            key: [self._class_index(name, number, part) for part in text.split(',') if part.strip()]
            for number, key, text in self._table(name)
        }

    def truth(self, files: list[str], label_file: str, background_file: str = '', filelist: str = ''):
        """Class index of each of `files`, (N,), and the list of its background classes, or None without `background_file`.

        Raises Problem for label files that are missing, and for recordings of list `filelist` without a label.
        """
        names = ['labelset', label_file, *filter(None, [background_file])]
        self.need_labels(names, 'metrics need labels (predict.py does not)')
        labels = np.array(self._lookup(self.labels(label_file), label_file, files, filelist))
        if not background_file:
            return labels, None
        return labels, self._lookup(self.background(background_file), background_file, files, filelist)

    def metadata(self):
        """Dict of each recording's metadata: {source: number}, see `metadata.read_table`."""
        return self._once('metadata', lambda: metadata.read_table(self._label_path('meta.tsv')))

    def edition_classes(self, key):
        """Sorted class indices of the challenge edition that a recording stems from, by the year in its name
        (LIFECLEF2014...); None, for all classes, if there is no label set of that year."""
        found = re.search(r'LIFECLEF(\d{4})', os.path.basename(key))
        if not found:
            return None
        name = f'labelset_{found.group(1)}'
        return self._once(name, lambda: self._read_edition(name))

    def _once(self, name, read):
        if name not in self._read:
            self._read[name] = read()
        return self._read[name]

    def _read_labelset(self):
        filename = self._label_path('labelset')
        ids = [line.strip() for line in read_lines(filename) if line.strip()]
        if not ids or len(set(ids)) < len(ids):
            raise Problem(f'{filename}: {"repeated class ids" if ids else "empty"}; prepare the data set again')
        if self.label_file != LABEL_FILE:
            highest = max((int(text) for _, _, text in self._table(self.label_file) if text.isdecimal()), default=0)
            ids += [str(number) for number in range(len(ids), min(highest, MAX_CLASSES) + 1)]
        return ids

    def _read_edition(self, name):
        filename = self._label_path(name)
        if not os.path.exists(filename):
            return None
        place = {name: i for i, name in enumerate(self.labelset)}
        ids = [line.strip() for line in read_lines(filename) if line.strip()]
        unknown = [name for name in ids if name not in place]
        if unknown:
            raise Problem(f'{filename}: {unknown[0]} is not in labelset; prepare the data set again')
        return np.array(sorted(place[name] for name in ids), np.int64)

    def _label_path(self, name):
        return os.path.join(self.path, 'labels', name)

    def _table(self, name):
        filename = self._label_path(name)
        for number, line in enumerate(read_lines(filename), 1):
            key, tab, text = line.partition('\t')
            if not tab or '\t' in text:
                raise Problem(f'{filename}, line {int(number)}: expected two columns parted by a tab')
            yield number, key, text

    def _lookup(self, table, name, files, filelist):
        missing = [key for key in files if key not in table]
        if missing:
            raise Problem(
                f'{self._label_path(name)}: {len(missing)} of {len(files)} recordings of list {filelist} have no row, '
                f'such as {missing[0]}; choose another --filelist'
            )
        return [table[key] for key in files]

    def _class_index(self, name, number, text):
        try:
            value = int(text)
            if 0 <= value < self.num_classes:
                return value
        except ValueError:
            pass
        raise Problem(
            f'{self._label_path(name)}, line {int(number)}: {text!r} is not a class index below {int(self.num_classes)}, the length of labelset; prepare the data set again'
        )


def dataset_of(result: str) -> str:
    """Name of the dataset that a model or a file of predictions belongs to, for commands without --dataset.

    It is what the .run.json beside the file names, else the folder NAME of experiments/NAME/ if there is such a dataset, else
    birdclef. Raises Problem if the dataset of the .run.json isn't in datasets/.
    """

    def exists(name):
        return os.path.isdir(os.path.join(DATASETS, name, 'filelists'))

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
                f'{result}: made with dataset {name}, which is not in {DATASETS}; name its folder with --dataset'
            )
    if name != 'birdclef':
        sys.stderr.write(f'dataset: {name}, to which {result} belongs\n')
    return name
