"""Calibration: a logistic curve per class, from the scores of a model to the probability that it is right.

A network that gives a class 0.9 is not right in 90 % of these cases. The curve of a class is

    probability = sigmoid(intercept + slope * logit(output))

where the output is the score after a softmax or sigmoid, if the scores need one (Wood and Kahl 2024; with one curve for
all classes, this is the scaling of Platt 1999). Slopes are not negative, so that the order of the scores of a class
does not change. calibrate.py fits the curves, see `curves`, and writes them as JSON.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from birdsong.files import Problem, open_regular, writing

# What has to be done to the scores of a prediction file to get outputs, which are between 0 and 1.
SOFTMAX, SIGMOID, OUTPUTS = 'softmax', 'sigmoid', 'outputs'
KINDS = (SOFTMAX, SIGMOID, OUTPUTS)
# Logits are limited to this range: float32 has no numbers between 1 and the sigmoid of 16.6.
LIMIT = 16.0
FORMAT = 'birdsong calibration 1'
MAX_BYTES = 100 << 20
CURE = 'create it again with calibrate.py'


@dataclass
class Calibration:
    """Curves and thresholds of all classes.

    `.classes` are class ids; all arrays have one value per class, float64. `.kind` is one of KINDS. `.lowest` and
    `.highest` are the outputs between which cases of a class were known, and `.thresholds` outputs at which detections
    begin; these are NaN where there were no cases, or not enough. `.cases` and `.right` are the numbers of cases.
    """

    classes: list[str]
    slopes: np.ndarray
    intercepts: np.ndarray
    kind: str
    common_slope: float = 1.0
    common_intercept: float = 0.0
    thresholds: np.ndarray | None = None
    lowest: np.ndarray | None = None
    highest: np.ndarray | None = None
    cases: np.ndarray | None = None
    right: np.ndarray | None = None
    about: dict = field(default_factory=dict)  # other values for the JSON file, such as the dataset

    def __post_init__(self):
        for name in ('thresholds', 'lowest', 'highest'):
            if getattr(self, name) is None:
                setattr(self, name, np.full(len(self.classes), np.nan))
        for name in ('cases', 'right'):
            if getattr(self, name) is None:
                setattr(self, name, np.zeros(len(self.classes)))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities of being right (rows, classes), float64, of scores as they are in the prediction file.

        Raises Problem if the scores have another number of classes, or are of another kind.
        """
        scores = np.asarray(scores)
        if scores.ndim != 2 or scores.shape[1] != len(self.classes):
            raise Problem(
                f'scores of shape {scores.shape}, but the calibration has {len(self.classes)} classes; calibrate these '
                'predictions with calibrate.py'
            )
        return sigmoid(self.intercepts + self.slopes * logits(scores, self.kind))

    def for_classes(self, labelset: Sequence[str], filename: str = 'calibration') -> 'Calibration':
        """The same curves in the order of `labelset`. Classes without a curve get the common one, with a note.

        Raises Problem if a class of the calibration is not in `labelset`.
        """
        labelset = list(labelset)
        if labelset == self.classes:
            return self
        index = {name: i for i, name in enumerate(self.classes)}
        unknown = sorted(set(self.classes) - set(labelset))
        if unknown:
            raise Problem(
                f'{filename}: {len(unknown)} of its {len(index)} classes, such as {unknown[0]}, are not classes of '
                'this dataset; select the dataset that it belongs to with --dataset'
            )
        new = [name for name in labelset if name not in index]
        if new:
            print(
                f'note: {filename}: no curves of {len(new)} of {len(labelset)} classes, such as {new[0]}, which were '
                'added later; they get the common curve and no thresholds',
                file=sys.stderr,
            )
        which = np.array([index.get(name, -1) for name in labelset])

        def chosen(values, other):
            return np.where(which >= 0, values[which], other)

        return Calibration(
            labelset,
            chosen(self.slopes, self.common_slope),
            chosen(self.intercepts, self.common_intercept),
            self.kind,
            self.common_slope,
            self.common_intercept,
            **{name: chosen(getattr(self, name), np.nan) for name in ('thresholds', 'lowest', 'highest')},
            **{name: chosen(getattr(self, name), 0) for name in ('cases', 'right')},
            about=self.about,
        )

    def save(self, filename: str | os.PathLike) -> None:
        """Write JSON, atomically."""
        content = {
            'format': FORMAT,
            **self.about,
            'scores': self.kind,
            'common': {'slope': self.common_slope, 'intercept': self.common_intercept},
            'classes': [
                {
                    'class': name,
                    'slope': float(self.slopes[i]),
                    'intercept': float(self.intercepts[i]),
                    'threshold': _or_none(self.thresholds[i]),
                    'lowest': _or_none(self.lowest[i]),
                    'highest': _or_none(self.highest[i]),
                    'cases': int(self.cases[i]),
                    'right': int(self.right[i]),
                }
                for i, name in enumerate(self.classes)
            ],
        }
        with writing(filename, 'w', encoding='utf-8') as f:
            json.dump(content, f, indent=1, allow_nan=False, ensure_ascii=False)
            f.write('\n')


