"""Expectations under a centred Gaussian, for functions with kinks.

Gauss-Hermite rules lose their digits at a kink, and at large variance they step over the origin,
where activations have their structure. Here the line is cut into panels at the kinks and
geometrically around them; each panel is integrated by a Gauss and a Kronrod rule on the same nodes
and halved until the two agree.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise import _checks

Array = NDArray[np.float64]

# The density at 38 standard deviations is the smallest of float64: a function that vanishes around
# the origin, such as softshrink, has all its moments far out.
REACH = 38.0

# The 10-point Gauss and the 21-point Kronrod rule on [-1, 1] (QUADPACK), from the outside in.
_HALF_NODES = np.array([
    0.995657163025808080735527280689003, 0.973906528517171720077964012084452,
    0.930157491355708226001207180059508, 0.865063366688984510732096688423493,
    0.780817726586416897063717578345042, 0.679409568299024406234327365114874,
    0.562757134668604683339000099272694, 0.433395394129247190799265943165784,
    0.294392862701460198131126603103866, 0.148874338981631210884826001129720,
])  # fmt: skip
_HALF_KRONROD = np.array([
    0.011694638867371874278064396062192, 0.032558162307964727478818972459390,
    0.054755896574351996031381300244580, 0.075039674810919952767043140916190,
    0.093125454583697605535065465083366, 0.109387158802297641899210590325805,
    0.123491976262065851077958109831074, 0.134709217311473325928054001771707,
    0.142775938577060080797094273138717, 0.147739104901338491374841515972068,
])  # fmt: skip
_HALF_GAUSS = np.array([
    0.0, 0.066671344308688137593568809893332, 0.0, 0.149451349150580593145776339657697,
    0.0, 0.219086362515982043995534934228163, 0.0, 0.269266719309996355091226921569469,
    0.0, 0.295524224714752870173892994651338,
])  # fmt: skip
_CENTRE = 0.149445554002916905664936468389821
NODES = np.concatenate([-_HALF_NODES, [0.0], _HALF_NODES[::-1]])
KRONROD = np.concatenate([_HALF_KRONROD, [_CENTRE], _HALF_KRONROD[::-1]])
_GAUSS = np.concatenate([_HALF_GAUSS, [0.0], _HALF_GAUSS[::-1]])


def _odd_null_rule() -> Array:
    """Weights on the nodes that annul every polynomial of degree below 19, and even functions.

    The gap between Kronrod and Gauss rule sees even functions only; a divided difference of
    f(x) / x in x^2 sees the odd ones. It has the norm of that gap.
    """
    squares = _HALF_NODES**2
    apart = squares[:, None] - squares + np.eye(10)
    half = 1 / (_HALF_NODES * apart.prod(axis=1))
    rule = np.concatenate([-half, [0.0], half[::-1]])
    return rule * float(np.linalg.norm(KRONROD - _GAUSS) / np.linalg.norm(rule))


_ODD = _odd_null_rule()
_UNRESOLVED = 1e-4
_MAX_ROUNDS, _MAX_PANELS = 20, 200_000
# Largest standard deviation of z for which oscillations are resolved whatever they cost.
_PROMISED = 1001.0
# Rounding of the density, the nodes and the sums.
_ROUNDING = 2e-15


@dataclass(frozen=True)
class Expectation:
    """The value of an expectation and a bound on its absolute quadrature error."""

    value: float
    error: float


def expectation(
    g: Callable[[Array], Array],
    q: float,
    kinks: tuple[float, ...] = (),
    tolerance: float = 1e-11,
    floor: float = 0.0,
) -> Expectation:
    """E g(z) for z ~ N(0, q).

    Args:
        g: function of a 1-D float64 array, finite on the real line; it may grow polynomially.
        q: variance of z, dimensionless, positive.
        kinks: abscissae (in the units of z) where g or its derivative jumps.
        tolerance: target error relative to E |g|, positive.
        floor: absolute error below which no panel is refined, for a g that may be rounding noise.

    Returns:
        The value with a bound on its quadrature error; infinite or nan where g leaves the range of
        floats. The bound is for what the first panels see: of a smooth g, structure at 0 or at a
        kink that is narrower than 1e-5 min(sqrt(q), 1), and elsewhere than a tenth of the distance
        to 0 and to the next kink, may be stepped over. Where all of E |g| comes from beyond 10
        standard deviations, rounding of the density adds up to 1e-13 of it.

    Raises:
        ArgumentError: if q or the tolerance is not positive and finite.

    >>> round(expectation(lambda z: z**4, 2.0).value, 9)
    12.0
    """
    std = math.sqrt(_checks.positive("q", q, "Pass a variance, not its logarithm."))
    _checks.positive("tolerance", tolerance)
    # A g that leaves the range of floats has an expectation that does: no warning is needed.
    with np.errstate(over="ignore", invalid="ignore"):
        return _integrate(g, std, kinks, tolerance, floor)


def kronrod_sums(terms: Array) -> tuple[Array, Array, Array]:
    """Kronrod sums of g over panels, of |g|, and bounds on the error of the first.

    The bound is the gap to the Gauss rule and to a rule that sees odd functions, which bounds the
    error amply once all have settled, and the sum of |g| where they have not: rules that step over
    an oscillation may agree by chance.

    Args:
        terms: g times the half width of the panel at ``NODES`` of each panel, shape (n, 21).

    Returns:
        The three sums, each of shape (n,).

    >>> value, size, error = kronrod_sums(NODES[None, :] ** 2)  # the mean of x^2, twice
    >>> round(float(value[0]), 12), round(float(size[0]), 12), bool(error[0] < 1e-15)
    (0.666666666667, 0.666666666667, True)
    """
    value, size = terms @ KRONROD, np.abs(terms) @ KRONROD
    gap = np.hypot(value - terms @ _GAUSS, terms @ _ODD)
    return value, size, np.where(gap > _UNRESOLVED * size, np.maximum(gap, size), gap)


def panel_edges(scales: Mapping[float, float], reach: float) -> Array:
    """Edges of panels on a line with structure at some abscissae, each on a scale of its own.

    They are the abscissae, and powers of two away from each, from a quarter of its scale up to half
    way to its neighbours: panels as wide as the structure is far.

    Args:
        scales: positive scale at each abscissa, 0 among them.
        reach: largest absolute value of an edge, positive.

    Returns:
        The edges in rising order; abscissae out of reach have none.

    >>> panel_edges({0.0: 4.0, 5.0: 4.0}, 9.0).tolist()
    [-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0]
    """
    at = np.array(sorted(a for a in scales if abs(a) < reach))
    own = np.array([scales[a] for a in at.tolist()])
    # Fine structure next to a coarse one reaches past it.
    scale = np.maximum(own, np.abs(at[:, None] - at)).min(axis=1)
    half = np.diff(at) / 2
    room = zip(np.append(np.inf, half), np.append(half, np.inf), strict=True)
    count = math.ceil(math.log2(8 * reach / float(scale.min()))) + 1
    points = [at]
    for a, s, (left, right) in zip(at, scale, room, strict=True):
        steps = s / 4 * 2.0 ** np.arange(count)
        points += [a - steps[steps <= left], a + steps[steps <= right]]
    edges: Array = np.unique(np.concatenate(points))
    return edges[np.abs(edges) <= reach]


def _integrate(
    g: Callable[[Array], Array],
    std: float,
    kinks: tuple[float, ...],
    tolerance: float,
    floor: float,
) -> Expectation:
    """Halve panels until two rules agree on each."""
    edges = _edges(std, kinks)
    left, right = edges[:-1], edges[1:]
    total, total_abs, error = 0.0, 0.0, 0.0
    # Beyond the levels that are promised, an oscillation is not chased as far.
    allowed = _MAX_PANELS if std <= _PROMISED else _MAX_PANELS // 16
    for round_ in range(_MAX_ROUNDS):
        values, sizes, gaps = _panels(g, std, left, right)
        scale = total_abs + float(sizes.sum())
        # Half the tolerance is shared out evenly over the panels of the first round. A gap that is
        # nan counts as done: where g leaves the range of floats no refinement helps.
        done = ~(gaps > max(tolerance * scale, floor) / (2 * len(edges)))
        allowed -= len(left)
        if round_ == _MAX_ROUNDS - 1 or allowed <= 0:
            done = np.ones_like(done)
        total += float(values[done].sum())
        total_abs += float(sizes[done].sum())
        error += float(gaps[done].sum())
        if done.all():
            break
        middle = (left[~done] + right[~done]) / 2
        left, right = (
            np.concatenate([left[~done], middle]),
            np.concatenate([middle, right[~done]]),
        )
    return Expectation(total, error + _ROUNDING * total_abs)


def _edges(std: float, kinks: tuple[float, ...]) -> Array:
    """Panel edges in units of z."""
    reach = REACH * std
    inside = panel_edges(dict.fromkeys((0.0, *kinks), min(std, 1.0)), reach)
    return np.unique(np.concatenate([[-reach, reach], inside]))


def _panels(
    g: Callable[[Array], Array], std: float, left: Array, right: Array
) -> tuple[Array, Array, Array]:
    """Kronrod sum of each panel, of its absolute value, and the bound on its error."""
    half = (right - left) / 2
    z = ((right + left) / 2)[:, None] + half[:, None] * NODES
    density = np.exp(-0.5 * (z / std) ** 2) / (std * math.sqrt(2 * math.pi))
    terms = g(z.ravel()).reshape(z.shape) * density * half[:, None]
    return kronrod_sums(terms)
