#!/usr/bin/env python3
"""Prediction of whole recordings, one thread: the network as trained (eager, NCHW) against the compiled one.

The full-size network of the published settings dummy and lme1, spectrogram given. Prints seconds, times real time,
the ratio, and the largest difference of the scores.
"""

import argparse
import os
import sys
import time

os.environ['OMP_NUM_THREADS'] = '1'
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', '..', 'experiments'))

import numpy as np
import torch

from birdsong import config
from birdsong.data import stft
from birdsong.networks import compiled, model


def network(classes):
    """The published network with random weights and settled running statistics."""
    presets = [os.path.join(config.EXPERIMENTS, 'vars', f'{name}.vars') for name in ('published', 'dummy', 'lme1')]
    net = model.build(config.load(presets, ['arch.output=linear']), classes)
    generator = np.random.default_rng(0)
    with torch.no_grad():
        net.train()(spectrogram(net, 5, generator).repeat(4, 1, 1))
        # logits of the size that trained networks have
        net.audio.head.weight.mul_(30)
    return net.eval()


def spectrogram(net, seconds, generator):
    """That of noise, (1, frames, bins)."""
    cfg, samples = net.cfg, generator.normal(0, 1000, int(22050 * seconds)).astype(np.int16)
    return torch.from_numpy(
        stft.spectrogram(samples, cfg['sample_rate'], cfg['frame_len'], cfg['fps'], stft.num_bins(cfg))
    )[None]


def interleaved(ways, repeats):
    """Median seconds of each of the functions, called in turns; once before to warm up."""
    times = [[] for _ in ways]
    for turn in range(repeats + 1):
        for way, taken in zip(ways, times):
            start = time.perf_counter()
            way()
            if turn:
                taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) for taken in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=9, help='rounds of which the median counts (%(default)s)')
    parser.add_argument('--classes', type=int, default=1500, help='(%(default)s)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = network(args.classes)
    fast = compiled.for_inference(net)
    for seconds in (30, 60):
        spect = spectrogram(net, seconds, np.random.default_rng(seconds))
        with torch.no_grad():
            ways = [lambda net=net: net.finish(net.pool(net.maps(spect)))['output'] for net in (net, fast)]
            expected, found = (way() for way in ways)
            difference = (found - expected).abs().max().item()
            plain, ours = interleaved(ways, args.repeats)
        print(
            f'{int(seconds)} s: as trained {plain:.3f} s ({seconds / plain:.0f} x real time), compiled {ours:.3f} s ({seconds / ours:.0f} x), ratio {plain / ours:.2f}; scores differ by {difference:.1g} of {expected.abs().max().item():.1f}'
        )
        assert difference <= 1e-4
    print(f'(median of {int(args.repeats)} rounds, interleaved, 1 thread; target 1.6)')


if __name__ == '__main__':
    main()
