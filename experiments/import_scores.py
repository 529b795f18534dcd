#!/usr/bin/env python3
"""Turn scores or detections of another program, such as BirdNET or Perch, into a prediction file (.pred.npz), so that
eval.py evaluates them, and blender.py finds their weight in an ensemble.

TABLE is CSV (or TSV, Parquet) with columns for file, start, end, class and score, as BirdNET-Analyzer writes them (CSV
and Raven), or with a row per window and a column per class, as Kaggle's matrices. Columns are found by their usual
names. A table without a column of files is about the recording that it is named after, one without times about whole
recordings. Several tables are combined.

With --windows, OUT has the rows of one of our prediction files: the score of a window is the maximum over the
detections that overlap it by at least half of the shorter of both. Without, it has one row per recording, the maximum
of its detections. What has no detection gets the lowest score of the tables, or --floor.

A class is found by its id, scientific or common name, in upper or lower case; a file by the end of its path, without
suffix: its name is enough if no other recording of the list has it. What is not found is reported and left out.

Scores are expected to be probabilities and are written as logits, so that they can be added to the outputs of our
networks. They are limited to the range of 1e-5 to 1 - 1e-5 first.
"""

from birdsong import program  # isort: skip
import argparse
import sys
from array import array
from collections import Counter
from collections.abc import Iterator

import numpy as np

from birdsong.data.dataset import Dataset, dataset_of
from birdsong.files import Problem
from birdsong.findings import alignment, circumstances, score_tables, species
from birdsong.findings.calibration import sigmoid
from birdsong.scores import predictions

# Smallest probability that is written as a logit; tables have four decimals or so.
LEAST = 1e-5
# Names without a class, and files without a recording, that are reported.
SHOWN = 10
# A "class" that programs write for windows without detections.
NOTHING = 'nocall'


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('tables', metavar='TABLE', nargs='+', help='scores or detections of another program')
    add('--output', metavar='OUT', required=True, help='prediction file to write, such as birdnet.pred.npz')
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of --windows or OUT, else birdclef)')
    add('--filelist', default='valid', help='recordings to write scores of (%(default)s)')
    add('--windows', metavar='FILE', help='a prediction file of ours for these recordings, whose windows are used')
    add(
        '--column',
        metavar='ROLE=NAME',
        action='append',
        default=[],
        help=f'name of a column that is not found by itself (repeatable); roles: {", ".join(score_tables.NAMED)}',
    )
    add('--seconds', type=float, help="length of windows in a table without their ends (Kaggle's matrix: 5)")
    add('--logits', action='store_true', help='scores in the tables are logits, such as those of Perch')
    add('--as', dest='kind', choices=('logits', 'probabilities'), default='logits', help='what to write (%(default)s)')
    add(
        '--floor',
        metavar='SCORE',
        type=float,
        help='score of what has no detection, on the scale of the tables; lower scores are raised to it',
    )
    return parser.parse_args()


def check(args: argparse.Namespace) -> dict[str, str]:
    """The names of columns by role. Raises Problem for options that are not possible."""
    columns = dict(text.partition('=')[::2] for text in args.column)
    for role, name in columns.items():
        if role not in score_tables.NAMED or not name:
            raise Problem(f'--column {role}={name}: expected ROLE=NAME; roles: {", ".join(score_tables.NAMED)}')
    if args.seconds is not None and not 0 < args.seconds < np.inf:
        raise Problem(f'--seconds={args.seconds:g}: expected the length of windows in seconds, such as 3')
    if args.floor is not None and not (np.isfinite(args.floor) and (args.logits or 0 <= args.floor <= 1)):
        raise Problem(f'--floor={args.floor:g}: expected {"a number" if args.logits else "a probability"}')
    if not args.output.endswith('.npz'):
        raise Problem(f'--output {args.output}: a prediction file must end in .npz')
    return columns


