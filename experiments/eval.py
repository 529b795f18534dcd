#!/usr/bin/env python3
"""Print the figures of predictions, or of a weighted combination of several, on a labelled list of recordings.

MAP is the mean reciprocal rank of the foreground species; MAP-bg the mean average precision over foreground and
background species; top-k the share of recordings whose foreground species is among the k highest scores.
"""

from birdsong import program  # isort: skip
import argparse
import json
import os
import sys

import numpy as np

from birdsong.data.dataset import Dataset, dataset_of
from birdsong.files import Problem, read_lines, writing
from birdsong.scores import combination, metrics, predictions

# What --birdclef-filter and --subset-class give to classes that must not win: below any score, yet finite.
IMPOSSIBLE = -1e30
# Bootstrap samples of --intervals without a number.
SAMPLES = 1000


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'infiles',
        metavar='FILE[:WEIGHT]',
        nargs='+',
        help='predictions (.pred.npz, or .pred.pkl of the original); several are combined as the sum of '
        'weight x scores, divided by the number of files',
    )
    parser.add_argument(
        '--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)'
    )
    parser.add_argument('--filelist', default='valid', help='recordings to evaluate (%(default)s)')
    parser.add_argument(
        '--labelfile', default='fg.tsv', help='foreground species, in labels/ of the data set (%(default)s)'
    )
    parser.add_argument(
        '--labelfile-background', metavar='FILE', help='background species (bg.tsv); without it no MAP-bg'
    )
    parser.add_argument('--softmax', action='store_true', help='apply a softmax to the scores of each file first')
    parser.add_argument('--no-softmax', dest='softmax', action='store_false', help=argparse.SUPPRESS)
    parser.add_argument(
        '--no-maxpool',
        dest='maxpool',
        action='store_false',
        help='keep the rows of a recording apart: saved as they are, or evaluated one by one',
    )
    parser.add_argument(
        '--birdclef-filter',
        action='store_true',
        help="only species of the recording's own challenge edition can win (all, if it has none)",
    )
    parser.add_argument(
        '--subset', metavar='SHARE', type=float, default=1, help='evaluate a random share of the recordings'
    )
    parser.add_argument(
        '--subset-class', metavar='SHARE', type=float, default=1, help='evaluate a random share of the classes'
    )
    parser.add_argument('--subset-seed', metavar='SEED', type=int, help='makes the random share repeatable')
    parser.add_argument(
        '--save-predictions', metavar='FILE', help='write the combination to FILE instead; needs no labels'
    )
    parser.add_argument(
        '--more',
        action='store_true',
        help='a second line: cmAP (class-averaged average precision, also '
        'padded with 5 recordings as in BirdCLEF 2023) and macro ROC-AUC',
    )
    parser.add_argument(
        '--intervals',
        metavar='SAMPLES',
        type=int,
        nargs='?',
        const=SAMPLES,
        default=0,
        help='one more line: 95 %% bootstrap intervals of the metrics (of %(const)s samples)',
    )
    parser.add_argument('--per-class', metavar='FILE', help='write a table of the figures of each class to FILE (.tsv)')
    parser.add_argument('--json', metavar='FILE', help='write all figures to FILE')
    args = parser.parse_args(number_of_samples_given(sys.argv[1:]))
    if args.intervals < 0:
        parser.error(f'argument --intervals: {args.intervals} is not a number of samples')
    return args


def number_of_samples_given(arguments: list[str]) -> list[str]:
    """The arguments, with a number after --intervals where a file name follows, which argparse would take for it."""

    def alone(argument, following):
        return len(argument) > 2 and '--intervals'.startswith(argument) and not following.lstrip('-').isdigit()

    return [
        f'--intervals={SAMPLES}' if alone(argument, following) else argument
        for argument, following in zip(arguments, arguments[1:] + [''])
    ]


def random_share(total, share, rng, option):
    """Sorted indices of a random share of `total`. Raises Problem if nothing is left."""
    count = int(total * share)
    if not 0 < share <= 1 or count < 1:
        raise Problem(f'{option}={share} of {int(total)} leaves nothing; give a share above 0, at most 1')
    return np.sort(rng.permutation(total)[:count])


def filter_editions(combined, dataset):
    """Make classes impossible that are not of the recording's own challenge edition."""
    scores = combined.scores.copy()
    for i, key in enumerate(combined.files):
        classes = dataset.edition_classes(key)
        if classes is not None:
            others = np.ones(scores.shape[1], bool)
            others[classes] = False
            scores[combined.offsets[i] : combined.offsets[i + 1], others] = IMPOSSIBLE
    return predictions.Predictions(combined.files, combined.offsets, scores, combined.filename)


