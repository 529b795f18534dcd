"""Start and end of labelled segments."""

import math
import re
from collections.abc import Iterable

from shared.recordings import Segment

# Recordings are shorter than this many seconds (a year).
LONGEST = 3.2e7


def seconds(text: str) -> float:
    """Seconds from '12.5', '12,5', 'MM:SS' or 'HH:MM:SS'. Raises ValueError for other texts."""
    text = text.strip()
    if not re.fullmatch(r'[+-]?(\d+:){0,2}(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d{1,3})?', text, re.A) or len(text) > 50:
        raise ValueError(f'{text[:50]!r} is not a time in seconds')
    result = 0.0
    for part in text.lstrip('+-').replace(',', '.').split(':'):
        result = 60 * result + float(part)
    if not math.isfinite(result) or result > LONGEST:
        raise ValueError(f'{text[:50]!r} is not a time in seconds')
    return -result if text.startswith('-') else result


def interval(start: float, end: float) -> tuple[float, float, str]:
    """(start, end, what was corrected) of a segment: ends that are reversed are swapped, negative ones become 0.

    Raises ValueError if nothing of the segment is left.
    """
    corrected = ''
    if end < start:
        start, end, corrected = end, start, 'whose end is before the start'
    if start < 0:
        start, corrected = 0.0, corrected or 'that start before the recording'
    if end <= start:
        raise ValueError('has no duration')
    return start, end, corrected


def merge_overlapping(segments: Iterable[Segment]) -> list[Segment]:
    """Segments in the order of their starts, those of the same class that overlap merged to one."""
    result, last = [], {}
    for start, end, class_id in sorted(segments):
        position = last.get(class_id)
        if position is not None and start < result[position].end:
            result[position] = result[position]._replace(end=max(end, result[position].end))
        else:
            last[class_id] = len(result)
            result.append(Segment(start, end, class_id))
    return result
