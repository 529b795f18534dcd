#!/usr/bin/env python3
"""An ONNX file in ONNX Runtime against our predictor, one thread, from samples to probabilities; and sizes of files.

The network with the published presets dummy and lme1, and a small one (`cnn` of recipe.tsv), with random weights,
predict noise. Both ways take turns. Prints the smallest time of each, the ratio, and the largest difference.
"""

import argparse
import os
import tempfile
import time

import numpy as np
import torch
from bench_predict import network as published  # which sets the number of threads and the path

from birdsong import config
from birdsong.export import check, members, network
from birdsong.identification.choice import Member
from birdsong.networks import model
from birdsong.prediction.predictor import Predictor


def small():
    """The network `cnn` of recipe.tsv, with random weights."""
    presets = [os.path.join(config.EXPERIMENTS, 'vars', f'{name}.vars') for name in ('recipe', 'recipe_cnn')]
    return model.build(config.load(presets), 10).eval()


def seconds_each(ways, rounds):
    """Smallest time of each function in seconds; the functions take turns."""
    best = [np.inf] * len(ways)
    for _ in range(rounds + 1):
        for i, way in enumerate(ways):
            start = time.perf_counter()
            way()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def measure(name, net, seconds, rounds, folder):
    filename = os.path.join(folder, f'{name}.npz')
    model.save(net, filename)
    config.write_vars(f'{filename}.vars', {**net.cfg, 'arch.output': 'softmax', 'classes': net.classes})
    sizes = [os.path.getsize(filename) / 1e6]
    parts = [members.read(Member(filename, 1.0), None)]
    for half in False, True:
        out = f'{filename}.{16 if half else 32}.onnx'
        with open(out, 'wb') as f:
            f.write(network.to_onnx(parts, {}, half=half).SerializeToString())
        sizes.append(os.path.getsize(out) / 1e6)
    print(f'{name}: {sizes[0]:.1f} MB (.npz), {sizes[1]:.1f} MB (.onnx), {sizes[2]:.1f} MB (--float16)')
    cfg = config.load([f'{filename}.vars'])
    predictor = Predictor(parts[0].net, parts[0].net.cfg, torch.device('cpu'))
    samples = np.random.default_rng(0).normal(0, 1000, int(seconds * cfg['sample_rate'])).astype(np.int16)
    inputs = {network.SAMPLES: samples[None].astype(np.float32) / 32768}

    def ours():
        item = {'samples': samples}
        logits = predictor.predict(item, [predictor.block(samples, 0, predictor.frames(samples))])['output']
        return torch.softmax(torch.from_numpy(logits), 1).numpy()

    for bits in 32, 16:
        session = check.session(f'{filename}.{bits}.onnx', 1)
        expected = ours()
        difference = np.abs(session.run([network.PROBABILITIES], inputs)[0] - expected).max()
        assert difference <= {32: 1e-4, 16: 1e-2}[bits]
        mine, theirs = seconds_each([ours, lambda s=session: s.run([network.PROBABILITIES], inputs)], rounds)
        print(
            f'  {seconds:g} s, float{bits}: ours {mine:.3f} s ({seconds / mine:.0f} x real time), ONNX Runtime '
            f'{theirs:.3f} s ({seconds / theirs:.0f} x), ratio {mine / theirs:.2f}; probabilities of up to '
            f'{expected.max():.2f} differ by {difference:.1g}'
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--rounds', type=int, default=9, help='number of rounds; the smallest time counts (default: %(default)s)'
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure('published', published(1500), 30, args.rounds, folder)
        measure('small', small(), 5, args.rounds, folder)
    print(f'(smallest of {args.rounds} rounds, interleaved, 1 thread; ratio: ours / ONNX Runtime)')


if __name__ == '__main__':
    main()
