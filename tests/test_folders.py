"""The layouts of folders without tables: one folder per class, and recordings without labels."""

import pytest

import layouts
from layouts import folders, unlabelled
from shared.source import Source


@pytest.fixture
def tree(tmp_path):
    """Make a source folder from paths of empty files."""

    def make(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        return Source(str(tmp_path))

    return make


def found(source, layout=folders):
    return {row.source: (row.part, row.class_id) for row in layout.rows(source)}


def test_the_folder_of_a_recording_is_its_class(tree):
    source = tree('amered/a.wav', 'amered/2019/deep/b.mp3', 'norcar/a.ogg', 'norcar/notes.txt', 'norcar/.hidden.wav')
    assert layouts.recognise(source) == ('folders', '2 class folders (amered/, norcar/)')
    assert found(source) == {
        'amered/2019/deep/b.mp3': ('train', 'amered'),
        'amered/a.wav': ('train', 'amered'),
        'norcar/a.ogg': ('train', 'norcar'),
    }


@pytest.mark.parametrize('name', ['background', 'Noise', 'NOCALL'])
def test_folders_of_noise_are_no_classes(tree, name):
    source = tree('amered/a.wav', f'{name}/a.wav', f'{name}/far/b.wav')
    assert layouts.recognise(source)[0] == 'folders'
    assert found(source) == {
        'amered/a.wav': ('train', 'amered'),
        f'{name}/a.wav': ('noise', ''),
        f'{name}/far/b.wav': ('noise', ''),
    }


def test_recordings_beside_the_class_folders_are_unlabelled_and_reported(tree):
    source = tree('a/1.wav', 'b/1.wav', '2.wav', '3.wav')
    assert found(source)['2.wav'] == ('unlabelled', '')
    assert source.report.lines() == ['2 recordings are not in a class folder: used as part unlabelled']


def test_folders_of_parts_contain_class_folders(tree):
    source = tree('Training/a/1.wav', 'val/a/2.wav', 'test/b/deep/3.wav', 'train/noise/4.wav', 'noise/5.wav')
    assert layouts.recognise(source) == (
        'folders',
        '2 class folders in test, train, valid (a/, b/), and folders of noise',
    )
    assert found(source) == {
        'Training/a/1.wav': ('train', 'a'),
        'val/a/2.wav': ('valid', 'a'),
        'test/b/deep/3.wav': ('test', 'b'),
        'train/noise/4.wav': ('noise', ''),
        'noise/5.wav': ('noise', ''),
    }


def test_test_recordings_may_have_no_class(tree):
    assert found(tree('train/a/1.wav', 'train/b/2.wav', 'test/3.wav'))['test/3.wav'] == ('test', '')


@pytest.mark.parametrize('paths', [('test/1.wav', 'merula/1.wav'), ('train/1.wav', 'test/1.wav'), ('valid/1.wav',)])
def test_a_class_may_have_the_name_of_a_part(tree, paths):
    assert found(tree(*paths)) == {path: ('train', path.split('/')[0]) for path in paths}


def test_names_of_folders_as_in_birdnet_contain_scientific_and_common_names(tree):
    (row,) = folders.rows(tree('Turdus merula_Eurasian Blackbird/1.wav'))
    assert row.class_id == 'Turdus merula_Eurasian Blackbird'
    assert (row.scientific_name, row.common_name) == ('Turdus merula', 'Eurasian Blackbird')
    (row,) = [row for row in folders.rows(tree('dog_bark/1.wav')) if row.class_id == 'dog_bark']
    assert (row.scientific_name, row.common_name) == ('', '')


@pytest.mark.parametrize('layout', [folders, unlabelled])
def test_site_date_and_time_come_from_the_names_of_recorders(tree, layout):
    one, other = layout.rows(tree('a/S01_20240501_060000.wav', 'b/1.wav'))
    assert (one.site, one.date, one.time) == ('S01', '2024-05-01', '06:00:00')
    assert (other.site, other.date, other.time) == ('', '', '')


def test_recordings_without_class_folders_are_unlabelled(tree):
    source = tree('1.wav', 'recorder/1.wav')
    assert folders.recognise(source) == ''
    assert layouts.recognise(source)[0] == 'unlabelled'
    assert found(source, unlabelled) == {'1.wav': ('unlabelled', ''), 'recorder/1.wav': ('unlabelled', '')}


def test_a_single_folder_is_a_class_only_on_demand(tree):
    source = tree('audio/a/1.wav', 'audio/b/1.wav')
    name, why = layouts.recognise(source)
    assert name == 'unlabelled' and 'give audio/ as SOURCE, or --layout folders' in why
    assert set(found(source).values()) == {('train', 'audio')}


def test_ten_thousand_classes_are_found(tree, monkeypatch):
    source = tree('a/1.wav')
    monkeypatch.setattr(Source, 'files', [f'class{n:04}/1.wav' for n in range(10_000)])
    assert layouts.recognise(source)[1].startswith('10000 class folders (class0000/, class0001/, class0002/, ...)')
    assert len(found(source)) == 10_000
