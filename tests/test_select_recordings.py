"""Selection of recordings by licence, quality and number per class, for datasets/collect.py."""

import collections
import random

import pytest

from shared import selection
from shared.recordings import Recording
from shared.report import Report


def some(number, class_id='ant', **fields):
    return [Recording(key=f'{class_id}/{i}.wav', class_id=class_id, **fields) for i in range(number)]


def select(recordings, **options):
    """(keys that remain, printed lines)"""
    report = Report()
    return [recording.key for recording in selection.select(recordings, options, report)], report.lines()


@pytest.mark.parametrize(
    'licence',
    [
        'by-nc-nd',
        'cc-by-nc-nd 4.0',
        '//creativecommons.org/licenses/by-nc-nd/2.5/',
        'Creative Commons Attribution-NonCommercial-NoDerivatives 4.0',
        'Creative Commons Attribution-NonCommercial-NoDerivs 3.0',
        'Attribution - No Derivatives',
        'CC_BY_ND',
        'BY-ND',
    ],
)
def test_licences_without_derivatives_are_recognised(licence):
    assert 'nd' in selection.licence_elements(licence)


@pytest.mark.parametrize('licence', ['by-nc-sa', 'cc0', '', 'by-sa 4.0 and more', 'Finland', 'public domain'])
def test_other_licences_are_not_taken_for_them(licence):
    assert 'nd' not in selection.licence_elements(licence)


def test_the_number_of_protected_recordings_is_told_in_any_case():
    recordings = some(2, 'ant', licence='by-nc-nd') + some(3, 'bee', licence='by') + some(1, 'cat')
    kept, lines = select(recordings)
    assert len(kept) == 6 and lines == [
        '2 recordings have a licence that allows no derivatives (nd): kept; --exclude-licence nd removes them'
    ]
    kept, lines = select(recordings, exclude_licence='nd')
    assert kept == [f'bee/{i}.wav' for i in range(3)] + ['cat/0.wav']
    assert lines == ['--exclude-licence nd: 2 of 6 recordings removed; 1 of unknown licence are kept']
    assert len(select(recordings, exclude_licence='nd,nc,by')[0]) == 1
    assert len(select(recordings, exclude_licence='none')[0]) == 6


def test_recordings_without_derivatives_are_removed_from_all_parts():
    recordings = [Recording(key=f'{part}.wav', part=part, licence='by-nd') for part in ('test', 'unlabelled', 'noise')]
    assert select(recordings, exclude_licence='nd')[0] == []


@pytest.mark.parametrize(
    'quality, rank',
    [('A', 1), ('e', 5), ('5', 1), ('4.5', 1.5), ('1.0', 5), ('0', None), ('0.0', None), ('', None), ('no score', None)]
    + [('nan', None), ('7', None), ('-1', None), ('B or C', None)],
)
def test_qualities_are_letters_or_stars(quality, rank):
    assert selection.quality_rank(quality) == rank


def test_recordings_of_low_quality_are_removed_except_unknown_ones_and_test_recordings():
    recordings = [Recording(key=f'{quality}.wav', quality=quality) for quality in ('A', 'B', 'C', 'E', '4', '3.5', '')]
    recordings += [Recording(key='test.wav', part='test', quality='E')]
    kept, lines = select(recordings, min_quality='B')
    assert kept == ['A.wav', 'B.wav', '4.wav', '.wav', 'test.wav']
    assert lines == ['--min-quality B: 3 of 8 recordings removed; 1 of unknown quality are kept']


def test_small_classes_are_removed_with_their_test_recordings():
    recordings = some(2, 'ant') + some(3, 'bee', part='valid') + some(5, 'cat', part='test') + some(2, '', part='noise')
    kept, lines = select(recordings, min_recordings=3)
    assert kept == [f'bee/{i}.wav' for i in range(3)] + [f'/{i}.wav' for i in range(2)]
    assert lines == ['--min-recordings 3: 7 of 12 recordings removed, of 2 classes']


def test_large_classes_are_limited_for_training_only():
    recordings = some(30, 'ant') + some(3, 'bee') + some(30, 'cat', part='test') + some(30, '', part='noise')
    kept, lines = select(recordings, max_recordings=10)
    assert collections.Counter(key.split('/')[0] for key in kept) == {'ant': 10, 'bee': 3, 'cat': 30, '': 30}
    assert lines == ['--max-recordings 10: 20 of 93 recordings removed, of 1 classes']


def test_the_choice_does_not_depend_on_the_order_and_hardly_changes_when_recordings_arrive():
    recordings = some(100)
    kept = set(select(recordings, max_recordings=50)[0])
    assert set(select(random.Random(0).sample(recordings, 100), max_recordings=50)[0]) == kept
    after = set(select(some(104), max_recordings=50)[0])
    assert len(kept & after) >= 46
    assert kept != {recording.key for recording in recordings[:50]}


def test_classes_are_counted_after_recordings_of_low_quality_are_removed():
    recordings = some(2, 'ant', quality='A') + some(3, 'bee', quality='C')
    assert select(recordings, min_quality='B', min_recordings=2)[0] == ['ant/0.wav', 'ant/1.wav']
    assert select(recordings, min_recordings=3)[0] == [f'bee/{i}.wav' for i in range(3)]
