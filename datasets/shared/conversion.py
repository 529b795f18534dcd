"""Conversion of one sound file to the format of a dataset: WAV, mono, 16 bit, with its sample rate.

Reads all formats of libsndfile in constant memory, resamples with soxr (HQ), and rounds.
"""

import dataclasses
import re
import threading
import wave
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

# Length in seconds of the silence that replaces unreadable recordings, and least length of damaged recordings.
SILENCE = 0.1
# Other rates come from damaged headers.
MIN_RATE, MAX_RATE = 1000, 1000000
# The sizes in a WAV header have 32 bits.
MAX_SAMPLES = (2**32 - 1 - 36) // 2
# Samples of all channels that are decoded at once, to fit the cache. If decoding fails, a block is lost, so the
# file is decoded again in small blocks, of the size of a FLAC frame.
BLOCK, SMALL_BLOCK = 1 << 18, 1 << 12
# Larger sizes in headers mean that the length was not known when the header was written.
STREAMED = 0x7FFF0000
# If an MP3 does not contain its length, libsndfile may overestimate it by this number of samples.
MP3_SLACK = 2304
# Samples of floating point formats can have any value; above this amplitude (on the scale of 16 bit) they are invalid.
ABSURD = 1e12
# Subtypes that libsndfile reads as 16 bit without loss.
SHORT = ('PCM_16', 'PCM_S8', 'PCM_U8', 'ULAW', 'ALAW', 'IMA_ADPCM', 'MS_ADPCM', 'GSM610')


class Unreadable(Exception):
    """A recording that cannot be used at all; the text is the reason."""


@dataclasses.dataclass
class _Counts:
    decoded: int = 0
    invalid: int = 0
    clipped: int = 0
    written: int = 0


def convert(source: str, out: BinaryIO, rate: int, stop: threading.Event | None = None) -> tuple[int, int, list[str]]:
    """Convert the sound file `source` into the open file `out` -> (samples written, clipped samples, problems).

    `rate` is the sample rate of the result in Hz. Raises Unreadable if nothing can be used, and KeyboardInterrupt when
    `stop` is set.
    """
    try:
        return _convert(source, out, rate, stop, BLOCK)
    except soundfile.LibsndfileError:
        out.seek(0)
        out.truncate()
        return _convert(source, out, rate, stop, SMALL_BLOCK)


def write_silence(out: BinaryIO, rate: int) -> int:
    """Write SILENCE seconds of silence into the open file `out` -> their number of samples."""
    samples = int(SILENCE * rate)
    with _wav(out, rate) as wav:
        wav.writeframes(bytes(2 * samples))
    return samples


def _wav(out, rate):
    # not soundfile: on a full disk, it fails with an assertion instead of an OSError
    wav = wave.open(out, 'wb')  # noqa: SIM115
    wav.setparams((1, 2, rate, 0, 'NONE', ''))
    return wav


def _convert(source, out, rate, stop, size):
    counts, problems = _Counts(), []
    with open_sound(source, rate) as sound, _wav(out, rate) as wav, np.errstate(all='ignore'):
        for mono in _resampled(_decoded(sound, size, counts, problems), sound.samplerate, rate):
            if stop and stop.is_set():
                raise KeyboardInterrupt
            samples = _to_16_bit(mono, counts)
            counts.written += len(samples)
            if counts.written > MAX_SAMPLES:
                raise Unreadable(f'longer than a WAV can be, over {MAX_SAMPLES // (3600 * rate)} hours; cut it')
            wav.writeframesraw(samples.tobytes())
        problems += _missing_samples(sound, counts, problems)
        expected = counts.decoded * rate / sound.samplerate
    if counts.invalid:
        problems.append(f'{counts.invalid} samples are no numbers')
    if not counts.written or problems and counts.written < int(SILENCE * rate):
        raise Unreadable('; '.join(problems) or 'no samples')
    if abs(counts.written - expected) > 2:
        raise Unreadable(f'{counts.decoded} samples became {counts.written}, not {int(expected)}')
    return counts.written, counts.clipped, problems


