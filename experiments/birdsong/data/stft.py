"""Spectrograms: magnitudes of short-time Fourier transforms, and mel filters."""

import functools
import threading

import numpy as np

from birdsong.files import Problem

# == Frames and bins ==


def hop(cfg):
    """Samples between the starts of neighbouring frames."""
    return int(cfg['sample_rate'] // cfg['fps'])


def num_bins(cfg):
    """Frequency bins that the network needs: those up to mel_max, or all with filterbank=mel_learn.

    With filterbank=none, `bins` in cfg overrides this (see model.note_bins). Raises Problem if mel_max lies above half the
    sample rate.
    """
    bins = cfg['frame_len'] // 2 + 1
    if cfg['filterbank'] == 'mel_learn':
        return bins
    if cfg['filterbank'] == 'none' and 'bins' in cfg:
        return cfg['bins']
    if 2 * cfg['mel_max'] > cfg['sample_rate']:
        raise Problem(f'mel_max={cfg["mel_max"]}: must not lie above half of sample_rate={cfg["sample_rate"]}')
    return int(bins * 2 * cfg['mel_max'] // cfg['sample_rate'])


def num_frames(samples, frame_len, hop):
    """Frames of a signal of so many samples: those that lie wholly in it."""
    return 1 + (samples - frame_len) // hop if samples >= frame_len else 0


# == Spectrograms ==

# Frames that are transformed at once: as many as fit the cache of a core, since each call makes other threads wait for it to return.
FRAMES = 64
_local = threading.local()
_planning = threading.Lock()


@functools.lru_cache(None)
def window(frame_len):
    """Symmetric Hann window, float32 (frame_len,)."""
    w = np.hanning(frame_len).astype(np.float32)
    w.flags.writeable = False
    return w


def spectrogram(samples, sample_rate, frame_len, fps, bins=None, out=None):
    """Magnitudes of the Fourier transforms of Hann-windowed frames, float32 (frames, bins).

    `samples` (N,) of any real dtype are taken as they are, without scaling. Frames start every
    int(sample_rate // fps) samples and lie wholly in the signal: none if it is shorter than `frame_len`.
    Only the first `bins` frequency bins are kept (default: all frame_len // 2 + 1). `out`, if given, is filled.
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
    fused = _fused() if frame_len % 2 == 0 else None
    if fused:
        _fused_spectrogram(fused, np.ascontiguousarray(samples), step, frame_len, out)
    else:
        _plain_spectrogram(samples, step, window(frame_len), out)
    return out


def _fused_spectrogram(fused, samples, step, frame_len, out):
    plans = _local.__dict__.setdefault('plans', {})
    if frame_len not in plans:
        plans[frame_len] = _Transform(frame_len)
    plan = plans[frame_len]
    half, count = frame_len // 2, len(plan.frames)
    inner = min(out.shape[1], half)
    for k in range(0, len(out), count):
        rows = out[k : k + count]
        fused.cut_frames(samples, k * step, step, plan.window, plan.frames[: len(rows)])
        halves = plan.execute()
        fused.magnitudes(halves, plan.real, plan.imag, plan.cosine, plan.sine, rows[:, :inner])
        if out.shape[1] > half:
            rows[:, half] = np.abs(halves[: len(rows), 0] - halves[: len(rows), 1]) * 2


class _Transform:
    """Complex transforms of some frames at once, and all their scratch, for one thread."""

    def __init__(self, frame_len):
        half = frame_len // 2
        angles = np.pi * np.arange(half) / half
        self.cosine, self.sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.real, self.imag = np.empty((2, half), np.float32)
        # Halving is exact, and saves doing it for every magnitude.
        self.window = window(frame_len) * np.float32(0.5)
        pyfftw = _pyfftw()
        if pyfftw:
            with _planning:
                source, result = (pyfftw.empty_aligned((FRAMES, half), 'complex64') for _ in range(2))
                # Measured plans are hardly faster for these transforms, and differ from run to run in their rounding.
                plan = pyfftw.FFTW(source, result, flags=('FFTW_ESTIMATE', 'FFTW_DESTROY_INPUT'), threads=1)
            source[:] = 0
            halves = result.view(np.float32)
            self.execute = lambda: plan.execute() or halves
        else:
            from scipy.fft import fft

            source = np.zeros((FRAMES, half), np.complex64)
            self.execute = lambda: fft(source, axis=1).view(np.float32)
        self.frames = source.view(np.float32)


def _plain_spectrogram(samples, step, win, out):
    from scipy.fft import rfft

    frame_len = len(win)
    for k in range(0, len(out), FRAMES):
        rows = out[k : k + FRAMES]
        # Converting a stretch of samples once is quicker than each of its overlapping frames.
        part = samples[k * step : (k + len(rows) - 1) * step + frame_len].astype(np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(part, frame_len)[::step]
        np.abs(rfft(frames * win, axis=1)[:, : out.shape[1]], out=rows)


@functools.lru_cache(None)
def _fused():
    try:
        from birdsong.data import stft_compiled

        return stft_compiled
    except ImportError:
        return None


@functools.lru_cache(None)
def _pyfftw():
    try:
        import pyfftw

        return pyfftw
    except ImportError:
        return None


# == Filterbank ==


def create_mel_filterbank(sample_rate, frame_len, num_bands, min_freq, max_freq):
    """Triangular filters on the mel scale 1127 ln(1 + f / 700), float64 (frame_len // 2 + 1 bins, bands).

    Frequencies are in Hz. The `num_bands` + 2 edges and peaks are equally spaced in mel; each slope is a line
    through its zero in Hz, divided by its width in bins; each filter sums to 1, or is 0 if no bin lies in it.
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
