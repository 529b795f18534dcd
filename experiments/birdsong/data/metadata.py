"""Metadata: date, time and place of a recording, as numbers and as the input of a network."""

import math
import re
import sys
from collections.abc import Sequence

import numpy as np

from birdsong.config import Settings
from birdsong.files import Problem, read_lines

SOURCES = ('date', 'time', 'latitude', 'longitude', 'elevation')
DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
RANGE = re.compile(r'[-+]?[0-9.]+ *- *([-+]?[0-9.]+)')
# Values of this size are wrong in any unit.
IMPOSSIBLE = 1e6
# Periods of the sources that are encoded as points on a circle, in days and minutes
CIRCLES = {'date': 365, 'time': 24 * 60}


def day_of_year(text: str) -> int:
    """'2010-05-07' -> 127; leap days are ignored. Raises ValueError for other formats and months."""
    year, month, day = text.split('-', 2)
    int(year)
    month = int(month)
    if not 1 <= month <= 12:
        raise ValueError(f'not a month: {text!r}')
    return DAYS_BEFORE[month - 1] + int(day)


def minute_of_day(text: str) -> float:
    """'06:30:30' -> 390.5. Raises ValueError for other formats."""
    hours, minutes, seconds = text.split(':', 2)
    return 60 * int(hours) + int(minutes) + int(seconds) / 60


def upper_elevation(text: str) -> float:
    """'340' -> 340, '1200-1900' -> 1900, in metres. Raises ValueError for anything else."""
    found = RANGE.fullmatch(text.strip())
    return _finite(found.group(1) if found else text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


READERS = dict(zip(SOURCES, (day_of_year, minute_of_day, _finite, _finite, upper_elevation), strict=True))


def read_table(filename: str) -> dict[str, dict[str, float]]:
    """Metadata of each recording, {source: number}, in days of the year, minutes of the day, degrees and metres.

    Values that are empty or cannot be parsed are left out. Times after 23:59 are converted to minutes as in 2018, with
    a warning. Raises Problem for a line that does not have six columns.
    """
    table, wrong = {}, []
    for number, line in enumerate(read_lines(filename), 1):
        key, *fields = line.split('\t')
        if len(fields) != len(SOURCES):
            raise Problem(
                f'{filename}, line {number}: expected tab-separated path, date, time, latitude, longitude, elevation'
            )
        table[key] = item = {}
        for source, text in zip(SOURCES, fields, strict=True):
            if text:
                try:
                    value = float(READERS[source](text))
                except (ValueError, OverflowError):
                    value = IMPOSSIBLE
                if abs(value) < IMPOSSIBLE:
                    item[source] = value
                if source == 'time' and not 0 <= value < CIRCLES['time']:
                    wrong.append((number, text))
    if wrong:
        number, text = wrong[0]
        sys.stderr.write(
            f'{filename}: {len(wrong)} times of day are wrong, such as {text!r} in line {number}; '
            'datasets/validate.py NAME --repair-times corrects them\n'
        )
    return table


def sources(cfg: Settings) -> tuple[str, ...]:
    """The sources in the setting `input_meta`. Raises Problem for an unknown or repeated one."""
    names = tuple(name.strip() for name in str(cfg['input_meta']).split(',') if name.strip())
    for i, name in enumerate(names):
        if name not in SOURCES or name in names[:i]:
            raise Problem(
                f'input_meta={cfg["input_meta"]}: {name} is {"repeated" if name in SOURCES else "unknown"}; '
                f'known sources: {", ".join(SOURCES)}'
            )
    return names


def scaled(cfg: Settings) -> tuple[str, ...]:
    """Those of `sources` whose values are standardised with settings, input_meta.*_mean and input_meta.*_std."""
    return tuple(name for name in sources(cfg) if name not in CIRCLES)


def misfits(values: np.ndarray, cfg: Settings) -> list[tuple[str, float]]:
    """(source, mean) of the standardised sources whose mean is far from input_meta.*_mean: more than three times _std.

    `values` (N, sources), NaN where missing.
    """
    found = []
    for name, column in zip(sources(cfg), values.T, strict=True):
        known = column[~np.isnan(column)]
        if name not in CIRCLES and len(known):
            mean = float(known.mean())
            if abs(mean - cfg[f'input_meta.{name}_mean']) > 3 * cfg[f'input_meta.{name}_std']:
                found.append((name, mean))
    return found


def size(cfg: Settings) -> int:
    """Length of the vectors of `encode`."""
    return sum(1 + (int(cfg[f'input_meta.{name}_encoding.size']) if name in CIRCLES else 1) for name in sources(cfg))


def numbers(items: Sequence[dict[str, float]], names: Sequence[str]) -> np.ndarray:
    """The values of sources `names` in dicts {source: number}: float64 (len(items), len(names)), NaN where missing."""
    nan = math.nan
    return np.array([[item.get(name, nan) for name in names] for item in items], np.float64).reshape(
        len(items), len(names)
    )


def distort(values: np.ndarray, cfg: Settings, rng: np.random.Generator) -> np.ndarray:
    """A copy of `values` (N, sources) for training: with Gaussian noise added, and some values dropped (NaN).

    The standard deviations of the noise are input_meta.*_noise, in days, minutes, degrees and metres; the probability
    of dropping a value is input_meta.dropout.
    """
    names = sources(cfg)
    dropout = cfg['input_meta.dropout']
    noise = np.array([cfg[f'input_meta.{name}_noise'] for name in names], np.float64)
    result = values + noise * rng.standard_normal(values.shape)
    result[rng.random(values.shape) < dropout] = np.nan
    return result


def encode(values: np.ndarray, cfg: Settings) -> np.ndarray:
    """Network input, float32 (N, size(cfg)), for `values` (N, sources), NaN where missing.

    First the flags of all sources (1: present), then their values. A date or time v is encoded as
    sqrt(2) sin(2 pi v / max + k pi / size), k = 0..size-1, with max = 365 days or 1440 minutes. Other values are
    standardised. Missing values are 0.
    """
    columns = []
    for name, column in zip(sources(cfg), values.T, strict=True):
        if name in CIRCLES:
            count = int(cfg[f'input_meta.{name}_encoding.size'])
            angles = 2 * np.pi * column[:, None] / CIRCLES[name] + np.arange(count) * (np.pi / count)
            columns.append(np.sqrt(2) * np.sin(angles))
        else:
            columns.append((column[:, None] - cfg[f'input_meta.{name}_mean']) / cfg[f'input_meta.{name}_std'])
    result = np.concatenate([~np.isnan(values)] + columns, axis=1).astype(np.float32)
    return np.nan_to_num(result, copy=False, nan=0)
