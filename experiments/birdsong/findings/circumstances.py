"""When and where recordings were made: the wall-clock time of each second, latitude and longitude.

Date, time and place are those in labels/meta.tsv. The dataset's times are local, without a time zone. If recordings.tsv
has the time as UTC or with an offset ('01:00:02Z', '2025-02-27T01:00:02+02:00'), that time is used, with its zone.
"""

import datetime
import os
import re
import zoneinfo
from collections.abc import Collection, Iterator
from typing import NamedTuple

from birdsong.data.dataset import Dataset
from birdsong.data.metadata import SOURCES
from birdsong.files import Problem, read_lines

UTC = datetime.timezone.utc
DATE = re.compile(r'(\d{4})-?(\d\d)-?(\d\d)', re.A)
TIME = re.compile(r'(\d\d):(\d\d)(?::(\d\d))?(?:\.\d+)?', re.A)
ZONE = re.compile(r'(z|utc|gmt)|([+-])(\d\d)(?::?(\d\d))?', re.A | re.I)


class Circumstances(NamedTuple):
    """When and where a recording was made; what is unknown is None. `zone`: time zone of date and time."""

    date: datetime.date | None = None
    time: datetime.time | None = None
    zone: datetime.tzinfo | None = None
    latitude: float | None = None
    longitude: float | None = None
    source: str = ''  # path of the file that the recording was converted from, below the source folder

    def moment(self, seconds: float) -> datetime.datetime | None:
        """Date and time `seconds` after the start of the recording, None if its date or time is unknown."""
        if self.date is None or self.time is None:
            return None
        start, delta = datetime.datetime.combine(self.date, self.time, self.zone), datetime.timedelta(seconds=seconds)
        # In UTC, because clocks may be set forward or back during a recording.
        return start + delta if self.zone is None else (start.astimezone(UTC) + delta).astimezone(self.zone)

    def clock(self, seconds: float) -> tuple[str, str, str]:
        """(date, time, time zone) as text, `seconds` after the start of the recording; '' if unknown.

        Seconds are rounded down. The zone is 'UTC' or the offset from it, such as '+02:00'.
        """
        moment = self.moment(seconds)
        if moment is not None:
            offset = '' if self.zone is None else moment.strftime('%z')
            zone = 'UTC' if offset == '+0000' else f'{offset[:3]}:{offset[3:5]}' if offset else ''
            return moment.date().isoformat(), moment.strftime('%H:%M:%S'), zone
        if self.time is not None:
            # any date will do, since that of the recording is unknown
            time = self._replace(date=datetime.date(2000, 1, 1), zone=None).moment(seconds)
            return '', time.strftime('%H:%M:%S'), ''
        return self.date.isoformat() if self.date else '', '', ''


def load(dataset: Dataset, keys: Collection[str], zone: datetime.tzinfo | None = None) -> dict[str, Circumstances]:
    """The circumstances of the recordings `keys`, of each one about which something is known.

    `zone` is the time zone of times without one; other times are converted to it.
    """
    wanted, result = set(keys), {}
    for key, date, time, latitude, longitude, _ in _metadata(dataset):
        if key in wanted:
            when = _date(date), _time(time)
            result[key] = Circumstances(
                *when, zone if None not in when else None, _degrees(latitude, 90), _degrees(longitude, 180)
            )
    for row in dataset.recordings():
        key = row.get('key')
        if key in wanted:
            known = result.get(key, Circumstances())._replace(source=row.get('source', ''))
            moment = _absolute(row.get('date', ''), row.get('time', ''))
            if moment is not None:
                moment = moment.astimezone(zone or moment.tzinfo)
                known = known._replace(date=moment.date(), time=moment.time(), zone=moment.tzinfo)
            result[key] = known
    return result


def time_zone(text: str) -> datetime.tzinfo:
    """Time zone of 'UTC', an offset such as '+02:00', or a name such as 'Europe/Berlin'. Raises Problem for others."""
    zone = _offset(text)
    if zone is None:
        try:
            zone = zoneinfo.ZoneInfo(text)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise Problem(
                f'--timezone={text}: no such time zone; give UTC, an offset such as +02:00, or a name such as '
                'Europe/Berlin (if your system has none: pip install tzdata)'
            ) from None
    return zone


def _metadata(dataset: Dataset) -> Iterator[list[str]]:
    """Rows of labels/meta.tsv, if there is one."""
    filename = os.path.join(dataset.path, 'labels', 'meta.tsv')
    for number, line in enumerate(read_lines(filename) if os.path.exists(filename) else (), 1):
        fields = line.split('\t')
        if len(fields) != 1 + len(SOURCES):
            raise Problem(
                f'{filename}, line {number}: expected tab-separated path, date, time, latitude, longitude, elevation; '
                'prepare the dataset again'
            )
        yield fields


def _date(text: str) -> datetime.date | None:
    found = DATE.fullmatch(text.strip())
    try:
        date = datetime.date(*map(int, found.groups())) if found else None
    except ValueError:
        return None
    # A recording may end in the next year.
    return date if date and 1 < date.year < 9999 else None


def _time(text: str) -> datetime.time | None:
    found = TIME.fullmatch(text.strip())
    try:
        return datetime.time(*(int(part or 0) for part in found.groups())) if found else None
    except ValueError:
        return None


def _offset(text: str) -> datetime.tzinfo | None:
    found = ZONE.fullmatch(text.strip())
    if not found:
        return None
    if found[1]:
        return UTC
    delta = datetime.timedelta(hours=int(found[3]), minutes=int(found[4] or 0))
    return datetime.timezone(delta if found[2] == '+' else -delta) if delta < datetime.timedelta(days=1) else None


def _absolute(date: str, time: str) -> datetime.datetime | None:
    """The moment that a date and a time with a zone mean, or a date that contains both, else None."""
    if not time.strip():
        date, _, time = date.strip().upper().replace('T', ' ', 1).partition(' ')
        if re.match('[0:]*[^0-9:]', time):  # midnight is what programs add to dates without a time
            return None
    found = re.fullmatch(rf'({TIME.pattern})\s*(.+)', time.strip(), re.A)
    day, clock = _date(date), _time(found[1]) if found else None
    zone = _offset(found[found.re.groups]) if found else None
    return None if None in (day, clock, zone) else datetime.datetime.combine(day, clock, zone)


def _degrees(text: str, limit: int) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= limit else None
