"""detections: from the scores of windows to the times at which a class was heard."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsong.findings.detections import Detection, Rules, covered, detect, series_of, smoothed

THREE = np.array([0.0, 5.0, 10.0])


def found(scores, starts=None, stops=None, probabilities=None, threshold=0.5, **rules):
    """Detections of scores (n, classes) in windows of 5 s, as (start, end, class, score)."""
    scores = np.asarray(scores, np.float32)
    starts = np.arange(len(scores)) * 5.0 if starts is None else np.asarray(starts, float)
    stops = starts + 5 if stops is None else np.asarray(stops, float)
    limits = np.broadcast_to(np.asarray(threshold, float), scores.shape[1:])
    result = detect('a.wav', starts, stops, scores, Rules(limits, **rules), lambda scores: (scores, probabilities))
    assert all(one.key == 'a.wav' for one in result)
    return [(one.start, one.end, one.class_index, round(one.confidence, 6)) for one in result]


def test_each_window_that_reaches_the_threshold_is_a_detection_in_the_order_of_time_and_confidence():
    assert found([[0.5, 0.9], [0.49, 0.1], [0.8, 0.6]]) == [
        (0, 5, 1, 0.9),
        (0, 5, 0, 0.5),
        (10, 15, 0, 0.8),
        (10, 15, 1, 0.6),
    ]


def test_each_class_has_its_own_threshold_and_none_without_one():
    assert found([[0.5, 0.9, 0.9]], threshold=[0.4, 0.95, np.nan]) == [(0, 5, 0, 0.5)]


def test_neighbours_are_merged_up_to_a_gap_and_keep_the_highest_confidence():
    scores = [[0.6, 0.9], [0.8, 0], [0.1, 0.9], [0.7, 0]]
    assert found(scores, merge=0) == [(0, 5, 1, 0.9), (0, 10, 0, 0.8), (10, 15, 1, 0.9), (15, 20, 0, 0.7)]
    assert found(scores, merge=4.9) == found(scores, merge=0)
    assert found(scores, merge=5) == [(0, 15, 1, 0.9), (0, 20, 0, 0.8)]


def test_overlapping_windows_in_any_order_are_merged():
    starts, stops = [4, 0, 2, 20], [9, 10, 7, 25]
    scores = [[0.6], [0.7], [0.9], [0.5]]
    assert found(scores, starts, stops, merge=0) == [(0, 10, 0, 0.9), (20, 25, 0, 0.5)]
    assert len(found(scores, starts, stops)) == 4


def test_the_duration_counts_after_merging():
    scores = [[0.9], [0.9], [0], [0.9]]
    assert found(scores, merge=0, shortest=6) == [(0, 10, 0, 0.9)]
    assert found(scores, shortest=5) == [(0, 5, 0, 0.9), (5, 10, 0, 0.9), (15, 20, 0, 0.9)]


def test_the_most_confident_detections_of_a_recording_are_kept_ties_by_time():
    scores = [[0.6, 0.7], [0.9, 0.7], [0.7, 0]]
    assert found(scores, top=2) == [(0, 5, 1, 0.7), (5, 10, 0, 0.9)]


def test_probabilities_are_the_confidence_if_there_are_any():
    scores, probabilities = [[0.9], [0.4]], np.array([[0.2], [0.8]])
    assert found(scores, probabilities=probabilities) == [(5, 10, 0, 0.8)]
    assert found(scores, probabilities=probabilities, of_scores=True) == [(0, 5, 0, 0.2)]
    rules = Rules(np.array([0.5]))
    one = detect('k', THREE[:2], THREE[:2] + 5, np.array(scores), rules, lambda scores: (scores, probabilities))
    assert one == [Detection('k', 5, 10, 0, 0.4, 0.8)]


def test_smoothing_averages_neighbours_but_not_across_gaps():
    values = np.array([[0.0], [3.0], [6.0], [30.0]])
    starts = np.array([0.0, 5.0, 10.0, 40.0])
    assert smoothed(values, series_of(starts, starts + 5), 3).ravel().tolist() == [1.5, 3, 4.5, 30]
    assert smoothed(values, series_of(starts, starts + 40), 3).ravel().tolist() == [1.5, 3, 13, 18]
    assert smoothed(values, series_of(starts, starts + 5), 9).ravel().tolist() == [3, 3, 3, 30]


def test_a_single_high_score_disappears_by_smoothing():
    scores = [[0], [0], [0.9], [0], [0], [0.6], [0.6], [0.6]]
    assert found(scores, smooth=3, threshold=0.45) == [(30, 35, 0, 0.6), (35, 40, 0, 0.6)]


def test_parts_that_overlap_or_touch_are_listened_to_once():
    assert covered(np.array([20.0, 0, 3, 5]), np.array([25.0, 5, 4, 7])) == [(0, 7), (20, 25)]


@pytest.mark.parametrize('smooth', [1, 3, 7])
def test_long_recordings_are_processed_in_blocks_with_the_same_result(smooth, monkeypatch):
    rng = np.random.default_rng(smooth)
    starts = rng.integers(0, 400, 100).astype(float)
    stops, scores = starts + rng.integers(1, 9, 100), rng.random((100, 3))
    rules, largest = Rules(np.full(3, 0.6), smooth=smooth, merge=1.0), []

    def halves(part):
        largest.append(len(part))
        return part, part / 2 + 0.3

    expected = detect('a', starts, stops, scores, rules, halves)
    monkeypatch.setattr('birdsong.findings.detections.BLOCK', 3 * 10)
    assert expected and detect('a', starts, stops, scores, rules, halves) == expected
    assert max(largest[1:]) == 10 + smooth - 1


windows = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 12), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25
)


@settings(deadline=None)
@given(
    windows,
    st.sampled_from([None, 0.0, 2.0, 7.0]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([0, 4, 9]),
    st.sampled_from([None, 1, 4]),
)
def test_detections_keep_the_rules(rows, merge, smooth, shortest, top):
    starts = np.array([row[0] for row in rows], float)
    stops = starts + [row[1] for row in rows]
    scores = np.array([row[2:] for row in rows]) / 4
    rules = Rules(np.array([0.5, 0.75]), smooth=smooth, merge=merge, shortest=shortest)
    result = detect('a', starts, stops, scores, rules)
    assert all(one.confidence >= rules.thresholds[one.class_index] for one in result)
    assert all(one.end - one.start >= shortest and one.start in starts and one.end in stops for one in result)
    if merge is not None:
        for one, two in itertools.combinations(result, 2):
            apart = one.class_index != two.class_index or max(one.start, two.start) > min(one.end, two.end) + merge
            assert apart
    if smooth == 1 and not shortest:
        # every second of a window above the threshold is in a detection, and detections lie in such windows
        for c in range(2):
            hits = scores[:, c] >= rules.thresholds[c]
            mine = [one for one in result if one.class_index == c]
            assert all(
                any(d.start <= a and b <= d.end for d in mine) for a, b in zip(starts[hits], stops[hits], strict=True)
            )
    best = detect('a', starts, stops, scores, Rules(rules.thresholds, False, smooth, merge, shortest, top))
    assert set(best) <= set(result) and len(best) == min(len(result), top or len(result))
    rest = [one.confidence for one in result if one not in best]
    assert not rest or min(one.confidence for one in best) >= max(rest)


@pytest.mark.parametrize('smooth', [1, 3, 5, 7])
def test_smoothing_agrees_with_a_loop(smooth):
    rng = np.random.default_rng(smooth)
    starts = np.sort(rng.integers(0, 80, 30)).astype(float)
    stops, values = starts + rng.integers(1, 6, 30), rng.normal(size=(30, 3))
    series, end = [0], stops[0]
    for start, stop in zip(starts[1:], stops[1:], strict=True):
        series.append(series[-1] + (start > end))
        end = max(end, stop)
    for i, row in enumerate(smoothed(values, series_of(starts, stops), smooth)):
        near = [j for j in range(30) if abs(i - j) <= smooth // 2 and series[i] == series[j]]
        np.testing.assert_allclose(row, values[near].mean(axis=0))
