"""Downloads from xeno-canto: recordings beside their metadata, or recordings alone whose names tell enough.

    SOURCE/any/folders/XC12345 - English Name - Genus species.mp3    names as on the website
    SOURCE/any/folders/XC12345.mp3                                   or any other name that begins with the number
    SOURCE/any/folders/page1.json      pages of API version 2 or 3, one or several in a file; or a list of recordings
    SOURCE/metadata.csv                or a table of the same fields (id, gen, sp, ...); SOURCE may be this table alone

The class id is the scientific name without subspecies: `Genus species`. Without metadata and without a name in the file
name, it is the name of the folder of the recording; with metadata, it is that of the other recordings in its folder.
Background species are those of the field `also`. Recordings of unknown species ("Mystery mystery") and soundscapes
("Sonus naturalis") are in the part `unlabelled`. A recording that several pages contain is used once.
"""

import collections
import json
import os
import re
from collections.abc import Iterable

from birdsong.files import Problem, open_regular
from layouts import annotations
from layouts.folders import NOISE
from shared.delimited import decode, list_literal, same_value
from shared.findings import Findings
from shared.recordings import Recording
from shared.source import Source

LOOKED_FOR = 'metadata of xeno-canto (JSON, or a table with the columns id, gen, sp), or files named XC12345...'
PRECEDENCE = 1

# A page of the API has at most a few megabytes.
MAX_JSON = 1 << 28
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
    for name in source.tables():
        if _has_metadata(source, name):
            return f'{name} has the columns id, gen and sp'
    for name in source.with_suffix('.json'):
        if b'"gen"' in _read(source, name, 1 << 16) and b'"sp"' in _read(source, name, 1 << 16):
            return f'{name} contains metadata of xeno-canto'
    paths = source.recordings()
    named = [path for path in paths if _number(path)]
    if not named or 2 * len(named) < len(paths) or _has_other_tables(source) or annotations.recognise(source):
        return ''
    return f'{len(named)} of {len(paths)} recordings are named like {os.path.basename(named[0])}'


def rows(source: Source) -> Iterable[Recording]:
    """The recordings. Raises Problem if metadata cannot be read."""
    findings = Findings()
    metadata = _metadata(source, findings)
    paths = source.recordings()
    numbers = _numbers(paths, metadata)
    folders = _classes_of_folders(numbers, metadata)
    result = []
    for path in paths:
        number = numbers.get(path, '')
        if number in metadata:
            result.append(_from_metadata(path, number, metadata[number], findings))
        elif number or not metadata:
            result.append(_from_name(path, number, folders, bool(metadata), findings))
    present = set(numbers.values())
    for number in (number for number in metadata if number not in present):
        suffix = os.path.splitext(metadata[number].get('file-name', ''))[1].lower()
        suffix = suffix if re.fullmatch(r'\.[a-z0-9]{2,4}', suffix, re.A) else '.mp3'
        result.append(_from_metadata(f'XC{number}{suffix}', number, metadata[number], findings))
    findings.report(source)
    return sorted(result, key=lambda recording: recording.source)


# == Metadata ==


def _metadata(source, findings):
    """{number: {field: text}} of all tables and JSON files."""
    metadata = {}
    for name in source.tables():
        if _has_metadata(source, name):
            table = source.read(name)
            for line, entry in table.numbered():
                _merge(metadata, entry, f'{name}, line {line}', findings)
            findings.add_problems(name, table.problems)
    for name in source.with_suffix('.json'):
        for position, entry in enumerate(_entries(source, name), 1):
            _merge(metadata, entry, f'{name}, recording {position}', findings)
    return metadata


def _merge(metadata, entry, where, findings):
    """Add the fields of a recording, {field: value}, to those that earlier pages have."""
    fields = {str(name): _text(value) for name, value in entry.items()}
    number = re.sub(r'\.0$|^xc', '', fields.get('id', '').strip(), flags=re.I)
    if not re.fullmatch(r'\d{1,9}', number, re.A):
        findings.add('entries without a number in the field id', 'left out', where)
        return
    if number not in metadata:
        metadata[number] = fields
        return
    findings.add('entries whose recording is in an earlier entry', 'merged', where)
    earlier = metadata[number]
    columns = ('gen', 'sp', 'also', *(name for names in FIELDS.values() for name in names))
    both = [name for name in columns if fields.get(name) and earlier.get(name)]
    if not all(same_value(fields[name], earlier[name]) for name in both):
        findings.add('entries that contradict an earlier entry', 'the first one is used', where)
    for name, value in fields.items():
        earlier[name] = earlier.get(name) or value


