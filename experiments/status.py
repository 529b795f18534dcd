#!/usr/bin/env python3
"""Show how far models are: finished, running, waiting, failed, interrupted or free.

Shown are the models named, else those of the table, else those in experiments/NAME/, else those of models.tsv.
"""

from birdsong import program  # isort: skip
import argparse
import datetime
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time

from birdsong import model_table as tables
from birdsong.config import EXPERIMENTS
from birdsong.files import Problem, load_npz
from birdsong.training.schedule import COLUMNS

# what claim.sh --status says by its exit status
HELD, FREE, STALE, FAILED, FINISHED, PUBLISHED = 0, 1, 3, 4, 5, 6
EPOCH = re.compile(r'epoch (\d+): (.*), rate (\S+), ([0-9.]+) s')


def claim(action, result):
    """(exit status, first line) of claim.sh for a result; free without asking if nobody has ever claimed it."""
    if not os.path.exists(result + '.lock'):
        return FREE, 'free'
    answer = subprocess.run(
        [os.path.join(EXPERIMENTS, 'claim.sh'), action, result + '.lock'], stdout=subprocess.PIPE, text=True
    )
    return answer.returncode, (answer.stdout.splitlines() or [''])[0]


def last_line(filename):
    """Last line of a log, or nothing."""
    try:
        with open(filename, 'rb') as f:
            f.seek(max(0, os.path.getsize(filename) - 4096))
            return (f.read().decode('utf-8', 'replace').strip().splitlines() or [''])[-1]
    except FileNotFoundError:
        return ''


def read_json(filename):
    """What a JSON file says, or an empty dict: one that can't be read is no reason to show nothing."""
    try:
        with open(filename, encoding='utf-8') as f:
            return json.load(f)
    except (OSError, ValueError):
        return {}


def progress(root, now=None):
    """In words, how far the training is whose files begin with `root`: epochs, metrics, rate, pace, expected end."""
    try:
        with open(root + '.log', encoding='utf-8', errors='replace') as f:
            epochs = [found for found in map(EPOCH.match, f) if found]
    except FileNotFoundError:
        epochs = []
    if not epochs:
        return 'no epoch finished yet'
    number, metrics, rate, _ = epochs[-1].groups()
    pace = sorted(float(e.group(4)) for e in epochs[-9:])[len(epochs[-9:]) // 2]
    words = f'epoch {number} ({metrics}), rate {rate}, {span(pace)} an epoch'
    settings = read_json(root + '.run.json').get('settings', {})
    left = settings.get('epochs', 0) - int(number)
    if left > 0:
        end = (now or datetime.datetime.now()) + datetime.timedelta(seconds=pace * left)
        words += ', ends {} {}'.format('by' if settings.get('patience') else 'about', end.strftime('%Y-%m-%d %H:%M'))
    return words


def span(seconds):
    """90 -> '1.5 min'"""
    for size, unit in ((3600, 'h'), (60, 'min')):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.1f} s'


def reached(root):
    """In words, the MAP that training reached on excerpts of the validation recordings, as far as its record tells."""
    try:
        record = load_npz(root + '.err.npz')
        errors = record['errors'] if 'errors' in record else record['arr_0']  # the original has no names
        column = list(record.get('columns', COLUMNS)).index('valid_map')
        epoch = read_json(root + '.run.json').get('saved_epoch') or len(errors)
        return 'MAP of excerpts %.3f after epoch %d of %d' % (errors[epoch - 1, column], epoch, len(errors))
    except (Problem, KeyError, ValueError, IndexError):
        return ''


