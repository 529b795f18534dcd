"""File lists: a given validation list, one drawn at random, and recordings that are not listed."""

import collections
import json
import random
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsong.files import Problem
from helpers import ROOT, lists_of, make_listed, run_program

sys.path.insert(0, str(ROOT / 'datasets' / 'birdclef' / 'filelists'))
import split


def run(dataset, *arguments):
    return run_program('datasets/birdclef/filelists/split.py', '--dataset', dataset, *arguments)


def many(seed=0, species=30, sessions=True):
    """Records of recordings whose species are as uneven as in the challenge."""
    rng, records = random.Random(seed), {}
    for s in range(species):
        for i in range(rng.choice([1, 2, 3, 5, 15, 40])):
            fields = {'class_id': str(s)}
            if sessions and rng.random() < 0.8:
                fields.update(
                    recordist=f'A{rng.randrange(8)}',
                    date=f'2010-05-{rng.randrange(1, 29):02}',
                    site=f'L{rng.randrange(3)}',
                )
            records[f'train/2014/LIFECLEF2014_X_RN{1000 * s + i}.wav'] = fields
    return records


@pytest.mark.parametrize('seed', range(3))
def test_a_drawn_list_has_every_species_on_both_sides_and_keeps_sessions_together(tmp_path, seed):
    records = many(seed)
    result = run(make_listed(tmp_path / 'made', records, archives=True))
    assert result.returncode == 0, result.stderr
    made = lists_of(tmp_path / 'made')
    assert set(made) == {'train', 'valid', 'groups.tsv'}
    train, valid = set(made['train']), set(made['valid'])
    assert train | valid == set(records) and not train & valid
    counts = collections.Counter(fields['class_id'] for fields in records.values())
    sides = [collections.Counter(records[key]['class_id'] for key in side) for side in (train, valid)]
    for s, count in counts.items():
        assert (sides[0][s] and sides[1][s]) if count > 1 else sides[0][s]
    assert 0.06 * len(records) < len(valid) < 0.16 * len(records)
    where = collections.defaultdict(set)
    for key, fields in records.items():
        if 'recordist' in fields:
            where[fields['recordist'], fields['date'], fields['site']].add(key in valid)
    divided = sum(len(sides) > 1 for sides in where.values())
    # a session may be divided only if it has all recordings of a species
    assert divided == 0 or f'{divided} sessions' in result.stdout
    assert divided <= 2


def alone(key):
    """Recordings that must not be divided in any case: none."""
    return [key]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=40), st.integers(0, 3))
def test_any_recordings_are_split_with_every_species_on_both_sides(recordings, seed):
    species = {f'k{i:02}': s for i, (s, _) in enumerate(recordings)}
    groups = collections.defaultdict(list)
    for i, (_, group) in enumerate(recordings):
        groups[group].append(f'k{i:02}')
    valid, divided = split.draw(species, list(groups.values()), seed=seed, clips=alone)
    counts = collections.Counter(species.values())
    held = collections.Counter(species[key] for key in valid)
    for s, count in counts.items():
        assert 1 <= held[s] < count if count > 1 else held[s] == 0
    assert divided or all(len({key in valid for key in group}) == 1 for group in groups.values())
    # in any order
    shuffled = list(species.items())
    random.Random(1).shuffle(shuffled)
    assert split.draw(
        dict(shuffled), [group[::-1] for group in list(groups.values())[::-1]], seed=seed, clips=alone
    ) == (
        valid,
        divided,
    )


