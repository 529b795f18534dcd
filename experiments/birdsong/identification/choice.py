"""Which models to identify with: those named, those of an ensemble, or the best one. Needs no torch."""

import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from birdsong import config
from birdsong.config import EXPERIMENTS
from birdsong.data.dataset import Dataset
from birdsong.files import Problem, read_lines
from birdsong.model_table import check_name
from birdsong.scores import combination, metrics

# Option of an ensemble: only classes of the challenge's edition that a recording is from
FILTER = '--birdclef-filter'


class Member(NamedTuple):
    """A model of an ensemble: its file and its weight."""

    filename: str
    weight: float

    @property
    def name(self) -> str:
        """Name of the model: that of its file."""
        return os.path.basename(self.filename).removesuffix('.npz')

    def digest(self) -> str:
        """A text that identifies the network and its settings."""
        digest = hashlib.sha256()
        for name in self.filename, f'{self.filename}.vars':
            with open(name, 'rb') as f:
                while block := f.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


class Choice(NamedTuple):
    """The models to use. `softmax`: apply a softmax to the scores of each before they are added."""

    members: list[Member]
    softmax: bool
    why: str  # a line for the user
    ignored: str = ''  # an option of the ensemble that has no effect here, for the user

    @property
    def model(self) -> str:
        """The models with their weights, such as cnn:0.7+meta:0.3."""
        if len(self.members) == 1:
            return self.members[0].name
        return '+'.join(f'{member.name}:{member.weight:g}' for member in self.members)


def choose(dataset: Dataset, run: str | None = None, models: Sequence[str] = ()) -> Choice:
    """The ensemble `run` or the models named; by default the only ensemble of the dataset, else the best model.

    Raises Problem if a model is missing or belongs to another dataset.
    """
    folder = os.path.join(EXPERIMENTS, dataset.name)
    if run and models:
        raise Problem('--run and --model exclude each other; give one of them')
    if models:
        files = [name if name.endswith('.npz') else os.path.join(folder, f'{name}.npz') for name in models]
        choice = Choice([Member(file, 1.0) for file in files], False, '')
        choice = choice._replace(why=f'{choice.model}, as named')
    elif run:
        choice = read_ensemble(_table_of(run, folder), folder)
    else:
        tables = sorted(glob.glob(os.path.join(glob.escape(folder), 'ensembles', '*.tsv')))
        choice = read_ensemble(tables[0], folder) if len(tables) == 1 else _best(dataset, folder, len(tables))
    for member in choice.members:
        _check(member, dataset)
    return choice


def _table_of(run, folder):
    check_name(run, '--run')
    files = [os.path.join(place, 'ensembles', f'{run}.tsv') for place in (folder, EXPERIMENTS)]
    for file in files:
        if os.path.exists(file):
            return file
    raise Problem(f'--run={run}: no ensemble {files[0]}; create it with blender.py --output, or name models by --model')


def read_table(filename: str, folder: str) -> Choice:
    """The members in `folder` and their weights, from a table of blender.py. Raises Problem for lines not valid."""
    members, options = [], []
    for number, line in enumerate(read_lines(filename), 1):
        where = f'{filename}, line {number}'
        if line.startswith('# options:'):
            options = line.split()[2:]
        if not line.strip() or line.startswith('#'):
            continue
        name, _, weight = line.partition('\t')
        check_name(name, where)
        try:
            value = float(weight.partition('\t')[0])
            if not 0 < value < math.inf:
                raise ValueError
            members.append(Member(os.path.join(folder, f'{name}.npz'), value))
        except ValueError:
            raise Problem(
                f'{where}: expected a model and its weight above 0, separated by a tab, found {line!r}'
            ) from None
    if not members:
        raise Problem(f'{filename}: it contains no members')
    choice, run = Choice(members, '--softmax' in options, ''), os.path.basename(filename).removesuffix('.tsv')
    ignored = ''
    if FILTER in options:
        ignored = (
            f'{FILTER} of the ensemble {run} is not applied: only recordings of BirdCLEF have a year of the challenge'
        )
    return choice._replace(why=f'the ensemble {run}, {choice.model}', ignored=ignored)


def read_ensemble(filename: str, folder: str) -> Choice:
    """As `read_table`; also raises Problem if a member is not trained."""
    choice = read_table(filename, folder)
    for member in choice.members:
        if not os.path.exists(member.filename):
            raise Problem(
                f'{filename}: its member {member.name} is not trained ({member.filename} is missing); start '
                f'train_all.sh --dataset {os.path.basename(folder)} {member.name}'
            )
    return choice


def _best(dataset, folder, ensembles):
    """The model with the highest MAP on the validation list, or the only one."""
    files = sorted(file for file in glob.glob(os.path.join(glob.escape(folder), '*.npz')) if _needs_audio(file))
    if not files:
        raise Problem(
            f'{folder}: no trained models on audio; start train_all.sh --dataset {dataset.name}, or select another '
            '--dataset'
        )
    because = 'there is no ensemble' if not ensembles else f'there are {ensembles} ensembles, choose one with --run'
    if len(files) == 1:
        return Choice([Member(files[0], 1.0)], False, f'{Member(files[0], 1.0).name}, the only model ({because})')
    scored = [(value, file) for file in files if (value := _map(dataset, file)) is not None]
    if not scored:
        raise Problem(
            f'{folder}: no predictions of the validation list tell which of {len(files)} models is best; name one '
            'with --model'
        )
    value, best = max(scored)
    member = Member(best, 1.0)
    why = f'{member.name}, the best of {len(scored)} models on the validation list (MAP {value:.3f}; {because})'
    return Choice([member], False, why)


def _needs_audio(file):
    """Whether a file is a trained network with a spectrogram branch."""
    return os.path.exists(f'{file}.vars') and bool(config.load([f'{file}.vars'])['arch'])


def _map(dataset, file):
    """MAP of a model on the validation list, or None without predictions or labels of it."""
    try:
        keys = dataset.filelist('valid')
        truth, _ = dataset.truth(keys, dataset.label_file, None, 'valid')
        scores = combination.prepared(f'{file.removesuffix(".npz")}.pred.npz', keys, dataset.num_classes).scores
    except Problem:
        return None
    return metrics.evaluate(scores, truth)['MAP']


def _check(member, dataset):
    """Raise Problem if a model or its settings are missing, or if it belongs to another dataset."""
    if not os.path.exists(member.filename):
        raise Problem(f'{member.filename}: no such model; train it with train_all.sh --dataset {dataset.name}')
    if not os.path.exists(f'{member.filename}.vars'):
        raise Problem(f'{member.filename}.vars: missing; a model and its settings belong together')
    try:
        with open(f'{member.filename.removesuffix(".npz")}.run.json', encoding='utf-8') as f:
            name = str(json.load(f)['dataset'])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if os.path.basename(name) != dataset.name and not re.fullmatch(rf'{re.escape(dataset.name)}-fold\d+', name):
        raise Problem(
            f'{member.filename}: a model of dataset {name}, not of {dataset.name}; choose another --model or --dataset'
        )
