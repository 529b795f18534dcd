#!/usr/bin/env python3
"""Create the labels, metadata and settings of a dataset from the table of its recordings.

Reads datasets/NAME/recordings.tsv (written by collect.py) and writes into datasets/NAME/labels/:

- labelset, labelset_latin, labelset_common: class ids, scientific and common names. A class gets the name with which it
  occurs most often. Classes of an earlier labelset keep their indices, and new ones are appended, so that trained
  models can still be used.
- labelset_2014, _2015, _2017: the classes of that edition of the challenge, if there are recordings of it
- fg.tsv, bg.tsv, segments.tsv: classes of recordings, their background classes, classes with times
- meta.tsv and repairs.tsv: metadata; each date, time, place or elevation that was repaired or dropped

It also writes the sample rate, and means and standard deviations of the metadata of the training recordings, to
datasets/NAME/dataset.vars. (The archives of 2018 keep the published means.)
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import collections
import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from birdsong.data.metadata import upper_elevation
from birdsong.files import Problem, read_lines
from shared.class_names import read_class_names
from shared.dataset import dataset_folder, year_of
from shared.dataset_vars import check_audio_rate, sample_rate, update_vars
from shared.folds import refuse_fold
from shared.metadata_values import REPAIRS as VALUES
from shared.metadata_values import metadata
from shared.recordings import TRAINING, Recording, read_recordings
from shared.tables import REPAIRS, table, write_if_changed
from shared.xml_fields import records_file

# Editions of the challenge -> years of their training recordings.
EDITIONS = {'2014': ('2014',), '2015': ('2014', '2015'), '2017': ('2017',)}
# Metadata whose means and standard deviations are settings.
STANDARDISED = ('latitude', 'longitude', 'elevation')
# Number of examples and contradictions that are printed.
SHOWN, MAX_LINES = 4, 20


@dataclasses.dataclass
class Labels:
    """The results: `files` are texts of the files of labels/, `settings` are those of dataset.vars (None: removed)."""

    classes: list[str]
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: dict[str, str | None] = dataclasses.field(default_factory=dict)
    messages: list[str] = dataclasses.field(default_factory=list)


def match_names(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Match names with class ids, given pairs (class id, name): the most frequent one wins.

    Returns (dict class id -> name, dict name -> class id, a line for each inconsistency). If several are equally
    frequent, the first in alphabetical order is taken.
    """
    counts = collections.Counter(pair for pair in pairs if pair[1])
    lines, results = [], []
    for here, there in (0, 1), (1, 0):
        partners = collections.defaultdict(list)
        for pair, count in counts.items():
            partners[pair[here]].append((-count, pair[there]))
        results.append({one: min(others)[1] for one, others in sorted(partners.items())})
        for one, others in sorted(partners.items()):
            if len(others) > 1:
                listed = ', '.join(f'{other} ({-count}x)' for count, other in sorted(others))
                lines.append(f'{one} goes with {listed}; the first counts')
    return *results, lines


def class_ids(recordings: list[Recording], known: list[str]) -> list[str]:
    """Class ids in the order of their indices: the `known` ones, then new ones, sorted.

    Raises Problem if there are training recordings but no classes, and for ids that cannot be used.
    """
    found = {recording.class_id for recording in recordings}
    found.update(segment.class_id for recording in recordings for segment in recording.segments)
    found.discard('')
    training = sum(recording.part in TRAINING for recording in recordings)
    if training and not found:
        cure = 'are the labels in the source (in the archives of 2018: ClassId, in the .xml beside the .wav)?'
        raise Problem(f'none of {training} training recordings has a class; {cure}')
    unusable = sorted(name for name in found if re.search(r'[;,]', name) or name != name.strip())
    if unusable:
        text = f'{unusable[0]!r} cannot be a class id, because tables and submissions use its characters'
        raise Problem(f'{text}; rename the class ({len(unusable)} such classes)')
    return known + sorted(found - set(known))


