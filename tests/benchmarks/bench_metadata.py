#!/usr/bin/env python3
"""Recognising species by time and place alone: a metadata network against three simple methods, in unknown places.

TABLE is a table of recordings with the columns of BirdCLEF 2022 (train_metadata.csv). It becomes a metadata-only
dataset with 5 folds, in which all recordings of a cell of 5 x 5 degrees are held out in the same fold. All methods are
compared by their predictions of held-out recordings. The settings of k-NN and boosting are those with the highest MAP
on these recordings. The learning rate and the number of epochs of the network were chosen in the same way, by hand.

  prior     the frequencies of the classes
  k-NN      k nearest neighbours by latitude, longitude, and sine and cosine of the time of day
  boosting  gradient boosting on the same values (scikit-learn's HistGradientBoostingClassifier)
  network   train.py with vars/small_meta.vars

Prints MAP, top-1 and top-5: means over the seeds, with bootstrap intervals (95 %) over the cells. Takes 4
minutes on one core.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.abspath(__file__).rpartition('/tests/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/tests/')[0] + '/datasets')

import numpy as np

from birdsong import config
from birdsong.data import metadata
from birdsong.data.dataset import Dataset
from birdsong.scores import combination, metrics
from shared.delimited import Table

ROOT = os.path.dirname(config.EXPERIMENTS)
PRESET = os.path.join(config.EXPERIMENTS, 'vars', 'small_meta.vars')
CELL = 5  # degrees
FOLDS = 5
SOURCES = ('time', 'latitude', 'longitude')
# Settings from which the best ones are chosen. `hours` is the distance of opposite times of day in
# degrees, divided by 2.
NEIGHBOURS = [(k, hours) for k in (10, 30, 100, 300) for hours in (0, 2, 5, 10)]
# With a larger rate, boosting overfits to rare classes within two steps.
LEAVES, MOST_TREES, RATE = (4, 8), 100, 0.02


def program(path, *arguments):
    """Run a program of the project; returns the seconds it took."""
    start = time.perf_counter()
    command = [sys.executable, os.path.join(ROOT, path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{path}: {done.stderr}')
    return time.perf_counter() - start


def cell(row):
    """Name of the cell in which a recording was made, '' if unknown."""
    try:
        return ' '.join(str(CELL * math.floor(float(row[name]) / CELL)) for name in ('latitude', 'longitude'))
    except ValueError:
        return ''


def prepare(table, folder):
    """Create the dataset in a folder -> its folds, as datasets."""
    source = os.path.join(folder, 'places.csv')
    with open(source, 'w', encoding='utf-8', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(('file', 'label', 'background', *SOURCES, 'site'))
        for row in Table(table):
            names = ('filename', 'primary_label', 'secondary_labels', *SOURCES)
            writer.writerow([*(row[name] for name in names), cell(row)])
    dataset = os.path.join(folder, 'places')
    program('datasets/collect.py', source, '--dataset', dataset, '--no-audio')
    program('datasets/birdclef/labels/recreate.py', '--dataset', dataset)
    program('datasets/birdclef/filelists/split.py', '--dataset', dataset, '--group', 'site', '--folds', FOLDS)
    return [Dataset(f'{dataset}-fold{fold + 1}') for fold in range(FOLDS)]


class Part:
    """A list of the dataset: `.values` (N, sources), NaN where unknown; `.truth` (N,) class indices; `.cells` (N,)."""

    def __init__(self, dataset, name):
        files, table, labels = dataset.filelist(name), dataset.metadata(), dataset.labels()
        with open(os.path.join(dataset.path, 'filelists', 'groups.tsv'), encoding='utf-8') as f:
            groups = dict(line.rstrip('\n').split('\t') for line in f)
        self.values = metadata.numbers([table.get(key, {}) for key in files], SOURCES)
        self.truth = np.array([labels[key] for key in files])
        self.cells = [groups[key] for key in files]

    def features(self, hours=1):
        """Sine and cosine of the time of day times `hours`, latitude and longitude: (N, 4)."""
        angle = 2 * np.pi * self.values[:, 0] / metadata.CIRCLES['time']
        return np.column_stack([hours * np.sin(angle), hours * np.cos(angle), self.values[:, 1:]])


def best(candidates, parts):
    """The (settings, scores) with the highest MAP; scores are lists of arrays (N, classes), one for each part."""
    truth = np.concatenate([part.truth for part in parts])
    return max(candidates, key=lambda candidate: metrics.evaluate(np.concatenate(candidate[1]), truth)['MAP'])


def prior(train, classes):
    shares = np.bincount(train.truth, minlength=classes) / len(train.truth)
    return lambda part: np.tile(shares, (len(part.truth), 1))


def neighbours(train, classes, k, hours):
    """Share of each class among the nearest neighbours; ties are broken by the frequencies of the classes."""
    from scipy.spatial import cKDTree

    means = np.nanmean(train.features(hours), axis=0)

    def filled(part):
        values = part.features(hours)
        return np.where(np.isnan(values), means, values)

    tree, frequencies = cKDTree(filled(train)), prior(train, classes)

    def scores(part):
        near = train.truth[tree.query(filled(part), k)[1]]
        counts = np.zeros((len(near), classes))
        np.add.at(counts, (np.arange(len(near))[:, None], near), 1)
        return counts + frequencies(part)

    return scores


def boosting(train, held_out, classes, leaves):
    """Gradient boosting -> for 1 to MOST_TREES trees, the scores (N, classes) of the held-out recordings."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError:
        sys.exit('bench_metadata.py: scikit-learn is missing; type: pip install scikit-learn')
    model = HistGradientBoostingClassifier(
        learning_rate=RATE,
        max_iter=MOST_TREES,
        max_leaf_nodes=leaves,
        max_features=0.5,
        early_stopping=False,
        random_state=0,
    )
    model.fit(train.features(), train.truth)
    stages = []
    for probabilities in model.staged_predict_proba(held_out.features()):
        stages.append(np.zeros((len(probabilities), classes), np.float32))
        stages[-1][:, model.classes_] = probabilities
    return stages


