"""Sounds and images of excerpts for a web page: FLAC or MP3, which all browsers play, spectrograms as PNG or JPEG."""

import io

import numpy as np
import soundfile
import soxr
from PIL import Image

from birdsong.data import stft

# Sample rates that all browsers play; others are resampled. MP3 has only some of them.
MIN_RATE, MAX_RATE = 8000, 48000
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# From 0 (large) to 1 (small): about 40 kbit/s for recordings of birds with 22050 Hz.
MP3_COMPRESSION = 0.7
# The loudest sample of a clip gets this amplitude, unless that would amplify it by more than MAX_GAIN.
PEAK, MAX_GAIN = 0.7, 100.0
FADE = 0.01
# Length of spectrogram frames in seconds, frames per second, most columns of an image.
FRAME, FPS, MAX_COLUMNS = 0.023, 100, 1200
# Grey levels of the image cover at least this range, upwards from the median.
DECIBELS = 45


def flac(samples: np.ndarray, rate: int) -> bytes:
    """A FLAC file (16 bit) of samples (N,) from -1 to 1, with equalised loudness and smooth ends."""
    played = min(max(rate, MIN_RATE), MAX_RATE)
    return _encoded(_prepared(samples, rate, played), played, format='FLAC', subtype='PCM_16')


def mp3(samples: np.ndarray, rate: int) -> bytes:
    """As `flac`, but an MP3 file, which is about eight times smaller."""
    played = next((known for known in MP3_RATES if known >= rate), MAX_RATE)
    options = {'bitrate_mode': 'VARIABLE', 'compression_level': MP3_COMPRESSION}
    return _encoded(_prepared(samples, rate, played), played, format='MP3', subtype='MPEG_LAYER_III', **options)


def _prepared(samples: np.ndarray, rate: int, played: int) -> np.ndarray:
    """The samples at the rate `played`, with equalised loudness and smooth ends."""
    samples = samples - samples.mean()
    if played != rate:
        samples = soxr.resample(samples, rate, played)
    samples *= min(PEAK / max(np.abs(samples).max(), 1e-9), MAX_GAIN)
    fade = min(round(FADE * played), len(samples) // 2)
    if fade:
        samples[:fade] *= np.linspace(0, 1, fade)
        samples[-fade:] *= np.linspace(1, 0, fade)
    return samples


def _encoded(samples: np.ndarray, rate: int, **options) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, **options)
    return out.getvalue()


def levels(
    samples: np.ndarray, rate: int, highest: float, frame: float = FRAME, columns: int = MAX_COLUMNS
) -> np.ndarray:
    """The spectrogram of samples (N,) as an image (height, width) of levels from 0 to 1 (loud), low frequencies last.

    It shows the frequencies from 0 to `highest` Hz, with 0 above half of the sample rate, in at most `columns` columns;
    `frame` is the length of its frames in seconds.
    """
    frame_len = 2 * round(frame * rate / 2)
    samples = np.pad(samples, frame_len // 2)
    fps = min(FPS, columns * rate / len(samples))
    bins = max(2, round(highest * frame_len / rate))
    magnitudes = stft.spectrogram(samples, rate, frame_len, fps)[:, :bins]
    decibels = 20 * np.log10(np.maximum(magnitudes, 1e-6))
    floor = np.median(decibels)
    top = max(floor + DECIBELS, np.quantile(decibels, 0.999))
    result = np.zeros((len(decibels), bins))
    result[:, : decibels.shape[1]] = np.clip((decibels - floor) / (top - floor), 0, 1)
    return result.T[::-1]


def spectrogram(samples: np.ndarray, rate: int, highest: float) -> bytes:
    """A PNG of `levels` in 16 grey levels: the louder, the darker."""
    return png(15 - np.rint(15 * levels(samples, rate, highest)).astype(np.uint8))


def jpeg(image: np.ndarray, quality: int = 50) -> bytes:
    """A JPEG of an image (height, width) of levels from 0 to 1, in 256 grey levels: the higher, the darker."""
    out = io.BytesIO()
    Image.fromarray(255 - np.rint(255 * image).astype(np.uint8)).save(out, 'JPEG', quality=quality, optimize=True)
    return out.getvalue()


def png(grey: np.ndarray) -> bytes:
    """A PNG of an image (height, width) of grey levels from 0 to 15."""
    image = Image.frombytes('P', grey.shape[::-1], grey.tobytes())
    image.putpalette(np.repeat(np.arange(0, 256, 17, np.uint8), 3).tobytes())
    out = io.BytesIO()
    image.save(out, 'PNG', bits=4, optimize=True)
    return out.getvalue()
