"""A table of recordings: CSV, TSV or Parquet, with a column for the file and one for the label.

    recordings.csv      file,label,background,date,latitude,longitude,site,split
    any/folders/        recordings; paths in the table are relative to the folder of the table

SOURCE is the folder, or the table itself. If all recordings are in one folder, paths may also begin below it. `COLUMNS`
lists the columns that are read in addition to `file` and `label`, with other names for each, among them those of
BirdSet. Several tables are read as one; if a table without a column `split` is named train.csv, valid.csv, test.csv or
similar, this is the part of its recordings.

A file may have several rows. With `start` and `end` (seconds, or HH:MM:SS), or with `detected_events` (list of
[start, end]), their labels become segments; otherwise the first label is the class and the others are background
classes. A label is text; several labels are separated by ';', or are a list. The label "nocall", or a row with times
but without label, says that no class is active. A training recording without label is in the part `unlabelled`, or, if
all of its rows say that no class is active, in `noise`.
"""

import re
from collections.abc import Iterable

from birdsong.files import Problem
from shared.delimited import Table, labels_of, list_literal, same_value
from shared.intervals import interval, merge_overlapping, seconds
from shared.paths import located
from shared.recordings import PARTS, TRAINING, Recording, Segment
from shared.source import Source

LOOKED_FOR = 'a table (.csv, .tsv, .parquet) with the columns file and label, or those of BirdSet'
PRECEDENCE = 1

COLUMNS = {
    'file': 'file filename file_name filepath file_path path',
    'label': 'label labels class class_id species species_code ebird_code ebird_code_multilabel primary_label category',
    'background': 'background secondary_labels ebird_code_secondary',
    'start': 'start start_time start_s begin',
    'end': 'end end_time end_s stop',
    'detected_events': 'detected_events',
    'part': 'part split',
    'scientific_name': 'scientific_name latin_name',
    'common_name': 'common_name english_name',
    'date': 'date datetime date_time timestamp',
    'time': 'time local_time',
    'latitude': 'latitude lat',
    'longitude': 'longitude lon long lng',
    'elevation': 'elevation altitude alt',
    'recordist': 'recordist author',
    'site': 'site location locality loc',
    'recording': 'recording recording_id src_file',
    'quality': 'quality',
    'licence': 'licence license lic',
    'fold': 'fold',
}
NO_CALL = 'nocall'
UNKNOWN = ('NA', '<NA>', 'NaN', 'nan', 'None', 'null', 'NULL')
# Fields of a recording that are copied from the first row in which they are not empty.
COPIED = tuple(COLUMNS)[tuple(COLUMNS).index('date') :]
OTHER_PARTS = {
    'training': 'train',
    'val': 'valid',
    'validation': 'valid',
    'dev': 'valid',
    'testing': 'test',
    'unlabeled': 'unlabelled',
}


def recognise(source: Source) -> str:
    """Why a source folder has this layout, or ''."""
    for name in source.tables():
        try:
            table = source.read(name)
        except Problem:
            continue
        columns = _columns(table)
        others = {'primary_label', 'gen', 'sp'} & set(map(_plain, table.columns))  # of Kaggle and xeno-canto
        if columns['file'] and columns['label'] and not others:
            return f'{name} has the columns {columns["file"][0]} and {columns["label"][0]}'
    return ''


def rows(source: Source) -> Iterable[Recording]:
    """The recordings. Raises Problem if there is no table with the needed columns, or for paths that lead elsewhere."""
    tables = [(name, source.read(name)) for name in source.tables()]
    usable = [(name, table) for name, table in tables if _usable(table)]
    if not usable:
        found = '; '.join(f'{name} has the columns {", ".join(table.columns)}' for name, table in tables)
        raise Problem(f'{source.path}: no table with a column file and a column label ({found or "no table at all"})')
    reader = _Reader(source)
    for name, table in usable:
        reader.read(name, table)
    return reader.finish()


def part_of(text: str) -> str:
    """The part that a text names, '' if it names none: 'val' -> 'valid'."""
    name = _plain(text)
    name = OTHER_PARTS.get(name, name)
    return name if name in PARTS else ''


