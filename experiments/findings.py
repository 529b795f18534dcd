#!/usr/bin/env python3
"""Write the detections in predictions as tables for people and for other programs: CSV as BirdNET-Analyzer writes it,
Raven, Audacity, Kaleidoscope, Parquet; and a summary per species and day.

A detection is a window of a recording whose confidence for a class reaches the threshold. The confidence is the score
or, with --calibration, the probability that the detection is right. The predictions are combined as by eval.py (sum of
weight x scores, divided by the number of files); then --softmax or --sigmoid is applied, which predictions of
predict.py need, as they are logits. A calibration knows whether it is needed.

Output: findings.csv, findings.parquet, kaleidoscope.csv, raven/ and audacity/ (a table per recording), and summary.csv
in a folder. For a single format in one file, the output can be a file, such as findings.csv; then there is no summary,
except with --summary.

The time zone is that of the recording's time in recordings.tsv, if it is UTC or has an offset there, or --timezone.
"""

from birdsong import program  # isort: skip
import argparse
import functools
import os
import sys
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from birdsong import config
from birdsong.data.dataset import Dataset, dataset_of
from birdsong.data.index import load_index
from birdsong.files import Problem
from birdsong.findings import calibration, circumstances, detections, formats, species, tables
from birdsong.findings.rules import THRESHOLD, Wanted
from birdsong.scores import combination
from birdsong.scores.predictions import Predictions, load

# Number of recordings above which a progress bar is shown.
PROGRESS_FROM = 1000


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        'infiles',
        metavar='PREDICTIONS[:WEIGHT]',
        nargs='+',
        help='prediction files (.pred.npz) with times; several are combined as by eval.py',
    )
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)')
    add('--output', required=True, metavar='FOLDER_OR_FILE', help='where to write, see above')
    add('--format', default='csv', metavar='A,B', help=f'{", ".join(formats.FORMATS)} (%(default)s)')
    add('--filelist', help='only recordings of this list of the dataset (default: all in the first file)')
    add('--summary', metavar='FILE', help='CSV of detections and hours per species and day (default: in the folder)')
    scores = parser.add_argument_group('scores')
    kind = scores.add_mutually_exclusive_group()
    kind.add_argument('--softmax', action='store_true', help='scores are logits of a softmax')
    kind.add_argument('--sigmoid', action='store_true', help='scores are logits of sigmoids')
    scores.add_argument('--calibration', metavar='FILE', help='curves of calibrate.py, for probabilities')
    rules = parser.add_argument_group('what counts as a detection')
    rules.add_argument(
        '--threshold',
        metavar='CONFIDENCE',
        help='lowest confidence, or a CSV table with the columns class,threshold; the class * means all that are not '
        f'in the table (default: the thresholds of --calibration, if it has any, else {THRESHOLD})',
    )
    rules.add_argument('--classes', metavar='FILE|A,B', help='only these: ids or names, one per line or in a list')
    rules.add_argument('--smooth', metavar='N', type=int, default=1, help='average N (odd) neighbouring windows')
    rules.add_argument(
        '--merge',
        metavar='SECONDS',
        type=float,
        help='join detections of a class that overlap or are at most this far apart; the highest confidence counts '
        '(default: one detection per window)',
    )
    rules.add_argument(
        '--min-duration', metavar='SECONDS', type=float, default=0, help='omit shorter ones, after merging'
    )
    rules.add_argument('--top', metavar='N', type=int, help='then only the N most confident of each recording')
    where = parser.add_argument_group('recordings')
    where.add_argument('--timezone', metavar='ZONE', help='of their clocks: UTC, Europe/Berlin, or --timezone=-05:00')
    where.add_argument(
        '--source',
        metavar='FOLDER',
        help='name the files of this folder, from which the dataset was prepared, instead of those in its audio/',
    )
    args = parser.parse_args()
    args.wanted = Wanted(*(getattr(args, name) for name in Wanted._fields))
    args.wanted.check()
    args.format = tables.format_names(args.format)
    args.timezone = circumstances.time_zone(args.timezone) if args.timezone else None
    return args


# == Scores ==


def load_members(args: argparse.Namespace, dataset: Dataset) -> tuple[list[Predictions], list[float], list[str]]:
    """The prediction files, their weights, and the recordings. Raises Problem if recordings are missing."""
    names, weights = zip(*map(combination.parse_weighted, args.infiles), strict=True)
    members = [load(name, dataset.num_classes) for name in names]
    files = dataset.filelist(args.filelist) if args.filelist else members[0].files
    for member in members:
        missing = [key for key in files if key not in member]
        if missing:
            raise Problem(
                f'{member.filename}: {len(missing)} of {len(files)} recordings are missing, such as {missing[0]}; '
                'predict them, or select others with --filelist'
            )
    return members, [1.0 if weight is None else weight for weight in weights], files


