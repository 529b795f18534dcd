"""The folder of a dataset: its name, its recordings and their keys. datasets/README.md describes each file."""

import errno
import os
import re
from collections.abc import Iterator

from birdsong.files import Problem

DATASETS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Folders in datasets/ that are not datasets, and folders in experiments/ that do not contain the models of a dataset.
RESERVED = ('shared', 'layouts', 'birdsong', 'vars', 'ensembles')


def dataset_folder(name: str) -> str:
    """Folder of the dataset `name`: datasets/NAME, or `name` itself if it is a path. Raises Problem for other names."""
    if os.sep in name:
        return os.path.abspath(name)
    if name in RESERVED:
        raise Problem(f'{name}: a folder of the program; choose another name for the dataset')
    if not re.fullmatch(r'\w[\w.+-]*', name):
        raise Problem(f'{name or repr("")}: not a name for a dataset; give letters, digits and ._+- or a path')
    return os.path.join(DATASETS, name)


def year_of(base: str) -> str:
    """Year of a recording of the challenge: 'LIFECLEF2014_...' -> '2014'; '' for other file names."""
    found = re.match(r'LIFECLEF(\d{4})', base)
    return found.group(1) if found else ''


def recordings(dataset: str) -> list[str]:
    """Sorted keys of all recordings below audio/ of a dataset's folder. Raises Problem if there is no audio/."""
    audio = os.path.join(dataset, 'audio')
    if not os.path.isdir(audio):
        raise Problem(f'{audio}: no such folder; create the dataset with prepare_birdclef.sh, or run convert.py first')
    top = len(os.path.join(audio, ''))
    return sorted(
        path[top:] for path in walk(audio) if path.endswith('.wav') and not os.path.basename(path).startswith('.')
    )


def walk(top: str, unusable: list[tuple[str, str]] | None = None) -> Iterator[str]:
    """Sorted paths of all files below `top`. Links to folders are followed; each folder is visited once.

    Everything that is neither a folder nor a file is appended to `unusable`, if given, as (path, what it is).
    """
    visited = set()

    def kind(entry):
        try:
            if entry.is_dir():
                return 'folder'
            if entry.is_file():
                return 'file'
            return 'a pipe or a device, not a file' if os.path.exists(entry.path) else 'a link that leads nowhere'
        except OSError as e:
            if e.errno != errno.ELOOP:
                raise
            return 'a link that leads to itself'

    def descend(folder):
        real = os.path.realpath(folder)
        if real in visited:
            return
        visited.add(real)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                what = kind(entry)
                if what == 'folder':
                    yield from descend(entry.path)
                elif what == 'file':
                    yield entry.path
                elif unusable is not None:
                    unusable.append((entry.path, what))

    yield from descend(top)
