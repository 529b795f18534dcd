"""Folds for cross-validation: the division, and the datasets NAME-fold1 to NAME-foldK."""

import collections
import os
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsong.data.index import load_index
from birdsong.files import Problem
from helpers import ROOT, lists_of, make_listed, run_program, wav_bytes, write_recording_tables
from shared import folds
from shared.recordings import Recording

sys.path.insert(0, str(ROOT / 'datasets' / 'birdclef' / 'filelists'))
import split

CLASSES = {'a': '0', 'b': '1', 'c': '2'}


def records(recordings=6, clips=2, **fields):
    """Fields of recordings of three classes, each cut into clips."""
    return {
        f'{name}/{name}{10 * n + clip}.wav': dict(class_id=label, recording=f'{name}{n}', **fields)
        for name, label in CLASSES.items()
        for n in range(recordings)
        for clip in range(clips)
    }


def held_out(folder, count):
    """Lists valid of the folds, after checking that each fold lists every recording once."""
    result = []
    everything = set(lists_of(folder)['train'] + lists_of(folder)['valid'])
    for number in range(1, count + 1):
        fold = lists_of(folder.with_name(f'{folder.name}-fold{number}'))
        assert not set(fold['train']) & set(fold['valid'])
        assert set(fold['train']) | set(fold['valid']) == everything
        result.append(fold['valid'])
    return result


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=50),
    st.integers(2, 5),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_groups_stay_in_one_fold_and_no_class_is_held_out_without_training_recordings(recordings, count, seed, rng):
    labels = {f'k{i:02}': str(label) for i, (label, _) in enumerate(recordings)}
    groups = collections.defaultdict(list)
    for key, (_, number) in zip(labels, recordings, strict=True):
        groups[number].append(key)
    groups = list(groups.values())
    result = folds.assign(labels, groups, count, seed)
    assert set(result) == set(labels) and set(result.values()) <= {None, *range(1, count + 1)}
    assert all(len({result[key] for key in keys}) == 1 for keys in groups)
    for label in set(labels.values()):
        assert len({result[key] for key in labels if labels[key] == label}) > 1 or all(
            result[key] is None for key in labels if labels[key] == label
        )
    shuffled = list(labels.items())
    rng.shuffle(shuffled)
    rng.shuffle(groups)
    assert folds.assign(dict(shuffled), [keys[::-1] for keys in groups], count, seed) == result


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(2, 5))
def test_classes_are_spread_evenly_where_each_recording_is_a_group(sizes, count):
    labels = {f'{label}-{i}': str(label) for label, size in enumerate(sizes) for i in range(size)}
    result = folds.assign(labels, [[key] for key in labels], count)
    for label, size in enumerate(sizes):
        counts = collections.Counter(result[key] for key in labels if labels[key] == str(label))
        if size == 1:
            assert counts == {None: 1}
        else:
            assert {counts[fold] for fold in range(1, count + 1)} <= {size // count, -(-size // count)}


def test_a_class_whose_groups_would_all_be_in_one_fold_keeps_one_for_training():
    labels = {'a': '2', 'b': '0', 'c': '1', 'd': '2', 'e': '1', 'f': '0'}
    result = folds.assign(labels, [['a', 'b'], ['c', 'd'], ['e', 'f']], 2)
    # one of three groups would be in the fold of another, with which it shares a class
    assert sorted(result.values(), key=str) == [1, 1, 2, 2, None, None]


def test_recordings_stay_in_their_fold_and_new_ones_join_their_group():
    labels = {key: '0' for key in 'abcdefgh'}
    groups = [['a', 'b'], ['c'], ['d', 'e'], ['f'], ['g'], ['h']]
    fixed = {'a': 3, 'c': 1, 'd': None, 'f': 2}
    result = folds.assign(labels, groups, 3, fixed=fixed)
    assert {key: result[key] for key in fixed} == fixed
    assert result['b'] == 3 and result['e'] is None
    # one recording for each of the two folds that have fewer
    assert {result['g'], result['h']} == {1, 2}


def test_folds_are_datasets_that_share_everything_but_their_lists(tmp_path):
    made = make_listed(tmp_path / 'made', records() | {'n.wav': {'part': 'noise'}, 'u.wav': {'part': 'unlabelled'}})
    (made / 'dataset.vars').write_text('sample_rate=22050\n')
    split.split(str(made), folds=3, test=0.2)
    assert collections.Counter(len(keys) for keys in held_out(made, 3)) == {10: 3}
    test = set(lists_of(made)['test'])
    assert len(test) == 6
    fold = tmp_path / 'made-fold2'
    assert not test & {key for keys in lists_of(fold).values() for key in keys}
    assert lists_of(fold)['noise'] == ['n.wav'] and lists_of(fold)['unlabelled'] == ['u.wav']
    assert [line.split('\t')[0] for line in lists_of(fold)['groups.tsv']] == sorted(
        lists_of(fold)['train'] + lists_of(fold)['valid']
    )
    targets = {path.name: os.readlink(path) for path in fold.iterdir() if path.is_symlink()}
    shared = ('audio', 'labels', 'index.npz', 'dataset.vars', 'recordings.tsv')
    assert targets == {name: f'../made/{name}' for name in shared}
    # the links still lead to the dataset if all are moved
    (tmp_path / 'elsewhere').mkdir()
    for name in ('made', 'made-fold2'):
        os.rename(tmp_path / name, tmp_path / 'elsewhere' / name)
    assert (tmp_path / 'elsewhere/made-fold2/labels/fg.tsv').exists()


def test_folds_share_one_index(tmp_path):
    made = make_listed(tmp_path / 'made', records(recordings=2, clips=1))
    for path in (made / 'audio').glob('*/*'):
        path.write_bytes(wav_bytes([0] * 100))
    split.split(str(made), folds=2)
    fold = tmp_path / 'made-fold1'
    load_index(str(fold), lists_of(fold)['train'])
    assert (made / 'index.npz').is_file() and (fold / 'index.npz').is_symlink()
    before = (made / 'index.npz').read_bytes()
    load_index(str(made), lists_of(fold)['train'])
    assert (made / 'index.npz').read_bytes() == before
    load_index(str(fold), lists_of(fold)['valid'])
    assert (made / 'index.npz').read_bytes() != before and (fold / 'index.npz').is_symlink()


def test_later_runs_keep_the_folds_and_add_new_recordings(tmp_path):
    few, many = records(recordings=5), records(recordings=9)
    made = make_listed(tmp_path / 'made', few)
    split.split(str(made), folds=3)
    first = held_out(made, 3)
    assert 'nothing new' in split.split(str(made))[-1]
    make_listed(made, many)
    split.split(str(made))
    second = held_out(made, 3)
    assert all(set(before) <= set(after) for before, after in zip(first, second, strict=True))
    assert sorted(map(len, second)) == [18, 18, 18]
    originals = [{many[key]['recording'] for key in keys} for keys in second]
    assert sum(map(len, originals)) == len(set.union(*originals))
    # another seed, or number of folds, divides again
    split.split(str(made), seed=1)
    assert held_out(made, 3) != second
    split.split(str(made), folds=2)
    assert sorted(map(len, held_out(made, 2))) == [26, 28]
    assert not (tmp_path / 'made-fold3').exists()


def test_another_number_of_folds_does_not_change_the_lists_of_the_dataset(tmp_path):
    made = make_listed(tmp_path / 'made', records(recordings=5))
    split.split(str(made))
    make_listed(made, records(recordings=9))
    split.split(str(made))
    before = lists_of(made)
    split.split(str(made), folds=4)
    assert lists_of(made) == before


def test_folds_that_are_not_needed_any_more_are_removed_but_not_files_of_others(tmp_path):
    made = make_listed(tmp_path / 'made', records())
    split.split(str(made), folds=3)
    (tmp_path / 'made-fold2' / 'notes').write_text('mine')
    shutil.rmtree(tmp_path / 'made-fold1')
    split.split(str(made), folds=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['made', 'made-fold2']
    assert [path.name for path in (tmp_path / 'made-fold2').iterdir()] == ['notes']
    assert len(list((made / 'audio').glob('*/*'))) == 36 and (made / 'labels/fg.tsv').exists()


def test_a_folder_of_others_is_not_overwritten(tmp_path):
    made = make_listed(tmp_path / 'made', records())
    (tmp_path / 'made-fold2' / 'labels').mkdir(parents=True)
    with pytest.raises(Problem, match='made-fold2: exists, but is not a fold of made'):
        split.split(str(made), folds=3)
    assert not (made / 'filelists').exists() and not (tmp_path / 'made-fold1').exists()
    assert (tmp_path / 'made-fold2' / 'labels').is_dir()


def test_a_fold_is_not_divided_or_changed(tmp_path):
    made = make_listed(tmp_path / 'made', records())
    split.split(str(made), folds=2)
    for options in ({}, {'folds': 2}):
        with pytest.raises(Problem, match='made-fold1: a fold of made'):
            split.split(str(tmp_path / 'made-fold1'), **options)
    result = run_program('datasets/collect.py', made / 'audio', '--dataset', tmp_path / 'made-fold1')
    assert result.returncode == 1 and 'made-fold1: a fold of made' in result.stderr
    assert (tmp_path / 'made-fold1' / 'recordings.tsv').is_symlink()
    other = make_listed(tmp_path / 'other-fold1', records())
    with pytest.raises(Problem, match='has the name of a fold'):
        split.split(str(other), folds=2)
    split.split(str(other))
    assert (other / 'filelists' / 'train').exists()


def test_given_folds_are_kept(tmp_path):
    rows = records(clips=1)
    for n, fields in enumerate(rows.values()):
        fields['fold'] = str(9 + n % 3)
    made = make_listed(tmp_path / 'made', rows)
    messages = split.split(str(made), folds='given')
    assert any('9 (fold1), 10 (fold2), 11 (fold3)' in line for line in messages)
    assert held_out(made, 3) == [sorted(key for key in rows if rows[key]['fold'] == fold) for fold in ('9', '10', '11')]
    with pytest.raises(Problem, match='3 folds are given, not 4'):
        split.split(str(made), folds=4)
    # new recordings without a fold are added to those of their group, or to one of the folds
    new = rows | {'a/new.wav': {'class_id': '0', 'recording': 'a1'}, 'b/new.wav': {'class_id': '1'}}
    make_listed(made, new)
    split.split(str(made))
    assert 'a/new.wav' in held_out(made, 3)[1] and sum('b/new.wav' in keys for keys in held_out(made, 3)) == 1


def test_folds_can_be_part_of_the_file_names(tmp_path):
    names = [f'{n % 5 + 1}-{n}-A-0' for n in range(40)]
    made = make_listed(
        tmp_path / 'made',
        {f'dog/{name}.wav': {'class_id': '0', 'source': f'dog/{name}.ogg'} for name in names},
    )
    split.split(str(made), fold_pattern=r'(\d)-')
    for number, keys in enumerate(held_out(made, 5), 1):
        assert len(keys) == 8 and all(key.startswith(f'dog/{number}-') for key in keys)


@pytest.mark.parametrize(
    'options, problem',
    [
        ({'folds': 1}, 'expected a number from 2'),
        ({'folds': 'many'}, 'expected a number from 2'),
        ({'folds': 1000}, 'expected a number from 2'),
        ({'folds': 'given'}, '0 folds are given'),
        ({'folds': 30}, '18 groups are too few for 30 folds'),
        ({'fold_pattern': '('}, 'expected a regular expression'),
        ({'fold_pattern': 'a'}, 'with a group'),
        ({'fold_pattern': '(a)' * 100}, 'at most 200 characters'),
        ({'fold_pattern': '(a)'}, '12 of 18 file names do not match, such as b/b0.wav'),
        ({'fold_pattern': '(.*)'}, None),
    ],
)
def test_folds_that_cannot_be_made_are_one_line_and_change_nothing(tmp_path, options, problem):
    made = make_listed(tmp_path / 'made', records(clips=1))
    if problem is None:
        split.split(str(made), **options)
        assert (tmp_path / 'made-fold18').exists()
        return
    with pytest.raises(Problem, match=problem) as e:
        split.split(str(made), **options)
    assert '\n' not in str(e.value)
    assert not (made / 'filelists').exists() and os.listdir(tmp_path) == ['made']


def test_folds_of_a_dataset_without_audio_have_no_audio(tmp_path):
    write_recording_tables(tmp_path / 'made', records())
    (tmp_path / 'made' / 'preparation.json').write_text('{"collect": {"no_audio": true}}')
    split.split(str(tmp_path / 'made'), folds=2)
    assert sorted(map(len, held_out(tmp_path / 'made', 2))) == [18, 18]
    assert not os.path.lexists(tmp_path / 'made-fold1' / 'audio')


def test_given_folds_are_sorted_as_numbers():
    rows = [Recording(key=fold, fold=fold) for fold in ('10', '9', 'x', '')]
    assert folds.given(rows) == ({'9': 1, '10': 2, 'x': 3}, ['9', '10', 'x'])