def combined(
    members: list[Predictions], weights: list[float], files: list[str], dataset: Dataset
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield key, starts, stops and combined scores of each recording, so that only one is in memory."""
    lengths = None
    for i, key in enumerate(files):
        parts = [
            Predictions([key], [0, len(member[key])], member[key], member.filename, *(member.times(key) or ()))
            for member in members
        ]
        # a single file stays mapped, however long the recording is
        total = parts[0] if len(parts) == 1 and weights[0] == 1 else combination.combine(parts, weights)
        starts, stops = total.starts, total.stops
        if starts is None:
            if len(total.scores) > 1:
                raise Problem(
                    f'{members[0].filename}: {key} has {len(total.scores)} rows without times; create the file again '
                    'with predict.py'
                )
            # predict.py writes no times if each recording has one row, which is about the whole recording
            lengths = seconds_of(dataset, files, members[0].filename) if lengths is None else lengths
            starts, stops = np.zeros(1), lengths[i : i + 1]
        yield key, starts, stops, total.scores


def seconds_of(dataset: Dataset, files: list[str], filename: str) -> np.ndarray:
    """Durations (files,) of recordings. Raises Problem if there are no recordings."""
    if not dataset.has_audio:
        raise Problem(f'{filename}: has no times, and {dataset.path} no recordings that tell how long they are')
    headers = load_index(dataset.path, files)
    return headers['length'] / headers['sample_rate']


def outputs_of(
    scores: np.ndarray, kind: str, curves: calibration.Calibration | None, origin: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Outputs and probabilities (rows, classes) of scores; no probabilities without a calibration.

    Raises Problem, with `origin`, if the scores cannot be of that kind.
    """
    try:
        logits = calibration.logits(scores, kind)
    except Problem as e:
        raise Problem(f'{origin}: {e}') from None
    outputs = scores if kind == calibration.OUTPUTS else calibration.sigmoid(logits)
    return outputs, curves.probabilities(scores) if curves else None


def load_calibration(args: argparse.Namespace, known: list[species.Species]) -> calibration.Calibration | None:
    """The calibration, in the order of the classes. Raises Problem if it is for scores of another kind."""
    if not args.calibration:
        return None
    curves = calibration.load(args.calibration).for_classes([one.class_id for one in known], args.calibration)
    for kind in calibration.SOFTMAX, calibration.SIGMOID:
        if getattr(args, kind) and curves.kind != kind:
            raise Problem(f'{args.calibration}: fitted to scores of another kind ({curves.kind}); leave out --{kind}')
    return curves


def model_name(infiles: list[str]) -> str:
    """'x/cnn.pred.npz:0.7', 'x/meta.pred.npz:0.3' -> 'cnn:0.7+meta:0.3'"""
    names = []
    for text in infiles:
        name, weight = combination.parse_weighted(text)
        stem = os.path.basename(name)
        for suffix in '.npz', '.pkl', '.pred':
            stem = stem.removesuffix(suffix)
        names.append(stem if weight is None else f'{stem}:{weight:g}')
    return '+'.join(names)


def main() -> None:
    args = parse_arguments()
    dataset = Dataset(args.dataset or dataset_of(combination.parse_weighted(args.infiles[0])[0]))
    dataset.need_labels(['labelset'], 'findings need the class ids in it, one per line in the order of class indices')
    known = species.of(dataset)
    curves = load_calibration(args, known)
    kind = curves.kind if curves else next((k for k in ('softmax', 'sigmoid') if getattr(args, k)), calibration.OUTPUTS)
    rules = args.wanted.rules(known, curves, args.calibration)
    places = tables.places(args.output, args.format, args.summary)
    members, weights, files = load_members(args, dataset)
    where = circumstances.load(dataset, files, args.timezone)
    folder = args.source or os.path.join(dataset.path, 'audio')
    highest, model = config.load(dataset.settings_files)['sample_rate'] / 2, model_name(args.infiles)
    origin = members[0].filename if len(members) == 1 else f'the sum of weight x scores / {len(members)}'
    outputs_of_block = functools.partial(outputs_of, kind=kind, curves=curves, origin=origin)
    with tables.Tables(places, known, model, folder, highest) as written:
        rows = combined(members, weights, files, dataset)
        for key, starts, stops, scores in tqdm(rows, total=len(files), disable=len(files) < PROGRESS_FROM):
            found = detections.detect(key, starts, stops, scores, rules, outputs_of_block)
            when = where.get(key, circumstances.Circumstances())
            file = when.source if args.source and when.source else key
            written.add(file, found, detections.covered(starts, stops), when)
    written.write_summary()
    print(written.report(), file=sys.stderr)


if __name__ == '__main__':
    program.run(main)
