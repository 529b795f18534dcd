"""Invented species and their songs, as generate.py combines them to recordings."""

import collections

import numpy as np
import scipy.signal

YEARS = '2014', '2015', '2017'
# Names of species that do not exist are combined from these.
GENERA, EPITHETS = (
    'Cantor Silvula Fluvicanor Montavis Arboricen Nebulus Pratincus Umbracen Trillator Lunavis Ripacus Solivox '
    'Ventulus Altipes Rubecen Noctivox Campavis Litorcen Aurovox Frondicus',
    'minor major griseus viridis rufus albus niger montanus silvaticus palustris australis borealis striatus maculatus '
    'elegans modestus vulgaris rarus cantans tacitus ornatus pallidus fuscus roseus caeruleus brevis longipes '
    'solitarius gregarius andinus amazonicus riparius collaris cristatus flavus aureus umbrinus nocturnus matutinus '
    'vespertinus',
)
GENERA, EPITHETS = GENERA.split(), EPITHETS.split()

Syllable = collections.namedtuple('Syllable', 'kind ratio seconds width speed')
Species = collections.namedtuple('Species', 'class_id genus name year pitch dialects place spread elevation day hour')
Rng, Bird = np.random.Generator, tuple[float, float, int]


# == Species ==


def make_syllable(rng: Rng, kind: int) -> Syllable:
    """A random syllable of a kind from 0 to 6, see `sing_syllable`."""
    return Syllable(kind, rng.uniform(0.85, 1.2), rng.uniform(0.07, 0.35), rng.uniform(1.15, 1.6), rng.uniform(18, 45))


