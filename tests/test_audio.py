"""WAV files, spectrograms and mel filterbanks."""

import hashlib
import importlib.util
import os
import resource
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsong import config
from birdsong.data import audio, stft
from birdsong.files import Problem
from helpers import chunk, wav_bytes

GOLDEN = ('audio/mel_filterbank', 'audio/spectrogram_256', 'audio/spectrogram_1024', 'audio/wavfile')


def write(path, data):
    path.write_bytes(data)
    return str(path)


# == WAV files ==


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


# == Spectrograms ==


@pytest.fixture(params=['compiled', 'without pyfftw', 'without numba'])
def way(request, monkeypatch):
    """The ways to compute a spectrogram, each with fresh plans."""
    if request.param == 'without pyfftw':
        monkeypatch.setattr(stft, '_pyfftw', lambda: None)
    if request.param == 'without numba':
        monkeypatch.setattr(stft, '_compiled', lambda: None)
    monkeypatch.setattr(stft, '_local', type(stft._local)())
    return request.param


def close(ours, theirs):
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    if theirs.size:
        # Rounding of single precision transforms, relative to the loudest bin.
        assert np.abs(ours - theirs).max() <= 3e-7 * max(1, np.abs(theirs).max())


def golden_signal():
    """The int16 noise that golden spectrograms were computed of, with a silence."""
    signal = (3000 * np.random.RandomState(0).randn(60000)).astype(np.int16)
    signal[2000:2600] = 0
    return signal


@pytest.mark.parametrize('case', GOLDEN[1:3])
def test_golden_spectrograms(golden, way, case):
    cases, arrays = golden(case)
    signal, every = golden_signal(), cases.get('every', 1)
    for one in cases['cases']:
        if 'key' not in one:
            assert stft.hop(one) == one['hopsize']
            continue
        samples = signal[: one['samples']]
        expected = arrays[one['key']]
        note = one.get('note', '')
        if 'TRAP' in note:
            # The original gave zeros for int16 samples without a dtype.
            expected = arrays['out24']
        elif '32768' in note:
            samples = (samples / 32768).astype(np.float32)
        elif 'float64' in note:
            samples = samples.astype(np.float64)
        elif ':2]' in note:
            samples = samples[::2]
        ours = stft.spectrogram(samples, one['sample_rate'], one['frame_len'], one['fps'], one['bins'])
        assert len(ours) == one['frames']
        close(ours[::every], expected.astype(np.float32))


@pytest.mark.parametrize(
    'frame_len, bins',
    [(1024, None), (1024, 465), (512, 257), (2048, 930), (600, None), (64, 1), (2, None), (255, None)],
)
def test_spectrogram_is_the_magnitude_of_windowed_frames(way, frame_len, bins):
    rng = np.random.default_rng(0)
    samples = rng.integers(-(2**15), 2**15, 9000).astype(np.int16)
    frames = np.array([samples[k : k + frame_len] for k in range(0, len(samples) - frame_len + 1, 315)])
    expected = np.abs(np.fft.rfft(frames * np.hanning(frame_len)))[:, :bins]
    close(stft.spectrogram(samples, 22050, frame_len, 70, bins), expected.astype(np.float32))


def test_spectrogram_fills_the_array_it_is_given(way):
    samples = np.random.default_rng(0).integers(-9999, 9999, 22050).astype(np.int16)
    whole = np.full((2, 67, 465), -1, np.float32)
    out = stft.spectrogram(samples, 22050, 1024, 70, 465, out=whole[1])
    assert out.base is whole or out is whole
    np.testing.assert_array_equal(whole[1], stft.spectrogram(samples, 22050, 1024, 70, 465))
    assert (whole[0] == -1).all()
    with pytest.raises(ValueError):
        stft.spectrogram(samples, 22050, 1024, 70, 465, out=whole[1, 1:])


def test_frame_does_not_depend_on_its_neighbours(way):
    # Long recordings are done in blocks that have to join without a seam.
    samples = np.random.default_rng(0).integers(-9999, 9999, 22050).astype(np.int16)
    whole = stft.spectrogram(samples, 22050, 1024, 70, 465)
    for first in (1, 5, 16, 50):
        np.testing.assert_array_equal(stft.spectrogram(samples[315 * first :], 22050, 1024, 70, 465), whole[first:])
    loud = samples.copy()
    loud[: 315 * 10], loud[315 * 10 :] = 0, 30000
    quiet = stft.spectrogram(loud, 22050, 1024, 70, 465)
    assert (quiet[:6] == 0).all()