def _text(value):
    if isinstance(value, list):
        return json.dumps(value)
    return ' '.join(str(value).split()) if isinstance(value, str | int | float) else ''


def _entries(source, name):
    """The entries of a JSON file: of pages with a field `recordings`, or of lists."""
    data = _read(source, name, MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise Problem(f'{name}: larger than {MAX_JSON >> 20} MB; divide it into pages, as the API of xeno-canto does')
    try:
        content = json.loads(decode(data), parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as e:
        if b'"gen"' not in data:
            source.skip(name, 'no JSON', 'not metadata of xeno-canto')
            return []
        raise Problem(f'{os.path.join(source.folder, name)}: damaged JSON ({e}); download it again') from None
    found, pages = [], collections.deque([content])
    while pages:
        page = pages.popleft()
        if isinstance(page, list):
            pages.extendleft(reversed(page))
        elif isinstance(page, dict) and isinstance(page.get('recordings'), list | dict):
            pages.appendleft(page['recordings'])
        elif isinstance(page, dict) and {'gen', 'sp'} <= page.keys():
            found.append(page)
        elif isinstance(page, dict):  # recordings or pages by number
            entries = ({'id': number, **entry} for number, entry in page.items() if isinstance(entry, dict))
            pages.extendleft(reversed(list(entries)))
    return found


def _has_metadata(source, name):
    try:
        return {'id', 'gen', 'sp'} <= set(source.read(name).columns)
    except Problem:
        return False


def _read(source, name, size):
    with open_regular(os.path.join(source.folder, name)) as f:
        return f.read(size)


def _from_metadata(path, number, entry, findings):
    recording = Recording(source=path, recording=f'XC{number}', background=list_literal(entry.get('also', '')))
    recording.class_id = recording.scientific_name = _species(entry)
    if not recording.class_id:
        findings.add('recordings whose species is unknown', 'they are in the part unlabelled', path)
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


def _classes_of_folders(numbers, metadata):
    """{folder: class} where all recordings with metadata have the same class."""
    found = collections.defaultdict(set)
    for path, number in numbers.items():
        if number in metadata:
            found[os.path.dirname(path)].add(_species(metadata[number]))
    return {folder: next(iter(classes)) for folder, classes in found.items() if len(classes) == 1}


def _from_name(path, number, folders, has_metadata, findings):
    """A recording without metadata: its class is that of its name, or of its folder."""
    recording = Recording(source=path, recording=number and f'XC{number}')
    folder = os.path.basename(os.path.dirname(path))
    found = NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
    if folder.lower() in NOISE:
        recording.part = 'noise'
    elif found:
        if found['genus'].lower() not in NO_SPECIES:
            recording.class_id = recording.scientific_name = f'{found["genus"]} {found["species"]}'
            recording.common_name = found['common']
    elif has_metadata:
        recording.class_id = recording.scientific_name = folders.get(os.path.dirname(path), '')
    elif re.fullmatch(r'[A-Z][a-z]+[_ ][a-z-]+', folder):
        recording.class_id = recording.scientific_name = folder.replace('_', ' ')
    else:
        recording.class_id = folder
    if not recording.class_id and recording.part == 'train':
        recording.part = 'unlabelled'
        findings.add('recordings whose species is unknown', 'they are in the part unlabelled', path)
    elif has_metadata and recording.class_id:
        findings.add('recordings without metadata', 'the class is that of their name, or of their folder', path)
    return recording


def _has_other_tables(source):
    """Whether a table names files, so that other layouts read it."""
    for name in source.tables():
        try:
            if source.read(name).column('file', 'filename', 'filepath', 'primary_label'):
                return True
        except Problem:
            continue
    return False
