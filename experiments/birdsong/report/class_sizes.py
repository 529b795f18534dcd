"""Figure of how many recordings each class has in each list."""

from collections.abc import Sequence

import numpy as np

from birdsong.report import figures
from birdsong.report.contents import Amounts
from birdsong.report.figures import Figure
from birdsong.report.words import count

# With more classes, there are no names on the axis. Longest name there.
MOST_NAMES, NAME = 40, 18


def figure(amounts: Amounts, names: Sequence[str]) -> Figure | None:
    """A bar per class, the class with the most recordings first, in a colour per list. Call it in `figures.style()`."""
    totals = amounts.recordings.sum(axis=1)
    if not totals.any():
        return None
    order = np.argsort(-totals, kind='stable')
    edges, bottom = np.arange(len(order) + 1) - 0.5, np.zeros(len(order))
    drawing, axes = figures.axes(5.2, 2.4 if len(order) > MOST_NAMES else 3.3)
    for column, name in enumerate(amounts.lists):
        top = bottom + amounts.recordings[order, column]
        axes.stairs(
            top,
            edges,
            baseline=bottom,
            fill=True,
            color=figures.COLOURS[column % len(figures.COLOURS)],
            label=figures.short(name),
        )
        bottom = top
    if len(order) <= MOST_NAMES:
        axes.set_xticks(range(len(order)), [figures.short(names[c], NAME) for c in order], rotation=90)
    else:
        axes.set_xticks([])
    axes.tick_params('x', length=0)
    axes.grid(visible=False, axis='x')
    axes.set(xlabel='classes, the largest first', ylabel='recordings', xlim=(edges[0], edges[-1]))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=4)
    most, least, middle = order[0], order[-1], int(np.median(totals))
    text = (
        f'Bar chart of the labelled recordings of {count(len(order), "class", "es")} in the lists '
        f'{", ".join(amounts.lists)}. The most are {totals[most]} of {names[most]}, the fewest {totals[least]} of '
        f'{names[least]}; the median is {middle}.'
    )
    caption = (
        f'Labelled recordings of each class, from {totals[most]} to {totals[least]}; half of the classes have at most '
        f'{middle}.'
    )
    return Figure(figures.svg(drawing, 'sizes'), text, caption)
