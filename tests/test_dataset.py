"""Datasets: lists, labels and classes."""

import subprocess
import sys

import pytest

from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from helpers import write_lines


def test_golden_dataset_is_read(golden_dataset):
    dataset = Dataset(golden_dataset)
    assert dataset.num_classes == 7 and dataset.labelset[6] == 'gghhii'
    assert len(dataset.filelist('train')) == 8
    assert dataset.labels()['train/LIFECLEF2017_BIRDAMAZON_XC_WAV_RN30001.wav'] == 6
    background = dataset.background()
    assert background['train/LIFECLEF2015_BIRDAMAZON_XC_WAV_RN2101.wav'] == [2, 5]
    assert background['train/LIFECLEF2014_BIRDAMAZON_XC_WAV_RN11.wav'] == []
    assert dataset.edition_classes('train/LIFECLEF2014_x_RN1.wav').tolist() == [0, 1, 3]
    assert dataset.edition_classes('train/LIFECLEF2017_x_RN1.wav').tolist() == [2, 3, 5, 6]
    assert dataset.edition_classes('test/LIFECLEF2018_x_RN1.wav') is None
    assert dataset.edition_classes('x2014.wav') is None


def test_unknown_dataset_names_the_cure(tmp_path):
    with pytest.raises(Problem, match='no dataset.*prepare_birdclef.sh'):
        Dataset(tmp_path / 'none')
    with pytest.raises(Problem, match='no dataset'):
        Dataset('no_such_name')


def test_a_recording_is_found_by_its_key_and_by_its_path(tmp_path):
    (tmp_path / 'filelists').mkdir()
    for key in ('..a/b c.wav', '-x.wav'):
        write_lines(tmp_path / 'audio' / key, [])
        dataset = Dataset(tmp_path)
        assert dataset.key(key) == dataset.key(str(tmp_path / 'audio' / key)) == key
    (tmp_path / 'outside.wav').touch()
    for name in ('../outside.wav', str(tmp_path / 'outside.wav'), 'none.wav'):
        with pytest.raises(Problem, match='no such recording in .*/audio'):
            dataset.key(name)


def test_data_and_scores_need_no_torch():
    script = (
        'import importlib, pkgutil, sys, birdsong.data, birdsong.scores, eval, blender, submit_csv\n'
        'for package in birdsong.data, birdsong.scores:\n'
        '    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):\n'
        '        importlib.import_module(module.name)\n'
        'sys.exit("torch" in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', script], cwd=config.EXPERIMENTS, check=True)


@pytest.fixture
def annotated(tmp_path):
    """Writes lines of segments.tsv. Returns the dataset, of two classes."""

    def write(*lines):
        write_lines(tmp_path / 'filelists/valid', ['a/b.wav'])
        write_lines(tmp_path / 'labels/labelset', ['amered', 'norcar'])
        write_lines(tmp_path / 'labels/segments.tsv', lines)
        return Dataset(tmp_path)

    return write


def test_segments_are_read_by_recording(annotated):
    dataset = annotated('a/b.wav\t0\t5\t', 'a/b.wav\t5\t7.25\t1', 'c.wav\t1e-05\t3\t0', 'a/b.wav\t5\t9\t0')
    assert dataset.segments() == {'a/b.wav': [(0, 5, None), (5, 7.25, 1), (5, 9, 0)], 'c.wav': [(1e-05, 3, 0)]}


@pytest.mark.parametrize(
    'line',
    ['b.wav\t0\t5', 'b.wav\t0\t5\t1\t', 'b.wav 0 5 1', '', 'b.wav\t5\t5\t0', 'b.wav\t-1\t5\t0', 'b.wav\t0\tnan\t0']
    + ['b.wav\t0\tinf\t0', 'b.wav\tx\t5\t0', 'b.wav\t0\t5\t2', 'b.wav\t0\t5\t-1', 'b.wav\t0\t5\tamered'],
)
def test_the_message_about_a_segment_that_is_not_valid_names_its_line(line, annotated):
    dataset = annotated('a/b.wav\t0\t5\t0', line)
    with pytest.raises(Problem, match='labels/segments.tsv, line 2: ') as caught:
        dataset.segments()
    assert '\n' not in str(caught.value)


def test_a_dataset_without_segments_says_so(annotated, tmp_path):
    dataset = annotated()
    (tmp_path / 'labels/segments.tsv').unlink()
    with pytest.raises(Problem, match='labels/segments.tsv: no such file; windows need labels with times'):
        dataset.segments()
