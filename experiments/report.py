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
import platform
import shlex

from markupsafe import Markup

from birdsong import model_table
from birdsong.config import EXPERIMENTS
from birdsong.data.dataset import Dataset
from birdsong.files import Problem, writing
from birdsong.report import (
    calibration_section,
    class_section,
    dataset_section,
    models_section,
    page,
    source,
    summary,
    training_section,
)
from birdsong.training import provenance

# A page that is larger is slow to open; most of it are sounds and spectrograms.
LARGEST = 20e6
SECTIONS = (
    ('dataset', 'Dataset', dataset_section.write),
    ('training', 'Training', training_section.write),
    ('models', 'Models', models_section.write),
    ('classes', 'Classes', class_section.write),
    ('calibration', 'Calibration', calibration_section.write),
)


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


def models_of(table: str | None, dataset: str) -> dict[str, model_table.Model]:
    """The models of the table and those in experiments/DATASET/, or only these if no table is given."""
    if table:
        return model_table.choose(table, dataset, [], all_found=True)
    return model_table.found(dataset, model_table.read_table(dataset=dataset))


def about() -> dict[str, str]:
    """What made the page."""
    packages = ('numpy', 'matplotlib', 'jinja2')
    versions = [f'Python {platform.python_version()}', *(f'{name} {provenance.version(name)}' for name in packages)]
    return {
        'Revision': provenance.revision() or 'unknown',
        'Command': shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        'Date': provenance.now(),
        'Versions': ', '.join(versions),
    }


def main() -> None:
    args = parse_arguments()
    dataset = Dataset(args.dataset)
    models = models_of(args.models, dataset.name)
    options = source.Options(args.audio, args.clips, args.samples, args.over_time)
    found = source.gather(dataset, models, 'valid', options)
    sections = [page.Section(name, title, Markup(write(found))) for name, title, write in SECTIONS]
    text = page.document(dataset.name, summary.sentences(found), sections, about())
    size = len(text.encode())
    if size > LARGEST:
        raise Problem(
            f'the page would have {size / 1e6:.1f} MB, over {LARGEST / 1e6:.0f}; leave out --audio or --over-time, '
            'or give fewer --clips'
        )
    output = args.output or os.path.join(EXPERIMENTS, dataset.name, 'report.html')
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    with writing(output, 'w', encoding='utf-8') as f:
        f.write(text)
    print(f'{output}: report on {dataset.name}, {size / 1e6:.1f} MB', file=sys.stderr)


if __name__ == '__main__':
    program.run(main)
