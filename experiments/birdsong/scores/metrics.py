"""Figures of merit of scores: mean average precisions, accuracies, and the field's current ones.

Ties are broken by class index everywhere: of classes with equal scores the first comes first, so that a network that
gives every class the same score gets what guessing gets.
"""

import numpy as np

from birdsong.files import Problem

# Recordings that are compared at once: their scores stay in the cache.
BLOCK = 64


def relevant(truth, background=None):
    """Pairs (recording, class) that count for the mean average precision, foreground and background classes.

    truth: (N,) class indices; background: list of N lists of class indices, or None. Returns two int64 arrays,
    sorted by recording; the foreground class comes first in each, no class twice.
    """
    truth = np.asarray(truth, np.int64)
    rows, classes = [], []
    for i, label in enumerate(truth.tolist()):
        others = sorted(set(background[i]) - {label}) if background is not None else []
        rows += [i] * (1 + len(others))
        classes += [label] + list(others)
    return np.array(rows, np.int64), np.array(classes, np.int64)


def ranks(scores, rows, classes):
    """Ranks, from 1, of `classes` (P,) among all in `rows` (P,) of scores (N, C); rows must be sorted."""
    result = np.empty(len(rows), np.int64)
    index = np.arange(scores.shape[1])
    bounds = np.searchsorted(rows, np.arange(0, len(scores) + BLOCK, BLOCK))
    for start, end in zip(bounds[:-1], bounds[1:]):
        those = scores[rows[start:end]]
        own = those[np.arange(end - start), classes[start:end]][:, None]
        result[start:end] = 1 + np.count_nonzero(those > own, axis=1)
        # Ties other than with itself are rare: only where there are any, their order matters.
        ties = np.flatnonzero(np.count_nonzero(those == own, axis=1) > 1)
        if len(ties):
            result[start + ties] += np.count_nonzero(
                (those[ties] == own[ties]) & (index < classes[start + ties, None]), axis=1
            )
    return result


def average_precisions(rows, found, count):
    """(count,) average precision of each recording, from the pairs' recordings (sorted) and their ranks `found`."""
    order = np.lexsort((found, rows))
    starts = np.searchsorted(rows, np.arange(count))
    nth = np.arange(len(rows)) - starts[rows] + 1
    return np.add.reduceat(nth / found[order], starts) / np.diff(np.append(starts, len(rows)))


def per_recording(scores, truth, background=None):
    """Each recording's rank of its foreground class (N,) and average precision (N,), or None without background.

    Raises Problem for scores that are NaN and labels that are no class.
    """
    scores, truth = np.asarray(scores), np.asarray(truth, np.int64)
    if scores.ndim != 2 or len(scores) != len(truth) or not len(truth):
        raise Problem(f'scores of shape {scores.shape} do not fit {len(truth)} recordings')
    if background is not None and len(background) != len(truth):
        raise Problem(f'background species of {len(background)} recordings, but {len(truth)} recordings')
    rows, classes = relevant(truth, background)
    if classes.min() < 0 or classes.max() >= scores.shape[1]:
        raise Problem(
            f'labels name class {int(classes.max() if classes.min() >= 0 else classes.min())}, but the scores are of {int(scores.shape[1])} classes: labels of another data set?'
        )
    if np.isnan(np.min(scores)):
        raise Problem('scores are not numbers (NaN)')
    found = ranks(scores, rows, classes)
    first = found[np.searchsorted(rows, np.arange(len(truth)))]
    return first, None if background is None else average_precisions(rows, found, len(truth))


def evaluate(scores, truth, background=None, top_k=5):
    """The original's figures, a dict: 'MAP', with background also 'MAP-bg', then 'top-1', 'top-2', ... 'top-K'.

    scores: (N, C), any real numbers; truth: (N,) class indices; background: list of N lists of class indices, or
    None. 'MAP' is the mean reciprocal rank of the foreground class, 'MAP-bg' the mean over recordings of the average
    precision over foreground and background classes. Raises Problem if these don't fit each other.
    """
    first, precisions = per_recording(scores, truth, background)
    result = {'MAP': float(np.mean(1 / first))}
    if precisions is not None:
        result['MAP-bg'] = float(np.mean(precisions))
    for k in range(1, min(top_k, np.shape(scores)[1]) + 1):
        result[f'top-{int(k)}'] = float(np.mean(first <= k))
    return result


