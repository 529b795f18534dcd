"""Detections per species and day, with the effort (hours listened) of that day, by which numbers can be normalised.

Each species that was detected at all has a row for each day with recordings, also with 0 detections, so that days
without the species are not missing. Without any detections, the rows of days have no species. The day is that of the
wall-clock time of a detection; a recording that continues after midnight counts on both days. If the date of recordings
is unknown, they are a day of their own, ''. Summaries of different recordings can be added, see `add_file`.
"""

import collections
import csv
import datetime
from collections.abc import Sequence

from birdsong.files import Problem, open_regular, writing
from birdsong.findings.circumstances import Circumstances
from birdsong.findings.formats import Finding, guarded, unguarded

# Seconds after midnight that are attributed to rounding.
SHORTEST = 1e-3
COLUMNS = ('Date', 'Class', 'Scientific name', 'Common name', 'Detections', 'First', 'Last', 'Hours')


class Summary:
    """Numbers of detections and hours, collected recording by recording."""

    def __init__(self):
        self.hours = collections.defaultdict(float)  # day -> hours listened
        self.names = {}  # class id -> scientific and common name of the detected classes
        self._found = {}  # (day, class id) -> [detections, first time, last time]

    def add(self, findings: list[Finding], listened: Sequence[tuple[float, float]], when: Circumstances) -> None:
        """Add the findings in a recording, and the parts of it that were listened to, in seconds from its start."""
        for start, end in listened:
            for day, seconds in _per_day(start, end, when):
                self.hours[day] += seconds / 3600
        for one in findings:
            self._count(one.date, (one.class_id, one.scientific_name, one.common_name), 1, one.time, one.time)

    def add_file(self, filename: str) -> None:
        """Add a summary of other recordings that `write` has written. Raises Problem if it is something else."""
        days = {}
        try:
            with open_regular(filename, 'r', encoding='utf-8-sig', newline='') as f:
                for row in csv.DictReader(f, strict=True):
                    day, *names, number, first, last, hours = (unguarded(row[name]) for name in COLUMNS)
                    days[day] = float(hours)
                    if names[0]:
                        self._count(day, names, int(number), first, last)
        except FileNotFoundError:
            raise Problem(f'{filename}: no such file') from None
        except (UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as e:
            raise Problem(f'{filename}: not a summary of findings.py ({e})') from None
        for day, hours in days.items():
            self.hours[day] += hours

    def _count(self, day: str, names: Sequence[str], number: int, first: str, last: str) -> None:
        class_id, *names = names
        self.names.setdefault(class_id, tuple(names))
        entry = self._found.setdefault((day, class_id), [0, first, last])
        entry[0] += number
        if number and first:
            entry[1:] = min(entry[1] or first, first), max(entry[2], last)

    def write(self, filename: str) -> None:
        """Write the CSV file, sorted by day and class, atomically."""
        with writing(filename, 'w', encoding='utf-8', newline='') as f:
            out = csv.writer(f, lineterminator='\n')
            out.writerow(COLUMNS)
            for day in sorted(self.hours):
                for class_id in sorted(self.names) or ['']:
                    names = map(guarded, (class_id, *self.names.get(class_id, ('', ''))))
                    found = self._found.get((day, class_id), (0, '', ''))
                    out.writerow([day, *names, *found, f'{self.hours[day]:.6f}'])


def _per_day(start: float, end: float, when: Circumstances) -> list[tuple[str, float]]:
    """(day, seconds of it) of a part of a recording."""
    moment = when.moment(start)
    if moment is None:
        return [(when.clock(start)[0], end - start)]
    parts = []
    while end - start > SHORTEST:
        # With a time zone, a day may have 23 or 25 hours: moments are compared in absolute time.
        midnight = datetime.datetime.combine(moment.date() + datetime.timedelta(days=1), datetime.time(), when.zone)
        seconds = min(end - start, _elapsed(moment, midnight))
        parts.append((moment.date().isoformat(), seconds))
        start, moment = start + seconds, midnight
    return parts


def _elapsed(start: datetime.datetime, end: datetime.datetime) -> float:
    if start.tzinfo is not None:
        start, end = start.astimezone(datetime.timezone.utc), end.astimezone(datetime.timezone.utc)
    return (end - start).total_seconds()
