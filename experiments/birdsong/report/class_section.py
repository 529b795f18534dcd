"""The section of a report on the classes: their metrics, confusions, and recordings that stand for them."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from birdsong.findings import species
from birdsong.findings.species import Species
from birdsong.report import class_figures, class_recordings, confusions, evaluation, examples, figures, page, recordings
from birdsong.report.examples import Scored
from birdsong.report.source import Source
from birdsong.report.tables import Cell, Column, Table
from birdsong.scores import class_tables, metrics
from birdsong.scores.class_tables import ClassMetrics

# Rows of the tables of confusions and of recordings that cost most.
MOST_PAIRS, MOST_COSTS = 30, 15


def write(source: Source) -> Markup:
    """The section as HTML, '' if there are no scores."""
    if source.best is None or not len(source.truth):
        return Markup('')
    scores, names = source.best.scores, species.of(source.dataset)
    found = examples.scored(scores, source.truth, source.background)
    classes = class_tables.of_classes(scores, source.truth, source.background)
    classes.sort(key=lambda one: one.precision)
    counts = class_tables.confusions(scores, source.truth)
    costs = examples.costs(found)
    costliest = {metric: examples.costliest(found, cost, MOST_COSTS) for metric, cost in costs.items()}
    parts, notes = class_recordings.parts(source, found, classes, names, costliest)
    training, label = evaluation.class_sizes(source)
    linked = {part.one.index for part in parts}
    shown_names = {example.name for part in parts for example in part.examples}
    with figures.style():
        shown = [class_figures.scatter(classes, names, training, label), class_figures.matrix(counts, names)]
    evaluated = metrics.evaluate(scores, source.truth, source.background, top_k=1)
    evaluated['cmAP'] = metrics.current(scores, source.truth, source.background)['cmAP']
    return page.render(
        'classes.html',
        name=source.best.name,
        evaluated_on=source.evaluated_on,
        metrics=[(metric, value, _anchor(metric, costliest)) for metric, value in evaluated.items()],
        figures=[one for one in shown if one],
        tables=[_class_table(source, classes, names, linked, training, label), *_pairs(counts, names, linked)],
        costs=[
            _costs(source, found, metric, costs[metric], those, names, shown_names)
            for metric, those in costliest.items()
        ],
        parts=parts,
        notes=notes,
        colours=figures.COLOURS,
        width=recordings.WIDTH,
        height=recordings.HEIGHT,
    )


def _anchor(metric: str, costliest: dict[str, Sequence[int]]) -> str:
    """What a metric links to: the recordings that cost most, or for means over classes, the classes."""
    if metric == 'cmAP':
        return '#classes-table'
    return f'#costs-{metric}' if costliest.get(metric) else ''


def _class_table(
    source: Source,
    classes: Sequence[ClassMetrics],
    names: list[Species],
    linked: set[int],
    training: np.ndarray,
    label: str,
) -> Table:
    columns = [Column('class'), Column('name'), Column(label, 0), Column('evaluated recordings', 0)]
    columns += [Column('AP', 3, 'average precision'), Column('mean rank', 1), Column('top-1', 2)]
    columns += [Column('most often confused with'), Column('times', 0)]
    rows = []
    for one in classes:
        own = names[one.index]
        cell = Cell(own.class_id, link=f'#class-{one.index}' if one.index in linked else '')
        other = '' if one.other is None else names[one.other].class_id
        values = [
            int(training[one.index]),
            one.recordings,
            one.precision,
            one.rank,
            one.top,
            other,
            one.times or None,
        ]
        rows.append([cell, own.common_name, *values])
    caption = 'Metrics of each class, the lowest average precision (AP) first.'
    return Table('classes-table', caption, columns, rows)


def _pairs(counts: np.ndarray, names: list[Species], linked: set[int]) -> list[Table]:
    found = confusions.pairs(counts, MOST_PAIRS)
    if not found:
        return []
    columns = [
        Column('class'),
        Column('highest score instead'),
        Column('recordings', 0),
        Column('share of the class', 2),
    ]
    rows = []
    for own, other, times in found:
        cells = [Cell(names[c].class_id, link=f'#class-{c}' if c in linked else '') for c in (own, other)]
        rows.append([*cells, times, times / int(counts[own].sum())])
    return [Table('confusions', 'The most frequent confusions of two classes.', columns, rows)]


def _costs(
    source: Source,
    found: Scored,
    metric: str,
    cost: np.ndarray,
    those: Sequence[int],
    names: list[Species],
    shown: set[str],
) -> Table:
    columns = [Column('recording'), Column('class'), Column('rank', 0), Column('highest score')]
    columns.append(Column(f'cost ({metric})', 4, f'without it, 1 - {metric} would be smaller by this much'))
    rows = []
    for row in those:
        highest = found.other[row] if found.others[row] > found.own[row] else found.truth[row]
        cell = Cell(source.files[row], link=f'#recording-{row}' if f'recording-{row}' in shown else '')
        values = [names[found.truth[row]].class_id, int(found.ranks[row]), names[highest].class_id, float(cost[row])]
        rows.append([cell, *values])
    return Table(f'costs-{metric}', f'The recordings that cost {metric} most.', columns, rows)
