"""The section on trainings: a table of all, curves of each model, settings, and why trainings failed."""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

from birdsong.config import load
from birdsong.report import figures, page, runs
from birdsong.report.figures import Figure
from birdsong.report.runs import Run
from birdsong.report.source import Source
from birdsong.report.tables import Column, Table, without_empty_columns
from birdsong.training.states import span

# Models whose curves are shown at once; those of others are unfolded.
OPEN = 6
# Learning rates are drawn on a logarithmic axis if the highest is between 10 and this times the lowest.
LARGEST_RANGE = 1e4
# Name of the settings that all models have in common, in the table.
ALL = 'all models'


class Curves(NamedTuple):
    """The curves of a model. `colours`: which colour is which dataset, if it was trained on several."""

    name: str
    what: str
    figures: list[Figure]
    colours: list[tuple[str, str]]


def write(source: Source) -> str:
    """Nothing if there is no training."""
    found = [run for run in source.runs if run.state != 'free' or run.epochs]
    if not found:
        return ''
    several = len({run.dataset for run in found}) > 1
    by_model = collections.defaultdict(list)
    for run in found:
        by_model[run.model].append(run)
    curves = [
        _curves(name, number, those) for number, (name, those) in enumerate(by_model.items()) if _has_curves(those)
    ]
    return page.render(
        'training.html',
        counts=collections.Counter(run.state for run in source.runs),
        table=without_empty_columns(_table(found, several)),
        details=without_empty_columns(_details(found, several)),
        curves=curves,
        open=len(curves) <= OPEN,
        settings=_settings(found),
        failed=[run for run in found if run.state == 'failed'],
    )


def _has_curves(those):
    return any(run.epochs for run in those)


def _name(run, several):
    return [run.model, run.dataset] if several else [run.model]


def _table(found, several):
    columns = [
        Column('model'),
        *([Column('dataset')] if several else []),
        Column('state'),
        Column('epochs', 0),
        Column('kept epoch', 0, 'the epoch of the network that was saved'),
        Column('MAP', 3, 'of excerpts of the validation recordings, at the kept epoch or the last one'),
        Column('error', 3, 'share of excerpts of another class'),
        Column('loss', 3, 'of the validation'),
        Column('minutes', 1, 'duration of all epochs'),
        Column('memory (MB)', 0, 'largest main memory of the process'),
        Column('device'),
    ]
    rows = [
        [
            *_name(run, several),
            run.state,
            len(run.epochs) or None,
            run.kept,
            run.at_kept('valid_map'),
            run.at_kept('valid_error'),
            run.at_kept('valid_loss'),
            run.seconds / 60,
            run.number('peak_memory_MB'),
            run.text('device'),
        ]
        for run in found
    ]
    caption = (
        'Trainings. MAP, error and loss are those of excerpts of the validation recordings, as in training; whole '
        'recordings are evaluated below.'
    )
    return Table('trainings', caption, columns, rows)


def _details(found, several):
    """What else is recorded: where and when, with which version."""
    columns = [Column('model'), *([Column('dataset')] if several else [])]
    columns += [Column('details'), Column('seconds per epoch', 1), Column('started'), Column('host')]
    columns += [Column('processes', 0), Column('threads', 0), Column('seed', 0), Column('revision'), Column('torch')]
    rows = []
    for run in found:
        packages = run.record.get('packages')
        torch = packages.get('torch') if isinstance(packages, dict) else None
        rows.append(
            [
                *_name(run, several),
                run.details,
                run.seconds / len(run.epochs) if run.epochs else None,
                run.text('started'),
                run.text('host'),
                *(run.number(name) for name in ('processes', 'threads', 'seed')),
                run.text('revision'),
                '' if torch is None else str(torch),
            ]
        )
    return Table('training-details', 'Trainings: where, when and with which version.', columns, rows)


def _settings(found: Sequence[Run]) -> Table | None:
    """A table of the settings that differ from the defaults; those of all models come first."""
    own = {run.model: runs.settings(run) for run in found if runs.settings(run)}
    if not own:
        return None
    defaults = load()
    common = dict(set.intersection(*(set(each.items()) for each in own.values()))) if len(own) > 1 else {}
    rows = [[ALL, name, str(defaults.get(name, '')), common[name]] for name in sorted(common)]
    for model, settings in own.items():
        rows += [
            [model, name, str(defaults.get(name, '')), value] for name, value in settings.items() if name not in common
        ]
    columns = [Column('model'), Column('setting'), Column('default'), Column('value')]
    return Table('settings', 'Settings that differ from the defaults.', columns, rows)


# == Curves ==


def _curves(name: str, number: int, those: list[Run]) -> Curves:
    """Figures of the loss, the metrics and the learning rate of a model, with a line for each of its trainings."""
    trained = [run for run in those if run.epochs]
    panels = [
        _panel(f'loss{number}', name, trained, 'loss', (('train_loss', 'training'), ('valid_loss', 'validation'))),
        _panel(f'map{number}', name, trained, 'MAP and error', (('valid_map', 'MAP'), ('valid_error', 'error'))),
        _panel(f'rate{number}', name, trained, 'learning rate', (('rate', 'learning rate'),)),
    ]
    words = '; '.join(_said(run, len(those) > 1) for run in those)
    colours = [(_colour(row), run.dataset) for row, run in enumerate(trained)] if len(trained) > 1 else []
    return Curves(name, words, [each for each in panels if each], colours)


def _colour(number):
    return figures.COLOURS[number % len(figures.COLOURS)]


def _said(run, several):
    """A line about a training."""
    where = f'{run.dataset}: ' if several else ''
    kept = f', epoch {run.kept} kept' if run.kept else ''
    duration = f', {span(run.seconds)}' if run.seconds == run.seconds else ''
    return f'{where}{run.state}, {len(run.epochs)} epochs{kept}{duration}'


def _panel(identifier, name, trained, title, columns) -> Figure | None:
    """A figure with a line per column and training. None if no column has a value."""
    several = len(trained) > 1
    said, drawn = [], False
    with figures.style():
        drawing, axes = figures.axes(3.0, 2.1, numbers_only=True)
        for row, run in enumerate(trained):
            for line, (column, label) in enumerate(columns):
                points = [(e['epoch'], e[column]) for e in run.epochs if not math.isnan(e.get(column, math.nan))]
                if not points:
                    continue
                drawn = True
                colour = _colour(row if several else line)
                x, y = zip(*points, strict=True)
                axes.plot(
                    x,
                    y,
                    color=colour,
                    linestyle=figures.STYLES[line],
                    marker='o' if len(x) == 1 else None,
                    label=label if not row else None,
                )
                kept = dict(points).get(run.kept)
                if kept is not None:
                    axes.plot([run.kept], [kept], 'o', color=colour, markersize=5)
                said.append(f'{label} from {y[0]:.3g} to {y[-1]:.3g}' + (f' ({run.dataset})' if several else ''))
        if not drawn:
            return None
        values = [y for each in axes.lines for y in each.get_ydata()]
        if title == 'learning rate' and 10 * min(values) < max(values) < LARGEST_RANGE * min(values):
            figures.logarithmic(axes.yaxis)
        axes.set_xlabel('epoch')
        axes.set_title(title, loc='left')
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(columns) > 1:
            axes.legend()
        text = f'{name}: {title} over epochs: {"; ".join(said[:12])}'
        return Figure(figures.svg(drawing, identifier), text)
