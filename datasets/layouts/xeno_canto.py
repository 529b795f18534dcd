"""Downloads from xeno-canto: recordings beside their metadata, or recordings alone whose names tell enough.

    SOURCE/any/folders/XC12345 - English Name - Genus species.mp3    names as on the website
    SOURCE/any/folders/XC12345.mp3                                   or any other name that begins with the number
    SOURCE/any/folders/page1.json      pages of API version 2 or 3, one or several in a file; or a list of recordings
    SOURCE/metadata.csv                or a table of the same fields (id, gen, sp, ...); SOURCE may be this table alone

The class id is the scientific name without subspecies: `Genus species`. Without metadata and without a name in the file
name, it is that of the other recordings in its folder, or else the name of the folder, in which case folders may be
arranged as in the layout `folders`. Background species are those of the field `also`. Recordings of unknown species
("Mystery mystery") and soundscapes ("Sonus naturalis") are in the part `unlabelled`. A recording that several pages
contain is used once.
"""

import collections
import copy
import os
import re
from collections.abc import Iterable

from birdsong.files import Problem
from layouts import annotations, folders
from shared.delimited import list_literal
from shared.recordings import Recording
from shared.report import Report
from shared.source import Source, columns_of
from shared.xeno_canto_metadata import pages_with_metadata, read_metadata, tables_with_metadata

LOOKED_FOR = 'metadata of xeno-canto (JSON, or a table with the columns id, gen, sp), or files named XC12345...'
PRECEDENCE = 1

NUMBER = re.compile(r'xc[ _-]?(\d{1,9})(?!\d)', re.I | re.A)
NAME = re.compile(r'[Xx][Cc]\d+ ?- (?P<common>.+) - (?P<genus>[A-Z][a-z]+) (?P<species>[a-z-]+)(?: .+)?', re.A)
# Genera of recordings whose species is unknown, or that contain several.
NO_SPECIES = ('mystery', 'sonus')
UNKNOWN = ('', '?', 'unknown', 'no score', 'not set', 'none', 'nan')
# Fields of a recording: fields of the API.
FIELDS = {
    'common_name': ('en',),
    'date': ('date',),
    'time': ('time',),
    'latitude': ('lat',),
    'longitude': ('lng', 'lon'),
    'elevation': ('alt', 'elev'),
    'recordist': ('rec',),
    'site': ('loc',),
    'quality': ('q',),
    'licence': ('lic',),
}
# Only in these fields does the text for an unknown value become ''; the labels step repairs the others.
NAMES = ('common_name', 'recordist', 'site', 'quality', 'licence')


def recognise(source: Source) -> str:
    """Why a source folder has this layout, or ''."""
    for name in tables_with_metadata(source):
        return f'{name} has the columns id, gen and sp'
    for path in pages_with_metadata(source):
        return f'{path} contains metadata of xeno-canto'
    paths = source.recordings()
    named = [path for path in paths if _number(path)]
    if not named or 2 * len(named) < len(paths) or _has_other_tables(source) or annotations.recognise(source):
        return ''
    return f'{len(named)} of {len(paths)} recordings are named like {os.path.basename(named[0])}'


def rows(source: Source) -> Iterable[Recording]:
    """The recordings. Raises Problem if there are neither metadata nor numbers in names, or for damaged metadata."""
    metadata = read_metadata(source)
    paths = source.recordings()
    numbers = _numbers(paths, metadata)
    if not metadata and not numbers:
        tables = columns_of(source, source.tables()) or 'no table'
        raise Problem(f'{source.path}: no {LOOKED_FOR} ({tables})')
    arranged = _arranged(source)
    classes = _classes_of_folders(paths, numbers, metadata)
    result = []
    for path in paths:
        number, other = numbers.get(path, ''), arranged.get(path)
        if number in metadata:
            recording = _from_metadata(path, number, metadata[number], source.report)
        elif number or not metadata:
            recording = _from_name(path, number, classes, bool(metadata), other)
            _report_name(recording, bool(metadata), source.report)
        else:
            continue
        if other and (other.part == 'test' or other.part == 'valid' and recording.class_id):
            recording.part = other.part
        result.append(recording)
    present = set(numbers.values())
    for number in (number for number in metadata if number not in present):
        suffix = os.path.splitext(metadata[number].get('file-name', ''))[1].lower()
        suffix = suffix if re.fullmatch(r'\.[a-z0-9]{2,4}', suffix, re.A) else '.mp3'
        result.append(_from_metadata(f'XC{number}{suffix}', number, metadata[number], source.report))
    return sorted(result, key=lambda recording: recording.source)


