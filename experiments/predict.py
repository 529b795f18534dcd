#!/usr/bin/env python3
"""Compute the predictions of MODEL.npz for the recordings of file lists and write them to OUT (.pred.npz).

The settings are the defaults, overridden by MODEL.npz.vars, then by --vars and --var (dataset.vars is not
read). Recordings of up to len_max seconds are processed at once, longer ones in blocks of len_max that overlap by
len_min. An interrupted run continues where it stopped. The dataset needs no labels, but networks that use metadata need
its labels/meta.tsv.

If a recording has more than one row of scores, OUT also contains the time of each row: `starts` and `stops`, in seconds
from the start of the recording. The time of a row is that of its block, with --full-resolution that of its window, and
for outputs that are not pooled over time, that of the frames that the position depends on.
"""

from birdsong import program  # isort: skip
import argparse
import functools
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
from birdsong.prediction import inspection, saliency
from birdsong.prediction.full_resolution import FullResolution
from birdsong.prediction.predictor import Predictor, load_model, rows_key
from birdsong.prediction.times import RowTimes
from birdsong.scores.journal import Writer


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('model', metavar='MODEL.npz', help='a trained network, of this project or of the 2018 system')
    add('out', metavar='OUT', help='prediction file to write, such as MODEL.pred.npz')
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)')
    add('--filelists', default='valid', metavar='A,B', help='lists of the dataset to predict for (%(default)s)')
    add(
        '--file',
        metavar='RECORDING',
        action='append',
        dest='files',
        help='predict for this recording instead of lists: its key (as in lists) or its path (repeatable)',
    )
    add(
        '--vars',
        metavar='FILE',
        action='append',
        default=[],
        help='settings that override those of the model (repeatable)',
    )
    add(
        '--var',
        metavar='KEY=VALUE',
        action='append',
        default=[],
        help='a setting that overrides all files (repeatable)',
    )
    add('--split-pool', action='store_true', help='pool once over a whole recording instead of over each block')
    add('--score-rest', action='store_true', help='also score the remainder at the end of a recording, however short')
    add(
        '--include-side-outputs',
        action='store_true',
        help='also write the scores of background species (arch.output_bg) to a file whose name ends in '
        '.background.npz instead of .npz, and attention (arch.pool=attention_nopool) to one in .attention.npz',
    )
    add('--full-resolution', action='store_true', help='write scores for every spectrogram frame, in float32')
    add(
        '--window',
        type=float,
        default=5,
        metavar='SECONDS',
        help='length of the excerpt that --full-resolution scores at each frame (%(default)g)',
    )
    add(
        '--own-step',
        action='store_true',
        help="let --full-resolution write scores at the network's own step instead of every frame: a smaller file",
    )
    add(
        '--plot',
        metavar='FOLDER',
        nargs='?',
        const='',
        help='show spectrogram, most probable classes and attention, or write such plots to FOLDER',
    )
    add('--plot-format', choices=('png', 'pdf'), default='png', help='(%(default)s)')
    add(
        '--saliency',
        metavar='CLASS',
        help='write how much each bin of the spectrogram changes the score of a class (index, id or name) '
        'to a file whose name ends in .saliency.npz instead of .npz',
    )
    add(
        '--saliency-kind',
        choices=saliency.KINDS,
        default=saliency.DEFAULT,
        help='explained below the plots (%(default)s)',
    )
    add(
        '--reuse',
        metavar='OLD',
        help='copy from the prediction file OLD, if it exists, the rows of recordings '
        'that were predicted with the same model, settings and dataset',
    )
    add('--device', help='cpu, cuda, cuda:1, mps (default: the fastest that is available)')
    add('--amp', action='store_true', help='mixed precision, if the device has it')
    # If --plot has no folder, argparse would take the name of the model as its folder.
    args = sys.argv[1:]
    for i, following in enumerate(args[1:]):
        if args[i] == '--plot' and following.endswith(('.npz', '.pkl')):
            args[i] = '--plot='
    return parser.parse_args(args)


def keys(args, cfg, dataset, net):
    """(key of the rows, key of the run).

    Rows of an earlier file are reused if their key is the same. An interrupted run is continued if the key of the run
    is the same, which also contains the options about additional outputs.
    """
    options = {name: getattr(args, name) for name in ('amp', 'full_resolution', 'own_step', 'window')}
    if cfg['arch']:
        options.update(split_pool=args.split_pool, score_rest=args.score_rest)
    key = rows_key(net, dataset.name, cfg, options)
    side_options = [args.include_side_outputs, args.plot, args.plot_format, args.saliency, args.saliency_kind]
    return key, json.dumps([key, side_options])


def reuse(writer, filename, times):
    """Copy rows of an earlier prediction file into a Writer; print how many, or why none were.

    `times` returns the times of a recording's rows, for a file without times.
    """
    if not os.path.exists(filename):
        return
    try:
        number = writer.reuse(filename, times)
    except Problem as e:
        print(f'nothing reused: {e}')
        return
    if number is None:
        print(f'nothing reused: {filename} was written with another model, dataset or other settings, or has no key')
    else:
        print(f'reused {number} recordings from {filename}')


