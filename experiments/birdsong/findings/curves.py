"""Fit the logistic curves of a calibration, with partial pooling over classes.

The slope and intercept of a class are drawn from normal distributions around those of a common curve:

    P(right) = sigmoid(a_c + b_c * x),   a_c ~ N(a, s_a^2),   b_c ~ N(b, s_b^2),   b_c >= 0

so that a class with many cases gets its own curve, a class without cases the common one, and a rare class something in
between. How far classes differ, s_a and s_b, is estimated from all cases (empirical Bayes): the values with the highest
marginal likelihood in Laplace's approximation, in which also the common curve is integrated out (Gelman and Hill 2007,
ch. 14; Breslow and Clayton 1993). Without another term, this estimate is often exactly 0 if there are few classes; the
gamma density of Chung et al. (2013, doi 10.1007/s11336-013-9328-2) prevents this.

x is the logit, shifted and scaled so that slope and intercept of the common curve are uncorrelated.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from birdsong.findings.calibration import sigmoid

# Standard deviation of the prior of the common curve: so wide that it matters only if no case contradicts the curve.
COMMON_SD = 10.0
# Range in which s_a and s_b are searched, first values, and rate of the gamma density, whose mode is 1 / rate.
SPREAD_RANGE, FIRST_SPREAD, GAMMA_RATE = (0.01, 20.0), 0.5, 1.0
# Newton's method ends after a step whose expected gain in the log density is less than this. The next one would gain
# much less, since the method converges quadratically.
TOLERANCE, MAX_STEPS = 1e-6, 100
# More cases are summarised: those of a class in a range of logits of this width count as cases with their mean logit.
MANY_CASES, CELL = 200_000, 0.1


class Curves(NamedTuple):
    """Slopes and intercepts (classes,) on the scale of logits, those of the common curve, and the spread of both."""

    slopes: np.ndarray
    intercepts: np.ndarray
    common_slope: float
    common_intercept: float
    spread: tuple[float, float]  # (s_a, s_b), in units of the scaled logits

    def apply(self, logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Logits (n,) of the probabilities of being right, given the logit and class index of each case."""
        return self.intercepts[classes] + self.slopes[classes] * logits


def fit(
    logits: np.ndarray,
    classes: np.ndarray,
    right: np.ndarray,
    num_classes: int,
    spread: tuple[float, float] | None = None,
) -> Curves:
    """The curves of all classes, given logits, class indices and truth (bool) of all cases, (n,) each.

    spread: (s_a, s_b); estimated if None. With large values, each class is fitted alone; with 0, all get the common
    curve. There must be at least one case.
    """
    x, right = np.asarray(logits, np.float64), np.asarray(right, np.float64)
    classes, count = np.asarray(classes), np.ones(len(x))
    if len(x) > MANY_CASES:
        x, classes, right, count = _summarised(x, classes, right)
    centre, scale = _scaling(x, right, count)
    data = _Data((x - centre) / scale, classes, right, count, num_classes)
    if spread is None:
        spread = _estimated_spread(data)
    mean, _, _ = _mode(data, np.asarray(spread, np.float64))
    mean[1] = max(0.0, mean[1])
    found = _class_curves(data, mean, np.asarray(spread, np.float64))
    slopes, common = found[:, 1] / scale, mean[1] / scale
    return Curves(slopes, found[:, 0] - slopes * centre, common, mean[0] - common * centre, tuple(map(float, spread)))


class _Data:
    """Cases, and sums over those of each class. Several cases can be one entry, with their number in `count`."""

    def __init__(self, x, classes, right, count, num_classes):
        self.x, self.classes, self.right, self.count, self.num_classes = x, classes, right, count, num_classes

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


