#!/usr/bin/env python3
"""Spectrograms, one thread: ours against the method of 2018, which is below.

Method of 2018: the signal as float32, frames as strided views; for blocks of 48 frames the product with the window, a
transform by a measured FFTW plan, numpy.abs, and the required bins; all blocks stacked. Prints multiples of
real time and ratios.
"""

import argparse
import os
import sys
import time

os.environ['OMP_NUM_THREADS'] = '1'
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'experiments'))

import numpy as np
import pyfftw

from birdsong.data import stft

RATE, FRAME_LEN, FPS, BINS, BLOCK = 22050, 1024, 70, 465, 48


def recipe():
    plan = pyfftw.builders.rfft(
        pyfftw.empty_aligned((BLOCK, FRAME_LEN), 'float32'),
        axis=1,
        overwrite_input=True,
        planner_effort='FFTW_MEASURE',
        threads=1,
    )
    window = np.hanning(FRAME_LEN).astype(np.float32)
    hop = RATE // FPS

    def spectrogram(samples):
        frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32), FRAME_LEN)[::hop]
        whole = len(frames) - len(frames) % BLOCK
        blocks = [np.abs(plan(frames[k : k + BLOCK] * window)[:, :BINS]) for k in range(0, whole, BLOCK)]
        if whole < len(frames):
            blocks.append(np.abs(np.fft.rfft(frames[whole:] * window)[:, :BINS]).astype(np.float32))
        return np.vstack(blocks)

    return spectrogram


def ours(compiled=True, fftw=True, into=False):
    """Our function, or the one used if a package is missing, or with a given output array, as in the feed."""
    outs = {}
    local, ways = (
        type(stft._local)(),
        (stft._compiled if compiled else lambda: None, stft._pyfftw if fftw else lambda: None),
    )

    def spectrogram(samples):
        saved = stft._compiled, stft._pyfftw, stft._local
        stft._compiled, stft._pyfftw, stft._local = ways + (local,)
        try:
            result = stft.spectrogram(samples, RATE, FRAME_LEN, FPS, BINS, outs.get(len(samples)))
            if into:
                outs[len(samples)] = result
            return result
        finally:
            stft._compiled, stft._pyfftw, stft._local = saved

    return spectrogram


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=15, help='number of rounds; the median is printed (%(default)s)')
    args = parser.parse_args()
    ways = {
        '2018 method': recipe(),
        'ours': ours(),
        'ours, into an array': ours(into=True),
        'ours without pyfftw': ours(fftw=False),
        'ours without numba': ours(compiled=False),
    }
    rng = np.random.default_rng(0)
    print(f'{"signal":8}' + ''.join(f'{name:>28}' for name in ways))
    for seconds in (5, 30, 600):
        samples = rng.integers(-3000, 3000, RATE * seconds).astype(np.int16)
        expected = ways['2018 method'](samples)
        for way in ways.values():
            assert np.abs(way(samples) - expected).max() <= 1e-6 * expected.max()
        inner = max(1, 30 // seconds)
        times = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                for _ in range(inner):
                    way(samples)
                times[name].append((time.perf_counter() - start) / inner)
        medians = {name: np.median(values) for name, values in times.items()}
        print(
            f'{seconds:5} s '
            + ''.join(
                f'{seconds / value:14.0f} x real time, {medians["2018 method"] / value:3.2f}'
                for value in medians.values()
            )
        )
    print(f'(times real time, ratio to the method of 2018; median of {args.repeats} interleaved rounds, 1 thread)')


if __name__ == '__main__':
    main()
