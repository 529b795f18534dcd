"""What all layouts share: rows of a layout become the recordings of a dataset.

Each function is given the recordings, reports what it found to a `Report`, and returns the recordings that remain.
"""

import collections
from collections.abc import Iterable

from birdsong.files import Problem
from shared.keys import assign_keys
from shared.recordings import Recording
from shared.source import Source, name_problem, printable
from shared.tables import SKIPPED


class Report:
    """Collects what was found.

    `.rows` are those of repairs.tsv (path in the source, problem, what was done), `.lines` are to be printed.
    """

    def __init__(self):
        self.rows, self.lines = [], []

    def add(self, what: str, done: str, cases: Iterable[tuple[str, str]]) -> None:
        """Report cases (path in the source, problem) of one kind; nothing if there are none.

        `what` describes them in one line, after their number, and `done` says what was done.
        """
        cases = list(cases)
        if cases:
            self.rows += [(printable(path), problem, done) for path, problem in cases]
            self.lines.append(f'{len(cases)} {what}, such as {printable(cases[0][0])}: {done}')


def unique_rows(recordings: Iterable[Recording], report: Report) -> list[Recording]:
    """One row for each source path: the first one."""
    first, same, different = {}, [], []
    for number, recording in enumerate(recordings):
        other = first.setdefault(recording.source or number, recording)
        if other is not recording:
            (same if other == recording else different).append(recording.source)
    report.add('rows are there twice', 'one was used', ((path, 'its row is there twice') for path in same))
    why = 'another row of the table has this file'
    report.add('rows contradict an earlier row of the same file', 'the first was used', ((p, why) for p in different))
    return list(first.values())


def existing_files(
    source: Source, recordings: list[Recording], known: dict[str, str], report: Report
) -> list[Recording]:
    """Recordings whose file exists, and those of earlier runs (`known`: source path -> key), which may be converted.

    Raises Problem if there are recordings, but none of their files.
    """
    files = set(source.files)
    missing = [recording for recording in recordings if recording.source and recording.source not in files]
    if missing and len(missing) == len(recordings) and not any(recording.source in known for recording in missing):
        raise Problem(
            f'{source.path}: none of its {len(missing)} recordings exists, such as {missing[0].source}; '
            'put them there, or use --no-audio for a dataset that contains only their metadata'
        )
    new = {recording.source for recording in missing if recording.source not in known}
    cases = ((path, 'named in a table, but the file is missing') for path in sorted(new))
    report.add('recordings are named in a table, but their file is missing', f'{SKIPPED}add the file', cases)
    return [recording for recording in recordings if recording.source not in new]


def unlisted_files(source: Source, recordings: list[Recording], report: Report) -> None:
    """Report sound files that no row names."""
    named = {recording.source for recording in recordings} | {row[0] for row in source.skipped}
    unlisted = [path for path in source.recordings() if path not in named and printable(path) not in named]
    cases = ((path, 'a sound file that no row names') for path in unlisted)
    report.add('sound files are named nowhere', f'{SKIPPED}add it to the table', cases)


def with_earlier(recordings: list[Recording], earlier: list[Recording], report: Report) -> list[Recording]:
    """The recordings, with keys, and those of earlier runs that are not in the source any more."""
    by_key = {recording.key: recording for recording in earlier}
    for recording in recordings:
        if recording.key in by_key and not recording.source:
            recording.source = by_key[recording.key].source
    assign_keys(recordings, {recording.source: recording.key for recording in earlier if recording.source})
    keys = {recording.key for recording in recordings}
    kept = [recording for recording in earlier if recording.key not in keys]
    if kept:
        report.lines.append(
            f'{len(kept)} recordings of earlier runs are not in the source any more, such as {kept[0].key}: '
            'kept (to remove them, delete their lines from recordings.tsv)'
        )
    return recordings + kept


def good_names(recordings: list[Recording], report: Report) -> list[Recording]:
    """Recordings whose key and source path can be written in lists."""
    bad = {}
    for recording in recordings:
        problem = name_problem(recording.key) or (recording.source and name_problem(recording.source))
        if problem:
            bad[id(recording)] = (recording.source, problem)
    report.add('recordings have names that cannot be used', f'{SKIPPED}rename it', bad.values())
    return [recording for recording in recordings if id(recording) not in bad]


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
