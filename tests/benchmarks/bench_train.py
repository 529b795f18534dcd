#!/usr/bin/env python3
"""A training step of the published audio networks: ours against the same networks written plainly in PyTorch.

The plain networks, which are below, consist of nn.Conv2d, nn.BatchNorm2d and other modules of torch, with
torch.optim.Adam. Both compute the same: with the same weights, outputs, gradients and running statistics are compared
first. Then their steps on the same batches take turns. Prints medians, minima, ratios of minima, and the shares of our
step.
On the CPU with one thread, times are the CPU time of the process, which other programs influence less; otherwise they
are wall-clock time. On CUDA, also with TF32, mixed precision and channels-last maps; --compile adds torch.compile.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(sys.path[0], '..', '..', 'experiments'))

import numpy as np
import torch
import torch.nn.functional as F
from bench_feed import make_dataset
from torch import nn

from birdsong import config, devices
from birdsong.networks import layers
from birdsong.networks.frontend import LearnablePower
from birdsong.training.distributed import Team
from birdsong.training.trainer import Trainer

NETWORKS = {'plain CNN': ('published', 'dummy', 'lme1'), 'residual': ('published', 'resnet1', 'lme1')}
# columns of the table: mixed precision, TF32, channels-last, compiled
COLUMNS = {
    'float32': (),
    'TF32': ('tf32',),
    'channels-last': ('tf32', 'last'),
    'AMP': ('tf32', 'amp'),
    'AMP, channels-last': ('tf32', 'amp', 'last'),
    'compiled': ('tf32', 'compile'),
    'AMP, compiled': ('tf32', 'amp', 'compile'),
}


# == The plain networks ==


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-4)


def conv(channels, filters, size, dropout=0.0):
    parts = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(
        *parts, nn.Conv2d(channels, filters, size, bias=False), norm(filters), nn.LeakyReLU(0.01, inplace=True)
    )


class Unit(nn.Module):
    """A residual unit with pre-activation."""

    def __init__(self, channels, filters, leading):
        super().__init__()
        self.leading = nn.Sequential(norm(channels), nn.ReLU(inplace=True)) if leading else nn.Identity()
        self.main = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1, bias=False),
            norm(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Conv2d(channels, filters, 1) if channels != filters else nn.Identity()

    def forward(self, x):
        return self.main(self.leading(x)) + self.shortcut(x)


class Plain(nn.Module):
    """The published network `name` on spectrograms (batch, frames, bins), with the filterbank `bank` (bins, bands)."""

    def __init__(self, name, bank, classes):
        super().__init__()
        self.register_buffer('bank', bank)
        self.exponent = nn.Parameter(torch.zeros(()))
        self.standardise = nn.BatchNorm1d(bank.shape[1], eps=1e-4, affine=False)
        if name == 'residual':
            first = [Unit(1, 64, False), Unit(64, 64, True), nn.MaxPool2d(3)]
            first += [Unit(64, 128, True), Unit(128, 128, True), norm(128), nn.ReLU(inplace=True)]
            bands = bank.shape[1] // 3
        else:
            first = [conv(1, 64, 3), conv(64, 64, 3), nn.MaxPool2d(3), conv(64, 128, 3), conv(128, 128, 3)]
            bands = (bank.shape[1] - 4) // 3 - 4
        self.layers = nn.Sequential(
            *first,
            conv(128, 128, (3, bands - 4)),
            nn.MaxPool2d((3, 5)),
            conv(128, 1024, (9, 1), 0.5),
            conv(1024, 1024, 1, 0.5),
            nn.Dropout(0.5),
            nn.Conv2d(1024, classes, 1),
        )

    def forward(self, spect):
        x = spect @ self.bank
        x = x ** torch.sigmoid(self.exponent)
        x = self.standardise(x.transpose(1, 2)).transpose(1, 2)[:, None]
        maps = self.layers(x).flatten(2)
        return torch.logsumexp(maps, 2) - np.log(maps.shape[2])


def pairs(ours, plain):
    """Arrays of both networks that correspond to each other: (ours, plain, is an inverse standard deviation)."""

    def find(net, *kinds):
        return [module for module in net.modules() if isinstance(module, kinds)]

    yield find(ours, LearnablePower)[0].exponent, plain.exponent, False
    for one, other in zip(find(ours, layers.Convolution), find(plain, nn.Conv2d), strict=True):
        yield one.weight, other.weight, False
        if other.bias is not None:
            yield one.bias, other.bias, False
    for one, other in zip(find(ours, layers.BatchNorm), find(plain, nn.BatchNorm1d, nn.BatchNorm2d), strict=True):
        if other.weight is not None:
            yield one.gamma, other.weight, False
            yield one.beta, other.bias, False
        yield one.mean, other.running_mean, False
        yield one.inv_std, other.running_var, True


# == One step of each ==


@contextlib.contextmanager
def without_dropout(*nets):
    rates = [(m, key, vars(m)[key]) for net in nets for m in net.modules() for key in ('p', 'rate') if key in vars(m)]
    for module, key, _ in rates:
        setattr(module, key, 0.0)
    yield
    for module, key, rate in rates:
        setattr(module, key, rate)


class PlainTrainer:
    """Updates the plain network as `trainer` updates ours."""

    def __init__(self, name, trainer):
        self.ours = trainer
        self.net = Plain(name, trainer.net.audio.front.filterbank.bank.clone(), trainer.net.classes).to(trainer.device)
        with torch.no_grad():
            for one, other, inverse in pairs(trainer.net, self.net):
                other.copy_(one**-2 if inverse else one)
        self.forward = self.net
        self.optimiser = torch.optim.Adam(self.net.parameters(), trainer.cfg['initial_eta'])

    def step(self, batch):
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode('default')  # plain programs use the defaults of torch
        batch = devices.to_device(batch, self.ours.device)
        self.optimiser.zero_grad()
        spect = self.ours.inputs(batch)[0]
        with self.ours._autocast():
            logits = self.forward(spect)
        loss = F.cross_entropy(logits.float(), batch['label'])
        loss.backward()
        self.optimiser.step()
        torch.set_deterministic_debug_mode(mode)


def make_pair(name, dataset, args, device):
    """Trainers of our network and of the plain one, with the same weights."""
    presets = [os.path.join(config.EXPERIMENTS, 'vars', f'{preset}.vars') for preset in NETWORKS[name]]
    changes = [f'len_min={args.seconds}', f'len_max={args.seconds}', f'batchsize={args.batch}', 'label_file=fg.tsv']
    cfg = config.load(presets, changes)
    cfg['classes'] = dataset.num_classes
    ours = Trainer(cfg, dataset, False, device, False, Team(device))
    ours.net.train()
    return ours, PlainTrainer(name, ours)


def check(ours, plain):
    """Stop if both networks do not compute the same; in float64, because gradients in float32 have rounding errors."""
    nets = ours.net.double(), plain.net.double()
    counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert counts[0] == counts[1], counts
    spect = ours.inputs(devices.to_device(ours.feed.batch(0), ours.device))[0]
    spect = spect[:2, : ours.net.min_frames + ours.net.frame_step].double()
    with without_dropout(*nets):
        outputs = ours.net(spect)['logits'], plain.net(spect)
    for output in outputs:
        F.cross_entropy(output, torch.arange(2, device=ours.device)).backward()
    torch.testing.assert_close(*outputs)
    for one, other, inverse in pairs(*nets):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-9)
        elif not inverse:  # running means
            torch.testing.assert_close(one, other)
    for net in nets:
        net.float()
    print(f'{counts[0]} parameters; outputs and gradients of both networks are equal', flush=True)


def choose(options, ours, plain):
    """Make both trainers compute as in a column of the table."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = 'tf32' in options
    ours.amp = 'amp' in options
    for trainer in ours, plain:
        trainer.net.to(memory_format=torch.channels_last if 'last' in options else torch.contiguous_format)
    compiled = torch.compile if 'compile' in options else lambda net: net
    ours.parallel, plain.forward = compiled(ours.net), compiled(plain.net)


