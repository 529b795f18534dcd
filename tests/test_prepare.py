"""prepare_birdclef.sh, from a source folder to a checked dataset."""

import re
import subprocess

import numpy as np
import pytest

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
