#!/usr/bin/env python3
"""Loading of predictions for 100 000 recordings x 1 500 classes, 600 MB, including checks.

It measures loading the file, loading and selecting its recordings in another order as eval.py does, and for comparison
numpy.load with a dict of one array per recording. Each runs in a separate process, with the file in the page cache.
Prints seconds and peak memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile

os.environ['OMP_NUM_THREADS'] = '1'
EXPERIMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'experiments')
sys.path.insert(0, EXPERIMENTS)

import numpy as np  # noqa: E402

from birdsong.scores.journal import Writer  # noqa: E402

MEASURE = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from birdsong.scores import predictions
start = time.perf_counter()
%s
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
WAYS = {
    'load': 'predictions.load(sys.argv[2])',
    'load and select': 'found = predictions.load(sys.argv[2])\n'
    'found.select(sorted(found.files, key=lambda f: f[::-1])).max()',
    'plain': 'with np.load(sys.argv[2]) as f: files, offsets, scores = f["files"], f["offsets"], f["scores"]\n'
    'assert np.isfinite(scores).all()\n'
    'found = {name: scores[a:b] for name, a, b in zip(files.tolist(), offsets.tolist(), offsets[1:].tolist())}',
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--recordings', type=int, default=100000)
    parser.add_argument('--classes', type=int, default=1500)
    parser.add_argument('--repeats', type=int, default=7, help='number of rounds; the median is printed (%(default)s)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, 'large.pred.npz')
        keys = [f'train/2014/LIFECLEF2014_BIRDAMAZON_XC_WAV_RN{i}.wav' for i in range(args.recordings)]
        rng = np.random.default_rng(0)
        with Writer(name, keys, args.classes) as writer:
            for key in keys:
                writer.add(key, rng.random((1, args.classes), np.float32))
            writer.finish()
        print(f'{args.recordings} recordings x {args.classes} classes, {os.path.getsize(name) / 1e6:.0f} MB')
        found = {way: [] for way in WAYS}
        for _ in range(args.repeats):
            for way, code in WAYS.items():
                done = subprocess.run(
                    [sys.executable, '-c', MEASURE % code, EXPERIMENTS, name],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                found[way].append([float(x) for x in done.stdout.split()])
        for way, values in found.items():
            seconds, memory = np.median(values, axis=0)
            print(f'{way:16} {seconds:5.2f} s, {memory:5.0f} MB')


if __name__ == '__main__':
    main()
