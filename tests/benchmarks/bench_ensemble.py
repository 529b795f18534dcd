#!/usr/bin/env python3
"""Evaluation of an ensemble, compared with the method of 2018, for 36 models, 3003 recordings and 1500 classes.

The method of 2018 multiplies and sums the predictions, sorts the classes and takes cumulative sums for the average
precision. It is compared with the evaluation of a single weight vector, of several at once (time per vector), and of
one changed weight, each with all classes and with pruning. All use 1 thread and alternate. Prints medians, and
checks that the metrics agree.
"""

import argparse
import os
import sys
import time
import tracemalloc

for name in ('OMP', 'OPENBLAS', 'MKL', 'NUMBA'):
    os.environ[f'{name}_NUM_THREADS'] = '1'
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'experiments'))

import numpy as np  # noqa: E402

from birdsong.scores import metrics  # noqa: E402
from birdsong.scores.ensemble import Ensemble  # noqa: E402


def synthetic(models, recordings, classes, seed=0):
    """Scores of models that are about as good and as similar as those of 2018: MAP about 0.7, together 0.75."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=recordings)
    background = [rng.choice(classes, min(rng.geometric(0.5) - 1, 6), replace=False).tolist() for _ in truth]
    rows, found = metrics.relevant(truth, background)
    shared = rng.standard_normal((recordings, classes), dtype=np.float32)
    foreground = np.concatenate([[True], np.diff(rows) > 0])
    shared[rows, found] += np.where(foreground, 4.6, 2.5) + rng.normal(0, 1.5, len(rows))
    scores = np.empty((models, recordings, classes), np.float32)
    for m in range(models):
        scores[m] = shared
        scores[m] += rng.standard_normal(shared.shape, dtype=np.float32) * (0.4 + 0.01 * m)
    return scores, truth, background


def recipe(scores, truth, relevant, weights):
    """The two MAPs as they were computed in 2018."""
    combined = (weights[:, None, None] * scores).sum(axis=0) / len(scores)
    order = np.argsort(combined, axis=1)[:, ::-1]
    ranks = np.argmax(order == truth[:, None], axis=1) + 1
    hits = np.take_along_axis(relevant, order, axis=1)
    precisions = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return np.mean(1 / ranks), np.mean((precisions * hits).sum(axis=1) / hits.sum(axis=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', type=int, default=36)
    parser.add_argument('--recordings', type=int, default=3003)
    parser.add_argument('--classes', type=int, default=1500)
    parser.add_argument('--batch', type=int, default=32, help='number of weight vectors in a batch (%(default)s)')
    parser.add_argument('--rounds', type=int, default=7)
    args = parser.parse_args()
    scores, truth, background = synthetic(args.models, args.recordings, args.classes)
    relevant = np.zeros(scores.shape[1:], bool)
    relevant[metrics.relevant(truth, background)] = True
    rng = np.random.default_rng(1)
    weights = rng.random((args.batch, args.models)).astype(np.float32)

    contestants = {'method of 2018': (lambda: recipe(scores, truth, relevant, weights[0]), 1)}
    for prune in (False, True):
        tracemalloc.start()
        start = time.perf_counter()
        ensemble = Ensemble((member for member in scores), truth, background, args.models, prune)
        seconds, memory = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
        print(
            f'{"pruned" if prune else "all classes"}: built in {seconds:.1f} s, peak memory '
            f'{memory / scores.nbytes:.2f} x the data, stored {ensemble.nbytes / scores.nbytes:.2f} x',
            flush=True,
        )
        tracemalloc.stop()
        walk = ensemble.walk(np.concatenate([[0.5], weights[0, 1:]]))
        name = ', pruned' if prune else ', all classes'
        contestants[f'single vector{name}'] = lambda e=ensemble: e.evaluate(weights[0]), 1
        contestants[f'vector of a batch{name}'] = (
            lambda e=ensemble: tuple(values[0] for values in e.evaluate(weights)),
            args.batch,
        )
        contestants[f'one changed weight{name}'] = lambda w=walk: w.change(0, weights[0, 0]), 1

    times = {name: [] for name in contestants}
    for turn in range(args.rounds + 1):
        for name, (run, count) in contestants.items():
            start = time.perf_counter()
            maps = run()
            if turn:
                times[name].append((time.perf_counter() - start) / count)
            elif name == 'method of 2018':
                expected = maps
            else:
                np.testing.assert_allclose(maps, expected, atol=2e-4)
    base = np.median(times['method of 2018'])
    print(f'{"":34} {"ms":>9} {"ratio":>8}')
    for name, values in times.items():
        print(f'{name:34} {1000 * np.median(values):9.1f} {base / np.median(values):8.1f}')


if __name__ == '__main__':
    main()
