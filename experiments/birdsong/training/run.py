"""A training run: epochs until the schedule ends, and the files written after each epoch."""

import itertools
import math
import os
import time

import numpy as np

from birdsong.data.dataset import Dataset
from birdsong.files import Problem, save_npz
from birdsong.training import averaging, checkpoint
from birdsong.training.provenance import Record
from birdsong.training.schedule import COLUMNS, Schedule, saves_best
from birdsong.training.trainer import GROUPS, Arrays, Trainer


def network(groups: dict[str, Arrays]) -> Arrays:
    """The arrays of the network that is validated and saved: of the moving average, if there is one."""
    return groups.get('average', groups['net'])


class Run:
    """Trains the network of a `Trainer` with its settings.

    The first process of the team writes one line per epoch to standard output, the metrics of all epochs to `record`
    and, with `save_errors`, to ROOT.err.npz, with `keep_state` the state of the run to ROOT.state, and, with the
    setting `first_params_log`, the first parameters over time to ROOT.hist.npz.
    """

    def __init__(
        self,
        root: str,
        trainer: Trainer,
        dataset: Dataset,
        record: Record,
        keep_state: bool = False,
        save_errors: bool = False,
    ):
        validate = trainer.valid_feed is not None
        self.root, self.trainer, self.record = root, trainer, record
        self.keep_state, self.save_errors = keep_state, save_errors
        self.state_file = f'{root}.state'
        self.schedule = Schedule(trainer.cfg, validate)
        self.columns = COLUMNS if validate else COLUMNS[:1]
        # what must be equal to continue from a state
        self.identity = dict(
            settings=trainer.cfg,
            data=checkpoint.fingerprint(dataset, trainer.cfg),
            validate=validate,
            amp=trainer.amp,
            processes=trainer.team.size,
        )
        self.board = None  # a Board that gets the metrics, too
        self.errors = []  # per epoch, the values of `columns`
        self.changes = []  # changes since the command that the run was started with
        self.best = self.latest = trainer.arrays()
        self.recent = []  # the networks after the last `average_last` epochs
        named = ((name, p) for name, p in trainer.net.named_parameters() if p.requires_grad)
        self.first = dict(itertools.islice(named, trainer.cfg['first_params']))
        self.history = []  # lists of the values of `first`

    def resume(self, anyway: bool = False) -> None:
        """Continue from the state file if there is one.

        Raises Problem if the state does not fit this run; with `anyway`, only if it belongs to another network.
        """
        if not os.path.exists(self.state_file):
            return
        arrays, description, differing = checkpoint.load(self.state_file, anyway, **self.identity)
        self.latest = {name: arrays[name] for name in GROUPS if name in arrays}
        self.best = {name: arrays[f'best_{name}'] for name in GROUPS if f'best_{name}' in arrays}
        self.recent = [members for name, members in arrays.items() if name.startswith('recent')]
        try:
            self.trainer.restore(self.latest)
        except RuntimeError as e:
            reason = str(e).splitlines()[-1].strip()
            cure = checkpoint.restart(self.state_file)
            raise Problem(f'{self.state_file}: belongs to another network ({reason}); {cure}') from None
        randoms = arrays.get(f'random{self.trainer.team.rank}')
        if randoms:
            self.trainer.set_random_state(randoms)
        width = len(self.columns)
        self.errors = [(row + [math.nan] * width)[:width] for row in arrays['run']['errors'].tolist()]
        self._resume_history(arrays.get('history', {}))
        self._resume_schedule(description, differing)
        self.record.resume(self.schedule.epoch)

    def _resume_history(self, arrays: Arrays) -> None:
        if len(arrays) == len(self.first):  # else the setting first_params has changed
            columns = [arrays[str(i)] for i in range(len(arrays))]
            self.history = [list(values) for values in zip(*columns, strict=True)]

    def _resume_schedule(self, description: dict, differing: list[str]) -> None:
        cfg, before = self.trainer.cfg, description['settings']
        self.schedule.resume(description['schedule'], bool(differing))
        if differing and before.get('initial_eta'):
            self.schedule.eta *= cfg['initial_eta'] / before['initial_eta']
        epoch = self.schedule.epoch
        self.changes = description.get('changes', []) + [f'after epoch {epoch}: {change}' for change in differing]
        if self.trainer.team.leads:
            longer = [
                f'{k}={cfg[k]} (was {before.get(k, "unset")})' for k in checkpoint.DURATION if cfg[k] != before.get(k)
            ]
            words = f', with {", ".join(longer)}' if longer else ''
            print(f'continuing from {self.state_file} after epoch {epoch}{words}', flush=True)

    def train(self) -> None:
        """Train until the schedule ends."""
        schedule, trainer = self.schedule, self.trainer
        remember = self._remember if self.first and trainer.cfg['first_params_log'] else None
        while not schedule.finished:
            started = time.perf_counter()
            row = [trainer.epoch(schedule.epoch, schedule.rate, remember)]
            rate = trainer.optimiser.eta  # of the last update
            if trainer.valid_feed is not None:
                row += trainer.validate()
            self.errors.append(row)
            went_back = self._advance(row)
            randoms = self._random_states()
            if trainer.team.leads:
                seconds = time.perf_counter() - started
                self._report(row, rate, seconds, went_back)
                self._write(row, rate, seconds, randoms)
        if trainer.team.leads and self.history:
            columns = zip(*self.history, strict=True)
            save_npz(
                f'{self.root}.hist.npz', {k: np.array(values) for k, values in zip(self.first, columns, strict=True)}
            )

    def result(self) -> tuple[Arrays, int]:
        """Arrays of the network to save, according to `save` and `average_last`, and its epoch, counted from 1."""
        if saves_best(self.trainer.cfg) and self.errors:
            return network(self.best), self.schedule.best_epoch + 1
        return averaging.mean(self.recent) if self.recent else network(self.latest), self.schedule.epoch

    def _remember(self) -> None:
        self.history.append([p.detach().cpu().numpy().copy() for p in self.first.values()])

    def _advance(self, row: list[float]) -> bool:
        """Pass the metrics of an epoch to the schedule. Returns whether the network went back to its best epoch."""
        action = self.schedule.advance(dict(zip(self.columns, row, strict=True)))
        self.latest = self.trainer.arrays()
        if action == 'keep':
            self.best = self.latest
        elif action == 'back':
            self.trainer.restore(self.best)
            self.latest = self.best
        kept = self.trainer.cfg['average_last']
        self.recent = [*self.recent, network(self.latest)][-kept:] if kept else []
        return action == 'back'

    def _random_states(self) -> list[Arrays]:
        """The random state of each process; empty without `keep_state`."""
        mine = self.trainer.random_state() if self.keep_state else {}
        return [dict(zip(mine, states, strict=True)) for states in self.trainer.team.gather(list(mine.values()))]

    def _report(self, row: list[float], rate: float, seconds: float, went_back: bool) -> None:
        schedule = self.schedule
        words = ', '.join(
            f'{name.replace("_", " ")} {value:.4f}' for name, value in zip(self.columns, row, strict=True)
        )
        back = ''
        if went_back:
            back = f', back to epoch {schedule.best_epoch + 1} (trial {schedule.trial} of {schedule.trials} ended)'
        print(f'epoch {schedule.epoch}: {words}, rate {rate:.3g}, {seconds:.1f} s{back}', flush=True)

    def _write(self, row: list[float], rate: float, seconds: float, randoms: list[Arrays]) -> None:
        errors = np.array(self.errors)
        if self.save_errors:
            columns = np.array(self.columns)
            # arr_0 is the name that the scripts of 2018 read
            save_npz(f'{self.root}.err.npz', {'errors': errors, 'columns': columns, 'arr_0': errors})
        changes = {'changes': self.changes} if self.changes else {}
        if self.keep_state:
            groups = dict(
                **self.latest,
                **{f'best_{name}': members for name, members in self.best.items()},
                **{f'recent{i}': members for i, members in enumerate(self.recent)},
                run={'errors': errors},
                **{f'random{rank}': states for rank, states in enumerate(randoms)},
            )
            if self.history:
                columns = zip(*self.history, strict=True)
                groups['history'] = {str(i): np.array(values) for i, values in enumerate(columns)}
            checkpoint.save(self.state_file, groups, schedule=self.schedule.position(), **changes, **self.identity)
        metrics = dict(zip(self.columns, row, strict=True))
        self.record.add_epoch(self.schedule.epoch, metrics, rate, seconds)
        if self.board:
            self.board.add(self.schedule.epoch, metrics | {'learning_rate': rate})
        self.record.write(epochs=self.schedule.epoch, **changes)