def test_a_given_list_is_used_and_kept(tmp_path):
    records = many(sessions=False)
    keys = sorted(records)
    parts = {
        'train/2014/no_xml.wav': 'train',
        'test/2014/t.wav': 'test',
        'soundscapes/val/v.wav': 'soundscapes_val',
        'soundscapes/test/w.wav': 'soundscapes_test',
    }
    records |= {key: {'part': part} for key, part in parts.items()}
    made = make_listed(tmp_path / 'made', records, others=['elsewhere/x.wav'])
    given_file = tmp_path / 'list'
    given_file.write_text(
        '# comment\n{}\n{}\n\n{}\nRN_unknown.wav\n{}\n'.format(
            keys[3], keys[1], keys[5].split('/')[-1][:-4] + '.xml', keys[1]
        )
    )
    result = run(made, '--valid-list', given_file)
    assert result.returncode == 0, result.stderr
    assert 'RN_unknown.wav' in result.stdout and 'no_xml' in result.stdout
    first = lists_of(made)
    assert first['valid'] == [keys[3], keys[1], keys[5]]
    assert first['train'] == sorted(set(keys) - set(first['valid']))
    assert (first['test'], first['soundscapes_val'], first['soundscapes_test']) == (
        ['test/2014/t.wav'],
        ['soundscapes/val/v.wav'],
        ['soundscapes/test/w.wav'],
    )
    # the list need not be given again
    assert 'nothing new' in run(made).stdout and lists_of(made) == first


def test_a_file_name_in_a_given_list_means_the_recording_with_the_fewest_folders():
    train = {'train/x.wav', 'train/a/x.wav', 'train/a/b/y.wav', 'train/b/y.wav'}
    assert split.given_list(['x', 'y.wav', 'train/a/x.wav', 'z'], train, 'list') == (
        ['train/x.wav', 'train/b/y.wav', 'train/a/x.wav'],
        ['z'],
    )


def test_lists_are_updated_when_recordings_are_removed(tmp_path):
    records = many(sessions=False)
    made = make_listed(tmp_path / 'made', records)
    run(made)
    first = lists_of(made)
    assert 'nothing new' in run(made).stdout
    gone = first['train'][0]
    (made / 'audio' / gone).unlink()
    run(made)
    assert gone not in lists_of(made)['train'] + lists_of(made)['valid']
    assert run(made, '--seed', 1).returncode == 0
    assert lists_of(made)['valid'] != first['valid']


def clips(*originals, label='0', **fields):
    """Fields of two clips of each original recording."""
    return {f'{name}/{n}.wav': dict(class_id=label, recording=name, **fields) for name in originals for n in (1, 2)}


def originals(keys):
    return {key.split('/')[0] for key in keys}


def test_only_the_part_decides_where_a_recording_is_listed(tmp_path):
    records = {
        'test/a.wav': {'class_id': '0'},
        'soundscapes/val/b.wav': {'class_id': '0', 'part': 'valid'},
        'train/c.wav': {'class_id': '0', 'part': 'test'},
        'd.wav': {'part': 'test'},
        'e.wav': {'part': 'noise'},
        'f.wav': {'part': 'unlabelled'},
        'g.wav': {'part': 'soundscapes_val'},
        'h.wav': {'part': 'soundscapes_test'},
        'i.wav': {'class_id': ''},
    }
    made = make_listed(tmp_path / 'made', records, others=['elsewhere/j.wav'])
    messages = split.split(str(made))
    assert '1 training recordings have no label and are not listed, such as i.wav' in messages
    listed = lists_of(made)
    assert [line.split('\t')[0] for line in listed.pop('groups.tsv')] == [
        'd.wav',
        'soundscapes/val/b.wav',
        'test/a.wav',
        'train/c.wav',
    ]
    assert listed == {
        'train': ['test/a.wav'],
        'valid': ['soundscapes/val/b.wav'],
        'test': ['d.wav', 'train/c.wav'],
        'noise': ['e.wav'],
        'unlabelled': ['f.wav'],
        'soundscapes_val': ['g.wav'],
        'soundscapes_test': ['h.wav'],
    }


def test_recordings_for_prediction_need_no_labels(tmp_path):
    made = make_listed(tmp_path / 'made', {'a.wav': {'part': 'unlabelled'}})
    shutil.rmtree(made / 'labels')
    split.split(str(made))
    assert lists_of(made) == {'unlabelled': ['a.wav']}


