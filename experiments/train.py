#!/usr/bin/env python3
"""Train a network on a data set and write it to MODEL.npz, its settings to MODEL.npz.vars.

With --keep-state, a run that was interrupted goes on where its last epoch ended, and comes to the same result.
Started by launch.py, several processes train one network together.
"""

from birdsong import program  # isort: skip
import argparse
import itertools
import math
import os
import signal
import sys
import time
import traceback

import numpy as np
import torch
from tqdm import tqdm

from birdsong import config, devices
from birdsong.data import stft
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import TrainFeed, ValidFeed, needs_host_spectrogram
from birdsong.files import Problem, save_npz
from birdsong.networks import model
from birdsong.networks.frontend import Magnitudes
from birdsong.scores import metrics
from birdsong.training import checkpoint, costs, optim, provenance, pseudo_labels
from birdsong.training.schedule import COLUMNS, Schedule
from launch import LOST

# batches between looks at the loss, each of which makes the host wait for the device
CHECK_EVERY = 50


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', metavar='MODEL.npz', help='file to write')
    parser.add_argument('--dataset', default='birdclef', help='name in datasets/, or path of a data set (%(default)s)')
    parser.add_argument(
        '--validate', action='store_true', help='compute loss, error and MAP of the validation list after each epoch'
    )
    parser.add_argument('--save-errors', action='store_true', help='write figures of all epochs to MODEL.err.npz')
    parser.add_argument(
        '--keep-state', action='store_true', help='write MODEL.state after each epoch, and go on from it'
    )
    parser.add_argument(
        '--continue-anyway',
        action='store_true',
        help='go on from MODEL.state even if settings or data have '
        'changed since (no single command then reproduces the result)',
    )
    parser.add_argument(
        '--vars', metavar='FILE', action='append', default=[], help='settings that override the defaults (repeatable)'
    )
    parser.add_argument(
        '--var',
        metavar='KEY=VALUE',
        action='append',
        default=[],
        help='a setting that overrides all files (repeatable)',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, mps (default: the best that is there)')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    return parser.parse_args()


def find_all(filenames):
    """The files A:B that a setting names, as `config.find` finds each."""
    return ':'.join(map(config.find, filenames.split(':')))


def load_teacher(cfg, classes, num_meta, device):
    """The network that `ban` names, ready to predict: built by its own settings, read from its file."""
    filename = config.find(cfg['ban'])
    own = config.load([filename + '.vars']) if os.path.exists(filename + '.vars') else dict(cfg)
    model.note_bins(own, filename)
    for key in ('sample_rate', 'frame_len', 'fps', 'input_meta'):
        if own[key] != cfg[key]:
            raise Problem(
                'ban={}: the teacher was trained with {}={}, not {}'.format(cfg['ban'], key, own[key], cfg[key])
            )
    if own['arch'] and cfg['arch'] and stft.num_bins(own) != stft.num_bins(cfg):
        raise Problem(
            f'ban={cfg["ban"]}: the teacher takes {stft.num_bins(own)} frequency bins, the student {stft.num_bins(cfg)}; '
            f'train with the filterbank and mel_max of the teacher, or with filterbank=none and bins={stft.num_bins(own)}'
        )
    teacher = model.build(own, classes, num_meta)
    model.load(teacher, filename)
    return teacher.to(device).eval().requires_grad_(False)


class Trainer:
    """A network in training: everything that one step needs."""

    def __init__(self, cfg, dataset, validate, device, amp, team):
        self.cfg, self.device, self.team, self.amp = cfg, device, team, amp
        self.on_device = cfg['spectrogram'] == 'device' or cfg['spectrogram'] == 'auto' and device.type == 'cuda'
        if self.on_device and needs_host_spectrogram(cfg):
            self.on_device = False
        pseudo = pseudo_labels.load(cfg['pseudo_labels'], dataset.filelist('train'), dataset.num_classes)
        self.feed = TrainFeed(dataset, cfg, on_device=self.on_device, pseudo_labels=pseudo)
        self.valid_feed = ValidFeed(dataset, cfg, on_device=self.on_device) if validate else None
        classes, num_meta = dataset.num_classes, self.feed.num_meta
        torch.manual_seed(cfg['seed'])
        self.net = model.build(cfg, classes, num_meta)
        if cfg['init_from']:
            model.load(self.net, find_all(cfg['init_from']))
        self.net.to(device)
        self.teacher = load_teacher(cfg, classes, num_meta, device) if cfg['ban'] else None
        self.magnitudes = Magnitudes(cfg).to(device) if self.on_device and cfg['arch'] else None
        self.optimiser = optim.make_optimiser(self.net, cfg)
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp and devices.amp_type(device) == torch.float16)
        self.parallel = self.net
        if team.size > 1:
            model.synchronise(self.net)
            self.parallel = torch.nn.parallel.DistributedDataParallel(
                self.net, device_ids=[device.index] if device.type == 'cuda' else None, broadcast_buffers=False
            )
            torch.manual_seed(cfg['seed'] + 1000003 * team.rank)  # dropout differs from process to process

    def inputs(self, batch):
        """What the network takes of a batch on the device: (spect, meta), either of them None if there is none."""
        spect = batch.get('spect')
        if 'samples' in batch:
            spect = self.magnitudes(batch['samples'])
        if 'filter' in batch:
            spect = spect * batch['filter'][:, None]
        return spect, batch.get('meta')

    def autocast(self):
        return torch.autocast(self.device.type, devices.amp_type(self.device), enabled=self.amp)

    def step(self, batch):
        """One update of the network. Returns the loss of this process's share, times its part of the batch, on the device."""
        batch, part = self.team.share(batch)
        batch = devices.to_device(batch, self.device)
        self.optimiser.zero_grad()
        spect, meta = self.inputs(batch)
        with self.autocast():
            outputs = self.parallel(spect, meta)
            taught = None
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(spect, meta)['output']
        loss = costs.training_cost(outputs, batch, self.cfg, taught)
        objective = loss + optim.l2_penalty(self.net, self.cfg)
        # DistributedDataParallel takes the mean over processes
        self.scaler.scale(objective * (part * self.team.size) if self.team.size > 1 else objective).backward()
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimiser)
        if self.cfg['clip_grad']:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.cfg['clip_grad'])
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach() * part  # as in 2018, without weight decay

    def epoch(self, number, record=None):
        """Mean training loss of epoch `number`; `record()` is called every `first_params_log` batches."""
        self.net.train()
        size, losses, total = self.cfg['epochsize'], [], 0.0
        batches = self.feed.batches(number * size, (number + 1) * size)
        bar = tqdm(batches, 'epoch %d' % (number + 1), size, leave=False, disable=None if self.team.rank == 0 else True)
        for k, batch in enumerate(bar):
            losses.append(self.step(batch))
            if record and (number * size + k) % self.cfg['first_params_log'] == 0:
                record()
            if len(losses) == CHECK_EVERY or k + 1 == size:
                total += self.team.sum(torch.stack(losses).float()).cpu().double().sum().item()
                losses.clear()
                if not math.isfinite(total):
                    raise Problem(
                        'epoch %d, batch %d: the loss is not finite; try a lower initial_eta, clip_grad=1, or pred_clip'
                        % (number + 1, k + 1)
                    )
        return total / size

    def validate(self):
        """(loss, error, MAP) of the validation list; the loss is the mean of the batches' means."""
        self.net.eval()
        mine = []
        share = range(self.team.rank, len(self.valid_feed), self.team.size)
        with torch.no_grad():
            for batch in tqdm(
                self.valid_feed.batches(share.start, share.stop, share.step),
                'validation',
                len(share),
                leave=False,
                disable=None if self.team.rank == 0 else True,
            ):
                tensors = devices.to_device(batch, self.device)
                with self.autocast():
                    outputs = self.net(*self.inputs(tensors))
                loss = costs.validation_cost(outputs, tensors, self.cfg)
                scores = outputs['output'].float().cpu().numpy()
                mine += [np.array(loss.item()), scores.reshape(*scores.shape[:2], -1).max(-1), batch['label']]
        everyone = [array for share in self.team.gather(mine) for array in share]
        losses, scores, labels = everyone[0::3], everyone[1::3], everyone[2::3]
        figures = metrics.evaluate(np.concatenate(scores), np.concatenate(labels))
        return float(np.mean(losses)), 1 - figures['top-1'], figures['MAP']

    def arrays(self):
        """Copies of the network's and the optimiser's arrays, on the host."""
        return (
            {k: v.detach().cpu().numpy().copy() for k, v in self.net.state_dict().items()},
            {k: np.array(v) for k, v in self.optimiser.state_arrays().items()},
        )

    def restore(self, net, opt):
        self.net.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in net.items()})
        self.optimiser.load_state_arrays(opt)

    def random_state(self):
        states = {'cpu': torch.get_rng_state().numpy().copy()}
        if self.device.type == 'cuda':
            states['cuda'] = torch.cuda.get_rng_state(self.device).numpy().copy()
        return states

    def set_random_state(self, states):
        torch.set_rng_state(torch.from_numpy(states['cpu']))
        if self.device.type == 'cuda' and 'cuda' in states:
            torch.cuda.set_rng_state(torch.from_numpy(states['cuda']), self.device)


