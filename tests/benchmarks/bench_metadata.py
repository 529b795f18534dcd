#!/usr/bin/env python3
"""Recognising species by time and place alone: a metadata network against three simple methods, in unknown places.

TABLE is a table of recordings with the columns of BirdCLEF 2022 (train_metadata.csv). It becomes a metadata-only
dataset in which all recordings of a cell of 5 x 5 degrees are in the same list: train, valid or test. All methods learn
from train, choose their settings by the MAP of valid, and are compared on test.

  prior     the frequencies of the classes
  k-NN      k nearest neighbours by latitude, longitude, and sine and cosine of the time of day
  boosting  gradient boosting on the same values (scikit-learn's HistGradientBoostingClassifier)
  network   train.py with vars/small_meta.vars, whose settings were chosen by the MAP of valid, too

Prints MAP, top-1 and top-5: means over the seeds, with bootstrap intervals (95 %) over the cells. Takes 5 minutes.
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
VALID, TEST = 0.15, 0.3
SOURCES = ('time', 'latitude', 'longitude')
# Settings among which the MAP of the validation list chooses. `hours` is the distance of opposite times of day in
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
    """Create the dataset in a folder."""
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
    shares = ('--valid', VALID, '--test', TEST)
    program('datasets/birdclef/filelists/split.py', '--dataset', dataset, '--group', 'site', *shares)
    return Dataset(dataset)


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


def best(candidates, valid):
    """The one of (settings, function of a part -> scores) with the highest MAP of `valid`."""
    return max(candidates, key=lambda item: metrics.evaluate(item[1](valid), valid.truth)['MAP'])


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


def boosting(train, valid, classes, seed):
    """Gradient boosting with the number of leaves and trees that are best for `valid` -> (settings, function)."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError:
        sys.exit('bench_metadata.py: scikit-learn is missing; type: pip install scikit-learn')

    def as_scores(model, probabilities):
        scores = np.zeros((len(probabilities), classes))
        scores[:, model.classes_] = probabilities
        return scores

    candidates = []
    for leaves in LEAVES:
        model = HistGradientBoostingClassifier(
            learning_rate=RATE,
            max_iter=MOST_TREES,
            max_leaf_nodes=leaves,
            max_features=0.5,
            early_stopping=False,
            random_state=seed,
        )
        model.fit(train.features(), train.truth)
        stages = [as_scores(model, p) for p in model.staged_predict_proba(valid.features())]
        maps = [metrics.evaluate(scores, valid.truth)['MAP'] for scores in stages]
        candidates.append((max(maps), leaves, 1 + int(np.argmax(maps)), model))
    _, leaves, trees, model = max(candidates, key=lambda item: item[0])

    def scores(part):
        for number, probabilities in enumerate(model.staged_predict_proba(part.features()), 1):
            if number == trees:
                return as_scores(model, probabilities)

    return f'{leaves} leaves, {trees} trees', scores


def network(dataset, seed, presets):
    """Scores of the test list, of a network that is trained and applied with the programs of the project."""
    root = os.path.join(os.path.dirname(dataset.path), f'seed{seed}')
    options = ['--dataset', dataset.path, '--device', 'cpu']
    words = [word for preset in presets for word in ('--vars', preset)]
    program('experiments/train.py', *options, '--validate', *words, '--var', f'seed={seed}', f'{root}.npz')
    program('experiments/predict.py', *options, '--filelists', 'test', f'{root}.npz', f'{root}.pred.npz')
    found = combination.prepared(f'{root}.pred.npz', dataset.filelist('test'), dataset.num_classes)
    return np.concatenate([found[key] for key in dataset.filelist('test')])


def interval(values, part):
    """Mean of values (N,) and its bootstrap interval over the cells, as text."""
    drawn = [weights @ values / weights.sum() for weights in metrics.resample(len(values), part.cells)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f'{values.mean():.3f} ({low:.3f} to {high:.3f})'


def report(scores, part):
    """Print a table of {method: scores (seeds, N, classes)}: means over the seeds, and MAP relative to k-NN."""
    ranks = {name: np.array([metrics.per_recording(one, part.truth)[0] for one in s]) for name, s in scores.items()}
    print('| method | MAP | top-1 | top-5 | MAP minus that of k-NN |\n|---|---|---|---|---|')
    for name, found in ranks.items():
        values = [1 / found, found <= 1, found <= 5, 1 / found - 1 / ranks['k-NN']]
        print(f'| {name} | {" | ".join(interval(v.mean(axis=0), part) for v in values)} |')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('table', metavar='TABLE', help='train_metadata.csv of BirdCLEF 2022, or one with its columns')
    parser.add_argument('--seeds', type=int, default=5, help='networks to train (%(default)s)')
    parser.add_argument(
        '--vars', action='append', metavar='FILE', help='settings of the network (vars/small_meta.vars)'
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(args.table, folder)
        train, valid, test = (Part(dataset, name) for name in ('train', 'valid', 'test'))
        classes = dataset.num_classes
        sizes = ', '.join(f'{len(p.truth)} in {len(set(p.cells))} cells' for p in (train, valid, test))
        print(f'{classes} classes; train, valid, test: {sizes}', flush=True)
        scores = {'prior': [prior(train, classes)(test)]}
        (k, hours), nearest = best([(choice, neighbours(train, classes, *choice)) for choice in NEIGHBOURS], valid)
        scores['k-NN'] = [nearest(test)]
        print(f'k-NN: k = {k}, {hours} degrees', flush=True)
        chosen = [boosting(train, valid, classes, seed) for seed in range(min(2, args.seeds))]
        scores['boosting'] = [f(test) for _, f in chosen]
        print('boosting:', '; '.join(text for text, _ in chosen), flush=True)
        scores['network'] = [network(dataset, seed, args.vars or [PRESET]) for seed in range(args.seeds)]
        single = [metrics.evaluate(one, test.truth)['MAP'] for one in scores['network']]
        print(f'network: MAP of {args.seeds} seeds: {min(single):.3f} to {max(single):.3f}\n')
        scores[f'mean of {args.seeds} networks'] = [np.mean(scores['network'], axis=0)]
        report(scores, test)


if __name__ == '__main__':
    main()
