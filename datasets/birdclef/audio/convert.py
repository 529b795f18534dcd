#!/usr/bin/env python3
"""Convert the recordings of a source folder to what a dataset holds: mono, 22 050 Hz, 16 bit, WAV.

Reads every format that libsndfile reads, of any rate, width and number of channels, in memory that doesn't grow with
the length; writes datasets/NAME/audio/KEY.wav, whole or not at all. Run again, it converts only what is missing.
A recording that can't be read stops nothing: for training it is left out, of the test and the soundscapes it becomes
0.1 s of silence, so that it still gets its row. datasets/NAME/audio/repairs.tsv tells of each such case: path,
problem, what was done.
"""

import os
import sys

DATASETS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(os.path.dirname(DATASETS), 'experiments'), DATASETS]
from birdsong import program  # isort: skip
import argparse
import collections
import concurrent.futures
import contextlib
import fcntl
import re
import struct
import threading

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

import layout
from birdsong.files import Problem, writing

SAMPLE_RATE = 22050
SILENCE = SAMPLE_RATE // 10
# Rates beyond come from damaged headers.
MIN_RATE, MAX_RATE = 1000, 1000000
# What the 32-bit sizes of a WAV can hold.
MAX_SAMPLES = (2**32 - 1 - 36) // 2
# Samples of all channels decoded at once: what fits the cache is faster, and memory doesn't depend on the length.
BLOCK = 1 << 18
SUFFIXES = tuple(f'.{name.lower()}' for name in soundfile.available_formats() if name != 'RAW') + (
    '.aif',
    '.aifc',
    '.snd',
    '.oga',
    '.opus',
    '.sph',
    '.wave',
    '.sf',
    '.mpga',
    '.mp2',
    # not read by libsndfile: taken so that the table tells of them
    '.m4a',
    '.mp4',
    '.aac',
    '.wma',
    '.webm',
    '.ape',
    '.wv',
)
# Sizes from here on stand in headers that were written before the length was known.
STREAMED = 0x7FFF0000
# By so much libsndfile may overestimate the length of an MP3 that doesn't tell it.
MP3_SLACK = 2304
# As small as damage should cost: samples of a FLAC frame.
SMALL_BLOCK = 1 << 12
# Amplitude (of 16 bit samples) beyond which something isn't a sound; float formats can hold anything.
ABSURD = 1e12
# What libsndfile reads as 16 bit without loss.
SHORT = ('PCM_16', 'PCM_S8', 'PCM_U8', 'ULAW', 'ALAW', 'IMA_ADPCM', 'MS_ADPCM', 'GSM610')


class Unreadable(Exception):
    """A recording of which nothing can be used; the text says why."""


def wav_header(samples):
    """The 44 bytes before `samples` samples of mono, 16 bit."""
    return struct.pack(
        '<4sI4s4sIHHIIHH4sI',
        b'RIFF',
        36 + 2 * samples,
        b'WAVE',
        b'fmt ',
        16,
        1,
        1,
        SAMPLE_RATE,
        2 * SAMPLE_RATE,
        2,
        16,
        b'data',
        2 * samples,
    )


def blocks(sound, size):
    """Mono float32 blocks, in the scale of 16 bit, of an open SoundFile; the last one is shorter, maybe empty."""
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


