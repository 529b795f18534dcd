"""The section on models: their metrics with intervals, ensembles, errors in common, and metrics by class size."""

import math

import numpy as np

from birdsong.report import evaluation, figures, page
from birdsong.report.evaluation import Row
from birdsong.report.figures import Figure
from birdsong.report.source import Ensemble, Source
from birdsong.report.tables import Cell, Column, Table, number

# Models in the table by class size.
COMPARED = 5
# Models of which the correlations are drawn, and of which they are also written into the squares.
DRAWN, WRITTEN = 40, 12
DIGITS = 3
NOTES = {
    'MAP': 'mean reciprocal rank of the foreground class',
    'MAP-bg': 'mean average precision over foreground and background classes',
    'top-1': 'share of recordings whose class has the highest score',
    'cmAP': 'mean over classes of the average precision',
    'ROC-AUC': 'mean over classes of the area under the ROC curve',
}


def write(source: Source) -> str:
    """Nothing if there are neither metrics nor ensembles."""
    found = evaluation.rows(source)
    if not found and not source.ensembles:
        return ''
    names, correlation = evaluation.correlations(source)
    return page.render(
        'models.html',
        source=source,
        table=_table(found) if found else None,
        forest=_forest(found) if len(found) > 1 else None,
        without=[model for model in source.models if model.scores is None],
        ensembles=[(one, _weights(one, number)) for number, one in enumerate(source.ensembles)],
        weights=_weights_table(source.ensembles),
        correlation=_heat_map(names, correlation) if 1 < len(names) <= DRAWN else None,
        correlations=_correlations(names, correlation) if names else None,
        sizes=_sizes(source, [row.name for row in found[:COMPARED]]),
        biased=[name for name in (found[0].values if found else ()) if _is_outside(found, name)],
        notes={name: NOTES[name] for name in (found[0].values if found else ()) if name in NOTES},
    )


# == Metrics ==


def _table(found: list[Row]) -> Table:
    """The metrics with their intervals; in the CSV file, the bounds have columns of their own."""
    names = list(found[0].values)
    seeds = any(not math.isnan(row.values[name]['sd']) for row in found for name in row.values)
    columns = [Column('model'), Column('kind', hidden=True)]
    for name in names:
        columns.append(Column(name, DIGITS, NOTES.get(name, '')))
        columns += [Column(f'{name} {end}', DIGITS, hidden=True) for end in ('low', 'high')]
        if seeds:
            columns.append(Column(f'{name} standard deviation over seeds', DIGITS, hidden=True))
    rows = []
    for row in found:
        shown = f'{row.name} (ensemble)' if row.ensemble else row.name
        cells = [Cell(row.name, shown), 'ensemble' if row.ensemble else 'model']
        for name in names:
            values = row.values.get(name) or dict.fromkeys(evaluation.VALUES, math.nan)
            cells.append(Cell(values['pooled'], interval(values)))
            cells += [values['low'], values['high'], *([values['sd']] if seeds else [])]
        rows.append(cells)
    return Table(
        'models-table', 'Metrics; in brackets, 95 % bootstrap intervals over groups of recordings.', columns, rows
    )


def _is_outside(found, name):
    """Whether the value of a metric is outside of its own interval for any model."""
    values = [row.values[name] for row in found if name in row.values]
    return any(not each['low'] <= each['pooled'] <= each['high'] for each in values if each['low'] == each['low'])


def interval(values: dict[str, float]) -> str:
    """'0.754 (0.721–0.786)', with ± the standard deviation over seeds if it is known."""
    if math.isnan(values['pooled']):
        return ''
    spread = '' if math.isnan(values['sd']) else f' ± {values["sd"]:.3f}'
    return f'{values["pooled"]:.3f}{spread} ({values["low"]:.3f}–{values["high"]:.3f})'


def _forest(found: list[Row]) -> Figure:
    """MAP and its interval of each model, the best one on top."""
    known = [row for row in found if not math.isnan(row.values['MAP']['pooled'])]
    with figures.style():
        drawing, axes = figures.axes(5.2, 0.75 + 0.24 * len(known))
        for at, row in enumerate(known):
            values = row.values['MAP']
            colour = figures.COLOURS[1 if row.ensemble else 0]
            axes.plot([values['low'], values['high']], [at, at], color=colour, linestyle='-', linewidth=2)
            axes.plot([values['pooled']], [at], 's' if row.ensemble else 'o', color=colour, markersize=6)
        axes.set_yticks(range(len(known)), [figures.short(row.name, 28) for row in known])
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.set_xlabel('MAP')
        said = ', '.join(f'{row.name} {interval(row.values["MAP"])}' for row in known[:12])
        caption = (
            'MAP with 95 % intervals; squares are ensembles. Where intervals overlap, compare.py tells whether the '
        )
        caption += 'difference is more than chance.'
        return Figure(figures.svg(drawing, 'forest'), f'MAP of models, best first: {said}', caption)


