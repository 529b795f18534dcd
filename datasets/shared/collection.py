"""What all layouts share: rows of a layout become the recordings of a dataset.

Each function is given the recordings, reports what it found to a `Report`, and returns the recordings that remain.
"""

import collections
import unicodedata
from collections.abc import Iterable

from birdsong.files import Problem
from shared.duplicates import duplicate_files
from shared.keys import assign_keys
from shared.recordings import PARTS, Recording
from shared.report import Report, is_printable, printable
from shared.source import Source, name_problem
from shared.tables import SKIPPED


def unique_rows(recordings: Iterable[Recording], report: Report) -> list[Recording]:
    """One row for each source path: the first one."""
    first, same, different = {}, [], []
    for number, recording in enumerate(recordings):
        other = first.setdefault(recording.source or number, recording)
        if other is not recording:
            (same if other == recording else different).append(recording.source)
    report.add_all(
        'rows that are there twice', 'one of them was used', ((path, 'its row is there twice') for path in same)
    )
    why = 'another row of the table has this file'
    report.add_all(
        'rows that contradict an earlier row of the same file', 'the first was used', ((p, why) for p in different)
    )
    return list(first.values())


def existing_files(source: Source, recordings: list[Recording], converted: bool, report: Report) -> list[Recording]:
    """Recordings whose file exists, and those of earlier runs, which may be converted already (if any is `converted`).

    Raises Problem if there are recordings, but none of their files.
    """
    files = source.existing(recording.source for recording in recordings)
    missing = [recording for recording in recordings if recording.source and recording.source not in files]
    may_be_converted = converted and any(recording.source in source.known for recording in missing)
    if missing and len(missing) == len(recordings) and not may_be_converted:
        raise Problem(
            f'{source.path}: none of its {len(missing)} recordings exists, such as {missing[0].source}; '
            'put them there, or use --no-audio for a dataset that contains only their metadata'
        )
    new = {recording.source for recording in missing if recording.source not in source.known}
    cases = ((path, 'a table names it, but the file is missing') for path in sorted(new))
    report.add_all('files that a table names, but that are missing', f'{SKIPPED}add the file', cases)
    return [recording for recording in recordings if recording.source not in new]


def unlisted_files(source: Source, recordings: list[Recording], report: Report) -> None:
    """Report sound files that no row names."""
    named = {recording.source for recording in recordings} | {row[0] for row in source.skipped}
    unlisted = [path for path in source.recordings() if path not in named and printable(path) not in named]
    cases = ((path, 'a sound file that no row names') for path in unlisted)
    report.add_all('sound files that no row names', f'{SKIPPED}add it to the table', cases)


def with_earlier(
    source: Source, recordings: list[Recording], earlier: list[Recording], report: Report
) -> list[Recording]:
    """The recordings, with keys, and those of earlier runs that are not in the source any more."""
    by_key = {recording.key: recording for recording in earlier}
    for recording in recordings:
        if recording.key in by_key and not recording.source:
            recording.source = by_key[recording.key].source
    assign_keys(recordings, source.known)
    keys = {recording.key for recording in recordings}
    kept = [recording for recording in earlier if recording.key not in keys]
    if kept:
        report.note(
            f'recordings of earlier runs that are not in the source any more: {len(kept)}, such as {kept[0].key}; '
            'kept (to remove them, delete their lines in recordings.tsv)'
        )
    return recordings + kept


def good_names(recordings: list[Recording], report: Report) -> list[Recording]:
    """Recordings whose key and source path can be written in lists."""
    bad = {}
    for recording in recordings:
        problem = name_problem(recording.key) or (recording.source and name_problem(recording.source))
        if problem:
            bad[id(recording)] = (recording.source, problem)
    report.add_all('recordings with names that cannot be used', f'{SKIPPED}rename it', bad.values())
    return [recording for recording in recordings if id(recording) not in bad]


