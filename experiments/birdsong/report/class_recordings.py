"""Recordings that stand for the classes of a report: the best, typical and worst ones, and those that cost most."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from birdsong.data import folds
from birdsong.findings.species import Species
from birdsong.report import examples, over_time, recordings
from birdsong.report.examples import Scored
from birdsong.report.over_time import Curves
from birdsong.report.source import Source
from birdsong.report.words import count
from birdsong.scores.class_tables import ClassMetrics

# Classes with a section of their own.
MOST_SECTIONS = 300
# Size of all spectrograms, sounds and curves in bytes, so that the page stays below 20 MB.
BUDGET = 13_000_000


class Example(NamedTuple):
    """A recording of a class: its row in the list, what it stands for, and what is shown of it."""

    row: int
    key: str
    role: str
    rank: int
    own: float
    other: Species | None  # the class with the highest score among the others, None if there are no others
    other_score: float
    shown: recordings.Shown | None  # None: left out because of the size


class ClassPart(NamedTuple):
    """What the page shows of a class."""

    one: ClassMetrics
    names: Species
    other: Species | None
    examples: list[Example]


def parts(
    source: Source,
    found: Scored,
    classes: Sequence[ClassMetrics],
    names: list[Species],
    costliest: dict[str, Sequence[int]],
) -> tuple[list[ClassPart], list[str]]:
    """The classes with their recordings, and sentences about what was left out.

    `costliest` are the recordings that cost each metric most, which are shown, too.
    """
    with_recordings = [one for one in classes if one.recordings]
    extra = {row for those in costliest.values() for row in those} if source.options.clips else set()
    curves, notes = _over_time(source)
    result, used, left_out = [], 0, 0
    for one in with_recordings[:MOST_SECTIONS]:
        chosen = examples.of_class(found, one.index, source.options.clips)
        rows = {row for row, _ in chosen}
        chosen += [(row, '') for row in sorted(extra - rows) if found.truth[row] == one.index]
        made = []
        for row, role in chosen:
            shown = None
            if used < BUDGET and source.dataset.has_audio:
                shown = recordings.show(
                    source.dataset, source.files[row], one.index, int(found.other[row]), source.options.audio, curves
                )
                used += shown.size
            left_out += shown is None
            made.append(_example(source, found, row, role, names, shown))
        other = None if one.other is None else names[one.other]
        result.append(ClassPart(one, names[one.index], other, made))
    if len(with_recordings) > len(result):
        notes.append(f'Only {len(result)} of {len(with_recordings)} classes have a section: those with the lowest AP.')
    if not source.dataset.has_audio:
        notes.append('The dataset has no recordings to show, only metadata.')
    elif left_out:
        what = 'spectrograms and sounds' if source.options.audio else 'spectrograms'
        notes.append(f'The {what} of {count(left_out, "recording")} were left out to keep the page small.')
    return result, notes


def _example(source, found, row, role, names, shown):
    return Example(
        row,
        source.files[row],
        role,
        int(found.ranks[row]),
        float(found.own[row]),
        names[found.other[row]] if len(names) > 1 else None,
        float(found.others[row]),
        shown,
    )


def _over_time(source: Source) -> tuple[Callable[[str], Curves | None], list[str]]:
    """What gives the scores over time: rows of the best model's predictions, or its network if that is asked for."""
    members = sorted(source.best.members, key=lambda member: -member[1])
    for model, _ in members:
        if model.prediction:
            rows = over_time.Rows(model.prediction)
            if any(rows(key) for key in source.files):
                return rows, [f'Scores over time are those of the rows in the predictions of {model.name}.']
    if source.options.over_time:
        for model, _ in members:
            files = _network_files(source, model.name)
            if files:
                what = f'Scores over time are the outputs of {model.name} for each position alone.'
                return over_time.Networks(source.dataset, files), [what]
        return _nothing, ['There are no scores over time: none of the networks reads recordings.']
    return _nothing, []


def _nothing(key: str) -> None:
    """No scores over time."""


def _network_files(source: Source, name: str) -> dict[str, str]:
    """The file of the network that is evaluated on each recording: in a cross-validation, that of its fold."""
    if not source.pooled:
        filename = os.path.join(source.folder, f'{name}.npz')
        return dict.fromkeys(source.files, filename) if over_time.uses_audio(filename) else {}
    files = {}
    for fold in folds.find(source.dataset):
        filename = os.path.join(os.path.dirname(source.folder), fold.name, f'{name}.npz')
        if over_time.uses_audio(filename):
            files |= dict.fromkeys(fold.valid, filename)
    return files
