"""prepare_birdclef.sh, from a source folder to a checked dataset."""

import json
import re
import subprocess

import numpy as np
import pytest
import soundfile

from birdsong.data import audio
from helpers import ROOT


def snapshot(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}


def prepare(checkout, *arguments, status=0):
    result = checkout.run('prepare_birdclef.sh', *arguments)
    assert result.returncode == status, result.output
    return result


def test_a_source_becomes_a_checked_dataset_and_a_second_run_changes_nothing(checkout, tiny_source, tmp_path):
    valid_list = tiny_source / 'valid_list'
    result = prepare(checkout, tiny_source, '--dataset', 'tiny', '--jobs', 2, '--valid-list', valid_list)
    made = checkout.path / 'datasets' / 'tiny'
    assert re.search(r'tiny: 28 recordings, .* 4 classes', result.stdout)
    lists = {path.name: path.read_text().splitlines() for path in (made / 'filelists').iterdir()}
    assert set(lists) == {'groups.tsv', 'train', 'valid', 'valid.given', 'test', 'soundscapes_val', 'soundscapes_test'}
    # one training recording is empty, one has no XML
    assert len(lists['train']) + len(lists['valid']) == 22 and len(lists['test']) == 4
    assert sum(line.endswith('left out') for line in (made / 'audio/repairs.tsv').read_text().splitlines()) == 1
    for keys in map(lists.get, ('train', 'valid', 'test', 'soundscapes_val', 'soundscapes_test')):
        for key in keys:
            assert audio.WavFile(str(made / 'audio' / key), sample_rate=22050).length
    assert (made / 'filelists/valid').read_text() == valid_list.read_text()
    # a broken recording of the test set keeps its row
    repairs = (made / 'audio/repairs.tsv').read_text().splitlines()
    silent = [line.split('\t')[0] for line in repairs if line.endswith('silence')]
    assert silent and set(silent) <= set(lists['test'])
    assert np.array_equal(audio.WavFile(str(made / 'audio' / silent[0])).samples, np.zeros(2205))
    truth = {
        row[0]: row[1]
        for row in (line.split('\t') for line in (tiny_source / 'truth.tsv').read_text().splitlines())
        if row[-1] in ('train', 'valid')
    }
    labelset = (made / 'labels/labelset').read_text().split()
    labels = dict(line.split('\t') for line in (made / 'labels/fg.tsv').read_text().splitlines())
    assert all(labelset[int(labels[key])] == truth[key.split('_RN')[1][:-4]] for key in lists['train'] + lists['valid'])
    before = snapshot(made)
    # the validation list need not be given again
    result = prepare(checkout, tiny_source, '--dataset=tiny')
    after = snapshot(made)
    after.pop('audio/.convert.lock'), before.pop('audio/.convert.lock')
    assert after == before
    assert '0 recordings converted' in result.stdout and result.stdout.count('nothing new') == 3


