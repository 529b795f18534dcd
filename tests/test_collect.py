"""datasets/collect.py: any source folder becomes recordings.tsv; keys, earlier runs, checks that all layouts share."""

import json
import os
import runpy
import shutil
import sys

import pytest

from birdsong.files import Problem
from helpers import ROOT
from shared import keys
from shared.duplicates import duplicate_files
from shared.options import remembered, stored
from shared.recordings import Recording, read_recordings

COLLECT = str(ROOT / 'datasets/collect.py')


def put(folder, *names, content=None):
    """Write files with different contents, or with the given one."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() if content is None else content)


@pytest.fixture
def source(tmp_path):
    """Three recordings of two classes, in the layout folders."""
    put(tmp_path / 'source', 'ant/1.wav', 'ant/2.mp3', 'bee/1.ogg')
    return tmp_path / 'source'


@pytest.fixture
def collect(tmp_path, monkeypatch, capsys):
    """Runs collect.py in this process -> what it printed."""

    def run(*arguments):
        words = [COLLECT, *map(str, arguments), '--dataset', str(tmp_path / 'made')]
        monkeypatch.setattr(sys, 'argv', words)
        runpy.run_path(COLLECT)['main']()
        return capsys.readouterr().out

    return run


def rows(tmp_path):
    return {recording.source: recording for recording in read_recordings(str(tmp_path / 'made'))}


def keys_of(tmp_path):
    return {source: recording.key for source, recording in rows(tmp_path).items()}


def repairs(tmp_path):
    table = (tmp_path / 'made/repairs.tsv').read_text().splitlines()
    return {path: (problem, done) for path, problem, done in (line.split('\t') for line in table)}


def write_table(source, *lines):
    (source / 'table.csv').write_text('\n'.join(lines) + '\n')


def test_the_layout_and_the_reason_are_printed_and_all_recordings_are_in_the_table(source, tmp_path, collect):
    output = collect(source)
    assert 'layout folders (2 class folders' in output and '3 recordings (3 new)' in output
    assert keys_of(tmp_path) == {'ant/1.wav': 'ant/1.wav', 'ant/2.mp3': 'ant/2.wav', 'bee/1.ogg': 'bee/1.wav'}
    assert rows(tmp_path)['bee/1.ogg'].class_id == 'bee'


def test_recordings_that_would_get_the_same_key_get_their_full_names(source, tmp_path, collect):
    put(source, 'ant/1.mp3', 'ant/1.flac', 'ant/1.mp3.wav', 'bee/1.ogg.flac', 'bee/x.wav/y.wav', 'bee/x.mp3')
    collect(source)
    found = keys_of(tmp_path)
    assert found['ant/1.wav'] == 'ant/1.wav.wav' and found['ant/1.flac'] == 'ant/1.flac.wav'
    assert found['ant/1.mp3.wav'] == 'ant/1.mp3.wav' and found['ant/1.mp3'] == 'ant/1.mp3.wav.wav'
    # a folder has the name of a key
    assert found['bee/x.mp3'] == 'bee/x.mp3.wav' and found['bee/x.wav/y.wav'] == 'bee/x.wav/y.wav'
    assert len(set(found.values())) == len(found) == 9


def test_a_second_run_adds_new_recordings_and_changes_no_key(source, tmp_path, collect):
    collect(source)
    before = keys_of(tmp_path)
    put(source, 'ant/1.mp3', 'cat/1.wav')
    assert '5 recordings (2 new)' in collect(source)
    after = keys_of(tmp_path)
    assert before.items() <= after.items()
    assert after['ant/1.mp3'] == 'ant/1.mp3.wav' and after['cat/1.wav'] == 'cat/1.wav'
    table = (tmp_path / 'made/recordings.tsv').read_bytes()
    assert 'nothing new' in collect(source) and (tmp_path / 'made/recordings.tsv').read_bytes() == table


def test_recordings_that_are_not_in_the_source_any_more_are_kept_and_counted(source, tmp_path, collect):
    put(source, 'cat/1.wav', 'cat/2.wav')
    collect(source)
    shutil.rmtree(source / 'cat')
    output = collect(source)
    assert 'recordings of earlier runs that are not in the source any more: 2, ' in output
    assert '5 recordings (nothing new)' in output and len(rows(tmp_path)) == 5


def test_the_key_of_a_recording_that_is_gone_is_not_given_to_another(source, tmp_path, collect):
    collect(source)
    (source / 'ant/2.mp3').unlink()
    put(source, 'ant/2.ogg')
    collect(source)
    assert keys_of(tmp_path)['ant/2.mp3'] == 'ant/2.wav' and keys_of(tmp_path)['ant/2.ogg'] == 'ant/2.ogg.wav'


def test_a_changed_table_changes_the_rows_but_not_the_keys(source, tmp_path, collect):
    write_table(source, 'file,label', 'ant/1.wav,ant', 'ant/2.mp3,ant', 'bee/1.ogg,bee')
    collect(source)
    before = keys_of(tmp_path)
    write_table(source, 'file,label', 'ant/1.wav,ant', 'ant/2.mp3,bee', 'bee/1.ogg,bee')
    assert '3 recordings (updated)' in collect(source)
    assert keys_of(tmp_path) == before and rows(tmp_path)['ant/2.mp3'].class_id == 'bee'


def test_names_that_cannot_be_in_lists_are_skipped_and_listed(source, tmp_path, collect):
    put(source, 'ant/line\nbreak.wav', f'ant/{"x" * 245}.wav', f'ant/{"é" * 110}.wav')
    put(source, os.fsdecode(b'ant/\xff.wav'), content=b'latin')
    output = collect(source)
    assert 'recordings with names that cannot be used: 3, ' in output
    assert len(rows(tmp_path)) == 4
    problems = repairs(tmp_path)
    assert 'character' in problems['ant/line\\nbreak.wav'][0] and 'character' in problems['ant/\\udcff.wav'][0]
    assert 'longer than 240 bytes' in problems[f'ant/{"x" * 245}.wav'][0]


def test_missing_and_unlisted_files_are_counted_and_listed(source, tmp_path, collect):
    write_table(source, 'file,label', 'ant/1.wav,ant', 'bee/1.ogg,bee', 'bee/lost.ogg,bee')
    output = collect(source)
    assert 'files that a table names, but that are missing: 1, such as bee/lost.ogg; left out' in output
    assert 'sound files that no row names: 1, such as ant/2.mp3; left out' in output
    assert set(rows(tmp_path)) == {'ant/1.wav', 'bee/1.ogg'}
    assert set(repairs(tmp_path)) >= {'bee/lost.ogg', 'ant/2.mp3'}
    # a recording of an earlier run may be converted already
    (tmp_path / 'made/audio').mkdir()
    (source / 'bee/1.ogg').unlink()
    collect(source)
    assert set(rows(tmp_path)) == {'ant/1.wav', 'bee/1.ogg'}


def test_a_table_without_any_of_its_files_needs_no_audio(tmp_path, collect):
    source = tmp_path / 'source'
    source.mkdir()
    write_table(source, 'file,label', 'ant/1.wav,ant', 'bee/1.ogg,bee')
    with pytest.raises(Problem, match='none of its 2 recordings exists, such as ant/1.wav.*--no-audio'):
        collect(source)
    assert not (tmp_path / 'made').exists()
    collect(source, '--no-audio')
    assert set(keys_of(tmp_path).values()) == {'ant/1.wav', 'bee/1.wav'}
    # the option is remembered
    assert '2 recordings (nothing new)' in collect(source)
    with pytest.raises(Problem, match='--no-audio'):
        collect(source, '--audio')


def test_the_source_may_be_a_table_beside_other_files(source, tmp_path, collect):
    write_table(source, 'file,label', 'ant/1.wav,ant', 'bee/1.ogg,bee', 'bee/lost.ogg,bee')
    output = collect(source / 'table.csv')
    assert 'layout table' in output and 'missing: 1, such as bee/lost.ogg' in output
    assert set(rows(tmp_path)) == {'ant/1.wav', 'bee/1.ogg'}


def test_equal_files_are_reported_and_dropped_only_on_demand(source, tmp_path, collect):
    for name in 'ant/copy.wav', 'bee/copy.wav':
        put(source, name, content=b'ant/1.wav')
    put(source, 'ant/same size.wav', content=b'ant/1.wa_')
    put(source, 'ant/empty1.wav', 'ant/empty2.wav', content=b'')
    output = collect(source)
    assert 'copies of other recordings (1 of them with another class): 2, ' in output
    assert len(rows(tmp_path)) == 8
    assert rows(tmp_path)['ant/copy.wav'].copy_of == 'ant/1.wav'
    assert repairs(tmp_path)['bee/copy.wav'][0] == 'the same content as ant/1.wav, but another class (bee, not ant)'
    collect(source, '--drop-duplicates')
    assert set(rows(tmp_path)) & {'ant/1.wav', 'ant/copy.wav', 'bee/copy.wav'} == {'ant/1.wav'}
    assert repairs(tmp_path)['ant/copy.wav'][1].startswith('left out')
    collect(source, '--no-drop-duplicates')
    assert len(rows(tmp_path)) == 8


def test_a_validation_recording_remains_where_a_copy_is_in_the_training_data(tmp_path, collect):
    put(tmp_path / 'source', 'train/ant/1.wav', 'valid/bee/2.wav', 'train/bee/3.wav')
    put(tmp_path / 'source', 'train/ant/copy.wav', 'valid/ant/other.wav', content=b'the same')
    collect(tmp_path / 'source', '--drop-duplicates')
    assert 'valid/ant/other.wav' in rows(tmp_path) and 'train/ant/copy.wav' not in rows(tmp_path)


def test_large_files_are_compared_to_their_ends(tmp_path):
    start = bytes(range(256)) * 8192
    for name, end in ('a', b'1'), ('b', b'2'), ('c', b'1'), ('d', b'12'):
        put(tmp_path, name, content=start + end)
    put(tmp_path, 'e', content=b'x' + start)
    assert duplicate_files(str(tmp_path), ['a', 'b', 'c', 'd', 'e', 'missing']) == [['a', 'c']]


def test_similar_classes_and_classes_with_one_recording_are_reported(source, tmp_path, collect):
    put(source, 'Ant/9.wav', '1/1.wav', '01/1.wav')
    output = collect(source)
    assert 'classes that differ from others only in case or spaces: 1, such as ant; kept' in output
    assert 'classes with only one recording: 4, ' in output
    assert {'1', '01'} <= {recording.class_id for recording in rows(tmp_path).values()}
    assert repairs(tmp_path)['ant'][0] == 'a class that differs from Ant only in case'


@pytest.mark.parametrize('name', ['Owl, Barn', 'a;b'])
def test_class_ids_that_cannot_be_in_lists_are_refused_before_anything_is_written(source, tmp_path, collect, name):
    put(source, f'{name}/1.wav', 'c,d/1.wav')
    with pytest.raises(Problem, match='and 1 others: class ids must not contain'):
        collect(source)
    assert not (tmp_path / 'made').exists()


def test_a_dataset_in_its_own_source_is_refused(source, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [COLLECT, str(source), '--dataset', str(source / 'ant' / 'made')])
    with pytest.raises(Problem, match='choose another folder'):
        runpy.run_path(COLLECT)['main']()


def test_check_prints_rows_and_counts_and_writes_nothing(source, tmp_path, collect):
    output = collect(source, '--check')
    assert 'ant/2.mp3' in output and '3 train; 2 classes' in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['source']


def test_check_of_the_archives_of_2018_writes_nothing(tiny_source, tmp_path, collect):
    output = collect(tiny_source, '--check')
    assert 'layout birdclef2018' in output and '4 classes' in output
    assert not list(tmp_path.iterdir())


def test_check_shows_the_effect_of_options_without_storing_them(source, tmp_path, collect):
    collect(source)
    assert '1 of 3 recordings removed' in collect(source, '--check', '--max-recordings', 1)
    assert len(rows(tmp_path)) == 3 and not stored(str(tmp_path / 'made'), 'collect')


def test_check_of_a_new_folder_ignores_the_dataset_of_2018(source, monkeypatch, capsys):
    def earlier(dataset):
        raise AssertionError('not read')

    monkeypatch.setattr(sys, 'argv', [COLLECT, str(source), '--check'])
    program = runpy.run_path(COLLECT)
    monkeypatch.setitem(program['main'].__globals__, 'read_recordings', earlier)
    monkeypatch.setitem(program['main'].__globals__, 'remembered', earlier)
    program['main']()
    assert '3 recordings, 3 of them new; nothing was written' in capsys.readouterr().out


def test_tables_of_other_versions_can_be_read(source, tmp_path, collect):
    collect(source)
    table = tmp_path / 'made/recordings.tsv'
    rows_before = rows(tmp_path)
    lines = [line.split('\t') for line in table.read_text().splitlines()]
    place = lines[0].index('licence')
    table.write_text(''.join('\t'.join(['new', *line[:place], *line[place + 1 :]]) + '\n' for line in lines))
    assert rows(tmp_path) == rows_before
    assert '(updated)' in collect(source) and '(nothing new)' in collect(source)


def test_a_selection_that_leaves_nothing_is_refused(source, collect):
    with pytest.raises(Problem, match='no recordings are left: .*--min-recordings 5: 3 of 3 recordings removed'):
        collect(source, '--min-recordings', 5)


def test_an_unknown_folder_lists_what_was_looked_for(tmp_path, collect):
    (tmp_path / 'source').mkdir()
    (tmp_path / 'source/notes.txt').write_text('nothing')
    with pytest.raises(Problem, match=r'no recordings found; looked for .*birdclef2018 \(.*folders \(.*unlabelled \('):
        collect(tmp_path / 'source')
    put(tmp_path / 'source', 'a.csv', content=b'a,b')
    with pytest.raises(Problem, match=r'no known layout \(a.csv has the columns a, b\); looked for'):
        collect(tmp_path / 'source')


def test_several_layouts_in_one_folder_ask_for_a_choice(source, tmp_path, collect):
    put(source, 'TrainingSet/x.wav', 'TrainingSet/x.xml')
    write_table(source, 'file,label', 'ant/1.wav,ant')
    with pytest.raises(Problem, match='choose one of --layout birdclef2018 .*--layout table'):
        collect(source)
    assert 'layout table (as given by --layout)' in collect(source, '--layout', 'table')
    with pytest.raises(Problem, match='no such layout; expected one of .*birdclef2018, '):
        collect(source, '--layout', 'tabel')


def test_a_folder_data_is_only_taken_for_the_archives_of_2018_if_it_contains_xml(source, collect):
    (source / 'ant').rename(source / 'data')
    write_table(source, 'file,label', 'data/1.wav,ant', 'bee/1.ogg,bee')
    assert 'layout table' in collect(source, '--check')
    put(source, 'data/1.xml')
    with pytest.raises(Problem, match='choose one of --layout birdclef2018'):
        collect(source, '--check')
    # a table is unambiguous
    assert 'layout table' in collect(source / 'table.csv', '--check')


def test_a_layout_without_recordings_is_refused(source, collect):
    with pytest.raises(Problem, match='TrainingSet'):
        collect(source, '--layout', 'birdclef2018')


def test_the_dataset_birdclef_is_for_the_archives_of_2018(source, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [COLLECT, str(source)])
    with pytest.raises(Problem, match='choose another name with --dataset'):
        runpy.run_path(COLLECT)['main']()
    assert not (ROOT / 'datasets/birdclef/recordings.tsv').exists()


def test_a_source_that_does_not_exist_is_refused(tmp_path, collect):
    with pytest.raises(Problem, match='no such folder'):
        collect(tmp_path / 'nowhere')


def test_the_archives_of_2018_keep_their_keys_parts_and_names(tiny_source, tmp_path, collect):
    collect(tiny_source)
    recordings = read_recordings(str(tmp_path / 'made'))
    assert {recording.part for recording in recordings} == {'train', 'test', 'soundscapes_val', 'soundscapes_test'}
    for recording in recordings:
        folder = {'soundscapes_val': 'soundscapes/val', 'soundscapes_test': 'soundscapes/test'}
        assert recording.key.startswith(folder.get(recording.part, recording.part) + '/')
        assert recording.part == 'train' or not recording.class_id and not recording.background
        assert (tiny_source / recording.source).is_file()
    assert all(len(name.split()) == 2 for recording in recordings for name in recording.background)


def test_the_recording_that_came_first_keeps_its_key_in_the_archives_of_2018(tmp_path, collect):
    source = tmp_path / 'source'
    put(source, 'data/b/1.wav', 'data/b/1.xml')
    put(source, 'data/b/1.xml', content=b'<Audio><ClassId>ant</ClassId></Audio>')
    collect(source)
    put(source, 'data/a/1.wav')
    put(source, 'data/a/1.xml', content=b'<Audio><ClassId>bee</ClassId></Audio>')
    collect(source)
    found = {path: (recording.key, recording.class_id) for path, recording in rows(tmp_path).items()}
    assert found == {'data/b/1.wav': ('train/1.wav', 'ant'), 'data/a/1.wav': ('train/a/1.wav', 'bee')}


def test_values_that_are_not_given_are_those_of_the_last_time(tmp_path):
    assert remembered(str(tmp_path), 'split', {'folds': 4, 'group': None}) == {'folds': 4, 'group': None}
    assert remembered(str(tmp_path), 'split', {'folds': None, 'group': 'site'}) == {'folds': 4, 'group': 'site'}
    remembered(str(tmp_path), 'collect', {'no_audio': True})
    text = (tmp_path / 'preparation.json').read_text()
    assert json.loads(text) == {'collect': {'no_audio': True}, 'split': {'folds': 4, 'group': 'site'}}
    assert remembered(str(tmp_path), 'split', {'folds': 5}, store=False) == {'folds': 5}
    assert (tmp_path / 'preparation.json').read_text() == text


@pytest.mark.parametrize('text', ['', '{', '[]', '{"collect": 3}', '[' * 10000, b'\xff'])
def test_damaged_options_are_refused(tmp_path, text):
    (tmp_path / 'preparation.json').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Problem, match='delete it'):
        stored(str(tmp_path), 'collect')


def test_keys_do_not_depend_on_the_order_of_recordings():
    names = ['b/a.wav', 'b/a.mp3', 'b/a.mp3.wav', 'b/a.mp3.flac', 'c.wav']
    found = []
    for order in names, names[::-1]:
        recordings = [Recording(source=name) for name in order]
        keys.assign_keys(recordings, {})
        found.append({recording.source: recording.key for recording in recordings})
    assert found[0] == found[1] and len(set(found[0].values())) == len(names)
