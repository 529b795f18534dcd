"""Tables of embeddings: vectors that another network computed for windows of recordings, as input of a network.

A table is an .npz file, made by embed.py or by any other program:

    files        keys of recordings, text (N,)
    embeddings   numbers (rows, D), the rows of the first recording first
    offsets      integers (N + 1,): rows offsets[i] to offsets[i + 1] - 1 are those of recording i; may be left out if
                 each recording has one row
    starts, stops   times of the rows in seconds (rows,); may be left out
"""

import os
from collections.abc import Sequence

import numpy as np

from birdsong import config
from birdsong.files import Problem, load_npz, save_npz

CURE = 'create the table again, for example with embed.py'


class Embeddings:
    """The embeddings of recordings in the tables FILE[,FILE...]; `.width` is the length D of a vector.

    Vectors are scaled to a mean square of 1, so that networks need no settings about the range of their values. Raises
    Problem if a table is damaged, if tables have different widths, or if one of `files`, keys, is in none of them.
    """

    def __init__(self, setting: str, files: Sequence[str]):
        self._rows, self.width = {}, 0  # key -> (vectors, (starts, stops) or None)
        wanted = set(files)
        for filename in map(config.find, setting.split(',')):
            for key, vectors, times in read(filename):
                if self.width not in (0, vectors.shape[1]):
                    raise Problem(
                        f'{filename}: embeddings of {vectors.shape[1]} numbers, but others have {self.width}; use '
                        'tables that were made by the same network'
                    )
                self.width = vectors.shape[1]
                if key in wanted:
                    self._rows[key] = scaled(vectors), times
        missing = [key for key in files if key not in self._rows]
        if missing:
            more = f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''
            raise Problem(
                f'input_embeddings={setting}: no embeddings of {missing[0]}{more}; name tables that have all '
                'recordings: FILE,FILE'
            )

    def rows(self, key: str) -> np.ndarray:
        """All vectors of a recording, float32 (rows, D)."""
        return self._rows[key][0]

    def times(self, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Starts and stops (rows,) of a recording's vectors in seconds, None if unknown."""
        return self._rows[key][1]

    def drawn(self, keys: Sequence[str], rng: np.random.Generator) -> np.ndarray:
        """A random vector of each recording, float32 (len(keys), D)."""
        return np.stack([rows[rng.integers(len(rows))] for rows in map(self.rows, keys)])

    def central(self, keys: Sequence[str]) -> np.ndarray:
        """The vector in the middle of each recording, float32 (len(keys), D)."""
        return np.stack([rows[len(rows) // 2] for rows in map(self.rows, keys)])


def scaled(vectors: np.ndarray) -> np.ndarray:
    """Vectors (rows, D) with a mean square of 1, float32; vectors of zeros stay."""
    vectors = np.asarray(vectors, np.float64)
    norm = np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
    return (vectors / np.where(norm == 0, 1, norm)).astype(np.float32)


def read(filename: str | os.PathLike) -> list[tuple[str, np.ndarray, tuple[np.ndarray, np.ndarray] | None]]:
    """(key, vectors (rows, D), (starts, stops) or None) of each recording. Raises Problem if the table is damaged."""
    arrays = load_npz(filename, ('files', 'embeddings', 'offsets', 'starts', 'stops'), CURE)
    try:
        files, vectors = arrays['files'], arrays['embeddings']
    except KeyError as e:
        raise Problem(f'{filename}: no array {e}; a table of embeddings has files and embeddings; {CURE}') from None
    offsets = arrays.get('offsets', np.arange(len(files) + 1))
    times = [arrays[name] for name in ('starts', 'stops') if name in arrays]
    if (
        files.ndim != 1
        or files.dtype.kind != 'U'
        or vectors.ndim != 2
        or vectors.dtype.kind not in 'fiu'
        or not vectors.shape[1]
        or offsets.shape != (len(files) + 1,)
        or offsets.dtype.kind not in 'iu'
        or offsets[0] != 0
        or offsets[-1] != len(vectors)
        or (np.diff(offsets.astype(np.int64)) < 1).any()
        or len(times) not in (0, 2)
        or any(time.shape != (len(vectors),) or time.dtype.kind not in 'fiu' for time in times)
    ):
        shapes = ', '.join(f'{name} {value.dtype}{list(value.shape)}' for name, value in arrays.items())
        raise Problem(f'{filename}: not a table of embeddings ({shapes}); {CURE}')
    if not np.isfinite(vectors).all() or not all(np.isfinite(time).all() for time in times):
        raise Problem(f'{filename}: contains numbers that are not finite; {CURE}')
    parts = [slice(*bounds) for bounds in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    return [
        (key, vectors[part], (times[0][part], times[1][part]) if times else None)
        for key, part in zip(files.tolist(), parts, strict=True)
    ]


def write(
    filename: str | os.PathLike,
    files: Sequence[str],
    vectors: Sequence[np.ndarray],
    times: Sequence[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Write a table, atomically: for each recording, its vectors (rows, D), and starts and stops (rows,) in seconds."""
    starts, stops = (np.concatenate(each) for each in zip(*times, strict=True))
    save_npz(
        filename,
        {
            'files': np.array(list(files)),
            'embeddings': np.concatenate(vectors),
            'offsets': np.concatenate([[0], np.cumsum([len(each) for each in vectors])]),
            'starts': starts,
            'stops': stops,
        },
    )
