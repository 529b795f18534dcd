"""Sounds and images of excerpts for a web page: FLAC, which all browsers play, and spectrograms as PNG."""

import io

import numpy as np
import soundfile
import soxr
from PIL import Image

from birdsong.data import stft

# Sample rates that all browsers play; others are resampled.
MIN_RATE, MAX_RATE = 8000, 48000
# The loudest sample of a clip gets this amplitude, unless that would amplify it by more than MAX_GAIN.
PEAK, MAX_GAIN = 0.7, 100.0
FADE = 0.01
# Length of spectrogram frames in seconds, frames per second, most columns of an image.
FRAME, FPS, MAX_COLUMNS = 0.023, 100, 1200
# Grey levels of the image cover at least this range, upwards from the median.
DECIBELS = 45


def flac(samples: np.ndarray, rate: int) -> bytes:
    """A FLAC file (16 bit) of samples (N,) from -1 to 1, with equalised loudness and smooth ends."""
    samples = samples - samples.mean()
    played = min(max(rate, MIN_RATE), MAX_RATE)
    if played != rate:
        samples = soxr.resample(samples, rate, played)
    samples *= min(PEAK / max(np.abs(samples).max(), 1e-9), MAX_GAIN)
    fade = min(round(FADE * played), len(samples) // 2)
    if fade:
        samples[:fade] *= np.linspace(0, 1, fade)
        samples[-fade:] *= np.linspace(1, 0, fade)
    out = io.BytesIO()
    soundfile.write(out, samples, played, 'PCM_16', format='FLAC')
    return out.getvalue()


def spectrogram(samples: np.ndarray, rate: int, highest: float) -> bytes:
    """A PNG of the spectrogram of samples (N,) from 0 to `highest` Hz, in 16 grey levels: the louder, the darker.

    Frequencies above half of the sample rate are white.
    """
    frame_len = 2 * round(FRAME * rate / 2)
    samples = np.pad(samples, frame_len // 2)
    fps = min(FPS, MAX_COLUMNS * rate / len(samples))
    bins = max(2, round(highest * frame_len / rate))
    magnitudes = stft.spectrogram(samples, rate, frame_len, fps)[:, :bins]
    decibels = 20 * np.log10(np.maximum(magnitudes, 1e-6))
    floor = np.median(decibels)
    top = max(floor + DECIBELS, np.quantile(decibels, 0.999))
    levels = np.zeros((len(decibels), bins))
    levels[:, : decibels.shape[1]] = np.clip((decibels - floor) / (top - floor), 0, 1)
    return png(15 - np.rint(15 * levels.T[::-1]).astype(np.uint8))


def png(grey: np.ndarray) -> bytes:
    """A PNG of an image (height, width) of grey levels from 0 to 15."""
    image = Image.frombytes('P', grey.shape[::-1], grey.tobytes())
    image.putpalette(np.repeat(np.arange(0, 256, 17, np.uint8), 3).tobytes())
    out = io.BytesIO()
    image.save(out, 'PNG', bits=4, optimize=True)
    return out.getvalue()
