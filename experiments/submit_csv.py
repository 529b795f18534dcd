#!/usr/bin/env python3
"""Write predictions as a CSV submission: monophone (one line per recording and class) or soundscape (one line per
5-second segment and class).

Monophone lines are MEDIAID;CLASSID;PROBABILITY;RANK, soundscape lines MEDIAID;HH:MM:SS-HH:MM:SS;CLASSID;PROBABILITY,
most probable class first. MEDIAID is the number after _RN in the file name. If there is none, it is the file name
without suffix, or, if two of these names are equal, the path below audio/ without suffix. The 2018 system applied a
sigmoid after the softmax; --sigmoid does the same.

The challenge expects segments at multiples of 5 seconds. If IN has the times of its rows, the probabilities of a
segment are the maximum over the rows whose middle is in it or, if there are none, those of the row that overlaps it
most, as in eval.py --segments 5. Otherwise, the rows of a recording are its segments, in their order.

--format kaggle writes the matrix of BirdCLEF since 2023: a row per segment of 5 s, with the columns row_id and the
class ids. row_id is the file name without suffix, _, and the end of the segment in seconds, such as S1_20250227_15.
"""

from birdsong import program  # isort: skip
import argparse
import csv
import os
import re
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from birdsong.data.dataset import Dataset, dataset_of
from birdsong.files import Problem, writing
from birdsong.scores import combination
from birdsong.scores.predictions import Predictions
from birdsong.scores.segments import window_of, window_scores

SEGMENT_SECONDS = 5
# A rest of a recording is a segment if it has at least this length, or the middle of a row.
SHORTEST_REST = 0.5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('infile', metavar='IN', help='predictions, as eval.py --save-predictions writes them')
    add('outfile', metavar='OUT', help='CSV file to write')
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)')
    add('--filelist', default='test', help='list of the recordings to submit; all need predictions (%(default)s)')
    add('--format', choices=('challenge', 'kaggle'), default='challenge', help='see above (%(default)s)')
    add(
        '--mode',
        choices=('mono', 'soundscape'),
        help='mono: whole recordings, the maximum over their rows (default); soundscape: segments of 5 s (always with '
        '--format kaggle)',
    )
    add('--softmax', action='store_true', default=True, help='scores are logits: apply a softmax (default)')
    add('--no-softmax', dest='softmax', action='store_false', help='scores are probabilities')
    add('--sigmoid', action='store_true', help='apply a sigmoid, after the softmax (if any), as in 2018')
    add(
        '--average-overlaps',
        action='store_true',
        help='the probability of a segment is the mean of the rows that overlap it, weighted by the overlap, instead '
        'of their maximum; for predictions with --var len_min=2.5',
    )
    add('--max-classes', metavar='N', type=int, default=100, help='classes per recording or segment (%(default)s)')
    return parser.parse_args()


def media_ids(files: list[str]) -> dict[str, str]:
    """Media id of each recording (key), see the top of this file.

    Raises Problem for ids that are equal or contain a separator of the submission.
    """
    numbers = {key: re.findall(r'_RN(\d+)', os.path.basename(key)) for key in files}
    others = {key: os.path.splitext(key)[0] for key in files if not numbers[key]}
    stems = {key: os.path.basename(path) for key, path in others.items()}
    others = stems if len(set(stems.values())) == len(stems) else others
    ids, keys = {}, {}
    for key in files:
        ids[key] = numbers[key][-1] if numbers[key] else others[key]
        if set(ids[key]) & set(';"'):
            raise Problem(
                f'{key}: the name contains a semicolon or quotation mark, which a submission cannot have; rename it'
            )
        if ids[key] in keys:
            raise Problem(
                f'{keys[ids[key]]} and {key} have the same media id {ids[key]}; they could not be '
                'distinguished in a submission; rename one'
            )
        keys[ids[key]] = key
    return ids


def clock(seconds: int) -> str:
    """3725 -> '01:02:05'"""
    return f'{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}'


def probabilities(scores: np.ndarray, softmax: bool, sigmoid: bool) -> np.ndarray:
    """Scores as probabilities, of the same dtype."""
    if softmax:
        scores = combination.softmax(scores)
    if sigmoid:
        with np.errstate(over='ignore'):
            scores = 1 / (1 + np.exp(-scores))
    return scores


