#!/usr/bin/env python3
"""Is the difference between two models real? Compares predictions A and B for the same labelled list of recordings.

Prints each metric of both, the difference B - A with its 95 % interval (paired bootstrap), and p, the probability of a
difference at least as large by chance (permutation test). Both draw groups of recordings, filelists/groups.tsv, if
there is this file, since recordings of a group are alike. Then, the classes whose average precision gained and lost
most. A and B are prediction files, or ensembles: FILE:WEIGHT,FILE:WEIGHT,...
"""

from birdsong import program  # isort: skip
import argparse
import sys

import numpy as np

from birdsong.data import folds
from birdsong.data.dataset import Dataset, dataset_of
from birdsong.files import Problem
from birdsong.scores import class_tables, combination, comparison


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('a', metavar='A', help='predictions: FILE, or an ensemble FILE:WEIGHT,FILE:WEIGHT,...')
    add('b', metavar='B', help='predictions to compare with A')
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)')
    add('--filelist', default='valid', help='recordings to evaluate (%(default)s)')
    add('--labelfile-background', metavar='FILE', help='background species (bg.tsv), needed for MAP-bg')
    add('--softmax', action='store_true', help='apply a softmax to the scores of each file first')
    add('--samples', type=int, default=1000, metavar='N', help='bootstrap samples (%(default)s)')
    add('--seed', type=int, default=0, help='of the random samples (%(default)s)')
    add(
        '--classes',
        type=int,
        default=5,
        metavar='N',
        help='classes to print that gained or lost (%(default)s)',
    )
    add('--json', metavar='FILE', help='write all numbers to FILE')
    args = parser.parse_args()
    for name, least in ('samples', 1), ('seed', 0), ('classes', 0):
        if getattr(args, name) < least:
            raise Problem(f'--{name}={getattr(args, name)}: expected {least} or more')
    return args


def scores_of(text: str, files: list[str], num_classes: int, softmax: bool) -> np.ndarray:
    """Scores (len(files), num_classes) of a prediction file or an ensemble."""
    members = [combination.parse_weighted(part) for part in text.split(',')]
    parts = (combination.prepared(name, files, num_classes, softmax) for name, _ in members)
    return combination.combine(parts, [1.0 if weight is None else weight for _, weight in members]).scores


def print_metrics(result: dict[str, dict[str, float]]) -> None:
    """Print a table with a row per metric."""
    print(f'{"":8}  {"A":>6}  {"B":>6}  B - A (95 % interval)         p')
    for name, one in result.items():
        interval = f'{one["difference"]:+.3f} ({one["low"]:+.3f} to {one["high"]:+.3f})'
        p = '' if np.isnan(one['p']) else f'{one["p"]:.4f}'
        print(f'{name:8}  {one["A"]:6.3f}  {one["B"]:6.3f}  {interval:28}  {p}'.rstrip())


def print_classes(dataset: Dataset, precisions: np.ndarray, truth: np.ndarray, count: int) -> None:
    """Print the classes whose average precision gained and lost most."""
    change = precisions[1] - precisions[0]
    known = np.flatnonzero(~np.isnan(change))
    order = known[np.argsort(change[known], kind='stable')]
    number = np.bincount(truth, minlength=len(change))
    for what, chosen in ('gained', order[::-1]), ('lost', order):
        rows = [c for c in chosen[:count] if (change[c] > 0 if what == 'gained' else change[c] < 0)]
        for c in rows:
            print(
                f'{what}: {dataset.labelset[c]} ({number[c]} recordings), average precision '
                f'{precisions[0, c]:.3f} to {precisions[1, c]:.3f}'
            )


def main() -> None:
    args = parse_arguments()
    dataset = Dataset(args.dataset or dataset_of(args.a.split(',')[0]))
    files = dataset.filelist(args.filelist)
    truth, background = dataset.truth(files, 'fg.tsv', args.labelfile_background, args.filelist)
    scores = [scores_of(text, files, dataset.num_classes, args.softmax) for text in (args.a, args.b)]
    groups = folds.groups(dataset, files)
    what = 'no filelists/groups.tsv' if groups is None else f'{len(set(groups))} groups'
    print(f'{len(files)} recordings of list {args.filelist}, {what}')
    result = comparison.compare(scores, truth, background, groups, args.samples, args.seed)
    print_metrics(result)
    precisions = comparison.classes(scores, truth, background)
    print_classes(dataset, precisions, truth, args.classes)
    if args.json:
        rows = zip(dataset.labelset, precisions.T.tolist(), strict=True)
        by_class = {name: pair for name, pair in rows if not np.isnan(pair).any()}
        report = {'A': args.a, 'B': args.b, 'metrics': result, 'average precisions': by_class}
        class_tables.write_json(args.json, report)
        print(f'{args.json}: all numbers', file=sys.stderr)


if __name__ == '__main__':
    program.run(main)
