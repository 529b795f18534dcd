"""What a report is about: a dataset, its models, their predictions for a labelled list, and ensembles."""

import dataclasses
import glob
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from birdsong import config
from birdsong.data import folds
from birdsong.data.dataset import LABEL_FILE, Dataset
from birdsong.files import Problem
from birdsong.identification import choice
from birdsong.model_table import Model as Definition
from birdsong.report import runs
from birdsong.report.runs import Run
from birdsong.report.words import count
from birdsong.scores import combination, metrics

BACKGROUND_FILE = 'bg.tsv'
# Folder of the results of crossval.sh in that of the dataset, and its ensembles.
CROSSVAL, POOLED = 'crossval', ('ensemble', 'ensemble_equal')


class Options(NamedTuple):
    """What to show. `audio`: put sounds into the page; `clips`: recordings to show per class.

    `over_time`: compute the scores over time with a network, if predictions do not have them.
    """

    audio: bool = False
    clips: int = 3
    samples: int = 1000  # of the bootstrap
    over_time: bool = False


class Model(NamedTuple):
    """A model: its prediction file and its scores (N, classes) for the list, if there are any, else why not."""

    name: str
    prediction: str | None
    scores: np.ndarray | None
    problem: str = ''


class Ensemble(NamedTuple):
    """An ensemble: `members` are names and weights; `softmax`: applied to the scores of each member before."""

    name: str
    members: Sequence[tuple[str, float]]
    softmax: bool
    scores: np.ndarray | None
    problem: str = ''


class Best(NamedTuple):
    """The model or ensemble with the highest MAP. `members` are its models with their weights."""

    name: str
    scores: np.ndarray
    members: Sequence[tuple[Model, float]]
    softmax: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """All sections of a report read this. N recordings are evaluated: the list `filelist`.

    `pooled`: the recordings are those held out in a cross-validation, and `models` their pooled predictions. `files`
    and `truth` are empty if there is no labelled list; `background` are lists of N class indices, or None; `groups` is
    the group of each recording, or None.
    """

    dataset: Dataset
    folder: str
    filelist: str
    pooled: bool
    files: list[str]
    truth: np.ndarray
    background: list[list[int]] | None
    groups: list[str] | None
    runs: list[Run]
    models: list[Model]
    ensembles: list[Ensemble]
    best: Best | None
    options: Options

    @property
    def evaluated_on(self) -> str:
        """What the recordings are, for readers of the page."""
        number = count(len(self.files), 'recording')
        if self.pooled:
            return f'{number}, each held out in one fold and predicted by networks that have not seen it'
        return f'{number} of the list {self.filelist}'


def gather(dataset: Dataset, definitions: Mapping[str, Definition], filelist: str, options: Options) -> Source:
    """The predictions of models for a list, or those of the cross-validation if there was one, and all trainings.

    Raises Problem for labels that are not valid.
    """
    folder = os.path.join(config.EXPERIMENTS, dataset.name)
    pooled, names = os.path.exists(os.path.join(folder, CROSSVAL, 'table.json')), list(definitions)
    if pooled:
        files = [key for fold in folds.find(dataset) for key in fold.valid]
        where, what = os.path.join(folder, CROSSVAL), 'held-out recordings of the folds'
        paths = sorted(glob.glob(os.path.join(glob.escape(where), '*.pred.npz')))
        stems = (os.path.basename(path).removesuffix('.pred.npz') for path in paths)
        names = [name for name in stems if name.partition('.seed')[0] not in POOLED]
    else:
        where, what = folder, filelist
        path = os.path.join(dataset.path, 'filelists', filelist)
        files = dataset.filelist(filelist) if os.path.exists(path) and dataset.has_labels else []
    truth, background = _truth(dataset, files, what)
    models = [_model(name, where, files, dataset) for name in names]
    ensembles = _pooled_ensembles(where, files, dataset) if pooled else _ensembles(folder, models)
    return Source(
        dataset,
        folder,
        what,
        pooled,
        files,
        truth,
        background,
        folds.groups(dataset, files),
        runs.find([dataset.name, *_fold_names(dataset)], definitions),
        models,
        ensembles,
        _best(models, ensembles, truth),
        options,
    )


def _fold_names(dataset):
    """Names of the folds of a dataset, [] if it has none."""
    try:
        return [fold.name for fold in folds.find(dataset)]
    except Problem:
        return []


def _truth(dataset, files, what):
    """Class indices and background classes of the recordings; no background if no recording has any."""
    if not files:
        return np.empty(0, np.int64), None
    has_background = os.path.exists(os.path.join(dataset.path, 'labels', BACKGROUND_FILE))
    truth, background = dataset.truth(files, LABEL_FILE, BACKGROUND_FILE if has_background else None, what)
    return truth, background if background and any(background) else None


def _model(name, folder, files, dataset):
    filename = os.path.join(folder, f'{name}.pred.npz')
    if not os.path.exists(filename):
        return Model(name, None, None, 'no predictions')
    if not files:
        return Model(name, filename, None, 'no labelled list')
    try:
        return Model(name, filename, combination.prepared(filename, files, dataset.num_classes).scores)
    except Problem as e:
        return Model(name, filename, None, str(e))


def _ensembles(folder, models):
    """The ensembles of the dataset, or those for all datasets of which there are all members."""
    known = {model.name: model for model in models if model.scores is not None}
    own = sorted(glob.glob(os.path.join(glob.escape(folder), 'ensembles', '*.tsv')))
    common = sorted(glob.glob(os.path.join(glob.escape(config.EXPERIMENTS), 'ensembles', '*.tsv')))
    result = []
    for filename in own or common:
        name = os.path.basename(filename).removesuffix('.tsv')
        try:
            found = choice.read_table(filename, folder)
        except Problem as e:
            result.append(Ensemble(name, [], False, None, str(e)))
            continue
        members = [(member.name, member.weight) for member in found.members]
        missing = [member for member, _ in members if member not in known]
        if missing and not own:
            continue
        problem = f'no predictions of {", ".join(missing)}' if missing else ''
        scores = None if missing else _combined([known[member].scores for member, _ in members], members, found.softmax)
        result.append(Ensemble(name, members, found.softmax, scores, problem))
    return result


def _combined(scores, members, softmax):
    """The weighted mean of the scores of the members."""
    total = sum(weight for _, weight in members)
    parts = (combination.softmax(each) if softmax else each for each in scores)
    return sum(each * np.float32(weight / total) for each, (_, weight) in zip(parts, members, strict=True))


def _pooled_ensembles(folder, files, dataset):
    """The ensembles of a cross-validation; the weights are the means over its folds."""
    result = []
    for name in POOLED:
        one = _model(name, folder, files, dataset)
        table, members, softmax = os.path.join(folder, f'{name}.tsv'), [], False
        if os.path.exists(table):
            found = choice.read_table(table, folder)
            members, softmax = [(member.name, member.weight) for member in found.members], found.softmax
        if one.prediction:
            result.append(Ensemble(name, members, softmax, one.scores, one.problem))
    return result


def _best(models, ensembles, truth):
    """The model or ensemble with the highest MAP; an ensemble only if it is better than each model."""
    known = {model.name: model for model in models}
    candidates = [Best(m.name, m.scores, [(m, 1.0)], False) for m in models if m.scores is not None]
    for one in ensembles:
        if one.scores is not None:
            members = [(known[name], weight) for name, weight in one.members if name in known]
            candidates.append(Best(one.name, one.scores, members, one.softmax))
    return max(candidates, key=lambda one: metrics.evaluate(one.scores, truth, top_k=0)['MAP'], default=None)