def test_given_validation_recordings_are_kept_and_others_are_drawn_only_on_request(tmp_path):
    records = clips(*'abcdefgh') | clips('v', part='valid') | clips('t', part='test')
    made = make_listed(tmp_path / 'made', records)
    assert 'validation as given' in split.split(str(made))[-1]
    assert lists_of(made)['valid'] == ['v/1.wav', 'v/2.wav'] and lists_of(made)['test'] == ['t/1.wav', 't/2.wav']
    split.split(str(made), valid=0.3, test=0.3)
    listed = lists_of(made)
    assert listed['valid'][:2] == ['v/1.wav', 'v/2.wav'] and {'t/1.wav', 't/2.wav'} < set(listed['test'])
    assert [len(listed[name]) for name in ('train', 'valid', 'test')] == [8, 6, 6]


def test_recordings_of_a_group_that_is_given_for_the_test_are_not_drawn_for_validation(tmp_path):
    records = clips(*'abc') | {'b/3.wav': {'class_id': '0', 'recording': 'b', 'part': 'test'}}
    for seed in range(6):
        made = make_listed(tmp_path / str(seed), records)
        split.split(str(made), valid=0.3, seed=seed)
        assert originals(lists_of(made)['valid']) in ({'a'}, {'c'})


def test_shares_are_drawn_for_validation_and_test(tmp_path):
    records = clips(*(f'a{n}' for n in range(20))) | clips(*(f'b{n}' for n in range(10)), label='1')
    made = make_listed(tmp_path / 'made', records)
    assert '30 groups (by original recording), the largest with 2 recordings' in split.split(
        str(made), valid=0.2, test=0.1
    )
    listed = lists_of(made)
    counts = {
        name: collections.Counter(records[key]['class_id'] for key in listed[name])
        for name in listed.keys() - {'groups.tsv'}
    }
    assert counts == {'train': {'0': 28, '1': 14}, 'valid': {'0': 8, '1': 4}, 'test': {'0': 4, '1': 2}}
    first = listed['valid']
    # the test list does not influence the validation list, and disappears with its share
    assert 'the options have changed: the lists are drawn again' in split.split(str(made), test=0)
    assert 'test' not in lists_of(made) and lists_of(made)['valid'] == first


def test_the_lists_do_not_depend_on_the_order_of_the_recordings(tmp_path):
    records = clips(*(f'a{n}' for n in range(9))) | clips(*(f'b{n}' for n in range(5)), label='1')
    results = []
    for seed in range(3):
        order = list(records.items())
        random.Random(seed).shuffle(order)
        made = make_listed(tmp_path / str(seed), dict(order))
        split.split(str(made), valid=0.2, test=0.2, folds=3)
        results.append([lists_of(made), *(lists_of(tmp_path / f'{seed}-fold{number}') for number in (1, 2, 3))])
    assert results[0] == results[1] == results[2]


def test_a_class_of_one_group_stays_in_training_and_is_counted(tmp_path):
    records = clips(*'abc') | clips('x', label='1')
    made = make_listed(tmp_path / 'made', records)
    assert '1 of 2 classes have only one group, such as 1' in split.split(str(made), valid=0.4, test=0.1)
    assert originals(lists_of(made)['train']) >= {'x'} and len(originals(lists_of(made)['train'])) == 2


def test_later_runs_keep_recordings_where_they_are_and_add_new_ones(tmp_path):
    def of(count, label, extra=()):
        return clips(*(f'{label}-{n}' for n in range(count)), label=label) | {
            f'{name}/3.wav': {'class_id': label, 'recording': name} for name in extra
        }

    made = make_listed(tmp_path / 'made', of(10, '0') | of(1, '1'))
    split.split(str(made), valid=0.2, test=0.1)
    first = lists_of(made)
    extra = sorted(originals(first['valid'] + first['test']))
    records = of(20, '0', extra) | of(5, '1') | of(5, '2')
    make_listed(made, records)
    assert not any('again' in line for line in split.split(str(made)))
    second = lists_of(made)
    for name in ('train', 'valid', 'test'):
        assert set(first[name]) <= set(second[name])
        assert {f'{name}/3.wav' for name in originals(first[name])} & set(records) <= set(second[name])
        # the share holds for old and new classes
        counts = collections.Counter(records[key]['class_id'] for key in second[name])
        if name != 'train':
            assert counts == {'valid': {'0': 10, '1': 2, '2': 2}, 'test': {'0': 5, '1': 2, '2': 2}}[name]
    sides = [originals(second[name]) for name in ('train', 'valid', 'test')]
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert 'nothing new' in split.split(str(made))[-1]