def label_files(recordings: list[Recording], names: dict[str, tuple[str, str]], labels: Labels) -> None:
    """Add names of classes, and classes of recordings, to `labels`; `names` are further names of classes."""
    labelled = [recording for recording in recordings if recording.class_id]
    named = [(recording.class_id, recording.scientific_name, recording.common_name) for recording in labelled]
    named += [(class_id, *names[class_id]) for class_id in labels.classes if class_id in names]
    scientific, by_scientific, lines = match_names((class_id, ' '.join(name.split())) for class_id, name, _ in named)
    common, by_common, more = match_names((class_id, ' '.join(name.split())) for class_id, _, name in named)
    labels.messages += [f'- {line}' for line in (lines + more)[:MAX_LINES]]
    if len(lines + more) > MAX_LINES:
        labels.messages.append(f'- {len(lines + more) - MAX_LINES} more contradictions between classes and names')
    files = labels.files
    files['labelset'] = _lines(labels.classes)
    files['labelset_latin'] = _lines(scientific.get(class_id, class_id) for class_id in labels.classes)
    if common:
        files['labelset_common'] = _lines(common.get(class_id, class_id) for class_id in labels.classes)
    files.update(editions(recordings))
    index = {class_id: i for i, class_id in enumerate(labels.classes)}
    files['fg.tsv'] = table((recording.key, index[recording.class_id]) for recording in labelled)
    indices = {
        **{name: index[class_id] for name, class_id in by_common.items()},
        **{name: index[class_id] for name, class_id in by_scientific.items()},
        **index,
    }
    files['bg.tsv'] = background(labelled, indices, labels.messages)
    segments = sorted(
        (recording.key, *segment[:2], index.get(segment.class_id, ''), segment.class_id)
        for recording in recordings
        for segment in recording.segments
    )
    if segments:
        rows = ((key, f'{start:.12g}', f'{end:.12g}', number) for key, start, end, number, _ in segments)
        files['segments.tsv'] = table(rows)


def editions(recordings: list[Recording]) -> dict[str, str]:
    """labelset_YEAR for each edition, if there are training recordings of one of these years."""
    classes = collections.defaultdict(set)
    for recording in recordings:
        year = year_of(os.path.basename(recording.key))
        if recording.part in TRAINING and recording.class_id and year:
            classes[year].add(recording.class_id)
    if not classes:
        return {}
    return {
        f'labelset_{edition}': _lines(sorted(set().union(*(classes[year] for year in years))))
        for edition, years in EDITIONS.items()
    }


def background(labelled: list[Recording], indices: dict[str, int], messages: list[str]) -> str:
    """Text of bg.tsv; `indices` are class indices by class id and by name. Other names are dropped and counted."""
    rows, unknown = [], collections.Counter()
    for recording in labelled:
        names = [' '.join(name.split()) for name in recording.background]
        unknown.update(name for name in names if name not in indices)
        numbers = dict.fromkeys(str(indices[name]) for name in names if name in indices)
        rows.append((recording.key, ','.join(numbers)))
    if unknown:
        text = f'{unknown.total()} background entries name none of the classes and are not used'
        messages.append(f'{text}: {_examples(unknown)}')
    return table(rows)


def metadata_files(recordings: list[Recording], labels: Labels) -> None:
    """Add meta.tsv, repairs.tsv, and the settings for the metadata to `labels`."""
    meta, repairs, training = [], [], []
    for recording in recordings:
        if recording.is_described():
            values, problems = metadata(recording)
            meta.append((recording.key, *values))
            repairs += [(recording.key, *problem) for problem in problems]
            if recording.part == 'train':
                training.append(values)
            if recording.part in TRAINING and not recording.class_id:
                repairs.append((recording.key, 'no ClassId', 'left out'))
    labels.files['meta.tsv'], labels.files[REPAIRS] = table(meta), table(repairs)
    labels.settings.update(statistics(training))
    labels.messages += describe_repairs(repairs)


def statistics(training: list[list[str]]) -> dict[str, str | None]:
    """Settings input_meta.*_mean and _std from rows of `metadata`: None if no value is known; a _std of 0 becomes 1."""
    result = {}
    for column, name in enumerate(VALUES):
        if name in STANDARDISED:
            read = upper_elevation if name == 'elevation' else float
            values = np.array([read(row[column]) for row in training if row[column]])
            mean = f'{values.mean():.6g}' if len(values) else None
            deviation = f'{values.std():.6g}' if len(values) else None
            result[f'input_meta.{name}_mean'] = mean
            result[f'input_meta.{name}_std'] = '1' if deviation and float(deviation) < 1e-9 else deviation
    return result


def describe_repairs(repairs: list[tuple[str, str, str]]) -> list[str]:
    """A line for each kind of metadata with repairs: how many values were repaired and dropped, the most frequent."""
    repaired, dropped = collections.defaultdict(collections.Counter), collections.defaultdict(collections.Counter)
    for _, problem, done in repairs:
        if done != 'left out':
            name, _, text = problem.partition(' ')
            if done == 'dropped':
                dropped[name][text] += 1
            else:
                repaired[name][f'{text} to {done}'] += 1
    lines = []
    for name in VALUES:
        for what, counts in ('repaired', repaired[name.title()]), ('dropped', dropped[name.title()]):
            if counts:
                lines.append(f'{name}: {counts.total()} {what}: {_examples(counts)}')
    return lines


