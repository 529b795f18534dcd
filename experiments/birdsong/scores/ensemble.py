"""Fast evaluation of weighted combinations of predictions, for the search for ensemble weights.

It is fast for two reasons. Ranks are found by counting the classes with higher scores, without sorting. And since
weights are never negative, a class that has a lower score than all relevant classes of a recording (its foreground and
background) in all models cannot be ranked before any of these, so it is removed (pruned). The remaining scores are
stored as recordings x models x classes, which is the order in which they are used.
"""

import functools
from collections.abc import Iterable, Sequence

import numba
import numpy as np

from birdsong.files import Problem
from birdsong.scores import metrics

compiled = functools.partial(numba.njit, nogil=True, error_model='numpy')
# Classes that are summed at once, so that sums and scores stay in the first-level cache.
TILE = 256
# Weight vectors that are evaluated at once, so that their sums stay in the second-level cache.
BATCH = 16


@compiled()
def _prune(data, count, models, classes, pair_starts, pair_classes, widths, places):
    """Remove in place classes that cannot be ranked before a relevant one. Returns the number of remaining values."""
    scores = np.empty((models, classes), np.float32)
    kept = np.empty(classes, np.int64)
    end = 0
    for i in range(count):
        start = i * models * classes
        for m in range(models):
            for c in range(classes):
                scores[m, c] = data[start + m * classes + c]
        kept[:] = 0
        for m in range(models):
            lowest = scores[m, pair_classes[pair_starts[i]]]
            for p in range(pair_starts[i] + 1, pair_starts[i + 1]):
                lowest = min(lowest, scores[m, pair_classes[p]])
            for c in range(classes):
                kept[c] |= scores[m, c] >= lowest
        width = 0
        for c in range(classes):
            if kept[c]:
                kept[c] = width
                width += 1
                for m in range(models):
                    scores[m, kept[c]] = scores[m, c]
        for p in range(pair_starts[i], pair_starts[i + 1]):
            places[p] = kept[pair_classes[p]]
        widths[i] = width
        for m in range(models):
            for c in range(width):
                data[end] = scores[m, c]
                end += 1
    return end


@compiled()
def _precision(found, count):
    """Average precision for relevant classes at the ranks found[:count]."""
    total = 0.0
    for p in range(count):
        nth = 1
        for q in range(count):
            nth += found[q] < found[p]
        total += nth / found[p]
    return total / count


# Counting with floats takes half the time. Sums may be reordered, since sums of small integers are exact.
@compiled(fastmath={'reassoc', 'nsz'})
def _count(sums, width, own):
    """Numbers of sums[:width] that are higher than `own` and that are equal to it."""
    above, alike = np.float32(0), np.float32(0)
    for c in range(width):
        above += np.float32(sums[c] > own)
        alike += np.float32(sums[c] == own)
    return above, alike


@compiled()
def _judge(sums, width, places, found):
    """Reciprocal rank of the first of `places` and average precision of all; sums[:width] are the scores."""
    for p in range(len(places)):
        own = sums[places[p]]
        above, alike = _count(sums, width, own)
        # Ties are rare, so the order of equal scores is looked up only where there are any.
        if alike > 1:
            for c in range(places[p]):
                above += sums[c] == own
        found[p] = 1 + int(above)
    return 1 / found[0], _precision(found, len(places))


@compiled()
def _weigh(data, start, width, weights, sums):
    """sums[k, :width] = weights[k] @ scores of the recording at data[start:], summed in the same order for all k."""
    models = weights.shape[1]
    for low in range(0, width, TILE):
        high = min(low + TILE, width)
        for k in range(len(weights)):
            own = sums[k, low:high]
            own[:] = 0
            m = 0
            while m + 4 <= models:
                at = start + m * width + low
                a, b, c, d = weights[k, m], weights[k, m + 1], weights[k, m + 2], weights[k, m + 3]
                w, x = data[at : at + high - low], data[at + width : at + width + high - low]
                y, z = (
                    data[at + 2 * width : at + 2 * width + high - low],
                    data[at + 3 * width : at + 3 * width + high - low],
                )
                for j in range(high - low):
                    own[j] = (((own[j] + a * w[j]) + b * x[j]) + c * y[j]) + d * z[j]
                m += 4
            while m < models:
                at = start + m * width + low
                a, w = weights[k, m], data[at : at + high - low]
                for j in range(high - low):
                    own[j] += a * w[j]
                m += 1


@compiled()
def _evaluate(data, starts, widths, pair_starts, places, recordings, weights, firsts, precisions):
    sums = np.empty((len(weights), widths.max()), np.float32)
    found = np.empty(np.diff(pair_starts).max(), np.int32)
    for r in range(len(recordings)):
        i = recordings[r]
        _weigh(data, starts[i], widths[i], weights, sums)
        for k in range(len(weights)):
            firsts[k, r], precisions[k, r] = _judge(
                sums[k], widths[i], places[pair_starts[i] : pair_starts[i + 1]], found
            )


