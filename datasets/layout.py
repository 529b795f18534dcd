"""Where things lie: in the organisers' source folder, and in a dataset of ours (README.md here says what each file holds).

Needs nothing but the standard library, so that every script here starts at once.
"""

import collections
import errno
import os
import re

from birdsong.files import Problem, open_regular, read_lines, writing

DATASETS = os.path.dirname(os.path.abspath(__file__))

# What the organisers' archives unpack to -> folder of the keys, and whether that has a subfolder a year.
FOLDERS = (
    ('TrainingSet', 'train', True),
    ('data', 'train', True),
    ('BirdCLEF2018MonophoneTest', 'test', True),
    ('val/data', 'soundscapes/val', False),
    ('test', 'soundscapes/test', False),
)
# File list of each folder of the keys.
LISTS = {'train': 'train', 'test': 'test', 'soundscapes/val': 'soundscapes_val', 'soundscapes/test': 'soundscapes_test'}
REPAIRS = 'repairs.tsv'
SAME_NAME = 'the same file name'
# Bytes that a file name may have: most file systems allow 255, and a file that is being written has a longer name.
MAX_NAME = 240

Found = collections.namedtuple('Found', 'key path')


def dataset_folder(name):
    """Folder of the dataset `name`: datasets/NAME, or `name` itself where it is a path. Raises Problem for a strange name."""
    if os.sep in name:
        return os.path.abspath(name)
    if not re.fullmatch(r'\w[\w.+-]*', name):
        raise Problem('%s: not a name for a dataset; give letters, digits and ._+- or a path' % (name or "''"))
    return os.path.join(DATASETS, name)


def year_of(base):
    """'LIFECLEF2014_...' -> '2014'; '' for other names."""
    found = re.match(r'LIFECLEF(\d{4})', base)
    return found.group(1) if found else ''


def key_of(folder, by_year, filename):
    """Key of a recording or its XML: where it will lie below audio/, whatever folders and suffix it has in the source."""
    base = os.path.splitext(os.path.basename(filename))[0]
    return '/'.join(part for part in (folder, by_year and year_of(base), f'{base}.wav') if part)


def walk(top, unusable=None):
    """Paths of all files below `top`, sorted; links to folders are followed, each folder is entered once.

    What is neither a folder nor a file is added to the list `unusable`, if given, as (path, what it is).
    """
    entered = set()

    def descend(folder):
        real = os.path.realpath(folder)
        if real in entered:
            return
        entered.add(real)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                try:
                    if entry.is_dir():
                        yield from descend(entry.path)
                        continue
                    if entry.is_file():
                        yield entry.path
                        continue
                    problem = (
                        'a pipe or a device, not a file' if os.path.exists(entry.path) else 'a link that leads nowhere'
                    )
                except OSError as e:
                    if e.errno != errno.ELOOP:
                        raise
                    problem = 'a link that leads to itself'
                if unusable is not None:
                    unusable.append((entry.path, problem))

    yield from descend(top)


def find(source, suffixes):
    """Files of the source folder with one of the `suffixes` (lower case) -> ([Found], [(path, problem, what was done)]).

    Files named ._* (left by macOS) don't count. Of files with the same key the first counts. The others are in the
    second list, by their path in the source, as are links that lead nowhere, pipes, devices, and names that are too long
    or that no table can hold. Raises Problem if the folder isn't laid out as the organisers do.
    """
    if not os.path.isdir(source):
        raise Problem(f'{source}: no such folder; give the one that you extracted the archives into')
    present = [f for f in FOLDERS if os.path.isdir(os.path.join(source, f[0]))]
    if not any(f[1] == 'train' for f in present):
        raise Problem(f'{source}: has neither TrainingSet/ nor data/; extract all archives into this one folder')
    found, skipped = {}, []

    def shown(path):
        path = os.path.relpath(path, source)
        return path if printable(path) else ascii(path)[1:-1]

    def skip(path, problem, cure):
        skipped.append((shown(path), problem, f'left out; {cure}'))

    for sub, folder, by_year in present:
        unusable = []
        for path in walk(os.path.join(source, sub), unusable):
            name = os.path.basename(path)
            if name.startswith('._') or os.path.splitext(name)[1].lower() not in suffixes:
                continue
            key = key_of(folder, by_year, name)
            if not printable(key):
                skip(path, 'its name holds a character that no list can hold', 'rename it')
            elif len(os.path.basename(key).encode()) > MAX_NAME:
                skip(path, f'its name is longer than {MAX_NAME} bytes', 'rename it')
            elif key in found:
                skip(path, f'{SAME_NAME} as {shown(found[key].path)}', 'rename it to keep both')
            else:
                found[key] = Found(key, path)
        for path, problem in unusable:
            if os.path.splitext(path)[1].lower() in ('', *suffixes):
                skip(path, problem, 'replace it by the file')
    return list(found.values()), skipped


def printable(text):
    """Whether a list in UTF-8 can hold a path."""
    try:
        return text.isprintable() and bool(text.encode())
    except UnicodeEncodeError:
        return False


def missing_folders(source):
    """Those of the organisers' folders that the source lacks."""
    return [sub for sub, _, _ in FOLDERS if not os.path.isdir(os.path.join(source, sub))]


def recordings(dataset):
    """Keys of all recordings below audio/ of a dataset's folder, sorted."""
    audio = os.path.join(dataset, 'audio')
    if not os.path.isdir(audio):
        raise Problem(f'{audio}: no such folder; make the dataset by prepare_birdclef.sh, or convert.py first')
    return sorted(
        os.path.relpath(p, audio) for p in walk(audio) if p.endswith('.wav') and not os.path.basename(p).startswith('.')
    )


def folder_of(key):
    """'train/2014/X.wav' -> 'train', 'soundscapes/val/X.wav' -> 'soundscapes/val'; '' for what has no list."""
    return next((f for f in LISTS if key.startswith(f'{f}/')), '')


def write_if_changed(filename, text):
    """Write a text file, whole or not at all; leave it alone if it says just that. True if it was written."""
    os.makedirs(os.path.dirname(filename), exist_ok=True)
    try:
        with open_regular(filename, 'r', encoding='utf-8', newline='') as f:
            if f.read() == text:
                return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    with writing(filename, 'w', encoding='utf-8', newline='') as f:
        f.write(text)
    return True


def table(rows):
    """Rows of fields as lines parted by tabs; what would break a line becomes a space."""
    return ''.join(
        '\t'.join(re.sub(r'[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+', ' ', str(field)) for field in row) + '\n'
        for row in rows
    )


def read_table(filename, columns=None):
    """List of rows (lists of fields) of a table. Raises Problem if it is missing or a row hasn't `columns` fields."""
    rows = [line.split('\t') for line in read_lines(filename)]
    for number, row in enumerate(rows, 1):
        if columns and len(row) != columns:
            raise Problem(
                f'{filename}, line {int(number)}: {len(row)} fields where there should be {int(columns)}; make it anew'
            )
    return rows


def read_repairs(filename):
    """Dict key -> (problem, what was done) of a table of repairs; {} if there is none. A torn last line doesn't count."""
    if not os.path.exists(filename):
        return {}
    with open_regular(filename, 'r', encoding='utf-8', errors='replace') as f:
        rows = (line.rstrip('\n').split('\t') for line in f if line.endswith('\n'))
        return {row[0]: tuple(row[1:]) for row in rows if len(row) == 3}


def write_repairs(filename, repairs):
    """Write a table of repairs, sorted, if it says something new."""
    if repairs or os.path.exists(filename):
        write_if_changed(filename, table((key,) + tuple(rest) for key, rest in sorted(repairs.items())))
