"""Fit the logistic curves of a calibration, with partial pooling over classes and groups of recordings.

The slope and intercept of a class are drawn from normal distributions around those of a common curve, and those of the
common curve from one around the curve of scores that are probabilities already:

    P(right) = sigmoid(a_c + b_c * x),   a_c ~ N(a, s_a^2),   b_c ~ N(b, s_b^2),   b_c >= 0,   a, b ~ N(identity, s^2)

so that a class with many cases gets its own curve, a class without cases the common one, and a rare class something in
between; with few cases altogether, the scores stay as they are. How far classes differ, s_a and s_b, and how far the
scores are from probabilities, s, is estimated from all cases (empirical Bayes): the values with the highest marginal
likelihood in Laplace's approximation, in which also the common curve is integrated out (Gelman and Hill 2007, ch. 14;
Breslow and Clayton 1993), times exponential densities, which prefer the simpler model, in which they are 0 (Simpson et
al. 2017, doi 10.1214/16-STS576).

Cases of one class in one group of recordings are not independent: the errors of the curve are correlated, with a
correlation r that is estimated from them (Liang and Zeger 1986, doi 10.1093/biomet/73.1.13, here weighted by the
information of each case). So m cases of a class in a group are evidence like m / (1 + (m - 1) * r) independent ones
(design effect, Kish 1965), and their likelihood gets this weight.

x is the logit, shifted and scaled so that slope and intercept of the common curve are uncorrelated.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from birdsong.findings.calibration import sigmoid

# Standard deviation of the common curve if the spread is given: so wide that it matters only if no case contradicts it.
COMMON_SD = 10.0
# Range in which s, s_a and s_b are searched, first values, and rate of the exponential densities, with mean 1 / rate.
SPREAD_RANGE, FIRST_SPREAD, RATE = (0.01, 20.0), 0.5, 2.0
# Curves are fitted again with the weights of cases that follow from them: this often, unless weights change by less.
ROUNDS, SAME_WEIGHT = 2, 0.05
# Newton's method ends after a step whose expected gain in the log density is less than this. The next one would gain
# much less, since the method converges quadratically.
TOLERANCE, MAX_STEPS = 1e-6, 100
# More cases are summarised: those of a class in a range of logits of this width count as cases with their mean logit.
MANY_CASES, CELL = 200_000, 0.1


class Curves(NamedTuple):
    """Slopes and intercepts (classes,) on the scale of logits, and what is known about them."""

    slopes: np.ndarray
    intercepts: np.ndarray
    common_slope: float
    common_intercept: float
    spread: tuple[float, float]  # (s_a, s_b), in units of the scaled logits
    covariance: np.ndarray  # (classes, 2, 2) of intercept and slope
    correlation: float  # in groups, r

    def apply(self, logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Logits (n,) of the probabilities of being right, given the logit and class index of each case."""
        return self.intercepts[classes] + self.slopes[classes] * logits

    def uncertainty(self, logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Standard deviations (n,) of the logits that `apply` returns, without that of the spread."""
        intercept, both, slope = (self.covariance[classes, i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
        return np.sqrt(np.maximum(0, intercept + 2 * both * logits + slope * logits**2))


def fit(
    logits: np.ndarray,
    classes: np.ndarray,
    right: np.ndarray,
    num_classes: int,
    spread: tuple[float, float] | None = None,
    groups: np.ndarray | None = None,
) -> Curves:
    """The curves of all classes, given logits, class indices and truth (bool) of all cases, (n,) each.

    spread: (s_a, s_b); estimated if None. With large values, each class is fitted alone; with 0, all get the common
    curve; s is large then. groups: index of the group of each case; None: all cases are independent. There must be at
    least one case.
    """
    x, right, classes = np.asarray(logits, np.float64), np.asarray(right, np.float64), np.asarray(classes)
    weight, correlation = np.ones(len(x)), 0.0
    centre, scale = _scaling(*_summarised(x, classes, right, weight))
    x, identity = (x - centre) / scale, np.array([centre, scale])
    for _ in range(1 + ROUNDS):
        data = _Data(*_summarised(x, classes, right, weight), num_classes, identity)
        sds = np.array(_estimated_spread(data) if spread is None else (COMMON_SD, *spread), np.float64)
        mean, own, covariance = _curves(data, sds)
        if groups is None:
            break
        before = weight
        weight, correlation = _weights(sigmoid(own[classes, 0] + own[classes, 1] * x), right, classes, groups)
        if np.allclose(weight, before, rtol=SAME_WEIGHT):
            break
    back = np.array([[1, -centre / scale], [0, 1 / scale]])  # from scaled logits to logits
    (intercept, slope), (intercepts, slopes) = back @ mean, back @ own.T
    spread, covariance = tuple(sds[1:].tolist()), back @ covariance @ back.T
    return Curves(slopes, intercepts, slope, intercept, spread, covariance, correlation)


def _weights(p, right, classes, groups):
    """Weight (n,) of each case, given its probability, and the correlation of cases of one class in one group."""
    cell = np.unique(classes * (np.max(groups) + 1) + groups, return_inverse=True)[1]
    error, variance = right - p, p * (1 - p) + 1e-12
    single, together = np.bincount(cell, variance), np.bincount(cell, np.sqrt(variance)) ** 2
    pairs = (together - single).sum()
    found = (np.bincount(cell, error) ** 2 - np.bincount(cell, error**2)).sum() / pairs if pairs > 1e-9 else 0.0
    correlation = float(np.clip(found, 0, 1))
    # together / single is the number of cases of a cell, of which those that are certain do not count
    return 1 / (1 + (together / single - 1) * correlation)[cell], correlation


class _Data:
    """Cases, and sums over those of each class. The weight of a case is in `count`, and `right` is multiplied by it.

    identity (2,): intercept and slope of the curve that leaves scores as they are.
    """

    def __init__(self, x, classes, right, count, num_classes, identity):
        self.x, self.classes, self.right, self.count = x, classes, right, count
        self.num_classes, self.identity = num_classes, identity

    def sums(self, values):
        return np.bincount(self.classes, values, self.num_classes)

    def likelihood(self, curves):
        """Log likelihood of each class (C,), given curves (C, 2): intercept and slope."""
        eta = curves[self.classes, 0] + curves[self.classes, 1] * self.x
        return self.sums(self.right * eta - self.count * np.logaddexp(0, eta))

    def derivatives(self, curves):
        """Gradient (C, 2) and negative second derivatives (C, 2, 2) of the log likelihood of each class."""
        p = sigmoid(curves[self.classes, 0] + curves[self.classes, 1] * self.x)
        error, weight = self.right - self.count * p, self.count * p * (1 - p)
        gradient = np.stack([self.sums(error), self.sums(error * self.x)], axis=1)
        weighted = weight * self.x
        across = self.sums(weighted)
        information = np.stack([self.sums(weight), across, across, self.sums(weighted * self.x)], axis=1)
        return gradient, information.reshape(-1, 2, 2)


def _summarised(x, classes, right, weight):
    """x, class, weight of right cases, and weight of each case or, if there are many, of each class and range of x."""
    if len(x) <= MANY_CASES:
        return x, classes, right * weight, weight
    cells = np.round(x / CELL).astype(np.int64)
    cells -= cells.min()
    _, first, cell = np.unique(classes * (cells.max() + 1) + cells, return_index=True, return_inverse=True)
    count = np.bincount(cell, weight)
    return np.bincount(cell, x * weight) / count, classes[first], np.bincount(cell, right * weight), count


def _scaling(x, _, right, count):
    """Centre and scale of logits: mean and standard deviation, weighted by the information on the common curve."""
    centre = np.average(x, weights=count)
    scale = np.sqrt(np.average((x - centre) ** 2, weights=count)) or 1.0
    data = _Data((x - centre) / scale, np.zeros(len(x), int), right, count, 1, np.zeros(2))
    mean, _, _ = _mode(data, np.array([COMMON_SD, 0, 0]))
    p = sigmoid(mean[0] + mean[1] * data.x)
    weight = count * (p * (1 - p) + 1e-12)
    centre = np.average(x, weights=weight)
    scale = np.sqrt(np.average((x - centre) ** 2, weights=weight))
    return centre, scale if scale > 1e-6 else 1.0


def _mode(data, sds, start=None):
    """Common curve (2,), deviations of the classes in units of the spread (C, 2), and minus the second derivatives.

    The maximum of the joint posterior density for given sds (3,) = (s, s_a, s_b), by Newton's method. In each step, the
    deviations are eliminated (Schur complement), so that its cost is linear in the number of classes.
    """
    spread, prior = sds[1:], np.eye(2) / sds[0] ** 2
    mean, own = (data.identity, np.zeros((data.num_classes, 2))) if start is None else start
    value = _joint(data, mean, own, sds)
    for _ in range(MAX_STEPS):
        gradient, information = data.derivatives(mean + spread * own)
        inner = np.linalg.inv(np.eye(2) + spread[:, None] * information * spread)
        across = information * spread  # second derivatives by the common curve and the deviations
        inner_gradient = spread * gradient - own
        outer = information.sum(axis=0) + prior - np.einsum('cij,cjk,clk->il', across, inner, across)
        outer_gradient = gradient.sum(axis=0) - prior @ (mean - data.identity)
        reduced = np.einsum('cij,cjk,ck->i', across, inner, inner_gradient)
        step = np.linalg.solve(outer, outer_gradient - reduced)
        own_step = np.einsum('cij,cj->ci', inner, inner_gradient - np.einsum('cji,j->ci', across, step))
        gain = step @ outer_gradient + (own_step * inner_gradient).sum()
        size = 1.0
        if gain > TOLERANCE:
            while (new := _joint(data, mean + size * step, own + size * own_step, sds)) < value and size > 1e-6:
                size /= 2
            value = new
        mean, own = mean + size * step, own + size * own_step
        if gain <= TOLERANCE:
            break
    return mean, own, (inner, outer)


def _joint(data, mean, own, sds):
    """Log density of the cases, the deviations of the classes and the common curve, but for a constant."""
    distance = (mean - data.identity) / sds[0]
    return data.likelihood(mean + sds[1:] * own).sum() - 0.5 * (own**2).sum() - 0.5 * distance @ distance


def _estimated_spread(data):
    """(s, s_a, s_b) with the highest marginal likelihood, times the exponential densities."""
    best = [None]

    def loss(logs):
        sds = np.exp(logs)
        mean, own, (inner, outer) = _mode(data, sds, best[0])
        best[0] = mean, own
        volume = 0.5 * np.linalg.slogdet(inner)[1].sum() - 0.5 * np.linalg.slogdet(outer)[1] - 2 * logs[0]
        return -(_joint(data, mean, own, sds) + volume - RATE * sds.sum())

    bounds = [tuple(np.log(SPREAD_RANGE))] * 3
    options = {'xatol': 0.02, 'fatol': 1e-3, 'maxfev': 300}
    found = minimize(loss, np.full(3, np.log(FIRST_SPREAD)), method='Nelder-Mead', bounds=bounds, options=options)
    return np.exp(found.x)


def _curves(data, sds):
    """The common curve (2,), the curves of all classes (C, 2) and their covariances (C, 2, 2), given (s, s_a, s_b)."""
    mean, own, (inner, outer) = _mode(data, sds)
    spread = sds[1:]
    _, information = data.derivatives(mean + spread * own)
    # of the deviations alone, and of the common curve, of which a part is compensated by the deviations
    alone = spread[:, None] * inner * spread
    kept = np.eye(2) - alone @ information
    covariance = alone + kept @ np.linalg.inv(outer) @ np.swapaxes(kept, 1, 2)
    mean = np.array([mean[0], max(0.0, mean[1])])
    return mean, _class_curves(data, mean, spread), covariance


def _class_curves(data, mean, spread):
    """The most probable curves (C, 2) of all classes with slopes of at least 0, given the common curve.

    The density is log-concave. So if the best slope is negative, the best one of the others is 0.
    """
    own = _newton(data, mean, spread, np.ones((data.num_classes, 2)))
    curves = mean + spread * own
    negative = curves[:, 1] < 0
    if negative.any():
        fixed = np.ones((data.num_classes, 2))
        fixed[negative, 1] = 0
        start = own.copy()
        start[negative] = [0, 1]
        start[negative, 1] = -mean[1] / spread[1]
        own = _newton(data, mean, spread, fixed, start)
        curves = mean + spread * own
        curves[negative, 1] = 0
    return curves


def _newton(data, mean, spread, free, start=None):
    """Deviations (C, 2) of all classes in units of the spread, given the common curve; those with free=0 stay."""
    own = np.zeros((data.num_classes, 2)) if start is None else start

    def objective(own):
        return data.likelihood(mean + spread * own) - 0.5 * (own**2).sum(axis=1)

    value = objective(own)
    for _ in range(MAX_STEPS):
        gradient, information = data.derivatives(mean + spread * own)
        second = np.eye(2) + spread[:, None] * information * spread * free[:, :, None] * free[:, None]
        gradient = (spread * gradient - own) * free
        step = np.linalg.solve(second, gradient[:, :, None])[:, :, 0]
        unfinished = (step * gradient).sum(axis=1) > TOLERANCE
        size = np.ones(len(own))
        while (worse := (objective(own + size[:, None] * step) < value) & unfinished & (size > 1e-6)).any():
            size[worse] /= 2
        own = own + size[:, None] * step
        if not unfinished.any():
            break
        value = objective(own)
    return own
