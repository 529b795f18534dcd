"""Calendar and clock of recordings: how many were made on each day of the year, and at each time of day."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Bars of the calendar, in days, which divide the year; bars of the clock, in minutes.
DAYS, MINUTES = 5, 60
YEAR, DAY = 365, 24 * 60
MONTHS = ('Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec')
# Days of the year before each month, and before the next year.
STARTS = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])


def of_days(days: np.ndarray) -> np.ndarray:
    """Numbers of recordings in each bar of the calendar (73,), given days of the year (N,) from 1; NaN is left out."""
    known = days[(days >= 1) & (days <= YEAR)]
    return np.bincount((known.astype(int) - 1) // DAYS, minlength=YEAR // DAYS)


def of_months(days: np.ndarray) -> np.ndarray:
    """Numbers of recordings in each month (12,), given days of the year (N,) from 1."""
    known = days[(days >= 1) & (days <= YEAR)]
    return np.histogram(known - 1, STARTS)[0]


def of_hours(minutes: np.ndarray) -> np.ndarray:
    """Numbers of recordings in each hour of the day (24,), given minutes of the day (N,)."""
    known = minutes[(minutes >= 0) & (minutes < DAY)]
    return np.bincount(known.astype(int) // MINUTES, minlength=DAY // MINUTES)


def draw_calendar(axes: Axes, counts: np.ndarray) -> None:
    """Draw `of_days` as bars over the year."""
    axes.bar(np.arange(len(counts)) * DAYS, counts, DAYS, align='edge')
    axes.set(xlim=(0, YEAR), xlabel='day of the year', ylabel=f'recordings in {DAYS} days')
    axes.set_xticks(STARTS, [''] * len(STARTS))
    axes.set_xticks((STARTS[:-1] + STARTS[1:]) / 2, MONTHS, minor=True)
    axes.tick_params(which='minor', length=0)
    axes.yaxis.get_major_locator().set_params(integer=True)


def draw_clock(axes: Axes, counts: np.ndarray) -> None:
    """Draw `of_hours` as bars on polar axes, clockwise from midnight at the top."""
    angles = np.arange(len(counts)) * 2 * np.pi / len(counts)
    axes.set_theta_zero_location('N')
    axes.set_theta_direction(-1)
    axes.bar(angles, counts, 2 * np.pi / len(counts), align='edge')
    axes.set_xticks(angles[::3], [f'{hour}:00' for hour in range(0, 24, 3)])
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