def test_spectrogram_is_the_same_in_every_process():
    script = f'import sys; sys.path.insert(0, {config.EXPERIMENTS!r}); from birdsong.data import stft; import numpy as np, hashlib;x = np.random.default_rng(0).integers(-9999, 9999, 22050).astype(np.int16);print(hashlib.sha256(stft.spectrogram(x, 22050, 1024, 70, 465).tobytes()).hexdigest())'
    runs = [subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE) for _ in range(2)]
    outputs = {run.communicate()[0] for run in runs}
    samples = np.random.default_rng(0).integers(-9999, 9999, 22050).astype(np.int16)
    here = hashlib.sha256(stft.spectrogram(samples, 22050, 1024, 70, 465).tobytes()).hexdigest()
    assert outputs == {here.encode() + b'\n'}


def test_compiled_passes_work_where_no_cache_can_be_written(tmp_path):
    # As root may write anywhere, the caches' folders are files here.
    for name in (
        '__init__.py',
        'files.py',
        'numba_cache.py',
        'data/__init__.py',
        'data/stft.py',
        'data/stft_compiled.py',
    ):
        (tmp_path / 'birdsong' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.join(config.EXPERIMENTS, 'birdsong', name), tmp_path / 'birdsong' / name)
    for folder in ('birdsong', 'birdsong/data'):
        (tmp_path / folder / '__pycache__').write_text('')
    (tmp_path / 'home').write_text('')
    script = (
        'from birdsong.data import stft, stft_compiled; import numpy as np; '
        'print(stft.spectrogram(np.zeros(1024, np.int16), 22050, 1024, 70).shape)'
    )
    env = dict(os.environ, HOME=str(tmp_path / 'home'), XDG_CACHE_HOME=str(tmp_path / 'home'))
    env.pop('NUMBA_CACHE_DIR', None)
    done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ('(1, 513)\n', 0), done.stderr


@pytest.fixture
def fresh_start(monkeypatch, tmp_path):
    """Has the next spectrogram load or compile its passes as at the start of a program; its cache is tmp_path/__pycache__."""
    shutil.copy(os.path.join(os.path.dirname(audio.__file__), 'stft_compiled.py'), tmp_path)

    def start():
        spec = importlib.util.spec_from_file_location('stft_compiled', tmp_path / 'stft_compiled.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(stft, '_compiled', lambda: module)
        monkeypatch.setattr(stft, '_local', type(stft._local)())
        return module

    return start


def test_damaged_or_unwritable_compiled_code_is_compiled_again(fresh_start, tmp_path):
    samples = np.random.default_rng(0).integers(-9999, 9999, 2000).astype(np.int16)
    expected = stft.spectrogram(samples, 22050, 1024, 70)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        fresh_start()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # as on a full disk, no file can grow
        np.testing.assert_array_equal(stft.spectrogram(samples, 22050, 1024, 70), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    cache = tmp_path / '__pycache__'
    assert not list(cache.glob('*.nb*'))
    fresh_start()
    stft.spectrogram(samples, 22050, 1024, 70)
    entries = sorted(cache.glob('*.nb*'))
    whole = [entry.read_bytes() for entry in entries]
    entries[0].write_bytes(whole[0][: len(whole[0]) // 2])
    for entry, content in list(zip(entries, whole))[1:]:  # such damage crashes LLVM if it gets there
        middle = len(content) // 4
        entry.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    compiled = fresh_start()
    np.testing.assert_array_equal(stft.spectrogram(samples, 22050, 1024, 70), expected)
    assert sum(compiled.cut_frames.stats.cache_misses.values()) == 1
    compiled = fresh_start()
    np.testing.assert_array_equal(stft.spectrogram(samples, 22050, 1024, 70), expected)
    assert sum(compiled.cut_frames.stats.cache_hits.values()) == sum(compiled.magnitudes.stats.cache_hits.values()) == 1


# == Settings and filterbank ==


def test_bins_that_the_network_needs():
    assert stft.num_bins(config.load([], ['mel_max=10000'])) == 465
    assert stft.num_bins(config.load([], ['mel_max=10000.0'])) == 465
    assert stft.num_bins(config.load()) == 372
    assert stft.num_bins(config.load([], ['filterbank=none'])) == 372
    assert stft.num_bins(config.load([], ['filterbank=mel_learn'])) == 513
    with pytest.raises(Problem, match='mel_max'):
        stft.num_bins(config.load([], ['mel_max=12000']))


def test_golden_filterbanks(golden):
    cases, arrays = golden('audio/mel_filterbank')
    for case in cases['cases']:
        ours = stft.create_mel_filterbank(
            *(case[k] for k in ('sample_rate', 'frame_len', 'num_bands', 'min_freq', 'max_freq'))
        )
        np.testing.assert_allclose(ours, arrays[case['key']], rtol=0, atol=1e-12)
        bins = stft.num_bins(
            dict(
                sample_rate=case['sample_rate'], frame_len=case['frame_len'], filterbank='mel', mel_max=case['max_freq']
            )
        )
        assert bins == case['bin_mel_max']
        assert (ours.sum(axis=0) == 0).sum() == case['empty_filters']
