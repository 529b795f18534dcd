"""Groups of recordings that must stay on one side of a split."""

import collections
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import ROOT
from shared.groups import KINDS, group, members, original_name
from shared.recordings import Recording

assert str(ROOT / 'datasets') in sys.path


def grouped(*recordings, kind='original'):
    """Lists of keys, one for each group."""
    return members(group(recordings, kind))


def recording(key, **fields):
    return Recording(key=key, source=fields.pop('source', key), **fields)


def test_a_place_is_the_same_if_its_name_or_its_coordinates_are():
    rows = [
        recording('a', recordist='A', date='2010-05-06', site='Here', latitude='1', longitude='2'),
        recording('b', recordist='A', date='2010-5-6', site='here'),
        recording('c', recordist='A', date='2010-05-06', site='There', latitude='1', longitude='2'),
        recording('d', recordist='B', date='2010-05-06', site='Here'),
        recording('e', recordist='A', date='2010-05-07', site='Here'),
        recording('f', recordist='A', date='2010-05-00', site='Here'),
        recording('g', date='2010-05-06', site='Here'),
        recording('h'),
    ]
    assert grouped(*rows) == [['a', 'b', 'c'], ['d'], ['e'], ['f'], ['g'], ['h']]


def test_groups_are_connected_through_what_any_two_recordings_share():
    rows = [
        recording('a.wav', recording='one'),
        recording('b.wav', recording='one', recordist='A', date='2010-05-06', site='Here'),
        recording('c/XC7.wav', recordist='A', date='2010-05-06', site='Here'),
        recording('d/xc7 part.wav'),
        recording('e.wav', recording='XC7'),
        recording('f.wav', recording='two'),
        recording('XC77.wav'),
    ]
    assert grouped(*rows) == [['XC77.wav'], ['a.wav', 'b.wav', 'c/XC7.wav', 'd/xc7 part.wav', 'e.wav'], ['f.wav']]


def test_copies_are_in_one_group_although_they_are_said_to_be_different_recordings():
    rows = [recording('a/1.wav', recording='one'), recording('b/2.wav', recording='two', copy_of='a/1.wav')]
    assert grouped(*rows) == [['a/1.wav', 'b/2.wav']]


@pytest.mark.parametrize(
    'stem, name',
    [
        ('dawn_3', 'dawn'),
        ('dawn-clip07', 'dawn'),
        ('dawn clip 12', 'dawn'),
        ('dawn (2)', 'dawn'),
        ('20240501_060000_4', '20240501_060000'),
        ('2024-05-01_06-00-00_4', '2024-05-01_06-00-00'),
        ('20240501_060000_10_15', '20240501_060000'),
        ('REC0012seg3', 'REC0012'),
        ('XC1234_part2', 'XC1234'),
        ('robin dawn_3', 'robin dawn'),
        ('LIFECLEF2014_BIRDAMAZON_XC_WAV_RN10002', ''),
        ('LIFECLEF2014_BIRDAMAZON_XC_WAV_RN12', ''),
        ('20240501_060000', ''),
        ('20240501_0600', ''),
        ('2024-05-01', ''),
        ('2024-05-01_06-00', ''),
        ('2024-05-01 06.00.30', ''),
        ('S01_20240501_060000Z', ''),
        ('XC123456', ''),
        ('REC0012', ''),
        ('dawn_1234', ''),
        ('12', ''),
        ('clip12', ''),
        ('recording-12', ''),
        # these numbers count recordings of a class
        ('robin_12', ''),
        ('European-Robin 3', ''),
        ('Erithacus_rubecula_003', ''),
    ],
)
def test_a_clip_number_is_at_most_three_digits_after_the_name_of_a_recording(stem, name):
    assert original_name(stem, ['eurrob1', 'European Robin', 'Erithacus rubecula']) == name


def test_clips_are_grouped_by_file_name_only_in_the_same_folder_or_class():
    rows = [
        recording('a/dawn_1.wav', class_id='x'),
        recording('a/dawn_2.wav', class_id='y'),
        recording('b/dawn_3.wav', class_id='x'),
        recording('a/dawn.wav', class_id='z'),
        recording('c/dawn_4.wav', class_id='w'),
        recording('a/1.wav', class_id='x'),
        recording('b/1.wav', class_id='x'),
        recording('a/20240501_060000.wav', class_id='x'),
        recording('b/20240501_060000.wav', class_id='x'),
    ]
    together = ['a/dawn.wav', 'a/dawn_1.wav', 'a/dawn_2.wav', 'b/dawn_3.wav']
    assert [keys for keys in grouped(*rows) if len(keys) > 1] == [together]


def test_file_names_are_ignored_where_the_source_names_the_original_recording():
    rows = [recording(f'a/dawn_{n}.wav', recording=original) for n, original in enumerate('112')]
    assert grouped(*rows) == [['a/dawn_0.wav', 'a/dawn_1.wav'], ['a/dawn_2.wav']]


def test_recordists_and_sites_are_kept_together_on_request_unless_unknown():
    rows = [
        recording('a', recordist='Ann  Lee', site='Here'),
        recording('b', recordist='ann lee', latitude='1.001', longitude='2'),
        recording('c', recordist='Unknown', site='HERE'),
        recording('d', recordist='unknown', site='?', latitude='1.0', longitude='2.0'),
        recording('e', site='?', latitude='x', longitude='2.0'),
    ]
    assert grouped(*rows) == [['a'], ['b'], ['c'], ['d'], ['e']]
    assert grouped(*rows, kind='recordist') == [['a', 'b'], ['c'], ['d'], ['e']]
    assert grouped(*rows, kind='site') == [['a', 'c'], ['b', 'd'], ['e']]


def test_without_groups_only_copies_are_kept_together():
    rows = [
        recording(f'x/dawn_{n}.wav', recording='1', copy_of=copy) for n, copy in enumerate(['', '', 'x/dawn_0.wav'])
    ]
    assert grouped(*rows, kind='none') == [['x/dawn_0.wav', 'x/dawn_2.wav'], ['x/dawn_1.wav']]


ROWS = st.lists(
    st.builds(
        dict,
        recording=st.sampled_from(['', '', 'one', 'two', 'XC5']),
        recordist=st.sampled_from(['', 'A', 'B', '?']),
        date=st.sampled_from(['', '2010-05-06', '2010-05-07']),
        site=st.sampled_from(['', 'Here', 'There']),
        class_id=st.sampled_from(['', 'x', 'y']),
        source=st.sampled_from(['a/XC5.mp3', 'a/dawn_1.wav', 'a/dawn_2.wav', 'b/dawn_3.wav', 'b/1.wav', 'c/2.wav']),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([*KINDS, 'clips']), st.randoms(use_true_random=False))
def test_groups_depend_on_no_order_and_are_named_after_their_first_key(rows, kind, rng):
    recordings = [recording(f'k{n:02}', **row) for n, row in enumerate(rows)]
    groups = group(recordings, kind)
    assert set(groups) == {one.key for one in recordings}
    assert all(name == keys[0] == groups[name] for keys in members(groups) for name in [groups[keys[0]]])
    shuffled = list(recordings)
    rng.shuffle(shuffled)
    assert group(shuffled, kind) == groups
    if kind != 'none':
        sides = collections.defaultdict(set)
        for one in recordings:
            sides[one.recording].add(groups[one.key])
        assert all(len(names) == 1 for original, names in sides.items() if original)
    # a group of a kind that keeps more together contains complete groups of the others
    finer = {'recordist': 'original', 'site': 'original', 'original': 'clips'}.get(kind, 'none')
    assert all(groups[key] == groups[name] for key, name in group(recordings, finer).items())
