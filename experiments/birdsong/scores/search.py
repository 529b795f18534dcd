"""Search for the weights of an ensemble with the highest mean average precision (MAP)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:  # importing it at run time would load Numba
    from birdsong.scores.ensemble import Ensemble, Walk

# Default of `patience` for each strategy.
PATIENCE = {'greedy': 10, 'forward': 5, 'hyperopt': 1000, 'hyperopt_zero': 1000, 'hyperopt_log': 1000}
# The strategy without search: the result are the initial weights.
INITIAL = 'initial weights'
# Random halves of the recordings on which forward selection is repeated.
BAGS = 5
# Number of shares tried in the search along one weight, and the highest in multiples of the present share.
LINE_STEPS, LINE_REACH = 64, 4
# The search along single weights ends when a round improves the criterion by less, since then it overfits.
MIN_GAIN = 1e-4
# Differences below this are due to rounding.
EPSILON = 1e-9


def criterion_value(criterion: str, maps: Sequence) -> float | np.ndarray:
    """The value to maximise: `criterion` is 'fg', 'bg' or 'fg+bg', `maps` the MAPs of foreground and background."""
    return sum(value for name, value in zip(('fg', 'bg'), maps, strict=True) if name in criterion)


class Search:
    """Evaluates weights of an ensemble on all recordings or some (indices), and keeps the best weights.

    `.weights` (M,) are the best weights so far, None at first, and `.best` is the value of the criterion for them, also
    after an interruption. `report(count, weights, maps)` is called for each improvement.
    """

    def __init__(
        self, ensemble: Ensemble, criterion: str, recordings: np.ndarray | None = None, report: Callable | None = None
    ):
        self.ensemble, self.criterion, self.recordings, self.report = ensemble, criterion, recordings, report
        self.best, self.weights, self.count = -np.inf, None, 0

    def consider(self, weights: np.ndarray, maps: Sequence[float]) -> float:
        """Count an evaluation with the result `maps`; keep the weights if they are the best. Returns the value."""
        self.count += 1
        value = criterion_value(self.criterion, maps)
        if value > self.best + EPSILON:
            self.best, self.weights = value, np.array(weights, float)
            if self.report:
                self.report(self.count, self.weights, maps)
        return value

    def consider_all(self, weights: np.ndarray, maps: tuple[np.ndarray, np.ndarray]) -> int:
        """`consider` each row of `weights` (K, M) with its pair of `maps` (K,). Returns the index of the best row."""
        return int(np.argmax([self.consider(*pair) for pair in zip(weights, zip(*maps, strict=True), strict=True)]))

    def evaluate(self, weights: np.ndarray) -> float:
        """Evaluate weights (M,). Returns the value."""
        return self.consider(weights, self.ensemble.evaluate(weights, self.recordings))

    def change(self, walk: Walk, model: int, weight: float) -> float:
        """Evaluate the weights of `walk` with another weight for one model. Returns the value."""
        maps = walk.change(model, weight)
        return self.consider(with_weight(walk, model, weight), maps)


def with_weight(walk: Walk, model: int, weight: float) -> np.ndarray:
    """The weights (M,) of `walk` with another weight for one model."""
    weights = walk.weights.astype(float)
    weights[model] = weight
    return weights


def run(strategy: str, search: Search, start: np.ndarray, patience: int | None, seed: int) -> np.ndarray:
    """Search by a strategy from the weights `start` (M,). Returns the best weights found (M,).

    `patience` is the number of evaluations (hyperopt), of evaluations per weight (greedy), or of steps without
    improvement (forward); None means the default. The same seed gives the same weights.
    """
    patience = patience or PATIENCE.get(strategy)
    search.evaluate(start)
    if strategy == 'greedy':
        greedy(search, patience, seed)
    elif strategy == 'forward':
        forward(search, patience, seed)
    elif strategy != INITIAL:
        hyperopt(search, start, patience, seed, strategy)
    return search.weights


def greedy(search: Search, patience: int, seed: int) -> None:
    """Change one weight at a time, in random order, until no change improves the result.

    Each weight is doubled and halved, then optimised by a simplex search (Nelder and Mead 1965).
    """
    from scipy.optimize import minimize

    rng = np.random.default_rng(seed)
    walk, improved = search.ensemble.walk(search.weights, search.recordings), True

    def loss(weight, model):
        return -search.change(walk, model, float(max(np.ravel(weight)[0], 0)))

    while improved:
        improved = False
        for model in rng.permutation(len(search.weights)):
            before, weight = search.best, walk.weights[model]
            loss(0, model)
            for factor in (2, 1 / 2):
                trial = (weight or 1 / 2) * factor
                while -loss(trial, model) >= search.best > before and search.weights[model] == trial and trial < 1e3:
                    trial *= factor
            center = search.weights[model] or 1 / 10
            minimize(loss, [center], (model,), 'Nelder-Mead', options={'maxfev': patience, 'xatol': 1e-4, 'fatol': 0})
            if search.best > before:
                improved = True
                walk.start(search.weights)


def forward(search: Search, patience: int, seed: int) -> None:
    """Forward selection with replacement (Caruana et al. 2004), then exact search along one weight at a time.

    As in the paper, the selection is repeated on random halves of the recordings and averaged, to generalise better.
    """
    rng = np.random.default_rng(seed)
    ensemble = search.ensemble
    recordings = np.arange(ensemble.recordings) if search.recordings is None else search.recordings
    chosen = np.zeros(ensemble.models)
    for _ in range(BAGS):
        half = np.sort(rng.permutation(recordings)[: (len(recordings) + 1) // 2])
        counts = select(Search(ensemble, search.criterion, half), patience)
        chosen += counts / counts.sum()
    chosen /= chosen.max()
    best = search.evaluate(chosen)
    ascend(search, ensemble.walk(chosen, search.recordings), best, rng)


def select(search: Search, patience: int) -> np.ndarray:
    """Forward selection: repeatedly add the model that helps most. Returns how often each was added (M,)."""
    single = np.eye(search.ensemble.models)
    counts = single[search.consider_all(single, search.ensemble.evaluate(single, search.recordings))]
    walk, waited = search.ensemble.walk(counts, search.recordings), 0
    while waited < patience:
        before = search.best
        maps = walk.changes(range(len(counts)), counts + 1)
        counts = counts + single[search.consider_all(counts + single, maps)]
        walk.start(counts)
        waited = 0 if search.best > before else waited + 1
    return search.weights


def ascend(search: Search, walk: Walk, best: float, rng: np.random.Generator) -> None:
    """Coordinate ascent: search along one weight at a time, until a round of all improves by less than MIN_GAIN.

    `best` is the value of the weights of `walk`.
    """
    before = -np.inf
    while best > before + MIN_GAIN:
        before = best
        for model in rng.permutation(len(walk.weights)):
            others = walk.others(model)
            if not others > 0:
                continue
            share = best_share(search, walk, model)
            weight = share / (1 - share) * others
            value = search.change(walk, model, weight)
            if value > best + EPSILON:
                best = value
                weights = with_weight(walk, model, weight)
                walk.start(weights / weights.max())


def best_share(search: Search, walk: Walk, model: int) -> float:
    """The best share of a model in the ensemble: the middle of the longest interval with the highest value.

    A single pass over the scores gives the values for all shares (`Walk.line`).
    """
    weight = float(walk.weights[model])
    high = min(LINE_REACH * max(weight / (weight + walk.others(model)), 1 / len(walk.weights)), 1)
    values = criterion_value(search.criterion, walk.line(model, 0, high, LINE_STEPS))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], values >= values.max() - EPSILON, [0]])))
    longest = np.argmax(edges[1::2] - edges[::2])
    first, last = edges[2 * longest], edges[2 * longest + 1] - 1
    # If the interval begins at 0, the ensemble is as good without the model.
    return 0.0 if first == 0 else (first + last) / 2 * high / LINE_STEPS


def hyperopt(search: Search, start: np.ndarray, patience: int, seed: int, strategy: str) -> None:
    """Tree of Parzen estimators (Bergstra et al. 2011): `patience` evaluations, after one of `start`.

    Weights are uniform in 0..1, with 'hyperopt_zero' also 0 with probability 1/2, or with 'hyperopt_log' log-uniform in
    e^-6..1. The weights `start` are scaled and clipped to this range, since only their ratios matter.
    """
    from hyperopt import fmin, hp, tpe

    names = [f'{m:04}' for m in range(len(start))]
    first = dict(zip(names, (start / (start.max() or 1)).tolist(), strict=True))
    if strategy == 'hyperopt_log':
        space = {name: hp.loguniform(name, -6, 0) for name in names}
        first = {name: max(weight, np.exp(-6)) for name, weight in first.items()}
    else:
        space = {name: hp.uniform(name, 0, 1) for name in names}
    if strategy == 'hyperopt_zero':
        space = {name: hp.choice(f'use {name}', [0, value]) for name, value in space.items()}
        first |= {f'use {name}': int(weight > 0) for name, weight in first.items()}

    with tqdm(total=patience + 1, file=sys.stderr, disable=None, leave=False, unit='trial') as progress:

        def loss(weights):
            progress.update()
            return -search.evaluate(np.array([weights[name] for name in names], float))

        fmin(
            loss,
            space,
            algo=tpe.suggest,
            max_evals=patience,
            points_to_evaluate=[first],
            rstate=np.random.default_rng(seed),
            return_argmin=False,
            verbose=False,
        )
