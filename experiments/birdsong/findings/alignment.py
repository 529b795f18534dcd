"""Aligning scores of other programs: which file is which of our recordings, which time is in which window."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

# Difference of times, in seconds, that is attributed to rounding.
TOLERANCE = 1e-3


def recordings_of(paths: Sequence[str], names: Sequence[Sequence[str]]) -> np.ndarray:
    """Index (len(paths),) of the recording that each path means, or -1.

    `names` are the paths that each recording is known by, such as its key. The ends of two paths are compared, so that
    folders above do not matter; a path means the recording with which it has the longest common end, if there is only
    one, and a recording is meant by the path with the longest common end. The suffix need not be the same, since
    recordings are converted.
    """
    known = {}
    for i, each in enumerate(names):
        for name in each:
            for parts in filter(None, (_parts(name), _without_suffix(_parts(name)))):
                for depth in range(1, len(parts) + 1):
                    known.setdefault(parts[-depth:], set()).add(i)
    found = [_best(path, known) for path in paths]
    best, meant = {}, {}
    for index, rank in found:
        best[index] = max(rank, best.get(index, rank))
    for path, (index, rank) in zip(paths, found, strict=True):
        if rank == best[index]:
            meant.setdefault(index, set()).add(_parts(path))
    # Of several paths that could be a recording, none is if they fit equally well.
    return np.array([i if rank == best[i] and len(meant[i]) == 1 else -1 for i, rank in found], np.int64)


def _best(path, known):
    """(recording or -1, number of common parts and whether the suffix is the same) for a path."""
    parts = _parts(path)
    for depth in range(len(parts), 0, -1):
        for same_suffix, end in (True, parts[-depth:]), (False, _without_suffix(parts[-depth:])):
            if end in known:
                return (next(iter(known[end])) if len(known[end]) == 1 else -1), (depth, same_suffix)
    return -1, (0, False)


def _parts(path):
    return tuple(part for part in re.split(r'[/\\]', path) if part not in ('', '.'))


def _without_suffix(parts):
    """The path without a suffix such as .wav; () if it has none."""
    stem = re.sub(r'(?<=.)\.\w{1,5}$', '', parts[-1]) if parts else ''
    return (*parts[:-1], stem) if parts and stem != parts[-1] else ()


def into_windows(
    result: np.ndarray,
    windows: tuple[np.ndarray, np.ndarray],
    times: tuple[np.ndarray, np.ndarray],
    classes: np.ndarray,
    scores: np.ndarray,
) -> np.ndarray:
    """Set `result` (windows, classes) to the maximum of itself and the scores of the detections in each window.

    A detection is in a window if they overlap by at least half of the shorter of both. If windows follow each other
    without gaps, every detection is in at least one. Given are starts and stops of the windows, those of the detections
    (n,), in seconds, which may be infinite, and classes and scores of the detections (n,). Returns a mask (n,) of the
    detections that are in a window.
    """
    placed = np.zeros(len(scores), bool)
    for window, selected in _overlaps(windows, times):
        placed[selected] = True
        np.maximum.at(result, (window, classes[selected]), scores[selected])
    return placed


def _overlaps(windows, times) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of arrays, the windows and the detections that are in them."""
    order = np.argsort(windows[0], kind='stable')
    begins, ends = (each[order] for each in windows)
    starts, stops = times
    # No window that starts earlier than `first` or later than `last` overlaps the detection.
    first = np.searchsorted(begins, starts - (ends - begins).max(), 'left')
    last = np.searchsorted(begins, stops, 'left')
    for step in range(int((last - first).max(initial=0))):
        each = np.flatnonzero(first + step < last)
        window = (first + step)[each]
        overlap = np.minimum(stops[each], ends[window]) - np.maximum(starts[each], begins[window])
        shorter = np.minimum(stops[each] - starts[each], ends[window] - begins[window])
        inside = (overlap > 0) & (overlap >= shorter / 2 - TOLERANCE)
        yield order[window[inside]], each[inside]
