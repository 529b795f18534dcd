"""The source folder that a dataset is prepared from: its files, and problems found there."""

import os
from collections.abc import Iterable

from birdsong.files import Problem
from shared.dataset import walk
from shared.delimited import Table, is_table
from shared.report import Report, is_printable, printable
from shared.tables import SKIPPED

# In addition to the names of the formats. libsndfile cannot read the last seven, but repairs.tsv should list them.
SUFFIXES = 'aif aifc snd oga opus sph wave sf mpga mp2 m4a mp4 aac wma webm ape wv'

# Most file systems allow 255 bytes in a file name; a file that is being written has a longer name than the final one.
MAX_NAME = 240


def recording_suffixes() -> tuple[str, ...]:
    """Suffixes of sound files in lower case."""
    import soundfile

    formats = [name.lower() for name in soundfile.available_formats() if name != 'RAW']
    return tuple(f'.{name}' for name in formats + SUFFIXES.split())


class Source:
    """A source folder, or a single table of recordings.

    `.folder` is the folder, `.table` the name of the table if SOURCE is one, else ''. `.dataset` is the folder of the
    dataset to create, in which a layout may keep its raw tables; None if nothing may be written. `.known` are the keys
    of earlier runs (source path -> key), set by collect.py. `.skipped` are (path in the source, problem, what was done)
    of files that were not used; other problems are in `.report`. `.class_names` are the (scientific, common name) of
    classes that may be no recording's own class, such as those in segments. Raises Problem if there is no such folder
    or file.
    """

    def __init__(self, path: str, dataset: str | None = None):
        if not os.path.exists(path):
            raise Problem(f'{path}: no such folder; name the folder that contains the recordings')
        is_folder = os.path.isdir(path)
        self.path, self.dataset = path, dataset
        self.folder, self.table = (path, '') if is_folder else os.path.split(os.path.abspath(path))
        self.known, self.skipped, self.class_names, self.report = {}, [], {}, Report()
        self._files = self._recordings = None

    @property
    def files(self) -> list[str]:
        """Sorted paths of all files below the folder, relative to it, without hidden ones and those of macOS (._*)."""
        if self._files is None:
            unusable = []
            top = len(os.path.join(self.folder, ''))
            paths = [self.table] if self.table else [path[top:] for path in walk(self.folder, unusable)]
            for path, problem in unusable:
                self.skip(path[top:], problem, 'replace it by the file')
            hidden = (path for path in paths if not any(name.startswith('.') for name in path.split(os.sep)))
            self._files = sorted(hidden)
        return self._files

    def recordings(self) -> list[str]:
        """Those of `files` that are sound files, by their suffix."""
        if self._recordings is None:
            self._recordings = self.with_suffix(*recording_suffixes())
        return list(self._recordings)

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Those of `files` with one of the suffixes, such as '.csv', in upper or lower case."""
        return [path for path in self.files if path.lower().endswith(suffixes)]

    def existing(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths, relative to the folder, that are files, except for hidden ones.

        If SOURCE is a table, its folder may contain much else, and is not listed.
        """
        if self.table:
            return {path for path in paths if os.path.isfile(os.path.join(self.folder, path))}
        return set(self.files).intersection(paths)

    def tables(self) -> list[str]:
        """Tables (CSV, TSV, Parquet) directly in the folder."""
        return [path for path in self.files if os.sep not in path and is_table(path)]

    def read(self, path: str) -> Table:
        """A table, given its path below the folder."""
        return Table(os.path.join(self.folder, path))

    def has(self, path: str) -> bool:
        """Whether a file or folder exists below the folder."""
        return os.path.exists(os.path.join(self.folder, path))

    def inside(self, path: str, origin: str) -> str:
        """A path that a table names, normalised. Raises Problem, with `origin`, if it leads out of the folder."""
        result = os.path.normpath(path.replace('\\', '/'))
        if os.path.isabs(result) or result.split(os.sep)[0] == os.pardir or ':' in result.split(os.sep)[0]:
            raise Problem(f'{origin}: {path!r} is not a path below {self.folder}; write relative paths, without ".."')
        return result

    def skip(self, path: str, problem: str, cure: str) -> None:
        """Note a file that is not used."""
        self.skipped.append((printable(path), problem, f'{SKIPPED}{cure}'))


def name_problem(key: str) -> str:
    """Why a recording cannot have a key, or ''."""
    if not is_printable(key):
        return 'its name contains a character that is not allowed in lists'
    return f'its name is longer than {MAX_NAME} bytes' if len(os.path.basename(key).encode()) > MAX_NAME else ''


def columns_of(source: Source, tables: Iterable[str]) -> str:
    """The columns of tables, for error messages."""
    return '; '.join(f'{name} has the columns {", ".join(source.read(name).columns)}' for name in tables)