def _from_metadata(path, number, entry, report):
    recording = Recording(source=path, recording=f'XC{number}', background=list_literal(entry.get('also', '')))
    recording.class_id = recording.scientific_name = _species(entry)
    if not recording.class_id:
        report.add('recordings whose species is unknown', 'they are in the part unlabelled', path)
        recording.part = 'unlabelled'
    for field, names in FIELDS.items():
        value = next(filter(None, (entry.get(name, '') for name in names)), '')
        setattr(recording, field, '' if field in NAMES and value.lower() in UNKNOWN else value)
    return recording


def _species(entry):
    """The scientific name of an entry, '' if it is unknown."""
    genus, species = entry.get('gen', ''), entry.get('sp', '')
    unknown = genus.lower() in (*NO_SPECIES, *UNKNOWN) or species.lower() in UNKNOWN
    return '' if unknown else f'{genus.capitalize()} {species.lower()}'


# == Names ==


def _number(path):
    found = NUMBER.match(os.path.basename(path))
    return found[1] if found else ''


def _numbers(paths, metadata):
    """{path: number} of the recordings whose name tells it, also as metadata knows it."""
    uploaded = collections.defaultdict(set)
    for number, entry in metadata.items():
        uploaded[entry.get('file-name', '')].add(number)
    numbers = {}
    for path in paths:
        name = os.path.basename(path)
        last = re.search(r'(?:^|[_ -])(\d{3,9})$', os.path.splitext(name)[0], re.A)
        if number := _number(path):
            numbers[path] = number
        elif len(uploaded.get(name, ())) == 1:
            numbers[path] = next(iter(uploaded[name]))
        elif last and last[1] in metadata:  # 12345.mp3, or Genus-species-12345.mp3
            numbers[path] = last[1]
    return numbers


def _arranged(source):
    """{path: recording} as the layout `folders` reads them, {} if there are no class folders."""
    quiet = copy.copy(source)
    quiet.report = Report()
    return {recording.source: recording for recording in folders.rows(quiet)} if folders.recognise(quiet) else {}


def _named_species(path):
    """(scientific, common name) in a file name of the website, ('', '') for an unknown species; None in other names."""
    found = NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
    if not found:
        return None
    return (
        ('', '') if found['genus'].lower() in NO_SPECIES else (f'{found["genus"]} {found["species"]}', found['common'])
    )


def _classes_of_folders(paths, numbers, metadata):
    """{folder: class} where all recordings with metadata or a species in their name have the same class."""
    found = collections.defaultdict(set)
    for path in paths:
        entry, names = metadata.get(numbers.get(path)), _named_species(path)
        if entry or names:
            found[os.path.dirname(path)].add(_species(entry) if entry else names[0])
    return {folder: next(iter(classes)) for folder, classes in found.items() if folder and len(classes) == 1}


def _from_name(path, number, classes, has_metadata, other):
    """A recording without metadata: its class is that of its name, or of its folder.

    `classes` are those of folders, `other` is the recording as the layout `folders` reads it, or None.
    """
    recording = Recording(source=path, recording=number and f'XC{number}')
    folder = os.path.basename(os.path.dirname(path))
    names = _named_species(path)
    name, recording.common_name = names or (classes.get(os.path.dirname(path), ''), '')
    if other and other.part == 'noise' or folder.lower() in folders.NOISE:
        recording.part = 'noise'
    elif name or names or has_metadata:
        recording.class_id = recording.scientific_name = name
    elif other:
        recording.class_id, recording.scientific_name = other.class_id, other.scientific_name
        recording.common_name = other.common_name
    else:
        recording.class_id = folder
    if re.fullmatch(r'[A-Z][a-z]+[_ ][a-z-]+', recording.class_id):
        recording.class_id = recording.scientific_name = recording.class_id.replace('_', ' ')
    if not recording.class_id and recording.part == 'train':
        recording.part = 'unlabelled'
    return recording


def _report_name(recording, has_metadata, report):
    if recording.part == 'unlabelled':
        report.add('recordings whose species is unknown', 'they are in the part unlabelled', recording.source)
    elif has_metadata and recording.class_id:
        done = 'the class is that of their name, or of their folder'
        report.add('recordings without metadata', done, recording.source)


def _has_other_tables(source):
    """Whether a table names files, so that other layouts read it."""
    for name in source.tables():
        try:
            if source.read(name).column('file', 'filename', 'filepath', 'primary_label'):
                return True
        except Problem:
            continue
    return False
