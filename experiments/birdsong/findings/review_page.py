"""The web page on which a person reviews detections: review_page.html with its style, its script, and the detections.

The page needs nothing but the files that it names, and no network; its Content-Security-Policy allows no other script
or style. Texts of findings are JSON, which the script writes as text into the page.
"""

import hashlib
import html
import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from birdsong.findings import formats, reviews
from birdsong.findings.formats import Finding
from birdsong.findings.species import Species
from birdsong.page_policy import policy

TEMPLATE = os.path.join(os.path.dirname(__file__), 'review_page.')


class Clip(NamedTuple):
    """What the page shows of a detection: a part of the recording, in seconds, and where its files are."""

    start: float
    end: float
    image: str  # URLs
    sound: str


class Page(NamedTuple):
    """What all pages of a review have in common."""

    title: str
    names: list[str]  # the file names of all pages
    blind: bool  # do not show scores and confidences
    highest: float  # frequency at the top of the spectrograms, in Hz
    classes: list[Species]  # to choose other species from
    problems: Sequence[tuple[str, str]] = ()  # detections that cannot be reviewed, and why


def batch_id(found: Sequence[Finding]) -> str:
    """A text that identifies the detections of a page, under which the browser stores their reviews."""
    return hashlib.sha256(_json([_cells(one) for one in found]).encode()).hexdigest()[:12]


def text(page: Page, number: int, found: Sequence[Finding], clips: Sequence[Clip]) -> str:
    """The page of a batch of detections, the `number`-th of all pages, from 0."""
    parts = {kind: _template(kind) for kind in ('css', 'js')}
    parts['policy'] = policy(parts['js'], parts['css'], ("'self'", 'file:', 'data:'))
    parts['title'] = html.escape(f'{page.title}, batch {number + 1}')
    data = {
        'id': batch_id(found),
        'title': page.title,
        'number': number,
        'pages': page.names,
        'blind': page.blind,
        'highest': page.highest,
        'columns': reviews.COLUMNS,
        'classes': page.classes,
        'problems': page.problems,
        'detections': [_detection(*each) for each in zip(found, clips, strict=True)],
    }
    # so that no text can end the element
    parts['data'] = _json(data).replace('<', '\\u003c')
    return re.sub(r'{{(\w+)}}', lambda match: parts[match[1]], _template('html'))


def _detection(one: Finding, clip: Clip) -> dict[str, Any]:
    return {
        'cells': _cells(one),
        'file': one.file,
        'start': one.start,
        'end': one.end,
        'clock': ' '.join(filter(None, (one.date, one.time, one.zone))),
        'scientific': one.scientific_name,
        'common': one.common_name,
        'confidence': one.confidence,
        'calibrated': one.probability is not None,
        'clip': clip._asdict(),
    }


def _cells(one: Finding) -> list[str]:
    """The first columns of the table of reviews."""
    cells = formats.cells(one)
    return [cells[name] for name in reviews.COLUMNS[:5]]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(',', ':'), allow_nan=False)


def _template(kind: str) -> str:
    with open(TEMPLATE + kind, encoding='utf-8') as f:
        return f.read()
