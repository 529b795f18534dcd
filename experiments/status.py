#!/usr/bin/env python3
"""Show the state of models: finished, running, waiting, failed, interrupted or free.

Shows the models given as arguments, else those of --models, else those in experiments/DATASET/, else all of models.tsv.
"""

from birdsong import program  # isort: skip
import argparse
import collections
import glob
import os
import shutil
import subprocess
import sys
import time

from birdsong import model_table as tables
from birdsong.config import EXPERIMENTS
from birdsong.training import states


def slurm_jobs(folder: str) -> dict[str, list[str]]:
    """{model in `folder`: descriptions of its Slurm jobs that are not completed, the latest last}; {} without Slurm.

    Jobs that work for all models have the key 'workers'.
    """
    jobs = {}
    if not shutil.which('squeue'):
        return jobs
    fields = 'JobID', 'Name', 'State', 'NodeList', 'Reason', 'RestartCnt'
    command = ['squeue', '--noheader', '--states=all', '--sort=i', '--Format=' + ','.join(f'{f}:|' for f in fields)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        if not glob.glob(os.path.join(glob.escape(folder), '*.slurm.log')):
            return jobs
        error = answer.stderr.strip().replace('\n', ' ')
        return {'workers': [f'unknown, squeue failed: {error}']}
    for line in answer.stdout.splitlines():
        number, name, state, nodes, reason, restarts = line.split('|')[:6]
        dataset, _, model = name.rpartition('/')
        if dataset == os.path.basename(folder) and state != 'COMPLETED':
            why = {'PENDING': f' ({reason})', 'RUNNING': f' on {nodes}'}.get(state, '')
            again = f', requeued {restarts} time{"" if restarts == "1" else "s"}' if restarts != '0' else ''
            jobs.setdefault(model, []).append(f'job {number} {state.lower()}{why}{again}')
    return jobs


def table(models: dict[str, tables.Model], folder: str) -> list[str]:
    """The lines to show."""
    found = {name: states.state_of(model, folder) for name, model in models.items()}
    jobs = slurm_jobs(folder)
    width = max(map(len, found))
    lines = []
    for name, (state, details) in found.items():
        job = f'Slurm: {jobs[name][-1]}' if name in jobs and state != 'finished' else ''
        lines.append(f'{name:<{width}}  {state:<11}  {"; ".join(filter(None, (details, job)))}'.rstrip())
    if 'workers' in jobs:
        lines.append(f'Slurm: workers: {"; ".join(jobs["workers"])}')
    if any('MAP of excerpts' in line or 'valid map' in line for line in lines):
        lines.append(
            'MAP: for excerpts, as in training; for the MAP of the predictions for whole recordings, type '
            f'./eval_all.sh --dataset {os.path.basename(folder)}'
        )
    counts = collections.Counter(state for state, _ in found.values())
    return [*lines, f'{len(found)} models: {", ".join(f"{count} {state}" for state, count in counts.items())}']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', metavar='MODEL', nargs='*', help='models to show')
    parser.add_argument('--models', metavar='FILE', help='table of models')
    parser.add_argument('--dataset', metavar='NAME', default='birdclef', help='dataset (default: %(default)s)')
    parser.add_argument(
        '--watch',
        metavar='SECONDS',
        type=float,
        nargs='?',
        const=10,
        help='update the output every SECONDS (%(const)s)',
    )
    options = parser.parse_args()
    folder = os.path.join(EXPERIMENTS, options.dataset)
    while True:
        models = tables.choose(options.models, options.dataset, options.names)
        lines = table(models, folder)
        if options.watch and sys.stdout.isatty():
            sys.stdout.write('\033[2J\033[H')
        print('\n'.join(lines), flush=True)
        if not options.watch:
            return
        time.sleep(options.watch)


if __name__ == '__main__':
    program.run(main)
