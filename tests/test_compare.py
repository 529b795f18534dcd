"""compare.py: the difference between two sets of predictions, its interval, and whether it may be chance."""

import itertools
import json

import numpy as np
import pytest

from birdsong.scores import comparison, metrics, predictions
from helpers import run_scores, write_lines

COUNT, CLASSES = 60, 4
FILES = [f'{i}.wav' for i in range(COUNT)]


def some_scores(gain, seed=0):
    """Scores (COUNT, CLASSES), in which the right class is higher by `gain`, and the truth."""
    rng = np.random.default_rng(seed)
    truth = np.arange(COUNT) % CLASSES
    return rng.normal(size=(COUNT, CLASSES)) + gain * np.eye(CLASSES)[truth], truth


@pytest.fixture
def dataset(tmp_path):
    """A dataset with twenty groups of three recordings, and predictions a, b (better) and c (as good as a)."""
    folder = tmp_path / 'birds'
    write_lines(folder / 'filelists' / 'valid', FILES)
    write_lines(folder / 'filelists' / 'groups.tsv', [f'{key}\t{i // 3}' for i, key in enumerate(FILES)])
    write_lines(folder / 'labels' / 'labelset', ['ant', 'bee', 'cat', 'dog'])
    truth = some_scores(0)[1]
    write_lines(folder / 'labels' / 'fg.tsv', [f'{key}\t{c}' for key, c in zip(FILES, truth, strict=True)])
    write_lines(folder / 'labels' / 'bg.tsv', [f'{key}\t{(c + 1) % 4}' for key, c in zip(FILES, truth, strict=True)])
    for name, gain, seed in ('a', 1, 0), ('b', 4, 1), ('c', 1, 2):
        predictions.save(tmp_path / f'{name}.pred.npz', FILES, list(some_scores(gain, seed)[0].astype(np.float32)))
    return folder


def test_a_clear_difference_is_told_from_chance(dataset, tmp_path):
    output = tmp_path / 'out.json'
    done = run_scores(dataset, 'a.pred.npz', 'b.pred.npz', '--json', output, program='compare.py')
    assert done.returncode == 0 and done.stdout.startswith('60 recordings of list valid, 20 groups\n'), done.stderr
    found = json.loads(output.read_text())['metrics']['MAP']
    a, truth = some_scores(1)
    assert found['A'] == pytest.approx(metrics.evaluate(a.astype(np.float32), truth)['MAP'])
    assert found['low'] > 0 and found['p'] < 0.001 and found['low'] < found['difference'] < found['high']
    assert 'gained: ' in done.stdout and 'lost: ' not in done.stdout
    done = run_scores(dataset, 'a.pred.npz', 'c.pred.npz', '--json', output, program='compare.py')
    found = json.loads(output.read_text())['metrics']['MAP']
    assert found['low'] < 0 < found['high'] and found['p'] > 0.05


def test_predictions_do_not_differ_from_themselves(dataset, tmp_path):
    output = tmp_path / 'out.json'
    same = 'a.pred.npz:0.5,a.pred.npz:0.5'
    words = ['--labelfile-background', 'bg.tsv', '--json', output]
    done = run_scores(dataset, 'a.pred.npz', same, *words, program='compare.py')
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())['metrics']
    assert set(found) == {'MAP', 'MAP-bg', 'top-1', 'cmAP', 'ROC-AUC'}
    for one in found.values():
        assert one['difference'] == one['low'] == one['high'] == 0 and one['p'] in (1, None)
    assert 'gained' not in done.stdout and 'lost' not in done.stdout


def test_few_groups_are_tested_exactly():
    differences, groups = np.array([0.5, 0.25, -0.25, 0.125, 0.5]), [0, 0, 1, 2, 3]
    sums = [0.75, -0.25, 0.125, 0.5]
    signed = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=4)]
    expected = np.mean(np.array(signed) >= abs(sum(sums)))
    assert comparison.permutation_test(differences, groups, np.random.default_rng(0)) == expected


def test_random_signs_give_almost_the_exact_probability():
    differences = np.random.default_rng(3).normal(0.2, 1, comparison.MOST_GROUPS)
    exact = comparison.permutation_test(differences, None, np.random.default_rng(0))
    # A group without difference changes nothing, but there are now too many to try all signs.
    random = comparison.permutation_test(np.append(differences, 0), None, np.random.default_rng(0))
    assert 0.1 < exact < 0.9 and random == pytest.approx(exact, abs=0.02)


def test_intervals_of_the_difference_are_those_of_paired_samples():
    (a, truth), (b, _) = some_scores(1), some_scores(2, 1)
    found = comparison.compare([a, b], truth, samples=400)['MAP']
    difference = 1 / metrics.per_recording(b, truth)[0] - 1 / metrics.per_recording(a, truth)[0]
    drawn = [weights @ difference / COUNT for weights in metrics.resample(COUNT, None, 400, 0)]
    np.testing.assert_allclose([found['low'], found['high']], np.quantile(drawn, [0.025, 0.975]))
    alike = comparison.compare([a, b], truth, groups=np.arange(COUNT) // 20, samples=400)['MAP']
    assert alike['high'] - alike['low'] != found['high'] - found['low']


def test_bad_input_is_refused_with_one_line(dataset):
    for words, message in (
        (('a.pred.npz', 'missing.npz'), 'missing.npz: no such file'),
        (('a.pred.npz', 'b.pred.npz', '--samples=0'), '--samples=0: expected 1 or more'),
        (('a.pred.npz', 'b.pred.npz', '--filelist=other'), 'other'),
    ):
        done = run_scores(dataset, *words, program='compare.py')
        assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1