def network(fold, seed, preset):
    """Scores of the held-out recordings, of a network that is trained and applied with the programs of the project."""
    root = f'{fold.path}.seed{seed}'
    options = ['--dataset', fold.path, '--device', 'cpu']
    program('experiments/train.py', *options, '--vars', preset, '--var', f'seed={seed}', f'{root}.npz')
    program('experiments/predict.py', *options, f'{root}.npz', f'{root}.pred.npz')
    found = combination.prepared(f'{root}.pred.npz', fold.filelist('valid'), fold.num_classes)
    return np.concatenate([found[key] for key in fold.filelist('valid')])


def interval(values, cells):
    """Mean of values (N,) and its bootstrap interval over the cells, as text."""
    drawn = [weights @ values / weights.sum() for weights in metrics.resample(len(values), cells)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f'{values.mean():.3f} ({low:.3f} to {high:.3f})'


def report(scores, truth, cells):
    """Print a table of {method: scores (seeds, N, classes)}: means over the seeds, and differences of MAP."""
    ranks = {name: np.array([metrics.per_recording(one, truth)[0] for one in s]) for name, s in scores.items()}
    maps = {name: (1 / found).mean(axis=0) for name, found in ranks.items()}
    print('| method | MAP | top-1 | top-5 | MAP minus k-NN | MAP minus boosting |\n|---|---|---|---|---|---|')
    for name, found in ranks.items():
        values = [maps[name], (found <= 1).mean(axis=0), (found <= 5).mean(axis=0)]
        values += [maps[name] - maps[other] for other in ('k-NN', 'boosting')]
        print(f'| {name} | {" | ".join(interval(v, cells) for v in values)} |')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('table', metavar='TABLE', help='train_metadata.csv of BirdCLEF 2022, or one with its columns')
    parser.add_argument('--seeds', type=int, default=2, help='networks to train for each fold (%(default)s)')
    parser.add_argument('--vars', default=PRESET, metavar='FILE', help='settings of the network (vars/small_meta.vars)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folds = prepare(args.table, folder)
        trains, held_out = ([Part(fold, name) for fold in folds] for name in ('train', 'valid'))
        pairs, classes = list(zip(trains, held_out, strict=True)), folds[0].num_classes
        truth = np.concatenate([part.truth for part in held_out])
        cells = [cell for part in held_out for cell in part.cells]
        print(f'{classes} classes, {len(truth)} recordings in {len(set(cells))} cells', flush=True)
        scores = {'prior': [np.concatenate([prior(train, classes)(part) for train, part in pairs])]}
        found = [(c, [neighbours(train, classes, *c)(part) for train, part in pairs]) for c in NEIGHBOURS]
        (k, hours), nearest = best(found, held_out)
        scores['k-NN'] = [np.concatenate(nearest)]
        print(f'k-NN: k = {k}, {hours} degrees', flush=True)
        found = []
        for leaves in LEAVES:
            stages = [boosting(train, part, classes, leaves) for train, part in pairs]
            found += [((leaves, trees), parts) for trees, parts in enumerate(zip(*stages, strict=True), 1)]
        (leaves, trees), boosted = best(found, held_out)
        del found, stages
        scores['boosting'] = [np.concatenate(boosted)]
        print(f'boosting: {leaves} leaves, {trees} trees', flush=True)
        seeds = range(args.seeds)
        scores['network'] = [np.concatenate([network(fold, seed, args.vars) for fold in folds]) for seed in seeds]
        single = [metrics.evaluate(one, truth)['MAP'] for one in scores['network']]
        print(f'network: MAP of {args.seeds} seeds: {min(single):.3f} to {max(single):.3f}\n')
        scores[f'mean of {args.seeds} networks'] = [np.mean(scores['network'], axis=0)]
        report(scores, truth, cells)


if __name__ == '__main__':
    main()
