#!/usr/bin/env python3
"""Write predictions as a submission: monophone (one row per recording and species) or soundscape (of 5-second segments).

Monophone lines are MEDIAID;CLASSID;PROBABILITY;RANK, soundscape lines MEDIAID;HH:MM:SS-HH:MM:SS;CLASSID;PROBABILITY,
most probable first. MEDIAID is the number after _RN in the file name; without one, the file name without suffix, or,
where two such names in the list are equal, the path below audio/ without suffix. The original put a sigmoid on top of
the softmax; --sigmoid does so again.
"""

from birdsong import program  # isort: skip
import argparse
import os
import re
import sys

import numpy as np

from birdsong.data.dataset import Dataset, dataset_of
from birdsong.files import Problem, writing
from birdsong.scores import combination

SEGMENT_SECONDS = 5


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('infile', metavar='IN', help='predictions, as eval.py --save-predictions writes them')
    parser.add_argument('outfile', metavar='OUT', help='CSV file to write')
    parser.add_argument(
        '--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)'
    )
    parser.add_argument(
        '--filelist', default='test', help='recordings to submit, each of which gets its row (%(default)s)'
    )
    parser.add_argument(
        '--mode',
        choices=('mono', 'soundscape'),
        default='mono',
        help='mono: a recording at once, its rows max-pooled; soundscape: each row is a segment (%(default)s)',
    )
    parser.add_argument(
        '--softmax', action='store_true', default=True, help='scores are logits: apply a softmax (default)'
    )
    parser.add_argument('--no-softmax', dest='softmax', action='store_false', help='scores are probabilities')
    parser.add_argument('--sigmoid', action='store_true', help='apply a sigmoid, after the softmax if any, as in 2018')
    parser.add_argument(
        '--max-classes', metavar='N', type=int, default=100, help='species a recording or segment (%(default)s)'
    )
    return parser.parse_args()


def media_ids(files: list[str]) -> dict[str, str]:
    """Media id of each recording: the number after `_RN` in its file name, as in BirdCLEF; without one, the file name
    without suffix or, if two such file names are equal, the key without suffix.

    Raises Problem for ids that are equal or would break the columns of the submission.
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
                f'{key}: the name holds a semicolon or a quotation mark, which a submission cannot hold; rename it'
            )
        if ids[key] in keys:
            raise Problem(
                f'{keys[ids[key]]} and {key} have the same media id {ids[key]}; a submission could not tell '
                'them apart; rename one'
            )
        keys[ids[key]] = key
    return ids


def clock(seconds):
    """3725 -> '01:02:05'"""
    return f'{int(seconds // 3600):02}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}'


def probabilities(scores, softmax, sigmoid):
    """Scores as probabilities, in the scores' precision."""
    if softmax:
        scores = combination.softmax(scores)
    if sigmoid:
        with np.errstate(over='ignore'):
            scores = 1 / (1 + np.exp(-scores))
    return scores


def rows(media, chances, classes, mode, max_classes):
    """Lines of the recording with that media id, most probable first, ties by class index.

    `chances`: (segments, classes), probabilities.
    """
    for segment, row in enumerate(chances):
        best = np.argsort(-row, kind='stable')[:max_classes]
        if mode == 'mono':
            for rank, c in enumerate(best, 1):
                yield f'{media};{classes[c]};{row[c]:.10f};{int(rank)}\n'
        else:
            start = segment * SEGMENT_SECONDS
            for c in best:
                chance = f'{row[c]:.10f}'
                if float(chance) > 0:
                    yield f'{media};{clock(start)}-{clock(start + SEGMENT_SECONDS)};{classes[c]};{chance}\n'


def main():
    args = parse_arguments()
    if args.max_classes < 1:
        raise Problem(f'--max-classes={int(args.max_classes)}: at least 1')
    dataset = Dataset(args.dataset or dataset_of(args.infile))
    files = dataset.filelist(args.filelist)
    dataset.need_labels(
        ['labelset'], 'a submission needs the class ids in it, one per line in the order of class indices'
    )
    classes, media = dataset.labelset, media_ids(files)
    chosen = combination.prepared(args.infile, files, dataset.num_classes, maxpool=args.mode == 'mono')
    lines = 0
    with writing(args.outfile, 'w', encoding='utf-8', newline='\n') as f:
        for key in files:
            chances = probabilities(chosen[key], args.softmax, args.sigmoid)
            if chances.min() < 0 or chances.max() > 1:
                raise Problem(
                    f'{args.infile}: scores of {key} are no probabilities ({chances.min():g} to {chances.max():g}); leave --no-softmax out'
                )
            before = lines
            for line in rows(media[key], chances, classes, args.mode, args.max_classes):
                f.write(line)
                lines += 1
            if lines == before:
                raise Problem(f'{args.infile}: {key} gets no row, all its probabilities are 0')
    print(f'{args.outfile}: {int(lines)} lines for {len(files)} recordings', file=sys.stderr)


if __name__ == '__main__':
    program.run(main)
