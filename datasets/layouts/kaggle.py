"""BirdCLEF on Kaggle, 2021 to 2026. Each file and folder may be missing; SOURCE may also be the first table alone.

    SOURCE/train_metadata.csv or train.csv    primary_label, filename; secondary_labels, latitude, longitude, date,
                                              time, author, rating, license, url, scientific_name, common_name
    SOURCE/taxonomy.csv                       primary_label, scientific_name, common_name, class_name;
                                              or eBird_Taxonomy_v2021.csv
    SOURCE/train_audio/LABEL/FILE.ogg         train; in 2021 train_short_audio/, and filename without LABEL/
    SOURCE/train_soundscapes/                 soundscapes_val if they are labelled, else unlabelled
    SOURCE/train_soundscapes_labels.csv       filename, start, end, primary_label: HH:MM:SS, labels separated by ';'
    SOURCE/train_soundscape_labels.csv        2021: row_id, site, audio_id, seconds, birds: labels separated by spaces
                                              in the 5 s before `seconds`
    SOURCE/unlabeled_soundscapes/             unlabelled
    SOURCE/test_soundscapes/                  soundscapes_test
    SOURCE/recording_location.txt             Latitude and Longitude of the soundscapes; or SITE_recording_location.txt

The label "nocall" means that no class is active. Ratings become qualities: above 4 A, above 3 B, above 2 C, above 1 D,
above 0 E; 0 is unknown.
"""

import collections
import functools
import math
import os
import re
from collections.abc import Iterable

from birdsong.files import Problem, open_regular
from shared import recorder_names
from shared.delimited import list_literal
from shared.intervals import interval, seconds
from shared.recordings import Recording, Segment
from shared.source import Source

LOOKED_FOR = 'BirdCLEF on Kaggle: a table with the columns primary_label and filename, or labels of soundscapes'
PRECEDENCE = 1

AUDIO = ('train_audio', 'train_short_audio')
USUAL_TABLES = ('train_metadata', 'train')
SOUNDSCAPES = {
    'train_soundscapes': 'unlabelled',
    'unlabeled_soundscapes': 'unlabelled',
    'unlabelled_soundscapes': 'unlabelled',
    'test_soundscapes': 'soundscapes_test',
}
NO_CALL = 'nocall'
MAX_TEXT = 10_000
SECONDS_BEFORE = 5  # length of the segments of 2021
UNKNOWN = ('-', 'nan', 'NaN', 'None', 'null')
# Fields of a recording: the columns that contain it.
FIELDS = {
    'date': 'date',
    'time': 'time',
    'latitude': 'latitude',
    'longitude': 'longitude',
    'elevation': 'elevation',
    'author': 'recordist',
    'license': 'licence',
    'fold': 'fold',
    'scientific_name': 'scientific_name',
    'common_name': 'common_name',
}


def recognise(source: Source) -> str:
    """Why a source folder has this layout, or ''."""
    tables = _columns(source)
    for name, columns in tables.items():
        if _is_main(columns):
            return f'{name} has the columns primary_label and filename'
    for name, columns in tables.items():
        if _is_labels(name, columns):
            return f'{name} contains labels of soundscapes'
    folders = [] if source.table else [folder for folder in (*AUDIO, *SOUNDSCAPES) if source.has(folder)]
    usual = [name for name in tables if os.path.splitext(name)[0].lower() in USUAL_TABLES]
    if folders and not tables:
        return f'a folder {folders[0]}/'
    return f'a folder {folders[0]}/ and {usual[0]}' if folders and usual else ''


def rows(source: Source) -> Iterable[Recording]:
    """The recordings of the source. Raises Problem if a table has not the columns that tell files and labels."""
    tables = _columns(source)
    names = _class_names(source, tables)
    recordings = _clips(source, _main_tables(source, tables), names)
    labels = [name for name, columns in tables.items() if _is_labels(name, columns)]
    recordings += _soundscapes(source, labels, names)
    active = {segment.class_id for recording in recordings for segment in recording.segments}
    source.class_names.update({label: names[label] for label in active if label in names})
    return recordings


def _columns(source):
    """Table directly in the source -> its columns in lower case; none if it cannot be read."""
    result = {}
    for name in source.tables():
        try:
            result[name] = [column.lower() for column in source.read(name).columns]
        except Problem:
            result[name] = []
    return result


def _is_main(columns):
    return {'primary_label', 'filename'} <= set(columns) and 'start' not in columns


def _is_labels(name, columns):
    of_2021 = 'birds' in columns and ('row_id' in columns or {'audio_id', 'seconds'} <= set(columns))
    return of_2021 and 'submission' not in name or {'filename', 'start', 'end', 'primary_label'} <= set(columns)


