"""Metrics of events: hand-made cases, those of independent code, and the table that eval.py reads."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdsong.findings import formats
from birdsong.scores import events
from helpers import run_scores, write_lines

CLASSES = ['amered', 'norcar', 'weta']


def pairs(true, found, tolerance=1.0):
    """Numbers of right, detected and true events of one class in one recording."""
    counts = events.count([[(*e, 0) for e in true]], [[(*e, 0) for e in found]], 1, tolerance)
    return tuple(int(values[0, 0]) for values in counts)


@pytest.mark.parametrize(
    'start, end, right',
    [
        (10, 14, 1),
        (11, 15, 1),
        (11.1, 14, 0),
        (8.9, 14, 0),
        (10, 15.1, 0),
        (9, 13, 1),
        (10, 12.9, 0),
    ],
)
def test_start_and_end_must_be_within_the_tolerance(start, end, right):
    assert pairs([(10, 14)], [(start, end)]) == (right, 1, 1)


def test_the_ends_of_long_events_may_differ_by_a_fifth_of_their_length():
    assert pairs([(0, 20)], [(1, 16)]) == (1, 1, 1) and pairs([(0, 20)], [(1, 15.9)]) == (0, 1, 1)
    assert pairs([(0, 16)], [(0, 20)]) == (0, 1, 1)  # of the true event, not of the detection


def test_each_event_is_matched_once_so_that_there_are_as_many_pairs_as_possible():
    assert pairs([(1, 2)], [(0.5, 1.4), (1.5, 2.5)]) == (1, 2, 1)
    # the first event agrees with both detections, the second one only with the first detection
    assert pairs([(1, 1.4), (1.9, 2.3)], [(1, 1.3), (0.2, 0.6)]) == (2, 2, 2)


def test_windows_that_overlap_or_touch_are_one_event():
    assert pairs([(0, 5), (5, 10)], [(0, 5), (2.5, 7.5), (5, 10), (12, 17)]) == (1, 2, 1)
    assert pairs([(0, 5), (5.1, 10)], [(0, 5)]) == (1, 1, 2)


def test_events_of_other_classes_and_recordings_do_not_match():
    counts = events.count([[(0, 5, 0)], [(0, 5, None)]], [[(0, 5, 1)], [(0, 5, 0)]], 2)
    assert counts.right.sum() == 0
    assert counts.detected.tolist() == [[0, 1], [1, 0]] and counts.true.tolist() == [[1, 0], [0, 0]]


spans = st.lists(st.tuples(st.floats(0, 8), st.floats(0.1, 6)), max_size=4)


@given(spans, spans)
def test_the_number_of_pairs_is_that_of_the_best_of_all_assignments(true, found):
    true, found = ([(a, a + length) for a, length in each] for each in (true, found))
    agree = [[abs(t[0] - f[0]) <= 1 and abs(t[1] - f[1]) <= max(1, 0.2 * (t[1] - t[0])) for f in found] for t in true]
    best = max(
        sum(agree[i][j] for i, j in enumerate(order) if j < len(found))
        for order in itertools.permutations(range(len(found) + len(true)), len(true))
    )
    assert (events.number_of_pairs(true, found, 1.0) if true and found else 0) == best


def some_counts():
    right = np.array([[1, 0, 0], [1, 2, 0], [0, 1, 0]])
    return events.Counts(right, right + [[1, 0, 0], [0, 1, 0], [0, 0, 2]], right + [[0, 1, 0], [0, 0, 0], [1, 0, 0]])


def test_metrics_are_over_all_events_and_means_over_classes_with_events():
    found = events.evaluate(some_counts())
    assert found['precision-micro'] == 5 / 9 and found['recall-micro'] == 5 / 7 and found['F1-micro'] == 10 / 16
    assert found['precision-macro'] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert found['recall-macro'] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert found['F1-macro'] == pytest.approx((4 / 6 + 6 / 8) / 2)


def test_without_detections_the_recall_is_0_and_the_precision_undefined():
    counts = some_counts()
    found = events.evaluate(counts._replace(right=counts.right * 0, detected=counts.right * 0))
    assert found['F1-micro'] == found['recall-macro'] == found['F1-macro'] == 0
    assert np.isnan([found['precision-micro'], found['precision-macro']]).all()


def test_intervals_are_those_of_the_recordings_drawn():
    found = events.intervals(some_counts(), 200)
    for name, value in events.evaluate(some_counts()).items():
        assert found[name][0] <= value <= found[name][1] and found[name][0] < found[name][1]
    same = events.Counts(*(np.repeat(values[1:2], 3, axis=0) for values in some_counts()))
    assert events.intervals(same, 50)['F1-micro'] == (events.evaluate(same)['F1-micro'],) * 2


def test_the_metrics_are_those_of_sed_eval():
    sed_eval = pytest.importorskip('sed_eval')
    rng = np.random.default_rng(0)
    metric = sed_eval.sound_event.EventBasedMetrics(['0', '1'], t_collar=1.0, percentage_of_length=0.2)
    true, found = [], []
    for i in range(30):
        starts = rng.choice(20, 4, replace=False) * 10.0
        labelled = [(float(s), float(s + rng.uniform(1, 9)), int(rng.integers(2))) for s in starts]
        detected = [(max(0.0, s + rng.normal()), e + rng.normal(0, 0.7), c) for s, e, c in labelled[1:]]
        true.append(labelled)
        found.append([(s, max(e, s + 0.1), c) for s, e, c in detected])
        metric.evaluate(
            *(
                [{'filename': str(i), 'onset': s, 'offset': e, 'event_label': str(c)} for s, e, c in each]
                for each in (true[-1], found[-1])
            )
        )
    expected = metric.results_overall_metrics()['f_measure']
    result = events.evaluate(events.count(true, found, 2))
    assert result['F1-micro'] == pytest.approx(expected['f_measure'])
    assert result['precision-micro'] == pytest.approx(expected['precision'])


# == eval.py ==


@pytest.fixture
def dataset(tmp_path):
    """A dataset with two annotated recordings, and f.csv with detections beside it."""
    folder = tmp_path / 'set'
    write_lines(folder / 'filelists/test', ['a/1.wav', 'b.wav', 'not annotated.wav'])
    write_lines(folder / 'labels/labelset', CLASSES)
    write_lines(
        folder / 'labels/segments.tsv', ['a/1.wav\t0\t5\t0', 'a/1.wav\t5\t10\t0', 'a/1.wav\t20\t25\t1', 'b.wav\t0\t9\t']
    )
    rows = [('a/1.mp3', 0, 10, 'amered'), ('a/1.mp3', 22, 25, 'norcar'), ('b.wav', 5, 10, 'weta')]
    write_findings(tmp_path / 'f.csv', rows)
    return folder


def write_findings(path, rows):
    with formats.writer('csv', str(path), '', 0) as add:
        for file, start, end, name in rows:
            one = formats.Finding(start, end, 'x', 'y', 0.9, file, name, 0.9, None, '', '', '', None, None, 'm')
            add(file, [one])


def test_a_table_of_findings_is_evaluated(dataset, tmp_path):
    args = ('--events=f.csv', '--filelist=test', '--json=r.json', '--per-class=c.tsv', '--intervals=100')
    done = run_scores(dataset, *args)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == '3 detections of 2 events in 2 annotated recordings of 3, 1 of them right within 1 s'
    assert second.startswith('F1-micro: 0.400, precision-micro: 0.333, recall-micro: 0.500, F1-macro: 0.500, ')
    assert third.startswith('95 % intervals of 100 bootstrap samples: F1-micro: ')
    found = json.loads((tmp_path / 'r.json').read_text())
    assert found['right'] == 1 and found['tolerance'] == 1 and found['F1-micro'] == 0.4
    table = (tmp_path / 'c.tsv').read_text().splitlines()
    assert table[0] == 'class\tspecies\tevents\tdetections\tright\tprecision\trecall\tF1'
    assert table[1:] == [
        'amered\tamered\t1\t1\t1\t1.000\t1.000\t1.000',
        'norcar\tnorcar\t1\t1\t0\t0.000\t0.000\t0.000',
        'weta\tweta\t0\t1\t0\t0.000\t\t0.000',
    ]
    assert '2 of them right within 2 s' in run_scores(dataset, *args[:2], '--tolerance=2').stdout


def test_detections_in_other_recordings_are_left_out_with_a_note(dataset, tmp_path):
    write_findings(tmp_path / 'g.csv', [('a/1.wav', 20, 25, 'norcar'), ('not annotated.wav', 0, 5, 'weta')])
    done = run_scores(dataset, '--events=g.csv', '--filelist=test')
    assert (
        done.stdout.startswith('1 detections of 2 events')
        and '1 recordings with detections, such as not' in done.stderr
    )


@pytest.mark.parametrize(
    'options, message',
    [
        (['--events=none.csv'], 'none.csv: no such file'),
        (['--events=f.csv', '--tolerance=-1'], '--tolerance=-1: expected a difference in seconds'),
        (['--events=f.csv', 'p.npz'], '--events cannot be combined with predictions'),
        (['--events=f.csv', '--segments=5'], '--events cannot be combined with --segments'),
        (['p.npz', '--tolerance=1'], '--tolerance: it is for --events only'),
        (['--events=other.csv'], 'other.csv: unknown is not in'),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options, message, dataset, tmp_path):
    write_findings(tmp_path / 'other.csv', [('b.wav', 0, 5, 'unknown')])
    done = run_scores(dataset, *options, '--filelist=test')
    assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1
