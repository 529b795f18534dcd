"""Metrics of the models and ensembles of a report, with bootstrap intervals; errors that models have in common."""

import functools
import json
import math
import os
from typing import Any, NamedTuple

import numpy as np

from birdsong.files import Problem
from birdsong.report.runs import as_number
from birdsong.report.source import CROSSVAL, POOLED, Source
from birdsong.scores import crossvalidation, metrics

# Bounds of the sizes by which classes are divided.
SIZES = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)
# The values of a metric: of all recordings, its interval, its standard deviation over seeds, the mean over folds.
VALUES = ('pooled', 'low', 'high', 'sd', 'folds')


class Row(NamedTuple):
    """The metrics of a model or an ensemble: {metric: {one of VALUES: number}}."""

    name: str
    ensemble: bool
    values: dict[str, dict[str, float]]


class SizeGroup(NamedTuple):
    """Classes with similar numbers of recordings, from `least` to `most`."""

    least: int
    most: int
    classes: int
    recordings: int  # that are evaluated
    values: dict[str, dict[str, float]]  # {model: {metric: value}}


@functools.lru_cache(1)
def rows(source: Source) -> list[Row]:
    """The metrics of all models and ensembles, those with the highest MAP first."""
    found = _recorded(source) if source.pooled else _computed(source)
    return sorted(found, key=lambda row: -_sortable(row.values.get('MAP', {}).get('pooled', math.nan)))


def _sortable(value):
    return -math.inf if math.isnan(value) else value


def _computed(source):
    """The metrics of the predictions for the list."""
    if not source.files:
        return []
    drawn = list(metrics.resample(len(source.files), source.groups, source.options.samples))
    weights = np.stack([each.astype(np.uint16) for each in drawn])
    recordings = crossvalidation.Recordings(
        source.files, np.zeros(len(source.files), np.int64), source.truth, source.background
    )
    result = []
    for one, is_ensemble in [*((m, False) for m in source.models), *((e, True) for e in source.ensembles)]:
        if one.scores is not None:
            estimate = crossvalidation.Estimate(one.name)
            estimate.add(one.scores, recordings, weights)
            result.append(Row(one.name, is_ensemble, estimate.summary()))
    return result


def _recorded(source):
    """The metrics that crossval.py has written."""
    filename = os.path.join(source.folder, CROSSVAL, 'table.json')
    try:
        with open(filename, encoding='utf-8') as f:
            content = json.load(f)['metrics']
        return [Row(str(name), name in POOLED, _checked(values)) for name, values in content.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _checked(values: Any) -> dict[str, dict[str, float]]:
    return {str(name): {key: as_number(each.get(key)) for key in VALUES} for name, each in values.items()}


def correlations(source: Source) -> tuple[list[str], np.ndarray]:
    """Names of models and the correlations (models, models) of their errors, 1 - 1 / rank of each recording.

    They are the members of the best ensemble if it has several, else all models with predictions. NaN for a model
    whose errors are all equal.
    """
    members = [model for model, _ in source.best.members] if source.best and len(source.best.members) > 1 else []
    chosen = [model for model in members or source.models if model.scores is not None]
    if len(chosen) < 2:
        return [], np.empty((0, 0))
    errors = np.stack([1 - 1 / metrics.per_recording(model.scores, source.truth)[0] for model in chosen])
    with np.errstate(invalid='ignore', divide='ignore'):
        return [model.name for model in chosen], np.atleast_2d(np.corrcoef(errors))


def by_size(source: Source, names: list[str]) -> list[SizeGroup]:
    """The metrics of models and ensembles `names` by the sizes of the classes, see `class_sizes`."""
    known = {one.name: one.scores for one in [*source.models, *source.ensembles] if one.name in names}
    chosen = {name: known[name] for name in names if known.get(name) is not None}
    if not chosen:
        return []
    size, _ = class_sizes(source)
    group = np.searchsorted(SIZES, size, 'right') - 1
    precisions = {
        name: metrics.per_class(scores, source.truth, source.background)['AP'] for name, scores in chosen.items()
    }
    ranks = {name: metrics.per_recording(scores, source.truth)[0] for name, scores in chosen.items()}
    result = []
    for number in np.unique(group):
        classes, own = group == number, group[source.truth] == number
        if not own.any():
            continue
        values = {
            name: {
                'MAP': float(np.mean(1 / ranks[name][own])),
                'top-1': float(np.mean(ranks[name][own] == 1)),
                'cmAP': crossvalidation.mean_of_defined(precisions[name][classes]),
            }
            for name in chosen
        }
        occurring = np.unique(source.truth[own])
        result.append(
            SizeGroup(int(size[classes].min()), int(size[classes].max()), len(occurring), int(own.sum()), values)
        )
    return result


def class_sizes(source: Source) -> tuple[np.ndarray, str]:
    """Number of recordings of each class (classes,) from which networks learn, and what to call them.

    In a cross-validation, these are all that are held out once: most of them are in each training list.
    """
    count = source.dataset.num_classes
    if source.pooled:
        return np.bincount(source.truth, minlength=count), 'recordings in the cross-validation'
    try:
        files = source.dataset.filelist('train')
    except Problem:
        files = []
    labels = source.dataset.labels()
    known = [labels[key] for key in files if key in labels]
    return np.bincount(np.array(known, np.int64), minlength=count), 'training recordings'
