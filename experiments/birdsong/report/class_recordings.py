"""Recordings that stand for the classes of a report: the best, typical and worst ones, and those that cost most."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

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
    """A recording in the section of a class."""

    name: str  # id on the page
    row: int
    key: str
    role: str  # what it stands for, or ''
    words: str  # its ranks and scores
    compared: int  # index of the class that it is compared with
    other: Species | None  # this class, None if there is no other one
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
    result = []
    for one in with_recordings[:MOST_SECTIONS]:
        made = [
            _example(source, found, row, one.index, role, names) for row, role in _chosen(source, found, one, extra)
        ]
        other = None if one.other is None else names[one.other]
        result.append(ClassPart(one, names[one.index], other, made))
    left_out = _show(source, result, extra, curves)
    if len(with_recordings) > len(result):
        notes.append(f'Only {len(result)} of {len(with_recordings)} classes have a section: those with the lowest AP.')
    if not source.dataset.has_audio:
        notes.append('The dataset has no recordings to show, only metadata.')
    elif left_out:
        what = 'spectrograms and sounds' if source.options.audio else 'spectrograms'
        notes.append(f'The {what} of {count(left_out, "recording")} were left out to keep the page small.')
    return result, notes


def _chosen(source: Source, found: Scored, one: ClassMetrics, extra: set[int]) -> list[tuple[int, str]]:
    """The recordings to show of a class, and what they stand for; `extra` are shown if they are of the class."""
    index = one.index
    chosen = examples.of_class(found, index, source.options.clips)
    if chosen:
        with_class = np.where(found.truth == index, 2, 0)
        if source.background is not None:
            behind = np.array([index in classes for classes in source.background])
            with_class[behind & (with_class == 0)] = 1
        chosen += examples.errors(source.best.scores[:, index], with_class)
    rows = {row for row, _ in chosen}
    return chosen + [(row, '') for row in sorted(extra - rows) if found.truth[row] == index]


def _example(source: Source, found: Scored, row: int, index: int, role: str, names: Sequence[Species]) -> Example:
    score, true = source.best.scores[row], int(found.truth[row])
    if true != index:
        words = f'Score {score[index]:.3g}; its class is {names[true].class_id}, score {score[true]:.3g}.'
        return Example(f'recording-{row}-{index}', row, source.files[row], role, words, true, names[true], None)
    words, other, name = f'Rank {found.ranks[row]}, score {found.own[row]:.3g}', int(found.other[row]), None
    if other != index:
        name = names[other]
        words += f'; highest of the others: {name.class_id}, {found.others[row]:.3g}'
    return Example(f'recording-{row}', row, source.files[row], role, f'{words}.', other, name, None)


def _show(source: Source, parts: list[ClassPart], first: set[int], over_time: Callable[[str], Curves | None]) -> int:
    """Add what is shown to the examples, of the recordings `first` before others, within the BUDGET.

    Returns for how many there was no space.
    """
    if not source.dataset.has_audio:
        return 0
    places = [(part, i) for part in parts for i in range(len(part.examples))]
    places.sort(key=lambda place: place[0].examples[place[1]].row not in first)
    used, left_out = 0, 0
    for part, i in tqdm(places, 'recordings', disable=None):
        if used >= BUDGET:
            left_out += 1
            continue
        one = part.examples[i]
        shown = recordings.show(source.dataset, one.key, part.one.index, one.compared, source.options.audio, over_time)
        used += shown.size
        part.examples[i] = one._replace(shown=shown)
    return left_out


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
