"""WAV files: their headers, and their samples as memory maps.

Headers are parsed here because soundfile.info takes 4 times as long, accepts truncated files, and does not return the
offset of the samples, and because the wave module of Python 3.11 cannot read EXTENSIBLE headers and accepts truncated
files.
"""

import mmap
import os
import struct
from typing import IO, NamedTuple

import numpy as np

from birdsong.files import Problem, open_regular

PCM, EXTENSIBLE = 1, 0xFFFE
# NumPy types of samples by their width in bytes
DTYPES = {1: np.dtype('u1'), 2: np.dtype('<i2'), 4: np.dtype('<i4')}


class Header(NamedTuple):
    """The properties of the samples of a WAV file."""

    sample_rate: int  # Hz
    channels: int
    width: int  # bytes per sample
    length: int  # samples per channel
    offset: int  # of the first sample, in bytes


def read_header(filename: str | os.PathLike) -> Header:
    """Header of a RIFF WAVE file of integer samples.

    Raises Problem if the file is missing, empty, truncated or anything other than integer PCM.
    """
    try:
        with open_regular(filename, buffering=0) as f:
            return _parse_header(f, os.fstat(f.fileno()).st_size)
    except (FileNotFoundError, NotADirectoryError):
        raise Problem(f'{filename}: no such recording; prepare the dataset again') from None
    except OSError as e:
        raise Problem(f'{filename}: cannot be read ({e.strerror})') from None
    except ValueError as e:
        raise Problem(
            f'{filename}: {e}; delete it and convert it again (prepare_birdclef.sh converts what is missing)'
        ) from None


def _parse_header(f: IO[bytes], file_size: int) -> Header:
    start = f.read(512)
    if not start:
        raise ValueError('an empty file')
    if len(start) < 12 or start[:4] != b'RIFF' or start[8:12] != b'WAVE':
        raise ValueError('not a WAVE file')

    def read(position, count):
        if position + count <= len(start):
            return start[position : position + count]
        f.seek(position)
        return f.read(count)

    position, form = 12, None
    while True:
        head = read(position, 8)
        if len(head) < 8:
            raise ValueError('truncated: it ends before its samples')
        name, size = struct.unpack('<4sI', head)
        position += 8
        if name == b'fmt ':
            form = _parse_format(read(position, min(size, 40)))
        elif name == b'data':
            if form is None:
                raise ValueError('samples without a format')
            if position + size > file_size:
                raise ValueError(f'truncated: {file_size - position} of {size} bytes of samples')
            rate, channels, width = form
            return Header(rate, channels, width, size // (channels * width), position)
        # A chunk of odd size is followed by a padding byte.
        position += size + (size & 1)


def _parse_format(body: bytes) -> tuple[int, int, int]:
    """Sample rate, channels and bytes per sample in a format chunk."""
    if len(body) < 16:
        raise ValueError('truncated in its format chunk')
    tag, channels, rate, _, _, bits = struct.unpack('<HHIIHH', body[:16])
    if tag == EXTENSIBLE and len(body) >= 26:
        tag = struct.unpack('<H', body[24:26])[0]
    if tag != PCM:
        raise ValueError(f'samples of format {tag}, not integer PCM')
    if not channels or not rate or not 1 <= bits <= 64:
        raise ValueError(f'a broken format chunk ({channels} channels, {rate} Hz, {bits} bits)')
    return rate, channels, (bits + 7) // 8


def check_header(header: Header, filename: str | os.PathLike, sample_rate: int) -> None:
    """Raise Problem unless the recording is mono, 16 bit, at `sample_rate` Hz."""
    if header.sample_rate != sample_rate or header.channels != 1 or header.width != 2:
        raise Problem(
            f'{filename}: {header.sample_rate} Hz, {header.channels} channel(s), {8 * header.width} bit, '
            f'expected {sample_rate} Hz mono 16 bit; delete it and prepare the dataset again'
        )


class WavFile:
    """A WAV file: the fields of its Header as attributes, and `.samples`, a read-only memory map.

    Samples have the shape (length,), or (length, channels) for several channels; 8 bit samples are unsigned (0..255),
    wider ones signed. `len(wav)` is the length, `wav[start:stop]` reads only these samples.
    Raises Problem as `read_header` does, for 24 bit samples, and as `check_header` does if `sample_rate` is given.
    """

    def __init__(self, filename: str | os.PathLike, sample_rate: int | None = None):
        self.filename = filename
        header = read_header(filename)
        if sample_rate is not None:
            check_header(header, filename, sample_rate)
        for name, value in header._asdict().items():
            setattr(self, name, value)
        if self.width not in DTYPES:
            raise Problem(f'{filename}: {8 * self.width} bit samples; convert it to 16 bit')
        self.samples = map_samples(filename, header)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, where: slice) -> np.ndarray:
        return self.samples[where]


def map_samples(filename: str | os.PathLike, header: Header) -> np.ndarray:
    """The samples of a recording as a read-only memory map, without reading its header again."""
    dtype = DTYPES[header.width]
    shape = (header.length,) if header.channels == 1 else (header.length, header.channels)
    if not header.length:
        return np.zeros(shape, dtype)
    with open_regular(filename) as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype, header.length * header.channels, header.offset).reshape(shape)


def release(samples: np.ndarray) -> None:
    """Free the memory of samples from `map_samples`; if used again, they are read from the file again."""
    while isinstance(samples, np.ndarray):
        samples = samples.base
    samples = getattr(samples, 'obj', samples)
    if isinstance(samples, mmap.mmap) and hasattr(samples, 'madvise'):
        samples.madvise(mmap.MADV_DONTNEED)
