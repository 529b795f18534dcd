"""Tables of models: which models to train, and with which settings.

A table has one tab-separated line per model: name, presets (vars/PRESET.vars, later ones override earlier ones) and,
after them, settings (KEY=VALUE), teachers (SETTING=MODEL[:MODEL], or -), and optionally a remark. Models are in
experiments/DATASET/. Teachers of self_training predict the list in self_training_list before the model is trained.

MODEL.seedN, which is not written in the table, is MODEL with the setting seed=N, and with teachers of that seed.
"""

import dataclasses
import os
import re
import sys

from birdsong import config
from birdsong.files import Problem, read_lines
from birdsong.names import did_you_mean

TABLE = os.path.join(config.EXPERIMENTS, 'models.tsv')
NAME = r'[A-Za-z0-9][A-Za-z0-9_.+-]*'
SETTING = r'[a-z0-9_.]+=[A-Za-z0-9_.,:+/-]*'
# folders in experiments/ that are not results; parse_options in lib.sh has the same list
PROGRAM_FOLDERS = ('birdsong', 'vars', 'ensembles')
TEACHER_SETTINGS = ('ban', 'init_from', 'self_training')
TRAIN_FLAGS = ['--validate', '--save-errors', '--keep-state']


@dataclasses.dataclass
class Model:
    """A line of a table: `teachers` by setting; `settings` from the presets, and those with the files of teachers.

    `own` are the settings KEY=VALUE in the line. `seed` is the text N if the name is MODEL.seedN, else empty.
    """

    name: str
    presets: list[str]
    teachers: dict[str, list[str]]
    remark: str
    settings: dict[str, str]
    own: list[str] = dataclasses.field(default_factory=list)
    seed: str = ''


def check_name(name: str, where: str) -> None:
    """Raise Problem unless `name` is valid for models, presets and datasets, as is_name in lib.sh does."""
    if not re.fullmatch(NAME, name):
        raise Problem(f'{where}: {name!r} is not a valid name; use letters, digits and _ . + -')


def check_dataset_name(name: str) -> None:
    """Raise Problem unless `name` is valid for a dataset, whose results are in experiments/NAME/."""
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


def _own_settings(words, where):
    for word in words:
        # the drivers pass them on as words without quotes
        if not re.fullmatch(SETTING, word):
            raise Problem(
                f'{where}: {word!r}: only letters, digits and _ . , : + - / are allowed in settings of a table'
            )
    settings = config.parse_assignments(words, where)
    config.check(settings, where)
    return settings


def _read_line(line: str, where: str, dataset: str) -> Model:
    fields = [field.strip() for field in line.split('\t')]
    if not 2 <= len(fields) <= 4 or not fields[1]:
        raise Problem(f'{where}: expected NAME, PRESETS, TEACHERS, REMARK separated by tabs, found {line!r}')
    name, presets, teachers, remark = fields + [''] * (4 - len(fields))
    check_name(name, where)
    words = presets.split()
    model = Model(name, [word for word in words if '=' not in word], {}, remark, {})
    for preset in model.presets:
        check_name(preset, where)
        model.settings.update(_preset(preset, where))
    model.own = [word for word in words if '=' in word]
    if words != model.presets + model.own:
        raise Problem(f'{where}: write settings (KEY=VALUE) after all presets')
    model.settings.update(_own_settings(model.own, where))
    for teacher in teachers.replace('-', '', teachers == '-').split():
        setting, _, names = teacher.partition('=')
        if setting not in TEACHER_SETTINGS or not names:
            raise Problem(
                f'{where}: teachers are ban=MODEL, init_from=MODEL[:MODEL] or self_training=MODEL[:MODEL], not '
                f'{teacher!r}'
            )
        model.teachers[setting] = names.split(':')
    return model


def _add_teacher_files(model, models, dataset):
    """Add the settings that name the files of teachers: their networks or, for self_training, their predictions."""
    for setting, names in model.teachers.items():
        if setting == 'self_training':
            folder, last = f'{dataset}/{predicted_list(model)}', models[names[0]]
            files = ','.join(f'{folder}/{name}.pred.npz' for name in names)
            # vars/predict_soundscapes.vars makes networks return logits
            model.settings[setting] = f'{files}:{last.settings.get("arch.output", "sigmoid")}'
        else:
            model.settings[setting] = ':'.join(f'{dataset}/{name}.npz' for name in names)


def predicted_list(model: Model) -> str:
    """The list that teachers of `self_training` predict."""
    return model.settings.get('self_training_list', 'unlabelled')


def add_seeds(models: dict[str, Model], names: list[str], dataset: str) -> None:
    """Add those of `names` to `models` that are MODEL.seedN for a MODEL of `models`, and their teachers."""
    for name in names:
        base, _, seed = name.rpartition('.seed')
        if name in models or base not in models or not re.fullmatch('0|[1-9][0-9]{0,8}', seed):
            continue
        model = models[base]
        teachers = {setting: [f'{n}.seed{seed}' for n in group] for setting, group in model.teachers.items()}
        settings = model.settings | {'seed': int(seed)}
        models[name] = dataclasses.replace(model, name=name, teachers=teachers, settings=settings, seed=seed)
        add_seeds(models, teachers_of(models[name]), dataset)
        _add_teacher_files(models[name], models, dataset)


