"""The archives of BirdCLEF 2018, extracted into one folder, or other recordings in this layout.

    TrainingSet/**/BASE.wav, BASE.xml      training recordings
    data/**/BASE.wav, BASE.xml             the same, of later editions
    BirdCLEF2018MonophoneTest/**/BASE.wav  test recordings
    val/data/**/BASE.wav                   soundscapes for validation
    test/**/BASE.wav                       soundscapes of the test

An XML file has the base name of its recording and is in the same folder, or in another folder of the same part. It
contains ClassId, Genus, Species, BackgroundSpecies (Latin names), Date, Time, Latitude, Longitude, Elevation, and more.
Each recording and XML file gets its key here: the path of the recording below audio/ of the dataset.
"""

import collections
import contextlib
import dataclasses
import filecmp
import os
from collections.abc import Iterator

from birdsong.files import Problem
from shared.dataset import walk, year_of
from shared.recordings import Recording
from shared.source import Source, name_problem, printable, recording_suffixes
from shared.tables import SKIPPED
from shared.xml_table import update_xml_table

LOOKED_FOR = 'the archives of BirdCLEF 2018: a folder TrainingSet/, or data/ with XML files'
PRECEDENCE = 1

Part = collections.namedtuple('Part', 'folder keys by_year')
# Folder from an archive, folder of the keys, and whether that has a subfolder per year.
PARTS = (
    Part('TrainingSet', 'train', True),
    Part('data', 'train', True),
    Part('BirdCLEF2018MonophoneTest', 'test', True),
    Part('val/data', 'soundscapes/val', False),
    Part('test', 'soundscapes/test', False),
)
SAME_NAME, COPY = 'the same file name', 'a copy'
UNCERTAIN = (
    'XML files are not next to a recording, but several recordings have their file name: '
    'each was assigned to the first of them'
)

Found = collections.namedtuple('Found', 'key path')
Skipped = list[tuple[str, str, str]]


@dataclasses.dataclass
class Recordings:
    """The recordings of a source."""

    found: list[Found]
    skipped: Skipped  # (path in the source, problem, what was done) of unused files
    keys: dict[str, str]  # path without suffix, also of copies -> key
    namesakes: set[str]  # keys of recordings whose file name is not unique


def recognise(source: Source) -> str:
    """Why a source folder has this layout, or ''.

    A folder data/ may be anything, so it must contain XML, or there must be nothing else than the archives.
    """
    if source.table:
        return ''
    tops = {path.partition('/')[0] for path in source.files}
    if 'TrainingSet' in tops or any(path.startswith('data/') for path in source.with_suffix('.xml')):
        return f'a folder {"TrainingSet/" if "TrainingSet" in tops else "data/ with XML files"}'
    known = {part.folder.partition('/')[0] for part in PARTS}
    return 'a folder data/, and no others than those of the archives' if 'data' in tops and tops <= known else ''


def rows(source: Source) -> Iterator[Recording]:
    """The recordings of a source, with the fields of their XML, which are collected in xml/recordings.tsv.

    Keys that have XML but no recording (any more) are rows without a source path.
    """
    recordings = find_recordings(source.folder, source.known)
    xml, skipped, uncertain = find_xml(source.folder, recordings)
    source.skipped += recordings.skipped
    fields, read = update_xml_table(xml, skipped, source.dataset)
    source.report.note(f'{len(fields)} recordings have XML ({read} files read now)')
    if not fields:
        source.report.note(
            'without XML, they have no labels; if folders are classes, give the one that contains them as SOURCE'
        )
    if uncertain:
        source.report.note(f'{uncertain} {UNCERTAIN}')
    paths = {key: os.path.relpath(path, source.folder) for key, path in recordings.found}
    for key in sorted(paths.keys() | fields.keys()):
        yield _recording(key, paths.get(key, ''), fields.get(key, {}))


def _recording(key, path, fields):
    """A row of the table; only recordings for training have a class."""
    result = Recording(key=key, source=path, part=_part_of(key))
    if not fields:
        return result
    if result.part == 'train':
        result.class_id = fields['ClassId']
        result.background = [name for name in map(_clean, fields['BackgroundSpecies'].split(',')) if name]
        known = fields['Genus'] and fields['Species']
        result.scientific_name = _clean(f'{fields["Genus"]} {fields["Species"]}') if known else ''
    result.date, result.time, result.elevation = fields['Date'], fields['Time'], fields['Elevation']
    result.latitude, result.longitude = fields['Latitude'], fields['Longitude']
    result.recordist, result.site = fields['AuthorID'] or fields['Author'], fields['Locality']
    return result


def _part_of(key):
    """'train/2014/X.wav' -> 'train', 'soundscapes/val/X.wav' -> 'soundscapes_val'."""
    return next(part.keys.replace('/', '_') for part in PARTS if key.startswith(f'{part.keys}/'))


def _clean(name):
    return ' '.join(name.split())


