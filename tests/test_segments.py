"""Metrics of windows against labelled segments: those of scikit-learn, and the right windows, truth and scores."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdsong.files import Problem
from birdsong.scores import predictions, segments
from birdsong.scores.segments import Windows, number_of_windows, window_scores, window_truth
from helpers import run_scores, write_lines

CLASSES = ['amered', 'norcar', '47158son01', 'weta', 'never']
KEYS = ['siteA/1.wav', 'siteB/1.wav', 'c.wav']


# == Windows ==


@pytest.mark.parametrize(
    'end, seconds, count',
    [(60, 5, 12), (60.02, 5, 12), (60.3, 5, 13), (57.3, 5, 12), (3, 5, 1), (0.02, 5, 1), (0.3, 0.1, 3), (10, 10, 1)],
)
def test_windows_cover_a_recording_apart_from_a_very_short_rest(end, seconds, count):
    assert number_of_windows(end, seconds) == count


def test_a_class_is_active_in_the_windows_that_its_segments_overlap():
    labelled = [(4.0, 5.0, 0), (4.995, 5.005, 1), (5.0, 15.0, 2), (0.0, 5.02, 3), (9.999, 10.4, 4), (0, 15, None)]
    found = window_truth(labelled, 5, 4, 5)
    assert [np.flatnonzero(found[:, c]).tolist() for c in range(5)] == [[0], [0, 1], [1, 2], [0, 1], [2]]


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(1e-4, 20), st.integers(0, 3)), max_size=6),
    st.sampled_from([0.5, 1.0, 3.0, 5.0]),
)
def test_every_segment_makes_its_class_active_in_a_window(spans, seconds):
    labelled = [(start, start + length, c) for start, length, c in spans]
    count = number_of_windows(60, seconds)
    found = window_truth(labelled, seconds, count, 4)
    assert set(np.flatnonzero(found.any(axis=0))) == {c for *_, c in labelled}
    for start, end, c in labelled:
        # all complete windows within the segment, and none outside of it
        inside = np.arange(count)[(np.arange(count) * seconds >= start) & ((np.arange(count) + 1) * seconds <= end)]
        assert found[inside, c].all()


def test_the_scores_of_a_window_are_the_maximum_of_the_rows_whose_middle_is_in_it():
    starts, stops = np.array([0, 2.5, 5, 7.5]), np.array([5, 7.5, 10, 12.5])
    scores = np.array([[1, 0], [0, 5], [3, 1], [9, 9.0]])
    assert window_scores(starts, stops, scores, 5, 3).tolist() == [[1, 0], [3, 5], [9, 9]]
    order = [2, 0, 3, 1]
    assert window_scores(starts[order], stops[order], scores[order], 5, 2).tolist() == [[1, 0], [3, 5]]


def test_the_scores_of_a_window_can_be_the_mean_of_rows_weighted_by_their_overlap():
    starts, stops = np.array([0, 2.5, 5, 7.5, 30]), np.array([5, 7.5, 10, 12.5, 31])
    scores = np.array([[1, 0], [0, 6], [3, 1], [9, 9.0], [7, 2]])
    expected = [[2 / 3, 2], [15 / 4, 17 / 4], [9, 9], [9, 9], [7, 2]]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        found = window_scores(starts[order], stops[order], scores[order], 5, 5, average=True)
        np.testing.assert_allclose(found, expected)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 30)), min_size=1, max_size=8), st.integers(1, 30))
def test_means_of_rows_are_within_their_range_and_equal_for_equal_rows(spans, count):
    starts, lengths = map(np.array, zip(*spans, strict=True))
    scores = np.stack([np.arange(len(spans)), np.full(len(spans), 0.3)], 1)
    found = window_scores(starts, starts + lengths, scores, 5.0, count, average=True)
    assert (found[:, 0] >= 0).all() and (found[:, 0] <= len(spans) - 1 + 1e-9).all()
    np.testing.assert_allclose(found[:, 1], 0.3)


def test_windows_without_the_middle_of_a_row_get_the_row_that_overlaps_them_most_or_the_nearest():
    starts, stops, scores = np.array([0, 12.0]), np.array([12, 24.0]), np.array([[1.0], [2.0]])
    assert window_scores(starts, stops, scores, 5, 6)[:, 0].tolist() == [1, 1, 2, 2, 2, 2]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 30)), min_size=1, max_size=8), st.integers(1, 30))
def test_every_window_has_scores_and_every_row_counts(spans, count):
    starts, lengths = map(np.array, zip(*spans, strict=True))
    scores = np.eye(len(spans))
    found = window_scores(starts, starts + lengths, scores, 5.0, count)
    assert (found.max(axis=1) == 1).all()
    middles = starts + lengths / 2
    assert set(np.flatnonzero(middles < 5 * count - 0.01)) <= set(np.flatnonzero(found.any(axis=0)))


# == Metrics ==


def some_windows(seed=0, recordings=8, classes=6, levels=None):
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(recordings), rng.integers(1, 9, recordings))
    truth = rng.random((len(owners), classes)) < 0.2
    truth[:, -1] = False
    truth[:, -2] = True
    scores = np.clip(truth * 0.4 + rng.random(truth.shape) * 0.7, 0, 1).astype(np.float32)
    return Windows(np.round(scores * levels) / levels if levels else scores, truth, owners)


def reference(found, threshold=0.5):
    """The metrics according to scikit-learn."""
    metrics = pytest.importorskip('sklearn.metrics')
    truth, scores = found.truth.astype(int), found.scores
    occur, both = truth.any(axis=0), truth.any(axis=0) & ~truth.all(axis=0)
    ones = np.ones((5, truth.shape[1]), int)
    padded = np.concatenate([truth, ones]), np.concatenate([scores, 2.0 * ones])
    detected = (scores >= threshold).astype(int)
    return {
        'ROC-AUC': metrics.roc_auc_score(truth[:, both], scores[:, both], average='macro'),
        'cmAP': metrics.average_precision_score(truth[:, occur], scores[:, occur], average='macro'),
        'cmAP-padded': metrics.average_precision_score(*padded, average='macro'),
        'F1-micro': metrics.f1_score(truth, detected, average='micro', zero_division=0),
        'F1-macro': metrics.f1_score(truth[:, occur], detected[:, occur], average='macro', zero_division=0),
    }


@pytest.mark.parametrize('levels', (None, 4), ids=('different scores', 'equal scores'))
@pytest.mark.parametrize('seed', range(3))
def test_the_metrics_are_those_of_scikit_learn(seed, levels):
    found = some_windows(seed, levels=levels)
    for threshold in (0.5, 0.75):
        assert segments.evaluate(found, threshold) == pytest.approx(reference(found, threshold), abs=1e-9)


def test_the_metrics_of_each_class_are_those_of_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    found = some_windows()
    mine = segments.per_class(found, 0.4)
    assert np.isnan(mine['AP'][-1]) and np.isnan(mine['ROC-AUC'][-2:]).all() and np.isnan(mine['recall'][-1])
    for c in range(4):
        truth, scores = found.truth[:, c], found.scores[:, c]
        precision, recall, f1, count = metrics.precision_recall_fscore_support(
            truth, scores >= 0.4, average=None, labels=[True]
        )
        assert mine['AP'][c] == pytest.approx(metrics.average_precision_score(truth, scores))
        assert mine['ROC-AUC'][c] == pytest.approx(metrics.roc_auc_score(truth, scores))
        assert [mine[name][c] for name in ('precision', 'recall', 'F1', 'windows')] == pytest.approx(
            [precision[0], recall[0], f1[0], count[0]]
        )


def test_intervals_draw_recordings_with_all_their_windows(monkeypatch):
    """Each bootstrap sample has the metrics of the windows of the recordings drawn, repeated."""
    found, samples = some_windows(recordings=5), 40
    monkeypatch.setattr(segments, 'BLOCK', 200)  # several blocks
    rng, values = np.random.default_rng(3), []
    step = max(1, 200 // len(found.recording))
    for start in range(0, samples, step):
        for drawn in rng.integers(5, size=(min(step, samples - start), 5)):
            rows = np.concatenate([np.flatnonzero(found.recording == i) for i in sorted(drawn)])
            repeated = Windows(found.scores[rows], found.truth[rows], np.zeros(len(rows), int))
            values.append(segments.evaluate(repeated))
    intervals = segments.intervals(found, samples=samples, seed=3)
    for name, bounds in intervals.items():
        assert bounds == pytest.approx(np.nanquantile([value[name] for value in values], [0.025, 0.975]))
    # windows of one recording are not drawn separately
    alone = Windows(found.scores, found.truth, np.zeros(len(found.scores), int))
    assert all(low == high for low, high in segments.intervals(alone, samples=20).values())


def test_metrics_without_any_active_class_are_undefined():
    found = segments.evaluate(Windows(np.zeros((3, 2)), np.zeros((3, 2), bool), np.array([0, 0, 1])))
    assert np.isnan([found[name] for name in ('ROC-AUC', 'cmAP', 'F1-micro', 'F1-macro')]).all()


# == eval.py --segments ==


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / 'set'
    write_lines(folder / 'filelists/soundscapes_val', [*KEYS, 'not annotated.wav'])
    write_lines(folder / 'labels/labelset', CLASSES)
    write_lines(
        folder / 'labels/segments.tsv',
        [
            f'{KEYS[0]}\t0\t5\t',
            f'{KEYS[0]}\t5\t10\t0',
            f'{KEYS[0]}\t5\t15\t2',
            f'{KEYS[1]}\t3\t4\t1',
            f'{KEYS[2]}\t0\t10\t',
            'elsewhere.wav\t0\t5\t0',
        ],
    )
    return folder


def save(dataset, name='p.npz', times=True, counts=(3, 2, 2, 1), scores=None):
    """Predictions of blocks of 5 s that are right everywhere, or `scores`."""
    if scores is None:
        scores = np.full((sum(counts), 5), 0.1)
        for row, classes in ((1, [0, 2]), (2, [2]), (3, [1])):
            scores[row, classes] = 0.9
    starts = 5.0 * np.concatenate([np.arange(n) for n in counts])
    given = {'starts': starts, 'stops': starts + 5} if times else {}
    files = [*KEYS, 'not annotated.wav']
    predictions.save(dataset.parent / name, files, scores, np.concatenate([[0], np.cumsum(counts)]), **given)
    return name


def evaluate(dataset, *args):
    return run_scores(dataset, '--filelist=soundscapes_val', *args)


def test_windows_of_a_list_are_evaluated(dataset, tmp_path):
    done = evaluate(dataset, save(dataset), '--segments=5', '--json=f.json', '--per-class=c.tsv', '--intervals=50')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == '7 windows of 5 s in 3 annotated recordings of 4; 3 of 5 classes occur, 4 times'
    assert lines[1] == 'ROC-AUC: 1.000, cmAP: 1.000, cmAP-padded: 1.000, F1-micro: 1.000, F1-macro: 1.000'
    assert lines[2].startswith('95 % intervals of 50 bootstrap samples: ROC-AUC: 1.000 to 1.000, cmAP: ')
    report = json.loads((tmp_path / 'f.json').read_text())
    assert report['windows'] == 7 and report['positives'] == 4 and report['seconds'] == 5 and report['ROC-AUC'] == 1
    assert set(report['intervals']) == {'ROC-AUC', 'cmAP', 'cmAP-padded', 'F1-micro', 'F1-macro'}
    table = [line.split('\t') for line in (tmp_path / 'c.tsv').read_text().splitlines()]
    assert table[0] == ['class', 'species', 'windows', 'AP', 'ROC-AUC', 'precision', 'recall', 'F1']
    assert [row[:3] for row in table[1:]] == [
        ['amered'] * 2 + ['1'],
        ['norcar'] * 2 + ['1'],
        ['47158son01'] * 2 + ['2'],
    ]


def test_windows_may_be_longer_or_shorter_than_the_rows(dataset):
    name = save(dataset)
    assert evaluate(dataset, name, '--segments=20').stdout.startswith('3 windows of 20 s ')
    assert evaluate(dataset, name, '--segments=2.5').stdout.startswith('14 windows of 2.5 s ')


def test_members_are_combined_and_pooled_rows_count_for_all_windows(dataset):
    save(dataset)
    predictions.save(dataset.parent / 'meta.npz', [*KEYS, 'not annotated.wav'], list(np.full((4, 5), 0.1)))
    done = evaluate(dataset, 'p.npz:1.5', 'meta.npz:0.5', '--segments=5')
    assert done.stdout.splitlines()[1].startswith('ROC-AUC: 1.000')
    alone = evaluate(dataset, 'meta.npz', '--segments=5')
    assert alone.stdout.splitlines()[0].startswith('6 windows') and 'ROC-AUC: 0.500' in alone.stdout


def test_threshold_and_softmax_change_f1(dataset):
    logits = np.full((8, 5), -20.0)
    logits[[1, 2, 3], [0, 2, 1]] = 20
    name = save(dataset, scores=logits)
    done = evaluate(dataset, name, '--segments=5')
    assert done.stderr.startswith('warning: scores from -20 to 20 are no probabilities')
    assert 'F1-micro: 0.857' in done.stdout
    done = evaluate(dataset, name, '--segments=5', '--softmax')
    assert done.stderr == '' and 'F1-micro: 0.857' in done.stdout
    assert 'F1-micro: 0.000' in evaluate(dataset, name, '--segments=5', '--threshold=30').stdout
    assert 'F1-micro: 0.857' in evaluate(dataset, name, '--segments=5', '--threshold=-19').stdout


@pytest.mark.parametrize(
    'options, message',
    [
        (['--segments=0'], '--segments=0: expected the length of windows'),
        (['--segments=nan'], '--segments=nan: expected'),
        (['--threshold=0.5'], '--threshold: it is for --segments only'),
        (['--segments=5', '--save-predictions=x.npz'], 'cannot be combined with --save-predictions'),
        (['--segments=5', '--labelfile-background=bg.tsv'], 'cannot be combined with --labelfile-background'),
        (['--segments=5', '--subset-class=0.5'], 'cannot be combined with --subset-class'),
        (['--segments=5', '--filelist=other'], 'no recording of list other is annotated, but siteA/1.wav'),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options, message, dataset):
    write_lines(dataset / 'filelists/other', ['not annotated.wav'])
    done = evaluate(dataset, save(dataset), *options)
    assert done.returncode == 1 and done.stdout == '' and message in done.stderr and done.stderr.count('\n') == 1


def test_rows_without_times_are_refused(dataset):
    done = evaluate(dataset, save(dataset, times=False), '--segments=5')
    assert done.returncode == 1 and f'p.npz: {KEYS[0]} has 3 rows without times; create it again' in done.stderr
    with pytest.raises(Problem, match='3 rows without times'):
        segments.windows(predictions.load(dataset.parent / 'p.npz').select(KEYS[:1]), {KEYS[0]: [(0, 5, 0)]}, 5)
