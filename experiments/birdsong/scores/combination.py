"""Weighted combination of the predictions of several models."""

import os
from collections.abc import Iterable

import numpy as np

from birdsong.files import Problem
from birdsong.scores.predictions import Predictions, load


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

    maxpool: take the maximum over the rows of each recording. use_softmax: then apply a softmax.
    """
    chosen = load(filename, num_classes).select(files)
    offsets, scores = chosen.offsets, chosen.scores
    if maxpool:
        offsets, scores = np.arange(len(chosen) + 1), chosen.max()
    if use_softmax:
        scores = softmax(scores)
    return Predictions(chosen.files, offsets, scores, filename)


def combine(members: Iterable[Predictions], weights: list[float]) -> Predictions:
    """The sum of weight x scores over `members`, divided by their number.

    The members are predictions for the same files in the same order. A member with one row for a recording is added to
    every row of the others. Raises Problem for other differences in the numbers of rows, and in those of classes.
    `members` may be a generator, so that only one is in memory at a time.
    """
    total = None
    for member, weight in zip(members, weights, strict=True):
        if total is None:
            total = Predictions(member.files, member.offsets, member.scores * weight, member.filename)
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
        total = Predictions(total.files, np.concatenate([[0], np.cumsum(rows)]), scores, total.filename)
    total.scores /= len(weights)
    return total


def _repeated(scores, have, want):
    """`scores` with the single row of a recording repeated where the other member has more rows."""
    if np.array_equal(have, want):
        return scores
    return np.repeat(scores, np.repeat(np.where(have == 1, want, 1), have), axis=0)
