#!/usr/bin/env python3
"""Stand-in for predict.py: records how it was called, and writes scores that are easy to recognise, or fails."""

import argparse
import os
import pathlib
import sys

import numpy as np

from birdsong.scores import predictions

HERE = pathlib.Path(__file__).resolve().parent

parser = argparse.ArgumentParser()
parser.add_argument('model')
parser.add_argument('out')
parser.add_argument('--dataset')
parser.add_argument('--filelists', default='valid')
parser.add_argument('--split-pool', action='store_true')
parser.add_argument('--score-rest', action='store_true')
parser.add_argument('--vars', action='append', default=[])
parser.add_argument('--var', action='append', default=[])
parser.add_argument('--device')
parser.add_argument('--reuse')
options = parser.parse_args()
name = os.path.basename(options.model)[: -len('.npz')]
print(f'{name}: predicting', flush=True)
with open(HERE / 'CALLS', 'a') as f:
    f.write(f'predict {name} {" ".join(a for a in sys.argv[3:] if a not in ("--reuse", options.reuse))}\n')
    if options.reuse and os.path.exists(options.reuse):
        f.write(f'reuse {name} {" ".join(predictions.load(options.reuse).files)}\n')
if not os.path.exists(options.model):
    sys.exit(f'predict.py: {options.model}: no such file')
if (HERE / 'FAIL_PREDICT').exists() and name in (HERE / 'FAIL_PREDICT').read_text().split():
    sys.exit(f'predict.py: {name}: out of memory')
dataset = HERE.parent / 'datasets' / options.dataset
classes = 3
keys = [key for part in options.filelists.split(',') for key in (dataset / 'filelists' / part).read_text().split()]
rows = 3 if 'soundscapes' in options.filelists and not name.startswith('meta') else 1
# The score of a class grows with it, and differs from recording to recording and from row to row.
scores = [np.add.outer(np.arange(rows), np.arange(classes)).astype(np.float32) + i for i in range(len(keys))]
predictions.save(options.out, keys, scores)