def _summarised(x, classes, right):
    """Mean logit, class, number of right cases and number of cases of each class and range of logits."""
    cells = np.round(x / CELL).astype(np.int64)
    cells -= cells.min()
    _, cell = np.unique(classes * (cells.max() + 1) + cells, return_inverse=True)
    count = np.bincount(cell)
    return (
        np.bincount(cell, x) / count,
        np.round(np.bincount(cell, classes) / count).astype(np.int64),
        np.bincount(cell, right),
        count.astype(np.float64),
    )


def _scaling(x, right, count):
    """Centre and scale of logits: mean and standard deviation, weighted by the information on the common curve."""
    centre = np.average(x, weights=count)
    scale = np.sqrt(np.average((x - centre) ** 2, weights=count)) or 1.0
    data = _Data((x - centre) / scale, np.zeros(len(x), int), right, count, 1)
    mean, _, _ = _mode(data, np.zeros(2))
    p = sigmoid(mean[0] + mean[1] * data.x)
    weight = count * (p * (1 - p) + 1e-12)
    centre = np.average(x, weights=weight)
    scale = np.sqrt(np.average((x - centre) ** 2, weights=weight))
    return centre, scale if scale > 1e-6 else 1.0


def _mode(data, spread, start=None):
    """Common curve (2,), deviations of the classes in units of the spread (C, 2), and minus the second derivatives.

    The maximum of the joint posterior density for a given spread (2,), by Newton's method. In each step, the deviations
    are eliminated (Schur complement), so that its cost is linear in the number of classes.
    """
    mean, own = (np.zeros(2), np.zeros((data.num_classes, 2))) if start is None else start
    unit, prior = np.eye(2), np.eye(2) / COMMON_SD**2

    def objective(mean, own):
        curves = mean + spread * own
        return data.likelihood(curves).sum() - 0.5 * (own**2).sum() - 0.5 * mean @ prior @ mean

    value = objective(mean, own)
    for _ in range(MAX_STEPS):
        gradient, information = data.derivatives(mean + spread * own)
        inner = np.linalg.inv(unit + spread[:, None] * information * spread)
        across = information * spread  # second derivatives by the common curve and the deviations
        inner_gradient = spread * gradient - own
        outer = information.sum(axis=0) + prior - np.einsum('cij,cjk,clk->il', across, inner, across)
        reduced = np.einsum('cij,cjk,ck->i', across, inner, inner_gradient)
        step = np.linalg.solve(outer, gradient.sum(axis=0) - prior @ mean - reduced)
        own_step = np.einsum('cij,cj->ci', inner, inner_gradient - np.einsum('cji,j->ci', across, step))
        gain = step @ (gradient.sum(axis=0) - prior @ mean) + (own_step * inner_gradient).sum()
        size = 1.0
        if gain > TOLERANCE:
            while (new := objective(mean + size * step, own + size * own_step)) < value and size > 1e-6:
                size /= 2
            value = new
        mean, own = mean + size * step, own + size * own_step
        if gain <= TOLERANCE:
            break
    return mean, own, (inner, outer)


def _estimated_spread(data):
    """(s_a, s_b) with the highest marginal likelihood, times the gamma densities."""
    best = [None]

    def loss(logs):
        spread = np.exp(logs)
        mean, own, (inner, outer) = _mode(data, spread, best[0])
        best[0] = mean, own
        joint = data.likelihood(mean + spread * own).sum() - 0.5 * (own**2).sum() - 0.5 * (mean**2).sum() / COMMON_SD**2
        volume = 0.5 * np.linalg.slogdet(inner)[1].sum() - 0.5 * np.linalg.slogdet(outer)[1]
        return -(joint + volume + (logs - GAMMA_RATE * spread).sum())

    bounds = [tuple(np.log(SPREAD_RANGE))] * 2
    options = {'xatol': 0.02, 'fatol': 1e-3, 'maxfev': 200}
    found = minimize(loss, np.full(2, np.log(FIRST_SPREAD)), method='Nelder-Mead', bounds=bounds, options=options)
    return np.exp(found.x)


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
