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
from birdsong.files import Problem
from shared import collection
from shared.dataset import DATASETS, dataset_folder
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


def collect(
    source: Source, layout: str, earlier: list[Recording], options: dict
) -> tuple[list[Recording], collection.Report]:
    """Recordings of a source in a layout, together with those of earlier runs -> (sorted by key, what was found)."""
    report = collection.Report()
    known = {recording.source: recording.key for recording in earlier if recording.source}
    recordings = collection.unique_rows(layouts.module(layout).rows(source), report)
    if not recordings:
        raise Problem(f'{source.path}: no recordings found; {layouts.module(layout).LOOKED_FOR} was expected')
    if not options['no_audio']:
        collection.unlisted_files(source, recordings, report)
        recordings = collection.existing_files(source, recordings, known, report)
    recordings = collection.with_earlier(recordings, earlier, report)
    recordings = collection.good_names(recordings, report)
    report.rows += source.skipped
    if source.skipped:
        report.lines.append(f'{len(source.skipped)} files of the source were not used, such as {source.skipped[0][0]}')
    report.lines += source.notes
    return collection.sorted_by_key(recordings), report


def first_lines(recordings: list[Recording]) -> list[str]:
    """The first rows of the table, as columns of text; columns that are empty everywhere are left out."""
    fields = [field.name for field in dataclasses.fields(Recording)]
    used = [i for i, name in enumerate(fields) if any(getattr(recording, name) for recording in recordings)]
    rows = [[COLUMNS[i] for i in used]]
    for recording in recordings[:FIRST_LINES]:
        values = [getattr(recording, fields[i]) for i in used]
        texts = [value if isinstance(value, str) else ' '.join(map(str, value)) for value in values]
        rows.append([text if len(text) <= 40 else f'{text[:37]}...' for text in texts])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ['  '.join(f'{text:{width}}' for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SOURCE', help='folder of the recordings, or a table of recordings')
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    text = f'how SOURCE is arranged: {", ".join(layouts.names())} (default: recognised)'
    parser.add_argument('--layout', metavar='NAME', help=text)
    parser.add_argument('--check', action='store_true', help='print the first lines and the counts; write nothing')
    parser.add_argument(
        '--audio',
        action=argparse.BooleanOptionalAction,
        help='--no-audio: a dataset without recordings, for networks that use metadata only',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    dataset = dataset_folder(args.dataset)
    given = {'layout': args.layout, 'no_audio': None if args.audio is None else not args.audio}
    options = remembered(dataset, 'collect', given, store=False)
    source = Source(args.source, None if args.check else dataset)
    layout, why = choose_layout(source, options['layout'])
    print(f'{args.source}: layout {layout} ({why})', flush=True)
    if layout != 'birdclef2018' and dataset == os.path.join(DATASETS, 'birdclef') and not args.check:
        raise Problem(f'{dataset} is for BirdCLEF 2018; choose another name with --dataset NAME')
    earlier = read_recordings(dataset) if os.path.exists(recordings_file(dataset)) else []
    recordings, report = collect(source, layout, earlier, options)
    if args.check:
        print('\n'.join(first_lines(recordings)))
    for line in report.lines:
        print(f'- {line}')
    for line in collection.describe(recordings):
        print(f'  {line}')
    if args.check:
        return
    changed = write_recordings(dataset, recordings)
    write_repairs(os.path.join(dataset, REPAIRS), {}, report.rows)
    remembered(dataset, 'collect', given)
    new = len({recording.key for recording in recordings} - {recording.key for recording in earlier})
    news = f'{new} new' if new else 'updated' if changed else 'nothing new'
    print(f'{recordings_file(dataset)}: {len(recordings)} recordings ({news})')


if __name__ == '__main__':
    program.run(main)
