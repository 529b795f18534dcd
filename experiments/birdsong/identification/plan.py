"""The plan of an output folder: which recordings are in which shard. Several servers can plan at the same time.

identify.json             what the findings depend on: models, windows, rules
plan/0001/recordings.tsv  the recordings of shard 1: size in bytes TAB path below the folder
plan/skipped.tsv          files that cannot be recordings: path TAB reason
shards/0001.npz           the findings in shard 1, see `results`
"""

import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from birdsong.files import Problem, naming, read_lines, writing

# A shard has at most this many hours, estimated from the sizes of the files, and this many recordings.
HOURS, RECORDINGS = 8.0, 2000
# What findings depend on that may change while recordings are added: the digest of the user's table.
METADATA = 'metadata'
# Bytes of an hour: of 48 kHz, 16 bit in WAV, and of usual bit rates.
HOUR_BYTES = 48000 * 2 * 3600
COMPRESSED = {'.flac': 2, '.mp3': 8, '.ogg': 8, '.oga': 8, '.opus': 12, '.mp2': 5}


class Planned(NamedTuple):
    """A recording of a shard."""

    path: str
    size: int


class Plan:
    """The plan in an output folder."""

    def __init__(self, output: str):
        self.output, self.folder = output, os.path.join(output, 'plan')

    def shards(self) -> list[str]:
        """Names of all shards, in order."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return sorted((name for name in names if name.isdigit()), key=int)

    def recordings(self, shard: str) -> list[Planned]:
        """The recordings of a shard, sorted by path."""
        filename = os.path.join(self.folder, shard, 'recordings.tsv')
        try:
            rows = [line.split('\t', 1) for line in read_lines(filename)]
            return [Planned(path, int(size)) for size, path in rows]
        except ValueError:
            raise Problem(f'{filename}: not a plan; delete {self.output} and start again') from None

    def result(self, shard: str) -> str:
        """Path of the result of a shard."""
        return os.path.join(self.output, 'shards', f'{shard}.npz')

    def extend(self, found: list[Planned], hours: float = HOURS) -> int:
        """Plan shards for the recordings that are in none yet, or have another size now. Returns their number.

        The shards are the same however often planning was interrupted.
        """
        os.makedirs(os.path.join(self.output, 'shards'), exist_ok=True)
        (new, last), taken = self._new(found), True
        count = len(new)
        while taken and new:
            taken = False
            for number, shard in enumerate(divided(new, hours), last + 1):
                if not self._add(f'{number:04d}', shard):
                    # another server plans; continue with what it has left
                    (new, last), taken = self._new(found), True
                    break
        return count

    def _new(self, found):
        """Recordings that are in no shard, and the number of the last shard, from the same listing of the shards."""
        shards = self.shards()
        known = {one.path: one.size for shard in shards for one in self.recordings(shard)}
        return [one for one in found if known.get(one.path) != one.size], int(shards[-1]) if shards else 0

    def _add(self, name, shard):
        """Write the table of a shard. Returns False if there is one already.

        Renaming a folder fails if there is a folder that is not empty, also over NFS.
        """
        aside = os.path.join(self.folder, f'.{name}.{socket.gethostname()}.{os.getpid()}')
        os.makedirs(aside, exist_ok=True)
        try:
            with naming(self.folder), open(os.path.join(aside, 'recordings.tsv'), 'w', encoding='utf-8') as f:
                f.writelines(f'{one.size}\t{one.path}\n' for one in shard)
                f.flush()
                os.fsync(f.fileno())
            os.rename(aside, os.path.join(self.folder, name))
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            if os.path.isdir(os.path.join(self.folder, name)):
                return False
            raise
        return True


def divided(recordings: Iterable[Planned], longest: float = HOURS) -> Iterator[list[Planned]]:
    """Shards of consecutive recordings: at most `longest` hours, or one recording, and at most RECORDINGS."""
    shard, hours = [], 0.0
    for one in recordings:
        suffix = os.path.splitext(one.path)[1].lower()
        length = one.size * COMPRESSED.get(suffix, 1) / HOUR_BYTES
        if shard and (hours + length > longest or len(shard) == RECORDINGS):
            yield shard
            shard, hours = [], 0.0
        shard.append(one)
        hours += length
    if shard:
        yield shard


def settle(output: str, about: dict, force: bool = False) -> bool:
    """Store what the findings depend on in `output`, or compare it with what is stored there.

    Raises Problem if it differs and not `force`; with `force`, the earlier plan and findings are deleted. METADATA may
    differ, because a table grows with the recordings; then the result is False.
    """
    filename = os.path.join(output, 'identify.json')
    about = json.loads(json.dumps(about))
    try:
        with open(filename, encoding='utf-8') as f:
            stored = json.load(f)
        if not isinstance(stored, dict):
            raise ValueError
    except FileNotFoundError:
        stored = None
        # hidden files are those of an attempt that was interrupted
        others = [f for f in os.listdir(output) if f[0] != '.'] if os.path.isdir(output) else []
        if others and not force and not set(others) <= {'plan', 'shards'}:
            raise Problem(
                f'{output}: contains {others[0]}, which is not from identify.sh; choose another --output'
            ) from None
    except ValueError:
        raise Problem(f'{filename}: damaged; delete {output}, or choose another --output') from None
    if stored is not None:
        differ = [name for name in {**about, **stored} if stored.get(name) != about.get(name)]
        if not differ or differ == [METADATA] and not force:
            return not differ
        if not force:
            name = differ[0]
            raise Problem(
                f'{output}: has findings with other {", ".join(differ)} ({_short(stored.get(name))}, now '
                f'{_short(about.get(name))}); choose another --output, or replace them with --force'
            )
        for name in 'plan', 'shards':
            shutil.rmtree(os.path.join(output, name), ignore_errors=True)
    os.makedirs(output, exist_ok=True)
    with writing(filename, 'w', encoding='utf-8') as f:
        json.dump(about, f, indent=1, ensure_ascii=False)
        f.write('\n')
    return True


def _short(value):
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f'{text[:77]}...'