def without_duplicates(source: Source, recordings: list[Recording], drop: bool, report: Report) -> list[Recording]:
    """Report recordings whose files have the same content as another one; with `drop`, only one of them remains.

    That is one that is not for training, if there is one, otherwise the first in the order of paths.
    """
    order = {'train': len(PARTS)} | {part: number for number, part in enumerate(PARTS) if part != 'train'}
    by_path = {recording.source: recording for recording in recordings if recording.source}
    paths = sorted(source.existing(by_path), key=lambda path: (order[by_path[path].part], path))
    copies, contradicting = {}, 0
    for first, *others in duplicate_files(source.folder, paths):
        for path in others:
            copies[path] = f'the same content as {first}'
            by_path[path].copy_of = by_path[first].key
            one, other = by_path[first].class_id, by_path[path].class_id
            if one and other and one != other:
                copies[path] += f', but another class ({other}, not {one})'
                contradicting += 1
    what = f'copies of other recordings{f" ({contradicting} of them with another class)" if contradicting else ""}'
    done = (
        f'{SKIPPED}one of them is enough'
        if drop
        else 'kept, and not divided by a split (except in the layout birdclef2018); --drop-duplicates removes them'
    )
    report.add_all(what, done, sorted(copies.items()))
    return [recording for recording in recordings if not (drop and recording.source in copies)]


def check_classes(recordings: list[Recording], report: Report) -> None:
    """Report classes whose names only differ in case or spaces, and classes with one recording.

    Raises Problem for class ids that cannot be in lists and submissions.
    """
    counts, similar = classes(recordings), collections.defaultdict(list)
    bad = sorted(class_id for class_id in counts if set(class_id) & set(',;') or not is_printable(class_id))
    if bad:
        more = f' and {len(bad) - 1} others' if len(bad) > 1 else ''
        raise Problem(f'{printable(bad[0])!r}{more}: class ids must not contain "," and ";"; rename these classes')
    for class_id in sorted(counts):
        similar[' '.join(unicodedata.normalize('NFKC', class_id).casefold().split())].append(class_id)
    cases = [
        (other, f'a class that differs from {first} only in case')
        for first, *rest in similar.values()
        for other in rest
    ]
    report.add_all(
        'classes that differ from others only in case or spaces', 'kept; rename them if they are the same', cases
    )
    single = sorted(class_id for class_id, count in counts.items() if count == 1)
    cases = ((class_id, 'a class with one recording') for class_id in single)
    report.add_all('classes with only one recording', 'kept; --min-recordings 2 removes them', cases)


def classes(recordings: Iterable[Recording]) -> collections.Counter:
    """Class -> number of recordings with this class; 0 for those that occur in segments or background only."""
    counts = collections.Counter()
    for recording in recordings:
        if recording.class_id:
            counts[recording.class_id] += 1
        counts.update({segment.class_id: 0 for segment in recording.segments if segment.class_id})
    return counts


def sorted_by_key(recordings: list[Recording]) -> list[Recording]:
    """Recordings in the order of their keys. Raises Problem if two have the same key."""
    result = sorted(recordings, key=lambda recording: recording.key)
    for one, other in zip(result, result[1:], strict=False):
        if one.key == other.key:
            raise Problem(f'{one.source} and {other.source}: both would become {one.key}; rename one of them')
    return result


def describe(recordings: list[Recording]) -> Iterable[str]:
    """Lines that say how many recordings each part has, and what is known about them."""
    parts = collections.Counter(recording.part for recording in recordings)
    found = classes(recordings)
    yield ', '.join(f'{count} {part}' for part, count in parts.items()) + f'; {len(found)} classes'
    fields = 'date', 'time', 'latitude', 'elevation', 'recordist', 'site', 'recording', 'quality', 'licence', 'fold'
    known = {name: sum(bool(getattr(recording, name)) for recording in recordings) for name in fields}
    known['background'] = sum(bool(recording.background) for recording in recordings)
    known['segments'] = sum(bool(recording.segments) for recording in recordings)
    yield 'known: ' + (', '.join(f'{name} of {count}' for name, count in known.items() if count) or 'nothing else')
    licences = collections.Counter(recording.licence for recording in recordings if recording.licence)
    if licences:
        listed = ', '.join(f'{name} ({count})' for name, count in licences.most_common(8))
        yield f'licences: {listed}' + (f' and {len(licences) - 8} more' if len(licences) > 8 else '')
