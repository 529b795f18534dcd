"""Random excerpts and their augmentation, as pure functions of a random generator."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# scipy warns in every process about a change in version 0.18 that does not affect this code.
warnings.filterwarnings('ignore', 'The behavior of affine_transform')


# == Excerpts ==


def make_buckets(lengths: np.ndarray, shortest: int, longest: int, count: int) -> list[np.ndarray]:
    """Group recordings by length: a list of index arrays, none of them empty, sorted by length.

    `lengths` (N,), `shortest` and `longest` are in samples. Recordings shorter than `shortest` form one group, those
    not shorter than `longest` another. The rest is divided into groups of equal size (at least one), for a total of
    `count` groups. If `count` is 0, all recordings form one group.
    """
    if not count:
        return [np.arange(len(lengths))]
    order = np.argsort(lengths, kind='stable')
    low, high = np.searchsorted(np.asarray(lengths)[order], (shortest, longest))
    low = min(low, high)
    ends = [group for group in (order[:low], order[high:]) if len(group)]
    middle = np.array_split(order[low:high], max(1, count - len(ends)))
    groups = [order[:low], *middle, order[high:]]
    return [group for group in groups if len(group)]


def draw_items(buckets: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Index array (count,): items drawn from one bucket, without replacement unless it has too few.

    The probability of a bucket is proportional to its size, so that all items are equally likely.
    """
    sizes = np.array([len(bucket) for bucket in buckets])
    bucket = buckets[np.searchsorted(np.cumsum(sizes), rng.integers(sizes.sum()), side='right')]
    return rng.choice(bucket, count, replace=len(bucket) < count)


def excerpt_length(lengths: np.ndarray, shortest: int, longest: int) -> int:
    """Length of the excerpts of a batch in samples: that of the shortest recording, within `shortest`..`longest`."""
    return int(min(max(np.min(lengths), shortest), longest))