def _main_tables(source, tables):
    """The tables of recordings. Raises Problem if the only candidates have not the columns."""
    usual = [name for name in tables if os.path.splitext(name)[0].lower() in USUAL_TABLES]
    main = [name for name in usual if _is_main(tables[name])]
    main = main or [name for name, columns in tables.items() if _is_main(columns)]
    labelled = any(_is_labels(name, columns) for name, columns in tables.items())
    for name in [] if main else usual or ([] if labelled else list(tables)):
        source.read(name).need('primary_label', 'filename')
    only_soundscapes = not any(map(source.has, AUDIO)) and any(map(source.has, SOUNDSCAPES))
    if not main and not labelled and not only_soundscapes:
        cure = 'add train_metadata.csv or train.csv, or give the folder that contains the class folders as SOURCE'
        raise Problem(f'{source.path}: no table with the columns primary_label and filename; {cure}')
    return main


def _class_names(source, tables):
    """Class -> (scientific, common name), from the tables of classes."""
    names, kinds = {}, {}
    for name, columns in tables.items():
        if not {'scientific_name', 'sci_name'} & set(columns) or _is_main(columns):
            continue
        for _, row in _rows(source, name):
            code = row.get('primary_label') or row.get('species_code') or row.get('ebird_code')
            if code:
                scientific = row.get('scientific_name') or row.get('sci_name', '')
                names.setdefault(code, (scientific, row.get('common_name') or row.get('primary_com_name', '')))
                kinds[code] = row.get('class_name')
    counts = collections.Counter(filter(None, kinds.values())).most_common()
    if counts:
        source.report.note('classes of the taxonomy: ' + ', '.join(f'{count} {kind}' for kind, count in counts))
    return names


def _clips(source, tables, names):
    """Recordings of the main tables, one per file."""
    found = {}
    find = _finder(source)
    for name in tables:
        for where, row in _rows(source, name):
            if not row['filename']:
                source.report.add('rows without a file name', 'left out', where)
                continue
            path = _path(source, where, row, find)
            recording = _clip(row, path, names, source.report)
            known = found.setdefault(path, recording)
            if known is not recording and known.class_id == recording.class_id:
                source.report.add('further rows of the same recording', 'left out', where)
            elif known is not recording:
                source.report.add('further rows of the same recording', 'their labels are background classes', where)
                known.background = _without(known.class_id, [*known.background, recording.class_id])
    return list(found.values())


def _rows(source, name):
    """(where, row) of a table, with names of columns in lower case, and '' for values that mean "unknown"."""
    table = source.read(name)
    columns = [column.lower() for column in table.columns]
    for line, row in table.numbered():
        values = ('' if value in UNKNOWN else value for value in row.values())
        yield f'{name}, line {line}', dict(zip(columns, values, strict=True))
    source.report.add_table_problems(name, table.problems)


def _finder(source):
    """A function that returns the file of a path: itself, or one with another suffix; '' if there is none."""
    if source.table:
        return lambda path: path if os.path.isfile(os.path.join(source.folder, path)) else ''
    files = {os.path.splitext(path)[0]: path for path in source.recordings()}
    files.update((path, path) for path in source.files)
    return lambda path: files.get(path) or files.get(os.path.splitext(path)[0], '')


def _path(source, where, row, find):
    """Path of a recording below the source: the one that exists, else the one that it has on Kaggle."""
    name = source.inside(row['filename'], where)
    label = row['primary_label']
    short = f'train_short_audio/{label}/{name}' if '/' not in name else ''
    usual = short or f'train_audio/{name}'
    candidates = [usual, f'train_audio/{name}', f'train_audio/{label}/{name}', f'train_short_audio/{name}', name]
    return source.inside(next(filter(None, map(find, candidates)), usual), where)


def _clip(row, path, names, report):
    label = row['primary_label']
    recording = Recording(source=path, class_id=label, recording=_original(row.get('url', ''), path))
    for column, field in FIELDS.items():
        setattr(recording, field, row.get(column, ''))
    recording.quality = _quality(row.get('rating', ''))
    if label == NO_CALL:
        recording.part, recording.class_id = 'noise', ''
    elif not label:
        recording.part = 'unlabelled'
        report.add('recordings without a label', 'they are in the part unlabelled', path)
    else:
        scientific, common = names.get(label, ('', ''))
        recording.scientific_name = recording.scientific_name or scientific
        recording.common_name = recording.common_name or common
        labels, is_damaged = _secondary(row.get('secondary_labels', ''))
        recording.background = _without(label, labels)
        if is_damaged:
            report.add('damaged lists of secondary labels', 'what could be read is used', path)
    return recording


@functools.lru_cache(1 << 16)
def _secondary(text):
    """(labels in the literal of a list, whether it is damaged). The same lists occur often."""
    labels = list_literal(text)
    valid = [label for label in labels if re.fullmatch(r'[\w.-]+', label)]
    return valid, len(valid) < len(labels)