def load(filename: str | os.PathLike) -> Calibration:
    """Read a calibration. Raises Problem if the file is missing, damaged, or has impossible values."""
    filename = os.fspath(filename)
    try:
        with open_regular(filename, 'r', encoding='utf-8') as f:
            text = f.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f'more than {MAX_BYTES >> 20} MiB')
        content = json.loads(text)
        if not isinstance(content, dict) or content.get('format') != FORMAT:
            raise ValueError(f'no "format": "{FORMAT}"')
        return _checked(content)
    except FileNotFoundError:
        raise Problem(f'{filename}: no such file; create it with calibrate.py') from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        raise Problem(f'{filename}: not a calibration ({type(e).__name__}: {e}); {CURE}') from None


def _checked(content):
    """The calibration in the content of a JSON file. Raises ValueError, KeyError or TypeError if it is not valid."""
    rows, kind = content['classes'], content['scores']
    names = [row['class'] for row in rows]
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ValueError('class ids are missing or repeated')
    if kind not in KINDS:
        raise ValueError(f'"scores" must be one of {", ".join(KINDS)}')
    values = {
        name: np.array([_number(row, name, *limits) for row in rows])
        for name, *limits in (
            ('slope', 0, np.inf, False),
            ('intercept', -np.inf, np.inf, False),
            ('threshold', 0, 1, True),
            ('lowest', 0, 1, True),
            ('highest', 0, 1, True),
            ('cases', 0, np.inf, False),
            ('right', 0, np.inf, False),
        )
    }
    common = content['common']
    return Calibration(
        names,
        values['slope'],
        values['intercept'],
        kind,
        _number(common, 'slope', 0, np.inf, False),
        _number(common, 'intercept', -np.inf, np.inf, False),
        values['threshold'],
        values['lowest'],
        values['highest'],
        values['cases'],
        values['right'],
        {name: value for name, value in content.items() if name not in ('format', 'scores', 'common', 'classes')},
    )


def _number(row, name, lowest, highest, optional):
    """A finite number from `lowest` to `highest`; NaN for null if it is optional."""
    value = row[name]
    if value is None and optional:
        return np.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{name} of {row.get("class", "the common curve")} is {value!r}, not a number')
    value = float(value)
    if not (np.isfinite(value) and lowest <= value <= highest):
        raise ValueError(f'{name} of {row.get("class", "the common curve")} is {value:g}')
    return value


def _or_none(value):
    return None if np.isnan(value) else float(value)


# == From scores to logits ==


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), float64."""
    with np.errstate(over='ignore'):
        return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def logits(scores: np.ndarray, kind: str) -> np.ndarray:
    """log(p / (1 - p)) of the outputs p of scores (rows, classes), float64, limited to -LIMIT to LIMIT.

    kind: what turns the scores into outputs, one of KINDS. Raises Problem if the scores are of another kind.
    """
    scores = np.asarray(scores, np.float64)
    low, high = scores.min(initial=0), scores.max(initial=0)
    outputs = 0 <= low <= high <= 1
    if kind == OUTPUTS:
        if not outputs:
            raise Problem(
                f'scores from {low:.3g} to {high:.3g} are no probabilities; give --softmax (for networks trained with '
                'cost=softmax) or --sigmoid'
            )
        with np.errstate(divide='ignore'):
            result = np.log(scores) - np.log1p(-scores)
    elif kind == SIGMOID:
        result = scores
    else:
        if len(scores) and scores.shape[1] > 1 and outputs and np.allclose(scores.sum(axis=1), 1, rtol=0, atol=1e-3):
            raise Problem('scores are the outputs of a softmax already; leave out --softmax')
        result = _softmax_logits(scores)
    return np.clip(result, -LIMIT, LIMIT)


def _softmax_logits(scores):
    """Logits of the softmax: each score minus the logarithm of the sum of exp(score) over the other classes."""
    rows, best = np.arange(len(scores)), scores.argmax(axis=1)
    relative = scores - scores[rows, best, None]
    parts = np.exp(relative)
    # Subtracting the largest term from the sum would lose precision, so the sum of the others is computed for it.
    parts[rows, best] = 0
    others = parts.sum(axis=1, keepdims=True)
    rest = 1 + others - parts
    rest[rows, best] = others[:, 0]
    with np.errstate(divide='ignore'):
        return relative - np.log(rest)
