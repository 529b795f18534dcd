"""Keys of the recordings of a source folder and of their XML, especially for equal file names."""

import pytest

from layouts.birdclef2018 import find_recordings, find_xml

NAME = '20240501_060000'


@pytest.fixture
def source(tmp_path):
    """Recordings of several recorders that name their files only by the time, as AudioMoth does."""
    for path, content in (
        ('TrainingSet/b', b'1'),
        ('data/a', b'2'),
        ('data/b', b'3'),
        ('data/c/1', b'4'),
        ('data/c/2', b'2'),
        ('val/data/a', b'2'),
        ('val/data/b', b'5'),
    ):
        put(tmp_path, f'{path}/{NAME}.WAV', content)
    put(tmp_path, 'data/LIFECLEF2014_X_RN1.wav', b'6')
    put(tmp_path, 'data/d/LIFECLEF2014_X_RN1.wav', b'7')
    put(tmp_path, 'data/d/alone.flac', b'8')
    return tmp_path


def put(source, name, content=b''):
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_bytes(content)


def keys_of(source, found):
    return {path.removeprefix(f'{source}/'): key for key, path in found}


EXPECTED = {
    f'TrainingSet/b/{NAME}.WAV': f'train/{NAME}.wav',
    f'data/a/{NAME}.WAV': f'train/a/{NAME}.wav',
    f'data/b/{NAME}.WAV': f'train/b/{NAME}.wav',
    f'data/c/1/{NAME}.WAV': f'train/c/1/{NAME}.wav',
    f'val/data/a/{NAME}.WAV': f'soundscapes/val/{NAME}.wav',
    f'val/data/b/{NAME}.WAV': f'soundscapes/val/b/{NAME}.wav',
    'data/LIFECLEF2014_X_RN1.wav': 'train/2014/LIFECLEF2014_X_RN1.wav',
    'data/d/LIFECLEF2014_X_RN1.wav': 'train/2014/d/LIFECLEF2014_X_RN1.wav',
    'data/d/alone.flac': 'train/alone.wav',
}


def test_recordings_with_equal_file_names_are_all_kept_except_for_copies(source):
    recordings = find_recordings(str(source))
    assert keys_of(source, recordings.found) == EXPECTED
    assert recordings.skipped == [
        (f'data/c/2/{NAME}.WAV', f'a copy of data/a/{NAME}.WAV', 'left out; one of them is enough')
    ]


def test_keys_stay_distinct_where_folders_have_equal_names_too(source):
    put(source, f'TrainingSet/c/1/{NAME}.wav', b'10')
    put(source, f'data/{NAME}.wav', b'11')
    put(source, f'data/{NAME}.ogg', b'12')
    recordings = find_recordings(str(source))
    keys = keys_of(source, recordings.found)
    assert len(set(keys.values())) == len(keys) == len(EXPECTED) + 2
    assert keys[f'TrainingSet/c/1/{NAME}.wav'] == f'train/c/1/{NAME}.wav'
    assert keys[f'data/c/1/{NAME}.WAV'] == f'train/data/c/1/{NAME}.wav'
    # of two files with one name in one folder, only the first is converted
    assert keys[f'data/{NAME}.ogg'] == f'train/data/{NAME}.wav' and f'data/{NAME}.wav' not in keys
    assert [(path, problem) for path, problem, _ in recordings.skipped if 'name' in problem] == [
        (f'data/{NAME}.wav', f'the same file name as data/{NAME}.ogg')
    ]


def test_xml_belongs_to_the_recording_beside_it_else_to_the_first_of_that_name(source):
    beside = {
        f'data/b/{NAME}.xml': f'train/b/{NAME}.wav',
        f'data/c/1/{NAME}.xml': f'train/c/1/{NAME}.wav',
        # beside the copy of a recording
        f'data/c/2/{NAME}.xml': f'train/a/{NAME}.wav',
        'data/d/LIFECLEF2014_X_RN1.xml': 'train/2014/d/LIFECLEF2014_X_RN1.wav',
        'data/d/alone.xml': 'train/alone.wav',
    }
    elsewhere = {
        f'TrainingSet/xml/{NAME}.xml': f'train/{NAME}.wav',
        'data/xml/LIFECLEF2014_X_RN1.xml': 'train/2014/LIFECLEF2014_X_RN1.wav',
        'data/xml/lost.xml': 'train/lost.wav',
    }
    for name in (*beside, *elsewhere, f'data/xml/{NAME}.xml'):
        put(source, name)
    found, skipped, uncertain = find_xml(str(source))
    assert keys_of(source, found) == beside | elsewhere
    assert [row[:2] for row in skipped] == [
        (f'data/xml/{NAME}.xml', f'the same file name as TrainingSet/xml/{NAME}.xml')
    ]
    assert uncertain == 2


def test_xml_beside_a_recording_comes_before_xml_elsewhere(tmp_path):
    put(tmp_path, 'data/a/x.xml')
    put(tmp_path, 'data/b/x.wav')
    put(tmp_path, 'data/b/x.xml')
    found, _, uncertain = find_xml(str(tmp_path))
    assert keys_of(tmp_path, found) == {'data/b/x.xml': 'train/x.wav'} and not uncertain
