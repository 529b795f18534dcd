"""File lists: a given validation list, one drawn at random, and recordings that are not listed."""

import collections
import random
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import ROOT, run_program
from shared.recordings import Recording, write_recordings

sys.path.insert(0, str(ROOT / 'datasets' / 'birdclef' / 'filelists'))
import split


def run(dataset, *arguments):
    return run_program('datasets/birdclef/filelists/split.py', '--dataset', dataset, *arguments)


def make_dataset(folder, records, others=(), archives=False):
    """A dataset with audio files (empty, since split.py does not open them), recordings.tsv and labels.

    `records`: dict of key -> fields of Recording; `others`: keys of audio files that are not in the table.
    """
    for key in [*records, *others]:
        (folder / 'audio' / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / 'audio' / key).touch()
    update_tables(folder, records)
    if archives:
        (folder / 'xml').mkdir()
        (folder / 'xml' / 'recordings.tsv').touch()
    return folder


def update_tables(folder, records):
    write_recordings(str(folder), [Recording(key=key, **fields) for key, fields in records.items()])
    labelled = {key: fields['class_id'] for key, fields in records.items() if fields.get('class_id')}
    (folder / 'labels').mkdir(exist_ok=True)
    (folder / 'labels' / 'fg.tsv').write_text(''.join(f'{key}\t{label}\n' for key, label in labelled.items()))


def lists(folder):
    return {path.name: path.read_text().splitlines() for path in (folder / 'filelists').iterdir()}


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
    result = run(make_dataset(tmp_path / 'made', records, archives=True))
    assert result.returncode == 0, result.stderr
    made = lists(tmp_path / 'made')
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
    made = make_dataset(tmp_path / 'made', records, others=['elsewhere/x.wav'])
    given_file = tmp_path / 'list'
    given_file.write_text(
        '# comment\n{}\n{}\n\n{}\nRN_unknown.wav\n{}\n'.format(
            keys[3], keys[1], keys[5].split('/')[-1][:-4] + '.xml', keys[1]
        )
    )
    result = run(made, '--valid-list', given_file)
    assert result.returncode == 0, result.stderr
    assert 'RN_unknown.wav' in result.stdout and 'no_xml' in result.stdout
    first = lists(made)
    assert first['valid'] == [keys[3], keys[1], keys[5]]
    assert first['train'] == sorted(set(keys) - set(first['valid']))
    assert (first['test'], first['soundscapes_val'], first['soundscapes_test']) == (
        ['test/2014/t.wav'],
        ['soundscapes/val/v.wav'],
        ['soundscapes/test/w.wav'],
    )
    # the list need not be given again
    assert 'nothing new' in run(made).stdout and lists(made) == first


def test_a_file_name_in_a_given_list_means_the_recording_with_the_fewest_folders():
    train = {'train/x.wav', 'train/a/x.wav', 'train/a/b/y.wav', 'train/b/y.wav'}
    assert split.given_list(['x', 'y.wav', 'train/a/x.wav', 'z'], train, 'list') == (
        ['train/x.wav', 'train/b/y.wav', 'train/a/x.wav'],
        ['z'],
    )


def test_lists_are_updated_when_recordings_are_removed(tmp_path):
    records = many(sessions=False)
    made = make_dataset(tmp_path / 'made', records)
    run(made)
    first = lists(made)
    assert 'nothing new' in run(made).stdout
    gone = first['train'][0]
    (made / 'audio' / gone).unlink()
    run(made)
    assert gone not in lists(made)['train'] + lists(made)['valid']
    assert run(made, '--seed', 1).returncode == 0
    assert lists(made)['valid'] != first['valid']


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
    made = make_dataset(tmp_path / 'made', records)
    arguments = fault(made)
    result = run(made, *arguments)
    assert result.returncode == 1 and problem in result.stderr and result.stderr.count('\n') == 1
    assert not (made / 'filelists').exists()
