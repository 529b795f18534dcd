#!/usr/bin/env python3
"""Turn a trained network into a fully convolutional one, which gives class scores at every frame of a recording.

A score is what the network says of an excerpt of --window seconds that begins there. Strided layers become dilated
ones, so that all windows share the work. OUT.npz holds plain arrays and a description of what to do with them; fcn.load
reads it. For the scores of recordings no such file is needed: predict.py --full-resolution converts on its own.
"""

from birdsong import program  # isort: skip
import argparse
import os

import numpy as np
import torch

from birdsong import config
from birdsong.data import metadata
from birdsong.files import Problem
from birdsong.networks import model
from birdsong.networks.fcn import to_fcn  # noqa: F401: users import it from here

# offsets at which the converted network is compared with the original
CHECKS = 5


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', metavar='MODEL.npz', help='the trained network, with its MODEL.npz.vars')
    parser.add_argument('out', metavar='OUT.npz', help='file to write')
    parser.add_argument(
        '--window',
        type=float,
        default=5,
        metavar='SECONDS',
        help='length of the excerpts whose scores it gives (%(default)s)',
    )
    parser.add_argument(
        '--own-step', action='store_true', help="scores at the network's own step instead of every frame: faster"
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


def compare(net, converted):
    """Largest difference to the network at a few offsets, where padding does not reach, and the largest score there."""
    generator = torch.Generator().manual_seed(0)
    margin, excerpt = converted.margin, converted.excerpt
    frames = excerpt + 2 * margin + 40 * CHECKS
    # what the input stage is used to, so that no nonlinearity is saturated
    spect = torch.rand(1, frames, net.audio.front.bins, generator=generator) ** 3 * 1e5
    meta = torch.zeros(1, net.num_meta) if net.num_meta else None
    stream = converted.stream(meta)
    scores = torch.cat([s['output'] for s in (stream.push(spect), stream.end()) if s is not None], 1)[0]
    worst = 0.0
    for number in np.linspace(0, (frames - excerpt - 2 * margin) // converted.step, CHECKS).astype(int):
        start = number * converted.step
        with torch.no_grad():
            maps = net.maps(spect[:, start : start + excerpt + 2 * margin])
            first = margin // net.frame_step
            expected = net.finish(net.pool(maps[:, :, first : first + converted.count]), meta)['output'][0]
        found = scores[number + margin // converted.step]
        if expected.ndim == 2:
            expected = expected[:, 0]
        worst = max(worst, (found - expected).abs().max().item())
    return worst, scores.abs().max().item()


def main():
    args = parse_arguments()
    for filename in (args.model, f'{args.model}.vars'):
        if not os.path.exists(filename):
            raise Problem(f'{filename}: no such file; a model and its settings belong together')
    if not args.out.endswith('.npz'):
        raise Problem(f'{args.out}: the file to write must end in .npz')
    if os.path.realpath(args.out) == os.path.realpath(args.model):
        raise Problem(f'{args.out}: would overwrite the model; name another file')
    cfg = config.load([f'{args.model}.vars'] + args.vars, args.var)
    model.note_bins(cfg, args.model)
    if 'classes' not in cfg:
        raise Problem(
            f'{args.model}.vars: does not say classes=; it must be the file that was written beside the model'
        )
    net = model.build(cfg, cfg['classes'], metadata.size(cfg))
    model.load(net, args.model)
    converted = to_fcn(net, args.window, net.frame_step if args.own_step else 1)
    print(converted.describe())
    if cfg['magscale'] != 'pcen':
        worst, scale = compare(net, converted)
        print(f'compared at {int(CHECKS)} offsets of noise: differs by {worst:.1g} at most, of {scale:.1f}')
        if not worst <= 1e-3 * max(1, scale):
            raise Problem(
                f'{args.model}: the converted network differs by {worst:.2g}; nothing was written. Are all its values finite?'
            )
    converted.save(args.out)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    program.run(main)