# == Times ==


class Clock:
    """Seconds that the calling process spent computing on the CPU (one thread), or else of the wall clock."""

    def __init__(self, device, threads):
        self.device, self.read = device, time.perf_counter
        if device.type == 'cpu' and threads == 1:
            self.read = time.process_time

    def __call__(self):
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return self.read()


def take_turns(ways, repeats, clock):
    """Seconds of each call: {name: [seconds]}; the functions take turns, after one call of each to warm up."""
    times = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if turn:
                times[name].append(clock() - start)
    return times


def shares(trainer, repeats, clock):
    """Median seconds of each part of a step."""
    parts = {name: [] for name in ('feed', 'to the device', 'front end', 'forward', 'cost', 'backward', 'optimiser')}
    marks = []

    def mark(*_):
        marks.append(clock())

    net, optimiser = trainer.net, trainer.optimiser
    hooks = [
        net.register_forward_pre_hook(mark),
        net.audio.front.register_forward_hook(mark),
        net.register_forward_hook(mark),
        optimiser.register_step_pre_hook(mark),
        optimiser.register_step_post_hook(mark),
    ]
    scale = trainer.scaler.scale
    trainer.scaler.scale = lambda loss: mark() or scale(loss)
    for k in range(repeats):
        marks[:] = [clock()]
        batch = trainer.feed.batch(k)
        mark()
        trainer.step(batch)
        for values, start, stop in zip(parts.values(), marks[:-1], marks[1:], strict=True):
            values.append(stop - start)
    for hook in hooks:
        hook.remove()
    trainer.scaler.scale = scale
    return {name: float(np.median(values)) for name, values in parts.items()}


