#!/usr/bin/env python3
"""The demo with several drivers at once, while processes are killed at random and the disk is temporarily full.

The demo runs once undisturbed. Then several shells at once repeat the same command until it succeeds, while processes
of all its stages are killed. Ends with status 1 unless all results are identical, byte for byte.
"""

import argparse
import collections
import contextlib
import filecmp
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from helpers import Checkout

NAME = 'chaos'
# Each of these is killed at least once if there are enough kills.
STAGES = (
    'demo.sh',
    'prepare_birdclef.sh',
    'generate.py',
    'collect.py',
    'recreate.py',
    'convert.py',
    'split.py',
    'validate.py',
    'train_all.sh',
    'claim.sh',
    'watcher',
    'train.py',
    'predict.py',
    'eval.py',
    'blender.py',
    'submit_all.sh',
    'submit_csv.py',
)
# Files that describe a run and are not its results.
RECORDS = ('*.log', '*.run.json', 'report.html')


def start(project, options, token, output):
    env = dict(
        os.environ,
        VIRTUAL_ENV=sys.prefix,
        CHAOS=token,
        OMP_NUM_THREADS='1',
        TRAIN_ALL_POLL='1',
        SUBMIT_ALL_POLL='1',
        CLAIM_BEAT='1',
        CLAIM_LEASE='20',
        PIP_NO_INDEX='1',
    )  # without an index, an attempt to install packages fails
    return subprocess.Popen(
        [project / 'experiments' / 'demo.sh', '--dataset', NAME, *options],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def processes(token):
    """{stage: its processes} of a job. Processes that are not in STAGES are under the names of their programs."""
    found = collections.defaultdict(list)
    for path in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            if b'CHAOS=' + token.encode() in (path / 'environ').read_bytes().split(b'\0'):
                words = (path / 'cmdline').read_bytes().decode(errors='replace').split('\0')
                names = [os.path.basename(word) for word in words[:3]]
                stage = next((name for name in names if name in STAGES), names[0])
                found['watcher' if '--watch' in words and stage == 'claim.sh' else stage].append(int(path.name))
        except OSError:
            pass
    return found


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Disk:
    """A disk in memory, which can be filled. Without the right to mount, a normal folder, which can't."""

    def __init__(self, path, megabytes):
        self.path = path
        path.mkdir()
        mount = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', f'size={int(megabytes)}m', 'none', path], stderr=subprocess.PIPE, text=True
        )
        self.mounted = mount.returncode == 0
        if not self.mounted:
            print(f'the disk is not filled: {mount.stderr.strip()}', flush=True)

    def fill(self):
        with contextlib.suppress(OSError), open(self.path / 'filler', 'wb', buffering=0) as f:
            while f.write(bytes(1 << 16)):
                pass
        with contextlib.suppress(OSError), open(self.path / 'filler', 'ab', buffering=0) as f:
            while f.write(b'x'):
                pass

    def free(self):
        (self.path / 'filler').unlink()

    def close(self):
        if self.mounted:
            subprocess.run(['umount', '-l', self.path], check=True)


def disturb(project, disk, options, args, seconds, rng, token, output):
    """Run the job while processes are killed until it succeeds.

    Returns how often each stage was killed, and how many drivers failed on a full disk.

    A job that ends before all kills have happened starts from scratch, without its results in experiments/.
    """
    kills, failed_on_full = collections.Counter(), 0
    targets = rng.sample(STAGES, min(args.kills, len(STAGES)))
    drivers = [start(project, options, token, output) for _ in range(args.drivers)]
    begun = time.monotonic()
    pause = seconds / args.kills
    next_kill = begun + rng.expovariate(1 / pause)
    seen, full_since, was_full = {}, None, not disk.mounted
    ended_well = enough = False
    while not (ended_well and enough):
        time.sleep(0.02)
        now = time.monotonic()
        if now - begun > args.limit:
            raise SystemExit(f'chaos.py: not finished after {int(now - begun)} s and {int(sum(kills.values()))} kills')
        running = processes(token)
        # A stage that was never killed is killed at a random time soon after it starts.
        due = None
        for stage in targets:
            if stage in running and not kills[stage]:
                due = stage if now > seen.setdefault(stage, now + rng.uniform(0, 0.3)) else due
            else:
                seen.pop(stage, None)
        if due is None and now > next_kill and sum(kills.values()) < args.kills and running:
            due = min(running, key=lambda stage: (kills[stage] + 1) * rng.expovariate(1))
        if due is not None:
            kill(rng.choice(running[due]))
            kills[due] += 1
            next_kill = now + rng.expovariate(1 / pause)
        if not was_full and 'train.py' in running and sum(kills.values()) >= args.kills // 2:
            disk.fill()
            full_since, was_full = now, True
        enough = sum(kills.values()) >= args.kills and (failed_on_full or not disk.mounted)
        if ended_well:
            for driver in drivers:
                driver.wait()
            shutil.rmtree(project / 'experiments' / NAME)
            drivers = [start(project, options, token, output) for _ in drivers]
            ended_well = False
        for i, driver in enumerate(drivers):
            if driver.poll() is not None:
                ended_well = ended_well or driver.returncode == 0
                failed_on_full += full_since is not None and driver.returncode != 0
                if not ended_well:
                    drivers[i] = start(project, options, token, output)
        if full_since is not None and (failed_on_full >= 2 or now - full_since > 60):
            disk.free()
            full_since = None
    for driver in drivers:
        driver.wait()
    return kills, failed_on_full


