"""Date, time and place of a recording as numbers, and as the input of a network."""

import math
import re
import sys

import numpy as np

from birdsong.files import Problem, read_lines

SOURCES = ('date', 'time', 'latitude', 'longitude', 'elevation')
DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
RANGE = re.compile(r'[-+]?[0-9.]+ *- *([-+]?[0-9.]+)')
# No day, minute, degree or metre is as large.
IMPOSSIBLE = 1e6
CIRCLES = {'date': 365, 'time': 24 * 60}


def day_of_year(text):
    """'2010-05-07' -> 127; leap days are ignored. Raises ValueError without a year, a month 1 to 12 and a day."""
    year, month, day = text.split('-', 2)
    int(year)
    month = int(month)
    if not 1 <= month <= 12:
        raise ValueError(f'no month of the year: {text!r}')
    return DAYS_BEFORE[month - 1] + int(day)


def minute_of_day(text):
    """'06:30:30' -> 390.5. Raises ValueError unless there are hours, minutes and seconds."""
    hours, minutes, seconds = text.split(':', 2)
    return 60 * int(hours) + int(minutes) + int(seconds) / 60


def upper_elevation(text):
    """'340' -> 340, '1200-1900' -> 1900, in metres. Raises ValueError for anything else."""
    found = RANGE.fullmatch(text.strip())
    return _finite(found.group(1) if found else text)


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


READERS = dict(zip(SOURCES, (day_of_year, minute_of_day, _finite, _finite, upper_elevation)))


def read_table(filename):
    """Dict of each recording's metadata {source: number}: day of the year, minute of the day, degrees, metres.

    What is empty or can't be understood is left out. Times beyond 23:59 count as in 2018: minutes since midnight. One
    warning tells of times of day that are not right. Raises Problem for a line that hasn't six columns.
    """
    table, wrong = {}, []
    for number, line in enumerate(read_lines(filename), 1):
        key, *fields = line.split('\t')
        if len(fields) != len(SOURCES):
            raise Problem(
                f'{filename}, line {int(number)}: expected path, date, time, latitude, longitude, elevation, parted by tabs'
            )
        table[key] = item = {}
        for source, text in zip(SOURCES, fields):
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


def sources(cfg):
    """Tuple of the sources that setting `input_meta` lists. Raises Problem for an unknown or repeated one."""
    names = tuple(name.strip() for name in str(cfg['input_meta']).split(',') if name.strip())
    for i, name in enumerate(names):
        if name not in SOURCES or name in names[:i]:
            raise Problem(
                f'input_meta={cfg["input_meta"]}: {name} is {"repeated" if name in SOURCES else "unknown"}; there are {", ".join(SOURCES)}'
            )
    return names


def size(cfg):
    """Length of the vector that `encode` makes."""
    return sum(1 + (int(cfg[f'input_meta.{name}_encoding.size']) if name in CIRCLES else 1) for name in sources(cfg))


def numbers(items, names):
    """float64 (len(items), len(names)) of dicts {source: number}, NaN where missing."""
    nan = math.nan
    return np.array([[item.get(name, nan) for name in names] for item in items], np.float64).reshape(
        len(items), len(names)
    )


def distort(values, cfg, rng):
    """For training: drops items with probability input_meta.dropout and adds Gaussian noise (input_meta.*_noise:
    standard deviations in days, minutes, degrees, metres) to a copy of `values` (N, sources)."""
    names = sources(cfg)
    dropout = cfg['input_meta.dropout']
    noise = np.array([cfg[f'input_meta.{name}_noise'] for name in names], np.float64)
    result = values + noise * rng.standard_normal(values.shape)
    result[rng.random(values.shape) < dropout] = np.nan
    return result


def encode(values, cfg):
    """Network input, float32 (N, size(cfg)), of `values` (N, sources), NaN where missing.

    First a flag for each source, 1 if present, then its value: date and time v on a circle of 365 days or 1440
    minutes as sqrt(2) sin(2 pi v / max + k pi / size), k = 0..size-1, the others standardised; 0 if missing.
    """
    columns = []
    for name, column in zip(sources(cfg), values.T):
        if name in CIRCLES:
            count = int(cfg[f'input_meta.{name}_encoding.size'])
            angles = 2 * np.pi * column[:, None] / CIRCLES[name] + np.arange(count) * (np.pi / count)
            columns.append(np.sqrt(2) * np.sin(angles))
        else:
            columns.append((column[:, None] - cfg[f'input_meta.{name}_mean']) / cfg[f'input_meta.{name}_std'])
    result = np.concatenate([~np.isnan(values)] + columns, axis=1).astype(np.float32)
    return np.nan_to_num(result, copy=False, nan=0)
