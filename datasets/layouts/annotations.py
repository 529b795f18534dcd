"""Recordings beside annotations of times: selection tables of Raven, or label tracks of Audacity.

    SOURCE/any/folders/X.wav
    SOURCE/any/folders/X.Table.1.selections.txt    selection table of X.wav: tab-separated, with a row of column names
    SOURCE/any/folders/X.selections.txt, X.txt     the same, or label track: start TAB end TAB label
    SOURCE/any/folders/day.selections.txt          selection table of several recordings, with Begin File or Begin Path

In a selection table, the class is in a column such as Species, Species Code, Annotation, Common Name or Tag. Views
(waveform, spectrogram) of the same selection count once. In a table of several recordings, times are those in the
column File Offset (s); without it, they accumulate over the recordings, in the order of the table.

The labels become segments; the class of a recording is the one with the longest total duration. A recording without
annotations is in the part `unlabelled`. If its table is empty or only contains the label "nocall", no class is active,
and it is in the part `noise`. Site, date and time are those in the names of automatic recorders.
"""

import collections
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterable

import soundfile

from birdsong.files import Problem
from shared import recorder_names, selections
from shared.delimited import labels_of
from shared.intervals import interval, merge_overlapping
from shared.recordings import Recording, Segment
from shared.source import Source

LOOKED_FOR = 'recordings beside Raven selection tables (X.Table.1.selections.txt) or Audacity label tracks (X.txt)'
PRECEDENCE = 1

SUFFIXES = ('.txt', '.tsv', '.csv')
NAME = re.compile(r'(.+?)([._ -]table[._ -]?\d+)?([._ -]selections?([._ -]table)?)?([._ -]labels?)?', re.I | re.A)
NO_CALL = ('nocall', 'no call')
# Annotations may end this many seconds after the end of a recording, because their times are rounded.
TOLERANCE = 0.1


def recognise(source: Source) -> str:
    """Why a source folder has this layout, or ''."""
    recordings = None
    for path in source.with_suffix(*SUFFIXES):
        kind = selections.kind_of(os.path.join(source.folder, path))
        if kind == selections.LABEL_TRACK:
            recordings = recordings or _Recordings(source)
        if kind == selections.SELECTIONS or kind == selections.LABEL_TRACK and recordings.annotated_by(path):
            return f'{path} is {kind}'
    return ''


def rows(source: Source) -> Iterable[Recording]:
    """The recordings. Raises Problem without annotations, or if a selection table has no column with classes."""
    recordings = _Recordings(source)
    kinds = {path: selections.kind_of(os.path.join(source.folder, path)) for path in source.with_suffix(*SUFFIXES)}
    if not recordings.paths or not any(kinds.values()):
        raise Problem(
            f'{source.path}: no {LOOKED_FOR}; found {len(recordings.paths)} recordings and {len(kinds)} tables'
        )
    for path, kind in kinds.items():
        filename, own = os.path.join(source.folder, path), recordings.annotated_by(path)
        found, is_complete = [], True
        if kind == selections.SELECTIONS:
            found, is_complete = selections.read_selections(filename, path, source.report)
        elif kind == selections.LABEL_TRACK and own:
            found, is_complete = selections.read_label_track(filename, path, source.report)
        elif own and kind != selections.EMPTY and path.lower().endswith('.txt'):
            source.skip(path, 'neither a selection table nor a label track', 'correct it if it has annotations')
        elif kind == selections.LABEL_TRACK:
            source.report.add('label tracks that are named after no recording', 'not read', path)
        if own and kind:
            recordings.annotations[own].is_annotated |= not found
            recordings.annotations[own].is_complete &= is_complete
        _add_selections(found, path, own, recordings, source.report)
    result = [_recording(path, recordings.annotations[path], recordings, source.report) for path in recordings.paths]
    for annotations in recordings.annotations.values():
        source.class_names.update({label: names for label, names in annotations.names.items() if any(names)})
    unread = [path for path in source.tables() if not kinds.get(path)]
    if unread:
        source.report.note(f'not read, since they are no selection tables: {", ".join(unread)}')
    return result


@dataclasses.dataclass
class _Annotations:
    """What the tables say about a recording."""

    segments: list[Segment] = dataclasses.field(default_factory=list)
    labels: list[str] = dataclasses.field(default_factory=list)  # without duration
    names: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    is_annotated: bool = False
    is_complete: bool = True


