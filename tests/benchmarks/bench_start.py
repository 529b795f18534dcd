#!/usr/bin/env python3
"""Start of training: from the name of the dataset to the first batch, with the headers of all recordings known.

Recordings are sparse files of 2 to 60 seconds. Each start is a separate process, without the import of torch.
The method of 2018 opens every recording and maps it into memory each time. Prints seconds and peak memory.
"""

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time

os.environ['OMP_NUM_THREADS'] = '1'
EXPERIMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'experiments')
sys.path.insert(0, EXPERIMENTS)

RATE, CLASSES = 22050, 1500


def make_dataset(folder, recordings):
    for name in ('filelists', 'labels'):
        os.makedirs(os.path.join(folder, name))
    keys = [f'train/201{4 + i % 4}/LIFECLEF201{4 + i % 4}_BIRD_XC_WAV_RN{i:06}.wav' for i in range(recordings)]
    for year in range(4):
        os.makedirs(os.path.join(folder, 'audio', 'train', f'201{4 + year}'))
    for i, key in enumerate(keys):
        size = 2 * RATE * (2 + i * 7919 % 59)
        with open(os.path.join(folder, 'audio', key), 'wb') as f:
            f.write(
                struct.pack(
                    '<4sI8sIHHIIHH4sI', b'RIFF', size + 36, b'WAVEfmt ', 16, 1, 1, RATE, 2 * RATE, 2, 16, b'data', size
                )
            )
            f.truncate(44 + size)
    valid = set(keys[::16])
    tables = {
        'filelists/train': [key for key in keys if key not in valid],
        'filelists/valid': keys[::16],
        'labels/labelset': [f'c{c:04}' for c in range(CLASSES)],
        'labels/fg.tsv': [f'{key}\t{i % CLASSES}' for i, key in enumerate(keys)],
        'labels/bg.tsv': [f'{key}\t{i % 7},{i % 31}' for i, key in enumerate(keys)],
        'labels/meta.tsv': [f'{key}\t2010-05-{1 + i % 28}\t06:30:00\t-12.5\t-55.25\t340' for i, key in enumerate(keys)],
    }
    for name, lines in tables.items():
        with open(os.path.join(folder, name), 'w') as f:
            f.writelines(f'{line}\n' for line in lines)


OURS = """
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import ValidFeed
from birdsong.data.training_feed import TrainFeed
from birdsong import config
dataset = Dataset(folder)
cfg = config.load([], ['mix_fg_bg=1', 'input_meta=date,time,latitude,longitude,elevation'])
train, valid = TrainFeed(dataset, cfg), ValidFeed(dataset, cfg)
train.batch(0)
"""
RECIPE = """
import wave, numpy as np
from birdsong.data import audio, stft
tables = [dict(line.rstrip('\\n').split('\\t', 1) for line in open(folder + '/labels/' + name))
          for name in ('fg.tsv', 'bg.tsv', 'meta.tsv')]
maps = []
for name in ('train', 'valid'):
    for key in open(folder + '/filelists/' + name).read().split():
        filename = folder + '/audio/' + key
        with wave.open(filename) as f:
            length = f.getnframes()
        # The map itself would need more maps than Linux allows for more than 65 530 recordings.
        with open(filename, 'rb') as f:
            maps.append((length, np.fromfile(f, np.int16, 1, offset=44)))
samples = np.zeros((16, 30 * 22050), np.int16)
[stft.spectrogram(row, 22050, 1024, 70, 372) for row in samples]
"""


def start(code, folder):
    """(seconds, peak memory in MB) of a process that runs `code`."""
    report = 'import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)'
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, '-c', f'folder = {folder!r}\n{code}\n{report}'],
        check=True,
        text=True,
        capture_output=True,
        env=dict(os.environ, PYTHONPATH=EXPERIMENTS),
    )
    return time.perf_counter() - begin, int(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--recordings', default='48000,100000', help='numbers of recordings (%(default)s)')
    parser.add_argument('--repeats', type=int, default=7, help='number of rounds; the median is printed (%(default)s)')
    args = parser.parse_args()
    names = ('recordings', 10), ('headers unknown', 18), ('headers known', 18), ('2018 method', 16), ('ratio', 8)
    print(*(f'{name:>{width}}' for name, width in (*names, ('peak memory', 12))))
    for number in map(int, args.recordings.split(',')):
        with tempfile.TemporaryDirectory() as folder:
            make_dataset(folder, number)
            first, _ = start(OURS, folder)
            rounds = [(start(OURS, folder), start(RECIPE, folder)) for _ in range(args.repeats)]
            ours, recipe = (sorted(one[i][0] for one in rounds)[len(rounds) // 2] for i in (0, 1))
            memory = max(one[0][1] for one in rounds)
            print(f'{number:10} {first:16.1f} s {ours:16.2f} s {recipe:14.2f} s {recipe / ours:8.1f} {memory:9} MB')
    print(f'(median of {args.repeats} interleaved rounds; files in the page cache)')


if __name__ == '__main__':
    main()
