"""The table of published models resolves to the published settings; model_table.py prints what drivers run."""

import itertools
import subprocess
import sys

import pytest

from birdsong import config, files, model_table
from helpers import ROOT

GOLDEN = ('experiments',)


def published(golden):
    return {e['model'].split('/')[1][: -len('.npz')]: e for e in golden('experiments')[0]}


def test_table_has_the_published_models_in_their_order(golden):
    assert list(model_table.read_table()) == list(published(golden))


def test_each_line_resolves_to_the_published_settings(golden):
    table = model_table.read_table()
    defaults = config.load()
    for name, experiment in published(golden).items():
        settings = experiment['settings']
        assert dict(defaults, **table[name].settings) == dict(defaults, **settings), name
        arguments = model_table.train_arguments(table[name], 'birdclef')
        assert sorted(a for a in arguments if a in experiment['flags']) == sorted(experiment['flags'])
        loaded = config.load(*values(arguments))
        assert loaded == dict(defaults, **settings), name
        assert {k: type(v) for k, v in loaded.items()} == {k: type(v) for k, v in dict(defaults, **settings).items()}


def values(arguments):
    """Files of --vars and assignments of --var among arguments."""
    pairs = list(itertools.pairwise(arguments))
    return [b for a, b in pairs if a == '--vars'], [b for a, b in pairs if a == '--var']


def test_predictions_are_made_as_published(golden):
    table = model_table.read_table()
    for name, experiment in published(golden).items():
        theirs = config.parse_assignments(values(experiment['predict'])[1])
        arguments = model_table.predict_arguments(table[name], 'birdclef')
        ours = {}
        for filename in values(arguments)[0]:
            ours.update(config.read_vars(config.find(filename)))
        assert ours == theirs, name
        assert ('--split-pool' in arguments) == ('--split-pool' in experiment['predict'])


def test_soundscapes_get_one_row_per_5_seconds():
    table = model_table.read_table()
    audio, meta = [next(m for m in table.values() if model_table.kind(m) == kind) for kind in ('audio', 'meta')]
    arguments = model_table.predict_arguments(audio, 'birdclef', soundscapes=True)
    cfg = config.load(*values(arguments))
    assert (cfg['len_min'], cfg['len_max'], cfg['arch.output']) == (0, 5, 'linear')
    assert '--split-pool' not in arguments
    assert model_table.predict_arguments(meta, 'birdclef', soundscapes=True) == model_table.predict_arguments(
        meta, 'birdclef'
    )


def test_remarks_mention_faults_of_the_published_models_that_were_kept():
    for name, model in model_table.read_table().items():
        faulty = 'noblur_dtenc3' in name
        assert faulty == bool(model.remark), name
        if faulty:
            assert 'input_meta.date_encoding.size' not in model.settings


def test_teachers_come_first_and_their_paths_contain_the_dataset():
    table = model_table.read_table(dataset='frogs')
    for names in ([], list(reversed(list(table)))):
        order = model_table.in_order(table, names)
        assert sorted(order) == sorted(table)
        for name in order:
            for teacher in model_table.teachers_of(table[name]):
                assert order.index(teacher) < order.index(name)
    students = [m for m in table.values() if m.teachers]
    assert len(students) == 10
    for model in students:
        for setting, names in model.teachers.items():
            assert model.settings[setting] == ':'.join(f'frogs/{n}.npz' for n in names)


def test_every_preset_contains_only_known_settings_and_is_used():
    tables = (ROOT / 'experiments').glob('*.tsv')
    used = {p for table in tables for m in model_table.read_table(str(table)).values() for p in m.presets}
    folder = model_table.config.EXPERIMENTS + '/vars'
    for filename in sorted(model_table.os.listdir(folder)):
        settings = config.read_vars(folder + '/' + filename)
        config.check(settings, filename)
        assert settings, filename
        # those for 32 kHz are given to the drivers with --vars
        if not filename.startswith('predict_') and not filename.endswith('32khz.vars'):
            assert filename[: -len('.vars')] in used, filename


def write(folder, *lines):
    path = folder / 'table.tsv'
    path.write_text(''.join('\t'.join(line) + '\n' for line in lines))
    return path