def open_sound(source: str, target_rate: int | None = None) -> soundfile.SoundFile:
    """Open a sound file. Raises Unreadable if its header is not plausible, or it is too long for a WAV of that rate."""
    try:
        with open(source, 'rb') as f:
            if not f.read(1):
                raise Unreadable('empty file')
        sound = soundfile.SoundFile(source)
    except OSError as e:
        raise Unreadable(f'cannot be opened: {e.strerror}') from None
    except (soundfile.LibsndfileError, TypeError, ValueError) as e:
        text = str(getattr(e, 'error_string', e))
        # libsndfile reports "does not exist" for an MP3 without any frame; here it is known that the file exists
        raise Unreadable(f'cannot be read: {"no sound file" if "does not exist" in text else text}') from None
    rate, frames = sound.samplerate, sound.frames
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Unreadable(f'damaged header: {rate} samples per second')
    if target_rate and frames / rate * target_rate > MAX_SAMPLES and frames < 2**62:
        raise Unreadable(f'longer than a WAV can be, {frames / rate / 3600:.0f} hours; cut it')
    return sound


def _decoded(sound, size, counts, problems):
    """Blocks of a sound file, see `_blocks`, with zeros for samples that are not numbers.

    If the file is damaged, small blocks end with a problem; larger ones raise LibsndfileError.
    """
    try:
        for mono in _blocks(sound, size):
            counts.decoded += len(mono)
            if not np.dot(mono, mono) < ABSURD**2:
                bad = ~(np.abs(mono) < ABSURD)
                counts.invalid += np.count_nonzero(bad)
                mono[bad] = 0
            yield mono
    except soundfile.LibsndfileError as e:
        if size > SMALL_BLOCK:
            raise
        if counts.decoded < sound.frames:
            problems.append(f'damaged after {counts.decoded / sound.samplerate:.2f} s: {e.error_string}')


def _blocks(sound: soundfile.SoundFile, size: int) -> Iterator[np.ndarray]:
    """Mean of all channels, in blocks of float32 on the scale of 16 bit; the last one is shorter and may be empty."""
    dtype = 'int16' if sound.subtype in SHORT else 'float32'
    channels = sound.channels
    frames = max(1, size // channels)
    buffer = np.empty((frames, channels), dtype)
    while True:
        block = sound.read(out=buffer, fill_value=None)
        mono = block[:, 0].astype(np.float32)
        for channel in range(1, channels):
            mono += block[:, channel]
        scale = (1 if dtype == 'int16' else 32768) / channels
        if scale != 1:
            mono *= np.float32(scale)
        yield mono
        if len(block) < frames:
            return


def _resampled(source_blocks, rate, target_rate):
    if rate == target_rate:
        yield from source_blocks
        return
    resampler = soxr.ResampleStream(rate, target_rate, 1, dtype='float32', quality='HQ')
    for mono in source_blocks:
        yield resampler.resample_chunk(mono)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _to_16_bit(mono, counts):
    # no dither: its noise would be 5 dB louder than that of rounding, and the files are not for listening
    np.rint(mono, out=mono)
    if len(mono) and (mono.max() > 32767 or mono.min() < -32768):
        counts.clipped += np.count_nonzero((mono > 32767) | (mono < -32768))
        np.clip(mono, -32768, 32767, out=mono)
    return mono.astype(np.int16)


def _missing_samples(sound, counts, problems):
    """List with a problem if the number of samples differs from that in the header, else an empty list."""
    sizes = re.search(
        r'^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)', sound.extra_info, re.M
    )
    decoded, frames = counts.decoded, sound.frames
    if sizes and int(sizes[2]) < int(sizes[1]) < STREAMED:
        return [f'truncated: {sizes[2]} of {sizes[1]} bytes']
    if decoded < frames - (MP3_SLACK if sound.format == 'MP3' else 0) and not problems:
        return [f'truncated: {decoded} of {frames} samples']
    return [f'{decoded} samples, but {frames} in the header'] if decoded > frames else []
