#!/usr/bin/env python3
"""Windows of soundscapes: do self-training and the averages of overlapping windows help?

DATASET has folds (prepare_birdclef.sh --folds 5). For each fold, this script mixes two sets of soundscapes from
recordings that no network is trained on: those of the fold, of which the times are known, and those of the next fold,
without labels. The others are for training. In a soundscape, recordings of several classes follow each other at random
times; they are quieter, and with more noise and echo than the recordings for training.

With the programs of the project, it trains the models of a table, which are teachers, and students (self_training) on
the soundscapes without labels, too. It prints the ROC-AUC of windows of 5 s of all soundscapes with labels, and the
differences of the student and of overlapping windows (eval.py --average-overlaps) from the teacher, with bootstrap
intervals (95 %) over soundscapes: means over the seeds.
Interrupted, it continues. Afterwards, delete datasets/DATASET-mixed* and experiments/DATASET-mixed*.
"""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, os.path.abspath(__file__).rpartition('/tests/')[0] + '/experiments')

import numpy as np
import scipy.signal
import soundfile

from birdsong.data import audio, folds
from birdsong.data.dataset import Dataset
from birdsong.scores import combination, predictions, segments

ROOT = Path(os.path.abspath(__file__)).parents[2]
EXPERIMENTS = ROOT / 'experiments'
SECONDS, LONGEST = 60, 8  # of a soundscape; of a recording in it
ROUNDS = 4  # how often each recording is used
GAP = 1, 8  # seconds between recordings
NOISE, LEVEL = 0.01, (-3, 12)  # root mean square of the noise; level of recordings above it in dB
ECHO = 0.4  # seconds
WINDOW, SAMPLES = 5, 1000


def run(program, *arguments):
    """Run a program of the project in experiments/."""
    command = [str(ROOT / program), *map(str, arguments)]
    if program.endswith('.py'):
        command.insert(0, sys.executable)
    if subprocess.run(command, cwd=EXPERIMENTS).returncode:
        sys.exit(f'bench_soundscapes.py: {program} failed')


def noise(samples, rng):
    """Noise (samples,) with a falling spectrum, as of wind and distant water."""
    x = scipy.signal.lfilter([1], [1, -0.9], rng.standard_normal(samples))
    return NOISE * x / x.std()


def distant(samples, rate, rng):
    """A recording as from some distance: with an echo, and at a random level."""
    length = int(ECHO * rate)
    echo = rng.standard_normal(length) * np.exp(-8 * np.arange(length) / length)
    wet = scipy.signal.fftconvolve(samples, echo)[: len(samples)]
    mixed = samples / max(samples.std(), 1e-9) + 0.5 * wet / max(wet.std(), 1e-9)
    return mixed / mixed.std() * NOISE * 10 ** (rng.uniform(*LEVEL) / 20)


def soundscapes(dataset, keys, rng):
    """Yield soundscapes of the recordings: samples, and (start, end, class index) of each recording in it."""
    rate, labels = dataset_rate(dataset), dataset.labels()
    order = np.concatenate([rng.permutation(keys) for _ in range(ROUNDS)]).tolist()
    while order:
        x, at, events = noise(SECONDS * rate, rng), rng.uniform(*GAP), []
        while order and at < SECONDS - 2:
            samples = audio.WavFile(dataset.audio_path(order[-1]))[:].astype(float)
            start = rng.integers(max(1, len(samples) - LONGEST * rate))
            samples = samples[start : start + LONGEST * rate][: int((SECONDS - at) * rate)]
            first = int(at * rate)
            x[first : first + len(samples)] += distant(samples, rate, rng)
            events.append((at, at + len(samples) / rate, labels[order.pop()]))
            at = events[-1][1] + rng.uniform(*GAP)
        yield x, events


def dataset_rate(dataset):
    return audio.WavFile(dataset.audio_path(dataset.filelist('train')[0])).sample_rate


