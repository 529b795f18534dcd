#!/usr/bin/env python3
"""Compute the predictions of MODEL.npz for the recordings of file lists and write them to OUT (.pred.npz).

The settings are the defaults, overridden by MODEL.npz.vars, then by --vars and --var. Recordings up to len_max seconds
are processed in one go, longer ones in blocks of len_max that overlap by len_min. An interrupted run goes on where it was.
Of the dataset, only audio/ and the lists are needed, and labels/meta.tsv for networks that use metadata.
"""

from birdsong import program  # isort: skip
import argparse
import json
import os
import sys

from tqdm import tqdm

from birdsong import config, devices
from birdsong.data import stft
from birdsong.data.dataset import Dataset, dataset_of
from birdsong.data.feeds import TestFeed
from birdsong.files import Problem
from birdsong.networks import model
from birdsong.prediction import inspection
from birdsong.prediction.full_resolution import FullResolution
from birdsong.prediction.predictor import Predictor, load_model, rows_key
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


def keys(args, cfg, dataset, net):
    """(key of the rows, key of the run).

    Rows are reused if their key is the same. A journal is continued if the key of its run is the same, which also
    includes what else is written.
    """
    options = {name: getattr(args, name) for name in ('amp', 'full_resolution', 'own_step', 'window')}
    if cfg['arch']:
        options.update(split_pool=args.split_pool, score_rest=args.score_rest)
    key = rows_key(net, dataset.name, cfg, options)
    side_options = [args.include_side_outputs, args.plot, args.plot_format, args.saliency, args.saliency_kind]
    return key, json.dumps([key, side_options])


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
    key, run_key = keys(args, cfg, dataset, net)
    predictor = Predictor(
        net, cfg, device, args.split_pool, args.score_rest, args.amp, with_attention=args.include_side_outputs
    )
    widths, outputs_of = {'output': classes}, predictor.predict
    if args.full_resolution:
        full_resolution = FullResolution(predictor, args.window, args.own_step)
        print(full_resolution.fcn.describe())
        outputs_of = full_resolution.predict
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
    writers = {name: Writer(filenames[name], feed.files, width, run_key, key) for name, width in widths.items()}
    if args.reuse:
        reuse(writers['output'], args.reuse)
    todo = [i for i, file in enumerate(feed.files) if not all(file in w.done for w in writers.values())]
    if len(todo) < len(feed.files):
        print(f'going on after {int(len(feed.files) - len(todo))} recordings')
    for item, blocks in tqdm(
        predictor.prepare(feed, todo, cfg['bg_threads'], with_blocks=not args.full_resolution),
        'predict',
        len(todo),
        disable=None,
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
