"""Recordings without labels, in any folders, for prediction. All belong to the part unlabelled.

    SOURCE/20240501_060000.wav
    SOURCE/RECORDER2/20240501_060000.wav

Site, date and time are those in names of recorders, if there are any.
"""

from collections.abc import Iterable

from shared import recorder_names
from shared.recordings import Recording
from shared.source import Source

LOOKED_FOR = 'recordings'
PRECEDENCE = 3


def recognise(source: Source) -> str:
    """Why a source folder has this layout, or ''."""
    paths = source.recordings()
    if not paths:
        return ''
    folders = {path.partition('/')[0] if '/' in path else '' for path in paths}
    if len(folders) == 1 and '' not in folders:
        name = folders.pop()
        return f'all recordings are in {name}/; if its folders are classes, give {name}/ as SOURCE, or --layout folders'
    tables = source.tables()
    others = f'; no layout knows the columns of {", ".join(tables)}' if tables else ''
    return f'{len(paths)} recordings, and no tables or class folders that tell their classes{others}'


def rows(source: Source) -> Iterable[Recording]:
    """The recordings of the source."""
    paths = source.recordings()
    return [Recording(source=path, part='unlabelled', **recorder_names.parse(path)._asdict()) for path in paths]
