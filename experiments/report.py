#!/usr/bin/env python3
"""Write a report on a dataset and its experiments: one HTML file, which needs no server and no network.

It shows the recordings of the dataset, the training of each model, also of those that failed or are running, the
metrics of models and ensembles with bootstrap intervals, classes and their confusions, and calibrations. If there are
results of crossval.sh, models are judged on the held-out recordings of all folds, else on the validation list.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/experiments/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/experiments/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse

from birdsong import model_table
from birdsong.config import EXPERIMENTS
from birdsong.data.dataset import Dataset
from birdsong.files import Problem, writing
from birdsong.report import page, source

# A page that is larger is slow to open; most of it are sounds and spectrograms.
LARGEST = 20e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--dataset', metavar='NAME', default='birdclef', help='dataset in datasets/ (default: %(default)s)')
    add('--models', metavar='FILE', help='table of models (default: all models in experiments/NAME/)')
    add('--output', metavar='FILE.html', help='page to write (default: experiments/NAME/report.html)')
    add('--audio', action='store_true', help='put the sounds of recordings into the page, which makes it larger')
    add('--clips', metavar='N', type=int, default=3, help='recordings to show per class (%(default)s)')
    add('--samples', metavar='N', type=int, default=1000, help='bootstrap samples of the intervals (%(default)s)')
    add(
        '--over-time',
        action='store_true',
        help='show scores over time and attention, computed by the best network (needs torch; some seconds per '
        'recording); without it, only if predictions have several rows per recording',
    )
    args = parser.parse_args()
    for name, least in ('clips', 0), ('samples', 1):
        if getattr(args, name) < least:
            raise Problem(f'--{name}={getattr(args, name)}: expected {least} or more')
    return args


def main() -> None:
    args = parse_arguments()
    dataset = Dataset(args.dataset)
    names = list(model_table.choose(args.models, dataset.name, []))
    options = source.Options(args.audio, args.clips, args.samples, args.over_time)
    found = source.gather(dataset, names, 'valid', options)
    text = page.html(found, [], {})
    output = args.output or os.path.join(EXPERIMENTS, dataset.name, 'report.html')
    with writing(output, 'w', encoding='utf-8') as f:
        f.write(text)
    print(f'{output}: report on {dataset.name}, {len(text.encode()) / 1e6:.1f} MB', file=sys.stderr)


if __name__ == '__main__':
    program.run(main)
