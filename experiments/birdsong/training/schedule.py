"""When training slows down, goes back, and ends."""

import math

from birdsong.files import Problem

# columns of MODEL.err.npz
COLUMNS = ('train_loss', 'valid_loss', 'valid_error', 'valid_map')


class Schedule:
    """Learning rate and patience from epoch to epoch, by the settings of a run.

    A trial ends after `patience` epochs without improvement of the criterion; training then goes back to the best
    state so far, and ends after `trials_of_patience` trials. Equal counts as improvement. The rate is multiplied
    by `eta_decay` every `eta_decay_every` epochs or after each trial, and by the entries of `eta_cycle` in turn.
    """

    def __init__(self, cfg, validate):
        self.criterion = cfg['patience_criterion'] or ('valid_loss' if validate else 'train_loss')
        if self.criterion != 'train_loss' and not validate:
            raise Problem(f'patience_criterion={self.criterion}: needs --validate')
        self.epochs = cfg['epochs']
        self.patience = cfg['patience']
        self.trials = cfg['trials_of_patience']
        self.decay, self.every = cfg['eta_decay'], cfg['eta_decay_every']
        self.cycle = self._parse_cycle(cfg['eta_cycle'])
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
            raise Problem(f'eta_cycle={text}: expected numbers parted by :') from None
        return [] if factors == [0] else factors

    def advance(self, figures):
        """Take the figures of an epoch, a dict by COLUMNS. Returns what the caller does to its state of the network:
        'keep' (it is the best so far), 'back' (return to the best), or '' (go on)."""
        value = figures[self.criterion]
        if self.criterion == 'valid_map':
            value = 1 - value
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self.cycle:
            self.eta *= self.cycle[epoch % len(self.cycle)]
        if self.every != 'trial_of_patience' and self.epoch % self.every == 0:
            self.eta *= self.decay
        if value <= self.best:
            self.best, self.best_epoch, self.waited = value, epoch, 0
            return 'keep'
        self.waited += 1
        if self.patience and self.waited >= self.patience:
            self.waited = 0
            self.trial += 1
            if self.every == 'trial_of_patience':
                self.eta *= self.decay
            return 'back'
        return ''

    @property
    def finished(self):
        return self.epoch >= self.epochs or bool(self.patience) and self.trial >= self.trials

    def position(self):
        """What a state has to remember, as a dict of numbers."""
        return {k: getattr(self, k) for k in ('eta', 'epoch', 'trial', 'waited', 'best', 'best_epoch')}

    def resume(self, position: dict, changed: bool = False):
        """Go on from a `position`. If what is trained has `changed`, the values from before are not compared with later ones."""
        for key, value in position.items():
            setattr(self, key, value)
        if changed:
            self.best, self.waited = math.inf, 0