def draw_starts(lengths: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Starts of excerpts of `length` samples, uniformly distributed; 0 for recordings that are shorter."""
    return rng.integers(np.maximum(np.asarray(lengths) - length, 0) + 1)


def loop(out: np.ndarray, length: int) -> None:
    """Fill `out` (N,) by repeating its first `length` samples, or with zeros if `length` is 0."""
    if not length:
        out[:] = 0
        return
    # Each step doubles the filled part.
    while length < len(out):
        step = min(length, len(out) - length)
        out[length : length + step] = out[:step]
        length += step


def grab_random_excerpts(
    wavs: Sequence,
    labels: Sequence,
    batchsize: int,
    max_len: int,
    min_len: int = 0,
    buckets: int = 1,
    rng: np.random.Generator | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless training batches (excerpts, labels) from `wavs`, arrays or audio.WavFile objects, with one label each.

    All excerpts of a batch (batchsize, N) have the length of its shortest recording, within min_len..max_len samples;
    shorter recordings are looped. Recordings are grouped into `buckets` of similar length, so that little is cut off.
    TrainFeed in training_feed.py draws in the same way.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    lengths, labels = np.array([len(wav) for wav in wavs]), np.asarray(labels)
    groups = make_buckets(lengths, min_len, max_len, buckets)
    empty = wavs[0][:0]
    while True:
        items = draw_items(groups, batchsize, rng)
        length = excerpt_length(lengths[items], min_len, max_len)
        excerpts = np.empty((batchsize, length, *empty.shape[1:]), empty.dtype)
        for excerpt, item, start in zip(excerpts, items, draw_starts(lengths[items], length, rng), strict=True):
            part = wavs[item][start : start + length]
            excerpt[: len(part)] = part
            loop(excerpt, len(part))
        yield excerpts, labels[items]


# == Mixing ==


def mixing_weights(cfg: Mapping[str, Any], count: int, rng: np.random.Generator) -> np.ndarray | None:
    """Weights of the first excerpts of pairs, float32 (count,), or None if neither mixup nor mixup2 is set.

    Drawn from Beta(mixup + 1, mixup) or Beta(mixup2, mixup2) (Zhang et al., "mixup", ICLR 2018).
    """
    if cfg['mixup']:
        return rng.beta(cfg['mixup'] + 1, cfg['mixup'], count).astype(np.float32)
    if cfg['mixup2']:
        return rng.beta(cfg['mixup2'], cfg['mixup2'], count).astype(np.float32)
    return None


def mix(first: np.ndarray, second: np.ndarray, weights: np.ndarray | float) -> np.ndarray:
    """weights * first + (1 - weights) * second, float32. `weights`: (B,), along the first axis of both, or a number."""
    weights = np.asarray(weights, np.float32).reshape((-1,) + (1,) * (np.ndim(first) - 1))
    return np.multiply(first, weights, dtype=np.float32) + np.multiply(second, 1 - weights, dtype=np.float32)


# == Spectrograms ==


def draw_filters(count: int, bins: int, max_freq: float, max_db: float, rng: np.random.Generator) -> np.ndarray:
    """Random filter responses, each a Gaussian in dB, as factors of magnitudes, float32 (count, bins).

    The centre is uniformly distributed on the pitch scale between 150 Hz and `max_freq` Hz, the standard deviation is
    5 + 2 N(0, 1) semitones, and the height is uniformly distributed within +-`max_db` (Schlueter, Grill, ISMIR 2015).
    """
    lowest, highest = 12 * np.log2(150), 12 * np.log2(max_freq)
    centre = lowest + rng.random(count) * (highest - lowest)
    deviation = 5 + 2 * rng.standard_normal(count)
    gain = max_db * (2 * rng.random(count) - 1)
    return filter_responses(centre, deviation, gain, bins, max_freq)


def filter_responses(
    centre: np.ndarray, deviation: np.ndarray, gain: np.ndarray, bins: int, max_freq: float
) -> np.ndarray:
    """Responses of Gaussian filters as factors of magnitudes, float32 (N, bins); the bins cover 0 to `max_freq` Hz.

    `centre` and `deviation` (N,) are in semitones (12 log2 Hz), `gain` (N,) in dB.
    """
    bins_per_hz = bins / max_freq
    middle = 2 ** (centre / 12)
    width = 2 ** ((centre + deviation) / 12) - middle
    width = np.where(width == 0, 1e-9, width)
    distance = (np.arange(bins) - middle[:, None] * bins_per_hz) / (width[:, None] * bins_per_hz)
    return (10 ** (gain[:, None] * np.exp(-0.5 * distance**2) / 20)).astype(np.float32)


def kept_frames(frames: int, max_stretch: float) -> int:
    """Number of frames that remain of `frames` after the largest compression."""
    return int(frames * (1 - max_stretch))


def needed_bins(bins: int, max_shift: float, available: int) -> int:
    """Number of bins, at most `available`, that are needed if pitch is shifted down by the factor 1 - `max_shift`."""
    return available if max_shift >= 1 else min(available, int(np.ceil(bins / (1 - max_shift))) + 1)


def stretch_shift(spect: np.ndarray, stretch: float, shift: float, out: np.ndarray, order: int = 2) -> None:
    """Stretch a spectrogram (frames, bins) in time and shift it in pitch by one affine transform, into `out`.

    `stretch` > 1 makes it longer, `shift` > 1 higher. `out` gets the central frames and the lowest bins of the result.
    Values outside of the spectrogram are 0, and negative values, which are possible with splines, become 0. If `out`
    has kept_frames(frames, max_stretch) frames, all of them lie within the spectrogram.
    """
    from scipy.ndimage import affine_transform

    # The formula of 2018, although the offset should be in frames of the original, not of the stretched excerpt.
    offset = (len(spect) * stretch - len(out)) / 2
    affine_transform(spect, (1 / stretch, 1 / shift), (offset, 0), out.shape, out, order=order, mode='constant')
    np.maximum(out, 0, out=out)