def line(figures):
    """One line of the original's figures: 'MAP: 0.754, MAP-bg: 0.677, top-1: 0.68, ...'."""
    return ', '.join('%s: %.*f' % (name, 2 if name.startswith('top') else 3, value) for name, value in figures.items())


# -- The field's current figures --


def class_figures(scores, truth, background=None, padding=5):
    """Figures of each class over recordings, a dict of (C,) arrays, NaN where a class has no example.

    'AP': average precision of the recordings with the class in foreground or background; 'AP-padded': the same after
    adding `padding` recordings that have it and come first (the BirdCLEF 2023 challenge, which lets rare classes weigh
    less; defined for classes without example, too); 'ROC-AUC': area under the receiver operating characteristic, where
    there are recordings without the class, too. Recordings with equal scores share a threshold, as in scikit-learn.
    """
    rows, classes = relevant(truth, background)
    order = np.argsort(classes, kind='stable')
    rows, bounds = rows[order], np.searchsorted(classes[order], np.arange(scores.shape[1] + 1))
    result = {name: np.full(scores.shape[1], np.nan) for name in ('AP', 'AP-padded', 'ROC-AUC')}
    result['AP-padded'][:] = 1 if padding else np.nan
    for c, (start, end) in enumerate(zip(bounds[:-1], bounds[1:])):
        if start == end:
            continue
        everything = np.sort(scores[:, c])
        own = np.sort(scores[rows[start:end], c])
        positives = len(own) - np.searchsorted(own, own)
        found = len(everything) - np.searchsorted(everything, own)
        result['AP'][c] = np.mean(positives / found)
        result['AP-padded'][c] = (np.sum((positives + padding) / (found + padding)) + padding) / (len(own) + padding)
        others = len(everything) - len(own)
        if others:
            below, upto = (
                np.searchsorted(everything, own, side) - np.searchsorted(own, own, side) for side in ('left', 'right')
            )
            result['ROC-AUC'][c] = np.mean((below + upto) / 2) / others
    return result


def current(scores, truth, background=None):
    """'cmAP', 'cmAP-padded', 'ROC-AUC': means over classes of `class_figures`, of those classes that have examples.

    'cmAP-padded' counts all classes (Klinck et al., BirdCLEF 2023); 'ROC-AUC' is BirdCLEF 2024's.
    """
    figures = class_figures(np.asarray(scores), truth, background)
    return {
        name: float(np.nanmean(figures[key])) if not np.isnan(figures[key]).all() else float('nan')
        for name, key in (('cmAP', 'AP'), ('cmAP-padded', 'AP-padded'), ('ROC-AUC', 'ROC-AUC'))
    }


def intervals(scores, truth, background=None, top_k=5, samples=1000, seed=0, level=0.95):
    """Bootstrap intervals of `evaluate`'s figures over recordings: dict of (low, high).

    Recordings are drawn with replacement `samples` times; percentiles (Efron and Tibshirani 1993, ch. 13).
    """
    first, precisions = per_recording(scores, truth, background)
    values = {'MAP': 1 / first}
    if precisions is not None:
        values['MAP-bg'] = precisions
    for k in range(1, min(top_k, np.shape(scores)[1]) + 1):
        values[f'top-{int(k)}'] = first <= k
    table = np.stack(list(values.values()), axis=1).astype(float)
    rng, means = np.random.default_rng(seed), np.empty((samples, table.shape[1]))
    for i in range(samples):
        means[i] = np.bincount(rng.integers(len(table), size=len(table)), minlength=len(table)) @ table / len(table)
    bounds = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(values, *bounds)}
