#!/usr/bin/env python3
"""Scores over time, one thread: the trained network applied to each excerpt, against the fully convolutional one.

Excerpts of 5 s for the published network, at each of its steps of 9 frames, and at every frame. The trained network is
timed for some of the excerpts; the time for all is extrapolated. Prints seconds, ratios, and the largest difference of
scores.
"""

import argparse

import numpy as np
import torch
from bench_predict import interleaved, network, spectrogram  # which sets the number of threads and the path

from birdsong.networks import fcn


def measure(net, spect, step, target, args):
    converted = fcn.to_fcn(net, 5, step)
    count = (spect.shape[1] - converted.window) // step + 1
    chosen = np.linspace(0, count - 1, args.offsets).astype(int)

    @torch.no_grad()
    def trained():
        return torch.cat([net(spect[:, i * step : i * step + converted.excerpt])['output'] for i in chosen])

    def ours():
        stream = converted.stream()
        return torch.cat([s['output'] for s in (stream.push(spect), stream.end()) if s is not None], 1)[0]

    difference = (ours()[chosen] - trained()).abs().max().item()
    part, whole = interleaved([trained, ours], args.repeats)
    plain = part * count / len(chosen)
    print(
        f'step {step}: excerpts {plain:.1f} s ({count} offsets, from {len(chosen)} measured), '
        f'converted {whole:.2f} s, ratio {plain / whole:.1f} (target {target}); scores differ by {difference:.1g}'
    )
    assert difference <= 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--repeats', type=int, default=7, help='number of rounds; the median is printed (default: %(default)s)'
    )
    parser.add_argument('--seconds', type=float, default=30, help='length of the recording (default: %(default)g)')
    parser.add_argument(
        '--offsets', type=int, default=4, help='excerpts for which the trained network is timed (default: %(default)s)'
    )
    parser.add_argument('--classes', type=int, default=1500, help='number of classes (default: %(default)s)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = network(args.classes)
    spect = spectrogram(net, args.seconds, np.random.default_rng(1))
    for step, target in ((net.frame_step, 4), (1, 20)):
        measure(net, spect, step, target, args)
    print(f'(a recording of {args.seconds:g} s; median of {args.repeats} rounds, interleaved, 1 thread)')


if __name__ == '__main__':
    main()