class _Reader:
    """Merges the rows of tables to recordings."""

    def __init__(self, source):
        self.source, self.report = source, source.report
        self.recordings: dict[str, Recording] = {}
        self.parts: dict[str, str] = {}
        self.names: dict[str, tuple[str, str]] = {}  # class -> scientific, common name
        self.silent = set()  # paths of recordings that are labelled "nocall"
        self.seen = set()

    def read(self, name, table):
        columns = _columns(table)
        used = {column for names in columns.values() for column in names}
        unused = [column for column in table.columns if column and column not in used]
        if unused:
            self.report.note(f'{name}: columns that are not used: {", ".join(unused)}')
        part = part_of(name.rpartition('.')[0])
        found, no_values = [item for item in columns.items() if item[1]], dict.fromkeys(columns, '')
        for line, row in table.numbered():
            row = {column: '' if value in UNKNOWN else value for column, value in row.items()}
            values = no_values | {field: next(filter(None, map(row.get, names)), '') for field, names in found}
            self._add(f'{name}, line {line}', values, part)
        self.report.add_table_problems(name, table.problems)

    def finish(self):
        for recording in self.recordings.values():
            recording.segments = merge_overlapping(recording.segments)
            recording.settle_class()
            names = self.names.get(recording.class_id, ('', ''))
            recording.scientific_name, recording.common_name = names
            recording.part = self._part(recording)
        self._find_files()
        active = {segment.class_id for recording in self.recordings.values() for segment in recording.segments}
        self.source.class_names.update({label: names for label, names in self.names.items() if label in active})
        return list(self.recordings.values())

    def _find_files(self):
        if self.source.table:
            return
        found, folder = located(self.recordings, [*self.source.files, *self.source.known])
        if folder:
            self.report.note(f'the paths in the table are below {folder}/')
        for path, file in found.items():
            self.recordings[path].source = file
            if not folder:
                kind = 'paths that differ from those of the files in upper and lower case, or in accents'
                self.report.add(kind, 'the files are used', path)

    def _part(self, recording):
        part = self.parts.get(recording.source) or 'train'
        if recording.class_id or part not in TRAINING:
            return part
        if recording.segments or recording.source in self.silent:
            self.report.add('recordings in which no class is active', 'they are in the part noise', recording.source)
            return 'noise'
        self.report.add('recordings without label', 'they are in the part unlabelled', recording.source)
        return 'unlabelled'

    def _add(self, where, values, part):
        if not values['file']:
            self.report.add('rows without file', 'left out', where)
            return
        row = tuple(values.values())
        if row in self.seen:
            self.report.add('repeated rows', 'left out', where)
            return
        self.seen.add(row)
        path = self.source.inside(values['file'], where)
        recording = self.recordings.setdefault(path, Recording(source=path))
        self._set_part(where, path, values['part'], part)
        self._set_fields(where, recording, values)
        labels = labels_of(values['label'])
        if NO_CALL in map(str.lower, labels):
            labels = [label for label in labels if label.lower() != NO_CALL]
            self.silent.add(path)
        for label in labels[:1]:  # the row has the names of one class
            earlier = self.names.get(label, ('', ''))
            names = values['scientific_name'], values['common_name']
            self.names[label] = tuple(old or new for old, new in zip(earlier, names, strict=True))
        recording.background += list_literal(values['background'])
        segments = self._segments(where, values, labels)
        recording.segments += segments
        if not segments and labels:
            recording.class_id = recording.class_id or labels[0]
            recording.background += labels

    def _set_fields(self, where, recording, values):
        for field in COPIED:
            value, earlier = values[field], getattr(recording, field)
            if value and not earlier:
                setattr(recording, field, value)
            elif value and not same_value(value, earlier):
                self.report.add(f'rows that contradict an earlier row in {field}', 'the first value is used', where)

    def _set_part(self, where, path, text, default):
        part = part_of(text) if text else default
        if text and not part:
            raise Problem(f'{where}: {text!r} is no part; expected one of {", ".join(PARTS)}')
        if part and self.parts.setdefault(path, part) != part:
            done = 'the first one is used'
            self.report.add('rows that contradict an earlier row about the part', done, where)

    def _segments(self, where, values, labels):
        spans = [(values['start'], values['end'])] if values['start'] or values['end'] else []
        try:
            spans = spans or (_spans(values['detected_events']) if labels else [])
            spans = [interval(seconds(start), seconds(end)) for start, end in spans]
        except ValueError as e:
            done = 'their labels count for the whole recording' if labels else 'left out'
            self.report.add('rows with times that cannot be used', done, f'{where} ({e})')
            return []
        for *_, corrected in spans:
            if corrected:
                self.report.add(f'segments {corrected}', 'corrected', where)
        return [Segment(start, end, label) for start, end, _ in spans for label in labels or ['']]


def _usable(table):
    columns = _columns(table)
    return columns['file'] and (columns['label'] or columns['part'])


def _columns(table: Table) -> dict[str, list[str]]:
    """Columns of a table for each field, [] if it has none, with names in order of preference."""
    found = {_plain(column): column for column in reversed(table.columns)}
    return {field: [found[name] for name in names.split() if name in found] for field, names in COLUMNS.items()}


def _plain(text):
    return re.sub(r'[\s-]+', '_', text.strip()).casefold()


def _spans(text):
    """[('0.5', '1.25')] from '[[0.5, 1.25]]'."""
    numbers = list_literal(text.replace('[', ' ').replace(']', ' ')) if text else []
    if len(numbers) % 2:
        raise ValueError('is no list of [start, end]')
    return list(zip(numbers[::2], numbers[1::2], strict=True))
