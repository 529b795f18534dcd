"""Which classes are confused with which: a matrix of the worst classes, and the most frequent pairs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from birdsong.report import figures

# Longest name of a class on the axes, and the part of a row's recordings that fill a cell with the full colour.
NAME, STRONGEST = 18, 0.75


def worst(counts: np.ndarray, most: int) -> np.ndarray:
    """The classes in most confusions, in descending order, at most `most`; counts are (true classes, predicted)."""
    wrong = counts - np.diag(np.diag(counts))
    involved = wrong.sum(axis=0) + wrong.sum(axis=1)
    order = np.argsort(-involved, kind='stable')[:most]
    return order[involved[order] > 0]


def pairs(counts: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """The most frequent confusions: (true class, predicted class, recordings), at most `most`."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind='stable')[:most]
    found = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(a), int(b), int(wrong[a, b])) for a, b in found if wrong[a, b]]


def matrix(counts: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Counts (n, n + 1) of `classes` (n,): true, predicted; the last column is all other predictions."""
    chosen = counts[np.ix_(classes, classes)]
    return np.concatenate([chosen, (counts[classes].sum(axis=1) - chosen.sum(axis=1))[:, None]], axis=1)


def draw(axes: Axes, cells: np.ndarray, names: Sequence[str], colours: Sequence[str]) -> None:
    """Draw a `matrix` on matplotlib axes, with one colour for right predictions, the other for wrong ones."""
    totals = cells.sum(axis=1)
    for (row, column), number in np.ndenumerate(cells):
        if number:
            strength = 0.12 + STRONGEST * 0.8 * number / totals[row]
            colour = colours[0 if row == column else 1]
            axes.add_patch(figures.square(column, row, 1, colour, strength))
            axes.text(column, row, str(number), ha='center', va='center', fontsize=8)
    short = [figures.short(name, NAME) for name in names]
    axes.set_xticks(range(len(names) + 1), [*short, 'others'], rotation=90)
    axes.set_yticks(range(len(names)), short)
    axes.set(xlim=(-0.5, len(names) + 0.5), ylim=(len(names) - 0.5, -0.5), xlabel='highest score', ylabel='class')
    axes.grid(False)
    axes.tick_params(length=0)
