"""Spectrograms and mel filterbanks."""

import contextlib
import hashlib
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from birdsong import config
from birdsong.data import stft
from birdsong.files import Problem

GOLDEN = ('audio/mel_filterbank', 'audio/spectrogram_256', 'audio/spectrogram_1024')


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
    """The int16 noise with a silence, from which golden spectrograms were computed."""
    signal = (3000 * np.random.RandomState(0).randn(60000)).astype(np.int16)
    signal[2000:2600] = 0
    return signal


@pytest.mark.parametrize('case', GOLDEN[1:])
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
    # Long recordings are computed in blocks, whose frames must not depend on the blocks.
    samples = np.random.default_rng(0).integers(-9999, 9999, 22050).astype(np.int16)
    whole = stft.spectrogram(samples, 22050, 1024, 70, 465)
    for first in (1, 5, 16, 50):
        np.testing.assert_array_equal(stft.spectrogram(samples[315 * first :], 22050, 1024, 70, 465), whole[first:])
    loud = samples.copy()
    loud[: 315 * 10], loud[315 * 10 :] = 0, 30000
    quiet = stft.spectrogram(loud, 22050, 1024, 70, 465)
    assert (quiet[:6] == 0).all()


def test_spectrogram_is_the_same_in_every_process():
    script = (
        f'import sys; sys.path.insert(0, {config.EXPERIMENTS!r}); from birdsong.data import stft; '
        'import numpy as np, hashlib; '
        'x = np.random.default_rng(0).integers(-9999, 9999, 22050).astype(np.int16); '
        'print(hashlib.sha256(stft.spectrogram(x, 22050, 1024, 70, 465).tobytes()).hexdigest())'
    )
    runs = [subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE) for _ in range(2)]
    outputs = {run.communicate()[0] for run in runs}
    samples = np.random.default_rng(0).integers(-9999, 9999, 22050).astype(np.int16)
    here = hashlib.sha256(stft.spectrogram(samples, 22050, 1024, 70, 465).tobytes()).hexdigest()
    assert outputs == {here.encode() + b'\n'}


class Hostile:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_code_in_files_of_a_compilation_cache_is_not_run(tmp_path):
    package = tmp_path / 'birdsong'
    for name in ('__init__.py', 'files.py', 'data/__init__.py', 'data/stft.py', 'data/stft_compiled.py'):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.join(config.EXPERIMENTS, 'birdsong', name), package / name)

    def run(folder):
        script = (
            'from birdsong.data import stft, stft_compiled; import numpy as np; '
            'print(stft.spectrogram(np.zeros(1024, np.int16), 22050, 1024, 70).shape)'
        )
        env = dict(os.environ, NUMBA_CACHE_DIR=str(folder))
        done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ('(1, 513)\n', 0), done.stderr

    # numba creates its files if it is told to cache; hostile ones in their place are unpickled.
    source = package / 'data' / 'stft_compiled.py'
    ours = source.read_text()
    caching = ours.replace('nogil=True', 'nogil=True, cache=True')
    assert caching != ours
    source.write_text(caching)
    cache = tmp_path / 'cache'
    run(cache)
    entries = [path for path in cache.rglob('*') if path.suffix in ('.nbi', '.nbc')]
    assert entries
    for path in entries:
        path.write_bytes(pickle.dumps(Hostile(str(tmp_path / 'made'))))
    source.write_text(ours)
    run(cache)
    assert not (tmp_path / 'made').exists()
    source.write_text(caching)
    with contextlib.suppress(AssertionError):
        run(cache)
    assert (tmp_path / 'made').exists()  # so the entries were hostile


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
