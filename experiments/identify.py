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
import hashlib
import time

from birdsong.config import EXPERIMENTS
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from birdsong.findings import calibration, circumstances, formats, species, tables
from birdsong.findings.rules import Wanted
from birdsong.identification import choice, merging, prior, recordings
from birdsong.identification.plan import HOURS, METADATA, Plan, settle
from birdsong.identification.task import Task
from birdsong.identification.windows import Windows, kind_of, settings_of
from shared.clues import Finder, degrees

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
    expected = parser.add_argument_group(
        'prior: classes that are less or more probable at the place, date and time than on average',
        'The factor of a class is its probability at that place and time divided by its mean over the training list, '
        'both according to metadata networks. It is applied to the confidence after a calibration and after smoothing, '
        'before the threshold; the columns Score and Probability remain those of the sound alone.',
    )
    add_prior = expected.add_argument
    add_prior(
        '--prior',
        choices=prior.KINDS,
        help="soft: multiply the odds of each class by its factor (Bayes' rule), from the limit to 1 / limit; mask: "
        'remove detections of classes whose factor is below the limit. Nothing is changed where the place or date that '
        'the networks use is unknown.',
    )
    add_prior(
        '--prior-limit',
        metavar='FACTOR',
        type=float,
        help=f'lowest factor ({prior.LIMIT:g}: in regions without training recordings, 39 %% of the classes of '
        'BirdCLEF 2022 are below it, but only 0.4 %% of the labels)',
    )
    add_prior(
        '--prior-model',
        metavar='MODEL',
        action='append',
        default=[],
        help='metadata network: name or file (repeatable; default: all in experiments/NAME/)',
    )
    where = parser.add_argument_group('time and place of recordings, unless their files or names tell')
    where.add_argument('--metadata', metavar='FILE', help='table with the column file and date, time, latitude, ...')
    where.add_argument('--latitude', metavar='DEGREES')
    where.add_argument('--longitude', metavar='DEGREES')
    where.add_argument('--timezone', metavar='ZONE', help='UTC, an offset (+02:00), or a name (Europe/Berlin)')
    add('--device', help='cpu, cuda, cuda:1, mps (default: the fastest that is available)')
    add('--amp', action='store_true', help='mixed precision, if the device has it')
    args = parser.parse_args()
    args.wanted = Wanted(*(getattr(args, name) for name in Wanted._fields))
    args.wanted.check()
    args.format = tables.format_names(args.format)
    if not args.prior and (args.prior_model or args.prior_limit is not None):
        raise Problem('--prior-model and --prior-limit belong to --prior; give --prior soft or --prior mask')
    args.zone = circumstances.time_zone(args.timezone) if args.timezone else None
    return args


def task_of(args: argparse.Namespace) -> Task:
    """Check the arguments. Raises Problem."""
    if not os.path.isdir(args.folder):
        raise Problem(f'{args.folder}: no such folder; give the folder that contains the recordings')
    dataset = Dataset(args.dataset)
    dataset.need_labels(['labelset'], 'findings need the class ids in it, one per line in the order of class indices')
    chosen = choice.choose(dataset, args.run, args.model)
    settings = [settings_of(member, dataset) for member in chosen.members]
    known = species.of(dataset)
    curves, kind = load_calibration(args.calibration, known), kind_of(chosen, settings)
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
    expected = None
    if args.prior:
        limit = prior.LIMIT if args.prior_limit is None else args.prior_limit
        expected = prior.prior_of(dataset, args.prior, limit, args.prior_model, chosen, settings)
    return Task(
        args.folder,
        dataset,
        chosen,
        settings,
        Windows(settings, args.window, args.hop),
        known,
        curves,
        args.wanted.rules(known, curves, args.calibration),
        Finder(args.folder, args.metadata, args.zone, *place),
        Plan(args.output),
        args.keep_scores,
        expected,
    )


def load_calibration(filename: str | None, known: list[species.Species]) -> calibration.Calibration | None:
    """The calibration in a file, in the order of the classes."""
    if not filename:
        return None
    return calibration.load(filename).for_classes([one.class_id for one in known], filename)


def about(args: argparse.Namespace, task: Task) -> dict:
    """What the findings in an output folder depend on; findings that differ in any of these are not mixed."""
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
        'timezone': args.timezone,
        'scores kept': args.keep_scores,
        'prior': task.prior and task.prior.about(),
        METADATA: digest_of(args.metadata),
    }


def digest_of(filename: str | None) -> str | None:
    """SHA-256 of a file."""
    if filename is None:
        return None
    with open(filename, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def plan(args: argparse.Namespace, task: Task) -> None:
    """Plan shards for all new recordings; print the output folder and the names of all shards."""
    found, skipped = recordings.listed(args.folder, args.output)
    if not found:
        raise Problem(
            f'{args.folder}: no recordings (files with a suffix such as .wav, .flac, .mp3); is it the folder?'
        )
    same_metadata = settle(args.output, about(args, task), args.force)
    new = task.plan.extend(found, args.shard_hours)
    merging.write_skipped(task, skipped)
    shards = task.plan.shards()
    say(f'models: {task.chosen.why}; {task.windows.describe()}')
    if task.chosen.ignored:
        say(f'note: {task.chosen.ignored}')
    if not same_metadata:
        say(
            f'note: --metadata is not the table with which {args.output} was started, so it applies to {new} new '
            'recordings only; add --force to identify all of them again'
        )
    say(f'{args.folder}: {len(found)} recordings, {new} of them new; {len(shards)} shards in {args.output}')
    for one in found[:SHOWN] if new else ():
        say(f'{one.path}: {recordings.described(task.finder.of(one.path))}')
    print(args.output, *shards, sep='\n')


def shard(args: argparse.Namespace, task: Task, name: str, out: str) -> None:
    """Identify the recordings of a shard, write the result to `out`, and print a line."""
    # Imported here, because importing torch takes longer than the other steps.
    from birdsong.identification.shard import identify

    started = time.monotonic()
    result = identify(task, name, out, args.device, args.amp)
    hours = sum(end - start for _, start, end in result.covered) / 3600
    print(
        f'shard {name}: {len(result.recordings)} recordings, {hours:.2f} h in {time.monotonic() - started:.0f} s; '
        f'{len(result.classes)} detections'
    )


def say(text: str) -> None:
    print(f'identify.py: {text}', file=sys.stderr, flush=True)


def main() -> None:
    args = parse_arguments()
    task = task_of(args)
    if args.plan:
        plan(args, task)
    elif args.shard:
        shard(args, task, *args.shard)
    else:
        print(merging.merge(task, args.format))


if __name__ == '__main__':
    program.run(main)