def convert(source, out, stop=None, size=BLOCK):
    """Convert the sound file `source` into the open binary file `out` -> (samples written, clipped samples, problems).

    `problems` are those that leave something to use. Raises Unreadable if nothing is,
    KeyboardInterrupt once the event `stop` is set. Decodes `size` samples of all channels at once.
    """
    problems, decoded, clipped, written, strange = [], 0, 0, 0, 0
    try:
        with open(source, 'rb') as f:
            if not f.read(1):
                raise Unreadable('empty file')
        sound = soundfile.SoundFile(source)
    except OSError as e:
        raise Unreadable(f'cannot be opened: {e.strerror}') from None
    except (soundfile.LibsndfileError, TypeError, ValueError) as e:
        text = str(getattr(e, 'error_string', e))
        # what libsndfile says of MP3 in which it finds no frame; we have opened it already
        raise Unreadable(f'cannot be read: {"no sound file" if "does not exist" in text else text}') from None
    with sound, np.errstate(all='ignore'):
        rate, frames = sound.samplerate, sound.frames
        if not MIN_RATE <= rate <= MAX_RATE:
            raise Unreadable(f'damaged header: {int(rate)} samples a second')
        if frames / rate * SAMPLE_RATE > MAX_SAMPLES and frames < 2**62:
            raise Unreadable(f'longer than a WAV can be, {frames / rate / 3600:.0f} hours; cut it')
        resampler = (
            None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype='float32', quality='HQ')
        )
        out.write(wav_header(0))
        source_blocks = blocks(sound, size)
        last = False
        while not last:
            if stop and stop.is_set():
                raise KeyboardInterrupt
            try:
                mono = next(source_blocks, None)
            except soundfile.LibsndfileError as e:
                if size > SMALL_BLOCK:
                    # all of a block is lost where decoding fails in it
                    out.seek(0)
                    out.truncate()
                    return convert(source, out, stop, SMALL_BLOCK)
                mono = None
                if decoded < frames:
                    problems.append(f'damaged after {decoded / rate:.2f} s: {e.error_string}')
            last = mono is None
            if last:
                mono = np.zeros(0, np.float32)
            decoded += len(mono)
            if not np.dot(mono, mono) < ABSURD**2:
                bad = ~(np.abs(mono) < ABSURD)
                strange += np.count_nonzero(bad)
                mono[bad] = 0
            if resampler:
                mono = resampler.resample_chunk(mono, last=last)
            # no dither: rounding alone is 5 dB below its noise, and what the features see isn't heard
            np.rint(mono, out=mono)
            if len(mono) and (mono.max() > 32767 or mono.min() < -32768):
                clipped += np.count_nonzero((mono > 32767) | (mono < -32768))
                np.clip(mono, -32768, 32767, out=mono)
            written += len(mono)
            if written > MAX_SAMPLES:
                raise Unreadable('longer than a WAV can be, over 27 hours; cut it')
            out.write(mono.astype('<i2').data)
        short = re.search(
            r'^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)', sound.extra_info, re.M
        )
    if short and int(short.group(2)) < int(short.group(1)) < STREAMED:
        problems.append(f'truncated: {short.group(2)} of {short.group(1)} bytes')
    elif decoded < frames - (MP3_SLACK if sound.format == 'MP3' else 0) and not problems:
        problems.append(f'truncated: {int(decoded)} of {int(frames)} samples')
    elif decoded > frames:
        problems.append(f'{int(decoded)} samples where the header says {int(frames)}')
    if strange:
        problems.append(f'{int(strange)} samples are no numbers')
    if not written or problems and written < SILENCE:
        raise Unreadable('; '.join(problems) or 'no samples')
    expected = decoded * SAMPLE_RATE / rate
    if abs(written - expected) > 2:
        raise Unreadable(f'{int(decoded)} samples became {int(written)}, not {int(expected)}')
    out.seek(0)
    out.write(wav_header(written))
    return written, clipped, problems


class Conversion:
    """Converts recordings into an audio/ folder; `one` may run in many threads."""

    def __init__(self, audio):
        self.audio = audio
        self.table = os.path.join(audio, layout.REPAIRS)
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.noted = set()

    def note(self, key, problem, done):
        self.noted.add(key)
        # added at once, before the recording's file appears: an interruption loses nothing
        with self.lock, open(self.table, 'ab') as f:
            f.write(layout.table([(key, problem, done)]).encode())

    def one(self, found):
        """Convert one recording -> samples written, 0 if it is left out."""
        if self.stop.is_set():
            return 0
        key, source = found
        target = os.path.join(self.audio, key)
        try:
            with writing(target) as out:
                samples, clipped, problems = convert(source, out, self.stop)
                if clipped:
                    problems.append(f'{clipped} samples clip')
                if problems:
                    self.note(key, '; '.join(problems), 'the rest is kept')
            return samples
        except Unreadable as e:
            problem = str(e)
        except OSError as e:
            raise Problem(
                f'{target}: {e.strerror}; see to it and run this again, it goes on where it stopped'
            ) from None
        if key.startswith('train/'):
            self.note(key, problem, 'left out')
            return 0
        self.note(key, problem, '0.1 s of silence')
        with writing(target) as out:
            out.write(wav_header(SILENCE) + bytes(2 * SILENCE))
        return SILENCE


