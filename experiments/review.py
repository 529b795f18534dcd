#!/usr/bin/env python3
"""Write web pages on which a person listens to detections and says whether they are right.

FINDINGS is the findings.csv (or .parquet) of identify.sh or findings.py, or its folder. The pages work without a server
and without a network: open FINDINGS' folder/review/batch-1.html in a browser, also after copying the folder review to
another computer (for a phone, use --embed). The browser keeps the reviews; saved as CSV, they are read by calibrate.py:

    ./identify.sh FOLDER --dataset NAME --threshold 0.1
    ./review.py NAME/findings/FOLDER --select strata --blind
    ./calibrate.py --dataset NAME --softmax --reviewed ~/Downloads/review-*.csv --output NAME/calibration/FOLDER.json
    ./identify.sh FOLDER --dataset NAME --calibration NAME/calibration/FOLDER.json --force

Instead of --softmax, give --sigmoid if the networks end with one (arch.output in their .vars), or neither for an
ensemble that blender.py --softmax has made; identify.sh says if the kind is wrong.

--select says which detections are chosen:
  strata   equally many of each class and each range of scores (bounds: 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98), from as
           many recordings as possible. Best for the curves of calibrate.py, together with a low threshold of
           identify.sh: a curve needs right and wrong detections at all scores, and rare classes need some, too.
  random   each detection is equally probable. Their share of right ones is an unbiased estimate of the precision of all
           FINDINGS; calibrate.py --precision without PREDICTIONS needs such a sample.
  top      the highest scores of each class: is the species there at all? Do not use them to calibrate: curves that were
           fitted to them know nothing about lower scores.
The choice is the same for the same --seed. Scores influence those who see them: use --blind for calibration.

Recordings that cannot be read are left out, listed on the pages and in skipped.tsv.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/experiments/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/experiments/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import base64
import contextlib
import glob
import hashlib
import json
import math
import shutil
from collections.abc import Sequence

from tqdm import tqdm

from birdsong.data.dataset import Dataset
from birdsong.files import Problem, naming, open_regular, writing
from birdsong.findings import clips, formats, review_page, sampling, species
from birdsong.findings.formats import Finding
from birdsong.findings.review_page import Clip, Page
from shared import excerpts
from shared.conversion import Unreadable
from shared.tables import table

# Longer detections are cut, in seconds.
LONGEST = 30
# Detections that cannot be read, of which the reason is printed.
SHOWN = 3
SETTINGS, CLIPS, ASIDE = 'review.json', 'clips', '.clips.part'


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('findings', metavar='FINDINGS', help='table of detections, or the folder with findings.csv')
    add(
        '--recordings',
        metavar='FOLDER',
        help='folder of the recordings that FINDINGS names (default: that of identify.sh, else audio/ of the dataset)',
    )
    add(
        '--dataset',
        help='name in datasets/, or path of a dataset, whose classes can be chosen as other species (default: that of '
        'identify.sh, else only the classes in FINDINGS)',
    )
    add('--output', metavar='OUT', help='folder for the pages (default: review/ beside FINDINGS)')
    add('--force', action='store_true', help='replace pages of other findings or options in OUT')
    choice = parser.add_argument_group('choice of detections')
    choice.add_argument('--select', choices=sampling.KINDS, default=sampling.STRATA, help='see above (%(default)s)')
    choice.add_argument('--count', metavar='N', type=int, default=100, help='detections in all (%(default)s)')
    choice.add_argument('--classes', metavar='FILE|A,B', help='only these: ids or names, one per line or in a list')
    choice.add_argument('--seed', type=int, default=0, help='another choice (%(default)s)')
    page = parser.add_argument_group('pages')
    page.add_argument('--batch-size', metavar='N', type=int, default=50, help='detections per page (%(default)s)')
    page.add_argument('--blind', action='store_true', help='do not show scores and confidences')
    page.add_argument(
        '--context', metavar='SECONDS', type=float, default=3, help='before and after a detection (%(default)g)'
    )
    page.add_argument(
        '--max-frequency', metavar='HZ', type=float, default=12000, help='top of the spectrograms (%(default)g)'
    )
    page.add_argument(
        '--embed',
        action='store_true',
        help='put all clips into the pages, for phones, which open single files only (larger by a third: give a small '
        '--batch-size)',
    )
    args = parser.parse_args()
    for option in 'count', 'batch_size':
        if getattr(args, option) < 1:
            raise Problem(f'--{option.replace("_", "-")}={getattr(args, option)}: at least 1')
    if not 0 <= args.context <= 60:
        raise Problem(f'--context={args.context:g}: give seconds from 0 to 60')
    if not 100 <= args.max_frequency <= 500000:
        raise Problem(f'--max-frequency={args.max_frequency:g}: give a frequency in Hz, such as 12000')
    if os.path.isdir(args.findings):
        args.findings = os.path.join(args.findings, 'findings.csv')
    args.output = args.output or os.path.join(os.path.dirname(os.path.abspath(args.findings)), 'review')
    return args


# == What the findings are about ==


def identified(findings: str) -> dict[str, str]:
    """The texts in identify.json beside the findings: folder, dataset. {} if they are not from identify.sh."""
    filename = os.path.join(os.path.dirname(findings), 'identify.json')
    try:
        with open_regular(filename, 'r', encoding='utf-8') as f:
            content = json.load(f)
        return {name: content[name] for name in ('folder', 'dataset') if isinstance(content[name], str)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def dataset_for(args: argparse.Namespace, known: dict[str, str]) -> Dataset | None:
    """The dataset that the findings belong to, if it is known and exists here."""
    if args.dataset:
        return Dataset(args.dataset)
    with contextlib.suppress(Problem):
        return Dataset(known['dataset']) if 'dataset' in known else None
    return None


def recordings_for(args: argparse.Namespace, known: dict[str, str], dataset: Dataset | None) -> str:
    """The folder of the recordings. Raises Problem if it is not known or does not exist."""
    folder = args.recordings or known.get('folder') or (dataset and os.path.join(dataset.path, 'audio'))
    if not folder:
        raise Problem(f'{args.findings}: the folder of its recordings is not known; give it with --recordings FOLDER')
    if not os.path.isdir(folder):
        raise Problem(f'{folder}: no such folder; give that of the recordings in {args.findings} with --recordings')
    return folder


def choose(args: argparse.Namespace, dataset: Dataset | None) -> tuple[list[Finding], list[species.Species]]:
    """The detections to review, in their order, and all classes. Raises Problem if there are none."""
    named = {}  # class id -> scientific and common name

    def checked():
        for number, one in enumerate(formats.read(args.findings), 2):
            named[one.class_id] = one.scientific_name, one.common_name
            yield usable(args.findings, number, one)

    candidates = sampling.candidates(checked(), args.seed)
    if not len(candidates.scores):
        raise Problem(f'{args.findings}: no detections; lower the --threshold of identify.sh or findings.py')
    if dataset:
        known = species.of(dataset)
        missing = sorted(set(candidates.class_ids) - set(dataset.labelset))
        if missing:
            raise Problem(
                f'{args.findings}: class {missing[0]} is not in {dataset.path}/labels/labelset; select the dataset '
                'that it belongs to with --dataset'
            )
    else:
        known = [species.Species(name, *named[name]) for name in sorted(named)]
        print('note: only classes in the findings can be chosen as other species; --dataset adds more', file=sys.stderr)
    chosen = None
    if args.classes:
        chosen = {one.class_id for one, use in zip(known, species.chosen(known, args.classes), strict=True) if use}
    rows = sampling.choose(candidates, args.select, args.count, chosen).tolist()
    if not rows:
        raise Problem(f'{args.findings}: no detections of --classes={args.classes}')
    wanted = set(rows)
    found = {row: one for row, one in enumerate(formats.read(args.findings)) if row in wanted}
    return [found[row] for row in rows], known


def usable(filename: str, number: int, one: Finding) -> Finding:
    """The finding. Raises Problem for values that the table of reviews cannot have."""
    if not 0 <= one.start < one.end:
        raise Problem(f'{filename}, row {number}: a detection from {one.start:g} to {one.end:g} s is not possible')
    if not 0 <= one.score <= 1:
        raise Problem(
            f'{filename}, row {number}: the score {one.score:g} is not between 0 and 1, which calibration needs; '
            'create it again with findings.py --softmax or --sigmoid'
        )
    if not one.file or not one.class_id:
        raise Problem(f'{filename}, row {number}: no {"class" if one.file else "file"}')
    return one


# == Files ==


def about(args: argparse.Namespace, folder: str) -> dict:
    """What the pages depend on."""
    digest = hashlib.sha256()
    with open_regular(args.findings) as f:
        while block := f.read(1 << 20):
            digest.update(block)
    options = 'select', 'count', 'classes', 'seed', 'batch_size', 'blind', 'context', 'max_frequency', 'embed'
    return {'findings': digest.hexdigest(), 'recordings': os.path.realpath(folder)} | {
        name.replace('_', ' '): getattr(args, name) for name in options
    }


def check_output(output: str, settings: dict, force: bool) -> None:
    """Raise Problem if the folder has pages of other findings or options, unless `force`, or anything else."""
    try:
        with open_regular(os.path.join(output, SETTINGS), 'r', encoding='utf-8') as f:
            stored = json.load(f)
        differ = [name for name in settings if stored.get(name) != settings[name]]
    except FileNotFoundError:
        if os.path.isdir(output) and any(not name.startswith('.') for name in os.listdir(output)):
            raise Problem(f'{output}: contains other files than pages of review.py; choose another --output') from None
        return
    except (ValueError, AttributeError):
        differ = [SETTINGS]
    if differ and not force:
        raise Problem(
            f'{output}: has pages for other {", ".join(differ)}; choose another --output, or save their reviews as CSV '
            'and replace the pages with --force'
        )


def make_clip(args: argparse.Namespace, folder: str, one: Finding, number: int) -> Clip:
    """Write the sound and the image of a detection. Raises Unreadable."""
    path = os.path.join(folder, one.file)
    if os.path.isabs(one.file) or os.pardir in one.file.split('/'):
        raise Unreadable('no path below the folder of the recordings')
    if os.path.exists(path) and not os.path.isfile(path):
        raise Unreadable('not a file')
    start = max(0.0, one.start - args.context)
    samples, rate = excerpts.read(path, start, min(one.end, one.start + LONGEST) + args.context)
    end = start + len(samples) / rate
    if end <= one.start:
        raise Unreadable(f'ends after {end:.2f} s, before the detection')
    image, sound = clips.spectrogram(samples, rate, args.max_frequency), clips.flac(samples, rate)
    if args.embed:
        return Clip(start, end, data_url('image/png', image), data_url('audio/flac', sound))
    names = [f'{number:04d}.{suffix}' for suffix in ('png', 'flac')]
    for name, content in zip(names, (image, sound), strict=True):
        filename = os.path.join(args.output, ASIDE, name)
        with naming(filename), open(filename, 'wb') as f:
            f.write(content)
    return Clip(start, end, *(f'{CLIPS}/{name}' for name in names))


def data_url(kind: str, content: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def make_clips(
    args: argparse.Namespace, folder: str, chosen: Sequence[Finding]
) -> tuple[list[Finding], list[Clip], list[tuple[str, str]]]:
    """Write the clips aside. Returns the detections that can be read, their clips, and [(other detection, reason)]."""
    found, made, problems = [], [], []
    for one in tqdm(chosen, unit='clip', disable=None):
        try:
            made.append(make_clip(args, folder, one, len(made) + 1))
            found.append(one)
        except Unreadable as e:
            problems.append((f'{one.file}, {one.start:g} to {one.end:g} s', str(e)))
    if not found:
        raise Problem(
            f'{folder}: none of {len(chosen)} detections can be read, such as {problems[0][0]}: {problems[0][1]}; give '
            'the folder of the recordings with --recordings'
        )
    return found, made, problems


def install(
    args: argparse.Namespace, settings: dict, page: Page, found: Sequence[Finding], made: Sequence[Clip]
) -> None:
    """Replace the clips and the pages in the output folder. A page is written after all that it needs."""
    output = args.output
    os.sync()  # once for all clips, because flushing each would take longer than everything else
    for old in glob.glob(os.path.join(glob.escape(output), 'batch-*.html')):
        os.unlink(old)
    shutil.rmtree(os.path.join(output, CLIPS), ignore_errors=True)
    with writing(os.path.join(output, SETTINGS), 'w', encoding='utf-8') as f:
        json.dump(settings, f, indent=1, ensure_ascii=False)
        f.write('\n')
    os.rename(os.path.join(output, ASIDE), os.path.join(output, CLIPS))
    with writing(os.path.join(output, 'skipped.tsv'), 'w', encoding='utf-8') as f:
        f.write(table(page.problems))
    for i, name in enumerate(page.names):
        part = slice(i * args.batch_size, (i + 1) * args.batch_size)
        with writing(os.path.join(output, name), 'w', encoding='utf-8') as f:
            f.write(review_page.text(page, i, found[part], made[part]))


def main() -> None:
    args = parse_arguments()
    known = identified(args.findings)
    dataset = dataset_for(args, known)
    folder = recordings_for(args, known, dataset)
    chosen, classes = choose(args, dataset)
    settings = about(args, folder)
    check_output(args.output, settings, args.force)
    aside = os.path.join(args.output, ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    os.makedirs(aside)
    try:
        found, made, problems = make_clips(args, folder, chosen)
        names = [f'batch-{i + 1}.html' for i in range(math.ceil(len(found) / args.batch_size))]
        title = os.path.basename(os.path.dirname(os.path.abspath(args.findings)))
        install(args, settings, Page(title, names, args.blind, args.max_frequency, classes, problems), found, made)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(args.output)  # only if nothing was written
    for what, why in problems[:SHOWN]:
        print(f'note: {what}: {why}', file=sys.stderr)
    left = f'; {len(problems)} left out: {os.path.join(args.output, "skipped.tsv")}' if problems else ''
    pages, first = 'pages' if len(names) > 1 else 'page', os.path.join(args.output, names[0])
    print(f'{len(found)} detections on {len(names)} {pages}{left}. Open in a browser: {first}')


if __name__ == '__main__':
    program.run(main)
