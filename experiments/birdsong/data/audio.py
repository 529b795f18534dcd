"""Recordings and spectrograms: WAV files as memory maps, magnitudes of short-time Fourier transforms, mel filters."""

import collections
import functools
import mmap
import os
import struct
import threading

import numpy as np

from birdsong.files import Problem, open_regular

Header = collections.namedtuple('Header', 'sample_rate channels width length offset')

PCM, EXTENSIBLE = 1, 0xFFFE
DTYPES = {1: np.dtype('u1'), 2: np.dtype('<i2'), 4: np.dtype('<i4')}
ANEW = 'convert it again (prepare_birdclef.sh does what is missing, so delete it first)'


# == WAV files ==


def read_header(filename):
    """Header of a RIFF WAVE file of integer samples: (sample_rate in Hz, channels, width in bytes of a sample,
    length in samples per channel, offset of the first sample in bytes).

    Raises Problem if the file is missing, empty, truncated or anything else than integer PCM.
    """
    try:
        with open_regular(filename, buffering=0) as f:
            size = os.fstat(f.fileno()).st_size
            return _parse_header(f, size)
    except (FileNotFoundError, NotADirectoryError):
        raise Problem(f'{filename}: no such recording; prepare the data set again') from None
    except OSError as e:
        raise Problem(f'{filename}: cannot be read ({e.strerror})') from None
    except ValueError as e:
        raise Problem(f'{filename}: {e}; {ANEW}') from None


def _parse_header(f, size):
    start = f.read(512)
    if not start:
        raise ValueError('an empty file')
    if len(start) < 12 or start[:4] != b'RIFF' or start[8:12] != b'WAVE':
        raise ValueError('not a WAVE file')

    def read(position, count):
        if position + count <= len(start):
            return start[position : position + count]
        f.seek(position)
        return f.read(count)

    position, form = 12, None
    while True:
        head = read(position, 8)
        if len(head) < 8:
            raise ValueError('truncated: it ends before its samples')
        name, length = struct.unpack('<4sI', head)
        position += 8
        if name == b'fmt ':
            body = read(position, min(length, 40))
            if len(body) < 16:
                raise ValueError('truncated in its format chunk')
            tag, channels, rate, _, _, bits = struct.unpack('<HHIIHH', body[:16])
            if tag == EXTENSIBLE and len(body) >= 26:
                tag = struct.unpack('<H', body[24:26])[0]
            if tag != PCM:
                raise ValueError(f'samples of format {int(tag)}, not integer PCM')
            if not channels or not rate or not 1 <= bits <= 64:
                raise ValueError(f'a broken format chunk ({int(channels)} channels, {int(rate)} Hz, {int(bits)} bits)')
            form = rate, channels, (bits + 7) // 8
        elif name == b'data':
            if form is None:
                raise ValueError('samples without a format')
            if position + length > size:
                raise ValueError(f'truncated: {int(size - position)} of {int(length)} bytes of samples')
            rate, channels, width = form
            return Header(rate, channels, width, length // (channels * width), position)
        # A chunk of odd length is followed by a byte that does not count.
        position += length + (length & 1)


def check_header(header, filename, sample_rate):
    """Raises Problem unless `header` is that of a mono 16 bit recording at `sample_rate` Hz."""
    if header.sample_rate != sample_rate or header.channels != 1 or header.width != 2:
        raise Problem(
            f'{filename}: {int(header.sample_rate)} Hz, {int(header.channels)} channel(s), {int(8 * header.width)} bit, expected {int(sample_rate)} Hz mono 16 bit; prepare the data set again, or set sample_rate'
        )


class WavFile:
    """A WAV file: what `read_header` gives as attributes, and `.samples`, a read-only memory map.

    Samples have the shape (length,), or (length, channels) if there are several channels; 8 bit samples are
    unsigned (0..255), wider ones signed. `len(wav)` is the length, `wav[start:stop]` reads only these samples.
    With `sample_rate`, anything but mono 16 bit at that rate is refused. Raises Problem as `read_header` does, and for 24 bit.
    """

    def __init__(self, filename, sample_rate=None):
        self.filename = filename
        header = read_header(filename)
        if sample_rate is not None:
            check_header(header, filename, sample_rate)
        for name, value in header._asdict().items():
            setattr(self, name, value)
        if self.width not in DTYPES:
            raise Problem(f'{filename}: {int(8 * self.width)} bit samples; convert it to 16 bit')
        self.samples = map_samples(filename, header)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, where) -> np.ndarray:
        return self.samples[where]


def map_samples(filename, header):
    """The samples of a recording as a read-only memory map, without reading its header again."""
    dtype = DTYPES[header.width]
    shape = (header.length,) if header.channels == 1 else (header.length, header.channels)
    if not header.length:
        return np.zeros(shape, dtype)
    with open_regular(filename) as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype, header.length * header.channels, header.offset).reshape(shape)


def release(samples):
    """Have what was read of a recording that `map_samples` mapped count as memory no more; it is read again where needed."""
    while isinstance(samples, np.ndarray):
        samples = samples.base
    samples = getattr(samples, 'obj', samples)
    if isinstance(samples, mmap.mmap) and hasattr(samples, 'madvise'):
        samples.madvise(mmap.MADV_DONTNEED)


# == Settings ==


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
