#!/usr/bin/env python3
"""Print the metrics of models and their ensemble by cross-validation, from the predictions of the folds of a dataset.

The folds are the datasets NAME-fold1, NAME-fold2, ... For each model, their predictions experiments/NAME-foldI/
MODEL.pred.npz, which crossval.sh makes, are pooled: together they contain each recording once, predicted by a network
that has not seen it. Metrics are computed from the pooled predictions, with bootstrap intervals, and for each fold,
with their mean. The class-wise metrics (cmAP, ROC-AUC) compare scores of different recordings, so pooling mixes
networks whose scores may have different scales; their mean over the folds does not, but folds have few recordings of
each class. The softmax reduces these differences.

The weights of the ensemble for a fold are fitted (forward selection) to the predictions for the other folds.

The table is also written to experiments/NAME/crossval/table.tsv, all values to table.json, and the pooled predictions
to MODEL.pred.npz (scores as predicted, usually logits), ensemble.pred.npz and ensemble_equal.pred.npz (probabilities).
ensemble.tsv contains the mean weights, for submit_all.sh with models that are trained on all recordings of NAME.
"""

from birdsong import program  # isort: skip
import argparse
import json
import math
import os
import sys

import numpy as np

from birdsong import model_table
from birdsong.config import EXPERIMENTS
from birdsong.data import folds
from birdsong.data.dataset import LABEL_FILE, Dataset
from birdsong.files import Problem, writing
from birdsong.scores import combination, crossvalidation, metrics, predictions

# Names of the rows of ensembles, with fitted and with equal weights.
ENSEMBLES = ('ensemble', 'ensemble_equal')
BACKGROUND_FILE = 'bg.tsv'


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('models', metavar='MODEL', nargs='+', help='name of a model')
    add('--dataset', metavar='NAME', required=True, help='dataset whose folds are NAME-fold1, NAME-fold2, ...')
    add(
        '--seeds',
        metavar='N',
        type=int,
        default=1,
        help='each model was trained with N seeds: MODEL, MODEL.seed1, MODEL.seed2, ... The table shows means over the '
        'seeds, after ± their standard deviation, and intervals of the mean (%(default)s)',
    )
    add(
        '--against',
        metavar='MODEL',
        help='also print the differences of all others from this model, with intervals of the differences',
    )
    add('--samples', metavar='N', type=int, default=1000, help='bootstrap samples of the intervals (%(default)s)')
    add(
        '--no-softmax',
        dest='softmax',
        action='store_false',
        help='do not apply a softmax to the scores of each recording first (for scores that are not logits)',
    )
    add('--results', metavar='FOLDER', default=EXPERIMENTS, help='folder of the results (experiments/)')
    step = parser.add_mutually_exclusive_group()
    step.add_argument(
        '--begin',
        action='store_true',
        help='only check the folds before models are trained, and print their names',
    )
    step.add_argument('--folds', action='store_true', help='only print the names of the folds')
    step.add_argument('--missing', action='store_true', help='only print which predictions are missing')
    args = parser.parse_args()
    model_table.check_dataset_name(args.dataset)
    if args.seeds < 1 or args.samples < 1:
        parser.error('--seeds and --samples need a number of at least 1')
    if args.against and (len(args.models) < 2 or args.against not in (*args.models, *ENSEMBLES)):
        raise Problem(f'--against {args.against}: not one of several models in the table ({", ".join(args.models)})')
    for name in args.models:
        model_table.check_name(name, 'MODEL')
        if name in ENSEMBLES:
            raise Problem(f'{name}: this name is used for the ensemble in the table; rename the model')
    return args


def with_seed(model: str, seed: int) -> str:
    """Name of a model that was trained with a seed; the first one has no seed in its name."""
    return f'{model}.seed{seed}' if seed else model


