"""How good probabilities are: log loss, Brier score, expected calibration error, and the reliability diagram.

Curves are judged on cases that they were not fitted to. Intervals are from bootstrap samples of groups of recordings,
since cases of one recording are not independent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from birdsong.files import Problem, writing
from birdsong.findings.calibration import sigmoid
from birdsong.findings.cases import Cases
from birdsong.findings.curves import Curves, fit
from birdsong.scores.metrics import resample

BINS = 10
LEVEL = 0.95


class HeldOut(NamedTuple):
    """Calibrated logits of all cases (n,) from curves that were fitted to the other folds, and the fold of each."""

    logits: np.ndarray
    folds: np.ndarray
    curves: list[Curves]


def held_out(cases: Cases, num_classes: int, folds: int, seed: int = 0) -> HeldOut:
    """Fit curves without the cases of each fold. Groups are drawn into folds and never divided.

    Raises Problem if there are fewer groups than folds.
    """
    names, group = np.unique(cases.groups, return_inverse=True)
    if len(names) < folds:
        raise Problem(
            f'{len(names)} groups of recordings cannot be divided into {folds} folds; give fewer --folds, or 0 to fit '
            'curves without a report'
        )
    fold = (np.random.default_rng(seed).permutation(len(names)) % folds)[group]
    logits, fitted = np.empty(len(cases.logits)), []
    for number in range(folds):
        train, test = cases.take(fold != number), cases.take(fold == number)
        fitted.append(fit(train.logits, train.classes, train.right, num_classes, groups=train.groups))
        logits[fold == number] = fitted[-1].apply(test.logits, test.classes)
    return HeldOut(logits, fold, fitted)


# == Metrics ==


def bin_of(probabilities: np.ndarray) -> np.ndarray:
    """Index (n,) of the bin of each probability; BINS bins of equal width."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def losses(logits: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log loss (natural logarithm) and squared error of each case (n,), given the logits of its probabilities."""
    return np.logaddexp(0, np.where(right, -logits, logits)), (sigmoid(logits) - right) ** 2


def compare(cases: Cases, calibrated: np.ndarray, samples: int) -> dict[str, dict[str, dict]]:
    """Metrics before and after calibration, and their differences: {metric: {before, after, difference}}.

    calibrated: the logits (n,) of the calibrated probabilities.

    Each of these is {value, low, high}. 'log loss' and 'Brier' are means over all cases; 'ECE' is the expected
    calibration error over all cases, with bins of equal width (Naeini et al. 2015), and 'ECE of the best class' that
    over the class with the highest score in each row (Guo et al. 2017), if these are known.
    """
    names, group = np.unique(cases.groups, return_inverse=True)
    drawn = np.stack(list(resample(len(names), None, samples))) if samples else np.empty((0, len(names)))
    counts = np.concatenate([np.ones((1, len(names))), drawn])
    values = {name: [] for name in ('log loss', 'Brier', 'ECE', 'ECE of the best class')}
    total = counts @ np.bincount(group)
    for logits in (cases.logits, calibrated):
        for name, each in zip(('log loss', 'Brier'), losses(logits, cases.right), strict=True):
            values[name].append(counts @ np.bincount(group, each) / total)
        chances = sigmoid(logits)
        values['ECE'].append(_calibration_error(chances, cases.right, group, counts))
        if cases.best.any():
            best = cases.best
            error = _calibration_error(chances[best], cases.right[best], group[best], counts)
            values['ECE of the best class'].append(error)
    return {
        name: {
            'before': _summary(before),
            'after': _summary(later),
            'difference': _summary(later - before),
        }
        for name, (before, later) in ((name, pair) for name, pair in values.items() if pair)
    }


def _calibration_error(chances, right, group, counts):
    """Expected calibration error in each sample, for `counts` (samples, groups)."""
    number = bin_of(chances) + BINS * group
    size = BINS * counts.shape[1]
    gaps = counts @ np.bincount(number, chances - right, size).reshape(-1, BINS)
    return np.abs(gaps).sum(axis=1) / (counts @ np.bincount(group, minlength=counts.shape[1]))


def _summary(values):
    """The first value, and the interval (percentile method) of the others."""
    result = {'value': float(values[0])}
    if len(values) > 1:
        low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        result |= {'low': float(low), 'high': float(high)}
    return result


