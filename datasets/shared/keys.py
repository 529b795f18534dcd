"""Keys of recordings: their paths below audio/, made from their paths below SOURCE."""

import collections
import os
from collections.abc import Iterable


def assign_keys(recordings: Iterable, known: dict[str, str]) -> None:
    """Set the keys of recordings that have none.

    The key is the source path with the suffix .wav. If several recordings would get the same key, such as a.mp3 and
    a.wav, or if a folder has this name, '.wav' is appended to the full name instead. `known` are the keys of earlier
    runs (source path -> key), which never change.
    """
    recordings = list(recordings)
    for recording in recordings:
        recording.key = recording.key or known.get(recording.source, '')
    missing = [recording for recording in recordings if not recording.key]
    taken = {recording.key for recording in recordings} | set(known.values())
    plain = {recording.source: f'{os.path.splitext(recording.source)[0]}.wav' for recording in missing}
    counts = collections.Counter(plain.values())
    folders = _folders([*taken, *plain.values()])
    for recording in sorted(missing, key=lambda recording: recording.source):
        key = plain[recording.source]
        if counts[key] > 1 or key in taken or key in folders:
            key = f'{recording.source}.wav'
            while key in taken or key in folders or key in counts:
                key += '.wav'
        recording.key = key
        taken.add(key)


def _folders(paths):
    """All folders of paths, also the outer ones."""
    result = set()
    for path in paths:
        while path := os.path.dirname(path):
            if path in result:
                break
            result.add(path)
    return result
