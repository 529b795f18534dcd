#!/usr/bin/env python3
"""Identification of a long recording by the steps of identify.sh, from the file to the findings: full-size networks.

The networks have published presets and random weights, like bench_predict.py. Prints hours of audio per hour of CPU
time (of all threads, so that other programs on the machine matter little), and the shares of the steps. Loading the
networks is not included: a shard has 8 hours of recordings.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time

os.environ['OMP_NUM_THREADS'] = '1'
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', '..', name) for name in ('experiments', 'datasets')]

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import soxr  # noqa: E402
import torch  # noqa: E402
from bench_predict import spectrogram  # noqa: E402

from birdsong import config  # noqa: E402
from birdsong.data import stft  # noqa: E402
from birdsong.data.dataset import Dataset  # noqa: E402
from birdsong.findings import detections, rules, species  # noqa: E402
from birdsong.identification import choice, ensemble, merging, plan, recordings, shard, task  # noqa: E402
from birdsong.identification.windows import Windows, settings_of  # noqa: E402
from birdsong.networks import model  # noqa: E402
from birdsong.prediction.predictor import Predictor  # noqa: E402
from shared import clues, conversion  # noqa: E402

RATE = 48000
FORMATS = {'wav': 'PCM_16', 'flac': 'PCM_16', 'ogg': 'VORBIS', 'mp3': 'MPEG_LAYER_III'}
# Presets of the single network, which comes first, and of the others of the ensemble
NETWORKS = (('dummy', 'lme1'), ('resnet1', 'lme1'), ('dummy', 'att16'))
DECODE, RESAMPLE, CONVERT, LOAD = 'decode', 'resample', 'round, write WAV', 'load networks'
SPECTROGRAM, NETWORK, COMBINE, DETECT, TABLES = 'spectrogram', 'network', 'combine', 'detections', 'tables'


class Steps:
    """CPU time of each step, without that of steps inside it, in all threads."""

    def __init__(self):
        self.seconds, self.local = {}, threading.local()

    @contextlib.contextmanager
    def step(self, name):
        stack = self.local.__dict__.setdefault('stack', [])
        self._charge(stack)
        stack.append(name)
        try:
            yield
        finally:
            self._charge(stack)
            stack.pop()

    def _charge(self, stack):
        now = time.thread_time()
        if stack:
            self.seconds[stack[-1]] = self.seconds.get(stack[-1], 0) + now - self.local.mark
        self.local.mark = now

    def measure(self, owner, name, step):
        """Charge calls of a function to a step; of a generator, the time until each of its items."""
        function = getattr(owner, name)

        def items(iterator):
            while True:
                with self.step(step):
                    item = next(iterator, None)
                if item is None:
                    return
                yield item

        def called(*args, **kwargs):
            with self.step(step):
                result = function(*args, **kwargs)
            return items(result) if hasattr(result, '__next__') else result

        setattr(owner, name, called)


def measure_all(steps):
    for owner, name, step in (
        (conversion, '_blocks', DECODE),
        (soxr.ResampleStream, 'resample_chunk', RESAMPLE),
        (recordings, 'convert', CONVERT),
        (stft, 'spectrogram', SPECTROGRAM),
        (Predictor, 'predict', NETWORK),
        (ensemble.Ensemble, '__init__', LOAD),
        (ensemble.Ensemble, 'scores', COMBINE),
        (detections, 'detect', DETECT),
        (merging, 'merge', TABLES),
    ):
        steps.measure(owner, name, step)


def write_network(filename, presets, classes):
    """A network with random weights and realistic running statistics."""
    files = [os.path.join(config.EXPERIMENTS, 'vars', f'{name}.vars') for name in ('published', *presets)]
    cfg = config.load(files, [f'classes={classes}'])
    net = model.build(cfg, classes)
    with torch.no_grad():
        net.train()(spectrogram(net, 5, np.random.default_rng(0)).repeat(4, 1, 1))
    model.save(net, filename)
    config.write_vars(f'{filename}.vars', cfg)


def write_recording(filename, subtype, minutes):
    rng = np.random.default_rng(1)
    t = np.arange(60 * RATE) / RATE
    song = 0.2 * np.sin(2 * np.pi * (3000 * t + 200 * np.sin(2 * np.pi * 7 * t))) * (np.sin(2 * np.pi * 0.7 * t) > 0)
    with soundfile.SoundFile(filename, 'w', RATE, 1, subtype) as f:
        for _ in range(minutes):
            minute = song + 0.02 * rng.standard_normal(len(t))
            for start in range(0, len(t), 1 << 18):
                f.write(minute[start : start + (1 << 18)])


def identify(steps, folder, networks, dataset, window, out):
    """CPU time in seconds, without loading, of identifying the recordings in a folder."""
    steps.seconds.clear()
    before = time.process_time()
    chosen = choice.choose(dataset, models=networks)
    settings, known = [settings_of(member, dataset) for member in chosen.members], species.of(dataset)
    wanted, planned = rules.Wanted('0.5'), plan.Plan(out)
    windows, finder = Windows(settings, window), clues.Finder(folder)
    one = task.Task(
        folder, dataset, chosen, settings, windows, known, None, wanted.rules(known), finder, planned, False
    )
    found, skipped = recordings.listed(folder, out)
    planned.extend(found)
    merging.write_skipped(one, skipped)
    shard.identify(one, '0001', planned.result('0001'), 'cpu')
    merging.merge(one, ['csv'])
    return time.process_time() - before - steps.seconds[LOAD]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=int, default=20, help='length of the recording (%(default)s)')
    parser.add_argument('--formats', default=','.join(FORMATS), help=f'formats of it ({",".join(FORMATS)})')
    parser.add_argument('--windows', default='30,5', help='lengths of windows in seconds (%(default)s)')
    parser.add_argument('--classes', type=int, default=1500, help='number of classes (%(default)s)')
    parser.add_argument('--repeats', type=int, default=3, help='runs, of which the fastest is printed (%(default)s)')
    parser.add_argument('--no-ensemble', action='store_true', help='only the single network')
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = Steps()
    with tempfile.TemporaryDirectory() as top:
        for name in 'labels', 'filelists':
            os.makedirs(os.path.join(top, 'full', name))
        with open(os.path.join(top, 'full', 'labels', 'labelset'), 'w', encoding='utf-8') as f:
            f.writelines(f'class{i}\n' for i in range(args.classes))
        dataset, networks = Dataset(os.path.join(top, 'full')), []
        for presets in NETWORKS[: 1 if args.no_ensemble else None]:
            networks.append(os.path.join(top, f'{"_".join(presets)}.npz'))
            write_network(networks[-1], presets, args.classes)
        for suffix in args.formats.split(','):
            os.makedirs(os.path.join(top, suffix))
            write_recording(os.path.join(top, suffix, f'a.{suffix}'), FORMATS[suffix], args.minutes)
        measure_all(steps)
        suffixes, lengths = args.formats.split(','), [float(text) for text in args.windows.split(',')]
        runs = [(networks[:1], suffix, window) for window in lengths for suffix in suffixes]
        runs += [(networks, suffixes[0], window) for window in lengths if not args.no_ensemble]
        names = (DECODE, RESAMPLE, CONVERT, SPECTROGRAM, NETWORK, COMBINE, DETECT, TABLES)
        print(f'networks  format  window    speed  {"  ".join(names)}  other', flush=True)
        for number, (files, suffix, window) in enumerate(runs):
            best = None
            for turn in range(args.repeats):
                out = os.path.join(top, f'out{number}.{turn}')
                seconds = identify(steps, os.path.join(top, suffix), files, dataset, window, out)
                if best is None or seconds < best[0]:
                    best = seconds, dict(steps.seconds)
            seconds, spent = best
            shares = [spent.get(name, 0) / seconds for name in names]
            shares.append(1 - sum(shares))
            columns = '  '.join(f'{100 * s:{len(n)}.1f}' for s, n in zip(shares, (*names, 'other'), strict=True))
            speed = 60 * args.minutes / seconds
            print(f'{len(files):8}  {suffix:6}  {window:4g} s  {speed:5.0f} x  {columns}', flush=True)
    print(f'(hours of audio per hour of CPU time, the fastest of {args.repeats} runs; shares in %)')


if __name__ == '__main__':
    main()
