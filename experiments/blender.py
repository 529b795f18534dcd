#!/usr/bin/env python3
"""Find the weights of an ensemble that give the best figures on a labelled list of recordings.

Prints each improvement (stderr) and at the end FILE:WEIGHT lines that eval.py takes as they are. Ctrl-C ends the
search with the best weights so far.

The metrics of the weights are those on the list that the weights were fitted to. greedy and forward, which are fast,
also print an estimate for new recordings: each part of the list in turn is judged by weights found on the others.
"""

from birdsong import program  # isort: skip
import argparse
import fcntl
import hashlib
import json
import os
import sys
import zlib

import numpy as np
from tqdm import tqdm

from birdsong.data.feeds import Dataset, dataset_of
from birdsong.files import Problem, naming, writing
from birdsong.scores import combination, metrics

# Evaluations, by strategy, unless --patience says otherwise.
PATIENCE = {'greedy': 10, 'forward': 5, 'hyperopt': 1000, 'hyperopt_zero': 1000, 'hyperopt_log': 1000}
# Random trials before TPE starts to learn from them (its own default), evaluated at once.
STARTUP_TRIALS = 20
# Strategies fast enough for an estimate on held-out recordings by default, and the parts of the list for it.
FAST, ESTIMATE_FOLDS = ('greedy', 'forward'), 5
# Halves of the recordings on which forward selects.
BAGS = 5
# Steps of a search along a weight, which reaches from none to so many times its share of the ensemble.
LINE_STEPS, LINE_REACH = 64, 4
# A round of all weights that gains less than this ends the search: more would be learnt by heart.
LEAST_GAIN = 1e-4
# The check that was made by hand in 2018: the winner is who wins most often on 50 subsets of 10 %.
SUBSETS, SUBSET_SHARE = 50, 0.1
# The candidate that nobody searched for.
INITIAL = 'initial weights'
# An improvement below this is rounding.
EPSILON = 1e-9


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'infiles', metavar='FILE[:WEIGHT]', nargs='+', help='predictions, with the weight to start from'
    )
    parser.add_argument(
        '--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)'
    )
    parser.add_argument('--filelist', default='valid', help='recordings to find the weights on (%(default)s)')
    parser.add_argument(
        '--labelfile', default='fg.tsv', help='foreground species, in labels/ of the data set (%(default)s)'
    )
    parser.add_argument(
        '--labelfile-background', metavar='FILE', help='background species (bg.tsv); without it the criterion is fg'
    )
    parser.add_argument('--softmax', action='store_true', help='apply a softmax to the scores of each file first')
    parser.add_argument('--no-softmax', dest='softmax', action='store_false', help=argparse.SUPPRESS)
    parser.add_argument(
        '--strategy',
        choices=tuple(PATIENCE),
        default='greedy',
        help='greedy: one weight at a time, in random order, by bracketing and simplex search; forward: forward '
        'selection with replacement, then exact search along each weight; hyperopt: TPE with weights uniform in '
        '0..1, _zero: each may be left out, too, _log: log-uniform in e^-6..1 (%(default)s)',
    )
    parser.add_argument(
        '--criterion',
        choices=('fg', 'bg', 'fg+bg'),
        default='fg+bg',
        help='MAP of the foreground, with background, or their sum (%(default)s)',
    )
    parser.add_argument(
        '--patience',
        metavar='N',
        type=int,
        help='evaluations (hyperopt: %d; greedy: %d for each weight; '
        'forward: steps without improvement, %d)' % tuple(PATIENCE[s] for s in ('hyperopt', 'greedy', 'forward')),
    )
    parser.add_argument(
        '--init-weights',
        metavar='W',
        type=float,
        default=1,
        help='initial weight of files that come without one (%(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0, help='makes the search repeatable (%(default)s)')
    parser.add_argument(
        '--stability',
        action='store_true',
        help=f'search with several seeds, and greedily, and let the results compete on {int(SUBSETS)} random subsets of {int(100 * SUBSET_SHARE)} %% of the recordings: who wins most often is chosen',
    )
    parser.add_argument('--seeds', metavar='N', type=int, default=3, help='seeds of --stability (%(default)s)')
    parser.add_argument(
        '--folds',
        metavar='K',
        type=int,
        default=0,
        help='judge on held-out recordings, each K-th part in '
        'turn: the search never sees what it is judged on; the weights printed are found on all',
    )
    parser.add_argument(
        '--output', metavar='FILE', help='write members and weights to FILE, too (.tsv), and the trials to FILE.trials'
    )
    parser.add_argument(
        '--trials',
        metavar='FILE',
        help='keep the trials in FILE: a search that was interrupted goes on there, and comes to the same weights',
    )
    return parser.parse_args()


class Trials:
    """A record of what was computed, in its order, kept in a file so that it is not computed again.

    Its first line tells what the trials are of; each further line is the result of one step, as JSON. Without a file
    name nothing is kept. Raises Problem if the file is of another search, unless `renew`: then it is started anew.
    """

    def __init__(self, filename, key, renew=False):
        self.filename, self.steps, self._at, self._file = filename, [], 0, None
        if not filename:
            return
        head = json.dumps(key, sort_keys=True)
        self._file = open(filename, 'ab', buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem(f'{filename}: another search is writing there; wait for it, or name another file') from None
        end = self._read(head, renew)
        self._file.truncate(end)
        if not end:
            self._append(head)

    def _read(self, head, renew):
        with open(self.filename, 'rb') as f:
            lines = f.read().split(b'\n')
        if lines[0].decode('utf-8', 'replace') != head:
            # A line that isn't whole was cut off while it was written.
            if not renew and len(lines) > 1:
                raise Problem(
                    f'{self.filename}: trials of another search{differences(lines[0], head)}; name another file, or remove it'
                )
            return 0
        end = len(lines[0]) + 1
        for line in lines[1:-1]:
            try:
                text, check = line[:-9], line[-8:].decode('ascii')
                if f'{zlib.crc32(text):08x}' != check:
                    break
                self.steps.append(json.loads(text))
            except ValueError:
                break
            end += len(line) + 1
        return end

    def _append(self, text):
        with naming(self.filename):
            self._file.write(text.encode() + b'\n')

    def step(self, compute):
        """The result of the next step: what is recorded, or what `compute()` gives, JSON as it has to be."""
        if self._at < len(self.steps):
            result = self.steps[self._at]
            self.steps[self._at] = None
        else:
            result = compute()
            if self._file:
                text = json.dumps(result)
                self._append(f'{text} {zlib.crc32(text.encode()):08x}')
        self._at += 1
        return result


def differences(line, head):
    """' (it has other ...)', naming what differs between the first lines of two files of trials."""
    try:
        other, own = json.loads(line), json.loads(head)
        return f' (it has another {", ".join(k for k in own if other.get(k) != own[k])})'
    except (ValueError, AttributeError):
        return ''


class Search:
    """The best weights found so far for an ensemble, judged on all or on those `recordings`."""

    def __init__(self, ensemble, criterion, trials, recordings=None, report=None):
        self.ensemble, self.trials, self.recordings, self.report = ensemble, trials, recordings, report
        self.criterion, self.uses = criterion, ('fg' in criterion, 'bg' in criterion)
        self.best, self.weights, self.count = -np.inf, None, 0

    def value(self, figures):
        """What is maximised, of a pair of MAPs."""
        return sum(figure for figure, used in zip(figures, self.uses) if used)

    def consider(self, weights, figures):
        """Count an evaluation; keep the weights if they are the best. Returns the value."""
        self.count += 1
        value = self.value(figures)
        if value > self.best + EPSILON:
            self.best, self.weights = value, np.array(weights, float)
            if self.report:
                self.report(self.count, self.weights, figures)
        return value

    def evaluate(self, weights):
        """Evaluate weights (M,) as one step. Returns the value."""
        figures = self.trials.step(lambda: [float(f) for f in self.ensemble.evaluate(weights, self.recordings)])
        return self.consider(weights, figures)


def greedy(search, start, patience, seed):
    """One weight at a time, in random order, until none improves: bracketing, then a simplex search (Nelder and Mead)."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(seed)
    search.evaluate(start)
    walk, improved = search.ensemble.walk(search.weights, search.recordings), True

    def loss(weight, model):
        weight = float(max(np.ravel(weight)[0], 0))
        figures = search.trials.step(lambda: [float(f) for f in walk.change(model, weight)])
        weights = walk.weights.astype(float)
        weights[model] = weight
        return -search.consider(weights, figures)

    while improved:
        improved = False
        for model in rng.permutation(len(start)):
            before, weight = search.best, walk.weights[model]
            loss(0, model)
            # As long as twice as much is better, or half as much, go on.
            for factor in (2, 1 / 2):
                trial = (weight or 1 / 2) * factor
                while -loss(trial, model) >= search.best > before and search.weights[model] == trial and trial < 1e3:
                    trial *= factor
            center = search.weights[model] or 1 / 10
            minimize(loss, [center], (model,), 'Nelder-Mead', options={'maxfev': patience, 'xatol': 1e-4, 'fatol': 0})
            if search.best > before:
                improved = True
                walk.start(search.weights)


def forward(search, start, patience, seed):
    """Forward selection with replacement (Caruana et al. 2004), then exact search along one weight after the other.

    The selection is made on random halves of the recordings and averaged, which does better on recordings that it has
    not seen (as they found, too). Along a line all that is to be known is known from one pass over the scores
    (`Walk.line`), so that the search along it is global.
    """
    rng = np.random.default_rng(seed)
    recordings = np.arange(search.ensemble.recordings) if search.recordings is None else search.recordings
    search.evaluate(start)
    chosen = np.zeros(len(start))
    for _ in range(BAGS):
        half = np.sort(rng.permutation(recordings)[: (len(recordings) + 1) // 2])
        counts = select(Search(search.ensemble, search.criterion, search.trials, half), patience)
        chosen += counts / counts.sum()
    chosen /= chosen.max()
    best = search.evaluate(chosen)
    ascend(search, search.ensemble.walk(chosen, search.recordings), best, rng)


def select(search, patience):
    """Counts (M,) of a forward selection: the model that helps most is added, again and again."""
    models = search.ensemble.models
    singles = search.trials.step(
        lambda: np.stack(search.ensemble.evaluate(np.eye(models), search.recordings), axis=1).tolist()
    )
    counts = np.eye(models)[np.argmax([search.consider(w, figures) for w, figures in zip(np.eye(models), singles)])]
    walk, waited = search.ensemble.walk(counts, search.recordings), 0
    while waited < patience:
        before = search.best
        steps = search.trials.step(lambda: np.stack(walk.changes(range(models), counts + 1), axis=1).tolist())
        counts = (
            counts
            + np.eye(models)[
                np.argmax([search.consider(counts + w, figures) for w, figures in zip(np.eye(models), steps)])
            ]
        )
        walk.start(counts)
        waited = 0 if search.best > before else waited + 1
    return search.weights


def ascend(search, walk, best, rng):
    """Coordinate ascent: search along one weight after the other, until a round of all gains nearly nothing."""
    before = -np.inf
    while best > before + LEAST_GAIN:
        before = best
        for model in rng.permutation(len(walk.weights)):
            others = walk.others(model)
            if not others > 0:
                continue
            share = best_share(search, walk, model)
            weight = share / (1 - share) * others
            figures = search.trials.step(lambda: [float(f) for f in walk.change(model, weight)])
            weights = walk.weights.astype(float)
            weights[model] = weight
            value = search.consider(weights, figures)
            if value > best + EPSILON:
                best = value
                walk.start(weights / weights.max())


def best_share(search, walk, model):
    """The best share of a model in the ensemble: the middle of the longest stretch with the highest value."""
    weight = float(walk.weights[model])
    high = min(LINE_REACH * max(weight / (weight + walk.others(model)), 1 / len(walk.weights)), 1)
    curves = search.trials.step(lambda: [curve.tolist() for curve in walk.line(model, 0, high, LINE_STEPS)])
    values = search.value(np.array(curves))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], values >= values.max() - EPSILON, [0]])))
    longest = np.argmax(edges[1::2] - edges[::2])
    first, last = edges[2 * longest], edges[2 * longest + 1] - 1
    # Left out entirely is simpler than nearly.
    return 0.0 if first == 0 else (first + last) / 2 * high / LINE_STEPS


def hyperopt(search, start, patience, seed, kind):
    """Trials of the tree of Parzen estimators (Bergstra et al. 2011); a function of the trials so far and the seed."""
    from hyperopt import JOB_STATE_DONE, STATUS_OK, hp, rand, tpe
    from hyperopt.base import Domain
    from hyperopt.base import Trials as History

    names = [f'{int(m):04}' for m in range(len(start))]
    ranges = {name: hp.loguniform(name, -6, 0) if kind == 'hyperopt_log' else hp.uniform(name, 0, 1) for name in names}
    if kind == 'hyperopt_zero':
        ranges = {name: hp.choice(f'use {name}', [0, value]) for name, value in ranges.items()}
    domain, history = Domain(lambda space: 0, ranges), History()

    def suggest(number, count):
        ids = list(range(number, number + count))
        algorithm = rand if number < STARTUP_TRIALS else tpe
        docs = algorithm.suggest(ids, domain, history, int(np.random.default_rng([seed, number]).integers(1 << 31)))
        choices = [{name: float(value[0]) for name, value in doc['misc']['vals'].items() if len(value)} for doc in docs]
        figures = search.ensemble.evaluate([weights_of(c) for c in choices], search.recordings)
        return [[c, *map(float, f)] for c, *f in zip(choices, *figures)]

    def weights_of(choice):
        return [choice.get(name, 0.0) for name in names]

    search.evaluate(start)
    number = 0
    with tqdm(total=patience, file=sys.stderr, disable=None, leave=False, unit='trial') as progress:
        while number < patience:
            count = min(STARTUP_TRIALS, patience) if number == 0 else 1
            for choice, *figures in search.trials.step(lambda: suggest(number, count)):
                value = search.consider(weights_of(choice), figures)
                values = {
                    k: [int(choice[k]) if k.startswith('use') else choice[k]] if k in choice else []
                    for k in domain.params
                }
                misc = {
                    'tid': number,
                    'cmd': domain.cmd,
                    'workdir': None,
                    'vals': values,
                    'idxs': {k: [number] * len(v) for k, v in values.items()},
                }
                doc = history.new_trial_docs([number], [None], [{'status': STATUS_OK, 'loss': -value}], [misc])[0]
                doc['state'] = JOB_STATE_DONE
                history.insert_trial_docs([doc])
                number += 1
            history.refresh()
            progress.update(count)


def run(strategy, search, start, patience, seed):
    """Search by a strategy; returns the best weights found (M,). An interrupted search keeps its best in `search`."""
    patience = patience or PATIENCE[strategy]
    if strategy in ('greedy', 'forward'):
        (greedy if strategy == 'greedy' else forward)(search, start, patience, seed)
    else:
        hyperopt(search, start, patience, seed, strategy)
    return search.weights


# -- Which of several --


def held_out(candidates, find, ensemble, folds, seed):
    """Each candidate's reciprocal ranks and average precisions (2, N) of recordings that its search has not seen."""
    order = np.random.default_rng([seed, folds]).permutation(ensemble.recordings)
    results = np.empty((len(candidates), 2, ensemble.recordings))
    for k in range(folds):
        part = np.sort(order[k::folds])
        rest = np.setdiff1d(order, part)
        for i, candidate in enumerate(candidates):
            say(f'fold {int(k + 1)} of {int(folds)}, {name_of(candidate)}')
            results[i][:, part] = ensemble.each(find(candidate, rest).weights, part)
    return results


def compete(values, seed):
    """Wins (candidates,) and criterion (candidates, subsets) on random subsets; values: (candidates, N)."""
    count = values.shape[1]
    size = max(round(count * SUBSET_SHARE), min(20, count // 2), 1)
    rng = np.random.default_rng([seed, count])
    results = np.stack([values[:, rng.permutation(count)[:size]].mean(axis=1) for _ in range(SUBSETS)], axis=1)
    best = results >= results.max(axis=0) - EPSILON
    return (best / best.sum(axis=0)).sum(axis=1), results, size


def name_of(candidate):
    return '%s, seed %d' % candidate if candidate[0] != INITIAL else INITIAL


def say(text):
    print(text, file=sys.stderr, flush=True)


# -- The program --


def read_members(args, dataset, files):
    """[(file, initial weight, digest)] of the inputs that can be read; a word on those that can't."""
    members = []
    for text in args.infiles:
        name, weight = combination.parse_weighted(text)
        if weight is not None and weight < 0:
            raise Problem(f'{text}: weights must not be negative')
        try:
            digest = combination.prepared(name, files, dataset.num_classes).digest()
        except (Problem, OSError) as e:
            say(f'blender.py: skipped: {e}')
            continue
        members.append((name, args.init_weights if weight is None else weight, digest))
    if not members:
        raise Problem(f'none of the {len(args.infiles)} files can be read')
    if len({name for name, _, _ in members}) < len(members):
        raise Problem('a file is named twice')
    return members


def member_name(filename):
    """A prediction file as the ensembles name it: by its model."""
    name = os.path.basename(filename)
    for suffix in ('.pred.npz', '.pred.pkl'):
        name = name[: -len(suffix)] if name.endswith(suffix) else name
    return name


def write_ensemble(filename, members, weights, notes, args):
    """Write members and weights as a table that submit_all.sh reads, notes (lines about the metrics) in comments."""
    with writing(filename, 'w', encoding='utf-8') as f:
        f.write(
            '# found with %s, seed %d, criterion %s, on list %s of %s\n# %s\n# options:%s\n# member\tweight\n'
            % (
                args.strategy,
                args.seed,
                args.criterion,
                args.filelist,
                os.path.basename(args.dataset),
                '\n# '.join(notes),
                ' --softmax' * args.softmax,
            )
        )
        f.writelines(
            f'{member_name(name)}\t{weight:g}\n' for (name, _, _), weight in zip(members, weights) if weight > 0
        )


def check(args):
    for value, least, option in (
        (args.init_weights, 0, '--init-weights'),
        (args.seeds, 1, '--seeds'),
        (args.seed, 0, '--seed'),
        (1 if args.patience is None else args.patience, 1, '--patience'),
        (args.folds, 0, '--folds'),
    ):
        if not value >= least:
            raise Problem(f'{option}={value}: at least {int(least)}')
    if args.folds == 1:
        raise Problem('--folds=1 would leave nothing to search on; at least 2')
    if not args.labelfile_background:
        args.criterion = 'fg'


def main():
    args = parse_arguments()
    check(args)
    from eval import labels_of

    args.dataset = args.dataset or dataset_of(combination.parse_weighted(args.infiles[0])[0])
    dataset = Dataset(args.dataset, args.labelfile)
    files = dataset.filelist(args.filelist)
    truth, background = labels_of(files, dataset, args)
    if args.folds > len(files):
        raise Problem(f'--folds={int(args.folds)} of {len(files)} recordings')
    members = read_members(args, dataset, files)
    start = np.array([weight for _, weight, _ in members])
    key = {
        'format': 1,
        'strategy': args.strategy,
        'criterion': args.criterion,
        'patience': args.patience,
        'seed': args.seed,
        'stability': args.stability and args.seeds,
        'folds': args.folds,
        'softmax': args.softmax,
        'predictions': [digest for _, _, digest in members],
        'initial weights': start.tolist(),
        'labels': hashlib.sha256(repr((files, truth.tolist(), background)).encode()).hexdigest(),
    }
    for filename in filter(None, (args.output, args.trials)):
        os.makedirs(os.path.dirname(os.path.abspath(filename)), exist_ok=True)
    trials = Trials(args.trials or args.output and f'{args.output}.trials', key, renew=not args.trials)
    # Numba and what it compiled are loaded here, after all checks.
    from birdsong.scores.ensemble import Ensemble

    ensemble = Ensemble(
        (combination.prepared(name, files, dataset.num_classes, args.softmax).scores for name, _, _ in members),
        truth,
        background,
        len(members),
    )
    searches = []

    def report(count, weights, figures):
        say('%d: %s %s' % (count, metrics.line(named(figures)), ' '.join(f'{w:g}' for w in rounded(weights))))

    def named(figures):
        return dict(zip(('MAP', 'MAP-bg') if background is not None else ('MAP',), figures))

    def find(candidate, recordings=None):
        search = Search(ensemble, args.criterion, trials, recordings, report if recordings is None else None)
        if recordings is None:
            searches.append(search)
            if args.stability:
                say(name_of(candidate))
        if candidate[0] == INITIAL:
            search.evaluate(start)
        else:
            run(candidate[0], search, start, args.patience if candidate[0] == args.strategy else None, candidate[1])
        return search

    interrupted, best, note = False, None, None
    try:
        best, candidate, each = choose(args, ensemble, find)
        folds = args.folds or min(ESTIMATE_FOLDS, len(files))
        if each is None and args.strategy in FAST and folds > 1:
            each = held_out([candidate], find, ensemble, folds, args.seed)[0]
        note = f'fitted on this list; {(f"--folds {ESTIMATE_FOLDS} gives an estimate for new recordings" if each is None else f"estimate for new recordings, from {folds} folds: {metrics.line(named(each.mean(axis=1)))}")}'
    except KeyboardInterrupt:
        interrupted = True
        say('interrupted; the best so far:')
        best = best or max(searches, key=lambda search: search.best, default=None)
    weights = start if best is None or best.weights is None else rounded(best.weights)
    notes = [metrics.line(named(ensemble.evaluate(weights))), *filter(None, [note])]
    say('\n'.join(notes))
    for (name, _, _), weight in zip(members, weights):
        if weight > 0:
            print(f'{name}:{weight:g}')
    if interrupted:
        return 130
    if args.output:
        write_ensemble(args.output, members, weights, notes, args)
        say(f'{args.output}: {int(np.count_nonzero(weights))} members and their weights')


def rounded(weights):
    """Weights as they are printed, so that the figures are those of what is printed."""
    return np.array([float(f'{weight:g}') for weight in weights])


def choose(args, ensemble, find):
    """The search whose weights are taken, its candidate, and the candidate's reciprocal ranks and average precisions
    (2, N) of held-out recordings, or None without --folds."""
    candidates = [(args.strategy, args.seed)]
    if args.stability:
        candidates = [(args.strategy, args.seed + i) for i in range(args.seeds)]
        candidates += [('greedy', args.seed)] if args.strategy != 'greedy' else []
        candidates += [(INITIAL, 0)]
    if not args.stability and not args.folds:
        return find(candidates[0]), candidates[0], None
    found = [] if args.folds else [find(candidate) for candidate in candidates]
    if args.folds:
        each = held_out(candidates, find, ensemble, args.folds, args.seed)
    else:
        each = np.array([ensemble.each(rounded(search.weights)) for search in found])
    values = sum(each[:, i] for i, part in enumerate(('fg', 'bg')) if part in args.criterion)
    wins, results, size = compete(values, args.seed)
    best = int(np.lexsort((-values.mean(axis=1), -np.round(wins, 6)))[0])
    say(
        f'{args.criterion} on {"held-out recordings" if args.folds else "the recordings searched on"}; wins and 95 % intervals on {int(SUBSETS)} random subsets of {int(size)}'
    )
    say('%8s %6s  %-16s  %s' % ('mean', 'wins', 'interval', 'candidate'))
    for i, candidate in enumerate(candidates):
        say(
            '{:8.4f} {:6.1f}  {:.4f} to {:.4f}  {}{}'.format(
                values[i].mean(),
                wins[i],
                *np.quantile(results[i], [0.025, 0.975]),
                name_of(candidate),
                '  (chosen)' if i == best else '',
            )
        )
    if args.folds:
        return find(candidates[best]), candidates[best], each[best]
    return found[best], candidates[best], None


if __name__ == '__main__':
    program.run(main)