def summary(repairs):
    """What a table of repairs (dict) says, in words: recordings left out, silent, damaged, clipped."""
    count, samples = collections.Counter(), 0
    for problem, done in repairs.values():
        clips = re.search(r'(\d+) samples clip$', problem)
        samples += int(clips.group(1)) if clips else 0
        count['clips' if clips and clips.start() == 0 else done.partition(';')[0]] += 1
        count[layout.SAME_NAME] += problem.startswith(layout.SAME_NAME)
    twice = count[layout.SAME_NAME]
    return f'{count["left out"]} left out{(f" ({twice} because another has {layout.SAME_NAME})" if twice else "")}, {count["0.1 s of silence"]} silent, {count["the rest is kept"]} damaged but kept in part, {count["clips"]} undamaged but clipped ({samples} samples clip in all)'


@contextlib.contextmanager
def without_decoder_notes():
    """Keep notes of decoders off the terminal: libmpg123 writes them to standard error itself, without naming the file.

    Damage that costs samples is among the problems that `convert` reports. Messages of Python still appear.
    """
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    terminal, before = os.dup(2), sys.stderr
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        with open(terminal, 'w', buffering=1, closefd=False, errors='backslashreplace') as sys.stderr:
            yield
    finally:
        sys.stderr = before
        os.dup2(terminal, 2)
        os.close(terminal)


def to_do(found, audio):
    """Those of the found recordings that have to be converted: not there yet, or with a problem and newer than it."""
    table = os.path.join(audio, layout.REPAIRS)
    known = layout.read_repairs(table)
    since = os.stat(table).st_mtime if known else 0
    there = set(layout.recordings(os.path.dirname(audio)))
    return [
        one
        for one in found
        if (one.key not in there and known.get(one.key, ('', ''))[1] != 'left out')
        or (one.key in known and os.stat(one.path).st_ctime >= since)
    ]


def clean(audio):
    """Remove what an interrupted conversion has left."""
    for path in layout.walk(audio):
        name = os.path.basename(path)
        if name.startswith('.') and name.endswith('.part'):
            os.unlink(path)


def run(source, dataset, jobs):
    """Convert what is missing in a dataset's folder -> line that tells what was done."""
    found, skipped = layout.find(source, SUFFIXES)
    if not found:
        raise Problem(f'{source}: no recordings found in its folders')
    audio = os.path.join(dataset, 'audio')
    try:
        for folder in {os.path.dirname(one.key) for one in found}:
            os.makedirs(os.path.join(audio, folder), exist_ok=True)
    except (FileExistsError, FileNotFoundError) as e:
        raise Problem(f'{e.filename}: not a folder, or a link to one that is gone; is its disk mounted?') from None
    with open(os.path.join(audio, '.convert.lock'), 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(f'{audio}: another conversion is writing there; wait for it') from None
        clean(audio)
        left = to_do(found, audio)
        conversion = Conversion(audio)
        samples = made = 0
        # the largest first: no long recording is left for the end, when the other cores have nothing to do
        sizes = {one: os.stat(one.path).st_size for one in left}
        left.sort(key=lambda one: (-sizes[one], one.key))
        with (
            without_decoder_notes(),
            concurrent.futures.ThreadPoolExecutor(jobs) as pool,
            tqdm(total=sum(sizes.values()), unit='B', unit_scale=True, desc='audio', disable=None) as bar,
        ):
            try:
                futures = {pool.submit(conversion.one, one): one for one in left}
                for future in concurrent.futures.as_completed(futures):
                    length = future.result()
                    samples, made = samples + length, made + bool(length)
                    bar.update(sizes[futures[future]])
            except BaseException:
                conversion.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        repairs = layout.read_repairs(conversion.table)
        # what has been converted well since is no longer a problem
        redone = {one.key for one in left}
        lines = {key: value for key, value in repairs.items() if key not in redone or key in conversion.noted}
        for path, problem, done in skipped:
            lines.setdefault(path, (problem, done))
        layout.write_repairs(conversion.table, lines)
    known = sum(lines.get(one.key, ('', ''))[1] != 'left out' for one in found)
    told = f'{audio}: {made} recordings converted ({samples / SAMPLE_RATE / 3600:.1f} hours), {known - made} were there'
    return told + (f'; {layout.REPAIRS}: {summary(lines)}' if lines else '')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SOURCE', help='folder that the archives were extracted into')
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    parser.add_argument('--jobs', type=int, default=0, metavar='N', help='threads (0: as many as there are cores)')
    args = parser.parse_args()
    if args.jobs < 0:
        parser.error(f'--jobs {int(args.jobs)}: expected 0 or more')
    jobs = args.jobs or len(os.sched_getaffinity(0))
    print(run(args.source, layout.dataset_folder(args.dataset), jobs))


if __name__ == '__main__':
    program.run(main)
