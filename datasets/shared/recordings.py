"""The recordings of a dataset, and recordings.tsv, the table that contains them, whatever layout they came from.

recordings.tsv has a row of column names, then one row per recording. All later steps (labels, conversion, file lists,
validation) read this table only.
"""

import dataclasses
import operator
import os
from collections.abc import Iterable
from typing import NamedTuple

from birdsong.files import Problem
from shared.tables import read_table, table, write_if_changed

PARTS = ('train', 'valid', 'test', 'soundscapes_val', 'soundscapes_test', 'noise', 'unlabelled')
# Parts whose recordings are used in training, and parts that need no class.
TRAINING = ('train', 'valid')
WITHOUT_LABEL = ('noise', 'unlabelled')
AGAIN = 'delete the file and run prepare_birdclef.sh again'


class Segment(NamedTuple):
    """A class that is active from `start` to `end` seconds; class '' means that no class is active there."""

    start: float
    end: float
    class_id: str


@dataclasses.dataclass
class Recording:
    """A recording. Texts are as in the source, and '' where unknown."""

    key: str = ''  # path below audio/; layouts leave it empty unless they define it
    source: str = ''  # path of the file below SOURCE
    part: str = 'train'  # one of PARTS
    class_id: str = ''  # the class, or '' if unknown
    scientific_name: str = ''  # names of this class
    common_name: str = ''
    background: list[str] = dataclasses.field(default_factory=list)  # class ids, or scientific or common names
    date: str = ''
    time: str = ''
    latitude: str = ''
    longitude: str = ''
    elevation: str = ''
    recordist: str = ''
    site: str = ''
    recording: str = ''  # the original recording that this one was cut from
    quality: str = ''  # A (best) to E
    licence: str = ''
    fold: str = ''  # of a given division into folds
    copy_of: str = ''  # key of another recording whose file has the same content
    segments: list[Segment] = dataclasses.field(default_factory=list)

    def is_described(self) -> bool:
        """Whether anything is known about the recording, except that it exists."""
        return any(getattr(self, name) for name in DESCRIPTION)

    def settle_class(self) -> None:
        """Set the class from the segments if it is unknown: the class with the longest total duration, or the first.

        The other classes become background classes.
        """
        durations = {}
        for start, end, class_id in self.segments:
            if class_id:
                durations[class_id] = durations.get(class_id, 0) + end - start
        if durations and not self.class_id:
            self.class_id = max(durations, key=durations.get)
        others = [*self.background, *durations]
        self.background = list(dict.fromkeys(name for name in others if name != self.class_id))


DESCRIPTION = tuple(
    field.name for field in dataclasses.fields(Recording) if field.name not in ('key', 'source', 'part', 'copy_of')
)
_values = operator.attrgetter(*(field.name for field in dataclasses.fields(Recording)))
COLUMNS = tuple('class' if field.name == 'class_id' else field.name for field in dataclasses.fields(Recording))

# Without these columns, a file is no table of recordings.
NEEDED = ('key', 'source', 'part')


def recordings_file(dataset: str) -> str:
    """The table of the recordings of a dataset's folder."""
    return os.path.join(dataset, 'recordings.tsv')


def write_recordings(dataset: str, recordings: Iterable[Recording]) -> bool:
    """Write the table of a dataset's folder. Returns whether it has changed."""
    rows = (
        [value if isinstance(value, str) else _text(value) for value in _values(recording)] for recording in recordings
    )
    return write_if_changed(recordings_file(dataset), table([COLUMNS, *rows]))


def read_recordings(dataset: str) -> list[Recording]:
    """The recordings in the table of a dataset's folder. Raises Problem if it is missing or damaged.

    Other columns are ignored, and columns that are missing are empty, so that tables of other versions can be read.
    """
    filename = recordings_file(dataset)
    if not os.path.exists(filename):
        raise Problem(f'{filename}: no such file; run prepare_birdclef.sh, or datasets/collect.py')
    rows = read_table(filename)
    columns = rows[0] if rows else []
    if not set(columns) >= set(NEEDED):
        raise Problem(f'{filename}: no columns {", ".join(NEEDED)}; {AGAIN}')
    places = [columns.index(name) if name in columns else None for name in COLUMNS]
    as_written = tuple(columns) == COLUMNS
    recordings, keys = [], set()
    for number, row in enumerate(rows[1:], 2):
        origin = f'{filename}, line {number}'
        if len(row) != len(columns):
            raise Problem(f'{origin}: {len(row)} fields instead of {len(columns)}; {AGAIN}')
        values = row if as_written else ['' if place is None else row[place] for place in places]
        recordings.append(_recording(origin, values))
        key = values[0]
        if key in keys:
            raise Problem(f'{origin}: {key} is the key of an earlier line, too; {AGAIN}')
        keys.add(key)
    return recordings


def _text(value):
    """A list in the table: names are separated by ';', segments are 'START END CLASS', also separated by ';'."""
    return ';'.join(item if isinstance(item, str) else f'{item[0]:.12g} {item[1]:.12g} {item[2]}' for item in value)


def _recording(origin, row):
    recording = Recording(*row)
    recording.background = list(filter(None, recording.background.split(';'))) if recording.background else []
    try:
        parts = [text.split(' ', 2) for text in recording.segments.split(';') if text] if recording.segments else []
        recording.segments = [Segment(float(start), float(end), class_id) for start, end, class_id in parts]
    except ValueError:
        raise Problem(f'{origin}: expected segments such as "0 5 amered"; {AGAIN}') from None
    if recording.part not in PARTS:
        raise Problem(f'{origin}: {recording.part!r} is no part; expected one of {", ".join(PARTS)}; {AGAIN}')
    for path in recording.key or '..', recording.source:
        if path.startswith('/') or '..' in path and '..' in path.split('/'):
            raise Problem(f'{origin}: {path!r} is no path below a folder; {AGAIN}')
    return recording
