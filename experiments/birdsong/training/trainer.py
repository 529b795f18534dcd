"""A network in training: steps, epochs and validation, in one process or several."""

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from birdsong import config, devices
from birdsong.data import metadata, stft
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import ValidFeed
from birdsong.data.training_feed import TrainFeed
from birdsong.files import Problem
from birdsong.networks import model
from birdsong.networks.frontend import Magnitudes
from birdsong.scores import metrics
from birdsong.training import costs, duration, optim, pseudo_labels, self_training
from birdsong.training.averaging import MovingAverage
from birdsong.training.distributed import Team

# Batches between two checks of the loss. Each check makes the host wait for the device.
CHECK_EVERY = 50
# Names of the groups of arrays in the state of a Trainer.
GROUPS = 'net', 'average', 'opt'

Arrays = dict[str, np.ndarray]


def load_arrays(net: torch.nn.Module, arrays: Arrays) -> None:
    """Set all arrays of a network. Raises RuntimeError if they belong to another network."""
    net.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items()})


def find_all(filenames: str) -> str:
    """The paths of the files A:B in a setting, see `config.find`."""
    return ':'.join(map(config.find, filenames.split(':')))


def check_classes(setting: str, filename: str, classes: int) -> None:
    """Raise Problem if the .vars file of a network says that it has another number of classes."""
    found = (
        config.read_vars(f'{filename}.vars').get('classes', classes) if os.path.exists(f'{filename}.vars') else classes
    )
    if found != classes:
        raise Problem(
            f'{setting}={filename}: that network has {found} classes, the dataset {classes}; '
            'train that network on this dataset first'
        )


def load_teacher(cfg: dict[str, Any], classes: int, num_meta: int, device: torch.device) -> torch.nn.Module:
    """The network in the file cfg['ban'], built with its own settings and ready to predict.

    Raises Problem if it does not fit `cfg`, the settings of the student.
    """
    filename = config.find(cfg['ban'])
    check_classes('ban', filename, classes)
    own = config.load([filename + '.vars']) if os.path.exists(filename + '.vars') else dict(cfg)
    model.note_bins(own, filename)
    # The teacher gets the spectrograms and the encoded metadata of the student.
    scales = [f'input_meta.{name}_{value}' for name in metadata.scaled(cfg) for value in ('mean', 'std')]
    for key in ('sample_rate', 'frame_len', 'fps', 'input_meta', *(scales if own['arch_meta'] else ())):
        if own[key] != cfg[key]:
            raise Problem(f'ban={cfg["ban"]}: the teacher was trained with {key}={own[key]}, not {cfg[key]}')
    if own['arch'] and cfg['arch'] and stft.num_bins(own) != stft.num_bins(cfg):
        bins = stft.num_bins(own)
        raise Problem(
            f'ban={cfg["ban"]}: the teacher takes {bins} frequency bins, the student {stft.num_bins(cfg)}; train with '
            f'the filterbank and mel_max of the teacher, or with filterbank=none and bins={bins}'
        )
    teacher = model.build(own, classes, num_meta)
    model.load(teacher, filename)
    return teacher.to(device).eval().requires_grad_(False)


