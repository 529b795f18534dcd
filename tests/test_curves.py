"""Curves of classes: known ones are recovered, and rare classes borrow from all others. Precision of thresholds."""

import numpy as np
import pytest

from birdsong.findings import curves, thresholds
from birdsong.findings.calibration import logits as softmax_logits
from birdsong.findings.calibration import sigmoid
from birdsong.findings.cases import Cases


def simulate(counts, slopes, intercepts, seed=0, spread=4):
    """Logits, class indices and truth of cases of classes with known curves."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(counts)), counts)
    x = rng.normal(-2, spread, len(classes))
    chances = sigmoid(np.asarray(intercepts)[classes] + np.asarray(slopes)[classes] * x)
    return x, classes, rng.random(len(x)) < chances


def some_classes(seed=0, count=24):
    rng = np.random.default_rng(seed)
    counts = np.array([4, 15, 60, 400])[np.arange(count) % 4]
    return counts, np.abs(rng.normal(0.7, 0.25, count)), rng.normal(-1, 1, count)


def error(found, slopes, intercepts, which=slice(None)):
    """Mean difference of the probabilities from the true ones, over logits from -10 to 6."""
    grid = np.linspace(-10, 6, 50)
    true, mine = (
        sigmoid(np.asarray(a)[which, None] + np.asarray(b)[which, None] * grid)
        for a, b in ((intercepts, slopes), (found.intercepts, found.slopes))
    )
    return np.abs(true - mine).mean()


def test_known_curves_are_recovered_from_many_cases():
    slopes, intercepts = [0.5, 1.0, 1.6], [-1.0, 0.5, 2.0]
    found = curves.fit(*simulate([20000] * 3, slopes, intercepts), 3)
    assert found.slopes == pytest.approx(slopes, rel=0.05) and found.intercepts == pytest.approx(intercepts, abs=0.1)


def test_pooled_curves_are_better_than_those_of_classes_alone_and_than_the_common_one():
    errors = []
    for seed in range(4):
        counts, slopes, intercepts = some_classes(seed)
        cases = simulate(counts, slopes, intercepts, seed)
        errors.append(
            [error(curves.fit(*cases, len(counts), spread), slopes, intercepts) for spread in (None, (30, 30), (0, 0))]
        )
    pooled, alone, common = np.mean(errors, axis=0)
    assert pooled < 0.75 * alone and pooled < 0.75 * common


@pytest.mark.parametrize('spread', [(1e4, 1e4), (0, 0)], ids=('without pooling', 'one curve for all'))
def test_the_limits_of_pooling_are_those_of_scikit_learn(spread):
    linear_model = pytest.importorskip('sklearn.linear_model')
    x, classes, right = simulate([300, 500, 800], [0.5, 0.8, 1.2], [-1, 0, 1])
    found = curves.fit(x, classes, right, 3, spread)
    for c in range(3):
        own = classes == c if spread[0] else classes >= 0
        reference = linear_model.LogisticRegression(C=1e9, tol=1e-10, max_iter=10000).fit(x[own, None], right[own])
        tolerance = 1e-4 if spread[0] else 2e-3  # the common curve has a weak prior
        assert found.slopes[c] == pytest.approx(reference.coef_[0, 0], abs=tolerance)
        assert found.intercepts[c] == pytest.approx(reference.intercept_[0], abs=tolerance)


def test_rare_classes_are_pulled_more_towards_the_common_curve():
    """Classes with the same deviating curve, but different numbers of cases."""
    counts = [8, 40, 200, 2000] + [300] * 16
    slopes, intercepts = np.full(20, 0.8), np.concatenate([np.full(4, 2.5), np.linspace(-1.5, 0.5, 16)])
    shares = []
    for seed in range(6):
        x, classes, right = simulate(counts, slopes, intercepts, seed)
        pooled, alone = curves.fit(x, classes, right, 20), curves.fit(x, classes, right, 20, (1e3, 1e3))
        height = [found.intercepts[:4] + found.slopes[:4] * -2 for found in (pooled, alone)]
        common = pooled.common_intercept + pooled.common_slope * -2
        shares.append((height[0] - common) / (height[1] - common))
    shares = np.median(shares, axis=0)
    assert (np.diff(shares) > 0).all() and shares[0] < 0.8 and shares[-1] > 0.95 and (shares > 0).all()


def test_a_class_without_cases_gets_the_common_curve():
    x, classes, right = simulate([200, 0, 300], [0.7] * 3, [-1] * 3)
    found = curves.fit(x, classes, right, 3)
    assert found.slopes[1] == pytest.approx(found.common_slope)
    assert found.intercepts[1] == pytest.approx(found.common_intercept)


def test_slopes_are_not_negative_even_if_high_scores_are_wrong():
    x, classes, right = simulate([3000, 500, 500], [0.01, 0.9, 0.9], [-1, 0, 0])
    right = np.where(classes == 0, x < -2, right)
    found = curves.fit(x, classes, right, 3)
    assert found.slopes[0] == 0 and (found.slopes[1:] > 0.5).all()
    assert sigmoid(found.intercepts[0]) == pytest.approx(right[classes == 0].mean(), abs=0.02)
    everything = curves.fit(x, classes, x < -2, 3)
    assert (everything.slopes == 0).all() and everything.common_slope == 0


@pytest.mark.parametrize(
    'x, right',
    [
        ([-3.0, 5.0], [False, True]),  # separable
        ([2.0, 2.0, 2.0], [False, True, True]),  # one score
        (np.concatenate([np.full(500, -16.0), np.full(500, 16.0)]), np.arange(1000) >= 500),
    ],
)
def test_odd_cases_give_finite_curves(x, right):
    for classes in (np.zeros(len(x), int), np.arange(len(x)) % 2):
        found = curves.fit(np.array(x), classes, np.array(right), 4)
        assert np.isfinite([*found.slopes, *found.intercepts, found.common_slope]).all() and (found.slopes >= 0).all()


def test_many_cases_are_summarised_with_the_same_result(monkeypatch):
    cases = simulate([3000, 5000], [0.6, 0.9], [-1, 0.5])
    exact = curves.fit(*cases, 2)
    monkeypatch.setattr(curves, 'MANY_CASES', 100)
    summarised = curves.fit(*cases, 2)
    assert summarised.slopes == pytest.approx(exact.slopes, rel=0.01)
    assert summarised.intercepts == pytest.approx(exact.intercepts, abs=0.01)


def clips(seed, recordings, per_recording=6, classes=5, factor=1.0):
    """Cases of clips of recordings, each of one class: logits of the softmax, class, truth and recording of each case.

    The softmax is the probability of the class of a recording; then its logits are multiplied by a factor.
    """
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1.5, (recordings, classes))
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    truth = (rng.random((recordings, 1)) > np.cumsum(chances, axis=1)).sum(axis=1)
    recording = np.repeat(np.arange(recordings), per_recording)
    noisy = factor * (scores[recording] + rng.normal(0, 0.2, (len(recording), classes)))
    right = truth[recording, None] == np.arange(classes)
    return (
        softmax_logits(noisy, 'softmax').ravel(),
        np.tile(np.arange(classes), len(recording)),
        right.ravel(),
        np.repeat(recording, classes),
    )


def log_loss(logits, right):
    return np.logaddexp(0, np.where(right, -logits, logits)).mean()


def gains(recordings, factor):
    """Log loss of new recordings with the scores as they are, minus that with curves from `recordings`, 8 times."""
    result = []
    for seed in range(8):
        x, classes, right, groups = clips(seed, recordings, factor=factor)
        found = curves.fit(x, classes, right, 5, groups=groups)
        x, classes, right, _ = clips(seed + 100, 1000, factor=factor)
        result.append(log_loss(x, right) - log_loss(found.apply(x, classes), right))
    return np.array(result)


def test_with_little_evidence_scores_that_are_probabilities_stay_as_they_are():
    assert gains(20, 1).mean() > -0.01 and gains(40, 1).mean() > -0.005


def test_four_cases_that_contradict_each_other_do_not_change_scores():
    for right in ([False, True, True, False], [False, False, True, True]):
        found = curves.fit([-1, 1, -1, 1], np.zeros(4, int), right, 2)
        assert found.slopes == pytest.approx(1, abs=0.05) and found.intercepts == pytest.approx(0, abs=0.05)


def test_scores_that_are_too_sure_become_better_even_from_few_recordings():
    assert gains(20, 2.5).min() > 0.03 and gains(40, 2.5).mean() > 0.08


def test_clips_of_a_recording_are_one_piece_of_evidence_if_their_errors_are_equal():
    x, classes, right, groups = clips(0, 60, per_recording=1, factor=2)
    again = [np.tile(values, 8) for values in (x, classes, right, groups)]
    once, copied, alone = (
        curves.fit(*cases[:3], 5, (0.5, 0.5), each)
        for cases, each in (((x, classes, right), groups), (again, again[3]), (again, None))
    )
    assert once.correlation == 0 and copied.correlation > 0.8
    assert copied.slopes == pytest.approx(once.slopes, rel=0.1)
    assert copied.covariance == pytest.approx(once.covariance, rel=0.3, abs=1e-3)
    assert (alone.uncertainty(x, classes) < 0.7 * copied.uncertainty(x, classes)).all()


def test_independent_cases_of_a_recording_count_in_full():
    x, classes, right = simulate([600] * 4, [0.5, 0.8, 1, 1.2], [-1, 0, 0, 1])
    groups = np.random.default_rng(1).integers(40, size=len(x))
    grouped, alone = curves.fit(x, classes, right, 4, groups=groups), curves.fit(x, classes, right, 4)
    assert grouped.correlation < 0.03 and grouped.slopes == pytest.approx(alone.slopes, rel=0.05)


def test_the_true_curves_are_within_the_uncertainty():
    counts, slopes, intercepts = some_classes()
    at, classes = np.full(24, -1.0), np.arange(24)
    distances = []
    for seed in range(10):
        found = curves.fit(*simulate(counts, slopes, intercepts, seed), 24)
        distances.append((found.apply(at, classes) - (intercepts + slopes * at)) / found.uncertainty(at, classes))
    assert np.mean(np.abs(distances) < 1) == pytest.approx(0.68, abs=0.08)


def test_the_fit_is_repeatable_and_does_not_depend_on_the_order_of_cases():
    counts, slopes, intercepts = some_classes(1)
    x, classes, right = simulate(counts, slopes, intercepts)
    first, again = (curves.fit(x, classes, right, 24) for _ in range(2))
    assert first.slopes.tobytes() == again.slopes.tobytes() and first.intercepts.tobytes() == again.intercepts.tobytes()
    order = np.random.default_rng(0).permutation(len(x))
    assert curves.fit(x[order], classes[order], right[order], 24).slopes == pytest.approx(first.slopes, rel=1e-3)


# == Thresholds ==


def as_cases(x, classes, right, groups=None):
    groups = np.arange(len(x)) if groups is None else groups
    return Cases(np.asarray(x, float), np.asarray(classes), np.asarray(right), groups, np.zeros(len(x), bool))


def test_detections_above_thresholds_have_the_wanted_precision():
    slopes, intercepts = [0.5, 1.0], [-1.0, 0.5]
    cases = as_cases(*simulate([4000] * 2, slopes, intercepts))
    fitted, known = curves.fit(*cases[:3], 2), thresholds.evidence(cases, 2)
    x, classes, right = simulate([40000] * 2, slopes, intercepts, seed=1)
    for wanted in (0.7, 0.9):
        precise, reasons = thresholds.for_precision(fitted, known, wanted, 5, cases.logits, cases.classes)
        likely, _ = thresholds.for_probability(fitted, known, wanted, 5)
        assert reasons == ['', ''] and (precise < likely).all()
        assert likely == pytest.approx((np.log(wanted / (1 - wanted)) - intercepts) / np.array(slopes), abs=0.4)
        for c in range(2):
            above = (classes == c) & (x >= precise[c])
            assert wanted - 0.01 < right[above].mean() < wanted + 0.04
            # a lower threshold would have less than the wanted precision
            assert right[(classes == c) & (x >= precise[c] - 1)].mean() < wanted
            near = (classes == c) & (np.abs(x - likely[c]) < 0.3)
            assert right[near].mean() == pytest.approx(wanted, abs=0.05)


def test_the_precision_is_rarely_lower_than_wanted_if_there_are_few_recordings():
    reached = []
    for seed in range(10):
        cases = as_cases(*clips(seed, 60, factor=2))
        fitted, known = curves.fit(*cases[:3], 5, groups=cases.groups), thresholds.evidence(cases, 5)
        limits, _ = thresholds.for_precision(fitted, known, 0.7, 5, cases.logits, cases.classes)
        x, classes, right, _ = clips(seed + 100, 1000, factor=2)
        reached += [right[own].mean() for c in range(5) if (own := (classes == c) & (x >= limits[c])).any()]
    assert np.mean(np.array(reached) >= 0.7) > 0.7 and np.mean(reached) > 0.7


def test_thresholds_are_never_outside_the_range_of_scores_that_was_looked_at():
    x, classes, right = simulate([2000] * 2, [1.0, 1.0], [0.0, 0.0])
    looked = np.where(classes == 0, x < 1, x > 1)  # class 0 only at low, class 1 only at high scores
    cases = as_cases(x[looked], classes[looked], right[looked])
    fitted, known = curves.fit(*cases[:3], 2), thresholds.evidence(cases, 2)
    found, reasons = thresholds.for_probability(fitted, known, 0.95, 5)
    assert np.isnan(found[0]) and reasons[0] == thresholds.NOT_REACHED and reasons[1] == ''
    found, reasons = thresholds.for_probability(fitted, known, 0.6, 5)
    assert found[1] == pytest.approx(cases.logits[cases.classes == 1].min())
    for wanted in (0.6, 0.95):
        found, _ = thresholds.for_precision(fitted, known, wanted, 5, x, classes)
        own = cases.logits[cases.classes == 1]
        assert own.min() - 1e-6 <= found[1] <= own.max()
        assert np.isnan(found[0]) or found[0] <= cases.logits[cases.classes == 0].max()


def test_detections_above_the_range_are_not_assumed_to_be_better_than_its_end():
    cases = as_cases(*simulate([3000], [1.0], [0.0], spread=1))
    highest = cases.logits.max()
    fitted, known = curves.fit(*cases[:3], 1), thresholds.evidence(cases, 1)
    limit = sigmoid(fitted.intercepts + fitted.slopes * highest)[0]
    beyond = np.linspace(-2, highest + 10, 500), np.zeros(500, int)
    found, reasons = thresholds.for_precision(fitted, known, limit + 0.01, 5, *beyond)
    assert np.isnan(found[0]) and reasons == [thresholds.NOT_REACHED]
    # the mean of those at the end of the range and of some below
    found, _ = thresholds.for_precision(fitted, known, limit - 0.05, 5, *beyond)
    above = np.minimum(beyond[0][beyond[0] >= found[0]], highest)
    assert sigmoid(fitted.intercepts + fitted.slopes * above).mean() == pytest.approx(limit - 0.05, abs=0.01)


def test_classes_without_enough_evidence_get_no_threshold():
    x, classes, right = simulate([500, 500, 500], [1.0] * 3, [0.0] * 3)
    keep = (classes != 0) | ~right | (np.cumsum((classes == 0) & right) <= 4)  # class 0: 4 right cases
    groups = np.where(classes == 1, classes, np.arange(len(x)) + 5)  # class 1: all from one recording
    cases = as_cases(x, classes, right, groups).take(keep)
    fitted, known = curves.fit(*cases[:3], 4), thresholds.evidence(cases, 4)
    for found, reasons in (
        thresholds.for_probability(fitted, known, 0.8, 5),
        thresholds.for_precision(fitted, known, 0.8, 5, cases.logits, cases.classes),
    ):
        assert np.isnan(found).tolist() == [True, True, False, True]
        assert reasons == [thresholds.TOO_FEW, thresholds.TOO_FEW, '', thresholds.TOO_FEW]
