"""recordings.tsv, the table of the recordings of a dataset, and dataset.vars, its settings."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from birdsong.files import Problem
from shared.dataset_vars import sample_rate, update_vars
from shared.recordings import COLUMNS, PARTS, Recording, Segment, read_recordings, write_recordings

TEXT = st.text(st.characters(exclude_categories=['C', 'Zl', 'Zp']), max_size=20)
NAME = st.from_regex(r'[A-Za-z0-9é][A-Za-z0-9é ]{0,8}[a-z0-9]', fullmatch=True)
MILLISECONDS = st.integers(0, 10**9).map(lambda number: number / 1000)
FIELDS = [field.name for field in dataclasses.fields(Recording)]
RECORDING = st.builds(
    Recording,
    **{name: TEXT for name in FIELDS if name not in ('key', 'source', 'part', 'background', 'segments')},
    part=st.sampled_from(PARTS),
    background=st.lists(NAME, max_size=3),
    segments=st.lists(st.builds(Segment, MILLISECONDS, MILLISECONDS, st.one_of(NAME, st.just(''))), max_size=3),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORDING, max_size=4))
def test_recordings_are_read_as_they_were_written(tmp_path, recordings):
    for number, recording in enumerate(recordings):
        recording.key, recording.source = f'a/{number}.wav', f'a/{number}.mp3'
    write_recordings(str(tmp_path), recordings)
    assert read_recordings(str(tmp_path)) == recordings
    assert not write_recordings(str(tmp_path), recordings)


def test_the_class_of_a_recording_is_the_one_with_the_longest_total_duration():
    times = [(0, 2, 'b'), (2, 4, 'a'), (4, 6, ''), (6, 7, 'b'), (7, 8, 'c'), (8, 99, '')]
    recording = Recording(background=['d', 'a'], segments=[Segment(*time) for time in times])
    recording.settle_class()
    assert (recording.class_id, recording.background) == ('b', ['d', 'a', 'c'])
    tie = Recording(segments=[Segment(0, 2, 'z'), Segment(2, 4, 'a')])
    tie.settle_class()
    assert (tie.class_id, tie.background) == ('z', ['a'])


@pytest.mark.parametrize(
    'changes, problem',
    [
        ({'part': 'training'}, "line 2: 'training' is no part"),
        ({'key': '/etc/passwd.wav'}, 'is no path below a folder'),
        ({'key': 'a/../../b.wav'}, 'is no path below a folder'),
        ({'key': ''}, 'is no path below a folder'),
        ({'source': '../b.mp3'}, 'is no path below a folder'),
        ({'segments': '0 5'}, 'line 2: expected segments'),
        ({'segments': 'x 5 a'}, 'line 2: expected segments'),
        ({'licence': 'a\tb'}, f'line 2: {len(COLUMNS) + 1} fields instead of {len(COLUMNS)}'),
        ({'key': 'a.wav\n'}, f'line 2: 1 fields instead of {len(COLUMNS)}'),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(tmp_path, changes, problem):
    values = {**dict.fromkeys(COLUMNS, ''), 'key': 'a.wav', 'part': 'train', **changes}
    (tmp_path / 'recordings.tsv').write_text('\t'.join(COLUMNS) + '\n' + '\t'.join(values.values()) + '\n')
    with pytest.raises(Problem, match='delete the file') as refused:
        read_recordings(str(tmp_path))
    assert problem in str(refused.value) and '\n' not in str(refused.value)


def test_a_key_belongs_to_one_recording(tmp_path):
    write_recordings(str(tmp_path), [Recording(key='a.wav', source='a.mp3'), Recording(key='a.wav', source='a.ogg')])
    with pytest.raises(Problem, match=r'line 3: a\.wav is the key of an earlier line'):
        read_recordings(str(tmp_path))


def test_settings_of_a_dataset_are_updated_and_others_are_kept(tmp_path):
    assert sample_rate(str(tmp_path)) == 22050
    (tmp_path / 'dataset.vars').write_text('# mine\nmel_max=12000\nsample_rate=32000\ninput_meta.latitude_mean=3\n')
    assert sample_rate(str(tmp_path)) == 32000
    new = {'sample_rate': 44100, 'input_meta.latitude_mean': None, 'input_meta.latitude_std': '2.5'}
    assert update_vars(str(tmp_path), new) and not update_vars(str(tmp_path), new)
    expected = 'sample_rate=44100\ninput_meta.latitude_std=2.5\n# mine\nmel_max=12000\n'
    assert (tmp_path / 'dataset.vars').read_text() == expected
    (tmp_path / 'dataset.vars').write_text('sample_rat=1\n')
    with pytest.raises(Problem, match='unknown setting sample_rat'):
        sample_rate(str(tmp_path))