@compiled()
def _sum_up(data, starts, widths, weights, sums):
    own = np.empty((1, widths.max()), np.float32)
    for i in range(len(widths)):
        _weigh(data, starts[i], widths[i], weights, own)
        at = starts[i] // weights.shape[1]
        sums[at : at + widths[i]] = own[0, : widths[i]]


@compiled()
def _changes(data, starts, widths, pair_starts, places, recordings, models, sums, which, deltas, firsts, precisions):
    """Like _evaluate, for ensembles that differ in one weight from the one with `sums`: model which[k] by deltas[k]."""
    own = np.empty(widths.max(), np.float32)
    found = np.empty(np.diff(pair_starts).max(), np.int32)
    for r in range(len(recordings)):
        i = recordings[r]
        width, at = widths[i], starts[i] // models
        before, relevant = sums[at : at + width], places[pair_starts[i] : pair_starts[i + 1]]
        for k in range(len(which)):
            start, delta = starts[i] + which[k] * width, deltas[k]
            scores = data[start : start + width]
            for c in range(width):
                own[c] = before[c] + delta * scores[c]
            firsts[k, r], precisions[k, r] = _judge(own, width, relevant, found)


# Inlined, since otherwise its loops are not vectorised, which takes 1.7 times as long.
@compiled(error_model='numpy', inline='always')
def _rank_line(rest, alone, begin, end, width, place, low, step, crosses, ranks):
    """Ranks (count,) of the class at `place` at shares low, low + step, ...

    Scores are `begin` at the first share, `end` at the last one and linear in between, so each class passes this one at
    most once. Therefore the rank is counted at the first share, and then the classes that pass in each step. `rest` are
    the scores of the other models, `alone` those of the model; `crosses` (C,) is working memory.
    """
    ranks[:] = 0
    own_begin, own_end = begin[place], end[place]
    rank, crossing = np.int32(1), np.int32(0)
    for c in range(width):
        ahead = np.int8((begin[c] > own_begin) | ((begin[c] == own_begin) & (c < place)))
        later = np.int8((end[c] > own_end) | ((end[c] == own_end) & (c < place)))
        crosses[c] = later - ahead
        rank += ahead
        crossing += ahead ^ later
    ranks[0] = rank
    if crossing:
        for c in range(width):
            if crosses[c]:
                lead = rest[c] - rest[place]
                at_step = (lead / (lead - (alone[c] - alone[place])) - low) / step
                ranks[int(min(max(at_step + 1, 0.0), len(ranks) - 1.0))] += crosses[c]
    for k in range(1, len(ranks)):
        ranks[k] += ranks[k - 1]


@compiled()
def _line(data, starts, widths, pair_starts, places, recordings, models, sums, change, steps, first, precision):
    """Mean reciprocal rank and mean average precision at shares low, low + step, ... of a model in the ensemble.

    `change` is (model, its weight, factor that makes the other weights sum to 1), `steps` is (low, step).
    """
    (model, weight, scale), (low, step) = change, steps
    count = len(first)
    ranks = np.empty((np.diff(pair_starts).max(), count), np.int32)
    found = np.empty(len(ranks), np.int32)
    rest, begin, end = np.empty((3, widths.max()), np.float32)
    crosses = np.empty(widths.max(), np.int8)
    last = np.float32(low + step * (count - 1))
    for r in range(len(recordings)):
        i = recordings[r]
        width, at, start = widths[i], starts[i] // models, starts[i] + model * widths[i]
        before, alone = sums[at : at + width], data[start : start + width]
        for c in range(width):
            rest[c] = (before[c] - weight * alone[c]) * scale
            begin[c] = rest[c] + np.float32(low) * (alone[c] - rest[c])
            end[c] = rest[c] + last * (alone[c] - rest[c])
        pairs = pair_starts[i + 1] - pair_starts[i]
        for p in range(pairs):
            place = places[pair_starts[i] + p]
            _rank_line(rest, alone, begin, end, width, place, low, step, crosses, ranks[p])
        for k in range(count):
            for p in range(pairs):
                # Due to rounding, a class may seem to pass one step early or late, and the rank may be below 1.
                found[p] = max(ranks[p, k], 1)
            first[k] += 1 / found[0]
            precision[k] += _precision(found, pairs)
    first /= len(recordings)
    precision /= len(recordings)


