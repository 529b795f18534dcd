"""Tables of metrics that eval.py writes: of each class, of confusions between classes, and all metrics as JSON."""

import json
import os

import numpy as np

from birdsong.data.dataset import Dataset
from birdsong.files import read_lines, writing
from birdsong.scores import metrics


def latin_names(dataset: Dataset) -> list[str]:
    """The Latin name of each class or, where the dataset has none, its id."""
    filename = os.path.join(dataset.path, 'labels', 'labelset_latin')
    names = read_lines(filename) if os.path.exists(filename) else []
    return names + dataset.labelset[len(names) :]


def write_per_class(
    filename: str, dataset: Dataset, scores: np.ndarray, truth: np.ndarray, background: list | None
) -> None:
    """Write a table with a row per class that occurs: its metrics, and the class it is most often confused with."""
    precisions = metrics.per_class(scores, truth, background)['AP']
    first, _ = metrics.per_recording(scores, truth)
    best = np.argmax(scores, axis=1)
    labelset, latin = dataset.labelset, latin_names(dataset)
    with writing(filename, 'w', encoding='utf-8') as f:
        f.write('class\tspecies\trecordings\tAP\tmean rank\ttop-1\tconfused with\ttimes\n')
        for c in np.flatnonzero(~np.isnan(precisions)):
            own = truth == c
            count = int(own.sum())
            rank, top = (f'{first[own].mean():.1f}', f'{np.mean(first[own] == 1):.2f}') if count else ('', '')
            wrong = np.bincount(best[own & (best != c)], minlength=scores.shape[1])
            other = labelset[wrong.argmax()] if wrong.any() else ''
            row = (labelset[c], latin[c], count, f'{precisions[c]:.3f}', rank, top, other, wrong.max())
            f.write('\t'.join(map(str, row)) + '\n')


def write_confusions(filename: str, dataset: Dataset, scores: np.ndarray, truth: np.ndarray) -> None:
    """Write a table of numbers of recordings: a row per class that occurs, a column per class with the highest score.

    Classes that neither occur nor have the highest score anywhere have no column.
    """
    best = np.argmax(scores, axis=1)
    occurring = np.unique(truth)
    columns = np.union1d(occurring, best)
    counts = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(counts, (truth, best), 1)
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
