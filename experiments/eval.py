#!/usr/bin/env python3
"""Print the metrics of predictions, or of a weighted combination of several, on a labelled list of recordings.

MAP is the mean reciprocal rank of the foreground species, MAP-bg the mean average precision over foreground and
background species, and top-k the share of recordings whose foreground species is among the k highest scores.

With --segments SECONDS, windows of that length are evaluated against labels/segments.tsv instead: macro ROC-AUC, cmAP,
padded cmAP, micro and macro F1. The windows of a recording begin at 0 and end with its predictions or labels. A class
is active in a window if a segment overlaps it by 10 ms or more. The scores of a window are the maximum over the rows
whose middle is in it or, if there are none, those of the row that overlaps it most.

With --events FINDINGS, the detections in a table of findings.py or identify.sh are evaluated against the same labels:
F1 score, precision and recall of events. Segments or detections of a class that overlap or touch are one event. A
detection is right if it starts within --tolerance seconds of a true event, and ends within as many seconds, or 20 % of
the length of the event, of its end. Each true event is matched with one detection at most.
"""

from birdsong import program  # isort: skip
import argparse
import os
import sys

import numpy as np

from birdsong.data.dataset import Dataset, dataset_of
from birdsong.files import Problem
from birdsong.scores import class_tables, combination, metrics, predictions, segments

# Score of classes that --birdclef-filter and --subset-class exclude: below all others, but finite.
IMPOSSIBLE = -1e30
# Number of bootstrap samples if --intervals is given without a number.
SAMPLES = 1000
THRESHOLD = 0.5
TOLERANCE = 1.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        'infiles',
        metavar='FILE[:WEIGHT]',
        nargs='*',
        help='predictions (.pred.npz, or .pred.pkl of the 2018 system); several are combined as the sum of '
        'weight x scores, divided by the number of files',
    )
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)')
    add('--filelist', default='valid', help='recordings to evaluate (%(default)s)')
    add('--labelfile', default='fg.tsv', help='foreground species, in labels/ of the dataset (%(default)s)')
    add('--labelfile-background', metavar='FILE', help='background species (bg.tsv), needed for MAP-bg')
    add('--softmax', action='store_true', help='apply a softmax to the scores of each file first')
    add('--no-softmax', dest='softmax', action='store_false', help=argparse.SUPPRESS)
    add(
        '--no-maxpool',
        dest='maxpool',
        action='store_false',
        help='do not take the maximum over the rows of a recording: save or evaluate each row',
    )
    add(
        '--birdclef-filter',
        action='store_true',
        help="exclude classes that are not in the recording's challenge edition (if its edition is known)",
    )
    add('--subset', metavar='SHARE', type=float, default=1, help='evaluate a random share of the recordings')
    add('--subset-class', metavar='SHARE', type=float, default=1, help='evaluate a random share of the classes')
    add('--subset-seed', metavar='SEED', type=int, help='makes the random share repeatable')
    add('--save-predictions', metavar='FILE', help='write the combined scores to FILE, without evaluation or labels')
    add(
        '--more',
        action='store_true',
        help='print a second line: cmAP (class-averaged average precision, also padded with 5 recordings as in '
        'BirdCLEF 2023) and macro ROC-AUC',
    )
    add(
        '--average-overlaps',
        action='store_true',
        help='with --segments: the score of a window is the mean of the rows that overlap it, weighted by the overlap, '
        'instead of their maximum; for predictions with --var len_min=2.5 and --softmax',
    )
    add(
        '--intervals',
        metavar='SAMPLES',
        type=int,
        nargs='?',
        const=SAMPLES,
        default=0,
        help='print another line: 95 %% bootstrap intervals of the metrics (of %(const)s samples)',
    )
    add(
        '--segments',
        metavar='SECONDS',
        type=float,
        help='evaluate windows of this length against the labelled segments of the annotated recordings of the list',
    )
    add(
        '--threshold',
        metavar='SCORE',
        type=float,
        help=f'with --segments: lowest score that counts as a detection in F1 ({THRESHOLD})',
    )
    add(
        '--events',
        metavar='FINDINGS',
        help='evaluate the detections of this table (.csv, .parquet) in the annotated recordings of the list',
    )
    add(
        '--tolerance',
        metavar='SECONDS',
        type=float,
        help=f'with --events: largest difference of the times of a detection from the labelled ones ({TOLERANCE:g})',
    )
    add('--per-class', metavar='FILE', help='write a table of the metrics of each class to FILE (.tsv)')
    add('--confusions', metavar='FILE', help='write to FILE (.tsv) how often each class has the highest score for each')
    add(
        '--by',
        metavar='COLUMN',
        help='also print metrics for each value of a column of recordings.tsv, such as recordist, site, quality, year '
        'or month',
    )
    add('--json', metavar='FILE', help='write all metrics to FILE')
    args = parser.parse_args(number_of_samples_given(sys.argv[1:]))
    if args.intervals < 0:
        parser.error(f'argument --intervals: {args.intervals} is not a number of samples')
    if not args.infiles and args.events is None:
        parser.error('the following arguments are required: FILE[:WEIGHT], or --events')
    check_labelled_times(args)
    return args