def precision(
    cases: Cases, judged: HeldOut, threshold_of: Callable[[Cases, Curves], np.ndarray], samples: int
) -> dict[str, Any] | None:
    """Precision of the detections above thresholds that were fitted without the fold of the detection.

    threshold_of: gives the logits (classes,) of thresholds from cases and curves. Returns {value, low, high,
    detections}, or None without any detection.
    """
    detected = np.zeros(len(cases.logits), bool)
    for number, curves in enumerate(judged.curves):
        limits = threshold_of(cases.take(judged.folds != number), curves)[cases.classes]
        detected |= (judged.folds == number) & (cases.logits >= limits)
    if not detected.any():
        return None
    names, group = np.unique(cases.groups, return_inverse=True)
    found = np.bincount(group, detected, len(names))
    right = np.bincount(group, detected & cases.right, len(names))
    counts = np.stack([np.ones(len(names)), *resample(len(names), None, samples)])
    counts = counts[counts @ found > 0]
    return _summary(counts @ right / (counts @ found)) | {'detections': int(detected.sum())}


# == Diagram ==


def diagram(cases: Cases, logits: np.ndarray, samples: int = 1000) -> list[dict[str, float]]:
    """The bins with cases, in order: mean 'probability', 'share' of right cases, its 'low' and 'high', and 'cases'.

    logits: those (n,) of the probabilities. The interval is from bootstrap samples of groups.
    """
    names, group = np.unique(cases.groups, return_inverse=True)
    drawn = np.stack([np.ones(len(names)), *resample(len(names), None, samples)])
    return _bins(sigmoid(logits), cases.right, group, drawn)


def draw(filename: str, cases: Cases, calibrated: np.ndarray, title: str, samples: int = 1000) -> None:
    """Write a reliability diagram, PNG or SVG: share of right cases over the probability, before and after.

    calibrated: the logits (n,) of the calibrated probabilities.
    Bars are intervals from bootstrap samples of groups; below, the number of cases of each bin.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    matplotlib.rcParams['svg.hashsalt'] = 'birdsong'  # equal cases give equal files
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 6), sharex=True, sharey='row', height_ratios=(3, 1), layout='constrained', facecolor='white'
    )
    names, group = np.unique(cases.groups, return_inverse=True)
    drawn = np.stack([np.ones(len(names)), *resample(len(names), None, samples)])
    panels = (('before', sigmoid(cases.logits), '#b35806'), ('after', sigmoid(calibrated), '#1f6fb4'))
    for column, (name, chances, colour) in enumerate(panels):
        upper, lower = axes[:, column]
        _panel(upper, chances, cases.right, group, drawn, colour)
        upper.set_title(f'{name} calibration' + (' (held out)' if name == 'after' else ''))
        count = np.bincount(bin_of(chances), minlength=BINS)
        lower.bar((np.arange(BINS) + 0.5) / BINS, count, 0.9 / BINS, color=colour)
        lower.set_yscale('log')
        lower.set_ylim(bottom=0.5)
        lower.set_xlabel('probability that the class is there')
        for axis in (upper, lower):
            axis.grid(alpha=0.3)
            axis.set_axisbelow(True)
    axes[0, 0].set_ylabel('share of cases in which it is')
    axes[1, 0].set_ylabel('cases')
    figure.suptitle(f'{title} (bars: {100 * LEVEL:.0f} % intervals)', parse_math=False)
    kind = 'svg' if filename.endswith('.svg') else 'png'
    metadata = {'Date': None} if kind == 'svg' else {}
    with writing(filename) as f:
        figure.savefig(f, format=kind, dpi=120, metadata=metadata)
    plt.close(figure)


def _bins(chances, right, group, drawn):
    """What `diagram` returns; drawn: how often groups are in samples, (samples, groups), of which the first is 1."""
    number, size = bin_of(chances) + BINS * group, BINS * drawn.shape[1]
    counts, mean, hits = (
        drawn @ np.bincount(number, each, size).reshape(-1, BINS) for each in (np.ones(len(chances)), chances, right)
    )
    filled = np.flatnonzero(counts[0])
    with np.errstate(invalid='ignore'):
        shares = hits / counts
    low, high = np.nanquantile(shares[:, filled], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    values = (mean[0, filled] / counts[0, filled], shares[0, filled], low, high, counts[0, filled])
    names = 'probability', 'share', 'low', 'high', 'cases'
    return [dict(zip(names, row, strict=True)) for row in np.stack(values, axis=1).tolist()]


def _panel(axis, chances, right, group, drawn, colour):
    """Draw the share of right cases over the mean probability of each bin with cases."""
    bins = _bins(chances, right, group, drawn)
    x, y, low, high = (np.array([each[name] for each in bins]) for name in ('probability', 'share', 'low', 'high'))
    axis.plot([0, 1], [0, 1], color='0.5', linestyle='--', linewidth=1)
    axis.errorbar(
        x, y, [np.maximum(0, y - low), np.maximum(0, high - y)], fmt='o-', color=colour, capsize=3, linewidth=1.5
    )
    axis.set(xlim=(0, 1), ylim=(-0.02, 1.02))
