#!/usr/bin/env python3
"""A large archive: how long do listing, sharding and resuming take, in relation to the prediction?

Creates a folder with links to one recording of an hour (1 000 by default), plans its shards, lets the driver find one
shard to do and all others done, plans again, and predicts one shard with a small network. Ends with status 1 if
planning and resuming take more than 1 % of the time that predicting everything would take.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import test_identify  # noqa: E402

import helpers  # noqa: E402,F401 - makes the modules of the project importable

MOST = 0.01


def timed(what, *command, **env):
    start = time.monotonic()
    done = subprocess.run(list(map(str, command)), env=dict(os.environ, **env), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{what}: {done.stderr}')
    seconds = time.monotonic() - start
    print(f'{what}: {seconds:.2f} s', flush=True)
    return seconds, done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--hours', type=int, default=1000, help='number of links (%(default)s)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        project = test_identify.Checkout(folder / 'project')
        project.copy()
        test_identify.write_trained(project)
        recording = test_identify.sound(folder / 'hour.flac', 3600)
        for number in range(args.hours):
            link = folder / f'archive/{number % 100:02}/{number:06}.flac'
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(recording)
        common = folder / 'archive', '--dataset', 'tiny', '--output', folder / 'out', '--model', 'one'
        program = sys.executable, project.experiments / 'identify.py', *common
        planning, done = timed('planning', *program, '--plan')
        shards = done.stdout.split()[1:]
        again, _ = timed('planning again', *program, '--plan')
        first = folder / 'out/shards' / f'{shards[0]}.npz'
        env = {'OMP_NUM_THREADS': '1', 'VIRTUAL_ENV': sys.prefix}
        predicting, done = timed('predicting a shard', *program, '--device', 'cpu', '--shard', shards[0], first, **env)
        print(done.stdout, end='')
        for shard in shards[1:]:
            # with recordings of the first shard, which are not merged: this measures reading them
            os.link(first, folder / 'out/shards' / f'{shard}.npz')
        resuming, _ = timed('resuming', project.experiments / 'identify.sh', *common, **env)
    share = (planning + resuming) / (predicting * len(shards))
    print(f'{args.hours} h in {len(shards)} shards: planning and resuming take {share:.2%} of the prediction')
    sys.exit(share > MOST)


if __name__ == '__main__':
    main()
