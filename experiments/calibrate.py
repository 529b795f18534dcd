#!/usr/bin/env python3
"""Fit curves that turn the scores of a model into probabilities of being right, and set thresholds for detections.

The cases are the predictions for a labelled list, for windows of annotated recordings (--segments), or for the held-out
recordings of a cross-validation (--crossval), or detections that were reviewed by a person (--reviewed, the CSV that
the pages of review.py save; review.py --help lists the steps from recordings to calibrated findings). Do not use
recordings that the model was trained on: it is much too sure there.

Each class gets a logistic curve over the logit of its score. Classes with few cases borrow from all others: the fewer,
the more their curve is like the common one. With few cases altogether, scores stay as they are. How much, is estimated
from the cases. Cases of a class in one group of recordings (filelists/groups.tsv) are not independent, so they count as
fewer, according to the correlation of their errors. The report compares the scores before and after calibration on
cases that the curves were not fitted to (folds of groups of recordings), with 95 % bootstrap intervals: log loss, Brier
score, and expected calibration error (ECE, ten bins of equal width) over all recordings (or windows) and classes, and
over the class with the highest score of each.

--probability P sets the threshold of a class where its curve reaches P, --precision P where the expected share of right
detections among all above it is P even if the curve is somewhat too high (it is lower with a probability of 10 %).
Thresholds are scores after the softmax or sigmoid (if any), never outside the range of scores in the cases. Classes
with too few cases, or whose scores do not reach P, get none.

Precisions and probabilities hold for recordings in which classes are as frequent as in the cases.
"""

from birdsong import program  # isort: skip
import argparse
import csv
import os
import re
import sys

import numpy as np

from birdsong.config import EXPERIMENTS
from birdsong.data import folds
from birdsong.data.dataset import Dataset, dataset_of
from birdsong.files import Problem, writing
from birdsong.findings import cases, curves, reliability, reviews, thresholds
from birdsong.findings.calibration import OUTPUTS, SIGMOID, SOFTMAX, Calibration, logits, sigmoid
from birdsong.scores import combination, predictions

