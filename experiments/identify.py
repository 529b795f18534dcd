#!/usr/bin/env python3
"""Identify the species in a folder of recordings: the steps that identify.sh runs. Type identify.sh --help for a use.

The steps share an output folder: --plan lists the recordings and divides them into shards, --shard predicts one of
them, --finish merges the findings of all. The options are those of identify.sh and must be the same for all steps.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/experiments/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/experiments/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import contextlib
import csv
import hashlib
import shutil
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import findings
from birdsong.config import EXPERIMENTS
from birdsong.data import audio
from birdsong.data.dataset import Dataset
from birdsong.data.prefetch import run_ahead
from birdsong.files import Problem, naming, writing
from birdsong.findings import calibration, circumstances, detections, formats, species
from birdsong.findings.summary import Summary
from birdsong.identification import choice, results
from birdsong.identification.plan import HOURS, Plan, Planned, settle
from birdsong.identification.windows import Windows, kind_of, settings_of
from birdsong.scores import predictions
from shared.clues import COLUMNS, Clues, Finder, degrees
from shared.conversion import Unreadable, convert
from shared.dataset import walk
from shared.source import name_problem, printable, recording_suffixes
from shared.tables import table

LEFT_OUT, USED = 'left out', 'the rest is used'
# Recordings of which the plan prints what was understood.
SHOWN = 3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('folder', metavar='FOLDER', help='recordings, in any folders below it')
    step = parser.add_mutually_exclusive_group(required=True)
    step.add_argument('--plan', action='store_true', help='print the output folder and its shards, one per line')
    step.add_argument('--shard', nargs=2, metavar=('NAME', 'OUT.npz'), help='identify the recordings of a shard')
    step.add_argument('--finish', action='store_true', help='write the findings of all shards')
    add('--dataset', required=True, metavar='NAME', help='dataset that the models were trained on')
    add('--run', help='ensemble to use')
    add('--model', metavar='MODEL', action='append', default=[], help='model to use: name or file (repeatable)')
    add('--output', metavar='OUT', help='folder for the findings (default: experiments/NAME/findings/FOLDER)')
    add('--force', action='store_true', help='replace findings of other models or options in OUT')
    add('--window', type=float, metavar='SECONDS', help='length of a window (default: as trained)')
    add('--hop', type=float, metavar='SECONDS', help='distance of windows (default: the window)')
    add('--shard-hours', type=float, default=HOURS, metavar='H', help='length of a shard, about (%(default)g)')
    add('--keep-scores', action='store_true', help='also write all scores, to OUT/shards/*.pred.npz')
    add('--format', default='csv', metavar='A,B', help=f'{", ".join(formats.FORMATS)} (%(default)s)')
    rules = parser.add_argument_group('what counts as a detection (as for findings.py)')
    rules.add_argument('--calibration', metavar='FILE')
    rules.add_argument('--threshold', metavar='CONFIDENCE')
    rules.add_argument('--classes', metavar='FILE|A,B')
    rules.add_argument('--smooth', metavar='N', type=int, default=1)
    rules.add_argument('--merge', metavar='SECONDS', type=float)
    rules.add_argument('--min-duration', metavar='SECONDS', type=float, default=0)
    rules.add_argument('--top', metavar='N', type=int)
    where = parser.add_argument_group('time and place of recordings, unless their files or names tell')
    where.add_argument('--metadata', metavar='FILE', help='table with the column file and date, time, latitude, ...')
    where.add_argument('--latitude', metavar='DEGREES')
    where.add_argument('--longitude', metavar='DEGREES')
    where.add_argument('--timezone', metavar='ZONE', help='UTC, an offset (+02:00), or a name (Europe/Berlin)')
    add('--device', help='cpu, cuda, cuda:1, mps (default: the fastest that is available)')
    add('--amp', action='store_true', help='mixed precision')
    args = parser.parse_args()
    args.softmax = args.sigmoid = False
    args.summary, args.timezone_text = None, args.timezone
    findings.check(args)
    return args


class Task(NamedTuple):
    """What the arguments mean."""

    args: argparse.Namespace
    dataset: Dataset
    chosen: choice.Choice
    settings: list[dict]
    windows: Windows
    known: list[species.Species]
    curves: calibration.Calibration | None
    rules: detections.Rules
    finder: Finder
    plan: Plan


def task_of(args: argparse.Namespace) -> Task:
    """Check the arguments. Raises Problem."""
    if not os.path.isdir(args.folder):
        raise Problem(f'{args.folder}: no such folder; give the folder that contains the recordings')
    dataset = Dataset(args.dataset)
    dataset.need_labels(['labelset'], 'findings need the class ids in it, one per line in the order of class indices')
    chosen = choice.choose(dataset, args.run, args.model)
    settings = [settings_of(member, dataset) for member in chosen.members]
    known = species.of(dataset)
    curves, kind = findings.load_calibration(args, known), kind_of(chosen, settings)
    if curves is not None and curves.kind != kind:
        raise Problem(
            f'{args.calibration}: fitted to scores of another kind ({curves.kind}) than those of {chosen.model} '
            f'({kind}); calibrate predictions of the same models'
        )
    if (args.latitude is None) != (args.longitude is None):
        raise Problem('--latitude and --longitude belong together; give both')
    place = [None, None]
    if args.latitude is not None:
        place = degrees(args.latitude, 90, '--latitude'), degrees(args.longitude, 180, '--longitude')
    if not args.output:
        name = os.path.basename(os.path.realpath(args.folder)) or 'root'
        args.output = os.path.join(EXPERIMENTS, dataset.name, 'findings', name)
    return Task(
        args,
        dataset,
        chosen,
        settings,
        Windows(settings, args.window, args.hop),
        known,
        curves,
        findings.rules_of(args, known, curves),
        Finder(args.folder, args.metadata, args.timezone, *place),
        Plan(args.output),
    )


# == Planning ==


def about(task: Task) -> dict:
    """What the findings in an output folder depend on; findings that differ in any of these are not mixed."""
    args = task.args
    rules = [args.threshold, args.smooth, args.merge, args.min_duration, args.top]
    return {
        'folder': os.path.realpath(args.folder),
        'dataset': task.dataset.name,
        'models': task.chosen.model,
        'networks': [member.digest() for member in task.chosen.members],
        'softmax': task.chosen.softmax,
        'window': task.windows.window,
        'hop': task.windows.hop,
        'detections': rules,
        # tables of thresholds and lists of classes may change, too
        'thresholds': hashlib.sha256(task.rules.thresholds.tobytes()).hexdigest(),
        'calibration': digest_of(args.calibration),
        'place': [args.latitude, args.longitude],
        'timezone': args.timezone_text,
        'scores kept': args.keep_scores,
    }


def digest_of(filename: str | None) -> str | None:
    """SHA-256 of a file."""
    if filename is None:
        return None
    with open(filename, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def listed(folder: str, output: str) -> tuple[list[Planned], list[tuple[str, str]]]:
    """The sound files below a folder, by their suffix, sorted, and [(path, why it is left out)] of others.

    Hidden files and the output folder are not listed.
    """
    found, unusable, skipped = [], [], []
    top, suffixes = len(os.path.join(folder, '')), recording_suffixes()
    inside = os.path.join(os.path.realpath(output), '')
    for path in walk(folder, unusable):
        name = path[top:]
        if not name.lower().endswith(suffixes) or any(part.startswith('.') for part in name.split(os.sep)):
            continue
        if os.path.realpath(path).startswith(inside):
            continue
        reason = name_problem(name)
        if reason:
            skipped.append((printable(name), reason))
        else:
            found.append(Planned(name, os.path.getsize(path)))
    skipped += [(printable(path[top:]), reason) for path, reason in unusable if path.lower().endswith(suffixes)]
    return sorted(found), sorted(skipped)


def plan(task: Task) -> None:
    """Plan shards for all new recordings; print the output folder and the names of all shards."""
    args = task.args
    recordings, skipped = listed(args.folder, args.output)
    if not recordings:
        raise Problem(
            f'{args.folder}: no recordings (files with a suffix such as .wav, .flac, .mp3); is it the folder?'
        )
    settle(args.output, about(task), args.force)
    new = task.plan.extend(recordings, args.shard_hours)
    with writing(os.path.join(task.plan.folder, 'skipped.tsv'), 'w', encoding='utf-8') as f:
        f.write(table((*row, LEFT_OUT) for row in skipped))
    shards = task.plan.shards()
    say(f'models: {task.chosen.why}; {task.windows.describe()}')
    say(f'{args.folder}: {len(recordings)} recordings, {new} of them new; {len(shards)} shards in {args.output}')
    for one in recordings[:SHOWN] if new else ():
        say(f'{one.path}: {described(task.finder.of(one.path))}')
    print(args.output, *shards, sep='\n')


def described(clues: Clues) -> str:
    """What is known about a recording, for the user."""
    _, date, time, zone, latitude, longitude, elevation, origins = clues.row('')
    place = f'{latitude}, {longitude}' if latitude and longitude else ''
    elevation = f'{elevation} m' if elevation else ''
    known = '; '.join(filter(None, (f'{date} {time} {zone}'.strip(), place, elevation)))
    return f'{known} (from {origins})' if known else 'time and place unknown'


def say(text: str) -> None:
    print(f'identify.py: {text}', file=sys.stderr, flush=True)


# == A shard ==


class Converted(NamedTuple):
    """A recording as a WAV file; `filename` is None if it cannot be used. `problems` are texts."""

    path: str
    filename: str | None
    problems: list[str]
    clues: Clues | None


def shard(task: Task, name: str, out: str) -> None:
    """Identify the recordings of a shard and write the result to `out`."""
    # Imported here, because importing torch takes longer than the other steps.
    from birdsong import devices
    from birdsong.identification.ensemble import Ensemble

    started, work = time.monotonic(), os.path.join(os.path.dirname(out), '.recordings')
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    device = devices.pick(task.args.device)
    devices.deterministic()
    ensemble = Ensemble(task.chosen, task.settings, task.windows, len(task.known), device, task.args.amp)
    result, spans = results.Result(), []
    scratch = os.path.join(work, 'scores')
    with naming(scratch), open(scratch, 'wb') as scores:
        for one in converted(task, task.plan.recordings(name), work):
            done = LEFT_OUT if one.filename is None else USED
            result.problems += [(one.path, ' '.join(problem.split()), done) for problem in one.problems]
            if one.filename is not None:
                spans.append(identify(task, ensemble, one, scores, result))
                os.unlink(one.filename)
    if task.args.keep_scores and spans:
        keep_scores(f'{out.removesuffix(".npz")}.pred.npz', scratch, result, spans, len(task.known))
    result.save(out)
    shutil.rmtree(work, ignore_errors=True)
    hours = sum(end - start for _, start, end in result.covered) / 3600
    print(
        f'shard {name}: {len(result.recordings)} recordings, {hours:.2f} h in {time.monotonic() - started:.0f} s; '
        f'{len(result.classes)} detections'
    )


def converted(task: Task, recordings: list[Planned], work: str) -> Iterator[Converted]:
    """Yield the recordings, decoded and resampled, one ahead of its use."""

    def one(item):
        number, planned = item
        source = os.path.join(task.args.folder, planned.path)
        filename = os.path.join(work, f'{number}.wav')
        try:
            with naming(filename), open(filename, 'wb') as f:
                problems = convert(source, f, task.windows.rate)[2]
        except Unreadable as e:
            os.unlink(filename)
            if not os.path.isdir(task.args.folder):
                raise Problem(f'{task.args.folder}: the folder has disappeared; is its disk still there?') from None
            return Converted(planned.path, None, [str(e)], None)
        return Converted(planned.path, filename, problems, task.finder.of(planned.path))

    return run_ahead(one, enumerate(recordings), threads=1, ahead=1)


def identify(task: Task, ensemble, one: Converted, scores, result: results.Result) -> tuple:
    """Append the scores of a recording to the open file `scores`, and what was found to the result.

    Returns starts and stops of the windows.
    """
    samples = audio.map_samples(one.filename, audio.read_header(one.filename))
    starts, stops = task.windows.times(len(samples))
    first = scores.tell()
    for rows in ensemble.scores(samples, one.clues.inputs()):
        if not np.isfinite(rows).all():
            raise Problem(f'{one.path}: the scores of {task.chosen.model} are not finite; train the models again')
        scores.write(rows.tobytes())
    scores.flush()
    rows = np.memmap(scores.name, np.float32, 'r', first, (len(starts), len(task.known)))

    def outputs(block):
        return ensemble.outputs(block), task.curves.probabilities(block) if task.curves else None

    found = detections.detect(one.path, starts, stops, rows, task.rules, outputs)
    duration = f'{len(samples) / task.windows.rate:.3f}'
    result.add([*one.clues.row(one.path), duration], found, detections.covered(starts, stops))
    return starts, stops


def keep_scores(filename: str, scratch: str, result: results.Result, spans: list[tuple], classes: int) -> None:
    """Write the scores of a shard as a prediction file."""
    offsets = np.concatenate([[0], np.cumsum([len(starts) for starts, _ in spans])])
    scores = np.memmap(scratch, np.float32, 'r', shape=(int(offsets[-1]), classes))
    step = max(1, (1 << 20) // classes)
    blocks = (np.ascontiguousarray(scores[i : i + step], '<f4') for i in range(0, len(scores), step))
    files = [row[0] for row in result.recordings]
    times = ((starts for starts, _ in spans), (stops for _, stops in spans))
    predictions.write(filename, files, offsets, blocks, classes, times=times)


# == Merging ==


def finish(task: Task) -> None:
    """Write the findings of all shards, in the order of the shards, and a line about them."""
    args, shards = task.args, task.plan.shards()
    missing = [name for name in shards if not os.path.exists(task.plan.result(name))]
    if missing or not shards:
        raise Problem(
            f'{args.output}: {len(missing)} of {len(shards)} shards are not finished; start identify.sh again'
        )
    latest = {one.path: name for name in shards for one in task.plan.recordings(name)}
    places, summary, counts, hours = findings.outputs(args), Summary(), [], 0.0
    problems = read_skipped(task)
    with contextlib.ExitStack() as stack:
        adders = [
            stack.enter_context(formats.writer(kind, places[kind], os.path.abspath(args.folder), task.windows.rate / 2))
            for kind in args.format
        ]
        about = stack.enter_context(
            writing(os.path.join(args.output, 'recordings.csv'), 'w', encoding='utf-8', newline='')
        )
        known = csv.writer(about, lineterminator='\n')
        known.writerow([*COLUMNS, 'Duration (s)'])
        for name in shards:
            recordings, more = results.read(task.plan.result(name))
            problems += [row for row in more if latest.get(row[0]) == name]
            for row, found, covered in recordings:
                if latest.get(row[0]) != name:
                    continue  # the file was replaced by another one later
                when = circumstances_of(row, args.timezone)
                rows = findings.findings_of(found, task.known, when, row[0], task.chosen.model)
                for add in adders:
                    add(row[0], rows)
                summary.add(rows, covered, when)
                known.writerow([formats.guarded(row[0], './'), *row[1:]])
                counts.append(len(rows))
    summary.write(places['summary'])
    skipped = os.path.join(args.output, 'skipped.tsv')
    with writing(skipped, 'w', encoding='utf-8') as f:
        f.write(table(problems))
    hours = sum(summary.hours.values())
    unused = sum(row[2] == LEFT_OUT for row in problems)
    note = f'; {len(problems)} problems ({unused} recordings left out): {skipped}' if problems else ''
    if not counts:
        raise Problem(f'{args.folder}: none of its {len(latest)} recordings can be read, see {skipped}')
    print(
        f'{", ".join(places.values())}: {sum(counts)} detections of {len(summary.names)} classes in '
        f'{np.count_nonzero(counts)} of {len(counts)} recordings ({hours:.2f} h){note}'
    )


def read_skipped(task: Task) -> list[list[str]]:
    """The rows of plan/skipped.tsv."""
    with open(os.path.join(task.plan.folder, 'skipped.tsv'), encoding='utf-8') as f:
        return [line.rstrip('\n').split('\t') for line in f]


def circumstances_of(row: list[str], zone) -> circumstances.Circumstances:
    """The circumstances in a row of a result. `zone`: that of the option, which knows when clocks change."""
    path, date, time, offset, latitude, longitude = row[:6]
    day, clock = (
        date and circumstances.datetime.date.fromisoformat(date),
        time and circumstances.datetime.time.fromisoformat(time),
    )
    own = (zone or circumstances.time_zone(offset)) if offset else None
    numbers = [float(text) if text else None for text in (latitude, longitude)]
    return circumstances.Circumstances(day or None, clock or None, own, *numbers, path)


def main() -> None:
    args = parse_arguments()
    task = task_of(args)
    if args.plan:
        plan(task)
    elif args.shard:
        shard(task, *args.shard)
    else:
        finish(task)


if __name__ == '__main__':
    program.run(main)
