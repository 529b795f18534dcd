"""The schedule of a training run: the learning rate, when to go back to the best network, and when to stop."""

import math
from typing import Any

from birdsong.files import Problem

# the metrics of an epoch, and the columns of MODEL.err.npz
COLUMNS = ('train_loss', 'valid_loss', 'valid_error', 'valid_map')


def saves_best(cfg: dict[str, Any]) -> bool:
    """Whether a run saves its best network instead of its last one."""
    return cfg['save'] == 'best' or not cfg['save'] and cfg['patience'] > 0


class Schedule:
    """Learning rate and patience in each epoch, according to the settings of a run.

    A trial ends after `patience` epochs without improvement of the criterion. Then training goes back to the best
    network so far; it stops after `trials_of_patience` trials. An equal value counts as improvement. The learning rate
    is multiplied by `eta_decay` every `eta_decay_every` epochs or after each trial, and in each epoch by the next
    factor of `eta_cycle`; with eta_schedule=cosine, it depends on the number of updates alone (see `rate`).

    Raises Problem if settings exclude each other, or need a validation list and `validate` is false.
    """

    def __init__(self, cfg: dict[str, Any], validate: bool):
        self.criterion = cfg['patience_criterion'] or ('valid_loss' if validate else 'train_loss')
        if self.criterion != 'train_loss' and not validate:
            raise Problem(f'patience_criterion={self.criterion}: needs --validate')
        self.epochs = cfg['epochs']
        self.patience = cfg['patience']
        self.trials = cfg['trials_of_patience']
        self.decay, self.every = cfg['eta_decay'], cfg['eta_decay_every']
        self.cycle = self._parse_cycle(cfg['eta_cycle'])
        self.cosine = cfg['eta_schedule'] == 'cosine'
        self.warmup, self.epochsize = cfg['warmup'], cfg['epochsize']
        self._check(cfg)
        self.eta = cfg['initial_eta']
        self.epoch = 0  # epochs done
        self.trial = 0  # trials ended
        self.waited = 0  # epochs since the last improvement in this trial
        self.best = math.inf  # best value of the criterion
        self.best_epoch = -1

    @staticmethod
    def _parse_cycle(text):
        try:
            factors = [float(f) for f in str(text).split(':')]
        except ValueError:
            raise Problem(f'eta_cycle={text}: expected numbers separated by :') from None
        return [] if factors == [0] else factors

    def _check(self, cfg):
        if self.cosine and self.cycle:
            raise Problem(f'eta_cycle={cfg["eta_cycle"]}: excludes eta_schedule=cosine; set one of them to its default')
        if self.warmup and 0 < self.epochs <= self.warmup:
            raise Problem(f'warmup={self.warmup}: must be less than the number of epochs, {self.epochs}')
        if cfg['average_last'] and saves_best(cfg):
            raise Problem(
                f'average_last={cfg["average_last"]}: averages the last networks, but '
                f'{"save=best" if cfg["save"] else "patience"} saves the best one; set save=last or average_last=0'
            )

    def rate(self, update: int) -> float:
        """Learning rate of an update, counted from 0 over all epochs.

        It rises linearly during `warmup` epochs. With eta_schedule=cosine, it then falls to almost 0 at the end,
        along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts).
        """
        rising, total = self.warmup * self.epochsize, self.epochs * self.epochsize
        if update < rising - 1:
            return self.eta * (update + 1) / rising
        if not self.cosine:
            return self.eta
        return self.eta * (1 + math.cos(math.pi * max(0, update - rising) / (total - rising))) / 2

    def advance(self, metrics: dict[str, float]) -> str:
        """Account for an epoch, given its metrics by the names in COLUMNS.

        Returns what the caller has to do: 'keep' the network as the best so far, go 'back' to the best one, or nothing
        ('').
        """
        value = metrics[self.criterion]
        if self.criterion == 'valid_map':
            value = 1 - value
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self.cycle:
            self.eta *= self.cycle[epoch % len(self.cycle)]
        if not self.cosine and self.every != 'trial_of_patience' and self.epoch % self.every == 0:
            self.eta *= self.decay
        if value <= self.best:
            self.best, self.best_epoch, self.waited = value, epoch, 0
            return 'keep'
        self.waited += 1
        if self.patience and self.waited >= self.patience:
            self.waited = 0
            self.trial += 1
            if not self.cosine and self.every == 'trial_of_patience':
                self.eta *= self.decay
            return 'back'
        return ''

    @property
    def finished(self) -> bool:
        """Whether training has to stop."""
        return self.epoch >= self.epochs or bool(self.patience) and self.trial >= self.trials

    def position(self) -> dict[str, float]:
        """The state of the schedule, for `resume`."""
        return {k: getattr(self, k) for k in ('eta', 'epoch', 'trial', 'waited', 'best', 'best_epoch')}

    def resume(self, position: dict[str, float], changed: bool = False) -> None:
        """Continue from a `position`.

        If settings or data have `changed`, later values of the criterion are not compared with earlier ones.
        """
        for key, value in position.items():
            setattr(self, key, value)
        if changed:
            self.best, self.waited = math.inf, 0
