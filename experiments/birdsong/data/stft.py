"""Spectrograms: magnitudes of short-time Fourier transforms, and mel filters."""

import functools
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from birdsong.files import Problem

# == Frames and bins ==


def hop(cfg: Mapping[str, Any]) -> int:
    """Distance between the starts of consecutive frames, in samples."""
    return int(cfg['sample_rate'] // cfg['fps'])


def num_bins(cfg: Mapping[str, Any]) -> int:
    """Number of frequency bins that the network needs: those up to mel_max; all, if filterbank=mel_learn.

    If filterbank=none, `bins` in cfg overrides this. Raises Problem if mel_max is above half the sample rate.
    """
    bins = cfg['frame_len'] // 2 + 1
    if cfg['filterbank'] == 'mel_learn':
        return bins
    if cfg['filterbank'] == 'none' and 'bins' in cfg:
        return cfg['bins']
    if 2 * cfg['mel_max'] > cfg['sample_rate']:
        raise Problem(
            f'mel_max={cfg["mel_max"]}: must not be above half of sample_rate={cfg["sample_rate"]}; lower mel_max'
        )
    return int(bins * 2 * cfg['mel_max'] // cfg['sample_rate'])


def num_frames(samples: int, frame_len: int, hop: int) -> int:
    """Number of frames that lie completely within a signal."""
    return 1 + (samples - frame_len) // hop if samples >= frame_len else 0


# == Spectrograms ==

# Number of frames that are transformed at once. Their data should fit the cache of a core. Fewer frames would need more
# calls, each with the global interpreter lock.
FRAMES = 64
# Transforms and their memory, one set per thread
_local = threading.local()
# FFTW plans must not be created by two threads at once.
_planning = threading.Lock()


@functools.lru_cache(None)
def window(frame_len: int) -> np.ndarray:
    """Symmetric Hann window, float32 (frame_len,)."""
    w = np.hanning(frame_len).astype(np.float32)
    w.flags.writeable = False
    return w


def spectrogram(
    samples: np.ndarray,
    sample_rate: int,
    frame_len: int,
    fps: float,
    bins: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Magnitudes of the Fourier transforms of Hann-windowed frames, float32 (frames, bins).

    `samples` (N,) of any real dtype are not scaled. Frames start every int(sample_rate // fps) samples and lie
    completely within the signal; there are none if it is shorter than `frame_len`. Only the first `bins` frequency bins
    are kept (default: all frame_len // 2 + 1). The result is written to `out`, if given.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f'expected the samples of one channel, found shape {samples.shape!r}')
    step = int(sample_rate // fps)
    bins = frame_len // 2 + 1 if bins is None else int(bins)
    frames = num_frames(len(samples), frame_len, step)
    if out is None:
        out = np.empty((frames, bins), np.float32)
    elif out.shape != (frames, bins) or out.dtype != np.float32:
        raise ValueError(f'expected out to be float32 {(frames, bins)!r}, found {out.dtype} {out.shape!r}')
    if not frames:
        return out
    if samples.dtype not in (np.int16, np.float32):
        samples = samples.astype(np.float32)
    compiled = _compiled() if frame_len % 2 == 0 else None
    if compiled:
        _compiled_spectrogram(compiled, np.ascontiguousarray(samples), step, frame_len, out)
    else:
        _plain_spectrogram(samples, step, window(frame_len), out)
    return out


def _compiled_spectrogram(
    compiled: ModuleType, samples: np.ndarray, step: int, frame_len: int, out: np.ndarray
) -> None:
    plans = _local.__dict__.setdefault('plans', {})
    if frame_len not in plans:
        plans[frame_len] = _Transform(frame_len)
    plan = plans[frame_len]
    half, count = frame_len // 2, len(plan.frames)
    inner = min(out.shape[1], half)
    for k in range(0, len(out), count):
        rows = out[k : k + count]
        compiled.cut_frames(samples, k * step, step, plan.window, plan.frames[: len(rows)])
        halves = plan.execute()
        compiled.magnitudes(halves, plan.real, plan.imag, plan.cosine, plan.sine, rows[:, :inner])
        if out.shape[1] > half:
            rows[:, half] = np.abs(halves[: len(rows), 0] - halves[: len(rows), 1]) * 2


class _Transform:
    """Complex Fourier transforms of FRAMES frames at once, with their memory, for one thread."""

    def __init__(self, frame_len: int):
        half = frame_len // 2
        angles = np.pi * np.arange(half) / half
        self.cosine, self.sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.real, self.imag = np.empty((2, half), np.float32)
        # `magnitudes` needs half of each transform; halving the window is exact and costs less.
        self.window = window(frame_len) * np.float32(0.5)
        pyfftw = _pyfftw()
        if pyfftw:
            with _planning:
                source, result = (pyfftw.empty_aligned((FRAMES, half), 'complex64') for _ in range(2))
                # FFTW_MEASURE is hardly faster for these transforms, and its plans round differently from run to run.
                plan = pyfftw.FFTW(source, result, flags=('FFTW_ESTIMATE', 'FFTW_DESTROY_INPUT'), threads=1)
            source[:] = 0
            halves = result.view(np.float32)
            self.execute = lambda: plan.execute() or halves
        else:
            from scipy.fft import fft

            source = np.zeros((FRAMES, half), np.complex64)
            self.execute = lambda: fft(source, axis=1).view(np.float32)
        self.frames = source.view(np.float32)


def _plain_spectrogram(samples: np.ndarray, step: int, win: np.ndarray, out: np.ndarray) -> None:
    from scipy.fft import rfft

    frame_len = len(win)
    for k in range(0, len(out), FRAMES):
        rows = out[k : k + FRAMES]
        # Converting all samples once is faster than converting each of the overlapping frames.
        part = samples[k * step : (k + len(rows) - 1) * step + frame_len].astype(np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(part, frame_len)[::step]
        np.abs(rfft(frames * win, axis=1)[:, : out.shape[1]], out=rows)


@functools.lru_cache(None)
def _compiled() -> ModuleType | None:
    try:
        from birdsong.data import stft_compiled

        return stft_compiled
    except ImportError:
        return None


@functools.lru_cache(None)
def _pyfftw() -> ModuleType | None:
    try:
        import pyfftw

        return pyfftw
    except ImportError:
        return None


# == Filterbank ==


def create_mel_filterbank(
    sample_rate: int, frame_len: int, num_bands: int, min_freq: float, max_freq: float
) -> np.ndarray:
    """Triangular filters on the mel scale 1127 ln(1 + f / 700), float64 (frame_len // 2 + 1 bins, bands).

    Frequencies are in Hz. The `num_bands` + 2 edges and peaks are equally spaced in mel. Each slope is linear in Hz
    from its zero, divided by its width in bins. Each filter sums to 1, or is 0 if it contains no bin.
    """
    bins = frame_len // 2 + 1
    bin_freqs = np.linspace(0, sample_rate / 2, bins)
    mels = np.linspace(1127 * np.log1p(min_freq / 700), 1127 * np.log1p(max_freq / 700), num_bands + 2)
    freqs = 700 * np.expm1(mels / 1127)
    nearest = np.searchsorted(bin_freqs, freqs)
    filters = np.zeros((bins, num_bands))
    for band in range(num_bands):
        (left, top, right), (low, _, high) = nearest[band : band + 3], freqs[band : band + 3]
        filters[left:top, band] = (bin_freqs[left:top] - low) / max(1, top - left)
        filters[top:right, band] = (high - bin_freqs[top:right]) / max(1, right - top)
    total = filters.sum(axis=0)
    return filters / np.where(total > 0, total, 1)
