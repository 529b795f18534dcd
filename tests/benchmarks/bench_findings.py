#!/usr/bin/env python3
"""Calibration and detections on real recordings: are probabilities and events right, before and after calibrate.py?

DATA is a folder with birds5/ (104 clips of field recordings of 5 species, manifest.csv), esc10/ (ESC-10), and
lifeclef_tree.py, which mixes test clips of birds5 to soundscapes with known events. This script creates the datasets
bench_birds5 and bench_esc10, and does with the programs of the project what a user would do:

  1. train the network `cnn` of recipe.tsv in a cross-validation on both, and on all clips of birds;
  2. calibrate from the held-out predictions: log loss, Brier score and ECE before and after, on held-out groups; for
     ESC-10, also of windows of 1 s, which all have the label of their recording, and with thresholds for a precision;
  3. detect birds in the soundscapes before and after calibration: F1 of events within 1 s, ROC-AUC of windows of 5 s.

Clips of one field recording are never divided. 10 small networks are trained; interrupted, it continues. Afterwards,
delete datasets/bench_* and experiments/bench_*.
"""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, os.path.abspath(__file__).rpartition('/tests/')[0] + '/experiments')

import numpy as np

from birdsong.data import folds
from birdsong.data.dataset import Dataset
from birdsong.scores import predictions

ROOT = Path(os.path.abspath(__file__)).parents[2]
EXPERIMENTS = ROOT / 'experiments'
BIRDS, SOUNDS = 'bench_birds5', 'bench_esc10'
MODEL = 'cnn'  # of recipe.tsv
FOLDS = 4
THRESHOLD, PRECISION = 0.5, 0.8


def run(program, *arguments):
    """Run a program of the project in experiments/, and print its name and output."""
    print(f'== {program} {" ".join(map(str, arguments))}', flush=True)
    command = [str(ROOT / program), *map(str, arguments)]
    if program.endswith('.py'):
        command.insert(0, sys.executable)
    if subprocess.run(command, cwd=EXPERIMENTS).returncode:
        sys.exit(f'bench_findings.py: {program} failed')


def digest(path):
    """Digest of the samples of a recording, which tells from which clip a file of the tree was made."""
    import soundfile

    return hashlib.sha256(soundfile.read(path, dtype='int16', always_2d=True)[0].tobytes()).digest()


def write_table(data, tree):
    """Write TREE/recordings.csv: the label of each clip and its field recording, and the events of the soundscapes."""
    with open(data / 'birds5' / 'manifest.csv', newline='') as f:
        originals = {digest(data / 'birds5' / row['file']): row['recording'] for row in csv.DictReader(f)}
    files = {path.stem.rpartition('_RN')[2]: path for path in tree.rglob('*.wav')}
    with open(tree / 'truth.tsv') as f, open(tree / 'recordings.csv', 'w', newline='') as out:
        table = csv.writer(out)
        table.writerow(('file', 'label', 'start', 'end', 'recording', 'split'))
        for line in f:
            media, label, *rest = line.rstrip('\n').split('\t')
            path = files[media]
            if len(rest) == 1:
                rest = ['', '', originals[digest(path)], rest[0]]
            else:
                rest += ['', 'soundscapes_test']
            table.writerow((path.relative_to(tree), label, *rest))


def prepare(data):
    """Create both datasets."""
    tree = ROOT / 'datasets' / BIRDS / 'source'
    if not tree.exists():
        tree.parent.mkdir(parents=True, exist_ok=True)
        maker = [sys.executable, data / 'lifeclef_tree.py', data / 'birds5' / 'manifest.csv', f'{tree}.new']
        subprocess.run(maker, check=True)
        write_table(data, Path(f'{tree}.new'))
        os.rename(f'{tree}.new', tree)
    run('prepare_birdclef.sh', tree / 'recordings.csv', '--dataset', BIRDS, '--folds', FOLDS)
    run('prepare_birdclef.sh', data / 'esc10', '--dataset', SOUNDS, '--fold-pattern', r'(\d)-')


def predict_short_windows():
    """Predict windows of 1 s of the recordings that each fold of ESC-10 holds out -> a file with all predictions."""
    dataset = Dataset(SOUNDS)
    parts = []
    for fold in folds.find(dataset):
        how = ('--vars', 'vars/predict_soundscapes.vars', '--var', 'len_max=1', '--score-rest')
        output = f'{fold.name}/windows.pred.npz'
        run('experiments/predict.py', '--dataset', fold.name, *how, f'{fold.name}/{MODEL}.npz', output)
        part = predictions.load(str(EXPERIMENTS / output))
        parts += [(key, part[key], *part.times(key)) for key in part.files]
    files, scores, starts, stops = zip(*sorted(parts, key=lambda part: part[0]), strict=True)
    offsets = np.cumsum([0, *map(len, scores)])
    result = f'{SOUNDS}/windows.pred.npz'
    times = {'starts': np.concatenate(starts), 'stops': np.concatenate(stops)}
    predictions.save(EXPERIMENTS / result, files, np.concatenate(scores), offsets, **times)
    labels = dataset.labels('fg.tsv')
    with open(os.path.join(dataset.path, 'labels', 'segments.tsv'), 'w') as f:
        f.writelines(f'{key}\t0\t{end.max():g}\t{labels[key]}\n' for key, end in zip(files, stops, strict=True))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', metavar='DATA', type=Path, help='see above')
    data = parser.parse_args().data.resolve()
    prepare(data)
    for dataset in BIRDS, SOUNDS:
        run('experiments/crossval.sh', '--dataset', dataset, '--models', 'recipe.tsv', MODEL)
    run('experiments/train_all.sh', '--dataset', BIRDS, '--models', 'recipe.tsv', MODEL)
    options = ('--crossval', '--softmax')
    run('experiments/calibrate.py', '--dataset', SOUNDS, *options, f'{SOUNDS}/crossval/{MODEL}.pred.npz')
    windows = ('--segments', 1, '--precision', PRECISION, '--output', f'{SOUNDS}/windows.json')
    run('experiments/calibrate.py', '--dataset', SOUNDS, *options, *windows, predict_short_windows())
    held_out, calibration = f'{BIRDS}/crossval/{MODEL}.pred.npz', f'{BIRDS}/calibration.json'
    run('experiments/calibrate.py', '--dataset', BIRDS, *options, held_out, '--output', calibration)
    predicted = f'{BIRDS}/{MODEL}.soundscapes.pred.npz'
    how = ('--vars', 'vars/predict_soundscapes.vars', '--score-rest', '--filelists', 'soundscapes_test')
    run('experiments/predict.py', '--dataset', BIRDS, *how, f'{BIRDS}/{MODEL}.npz', predicted)
    evaluated = ('--dataset', BIRDS, '--filelist', 'soundscapes_test')
    # the order of the scores of a class is the same after calibration, and so is its ROC-AUC
    run('experiments/eval.py', *evaluated, '--segments', 5, '--softmax', predicted)
    for scores in ('--softmax',), ('--calibration', calibration):
        found = f'{BIRDS}/findings.csv'
        how = ('--threshold', THRESHOLD, '--merge', 0, '--output', found)
        run('experiments/findings.py', '--dataset', BIRDS, *scores, *how, predicted)
        run('experiments/eval.py', *evaluated, '--events', found, '--tolerance', 1)


if __name__ == '__main__':
    main()
