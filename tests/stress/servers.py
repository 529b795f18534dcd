#!/usr/bin/env python3
"""Servers that share a folder, with drivers on each: some die, some are suspended for longer than the lease.

A server is a process namespace with its own host name, whose processes are invisible to the others; clocks differ by an
hour. Short scripts replace train.py and predict.py. Ends with status 1 unless all models are finished in the end, with
all steps of training, and all files are from the same attempt.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
# Starts a process namespace; all its processes end with it.
BOOT = [
    'unshare',
    '--pid',
    '--fork',
    '--kill-child',
    '--mount-proc',
    '--uts',
    'bash',
    '-c',
    'echo "$HOSTNAME" > /proc/sys/kernel/hostname; "$@"; exit',
    'boot',
]
# Changes the local clock of a program, but not the one that sets the times of files.
CLOCK = """#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime"), status = real(id, t);
    if (!status && id == CLOCK_REALTIME) t->tv_sec += atol(getenv("CLOCK_AHEAD"));
    return status;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return t ? (*t = now.tv_sec) : now.tv_sec;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""
TRAIN = """#!/usr/bin/env python3
import os, pathlib, sys, time
out = pathlib.Path(sys.argv[-1])
state, aside = out.with_suffix('.state'), out.with_name('.state')
steps = state.read_text().split() if state.exists() else []
while len(steps) < 5:
    time.sleep(float(os.environ['STEP_SECONDS']))
    steps.append(os.environ['HOSTNAME'])
    aside.write_text(' '.join(steps))
    aside.replace(state)
# The last model waits until all events have happened, so that a fast machine does not finish before.
while out.stem == os.environ['LAST_MODEL'] and not os.path.exists(os.environ['ALL_HAPPENED']):
    time.sleep(0.1)
token = os.environ['CLAIM_TOKEN']
pathlib.Path(str(out) + '.vars').write_text(token)
state.unlink()
out.write_text(' '.join([*steps, token]))
"""


def obstacle():
    """Why servers are not possible on this machine, or nothing."""
    if not shutil.which('cc'):
        return 'needs a C compiler, cc'
    trial = subprocess.run([*BOOT, 'true'], env=dict(os.environ, HOSTNAME='trial'), stderr=subprocess.PIPE, text=True)
    return trial.returncode and f'needs the right to make namespaces: {trial.stderr.strip()}'


def build_clock(folder):
    """A library for LD_PRELOAD that shifts a program's clock by CLOCK_AHEAD seconds."""
    library = folder / 'clock.so'
    subprocess.run(
        ['cc', '-shared', '-fPIC', '-x', 'c', '-', '-o', library, '-ldl'], input=CLOCK, text=True, check=True
    )
    return library