def check_labelled_times(args: argparse.Namespace) -> None:
    """Raise Problem for options that cannot be combined with --segments or --events, or need them."""
    if args.segments is None and args.threshold is not None:
        raise Problem('--threshold: it is for --segments only')
    if args.events is None and args.tolerance is not None:
        raise Problem('--tolerance: it is for --events only')
    if args.by and args.subset_class != 1:
        raise Problem('--by cannot be combined with --subset-class; leave out one of them')
    if args.segments is not None and not 0 < args.segments < np.inf:
        raise Problem(f'--segments={args.segments:g}: expected the length of windows in seconds, such as 5')
    if args.tolerance is not None and not 0 <= args.tolerance < np.inf:
        raise Problem(f'--tolerance={args.tolerance:g}: expected a difference in seconds, such as 1')
    others = {
        '--save-predictions': args.save_predictions,
        '--labelfile-background': args.labelfile_background,
        '--subset-class': args.subset_class != 1,
        '--confusions': args.confusions,
        '--by': args.by,
    }
    others_of_events = {
        'predictions': args.infiles,
        '--segments': args.segments is not None,
        '--softmax': args.softmax,
        '--birdclef-filter': args.birdclef_filter,
    }
    if args.average_overlaps and args.segments is None:
        raise Problem('--average-overlaps: only with --segments; leave it out')
    mode = '--segments' if args.events is None else '--events'
    for option, is_given in (others if args.events is None else others | others_of_events).items():
        if is_given and (args.segments is not None or args.events is not None):
            raise Problem(f'{mode} cannot be combined with {option}; leave out one of them')


def number_of_samples_given(arguments: list[str]) -> list[str]:
    """The arguments, with a number added to --intervals where argparse would take a file name as its value."""

    def alone(argument, following):
        return len(argument) > 2 and '--intervals'.startswith(argument) and not following.lstrip('-').isdigit()

    return [
        f'--intervals={SAMPLES}' if alone(argument, following) else argument
        for argument, following in zip(arguments, arguments[1:] + [''], strict=True)
    ]


def random_share(total: int, share: float, rng: np.random.RandomState, option: str) -> np.ndarray:
    """Sorted indices of a random share of `total`. Raises Problem, with the option, if nothing is left."""
    count = int(total * share)
    if not 0 < share <= 1 or count < 1:
        raise Problem(f'{option}={share} of {total} leaves nothing; give a share above 0, at most 1')
    return np.sort(rng.permutation(total)[:count])


def filter_editions(combined: predictions.Predictions, dataset: Dataset) -> np.ndarray:
    """Scores in which the classes that are not in the recording's challenge edition are IMPOSSIBLE."""
    scores = combined.scores.copy()
    for i, key in enumerate(combined.files):
        classes = dataset.edition_classes(key)
        if classes is not None:
            others = np.ones(scores.shape[1], bool)
            others[classes] = False
            scores[combined.offsets[i] : combined.offsets[i + 1], others] = IMPOSSIBLE
    return scores


def draw_classes(
    scores: np.ndarray, truth: np.ndarray, background: list | None, share: float, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray, list | None]:
    """Scores, truth and background of the recordings of a random share of the classes; the others are IMPOSSIBLE."""
    num_classes = scores.shape[1]
    chosen = random_share(num_classes, share, rng, '--subset-class')
    keep = np.flatnonzero(np.isin(truth, chosen))
    if not len(keep):
        raise Problem(f'--subset-class={share}: no recording belongs to the classes drawn; give another --subset-seed')
    scores = np.where(np.isin(np.arange(num_classes), chosen), scores, IMPOSSIBLE)[keep]
    if background is not None:
        background = [sorted(set(background[i]) & set(chosen.tolist())) for i in keep]
    return scores, truth[keep], background


