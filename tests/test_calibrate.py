"""calibrate.py: cases from lists, windows and reviews; its report, thresholds and files."""

import csv
import json

import numpy as np
import pytest

from birdsong.findings import calibration, reliability, reviews
from birdsong.findings.calibration import sigmoid
from birdsong.findings.cases import Cases
from birdsong.scores import predictions
from birdsong.scores.metrics import resample
from helpers import run_scores, write_lines

CLASSES = ['amered', 'norcar', '47158son01', 'weta', 'rare']
FILES = [f'r{i}.wav' for i in range(300)]
HEADER = 'File,Start (s),End (s),Class,Score,Verdict,Other class,Batch'


def some_scores(seed=0, rows=300, classes=5):
    """Logits of a softmax that are too sure (rows, classes), and the right class of each row, seldom 'rare'."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, (rows, classes)) - [0, 0, 0, 0, 4]
    chances = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    truth = (rng.random((rows, 1)) > np.cumsum(chances, axis=1)).sum(axis=1)
    return 3 * true, np.minimum(truth, classes - 1)


@pytest.fixture
def dataset(tmp_path):
    """A dataset and predictions p.pred.npz beside it."""
    folder = tmp_path / 'set'
    scores, truth = some_scores()
    write_lines(folder / 'filelists/valid', FILES)
    write_lines(folder / 'filelists/groups.tsv', [f'{key}\t{i // 2}' for i, key in enumerate(FILES)])
    write_lines(folder / 'labels/labelset', CLASSES)
    write_lines(folder / 'labels/fg.tsv', [f'{key}\t{c}' for key, c in zip(FILES, truth, strict=True)])
    predictions.save(tmp_path / 'p.pred.npz', FILES, list(scores.astype(np.float32)))
    return folder


def calibrate(dataset, *args):
    return run_scores(dataset, *args, '--samples=100', '--output=c.json', program='calibrate.py')


def table(path):
    with open(path, newline='') as f:
        return dict(list(csv.reader(f))[1:])


def test_a_list_is_calibrated(dataset, tmp_path):
    done = calibrate(dataset, 'p.pred.npz', '--softmax', '--precision=0.8')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith('set: 300 recordings, 150 groups; ') and lines[0].endswith(' classes occur, 300 times')
    found = json.loads((tmp_path / 'c.json').read_text())['held out']
    for name in 'log loss', 'Brier', 'ECE', 'ECE of the best class':
        assert found[name]['difference']['high'] < 0 and found[name]['after']['low'] < found[name]['after']['high']
        assert any(line.startswith(f'{name}  ') for line in lines)
    assert found['precision']['low'] < 0.83 and found['precision']['high'] > 0.8
    assert (tmp_path / 'c.png').read_bytes().startswith(b'\x89PNG')
    assert done.stderr == 'calibrate.py: wrote c.json, c.thresholds.csv, c.png\n'


def test_probabilities_of_the_calibration_are_those_of_the_cases(dataset, tmp_path):
    assert calibrate(dataset, 'p.pred.npz', '--softmax').returncode == 0
    curves, (scores, truth) = calibration.load(tmp_path / 'c.json'), some_scores(seed=1, rows=4000)
    found = curves.probabilities(scores)
    assert curves.kind == 'softmax' and curves.classes == CLASSES and np.isnan(curves.thresholds).all()
    for low in 0.2, 0.6:
        those = (found > low) & (found < low + 0.2)
        assert (truth[:, None] == np.arange(5))[those].mean() == pytest.approx(found[those].mean(), abs=0.06)


def test_thresholds_of_a_probability_are_written_and_missing_ones_are_named(dataset, tmp_path):
    done = calibrate(dataset, 'p.pred.npz', '--softmax', '--probability=0.7')
    curves, written = calibration.load(tmp_path / 'c.json'), table(tmp_path / 'c.thresholds.csv')
    assert list(written) == CLASSES and written['rare'] == ''
    assert 'thresholds for probability 0.7: 4 of 5 classes' in done.stdout
    assert 'none for 1, not enough cases: rare' in done.stdout
    limits = np.array([float(text) if text else np.nan for text in written.values()])
    np.testing.assert_allclose(limits, curves.thresholds)
    at = np.log(limits / (1 - limits))[:4]
    assert sigmoid(curves.intercepts[:4] + curves.slopes[:4] * at) == pytest.approx(0.7)


def test_thresholds_of_an_earlier_calibration_are_removed(dataset, tmp_path):
    (tmp_path / 'c.thresholds.csv').write_text('class,threshold\n')
    done = calibrate(dataset, 'p.pred.npz', '--softmax', '--folds=0')
    assert done.returncode == 0 and 'removed c.thresholds.csv, which was of an earlier calibration' in done.stderr
    assert not (tmp_path / 'c.thresholds.csv').exists()


def test_the_result_is_repeatable(dataset, tmp_path):
    written = []
    for _ in range(2):
        assert calibrate(dataset, 'p.pred.npz', '--softmax', '--precision=0.8', '--svg').returncode == 0
        written.append([(tmp_path / name).read_bytes() for name in ('c.json', 'c.thresholds.csv', 'c.svg')])
    assert written[0] == written[1]


def test_several_files_are_combined_before_the_softmax(dataset, tmp_path):
    """Half of the scores in one file, the other half in another: together they are those of p.pred.npz."""
    assert calibrate(dataset, 'p.pred.npz', '--softmax', '--folds=0').returncode == 0
    alone = calibration.load(tmp_path / 'c.json')
    rows = some_scores()[0].astype(np.float32)
    share = np.random.default_rng(0).random(rows.shape).astype(np.float32)
    for name, part in ('a.pred.npz', rows * share), ('b.pred.npz', rows * (1 - share) / 2):
        predictions.save(tmp_path / name, FILES[::-1], list(part[::-1]))
    done = calibrate(dataset, 'a.pred.npz:2', 'b.pred.npz:4', '--softmax', '--folds=0')
    assert done.returncode == 0, done.stderr
    together = calibration.load(tmp_path / 'c.json')
    assert together.slopes == pytest.approx(alone.slopes, rel=1e-3)
    assert together.intercepts == pytest.approx(alone.intercepts, abs=1e-3)


def test_background_classes_are_right(dataset, tmp_path):
    write_lines(dataset / 'labels/bg.tsv', [f'{key}\t{"4,1" if i < 10 else ""}' for i, key in enumerate(FILES)])
    done = calibrate(dataset, 'p.pred.npz', '--softmax', '--folds=0')
    truth = some_scores()[1]
    expected = np.bincount(truth, minlength=5) + np.array([0, (truth[:10] != 1).sum(), 0, 0, (truth[:10] != 4).sum()])
    assert done.returncode == 0 and calibration.load(tmp_path / 'c.json').right.tolist() == expected.tolist()
    assert 'held out' not in done.stdout and not (tmp_path / 'c.png').exists()


def test_windows_of_annotated_recordings_are_calibrated(dataset, tmp_path):
    scores, truth = some_scores(rows=400)
    files = FILES[:40]
    starts = np.tile(5.0 * np.arange(10), 40)
    write_lines(
        dataset / 'labels/segments.tsv',
        [f'{files[i // 10]}\t{i % 10 * 5}\t{i % 10 * 5 + 5}\t{c}' for i, c in enumerate(truth)],
    )
    write_lines(dataset / 'filelists/soundscapes_val', [*files, 'not annotated.wav'])
    given = {'starts': starts, 'stops': starts + 5}
    predictions.save(tmp_path / 'w.pred.npz', files, scores.astype(np.float32), np.arange(0, 401, 10), **given)
    done = calibrate(dataset, 'w.pred.npz', '--softmax', '--filelist=soundscapes_val', '--segments=5')
    assert done.stdout.startswith('set: 400 windows of 5 s in 40 recordings, 20 groups; '), done.stderr
    found = calibration.load(tmp_path / 'c.json')
    assert found.cases.tolist() == [400] * 5 and found.right.tolist() == np.bincount(truth, minlength=5).tolist()


def test_held_out_recordings_of_folds_are_calibrated(dataset):
    for i, (valid, train) in enumerate([(FILES[:150], FILES[150:]), (FILES[150:], FILES[:150])], 1):
        write_lines(dataset.parent / f'set-fold{i}/filelists/valid', valid)
        write_lines(dataset.parent / f'set-fold{i}/filelists/train', train)
    write_lines(dataset / 'filelists/valid', FILES[:7])
    done = calibrate(dataset, 'p.pred.npz', '--softmax', '--crossval')
    assert done.returncode == 0 and done.stdout.startswith('set: 300 recordings, 150 groups; '), done.stderr


def test_low_scores_can_be_left_out(dataset, tmp_path):
    done = calibrate(dataset, 'p.pred.npz', '--softmax', '--min-score=0.1', '--precision=0.8')
    assert 'scores of at least 0.1' in done.stdout.splitlines()[0]
    found = calibration.load(tmp_path / 'c.json')
    assert np.nanmin(found.lowest) >= 0.1 and found.cases.sum() < 1500


def test_curves_that_are_worse_than_the_scores_are_warned_of(dataset, tmp_path):
    """Scores that are probabilities already, and few recordings."""
    some = slice(90, 120)
    write_lines(dataset / 'filelists/valid', FILES[some])
    predictions.save(tmp_path / 'few.pred.npz', FILES[some], list((some_scores()[0][some] / 3).astype(np.float32)))
    done = calibrate(dataset, 'few.pred.npz', '--softmax')
    difference = json.loads((tmp_path / 'c.json').read_text())['held out']['log loss']['difference']['value']
    assert difference > 0 and done.stderr.startswith('warning: on held-out cases, the curves are not better')


def test_scores_that_are_probabilities_already_are_hardly_changed(dataset, tmp_path):
    scores = some_scores()[0] / 3
    predictions.save(tmp_path / 'good.pred.npz', FILES, list(scores.astype(np.float32)))
    done = calibrate(dataset, 'good.pred.npz', '--softmax')
    assert 'the cases are no evidence against the scores as they are' in done.stdout and 'warning' not in done.stderr
    slopes = calibration.load(tmp_path / 'c.json').slopes
    np.testing.assert_allclose(slopes, 1, atol=0.05)


# == Reviews ==


def review_rows(count=400, seed=0):
    """Rows of a reviewed table in which a score is right with half the probability that it says."""
    rng = np.random.default_rng(seed)
    scores = rng.random(count)
    verdicts = np.where(rng.random(count) < scores / 2, 'right', np.where(rng.random(count) < 0.5, 'wrong', 'other'))
    for i, (score, verdict) in enumerate(zip(scores, verdicts, strict=True)):
        other = 'weta' if verdict == 'other' else ''
        yield f'{FILES[i % 300]},{i},{i + 5},{CLASSES[i % 2]},{score:.6f},{verdict},{other},1'


def test_reviewed_detections_are_calibrated(dataset, tmp_path):
    rows = list(review_rows())
    write_lines(tmp_path / 'a.csv', [HEADER, *rows[:300]])
    write_lines(tmp_path / 'b.csv', [HEADER, *rows[300:], 'r1.wav,9000,9005,weta,0.5,unsure,,2'])
    done = calibrate(dataset, '--reviewed', 'a.csv', 'b.csv', '--softmax', '--probability=0.3')
    assert done.stdout.startswith('set: 400 reviewed detections in 150 groups of recordings'), done.stderr
    assert 'ECE of the best class' not in done.stdout
    found = calibration.load(tmp_path / 'c.json')
    assert found.kind == 'softmax' and found.cases.tolist() == [200, 200, 0, 0, 0]
    assert found.thresholds[:2] == pytest.approx(0.6, abs=0.25) and np.isnan(found.thresholds[2:]).all()


def test_the_last_review_of_a_detection_counts(dataset, tmp_path):
    rows = [row.replace(',right,', ',wrong,') for row in review_rows()] + list(review_rows())
    write_lines(tmp_path / 'a.csv', [HEADER, *rows])
    assert calibrate(dataset, '--reviewed', 'a.csv').returncode == 0
    assert calibration.load(tmp_path / 'c.json').right.sum() == sum(',right,' in row for row in review_rows())


def test_the_precision_of_reviewed_detections_is_that_over_all_predictions(dataset, tmp_path):
    """Reviewed are as many low as high scores, but most detections have low scores."""
    write_lines(tmp_path / 'a.csv', [HEADER, *review_rows(2000)])
    outputs = np.random.default_rng(0).beta(1, 5, (3000, 5)).astype(np.float32)
    predictions.save(tmp_path / 'all.pred.npz', FILES, outputs, np.arange(0, 3001, 10))
    alone = calibrate(dataset, '--reviewed', 'a.csv', '--precision=0.3', '--folds=0')
    first = calibration.load(tmp_path / 'c.json').thresholds[:2]
    both = calibrate(dataset, 'all.pred.npz', '--reviewed', 'a.csv', '--precision=0.3', '--folds=0')
    second = calibration.load(tmp_path / 'c.json').thresholds[:2]
    assert alone.returncode == both.returncode == 0
    assert (first < second).all()
    above = outputs[:, 0][outputs[:, 0] >= second[0]]
    assert 0.29 < (above / 2).mean() < 0.38


def test_columns_may_be_in_any_order_and_rows_without_verdict_are_left_out(tmp_path):
    text = '\ufeffVerdict,Class,Score,Extra,File,End (s),Start (s)\nRight ,a,0.5,x,"b,c.wav",3,1\n,a,0.5,x,d.wav,3,1\n'
    (tmp_path / 'a.csv').write_text(text, encoding='utf-8')
    assert reviews.read(tmp_path / 'a.csv') == [reviews.Review('b,c.wav', 1, 3, 'a', 0.5, 'right')]


@pytest.mark.parametrize(
    'row, message',
    [
        ('r1.wav,0,5,amered,1.2,right,,', 'line 2: the score 1.2 is not between 0 and 1'),
        ('r1.wav,0,5,amered,nan,right,,', 'line 2: the score nan is not between 0 and 1'),
        ('r1.wav,5,5,amered,0.2,right,,', 'line 2: a detection from 5 to 5 s is not possible'),
        ('r1.wav,0,5,amered,0.2,maybe,,', "line 2: verdict 'maybe' is none of right, wrong, unsure, other"),
        ('r1.wav,0,x,amered,0.2,right,,', "line 2: End (s) is 'x', not a number"),
        ('r1.wav,0,5,,0.2,right,,', 'line 2: no class'),
        ('r1.wav,0,5,amered,0.2,unsure,,', 'none of them is right, wrong or other'),
        ('r1.wav,0,5,amered,0.2,right,,', 'all are right, so no curve can be fitted'),
        ('r1.wav,0,5,amered,0.2,wrong,,', 'none is right, so no curve can be fitted'),
        ('r1.wav,0,5,other,0.2,right,,', 'class other of a reviewed detection in r1.wav is not in'),
        ('r1.wav,0,5,amered,"0.2', 'not a CSV table'),
    ],
)
def test_bad_reviews_are_refused_in_one_line(row, message, dataset, tmp_path):
    write_lines(tmp_path / 'a.csv', [HEADER, row])
    done = calibrate(dataset, '--reviewed', 'a.csv')
    assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1
    assert not (tmp_path / 'c.json').exists()


def test_a_table_of_something_else_is_refused(dataset, tmp_path):
    write_lines(tmp_path / 'a.csv', ['File,Class', 'r1.wav,amered'])
    done = calibrate(dataset, '--reviewed', 'a.csv')
    assert done.returncode == 1 and "a.csv: no column 'Start (s)'; expected a table saved by" in done.stderr
    assert 'none.csv: no such file' in calibrate(dataset, '--reviewed', 'none.csv').stderr


# == Options ==


@pytest.mark.parametrize(
    'options, message',
    [
        (['p.pred.npz'], 'p.pred.npz: scores from -'),
        (['p.pred.npz', '--softmax', '--precision=90'], '--precision=90: expected a number between 0 and 1'),
        (['p.pred.npz', '--softmax', '--probability=nan'], '--probability=nan: expected'),
        (['p.pred.npz', '--segments=0'], '--segments=0: expected the length of windows'),
        (['p.pred.npz', '--segments=5'], 'segments.tsv: no such file'),
        (['p.pred.npz', '--folds=1'], '--folds at least 2, or 0'),
        (['p.pred.npz', '--softmax', '--folds=151'], 'too few groups for 151 folds'),
        (['p.pred.npz', '--reviewed', 'a.csv', '--crossval'], '--reviewed cannot be combined with --crossval'),
        (['p.pred.npz', '--crossval', '--softmax'], 'set-fold1, ...: no such folds'),
        (['none.pred.npz', '--softmax'], 'none.pred.npz: no such file'),
        (['p.pred.npz', '--softmax', '--filelist=none'], 'none: no such file'),
        (['p.pred.npz', '--softmax', '--output=c.txt'], 'the name must end with .json'),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options, message, dataset, tmp_path):
    done = run_scores(dataset, '--output=c.json', *options, program='calibrate.py')
    assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1
    assert done.stdout == '' and not (tmp_path / 'c.json').exists()


# == Metrics ==


def some_cases(seed=0, count=600):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    right = rng.random(count) < sigmoid(logits / 2)
    return Cases(logits, np.zeros(count, int), right, rng.integers(20, size=count), rng.random(count) < 0.3)


def test_the_metrics_are_those_of_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    cases = some_cases()
    found = reliability.compare(cases, cases.logits / 2, 0)
    for part, logits in ('before', cases.logits), ('after', cases.logits / 2):
        chances = sigmoid(logits)
        assert found['log loss'][part]['value'] == pytest.approx(metrics.log_loss(cases.right, chances))
        assert found['Brier'][part]['value'] == pytest.approx(metrics.brier_score_loss(cases.right, chances))
        for name, which in ('ECE', slice(None)), ('ECE of the best class', cases.best):
            p, right, expected = chances[which], cases.right[which], 0
            for k in range(10):
                own = (p >= k / 10) & (p < (k + 1) / 10)
                expected += abs(p[own].mean() - right[own].mean()) * own.mean()
            assert found[name][part]['value'] == pytest.approx(expected)


def test_intervals_are_those_of_the_cases_of_the_groups_drawn():
    cases, samples, calibrated = some_cases(), 60, some_cases().logits / 2
    found = reliability.compare(cases, calibrated, samples)
    values = []
    for drawn in resample(20, samples=samples):
        rows = np.repeat(np.arange(600), drawn[cases.groups])
        again = reliability.compare(cases.take(rows), calibrated[rows], 0)
        values.append({name: again[name]['difference']['value'] for name in again})
    for name, each in found.items():
        low, high = np.quantile([value[name] for value in values], [0.025, 0.975])
        assert [each['difference'][bound] for bound in ('low', 'high')] == pytest.approx([low, high])


def test_curves_are_judged_on_groups_that_they_were_not_fitted_to():
    cases = some_cases()
    judged = reliability.held_out(cases, 1, 4)
    for group in range(20):
        assert len(set(judged.folds[cases.groups == group])) == 1
    changed = cases.right.copy()
    changed[judged.folds == 2] ^= True  # does not change the curve of fold 2, but those of the others
    again = reliability.held_out(cases._replace(right=changed), 1, 4)
    assert (again.logits == judged.logits)[judged.folds == 2].all()
    assert not (again.logits == judged.logits)[judged.folds != 2].any()