def check_files(args):
    """Raises Problem if the model is missing or the name of the output does not end in .npz; replaces .pkl by .npz."""
    if not os.path.exists(args.model):
        raise Problem(f'{args.model}: no such file; train it first')
    if not os.path.exists(f'{args.model}.vars'):
        raise Problem(f'{args.model}.vars: missing; a model and its settings belong together')
    if args.out.endswith('.pkl'):
        args.out = f'{args.out.removesuffix("pkl")}npz'
        print(f'predictions are written as .npz, not pickled: {args.out}')
    if not args.out.endswith('.npz'):
        raise Problem(f'{args.out}: a prediction file must end in .npz')


def check_options(args, cfg):
    """Raises Problem for options and settings that cannot be combined."""
    given = {
        '--full-resolution': args.full_resolution,
        '--plot': args.plot is not None,
        '--saliency': args.saliency is not None,
    }
    wanted = [option for option, is_given in given.items() if is_given]
    if wanted and not cfg['arch']:
        raise Problem(f'{args.model}: uses metadata alone, which has no time axis; leave out {" and ".join(wanted)}')
    if args.full_resolution and (len(wanted) > 1 or args.include_side_outputs):
        raise Problem(
            '--full-resolution cannot be combined with --plot, --saliency and --include-side-outputs; '
            'run predict.py a second time for these'
        )
    if cfg['arch'] and not cfg['len_max'] > 0:
        raise Problem(f'len_max={cfg["len_max"]}: the network needs recordings; set it to the seconds of a block')


def predict_function(args, predictor, dataset, files, full_resolution):
    """The function that computes the outputs for a recording, with the interface of `Predictor.predict`."""
    if full_resolution is not None:
        print(full_resolution.fcn.describe())
        return full_resolution.predict
    class_index, plotter = None, None
    if args.saliency is not None:
        class_index = inspection.find_class(args.saliency, dataset, predictor.plain.classes)
    if args.plot is not None:
        trained = config.load([f'{args.model}.vars'])
        plotter = inspection.Plotter(predictor, dataset, files, args.plot, args.plot_format, trained)
    return inspection.Inspector(predictor, plotter, class_index, args.saliency_kind).predict


def output_widths(args, cfg, predictor):
    """{output: number of columns of its file} for the outputs to write."""
    widths = {'output': cfg['classes']}
    if args.saliency is not None:
        widths['saliency'] = stft.num_bins(cfg)
    if args.include_side_outputs and cfg['arch.output_bg']:
        widths['output_bg'] = cfg['classes']
    if predictor.with_attention:
        widths['attention'] = predictor.plain.global_pool.attention
    return widths


def output_filename(out, output):
    """Name of the file of an output; the scores are called 'output'."""
    suffix = {'output': '', 'output_bg': '.background'}.get(output, f'.{output}')
    return f'{out.removesuffix(".npz")}{suffix}.npz'


def main():
    args = parse_arguments()
    check_files(args)
    cfg = config.load([f'{args.model}.vars'] + args.vars, args.var)
    model.note_bins(cfg, args.model)
    check_options(args, cfg)
    dataset = Dataset(args.dataset or dataset_of(args.model))
    cfg['classes'] = cfg.get('classes') or dataset.num_classes
    device = devices.pick(args.device)
    devices.deterministic()
    args.amp = devices.mixed_precision(args.amp, device)
    feed = TestFeed(dataset, cfg, args.filelists, args.files and [dataset.key(name) for name in args.files])
    net = load_model(args.model, cfg, feed.num_meta)
    key, run_key = keys(args, cfg, dataset, net)
    predictor = Predictor(net, cfg, device, args.split_pool, args.score_rest, args.amp, args.include_side_outputs)
    full_resolution = FullResolution(predictor, args.window, args.own_step) if args.full_resolution else None
    predict = predict_function(args, predictor, dataset, feed.files, full_resolution)
    lengths = dict(zip(feed.files, feed.index['length'].tolist(), strict=True))
    times = RowTimes(predictor, lengths, full_resolution, feed.embeddings)
    writers = {
        output: Writer(output_filename(args.out, output), feed.files, width, run_key, key)
        for output, width in output_widths(args, cfg, predictor).items()
    }
    if args.reuse:
        reuse(writers['output'], args.reuse, functools.partial(times.of, 'output'))
    todo = [i for i, file in enumerate(feed.files) if not all(file in w.done for w in writers.values())]
    if len(todo) < len(feed.files):
        print(f'continuing after {len(feed.files) - len(todo)} recordings')
    prepared = predictor.prepare(feed, todo, cfg['bg_threads'], with_blocks=not args.full_resolution)
    for item, blocks in tqdm(prepared, 'predict', len(todo), disable=None):
        outputs = predict(item, blocks)
        for output, writer in writers.items():
            if item['file'] not in writer.done:
                writer.add(item['file'], outputs[output], times.of(output, item['file']))
    for output, writer in writers.items():
        writer.finish()
        unit = {'saliency': 'bins', 'attention': 'attention maps'}.get(output, 'classes')
        print(f'wrote {writer.filename}: {len(feed.files)} recordings, {writer.num_classes} {unit}')
    if args.plot:
        print(f'wrote plots of {len(feed.files)} recordings to {args.plot}')


if __name__ == '__main__':
    program.run(main)