# == Ensembles ==


def _weights(one: Ensemble, number: int) -> Figure | None:
    """The weights of an ensemble as bars; None if they are unknown."""
    if not one.members:
        return None
    members = sorted(one.members, key=lambda member: -member[1])
    total = sum(weight for _, weight in members)
    shares = [100 * weight / total for _, weight in members]
    with figures.style():
        drawing, axes = figures.axes(5.2, 0.75 + 0.24 * len(members))
        axes.barh(range(len(members)), shares, 0.7, color=figures.COLOURS[0])
        for at, share in enumerate(shares):
            axes.annotate(f'{share:.1f} %', (share, at), (3, 0), textcoords='offset points', va='center', fontsize=8)
        axes.set_yticks(range(len(members)), [figures.short(name, 28) for name, _ in members])
        axes.set_ylim(len(members) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.set_xlabel('share of the weights (%)')
        said = ', '.join(f'{name} {share:.1f} %' for (name, _), share in zip(members, shares, strict=True))
        return Figure(figures.svg(drawing, f'weights{number}'), f'Weights of the ensemble {one.name}: {said}')


def _weights_table(ensembles: list[Ensemble]) -> Table | None:
    rows = []
    for one in ensembles:
        total = sum(weight for _, weight in one.members)
        rows += [[one.name, name, weight, 100 * weight / total] for name, weight in one.members]
    columns = [Column('ensemble'), Column('member'), Column('weight', 4), Column('share (%)', 1)]
    return Table('weights', 'Weights of the ensembles.', columns, rows) if rows else None


# == Errors in common ==


def _correlations(names: list[str], values: np.ndarray) -> Table:
    columns = [Column('model'), *(Column(name, 2) for name in names)]
    rows = [[name, *line] for name, line in zip(names, values.tolist(), strict=True)]
    return Table('correlations', 'Correlation of the errors.', columns, rows)


def _heat_map(names: list[str], values: np.ndarray) -> Figure:
    """Correlations as squares: the larger, the higher."""
    count = len(names)
    with figures.style():
        drawing, axes = figures.axes(min(6.6, 2.6 + 0.42 * count), min(6.0, 1.6 + 0.36 * count))
        for i, j in np.ndindex(values.shape):
            value = values[i, j]
            if math.isnan(value):
                continue
            colour = figures.COLOURS[0 if value >= 0 else 1]
            if count <= WRITTEN:
                axes.add_patch(figures.square(j, i, 1, colour, 0.5 * abs(value)))
                axes.text(j, i, number(value, 2), ha='center', va='center', fontsize=8)
            else:
                axes.add_patch(figures.square(j, i, math.sqrt(abs(value)), colour, 1))
        shown = [figures.short(name, 24) for name in names]
        axes.set_xticks(range(count), shown, rotation=45, ha='right', rotation_mode='anchor')
        axes.set_yticks(range(count), shown)
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect='equal')
        axes.grid(visible=False)
        text = f'Correlation of the errors of {count} models; the table has all values'
        caption = (
            'Correlation of the errors, 1 − 1 / rank of the right class, over recordings. Models whose errors differ '
            'gain most from each other in an ensemble.'
        )
        return Figure(figures.svg(drawing, 'correlation'), text, caption)


# == Class size ==


def _sizes(source: Source, names: list[str]) -> Table | None:
    groups = evaluation.by_size(source, names)
    if len(groups) < 2:
        return None
    chosen = list(groups[0].values)
    _, what = evaluation.class_sizes(source)
    columns = [Column(f'{what} per class', 0), Column('at most', 0, hidden=True)]
    columns += [Column('classes', 0), Column('recordings evaluated', 0)]
    columns += [Column(f'MAP of {name}', DIGITS) for name in chosen]
    columns += [Column(f'{metric} of {chosen[0]}', DIGITS) for metric in ('top-1', 'cmAP')]
    rows = [
        [
            Cell(one.least, f'{one.least}–{one.most}' if one.most > one.least else str(one.least)),
            one.most,
            one.classes,
            one.recordings,
            *(values['MAP'] for values in one.values.values()),
            *(one.values[chosen[0]][metric] for metric in ('top-1', 'cmAP')),
        ]
        for one in groups
    ]
    caption = f'Metrics of the best models by the number of {what} of the class.'
    return Table('class-size', caption, columns, rows)
