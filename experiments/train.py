#!/usr/bin/env python3
"""Train a network on a dataset; write it to MODEL.npz and its settings to MODEL.npz.vars.

With --keep-state, an interrupted run continues after its last complete epoch and gives the same result.
launch.py starts several processes that train one network together.
"""

from birdsong import program  # isort: skip
import argparse
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from birdsong import config, devices
from birdsong.data import metadata
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from birdsong.networks import model
from birdsong.networks.backbone import is_backbone
from birdsong.training import feed_check
from birdsong.training.board import Board
from birdsong.training.distributed import Team
from birdsong.training.processes import LOST
from birdsong.training.provenance import Record
from birdsong.training.run import Run
from birdsong.training.schedule import Schedule
from birdsong.training.trainer import Trainer, find_all


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', metavar='MODEL.npz', help='file to write')
    parser.add_argument('--dataset', default='birdclef', help='name in datasets/, or path of a dataset (%(default)s)')
    parser.add_argument(
        '--validate', action='store_true', help='compute loss, error and MAP of the validation list after each epoch'
    )
    parser.add_argument('--save-errors', action='store_true', help='write the metrics of all epochs to MODEL.err.npz')
    parser.add_argument(
        '--keep-state', action='store_true', help='write MODEL.state after each epoch, and continue from it'
    )
    parser.add_argument(
        '--continue-anyway',
        action='store_true',
        help='continue from MODEL.state even if settings or data have changed since (the result is then not '
        'reproducible by a single command)',
    )
    parser.add_argument(
        '--vars',
        metavar='FILE',
        action='append',
        default=[],
        help='settings that override the defaults and those of the dataset (repeatable)',
    )
    parser.add_argument(
        '--var',
        metavar='KEY=VALUE',
        action='append',
        default=[],
        help='a setting that overrides all files (repeatable)',
    )
    parser.add_argument(
        '--tensorboard',
        metavar='FOLDER',
        help='also write the metrics to FOLDER/MODEL for TensorBoard (pip install tensorboard)',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, mps (default: the best available)')
    parser.add_argument('--amp', action='store_true', help='mixed precision, if the device has it')
    parser.add_argument(
        '--compile',
        action='store_true',
        help='train with torch.compile, which takes minutes at the start (only if len_min and len_max are equal)',
    )
    return parser.parse_args()


def check_output(filename: str) -> None:
    """Make the folder of the model. Raises Problem if the model cannot be written there."""
    if not filename.endswith('.npz'):
        raise Problem(f'{filename}: a model file must end in .npz')
    folder = os.path.dirname(os.path.abspath(filename))
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise Problem(f'{folder}: the folder cannot be written to')


def check_settings(cfg: dict[str, Any], validate: bool, state_file: str | None) -> None:
    """Raises Problem for settings that do not fit, and if a network that they name is missing.

    Sets cfg['bins'] if a file to start from requires it.
    """
    Schedule(cfg, validate)
    for key in ('ban', 'init_from'):
        for filename in filter(None, cfg[key].split(':')):
            if not os.path.exists(config.find(filename)):
                raise Problem(f'{key}={filename}: no such file; train that model first')
    if cfg['init_from']:
        model.note_bins(cfg, find_all(cfg['init_from']))
    if state_file and os.path.exists(state_file):
        model.note_bins(cfg, state_file, 'net|')


def say_what_is_trained(filename: str, trainer: Trainer) -> None:
    """Print the sizes of dataset and network, the device, and the hints."""
    print(
        f'{filename}: {len(trainer.feed.files)} recordings, {trainer.cfg["classes"]} classes, '
        f'{sum(p.numel() for p in trainer.net.parameters())} parameters, on {devices.describe(trainer.device)}'
    )
    if trainer.automatic:
        print('chosen for this dataset: ' + ', '.join(f'{k}={v}' for k, v in trainer.automatic.items()))
    print(''.join(f'{hint}\n' for hint in hints(trainer)), end='', flush=True)


def hints(trainer: Trainer) -> Iterator[str]:
    """Lines about settings that do not suit the dataset, and about what the network cannot be used for."""
    cfg, feed = trainer.cfg, trainer.feed
    highest, rate = cfg['mel_max'], cfg['sample_rate']
    if feed.with_audio and cfg['filterbank'] != 'mel_learn' and highest < rate / 3:
        yield (
            f'mel_max={highest}: the network gets frequencies up to {highest} Hz, but the recordings contain up to '
            f'{rate // 2} Hz; vars/32khz.vars has settings for recordings of 32000 Hz'
        )
    if feed.sources:
        for name, mean in metadata.misfits(feed.meta, cfg):
            yield (
                f'input_meta.{name}_mean={cfg[f"input_meta.{name}_mean"]}: the mean of the training recordings is '
                f'{mean:.6g}; set the mean and input_meta.{name}_std in dataset.vars (prepare_birdclef.sh does)'
            )
    if cfg['arch'] and (cfg['band_centre'] or is_backbone(cfg['arch'])):
        setting = 'band_centre=1' if cfg['band_centre'] else f'arch={cfg["arch"]}'
        yield f'{setting}: this network needs complete excerpts, so predict.py --full-resolution will not work with it'


def save(filename: str, trainer: Trainer, run: Run) -> None:
    """Write the network that the run results in, its settings and its record."""
    chosen, epoch = run.result()
    trainer.restore_network(chosen)
    config.write_vars(filename + '.vars', trainer.cfg)
    model.save(trainer.net, filename)
    run.record.write(epochs=len(run.errors), saved_epoch=epoch, finished=True)
    which = f'the mean of the last {len(run.recent)} networks' if run.recent else 'the network'
    print(f'wrote {filename}, {which} after epoch {epoch} of {len(run.errors)}', flush=True)


def main() -> None:
    args = parse_arguments()
    check_output(args.model)
    root = args.model.removesuffix('.npz')
    dataset = Dataset(args.dataset)
    cfg = config.load(dataset.settings_files + args.vars, args.var)
    dataset = Dataset(dataset.path, cfg['label_file'])
    cfg['classes'] = dataset.num_classes
    check_settings(cfg, args.validate, f'{root}.state' if args.keep_state else None)
    device = devices.pick(args.device)
    devices.deterministic()
    devices.keep_memory()
    amp = devices.mixed_precision(args.amp, device)
    team = Team(device)
    try:
        trainer = Trainer(cfg, dataset, args.validate, device, amp, team, args.compile)
        if cfg['plot_datafeed']:
            return feed_check.plot(trainer, f'{root}.feed.png')
        if cfg['benchmark_datafeed']:
            return feed_check.benchmark(trainer, cfg['benchmark_datafeed'])
        record = Record(
            f'{root}.run.json',
            dataset=dataset.name,
            device=devices.describe(device),
            processes=team.size,
            threads=torch.get_num_threads(),
            seed=cfg['seed'],
            settings=cfg,
        )
        if team.leads:
            say_what_is_trained(args.model, trainer)
        run = Run(root, trainer, dataset, record, args.keep_state, args.save_errors)
        if args.keep_state:
            run.resume(args.continue_anyway)
        if args.tensorboard and team.leads:
            run.board = Board(os.path.join(args.tensorboard, os.path.basename(root)), run.schedule.epoch)
        run.train()
        if team.leads:
            save(args.model, trainer, run)
        team.leave()
    except RuntimeError:
        # Another process died, or a GPU failed.
        if team.size == 1:
            raise
        traceback.print_exc()
        sys.exit(LOST)


if __name__ == '__main__':
    program.run(main)
