"""The dataset on which the golden cases of feed and prediction were recorded.

Its recordings are synthetic, noise and chirps drawn from seeds, so they are generated here with exactly the same
samples. Lists and labels are in fixtures/golden_dataset/.
"""

import pathlib
import shutil
import wave

import numpy as np

FIXTURE = pathlib.Path(__file__).resolve().parent / 'fixtures' / 'golden_dataset'
RATE = 22050
# Recording -> number of samples; the position of a recording is its seed.
TRAIN = {
    'LIFECLEF2014_BIRDAMAZON_XC_WAV_RN11': 6615,
    'LIFECLEF2014_BIRDAMAZON_XC_WAV_RN12': 19843,
    'LIFECLEF2015_BIRDAMAZON_XC_WAV_RN2101': 37485,
    'LIFECLEF2015_BIRDAMAZON_XC_WAV_RN2102': 68356,
    'LIFECLEF2017_BIRDAMAZON_XC_WAV_RN30001': 108045,
    'LIFECLEF2017_BIRDAMAZON_XC_WAV_RN30002': 137813,
    'LIFECLEF2017_BIRDAMAZON_XC_WAV_RN30003': 315315,
    'LIFECLEF2017_BIRDAMAZON_XC_WAV_RN30004': 882001,
}
# Recordings with at least this number of samples are silent for a tenth of a second after their first third.
LONG = 60000
# The soundscape is a sequence of three pieces.
SOUNDSCAPE, SOUNDSCAPE_LENGTH = 'LIFECLEF2018_BIRDAMAZON_XC_WAV_RN40001', 1543623
PIECES = '11010201012110120200000122120012110'


def sounds(seed: int, length: int) -> np.ndarray:
    """int16 (length,): noise, and chirps one after the other, each a linear sweep under a Hann window."""
    rng = np.random.RandomState(seed)
    samples, start = 40 * rng.randn(length), 0
    while start < length:
        duration, begin, end = rng.uniform(0.05, 0.4), rng.uniform(800, 9000), rng.uniform(800, 9000)
        level = rng.uniform(200, 9000)
        count = int(duration * RATE)
        t = np.arange(count) / RATE
        chirp = level * np.hanning(count) * np.sin(2 * np.pi * (begin * t + (end - begin) * t * t / (2 * count / RATE)))
        samples[start : start + count] += chirp[: length - start]
        start += int(count * rng.uniform(0.6, 2.5))
    return np.round(samples).astype(np.int16)


def recordings() -> dict[str, tuple[np.ndarray, int, int]]:
    """Path below audio/ -> samples as stored, number of channels, sample rate."""
    result = {}
    for seed, (name, length) in enumerate(TRAIN.items()):
        samples = sounds(seed, length)
        if length >= LONG:
            samples[length // 3 : length // 3 + RATE // 10] = 0
        result[f'train/{name}.wav'] = samples, 1, RATE
    pieces = [sounds(1000 + i, 2 * RATE + 11 * i) for i in range(3)]
    soundscape = np.concatenate([pieces[int(i)] for i in PIECES])[:SOUNDSCAPE_LENGTH]
    result[f'test/{SOUNDSCAPE}.wav'] = soundscape, 1, RATE
    # Formats that the original rejected: another sample rate, two channels, 8 bits.
    short = sounds(5, 2000)
    result['bad/rate44k_RN2.wav'] = short, 1, 2 * RATE
    result['bad/stereo_RN1.wav'] = sounds(5, 4000), 2, RATE
    result['bad/width1_RN3.wav'] = (short // 256 + 128).astype(np.uint8), 1, RATE
    return result


def write(folder: pathlib.Path) -> None:
    """Write the dataset into a new folder."""
    shutil.copytree(FIXTURE, folder)
    for key, (samples, channels, rate) in recordings().items():
        path = folder / 'audio' / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), 'wb') as f:
            f.setparams((channels, samples.itemsize, rate, 0, 'NONE', 'not compressed'))
            f.writeframes(samples.astype(samples.dtype.newbyteorder('<')).tobytes())
