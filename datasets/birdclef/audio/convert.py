#!/usr/bin/env python3
"""Convert the recordings of a source folder to the format of a dataset: WAV, mono, 16 bit, with its sample rate.

Reads datasets/NAME/recordings.tsv (written by collect.py) and the recordings in SOURCE that it names: all formats of
libsndfile, with any sample rate, width and number of channels, in constant memory. Writes datasets/NAME/audio/KEY, each
file atomically, with the sample rate in datasets/NAME/dataset.vars. If run again, it converts only missing recordings.
Recordings that cannot be read are left out; in the parts test, soundscapes_val and soundscapes_test, they become 0.1 s
of silence, so that submissions have rows for them. datasets/NAME/audio/repairs.tsv lists these cases, and for the
archives of 2018 also files of SOURCE that are not used: path, problem, what was done.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import collections
import concurrent.futures
import contextlib
import fcntl
import re
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tqdm import tqdm

from birdsong.files import Problem, writing
from layouts.birdclef2018 import COPY, SAME_NAME
from shared.conversion import Unreadable, convert, write_silence
from shared.dataset import dataset_folder, recordings, walk
from shared.dataset_vars import check_audio_rate, sample_rate
from shared.folds import refuse_fold
from shared.options import stored
from shared.recordings import read_recordings
from shared.source import Source
from shared.tables import REPAIRS, SKIPPED, read_repairs, table, write_repairs
from shared.xml_fields import records_file

# Parts in which a recording that cannot be read becomes silence.
SUBMITTED = ('test', 'soundscapes_val', 'soundscapes_test')
LEFT_OUT, SILENT, KEPT = 'left out', '0.1 s of silence', 'the rest is kept'


class Found(NamedTuple):
    """A recording of the source: its key, the path of its file, and its part."""

    key: str
    path: str
    part: str


class Conversion:
    """Converts recordings into an audio/ folder, with a sample rate in Hz; `one` may run in many threads."""

    def __init__(self, audio: str, rate: int):
        self.audio, self.rate = audio, rate
        self.table = os.path.join(audio, REPAIRS)
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.noted = set()

    def note(self, key: str, problem: str, done: str) -> None:
        """Add a row to the table of repairs, before the recording is written, in case of an interruption."""
        self.noted.add(key)
        with self.lock, open(self.table, 'ab') as f:
            f.write(table([(key, problem, done)]).encode())

    def one(self, found: Found) -> int:
        """Convert one recording -> samples written, 0 if it is left out."""
        if self.stop.is_set():
            return 0
        key, source, part = found
        target = os.path.join(self.audio, key)
        try:
            with writing(target) as out:
                samples, clipped, problems = convert(source, out, self.rate, self.stop)
                if clipped:
                    problems.append(f'{clipped} samples clip')
                if problems:
                    self.note(key, '; '.join(problems), KEPT)
            return samples
        except Unreadable as e:
            problem = str(e)
        except OSError as e:
            raise Problem(f'{target}: {e.strerror}; fix this and run it again; it continues where it stopped') from None
        if part not in SUBMITTED:
            self.note(key, problem, LEFT_OUT)
            return 0
        self.note(key, problem, SILENT)
        with writing(target) as out:
            return write_silence(out, self.rate)


def summary(repairs: dict[str, tuple[str, str]]) -> str:
    """Summary of a table of repairs: how many recordings are left out, silent, damaged or clipped."""
    count, samples = collections.Counter(), 0
    for problem, done in repairs.values():
        clips = re.search(r'(\d+) samples clip$', problem)
        samples += int(clips.group(1)) if clips else 0
        count['clips' if clips and clips.start() == 0 else done.partition(';')[0]] += 1
        for kind in SAME_NAME, COPY:
            count[kind] += problem.startswith(kind)
    reasons = [f'{count[COPY]} as copies of others'] * bool(count[COPY])
    reasons += [f'{count[SAME_NAME]} because another has {SAME_NAME}'] * bool(count[SAME_NAME])
    why = f' ({", ".join(reasons)})' if reasons else ''
    return (
        f'{count[LEFT_OUT]} left out{why}, {count[SILENT]} silent, {count[KEPT]} damaged but kept in part, '
        f'{count["clips"]} undamaged but clipped ({samples} samples clip in all)'
    )


@contextlib.contextmanager
def without_decoder_notes() -> Iterator[None]:
    """Hide the messages of decoders, which libmpg123 writes to standard error without the name of the file.

    `convert` reports lost samples. Messages of Python are not hidden.
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


def to_do(found: Iterable[Found], audio: str) -> tuple[list[Found], list[Found]]:
    """The recordings to convert: missing ones, and those with a problem whose source has changed since.

    Also returns missing ones that are not in the source, for example because they were deleted there.
    """
    filename = os.path.join(audio, REPAIRS)
    known = read_repairs(filename)
    since = os.stat(filename).st_mtime if known else 0
    there = set(recordings(os.path.dirname(audio)))
    missing, gone = [], []
    for one in found:
        to_convert = one.key not in there and known.get(one.key, ('', ''))[1] != LEFT_OUT
        if to_convert or one.key in known:
            if not os.path.exists(one.path):
                gone += [one] * to_convert
            elif to_convert or os.stat(one.path).st_ctime >= since:
                missing.append(one)
    return missing, gone


