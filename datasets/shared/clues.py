"""When and where field recordings were made, from all that is known about them.

For each recording, in this order: a table of the user, what the recorder wrote into the file (see recorder_metadata),
the file name (see recorder_names), and values that hold for all recordings. The first of these that has a date or time
gives both; each other value is the first one found.
"""

import datetime
import os
import re
from typing import NamedTuple

from birdsong.data import metadata
from birdsong.files import Problem
from birdsong.findings.circumstances import UTC, Circumstances, time_zone
from shared import recorder_metadata, recorder_names
from shared.delimited import Table
from shared.metadata_values import REPAIRS, TIMESTAMP, local_time

TABLE_COLUMNS = {
    'file': 'file filename file_name filepath file_path path folder site',
    'date': 'date datetime date_time timestamp',
    'time': 'time local_time',
    'latitude': 'latitude lat',
    'longitude': 'longitude lon long lng',
    'elevation': 'elevation altitude alt',
}
ZONE = re.compile(r'(.*[0-9])\s*(z|utc|gmt|[+-][0-9]{2}:?(?:[0-9]{2})?)', re.I | re.A)
COLUMNS = ('File', 'Date', 'Time', 'Time zone', 'Latitude', 'Longitude', 'Elevation', 'Known from')


class Clues(NamedTuple):
    """What is known about a recording. `elevation` is in metres, or None; `origins` says where the values are from."""

    when: Circumstances
    elevation: float | None
    origins: tuple[str, ...]

    def row(self, path: str) -> list[str]:
        """The texts of COLUMNS."""
        values = self.when.latitude, self.when.longitude, self.elevation
        return [path, *self.when.clock(0), *('' if v is None else f'{v:.10g}' for v in values), ', '.join(self.origins)]

    def later(self, seconds: float) -> 'Clues':
        """What is known `seconds` after the start of the recording."""
        moment = self.when.moment(seconds)
        if moment is None:
            return self
        return self._replace(when=self.when._replace(date=moment.date(), time=moment.time(), zone=moment.tzinfo))

    def inputs(self) -> dict[str, float]:
        """{source: number} for a network, as `metadata.read_table` gives them. Networks expect local times.

        A time in UTC becomes the local mean solar time, or is left out without a longitude.
        """
        when = self.when
        date, time = ('' if value is None else value.isoformat() for value in (when.date, when.time))
        if when.zone is not None and when.zone.utcoffset(None) == datetime.timedelta(0):
            date, time = local_time(date, time, '' if when.longitude is None else str(when.longitude))
        numbers = {'latitude': when.latitude, 'longitude': when.longitude, 'elevation': self.elevation}
        texts = {'date': date, 'time': time}
        result = {name: float(metadata.READERS[name](text)) for name, text in texts.items() if text}
        return result | {name: value for name, value in numbers.items() if value is not None}


class Finder:
    """Finds the clues of recordings, given their paths below `folder`.

    `table`: a table of the user, with a column for the file (path below the folder, file name, or a folder that
    contains recordings) and any of TABLE_COLUMNS. `zone`: time zone of times without one; others are converted to it.
    `latitude`, `longitude`: of recordings without them. Raises Problem if the table has no such columns.
    """

    def __init__(
        self,
        folder: str,
        table: str | None = None,
        zone: datetime.tzinfo | None = None,
        latitude: float | None = None,
        longitude: float | None = None,
    ):
        self.folder, self.zone = folder, zone
        self.latitude, self.longitude = latitude, longitude
        self.rows = _rows(table) if table else {}

    def of(self, path: str) -> Clues:
        """The clues of a recording."""
        values, origins = {}, []
        for origin, texts in self._sources(path):
            new = _values(texts, without=values)
            if new:
                values.update(new)
                origins.append(origin)
        date, time, zone = values.get('moment', (None, None, None))
        if time is not None and zone is None:
            zone = self.zone
        elif date is not None and time is not None and zone is not None and self.zone is not None:
            moment = datetime.datetime.combine(date, time, zone).astimezone(self.zone)
            date, time, zone = moment.date(), moment.time(), self.zone
        latitude, longitude = values.get('latitude'), values.get('longitude')
        if latitude is None and longitude is None and self.latitude is not None:
            latitude, longitude = self.latitude, self.longitude
            origins.append('options')
        when = Circumstances(date, time, zone if date is not None else None, latitude, longitude, path)
        return Clues(when, values.get('elevation'), tuple(origins))

    def _sources(self, path):
        """Yields (origin, {column: text}), the most reliable first."""
        for name in (path, os.path.basename(path), os.path.splitext(os.path.basename(path))[0], *_parents(path)):
            if name in self.rows:
                yield 'table', self.rows[name]
                break
        for embedded in recorder_metadata.read(os.path.join(self.folder, path)):
            yield embedded.origin, embedded._asdict()
        yield 'file name', recorder_names.parse(path)._asdict()


def degrees(text: str, limit: int, option: str) -> float:
    """Latitude or longitude in a text, see metadata_values. Raises Problem, with the name of the option."""
    try:
        return float(REPAIRS['latitude' if limit == 90 else 'longitude'](text))
    except ValueError:
        raise Problem(f"{option}={text}: give degrees from {-limit} to {limit}, such as 12.5 or 12°30'S") from None


def _parents(path):
    while path := os.path.dirname(path):
        yield path


def _rows(filename):
    """{file: {column: text}} of a table of the user. For two rows of a file, the first counts."""
    if not os.path.isfile(filename):
        raise Problem(f'--metadata={filename}: no such file; give a table (.csv, .tsv, .parquet)')
    table, rows = Table(filename), {}
    columns = {name: table.column(*names.split()) for name, names in TABLE_COLUMNS.items()}
    if not columns['file'] or not any(column for name, column in columns.items() if name != 'file'):
        raise Problem(
            f'{filename}: needs a column file and one of date, time, latitude, longitude, elevation; its columns are '
            f'{", ".join(table.columns)}'
        )
    for row in table:
        file = os.path.normpath(row[columns['file']].replace('\\', '/'))
        rows.setdefault(file, {name: row[column] if column else '' for name, column in columns.items()})
    return rows


def _values(texts, without):
    """Numbers and the moment (date, time, zone) in texts, except for those that are in `without`."""
    values = {}
    for name in 'latitude', 'longitude', 'elevation':
        # both degrees are from one source
        pair = name != 'elevation' and ('latitude' in without or 'longitude' in without)
        if name not in without and not pair and texts.get(name, '').strip():
            try:
                values[name] = metadata.READERS[name](REPAIRS[name](texts[name]))
            except ValueError:
                continue
    moment = None if 'moment' in without else _moment(texts.get('date', ''), texts.get('time', ''))
    return values | ({'moment': moment} if moment else {})


def _moment(date, time):
    """(date, time, zone), each None if it is unknown, or None if there is neither a date nor a time."""
    stamp = TIMESTAMP.fullmatch(date.strip())
    if not time.strip() and stamp and stamp['time']:
        time = stamp['time'] + (stamp['zone'] or '')
    zoned = ZONE.fullmatch(time.strip())
    zone = None
    if zoned:
        time = zoned[1]
        zone = UTC if zoned[2].lower() in ('z', 'utc', 'gmt') else time_zone(zoned[2])
    day = _repaired('date', date, datetime.date)
    clock = _repaired('time', time, datetime.time)
    return (day, clock, zone) if day or clock else None


def _repaired(name, text, kind):
    try:
        return kind.fromisoformat(REPAIRS[name](text)) if text.strip() else None
    except ValueError:
        return None
