"""Tables of metrics that eval.py writes: of each class, of confusions between classes, and all metrics as JSON."""

import json
import os
from typing import NamedTuple

import numpy as np

from birdsong.data.dataset import Dataset
from birdsong.files import read_lines, writing
from birdsong.scores import metrics


def latin_names(dataset: Dataset) -> list[str]:
    """The Latin name of each class or, where the dataset has none, its id."""
    filename = os.path.join(dataset.path, 'labels', 'labelset_latin')
    names = read_lines(filename) if os.path.exists(filename) else []
    return names + dataset.labelset[len(names) :]


class ClassMetrics(NamedTuple):
    """The metrics of a class: those of its recordings as foreground class, and its AP over all recordings."""

    index: int
    recordings: int
    precision: float  # AP
    rank: float  # mean rank, NaN without recordings
    top: float  # top-1 accuracy, NaN without recordings
    other: int | None  # the class that most often has the highest score instead
    times: int  # how often


def of_classes(scores: np.ndarray, truth: np.ndarray, background: list | None) -> list[ClassMetrics]:
    """The metrics of each class that occurs in the foreground or background, in the order of the class indices."""
    precisions = metrics.per_class(scores, truth, background)['AP']
    first, _ = metrics.per_recording(scores, truth)
    best = np.argmax(scores, axis=1)
    result = []
    for c in np.flatnonzero(~np.isnan(precisions)).tolist():
        own = truth == c
        count = int(own.sum())
        rank, top = (float(first[own].mean()), float(np.mean(first[own] == 1))) if count else (np.nan, np.nan)
        wrong = np.bincount(best[own & (best != c)], minlength=scores.shape[1])
        other = int(wrong.argmax()) if wrong.any() else None
        result.append(ClassMetrics(c, count, float(precisions[c]), rank, top, other, int(wrong.max())))
    return result


def write_per_class(
    filename: str, dataset: Dataset, scores: np.ndarray, truth: np.ndarray, background: list | None
) -> None:
    """Write a table with a row per class that occurs: its metrics, and the class it is most often confused with."""
    labelset, latin = dataset.labelset, latin_names(dataset)
    with writing(filename, 'w', encoding='utf-8') as f:
        f.write('class\tspecies\trecordings\tAP\tmean rank\ttop-1\tconfused with\ttimes\n')
        for one in of_classes(scores, truth, background):
            rank, top = (f'{one.rank:.1f}', f'{one.top:.2f}') if one.recordings else ('', '')
            other = '' if one.other is None else labelset[one.other]
            row = (labelset[one.index], latin[one.index], one.recordings, f'{one.precision:.3f}', rank, top, other)
            f.write('\t'.join(map(str, (*row, one.times))) + '\n')


def confusions(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Numbers of recordings (classes, classes): by their class, and by the class with the highest score."""
    counts = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(counts, (truth, np.argmax(scores, axis=1)), 1)
    return counts


def write_confusions(filename: str, dataset: Dataset, scores: np.ndarray, truth: np.ndarray) -> None:
    """Write a table of numbers of recordings: a row per class that occurs, a column per class with the highest score.

    Classes that neither occur nor have the highest score anywhere have no column.
    """
    counts = confusions(scores, truth)
    occurring = np.unique(truth)
    columns = np.union1d(occurring, np.flatnonzero(counts.any(axis=0)))
    with writing(filename, 'w', encoding='utf-8') as f:
        f.write('\t'.join(['class', *(dataset.labelset[c] for c in columns)]) + '\n')
        for c in occurring:
            f.write('\t'.join([dataset.labelset[c], *map(str, counts[c, columns].tolist())]) + '\n')


def write_columns(filename: str, dataset: Dataset, columns: dict[str, np.ndarray], numbers: tuple[str, ...]) -> None:
    """Write a table with a row per class of which one of the `numbers` (first columns) is not 0, and its metrics."""
    latin = latin_names(dataset)
    with writing(filename, 'w', encoding='utf-8') as f:
        f.write('\t'.join(['class', 'species', *columns]) + '\n')
        for c in np.flatnonzero(np.any([columns[name] for name in numbers], axis=0)):
            values = [f'{value[c]:.0f}' if name in numbers else f'{value[c]:.3f}' for name, value in columns.items()]
            f.write('\t'.join([dataset.labelset[c], latin[c], *('' if v == 'nan' else v for v in values)]) + '\n')


def write_json(filename: str, report: dict) -> None:
    """Write metrics as JSON; undefined ones (NaN) become null."""

    def defined(value):
        if isinstance(value, dict):
            return {key: defined(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [defined(item) for item in value]
        return None if value != value else value

    with writing(filename, 'w', encoding='utf-8') as f:
        json.dump(defined(report), f, indent=1)
        f.write('\n')