class Results:
    """The predictions of the folds in the folder of all results."""

    def __init__(self, args: argparse.Namespace):
        self.dataset = Dataset(args.dataset)
        self.folds = folds.find(self.dataset)
        self.folder, self.softmax = args.results, args.softmax
        self.files = [key for fold in self.folds for key in fold.valid]

    def filename(self, fold: folds.Fold, model: str) -> str:
        return os.path.join(self.folder, fold.name, f'{model}.pred.npz')

    def missing(self, models: list[str]) -> dict[str, list[str]]:
        """Names of the models without (complete) predictions for each fold that has any."""
        result = {}
        for fold in self.folds:
            for model in models:
                filename = self.filename(fold, model)
                if not os.path.exists(filename) or not set(fold.valid) <= set(predictions.load(filename).files):
                    result.setdefault(fold.name, []).append(model)
        return result

    def pooled(self, model: str) -> np.ndarray:
        """Scores of a model for all held-out recordings, (N, C), in the order of `files`."""
        parts = [
            combination.prepared(self.filename(fold, model), fold.valid, self.dataset.num_classes).scores
            for fold in self.folds
        ]
        return np.concatenate(parts)

    def recordings(self) -> crossvalidation.Recordings:
        """The held-out recordings with their labels."""
        background = BACKGROUND_FILE
        if not os.path.exists(os.path.join(self.dataset.path, 'labels', background)):
            background = None
        truth, background = self.dataset.truth(self.files, LABEL_FILE, background, 'valid of the folds')
        if background is not None and not any(background):
            background = None
        fold = np.repeat(np.arange(len(self.folds)), [len(fold.valid) for fold in self.folds])
        return crossvalidation.Recordings(self.files, fold, truth, background)


def estimate(args: argparse.Namespace, results: Results, folder: str, drawn: np.ndarray) -> tuple[list, list]:
    """Estimates of all models and ensembles, and the weights of the ensembles for each seed, (folds, models)."""
    recordings, weights = results.recordings(), []
    estimates = {name: crossvalidation.Estimate(name) for name in args.models}

    def add(name, seed, scores):
        estimates.setdefault(name, crossvalidation.Estimate(name)).add(scores, recordings, drawn)

    for seed in range(args.seeds):
        members = []
        for model in args.models:
            scores = results.pooled(with_seed(model, seed))
            predictions.save(os.path.join(folder, f'{with_seed(model, seed)}.pred.npz'), recordings.files, scores)
            members.append(combination.softmax(scores) if args.softmax else scores)
            add(model, seed, members[-1])
        if len(members) > 1:
            equal = np.full((recordings.folds, len(members)), 1 / len(members))
            weights.append(crossvalidation.fit_weights(members, recordings))
            for name, those in zip(ENSEMBLES, (weights[-1], equal), strict=True):
                scores = crossvalidation.combine(members, those, recordings)
                predictions.save(os.path.join(folder, f'{with_seed(name, seed)}.pred.npz'), recordings.files, scores)
                add(name, seed, scores)
    return list(estimates.values()), weights


def number(value: float, sign: str = '') -> str:
    return '-' if math.isnan(value) else f'{value:{sign}.3f}'


def cell(values: dict[str, float], sign: str = '') -> str:
    """A pooled metric, the standard deviation over seeds if there are several, and the interval."""
    spread = '' if math.isnan(values['sd']) else f'±{values["sd"]:.3f}'
    pooled, low, high = (number(values[column], sign) for column in ('pooled', 'low', 'high'))
    return f'{pooled}{spread} ({low}{" to " if sign else "-"}{high})'