BACKGROUND_FILE = 'bg.tsv'
# Classes without threshold that are named, for each reason; the CSV table has all.
SHOWN = 5
# A smaller difference of the log loss is reported as no change.
UNCHANGED = 0.0005


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        'infiles',
        metavar='PREDICTIONS[:WEIGHT]',
        nargs='*',
        help='prediction files (.pred.npz); several are combined as by findings.py: the sum of weight x scores, '
        'divided by the number of files, before --softmax or --sigmoid',
    )
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)')
    source = parser.add_argument_group('cases')
    source.add_argument('--filelist', default='valid', help='labelled recordings (%(default)s)')
    source.add_argument(
        '--crossval',
        action='store_true',
        help='PREDICTIONS are the pooled ones of crossval.py: use all recordings that a fold holds out',
    )
    source.add_argument(
        '--segments',
        metavar='SECONDS',
        type=float,
        help='use windows of this length of the annotated recordings of the list, and labels/segments.tsv',
    )
    source.add_argument('--reviewed', metavar='CSV', nargs='+', help='use reviewed detections of these tables')
    source.add_argument('--min-score', metavar='SCORE', type=float, help='leave out lower scores (after softmax)')
    kind = source.add_mutually_exclusive_group()
    kind.add_argument(
        '--softmax',
        action='store_true',
        help='scores of prediction files are logits of a softmax (in reviewed tables, it has been applied)',
    )
    kind.add_argument('--sigmoid', action='store_true', help='scores of prediction files are logits of sigmoids')
    wanted = parser.add_argument_group('thresholds').add_mutually_exclusive_group()
    wanted.add_argument('--probability', metavar='P', type=float, help='wanted probability of a detection')
    wanted.add_argument(
        '--precision',
        metavar='P',
        type=float,
        help='wanted precision of all detections of a class. With --reviewed, these are all rows of PREDICTIONS or, '
        'without PREDICTIONS, the reviewed detections, which should be a random sample then',
    )
    parser.add_argument(
        '--evidence',
        metavar='N',
        type=int,
        default=5,
        help='right cases that a class needs for a threshold, in at least 3 groups of recordings (%(default)s)',
    )
    add('--folds', metavar='K', type=int, default=5, help='folds of the report; 0: no report (%(default)s)')
    add('--samples', metavar='N', type=int, default=1000, help='bootstrap samples of the intervals (%(default)s)')
    add(
        '--output',
        metavar='FILE.json',
        help='calibration to write; the reliability diagram (.png) and thresholds (.thresholds.csv) are written beside '
        'it (experiments/DATASET/calibration/NAME.json)',
    )
    add('--svg', action='store_true', help='write the diagram as SVG')
    args = parser.parse_args()
    check(args, parser)
    args.first = combination.parse_weighted((args.infiles or args.reviewed)[0])[0]
    return args


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Raise Problem or exit for options that are not possible together, and values out of range."""
    if not args.infiles and not args.reviewed:
        parser.error('PREDICTIONS or --reviewed is needed')
    if args.reviewed and (args.crossval or args.segments is not None):
        raise Problem('--reviewed cannot be combined with --crossval and --segments; leave out one of them')
    for option in ('probability', 'precision'):
        value = getattr(args, option)
        if value is not None and not 0 < value < 1:
            raise Problem(f'--{option}={value:g}: expected a number between 0 and 1, such as 0.9')
    if args.segments is not None and not 0 < args.segments < np.inf:
        raise Problem(f'--segments={args.segments:g}: expected the length of windows in seconds, such as 5')
    if args.min_score is not None and not 0 <= args.min_score < 1:
        raise Problem(f'--min-score={args.min_score:g}: expected a number from 0 to 1')
    if args.evidence < 1 or args.samples < 1 or args.folds < 0 or args.folds == 1:
        raise Problem('--evidence and --samples must be at least 1, --folds at least 2, or 0 for no report')
    if args.output and not args.output.endswith('.json'):
        raise Problem(f'--output {args.output}: the name must end with .json')


# == Cases ==


def read_cases(args: argparse.Namespace, dataset: Dataset, kind: str) -> tuple[cases.Cases, str]:
    """The cases that the arguments ask for, and a description of them."""
    if args.reviewed:
        found = [each for name in args.reviewed for each in reviews.read(name)]
        result = cases.of_reviews(found, dataset)
        text = f'{len(result.logits)} reviewed detections in {result.num_groups} groups of recordings'
    else:
        filelist, files = args.filelist, None
        if args.crossval:
            filelist, files = 'valid of the folds', [key for fold in folds.find(dataset) for key in fold.valid]
        files = files or dataset.filelist(filelist)
        result, text = labelled_cases(args, dataset, kind, files, filelist)
    if args.min_score:
        result = result.take(result.logits >= logits(np.array([[args.min_score]]), OUTPUTS)[0, 0])
        text += f'; {len(result.logits)} scores of at least {args.min_score:g}'
    if not len(result.logits) or result.right.all() or not result.right.any():
        what = 'none is' if len(result.logits) and not result.right.any() else 'all are'
        raise Problem(f'{text}: {what} right, so no curve can be fitted; more cases are needed')
    return result, text


def combined(
    args: argparse.Namespace, files: list[str], dataset: Dataset, kind: str, maxpool: bool
) -> predictions.Predictions:
    """The weighted combination of the prediction files, for the recordings `files`.

    Raises Problem for missing recordings, and for scores that cannot be of that kind.
    """
    names, weights = zip(*map(combination.parse_weighted, args.infiles), strict=True)
    members = (combination.prepared(name, files, dataset.num_classes, maxpool=maxpool) for name in names)
    result = combination.combine(members, [1.0 if weight is None else weight for weight in weights])
    try:
        logits(result.scores, kind)
    except Problem as e:
        raise Problem(f'{names[0]}: {e}') from None
    return result


def labelled_cases(
    args: argparse.Namespace, dataset: Dataset, kind: str, files: list[str], filelist: str
) -> tuple[cases.Cases, str]:
    """Cases of the recordings `files`, or of their windows, and a description."""
    if args.segments is None:
        dataset.need_labels(['labelset', dataset.label_file], 'calibration needs labels')
        background = BACKGROUND_FILE
        if not os.path.exists(os.path.join(dataset.path, 'labels', background)):
            background = None
        predicted = combined(args, files, dataset, kind, maxpool=True)
        result = cases.of_recordings(predicted, dataset, kind, background, filelist)
        rows = f'{len(files)} recordings'
    else:
        _, files = dataset.annotated(files, filelist)
        predicted = combined(args, files, dataset, kind, maxpool=False)
        result = cases.of_windows(predicted, dataset, kind, args.segments)
        rows = f'{len(result.logits) // dataset.num_classes} windows of {args.segments:g} s in {len(files)} recordings'
    classes = len(np.unique(result.classes[result.right]))
    return result, (
        f'{rows}, {result.num_groups} groups; {classes} of {dataset.num_classes} classes occur, '
        f'{int(result.right.sum())} times'
    )


def all_detections(
    args: argparse.Namespace, found: cases.Cases, dataset: Dataset, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and class indices (n,) of all detections that --precision is about."""
    if not (args.reviewed and args.infiles):
        return found.logits, found.classes
    files = predictions.load(combination.parse_weighted(args.infiles[0])[0]).files
    values = logits(combined(args, files, dataset, kind, maxpool=False).scores, kind)
    return values.ravel(), np.tile(np.arange(dataset.num_classes), len(values))


