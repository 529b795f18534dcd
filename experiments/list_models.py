#!/usr/bin/env python3
"""Print what the shell scripts run for each model: one tab-separated line per model, teachers before students.

The fields are name, kind (audio or meta), teachers (or -), the arguments of train.py, of predict.py for whole
recordings, and of predict.py for soundscapes, and, for self-training, a list and the teachers that have to predict it
before (or -).
"""

from birdsong import program  # isort: skip
import argparse

from birdsong import model_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', metavar='MODEL', nargs='*', help='models of the table, or MODEL.seedN (default: all)')
    parser.add_argument('--models', metavar='FILE', help=f'the table (default: {model_table.TABLE})')
    parser.add_argument(
        '--found',
        action='store_true',
        help='also the models in experiments/NAME/ that are not in the table; '
        'without --models, only the models in that folder if there are any',
    )
    parser.add_argument('--dataset', metavar='NAME', default='birdclef', help='dataset (default: %(default)s)')
    options = parser.parse_args()
    model_table.check_dataset_name(options.dataset)
    if options.found:
        models = model_table.choose(options.models, options.dataset, options.names, all_found=True)
    else:
        table = options.models or model_table.TABLE
        models = model_table.read_table(table, options.dataset)
        model_table.add_seeds(models, options.names, options.dataset)
        models = {name: models[name] for name in model_table.in_order(models, options.names, table)}
    for name, model in models.items():
        arguments = (
            model_table.teachers_of(model) or ['-'],
            model_table.train_arguments(model, options.dataset),
            model_table.predict_arguments(model, options.dataset),
            model_table.predict_arguments(model, options.dataset, soundscapes=True),
            model_table.predictions_before(model) or ['-'],
        )
        print(name, model_table.kind(model), *map(' '.join, arguments), sep='\t')


if __name__ == '__main__':
    program.run(main)
