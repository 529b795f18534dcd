#!/usr/bin/env python3
"""Find the weights of an ensemble that give the best metrics on a labelled list of recordings.

Prints each improvement to standard error, and at the end FILE:WEIGHT lines, which are arguments for eval.py. Ctrl-C
ends the search and prints the best weights so far. The same --seed gives the same weights.

The metrics printed are those on the list that the weights were fitted to. The fast strategies (greedy and forward) also
print an estimate for new recordings: each of several folds of the list is evaluated with weights found on the others.
"""

from birdsong import program  # isort: skip
import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np

from birdsong.data.dataset import Dataset, dataset_of
from birdsong.files import Problem, writing
from birdsong.scores import combination, metrics
from birdsong.scores.search import INITIAL, PATIENCE
from birdsong.scores.selection import SUBSET_SHARE, SUBSETS, Candidate, Comparison, Selection

# Strategies that are fast enough for an estimate on held-out recordings by default, and its number of folds.
FAST, ESTIMATE_FOLDS = ('greedy', 'forward'), 5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('infiles', metavar='FILE[:WEIGHT]', nargs='+', help='prediction file, optionally with its initial weight')
    add('--dataset', help='name in datasets/, or path of a dataset (default: that of the model, else birdclef)')
    add('--filelist', default='valid', help='recordings to find the weights on (%(default)s)')
    add('--labelfile', default='fg.tsv', help='foreground species, in labels/ of the dataset (%(default)s)')
    add('--labelfile-background', metavar='FILE', help='background species (bg.tsv), needed for other criteria than fg')
    add('--softmax', action='store_true', help='apply a softmax to the scores of each file first')
    add('--no-softmax', dest='softmax', action='store_false', help=argparse.SUPPRESS)
    add(
        '--strategy',
        choices=tuple(PATIENCE),
        default='greedy',
        help='greedy: one weight at a time, in random order, by bracketing and simplex search; forward: forward '
        'selection with replacement, then exact search along each weight; hyperopt: TPE with weights uniform in 0..1, '
        '_zero: each may also be 0, _log: log-uniform in e^-6..1 (%(default)s)',
    )
    add(
        '--criterion',
        choices=('fg', 'bg', 'fg+bg'),
        default='fg+bg',
        help='MAP of the foreground, MAP with background species, or their sum (%(default)s)',
    )
    add(
        '--patience',
        metavar='N',
        type=int,
        help=f'evaluations (hyperopt: {PATIENCE["hyperopt"]}; greedy: {PATIENCE["greedy"]} per weight), or steps '
        f'without improvement (forward: {PATIENCE["forward"]})',
    )
    add('--init-weights', metavar='W', type=float, default=1, help='initial weight of files without one (%(default)s)')
    add('--seed', type=int, default=0, help='makes the search repeatable (%(default)s)')
    add(
        '--stability',
        action='store_true',
        help='search with several seeds and also with greedy, compare the weights found and the initial weights on '
        f'{SUBSETS} random subsets of {100 * SUBSET_SHARE:.0f} %% of the recordings, and choose those that win most',
    )
    add('--seeds', metavar='N', type=int, default=3, help='number of seeds of --stability (%(default)s)')
    add(
        '--folds',
        metavar='K',
        type=int,
        default=0,
        help='evaluate on held-out recordings: each of K folds of the list with weights found on the other folds; the '
        'weights printed are found on the complete list',
    )
    add('--output', metavar='FILE', help='also write members and weights to FILE (.tsv)')
    add('--trials', metavar='FILE', help=argparse.SUPPRESS)
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raise Problem for invalid values of options."""
    if args.trials:
        raise Problem(
            '--trials: a search is no longer recorded; leave out the option: the same --seed gives the same weights'
        )
    for value, least, option in (
        (args.init_weights, 0, '--init-weights'),
        (args.seeds, 1, '--seeds'),
        (args.seed, 0, '--seed'),
        (1 if args.patience is None else args.patience, 1, '--patience'),
        (args.folds, 0, '--folds'),
    ):
        if not value >= least:
            raise Problem(f'{option}={value}: at least {least}')
    if args.folds == 1:
        raise Problem('--folds=1 would leave nothing to search on; at least 2')


def read_members(infiles: list[str], init_weight: float, files: list[str], num_classes: int) -> list[tuple[str, float]]:
    """[(file, initial weight)] of the inputs that can be read; the others are reported and skipped."""
    members = []
    for text in infiles:
        name, weight = combination.parse_weighted(text)
        if weight is not None and weight < 0:
            raise Problem(f'{text}: weights must not be negative')
        try:
            combination.prepared(name, files, num_classes)
        except (Problem, OSError) as e:
            say(f'blender.py: skipped: {e}')
            continue
        members.append((name, init_weight if weight is None else weight))
    if not members:
        raise Problem(f'none of the {len(infiles)} files can be read')
    if len(dict(members)) < len(members):
        raise Problem('a file is named twice')
    return members


def candidates_of(args: argparse.Namespace) -> list[Candidate]:
    """The searches to choose the best weights from: one, or several with --stability."""
    candidates = [Candidate(args.strategy, args.seed, args.patience)]
    if args.stability:
        candidates = [Candidate(args.strategy, args.seed + i, args.patience) for i in range(args.seeds)]
        candidates += [Candidate('greedy', args.seed)] if args.strategy != 'greedy' else []
        candidates += [Candidate(INITIAL)]
    return candidates


def print_comparison(comparison: Comparison, candidates: list[Candidate], title: str) -> None:
    """Print a table of the candidates to standard error."""
    say(f'{title}; wins and 95 % intervals on {SUBSETS} random subsets of {comparison.size}')
    say(f'{"mean":>8} {"wins":>6}  {"interval":16}  candidate')
    rows = zip(candidates, comparison.means, comparison.wins, comparison.lows, comparison.highs, strict=True)
    for i, (candidate, mean, wins, low, high) in enumerate(rows):
        chosen = '  (chosen)' if i == comparison.best else ''
        say(f'{mean:8.4f} {wins:6.1f}  {low:.4f} to {high:.4f}  {candidate}{chosen}')


def search(args: argparse.Namespace, selection: Selection) -> str:
    """Search for the weights, and estimate the metrics on new recordings. Returns a line about the estimate."""
    candidates = candidates_of(args)
    title = f'{selection.criterion} on {"held-out recordings" if args.folds else "the recordings searched on"}'
    each = selection.choose(
        candidates, args.folds, args.seed, lambda comparison: print_comparison(comparison, candidates, title)
    )
    folds = args.folds or min(ESTIMATE_FOLDS, selection.ensemble.recordings)
    if each is None and args.strategy in FAST and folds > 1:
        each = selection.held_out([selection.chosen], folds, args.seed)[0]
    if each is None:
        return f'fitted on this list; --folds {ESTIMATE_FOLDS} gives an estimate for new recordings'
    estimate = maps_line(each.mean(axis=1), selection.ensemble.has_background)
    return f'fitted on this list; estimate for new recordings, from {folds} folds: {estimate}'


def maps_line(maps: Sequence[float], has_background: bool) -> str:
    """A pair of MAPs as eval.py prints them, the second only with background species."""
    names = ('MAP', 'MAP-bg') if has_background else ('MAP',)
    return metrics.line(dict(zip(names, maps, strict=False)))


def member_name(filename: str) -> str:
    """The name of a member in a table of an ensemble: the name of its model."""
    return os.path.basename(filename).removesuffix('.pred.npz').removesuffix('.pred.pkl')


def write_ensemble(filename: str, members: Sequence[str], weights: np.ndarray, comments: list[str]) -> None:
    """Write members and weights as a table that submit_all.sh reads."""
    with writing(filename, 'w', encoding='utf-8') as f:
        f.writelines(f'# {comment}\n' for comment in comments)
        f.write('# member\tweight\n')
        f.writelines(
            f'{member_name(name)}\t{weight:g}\n' for name, weight in zip(members, weights, strict=True) if weight > 0
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int | None:
    args = parse_arguments()
    check(args)
    path = args.dataset or dataset_of(combination.parse_weighted(args.infiles[0])[0])
    dataset = Dataset(path, args.labelfile)
    files = dataset.filelist(args.filelist)
    truth, background = dataset.truth(files, args.labelfile, args.labelfile_background, args.filelist)
    if args.folds > len(files):
        raise Problem(f'--folds={args.folds}: more than the {len(files)} recordings of the list')
    members, start = zip(*read_members(args.infiles, args.init_weights, files, dataset.num_classes), strict=True)
    if args.output:
        os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    # Imported after all checks, since loading Numba and the compiled functions takes a while.
    from birdsong.scores.ensemble import Ensemble

    scores = (combination.prepared(name, files, dataset.num_classes, args.softmax).scores for name in members)
    ensemble = Ensemble(scores, truth, background, len(members))

    def report(count, weights, maps):
        say(f'{count}: {maps_line(maps, background is not None)} {" ".join(f"{weight:g}" for weight in weights)}')

    criterion = 'fg' if background is None else args.criterion
    selection = Selection(ensemble, criterion, np.array(start), report, say)
    interrupted, notes = False, []
    try:
        notes = [search(args, selection)]
    except KeyboardInterrupt:
        interrupted = True
        say('interrupted; the best so far:')
    weights = selection.weights
    notes = [maps_line(ensemble.evaluate(weights), background is not None), *notes]
    say('\n'.join(notes))
    for name, weight in zip(members, weights, strict=True):
        if weight > 0:
            print(f'{name}:{weight:g}')
    if interrupted:
        return 130
    if args.output:
        found = f'found with {args.strategy}, seed {args.seed}, criterion {criterion}'
        comments = [f'{found}, on list {args.filelist} of {os.path.basename(path)}', *notes]
        write_ensemble(args.output, members, weights, [*comments, 'options:' + ' --softmax' * args.softmax])
        say(f'{args.output}: {np.count_nonzero(weights)} members and their weights')


if __name__ == '__main__':
    program.run(main)