def make_species(seed: int, count: int) -> list[Species]:
    """Random species: names, songs, places and times."""
    rng = np.random.default_rng([seed, 1])
    pitches = 1100 * (6500 / 1100) ** ((rng.permutation(count) + rng.uniform(0.2, 0.8, count)) / count)
    # regions, elevations, seasons and hours are evenly distributed, too, each in another order
    shares = [(rng.permutation(count) + 0.5) / count for _ in range(5)]
    pairs = rng.permutation(len(GENERA) * len(EPITHETS))[:count]
    kinds = rng.permutation(np.arange(count) % 7)
    ids = set()
    result = []
    for s in range(count):
        class_id = ''
        while not class_id or class_id in ids:
            class_id = ''.join(rng.choice(list('abcdefghijklmnoprstuvwy'), 6))
        ids.add(class_id)
        parts = [make_syllable(rng, int(kinds[s])), make_syllable(rng, int(rng.integers(7)))]
        patterns = ([0, 0, 1], [0, 1, 0, 1], [0] * 4, [0, 0, 0, 1, 1], [0, 1])
        dialects = [
            (parts, patterns[rng.integers(len(patterns))], rng.uniform(0.03, 0.15), rng.uniform(0.4, 1.0))
            for _ in range(2)
        ]
        result.append(
            Species(
                class_id,
                GENERA[pairs[s] % len(GENERA)],
                EPITHETS[pairs[s] // len(GENERA)],
                YEARS[3 * s // count],
                pitches[s],
                dialects,
                (-30 + 35 * shares[0][s], -78 + 35 * shares[1][s]),
                rng.uniform(9, 15),
                3200 * shares[2][s] ** 1.5,
                365 * shares[3][s],
                (4 + 18 * shares[4][s]) % 24,
            )
        )
    return result


# == Songs ==


def sing_syllable(syllable: Syllable, pitch: float, tempo: float, rate: int) -> np.ndarray:
    """One syllable as float32 samples of amplitude 1; `pitch` and `rate` are in Hz."""
    n = max(32, int(syllable.seconds * tempo * rate))
    t = np.linspace(0, 1, n, dtype=np.float32)
    f = pitch * syllable.ratio
    kind, width = syllable.kind, syllable.width
    if kind == 1:
        track = f * width ** (2 * t - 1)
    elif kind == 2:
        track = f * width ** (1 - 2 * t)
    elif kind == 3:
        track = f * width ** (0.5 * np.sin(2 * np.pi * syllable.speed * syllable.seconds * t))
    elif kind == 4:
        track = f * width ** (1 - 4 * np.abs(t - 0.5))
    else:
        track = np.full(n, f, np.float32)
    # float64, since the phase becomes large
    phase = np.cumsum(track, dtype=np.float64) * (2 * np.pi / rate)
    wave = np.sin(phase).astype(np.float32)
    if kind == 5:
        for harmonic in (2, 3):
            if harmonic * f < 10500:
                wave += np.sin(harmonic * phase).astype(np.float32) / harmonic
    elif kind == 6:
        wave *= 0.5 + 0.5 * np.sin(2 * np.pi * 3 * syllable.speed * syllable.seconds * t)
    edge = np.minimum(1, np.minimum(t, 1 - t) * 6)
    return wave * (edge * edge * (3 - 2 * edge))


def sing(species: Species, rng: Rng, bird: Bird, seconds: float, rate: int, start: float = -1) -> np.ndarray:
    """Song of one bird with pauses, from `start` seconds on, if given, as float32 samples of amplitude 1 or less."""
    result = np.zeros(int(seconds * rate), np.float32)
    pitch, tempo = species.pitch * bird[0], bird[1]
    parts, pattern, gap, pause = species.dialects[bird[2]]
    voices = [sing_syllable(part, pitch, tempo, rate) for part in parts]
    position = (rng.uniform(0, 0.6) if start < 0 else start) * rate
    while position < len(result):
        loudness = rng.uniform(0.6, 1)
        for which in pattern:
            wave = voices[which][: max(0, len(result) - int(position))]
            result[int(position) : int(position) + len(wave)] += wave * np.float32(loudness * rng.uniform(0.8, 1))
            position += len(wave) + gap * tempo * rate
        position += pause * rng.uniform(0.6, 1.6) * rate
    # an echo from the edge of the forest
    delay = int(rng.uniform(0.03, 0.1) * rate)
    if len(result) > delay:
        result[delay:] += np.float32(rng.uniform(0.05, 0.3)) * result[:-delay].copy()
    return result * np.float32(0.7)


def noise(rng: Rng, samples: int, rate: int) -> np.ndarray:
    """Noise of wind and microphone, sometimes with insects, as float32 samples of about unit power."""
    white = rng.standard_normal(samples, dtype=np.float32)
    pole = rng.uniform(0.9, 0.98)
    wind = scipy.signal.lfilter(np.float32([1 - pole]), np.float32([1, -pole]), white)
    wind = wind / np.float32(np.sqrt((1 - pole) / (1 + pole)))
    result = np.float32(rng.uniform(0.2, 0.7)) * white + wind
    if rng.random() < 0.3:
        t = np.arange(samples, dtype=np.float32) / rate
        carrier = np.float32(0.5) * np.sin(2 * np.pi * rng.uniform(7000, 9500) * t)
        result += carrier * (1 + np.sin(2 * np.pi * rng.uniform(8, 30) * t))
    return result


def individual(rng: Rng) -> Bird:
    """Relative pitch, relative tempo and dialect of one bird."""
    return np.exp(0.04 * rng.standard_normal()), np.exp(0.08 * rng.standard_normal()), int(rng.integers(2))


def scene(rng: Rng, foreground: Species, others: list[Species], bird: Bird, seconds: float, rate: int) -> np.ndarray:
    """A recording of a bird of species `foreground`, with `others` in the background and noise; float32 in -1..1."""
    result = sing(foreground, rng, bird, seconds, rate)
    for other in others:
        loudness = np.float32(rng.uniform(0.08, 0.25))
        result += loudness * sing(other, rng, individual(rng), seconds, rate, start=rng.uniform(0, seconds / 2))
    snr = 10 ** (rng.uniform(2, 24) / 20)
    result += np.float32(0.35 / snr) * noise(rng, len(result), rate)
    return result * np.float32(rng.uniform(0.15, 0.45))
