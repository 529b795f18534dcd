#!/usr/bin/env python3
"""Conversion of 44.1 kHz stereo to 22.05 kHz mono: datasets/birdclef/audio/convert.py against ffmpeg.

The baseline is the method of 2018: one process of `ffmpeg` per file, 8 at a time. Both convert the same short
and long files into an empty folder, alternating; the start of the programs is included. Prints the median times and the
median of the ratios for each format, and the quality of both. The disk is synced before each run.
"""

import argparse
import concurrent.futures
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COLLECT = os.path.join(ROOT, 'datasets', 'collect.py')
CONVERT = os.path.join(ROOT, 'datasets', 'birdclef', 'audio', 'convert.py')
FORMATS = {
    'wav': ('WAV', 'PCM_16', 4),
    'mp3': ('MP3', 'MPEG_LAYER_III', 1.2),
    'flac': ('FLAC', 'PCM_16', 1.2),
    'ogg': ('OGG', 'VORBIS', 1.2),
}
RATE, TARGET = 44100, 22050
LEVEL = 0.9
PASS = 500, 1000, 3000, 5000, 8000, 9600, 9800, 10000
STOP = 11600, 12000, 13000, 15000, 17000, 20000


def by_ffmpeg(source, out):
    def convert(name):
        form = '-ac', '1', '-ar', str(TARGET), '-sample_fmt', 's16'
        target = os.path.join(out, f'{os.path.splitext(name)[0]}.wav')
        path = os.path.join(source, 'data', name)
        subprocess.run(['ffmpeg', '-v', 'error', '-nostdin', '-y', '-i', path, *form, target], check=True)

    os.makedirs(out)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(convert, sorted(os.listdir(os.path.join(source, 'data')))))


def by_us(source, out):
    os.makedirs(out)
    shutil.copy(os.path.join(source, 'recordings.tsv'), out)
    subprocess.run([sys.executable, CONVERT, source, '--dataset', out], check=True, stdout=subprocess.DEVNULL)


def collect(source):
    """Write recordings.tsv, which the conversion reads, into a source folder. Its time is not measured."""
    with tempfile.TemporaryDirectory() as dataset:
        subprocess.run([sys.executable, COLLECT, source, '--dataset', dataset], check=True, stdout=subprocess.DEVNULL)
        shutil.copy(os.path.join(dataset, 'recordings.tsv'), source)


def make_corpus(folder, suffix, seconds):
    kind, subtype, _ = FORMATS[suffix]
    rng = np.random.default_rng(1)
    os.makedirs(os.path.join(folder, 'data'))
    for i, length in enumerate(seconds):
        t = np.arange(int(length * RATE)) / RATE
        song = 0.3 * np.sin(2 * np.pi * (3000 * t + 200 * np.sin(2 * np.pi * 7 * t)))
        song *= np.sin(2 * np.pi * 0.7 * t) > 0
        samples = song[:, None] + 0.02 * rng.standard_normal((len(t), 2))
        path = os.path.join(folder, 'data', f'x{i:03}.{suffix}')
        with soundfile.SoundFile(path, 'w', RATE, 2, subtype, format=kind) as f:
            for start in range(0, len(samples), 1 << 18):
                f.write(samples[start : start + (1 << 18)])
    collect(folder)


def measure(convert, work):
    """Quality of a conversion in dB, compared with the sines that were converted: (worst signal-to-noise ratio up to
    8 kHz, largest remainder of sines above 11.6 kHz, largest change of level from 9.6 to 10 kHz)."""
    source, out = os.path.join(work, 'tones'), os.path.join(work, 'tones_out')
    os.makedirs(os.path.join(source, 'data'))
    n = 4 * RATE
    for f in PASS + STOP:
        sine = LEVEL * np.sin(2 * np.pi * f * np.arange(n) / RATE + 1)
        # rounded here, since libsndfile would truncate
        samples = np.rint(32768 * np.repeat(sine[:, None], 2, axis=1)).astype(np.int16)
        soundfile.write(os.path.join(source, 'data', f'f{f:05}.wav'), samples, RATE, 'PCM_16')
    collect(source)
    convert(source, out)
    snr, residue, level = [], [], []
    power = LEVEL**2 / 2
    for f in PASS + STOP:
        path = os.path.join(out, f'f{f:05}.wav')
        if not os.path.exists(path):
            path = os.path.join(out, 'audio', 'train', f'f{f:05}.wav')
        samples = soundfile.read(path)[0]
        ideal = LEVEL * np.sin(2 * np.pi * f * np.arange(len(samples)) / TARGET + 1)
        inner = slice(TARGET // 2, -TARGET // 2)
        if f in PASS:
            if f <= 8000:
                snr.append(10 * np.log10(power / np.mean((samples - ideal)[inner] ** 2)))
            if f >= 9600:
                level.append(abs(20 * np.log10(samples[inner] @ ideal[inner] / (ideal[inner] @ ideal[inner]))))
        else:
            residue.append(10 * np.log10(np.mean(samples[inner] ** 2) / power + 1e-20))
    shutil.rmtree(source)
    shutil.rmtree(out)
    return min(snr), max(residue), max(level)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=7, help='number of measured runs of each program (7)')
    parser.add_argument('--formats', default=','.join(FORMATS), help=f'comma-separated formats ({",".join(FORMATS)})')
    parser.add_argument('--folder', default=None, help="folder for temporary files (default: the system's)")
    args = parser.parse_args()
    if not shutil.which('ffmpeg'):
        print('bench_convert.py: needs ffmpeg for the baseline, which is not installed; nothing measured')
        return
    for name in 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS':
        os.environ[name] = '1'
    seconds = [5] * 20 + [15] * 12 + [40] * 5 + [120] * 2 + [300]
    print(f'{len(seconds)} files, {sum(seconds) / 60:.0f} minutes; {len(os.sched_getaffinity(0))} cores for both')
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        print(f'{"format":8} {"ffmpeg":>10} {"ours":>10} {"ratio":>8} {"target":>8}')
        for suffix in args.formats.split(','):
            source = os.path.join(work, suffix)
            make_corpus(source, suffix, seconds)
            times = {by_ffmpeg: [], by_us: []}
            for number in range(args.rounds + 1):
                for convert in times:
                    out = os.path.join(work, 'out')
                    os.sync()
                    start = time.perf_counter()
                    convert(source, out)
                    # the first round only warms up
                    if number:
                        times[convert].append(time.perf_counter() - start)
                    shutil.rmtree(out)
            medians = ' '.join(f'{statistics.median(times[convert]):8.2f} s' for convert in times)
            ratio = statistics.median(a / b for a, b in zip(times[by_ffmpeg], times[by_us], strict=True))
            print(f'{suffix:8} {medians} {ratio:7.2f}x {FORMATS[suffix][2]:7.1f}x', flush=True)
            shutil.rmtree(source)
        print(f'{"quality":30} {"ffmpeg":>10} {"ours":>10} {"target":>10}')
        results = zip(
            ('SNR, 0.5 to 8 kHz', 'rest of 11.6 to 20 kHz', 'change of level, 9.6 to 10 kHz'),
            measure(by_ffmpeg, work),
            measure(by_us, work),
            ('>= 90', '<= -88', '<= 0.1'),
            strict=True,
        )
        for what, a, b, target in results:
            print(f'{what:30} {a:7.2f} dB {b:7.2f} dB {target:>10}')


if __name__ == '__main__':
    main()