def mix(dataset, number, found):
    """Create the dataset of a fold, as a table of links to recordings and of soundscapes; returns its name."""
    name = f'{dataset.name}-mixed{number}'
    source = ROOT / 'datasets' / name / 'source'
    rate, rng = dataset_rate(dataset), np.random.default_rng(number)
    used, unlabelled = found[number], found[(number + 1) % len(found)]
    labels, names = dataset.labels(), dataset.labelset
    rows = []
    single = [('train', key) for key in used.train if key not in unlabelled.valid] + [('valid', k) for k in used.valid]
    for part, key in single:
        link = source / part / key
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(os.path.abspath(dataset.audio_path(key)))
        rows.append((f'{part}/{key}', names[labels[key]], '', '', part))
    for part, keys in ('soundscapes_val', used.valid), ('unlabelled', unlabelled.valid):
        (source / part).mkdir(exist_ok=True)
        for i, (samples, events) in enumerate(soundscapes(dataset, keys, rng)):
            file = f'{part}/{i}.wav'
            soundfile.write(source / file, np.clip(samples, -1, 1), rate)
            if part == 'unlabelled':
                rows.append((file, '', '', '', part))
            else:
                rows += [(file, names[label], f'{start:.2f}', f'{end:.2f}', part) for start, end, label in events]
    with open(source / 'recordings.csv', 'w', newline='') as f:
        csv.writer(f).writerows([('file', 'label', 'start', 'end', 'split'), *rows])
    options = ('--sample-rate', rate, '--group', 'none')
    run('prepare_birdclef.sh', source / 'recordings.csv', '--dataset', name, *options)
    return name


def table(models, folder, settings):
    """Write a table with the models of table `models`, and with a student of each."""
    lines = [line.split('\t') for line in Path(models).read_text().splitlines() if line and not line.startswith('#')]
    path = folder / 'soundscapes.tsv'
    with open(path, 'w') as f:
        f.write('# name\tpresets\tteachers\n')
        for name, presets, *_ in lines:
            f.write(f'{name}\t{presets}\t-\n{name}_student\t{" ".join([presets, *settings])}\tself_training={name}\n')
    return path, [line[0] for line in lines]


def windows(name, model, overlap):
    """Scores and truth of the windows of the soundscapes of a dataset; averages if they `overlap` by half."""
    output = f'{name}/{model}{".overlap" if overlap else ""}.soundscapes.pred.npz'
    if not (EXPERIMENTS / output).exists():
        how = ('--vars', 'vars/predict_soundscapes.vars', '--score-rest', '--filelists', 'soundscapes_val')
        half = ('--var', f'len_min={WINDOW / 2}') if overlap else ()
        run('experiments/predict.py', '--dataset', name, *how, *half, f'{name}/{model}.npz', output)
    part = predictions.load(EXPERIMENTS / output)
    part.scores = combination.softmax(part.scores)
    return segments.windows(part, Dataset(name).segments(), WINDOW, overlap)


def joined(parts):
    """The windows of several datasets as one."""
    first = np.cumsum([0, *(part.recording[-1] + 1 for part in parts)])
    numbered = [part._replace(recording=part.recording + n) for part, n in zip(parts, first, strict=False)]
    return segments.Windows(*map(np.concatenate, zip(*numbered, strict=True)))


def areas(found, counts):
    """ROC-AUC in each sample of soundscapes, (samples,), for `counts` (samples, soundscapes)."""
    return segments.resampled(found, counts)['ROC-AUC']


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', metavar='DATASET', help='name of a dataset with folds')
    parser.add_argument('--models', default=EXPERIMENTS / 'recipe.tsv', help='table of models (%(default)s)')
    parser.add_argument('--setting', action='append', default=[], metavar='KEY=VALUE', help='of the students')
    parser.add_argument('--seeds', type=int, default=3, help='(%(default)s)')
    args = parser.parse_args()
    dataset = Dataset(args.dataset)
    found = folds.find(dataset)
    names = [mix(dataset, number, found) for number in range(len(found))]
    path, models = table(args.models, ROOT / 'datasets' / names[0], args.setting)
    for name in names:
        for seed in range(args.seeds):
            suffix = f'.seed{seed}' if seed else ''
            each = [f'{model}{kind}{suffix}' for model in models for kind in ('', '_student')]
            run('experiments/train_all.sh', '--dataset', name, '--models', path, '--wait', *each)
    for model in models:
        result = {}
        for what, kind, overlap in ('teacher', '', False), ('student', '_student', False), ('overlap', '', True):
            seeds = [f'.seed{seed}' if seed else '' for seed in range(args.seeds)]
            each = [joined([windows(name, f'{model}{kind}{suffix}', overlap) for name in names]) for suffix in seeds]
            rng, number = np.random.default_rng(0), each[0].recording[-1] + 1
            drawn = rng.multinomial(number, np.full(number, 1 / number), size=SAMPLES).astype(float)
            counts = np.concatenate([np.ones((1, number)), drawn])
            result[what] = np.mean([areas(one, counts) for one in each], axis=0)
        for what in 'student', 'overlap':
            result[f'{what} - teacher'] = result[what] - result['teacher']
        for what, values in result.items():
            low, high = np.quantile(values[1:], [0.025, 0.975])
            print(f'{model:16} {what:17}  ROC-AUC {values[0]:+.3f} ({low:+.3f} to {high:+.3f})')


if __name__ == '__main__':
    main()
