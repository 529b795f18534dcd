#!/usr/bin/env python3
"""Preparation of a large collection: table, labels and lists from a source folder in the layout of BirdCLEF 2025.

Recordings are sparse files of 2 to 60 seconds with valid headers and different content, in two places: below SOURCE
and, by a link, as if converted. Each step is a process of its own. Prints seconds, those of the
processor (which other programs do not change), and peak memory, for a first and a second run, in which nothing is new.
"""

import argparse
import csv
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))
DATASETS = os.path.join(ROOT, 'datasets')
RATE, CLASSES, RECORDISTS, SITES = 22050, 1000, 3000, 2000
COLUMNS = ['primary_label', 'secondary_labels', 'type', 'filename', 'collection', 'rating', 'url']
COLUMNS += ['latitude', 'longitude', 'scientific_name', 'common_name', 'author', 'license']


def make_source(folder, recordings):
    """Write a source folder with a tenth of soundscapes, a tenth of which are labelled."""
    rng = random.Random(0)
    soundscapes = recordings // 10
    rows, labels = [], []
    for number in range(recordings - soundscapes):
        label = f'c{int(CLASSES * rng.random() ** 2):04}'
        path = f'{label}/XC{100000 + number}.wav'
        write_recording(os.path.join(folder, 'train_audio', path), number, rng)
        others = [f'c{rng.randrange(CLASSES):04}' for _ in range(rng.choice((0, 0, 0, 1, 3)))]
        place = rng.randrange(SITES)
        url = f'https://xeno-canto.org/{100000 + number}'
        meta = [
            rng.choice((0, 2.5, 4, 5)),
            url,
            -60 + place % 120,
            f'{place / 20:.4f}',
            f'Genus {label}',
            label.upper(),
        ]
        author = f'Recordist {int(RECORDISTS * rng.random() ** 3)}'
        rows.append([label, repr(others), "['song']", path, 'XC', *meta, author, 'cc-by-nc-sa 4.0'])
    for number in range(soundscapes):
        day, site = 1 + number % 28, f'S{number % 50:02}'
        name = f'BC2026_Train_{number:05}_{site}_202502{day:02}_{number // 3600 % 24:02}{number // 60 % 60:02}00.wav'
        write_recording(os.path.join(folder, 'train_soundscapes', name), recordings + number, rng)
        for start in range(0, 60 if number % 10 == 0 else 0, 5):
            active = ';'.join(f'c{rng.randrange(CLASSES):04}' for _ in range(rng.randrange(3)))
            labels.append([name, f'00:00:{start:02}', f'00:{(start + 5) // 60:02}:{(start + 5) % 60:02}', active])
    write_csv(os.path.join(folder, 'train.csv'), COLUMNS, rows)
    columns = ['filename', 'start', 'end', 'primary_label']
    write_csv(os.path.join(folder, 'train_soundscapes_labels.csv'), columns, labels + labels)


def write_recording(filename, number, rng):
    os.makedirs(os.path.dirname(filename), exist_ok=True)
    size = 2 * int(RATE * (2 + 58 * rng.random()))
    header = b'RIFF', size + 36, b'WAVEfmt ', 16, 1, 1, RATE, 2 * RATE, 2, 16, b'data', size
    with open(filename, 'wb') as f:
        f.write(struct.pack('<4sI8sIHHIIHH4sIQ', *header, number))
        f.truncate(44 + size)


def write_csv(filename, columns, rows):
    with open(filename, 'w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(columns)
        writer.writerows(rows)


def run(script, *arguments):
    """(seconds, seconds of the processor, peak memory in MB) of a step."""
    command = [sys.executable, os.path.join(DATASETS, script), *arguments]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f'{script}: exit status {process.returncode}: {output}')
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--recordings', type=int, default=100_000, help='number of recordings (%(default)s)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, dataset = os.path.join(folder, 'source'), os.path.join(folder, 'dataset')
        make_source(source, args.recordings)
        os.makedirs(os.path.join(dataset, 'audio'))
        for name in 'train_audio', 'train_soundscapes':
            os.symlink(os.path.join(source, name), os.path.join(dataset, 'audio', name))
        steps = {
            'collect.py': [source],
            'birdclef/labels/recreate.py': [],
            'birdclef/filelists/split.py': [],
        }
        print(f'{"step":28} {"run":>6} {"time":>10} {"processor":>10} {"peak memory":>12}')
        for name in 'first', 'second':
            results = [run(script, *arguments, '--dataset', dataset) for script, arguments in steps.items()]
            times, processor, memory = zip(*results, strict=True)
            results.append((sum(times), sum(processor), max(memory)))
            for script, (seconds, used, peak) in zip([*steps, 'all'], results, strict=True):
                print(f'{script:28} {name:>6} {seconds:8.1f} s {used:8.1f} s {peak:9} MB')


if __name__ == '__main__':
    main()