def test_each_program_can_be_started_separately_from_any_folder(checkout, tiny_source, tmp_path):
    python = [f'{checkout.env["VIRTUAL_ENV"]}/bin/python']
    for script, arguments in (
        ('collect.py', [tiny_source]),
        ('birdclef/labels/recreate.py', []),
        ('birdclef/audio/convert.py', [tiny_source]),
        ('birdclef/filelists/split.py', []),
        ('validate.py', None),
    ):
        given = ['birdclef'] if arguments is None else list(map(str, arguments))
        subprocess.run(
            python + [str(checkout.path / 'datasets' / script)] + given,
            cwd=tmp_path,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    assert len((checkout.path / 'datasets/birdclef/filelists/train').read_text().split()) > 15


# Instead of a step: prints its name and arguments.
ECHO = """import sys
sys.stdout.write(' '.join([sys.argv[0].rpartition('/datasets/')[2], *sys.argv[1:]]) + chr(10))
"""


@pytest.fixture
def steps(checkout):
    """Runs prepare_birdclef.sh, with the steps replaced -> what each was given."""
    names = 'collect.py', *(f'birdclef/{name}.py' for name in ('labels/recreate', 'audio/convert', 'filelists/split'))
    for name in (*names, 'validate.py'):
        (checkout.path / 'datasets' / name).write_text(ECHO)

    def run(*arguments):
        return prepare(checkout, *arguments).stdout.splitlines()

    return run


def test_each_step_gets_its_options(steps, tmp_path):
    (tmp_path / 'list').write_text('x')
    given = steps(
        *(
            '--layout=table',
            '--min-quality',
            'B',
            '--min-recordings=3',
            '--max-recordings=9',
            '--exclude-licence',
            'nd',
        ),
        *(tmp_path, '--drop-duplicates', '--dataset', 'x', '--sample-rate', 32000, '--jobs=3', '--valid=0.1'),
        *('--valid-list', tmp_path / 'list', '--test', '0.2', '--folds', 4, '--group', 'site'),
    )
    assert given == [
        f'collect.py {tmp_path} --dataset x --layout table --min-quality B --min-recordings 3 --max-recordings 9 '
        '--exclude-licence nd --drop-duplicates',
        'birdclef/labels/recreate.py --dataset x --sample-rate 32000',
        f'birdclef/audio/convert.py {tmp_path} --dataset x --jobs 3',
        f'birdclef/filelists/split.py --dataset x --valid 0.1 --valid-list {tmp_path / "list"} --test 0.2 '
        '--folds 4 --group site',
        given[4],
    ]
    assert given[4].startswith('validate.py x')


def test_check_runs_the_first_step_only(steps, tmp_path):
    assert steps(tmp_path, '--check', '--dataset=x') == [f'collect.py {tmp_path} --dataset x --check']


def write_recordings(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng([number, len(names)]).normal(0, 0.1, 8000 + number)
        soundfile.write(folder / name, noise, 32000)


def test_folders_of_recordings_become_a_dataset_and_new_ones_are_added(checkout, tmp_path):
    source, made = tmp_path / 'source', checkout.path / 'datasets/own'
    write_recordings(
        source, *(f'{name}/{i}.{suffix}' for name in ('test', 'bee') for i, suffix in enumerate(['wav'] * 4))
    )
    write_recordings(source, 'noise/rain.flac', 'bee/1.flac')
    prepare(checkout, source, '--dataset', 'own')
    assert (made / 'labels/labelset').read_text() == 'bee\ntest\n'
    lists = {name: (made / 'filelists' / name).read_text().split() for name in ('train', 'valid', 'noise')}
    assert lists['noise'] == ['noise/rain.wav'] and len(lists['train']) + len(lists['valid']) == 9
    assert {'bee/1.wav.wav', 'bee/1.flac.wav', 'test/1.wav'} <= {*lists['train'], *lists['valid']}
    assert soundfile.info(made / 'audio/bee/1.flac.wav').samplerate == 22050
    write_recordings(source, 'ant/1.wav', 'ant/2.wav')
    result = prepare(checkout, source, '--dataset', 'own')
    assert '12 recordings (2 new)' in result.stdout and '2 recordings converted' in result.stdout
    assert (made / 'labels/labelset').read_text() == 'bee\ntest\nant\n'


def test_recordings_without_labels_become_a_dataset_for_prediction(checkout, tmp_path):
    write_recordings(tmp_path / 'source', 'recorder/a.wav', 'recorder/2 b.flac')
    prepare(checkout, tmp_path / 'source', '--dataset', 'new')
    lists = checkout.path / 'datasets/new/filelists'
    assert (lists / 'unlabelled').read_text().splitlines() == ['recorder/2 b.wav', 'recorder/a.wav']
    # the recordings turn out to be of one class
    prepare(checkout, tmp_path / 'source', '--dataset', 'new', '--layout', 'folders')
    assert not (lists / 'unlabelled').exists() and (lists / 'valid').read_text()


def test_a_dataset_of_metadata_only_needs_no_recordings_and_stays_one(checkout, tmp_path):
    rows = [f'{name}/{i}.wav,{name},{i}.5,{10 + i},2020-05-{i + 1:02}' for name in ('ant', 'bee') for i in range(9)]
    (tmp_path / 'my table.csv').write_text('\n'.join(['file,label,latitude,longitude,date', *rows]) + '\n')
    prepare(checkout, tmp_path / 'my table.csv', '--dataset', 'meta', '--no-audio')
    made = checkout.path / 'datasets/meta'
    assert not (made / 'audio').exists()
    assert sum(len((made / 'filelists' / name).read_text().split()) for name in ('train', 'valid')) == 18
    assert json.loads((made / 'preparation.json').read_text())['collect'] == {'no_audio': True}
    assert 'no conversion' in prepare(checkout, tmp_path / 'my table.csv', '--dataset', 'meta').stderr


def test_usage_is_shown_without_arguments(checkout):
    result = prepare(checkout, status=2)
    for part in 'Usage', 'GiB', 'ln -s', '--valid-list', 'Example':
        assert part in result.stderr
    assert prepare(checkout, '--help').stdout == result.stderr


@pytest.mark.parametrize(
    'arguments, status, problem',
    [
        (['/nowhere'], 1, 'no such folder'),
        (['/tmp', '--valid-list', '/nowhere'], 1, 'cannot be read'),
        (['/tmp', '--jobs', '0'], 2, '--jobs'),
        (['/tmp', '--valid-list'], 2, 'needs a value'),
        (['/tmp', '--nonsense'], 2, 'unknown option'),
        (['/tmp', '/usr'], 2, 'one SOURCE'),
        (['--jobs', '2'], 2, 'no SOURCE'),
        ([ROOT / 'experiments' / 'vars'], 1, 'TrainingSet'),
        (['/tmp', '--dataset', 'a b'], 2, 'expected a name'),
    ],
)
def test_bad_arguments(checkout, arguments, status, problem):
    result = prepare(checkout, *arguments, status=status)
    assert problem in result.stderr and 'Traceback' not in result.output


def test_a_failing_step_ends_the_preparation(checkout, tiny_source):
    (checkout.path / 'datasets/tiny').mkdir()
    (checkout.path / 'datasets/tiny/audio').write_text('not a folder')
    result = prepare(checkout, tiny_source, '--dataset', 'tiny', status=1)
    assert 'conversion' in result.stderr and 'file lists' not in result.stderr and 'Traceback' not in result.output