def test_a_recording_joins_the_list_of_its_part_if_that_changes(tmp_path):
    records = clips(*'abcdef')
    made = make_listed(tmp_path / 'made', records)
    split.split(str(made))
    moved = lists_of(made)['valid'][0]
    records[moved]['part'] = 'test'
    make_listed(made, records)
    split.split(str(made))
    assert lists_of(made)['test'] == [moved] and moved not in lists_of(made)['train'] + lists_of(made)['valid']


def test_clips_of_one_recording_are_not_divided_where_the_archives_divide_sessions(tmp_path):
    session = {'recordist': 'A', 'date': '2010-05-06', 'site': 'Here'}
    records = {f'train/dawn{letter}_{n}.wav': dict(class_id='0', **session) for letter in 'ab' for n in (1, 2)}
    made = make_listed(tmp_path / 'archives', records, archives=True)
    assert any('1 sessions' in line for line in split.split(str(made)))
    assert sorted(lists_of(made)['valid']) in (
        ['train/dawna_1.wav', 'train/dawna_2.wav'],
        ['train/dawnb_1.wav', 'train/dawnb_2.wav'],
    )
    # a copy of another name does not influence what is drawn, as in 2018
    records['train/dawnb_2.wav']['copy_of'] = 'train/dawna_2.wav'
    first = lists_of(made)
    make_listed(made, records)
    split.split(str(made))
    assert lists_of(made) == first
    records['train/dawnb_2.wav']['copy_of'] = ''
    # in other layouts, a session is not divided either
    with pytest.raises(Problem, match='no class has two recordings to split, of different groups'):
        split.split(str(make_listed(tmp_path / 'other', records)))
    made = make_listed(tmp_path / 'none', records)
    split.split(str(made), group='none')
    assert len(lists_of(made)['valid']) == 1


ROWS = st.lists(
    st.tuples(
        st.integers(0, 4),  # class
        st.integers(0, 9),  # original recording
        st.sampled_from(['train'] * 8 + ['valid', 'test']),
    ),
    min_size=2,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, st.sampled_from([0.1, 0.3]), st.sampled_from([None, 0.2]), st.randoms(use_true_random=False))
def test_any_recordings_are_split_by_groups_once_and_again(tmp_path_factory, rows, later, valid, test, rng):
    def fields(rows):
        return {
            f'k{i}.wav': {'class_id': str(label), 'recording': f'r{original}', 'part': part}
            for i, (label, original, part) in enumerate(rows)
        }

    folder = tmp_path_factory.mktemp('any')
    earlier = {}
    for records in (fields(rows), fields(rows + later)):
        order = list(records.items())
        rng.shuffle(order)
        made = make_listed(folder / 'made', dict(order))
        try:
            split.split(str(made), valid=valid, test=test)
        except Problem:
            # fewer than two recordings, or groups, to draw from
            return
        listed = lists_of(made)
        where = {key: name for name in ('train', 'valid', 'test') for key in listed.get(name, ())}
        assert len(where) == sum(len(listed.get(name, ())) for name in ('train', 'valid', 'test'))
        assert set(where) == set(records)
        # given parts are kept, and so is what was drawn earlier
        assert all(where[key] == row['part'] for key, row in records.items() if row['part'] != 'train')
        assert all(where[key] == name for key, name in earlier.items())
        sides = collections.defaultdict(lambda: collections.defaultdict(set))
        for key, row in records.items():
            sides[row['recording']][row['part'] != 'train' or key in earlier].add(where[key])
        for side in sides.values():
            # only recordings whose list is given may divide a group
            assert len(side[False]) <= 1
            if len(side[True]) == 1:
                # if nothing is drawn for the test, a group of given test recordings gets no others
                assert side[False] <= ({'train'} if side[True] == {'test'} and not test else side[True])
        earlier = where


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda sizes: max(sizes) > 1), st.integers(0, 3))
def test_each_class_with_two_groups_of_its_own_is_on_both_sides(tmp_path_factory, sizes, seed):
    records = {}
    for label, size in enumerate(sizes):
        records |= clips(*(f'{label}-{n}' for n in range(size)), label=str(label))
    made = make_listed(tmp_path_factory.mktemp('classes') / 'made', records)
    split.split(str(made), seed=seed)
    held = {name: {records[key]['class_id'] for key in lists_of(made)[name]} for name in ('train', 'valid')}
    assert held['train'] == set(map(str, range(len(sizes))))
    assert held['valid'] == {str(label) for label, size in enumerate(sizes) if size > 1}