class Server:
    """A machine called `name`, with its clock `ahead` by some seconds, that runs a command; output: file `said`."""

    def __init__(self, name, command, said, clock, ahead=0, **env):
        self.name = name
        env = dict(os.environ, HOSTNAME=name, LD_PRELOAD=str(clock), CLOCK_AHEAD=str(ahead), **env)
        with open(said, 'a') as f:
            self.process = subprocess.Popen(
                [*BOOT, *map(str, command)], env=env, stdin=subprocess.DEVNULL, stdout=f, stderr=f
            )

    def processes(self):
        found = {}
        for path in pathlib.Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if b'HOSTNAME=' + self.name.encode() in (path / 'environ').read_bytes().split(b'\0'):
                    found[int(path.name)] = (path / 'stat').read_text().rpartition(') ')[2][0]
        return found

    def suspend(self):
        while awake := [pid for pid, state in self.processes().items() if state not in 'TZ']:
            for pid in awake:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)

    def wake(self):
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def die(self):
        self.process.kill()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--models', type=int, default=40)
    parser.add_argument('--servers', type=int, default=3, help='at a time (%(default)s)')
    parser.add_argument('--drivers', type=int, default=2, help='on each (%(default)s)')
    parser.add_argument('--events', type=int, default=20, help='deaths and suspensions, in turn (%(default)s)')
    parser.add_argument('--lease', type=float, default=4, help='seconds (%(default)s)')
    parser.add_argument('--step', default='0.5', help='seconds for each fifth of a training (%(default)s)')
    parser.add_argument('--limit', type=float, default=1200, help='seconds after which to give up (%(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    why = obstacle()
    if why:
        raise SystemExit(f'servers.py: {why}')
    from helpers import Checkout, with_standins

    rng = random.Random(args.seed)
    top = pathlib.Path(tempfile.mkdtemp())
    checkout = Checkout(top / 'project')
    checkout.copy()
    names = [f'm{int(i)}' for i in range(args.models)]
    with_standins(checkout, ''.join(f'{name}\tpublished dummy lme1\t-\n' for name in names))
    (checkout.experiments / 'train.py').write_text(TRAIN)
    folder = checkout.experiments / 'tiny'
    clock = build_clock(top)
    drive = [
        'bash',
        '-c',
        f'for i in $(seq {int(args.drivers)}); do ( until "$@"; do sleep 0.2; done ) & done; wait',
        'drive',
        checkout.experiments / 'train_all.sh',
        '--dataset',
        'tiny',
        '--models',
        checkout.experiments / 'table.tsv',
    ]
    happened = top / 'all_happened'
    booted, counts = 0, collections.Counter()

    def boot():
        nonlocal booted
        booted += 1
        return Server(
            f'server{int(booted)}',
            drive,
            top / 'said',
            clock,
            (0, 3600, -3600)[booted % 3],
            VIRTUAL_ENV=sys.prefix,
            CLAIM_BEAT='0.2',
            CLAIM_LEASE=str(args.lease),
            STEP_SECONDS=args.step,
            TRAIN_ALL_POLL='0.5',
            LAST_MODEL=names[-1],
            ALL_HAPPENED=str(happened),
        )

    def done():
        return (
            sum((folder / (name + suffix)).exists() for name in names for suffix in ('.npz', '.pred.npz'))
            == 2 * args.models
        )

    begun = time.monotonic()
    servers, asleep = [boot() for _ in range(args.servers)], {}
    next_event = begun + args.lease
    try:
        while not (done() and not asleep) and time.monotonic() - begun < args.limit:
            time.sleep(0.1)
            now = time.monotonic()
            for server in [server for server, until in asleep.items() if now > until]:
                server.wake()
                del asleep[server]
            for i, server in enumerate(servers):
                # A server whose drivers found nothing to do has ended; another one starts until all is finished.
                if server.process.poll() is not None and not done():
                    servers[i] = boot()
            if sum(counts.values()) >= args.events:
                happened.touch()
            elif now > next_event and len(asleep) < args.servers - 1:
                server = rng.choice([server for server in servers if server not in asleep])
                if counts['death'] <= counts['sleep']:
                    counts['death'] += 1
                    server.die()
                else:
                    counts['sleep'] += 1
                    server.suspend()
                    asleep[server] = now + 1.5 * args.lease
                next_event = now + rng.uniform(0.3, 0.7) * args.lease
        for server in servers:
            server.process.wait(timeout=args.limit)
    finally:
        for server in servers:
            server.wake()
            server.die()
    said = (top / 'said').read_text()
    counts['noticed'] = len(re.findall('lost to another|discarded', said))
    for name in names:
        result, companion = folder / (f'{name}.npz'), folder / (f'{name}.npz.vars')
        *steps, token = result.read_text().split() if result.exists() else ['']
        counts['lost'] += not token
        counts['incomplete'] += bool(token) and len(steps) != 5
        counts['mixed'] += bool(token) and companion.read_text() != token
        counts['moved'] += len(set(steps)) > 1
    left = [path.name for path in folder.iterdir() if path.name.startswith('.') or path.suffix == '.lock']
    print(
        f'{args.models} models, {args.servers} servers of {args.drivers} drivers, {booted} booted, '
        f'{counts["death"]} died, {counts["sleep"]} suspended: {counts["lost"]} lost, '
        f'{counts["incomplete"]} incomplete, {counts["mixed"]} mixed, '
        f'{len(left)} files left over; {counts["moved"]} trained on more than one server, '
        f'{counts["noticed"]} attempts discarded; {time.monotonic() - begun:.0f} s'
    )
    if left:
        print(f'left over: {" ".join(left)}')
    shutil.rmtree(top, ignore_errors=True)
    sys.exit(
        bool(
            counts['lost']
            or counts['incomplete']
            or counts['mixed']
            or left
            or counts['death'] + counts['sleep'] < args.events
        )
    )


if __name__ == '__main__':
    main()