@pytest.mark.parametrize(
    'lines, word',
    [
        ([('a', 'nosuchpreset')], 'no preset nosuchpreset'),
        ([('a', 'dumy')], 'did you mean dummy'),
        ([('a',)], 'line 1'),
        ([('a', 'dummy'), ('a', 'dummy')], 'a second model'),
        ([('a/b', 'dummy')], 'not a valid name'),
        ([('a', 'dummy', 'ban=b')], 'needs b'),
        ([('a', 'dummy', 'teacher=a')], 'teachers are'),
        (
            [('a', 'dummy', 'ban=b'), ('b', 'dummy', 'init_from=c'), ('c', 'dummy', 'ban=a')],
            'a needs b needs c needs a',
        ),
        ([('a', 'dummy nosuch=1')], 'line 1: unknown setting nosuch'),
        ([('a', 'dummy epochs=many')], 'line 1: epochs=many: expected int'),
        ([('a', 'epochs=3 dummy')], 'write settings .KEY=VALUE. after all presets'),
        ([('a', 'dummy arch=conv:$(id)')], 'only letters, digits and'),
        ([('a', 'dummy arch=conv:*')], 'only letters, digits and'),
        ([], 'no models'),
    ],
)
def test_invalid_tables_are_refused_with_a_reason(tmp_path, lines, word):
    with pytest.raises(files.Problem, match=word):
        model_table.read_table(str(write(tmp_path, *lines)))


def test_settings_in_a_table_override_presets(tmp_path):
    table = write(tmp_path, ('a', 'dummy lme1 epochs=3 arch.pool=mean', 'init_from=b'), ('b', 'epochs=2'))
    models = model_table.read_table(str(table), 'demo')
    assert models['a'].settings['epochs'] == 3 and models['a'].settings['arch.pool'] == 'mean'
    arguments = model_table.train_arguments(models['a'], 'demo')
    assert arguments[-6:] == ['--var', 'epochs=3', '--var', 'arch.pool=mean', '--var', 'init_from=demo/b.npz']
    assert model_table.train_arguments(models['b'], 'demo')[-2:] == ['--var', 'epochs=2']
    model_table.add_seeds(models, ['a.seed2'], 'demo')
    assert '--var epochs=3' in ' '.join(model_table.train_arguments(models['a.seed2'], 'demo'))


def run(*arguments):
    return subprocess.run(
        [sys.executable, config.EXPERIMENTS + '/list_models.py', *map(str, arguments)], capture_output=True, text=True
    )


def test_program_prints_what_drivers_read(tmp_path):
    table = write(
        tmp_path, ('student', 'dummy lme1', 'ban=teacher', 'hm'), ('teacher', 'dummy lme1'), ('m', 'metaonly', '-')
    )
    lines = [line.split('\t') for line in run('--models', table, '--dataset', 'demo').stdout.splitlines()]
    assert [line[:3] for line in lines] == [
        ['teacher', 'audio', '-'],
        ['student', 'audio', 'teacher'],
        ['m', 'meta', '-'],
    ]
    assert lines[1][3] == (
        '--dataset demo --validate --save-errors --keep-state --vars vars/dummy.vars --vars vars/lme1.vars '
        '--var ban=demo/teacher.npz'
    )
    assert lines[1][4:] == [
        '--dataset demo --vars vars/predict_audio.vars --split-pool',
        '--dataset demo --vars vars/predict_soundscapes.vars',
        '-',
    ]
    assert lines[2][4:] == ['--dataset demo --vars vars/predict_meta.vars'] * 2 + ['-']
    lines = run('--models', table, 'm', 'student').stdout.splitlines()
    assert [line.split('\t')[0] for line in lines] == ['student', 'm']


def test_a_model_with_a_seed_in_its_name_is_that_of_the_table_with_another_seed_and_teachers_of_that_seed(tmp_path):
    table = write(tmp_path, ('student', 'dummy lme1', 'ban=teacher'), ('teacher', 'dummy lme1'))
    result = run('--models', table, '--dataset', 'demo', 'student.seed2', 'teacher', 'teacher.seed2')
    lines = [line.split('\t') for line in result.stdout.splitlines()]
    assert sorted(line[0] for line in lines) == ['student.seed2', 'teacher', 'teacher.seed2']
    assert lines[-1][:3] == ['student.seed2', 'audio', 'teacher.seed2']
    assert lines[-1][3].endswith('--vars vars/lme1.vars --var ban=demo/teacher.seed2.npz --var seed=2')
    for name in ('student.seed', 'student.seed01', 'student.seed-1', 'other.seed1', 'student.seed1.seed2'):
        result = run('--models', table, name)
        assert result.returncode == 1 and f'no model {name}' in result.stderr


@pytest.mark.parametrize(
    'arguments, word',
    [
        (('studnet',), 'did you mean student'),
        (('--dataset', '../x'), 'not a valid name'),
        (('--models', 'nowhere.tsv'), 'no such file'),
    ],
)
def test_program_refuses_in_one_line(tmp_path, arguments, word):
    table = write(tmp_path, ('student', 'dummy'))
    result = run('--models', table, *arguments)
    assert result.returncode == 1 and word in result.stderr and not result.stdout
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('name', ['birdsong', 'vars', 'ensembles'])
def test_datasets_cannot_be_named_like_folders_of_the_program(name):
    result = run('--dataset', name)
    assert result.returncode == 1 and f'experiments/{name} belongs to the program' in result.stderr
