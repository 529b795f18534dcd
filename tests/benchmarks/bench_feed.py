#!/usr/bin/env python3
"""The training feed with 1 and 2 background threads and processes: ours against the method of 2018, which is below.

Method of 2018: memory maps of all recordings, excerpts cut and looped to one array, a spectrogram of each (as in
bench_spectrogram.py), stacked to a batch, put into a queue by background threads. Both make the same batches of 16
excerpts of 5 to 30 seconds, from files in the page cache. Prints multiples of real time and ratios.
"""

import argparse
import os
import queue
import sys
import tempfile
import threading
import time
import wave

os.environ['OMP_NUM_THREADS'] = '1'
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(sys.path[0], '..', '..', 'experiments'))

import numpy as np
from bench_spectrogram import recipe

from birdsong import config
from birdsong.data import audio, augment, prefetch, training_feed
from birdsong.data.dataset import Dataset

RATE = 22050


def make_dataset(folder, recordings=96, classes=2):
    """Recordings of 3 to 60 seconds, all of the first class."""
    rng = np.random.default_rng(0)
    for name in ('audio', 'filelists', 'labels'):
        os.makedirs(os.path.join(folder, name))
    keys = [f'r{i}.wav' for i in range(recordings)]
    for key in keys:
        with wave.open(os.path.join(folder, 'audio', key), 'wb') as f:
            f.setparams((1, 2, RATE, 0, 'NONE', ''))
            f.writeframes(rng.integers(-3000, 3000, int(RATE * 3 * 20 ** rng.random())).astype('<i2').tobytes())
    for name, lines in (
        ('filelists/train', keys),
        ('labels/labelset', [f'class{i}' for i in range(classes)]),
        ('labels/fg.tsv', [k + '\t0' for k in keys]),
    ):
        with open(os.path.join(folder, name), 'w') as f:
            f.writelines(line + '\n' for line in lines)
    return Dataset(folder)


class Recipe:
    """The same batches as those of a TrainFeed, computed as in 2018."""

    def __init__(self, ours):
        self.ours = ours
        self.maps = [audio.WavFile(ours.dataset.audio_path(key)).samples for key in ours.files]
        self.local = threading.local()

    def excerpts(self, k):
        ours = self.ours
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(0, spawn_key=(training_feed.FEED_STREAM, k))))
        items = augment.draw_items(ours.buckets, ours.batchsize, rng)
        lengths = ours.index['length'][items]
        length = augment.excerpt_length(lengths, ours.shortest, ours.longest)
        starts = augment.draw_starts(lengths, length, rng)
        result = np.empty((len(items), length), np.int16)
        for row, item, start in zip(result, items, starts, strict=True):
            part = self.maps[item][start : start + length]
            row[:] = np.tile(part, -(-length // len(part)))[:length]
        return result

    def batch(self, k):
        if not hasattr(self.local, 'spectrogram'):
            self.local.spectrogram = recipe()
        return np.stack([self.local.spectrogram(row) for row in self.excerpts(k)])

    def batches(self, numbers, threads):
        done, todo = queue.Queue(threads + 2), iter(list(numbers))
        lock = threading.Lock()

        def work():
            while True:
                with lock:
                    k = next(todo, None)
                if k is None:
                    return
                done.put((k, self.batch(k)))

        for _ in range(threads):
            threading.Thread(target=work, daemon=True).start()
        for _ in numbers:
            yield done.get()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=9, help='number of rounds; the median is printed (%(default)s)')
    parser.add_argument('--batches', type=int, default=8, help='number of batches per round (%(default)s)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(folder)
        cfg = config.load([], ['mel_max=10000', 'label_file=fg.tsv'])
        ours, device = training_feed.TrainFeed(dataset, cfg), training_feed.TrainFeed(dataset, cfg, on_device=True)
        old = Recipe(ours)
        numbers = range(args.batches)
        seconds = 0
        for k in numbers:
            batch = ours.batch(k)['spect']
            assert np.abs(batch - old.batch(k)).max() <= 1e-6 * batch.max()
            seconds += 16 * device.batch(k)['samples'].shape[1] / RATE

        def run_ours(which, threads=0, processes=0):
            return lambda: [batch['label'] for batch in prefetch.run_ahead(which.batch, numbers, threads, processes)]

        ways = {}
        for threads in (1, 2):
            ways[f'2018 method, {threads}'] = lambda threads=threads: [k for k, _ in old.batches(numbers, threads)]
            ways[f'ours, {threads}'] = run_ours(ours, threads)
            ways[f'ours, processes, {threads}'] = run_ours(ours, processes=threads)
        ways['ours, samples for the device, 1'] = run_ours(device, 1)
        times = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - start)
    medians = {name: np.median(values) for name, values in times.items()}
    print(f'{"feed, threads":34} {"x real time":>14} {"ratio to 2018":>16}')
    for name, value in medians.items():
        reference = medians['2018 method, ' + name[-1]]
        print(f'{name:34} {seconds / value:14.0f} {reference / value:16.2f}')
    for who in ('2018 method', 'ours'):
        print(f'second core, {who}: {medians[who + ", 1"] / medians[who + ", 2"]:.2f}')
    print(
        f'(16 excerpts of 5 to 30 s, {seconds:.0f} s of sound per round; median of {args.repeats} interleaved rounds)'
    )


if __name__ == '__main__':
    main()