def segments(starts: np.ndarray, stops: np.ndarray, probs: np.ndarray, average: bool) -> tuple[int, np.ndarray]:
    """Number of the first segment, and probabilities (segments, classes), given those of rows and their times (n,).

    `average`: as for `window_scores`.
    """
    last = window_of(starts, stops, SEGMENT_SECONDS).max()
    count = max(int(last) + 1, int(np.ceil((stops.max() - SHORTEST_REST) / SEGMENT_SECONDS)))
    first = min(int((starts.min() + SHORTEST_REST) // SEGMENT_SECONDS), count - 1)
    return first, window_scores(starts, stops, probs, SEGMENT_SECONDS, count, average)[first:]


def rows(media: str, probs: np.ndarray, classes: list[str], mode: str, max_classes: int, first: int) -> Iterator[str]:
    """Lines for the recording with the media id `media`, most probable class first, ties in order of class index.

    `probs`: (segments, classes), probabilities from segment number `first` on. In mode 'soundscape', probabilities that
    round to 0 are left out.
    """
    for segment, row in enumerate(probs, first):
        best = np.argsort(-row, kind='stable')[:max_classes]
        if mode == 'mono':
            for rank, c in enumerate(best, 1):
                yield f'{media};{classes[c]};{row[c]:.10f};{rank}\n'
        else:
            start = segment * SEGMENT_SECONDS
            for c in best:
                prob = f'{row[c]:.10f}'
                if float(prob) > 0:
                    yield f'{media};{clock(start)}-{clock(start + SEGMENT_SECONDS)};{classes[c]};{prob}\n'


def probabilities_of(
    chosen: Predictions, files: list[str], args: argparse.Namespace
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield the key, the number of the first segment, and the probabilities (segments, classes) of each recording.

    Raises Problem for scores that are no probabilities.
    """
    for key in files:
        probs = probabilities(chosen[key], args.softmax, args.sigmoid)
        if probs.min() < 0 or probs.max() > 1:
            raise Problem(
                f'{args.infile}: scores of {key} are no probabilities ({probs.min():g} to {probs.max():g}); '
                'leave out --no-softmax'
            )
        times = chosen.times(key)
        yield key, *((0, probs) if times is None else segments(*times, probs, args.average_overlaps))


def write_challenge(args: argparse.Namespace, parts: Iterable, media: dict[str, str], classes: list[str]) -> int:
    """Write a submission with a line per recording or segment and class. Returns the number of lines."""
    lines = 0
    with writing(args.outfile, 'w', encoding='utf-8', newline='\n') as f:
        for key, first, probs in parts:
            before = lines
            for line in rows(media[key], probs, classes, args.mode, args.max_classes, first):
                f.write(line)
                lines += 1
            if lines == before:
                raise Problem(f'{args.infile}: {key} has no line, as all its probabilities are 0')
    return lines


def write_kaggle(filename: str, parts: Iterable, stems: dict[str, str], classes: list[str]) -> int:
    """Write a matrix with a row per segment and a column per class. Returns the number of rows."""
    lines = 0
    with writing(filename, 'w', encoding='utf-8', newline='') as f:
        out = csv.writer(f, lineterminator='\n')
        out.writerow(['row_id', *classes])
        for key, first, probs in parts:
            for segment, row in enumerate(probs, first + 1):
                out.writerow([f'{stems[key]}_{segment * SEGMENT_SECONDS}', *(f'{p:.7g}' for p in row.tolist())])
                lines += 1
    return lines


def file_stems(files: list[str]) -> dict[str, str]:
    """File name without suffix of each recording (key). Raises Problem if two are equal."""
    stems, keys = {}, {}
    for key in files:
        stems[key] = os.path.splitext(os.path.basename(key))[0]
        if stems[key] in keys:
            raise Problem(f'{keys[stems[key]]} and {key} would have the same row_id in a submission; rename one')
        keys[stems[key]] = key
    return stems


def main() -> None:
    args = parse_arguments()
    if args.max_classes < 1:
        raise Problem(f'--max-classes={args.max_classes}: at least 1')
    kaggle = args.format == 'kaggle'
    if kaggle and args.mode == 'mono':
        raise Problem('--mode mono: --format kaggle has segments only; leave out one of them')
    args.mode = args.mode or ('soundscape' if kaggle else 'mono')
    dataset = Dataset(args.dataset or dataset_of(args.infile))
    files = dataset.filelist(args.filelist)
    dataset.need_labels(
        ['labelset'], 'a submission needs the class ids in it, one per line in the order of class indices'
    )
    names = file_stems(files) if kaggle else media_ids(files)
    chosen = combination.prepared(args.infile, files, dataset.num_classes, maxpool=args.mode == 'mono')
    parts = probabilities_of(chosen, files, args)
    if kaggle:
        lines = write_kaggle(args.outfile, parts, names, dataset.labelset)
    else:
        lines = write_challenge(args, parts, names, dataset.labelset)
    print(f'{args.outfile}: {lines} lines for {len(files)} recordings', file=sys.stderr)


if __name__ == '__main__':
    program.run(main)
