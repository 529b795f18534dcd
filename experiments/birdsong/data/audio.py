"""WAV files: their headers, and their samples as memory maps."""

import collections
import mmap
import os
import struct

import numpy as np

from birdsong.files import Problem, open_regular

Header = collections.namedtuple('Header', 'sample_rate channels width length offset')

PCM, EXTENSIBLE = 1, 0xFFFE
DTYPES = {1: np.dtype('u1'), 2: np.dtype('<i2'), 4: np.dtype('<i4')}
ANEW = 'convert it again (prepare_birdclef.sh does what is missing, so delete it first)'


def read_header(filename):
    """Header of a RIFF WAVE file of integer samples: (sample_rate in Hz, channels, width in bytes of a sample,
    length in samples per channel, offset of the first sample in bytes).

    Raises Problem if the file is missing, empty, truncated or anything else than integer PCM.
    """
    try:
        with open_regular(filename, buffering=0) as f:
            size = os.fstat(f.fileno()).st_size
            return _parse_header(f, size)
    except (FileNotFoundError, NotADirectoryError):
        raise Problem(f'{filename}: no such recording; prepare the data set again') from None
    except OSError as e:
        raise Problem(f'{filename}: cannot be read ({e.strerror})') from None
    except ValueError as e:
        raise Problem(f'{filename}: {e}; {ANEW}') from None


def _parse_header(f, size):
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
        name, length = struct.unpack('<4sI', head)
        position += 8
        if name == b'fmt ':
            body = read(position, min(length, 40))
            if len(body) < 16:
                raise ValueError('truncated in its format chunk')
            tag, channels, rate, _, _, bits = struct.unpack('<HHIIHH', body[:16])
            if tag == EXTENSIBLE and len(body) >= 26:
                tag = struct.unpack('<H', body[24:26])[0]
            if tag != PCM:
                raise ValueError(f'samples of format {int(tag)}, not integer PCM')
            if not channels or not rate or not 1 <= bits <= 64:
                raise ValueError(f'a broken format chunk ({int(channels)} channels, {int(rate)} Hz, {int(bits)} bits)')
            form = rate, channels, (bits + 7) // 8
        elif name == b'data':
            if form is None:
                raise ValueError('samples without a format')
            if position + length > size:
                raise ValueError(f'truncated: {int(size - position)} of {int(length)} bytes of samples')
            rate, channels, width = form
            return Header(rate, channels, width, length // (channels * width), position)
        # A chunk of odd length is followed by a byte that does not count.
        position += length + (length & 1)


def check_header(header, filename, sample_rate):
    """Raises Problem unless `header` is that of a mono 16 bit recording at `sample_rate` Hz."""
    if header.sample_rate != sample_rate or header.channels != 1 or header.width != 2:
        raise Problem(
            f'{filename}: {int(header.sample_rate)} Hz, {int(header.channels)} channel(s), {int(8 * header.width)} bit, expected {int(sample_rate)} Hz mono 16 bit; prepare the data set again, or set sample_rate'
        )


class WavFile:
    """A WAV file: what `read_header` gives as attributes, and `.samples`, a read-only memory map.

    Samples have the shape (length,), or (length, channels) if there are several channels; 8 bit samples are
    unsigned (0..255), wider ones signed. `len(wav)` is the length, `wav[start:stop]` reads only these samples.
    With `sample_rate`, anything but mono 16 bit at that rate is refused. Raises Problem as `read_header` does, and for 24 bit.
    """

    def __init__(self, filename, sample_rate=None):
        self.filename = filename
        header = read_header(filename)
        if sample_rate is not None:
            check_header(header, filename, sample_rate)
        for name, value in header._asdict().items():
            setattr(self, name, value)
        if self.width not in DTYPES:
            raise Problem(f'{filename}: {int(8 * self.width)} bit samples; convert it to 16 bit')
        self.samples = map_samples(filename, header)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, where) -> np.ndarray:
        return self.samples[where]


def map_samples(filename, header):
    """The samples of a recording as a read-only memory map, without reading its header again."""
    dtype = DTYPES[header.width]
    shape = (header.length,) if header.channels == 1 else (header.length, header.channels)
    if not header.length:
        return np.zeros(shape, dtype)
    with open_regular(filename) as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype, header.length * header.channels, header.offset).reshape(shape)


def release(samples):
    """Have what was read of a recording that `map_samples` mapped count as memory no more; it is read again where needed."""
    while isinstance(samples, np.ndarray):
        samples = samples.base
    samples = getattr(samples, 'obj', samples)
    if isinstance(samples, mmap.mmap) and hasattr(samples, 'madvise'):
        samples.madvise(mmap.MADV_DONTNEED)