# == Results ==


def report(args: argparse.Namespace, found: cases.Cases, judged: reliability.HeldOut) -> dict:
    """Print and return the metrics before and after calibration."""
    result = reliability.compare(found, judged.logits, args.samples)
    print(
        f'held out in {args.folds} folds of groups; in brackets: 95 % intervals from {args.samples} bootstrap samples'
    )
    rows = [['', 'before', 'after', 'difference']]
    for name, values in result.items():
        rows.append([name, *map(interval, (values['before'], values['after'])), interval(values['difference'], '+')])
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print('  '.join(f'{text:{width}}' for text, width in zip(row, widths, strict=True)).rstrip())
    difference = result['log loss']['difference']['value']
    if abs(difference) < UNCHANGED:
        print('the cases are no evidence against the scores as they are, which the curves hardly change')
    elif difference > 0:
        print(
            'warning: on held-out cases, the curves are not better than the scores as they are (log loss); do not use '
            'them without more cases',
            file=sys.stderr,
        )
    return result


def interval(value: dict, sign: str = '') -> str:
    """'0.123 (0.100 to 0.150)'"""
    low, high = (f'{value[name]:{sign}.4f}' for name in ('low', 'high'))
    return f'{value["value"]:{sign}.4f} ({low} to {high})'


def set_thresholds(
    args: argparse.Namespace,
    fitted: curves.Curves,
    known: thresholds.Evidence,
    detections: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, list[str]]:
    """Thresholds (classes,) as logits, NaN where there is none, and the reasons."""
    if args.probability is not None:
        return thresholds.for_probability(fitted, known, args.probability, args.evidence)
    if args.precision is not None:
        return thresholds.for_precision(fitted, known, args.precision, args.evidence, *detections)
    return np.full(len(fitted.slopes), np.nan), [''] * len(fitted.slopes)


def report_thresholds(args: argparse.Namespace, dataset: Dataset, reasons: list[str]) -> None:
    """Print how many classes have a threshold, and why others have none."""
    count = sum(not reason for reason in reasons)
    wanted = f'probability {args.probability:g}' if args.probability is not None else f'precision {args.precision:g}'
    print(f'thresholds for {wanted}: {count} of {len(reasons)} classes')
    for reason in (thresholds.TOO_FEW, thresholds.NOT_REACHED):
        without = [name for name, each in zip(dataset.labelset, reasons, strict=True) if each == reason]
        if without:
            more = f' and {len(without) - SHOWN} more' if len(without) > SHOWN else ''
            print(f'none for {len(without)}, {reason}: {", ".join(without[:SHOWN])}{more}')


def report_precision(
    args: argparse.Namespace,
    dataset: Dataset,
    found: cases.Cases,
    judged: reliability.HeldOut,
    detections: tuple[np.ndarray, np.ndarray],
) -> dict:
    """Print and return the precision of held-out detections above thresholds from the other folds."""

    def threshold_of(others, fitted):
        known = thresholds.evidence(others, dataset.num_classes)
        those = detections if args.reviewed and args.infiles else (others.logits, others.classes)
        return set_thresholds(args, fitted, known, those)[0]

    precision = reliability.precision(found, judged, threshold_of, args.samples)
    if precision is None:
        print('no held-out detection is above the thresholds')
        return {}
    what = 'reviewed ' if args.reviewed else ''
    count = precision['detections']
    print(f'precision of {count} held-out {what}detections above thresholds: {interval(precision)}')
    return {'precision': precision}