class Ensemble:
    """Scores of several models for the same recordings, prepared for the evaluation of many weight vectors.

    members: iterable of `count` arrays (N, C), one per model, which is used once; truth: (N,) class indices;
    background: list of N lists of class indices, or None. Without `prune`, all classes are kept. Raises Problem if
    shapes or labels do not fit. Weights must not be negative; they need not sum to 1.
    """

    def __init__(
        self,
        members: Iterable[np.ndarray],
        truth: Sequence[int],
        background: list | None = None,
        count: int | None = None,
        prune: bool = True,
    ):
        truth = np.asarray(truth, np.int64)
        self.models = len(members) if count is None else count
        self.recordings, self.has_background = len(truth), background is not None
        rows, classes = metrics.relevant(truth, background)
        self._pair_starts = np.searchsorted(rows, np.arange(len(truth) + 1))
        data = None
        for m, scores in enumerate(members):
            if data is None:
                shape = scores.shape
                data = np.empty((len(truth), self.models, shape[1]), np.float32)
                if classes.min() < 0 or classes.max() >= shape[1]:
                    raise Problem(
                        f'labels name class {classes.max()}, but the scores are of {shape[1]} classes: '
                        'labels of another dataset?'
                    )
            if scores.shape != shape or len(scores) != len(truth):
                raise Problem(f'scores of shape {scores.shape} and {shape} for {len(truth)} recordings do not fit')
            data[:, m] = scores
        self._data = data.reshape(-1)
        self._widths = np.full(len(truth), shape[1], np.int64)
        self._places = classes.copy()
        if prune:
            size = _prune(
                self._data, len(truth), self.models, shape[1], self._pair_starts, classes, self._widths, self._places
            )
            del data
            self._data = self._data.base if self._data.base is not None else self._data
            self._data.resize(size, refcheck=False)
        self._starts = self.models * np.concatenate([[0], np.cumsum(self._widths)[:-1]])

    @property
    def nbytes(self) -> int:
        """Size of the stored scores."""
        return self._data.nbytes

    def _layout(self, recordings):
        recordings = np.arange(self.recordings) if recordings is None else np.asarray(recordings, np.int64)
        return recordings, (self._data, self._starts, self._widths, self._pair_starts, self._places, recordings)

    def each(self, weights: np.ndarray, recordings: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Reciprocal ranks and average precisions of all recordings, or of those at indices `recordings`.

        weights: (M,) or (K, M), not negative. Returns two float64 arrays (N,) or (K, N), 0 if all weights are 0.
        """
        weights = np.asarray(weights, np.float32)
        several = np.atleast_2d(weights)
        if several.shape[1] != self.models or not (several >= 0).all():
            raise Problem(f'weights {weights}: expected {self.models} numbers that are not negative')
        recordings, layout = self._layout(recordings)
        firsts, precisions = np.empty((2, len(several), len(recordings)))
        for start in range(0, len(several), BATCH):
            part = slice(start, start + BATCH)
            _evaluate(*layout, several[part], firsts[part], precisions[part])
        empty = ~several.any(axis=1)
        firsts[empty], precisions[empty] = 0, 0
        return (firsts, precisions) if weights.ndim == 2 else (firsts[0], precisions[0])

    def evaluate(self, weights: np.ndarray, recordings: np.ndarray | None = None) -> tuple:
        """Means of `each`: the MAP of the foreground and the MAP with background, as numbers or arrays (K,)."""
        firsts, precisions = self.each(weights, recordings)
        return firsts.mean(axis=-1), precisions.mean(axis=-1)

    def walk(self, weights: np.ndarray, recordings: np.ndarray | None = None) -> 'Walk':
        """A `Walk` that starts at these weights, evaluated on all recordings or on those at indices `recordings`."""
        return Walk(self, weights, recordings)


class Walk:
    """An ensemble in which one weight is changed at a time, which is faster to evaluate than other changes."""

    def __init__(self, ensemble: Ensemble, weights: np.ndarray, recordings: np.ndarray | None = None):
        self.ensemble = ensemble
        recordings, self._layout = ensemble._layout(recordings)
        self._sums = np.empty(len(ensemble._data) // ensemble.models, np.float32)
        self.start(weights)

    def start(self, weights: np.ndarray) -> None:
        """Set the weights (M,). The sums are computed from scratch, so that rounding errors do not accumulate."""
        self.weights = np.array(weights, np.float32)
        _sum_up(*self._layout[:3], self.weights[None], self._sums)

    def change(self, model: int, weight: float) -> tuple[float, float]:
        """The two MAPs with another weight for `model`, without changing `weights`."""
        first, precision = self.changes([model], [weight])
        return first[0], precision[0]

    def changes(self, models: Sequence[int], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The two MAPs (K,) of ensembles in each of which one weight is different: models[k] has weights[k]."""
        models, weights = np.asarray(models, np.int64), np.asarray(weights, np.float32)
        firsts, precisions = np.empty((2, len(models), len(self._layout[-1])))
        _changes(
            *self._layout, self.ensemble.models, self._sums, models, weights - self.weights[models], firsts, precisions
        )
        for k in np.flatnonzero(weights == 0):
            if not np.delete(self.weights, models[k]).any():
                firsts[k], precisions[k] = 0, 0
        return firsts.mean(axis=1), precisions.mean(axis=1)

    def line(self, model: int, low: float = 0.0, high: float = 1.0, count: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """The two MAPs (count,) at shares low, low + (high - low) / count, ... of `model` in the ensemble.

        A share s means a weight of s / (1 - s) times the sum of the others. Raises Problem if all others are 0.
        """
        others = self.others(model)
        if not others > 0:
            raise Problem('no other model has a weight')
        first, precision = np.zeros((2, count))
        _line(
            *self._layout,
            self.ensemble.models,
            self._sums,
            (model, self.weights[model], np.float32(1 / others)),
            (float(low), (high - low) / count),
            first,
            precision,
        )
        return first, precision

    def others(self, model: int) -> float:
        """The sum of the other models' weights."""
        return float(np.delete(self.weights, model).sum(dtype=np.float64))
