"""One folder per class. The name of the folder is the class id.

    SOURCE/amered/XC1.mp3              class amered
    SOURCE/amered/2019/XC2.mp3         the same: folders inside a class folder do not matter
    SOURCE/Turdus merula_Blackbird/    names as in BirdNET: SCIENTIFIC NAME_COMMON NAME
    SOURCE/background/                 part noise; also noise/ and nocall/
    SOURCE/other.wav                   part unlabelled
    SOURCE/amered/S01_20240501_060000.wav      site, date and time as in names of recorders

Parts are given by the folders at the top if all of them have names of parts and contain class folders. Recordings
directly in test/ have no class.

    SOURCE/train/amered/, SOURCE/valid/amered/, SOURCE/test/amered/, SOURCE/noise/
"""

import collections
import re
from collections.abc import Iterable, Iterator

from shared import recorder_names
from shared.recordings import Recording
from shared.source import Source

LOOKED_FOR = 'two or more folders with recordings, one per class'
PRECEDENCE = 2
NOISE = ('background', 'noise', 'nocall')
PARTS = {
    **dict.fromkeys(('train', 'training'), 'train'),
    **dict.fromkeys(('valid', 'val', 'validation'), 'valid'),
    **dict.fromkeys(('test', 'testing'), 'test'),
}
SHOWN = 3


def recognise(source: Source) -> str:
    """Why a source folder has this layout, or ''."""
    found = list(_recordings(source))
    classes = sorted({recording.class_id for recording in found if recording.class_id})
    parts = sorted({recording.part for recording in found if recording.part not in ('noise', 'unlabelled')})
    noise = any(recording.part == 'noise' for recording in found)
    if len(classes) + noise < 2 or not classes:
        return ''
    shown = ', '.join(f'{name}/' for name in classes[:SHOWN]) + (', ...' if len(classes) > SHOWN else '')
    inside = f' in {", ".join(parts)}' if _are_parts(source.recordings()) else ''
    return f'{len(classes)} class folders{inside} ({shown}){", and folders of noise" if noise else ""}'


def rows(source: Source) -> Iterable[Recording]:
    """The recordings of the source."""
    recordings = list(_recordings(source))
    alone = sum(recording.part == 'unlabelled' for recording in recordings)
    if alone:
        source.report.note(f'{alone} recordings are not in a class folder: used as part unlabelled')
    return recordings


def _recordings(source) -> Iterator[Recording]:
    paths = source.recordings()
    are_parts = _are_parts(paths)
    for path in paths:
        folders = path.split('/')[:-1]
        part = PARTS[folders.pop(0).lower()] if are_parts and folders and folders[0].lower() in PARTS else ''
        name = folders[0] if folders else ''
        recording = Recording(source=path, part=part or 'train', **recorder_names.parse(path)._asdict())
        if name.lower() in NOISE:
            recording.part = 'noise'
        elif name:
            recording.class_id = name
            recording.scientific_name, recording.common_name = _names(name)
        else:
            recording.part = part or 'unlabelled'
        yield recording


def _are_parts(paths):
    """Whether the folders at the top are parts, not classes."""
    depths = collections.defaultdict(set)
    for path in paths:
        top, *below = path.split('/')
        if below and top.lower() not in NOISE:
            depths[top.lower()].add(len(below) > 1)
    direct = [PARTS.get(top) for top, in_folders in depths.items() if False in in_folders]
    return bool(depths) and set(depths) <= set(PARTS) and set(direct) <= {'test'} and any(map(any, depths.values()))


def _names(folder):
    """(scientific, common name) of a class folder that is named after both, else ('', '')."""
    found = re.fullmatch(r'([A-Z][a-z-]+(?: [a-z-]+)+)_(.+)', folder)
    return found.groups() if found else ('', '')