def state_of(model, folder):
    """(state, details) of a model in words."""
    root = os.path.join(folder, model.name)
    code, words = claim('--status', root + '.npz')
    if os.path.exists(root + '.npz'):
        words = reached(root)
        if os.path.exists(root + '.pred.npz'):
            return 'finished', words
        code, holder = claim('--status', root + '.pred.npz')
        return 'finished', '; '.join(
            filter(
                None,
                (
                    words,
                    {
                        HELD: 'predictions: ' + holder,
                        FAILED: 'predictions failed: ' + (last_line(root + '.pred.log') or holder),
                    }.get(code, 'no predictions yet'),
                ),
            )
        )
    if code == HELD:
        return 'running', '{}; {}'.format(re.sub('^held by ', 'on ', words), progress(attempt(root)))
    if code == FAILED:
        reason = last_line(root + '.log')
        return 'failed', f'{reason}; see {root}.log' if reason else words
    if code in (FINISHED, PUBLISHED):
        return 'finished', ''
    missing = [t for t in tables.teachers_of(model) if not os.path.exists(os.path.join(folder, t + '.npz'))]
    if missing:
        return 'waiting', 'for {}'.format(
            ', '.join(
                t + (', which failed' if claim('--status', os.path.join(folder, t + '.npz'))[0] == FAILED else '')
                for t in missing
            )
        )
    if words == 'free':
        return 'free', ''
    return 'interrupted', f'{words}; {progress(attempt(root))}'


def attempt(root):
    """Like `root`, but in the folder of the latest attempt."""
    return os.path.join(claim('--work', root + '.npz')[1], os.path.basename(root))


def slurm_jobs(folder):
    """{model: list of its jobs that are not done, in words, the latest last}, of models in `folder`; empty where there is no Slurm.

    The model of jobs that work for all is 'workers'.
    """
    jobs = {}
    if not shutil.which('squeue'):
        return jobs
    answer = subprocess.run(
        [
            'squeue',
            '--noheader',
            '--states=all',
            '--sort=i',
            '--Format='
            + ','.join(field + ':|' for field in ('JobID', 'Name', 'State', 'NodeList', 'Reason', 'RestartCnt')),
        ],
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        if not glob.glob(os.path.join(glob.escape(folder), '*.slurm.log')):
            return jobs
        return {'workers': ['not known, squeue says: ' + answer.stderr.strip().replace('\n', ' ')]}
    for line in answer.stdout.splitlines():
        number, name, state, nodes, reason, restarts = line.split('|')[:6]
        dataset, _, model = name.rpartition('/')
        if dataset == os.path.basename(folder) and state != 'COMPLETED':
            why = {'PENDING': f' ({reason})', 'RUNNING': ' on ' + nodes}.get(state, '')
            again = ', requeued {} time{}'.format(restarts, '' if restarts == '1' else 's') if restarts != '0' else ''
            jobs.setdefault(model, []).append(f'job {number} {state.lower()}{why}{again}')
    return jobs


def table(models, names, folder):
    """The lines to show."""
    states = {name: state_of(models[name], folder) for name in names}
    jobs = slurm_jobs(folder)
    width = max(map(len, names))
    lines = [
        '%-*s  %-11s  %s'
        % (
            width,
            name,
            state,
            '; '.join(
                filter(None, (details, 'Slurm: ' + jobs[name][-1] if name in jobs and state != 'finished' else ''))
            ),
        )
        for name, (state, details) in states.items()
    ]
    if 'workers' in jobs:
        lines.append('Slurm: workers: ' + '; '.join(jobs['workers']))
    counts = {}
    for state, _ in states.values():
        counts[state] = counts.get(state, 0) + 1
    if any('MAP of excerpts' in line or 'valid map' in line for line in lines):
        lines.append(
            'MAP: of the excerpts that training validates with; that of the predictions for whole recordings: '
            f'./eval_all.sh --dataset {os.path.basename(folder)}'
        )
    return [line.rstrip() for line in lines] + [
        '%d models: %s' % (len(names), ', '.join('%d %s' % (n, s) for s, n in counts.items()))
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', metavar='MODEL', nargs='*', help='models to show')
    parser.add_argument('--models', metavar='FILE', help='table of models')
    parser.add_argument('--dataset', metavar='NAME', default='birdclef', help='dataset (default: %(default)s)')
    parser.add_argument(
        '--watch', metavar='SECONDS', type=float, nargs='?', const=10, help='show it again every so often (%(const)s)'
    )
    options = parser.parse_args()
    folder = os.path.join(EXPERIMENTS, options.dataset)
    while True:
        models = tables.choose(options.models, options.dataset, options.names)
        lines = table(models, list(models), folder)
        if options.watch and sys.stdout.isatty():
            sys.stdout.write('\033[2J\033[H')
        print('\n'.join(lines), flush=True)
        if not options.watch:
            return
        time.sleep(options.watch)


if __name__ == '__main__':
    program.run(main)