def same(one, other):
    """Whether two files are the same; in the index of recordings, modification times may differ."""
    if one.name != 'index.npz':
        return filecmp.cmp(one, other, shallow=False)
    with np.load(one) as a, np.load(other) as b:
        return (a['files'] == b['files']).all() and (a['headers'][:, :-1] == b['headers'][:, :-1]).all()


def differences(one, other):
    """Lines that say which results of two projects differ."""

    def results(project):
        found = {}
        for top in ('datasets', 'experiments'):
            folder = project / top / NAME
            found.update(
                {
                    p.relative_to(project): p
                    for p in folder.rglob('*')
                    if p.is_file() and not any(p.match(pattern) for pattern in RECORDS)
                }
            )
        return found

    first, second = results(one), results(other)
    lines = [
        f'{path}: only in the {"undisturbed" if path in first else "disturbed"} run'
        for path in sorted(set(first) ^ set(second))
    ]
    lines += [
        f'{path}: other bytes' for path in sorted(set(first) & set(second)) if not same(first[path], second[path])
    ]
    return lines, len(first)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kills', type=int, default=40, help='minimum number of kills (%(default)s)')
    parser.add_argument('--drivers', type=int, default=3, help='number of drivers that run at once (%(default)s)')
    parser.add_argument('--epochs', type=int, default=3, help='epochs of each model (%(default)s)')
    parser.add_argument('--recordings', type=int, default=40, help='number of recordings (%(default)s)')
    parser.add_argument('--models', metavar='FILE', type=os.path.abspath, help='table of models (that of the demo)')
    parser.add_argument('--soundscapes', type=int, default=1, help='number of soundscapes (%(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--disk', type=int, default=400, help='size of the disk in MB (%(default)s)')
    parser.add_argument('--limit', type=float, default=3600, help='seconds after which to give up (%(default)s)')
    parser.add_argument('--keep', metavar='FOLDER', help='where to keep both runs (default: they are deleted)')
    args = parser.parse_args()
    options = [
        *(['--models', args.models] if args.models else []),
        '--var',
        f'epochs={int(args.epochs)}',
        '--var',
        'epochsize=5',
        '--var',
        'batchsize=4',
        '--device',
        'cpu',
        '--',
        '--species=3',
        f'--recordings={int(args.recordings)}',
        f'--soundscapes={int(args.soundscapes)}',
        '--soundscape-seconds=15',
        '--long=0',
        '--shortest=1',
        '--longest=4',
    ]
    rng = random.Random(args.seed)
    top = pathlib.Path(args.keep or tempfile.mkdtemp()).resolve()
    top.mkdir(exist_ok=True)
    token = f'chaos.{int(os.getpid())}'
    disk = None
    try:
        disk = Disk(top / 'disk', args.disk)
        calm, disturbed = top / 'calm', disk.path / 'project'
        Checkout(calm).copy()
        shutil.copytree(calm, disturbed)
        begun = time.monotonic()
        with open(top / 'calm.log', 'w') as output:
            if start(calm, options, token, output).wait():
                raise SystemExit(f'chaos.py: the undisturbed run failed:\n{(top / "calm.log").read_text()[-2000:]}')
        seconds = time.monotonic() - begun
        print(f'undisturbed: {int(seconds)} s', flush=True)
        begun = time.monotonic()
        with open(top / 'disturbed.log', 'w') as output:
            kills, failed_on_full = disturb(disturbed, disk, options, args, seconds, rng, token, output)
        by_stage = ', '.join(f'{stage} {count}' for stage, count in kills.most_common())
        print(
            f'disturbed: {time.monotonic() - begun:.0f} s, {kills.total()} kills ({by_stage}), '
            f'{failed_on_full} drivers failed on a full disk'
        )
        lines, count = differences(calm, disturbed)
        print('\n'.join(lines) or f'{int(count)} files are the same, byte for byte')
        if args.keep:
            shutil.copytree(disturbed, top / 'disturbed', dirs_exist_ok=True)
        spared = [stage for stage in STAGES if not kills[stage]] if args.kills >= len(STAGES) else []
        if spared:
            print(f'never killed: {", ".join(spared)}')
        sys.exit(bool(lines or sum(kills.values()) < args.kills or disk.mounted and not failed_on_full))
    finally:
        for pids in processes(token).values():
            for pid in pids:
                kill(pid)
        if disk:
            disk.close()
        if not args.keep:
            shutil.rmtree(top, ignore_errors=True)


if __name__ == '__main__':
    main()