def print_metrics(args: argparse.Namespace, scores: np.ndarray, truth: np.ndarray, background: list | None) -> dict:
    """Print the metrics that the arguments ask for. Returns the metrics for --json as a dict."""
    found = metrics.evaluate(scores, truth, background)
    print(metrics.line(found))
    if args.more or args.json:
        current = metrics.current(scores, truth, background)
        found.update(current)
        if args.more:
            print(', '.join(f'{name}: {value:.3f}' for name, value in current.items()))
    if args.intervals:
        found['intervals'] = metrics.intervals(scores, truth, background, samples=args.intervals)
        print_intervals(found['intervals'], args.intervals)
    return found


def print_by(column: str, values: np.ndarray, scores: np.ndarray, truth: np.ndarray, background: list | None) -> dict:
    """Print the metrics of the recordings with each value of a column, and return them; `values` (N,) are texts."""
    result = {}
    for value in sorted(set(values.tolist()), key=lambda value: (-np.sum(values == value), value)):
        those = np.flatnonzero(values == value)
        part = None if background is None else [background[i] for i in those]
        result[value] = metrics.evaluate(scores[those], truth[those], part)
        print(f'{column} {value or "unknown"} ({len(those)}): {metrics.line(result[value])}')
        result[value]['recordings'] = len(those)
    return result


def print_intervals(intervals: dict[str, tuple[float, float]], samples: int) -> None:
    bounds = [f'{name}: {low:.3f} to {high:.3f}' for name, (low, high) in intervals.items()]
    print(f'95 % intervals of {samples} bootstrap samples: {", ".join(bounds)}')


def evaluate_segments(args: argparse.Namespace, dataset: Dataset, files: list[str], members: list) -> None:
    """Print and write the metrics of windows of the annotated recordings among `files`; members: (file, weight)."""
    labelled, annotated = dataset.annotated(files, args.filelist)
    names, weights = zip(*members, strict=True)
    parts = (combination.prepared(name, annotated, dataset.num_classes, args.softmax, False) for name in names)
    combined = combination.combine(parts, weights)
    if args.birdclef_filter:
        combined.scores = filter_editions(combined, dataset)
    windows = segments.windows(combined, labelled, args.segments, args.average_overlaps)
    about = {
        'windows': len(windows.scores),
        'recordings': len(annotated),
        'classes': int(windows.truth.any(axis=0).sum()),
        'positives': int(windows.truth.sum()),
        'seconds': args.segments,
        'threshold': THRESHOLD if args.threshold is None else args.threshold,
    }
    found = print_window_metrics(args, windows, about, len(files))
    if args.per_class:
        columns = segments.per_class(windows, about['threshold'])
        class_tables.write_columns(args.per_class, dataset, columns, ('windows',))
        print(f'{args.per_class}: metrics of each class', file=sys.stderr)
    if args.json:
        about |= {'dataset': dataset.name, 'filelist': args.filelist, 'members': members}
        class_tables.write_json(args.json, found | about)


def print_window_metrics(args: argparse.Namespace, windows: segments.Windows, about: dict, listed: int) -> dict:
    """Print the metrics of windows. Returns them for --json as a dict."""
    print(
        f'{about["windows"]} windows of {args.segments:g} s in {about["recordings"]} annotated recordings of {listed}; '
        f'{about["classes"]} of {windows.truth.shape[1]} classes occur, {about["positives"]} times'
    )
    low, high = windows.scores.min(), windows.scores.max()
    if args.threshold is None and not 0 <= low <= high <= 1:
        print(
            f'warning: scores from {low:.3g} to {high:.3g} are no probabilities, as F1 with the threshold {THRESHOLD} '
            'needs them; give --softmax or another --threshold',
            file=sys.stderr,
        )
    found = segments.evaluate(windows, about['threshold'])
    print(', '.join(f'{name}: {value:.3f}' for name, value in found.items()))
    if args.intervals:
        found['intervals'] = segments.intervals(windows, about['threshold'], args.intervals)
        print_intervals(found['intervals'], args.intervals)
    return found


