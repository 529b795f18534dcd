"""The section on calibrations: for each of calibrate.py, its reliability diagram, metrics and thresholds."""

import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from birdsong.files import Problem
from birdsong.findings import calibration
from birdsong.findings.calibration import Calibration
from birdsong.report import figures, page
from birdsong.report.figures import Figure
from birdsong.report.runs import as_number
from birdsong.report.source import Source
from birdsong.report.tables import Cell, Column, Table, number

# What is known of each bin of a diagram.
BINS = ('probability', 'share', 'low', 'high', 'cases')
METRICS = ('log loss', 'Brier', 'ECE', 'ECE of the best class')


class Part(NamedTuple):
    """What is shown of a calibration; `problem` says why nothing else is."""

    name: str
    problem: str = ''
    cases: str = ''
    figure: Figure | None = None
    metrics: Table | None = None
    thresholds: Table | None = None
    wanted: str = ''


def write(source: Source) -> str:
    """Nothing if nothing was calibrated."""
    pattern = os.path.join(glob.escape(source.folder), 'calibration', '*.json')
    parts = [_part(filename, index) for index, filename in enumerate(sorted(glob.glob(pattern)))]
    return page.render('calibration.html', parts=parts) if parts else ''


def _part(filename, index):
    name = os.path.basename(filename).removesuffix('.json')
    try:
        found = calibration.load(filename)
    except Problem as e:
        return Part(name, str(e))
    judged = _mapping(found.about.get('held out'))
    return Part(
        name,
        '',
        str(found.about.get('cases', '')),
        _diagram(name, index, _mapping(judged.get('diagram'))),
        _metrics(index, name, judged),
        _thresholds(index, name, found),
        _wanted(_mapping(found.about.get('wanted'))),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _wanted(wanted):
    """'a precision of 0.9', or nothing."""
    known = {name: as_number(value) for name, value in wanted.items()}
    return ' and '.join(f'a {name} of {value:g}' for name, value in known.items() if value == value)


def _metrics(index: int, name: str, judged: Mapping[str, Any]) -> Table | None:
    """Metrics on held-out cases before and after calibration."""
    rows = []
    for metric in METRICS:
        if isinstance(judged.get(metric), dict):
            rows.append([metric, *(_interval(judged[metric].get(when)) for when in ('before', 'after', 'difference'))])
    if isinstance(judged.get('precision'), dict):
        rows.append(['precision above the thresholds', None, _interval(judged['precision']), None])
    columns = [Column('metric'), *(Column(title, 4) for title in ('before', 'after', 'difference'))]
    caption = f'{name}: metrics on held-out cases, with 95 % intervals; except for the precision, lower is better.'
    return Table(f'calibration{index}', caption, columns, rows) if rows else None


def _interval(value: Any) -> Cell:
    middle, low, high = (as_number(_mapping(value).get(name)) for name in ('value', 'low', 'high'))
    if middle != middle:
        return Cell(None)
    return Cell(middle, number(middle, 4) + (f' ({number(low, 4)} to {number(high, 4)})' if low == low else ''))


def _thresholds(index: int, name: str, found: Calibration) -> Table:
    """Curve and threshold of each class that has cases."""
    columns = [Column('class'), Column('cases', 0), Column('right', 0), Column('slope', 2), Column('intercept', 2)]
    columns += [Column('threshold', 3, 'score from which on a class counts as detected')]
    columns += [Column('lowest score', 3), Column('highest score', 3)]
    arrays = (found.cases, found.right, found.slopes, found.intercepts, found.thresholds, found.lowest, found.highest)
    rows = [[found.classes[c], *(float(values[c]) for values in arrays)] for c in np.flatnonzero(found.cases)]
    return Table(f'thresholds{index}', f'{name}: logistic curves and thresholds of classes.', columns, rows)


def _diagram(name: str, index: int, bins: Mapping[str, Any]) -> Figure | None:
    """The reliability diagram; None if the file has none, as those of earlier versions."""
    known = {when: _points(bins.get(when)) for when in ('before', 'after')}
    if not all(map(len, known.values())):
        return None
    with figures.style():
        drawing, axes = figures.axes(4.2, 3.8)
        axes.plot([0, 1], [0, 1], color='#7f7f7f', linestyle='--', linewidth=1)
        said = []
        for (when, points), colour, marker in zip(known.items(), figures.COLOURS[1::-1], 'so', strict=True):
            x, y, low, high, cases = np.array(points).T
            errors = [np.maximum(0, y - low), np.maximum(0, high - y)]
            label = f'{when} calibration'
            axes.errorbar(x, y, errors, fmt='none', ecolor=colour, elinewidth=1, capsize=2)
            axes.scatter(x, y, 14 * (1 + np.log10(cases)), colour, marker, label=label)
            said.append(f'{label}: ' + ', '.join(f'{a:.2f} right at {b:.2f}' for b, a in zip(x, y, strict=True)))
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), aspect='equal')
        axes.set_xlabel('probability that the class is there')
        axes.set_ylabel('share of cases in which it is')
        axes.legend(loc='lower center', bbox_to_anchor=(0.5, 1), ncol=2)
        caption = (
            f'{name}: reliability diagram of held-out cases. On the dashed line, probabilities are right. The larger a '
            'point, the more cases; bars are 95 % intervals.'
        )
        return Figure(figures.svg(drawing, f'reliability{index}'), '; '.join(said), caption)


def _points(bins: Any) -> Sequence[list[float]]:
    """Probability, share, low, high and cases of the bins, [] if they are not as `reliability.diagram` returns them."""
    rows = [_mapping(each) for each in bins] if isinstance(bins, list) else []
    points = [[as_number(row.get(name)) for name in BINS] for row in rows]
    return points if np.isfinite(points).all() and all(row[-1] >= 1 for row in points) else []