def print_table(estimates: list[crossvalidation.Estimate], sign: str = '') -> None:
    """Print a line per model and ensemble: pooled metrics with intervals, then means over folds.

    sign: '+' for differences, '' for metrics.
    """
    summaries = [one.summary() for one in estimates]
    names = list(summaries[0])
    rows = [['', *names, *names]]
    for one, summary in zip(estimates, summaries, strict=True):
        values = [summary[name] for name in names]
        rows.append([one.name, *(cell(v, sign) for v in values), *(number(v['folds'], sign) for v in values)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    pooled = sum(widths[1 : 1 + len(names)]) + 2 * len(names)
    print(f'{"":{widths[0]}}  {"pooled predictions":{pooled}}mean over folds')
    for row in rows:
        print('  '.join(f'{text:{width}}' for text, width in zip(row, widths, strict=True)).rstrip())


def write_table(filename: str, estimates: list[crossvalidation.Estimate]) -> None:
    """Write a tab-separated table with a row per model and ensemble."""
    columns = ('pooled', 'low', 'high', 'sd', 'folds')
    with writing(filename, 'w', encoding='utf-8') as f:
        names = list(estimates[0].summary())
        f.write('\t'.join(['model', *(f'{name} {column}' for name in names for column in columns)]) + '\n')
        for one in estimates:
            summary = one.summary()
            values = [summary[name][column] for name in names for column in columns]
            f.write('\t'.join([one.name, *('' if math.isnan(v) else f'{v:.4f}' for v in values)]) + '\n')


def write_json(filename: str, estimates: list[crossvalidation.Estimate], **about: object) -> None:
    """Write all values, also those of each seed and fold; undefined ones (NaN) become null."""

    def plain(value):
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        if isinstance(value, (list, tuple, np.ndarray)):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    table = {
        one.name: {
            metric: values | {'of each seed': one.pooled[metric], 'of each seed and fold': one.folds[metric]}
            for metric, values in one.summary().items()
        }
        for one in estimates
    }
    with writing(filename, 'w', encoding='utf-8') as f:
        json.dump(plain(about | {'metrics': table}), f, indent=1)
        f.write('\n')


def write_weights(filename: str, args: argparse.Namespace, weights: list[np.ndarray]) -> None:
    """Write the weights of the ensemble as a table that submit_all.sh reads: their means over folds and seeds."""
    with writing(filename, 'w', encoding='utf-8') as f:
        f.write(f'# weights from the cross-validation of {args.dataset}, mean over folds\n')
        f.write(f'# options: {"--softmax" if args.softmax else ""}\n# member\tweight\n')
        means = np.mean(weights, axis=(0, 1))
        f.writelines(f'{model}\t{w:.4g}\n' for model, w in zip(args.models, means, strict=True) if w > 0)


def say(text: str) -> None:
    print(f'crossval.py: {text}', file=sys.stderr, flush=True)


def check_complete(missing: dict[str, list[str]]) -> None:
    """Raise Problem if there are missing predictions, see `Results.missing`."""
    if missing:
        name, models = next(iter(missing.items()))
        count = sum(map(len, missing.values()))
        raise Problem(f'missing predictions: {count}, such as {models[0]} of {name}; start crossval.sh')


def print_report(
    args: argparse.Namespace, results: Results, estimates: list[crossvalidation.Estimate], resampled: str
) -> None:
    """Print what was evaluated, the table and, with --against, the table of differences."""
    seeds = f', {args.seeds} seeds' if args.seeds > 1 else ''
    always = len({key for fold in results.folds for key in fold.train} - set(results.files))
    unseen = f'; {always} more are in all training lists' if always else ''
    print(f'{args.dataset}: {len(results.files)} recordings in {len(results.folds)} folds{seeds}{unseen}')
    print(f'in brackets: 95 % intervals from {args.samples} bootstrap samples of the {resampled}')
    print_table(estimates)
    if args.against:
        base = next(one for one in estimates if one.name == args.against)
        print(f'\ndifferences from {args.against}')
        print_table([one.minus(base) for one in estimates if one is not base], '+')


def main() -> None:
    args = parse_arguments()
    results = Results(args)
    if args.begin or args.folds:
        for fold in results.folds:
            if args.begin:
                folds.remember_training(fold, os.path.join(args.results, fold.name))
            print(fold.name)
        return
    missing = results.missing([with_seed(model, seed) for seed in range(args.seeds) for model in args.models])
    if args.missing:
        for name, models in missing.items():
            print(f'{name}\t{" ".join(models)}')
        return
    check_complete(missing)
    groups = folds.groups(results.dataset, results.files)
    drawn = np.stack([each.astype(np.uint16) for each in metrics.resample(len(results.files), groups, args.samples)])
    folder = os.path.join(args.results, args.dataset, 'crossval')
    os.makedirs(folder, exist_ok=True)
    estimates, weights = estimate(args, results, folder, drawn)
    resampled = f'{len(results.files)} recordings (there is no filelists/groups.tsv)'
    if groups is not None:
        resampled = f'{len(set(groups))} groups (filelists/groups.tsv)'
    print_report(args, results, estimates, resampled)
    write_table(os.path.join(folder, 'table.tsv'), estimates)
    if weights:
        write_weights(os.path.join(folder, 'ensemble.tsv'), args, weights)
    about = {'dataset': args.dataset, 'folds': [fold.name for fold in results.folds], 'seeds': args.seeds}
    about |= {'recordings': len(results.files), 'resampled': resampled, 'samples': args.samples}
    write_json(os.path.join(folder, 'table.json'), estimates, **about, models=args.models, weights=weights)
    say(f'{folder}: table.tsv, table.json and the pooled predictions')


if __name__ == '__main__':
    program.run(main)
