"""WAV files."""

import hashlib
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsong.data import audio
from birdsong.files import Problem
from helpers import chunk, wav_bytes

GOLDEN = ('audio/wavfile',)


def write(path, data):
    path.write_bytes(data)
    return str(path)


def test_recording_is_read_as_a_memory_map(tmp_path):
    samples = np.arange(-500, 500, dtype='<i2')
    wav = audio.WavFile(write(tmp_path / 'a.wav', wav_bytes(samples)), sample_rate=22050)
    assert (wav.sample_rate, wav.channels, wav.width, wav.length, wav.offset) == (22050, 1, 2, 1000, 44)
    np.testing.assert_array_equal(wav.samples, samples)
    assert not wav.samples.flags.writeable and not wav.samples.flags.owndata


@pytest.mark.parametrize('dtype, bits', [('u1', 8), ('<i2', 16), ('<i4', 32)])
@pytest.mark.parametrize('channels', [1, 2, 3])
def test_width_and_sign_are_right_for_any_number_of_channels(tmp_path, dtype, bits, channels):
    samples = np.random.default_rng(1).integers(0, 2**31, (60, channels)).astype(dtype)
    wav = audio.WavFile(write(tmp_path / 'a.wav', wav_bytes(samples, channels=channels, bits=bits)))
    assert (wav.width, wav.length) == (bits // 8, 60)
    assert wav.samples.shape == ((60,) if channels == 1 else (60, channels))
    np.testing.assert_array_equal(wav.samples.reshape(60, channels), samples)


def test_odd_chunks_and_trailing_chunks_are_skipped(tmp_path):
    samples = np.arange(9, dtype='<i2')
    before = chunk(b'LIST', b'odd') + chunk(b'junk', bytes(3000))
    for extra in (b'', b'\0\0'):
        name = write(tmp_path / 'a.wav', wav_bytes(samples, before=before, after=chunk(b'id3 ', b'abc'), extra=extra))
        np.testing.assert_array_equal(audio.WavFile(name).samples, samples)


def test_extensible_format_is_read_by_its_subformat(tmp_path):
    samples = np.arange(9, dtype='<i2')
    guid = b'\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71'

    def extensible(subformat):
        extra = struct.pack('<HHIH', 22, 16, 4, subformat) + guid
        return wav_bytes(samples, tag=0xFFFE, extra=extra)

    np.testing.assert_array_equal(audio.WavFile(write(tmp_path / 'a.wav', extensible(1))).samples, samples)
    with pytest.raises(Problem, match='format 3'):
        audio.read_header(write(tmp_path / 'b.wav', extensible(3)))


GOOD = wav_bytes(np.arange(100, dtype='<i2'))


@pytest.mark.parametrize(
    'data, word',
    [
        (b'', 'empty'),
        (b'RIFF', 'not a WAVE'),
        (b'ID3\3' + GOOD[4:], 'not a WAVE'),
        (GOOD[:20], 'truncated'),
        (GOOD[:30], 'truncated'),
        (GOOD[:43], 'truncated'),
        (GOOD[:-1], 'truncated: 199 of 200'),
        (GOOD[:44], 'truncated: 0 of 200'),
        (GOOD[:12] + chunk(b'data', b'ab'), 'without a format'),
        (wav_bytes(b'1234', channels=0), 'broken format'),
        (wav_bytes(np.zeros(3, 'f4'), bits=32, tag=3), 'format 3'),
    ],
)
def test_broken_recording_is_refused_by_name_and_fault(tmp_path, data, word):
    name = write(tmp_path / 'broken.wav', data)
    with pytest.raises(Problem, match=f'broken.wav: .*{word}.*; '):
        audio.read_header(name)


def test_missing_and_unsuitable_recordings_are_refused(tmp_path):
    with pytest.raises(Problem, match='no such recording'):
        audio.read_header(tmp_path / 'none.wav')
    for samples, options in (
        (np.zeros(9, '<i2'), {'rate': 44100}),
        (np.zeros((9, 2), '<i2'), {'channels': 2}),
        (np.zeros(9, 'u1'), {'bits': 8}),
    ):
        name = write(tmp_path / 'a.wav', wav_bytes(samples, **options))
        audio.WavFile(name)
        with pytest.raises(Problem, match='expected 22050 Hz mono 16 bit'):
            audio.WavFile(name, sample_rate=22050)
    with pytest.raises(Problem, match='24 bit'):
        audio.WavFile(write(tmp_path / 'b.wav', wav_bytes(b'123456', bits=24)))


def test_recording_without_samples_is_empty(tmp_path):
    assert audio.WavFile(write(tmp_path / 'a.wav', wav_bytes(b''))).samples.shape == (0,)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(GOOD)), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6))
def test_any_damage_gives_a_header_that_fits_or_a_problem(tmp_path_factory, cut, changes):
    data = bytearray(GOOD[:cut])
    for place, value in changes:
        if place < len(data):
            data[place] = value
    name = write(tmp_path_factory.getbasetemp() / 'any.wav', bytes(data))
    try:
        header = audio.read_header(name)
    except Problem:
        return
    assert header.offset + header.length * header.channels * header.width <= len(data)


def test_golden_recordings(golden, golden_dataset):
    cases, _ = golden('audio/wavfile')
    for case in cases['cases']:
        if case['file'] == 'garbage':
            continue
        name = case['file'] if '/' in case['file'] else os.path.join('bad', case['file'])
        wav = audio.WavFile(golden_dataset / 'audio' / name)
        rate, channels, width, length, offset, _, _, _, digest = case['unchecked']
        assert (wav.sample_rate, wav.channels, wav.length, wav.offset) == (rate, channels, length, offset)
        if case['file'].startswith('stereo'):
            # The original read 8 bits where there are 16.
            assert wav.width == 2 and wav.samples.dtype == np.int16
        else:
            assert wav.width == width
            assert hashlib.sha256(wav.samples.tobytes()).hexdigest()[:16] == digest
        if 'checked' in case:
            with pytest.raises(Problem, match='expected 22050 Hz'):
                audio.WavFile(golden_dataset / 'audio' / name, sample_rate=22050)
