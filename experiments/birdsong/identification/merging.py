"""Merging the results of all shards into tables of findings."""

import csv
import datetime
import os
from collections.abc import Sequence

from birdsong.files import Problem, read_lines, writing
from birdsong.findings import circumstances, formats, tables
from birdsong.identification import results
from birdsong.identification.task import Task
from shared.clues import COLUMNS
from shared.tables import table


def merge(task: Task, format_names: Sequence[str]) -> str:
    """Write the findings of all shards, in the order of the shards. Returns a line about them.

    Raises Problem if a shard is not finished, or no recording could be read.
    """
    output, shards = task.plan.output, task.plan.shards()
    missing = [name for name in shards if not os.path.exists(task.plan.result(name))]
    if missing or not shards:
        raise Problem(f'{output}: {len(missing)} of {len(shards)} shards are not finished; start identify.sh again')
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
            for row, found, covered in recordings:
                if latest.get(row[0]) != name:
                    continue  # the file was replaced by another one later
                written.add(row[0], found, covered, circumstances_of(row, task.finder.zone))
                known.writerow([formats.guarded(row[0], './'), *row[1:]])
    written.write_summary()
    skipped = os.path.join(output, 'skipped.tsv')
    with writing(skipped, 'w', encoding='utf-8') as f:
        f.write(table(problems))
    if not written.counts:
        raise Problem(f'{task.folder}: none of its {len(latest)} recordings can be read, see {skipped}')
    unused = sum(row[2] == results.LEFT_OUT for row in problems)
    note = f'; {len(problems)} problems ({unused} recordings left out): {skipped}' if problems else ''
    return f'{written.report()}{note}'


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
