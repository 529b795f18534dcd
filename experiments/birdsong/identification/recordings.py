"""The recordings in a folder: which there are, what is known about them, and their samples, decoded and resampled."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from birdsong.data.prefetch import run_ahead
from birdsong.files import Problem, naming
from birdsong.identification.plan import Planned
from birdsong.identification.task import Task
from shared.clues import Clues
from shared.conversion import Unreadable, convert
from shared.dataset import walk
from shared.source import name_problem, printable, recording_suffixes


def listed(folder: str, output: str) -> tuple[list[Planned], list[tuple[str, str]]]:
    """The sound files below a folder, by their suffix, sorted, and [(path, why it is left out)] of others.

    Hidden files and the output folder are not listed.
    """
    found, unusable, skipped = [], [], []
    top, suffixes = len(os.path.join(folder, '')), recording_suffixes()
    inside = os.path.join(os.path.realpath(output), '')
    for path in walk(folder, unusable):
        name = path[top:]
        if not name.lower().endswith(suffixes) or any(part.startswith('.') for part in name.split(os.sep)):
            continue
        if os.path.realpath(path).startswith(inside):
            continue
        reason = name_problem(name)
        if reason:
            skipped.append((printable(name), reason))
        else:
            found.append(Planned(name, os.path.getsize(path)))
    skipped += [(printable(path[top:]), reason) for path, reason in unusable if path.lower().endswith(suffixes)]
    return sorted(found), sorted(skipped)


def described(clues: Clues) -> str:
    """What is known about a recording, for the user."""
    _, date, time, zone, latitude, longitude, elevation, origins = clues.row('')
    place = f'{latitude}, {longitude}' if latitude and longitude else ''
    elevation = f'{elevation} m' if elevation else ''
    known = '; '.join(filter(None, (f'{date} {time} {zone}'.strip(), place, elevation)))
    return f'{known} (from {origins})' if known else 'time and place unknown'


class Converted(NamedTuple):
    """A recording as a WAV file; `filename` is None if it cannot be used. `problems` are texts."""

    path: str
    filename: str | None
    problems: list[str]
    clues: Clues | None


def converted(task: Task, recordings: Sequence[Planned], work: str) -> Iterator[Converted]:
    """Yield the recordings, decoded and resampled into the folder `work`, one ahead of its use."""

    def one(item):
        number, planned = item
        source = os.path.join(task.folder, planned.path)
        filename = os.path.join(work, f'{number}.wav')
        try:
            with naming(filename), open(filename, 'wb') as f:
                problems = convert(source, f, task.windows.rate)[2]
        except Unreadable as e:
            os.unlink(filename)
            if not os.path.isdir(task.folder):
                raise Problem(f'{task.folder}: the folder has disappeared; is its disk still there?') from None
            return Converted(planned.path, None, [str(e)], None)
        return Converted(planned.path, filename, problems, task.finder.of(planned.path))

    return run_ahead(one, enumerate(recordings), threads=1, ahead=1)
