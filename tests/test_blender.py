"""blender.py and its quick evaluation: the figures of eval.py, weights worth having, and the same ones after any interruption."""

import fcntl
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blender
from birdsong.files import Problem
from birdsong.scores import metrics, predictions
from birdsong.scores.ensemble import Ensemble
from helpers import ROOT, write_lines
from helpers import run_scores as run

GOLDEN = ('eval/blender_greedy',)
STRATEGIES = 'greedy', 'forward', 'hyperopt', 'hyperopt_zero', 'hyperopt_log'


def problem(models=4, recordings=80, classes=9, levels=None, seed=0):
    """Scores (models, recordings, classes), truth, background; models of very different worth. With `levels`, ties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=recordings)
    background = [rng.choice(classes, rng.integers(4), replace=False).tolist() for _ in truth]
    scores = rng.normal(size=(models, recordings, classes))
    for m in range(models):
        scores[m, np.arange(recordings), truth] += 2.5 * (m + 1) / models
        for i, others in enumerate(background):
            scores[m, i, others] += 1
    if levels:
        scores = np.round(scores * levels / 5)
    return scores.astype(np.float32), truth, background


def plainly(scores, truth, background, weights):
    """The two MAPs by metrics.evaluate, of sums in the order in which the ensemble adds."""
    total = np.zeros(scores.shape[1:], np.float32)
    for member, weight in zip(scores, np.float32(weights)):
        total += weight * member
    result = metrics.evaluate(total, truth, background)
    return result['MAP'], result.get('MAP-bg', result['MAP'])


# -- Quick evaluation --


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 7),
    st.integers(1, 20),
    st.integers(1, 30),
    st.sampled_from((None, 1, 3)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_quick_figures_are_the_plain_ones(models, recordings, classes, levels, with_background, prune, seed):
    rng = np.random.default_rng(seed)
    scores, truth, background = problem(models, recordings, max(classes, 4), levels, seed)
    background = background if with_background else None
    ensemble = Ensemble(list(scores), truth, background, prune=prune)
    # Small whole numbers, so that sums are exact and ties stay ties.
    weights = rng.integers(4, size=(5, models)).astype(float)
    weights[:, 0] += 1
    expected = np.array([plainly(scores, truth, background, w) for w in weights])
    np.testing.assert_allclose(np.stack(ensemble.evaluate(weights), axis=1), expected, rtol=1e-12)
    np.testing.assert_allclose(ensemble.evaluate(weights[0]), expected[0], rtol=1e-12)
    walk = ensemble.walk(weights[0])
    for w in weights:
        m = rng.integers(models)
        changed = walk.weights.copy()
        changed[m] = w[m] + 1
        np.testing.assert_allclose(walk.change(m, w[m] + 1), plainly(scores, truth, background, changed), rtol=1e-12)
        walk.start(w)


def test_a_subset_of_recordings_is_evaluated_alone():
    scores, truth, background = problem()
    ensemble, weights = Ensemble(list(scores), truth, background), np.array([0.3, 0.1, 0.7, 0.2])
    some = np.array([3, 4, 17, 60])
    expected = plainly(scores[:, some], truth[some], [background[i] for i in some], weights)
    np.testing.assert_allclose(ensemble.evaluate(weights, some), expected)
    np.testing.assert_allclose(ensemble.walk(weights, some).change(1, 0.1), expected)
    firsts, precisions = ensemble.each(weights)
    assert (firsts[some].mean(), precisions[some].mean()) == pytest.approx(expected)


@pytest.mark.parametrize('low, high', ((0, 1), (0.2, 0.3)))
def test_a_line_is_what_its_points_are(low, high):
    scores, truth, background = problem(models=5, recordings=120, classes=40)
    ensemble = Ensemble(list(scores), truth, background)
    walk = ensemble.walk([0.5, 0.2, 0, 0.9, 1])
    for model in range(5):
        curves = np.array(walk.line(model, low, high, count=50))
        weights = np.tile(walk.weights.astype(float), (50, 1))
        shares = low + (high - low) / 50 * np.arange(50)
        weights[:, model] = shares / (1 - shares) * walk.others(model)
        np.testing.assert_allclose(curves, ensemble.evaluate(weights), atol=1e-3)
        assert np.mean(np.abs(curves - ensemble.evaluate(weights)) > 1e-12) < 0.05


def test_leaving_classes_out_leaves_few():
    scores, truth, background = problem(models=6, recordings=200, classes=300)
    scores += np.float32(3) * (np.arange(300) == truth[:, None])
    everything, pruned = (Ensemble(list(scores), truth, None, prune=p) for p in (False, True))
    assert everything.nbytes == scores.nbytes and pruned.nbytes < scores.nbytes / 4


def test_no_weights_at_all_are_worth_nothing():
    scores, truth, background = problem()
    ensemble = Ensemble(list(scores), truth, background)
    assert ensemble.evaluate(np.zeros(4)) == (0, 0)
    assert ensemble.walk([0, 1, 0, 0]).change(1, 0) == (0, 0)
    with pytest.raises(Problem, match='not negative'):
        ensemble.evaluate([1, 1, -1, 1])
    with pytest.raises(Problem, match='no other'):
        ensemble.walk([0, 1, 0, 0]).line(1)
    with pytest.raises(Problem, match='class 8'):
        Ensemble(list(scores[..., :5]), truth, background)


# -- Strategies --


def search(strategy, scores, truth, background, criterion='fg+bg', patience=None, seed=0):
    found = blender.Search(Ensemble(list(scores), truth, background), criterion, blender.Trials(None, {}))
    blender.run(strategy, found, np.ones(len(scores)), patience, seed)
    return found


def test_greedy_finds_what_the_original_finds(golden):
    description, arrays = golden('eval/blender_greedy')
    for case in description['cases']:
        fg, bg = plainly(arrays['preds'], arrays['truth'], description['bg'], case['weights'])
        original = fg + bg if case['criterion'] == 'fg+bg' else fg
        ours = [
            search('greedy', arrays['preds'], arrays['truth'], description['bg'], case['criterion'], 10, seed).best
            for seed in range(8)
        ]
        assert np.median(ours) > original - 0.003 and max(ours) >= original


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('criterion', ('fg', 'bg', 'fg+bg'))
def test_every_strategy_improves_what_it_is_told_to(strategy, criterion):
    scores, truth, background = problem(models=5, recordings=150)
    scores[0] = np.random.default_rng(1).normal(size=scores[0].shape)
    patience = 40 if strategy.startswith('hyper') else None
    found = search(strategy, scores, truth, background, criterion, patience)
    fg, bg = plainly(scores, truth, background, found.weights)
    assert found.best == pytest.approx({'fg': fg, 'bg': bg, 'fg+bg': fg + bg}[criterion], abs=1e-3)
    start = plainly(scores, truth, background, np.ones(5))
    assert found.best > {'fg': start[0], 'bg': start[1], 'fg+bg': sum(start)}[criterion]
    assert (found.weights >= 0).all() and found.weights.any()


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_a_seed_repeats_a_search(strategy):
    scores, truth, background = problem(models=5, recordings=60)
    patience = 30 if strategy.startswith('hyper') else None
    results = [search(strategy, scores, truth, background, 'fg', patience, seed).weights.tolist() for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_hyperopt_zero_leaves_models_out_and_log_stays_in_its_range():
    scores, truth, background = problem(models=6, recordings=60)
    seen = {}
    for strategy in STRATEGIES[2:]:
        found = blender.Search(Ensemble(list(scores), truth, background), 'fg', blender.Trials(None, {}))
        seen[strategy] = []
        found.consider = lambda weights, figures, own=seen[strategy]: own.append(weights) or figures[0]
        blender.run(strategy, found, np.ones(6), 30, 0)
    trials = {k: np.array(v[1:]) for k, v in seen.items()}
    assert all(len(t) == 30 for t in trials.values())
    assert (trials['hyperopt'] > 0).all() and (trials['hyperopt'] <= 1).all()
    assert 0.2 < (trials['hyperopt_zero'] == 0).mean() < 0.8
    assert (trials['hyperopt_log'] >= np.exp(-6)).all() and (trials['hyperopt_log'] <= 1).all()
    assert np.median(trials['hyperopt_log']) < 0.2


def test_hyperopt_learns_from_its_trials():
    scores, truth, background = problem(models=3, recordings=150)
    scores[:2] = 3 * np.random.default_rng(1).normal(size=scores[:2].shape)
    found, values = blender.Search(Ensemble(list(scores), truth, background), 'fg', blender.Trials(None, {})), []
    consider = found.consider
    found.consider = lambda weights, figures: values.append(figures[0]) or consider(weights, figures)
    blender.run('hyperopt', found, np.ones(3), 80, 0)
    assert np.median(values[-40:]) > np.median(values[1:21]) + 0.05


def test_forward_keeps_clear_of_models_that_know_nothing():
    scores, truth, background = problem(models=8, recordings=400)
    scores[:5] = 3 * np.random.default_rng(1).normal(size=scores[:5].shape)
    weights = search('forward', scores, truth, background).weights
    assert weights[:5].sum() < 0.2 * weights[5:].sum()


def test_a_search_for_held_out_figures_never_sees_them():
    scores, truth, background = problem()
    ensemble, seen = Ensemble(list(scores), truth, background), []

    class Found:
        weights = np.ones(4)

    def find(candidate, recordings):
        seen.append(set(recordings.tolist()))
        return Found

    judged = []
    each = ensemble.each
    ensemble.each = lambda weights, part: judged.append(set(part.tolist())) or each(weights, part)
    results = blender.held_out([('forward', 0)], find, ensemble, 3, 0)
    assert len(seen) == len(judged) == 3 and not any(s & j for s, j in zip(seen, judged))
    assert set.union(*judged) == set(range(80)) and sum(map(len, judged)) == 80
    np.testing.assert_array_equal(results[0], each(np.ones(4)))


def test_the_steadiest_wins_most_subsets():
    rng = np.random.default_rng(0)
    steady, lucky = np.full(400, 0.55), np.where(rng.random(400) < 0.003, 10.0, 0.5)
    wins, results, size = blender.compete(np.array([steady, lucky, steady]), 0)
    assert size == 40 and wins.sum() == pytest.approx(50) and wins[0] == wins[2] > wins[1]
    assert results.shape == (3, 50)


# -- The program --


@pytest.fixture
def dataset(tmp_path):
    """A data set of 80 recordings, and predictions m0.npz to m3.npz for it."""
    scores, truth, background = problem()
    keys = [f'train/{int(i)}.wav' for i in range(80)]
    write_lines(tmp_path / 'set/filelists/valid', keys)
    write_lines(tmp_path / 'set/labels/labelset', [f'c{int(c)}' for c in range(9)])
    write_lines(tmp_path / 'set/labels/fg.tsv', ['%s\t%d' % item for item in zip(keys, truth)])
    write_lines(tmp_path / 'set/labels/bg.tsv', [f'{k}\t{",".join(map(str, b))}' for k, b in zip(keys, background)])
    for m, member in enumerate(scores):
        predictions.save(tmp_path / (f'm{int(m)}.pred.npz'), keys, list(member))
    return tmp_path / 'set'


INPUTS = [f'm{int(m)}.pred.npz' for m in range(4)]


def blend(dataset, *args):
    return run(dataset, *args, program='blender.py')


def test_what_is_printed_goes_into_eval(dataset):
    done = blend(dataset, *INPUTS, '--labelfile-background=bg.tsv', '--strategy=forward', '--output=w.tsv')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines and all(line.split(':')[0] in INPUTS and float(line.split(':')[1]) > 0 for line in lines)
    evaluated = run(dataset, *lines, '--labelfile-background=bg.tsv').stdout
    said = [line for line in done.stderr.splitlines() if line.startswith('MAP: ')][-1]
    assert evaluated.startswith(said)
    table = (dataset.parent / 'w.tsv').read_text().splitlines()
    assert f'# {said}' in table and '# options:' in table
    members = [line.split('\t') for line in table if not line.startswith('#')]
    assert [[f'{name}.pred.npz', weight] for name, weight in members] == [line.split(':') for line in lines]


def test_the_table_is_written_into_a_new_folder_with_the_options_that_it_needs(dataset):
    done = blend(dataset, *INPUTS, '--strategy=forward', '--softmax', '--output=new/folder/w.tsv')
    assert done.returncode == 0, done.stderr
    assert '# options: --softmax' in (dataset.parent / 'new/folder/w.tsv').read_text().splitlines()
    said = [line for line in done.stderr.splitlines() if line.startswith('MAP: ')][-1]
    assert run(dataset, '--softmax', *done.stdout.splitlines()).stdout.startswith(said)


def test_without_background_only_the_foreground_counts(dataset):
    done = blend(dataset, *INPUTS, '--patience=5')
    assert done.returncode == 0 and 'MAP-bg' not in done.stderr and 'MAP: ' in done.stderr


def test_unreadable_files_are_skipped_with_a_word(dataset):
    (dataset.parent / 'bad.npz').write_bytes(b'PK\3\4')
    predictions.save(dataset.parent / 'other.npz', ['train/x.wav'], [np.zeros(9)])
    done = blend(dataset, 'none.npz', *INPUTS[:2], 'bad.npz:0.5', 'other.npz', '--patience=5')
    assert done.returncode == 0
    for name, why in (('none.npz', 'no such file'), ('bad.npz', 'not a whole'), ('other.npz', 'another dataset')):
        assert any(
            line.startswith(f'blender.py: skipped: {name}: ') and why in line for line in done.stderr.splitlines()
        )
    assert {line.split(':')[0] for line in done.stdout.splitlines()} <= set(INPUTS[:2])
    done = blend(dataset, 'none.npz', 'bad.npz')
    assert done.returncode == 1 and 'none of the 2 files' in done.stderr


@pytest.mark.parametrize(
    'args, message',
    [
        (('m0.pred.npz:-1',), 'negative'),
        (('m0.pred.npz', 'm0.pred.npz:2'), 'twice'),
        ((INPUTS[0], '--folds=1'), '--folds=1'),
        ((INPUTS[0], '--folds=81'), '--folds=81 of 80'),
        ((INPUTS[0], '--patience=0'), '--patience=0'),
        ((INPUTS[0], '--init-weights=nan'), '--init-weights'),
        ((INPUTS[0], '--labelfile-background=x.tsv'), 'x.tsv'),
    ],
)
def test_wrong_options_are_one_line(dataset, args, message):
    done = blend(dataset, *args)
    assert done.returncode == 1 and done.stdout == '' and message in done.stderr.splitlines()[-1]
    assert done.stderr.startswith('blender.py: ')


@pytest.mark.parametrize(
    'options',
    (
        ('--strategy=greedy', '--seed=3'),
        ('--strategy=forward',),
        ('--strategy=hyperopt_zero', '--patience=26'),
        ('--strategy=hyperopt', '--patience=12', '--seeds=2', '--stability', '--folds=2'),
    ),
)
def test_a_search_goes_on_wherever_its_trials_were_cut_off(dataset, options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    trials = dataset.parent / 't'

    def printed():
        monkeypatch.setattr(
            sys, 'argv', ['blender.py', '--dataset', str(dataset), *INPUTS, '--trials', str(trials), *options]
        )
        assert blender.main() is None
        return capsys.readouterr().out

    undisturbed = printed()
    content = trials.read_bytes()
    assert content.count(b'\n') > 3 and printed() == undisturbed and trials.read_bytes() == content
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for end in [0, 7, ends[0], ends[0] + 5, *ends[1 :: max(1, len(ends) // 3)], ends[-1] - 1, ends[-2] + 2]:
        trials.write_bytes(content[:end])
        assert printed() == undisturbed
        assert trials.read_bytes() == content
    damaged = bytearray(content)
    damaged[ends[1] + 3] ^= 1
    trials.write_bytes(damaged)
    assert printed() == undisturbed


def test_two_searches_do_not_mix_their_trials(dataset):
    with open(dataset.parent / 't', 'wb') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = blend(dataset, *INPUTS[:3], '--trials=t', '--patience=5')
    assert done.returncode == 1 and 't: another search is writing there' in done.stderr
    assert (dataset.parent / 't').read_bytes() == b''


def test_trials_of_another_search_are_not_used(dataset):
    assert blend(dataset, *INPUTS[:3], '--trials=t', '--patience=5').returncode == 0
    content = (dataset.parent / 't').read_bytes()
    for args, what in (
        ((*INPUTS, '--patience=5'), 'initial weights, predictions'),
        ((*INPUTS[:3], '--patience=6'), 'patience'),
        ((*INPUTS[:3], '--patience=5', '--seed=1'), 'seed'),
    ):
        done = blend(dataset, *args, '--trials=t')
        assert done.returncode == 1 and f't: trials of another search (it has another {what})' in done.stderr
    assert (dataset.parent / 't').read_bytes() == content
    # Those beside the output are ours to renew.
    for names in (INPUTS[:3], INPUTS):
        assert blend(dataset, *names, '--output=w.tsv', '--patience=5').returncode == 0
    assert (dataset.parent / 'w.tsv.trials').exists()


def test_what_is_no_file_of_trials_is_left_alone(dataset):
    (dataset.parent / 't').write_text('precious\n')
    done = blend(dataset, *INPUTS, '--trials=t')
    assert done.returncode == 1 and 'trials of another search' in done.stderr
    assert (dataset.parent / 't').read_text() == 'precious\n'


def test_ctrl_c_prints_the_best_so_far(dataset):
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / 'experiments/blender.py'),
            '--dataset',
            str(dataset),
            *INPUTS,
            '--strategy=hyperopt',
            '--patience=100000',
        ],
        cwd=dataset.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        for line in process.stderr:
            if line.startswith('1: MAP: '):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and 'interrupted; the best so far:' in err and 'Traceback' not in err
    assert out and run(dataset, *out.splitlines()).stdout.startswith(err.splitlines()[-1].split(', top')[0])


def test_stability_prints_a_table_and_chooses_the_winner(dataset):
    done = blend(dataset, *INPUTS, '--stability', '--seeds=2', '--strategy=forward', '--seed=5')
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    at = next(i for i, line in enumerate(lines) if 'wins and 95 % intervals on 50 random subsets of 20' in line)
    rows = [line.split() for line in lines[at + 2 : at + 6]]
    assert [' '.join(row[5:]).replace(' (chosen)', '') for row in rows] == [
        'forward, seed 5',
        'forward, seed 6',
        'greedy, seed 5',
        'initial weights',
    ]
    # what each found stands below its name
    assert [
        line for line in lines if line in ('forward, seed 5', 'forward, seed 6', 'greedy, seed 5', 'initial weights')
    ] == lines[:1] + ['forward, seed 6', 'greedy, seed 5', 'initial weights']
    wins = [float(row[1]) for row in rows]
    assert sum(wins) == pytest.approx(50, abs=0.2) and '(chosen)' in rows[int(np.argmax(wins))]
    for row in rows:
        assert float(row[2]) <= float(row[0]) <= float(row[4])


def test_folds_judge_on_held_out_recordings(dataset):
    plain = blend(dataset, *INPUTS, '--strategy=forward')
    done = blend(dataset, *INPUTS, '--strategy=forward', '--folds=4')
    assert done.returncode == 0 and done.stdout == plain.stdout
    assert 'fg on held-out recordings' in done.stderr and 'fold 4 of 4' in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        'fitted on this list; estimate for new recordings, from 4 folds: MAP: '
    )


def noise(dataset, models=12):
    """Predictions of models that know nothing, whose weights can only be fitted to chance: names of their files."""
    keys = (dataset / 'filelists/valid').read_text().split()
    names = [f'n{int(m)}.pred.npz' for m in range(models)]
    for m, name in enumerate(names):
        predictions.save(dataset.parent / name, keys, list(np.random.default_rng(m).normal(size=(len(keys), 9))))
    return names


@pytest.mark.parametrize('strategy', ('greedy', 'forward'))
def test_fast_strategies_print_an_estimate_for_new_recordings_beside_the_fitted_metrics(strategy, dataset):
    done = blend(dataset, *noise(dataset), '--strategy', strategy, '--labelfile-background=bg.tsv', '--output=w.tsv')
    assert done.returncode == 0, done.stderr
    fitted, estimate = done.stderr.splitlines()[-3:-1]
    assert fitted.startswith('MAP: ')
    assert estimate.startswith('fitted on this list; estimate for new recordings, from 5 folds: MAP: ')
    metric = [dict(part.split(': ') for part in line.rsplit('folds: ')[-1].split(', ')) for line in (fitted, estimate)]
    for name in ('MAP', 'MAP-bg'):
        assert float(metric[1][name]) < float(metric[0][name]) - 0.03
    assert f'# {estimate}' in (dataset.parent / 'w.tsv').read_text().splitlines()


def test_slow_strategies_say_how_to_get_an_estimate(dataset):
    done = blend(dataset, *INPUTS, '--strategy=hyperopt', '--patience=5')
    assert done.stderr.splitlines()[-1] == 'fitted on this list; --folds 5 gives an estimate for new recordings'


def test_ctrl_c_during_the_estimate_prints_the_weights_that_were_found(dataset, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.chdir(dataset.parent)
    monkeypatch.setattr(sys, 'argv', ['blender.py', '--dataset', str(dataset), *INPUTS, '--strategy=forward'])
    assert blender.main() is None
    undisturbed = capsys.readouterr().out
    monkeypatch.setattr(blender, 'held_out', interrupted)
    assert blender.main() == 130 and capsys.readouterr().out == undisturbed


def test_original_pickles_are_blended(dataset):
    keys = (dataset / 'filelists/valid').read_text().split()
    loaded = predictions.load(dataset.parent / INPUTS[0])
    (dataset.parent / 'm0.pred.pkl').write_bytes(pickle.dumps({key: loaded[key][0] for key in keys}, 2))
    assert blend(dataset, 'm0.pred.pkl', INPUTS[1], '--patience=5').returncode == 0