def plot_feed(trainer, filename):
    """Draw the spectrograms of the first batches into a PNG file."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 4, figsize=(16, 10), squeeze=False)
    excerpts = (
        spect
        for batch in trainer.feed.batches(0, 16)
        for spect in trainer.inputs(devices.to_device(batch, trainer.device))[0].cpu().numpy()
    )
    for axis, spect in zip(axes.flat, excerpts):
        axis.imshow(np.log1p(spect).T, origin='lower', aspect='auto')
    figure.tight_layout()
    figure.savefig(filename)
    print(f'wrote {filename}')


def benchmark_feed(trainer, number):
    """Print how fast the first `number` batches come."""
    count = samples = 0
    start = time.perf_counter()
    for batch in tqdm(trainer.feed.batches(0, number), 'feed', number, disable=None):
        count += 1
        samples += sum(a.shape[0] * a.shape[1] for k, a in batch.items() if k == 'samples')
        samples += sum(
            a.shape[0] * a.shape[1] * int(trainer.cfg['sample_rate'] // trainer.cfg['fps'])
            for k, a in batch.items()
            if k == 'spect'
        )
    seconds = time.perf_counter() - start
    print(
        '%d batches in %.1f s: %.1f batches/s, %.0f x real time'
        % (count, seconds, count / seconds, samples / trainer.cfg['sample_rate'] / seconds)
    )


def resume(filename, anyway, trainer, schedule, identity):
    """Put trainer and schedule where a state says. Returns (arrays of the best epoch, of the latest one, errors, history,
    changes that were made anyway, in words)."""
    arrays, description, differing = checkpoint.load(filename, anyway, **identity)
    cfg, then = identity['settings'], description['settings']
    best, latest = (arrays.get('best_net', {}), arrays.get('best_opt', {})), (arrays['net'], arrays['opt'])
    try:
        trainer.restore(*latest)
    except RuntimeError as e:
        raise Problem(
            f'{filename}: is of another network ({str(e).splitlines()[-1].strip()}); {checkpoint.restart(filename)}'
        ) from None
    randoms = arrays.get(f'random{trainer.team.rank}')
    if randoms:
        trainer.set_random_state(randoms)
    columns = len(COLUMNS) if identity['validate'] else 1
    errors = [(row + [math.nan] * columns)[:columns] for row in arrays['run']['errors'].tolist()]
    history = (
        [list(values) for values in zip(*(arrays['history'][str(i)] for i in range(len(arrays['history']))))]
        if 'history' in arrays
        else []
    )
    schedule.resume(description['schedule'], bool(differing))
    if differing and then.get('initial_eta'):
        schedule.eta *= cfg['initial_eta'] / then['initial_eta']
    changes = description.get('changes', []) + [f'after epoch {schedule.epoch}: {change}' for change in differing]
    if trainer.team.rank == 0:
        longer = [f'{k}={cfg[k]} (was {then.get(k, "unset")})' for k in checkpoint.DURATION if cfg[k] != then.get(k)]
        print(
            f'going on from {filename} after epoch {schedule.epoch}{", with " if longer else ""}{", ".join(longer)}',
            flush=True,
        )
    return best, latest, errors, history, changes


def train(args, cfg, trainer, dataset, record):
    """Train until the schedule says so. Returns (arrays of the network to save, epoch it is from, errors)."""
    schedule = Schedule(cfg, args.validate)
    lead = trainer.team.rank == 0
    root = args.model[: -len('.npz')]
    errors, history, changes = [], [], []
    best = latest = trainer.arrays()
    identity = dict(
        settings=cfg,
        data=checkpoint.fingerprint(dataset),
        validate=args.validate,
        amp=args.amp,
        processes=trainer.team.size,
    )
    if args.keep_state and os.path.exists(root + '.state'):
        best, latest, errors, history, changes = resume(
            root + '.state', args.continue_anyway, trainer, schedule, identity
        )
    changes = {'changes': changes} if changes else {}

    first = dict(
        itertools.islice(
            ((name, p) for name, p in trainer.net.named_parameters() if p.requires_grad), cfg['first_params']
        )
    )
    if history and len(history[-1]) != len(first):  # first_params has changed
        history = []
    remember = (
        (lambda: history.append([p.detach().cpu().numpy().copy() for p in first.values()]))
        if first and cfg['first_params_log']
        else None
    )
    while not schedule.finished:
        started = time.perf_counter()
        trainer.optimiser.eta = schedule.eta
        eta = schedule.eta
        row = [trainer.epoch(schedule.epoch, remember)]
        if args.validate:
            row += trainer.validate()
        errors.append(row)
        action = schedule.advance(dict(zip(COLUMNS, row)))
        latest = trainer.arrays()
        if action == 'keep':
            best = latest
        elif action == 'back':
            trainer.restore(*best)
            latest = best
        randoms = trainer.random_state() if args.keep_state else {}
        randoms = [dict(zip(randoms, states)) for states in trainer.team.gather(list(randoms.values()))]
        if not lead:
            continue
        print(
            'epoch %d: %s, rate %.3g, %.1f s%s'
            % (
                schedule.epoch,
                ', '.join('{} {:.4f}'.format(name.replace('_', ' '), value) for name, value in zip(COLUMNS, row)),
                eta,
                time.perf_counter() - started,
                ', back to epoch %d (trial %d of %d ended)' % (schedule.best_epoch + 1, schedule.trial, schedule.trials)
                if action == 'back'
                else '',
            ),
            flush=True,
        )
        if args.save_errors:
            save_npz(
                root + '.err.npz',
                {'errors': np.array(errors), 'columns': np.array(COLUMNS[: len(row)]), 'arr_0': np.array(errors)},
            )  # as the original calls it
        if args.keep_state:
            groups = dict(
                net=latest[0],
                opt=latest[1],
                best_net=best[0],
                best_opt=best[1],
                run={'errors': np.array(errors)},
                **{'random%d' % i: r for i, r in enumerate(randoms)},
            )
            if history:
                groups['history'] = {str(i): np.array(values) for i, values in enumerate(zip(*history))}
            checkpoint.save(root + '.state', groups, schedule=schedule.position(), **changes, **identity)
        record.write(epochs=schedule.epoch, **changes)
    keep_best = cfg['save'] == 'best' or not cfg['save'] and cfg['patience']
    chosen, epoch = (best, schedule.best_epoch + 1) if keep_best and errors else (latest, schedule.epoch)
    if lead and history:
        save_npz(root + '.hist.npz', {name: np.array(values) for name, values in zip(first, zip(*history))})
    return chosen[0], epoch, errors


def main():
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not args.model.endswith('.npz'):
        raise Problem(f'{args.model}: a model file must end in .npz')
    folder = os.path.dirname(os.path.abspath(args.model))
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise Problem(f'{folder}: the folder cannot be written to')
    cfg = config.load(args.vars, args.var)
    dataset = Dataset(args.dataset, cfg['label_file'])
    cfg['classes'] = dataset.num_classes
    Schedule(cfg, args.validate)
    for key in ('ban', 'init_from'):
        for filename in filter(None, cfg[key].split(':')):
            if not os.path.exists(config.find(filename)):
                raise Problem(f'{key}={filename}: no such file; train that model first')
    if cfg['init_from']:
        model.note_bins(cfg, find_all(cfg['init_from']))
    if args.keep_state and os.path.exists(args.model[: -len('.npz')] + '.state'):
        model.note_bins(cfg, args.model[: -len('.npz')] + '.state', 'net|')
    device = devices.pick(args.device)
    devices.deterministic()
    team = devices.Team(device)
    try:
        trainer = Trainer(cfg, dataset, args.validate, device, args.amp, team)
        if cfg['plot_datafeed']:
            return plot_feed(trainer, args.model[:-4] + '.feed.png')
        if cfg['benchmark_datafeed']:
            return benchmark_feed(trainer, cfg['benchmark_datafeed'])
        record = provenance.Record(
            args.model[:-4] + '.run.json',
            dataset=dataset.name,
            device=devices.describe(device),
            processes=team.size,
            threads=torch.get_num_threads(),
            seed=cfg['seed'],
            settings=cfg,
        )
        if team.rank == 0:
            print(
                '%s: %d recordings, %d classes, %d parameters, on %s'
                % (
                    args.model,
                    len(trainer.feed.files),
                    dataset.num_classes,
                    sum(p.numel() for p in trainer.net.parameters()),
                    devices.describe(device),
                ),
                flush=True,
            )
            if cfg['arch'] and cfg['band_centre']:
                print(
                    'band_centre=1: this network needs each excerpt as a whole, so predict.py --full-resolution will not '
                    'work with it',
                    flush=True,
                )
        chosen, epoch, errors = train(args, cfg, trainer, dataset, record)
        if team.rank == 0:
            trainer.net.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in chosen.items()})
            config.write_vars(args.model + '.vars', cfg)
            model.save(trainer.net, args.model)
            record.write(epochs=len(errors), saved_epoch=epoch, finished=True)
            print('wrote %s, the network after epoch %d of %d' % (args.model, epoch, len(errors)), flush=True)
        team.leave()
    except RuntimeError:
        # Another process died, or a GPU failed.
        if team.size == 1:
            raise
        traceback.print_exc()
        sys.exit(LOST)


if __name__ == '__main__':
    program.run(main)