def find_recordings(source: str, known: dict[str, str] | None = None) -> Recordings:
    """All recordings of a source folder, in the order of their paths. Raises Problem as `_files` does.

    The key is PART/YEAR/BASE.wav. If an earlier recording has the same file name in another folder, the key is
    PART/YEAR/FOLDERS/BASE.wav, unless both have the same content. Recordings of earlier runs come first and keep their
    keys (`known`: source path -> key).
    """
    known = known or {}
    files, skipped = _files(source, recording_suffixes())
    keys = {path: known.get(os.path.relpath(path, source)) for _, path in files} if known else {}
    files.sort(key=lambda file: not keys.get(file[1]))
    result = Recordings([], skipped, {}, set())
    same_name, paths = collections.defaultdict(list), {}
    for part, path in files:
        plain = _plain_key(part, path)
        others = same_name[plain]
        beside = [other for other in others if os.path.dirname(other.path) == os.path.dirname(path)]
        copies = [other for other in others if _same_content(other.path, path)]
        free = [key for key in [keys.get(path), *_possible_keys(source, part, path)] if key and key not in paths]
        if copies:
            result.keys.setdefault(_stem(path), copies[0].key)
            _skip(skipped, source, path, f'{COPY} of {_shown(copies[0].path, source)}', 'one of them is enough')
        elif beside or not free:
            other = beside[0].path if beside else paths[plain]
            _skip(skipped, source, path, f'{SAME_NAME} as {_shown(other, source)}', 'rename it to keep both')
        elif problem := name_problem(free[0]):
            _skip(skipped, source, path, problem, 'rename it')
        else:
            found = Found(free[0], path)
            others.append(found)
            paths[found.key] = path
            result.found.append(found)
            result.keys[_stem(path)] = found.key
    result.namesakes = {key for key, others in same_name.items() if len(others) > 1}
    return result


def find_xml(source: str, recordings: Recordings | None = None) -> tuple[list[Found], Skipped, int]:
    """All XML files of a source folder -> (files with the keys of their recordings, files not used, uncertain ones).

    An XML file belongs to the recording next to it or, if none, to the first one with its file name in the same
    part of the source. It is uncertain if there are others with that name. Raises Problem as `_files` does.
    """
    recordings = recordings or find_recordings(source)
    files, skipped = _files(source, ('.xml',))
    found, uncertain = {}, 0
    for part, path in sorted(files, key=lambda file: _stem(file[1]) not in recordings.keys):
        key = recordings.keys.get(_stem(path)) or _plain_key(part, path)
        if key in found:
            _skip(skipped, source, path, f'{SAME_NAME} as {_shown(found[key], source)}', 'rename it to keep both')
        elif problem := name_problem(key):
            _skip(skipped, source, path, problem, 'rename it')
        else:
            found[key] = path
            uncertain += key in recordings.namesakes and _stem(path) not in recordings.keys
    return [Found(*item) for item in found.items()], skipped, uncertain


def _files(source, suffixes):
    """Files of the source with one of the suffixes -> ([(Part, path)], [(path in the source, problem, what was done)]).

    Files named ._* (written by macOS) are ignored. Broken links, pipes and devices are in the second list.
    Raises Problem if the folder does not have the layout of the archives.
    """
    if not os.path.isdir(source):
        raise Problem(f'{source}: no such folder; give the one that you extracted the archives into')
    present = [part for part in PARTS if os.path.isdir(os.path.join(source, part.folder))]
    if not any(part.keys == 'train' for part in present):
        raise Problem(f'{source}: has neither TrainingSet/ nor data/; extract all archives into this one folder')
    files, skipped, unusable = [], [], []
    for part in present:
        for path in walk(os.path.join(source, part.folder), unusable):
            name = os.path.basename(path)
            if not name.startswith('._') and os.path.splitext(name)[1].lower() in suffixes:
                files.append((part, path))
    for path, problem in unusable:
        if os.path.splitext(path)[1].lower() in ('', *suffixes):
            _skip(skipped, source, path, problem, 'replace it by the file')
    return files, skipped


def _stem(path):
    return os.path.splitext(path)[0]


def _plain_key(part, path):
    base = os.path.basename(_stem(path))
    return '/'.join(filter(None, (part.keys, part.by_year and year_of(base), f'{base}.wav')))


def _possible_keys(source, part, path):
    """Keys for a recording in order of preference: without folders, with those in its part, with all folders."""
    folder, name = os.path.split(_plain_key(part, path))
    below = os.path.relpath(os.path.dirname(path), os.path.join(source, part.folder))
    everything = os.path.relpath(os.path.dirname(path), source)
    return [f'{folder}/{name}'] + [f'{folder}/{folders}/{name}' for folders in (below, everything) if folders != '.']


def _same_content(one, other):
    with contextlib.suppress(OSError):  # unreadable files are reported by the conversion
        return os.path.getsize(one) == os.path.getsize(other) and filecmp.cmp(one, other, shallow=False)
    return False


def _skip(skipped, source, path, problem, cure):
    skipped.append((_shown(path, source), problem, f'{SKIPPED}{cure}'))


def _shown(path, source):
    return printable(os.path.relpath(path, source))
