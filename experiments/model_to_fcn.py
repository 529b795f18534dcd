#!/usr/bin/env python3
"""Convert a trained network to a fully convolutional one, which computes class scores at every frame of a recording.

The scores at a frame are those of the network for an excerpt of --window seconds that begins there. Strided layers
become dilated ones, so that all windows share the computation. OUT.npz contains arrays and a description of the
operations; birdsong.networks.fcn.load reads it. predict.py --full-resolution does not need such a file.
"""

from birdsong import program  # isort: skip
import argparse
import os

import numpy as np
import torch

from birdsong import config
from birdsong.data import metadata
from birdsong.files import Problem
from birdsong.networks import fcn, model

# number of excerpts for which the converted network is compared with the trained one
CHECKS = 5


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', metavar='MODEL.npz', help='the trained network; MODEL.npz.vars holds its settings')
    parser.add_argument('out', metavar='OUT.npz', help='file to write')
    parser.add_argument(
        '--window',
        type=float,
        default=5,
        metavar='SECONDS',
        help='length of the excerpts that are scored (default: %(default)s)',
    )
    parser.add_argument(
        '--own-step',
        action='store_true',
        help="scores at the network's own step instead of every frame, which is faster",
    )
    parser.add_argument(
        '--vars', metavar='FILE', action='append', default=[], help="settings that override the model's (repeatable)"
    )
    parser.add_argument(
        '--var',
        metavar='KEY=VALUE',
        action='append',
        default=[],
        help='a setting that overrides all files (repeatable)',
    )
    return parser.parse_args()


def compare(net: model.Network, converted: fcn.FullyConvolutional) -> tuple[float, float]:
    """Largest difference between the scores of both networks for a few excerpts of noise, and the largest score.

    The excerpts have a margin on both sides, so that padding does not change the scores.
    """
    margin = converted.margin
    longest = converted.excerpt + 2 * margin
    # magnitudes that saturate no nonlinearity
    spect = torch.rand(1, longest + 40 * CHECKS, net.audio.front.bins, generator=torch.Generator().manual_seed(0))
    spect = spect**3 * 1e5
    meta = torch.zeros(1, net.num_meta) if net.num_meta else None
    stream = converted.stream(meta)
    scores = torch.cat([s['output'] for s in (stream.push(spect), stream.end()) if s is not None], 1)[0]
    first, worst = margin // net.frame_step, 0.0
    for number in np.linspace(0, 40 * CHECKS // converted.step, CHECKS).astype(int):
        start = number * converted.step
        with torch.no_grad():
            maps = net.maps(spect[:, start : start + longest])[:, :, first : first + converted.count]
            expected = net.finish(net.pool(maps), meta)['output'][0]
        if expected.ndim == 2:
            expected = expected[:, 0]
        worst = max(worst, (scores[number + margin // converted.step] - expected).abs().max().item())
    return worst, scores.abs().max().item()


def main():
    args = parse_arguments()
    for filename in (args.model, f'{args.model}.vars'):
        if not os.path.exists(filename):
            raise Problem(
                f'{filename}: no such file; a model needs the file with its settings, MODEL.npz.vars, next to it'
            )
    if not args.out.endswith('.npz'):
        raise Problem(f'{args.out}: the file to write must end in .npz')
    if os.path.realpath(args.out) == os.path.realpath(args.model):
        raise Problem(f'{args.out}: would overwrite the model; name another file')
    cfg = config.load([f'{args.model}.vars'] + args.vars, args.var)
    model.note_bins(cfg, args.model)
    if 'classes' not in cfg:
        raise Problem(f'{args.model}.vars: no value for classes; use the file that train.py wrote next to the model')
    net = model.build(cfg, cfg['classes'], metadata.size(cfg))
    model.load(net, args.model)
    converted = fcn.to_fcn(net, args.window, net.frame_step if args.own_step else 1)
    print(converted.describe())
    if cfg['magscale'] != 'pcen':
        worst, scale = compare(net, converted)
        print(f'compared for {CHECKS} excerpts of noise: scores of up to {scale:.1f} differ by at most {worst:.1g}')
        if not worst <= 1e-3 * max(1, scale):
            raise Problem(
                f'{args.model}: scores of the converted network differ by {worst:.2g}, so it was not written; '
                'are all values in the model finite?'
            )
    converted.save(args.out)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    program.run(main)
