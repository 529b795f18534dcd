"""Unusual and faulty sources, from the source folder to the lists: each ends with a dataset, or with one line."""

import numpy as np
import pytest

from birdsong.data.dataset import Dataset
from helpers import run_program, wav_bytes

HEADER = 'primary_label,filename\n'


def prepare(source, dataset, *options):
    """Run the steps of the preparation that a dataset needs. Returns the last one, or the first that failed."""
    convert = [] if '--no-audio' in options else [('birdclef/audio/convert.py', source, '--jobs', 1)]
    steps = (
        ('collect.py', source, *options),
        ('birdclef/labels/recreate.py',),
        *convert,
        ('birdclef/filelists/split.py',),
    )
    for program, *arguments in steps:
        done = run_program(f'datasets/{program}', '--dataset', dataset, *arguments)
        if done.returncode:
            break
    return done


def write(path, content=None):
    """Write a file; by default, a short recording that differs from all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(str(path))).integers(-99, 99, 2205).astype(np.int16)
    samples[:8] = np.frombuffer(f'{path.name:>16}'[-16:].encode(), np.int16)
    path.write_bytes(wav_bytes(samples) if content is None else content)


@pytest.mark.parametrize('layout', [None, 'folders', 'kaggle', 'unlabelled'])
def test_an_empty_folder_is_one_line(layout, tmp_path):
    (tmp_path / 'source').mkdir()
    done = prepare(tmp_path / 'source', tmp_path / 'dataset', *(['--layout', layout] if layout else []))
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert str(tmp_path / 'source') in done.stderr
    assert not (tmp_path / 'dataset').exists()


def test_ten_thousand_classes(tmp_path):
    names = [f'class{number:05}' for number in range(10_000)]
    rows = (f'{name},{name}/{clip}.ogg\n' for name in names for clip in range(2))
    write(tmp_path / 'train.csv', ''.join([HEADER, *rows]).encode())
    done = prepare(tmp_path / 'train.csv', tmp_path / 'dataset', '--no-audio')
    assert done.returncode == 0, done.stderr
    dataset = Dataset(str(tmp_path / 'dataset'))
    assert dataset.labelset == names
    assert len(dataset.filelist('train')) == len(dataset.filelist('valid')) == 10_000


@pytest.mark.parametrize('layout', ['folders', 'kaggle'])
def test_one_class(layout, tmp_path):
    source = tmp_path / 'source'
    folder = source / 'train_audio' if layout == 'kaggle' else source
    for clip in range(4):
        write(folder / 'a' / f'{clip}.wav')
    if layout == 'kaggle':
        write(source / 'train.csv', (HEADER + ''.join(f'a,a/{clip}.wav\n' for clip in range(4))).encode())
    done = prepare(source, tmp_path / 'dataset', '--layout', layout)
    assert done.returncode == 0, done.stderr
    assert run_program('datasets/validate.py', tmp_path / 'dataset').returncode == 0
    assert Dataset(str(tmp_path / 'dataset')).labelset == ['a']


@pytest.mark.parametrize('layout', ['folders', 'kaggle', 'unlabelled'])
def test_a_recording_that_cannot_be_read_is_left_out_and_listed(layout, tmp_path):
    source, dataset = tmp_path / 'source', tmp_path / 'dataset'
    folder = source / 'train_audio' if layout == 'kaggle' else source
    paths = [f'{name}/{clip}.wav' for name in 'ab' for clip in range(3)]
    for path in paths:
        write(folder / path)
    write(folder / 'a' / '1.wav', b'garbage')
    if layout == 'kaggle':
        write(source / 'train.csv', (HEADER + ''.join(f'{path[0]},{path}\n' for path in paths)).encode())
    done = prepare(source, dataset, '--layout', layout)
    assert done.returncode == 0, done.stderr
    assert run_program('datasets/validate.py', dataset, '--for', 'predict').returncode == 0
    key = ('train_audio/' if layout == 'kaggle' else '') + 'a/1.wav'
    assert f'{key}\tcannot be read' in (dataset / 'audio' / 'repairs.tsv').read_text()
    lists = [path.read_text().splitlines() for path in (dataset / 'filelists').iterdir() if path.suffix != '.tsv']
    assert key not in sum(lists, []) and sum(map(len, lists)) == len(paths) - 1
