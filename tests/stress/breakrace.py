#!/usr/bin/env python3
"""A race for one stale claim: many processes find it stale, wait for each other, then all try to take it over.

Prints how many winners each round had and ends with status 1 unless each round had exactly one. With
--without-protocol, they use a common kind of lock, which removes stale locks; this must fail, which proves that two
winners are detected.
"""

import argparse
import collections
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CLAIM = HERE.parent.parent / 'experiments' / 'claim.sh'
# Found on PATH before the real command: reports that it was called, and waits for the other processes.
GATE = """#!/bin/sh
case " $* " in %s) echo >> "$ROUND/arrived"; read -r _ < "$ROUND/gate" ;; esac
PATH=${PATH#*:} exec %s "$@"
"""
WINNER = 'echo >> "$ROUND/won"; read -r _ < "$ROUND/over"; echo > "${CLAIM_WORK:-$ROUND}/x.npz"'


def make_stale(lock, elsewhere):
    """Write a claim whose holder is on another host and silent for an hour, or was on this host and is gone."""
    first = lock / '1'
    first.mkdir(parents=True)
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    gone = subprocess.Popen(['true'])
    gone.wait()
    owner = {
        'host': 'other',
        'boot': 'another' if elsewhere else boot,
        'namespace': os.readlink('/proc/self/ns/pid'),
        'user': os.getuid(),
        'process': gone.pid,
        'start': 1,
        'since': 'long ago',
        'token': 'none',
    }
    (first / 'owner').write_text(''.join('{}: {}\n'.format(*item) for item in owner.items()))
    (first / 'beat').touch()
    hour_ago = time.time() - 3600
    os.utime(first / 'beat', (hour_ago, hour_ago))


def lines(path):
    return path.stat().st_size if path.exists() else 0


def play(folder, workers, elsewhere, protocol):
    """Play one round; returns how many workers got the claim."""
    lock = folder / 'x.npz.lock'
    if protocol:
        make_stale(lock, elsewhere)
    else:
        lock.mkdir()
        os.utime(lock, (0, 0))
    for name in ('gate', 'over'):
        os.mkfifo(folder / name)
    env = dict(os.environ, ROUND=str(folder), PATH=f'{folder.parent / "gates"}:{os.environ["PATH"]}')
    program = CLAIM if protocol else HERE / 'naive.sh'
    processes = [
        subprocess.Popen([program, lock, '--', 'sh', '-c', WINNER], env=env, stderr=subprocess.DEVNULL)
        for _ in range(workers)
    ]

    def ended():
        return sum(p.poll() is not None for p in processes)

    def wait_for(condition):
        deadline = time.monotonic() + 120
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f'breakrace.py: round in {folder} hangs')
            time.sleep(0.002)

    wait_for(lambda: lines(folder / 'arrived') + ended() >= workers)
    gate = os.open(folder / 'gate', os.O_RDWR)
    os.write(gate, b'\n' * workers)
    wait_for(lambda: lines(folder / 'won') + ended() >= workers)
    winners = lines(folder / 'won')
    over = os.open(folder / 'over', os.O_RDWR)
    os.write(over, b'\n' * workers)
    for p in processes:
        p.wait()
    os.close(gate)
    os.close(over)
    return winners


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=300)
    parser.add_argument('--workers', type=int, default=20)
    parser.add_argument('--folder', help='folder for the files, for example on NFS (default: a temporary folder)')
    parser.add_argument('--without-protocol', action='store_true', help='negative control')
    args = parser.parse_args()
    counts = collections.Counter()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = pathlib.Path(folder)
        (folder / 'gates').mkdir()
        command, arguments = ('rmdir', '*') if args.without_protocol else ('mv', '*"/2 "')
        gate = folder / 'gates' / command
        gate.write_text(GATE % (arguments, command))
        gate.chmod(0o755)
        for number in range(args.rounds):
            (folder / str(number)).mkdir()
            counts[play(folder / str(number), args.workers, number % 2, not args.without_protocol)] += 1
    winners = ', '.join(f'{counts[n]} with {n} winner{"" if n == 1 else "s"}' for n in sorted(counts))
    print(f'{args.rounds} rounds of {args.workers} processes: {winners}')
    sys.exit(counts[1] != args.rounds)


if __name__ == '__main__':
    main()