def make_folders(audio: str, keys: Iterable[str]) -> None:
    """Create the folders of the recordings. Raises Problem if one of them is a file or a broken link."""
    try:
        for folder in {os.path.dirname(key) for key in keys}:
            os.makedirs(os.path.join(audio, folder), exist_ok=True)
    except (FileExistsError, FileNotFoundError) as e:
        raise Problem(f'{e.filename}: not a folder, or a link to one that is gone; is its disk mounted?') from None


@contextlib.contextmanager
def locked(audio: str) -> Iterator[None]:
    """Lock a folder against other conversions. Raises Problem if one is running there."""
    with open(os.path.join(audio, '.convert.lock'), 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(f'{audio}: another conversion is writing there; wait for it') from None
        yield


def remove_unfinished(audio: str) -> None:
    """Remove unfinished files of an interrupted conversion."""
    for path in walk(audio):
        name = os.path.basename(path)
        if name.startswith('.') and name.endswith('.part'):
            os.unlink(path)


def convert_all(conversion: Conversion, missing: list[Found], jobs: int) -> tuple[int, int]:
    """Convert recordings in `jobs` threads -> (recordings, samples) written."""
    total = made = 0
    # the largest first, so that no core works on a long one alone at the end
    sizes = {one: os.stat(one.path).st_size for one in missing}
    with (
        without_decoder_notes(),
        concurrent.futures.ThreadPoolExecutor(jobs) as pool,
        tqdm(total=sum(sizes.values()), unit='B', unit_scale=True, desc='audio', disable=None) as bar,
    ):
        try:
            order = sorted(missing, key=lambda one: (-sizes[one], one.key))
            futures = {pool.submit(conversion.one, one): one for one in order}
            for future in concurrent.futures.as_completed(futures):
                samples = future.result()
                total, made = total + samples, made + bool(samples)
                bar.update(sizes[futures[future]])
        except BaseException:
            conversion.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return made, total


def run(source: str, dataset: str, jobs: int) -> str:
    """Convert the missing recordings of a dataset -> line that summarises the result."""
    refuse_fold(dataset)
    top, rate = Source(source).folder, sample_rate(dataset)
    rows = [recording for recording in read_recordings(dataset) if recording.source]
    if not rows:
        raise Problem(f'{source}: no recordings found')
    if stored(dataset, 'collect').get('no_audio'):
        raise Problem(
            f'{dataset}: contains only metadata (--no-audio); to add recordings, run prepare_birdclef.sh --audio'
        )
    audio = os.path.join(dataset, 'audio')
    check_audio_rate(dataset, rate)
    found = [Found(row.key, os.path.join(top, row.source), row.part) for row in rows]
    make_folders(audio, (one.key for one in found))
    with locked(audio):
        remove_unfinished(audio)
        missing, gone = to_do(found, audio)
        conversion = Conversion(audio, rate)
        made, samples = convert_all(conversion, missing, jobs)
        # problems that are solved now are removed
        solved = {one.key for one in missing} - conversion.noted
        repairs = {key: repair for key, repair in read_repairs(conversion.table).items() if key not in solved}
        repairs = write_repairs(conversion.table, repairs, unused_files(dataset))
    present = len(found) - len(gone) - sum(repairs.get(one.key, ('', ''))[1] == LEFT_OUT for one in found)
    line = f'{audio}: {made} recordings converted ({samples / rate / 3600:.1f} hours), {present - made} were there'
    if gone:
        line += f'; {len(gone)} are neither there nor in {source}, such as {gone[0].key}'
    return line + (f'; {REPAIRS}: {summary(repairs)}' if repairs else '')


def unused_files(dataset: str) -> list[tuple[str, str, str]]:
    """Files of the archives of 2018 that collect.py did not use: rows of its table of repairs; [] for other sources.

    For these archives, both tables have always been one.
    """
    repairs = read_repairs(os.path.join(dataset, REPAIRS)) if os.path.exists(records_file(dataset)) else {}
    return [(path, problem, done) for path, (problem, done) in repairs.items() if done.startswith(SKIPPED)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SOURCE', help='folder of the recordings')
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    parser.add_argument('--jobs', type=int, default=0, metavar='N', help='threads (0: one per core)')
    args = parser.parse_args()
    if args.jobs < 0:
        parser.error(f'--jobs {args.jobs}: expected 0 or more')
    jobs = args.jobs or len(os.sched_getaffinity(0))
    print(run(args.source, dataset_folder(args.dataset), jobs))


if __name__ == '__main__':
    program.run(main)