class Trainer:
    """A network in training, with its feeds, its optimiser and, if there are any, its teacher and its moving average.

    validate: whether `validate` will be called, which needs the validation list. amp: use mixed precision.
    compiled: train with torch.compile; raises Problem unless all excerpts have the same length.
    """

    def __init__(
        self,
        cfg: dict[str, Any],
        dataset: Dataset,
        validate: bool,
        device: torch.device,
        amp: bool,
        team: Team,
        compiled: bool = False,
    ):
        if compiled and cfg['len_min'] != cfg['len_max']:
            raise Problem(
                f'--compile: len_min={cfg["len_min"]} and len_max={cfg["len_max"]} differ, and the network would be '
                'compiled for each length; make them equal'
            )
        self.cfg, self.device, self.team, self.amp = cfg, device, team, amp
        costs.check(cfg)
        self._make_feeds(dataset, validate)
        self.automatic = duration.resolve(cfg, self.feed.index['length'])  # settings that were `auto`
        classes, num_meta = dataset.num_classes, self.feed.num_meta
        torch.manual_seed(cfg['seed'])
        self.net = model.build(cfg, classes, num_meta)
        if cfg['init_from']:
            for filename in find_all(cfg['init_from']).split(':'):
                check_classes('init_from', filename, classes)
        model.initialise(self.net, cfg, cfg['init_from'] and find_all(cfg['init_from']))
        self.net.to(device)
        self.teacher = load_teacher(cfg, classes, num_meta, device) if cfg['ban'] else None
        self.optimiser = optim.make_optimiser(self.net, cfg)
        self.average = MovingAverage(self.net, cfg['average']) if cfg['average'] else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp and devices.amp_type(device) == torch.float16)
        self.parallel = torch.compile(self.net) if compiled else self.net
        if team.size > 1:
            model.synchronise(self.net)
            device_ids = [device.index] if device.type == 'cuda' else None
            self.parallel = DistributedDataParallel(self.parallel, device_ids=device_ids, broadcast_buffers=False)
            torch.manual_seed(cfg['seed'] + 1000003 * team.rank)  # a different dropout in each process

    def _make_feeds(self, dataset: Dataset, validate: bool) -> None:
        cfg = self.cfg
        on_device = devices.computes_spectrograms(cfg, self.device)
        pseudo = pseudo_labels.load(cfg['pseudo_labels'], dataset.filelist('train'), dataset.num_classes)
        soft = self_training.load(cfg, dataset)
        self.feed = TrainFeed(dataset, cfg, on_device=on_device, pseudo_labels=pseudo, soft=soft)
        self.valid_feed = ValidFeed(dataset, cfg, on_device=on_device) if validate else None
        self.magnitudes = Magnitudes(cfg).to(self.device) if self.feed.on_device and cfg['arch'] else None

    def inputs(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
        """Spectrograms (batch, frames, bins), metadata (batch, D) and masks (batch, N, 4) of a batch on the device.

        None for each that is missing.
        """
        spect = batch.get('spect')
        if 'samples' in batch:
            spect = self.magnitudes(batch['samples'])
        if 'filter' in batch:
            spect = spect * batch['filter'][:, None]
        return spect, batch.get('meta'), batch.get('masks')

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, devices.amp_type(self.device), enabled=self.amp)

    def step(self, batch: Arrays) -> torch.Tensor:
        """Update the network once. Returns the loss of this process's rows times their fraction of the batch.

        The loss is a scalar on the device and does not include weight decay, as in 2018.
        """
        batch, part = self.team.share(batch)
        batch = devices.to_device(batch, self.device)
        self.optimiser.zero_grad()
        spect, meta, masks = self.inputs(batch)
        with self._autocast():
            outputs = self.parallel(spect, meta, masks)
            taught = None
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(spect, meta)['output']
        loss = costs.training_cost(outputs, batch, self.cfg, taught)
        objective = loss + optim.l2_penalty(self.net, self.cfg)
        if self.team.size > 1:
            objective = objective * (part * self.team.size)  # DistributedDataParallel takes the mean over processes
        self.scaler.scale(objective).backward()
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimiser)
        if self.cfg['clip_grad']:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.cfg['clip_grad'])
        earlier = self.optimiser.steps
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average:
            self.average.update(earlier)
        return loss.detach() * part

    def _progress(self, batches, title: str, count: int) -> tqdm:
        return tqdm(batches, title, count, leave=False, disable=None if self.team.leads else True)

    def epoch(self, number: int, rate: Callable[[int], float], record: Callable[[], None] | None = None) -> float:
        """Train for epoch `number`, counted from 0. Returns the mean loss of its batches.

        `rate` gives the learning rate of each update, counted from 0 over all epochs. `record` is called every
        `first_params_log` batches. Raises Problem if the loss is not finite.
        """
        self.net.train()
        size, losses, total = self.cfg['epochsize'], [], 0.0
        batches = self.feed.batches(number * size, (number + 1) * size)
        for k, batch in enumerate(self._progress(batches, f'epoch {number + 1}', size)):
            update = number * size + k
            self.optimiser.eta = rate(update)
            losses.append(self.step(batch))
            if record and update % self.cfg['first_params_log'] == 0:
                record()
            if len(losses) == CHECK_EVERY or k + 1 == size:
                total += self.team.sum(torch.stack(losses).float()).cpu().double().sum().item()
                losses.clear()
                if not math.isfinite(total):
                    raise Problem(
                        f'epoch {number + 1}, batch {k + 1}: the loss is not finite; '
                        'try a lower initial_eta, clip_grad=1, or pred_clip'
                    )
        return total / size

    def validate(self) -> tuple[float, float, float]:
        """Loss (mean over batches of their mean loss), error and MAP on the validation list.

        With a moving average, they are those of the averaged network.
        """
        net = self.average.net if self.average else self.net.eval()
        mine = []
        share = range(self.team.rank, len(self.valid_feed), self.team.size)
        batches = self.valid_feed.batches(share.start, share.stop, share.step)
        with torch.no_grad():
            for batch in self._progress(batches, 'validation', len(share)):
                tensors = devices.to_device(batch, self.device)
                with self._autocast():
                    outputs = net(*self.inputs(tensors))
                loss = costs.validation_cost(outputs, tensors, self.cfg)
                scores = outputs['output'].float().cpu().numpy()
                mine += [np.array(loss.item()), scores.reshape(*scores.shape[:2], -1).max(-1), batch['label']]
        everyone = [array for share in self.team.gather(mine) for array in share]
        losses, scores, labels = everyone[0::3], everyone[1::3], everyone[2::3]
        result = metrics.evaluate(np.concatenate(scores), np.concatenate(labels))
        return float(np.mean(losses)), 1 - result['top-1'], result['MAP']

    def arrays(self) -> dict[str, Arrays]:
        """Copies of the arrays of the network, the moving average, if there is one, and the optimiser, as in GROUPS."""
        nets = {'net': self.net} | ({'average': self.average.net} if self.average else {})
        groups = {
            group: {k: v.detach().cpu().numpy().copy() for k, v in net.state_dict().items()}
            for group, net in nets.items()
        }
        return groups | {'opt': {k: np.array(v) for k, v in self.optimiser.state_arrays().items()}}

    def restore_network(self, arrays: Arrays) -> None:
        """Load the arrays of a network. Raises RuntimeError if they belong to another network."""
        load_arrays(self.net, arrays)

    def restore(self, groups: dict[str, Arrays]) -> None:
        """Go back to the state that `arrays` returned.

        Without 'average', the moving average starts from the network.
        """
        self.restore_network(groups['net'])
        self.optimiser.load_state_arrays(groups['opt'])
        if self.average:
            load_arrays(self.average.net, groups.get('average', groups['net']))

    def random_state(self) -> Arrays:
        """State of torch's random generators, which dropout uses, by kind of device."""
        states = {'cpu': torch.get_rng_state().numpy().copy()}
        if self.device.type == 'cuda':
            states['cuda'] = torch.cuda.get_rng_state(self.device).numpy().copy()
        return states

    def set_random_state(self, states: Arrays) -> None:
        """Go back to the state that `random_state` returned."""
        torch.set_rng_state(torch.from_numpy(states['cpu']))
        if self.device.type == 'cuda' and 'cuda' in states:
            torch.cuda.set_rng_state(torch.from_numpy(states['cuda']), self.device)