def write_per_class(filename, dataset, scores, truth, background):
    """A table with a line for each class that occurs: how well it is found, and what it is taken for."""
    figures = metrics.per_class(scores, truth, background)
    first, _ = metrics.per_recording(scores, truth)
    best = np.argmax(scores, axis=1)
    latin = os.path.join(dataset.path, 'labels', 'labelset_latin')
    latin = read_lines(latin) if os.path.exists(latin) else []
    latin += dataset.labelset[len(latin) :]
    with writing(filename, 'w', encoding='utf-8') as f:
        f.write('class\tspecies\trecordings\tAP\tmean rank\ttop-1\tconfused with\ttimes\n')
        for c in np.flatnonzero(~np.isnan(figures['AP'])):
            own = truth == c
            count = int(own.sum())
            wrong = np.bincount(best[own & (best != c)], minlength=scores.shape[1])
            f.write(
                '%s\t%s\t%d\t%.3f\t%s\t%s\t%s\t%d\n'
                % (
                    dataset.labelset[c],
                    latin[c],
                    count,
                    figures['AP'][c],
                    f'{first[own].mean():.1f}' if count else '',
                    f'{np.mean(first[own] == 1):.2f}' if count else '',
                    dataset.labelset[wrong.argmax()] if wrong.any() else '',
                    wrong.max(),
                )
            )


def main():
    args = parse_arguments()
    dataset = Dataset(args.dataset or dataset_of(combination.parse_weighted(args.infiles[0])[0]), args.labelfile)
    files = dataset.filelist(args.filelist)
    members = [combination.parse_weighted(text) for text in args.infiles]
    weights = [1.0 if weight is None else weight for _, weight in members]
    rng = np.random.RandomState(args.subset_seed)
    if args.subset != 1:
        files = [files[i] for i in random_share(len(files), args.subset, rng, '--subset')]
    if not args.save_predictions:
        truth, background = dataset.truth(files, args.labelfile, args.labelfile_background, args.filelist)

    # A combination of predictions can do without labels; its members then only have to agree with each other.
    num_classes = None if args.save_predictions and not dataset.has_labels else dataset.num_classes
    combined = combination.combine(
        (combination.prepared(filename, files, num_classes, args.softmax, args.maxpool) for filename, _ in members),
        weights,
    )
    if args.birdclef_filter:
        combined = filter_editions(combined, dataset)
    if args.save_predictions:
        predictions.save(args.save_predictions, files, combined.scores, combined.offsets)
        print(f'{args.save_predictions}: predictions for {len(files)} recordings', file=sys.stderr)
        return

    scores, counts = combined.scores, np.diff(combined.offsets)
    truth = np.repeat(truth, counts)
    if background is not None:
        background = [species for species, count in zip(background, counts) for _ in range(count)]
    if args.subset_class != 1:
        chosen = random_share(dataset.num_classes, args.subset_class, rng, '--subset-class')
        keep = np.flatnonzero(np.isin(truth, chosen))
        if not len(keep):
            raise Problem(
                f'--subset-class={args.subset_class}: no recording is of the classes drawn; give another --subset-seed'
            )
        scores = np.where(np.isin(np.arange(dataset.num_classes), chosen), scores, IMPOSSIBLE)[keep]
        truth = truth[keep]
        if background is not None:
            background = [sorted(set(background[i]) & set(chosen.tolist())) for i in keep]

    figures = metrics.evaluate(scores, truth, background)
    print(metrics.line(figures))
    report = dict(
        figures,
        recordings=len(truth),
        classes=dataset.num_classes,
        dataset=dataset.name,
        filelist=args.filelist,
        members=[[name, weight] for (name, _), weight in zip(members, weights)],
    )
    if args.more or args.json:
        current = metrics.current(scores, truth, background)
        report.update(current)
        if args.more:
            print(', '.join('{}: {:.3f}'.format(*item) for item in current.items()))
    if args.intervals:
        report['intervals'] = metrics.intervals(scores, truth, background, samples=args.intervals)
        print(
            f'95 % intervals of {int(args.intervals)} bootstrap samples: {", ".join(("{}: {:.3f} to {:.3f}".format(name, *bounds) for name, bounds in report["intervals"].items()))}'
        )
    if args.per_class:
        write_per_class(args.per_class, dataset, scores, truth, background)
        print(f'{args.per_class}: figures of each class', file=sys.stderr)
    if args.json:
        with writing(args.json, 'w', encoding='utf-8') as f:
            # What is undefined (no class with recordings of both kinds) is null, since JSON knows no NaN.
            json.dump({k: None if v != v else v for k, v in report.items()}, f, indent=1)
            f.write('\n')


if __name__ == '__main__':
    program.run(main)
