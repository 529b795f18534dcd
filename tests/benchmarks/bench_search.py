#!/usr/bin/env python3
"""The search for ensemble weights: forward against hyperopt_zero, by time and by the metrics on held-out recordings.

The models are synthetic, in four families that differ in quality and similarity; half of the recordings are used
for the search, half are held out. Both strategies use the same fast evaluation and 1 thread, and alternate; seconds are
CPU time. The
default 7 problems take half an hour.
"""

import argparse
import os
import sys
import time

for name in ('OMP', 'OPENBLAS', 'MKL', 'NUMBA'):
    os.environ[f'{name}_NUM_THREADS'] = '1'
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'experiments'))

import numpy as np  # noqa: E402

from birdsong.scores import metrics, search  # noqa: E402
from birdsong.scores.ensemble import Ensemble  # noqa: E402


def synthetic(models, recordings, classes, seed):
    """Generator of the scores of models, truth, background."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=recordings)
    background = [rng.choice(classes, min(rng.geometric(0.5) - 1, 6), replace=False).tolist() for _ in truth]
    rows, found = metrics.relevant(truth, background)
    shape = recordings, classes
    shared = 0.9 * rng.standard_normal(shape, dtype=np.float32)
    foreground = np.concatenate([[True], np.diff(rows) > 0])
    shared[rows, found] += np.where(foreground, 3.6, 1.8) + rng.normal(0, 1.5, len(rows))
    families = [rng.standard_normal(shape, dtype=np.float32) for _ in range(4)]

    def members():
        for m in range(models):
            alike, own, scale = rng.uniform([0.2, 0.2, 0.5], [0.9, 1.2, 3])
            yield np.float32(scale) * (
                shared
                + np.float32(alike) * families[m % 4]
                + np.float32(own) * rng.standard_normal(shape, dtype=np.float32)
            )

    return members(), truth, background


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', type=int, default=36)
    parser.add_argument(
        '--recordings', type=int, default=6006, help='half of them for the search, half held out (%(default)s)'
    )
    parser.add_argument('--classes', type=int, default=1500)
    parser.add_argument('--trials', type=int, default=1000)
    parser.add_argument('--problems', type=int, default=7)
    args = parser.parse_args()
    half = np.arange(args.recordings) < args.recordings // 2
    table = {'forward': [], 'hyperopt_zero': []}
    print(f'{"problem":8} {"":14} {"seconds":>10} {"searched":>10} {"held out":>10}')
    for problem in range(args.problems):
        members, truth, background = synthetic(args.models, args.recordings, args.classes, problem)
        ensemble = Ensemble(members, truth, background, args.models)
        seen, unseen = np.flatnonzero(half), np.flatnonzero(~half)
        singles = np.eye(args.models)[np.argmax(sum(ensemble.evaluate(np.eye(args.models), seen)))]
        for name, weights in (('best single', singles), ('equal weights', np.ones(args.models))):
            searched, held_out = (sum(ensemble.evaluate(weights, part)) for part in (seen, unseen))
            print(f'{problem:<8} {name:14} {"":10} {searched:10.4f} {held_out:10.4f}', flush=True)
        # Compile what the search uses, and import hyperopt, before the time is measured.
        ensemble.walk(singles + 1).line(0, count=2)
        ensemble.walk(singles + 1).change(0, 1)
        from hyperopt import tpe  # noqa: F401

        for strategy, rows in table.items():
            found = search.Search(ensemble, 'fg+bg', seen)
            start = time.process_time()
            patience = args.trials if strategy != 'forward' else None
            weights = search.run(strategy, found, np.ones(args.models), patience, 0)
            rows.append((time.process_time() - start, found.best, sum(ensemble.evaluate(weights, unseen))))
            seconds, searched, held_out = rows[-1]
            print(f'{problem:<8} {strategy:14} {seconds:10.1f} {searched:10.4f} {held_out:10.4f}', flush=True)
    ours, theirs = (np.median(rows, axis=0) for rows in table.values())
    gain = np.median(np.subtract(table['forward'], table['hyperopt_zero'])[:, 2])
    print(f'medians: forward takes 1/{theirs[0] / ours[0]:.0f} of the time, held out {gain:+.4f}')


if __name__ == '__main__':
    main()
