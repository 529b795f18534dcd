"""Merging the results of all shards into tables of findings."""

import contextlib
import csv
import datetime
import os
from collections.abc import Mapping, Sequence

from birdsong.files import Problem, read_lines, writing
from birdsong.findings import circumstances, formats, tables
from birdsong.identification import results
from birdsong.identification.task import Task
from shared.clues import COLUMNS
from shared.tables import table

# What a prior changed, per class and per recording.
PRIOR_TABLES = ('prior.tsv', 'prior_recordings.tsv')


def merge(task: Task, format_names: Sequence[str]) -> str:
    """Write the findings of all shards, in the order of the shards. Returns a line about them.

    Raises Problem if a shard is not finished, or no recording could be read.
    """
    output, shards = task.plan.output, task.plan.shards()
    missing = [name for name in shards if not os.path.exists(task.plan.result(name))]
    if missing or not shards:
        raise Problem(f'{output}: {len(missing)} of {len(shards)} shards are not finished; start identify.sh again')
    effect = Effect(task) if task.prior else None
    latest = {one.path: name for name in shards for one in task.plan.recordings(name)}
    places, problems = tables.places(output, format_names), _read_skipped(task)
    with (
        tables.Tables(places, task.known, task.chosen.model, task.folder, task.windows.rate / 2) as written,
        writing(os.path.join(output, 'recordings.csv'), 'w', encoding='utf-8', newline='') as about,
    ):
        known = csv.writer(about, lineterminator='\n')
        known.writerow([*COLUMNS, 'Duration (s)'])
        for name in shards:
            recordings, more = results.read(task.plan.result(name))
            problems += [row for row in more if latest.get(row[0]) == name]
            for one in recordings:
                path = one.row[0]
                if latest.get(path) != name:
                    continue  # the file was replaced by another one later
                written.add(path, one.found, one.covered, circumstances_of(one.row, task.finder.zone))
                known.writerow([formats.guarded(path, './'), *one.row[1:]])
                if effect:
                    effect.add(path, one.counts)
    written.write_summary()
    skipped = os.path.join(output, 'skipped.tsv')
    with writing(skipped, 'w', encoding='utf-8') as f:
        f.write(table(problems))
    if not written.counts:
        raise Problem(f'{task.folder}: none of its {len(latest)} recordings can be read, see {skipped}')
    unused = sum(row[2] == results.LEFT_OUT for row in problems)
    note = f'; {len(problems)} problems ({unused} recordings left out): {skipped}' if problems else ''
    if effect:
        return f'{written.report()}{note}\n{effect.write()}'
    for name in PRIOR_TABLES:  # of earlier findings
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(output, name))
    return f'{written.report()}{note}'


class Effect:
    """What a prior changed, per class and per recording."""

    def __init__(self, task: Task):
        self.task, self.classes, self.recordings = task, {}, []

    def add(self, path: str, counts: Mapping[int, tuple[int, int]] | None) -> None:
        """Add the counts of a recording, see `results.Recording`."""
        for c, (before, after) in (counts or {}).items():
            total = self.classes.setdefault(c, [0, 0])
            total[0] += before
            total[1] += after
        self.recordings.append((path, None if counts is None else _total(counts.values())))

    def write(self) -> str:
        """Write prior.tsv and prior_recordings.tsv, and return a line for the user."""
        output, known = self.task.plan.output, self.task.known
        places = [os.path.join(output, name) for name in PRIOR_TABLES]
        rows = [(*known[c][:2], *self.classes[c]) for c in sorted(self.classes)]
        _write(places[0], [('class', 'scientific name', 'without prior', 'with prior'), *rows])
        rows = [(path, *(total or ('', ''))) for path, total in self.recordings]
        _write(places[1], [('file', 'without prior', 'with prior'), *rows])
        before, after = _total(self.classes.values())
        lost = sum(after < before for before, after in self.classes.values())
        unknown = sum(total is None for _, total in self.recordings)
        note = f'; {unknown} recordings are unchanged, because their place or date is unknown' if unknown else ''
        return (
            f'prior ({self.task.prior.kind}): in {len(self.recordings) - unknown} recordings, {before} detections '
            f'became {after}, fewer in {lost} of {len(self.classes)} classes{note}; see {places[0]}'
        )


def _total(counts):
    return [sum(count[i] for count in counts) for i in (0, 1)]


def _write(filename, rows):
    with writing(filename, 'w', encoding='utf-8') as f:
        f.write(table(rows))


def write_skipped(task: Task, skipped: Sequence[tuple[str, str]]) -> None:
    """Note files that cannot be recordings, (path, reason) of each, for `merge`."""
    with writing(_skipped(task), 'w', encoding='utf-8') as f:
        f.write(table((*row, results.LEFT_OUT) for row in skipped))


def _skipped(task):
    return os.path.join(task.plan.folder, 'skipped.tsv')


def _read_skipped(task):
    return [line.split('\t') for line in read_lines(_skipped(task))]


def circumstances_of(row: Sequence[str], zone: datetime.tzinfo | None) -> circumstances.Circumstances:
    """The circumstances in a row of a result. `zone`: that of the option, which knows when clocks change."""
    path, date, time, offset, latitude, longitude = row[:6]
    day, clock = (
        date and datetime.date.fromisoformat(date),
        time and datetime.time.fromisoformat(time),
    )
    own = (zone or circumstances.time_zone(offset)) if offset else None
    numbers = [float(text) if text else None for text in (latitude, longitude)]
    return circumstances.Circumstances(day or None, clock or None, own, *numbers, path)
