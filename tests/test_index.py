"""The index: the header of each recording is read only once."""

import os
import threading

import numpy as np
import pytest

from birdsong.data import audio, index
from birdsong.files import Problem
from helpers import wav_bytes


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        path = tmp_path / 'audio' / 'train' / (f'r{i}.wav')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav_bytes(np.zeros(100 + i, '<i2')))
    return tmp_path


KEYS = [f'train/r{i}.wav' for i in range(6)]


@pytest.fixture
def opened(monkeypatch):
    """Names of the recordings whose headers are read."""
    names = []
    original = audio.read_header

    def counting(filename):
        names.append(os.path.basename(filename))
        return original(filename)

    monkeypatch.setattr(audio, 'read_header', counting)
    return names


def test_headers_are_in_the_order_of_the_files(folder):
    for keys in (KEYS, KEYS[::-1], KEYS[2:4] + KEYS[:1] + KEYS[2:3]):
        table = index.load_index(folder, keys)
        assert table['length'].tolist() == [100 + int(key[-5]) for key in keys]
        for name, value in (('sample_rate', 22050), ('channels', 1), ('width', 2), ('offset', 44)):
            assert table[name].tolist() == [value] * len(keys)
        assert table['size'].tolist() == [44 + 2 * n for n in table['length']]


def test_each_header_is_read_once(folder, opened):
    index.load_index(folder, KEYS[:3])
    index.load_index(folder, KEYS[1:])
    before = (folder / 'index.npz').read_bytes()
    index.load_index(folder, KEYS)
    assert sorted(opened) == sorted(os.path.basename(key) for key in KEYS)
    assert (folder / 'index.npz').read_bytes() == before


def test_missing_and_broken_recordings_are_named(folder):
    (folder / 'audio' / KEYS[4]).write_bytes(b'')
    os.unlink(folder / 'audio' / KEYS[2])
    with pytest.raises(Problem, match=r'r2.wav: no such recording.*\(and 1 more of 6\)'):
        index.load_index(folder, KEYS)
    assert index.load_index(folder, KEYS[:2])['length'].tolist() == [100, 101]


def test_refresh_reads_changed_recordings_and_forgets_deleted_ones(folder, opened):
    index.load_index(folder, KEYS)
    old = os.stat(folder / 'audio' / KEYS[1]).st_mtime_ns
    (folder / 'audio' / KEYS[1]).write_bytes(wav_bytes(np.zeros(7, '<i2')))
    # Copied with its old time, so that only the size differs.
    os.utime(folder / 'audio' / KEYS[1], ns=(old, old))
    os.unlink(folder / 'audio' / KEYS[5])
    opened.clear()
    assert index.refresh_index(folder, KEYS[:5])['length'].tolist() == [100, 7, 102, 103, 104]
    assert opened == ['r1.wav']
    with pytest.raises(Problem, match='r5.wav: no such recording'):
        index.load_index(folder, KEYS)


@pytest.mark.parametrize(
    'damage', [lambda data: b'', lambda data: data[: len(data) // 2], lambda data: b'PK\3\4' + bytes(50)]
)
def test_damaged_index_is_created_again(folder, damage, capsys):
    index.load_index(folder, KEYS)
    file = folder / 'index.npz'
    good = file.read_bytes()
    file.write_bytes(damage(good))
    assert index.load_index(folder, KEYS)['length'].tolist() == [100, 101, 102, 103, 104, 105]
    assert 'damaged' in capsys.readouterr().err
    assert file.read_bytes() == good


def test_index_that_cannot_be_written_is_not_an_error(folder, capsys, monkeypatch):
    def refuse(*args):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(index, 'save_npz', refuse)
    assert index.load_index(folder, KEYS)['length'][0] == 100
    assert 'Read-only file system' in capsys.readouterr().err


def test_several_writers_at_once_do_no_harm(folder):
    errors = []

    def work(keys):
        try:
            for _ in range(5):
                assert index.load_index(folder, keys)['length'].tolist() == [100 + int(key[-5]) for key in keys]
        except BaseException as e:
            errors.append(e)

    pids = []
    for keys in (KEYS[:4], KEYS[2:], KEYS[::-1]):
        pid = os.fork()
        if not pid:
            work(keys)
            os._exit(bool(errors))
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert threading.active_count() >= 1
    assert index.load_index(folder, KEYS)['length'].tolist() == [100, 101, 102, 103, 104, 105]
    assert sorted(os.listdir(folder)) == ['audio', 'index.npz']


def test_names_with_odd_characters(folder):
    odd = 'train/ä ö\t,;\'"$.wav'
    (folder / 'audio' / odd).write_bytes(wav_bytes(np.zeros(3, '<i2')))
    for _ in range(2):
        assert index.load_index(folder, [odd, KEYS[0]])['length'].tolist() == [3, 100]
    with pytest.raises(Problem, match='line break'):
        index.load_index(folder, ['train/a\nb.wav'])