def _without(label, labels):
    return [other for other in dict.fromkeys(labels) if other not in (label, NO_CALL, '')]


def _original(url, path):
    """Id of the recording of a collection that this one was cut from: XC125458, iNat1109254; '' if unknown."""
    found = re.search(r'xeno-canto\.org/(?:\D*/)?(\d+)', url)
    if found:
        return f'XC{found[1]}'
    found = re.search(r'inaturalist\.org/(?:sounds|observations)/(\d+)', url)
    if found:
        return f'iNat{found[1]}'
    found = re.match(r'(XC|iNat|CSA)\d+', os.path.basename(path))
    return found[0] if found else ''


def _quality(rating):
    """Letter of a rating from 0 to 5; '' if unknown."""
    try:
        return 'EDCBA'[math.ceil(float(rating)) - 1] if 0 < float(rating) <= 5 else ''
    except ValueError:
        return ''


def _soundscapes(source, tables, names):
    """Recordings in the folders of soundscapes, and those that are labelled but missing."""
    found = {}
    for path in source.recordings():
        part = SOUNDSCAPES.get(path.split('/')[0].lower())
        if part:
            found[path] = _soundscape(path, part)
    by_name = {}
    for path in found:
        stem = os.path.splitext(os.path.basename(path))[0]
        # In 2021, names are AUDIOID_SITE_DATE, and labels name AUDIOID_SITE.
        for name in stem, re.sub(r'_\d{8}$', '', stem):
            by_name.setdefault(name, path)
    for table in tables:
        for name, segments in _labelled(source, table):
            path = by_name.get(os.path.splitext(os.path.basename(name))[0], f'train_soundscapes/{_with_suffix(name)}')
            recording = found.setdefault(path, _soundscape(path, 'soundscapes_val'))
            if recording.part == 'unlabelled':
                recording.part = 'soundscapes_val'
            recording.segments = list(dict.fromkeys([*recording.segments, *segments]))
    places = _places(source)
    for recording in found.values():
        recording.latitude, recording.longitude = places.get(recording.site) or places.get('', ('', ''))
        recording.settle_class()
        recording.scientific_name, recording.common_name = names.get(recording.class_id, ('', ''))
    return list(found.values())


def _soundscape(path, part):
    site, date, time = recorder_names.parse(path)
    return Recording(source=path, part=part, site=site, date=date, time=time)


def _places(source):
    """Site, or '' for all -> (latitude, longitude), from texts with lines such as "Latitude: 6.76"."""
    places = {}
    for path in source.with_suffix('.txt'):
        site, found, _ = os.path.basename(path).rpartition('recording_location')
        if found:
            with open_regular(os.path.join(source.folder, path)) as f:
                text = f.read(MAX_TEXT).decode('utf-8', 'replace')
            degrees = [re.search(rf'{name}\W*?(-?\d+(\.\d+)?)', text, re.I) for name in ('latitude', 'longitude')]
            if all(degrees):
                places[site.strip('_')] = degrees[0][1], degrees[1][1]
    return places


def _with_suffix(name):
    return name if os.path.splitext(name)[1] else f'{name}.ogg'


def _labelled(source, table):
    """(file name, segments) of each file in a table of labels."""
    segments, repeated = collections.defaultdict(dict), 0
    for where, row in _rows(source, table):
        try:
            name, start, end, labels = _segment_of_2021(row) if 'birds' in row else _segment(row)
        except ValueError as e:
            source.report.add('rows of labels that cannot be used', 'left out', f'{where}: it {e}')
            continue
        name = source.inside(name, where)
        for label in labels:
            segment = Segment(start, end, '' if label == NO_CALL else label)
            repeated += segment in segments[name]
            segments[name][segment] = None
    if repeated:
        source.report.note(f'{table}: {repeated} labels are there more than once; each is used once')
    return [(name, sorted(found)) for name, found in segments.items()]


def _segment(row):
    """(file name, start, end, labels) of a row of 2026. Raises ValueError if it cannot be used."""
    if not row['filename']:
        raise ValueError('has no file name')
    start, end, _ = interval(seconds(row['start']), seconds(row['end']))
    return row['filename'], start, end, re.split(r'[;,\s]+', row['primary_label'].strip(';, '))


def _segment_of_2021(row):
    """The same for a row of 2021; the name is AUDIOID_SITE, without suffix."""
    name, _, end = row.get('row_id', '').rpartition('_')
    if row.get('audio_id') and row.get('site'):
        name = f'{row["audio_id"]}_{row["site"]}'
    if not name:
        raise ValueError('has neither row_id nor audio_id')
    end = seconds(row.get('seconds') or end)
    start, end, _ = interval(end - SECONDS_BEFORE, end)
    return name, start, end, row['birds'].split() or [NO_CALL]