def compare(ours, plain, columns, threads, repeats):
    """Print a line for each column, and the shares of our step in the first one."""
    torch.set_num_threads(threads)
    clock, batch = Clock(ours.device, threads), ours.feed.batch(0)
    for column in columns:
        choose(COLUMNS[column], ours, plain)
        ways = {'ours': lambda: ours.step(batch), 'plain': lambda: plain.step(batch)}
        times = take_turns(ways, repeats, clock)
        best = {who: min(seconds) for who, seconds in times.items()}
        print(
            f'{column:20} {threads} threads'
            + ''.join(f'; {who} {np.median(times[who]):.3f} s, at best {best[who]:.3f} s' for who in ways)
            + f'; {1 / best["ours"]:.2f} steps/s, plain / ours {best["plain"] / best["ours"]:.2f}',
            flush=True,
        )
        if column == columns[0]:
            parts = shares(ours, repeats, clock)
            total = sum(parts.values())
            print('  ' + ', '.join(f'{part} {100 * s / total:.1f} %' for part, s in parts.items()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--device', default='cpu', help='cpu, cuda, cuda:1 (%(default)s)')
    add('--threads', type=int, nargs='+', help='numbers of threads (default on the CPU: 1 2)')
    add('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS), help='(default: both)')
    add('--columns', nargs='+', choices=COLUMNS, metavar='COLUMN', help=', '.join(COLUMNS))
    add('--seconds', type=int, help='length of excerpts (CPU: 5, GPU: 30)')
    add('--batch', type=int, default=16, help='excerpts per batch (%(default)s)')
    add('--classes', type=int, default=1500, help='number of classes (%(default)s)')
    add('--repeats', type=int, default=9, help='number of rounds (%(default)s)')
    add('--return-memory', action='store_true', help='without devices.keep_memory, which train.py calls')
    args = parser.parse_args()
    device = devices.pick(args.device)
    devices.deterministic()
    if not args.return_memory:
        devices.keep_memory()
    on_cpu = device.type == 'cpu'
    args.seconds = args.seconds or (5 if on_cpu else 30)
    columns = args.columns or (['float32', 'channels-last'] if on_cpu else list(COLUMNS))
    print(f'{args.batch} excerpts of {args.seconds} s, {args.classes} classes, on {devices.describe(device)}')
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(folder, classes=args.classes)
        for name in args.networks:
            ours, plain = make_pair(name, dataset, args, device)
            print(f'{name}: ', end='')
            check(ours, plain)
            for threads in args.threads or ((1, 2) if on_cpu else (torch.get_num_threads(),)):
                compare(ours, plain, columns, threads, args.repeats)


if __name__ == '__main__':
    main()
