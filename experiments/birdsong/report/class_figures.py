"""Figures of a report about classes: their precision against their number of recordings, and their confusions."""

from collections.abc import Sequence

import numpy as np

from birdsong.findings.species import Species
from birdsong.report import confusions, figures
from birdsong.report.figures import Figure
from birdsong.report.words import count
from birdsong.scores.class_tables import ClassMetrics

# Classes in the matrix of confusions, classes with names in the scatter plot, and longest name there.
MATRIX, NAMED, NAME = 20, 6, 24
# From this ratio between the largest and the smallest number of recordings, the axis is logarithmic.
WIDE_RANGE = 20


def scatter(
    classes: Sequence[ClassMetrics], names: Sequence[Species], training: np.ndarray, label: str
) -> Figure | None:
    """Average precision of each class against its number of recordings, `training`, which are called `label`."""
    pairs = [(int(training[one.index]), one.precision, names[one.index].class_id) for one in classes]
    drawn = [pair for pair in pairs if pair[0] > 0]
    if not drawn:
        return None
    drawing, axes = figures.axes(5.2, 3.2)
    x, y = np.array([pair[:2] for pair in drawn]).T
    axes.scatter(x, y, 22, alpha=0.7, edgecolors='none')
    for number, precision, name in _apart(drawn)[:NAMED]:
        axes.annotate(
            figures.short(name, NAME), (number, precision), xytext=(4, 2), textcoords='offset points', fontsize=7
        )
    axes.set(xlabel=f'{label} of the class', ylabel='average precision', ylim=(-0.03, 1.05))
    if x.max() > WIDE_RANGE * x.min():
        figures.logarithmic(axes.xaxis)
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    low, high = drawn[0], drawn[-1]
    text = (
        f'Scatter plot of {count(len(drawn), "class", "es")}: average precision against {label}. '
        f'The lowest is {low[1]:.2f} for {low[2]} ({low[0]:.0f} {label}), the highest {high[1]:.2f} for {high[2]} '
        f'({high[0]:.0f}).{_correlation(x, y)}'
    )
    caption = f'Average precision of each class against its number of {label}; the classes with the lowest are named.'
    return Figure(figures.svg(drawing, 'precisions'), text, caption)


def _apart(drawn: Sequence[tuple[int, float, str]]) -> list[tuple[int, float, str]]:
    """The points that are not right, without those that are so close to an earlier one that names would overlap."""
    result, width = [], max(1, max(number for number, _, _ in drawn) - min(number for number, _, _ in drawn))
    for number, precision, name in drawn:
        close = (abs(number - x) < 0.2 * width and abs(precision - y) < 0.05 for x, y, _ in result)
        if precision < 1 and not any(close):
            result.append((number, precision, name))
    return result


def _correlation(x: np.ndarray, y: np.ndarray) -> str:
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return ''
    ranks = [np.argsort(np.argsort(values, kind='stable'), kind='stable') for values in (x, y)]
    return f' The rank correlation is {np.corrcoef(ranks)[0, 1]:.2f}.'


def matrix(counts: np.ndarray, names: Sequence[Species]) -> Figure | None:
    """The worst classes and what they are confused with, if any is, given `class_tables.confusions`."""
    classes = confusions.worst(counts, MATRIX)
    if not len(classes):
        return None
    ids = [names[c].class_id for c in classes]
    cells = confusions.matrix(counts, classes)
    size = 1.6 + 0.3 * len(classes)
    drawing, axes = figures.axes(size + 0.3, size)
    confusions.draw(axes, cells, ids, (figures.COLOURS[2], figures.COLOURS[1]))
    wrong = int(cells.sum() - np.trace(cells))
    top = '; '.join(f'{names[a].class_id} as {names[b].class_id}: {n}' for a, b, n in confusions.pairs(counts, 5))
    text = (
        f'Matrix of confusions of {count(len(classes), "class", "es")}: {count(wrong, "recording")} of them '
        f'with the highest score for another class. The most frequent confusions are {top}.'
    )
    caption = (
        f'The {count(len(classes), "class", "es")} in most confusions: a row per class, a column per class with the '
        'highest score, numbers of recordings. Right ones are on the diagonal; the darker, the larger the share of '
        'the row. A table of the most frequent confusions is below.'
    )
    return Figure(figures.svg(drawing, 'matrix'), text, caption)
