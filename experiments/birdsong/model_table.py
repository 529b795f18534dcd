"""Tables of models: what to train and to predict with which settings.

A table has one line per model: name, presets (vars/PRESET.vars, later ones override earlier ones), teachers
(SETTING=MODEL[:MODEL], or -) and perhaps a remark, separated by tabs. Models live in experiments/DATASET/.
"""

import collections
import os
import re
import sys

from birdsong import config
from birdsong.files import Problem, read_lines
from birdsong.names import did_you_mean

TABLE = os.path.join(config.EXPERIMENTS, 'models.tsv')
NAME = r'[A-Za-z0-9][A-Za-z0-9_.+-]*'
# folders in experiments/ that no dataset may be called by (parse_options of lib.sh has the same)
PROGRAM_FOLDERS = ('birdsong', 'vars', 'ensembles')
TEACHER_SETTINGS = ('ban', 'init_from')
TRAIN_FLAGS = ['--validate', '--save-errors', '--keep-state']

Model = collections.namedtuple('Model', 'name presets teachers remark settings')


def check_name(name: str, where: str) -> None:
    """Raises Problem if `name` is not a name for a model, a preset, or a dataset (is_name of lib.sh has the same pattern)."""
    if not re.fullmatch(NAME, name):
        raise Problem(f'{where}: {name!r} is not a valid name; use letters, digits and _ . + -')


def check_dataset_name(name: str) -> None:
    """Raises Problem if `name` is not a name for a dataset: results are in experiments/NAME/, which may not be the program's."""
    check_name(name, '--dataset')
    if name in PROGRAM_FOLDERS:
        raise Problem(f'--dataset: experiments/{name} belongs to the program; choose another name')


def _preset(name, where):
    filename = os.path.join(config.EXPERIMENTS, 'vars', f'{name}.vars')
    if not os.path.exists(filename):
        known = sorted(f[:-5] for f in os.listdir(os.path.dirname(filename)) if f.endswith('.vars'))
        raise Problem(f'{where}: no preset {name}; {did_you_mean(name, known)}')
    settings = config.read_vars(filename)
    config.check(settings, filename)
    return settings


def read_table(filename=TABLE, dataset='birdclef'):
    """The models of a table: dict of name -> Model(name, presets, teachers {setting: [names]}, remark, settings {key: value}).

    `settings` are the presets' overrides in their order, then the teachers as paths DATASET/MODEL.npz.
    Raises Problem for lines, presets, settings and teachers that can't be, and for models that wait for themselves.
    """
    models = {}
    for number, line in enumerate(read_lines(filename), 1):
        if not line.strip() or line.startswith('#'):
            continue
        where = f'{filename}, line {int(number)}'
        fields = [field.strip() for field in line.split('\t')]
        if not 2 <= len(fields) <= 4 or not fields[1]:
            raise Problem(f'{where}: expected NAME, PRESETS, TEACHERS, REMARK separated by tabs, found {line!r}')
        name, presets, teachers, remark = fields + [''] * (4 - len(fields))
        check_name(name, where)
        if name in models:
            raise Problem(f'{where}: a second model of the name {name}')
        settings = {}
        for preset in presets.split():
            check_name(preset, where)
            settings.update(_preset(preset, where))
        by_setting = {}
        for teacher in teachers.replace('-', '', teachers == '-').split():
            setting, _, names = teacher.partition('=')
            if setting not in TEACHER_SETTINGS or not names:
                raise Problem(f'{where}: teachers are ban=MODEL or init_from=MODEL[:MODEL], not {teacher!r}')
            by_setting[setting] = names.split(':')
            settings[setting] = ':'.join(f'{dataset}/{n}.npz' for n in by_setting[setting])
        models[name] = Model(name, presets.split(), by_setting, remark, settings)
    if not models:
        raise Problem(f'{filename}: no models in it')
    for model in models.values():
        for teacher in teachers_of(model):
            if teacher not in models:
                raise Problem(
                    f'{filename}: {model.name} needs {teacher}, which is not in the table; {did_you_mean(teacher, list(models))}'
                )
    in_order(models, list(models), filename)
    return models


def teachers_of(model):
    """Names of all models that have to be trained before `model`."""
    return [name for names in model.teachers.values() for name in names]


def in_order(models, names, filename=TABLE):
    """`names` (all, if empty) in the order of the table, but every teacher before its students.

    Raises Problem for unknown names and for models that wait for themselves.
    """
    for name in names:
        if name not in models:
            raise Problem(f'{filename}: no model {name}; {did_you_mean(name, list(models))}')
    wanted, done = set(names or models), {}

    def visit(name, path):
        if name in path:
            raise Problem(
                f'{filename}: {name} waits for itself ({" needs ".join(path[path.index(name) :] + [name])}); correct its teachers'
            )
        if name not in done:
            for teacher in teachers_of(models[name]):
                visit(teacher, path + [name])
            done[name] = True

    for name in models:
        visit(name, [])
    return [name for name in done if name in wanted]


def found(dataset: str, table: dict[str, Model]) -> dict[str, Model]:
    """Models in experiments/DATASET/, trained or claimed, whoever started them: dict of name -> Model, by name.

    A model that `table` does not name has the settings of its own .vars file; a note says which are left out because
    that file cannot be read, or because of their name.
    """
    models, folder = {}, os.path.join(config.EXPERIMENTS, dataset)
    for filename in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        name, dot, suffix = filename.rpartition('.npz.')
        if not dot or suffix not in ('vars', 'lock') or name.endswith('.pred') or name in models:
            continue
        settings = os.path.join(folder, f'{name}.npz.vars')
        try:
            check_name(name, folder)
            own = config.read_vars(settings) if os.path.exists(settings) else {}
            models[name] = table.get(name) or Model(name, [], {}, '', own)
        except Problem as e:
            sys.stderr.write(f'list_models.py: left out: {e}\n')
    return models


def choose(filename: str | None, dataset: str, names: list[str], all_found: bool = False) -> dict[str, Model]:
    """Models to look at: dict of name -> Model, teachers first.

    `names` may be of the table or of experiments/DATASET/. Without names: all of the table if one is given, with
    `all_found` also the others in that folder; without a table those in the folder, or if it is empty, those of models.tsv.
    """
    table = read_table(filename or TABLE, dataset)
    here = found(dataset, table)
    models = {**table, **here}
    if not names and filename:
        names = list(models if all_found else table)
    return {name: models[name] for name in in_order(models, names or list(here or table), filename or TABLE)}


def kind(model):
    """'meta' for networks that read no samples, else 'audio' (combined networks, too)."""
    return 'audio' if model.settings.get('arch', True) else 'meta'


def train_arguments(model, dataset):
    """Arguments of train.py for a model, all but the file to write; run it in experiments/."""
    arguments = ['--dataset', dataset] + TRAIN_FLAGS
    for preset in model.presets:
        arguments += ['--vars', f'vars/{preset}.vars']
    for setting in model.teachers:
        arguments += ['--var', f'{setting}={model.settings[setting]}']
    return arguments


def predict_arguments(model, dataset, soundscapes=False):
    """Arguments of predict.py for a model, all but files and lists; the one place that knows them."""
    arguments = ['--dataset', dataset]
    if kind(model) == 'meta':
        return arguments + ['--vars', 'vars/predict_meta.vars']
    if soundscapes:
        return arguments + ['--vars', 'vars/predict_soundscapes.vars']
    return arguments + ['--vars', 'vars/predict_audio.vars', '--split-pool']
