#!/usr/bin/env python3
"""Many workers share many jobs; some are killed (kill -9) during a job, and new ones are started.

Counts jobs that were published, lost, or published with files of two attempts, and overlaps (two attempts of a job that
run at once); ends with status 1 unless all jobs were published without mixtures and overlaps. With --without-protocol,
the workers take no claims; this must cause overlaps, which proves that they are detected.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CLAIM = HERE.parent.parent / 'experiments' / 'claim.sh'
KINDS = ('worker', 'supervisor', 'supervisor and watcher', 'command', 'watcher')


def tree():
    """{process: its children} and {process: its command line} of this machine."""
    children, commands = collections.defaultdict(list), {}
    for path in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            stat = (path / 'stat').read_text().rsplit(') ', 1)[1].split()
            commands[int(path.name)] = (path / 'cmdline').read_bytes().decode(errors='replace').split('\0')
        except OSError:
            continue
        if stat[0] != 'Z':
            children[int(stat[1])].append(int(path.name))
    return children, commands


def victims(worker, kind, children, commands):
    """Those processes of a worker that are to be killed; none if it is not running a job."""

    def below(pid):
        return [p for child in children[pid] for p in [child, *below(child)]]

    def runs(pid, what):
        return any(word.endswith(what) for word in commands.get(pid, ())[:3])

    everything = below(worker)
    jobs = [p for p in everything if runs(p, 'job.sh')]
    claims = [p for p in everything if runs(p, 'claim.sh') and '--watch' not in commands[p] and p not in jobs]
    watchers = [p for p in everything if runs(p, 'claim.sh') and '--watch' in commands[p]]
    if not jobs:
        return []
    return {
        'worker': [worker, *everything],
        'supervisor': [worker, *claims],
        'supervisor and watcher': [worker, *claims, *watchers],
        'command': jobs,
        'watcher': watchers,
    }[kind]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--workers', type=int, default=50)
    parser.add_argument('--jobs', type=int, default=200)
    parser.add_argument('--kills', type=int, default=25)
    parser.add_argument(
        '--kill', choices=(*KINDS, 'all'), default='all', help='what is killed of a worker (each in turn)'
    )
    parser.add_argument('--every', type=float, default=0.3, help='seconds between kills (%(default)s)')
    parser.add_argument('--step', default='0.3', help='seconds for each quarter of a job (%(default)s)')
    parser.add_argument('--limit', type=float, default=1800, help='seconds after which to give up (%(default)s)')
    parser.add_argument('--folder', help='folder for the files, for example on NFS (default: a temporary folder)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--without-protocol', action='store_true', help='negative control')
    args = parser.parse_args()
    rng = random.Random(args.seed)
    top = pathlib.Path(tempfile.mkdtemp(dir=args.folder))
    folder = top / 'jobs'
    folder.mkdir()
    events = top / 'events'
    events.touch()
    env = dict(os.environ, EVENTS=str(events), STEP_SECONDS=args.step, LAST_JOB=f'job{int(args.jobs)}')
    program = [] if args.without_protocol else [str(CLAIM)]

    def start():
        return subprocess.Popen(
            [HERE / 'worker.sh', folder, str(args.jobs), *program],
            env=env,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    begun = time.monotonic()
    workers = [start() for _ in range(args.workers)]
    kills, next_kill = 0, begun + 1
    while any(w.poll() is None for w in workers) and time.monotonic() - begun < args.limit:
        time.sleep(0.05)
        if kills >= args.kills:
            events.with_name(f'{events.name}.kills_made').touch()
        elif time.monotonic() > next_kill:
            kind = KINDS[kills % len(KINDS)] if args.kill == 'all' else args.kill
            machine = tree()
            candidates = [
                (w, victims(w.pid, 'worker' if args.without_protocol else kind, *machine))
                for w in rng.sample(workers, len(workers))
                if w.poll() is None
            ]
            worker, pids = next(((w, pids) for w, pids in candidates if pids), (None, ()))
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if pids:
                kills += 1
                next_kill = time.monotonic() + args.every
                if worker.pid in pids:
                    worker.wait()
                    workers[workers.index(worker)] = start()
    for w in workers:
        if w.poll() is None:
            os.killpg(w.pid, signal.SIGKILL)
        w.wait()
    count = collections.Counter(line.split()[0] for line in events.read_text().splitlines())
    published = mixed = leftovers = 0
    for number in range(1, args.jobs + 1):
        result = folder / (f'job{int(number)}.npz')
        published += result.exists()
        mixed += result.exists() and result.read_text() != result.with_name(f'{result.name}.vars').read_text()
    leftovers = sum(1 for path in folder.iterdir() if path.suffix not in ('.npz', '.vars'))
    print(
        f'{args.workers} workers, {args.jobs} jobs, {kills} kills of {args.kill}: {published} published, '
        f'{args.jobs - published} lost, {mixed} mixed, {count["overlap"]} overlaps; {count["begin"]} begun, '
        f'{count["resume"]} resumed, {count["end"]} ended, {leftovers} left over; {time.monotonic() - begun:.0f} s'
    )
    shutil.rmtree(top, ignore_errors=True)
    sys.exit(published < args.jobs or kills < args.kills or mixed > 0 or count['overlap'] > 0 or leftovers > 0)


if __name__ == '__main__':
    main()
