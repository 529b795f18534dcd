#!/usr/bin/env python3
"""Prediction of complete recordings, one thread: the trained network (eager PyTorch) against the compiled one.

The network with the published presets dummy and lme1 predicts a spectrogram. Prints seconds, multiples of real time,
the ratio, and the largest difference of scores.
"""

import argparse
import os
import sys
import time

os.environ['OMP_NUM_THREADS'] = '1'
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', '..', 'experiments'))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from birdsong import config  # noqa: E402
from birdsong.data import stft  # noqa: E402
from birdsong.networks import compiled, model  # noqa: E402


def network(classes):
    """The published network with random weights and realistic running statistics."""
    presets = [os.path.join(config.EXPERIMENTS, 'vars', f'{name}.vars') for name in ('published', 'dummy', 'lme1')]
    net = model.build(config.load(presets, ['arch.output=linear']), classes)
    generator = np.random.default_rng(0)
    with torch.no_grad():
        net.train()(spectrogram(net, 5, generator).repeat(4, 1, 1))
        # logits of the size that trained networks have
        net.audio.head.weight.mul_(30)
    return net.eval()


def spectrogram(net, seconds, generator):
    """The spectrogram of noise, (1, frames, bins)."""
    cfg, samples = net.cfg, generator.normal(0, 1000, int(22050 * seconds)).astype(np.int16)
    return torch.from_numpy(
        stft.spectrogram(samples, cfg['sample_rate'], cfg['frame_len'], cfg['fps'], stft.num_bins(cfg))
    )[None]


def interleaved(ways, repeats):
    """Median time of each function in seconds; the functions take turns, after one call of each to warm up."""
    times = [[] for _ in ways]
    for turn in range(repeats + 1):
        for way, taken in zip(ways, times, strict=True):
            start = time.perf_counter()
            way()
            if turn:
                taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) for taken in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--repeats', type=int, default=9, help='number of rounds; the median is printed (default: %(default)s)'
    )
    parser.add_argument('--classes', type=int, default=1500, help='number of classes (default: %(default)s)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = network(args.classes)
    fast = compiled.for_inference(net)
    for seconds in (30, 60):
        spect = spectrogram(net, seconds, np.random.default_rng(seconds))
        with torch.no_grad():
            ways = [lambda net=net, x=spect: net.finish(net.pool(net.maps(x)))['output'] for net in (net, fast)]
            expected, found = (way() for way in ways)
            difference = (found - expected).abs().max().item()
            plain, ours = interleaved(ways, args.repeats)
        print(
            f'{seconds} s: trained {plain:.3f} s ({seconds / plain:.0f} x real time), compiled {ours:.3f} s '
            f'({seconds / ours:.0f} x), ratio {plain / ours:.2f}; scores of up to {expected.abs().max().item():.1f} '
            f'differ by {difference:.1g}'
        )
        assert difference <= 1e-4
    print(f'(median of {args.repeats} rounds, interleaved, 1 thread; target 1.6)')


if __name__ == '__main__':
    main()