def read_table(filename: str = TABLE, dataset: str = 'birdclef') -> dict[str, Model]:
    """The models of a table by name.

    Raises Problem for invalid lines, presets, settings and teachers, and for models that depend on themselves.
    """
    models = {}
    for number, line in enumerate(read_lines(filename), 1):
        if not line.strip() or line.startswith('#'):
            continue
        where = f'{filename}, line {number}'
        model = _read_line(line, where, dataset)
        if model.name in models:
            raise Problem(f'{where}: a second model named {model.name}')
        models[model.name] = model
    if not models:
        raise Problem(f'{filename}: it contains no models')
    for model in models.values():
        for teacher in teachers_of(model):
            if teacher not in models:
                suggestion = did_you_mean(teacher, list(models))
                raise Problem(f'{filename}: {model.name} needs {teacher}, which is not in the table; {suggestion}')
        _add_teacher_files(model, models, dataset)
    in_order(models, list(models), filename)
    return models


def teachers_of(model: Model) -> list[str]:
    """Names of all models that must be trained before `model`."""
    return [name for names in model.teachers.values() for name in names]


def predictions_before(model: Model) -> list[str]:
    """What has to be predicted before `model` is trained: a list and the names of models, or nothing."""
    teachers = model.teachers.get('self_training')
    return [predicted_list(model), *teachers] if teachers else []


def in_order(models: dict[str, Model], names: list[str], filename: str = TABLE) -> list[str]:
    """`names` (all, if empty) in the order of the table, but every teacher before its students.

    Raises Problem for unknown names and for models that depend on themselves.
    """
    for name in names:
        if name not in models:
            raise Problem(f'{filename}: no model {name}; {did_you_mean(name, list(models))}')
    wanted, done = set(names or models), {}

    def visit(name, path):
        if name in path:
            circle = ' needs '.join(path[path.index(name) :] + [name])
            raise Problem(f'{filename}: {name} depends on itself ({circle}); correct its teachers')
        if name not in done:
            for teacher in teachers_of(models[name]):
                visit(teacher, path + [name])
            done[name] = True

    for name in models:
        visit(name, [])
    return [name for name in done if name in wanted]


def found(dataset: str, table: dict[str, Model]) -> dict[str, Model]:
    """Models in experiments/DATASET/ that are trained or claimed: dict of name -> Model, sorted by name.

    A model that is not in `table` gets the settings of its own .vars file. If that file cannot be read, or the name is
    invalid, the model is left out, with a message to standard error.
    """
    models, known, folder = {}, dict(table), os.path.join(config.EXPERIMENTS, dataset)
    for filename in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        name, dot, suffix = filename.rpartition('.npz.')
        if not dot or suffix not in ('vars', 'lock') or name.endswith('.pred') or name in models:
            continue
        settings = os.path.join(folder, f'{name}.npz.vars')
        try:
            check_name(name, folder)
            own = config.read_vars(settings) if os.path.exists(settings) else {}
            add_seeds(known, [name], dataset)
            models[name] = known.get(name) or Model(name, [], {}, '', own)
        except Problem as e:
            sys.stderr.write(f'list_models.py: left out: {e}\n')
    return models


def choose(filename: str | None, dataset: str, names: list[str], all_found: bool = False) -> dict[str, Model]:
    """Models to work on: dict of name -> Model, teachers before students.

    `names` may be in the table `filename` or in experiments/DATASET/. If empty: all models of the table, with
    `all_found` also the others in that folder. Without a table: those in the folder or, if it is empty, models.tsv.
    """
    table = read_table(filename or TABLE, dataset)
    here = found(dataset, table)
    models = {**table, **here}
    add_seeds(models, names, dataset)
    if not names and filename:
        names = list(models if all_found else table)
    return {name: models[name] for name in in_order(models, names or list(here or table), filename or TABLE)}


def kind(model: Model) -> str:
    """'meta' for networks that use metadata alone, else 'audio' (also for those that use both)."""
    return 'audio' if model.settings.get('arch', True) else 'meta'


def train_arguments(model: Model, dataset: str) -> list[str]:
    """Arguments of train.py, run in experiments/, for a model, except the file to write."""
    arguments = ['--dataset', dataset] + TRAIN_FLAGS
    for preset in model.presets:
        arguments += ['--vars', f'vars/{preset}.vars']
    for assignment in model.own:
        arguments += ['--var', assignment]
    for setting in model.teachers:
        arguments += ['--var', f'{setting}={model.settings[setting]}']
    return arguments + (['--var', f'seed={model.seed}'] if model.seed else [])


def predict_arguments(model: Model, dataset: str, soundscapes: bool = False) -> list[str]:
    """Arguments of predict.py for a model, except files and lists."""
    arguments = ['--dataset', dataset]
    if kind(model) == 'meta':
        return arguments + ['--vars', 'vars/predict_meta.vars']
    if soundscapes:
        return arguments + ['--vars', 'vars/predict_soundscapes.vars']
    return arguments + ['--vars', 'vars/predict_audio.vars', '--split-pool']
