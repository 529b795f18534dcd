"""Reading an excerpt of a recording of any format and length."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import soundfile

from shared.conversion import Unreadable, open_sound

# Samples per channel that are read at once. If the recording is damaged, only the block with the damage is lost.
BLOCK = 1 << 12


def read(path: str, start: float, stop: float) -> tuple[np.ndarray, int]:
    """The seconds from `start` to `stop`, as far as the recording has them -> (samples, sample rate in Hz).

    Samples are float32 (N,), from -1 to 1: the mean of all channels; those that are not numbers become 0.
    Raises Unreadable if there is nothing to read.
    """
    with open_sound(path) as sound, _quiet():
        rate = sound.samplerate
        first, last = round(start * rate), round(stop * rate)
        blocks = []
        try:
            if first < sound.frames:
                sound.seek(first)
                while first < last and len(block := _mono(sound.read(min(BLOCK, last - first), 'float32', True))):
                    blocks.append(block)
                    first += len(block)
        except soundfile.LibsndfileError as e:
            if not blocks:
                raise Unreadable(f'damaged at {first / rate:.2f} s: {e.error_string}') from None
        if not blocks:
            raise Unreadable(f'ends after {sound.frames / rate:.2f} s')
        return np.concatenate(blocks), rate


def _mono(block):
    return np.nan_to_num(block, copy=False, posinf=0, neginf=0).mean(axis=1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard messages: libmpg123 complains about frames before the place in an MP3 that was looked for."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, 'w') as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
