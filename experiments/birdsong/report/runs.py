"""Trainings of the models of a report: their states, metrics of each epoch, and what is recorded about them."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from birdsong import config, model_table
from birdsong.model_table import Model
from birdsong.training import provenance, states

# Lines of the log of a failed training that are shown.
LOG_LINES = 15


class Run(NamedTuple):
    """A training. `epochs`: metrics of each epoch, `kept`: the epoch of the network that was saved, or None."""

    model: str
    dataset: str
    state: str
    details: str
    epochs: list[dict[str, float]]
    kept: int | None
    record: Mapping[str, Any]
    log: str

    def text(self, name: str) -> str:
        """An entry of the record as text; empty if it is unknown."""
        value = self.record.get(name)
        return '' if value is None else str(value)

    def number(self, name: str) -> float:
        """An entry of the record as number, NaN if it is unknown."""
        return as_number(self.record.get(name))

    @property
    def seconds(self) -> float:
        """The duration of all epochs; NaN if it is unknown."""
        return sum((epoch['seconds'] for epoch in self.epochs), 0.0) if self.epochs else math.nan

    def at_kept(self, name: str) -> float:
        """A metric of the epoch that was kept or, if none was kept yet, of the last one."""
        which = [epoch for epoch in self.epochs if epoch['epoch'] == self.kept] or self.epochs[-1:]
        return which[0].get(name, math.nan) if which else math.nan


def find(datasets: Sequence[str], models: Mapping[str, Model]) -> list[Run]:
    """The trainings of the models in the folders of datasets (a dataset and its folds)."""
    result = []
    for dataset in datasets:
        folder = os.path.join(config.EXPERIMENTS, dataset)
        here = model_table.found(dataset, dict(models))
        chosen = models if dataset == datasets[0] else here
        result += [_run(model, folder) for model in chosen.values()]
    return result


def _run(model, folder):
    state, details = states.state_of(model, folder)
    root = os.path.join(folder, model.name)
    if state in ('running', 'interrupted'):
        root = states.attempt(root)
    record = provenance.read(f'{root}.run.json')
    epochs = [_epoch(row) for row in states.metrics_of(root)]
    kept = record.get('saved_epoch')
    if not isinstance(kept, int):
        kept = len(epochs) if state == 'finished' and epochs else None
    lines = states.last_lines(f'{os.path.join(folder, model.name)}.log', LOG_LINES) if state == 'failed' else []
    return Run(model.name, os.path.basename(folder), state, details, epochs, kept, record, '\n'.join(lines))


def _epoch(row):
    """The metrics of an epoch, NaN if they are not known."""
    values = {name: as_number(value) for name, value in row.items()}
    return {'seconds': math.nan, **values, 'epoch': row['epoch']}


def as_number(value: Any) -> float:
    """A number of a JSON file, NaN if it is something else or not finite."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if good else math.nan


def settings(run: Run) -> dict[str, str]:
    """The settings of a training that differ from the defaults, as text."""
    known = run.record.get('settings')
    if not isinstance(known, dict):
        return {}
    defaults = config.load()
    own = {str(name): value for name, value in known.items() if name not in config.DERIVED}
    return {name: str(value) for name, value in own.items() if defaults.get(name) != value}
