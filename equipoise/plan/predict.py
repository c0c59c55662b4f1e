"""Expected signal and gradient of a stack of independent, orthogonal or diagonal + noise weights.

Framed stacks bring their own expectation (``schemes.framed``); everything here is for weights that
are drawn apart from each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from scipy.special import ndtri

from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import (
    Array,
    DiagonalNoise,
    Framed,
    Law,
    Normal,
    OffsetBias,
    Orthogonal,
    Taps,
    Uniform,
    Zero,
)
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import statistics

_PARTICLES = 256
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(12)


@dataclass(frozen=True)
class Expected:
    """RMS of signal and of gradient at the output of each affine layer of a stack.

    Attributes:
        signal: RMS over units, inputs and draws; nan where the theory does not reach.
        gradient: RMS relative to the last layer's.
        log_std: standard deviation of the log norm over the whole stack, nats.
    """

    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    log_std: float


def predict(stack: Stack, laws: Sequence[Law], entry_mean_square: float) -> Expected:
    """Mean-square recursion through a stack whose weights are drawn apart.

    Args:
        stack: the layers.
        laws: law of each weight.
        entry_mean_square: second moment per input.

    Returns:
        The expectation of the mean square over draws, square-rooted.
    """
    if any(isinstance(law, DiagonalNoise) for law in laws):
        return _diagonal_noise(stack, laws, entry_mean_square)
    mean_square, levels = entry_mean_square, list[float]()
    feeds = [*((h.activation, 1.0 - h.active_dropout) for h in stack.hidden), (None, 1.0)]
    for affine, law, (feed, kept) in zip(stack.affines, laws, feeds, strict=True):
        q = mean_square * _row_power(law, affine.in_size, affine.out_size)
        levels.append(q)
        mean_square = _energy(feed, q) / kept if feed else q

    gradient = [1.0]
    for i in range(len(stack.hidden) - 1, -1, -1):
        affine = stack.affines[i + 1]
        hidden = stack.hidden[i]
        # Dropout divides what it keeps by the share it keeps: second moments grow by as much.
        slope = _slope(hidden.activation, levels[i]) / (1.0 - hidden.active_dropout)
        # Columns of W are rows of its transpose: fans change places.
        power = _row_power(laws[i + 1], affine.out_size, affine.in_size)
        gradient.append(gradient[-1] * power * slope)
    gradient.reverse()
    return Expected(
        tuple(map(_root, levels)), tuple(map(_root, gradient)), _spread(stack, laws, levels)
    )


def _spread(stack: Stack, laws: Sequence[Law], levels: Sequence[float]) -> float:
    """sqrt(sum c / n): what chance adds to the log norm, first order in 1 / n (theory.hermite).

    The first and the last layer average over their own units only.
    """
    variance = 0.5 / stack.affines[0].out_size + 0.5 / stack.affines[-1].out_size
    for h, law, q in zip(stack.hidden, laws, levels, strict=False):
        if 0 < q < math.inf:
            c = statistics(h.activation, q).log_norm_coefficient
            variance += max(0.0, c - 0.5 * isinstance(law, Orthogonal)) / h.width
    return math.sqrt(variance)


def _row_power(law: Law, fan_in: int, fan_out: int) -> float:
    """E |W x|^2 / fan_out over E |x|^2 / fan_in, for x of no special direction."""
    match law:
        case Normal(std=std):
            return fan_in * std * std
        case Uniform(bound=bound):
            return fan_in * bound * bound / 3
        case Orthogonal(gain=gain):
            return gain * gain * min(1.0, fan_in / fan_out)
        case DiagonalNoise() | Framed() | Zero() | OffsetBias() | Taps():
            return math.nan
        case _:
            assert_never(law)


def _energy(activation: Activation, q: float) -> float:
    return statistics(activation, q).second_moment if 0 < q < math.inf else q


def _slope(activation: Activation, q: float) -> float:
    return statistics(activation, q).slope_energy if 0 < q < math.inf else math.nan


def _root(x: float) -> float:
    return math.sqrt(x) if x >= 0 else math.nan


def _diagonal_noise(stack: Stack, laws: Sequence[Law], entry_mean_square: float) -> Expected:
    """Follow the distribution of one unit: coordinates do not mix, so it is not Gaussian.

    x' = f(omega x + sigma sqrt(mean square) g) is carried by equally likely points; after each
    layer the points and the nodes of g are sorted and averaged back to as many. The first layer
    mixes nothing either: a unit starts as a Gaussian of the inputs' second moment.
    """
    nothing = (math.nan,) * len(laws)
    if any(h.active_dropout for h in stack.hidden):
        return Expected(nothing, nothing, 0.0)
    quantiles = (np.arange(_PARTICLES) + 0.5) / _PARTICLES
    points = math.sqrt(entry_mean_square) * ndtri(quantiles)
    signal: list[float] = []
    slopes: list[float] = []
    feeds = [*(h.activation for h in stack.hidden), None]
    for affine, law, feed in zip(stack.affines, laws, feeds, strict=True):
        if not isinstance(law, DiagonalNoise):
            return Expected(nothing, nothing, 0.0)
        sigma = law.noise_std * math.sqrt(affine.in_size * float(np.mean(points**2)))
        z = law.diagonal * points[:, None] + sigma * _NODES
        mass = np.broadcast_to(_WEIGHTS / _WEIGHTS.sum() / _PARTICLES, z.shape)
        signal.append(math.sqrt(float((z**2 * mass).sum())))
        if feed is not None:
            slopes.append(float((feed.df(z.ravel()) ** 2 * mass.ravel()).sum()))
            points = _compress(feed.f(z.ravel()), mass.ravel())
    gradient = [1.0]
    for i in range(len(stack.hidden) - 1, -1, -1):
        law, affine = laws[i + 1], stack.affines[i + 1]
        assert isinstance(law, DiagonalNoise)
        # A column of D holds fan_out / fan_in ones on average, one of Z fan_out small entries.
        ones = affine.out_size / affine.in_size
        power = law.diagonal**2 * ones + law.noise_std**2 * affine.out_size
        gradient.append(gradient[-1] * power * slopes[i])
    gradient.reverse()
    # One entry of the noise decides one unit: half a nat is what simulations show at width 16.
    return Expected(tuple(signal), tuple(map(_root, gradient)), 0.5)


def _compress(values: Array, mass: Array) -> Array:
    """Equally likely points with the mean of their slice, rescaled to keep the second moment."""
    order = np.argsort(values)
    values, mass = values[order], mass[order]
    edges = np.cumsum(mass)
    centre = np.minimum(((edges - mass / 2) * _PARTICLES).astype(int), _PARTICLES - 1)
    weight = np.bincount(centre, mass, _PARTICLES)
    points = np.bincount(centre, values * mass, _PARTICLES) / np.maximum(weight, 1e-300)
    scale = math.sqrt(float((values**2 * mass).sum()) / max(float(np.mean(points**2)), 1e-300))
    return points * scale
