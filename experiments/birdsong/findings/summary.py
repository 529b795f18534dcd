"""Detections per species and day, with the effort (hours listened) of that day, by which numbers can be normalised.

Each species that was detected at all has a row for each day with recordings, also with 0 detections, so that days
without the species are not missing. The day is that of the wall-clock time of a detection; a recording that continues
after midnight counts on both days. If the date of recordings is unknown, they are a day of their own, ''.
"""

import collections
import csv
import datetime
from collections.abc import Sequence

from birdsong.files import writing
from birdsong.findings.circumstances import Circumstances
from birdsong.findings.formats import Finding, guarded

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
            self.names.setdefault(one.class_id, (one.scientific_name, one.common_name))
            entry = self._found.setdefault((one.date, one.class_id), [0, one.time, one.time])
            entry[0] += 1
            if one.time:
                entry[1:] = min(entry[1] or one.time, one.time), max(entry[2], one.time)

    def write(self, filename: str) -> None:
        """Write the CSV file, sorted by day and class, atomically."""
        with writing(filename, 'w', encoding='utf-8', newline='') as f:
            out = csv.writer(f, lineterminator='\n')
            out.writerow(COLUMNS)
            for day in sorted(self.hours):
                for class_id in sorted(self.names):
                    names = map(guarded, (class_id, *self.names[class_id]))
                    found = self._found.get((day, class_id), (0, '', ''))
                    out.writerow([day, *names, *found, f'{self.hours[day]:.4f}'])


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
