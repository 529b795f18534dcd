#!/usr/bin/env python3
"""Write predictions as a submission: monophone (a row a recording and species) or soundscape (of 5-second segments).

Monophone lines are MEDIAID;CLASSID;PROBABILITY;RANK, soundscape lines MEDIAID;HH:MM:SS-HH:MM:SS;CLASSID;PROBABILITY,
most probable first. The original put a sigmoid on top of the softmax; --sigmoid does so again.
"""
import argparse
import os
import re
import sys

import numpy as np

import predictions
from data import Dataset
from files import Problem, program, writing

SEGMENT_SECONDS = 5


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('infile', metavar='IN', help='predictions, as eval.py --save-predictions writes them')
    parser.add_argument('outfile', metavar='OUT', help='CSV file to write')
    parser.add_argument('--dataset', default='birdclef', help='name in datasets/, or path of a data set (%(default)s)')
    parser.add_argument('--filelist', default='test', help='recordings to submit, each of which gets its row (%(default)s)')
    parser.add_argument('--mode', choices=('mono', 'soundscape'), default='mono',
                        help='mono: a recording at once, its rows max-pooled; soundscape: each row is a segment (%(default)s)')
    parser.add_argument('--softmax', action='store_true', default=True, help='scores are logits: apply a softmax (default)')
    parser.add_argument('--no-softmax', dest='softmax', action='store_false', help='scores are probabilities')
    parser.add_argument('--sigmoid', action='store_true', help='apply a sigmoid, after the softmax if any, as in 2018')
    parser.add_argument('--max-classes', metavar='N', type=int, default=100, help='species a recording or segment (%(default)s)')
    return parser.parse_args()


def media_id(key):
    """The number that a submission calls a recording by. Raises Problem for a name without one."""
    found = re.findall(r'_RN(\d+)', os.path.basename(key))
    if not found:
        raise Problem('%s: no media id in the name (..._RN123.wav); such a recording can not be submitted' % key)
    return found[-1]


def clock(seconds):
    """3725 -> '01:02:05'"""
    return '%02d:%02d:%02d' % (seconds // 3600, seconds // 60 % 60, seconds % 60)


def probabilities(scores, softmax, sigmoid):
    """Scores as probabilities, in the scores' precision."""
    if softmax:
        scores = predictions.softmax(scores)
    if sigmoid:
        with np.errstate(over='ignore'):
            scores = 1 / (1 + np.exp(-scores))
    return scores


def rows(key, chances, classes, mode, max_classes):
    """Lines of a recording, most probable first, ties by class index; `chances`: (segments, classes)."""
    media = media_id(key)
    for segment, row in enumerate(chances):
        best = np.argsort(-row, kind='stable')[:max_classes]
        if mode == 'mono':
            for rank, c in enumerate(best, 1):
                yield '%s;%s;%.10f;%d\n' % (media, classes[c], row[c], rank)
        else:
            start = segment * SEGMENT_SECONDS
            for c in best:
                chance = '%.10f' % row[c]
                if float(chance) > 0:
                    yield '%s;%s-%s;%s;%s\n' % (media, clock(start), clock(start + SEGMENT_SECONDS), classes[c], chance)


def main():
    args = parse_arguments()
    if args.max_classes < 1:
        raise Problem('--max-classes=%d: at least 1' % args.max_classes)
    dataset = Dataset(args.dataset)
    files, classes = dataset.filelist(args.filelist), dataset.labelset
    medias = {}
    for key in files:
        if media_id(key) in medias:
            raise Problem('list %s: %s and %s have the same media id; a submission could not tell them apart'
                          % (args.filelist, medias[media_id(key)], key))
        medias[media_id(key)] = key
    chosen = predictions.prepared(args.infile, files, dataset.num_classes, maxpool=args.mode == 'mono')
    lines = 0
    with writing(args.outfile, 'w', encoding='utf-8', newline='\n') as f:
        for key in files:
            chances = probabilities(chosen[key], args.softmax, args.sigmoid)
            if chances.min() < 0 or chances.max() > 1:
                raise Problem('%s: scores of %s are no probabilities (%g to %g); leave --no-softmax out'
                              % (args.infile, key, chances.min(), chances.max()))
            before = lines
            for line in rows(key, chances, classes, args.mode, args.max_classes):
                f.write(line)
                lines += 1
            if lines == before:
                raise Problem('%s: %s gets no row, all its probabilities are 0' % (args.infile, key))
    print('%s: %d lines for %d recordings' % (args.outfile, lines, len(files)), file=sys.stderr)


if __name__ == '__main__':
    program(main)
