"""Expectations of two correlated Gaussians, for functions with kinks.

Write z2 = m(z1) + tau y, y ~ N(0, 1) independent of z1, m = c sqrt(q2 / q1) z1 and
tau^2 = q2 (1 - c^2). For each node z1 the line of y is cut at the kinks, around them and around 0
in powers of two, and in steps of one to three; the mean over y is then a function of z1 with
structure at the kinks of both variables and on the scale of tau, where the panels of z1 end too.
Every panel is halved until the Gauss and the Kronrod rule on it agree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.gaussian import (
    KRONROD,
    NODES,
    REACH,
    Expectation,
    expectation,
    kronrod_sums,
    panel_edges,
)

Array = NDArray[np.float64]

_STEPS = np.array([0.0, 1.0, 2.0, 3.5, 5.0, 8.0, 15.0, REACH])
_UNIT_PANELS = np.concatenate([-_STEPS[:0:-1], _STEPS])
_MAX_ROUNDS = 12
# Panels that are worked on at once: it bounds the memory. And panels in all: it bounds the time.
_BATCH, _MAX_PANELS = 20_000, 1_000_000
# Rounding of the density, the nodes and the sums.
_ROUNDING = 2e-15


def expectation2(
    g: Callable[[Array, Array], Array],
    q1: float,
    q2: float,
    correlation: float,
    kinks1: tuple[float, ...] = (),
    kinks2: tuple[float, ...] = (),
    tolerance: float = 1e-9,
) -> Expectation:
    """E g(z1, z2) for centred Gaussian z1, z2 of variances q1, q2 and the given correlation.

    Args:
        g: function of two 1-D float64 arrays of one length, finite on the plane; it may grow
            polynomially.
        q1: variance of z1, dimensionless, positive.
        q2: variance of z2, dimensionless, positive.
        correlation: E z1 z2 / sqrt(q1 q2), from -1 to 1; at the ends z2 is a multiple of z1.
        kinks1: abscissae of z1 where g or a derivative of g jumps.
        kinks2: abscissae of z2 where g or a derivative of g jumps.
        tolerance: target error relative to E |g|.

    Returns:
        The value with a bound on its absolute quadrature error, the summed gaps between two
        orders. It exceeds the tolerance only where g oscillates too fast for the panels that are
        allowed (thousands of periods within one standard deviation).

    Raises:
        ArgumentError: if a variance is not positive and finite, the correlation is not in
            [-1, 1], or the tolerance is not positive and finite.

    >>> round(expectation2(lambda x, y: x**2 * y**2, 1.0, 4.0, 0.5).value, 9)  # q1 q2 (1 + 2 c^2)
    6.0
    """

    def inner(z1: Array, z2: Array) -> Array:
        return g(np.broadcast_to(z1, z2.shape).ravel(), z2.ravel()).reshape(z2.shape)

    pair = _pair(q1, q2, correlation, kinks1, kinks2)
    _checks.positive("tolerance", tolerance)
    if pair.noise == 0.0:
        return expectation(lambda z: g(z, pair.ratio * z), q1, pair.all_kinks, tolerance)
    return _integrate(lambda z: np.ones_like(z), inner, pair, tolerance)


def product_expectation(
    f1: Callable[[Array], Array],
    f2: Callable[[Array], Array],
    q1: float,
    q2: float,
    correlation: float,
    breaks1: tuple[float, ...] = (),
    breaks2: tuple[float, ...] = (),
    tolerance: float = 1e-9,
) -> Expectation:
    """E f1(z1) f2(z2) for centred Gaussian z1, z2 of variances q1, q2 and the given correlation.

    Args:
        f1: function of a 1-D float64 array, finite on the real line; it may grow polynomially.
        f2: the same, of z2.
        q1: variance of z1, dimensionless, positive.
        q2: variance of z2, dimensionless, positive.
        correlation: E z1 z2 / sqrt(q1 q2), from -1 to 1.
        breaks1: abscissae where f1 or a derivative of f1 jumps.
        breaks2: abscissae where f2 or a derivative of f2 jumps.
        tolerance: target error relative to E |f1 f2|.

    Returns:
        The value with a bound on its absolute quadrature error, as in ``expectation2``.

    Raises:
        ArgumentError: as in ``expectation2``.

    >>> step = lambda z: (z > 0).astype(float)
    >>> round(product_expectation(step, step, 1.0, 1.0, 0.5, (0.0,), (0.0,)).value, 9)
    0.333333333
    """
    pair = _pair(q1, q2, correlation, breaks1, breaks2)
    _checks.positive("tolerance", tolerance)
    if pair.noise == 0.0:
        return expectation(
            lambda z: f1(z) * f2(pair.ratio * z), q1, pair.all_kinks, min(tolerance, 1e-11)
        )
    return _integrate(f1, lambda _, z2: f2(z2.ravel()).reshape(z2.shape), pair, tolerance)


def correlated_second_moment(
    activation: Activation, q: float, correlation: float, tolerance: float = 1e-9
) -> Expectation:
    """E f(z1) f(z2) for Gaussian z1, z2 of variance q and the given correlation.

    At correlation 1 it is E f(z)^2, at correlation 0 (E f(z))^2. The dual activation of kernel
    methods is the same at q = 1.

    Args:
        activation: the function f.
        q: variance of both variables, dimensionless, positive.
        correlation: from -1 to 1.
        tolerance: target error relative to E |f(z1) f(z2)|.

    Returns:
        The value with a bound on its absolute quadrature error.

    Raises:
        ArgumentError: as in ``expectation2``.

    >>> from equipoise.theory import activations
    >>> round(correlated_second_moment(activations.relu(), 1.0, 0.0).value, 9)  # 1 / (2 pi)
    0.159154943
    """
    breaks = activation.kinks + activation.jumps
    return product_expectation(
        activation.f, activation.f, q, q, correlation, breaks, breaks, tolerance
    )


@dataclass(frozen=True)
class _Pair:
    """z2 = ratio z1 + noise y, with the kinks of both variables."""

    std1: float
    std2: float
    ratio: float
    noise: float
    kinks1: tuple[float, ...]
    kinks2: tuple[float, ...]

    @property
    def all_kinks(self) -> tuple[float, ...]:
        """Kinks in z1 where z2 is a multiple of it."""
        return self.kinks1 + tuple(k / self.ratio for k in self.kinks2)

    def edges1(self) -> Array:
        """Panel edges of z1."""
        reach = REACH * self.std1
        scales = {k: min(self.std1, 1.0) for k in (0.0, *self.kinks1)}
        if self.ratio != 0.0:
            per_unit = 1 / abs(self.ratio)
            at_zero = max(self.noise, min(self.std2, 1.0)) * per_unit
            scales[0.0] = min(scales[0.0], at_zero)
            for k in self.kinks2:
                at, scale = k / self.ratio, self.noise * per_unit
                scales[at] = min(scales.get(at, math.inf), scale, self.std1)
        return np.unique(np.concatenate([[-reach, reach], panel_edges(scales, reach)]))

    def edges2(self) -> Array:
        """Panel edges of z2 that do not move with z1."""
        scales = dict.fromkeys((0.0, *self.kinks2), min(self.std2, 1.0))
        return panel_edges(scales, 2 * REACH * self.std2)


def _pair(
    q1: float, q2: float, correlation: float, kinks1: tuple[float, ...], kinks2: tuple[float, ...]
) -> _Pair:
    remedy = "Pass a variance, not its logarithm."
    std1 = math.sqrt(_checks.positive("q1", q1, remedy))
    std2 = math.sqrt(_checks.positive("q2", q2, remedy))
    if not -1.0 <= correlation <= 1.0:
        raise ArgumentError(
            f"correlation must be from -1 to 1, got {correlation}. Divide the covariance by "
            "sqrt(q1 q2)."
        )
    c = float(correlation)
    noise = std2 * math.sqrt((1.0 - c) * (1.0 + c))
    return _Pair(std1, std2, c * std2 / std1, noise, kinks1, kinks2)


@dataclass
class _Count:
    """Panels that may still be worked on, E |g| as known so far, and its part already accepted."""

    panels: int = _MAX_PANELS
    scale: float = 0.0
    accepted: float = 0.0


def _integrate(
    outer: Callable[[Array], Array],
    inner: Callable[[Array, Array], Array],
    pair: _Pair,
    tolerance: float,
) -> Expectation:
    """E outer(z1) inner(z1, z2), by panels of z1 whose nodes are integrals over z2."""
    edges = pair.edges1()
    left, right = edges[:-1], edges[1:]
    total, error = 0.0, 0.0
    count = _Count()
    # A g that leaves the range of floats has an expectation that does: no warning is needed.
    with np.errstate(over="ignore", invalid="ignore"):
        for round_ in range(_MAX_ROUNDS):
            half = (right - left) / 2
            z1 = ((right + left) / 2)[:, None] + half[:, None] * NODES
            density = np.exp(-0.5 * (z1 / pair.std1) ** 2) / (pair.std1 * math.sqrt(2 * math.pi))
            factor = outer(z1.ravel()).reshape(z1.shape) * density * half[:, None]
            weights = np.abs(factor * KRONROD).ravel()
            mean, mean_abs, mean_error = _conditional(
                inner, pair, z1.ravel(), weights, tolerance, count
            )
            values = factor * mean.reshape(z1.shape)
            panel, _, gap = kronrod_sums(values)
            size = (weights * mean_abs).reshape(z1.shape).sum(axis=1)
            inside = (weights * mean_error).reshape(z1.shape).sum(axis=1)
            limit = tolerance * count.scale / (4 * len(edges))
            last = round_ == _MAX_ROUNDS - 1 or count.panels <= 0
            done = np.ones_like(gap, dtype=bool) if last else ~(gap > limit)
            total += float(panel[done].sum())
            count.accepted += float(size[done].sum())
            error += float((gap + inside)[done].sum())
            if done.all():
                break
            left, right = _halves(left[~done], right[~done])
    return Expectation(total, error + _ROUNDING * count.accepted)


def _halves(left: Array, right: Array) -> tuple[Array, Array]:
    middle = (left + right) / 2
    return np.concatenate([left, middle]), np.concatenate([middle, right])


def _conditional(
    inner: Callable[[Array, Array], Array],
    pair: _Pair,
    z1: Array,
    weights: Array,
    tolerance: float,
    count: _Count,
) -> tuple[Array, Array, Array]:
    """E of inner over z2 given each z1, of its absolute value, and the gaps; 0 at weight 0."""
    mean, mean_abs, error = np.zeros_like(z1), np.zeros_like(z1), np.zeros_like(z1)
    rows, left, right = _inner_panels(pair, z1, weights)
    allowed = max(len(rows), 1)
    for round_ in range(_MAX_ROUNDS):
        count.panels -= len(rows)
        values, sizes, gaps = _panels(inner, pair, z1[rows], left, right)
        if round_ == 0:
            count.scale = max(count.scale, count.accepted + float((weights[rows] * sizes).sum()))
        limit = tolerance * count.scale / (4 * allowed)
        last = round_ == _MAX_ROUNDS - 1 or count.panels <= 0
        done = np.ones_like(rows, dtype=bool) if last else ~(weights[rows] * gaps > limit)
        for sums, terms in ((mean, values), (mean_abs, sizes), (error, gaps)):
            sums += np.bincount(rows[done], terms[done], minlength=len(z1))
        if done.all():
            break
        rows = np.concatenate([rows[~done], rows[~done]])
        left, right = _halves(left[~done], right[~done])
    return mean, mean_abs, error


def _inner_panels(pair: _Pair, z1: Array, weights: Array) -> tuple[NDArray[np.intp], Array, Array]:
    """Panels of y for each z1 of positive weight: index of z1, left end, right end."""
    used = np.flatnonzero(weights)
    moving = (pair.edges2() - pair.ratio * z1[used, None]) / pair.noise
    edges = np.concatenate(
        [np.clip(moving, -REACH, REACH), np.tile(_UNIT_PANELS, (len(used), 1))], axis=1
    )
    edges.sort(axis=1)
    wide = np.diff(edges, axis=1) > 0
    rows = np.broadcast_to(used[:, None], wide.shape)[wide]
    return rows, edges[:, :-1][wide], edges[:, 1:][wide]


def _panels(
    inner: Callable[[Array, Array], Array], pair: _Pair, z1: Array, left: Array, right: Array
) -> tuple[Array, Array, Array]:
    """Kronrod sum of each panel, of its absolute value, and the gap to the Gauss sum."""
    values, sizes, gaps = np.empty_like(z1), np.empty_like(z1), np.empty_like(z1)
    for start in range(0, len(z1), _BATCH):
        part = slice(start, start + _BATCH)
        half = (right[part] - left[part]) / 2
        y = ((right[part] + left[part]) / 2)[:, None] + half[:, None] * NODES
        at = z1[part, None]
        terms = inner(at, pair.ratio * at + pair.noise * y)
        terms = terms * np.exp(-0.5 * y * y) * (half / math.sqrt(2 * math.pi))[:, None]
        values[part], sizes[part], gaps[part] = kronrod_sums(terms)
    return values, sizes, gaps
