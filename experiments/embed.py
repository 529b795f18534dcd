#!/usr/bin/env python3
"""Write embeddings of the windows of recordings to OUT.npz, as input of other networks or for searches by similarity.

The embedding of a window is the mean of the maps of MODEL.npz over time and frequency, before dropout and the last
layer: one number per channel. MODEL.npz may be any network with a spectrogram branch, trained on any classes. For a
backbone of timm with its pretrained weights, create it with train.py --var arch=timm:NAME --var epochs=0.

Networks on embeddings are trained with arch= and input_embeddings=OUT.npz, for which data/embeddings.py describes the
table, so that other programs can write it, too.
"""

from birdsong import program  # isort: skip
import argparse
import sys

from tqdm import tqdm

from birdsong import config, devices
from birdsong.data import embeddings
from birdsong.data.dataset import Dataset, dataset_of
from birdsong.data.feeds import TestFeed
from birdsong.files import Problem
from birdsong.networks import model
from birdsong.prediction.predictor import Predictor, load_model
from birdsong.prediction.times import RowTimes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('model', metavar='MODEL.npz', help='a trained network with a spectrogram branch')
    add('out', metavar='OUT.npz', help='table of embeddings to write')
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)')
    add('--filelists', default='train,valid', metavar='A,B', help='lists of the dataset (%(default)s)')
    add('--window', type=float, default=5, metavar='SECONDS', help='length of a window (%(default)g)')
    add('--hop', type=float, metavar='SECONDS', help='distance of windows (default: the window)')
    add('--device', help='cpu, cuda, cuda:1, mps (default: the fastest that is available)')
    add('--amp', action='store_true', help='mixed precision, if the device has it')
    args = parser.parse_args()
    args.hop = args.window if args.hop is None else args.hop
    if not 0 < args.hop <= args.window:
        raise Problem(f'--hop={args.hop:g}: expected more than 0 and at most the window, {args.window:g} s')
    if not args.out.endswith('.npz'):
        raise Problem(f'{args.out}: a table of embeddings must end in .npz')
    return args


def settings(args: argparse.Namespace) -> config.Settings:
    """The settings of the model, for windows. Raises Problem if it is missing, or uses no recordings."""
    windows = [f'len_max={args.window}', f'len_min={args.window - args.hop}']
    cfg = config.load([f'{args.model}.vars'], windows)
    if not cfg['arch']:
        raise Problem(f'{args.model}: uses metadata alone; choose a model that uses recordings')
    model.note_bins(cfg, args.model)
    return cfg


def main() -> None:
    args = parse_arguments()
    cfg = settings(args)
    dataset = Dataset(args.dataset or dataset_of(args.model))
    cfg['classes'] = cfg.get('classes') or dataset.num_classes
    device = devices.pick(args.device)
    devices.deterministic()
    args.amp = devices.mixed_precision(args.amp, device)
    feed = TestFeed(dataset, cfg, args.filelists)
    predictor = Predictor(load_model(args.model, cfg, feed.num_meta), cfg, device, score_rest=True, amp=args.amp)
    times = RowTimes(predictor, dict(zip(feed.files, feed.index['length'].tolist(), strict=True)))
    vectors, known = [], []
    prepared = predictor.prepare(feed, range(len(feed)), cfg['bg_threads'])
    for item, blocks in tqdm(prepared, 'embed', len(feed), disable=None):
        vectors.append(predictor.embeddings(item, blocks))
        known.append(times.of('output', item['file'])(0, len(vectors[-1])))
    embeddings.write(args.out, feed.files, vectors, known)
    rows, width = sum(map(len, vectors)), vectors[0].shape[1]
    print(f'{args.out}: {rows} embeddings of {width} numbers of {len(feed)} recordings', file=sys.stderr)


if __name__ == '__main__':
    program.run(main)
