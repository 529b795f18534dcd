"""Weighted combination of the predictions of several models."""

import os
from collections.abc import Iterable

import numpy as np

from birdsong.files import Problem
from birdsong.scores.predictions import Predictions, load

# Largest difference, in seconds, of times that are regarded as equal.
SAME_TIME = 1e-6


def parse_weighted(text: str) -> tuple[str, float | None]:
    """'FILE[:WEIGHT]' -> (FILE, WEIGHT or None). Raises Problem for a weight that is not finite."""
    name, colon, weight = text.rpartition(':')
    if not colon or not name or os.path.exists(text):
        return text, None
    try:
        weight = float(weight)
    except ValueError:
        return text, None
    if not np.isfinite(weight):
        raise Problem(f'{text}: the weight must be a finite number')
    return name, weight


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in the precision of `scores`."""
    result = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result /= result.sum(axis=-1, keepdims=True)
    return result


def prepared(
    filename: str, files: list[str], num_classes: int | None = None, use_softmax: bool = False, maxpool: bool = True
) -> Predictions:
    """Predictions for `files`, in that order. Raises Problem as `load` and `select` do.

    maxpool: take the maximum over the rows of each recording, which has no times. use_softmax: then apply a softmax.
    """
    chosen = load(filename, num_classes).select(files)
    offsets, scores, times = chosen.offsets, chosen.scores, (chosen.starts, chosen.stops)
    if maxpool:
        offsets, scores, times = np.arange(len(chosen) + 1), chosen.max(), (None, None)
    if use_softmax:
        scores = softmax(scores)
    return Predictions(chosen.files, offsets, scores, filename, *times)


def combine(members: Iterable[Predictions], weights: list[float]) -> Predictions:
    """The sum of weight x scores over `members`, divided by their number.

    The members are predictions for the same files in the same order. A member with one row for a recording is added to
    every row of the others. Raises Problem for other differences in the numbers of rows, and in those of classes.
    `members` may be a generator, so that only one is in memory at a time.

    The rows of a recording have the times of the members with that number of rows, if any of these has times. Raises
    Problem if these members have different times (unless one of them has a single row for every recording).
    """
    total = None
    for member, weight in zip(members, weights, strict=True):
        if total is None:
            times = (member.starts, member.stops)
            total = Predictions(member.files, member.offsets, member.scores * weight, member.filename, *times)
            continue
        if member.num_classes != total.num_classes:
            raise Problem(
                f'{total.filename} has {total.num_classes} classes, but {member.filename} has '
                f'{member.num_classes}: they belong to different datasets'
            )
        have, more = np.diff(total.offsets), np.diff(member.offsets)
        wrong = np.flatnonzero((have != more) & (have != 1) & (more != 1))
        if len(wrong):
            raise Problem(
                f'{total.filename} has {have[wrong[0]]} rows for {total.files[wrong[0]]}, but {member.filename} has '
                f'{more[wrong[0]]}: they were predicted with other settings'
            )
        rows = np.maximum(have, more)
        scores = _repeated(total.scores, have, rows) + _repeated(member.scores, more, rows) * weight
        unknown = total.starts is None and member.starts is None
        times = (None, None) if unknown else _common_times(total, member)
        # Messages about later members name the one that the rows or their times come from.
        new = not np.array_equal(rows, have) or total.starts is None and times[0] is not None
        name = member.filename if new else total.filename
        total = Predictions(total.files, np.concatenate([[0], np.cumsum(rows)]), scores, name, *times)
    total.scores /= len(weights)
    return total


def _common_times(one, other):
    """(starts, stops) of the rows of two members together, or (None, None) if they are unknown for a recording.

    Raises Problem if they differ.
    """
    counts = {member: np.diff(member.offsets) for member in (one, other)}
    single = {member: count.max(initial=1) == 1 for member, count in counts.items()}
    timed = [member for member in (one, other) if member.starts is not None]
    if single[one] != single[other]:
        # The rows of a member that has one for every recording stand for all rows of the other, whatever their times.
        timed = [member for member in timed if not single[member]]
    if len(timed) == 2:
        _check_same_times(one, other, counts[one] == counts[other])
    rows = np.maximum(counts[one], counts[other])
    starts, stops = np.full((2, rows.sum()), np.nan)
    for member in reversed(timed):
        fits = counts[member] == rows
        to, own = np.repeat(fits, rows), np.repeat(fits, counts[member])
        starts[to], stops[to] = member.starts[own], member.stops[own]
    return (None, None) if np.isnan(starts).any() else (starts, stops)


def _check_same_times(one, other, same):
    """Raise Problem if two members have different times for one of the recordings in the mask `same`."""
    first, second = (np.repeat(same, np.diff(member.offsets)) for member in (one, other))
    differ = np.zeros(first.sum(), bool)
    for name in ('starts', 'stops'):
        differ |= np.abs(getattr(one, name)[first] - getattr(other, name)[second]) > SAME_TIME
    if differ.any():
        row = np.flatnonzero(first)[np.argmax(differ)]
        key = one.files[np.searchsorted(one.offsets, row, 'right') - 1]
        raise Problem(
            f'{one.filename} and {other.filename} have different times for the rows of {key}: they were predicted with '
            'other settings (len_min, len_max, --window); predict one of them again'
        )


def _repeated(scores, have, want):
    """`scores` with the single row of a recording repeated where the other member has more rows."""
    if np.array_equal(have, want):
        return scores
    return np.repeat(scores, np.repeat(np.where(have == 1, want, 1), have), axis=0)
