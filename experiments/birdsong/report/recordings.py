"""What the page shows of a recording: spectrogram, sound, scores over time, and attention."""

import base64
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from birdsong.data.audio import WavFile, release
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from birdsong.findings import clips
from birdsong.report.contents import without_folder
from birdsong.report.over_time import Curves

# Longest excerpt in seconds, highest frequency in Hz, length of a frame of the spectrogram in seconds, columns of it.
LONGEST, HIGHEST, FRAME, COLUMNS = 10.0, 12000, 0.0116, 400
# Size of a drawing of scores over time in its own units, and most points of a line.
WIDTH, HEIGHT, POINTS = 400, 60, 200


class Line(NamedTuple):
    """Scores of a class over time: points 'x,y x,y ...' of the drawing, the highest score, and when it is reached."""

    points: str
    highest: float
    at: float  # seconds


class Drawing(NamedTuple):
    """Scores over time. They are drawn from `low` at the bottom to `high` at the top."""

    own: Line
    other: Line | None
    attention: str  # points of a closed area, '' without attention
    low: float
    high: float


class Shown(NamedTuple):
    """An excerpt of a recording. `problem`: why there is none; `no_scores`: why there are no scores over time.

    URLs are of data, '' where there is nothing.
    """

    start: float = 0.0
    end: float = 0.0
    length: float = 0.0  # of the recording in seconds
    highest: float = 0.0  # frequency at the top of the spectrogram in Hz
    image: str = ''
    sound: str = ''
    drawing: Drawing | None = None
    problem: str = ''
    no_scores: str = ''

    @property
    def size(self) -> int:
        """Bytes on the page, about."""
        drawn = len(self.drawing.own.points) * 3 if self.drawing else 0
        return len(self.image) + len(self.sound) + drawn


def show(
    dataset: Dataset, key: str, own: int, other: int, audio: bool, over_time: Callable[[str], Curves | None]
) -> Shown:
    """An excerpt of at most LONGEST seconds: around the highest of both scores if they are known, else the start.

    `own` and `other` are the true class and another one. What cannot be read is a `problem`, not an exception.
    """
    curves, silent = None, ''
    try:
        curves = over_time(key)
    except (Problem, OSError) as e:
        silent = without_folder(dataset, e)
    try:
        wav = WavFile(dataset.audio_path(key))
        length = wav.length / wav.sample_rate
        start = _start(curves, (own, other), length)
        first = round(start * wav.sample_rate)
        samples = _floats(wav[first : first + round(LONGEST * wav.sample_rate)])
        release(wav.samples)
    except (Problem, OSError) as e:
        return Shown(problem=without_folder(dataset, e))
    if not len(samples):
        return Shown(problem='it has no samples')
    end = start + len(samples) / wav.sample_rate
    highest = min(HIGHEST, wav.sample_rate / 2)
    image = clips.jpeg(clips.levels(samples, wav.sample_rate, highest, FRAME, COLUMNS))
    sound = data_url('audio/mpeg', clips.mp3(samples, wav.sample_rate)) if audio else ''
    drawing = curves and draw(curves, own, other, start, end)
    return Shown(start, end, length, highest, data_url('image/jpeg', image), sound, drawing, no_scores=silent)


def data_url(kind: str, content: bytes) -> str:
    """A URL that contains a file."""
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def _floats(samples: np.ndarray) -> np.ndarray:
    """Samples of a WAV file, of any width and number of channels, as numbers from -1 to 1 (N,)."""
    kind = samples.dtype
    floats = samples.astype(np.float64)
    if kind == np.uint8:
        floats -= 128
    floats /= float(1 << (8 * kind.itemsize - 1))
    return floats.mean(axis=1) if floats.ndim > 1 else floats


def _start(curves: Curves | None, classes: tuple[int, int], length: float) -> float:
    """Start of the excerpt in seconds."""
    if curves is None or length <= LONGEST:
        return 0.0
    known = [index for index in classes if index < curves.scores.shape[1]]
    peak = curves.seconds[curves.scores[:, known].max(axis=1).argmax()]
    return float(min(max(peak - LONGEST / 2, 0), length - LONGEST))


def draw(curves: Curves, own: int, other: int, start: float, end: float) -> Drawing | None:
    """The scores of two classes from `start` to `end`; None if the times in between are fewer than two."""
    inside = (curves.seconds >= start) & (curves.seconds <= end)
    if np.count_nonzero(inside) < 2 or own >= curves.scores.shape[1]:
        return None
    seconds, scores = curves.seconds[inside], curves.scores[inside]
    both = [own, other] if other != own and other < scores.shape[1] else [own]
    low, high = float(scores[:, both].min()), float(scores[:, both].max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    x = (seconds - start) / (end - start) * WIDTH
    lines = []
    for index in both:
        values = scores[:, index]
        y = HEIGHT - (values - low) / ((high - low) or 1) * HEIGHT
        peak = int(values.argmax())
        lines.append(Line(_points(x, y, np.minimum), float(values[peak]), float(seconds[peak])))
    attention = ''
    if curves.attention is not None:
        times, weights = curves.attention
        inside = (times >= start) & (times <= end)
        if np.count_nonzero(inside) > 1:
            x = (times[inside] - start) / (end - start) * WIDTH
            y = HEIGHT - weights[inside] / (weights[inside].max() or 1) * HEIGHT
            attention = f'{x[0]:.1f},{HEIGHT} {_points(x, y, np.minimum)} {x[-1]:.1f},{HEIGHT}'
    return Drawing(lines[0], lines[1] if len(lines) > 1 else None, attention, low, high)


def _points(x: np.ndarray, y: np.ndarray, reduce: np.ufunc) -> str:
    """Points of a line, at most POINTS of them; those that are too close become one."""
    starts = np.unique(np.linspace(0, len(x), min(POINTS, len(x)), endpoint=False).astype(int))
    return ' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(x[starts], reduce.reduceat(y, starts), strict=True))
