"""Augmentation that the 2018 system does not have: shifts, fades, gains, noise, masks, from a random generator."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from birdsong.files import Problem

# Samples whose factors are computed together
BLOCK = 256


class Effects(NamedTuple):
    """The random choices for B excerpts, None for effects that are not set."""

    fades: np.ndarray | None = None  # (B, 3): parameters of `fade`
    gains: np.ndarray | None = None  # (B,): factors of the magnitudes
    noise: list[tuple[int, int, float] | None] | None = (
        None  # B times recording, start in samples, ratio in dB, or None
    )
    masks: np.ndarray | None = None  # (B, masks, 4), see `draw_masks`
    shifts: list[int] | None = None  # circular shifts in samples; 2 B if excerpts are mixed in pairs

    @property
    def change_samples(self) -> bool:
        """Whether samples are changed, which makes them floating-point numbers."""
        return self.fades is not None or self.noise is not None


def draw(
    cfg: Mapping[str, Any],
    count: int,
    frames: int,
    bands: int,
    noise_lengths: np.ndarray | None,
    rng: np.random.Generator,
) -> Effects:
    """Effects for `count` excerpts, whose scaled spectrograms have `frames` and `bands`, according to the settings.

    `noise_lengths` (N,): lengths of the recordings of noise in samples, which are all equally likely, or None.
    """
    return Effects(
        draw_fades(count, cfg['fade'], rng) if cfg['fade'] else None,
        draw_gains(count, cfg['gain_db'], rng) if cfg['gain_db'] else None,
        None if noise_lengths is None else draw_noise(cfg, count, noise_lengths, rng),
        draw_masks(cfg, count, frames, bands, rng),
    )


# == Samples ==


def draw_shifts(lengths: np.ndarray, length: int, rng: np.random.Generator) -> list[int]:
    """Circular shifts of excerpts of `length` samples from recordings of `lengths` (N,) samples.

    A recording of at least two excerpts is not shifted, because its excerpts start at many places anyway.
    """
    return np.where(lengths < 2 * length, rng.integers(length, size=len(lengths)), 0).tolist()


def draw_fades(count: int, max_db: float, rng: np.random.Generator) -> np.ndarray:
    """Parameters of `fade`, (count, 3): levels at start and end within -`max_db`..0 dB, and place of the peak, 0..1."""
    return rng.random((count, 3)) * (-max_db, -max_db, 1)


def fade(samples: np.ndarray, start: float, end: float, peak: float) -> None:
    """Attenuate float32 `samples` (N,) in place: from `start` dB up to 0 dB at the place `peak`, then down to `end` dB.

    The level in dB is linear before and after the peak.
    """
    place = int(peak * len(samples))
    for part, first, last in ((samples[:place], start, 0), (samples[place:], 0, end)):
        step = (last - first) / max(1, len(part))
        # Products of two powers, because a power for each sample would take longer than its spectrogram.
        blocks = _factors(first + step * BLOCK * np.arange(len(part) // BLOCK + 1))
        part *= np.outer(blocks, _factors(step * np.arange(min(BLOCK, len(part))))).ravel()[: len(part)]


def _factors(decibels: np.ndarray) -> np.ndarray:
    return (10 ** (decibels / 20)).astype(np.float32)


def ratio_range(text: str) -> tuple[float, float]:
    """(LOW, HIGH) of the setting noise_snr=LOW:HIGH. Raises Problem if that is no range."""
    try:
        low, high = map(float, text.split(':'))
    except ValueError:
        low, high = 1, 0
    if low > high:
        raise Problem(f'noise_snr={text}: expected LOW:HIGH in dB, with LOW not above HIGH, such as 0:20')
    return low, high


def draw_noise(
    cfg: Mapping[str, Any], count: int, lengths: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, int, float] | None]:
    """For each of `count` excerpts a recording, the start in it and a signal-to-noise ratio in dB, or None."""
    items = rng.integers(len(lengths), size=count)
    starts = rng.integers(np.maximum(lengths[items], 1))
    ratios = rng.uniform(*ratio_range(cfg['noise_snr']), count)
    chosen = rng.random(count) < cfg['noise_probability']
    choices = zip(items.tolist(), starts.tolist(), ratios.tolist(), strict=True)
    return [choice if used else None for choice, used in zip(choices, chosen, strict=True)]


def add_noise(samples: np.ndarray, noise: np.ndarray, ratio: float) -> None:
    """Add `noise` (N,), scaled to a signal-to-noise ratio in dB, to float32 `samples` (N,), in place.

    The same as torchaudio.functional.add_noise, without torch. Silent samples and silent noise change nothing.
    """
    noise = noise.astype(np.float32)
    # A sum of squares, because the result of a dot product may depend on the number of threads.
    signal, disturbance = (float(np.square(array).sum()) for array in (samples, noise))
    if signal and disturbance:
        samples += np.float32(np.sqrt(signal / disturbance) * 10 ** (-ratio / 20)) * noise


# == Spectrograms ==


def draw_gains(count: int, max_db: float, rng: np.random.Generator) -> np.ndarray:
    """Factors of magnitudes, float32 (count,), uniformly distributed in dB within +-`max_db`."""
    return _factors(max_db * (2 * rng.random(count) - 1))


def draw_masks(
    cfg: Mapping[str, Any], count: int, frames: int, bands: int, rng: np.random.Generator
) -> np.ndarray | None:
    """Masks for spectrograms (count, frames, bands): rectangles, int32 (count, masks, 4), or None if none are set.

    A rectangle is its first frame, the frame after its last one, its first band, the band after its last one. Time
    masks cover all bands, frequency masks all frames (SpecAugment, Park et al. 2019, arXiv:1904.08779).
    torchaudio.functional.mask_along_axis_iid draws the positions itself, from the generator of the device, so that
    batches would depend on the device and on what was drawn before.
    """
    first = int(cfg['time_masks'])
    masks = np.empty((count, first + int(cfg['freq_masks']), 4), np.int32)
    if not masks.size:
        return None
    masks[:] = 0, frames, 0, bands
    masks[:, :first, :2] = _draw_ranges(frames, cfg['time_mask_max'], masks[:, :first].shape[:2], rng)
    masks[:, first:, 2:] = _draw_ranges(bands, cfg['freq_mask_max'], masks[:, first:].shape[:2], rng)
    return masks


def _draw_ranges(size: int, widest: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Start and end of ranges within 0..`size`, int (*shape, 2); widths are uniform in 0..`widest` * `size`."""
    width = rng.integers(round(widest * size) + 1, size=shape)
    start = rng.integers(size - width + 1)
    return np.stack([start, start + width], -1)