def write_thresholds(filename: str, classes: list[str], values: np.ndarray) -> None:
    """Write a CSV table with the columns class,threshold; classes without threshold have an empty one."""
    with writing(filename, 'w', encoding='utf-8', newline='') as f:
        table = csv.writer(f, lineterminator='\n')
        table.writerow(['class', 'threshold'])
        for name, value in zip(classes, values.tolist(), strict=True):
            table.writerow([name, '' if np.isnan(value) else repr(value)])


def output_name(args: argparse.Namespace, dataset: Dataset) -> str:
    """Name of the file to write, whose folder is created."""
    if args.output:
        name = args.output
    else:
        first = os.path.basename(args.first)
        name = re.sub(r'(\.pred)?\.(npz|pkl|csv)$', '', first) if len(args.infiles) < 2 else 'ensemble'
        name = os.path.join(EXPERIMENTS, dataset.name, 'calibration', f'{name}.json')
    os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
    return name


def remove_thresholds(filename: str) -> None:
    """Remove the thresholds of an earlier calibration of the same name, which do not belong to this one."""
    if os.path.exists(filename):
        os.remove(filename)
        print(f'calibrate.py: removed {filename}, which was of an earlier calibration', file=sys.stderr)


def main() -> None:
    args = parse_arguments()
    dataset = Dataset(args.dataset or dataset_of(args.first))
    kind = SOFTMAX if args.softmax else SIGMOID if args.sigmoid else OUTPUTS
    found, text = read_cases(args, dataset, kind)
    if args.folds and found.num_groups < args.folds:
        raise Problem(
            f'{text}: too few groups for {args.folds} folds; give fewer --folds, or --folds 0 to leave out the report'
        )
    detections = all_detections(args, found, dataset, kind)
    print(f'{dataset.name}: {text}')
    fitted = curves.fit(found.logits, found.classes, found.right, dataset.num_classes, groups=found.groups)
    known = thresholds.evidence(found, dataset.num_classes)
    limits, reasons = set_thresholds(args, fitted, known, detections)
    print(
        f'common curve: slope {fitted.common_slope:.2f}, intercept {fitted.common_intercept:.2f}; slopes of classes '
        f'{fitted.slopes.min():.2f} to {fitted.slopes.max():.2f}; correlation in groups {fitted.correlation:.2f}'
    )
    about = {'dataset': dataset.name, 'cases': text, 'files': args.infiles}
    about |= {'reviewed': args.reviewed or [], 'segments': args.segments, 'minimum score': args.min_score}
    about |= {'wanted': {'probability': args.probability, 'precision': args.precision}}
    about |= {'spread': fitted.spread, 'correlation in groups': fitted.correlation}
    judged, name = None, output_name(args, dataset)
    written = [name]
    if args.folds:
        judged = reliability.held_out(found, dataset.num_classes, args.folds)
        about['held out'] = report(args, found, judged)
        about['held out']['diagram'] = {
            'before': reliability.diagram(found, found.logits),
            'after': reliability.diagram(found, judged.logits),
        }
    if args.probability is not None or args.precision is not None:
        report_thresholds(args, dataset, reasons)
        if judged:
            about['held out'] |= report_precision(args, dataset, found, judged, detections)
        written.append(f'{name[:-5]}.thresholds.csv')
        write_thresholds(written[-1], dataset.labelset, sigmoid(limits))
    else:
        remove_thresholds(f'{name[:-5]}.thresholds.csv')
    if judged:
        written.append(f'{name[:-5]}.{"svg" if args.svg else "png"}')
        reliability.draw(written[-1], found, judged.logits, f'{dataset.name}, {os.path.basename(name)[:-5]}')
    Calibration(
        dataset.labelset,
        fitted.slopes,
        fitted.intercepts,
        kind,
        fitted.common_slope,
        fitted.common_intercept,
        sigmoid(limits),
        sigmoid(known.lowest),
        sigmoid(known.highest),
        known.cases,
        known.right,
        about,
    ).save(name)
    print(f'calibrate.py: wrote {", ".join(written)}', file=sys.stderr)


if __name__ == '__main__':
    program.run(main)