class Scores:
    """The scores in tables: arrays of the index in `.paths`, start, end, class index and score of each.

    `.unknown` counts the rows of each name that is no class, `.rows` all rows. Raises Problem for probabilities that
    are none.
    """

    def __init__(self, args: argparse.Namespace, columns: dict[str, str], classes: 'ClassNames'):
        self.unknown, self.rows, paths = Counter(), 0, {}
        files, places, found, scores = array('q'), array('d'), array('q'), array('d')
        for name in args.tables:
            for row in score_tables.read(name, columns, args.seconds):
                self.rows += 1
                if not args.logits and not 0 <= row.score <= 1:
                    raise Problem(
                        f'{name}, line {row.line}: the score {row.score:g} is no probability; give --logits if the '
                        'scores are logits'
                    )
                path = paths.setdefault(row.file, len(paths))
                index = classes.index(row.names)
                if index is None:
                    self.unknown[row.names] += 1
                    continue
                files.append(path)
                places.extend((row.start, row.end))
                found.append(index)
                scores.append(row.score)
        self.paths = list(paths)
        self.file, self.classes = np.array(files, np.int64), np.array(found, np.int64)
        self.starts, self.ends = np.array(places).reshape(-1, 2).T
        self.scores = np.array(scores)

    def select(self, which: np.ndarray) -> None:
        """Keep only those with these indices, in that order."""
        for name in ('file', 'classes', 'starts', 'ends', 'scores'):
            setattr(self, name, getattr(self, name)[which])


class ClassNames:
    """Class indices by class ids, scientific and common names."""

    def __init__(self, known: list[species.Species]):
        self.ids = {one.class_id.casefold(): i for i, one in enumerate(known)}
        self.others, self.cache = {}, {}
        for i, one in enumerate(known):
            for name in one[1:]:
                self.others.setdefault(name.casefold(), set()).add(i)

    def index(self, names: tuple[str, ...]) -> int | None:
        """The class of the first of the names that is one; None if none is, or if it is a name of several classes.

        BirdNET's labels are the scientific and the common name, joined by '_'.
        """
        if names not in self.cache:
            single = [name.casefold() for name in names]
            single += [part for name in single if '_' in name for part in name.split('_')]
            self.cache[names] = next((i for i in map(self._index, single) if i is not None), None)
        return self.cache[names]

    def _index(self, name):
        found = self.others.get(name, ())
        return self.ids.get(name, next(iter(found)) if len(found) == 1 else None)


def read_windows(args: argparse.Namespace, dataset: Dataset, files: list[str]) -> predictions.Predictions | None:
    """The prediction file whose windows are used, for `files`; None if there is one row per recording."""
    if args.windows is None:
        return None
    windows = predictions.load(args.windows, dataset.num_classes).select(files)
    if windows.starts is not None:
        return windows
    if len(windows.scores) > len(files):
        raise Problem(f'{args.windows}: several rows of a recording, but without times; {predictions.CURE}')
    return None


def find_recordings(args: argparse.Namespace, dataset: Dataset, files: list[str], scores: Scores) -> None:
    """Replace the files of the scores by indices in `files`, sorted; reports and leaves out those not found."""
    known = circumstances.load(dataset, files)
    sources = [known[key].source if key in known else '' for key in files]
    recording = alignment.recordings_of(
        scores.paths, [list(filter(None, names)) for names in zip(files, sources, strict=True)]
    )
    missing = [path for path, index in zip(scores.paths, recording, strict=True) if index < 0]
    if missing and len(missing) == len(scores.paths):
        raise Problem(
            f'{args.tables[0]}: none of {len(missing)} files, such as {missing[0]}, is a recording of list '
            f'{args.filelist}, such as {files[0]}; choose another --filelist or --dataset'
        )
    if missing:
        of = f'{len(missing)} of {len(scores.paths)} files'
        say(f'{of} are not one recording of list {args.filelist}: {listed(missing)}')
    present = set(recording.tolist())
    absent = [key for i, key in enumerate(files) if i not in present]
    if absent:
        say(f'{len(absent)} of {len(files)} recordings of list {args.filelist} have no scores: {listed(absent)}')
    scores.file = recording[scores.file]
    order = np.argsort(scores.file, kind='stable')
    scores.select(order[scores.file[order] >= 0])


