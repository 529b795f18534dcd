#!/usr/bin/env python3
"""Collect the recordings of a source folder in one table, datasets/NAME/recordings.tsv.

Recognises the layout of SOURCE, says what it recognised and why, and writes one line per recording: its key, source
path, part, class, names, background classes, date, time, place, and what else is known. repairs.tsv beside it lists
files that were not used, and other problems. If run again, it adds new recordings; the keys of the others stay.
The options are stored in datasets/NAME/preparation.json and used again in later runs, unless others are given.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import dataclasses

import layouts
from birdsong.data.sampling import QUALITIES
from birdsong.files import Problem
from shared import collection, selection
from shared.class_names import add_class_names
from shared.dataset import DATASETS, dataset_folder
from shared.folds import refuse_fold
from shared.options import remembered
from shared.recordings import COLUMNS, Recording, read_recordings, recordings_file, write_recordings
from shared.source import Source
from shared.tables import REPAIRS, write_repairs

FIRST_LINES = 5


def choose_layout(source: Source, name: str | None) -> tuple[str, str]:
    """(name of the layout, why it was chosen). Raises Problem as `layouts.recognise` does."""
    if not name:
        return layouts.recognise(source)
    if name not in layouts.names():
        raise Problem(f'--layout {name}: no such layout; expected one of {", ".join(layouts.names())}')
    return name, 'as given by --layout'


def collect(source: Source, layout: str, earlier: list[Recording], converted: bool, options: dict) -> list[Recording]:
    """Recordings of a source in a layout, together with those of earlier runs, sorted by key.

    `converted` says whether some of the earlier ones may be converted, so that their files are not needed any more.
    """
    report = source.report
    source.known = {recording.source: recording.key for recording in earlier if recording.source}
    recordings = collection.unique_rows(layouts.module(layout).rows(source), report)
    if not recordings:
        raise Problem(f'{source.path}: no recordings found; {layouts.module(layout).LOOKED_FOR} was expected')
    if not options['no_audio']:
        collection.unlisted_files(source, recordings, report)
        recordings = collection.existing_files(source, recordings, converted, report)
    recordings = collection.with_earlier(source, recordings, earlier, report)
    recordings = collection.good_names(recordings, report)
    if not options['no_audio']:
        recordings = collection.without_duplicates(source, recordings, options['drop_duplicates'], report)
    recordings = selection.select(recordings, options, report)
    if not recordings:
        raise Problem(f'{source.path}: no recordings are left: {"; ".join(report.lines())}')
    collection.check_classes(recordings, report)
    if source.skipped:
        report.note(f'files of the source that were not used: {len(source.skipped)}, such as {source.skipped[0][0]}')
    return collection.sorted_by_key(recordings)


def first_lines(recordings: list[Recording]) -> list[str]:
    """The first rows of the table, as columns of text; columns that are empty everywhere are left out."""
    fields = [field.name for field in dataclasses.fields(Recording)]
    used = [i for i, name in enumerate(fields) if any(getattr(recording, name) for recording in recordings)]
    rows = [[COLUMNS[i] for i in used]]
    for recording in recordings[:FIRST_LINES]:
        values = [getattr(recording, fields[i]) for i in used]
        texts = [value if isinstance(value, str) else _listed(value) for value in values]
        rows.append([text if len(text) <= 40 else f'{text[:37]}...' for text in texts])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ['  '.join(f'{text:{width}}' for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _listed(values):
    return '; '.join(value if isinstance(value, str) else ' '.join(map(str, value)) for value in values)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SOURCE', help='folder of the recordings, or a table of recordings')
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    text = f'how SOURCE is arranged: {", ".join(layouts.names())} (default: recognised)'
    parser.add_argument('--layout', metavar='NAME', help=text)
    parser.add_argument('--check', action='store_true', help='print the first lines and the counts; write nothing')
    flag = argparse.BooleanOptionalAction
    text = '--no-audio: a dataset without recordings, for networks that use metadata only'
    parser.add_argument('--audio', action=flag, help=text)
    text = 'of recordings with equal content, use only one'
    parser.add_argument('--drop-duplicates', action=flag, help=text)
    text = 'remove recordings with this element in their licence; those of unknown licence are kept'
    parser.add_argument(
        '--exclude-licence',
        metavar='ELEMENT[,...]',
        help=f'{text}; nd: those that allow no derivatives; none: stop removing',
    )
    text = 'remove recordings for training and validation below this quality, A to E; those of unknown quality are kept'
    parser.add_argument('--min-quality', metavar='QUALITY', type=quality, help=f'{text} (E removes none)')
    text = 'remove classes with fewer recordings for training and validation (0: none)'
    parser.add_argument('--min-recordings', metavar='N', type=count, help=text)
    text = 'use at most N recordings per class for training, chosen by a hash of their keys (0: all)'
    parser.add_argument('--max-recordings', metavar='N', type=count, help=text)
    return parser.parse_args()


def quality(text: str) -> str:
    """A quality from A to E, for argparse."""
    if text.upper() not in tuple(QUALITIES):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a letter from A (best) to E')
    return text.upper()


def count(text: str) -> int:
    """A number of recordings, for argparse."""
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number, 0 or more')
    return int(text)


OPTIONS = 'layout', 'drop_duplicates', 'exclude_licence', 'min_quality', 'min_recordings', 'max_recordings'


def main() -> None:
    args = parse_arguments()
    dataset = dataset_folder(args.dataset)
    refuse_fold(dataset)
    given = {name: getattr(args, name) for name in OPTIONS}
    given['no_audio'] = None if args.audio is None else not args.audio
    own = dataset == os.path.join(DATASETS, 'birdclef')
    # without --dataset, --check shows what would become a new dataset
    fresh = args.check and own
    options = given if fresh else remembered(dataset, 'collect', given, store=False)
    source = Source(args.source, None if args.check else dataset)
    if not source.table and os.path.realpath(dataset).startswith(os.path.join(os.path.realpath(source.folder), '')):
        raise Problem(f'{dataset}: in SOURCE, where its recordings would be found, too; choose another folder')
    layout, why = choose_layout(source, options['layout'])
    print(f'{args.source}: layout {layout} ({why})', flush=True)
    if own and layout != 'birdclef2018' and not args.check:
        raise Problem(f'{dataset} is for BirdCLEF 2018; choose another name with --dataset NAME')
    earlier = [] if fresh or not os.path.exists(recordings_file(dataset)) else read_recordings(dataset)
    converted = os.path.isdir(os.path.join(dataset, 'audio'))
    recordings = collect(source, layout, earlier, converted, options)
    if args.check:
        print('\n'.join(first_lines(recordings)))
    else:
        changed = write_recordings(dataset, recordings)
        add_class_names(dataset, source.class_names)
        write_repairs(os.path.join(dataset, REPAIRS), {}, source.report.rows() + source.skipped)
        remembered(dataset, 'collect', given)
    for line in source.report.lines():
        print(f'- {line}')
    for line in collection.describe(recordings):
        print(f'  {line}')
    new = len({recording.key for recording in recordings} - {recording.key for recording in earlier})
    if args.check:
        print(f'{len(recordings)} recordings, {new} of them new; nothing was written (--check)')
    else:
        news = f'{new} new' if new else 'updated' if changed else 'nothing new'
        print(f'{recordings_file(dataset)}: {len(recordings)} recordings ({news})')


if __name__ == '__main__':
    program.run(main)