class _Recordings:
    """The recordings of a source, found by the names in tables, and their annotations."""

    def __init__(self, source):
        self.folder, self.paths = source.folder, source.recordings()
        self.annotations = {path: _Annotations() for path in self.paths}
        self._named = collections.defaultdict(list)
        self._lengths = {}
        for path in self.paths:
            base = os.path.basename(path)
            for name in {base, _stem(path), base.casefold(), _stem(path).casefold()}:
                self._named[name].append(path)

    def annotated_by(self, table):
        """The recording that a table is named after: in its folder, or the only one of that name; else ''."""
        stem = _stem(table)
        names = stem, NAME.fullmatch(stem)[1], os.path.splitext(stem)[0]
        found = (self._find(name, os.path.dirname(table)) for name in names)
        return next(filter(None, found), '')

    def named(self, path, table):
        """The recording that a table names by a path, perhaps of another computer; else ''."""
        parts = path.replace('\\', '/').split('/')
        paths = self._named.get(parts[-1]) or self._named.get(parts[-1].casefold(), [])
        for count in range(len(parts), 1, -1):
            below = '/'.join(parts[-count:])
            found = [path for path in paths if f'/{path}'.endswith(f'/{below}')]
            if len(found) == 1:
                return found[0]
        return self._find(parts[-1], os.path.dirname(table))

    def length(self, path):
        """Length of a recording in seconds, infinite if it cannot be read."""
        if path not in self._lengths:
            try:
                self._lengths[path] = soundfile.info(os.path.join(self.folder, path)).duration
            except (soundfile.LibsndfileError, OSError):
                self._lengths[path] = math.inf
        return self._lengths[path]

    def _find(self, name, folder):
        """The recording of a name, perhaps in other case, in a folder, or else the only one in any folder; else ''."""
        spellings = [self._named.get(name, []), self._named.get(name.casefold(), [])]
        beside = [[path for path in paths if os.path.dirname(path) == folder] for paths in spellings]
        return next((paths[0] for paths in beside + spellings if len(paths) == 1), '')


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _add_selections(found, table, own, recordings, report):
    """Add the rows of a selection table to its recordings."""
    files = {selection.file: recordings.named(selection.file, table) for selection in found}
    if len(files) == 1 and own:
        files = {file: path or own for file, path in files.items()}
    lost = [selection for selection in found if not files[selection.file]]
    for selection in lost:
        report.add('annotations of recordings that are not there', 'left out', f'{table}, line {selection.line}')
    found = [selection for selection in found if files[selection.file]]
    accumulated = [selection for selection in found if selection.file and selection.offset is None]
    starts = _starts_of_files(accumulated, files, recordings) if accumulated else {}
    for selection in found:
        where, path = f'{table}, line {selection.line}', files[selection.file]
        if selection.offset is not None:
            shift = selection.offset - min(selection.start, selection.end)
        elif path in starts or not selection.file:
            shift = -starts.get(path, 0)
        else:
            recordings.annotations[path].is_complete = False
            report.add('annotations whose times do not fit the lengths of their recordings', 'left out', where)
            continue
        _add(selection, shift, path, recordings, report, where)


def _starts_of_files(found, files, recordings):
    """{recording: its start in the times of a table} if these accumulate; {} if they do not fit the lengths.

    Tries the recordings of the table in its order, then all recordings in their folders, in the order of their names,
    since a recording without selections is not in the table.
    """
    named = list(dict.fromkeys(files[selection.file] for selection in sorted(found, key=lambda row: row.start)))
    folders = {os.path.dirname(path) for path in named}
    for paths in named, [path for path in recordings.paths if os.path.dirname(path) in folders]:
        lengths = [recordings.length(path) for path in paths]
        starts = dict(zip(paths, itertools.accumulate(lengths[:-1], initial=0.0), strict=True))
        times = [(selection.start - starts[files[selection.file]], files[selection.file]) for selection in found]
        if all(-TOLERANCE <= time <= recordings.length(path) + TOLERANCE for time, path in times):
            return starts
    return {}


def _add(selection, shift, path, recordings, report, where):
    """Add an annotation to a recording, if its times and its label can be used."""
    annotations = recordings.annotations[path]
    labels = ['' if label.lower() in NO_CALL else label for label in labels_of(selection.label)]
    if not labels:
        annotations.is_complete = False
        report.add('annotations without label', 'left out', where)
        return
    annotations.is_annotated = True
    annotations.names.setdefault(labels[0], selection.names)
    try:
        start, end, corrected = interval(selection.start + shift, selection.end + shift)
    except ValueError:
        annotations.labels += filter(None, labels)
        report.add('annotations without duration', 'their classes count for the whole recording', where)
        return
    length = recordings.length(path)
    if start >= length:
        annotations.is_complete = False
        report.add('annotations after the end of their recording', 'left out', where)
        return
    if corrected:
        report.add(f'annotations {corrected}', 'corrected', where)
    if end > length + TOLERANCE:
        report.add('annotations that end after their recording', 'shortened', where)
    annotations.segments += [Segment(start, min(end, length), label) for label in labels]


def _recording(path, annotations, recordings, report):
    site, date, time = recorder_names.parse(path)
    segments = merge_overlapping(annotations.segments)
    recording = Recording(source=path, site=site, date=date, time=time, segments=segments)
    recording.settle_class()
    labels = annotations.labels
    if labels and not recording.class_id:
        recording.class_id = labels[0]
    recording.background += labels
    recording.settle_class()
    recording.scientific_name, recording.common_name = annotations.names.get(recording.class_id, ('', ''))
    if recording.class_id:
        return recording
    if annotations.is_annotated and annotations.is_complete:
        recording.part = 'noise'
        length = recordings.length(path)
        if not recording.segments and math.isfinite(length):
            recording.segments = [Segment(0.0, length, '')]
        report.add('recordings in which no class is annotated', 'they are in the part noise', path)
    else:
        recording.part = 'unlabelled'
        report.add('recordings without annotations', 'they are in the part unlabelled', path)
    return recording
