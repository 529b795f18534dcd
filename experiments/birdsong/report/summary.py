"""The first sentences of a report: what the dataset is, and which model is best."""

import collections
import os

from birdsong.report import evaluation, models_section
from birdsong.report.source import Source
from birdsong.report.words import count

LISTS = (('train', 'training'), ('valid', 'validation'), ('test', 'test'))


def sentences(source: Source) -> list[str]:
    """Two or three sentences."""
    return [*_dataset(source), *_models(source)]


def _dataset(source):
    dataset, counts = source.dataset, []
    for name, what in LISTS:
        if os.path.exists(os.path.join(dataset.path, 'filelists', name)):
            counts.append(f'{count(len(dataset.filelist(name)), "recording")} for {what}')
    classes = count(dataset.num_classes, 'class', 'es') if dataset.has_labels else 'no labels'
    return [f'The dataset has {classes}; {_joined(counts)}.' if counts else f'The dataset has {classes}.']


def _models(source):
    rows = evaluation.rows(source)
    states = collections.Counter(run.state for run in source.runs if run.state != 'free')
    if states:
        yield f'Trainings: {_joined([f"{number} {state}" for state, number in states.items()])}.'
    singles = [row for row in rows if not row.ensemble]
    if singles:
        yield f'The best model is {singles[0].name}, {_said(singles[0])} on {source.evaluated_on}.'
    ensembles = [row for row in rows if row.ensemble]
    if ensembles:
        yield f'The best ensemble is {ensembles[0].name}, {_said(ensembles[0])}.'


def _said(row):
    """'with a MAP of 0.754 (0.721–0.786, 95 % interval) and a top-1 accuracy of 0.68'"""
    words = models_section.interval(row.values['MAP']).replace(')', ', 95 % interval)')
    first = row.values.get('top-1', {}).get('pooled')
    return f'with a MAP of {words}' + ('' if first is None else f' and a top-1 accuracy of {first:.2f}')


def _joined(parts):
    """'a, b and c'"""
    return ' and '.join(filter(None, [', '.join(parts[:-1]), *parts[-1:]]))
