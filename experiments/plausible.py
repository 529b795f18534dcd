#!/usr/bin/env python3
"""Print which classes are plausible at a place, date and time: a ranked list with probabilities.

The probabilities are those of the metadata networks in experiments/NAME/ (networks without audio, such as those of
small_meta.tsv and the meta models of models.tsv), or of --model; of several, the mean. They say how often the classes
occur among the recordings of the training list that are like this one, so they depend on what was recorded where.
What is not given is unknown to the networks.
"""

from birdsong import program  # isort: skip
import argparse
import datetime
import sys

import numpy as np

from birdsong.data import metadata
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from birdsong.findings import species
from birdsong.identification import prior

LIMITS = {'latitude': 90, 'longitude': 180, 'elevation': 9000}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--dataset', required=True, help='name in datasets/, or path of a dataset')
    add('--latitude', type=float, metavar='DEGREES', required=True, help='north of the equator, south is negative')
    add('--longitude', type=float, metavar='DEGREES', required=True, help='east of Greenwich, west is negative')
    add('--date', metavar='YYYY-MM-DD', required=True, help='of which networks know the day of the year')
    add('--time', metavar='HH:MM', help='local time, as that of the recordings of the dataset')
    add('--elevation', type=float, metavar='METRES', help='above the sea')
    add(
        '--model',
        metavar='MODEL',
        nargs='+',
        help='metadata networks: names in experiments/NAME/, or files (default: all that are there)',
    )
    add('--top', metavar='N', type=int, default=20, help='classes to print; 0: all (%(default)s)')
    args = parser.parse_args()
    if args.top < 0:
        raise Problem(f'--top={args.top}: expected a number of classes, or 0 for all')
    return args


def circumstances(args: argparse.Namespace) -> dict[str, float]:
    """{source: number} as in the table of metadata, of what is known. Raises Problem for values not possible."""
    known = {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    for name, value in known.items():
        if not abs(value) <= LIMITS[name]:
            raise Problem(f'--{name}={value:g}: expected a number from {-LIMITS[name]} to {LIMITS[name]}')
    try:
        known['date'] = metadata.day_of_year(datetime.date.fromisoformat(args.date).isoformat())
    except ValueError:
        raise Problem(f'--date={args.date}: expected a date such as 2024-05-31') from None
    if args.time is not None:
        try:
            known['time'] = metadata.minute_of_day(datetime.time.fromisoformat(args.time).strftime('%H:%M:%S'))
        except ValueError:
            raise Problem(f'--time={args.time}: expected a time such as 06:30') from None
    return known


def main() -> None:
    args = parse_arguments()
    known = circumstances(args)
    dataset = Dataset(args.dataset)
    dataset.need_labels(['labelset'], 'classes are named as in it')
    members = prior.networks(dataset, args.model)
    networks = prior.MetadataNetworks([member.filename for member in members], dataset.num_classes)
    for filename, sources in networks.sources.items():
        missing = [name for name in sources if name not in known]
        if missing:
            print(f'{filename} also uses {" and ".join(missing)}, not given', file=sys.stderr)
    mean = networks.probabilities([known])[0]
    print(f'mean of {", ".join(member.name for member in members)}', file=sys.stderr)
    print('probability\tclass\tscientific name\tcommon name')
    names = species.of(dataset)
    for i in np.argsort(-mean, kind='stable')[: args.top or None]:
        print(f'{mean[i]:.4f}', *names[i], sep='\t')


if __name__ == '__main__':
    program.run(main)
