#!/usr/bin/env python3
"""Compute the predictions of MODEL.npz for the recordings of file lists and write them to OUT (.pred.npz).

The settings are the defaults, overridden by MODEL.npz.vars, then by --vars and --var. Recordings up to len_max seconds
are processed in one go, longer ones in blocks of len_max that overlap by len_min. An interrupted run goes on where it was.
Of the dataset, only audio/ and the lists are needed, and labels/meta.tsv for networks that use metadata.
"""

from birdsong import program  # isort: skip
import argparse
import hashlib
import itertools
import json
import os
import sys

import numpy as np
import torch
from tqdm import tqdm

from birdsong import config, devices
from birdsong.data import audio, stft
from birdsong.data.dataset import Dataset, dataset_of
from birdsong.data.feeds import TestFeed
from birdsong.data.prefetch import run_ahead
from birdsong.files import Problem
from birdsong.networks import compiled, model
from birdsong.networks.fcn import spectrograms
from birdsong.networks.frontend import Magnitudes
from birdsong.prediction import inspection
from birdsong.scores.journal import Writer


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', metavar='MODEL.npz', help='a trained network, of this project or of the 2018 system')
    parser.add_argument('out', metavar='OUT', help='prediction file to write, such as MODEL.pred.npz')
    parser.add_argument(
        '--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)'
    )
    parser.add_argument(
        '--filelists', default='valid', metavar='A,B', help='lists of the dataset to predict for (%(default)s)'
    )
    parser.add_argument(
        '--file',
        metavar='RECORDING',
        action='append',
        dest='files',
        help='a recording to predict for, instead of lists: its key as in lists, or its path (repeatable)',
    )
    parser.add_argument(
        '--vars',
        metavar='FILE',
        action='append',
        default=[],
        help='settings that override those of the model (repeatable)',
    )
    parser.add_argument(
        '--var',
        metavar='KEY=VALUE',
        action='append',
        default=[],
        help='a setting that overrides all files (repeatable)',
    )
    parser.add_argument(
        '--split-pool', action='store_true', help='pool once over a whole recording, not block by block'
    )
    parser.add_argument(
        '--score-rest', action='store_true', help='score what is left at the end of a recording, too, however short'
    )
    parser.add_argument(
        '--include-side-outputs',
        action='store_true',
        help='write the scores of background species (arch.output_bg), too, to OUT with .background.npz '
        'for .npz, and attention (arch.pool=attention_nopool) with .attention.npz',
    )
    parser.add_argument('--full-resolution', action='store_true', help='scores at every spectrogram frame, in float32')
    parser.add_argument(
        '--window',
        type=float,
        default=5,
        metavar='SECONDS',
        help='excerpt that --full-resolution scores at each frame (%(default)g)',
    )
    parser.add_argument(
        '--own-step',
        action='store_true',
        help="have --full-resolution score at the network's own step instead of every frame: smaller",
    )
    parser.add_argument(
        '--plot',
        metavar='FOLDER',
        nargs='?',
        const='',
        help='show spectrogram, most probable classes and attention, or write such plots to FOLDER',
    )
    parser.add_argument('--plot-format', choices=('png', 'pdf'), default='png', help='(%(default)s)')
    parser.add_argument(
        '--saliency',
        metavar='CLASS',
        help='write what in the spectrogram moves the score of a class '
        '(index, id or name) to OUT with .saliency.npz for .npz',
    )
    parser.add_argument(
        '--saliency-kind',
        choices=inspection.SALIENCY,
        default=next(iter(inspection.SALIENCY)),
        help='captions of plots explain these (%(default)s)',
    )
    parser.add_argument(
        '--reuse',
        metavar='OLD',
        help='take over from the prediction file OLD, if it exists, the rows of recordings '
        'that were predicted with the same model, settings and dataset',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, mps (default: the best that is there)')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    # Without a folder, --plot must not take the model for one.
    args = sys.argv[1:]
    args = [
        '--plot=' if arg == '--plot' and following.endswith(('.npz', '.pkl')) else arg
        for arg, following in zip(args, args[1:] + [''])
    ]
    return parser.parse_args(args)


def cut(frames, longest, overlap, score_rest=False):
    """Blocks (start, stop) in frames of a recording of so many frames.

    What is left at the end is a block of its own if it has `overlap` frames (`longest` if that is 0), or if `score_rest`.
    """
    if frames <= longest or not longest:
        return [(0, frames)]
    if overlap >= longest:
        raise Problem('len_min must be less than len_max, to cut long recordings into blocks')
    shortest = 1 if score_rest else overlap or longest
    blocks = ((start, min(start + longest, frames)) for start in range(0, frames, longest - overlap))
    return [
        (start, stop)
        for start, stop in blocks
        if stop - start >= shortest and (start == 0 or stop - start > (overlap if score_rest else 0))
    ]


class Predictor:
    """A network and how it is applied to recordings."""

    def __init__(self, args, cfg, net, device):
        self.cfg, self.device, self.split_pool, self.score_rest = cfg, device, args.split_pool, args.score_rest
        self.amp = args.amp
        self.with_attention = args.include_side_outputs and net.global_pool.kind == 'attention_nopool'
        self.plain = net.to(device).eval()
        self.net = compiled.for_inference(self.plain)
        self.hop, self.frame_len = stft.hop(cfg), cfg['frame_len']
        self.longest, self.overlap = round(cfg['len_max'] * cfg['fps']), round(cfg['len_min'] * cfg['fps'])
        self.on_device = cfg['spectrogram'] == 'device' or cfg['spectrogram'] == 'auto' and device.type == 'cuda'
        self.magnitudes = Magnitudes(cfg).to(device) if self.on_device and cfg['arch'] else None

    def frames(self, samples):
        """Frames of a recording; 1 if it is shorter."""
        return max(1, stft.num_frames(len(samples), self.frame_len, self.hop))

    def blocks(self, samples):
        """Blocks of a recording, (start, stop) in frames. A recording too short for the network is looped by `block`."""
        return cut(self.frames(samples), self.longest, self.overlap, self.score_rest)

    def block(self, samples, start, stop):
        """Samples or spectrogram of a block, at least as long as the network needs."""
        if not self.on_device:
            return self.spectrogram(samples, start, stop)
        return np.ascontiguousarray(self._part(samples, start, stop))

    def spectrogram(self, samples, start, stop):
        """Spectrogram (frames, bins) of a block."""
        part = self._part(samples, start, stop)
        return stft.spectrogram(
            part, self.cfg['sample_rate'], self.frame_len, self.cfg['fps'], bins=stft.num_bins(self.cfg)
        )

    def _part(self, samples, start, stop):
        part = samples[start * self.hop : (stop - 1) * self.hop + self.frame_len]
        needed = (self.net.min_frames - 1) * self.hop + self.frame_len
        if len(part) < needed:
            part = np.resize(part if len(part) else np.zeros(1, np.int16), needed)
        return part

    def maps(self, block):
        """Maps of the network before pooling, (1, maps, time, frequency)."""
        with torch.autocast(self.device.type, devices.amp_type(self.device), enabled=self.amp):
            tensor = torch.from_numpy(block)[None].to(self.device)
            return self.net.maps(self.magnitudes(tensor) if self.on_device else tensor).float()

    @torch.no_grad()
    def all_maps(self, samples):
        """Yields (first frame, maps (1, maps, time, frequency)) all over a recording, without a gap between them."""
        network = getattr(self.net, 'program', None)
        if network is None:
            yield from self._maps_of_blocks(samples)
            return
        stream, first = network.stream(), 0
        for spect in itertools.chain(spectrograms(samples, self.cfg, self.net.min_frames), [None]):
            blocks = [None] if spect is None else torch.from_numpy(spect)[None].to(self.device).split(network.block, 1)
            for block in blocks:
                maps = stream.end() if block is None else stream.push(block)
                if maps is not None:
                    yield first, maps.float()
                    first += maps.shape[2] * self.net.frame_step

    def _maps_of_blocks(self, samples):
        """As `all_maps`, for networks that need excerpts: blocks overlap so that each goes on where the last one ended."""
        frames, start = self.frames(samples), 0
        needed, step = self.net.min_frames, self.net.frame_step
        while start == 0 or frames - start >= needed:
            stop = min(start + max(self.longest, needed), frames)
            maps = self.net.maps(torch.from_numpy(self.spectrogram(samples, start, stop))[None].to(self.device)).float()
            covered, inner = maps.shape[2] * step, max(0, stop - start - needed)
            # a network that pools over time has one position for the whole block
            yield start if covered > inner else start + inner // 2, maps
            if stop == frames:
                return
            start += max(covered, inner + 1)

    def meta(self, item):
        """Metadata (1, values) of an item of a TestFeed, or None."""
        return torch.from_numpy(item['meta'])[None].to(self.device) if 'meta' in item else None

    def finish(self, pooled, meta):
        """Outputs of the network for pooled maps: dict of (rows, classes); rows of pooled maps over time are unrolled."""
        outputs = self.net.finish(pooled, meta)
        return {
            name: (o.transpose(1, 2).flatten(0, 1) if o.dim() == 3 else o).float().cpu().numpy()
            for name, o in outputs.items()
            if name in ('output', 'output_bg')
        }

    @torch.no_grad()
    def predict(self, item, blocks=None):
        """Dict of outputs (rows, classes) for an item of a TestFeed; `blocks` may be its blocks, computed ahead."""
        meta = self.meta(item)
        if not self.cfg['arch']:
            return self.finish(None, meta)
        samples = item['samples']
        pieces = blocks if blocks is not None else self._cut(samples)
        pooling, rows = self.net.pooling() if self.split_pool else None, []
        for piece in pieces:
            maps = self.maps(piece)
            rows.append(self.attention(maps))
            if self.split_pool:
                pooling.add(maps)
            else:
                rows[-1].update(self.finish(self.net.pool(maps), meta))
        outputs = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
        return {**outputs, **self.finish(pooling.result(), meta)} if self.split_pool else outputs

    def attention(self, maps):
        """{'attention': (time * frequency, K), before its softmax over time} if it is to be written, else {}."""
        return {'attention': maps[0, self.plain.classes :].flatten(1).T.cpu().numpy()} if self.with_attention else {}

    def _cut(self, samples):
        for block in self.blocks(samples):
            yield self.block(samples, *block)
            audio.release(samples)


def load_model(filename, cfg, num_meta):
    """The network stored in a file, built by the settings `cfg`."""
    net = model.build(cfg, cfg['classes'], num_meta)
    model.load(net, filename)
    return net


def identify(args, cfg, dataset, net):
    """(key of the rows, key of the run): texts that tell predictions of one model, dataset and settings from all others.

    Rows that are reused must have the same key; a journal that of the run, which includes what else is written.
    """
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(b'%s %s' % (name.encode(), value.numpy().tobytes()))
    relevant = {k: v for k, v in cfg.items() if k not in ('bg_threads', 'bg_processes')}
    without_effect = ['model', 'out', 'dataset', 'filelists', 'files', 'vars', 'var', 'reuse', 'device']
    if not cfg['arch']:
        without_effect += ['split_pool', 'score_rest']
    inspection_only = ('include_side_outputs', 'plot', 'plot_format', 'saliency', 'saliency_kind')
    options = {k: v for k, v in vars(args).items() if k not in without_effect and k not in inspection_only}
    key = json.dumps([digest.hexdigest(), dataset.name, relevant, options], sort_keys=True)
    return key, json.dumps([key, [getattr(args, name) for name in inspection_only]])


def reuse(writer, filename):
    """Take over rows of an earlier prediction file into a Writer, and say how many, or why none."""
    if not os.path.exists(filename):
        return
    try:
        number = writer.reuse(filename)
    except Problem as e:
        print(f'nothing reused: {e}')
        return
    if number is None:
        print(f'nothing reused: {filename} is of another model, dataset or other settings, or does not say of which')
    else:
        print(f'reused {int(number)} recordings of {filename}')


def side_file(out, name):
    return f'{out[: -len(".npz")]}.{name}.npz'


def check(args, cfg):
    """Raises Problem for options and settings that don't go together."""
    wanted = [
        option
        for option, given in (
            ('--full-resolution', args.full_resolution),
            ('--plot', args.plot is not None),
            ('--saliency', args.saliency is not None),
        )
        if given
    ]
    if wanted and not cfg['arch']:
        raise Problem(
            f'{args.model}: knows metadata alone, so there is nothing to see over time; leave out {" and ".join(wanted)}'
        )
    if args.full_resolution and (len(wanted) > 1 or args.include_side_outputs):
        raise Problem(
            '--full-resolution goes without --plot, --saliency and --include-side-outputs; run predict.py once more for these'
        )
    if cfg['arch'] and not cfg['len_max'] > 0:
        raise Problem(f'len_max={cfg["len_max"]}: the network needs recordings; set it to the seconds of a block')


def ahead(feed, predictor, todo, threads, cut_up=True):
    """(item, blocks) of the recordings `todo`, computed ahead in background threads; long ones are left to be cut later."""

    def prepare(i):
        item = feed.item(i)
        if 'samples' not in item or not cut_up:
            return item, None
        blocks = predictor.blocks(item['samples'])
        if len(blocks) > 4:
            return item, None
        return item, [predictor.block(item['samples'], *b) for b in blocks]

    return run_ahead(prepare, todo, threads=min(threads, 4))


def main():
    args = parse_arguments()
    if not os.path.exists(args.model):
        raise Problem(f'{args.model}: no such file; train it first')
    if not os.path.exists(f'{args.model}.vars'):
        raise Problem(f'{args.model}.vars: missing; a model and its settings belong together')
    if args.out.endswith('.pkl'):
        args.out = f'{args.out[: -len("pkl")]}npz'
        print(f'predictions are written as .npz, not pickled: {args.out}')
    if not args.out.endswith('.npz'):
        raise Problem(f'{args.out}: a prediction file must end in .npz')
    cfg = config.load([f'{args.model}.vars'] + args.vars, args.var)
    model.note_bins(cfg, args.model)
    check(args, cfg)
    dataset = Dataset(args.dataset or dataset_of(args.model))
    classes = cfg.get('classes') or cfg.setdefault('classes', dataset.num_classes)
    device = devices.pick(args.device)
    devices.deterministic()
    feed = TestFeed(dataset, cfg, args.filelists, args.files and [dataset.key(name) for name in args.files])
    net = load_model(args.model, cfg, feed.num_meta)
    rows_key, key = identify(args, cfg, dataset, net)
    predictor = Predictor(args, cfg, net, device)
    widths, outputs_of = {'output': classes}, predictor.predict
    if args.full_resolution:
        outputs_of = inspection.full_resolution(predictor, args.window, args.own_step)
    elif args.plot is not None or args.saliency is not None:
        index = None if args.saliency is None else inspection.find_class(args.saliency, dataset, classes)
        outputs_of = inspection.Inspector(
            predictor,
            dataset,
            index,
            args.plot,
            args.plot_format,
            args.saliency_kind,
            config.load([f'{args.model}.vars']),
        )
        if index is not None:
            widths['saliency'] = stft.num_bins(cfg)
    if args.include_side_outputs and cfg['arch.output_bg']:
        widths['output_bg'] = classes
    if predictor.with_attention:
        widths['attention'] = net.global_pool.attention
    filenames = {
        'output': args.out,
        'output_bg': side_file(args.out, 'background'),
        'attention': side_file(args.out, 'attention'),
        'saliency': side_file(args.out, 'saliency'),
    }
    writers = {name: Writer(filenames[name], feed.files, width, key, rows_key) for name, width in widths.items()}
    if args.reuse:
        reuse(writers['output'], args.reuse)
    todo = [i for i, file in enumerate(feed.files) if not all(file in w.done for w in writers.values())]
    if len(todo) < len(feed.files):
        print(f'going on after {int(len(feed.files) - len(todo))} recordings')
    for item, blocks in tqdm(
        ahead(feed, predictor, todo, cfg['bg_threads'], not args.full_resolution), 'predict', len(todo), disable=None
    ):
        outputs = outputs_of(item, blocks)
        for name, writer in writers.items():
            if item['file'] not in writer.done:
                writer.add(item['file'], outputs[name])
    for name, writer in writers.items():
        writer.finish()
        unit = {'saliency': 'bins', 'attention': 'attention maps'}.get(name, 'classes')
        print(f'wrote {writer.filename}: {len(feed.files)} recordings, {writer.num_classes} {unit}')
    if args.plot:
        print(f'wrote plots of {len(feed.files)} recordings to {args.plot}')


if __name__ == '__main__':
    program.run(main)