def evaluate_events(args: argparse.Namespace, dataset: Dataset, files: list[str]) -> None:
    """Print and write the metrics of the detections of a table in the annotated recordings among `files`."""
    # predictions can be evaluated without these, and without scipy
    from birdsong.findings import formats
    from birdsong.scores import events

    labelled, annotated = dataset.annotated(files, args.filelist)
    index = {name: c for c, name in enumerate(dataset.labelset)}
    found, others = {key: [] for key in annotated}, set()
    # identify.sh names the original files, whose suffix may be another one
    keys = {os.path.splitext(key)[0]: key for key in annotated} | {key: key for key in annotated}
    for one in formats.read(args.events):
        if one.class_id not in index:
            raise Problem(
                f'{args.events}: {one.class_id} is not in {dataset.path}/labels/labelset; choose the --dataset'
            )
        key = keys.get(one.file, keys.get(os.path.splitext(one.file)[0]))
        if key is None:
            others.add(one.file)
        else:
            found[key].append((one.start, one.end, index[one.class_id]))
    if others:
        print(
            f'note: {args.events}: {len(others)} recordings with detections, such as {min(others)}, are no annotated '
            f'ones of list {args.filelist}, and left out',
            file=sys.stderr,
        )
    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    counts = events.count([labelled[key] for key in annotated], found.values(), dataset.num_classes, tolerance)
    right, detected, true = (int(values.sum()) for values in counts)
    print(
        f'{detected} detections of {true} events in {len(annotated)} annotated recordings of {len(files)}, {right} of '
        f'them right within {tolerance:g} s'
    )
    result = events.evaluate(counts)
    print(', '.join(f'{name}: {value:.3f}' for name, value in result.items()))
    if args.intervals:
        result['intervals'] = events.intervals(counts, args.intervals)
        print_intervals(result['intervals'], args.intervals)
    if args.per_class:
        class_tables.write_columns(args.per_class, dataset, events.per_class(counts), ('events', 'detections', 'right'))
        print(f'{args.per_class}: metrics of each class', file=sys.stderr)
    if args.json:
        about = {'recordings': len(annotated), 'events': true, 'detections': detected, 'right': right}
        about |= {'tolerance': tolerance, 'offset share': events.OFFSET_SHARE}
        class_tables.write_json(args.json, result | about | {'dataset': dataset.name, 'filelist': args.filelist})


def main() -> None:
    args = parse_arguments()
    members = [
        (name, 1.0 if weight is None else weight) for name, weight in map(combination.parse_weighted, args.infiles)
    ]
    dataset = Dataset(args.dataset or dataset_of(args.events or members[0][0]), args.labelfile)
    files = dataset.filelist(args.filelist)
    rng = np.random.RandomState(args.subset_seed)
    if args.subset != 1:
        files = [files[i] for i in random_share(len(files), args.subset, rng, '--subset')]
    if args.events is not None:
        evaluate_events(args, dataset, files)
        return
    if args.segments is not None:
        evaluate_segments(args, dataset, files, members)
        return
    if not args.save_predictions:
        truth, background = dataset.truth(files, args.labelfile, args.labelfile_background, args.filelist)
        values = dataset.column(args.by, files) if args.by else None

    # Predictions can be combined without labels. Then only the files are compared with each other.
    num_classes = None if args.save_predictions and not dataset.has_labels else dataset.num_classes
    names, weights = zip(*members, strict=True)
    parts = (combination.prepared(name, files, num_classes, args.softmax, args.maxpool) for name in names)
    combined = combination.combine(parts, weights)
    if args.birdclef_filter:
        combined.scores = filter_editions(combined, dataset)
    if args.save_predictions:
        times = (combined.starts, combined.stops)
        predictions.save(args.save_predictions, files, combined.scores, combined.offsets, *times)
        print(f'{args.save_predictions}: predictions for {len(files)} recordings', file=sys.stderr)
        return

    scores, counts = combined.scores, np.diff(combined.offsets)
    truth = np.repeat(truth, counts)
    if background is not None:
        background = [species for species, count in zip(background, counts, strict=True) for _ in range(count)]
    if args.subset_class != 1:
        scores, truth, background = draw_classes(scores, truth, background, args.subset_class, rng)
    found = print_metrics(args, scores, truth, background)
    if args.per_class:
        class_tables.write_per_class(args.per_class, dataset, scores, truth, background)
        print(f'{args.per_class}: metrics of each class', file=sys.stderr)
    if args.confusions:
        class_tables.write_confusions(args.confusions, dataset, scores, truth)
        print(f'{args.confusions}: confusions between classes', file=sys.stderr)
    if args.by:
        found['by'] = {args.by: print_by(args.by, np.repeat(values, counts), scores, truth, background)}
    if args.json:
        about = {
            'recordings': len(truth),
            'classes': dataset.num_classes,
            'dataset': dataset.name,
            'filelist': args.filelist,
            'members': members,
        }
        class_tables.write_json(args.json, found | about)


if __name__ == '__main__':
    program.run(main)