def report_classes(args: argparse.Namespace, scores: Scores) -> None:
    """Report the names that are no class. Raises Problem if all are."""
    if not scores.rows:
        raise Problem(f'{args.tables[0]}: no scores; expected a table with at least one row')
    unknown = Counter()
    for names, count in scores.unknown.items():
        if not any(name.casefold() == NOTHING for name in names):
            unknown[' / '.join(names) or '(empty)'] += count
    shown = listed([f'{name} ({count})' for name, count in unknown.most_common()])
    if not len(scores.scores):
        raise Problem(
            f'{args.tables[0]}: no name is a class of the dataset: {shown or NOTHING}; choose another --dataset, '
            'or name the column with --column class=NAME'
        )
    if unknown:
        say(f'{len(unknown)} names are no class of the dataset, {unknown.total()} of {scores.rows} scores: {shown}')


def listed(names: list[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return f'{", ".join(names[:SHOWN])}{more}'


def say(line: str) -> None:
    print(' '.join(line.split()), file=sys.stderr)


def converted(scores: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    """Scores of tables as they are written."""
    if args.logits:
        return scores if args.kind == 'logits' else sigmoid(scores)
    if args.kind == 'probabilities':
        return scores
    limited = np.clip(scores, LEAST, 1 - LEAST)
    return np.log(limited / (1 - limited))


def blocks(
    scores: Scores, files: list[str], windows: predictions.Predictions | None, floor: float, num_classes: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the scores (rows, classes) of each recording, and how many detections are in no window of it."""
    bounds = np.searchsorted(scores.file, np.arange(len(files) + 1))
    whole = np.zeros(1), np.full(1, np.inf)
    for i, key in enumerate(files):
        each = slice(bounds[i], bounds[i + 1])
        rows = whole if windows is None else windows.times(key)
        result = np.full((len(rows[0]), num_classes), floor)
        times = scores.starts[each], scores.ends[each]
        if windows is None:
            np.maximum.at(result[0], scores.classes[each], scores.scores[each])
            yield result, 0
        else:
            placed = alignment.into_windows(result, rows, times, scores.classes[each], scores.scores[each])
            yield result, np.count_nonzero(~placed)


def write(
    args: argparse.Namespace,
    scores: Scores,
    files: list[str],
    windows: predictions.Predictions | None,
    num_classes: int,
) -> None:
    """Write the prediction file, and report detections that are in no window."""
    floor = scores.scores.min() if args.floor is None else args.floor
    scores.scores = converted(scores.scores, args)
    floor = float(converted(np.array([floor]), args)[0])
    offsets, times, outside = np.arange(len(files) + 1), None, 0
    if windows is not None:
        offsets, times = windows.offsets, ([windows.starts], [windows.stops])

    def each():
        nonlocal outside
        for block, left_out in blocks(scores, files, windows, floor, num_classes):
            outside += left_out
            yield predictions.as_float32(block)

    predictions.write(args.output, files, offsets, each(), num_classes, times=times)
    if outside:
        say(f'{outside} of {len(scores.scores)} detections are in no window of {args.windows}')
    say(
        f'{args.output}: {len(scores.scores)} scores of {len(np.unique(scores.classes))} classes in '
        f'{len(np.unique(scores.file))} recordings, as {offsets[-1]} rows of {len(files)} recordings; '
        f'others have the score {floor:.4g}'
    )


def main() -> None:
    args = parse_arguments()
    columns = check(args)
    dataset = Dataset(args.dataset or dataset_of(args.windows or args.output))
    dataset.need_labels(['labelset'], 'names in tables are compared with the class ids in it')
    files = dataset.filelist(args.filelist)
    windows = read_windows(args, dataset, files)
    scores = Scores(args, columns, ClassNames(species.of(dataset)))
    report_classes(args, scores)
    find_recordings(args, dataset, files, scores)
    if not len(scores.scores):
        raise Problem(
            f'{args.tables[0]}: no score is of a class of the dataset and a recording of list {args.filelist}'
        )
    write(args, scores, files, windows, dataset.num_classes)


if __name__ == '__main__':
    program.run(main)
