"""Selection of recordings: by licence, quality, and number per class."""

import collections
import hashlib
import re

from birdsong.data.sampling import quality_rank
from shared.recordings import TRAINING, Recording
from shared.report import Report

# Elements of Creative Commons licences, and how their names are written out.
ELEMENTS = {
    'nd': r'no[\s_-]*deriv\w*',
    'nc': r'non?[\s_-]*commercial',
    'sa': r'share[\s_-]*alike',
    'by': r'attribution',
}


def select(recordings: list[Recording], options: dict, report: Report) -> list[Recording]:
    """The recordings that the options `exclude_licence`, `min_quality`, `min_recordings` and `max_recordings` leave."""
    recordings = by_licence(recordings, options.get('exclude_licence') or '', report)
    if options.get('min_quality'):
        recordings = by_quality(recordings, options['min_quality'], report)
    if options.get('min_recordings'):
        recordings = large_classes(recordings, options['min_recordings'], report)
    if options.get('max_recordings'):
        recordings = limited_classes(recordings, options['max_recordings'], report)
    return recordings


def licence_elements(licence: str) -> set[str]:
    """Elements of a licence in lower case: 'CC BY-NC-ND 4.0' -> {'cc', 'by', 'nc', 'nd', '4', '0'}."""
    text = licence.lower()
    for element, names in ELEMENTS.items():
        text = re.sub(names, f' {element} ', text)
    return set(re.findall(r'[^\W_]+', text))


def by_licence(recordings: list[Recording], excluded: str, report: Report) -> list[Recording]:
    """Recordings without the comma-separated licence elements ('none': no element); those of unknown licence stay.

    The number of recordings that must not be changed (nd, no derivatives) is reported in any case.
    """
    elements = {licence: licence_elements(licence) for licence in {recording.licence for recording in recordings}}
    excluded = licence_elements(excluded) - {'none'}
    kept = [recording for recording in recordings if not elements[recording.licence] & excluded]
    if excluded:
        unknown = sum(not recording.licence for recording in kept)
        names = ','.join(sorted(excluded))
        report.note(f'--exclude-licence {names}: {_removed(recordings, kept)}{_stay(unknown, "licence")}')
    protected = sum('nd' in elements[recording.licence] for recording in kept)
    if protected:
        text = f'{protected} recordings have a licence that allows no derivatives (nd)'
        report.note(f'{text}: kept; --exclude-licence nd removes them')
    return kept


def by_quality(recordings: list[Recording], worst: str, report: Report) -> list[Recording]:
    """Recordings of at least the quality `worst`, A to E. Those of unknown quality, and test recordings, stay."""
    limit = quality_rank(worst)
    ranks = {quality: quality_rank(quality) for quality in {recording.quality for recording in recordings}}
    kept = [
        recording
        for recording in recordings
        if recording.part not in TRAINING or ranks[recording.quality] is None or ranks[recording.quality] <= limit
    ]
    unknown = sum(recording.part in TRAINING and ranks[recording.quality] is None for recording in kept)
    report.note(f'--min-quality {worst}: {_removed(recordings, kept)}{_stay(unknown, "quality")}')
    return kept


def large_classes(recordings: list[Recording], least: int, report: Report) -> list[Recording]:
    """Recordings of classes with at least `least` recordings for training and validation, and those without a class."""
    counts = collections.Counter(recording.class_id for recording in recordings if recording.part in TRAINING)
    small = {class_id for class_id, count in counts.items() if class_id and count < least}
    small |= {recording.class_id for recording in recordings if recording.class_id and not counts[recording.class_id]}
    kept = [
        recording
        for recording in recordings
        if recording.class_id not in small or recording.part not in (*TRAINING, 'test')
    ]
    line = f'--min-recordings {least}: {_removed(recordings, kept)}, of {len(small)} classes'
    report.note(line)
    return kept


def limited_classes(recordings: list[Recording], most: int, report: Report) -> list[Recording]:
    """At most `most` recordings for training of each class, and all other recordings.

    The choice depends on the keys only, so that it stays the same for most recordings if others are added.
    """
    members = collections.defaultdict(list)
    for recording in recordings:
        if recording.part == 'train' and recording.class_id:
            members[recording.class_id].append(recording.key)
    removed = set()
    for keys in members.values():
        if len(keys) > most:
            removed.update(sorted(keys, key=_order)[most:])
    kept = [recording for recording in recordings if recording.key not in removed]
    full = sum(len(keys) > most for keys in members.values())
    report.note(f'--max-recordings {most}: {_removed(recordings, kept)}, of {full} classes')
    return kept


def _order(key):
    return hashlib.sha256(key.encode()).digest()


def _removed(before, after):
    return f'{len(before) - len(after)} of {len(before)} recordings removed'


def _stay(number, what):
    return f'; {number} of unknown {what} are kept' if number else ''