@pytest.mark.parametrize(
    'options, problem',
    [
        ({'valid': 1.0}, 'expected a share'),
        ({'test': -0.1}, 'expected a share'),
        ({'valid': 0.5, 'test': 0.5}, 'nothing would be left'),
        ({'group': 'colour'}, 'expected one of original, recordist, site, none'),
    ],
)
def test_options_that_make_no_sense_are_refused_also_where_they_are_stored(tmp_path, options, problem):
    made = make_listed(tmp_path / 'made', clips(*'abcd'))
    with pytest.raises(Problem, match=problem):
        split.split(str(made), **options)
    (made / 'preparation.json').write_text(json.dumps({'split': options}))
    with pytest.raises(Problem, match=problem):
        split.split(str(made))
    assert not (made / 'filelists').exists()


def test_options_are_used_again(tmp_path):
    made = make_listed(tmp_path / 'made', clips(*(f'a{n}' for n in range(30))))
    assert run(made, '--valid', 0.3, '--group', 'none', '--seed', 3).returncode == 0
    first = lists_of(made)
    assert len(first['valid']) == 18
    shutil.rmtree(made / 'filelists')
    run(made)
    assert lists_of(made) == first


@pytest.mark.parametrize(
    'fault, problem',
    [
        (lambda made: ['--valid-list', made / 'nowhere'], 'no such file'),
        (
            lambda made: (made / 'list').write_text('unknown\n') and ['--valid-list', made / 'list'],
            'names no training recording',
        ),
        (
            lambda made: (
                (made / 'list').write_text(''.join(f'train/2014/LIFECLEF2014_X_RN{n}.wav\n' for n in (1, 2, 3)))
                and ['--valid-list', made / 'list']
            ),
            'none would be left',
        ),
        (lambda made: shutil.rmtree(made / 'audio') or [], 'no such folder'),
        (lambda made: (made / 'labels/fg.tsv').unlink() or [], 'recreate.py'),
        (lambda made: (made / 'labels/fg.tsv').write_text('x\n') and [], 'line 1'),
        (lambda made: (made / 'recordings.tsv').unlink() or [], 'no such file'),
        (
            lambda made: [(made / f'audio/train/2014/LIFECLEF2014_X_RN{n}.wav').unlink() for n in (1, 2)] and [],
            'at least 2',
        ),
        (lambda made: (made / 'audio/train/2014/LIFECLEF2014_X_RN2.wav').unlink() or [], 'no class has two'),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_lists_alone(tmp_path, fault, problem):
    records = {f'train/2014/LIFECLEF2014_X_RN{n}.wav': {'class_id': str(n // 2)} for n in (1, 2, 3)}
    made = make_listed(tmp_path / 'made', records)
    arguments = fault(made)
    result = run(made, *arguments)
    assert result.returncode == 1 and problem in result.stderr and result.stderr.count('\n') == 1
    assert not (made / 'filelists').exists()
