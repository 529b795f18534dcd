"""Map of the places of recordings: circles over the outline of the land, on a part of the world that shows them all.

coastlines.json is the land of Natural Earth (naturalearthdata.com), 1:50m, version 4.1.0, in the public domain, from
the npm package world-atlas 2.0.2, simplified by the algorithm of Douglas and Peucker with a tolerance of 0.11
degrees, without islands of less than 0.012 square degrees. It contains rings of points (longitude, latitude) as the
differences of consecutive points, in 1/20 degree.
"""

import functools
import json
import os
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from birdsong.report import figures

COASTLINES = os.path.join(os.path.dirname(__file__), 'coastlines.json')
# Share of the width and height of the places that is added on each side, and the least height of a map in degrees.
MARGIN, LEAST = 0.08, 4.0
# Maps from -180 to 180 degrees are preferred to others if they are at most this much wider.
USUAL = 1.1
# Height divided by width of a map, at least and at most.
SHAPES = 0.35, 0.8
# Places in one cell become one circle; a map has this number of cells from west to east.
CELLS = 120
# Areas of the smallest and the largest circle, in square points.
AREAS = 16.0, 260.0
# Number of different areas, and points of the outline from west to east: more would only make the page larger.
SIZES, POINTS = 8, 700


class Frame(NamedTuple):
    """The part of the world that a map shows, in degrees. If it contains the 180th meridian, `east` is above 180."""

    west: float
    east: float
    south: float
    north: float

    @property
    def aspect(self) -> float:
        """Length of a degree of latitude on the map, in degrees of longitude: true to scale at its middle latitude."""
        return 1 / max(np.cos(np.radians((self.south + self.north) / 2)), 0.05)


class Places(NamedTuple):
    """Circles of a map: their centres in degrees, longitudes within the frame, and numbers of recordings."""

    longitudes: np.ndarray
    latitudes: np.ndarray
    counts: np.ndarray


def possible(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """Mask (N,) of the recordings whose place is known and exists on Earth."""
    with np.errstate(invalid='ignore'):
        return (np.abs(latitudes) <= 90) & (np.abs(longitudes) <= 360)


def frame(latitudes: np.ndarray, longitudes: np.ndarray) -> Frame:
    """The smallest frame of the shapes that a map may have around places (N,) with a margin; N is at least 1."""
    west, east = narrowest(longitudes)
    south, north = float(latitudes.min()), float(latitudes.max())
    height = max((north - south) * (1 + 2 * MARGIN), LEAST)
    aspect = Frame(west, east, south, north).aspect
    width = max((east - west) * (1 + 2 * MARGIN), LEAST * aspect)
    width = min(max(width, height * aspect / SHAPES[1]), 360)
    height = min(max(height, width / aspect * SHAPES[0]), 180)
    middle = (south + north) / 2
    south = min(max(middle - height / 2, -90), 90 - height)
    middle = (west + east) / 2
    return Frame(middle - width / 2, middle + width / 2, south, south + height)


def narrowest(longitudes: np.ndarray) -> tuple[float, float]:
    """The shortest range of longitudes that contains all (N,): its west from -180 to 180, its east from there on.

    If one without the 180th meridian is at most USUAL times as long, it is that one.
    """
    known = np.unique((longitudes + 180) % 360 - 180)
    gaps = np.diff(known, append=known[0] + 360)
    last = int(gaps.argmax())
    width = 360 - float(gaps[last])
    if known[-1] - known[0] <= USUAL * width:
        return float(known[0]), float(known[-1])
    west = float(known[(last + 1) % len(known)])
    return west, west + width


def within(shown: Frame, longitudes: np.ndarray) -> np.ndarray:
    """Longitudes (N,) plus or minus full turns, so that they are from shown.west to shown.west + 360 degrees."""
    return (longitudes - shown.west) % 360 + shown.west


def places(shown: Frame, latitudes: np.ndarray, longitudes: np.ndarray) -> Places:
    """Circles for the places (N,): those in one cell of a grid over the frame become one, at their mean."""
    step = (shown.east - shown.west) / CELLS
    x = within(shown, longitudes)
    cells = np.stack([x - shown.west, latitudes - shown.south], axis=1) // step
    _, cell, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    cell = cell.reshape(-1)
    return Places(np.bincount(cell, x) / counts, np.bincount(cell, latitudes) / counts, counts)


@functools.cache
def land() -> list[np.ndarray]:
    """Outlines of the land: rings (points, 2) of longitudes and latitudes in degrees; lakes run the other way round."""
    with open(COASTLINES, encoding='utf-8') as f:
        content = json.load(f)
    units = content['units_per_degree']
    return [np.cumsum(np.reshape(ring, (-1, 2)), axis=0) / units for ring in content['rings']]


def draw(axes: Axes, shown: Frame, found: Places) -> None:
    """Draw the land and the circles on matplotlib axes."""
    rings = [Path(np.concatenate([ring, ring[:1]]), closed=True) for ring in _visible(shown)]
    if rings:
        outline = Path.make_compound_path(*rings)
        axes.add_patch(PathPatch(outline, facecolor=(0.5, 0.5, 0.5, 0.25), edgecolor='0.5', linewidth=0.6))
    share = (found.counts - 1) / max(found.counts.max() - 1, 1)
    sizes = np.rint(share * (SIZES - 1)).astype(int)
    for size in np.unique(sizes)[::-1].tolist():  # small circles over large ones
        area = AREAS[0] + (AREAS[1] - AREAS[0]) * size / (SIZES - 1)
        those = sizes == size
        options = {'markersize': area**0.5, 'markeredgewidth': 0, 'alpha': 0.6, 'color': figures.COLOURS[0]}
        axes.plot(found.longitudes[those], found.latitudes[those], 'o', **options)
    axes.set(xlim=(shown.west, shown.east), ylim=(shown.south, shown.north), aspect=shown.aspect)
    axes.xaxis.set_major_formatter(lambda x, _: degrees((x + 180) % 360 - 180, 'E', 'W'))
    axes.yaxis.set_major_formatter(lambda y, _: degrees(y, 'N', 'S'))


def _visible(shown: Frame) -> list[np.ndarray]:
    """The rings that overlap the frame, rounded to points that can be told apart."""
    step, rings = (shown.east - shown.west) / POINTS, []
    for turn in (-360, 0, 360):
        for ring in land():
            low, high = ring.min(axis=0) + (turn, 0), ring.max(axis=0) + (turn, 0)
            if low[0] < shown.east and high[0] > shown.west and low[1] < shown.north and high[1] > shown.south:
                points = np.rint((ring + (turn, 0)) / step)
                points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
                if len(points) > 2:
                    rings.append(points * step)
    return rings


def position(latitude: float, longitude: float) -> str:
    """A place as text: '48.2° N, 16.4° E', to a tenth of a degree."""
    longitude = (longitude + 180) % 360 - 180
    return f'{degrees(round(latitude, 1), "N", "S")}, {degrees(round(longitude, 1), "E", "W")}'


def degrees(value: float, positive: str, negative: str) -> str:
    """A latitude or longitude as text: 48.2 -> '48.2° N'."""
    value = round(value, 4)
    return f'{abs(value):g}°' + (f' {positive if value > 0 else negative}' if value and abs(value) < 180 else '')
