"""Random excerpts and their augmentation, as pure functions of a random generator."""

import warnings

import numpy as np

# What scipy 0.18 changed doesn't concern us, but it says so in every process.
warnings.filterwarnings('ignore', 'The behavior of affine_transform')


# == Excerpts ==


def make_buckets(lengths, shortest, longest, count):
    """Cuts recordings into groups of similar length: a list of index arrays (not empty, sorted by length).

    `lengths` (N,), `shortest` and `longest` in samples. One group holds those shorter than `shortest`, one those
    not shorter than `longest`, each only if there are such; the rest is split evenly by number into what remains
    of `count` groups, at least one.
    """
    order = np.argsort(lengths, kind='stable')
    low, high = np.searchsorted(np.asarray(lengths)[order], (shortest, longest))
    low = min(low, high)
    ends = [group for group in (order[:low], order[high:]) if len(group)]
    middle = np.array_split(order[low:high], max(1, count - len(ends)))
    groups = [order[:low], *middle, order[high:]]
    return [group for group in groups if len(group)]


def draw_items(buckets, count, rng):
    """Index array (count,): items of one bucket, drawn without replacement (with, if it has too few).

    A bucket is drawn with a probability proportional to its size, so that every item has the same chance.
    """
    sizes = np.array([len(bucket) for bucket in buckets])
    bucket = buckets[np.searchsorted(np.cumsum(sizes), rng.integers(sizes.sum()), side='right')]
    return rng.choice(bucket, count, replace=len(bucket) < count)


def excerpt_length(lengths, shortest, longest):
    """Samples that the excerpts of a batch get: as the shortest recording, within `shortest`..`longest`."""
    return int(min(max(np.min(lengths), shortest), longest))


def draw_starts(lengths, length, rng):
    """Index array: where excerpts of `length` samples start, uniform over all places; 0 for what must be looped."""
    return rng.integers(np.maximum(np.asarray(lengths) - length, 0) + 1)


def loop(out, length):
    """Fills out (N,) from its own first `length` samples, over and over; with zeros if there are none."""
    if not length:
        out[:] = 0
        return
    # Doubling what is there copies in few large steps.
    while length < len(out):
        step = min(length, len(out) - length)
        out[length : length + step] = out[:step]
        length += step


def grab_random_excerpts(wavs, labels, batchsize: int, max_len: int, min_len: int = 0, buckets: int = 1, rng=None):
    """Endless training batches (excerpts, labels) of `wavs`: arrays or audio.WavFile objects, with one label each.

    All excerpts of a batch (batchsize, N) are as long as the shortest of its recordings, within min_len..max_len samples;
    shorter recordings are looped. Recordings are grouped into `buckets` of similar length, so that little is cut off.
    `rng` is a numpy Generator (default: seed 0). The feed in data.py draws in the same way.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    lengths, labels = np.array([len(wav) for wav in wavs]), np.asarray(labels)
    groups = make_buckets(lengths, min_len, max_len, buckets)
    empty = wavs[0][:0]
    while True:
        items = draw_items(groups, batchsize, rng)
        length = excerpt_length(lengths[items], min_len, max_len)
        excerpts = np.empty((batchsize, length, *empty.shape[1:]), empty.dtype)
        for excerpt, item, start in zip(excerpts, items, draw_starts(lengths[items], length, rng)):
            part = wavs[item][start : start + length]
            excerpt[: len(part)] = part
            loop(excerpt, len(part))
        yield excerpts, labels[items]


# == Mixing ==


def mixing_weights(cfg, count, rng):
    """float32 (count,): weights of the first excerpts of pairs, or None if neither mixup nor mixup2 is set.

    Drawn from Beta(mixup + 1, mixup) or Beta(mixup2, mixup2) (Zhang et al., "mixup", ICLR 2018).
    """
    if cfg['mixup']:
        return rng.beta(cfg['mixup'] + 1, cfg['mixup'], count).astype(np.float32)
    if cfg['mixup2']:
        return rng.beta(cfg['mixup2'], cfg['mixup2'], count).astype(np.float32)
    return None


def mix(first, second, weights):
    """float32: weights x first + (1 - weights) x second, `weights` (B,) along the first axis of both."""
    weights = np.asarray(weights, np.float32).reshape((-1,) + (1,) * (np.ndim(first) - 1))
    return np.multiply(first, weights, dtype=np.float32) + np.multiply(second, 1 - weights, dtype=np.float32)


# == Spectrograms ==


def draw_filters(count, bins, max_freq, max_db, rng):
    """Random filter responses, factors, float32 (count, bins): a Gaussian in dB each.

    Centre uniform on the pitch scale between 150 Hz and `max_freq` Hz, standard deviation 5 + 2 N(0, 1) semitones
    above it, height uniform within +-`max_db` (Schlueter and Grill, ISMIR 2015).
    """
    lowest, highest = 12 * np.log2(150), 12 * np.log2(max_freq)
    centre = lowest + rng.random(count) * (highest - lowest)
    deviation = 5 + 2 * rng.standard_normal(count)
    gain = max_db * (2 * rng.random(count) - 1)
    return filter_responses(centre, deviation, gain, bins, max_freq)


def filter_responses(centre, deviation, gain, bins, max_freq):
    """Factors, float32 (N, bins), of Gaussian filters: `centre` (N,) and `deviation` in semitones (12 log2 Hz),
    `gain` in dB; the bins cover 0 to `max_freq` Hz."""
    bins_per_hz = bins / max_freq
    middle = 2 ** (centre / 12)
    width = 2 ** ((centre + deviation) / 12) - middle
    # A deviation of exactly 0 would be a filter that touches no bin.
    width = np.where(width == 0, 1e-9, width)
    distance = (np.arange(bins) - middle[:, None] * bins_per_hz) / (width[:, None] * bins_per_hz)
    return (10 ** (gain[:, None] * np.exp(-0.5 * distance**2) / 20)).astype(np.float32)


def kept_frames(frames, max_stretch):
    """Frames that an excerpt of so many still has after the largest compression."""
    return int(frames * (1 - max_stretch))


def needed_bins(bins, max_shift, available):
    """Bins that a pitch shift down by the factor 1 - `max_shift` reads to fill `bins`."""
    return available if max_shift >= 1 else min(available, int(np.ceil(bins / (1 - max_shift))) + 1)


def stretch_shift(spect, stretch, shift, out, order=2):
    """Stretches a spectrogram (frames, bins) in time and shifts it in pitch by one affine transform, into `out`.

    `stretch` > 1 makes it longer, `shift` > 1 higher. Of the result, central frames and the lowest bins that fit
    `out` are kept; what lies beyond the spectrogram is 0, and so is what the splines of `order` make negative.
    With kept_frames(frames, max_stretch) frames in `out`, nothing lies beyond.
    """
    from scipy.ndimage import affine_transform

    # The original's formula: the middle of the stretched frames, though counted in frames of the excerpt.
    offset = (len(spect) * stretch - len(out)) / 2
    affine_transform(spect, (1 / stretch, 1 / shift), (offset, 0), out.shape, out, order=order, mode='constant')
    np.maximum(out, 0, out=out)
