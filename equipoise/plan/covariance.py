"""How much the terms of a sum have in common: means of values, and covariances of their parts.

Every value is a sum of *parts* that were made apart from each other: the output of a weight, a
table, an input, or what a function of entries made. A weight that was drawn afresh makes a part
that does not correlate with any part before it. A function f of entries keeps a share of its
argument, by Stein's identity cov(x, f(z)) = E f'(z) cov(x, z) for x and z normal together; so do
norms and products. Moved entries (permuted, cut, repeated) meet others than before: they are parts
of their own.

Wide limit, as ``plan.moments``: units are alike, so that means are those of all units.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from equipoise.plan.branch_walk import is_line
from equipoise.plan.nodes import (
    Attention,
    Concat,
    Contract,
    Dropout,
    Flatten,
    Gain,
    Merge,
    Node,
    Nonlinearity,
    Norm,
    Permute,
    Pool,
    Product,
    Reshape,
    Shift,
    Softmax,
    Spread,
    Take,
    reads,
)
from equipoise.theory.activation import Activation
from equipoise.theory.activations import Array
from equipoise.theory.gaussian import expectation
from equipoise.theory.hermite import statistics

_ROUNDING = 1e-9
# Covariances are followed through so many functions of entries; each keeps less than all of it.
_MOST_STEPS = 64


@dataclass(frozen=True)
class _Value:
    """Mean and second moment of a value, and the coefficient of each part in it."""

    mean: float
    level: float
    parts: dict[int, float]


@dataclass(frozen=True)
class _Part:
    """Variance of a part, and of what it was made entry by entry with the slope of each."""

    variance: float
    made_of: tuple[tuple[int, float], ...] = ()


class Covariances:
    """Mean, second moment and parts of every value, in the order in which levels are found.

    A part has the number of the value in which it was first.
    """

    def __init__(self) -> None:
        self._values: dict[int, _Value] = {}
        self._parts: dict[int, _Part] = {}
        self._place: dict[int, int] = {}

    def forget(self, value: int) -> None:
        """Find a value anew when it is asked for again."""
        self._values.pop(value, None)
        self._parts.pop(value, None)

    def knows(self, value: int) -> bool:
        """Whether a value was taken note of."""
        return value in self._values

    def mean(self, value: int) -> float:
        """Mean over units and inputs, 0 where it is not known."""
        found = self._values.get(value)
        return found.mean if found else 0.0

    def begin(self, value: int, mean: float, level: float) -> None:
        """Take note of a value that nothing makes: an input of the model."""
        self._apart(value, mean, level)

    def add(self, value: int, node: Node, level: float, factor: float) -> None:
        """Take note of a value whose second moment was found.

        Args:
            value: what the node makes.
            node: the node.
            level: second moment of the value.
            factor: second moment of the factor of a gain.
        """
        sources = reads(node)
        means = [self.mean(v) for v in sources]
        match node:
            case Merge():
                parts: dict[int, float] = {}
                for v, sign in zip(sources, node.signs, strict=True):
                    for k, c in self._values[v].parts.items():
                        parts[k] = parts.get(k, 0.0) + sign * c
                mean = sum(sign * m for m, sign in zip(means, node.signs, strict=True))
                self._values[value] = _Value(mean, level, parts)
            case Nonlinearity(activation=f) if is_line(node):
                self._scaled(value, sources[0], f.slope_right, level)
            case Nonlinearity(activation=f):
                q = self._values[sources[0]].level
                mean, slope = normal_moments(f, q, means[0])[:2] if _is_known(q) else (0.0, 0.0)
                self._apart(value, mean, level, ((sources[0], slope),))
            case Gain():
                # Of a gain that keeps its values, which differ, only the mean correlates.
                is_own = factor == node.mean_square and math.isfinite(node.mean)
                slope = node.mean if is_own else math.sqrt(max(0.0, factor))
                self._scaled(value, sources[0], slope, level)
            case Reshape() | Flatten() | Shift() | Dropout():
                # What dropout and an offset add is a part of its own.
                self._scaled(value, sources[0], 1.0, level)
            case Norm():
                q = self._values[sources[0]].level
                slope = math.sqrt(level / q) if _is_known(q) and level >= 0 else 0.0
                keeps_mean = node.kind == "rms" or node.is_tracked
                mean = slope * means[0] if keeps_mean else 0.0
                self._apart(value, mean, level, ((sources[0], slope),))
            case Product():
                a, b = sources
                self._apart(value, means[0] * means[1], level, ((a, means[1]), (b, means[0])))
            case Pool(kind="average"):
                # The mean of sites has with each of them the variance that it has itself.
                q, p = (n - means[0] ** 2 for n in (self._values[sources[0]].level, level))
                slope = p / q if _is_known(q) and _is_known(p) else 0.0
                self._apart(value, means[0], level, ((sources[0], slope),))
            case Permute() | Take() | Spread() | Pool():
                self._apart(value, means[0], level)
            case Attention():
                self._apart(value, means[2], level)
            case Contract(size=size):
                self._apart(value, size * means[0] * means[1], level)
            case Softmax(size=size):
                self._apart(value, 1.0 / size, level)
            case Concat(sizes=sizes):
                total = sum(m * n for m, n in zip(means, sizes, strict=True))
                self._apart(value, total / max(1, sum(sizes)), level)
            case _:
                self._apart(value, 0.0, level)

    def second_moment_of_sum(self, node: Merge) -> float:
        """Second moment of a sum of values, nan where one of theirs is not known."""
        total = known = sum(self._values[v].level for v in node.inputs)
        if not math.isfinite(total):
            return math.nan
        signed = tuple(zip(node.inputs, node.signs, strict=True))
        for i, (first, sign) in enumerate(signed):
            for second, other in signed[i + 1 :]:
                both = self.mean(first) * self.mean(second)
                total += 2.0 * sign * other * (self.covariance(first, second) + both)
        # Of values that cancel only rounding is left.
        return total if total > _ROUNDING * known else 0.0

    def covariance(self, first: int, second: int) -> float:
        """Covariance of the entries of two values at the same places."""
        one, other = self._values[first].parts, self._values[second].parts
        return sum(
            a * b * self._of_parts(k, m, _MOST_STEPS)
            for k, a in one.items()
            for m, b in other.items()
        )

    def _of_parts(self, first: int, second: int, steps: int) -> float:
        if first == second:
            return self._parts[first].variance
        if not steps:
            return 0.0
        if self._place[first] > self._place[second]:
            first, second = second, first
        # Only the later one can be made of the earlier one.
        total = 0.0
        for source, slope in self._parts[second].made_of:
            for k, c in self._values[source].parts.items():
                total += slope * c * self._of_parts(first, k, steps - 1)
        return total

    def _apart(
        self, value: int, mean: float, level: float, made_of: tuple[tuple[int, float], ...] = ()
    ) -> None:
        """A value that is one part, which did not exist before."""
        mean = mean if math.isfinite(mean) else 0.0
        variance = max(0.0, level - mean * mean) if math.isfinite(level) else 0.0
        kept = tuple((v, s) for v, s in made_of if s and math.isfinite(s))
        self._values[value] = _Value(mean, level, {value: 1.0})
        self._parts[value] = _Part(variance, kept)
        self._place.setdefault(value, len(self._place))

    def _scaled(self, value: int, source: int, factor: float, level: float) -> None:
        """A value that is another times a number, and perhaps something that does not correlate."""
        before = self._values[source]
        factor = factor if math.isfinite(factor) else 0.0
        parts = {k: factor * c for k, c in before.parts.items()}
        more = level - factor**2 * before.level
        if more > _ROUNDING * level:
            parts[value] = 1.0
            self._parts[value] = _Part(more)
            self._place.setdefault(value, len(self._place))
        self._values[value] = _Value(factor * before.mean, level, parts)


def _is_known(level: float) -> bool:
    return math.isfinite(level) and level > 0


@lru_cache(maxsize=8192)
def normal_moments(f: Activation, q: float, mean: float = 0.0) -> tuple[float, float, float]:
    """E f(z), E f'(z) and E f(z)^2 for normal z of second moment q around a mean.

    Args:
        f: the function.
        q: second moment of z, positive.
        mean: of z, below sqrt(q) in size.

    Returns:
        The three numbers, relative error below 1e-8; the slope is E f(z) (z - mean) / variance, to
        which jumps and kinks do no harm.

    >>> from equipoise.theory import activations
    >>> [round(v, 4) for v in normal_moments(activations.relu(), 1.0)]
    [0.3989, 0.5, 0.5]
    """
    if mean == 0.0:
        known = statistics(f, q)
        return known.mean, known.linear, known.second_moment
    # A mean as large as the RMS leaves no variance: a point.
    variance = max(q - mean * mean, _ROUNDING * q)
    kinks = tuple(k - mean for k in (*f.kinks, *f.jumps))

    def averaged(power: int, slope: int) -> float:
        def g(x: Array) -> Array:
            return np.asarray(f.f(x + mean) ** power * x**slope)

        return expectation(g, variance, kinks, 1e-9).value

    return averaged(1, 0), averaged(1, 1) / variance, averaged(2, 0)


@lru_cache(maxsize=8192)
def slopes(f: Activation, q: float, mean: float = 0.0) -> tuple[float, float]:
    """E f'(z) and E f'(z)^2 for normal z of second moment q around a mean; nan if q is not known.

    >>> from equipoise.theory import activations
    >>> [round(v, 4) for v in slopes(activations.relu(), 2.0)]
    [0.5, 0.5]
    """
    if not _is_known(q):
        return math.nan, math.nan
    if mean == 0.0:
        known = statistics(f, q)
        return known.linear, known.slope_energy
    variance = max(q - mean * mean, _ROUNDING * q)
    kinks = tuple(k - mean for k in (*f.kinks, *f.jumps))

    def squared(x: Array) -> Array:
        return np.asarray(f.df(x + mean) ** 2)

    energy = math.inf if f.jumps else expectation(squared, variance, kinks, 1e-9).value
    return normal_moments(f, q, mean)[1], energy