def _examples(counts):
    """The most frequent texts of a Counter."""
    shown = ', '.join(f'{text} ({number}x)' for text, number in counts.most_common(SHOWN))
    return shown + (f', and {len(counts) - SHOWN} others' if len(counts) > SHOWN else '')


def _lines(texts):
    return ''.join(f'{text}\n' for text in texts)


def known_classes(folder: str) -> list[str]:
    """Class ids of an earlier labelset. Raises Problem if an id occurs twice."""
    filename = os.path.join(folder, 'labelset')
    known = read_lines(filename) if os.path.exists(filename) else []
    if len(set(known)) < len(known) or '' in known:
        raise Problem(f'{filename}: class ids must be unique and not empty; correct it, or delete it to start over')
    return known


def recreate(recordings: list[Recording], known: list[str], names: dict[str, tuple[str, str]]) -> Labels:
    """Labels and metadata of recordings; classes `known` from an earlier run keep their indices.

    `names` are further names of classes, as (scientific, common name). Raises Problem as `class_ids`.
    """
    recordings = sorted(recordings, key=lambda recording: recording.key)
    labels = Labels(class_ids(recordings, known))
    if labels.classes:
        label_files(recordings, names, labels)
    metadata_files(recordings, labels)
    current = {recording.class_id for recording in recordings}
    current.update(segment.class_id for recording in recordings for segment in recording.segments)
    gone = [class_id for class_id in known if class_id not in current]
    if gone:
        text = f'{len(gone)} classes of labels/labelset have no recording any more, such as {gone[0]}; they keep their'
        labels.messages.append(f'{text} indices (to remove them, delete labels/labelset and run this again)')
    return labels


def update(dataset: str, rate: int | None = None) -> list[str]:
    """Write the labels and settings of a dataset's folder -> lines that describe the result.

    `rate` is the sample rate in Hz, None for the present one. Raises Problem, before anything is written.
    """
    refuse_fold(dataset)
    folder = os.path.join(dataset, 'labels')
    recordings = read_recordings(dataset)
    labels = recreate(recordings, known_classes(folder), read_class_names(dataset))
    if rate and rate != sample_rate(dataset):
        check_audio_rate(dataset, rate)
    # the published means are defaults
    settings = {} if os.path.exists(records_file(dataset)) else labels.settings
    changed = update_vars(dataset, {'sample_rate': rate or sample_rate(dataset), **settings})
    changed += sum(write_if_changed(os.path.join(folder, name), text) for name, text in labels.files.items())
    for name in 'segments.tsv', 'labelset_common':
        if name not in labels.files and os.path.exists(os.path.join(folder, name)):
            os.unlink(os.path.join(folder, name))
            changed += 1
    return [*labels.messages, summary(folder, recordings, labels, changed)]


def summary(folder: str, recordings: list[Recording], labels: Labels, changed: int) -> str:
    """A line that describes the result; `changed` is the number of files that were written."""
    repairs = labels.files[REPAIRS].splitlines()
    dropped = sum(line.endswith('\tdropped') for line in repairs)
    repaired = sum(not line.endswith(('\tdropped', '\tleft out')) for line in repairs)
    labelled = sum(bool(recording.class_id) for recording in recordings)
    segments = labels.files.get('segments.tsv', '').count('\n')
    known = sum(bool(line.partition('\t')[2].strip('\t')) for line in labels.files['meta.tsv'].splitlines())
    return (
        f'{folder}: {len(labels.classes)} classes, {labelled} recordings with a class'
        f'{f", {segments} segments" if segments else ""}, {known} with metadata '
        f'({repaired} values repaired, {dropped} dropped); {f"{changed} files written" if changed else "nothing new"}'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    text = 'sample rate of the dataset (default: as in dataset.vars, else 22050)'
    parser.add_argument('--sample-rate', type=int, metavar='HZ', help=text)
    args = parser.parse_args()
    if args.sample_rate is not None and not 1000 <= args.sample_rate <= 1000000:
        parser.error(f'--sample-rate {args.sample_rate}: expected 1000 to 1000000')
    for line in update(dataset_folder(args.dataset), args.sample_rate):
        print(line)


if __name__ == '__main__':
    program.run(main)
