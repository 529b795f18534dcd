"""Groups of recordings that must stay on one side of a split, because they were cut from one original recording.

Recordings are in one group if they have the same

- original recording, if the source names it (column `recording`),
- id of xeno-canto, in the column `recording` or in the file name: XC12345,
- recordist, date and place; places are the same if their names or their coordinates are equal,
- content of the file (column `copy_of`),
- file name up to a clip number (see `original_name`), and the same folder or the same class. This is not applied if
  the source names the original recording.

Groups are connected: if one recording shares something with two others, all three are in one group.
"""

import collections
import contextlib
import os
import re
from collections.abc import Collection, Iterable, Iterator

from shared.metadata_values import repair_date, repair_degrees
from shared.recordings import Recording

# What the groups keep together -> its name in messages.
KINDS = {'original': 'original recording', 'recordist': 'recordist', 'site': 'site', 'none': 'recording'}
UNKNOWN = {'', '?', '-', 'anon', 'anonymous', 'n/a', 'na', 'nan', 'none', 'not specified', 'null', 'unknown'}
XENO_CANTO = re.compile(r'(?<![A-Za-z0-9])XC(\d{1,9})(?!\d)', re.I)
# The separator, or word, before a clip number, and the number.
SEPARATORS = r'[\s_.()\[\]-]'
WORDS = '(?<![a-z])(?:chunk|clip|cut|part|piece|seg|segment|slice|snippet|split|window)'
CLIP = re.compile(rf'(.*?)(?:{SEPARATORS}{{1,5}}(?:{WORDS})?|{WORDS}){SEPARATORS}{{,5}}\d{{1,3}}[)\]]?', re.I | re.S)
# A date at the end of a file name, or a date and a time.
TIME = r'[0-2]\d[0-5]\d(?:[0-5]\d)?|[0-2]\d(?P<colon>[-_.:])[0-5]\d(?:(?P=colon)[0-5]\d)?'
DATE = r'(?:19|20)\d\d(?P<dash>[-_.]?)[01]\d(?P=dash)[0-3]\d'
STAMP = re.compile(rf'(?<!\d){DATE}(?:[-_.\sT]+(?:{TIME}))?Z?$', re.I)
# Names that do not identify a recording: the number after them counts recordings.
GENERAL = {
    *('audio', 'bird', 'call', 'clip', 'file', 'memo', 'mic', 'rec', 'record', 'recording', 'sample', 'song', 'sound'),
    *('ste', 'stereo', 'track', 'untitled', 'voice'),
}


def group(recordings: Iterable[Recording], kind: str = 'original') -> dict[str, str]:
    """Dict of key -> name of its group, which is the first of its keys in alphabetical order.

    `kind` is one of KINDS: 'recordist' and 'site' also keep all recordings of a person or a place together (if unknown,
    the recording is in the same group as with 'original'); with 'none', only copies are. 'clips' is
    'original' without the sessions of a recordist: what must not be divided in any case.
    """
    recordings = sorted(recordings, key=lambda recording: recording.key)
    leader = {recording.key: recording.key for recording in recordings}

    def lead(key):
        while leader[key] != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    first = {}
    for recording in recordings:
        for shared in _shared(recording, kind):
            one, other = lead(recording.key), lead(first.setdefault(shared, recording.key))
            leader[max(one, other)] = min(one, other)
    return {key: lead(key) for key in leader}


def members(groups: dict[str, str]) -> list[list[str]]:
    """Lists of keys, sorted, one list per group, from a dict of key -> group."""
    result = collections.defaultdict(list)
    for key in sorted(groups):
        result[groups[key]].append(key)
    return list(result.values())


def original_name(stem: str, names: Collection[str] = ()) -> str:
    """File name without suffix and clip number: 'dawn_3', 'dawn-clip07' and 'dawn_10_15' -> 'dawn'.

    A clip number has at most three digits, after a separator or a word such as clip or part. Dates and times
    (20240501_060000, 2024-05-01) and longer numbers (REC0012, XC123456) are not clip numbers. A number counts
    recordings, not clips, if nothing precedes it but one of `names` (the class, the folder), part of one, or a general
    word: robin_12 in the class robin, recording-3. Returns '' if there is no clip number.
    """
    name = stem
    while not STAMP.search(name):
        found = CLIP.fullmatch(name)
        if not found or _is_general(found.group(1), names):
            break
        name = found.group(1)
    return '' if name == stem else name


def _is_general(name, names):
    """Whether a text is one of `names`, or a part of one, or another word that does not identify a recording."""
    if any(character.isdigit() for character in name):
        return False
    letters = _letters(name)
    others = set(map(_letters, names))
    return not letters or letters in GENERAL | others or len(letters) > 2 and any(letters in other for other in others)


def _letters(text):
    return ''.join(character for character in text.casefold() if character.isalpha())


def _shared(recording: Recording, kind: str) -> Iterator[tuple]:
    """What a recording may share with others of its group."""
    yield 'content', recording.copy_of or recording.key
    if kind == 'none':
        return
    original = ' '.join(recording.recording.split())
    if original:
        yield 'recording', original
    path = recording.source or recording.key
    folder, stem = os.path.split(os.path.splitext(path)[0])
    for text in (original, stem):
        if found := XENO_CANTO.search(text):
            yield 'xeno-canto', int(found.group(1))
    if not original:
        yield from _same_name(recording, folder, stem)
    if kind != 'clips':
        yield from _session(recording)
    if kind == 'recordist' and _known(recording.recordist):
        yield 'recordist', _known(recording.recordist)
    if kind == 'site':
        yield from _site(recording)


def _same_name(recording, folder, stem):
    names = (os.path.basename(folder), recording.class_id, recording.scientific_name, recording.common_name)
    name = original_name(stem, names)
    yield 'name', 'in folder', folder, name or stem
    # not for names without a clip number: recorders name their files by the time
    if name and recording.class_id:
        yield 'name', 'of class', recording.class_id, name


def _session(recording):
    """The recordist, day and place: the name of the place, and its coordinates."""
    if not recording.recordist:
        return
    with contextlib.suppress(ValueError):
        date = repair_date(recording.date)
        for place in filter(None, (recording.site.lower(), _coordinates(recording))):
            yield 'session', recording.recordist, date, place


def _coordinates(recording):
    return recording.latitude and recording.longitude and (recording.latitude, recording.longitude)


def _site(recording):
    """The name of the place, and its coordinates rounded to 0.01 degrees, about a kilometre."""
    if _known(recording.site):
        yield 'site', _known(recording.site)
    with contextlib.suppress(ValueError):
        latitude, longitude = repair_degrees(recording.latitude, 90), repair_degrees(recording.longitude, 180)
        yield 'place', round(float(latitude), 2), round(float(longitude), 2)


def _known(name):
    """A name in lower case with single spaces, '' if it means that the name is unknown."""
    name = ' '.join(name.casefold().split())
    return '' if name in UNKNOWN else name
