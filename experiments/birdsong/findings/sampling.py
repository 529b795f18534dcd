"""Choosing detections for review: at random, by strata of their score, or the highest of each class.

The order of detections is that of a hash of the seed and of what they are, so that the choice does not depend on their
order in the table. In strata, detections of different recordings come first, since many of one recording are little
more evidence than one.
"""

import array
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from birdsong.findings.formats import Finding

RANDOM, STRATA, TOP = KINDS = ('random', 'strata', 'top')
# Scores between which strata are, about equally far apart as logits.
EDGES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)


class Candidates(NamedTuple):
    """What the choice depends on; one value per detection in each array (n,). It takes 32 bytes per detection."""

    scores: np.ndarray  # float64
    classes: np.ndarray  # index in `class_ids`
    files: np.ndarray  # index of the recording
    order: np.ndarray  # uint64: the hash
    class_ids: list[str]


def candidates(findings: Iterable[Finding], seed: int) -> Candidates:
    """Collect what the choice depends on from all findings."""
    scores, classes, files, order = (array.array(code) for code in 'dqqQ')
    class_ids, names = {}, {}
    for one in findings:
        scores.append(one.score)
        classes.append(class_ids.setdefault(one.class_id, len(class_ids)))
        files.append(names.setdefault(one.file, len(names)))
        text = f'{seed}|{one.file}|{one.start:.3f}|{one.end:.3f}|{one.class_id}'
        order.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'big'))
    return Candidates(*map(np.array, (scores, classes, files, order)), list(class_ids))


def choose(known: Candidates, kind: str, count: int, chosen_classes: Iterable[str] | None = None) -> np.ndarray:
    """Indices of at most `count` detections, in the order of their review, of all classes or only of those given.

    random: each is equally probable. strata: equally many of each class and each range of scores between EDGES, as far
    as there are enough. top: the highest scores, equally many of each class; sorted by class and score. The others are
    in a random order.
    """
    rows = np.arange(len(known.scores))
    if chosen_classes is not None:
        chosen_classes = set(chosen_classes)
        rows = rows[np.array([name in chosen_classes for name in known.class_ids], bool)[known.classes]]
    scores, classes, files, order = (values[rows] for values in known[:4])
    if kind == RANDOM:
        return rows[np.argsort(order, kind='stable')[:count]]
    if kind == TOP:
        rank = _ranks(classes, -scores, order)
        found = np.lexsort((order, -scores, rank))[:count]
        by_id = np.argsort(np.argsort(known.class_ids))[classes]
        return rows[found[np.lexsort((rank[found], by_id[found]))]]
    cells = classes * (len(EDGES) + 1) + np.digitize(scores, EDGES)
    repeated = _ranks(cells * (files.max(initial=0) + 1) + files, order)
    rank = _ranks(cells, repeated, order)
    found = np.lexsort((order, rank))[:count]
    return rows[found[np.argsort(order[found], kind='stable')]]


def _ranks(groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Rank of each row within its group, from 0, by the first key, then the second."""
    order = np.lexsort((*keys[::-1], groups))
    first = np.diff(groups[order], prepend=-1) != 0
    starts = np.flatnonzero(first)
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return result
