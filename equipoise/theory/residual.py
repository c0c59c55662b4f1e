"""Residual trunks in the wide limit: signal, gradient and correlation against depth.

The trunk is x' = skip x + scale F(y), y = x or x over its size. The weights of F are independent
Gaussians of mean 0, so x and F are orthogonal in the mean: with q the mean square of x, V that of
F, q' = skip^2 q + scale^2 V; tangents and cotangents grow by skip^2 + scale^2 chi.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from scipy import optimize

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.bivariate import correlated_second_moment
from equipoise.theory.branch import Branch, BranchScaling

Placement = Literal["none", "tracked", "pre", "post"]


@dataclass(frozen=True)
class WideTrunk:
    """A trunk of infinite width.

    Attributes:
        signal: q_l, mean square of the trunk before each branch and at the end, shape (L + 1,).
        gradient_factors: factor of each layer on the mean-square gradient, shape (L,).
        correlation: of two inputs of equal size at the same places, shape (L + 1,).
    """

    signal: tuple[float, ...]
    gradient_factors: tuple[float, ...]
    correlation: tuple[float, ...]


def wide_trunk(
    branch: Branch,
    depth: int,
    scaling: BranchScaling,
    placement: Placement = "none",
    q: float = 1.0,
    correlation: float = 1.0,
) -> WideTrunk:
    """Signal q_l, gradient factors and correlation c_l of a trunk of infinite width.

    With s = skip, t = scale and V, chi at the level of the branch's input:
    none: q' = s^2 q + t^2 V(q), factor s^2 + t^2 chi(q).
    tracked (the branch sees x / sqrt(q), q expected) and pre: q' = s^2 q + t^2 V(1), factor
    s^2 + t^2 chi(1) / q; at s = 1 q grows linearly, the gradient as (q_L / q_0)^(chi/V).
    post: q' = 1, factor (s^2 + t^2 chi(1)) / (s^2 + t^2 V(1)).
    With p the mean square of the branch's input, c' = (s^2 q c + t^2 V(p, c))/(s^2 q + t^2 V(p)).

    Args:
        branch: the branch, the same in every layer, before the scaling's gains.
        depth: number of branches L, at least 1.
        scaling: skip, scale and gains.
        placement: none, tracked (arXiv 2101.08692), pre or post (arXiv 2002.04745).
        q: mean square of the trunk's input; 1 for post-norm.
        correlation: c_0 from -1 to 1. Below 1 a layer costs about 10 ms.

    Returns:
        The trunk; quadrature error below 1e-7 per layer.

    Raises:
        ArgumentError: for arguments out of range, a q other than 1 with post-norm, or a signal or
            gradient that is 0 (skip 0 and no branch) or leaves the range of floats.

    >>> from equipoise.theory import activations
    >>> from equipoise.theory.branch import branch_scaling
    >>> he = Branch(activations.relu(), last_var=2.0)
    >>> pre = wide_trunk(he, 2, branch_scaling("plain", 2), "pre", correlation=0.0)
    >>> pre.signal, [round(c, 4) for c in pre.correlation]
    ((1.0, 2.0, 3.0), [0.0, 0.1592, 0.2401])
    """
    _checks.at_least("depth", depth, 1)
    _checks.one_of("placement", placement, get_args(Placement))
    _checks.positive("q", q)
    if placement == "post" and q != 1.0:
        raise ArgumentError(
            f"q must be 1 for post-norm, got {q}. The trunk is taken after a norm: leave q out."
        )
    branch, s2, t2 = scaling.of(branch), scaling.skip**2, scaling.scale**2
    signal, factors, profile = [q], [], [float(correlation)]
    for layer in range(depth):
        level = signal[-1] if placement == "none" else 1.0
        m = branch.moments(level)
        after = s2 * signal[-1] + t2 * m.energy
        factor = s2 + t2 * m.slope_energy * level / signal[-1]
        if not (0.0 < after < math.inf and 0.0 < factor < math.inf):
            raise ArgumentError(
                f"scaling must keep signal and gradient in the range of floats, got mean square "
                f"{after} and factor {factor} after layer {layer + 1}. Take another scale or skip."
            )
        factors.append(factor / after if placement == "post" else factor)
        if correlation != 1.0:
            z_level = level * (branch.first_var if branch.matrices == 2 else 1.0)
            product = correlated_second_moment(branch.activation, z_level, profile[-1]).value
            moved = (s2 * signal[-1] * profile[-1] + t2 * branch.last_var * product) / after
            # Quadrature may step out of [-1, 1] by its error.
            profile.append(min(1.0, max(-1.0, moved)))
        signal.append(1.0 if placement == "post" else after)
    if correlation == 1.0:
        profile *= depth + 1
    return WideTrunk(tuple(signal), tuple(factors), tuple(profile))


def branch_scale(
    branch: Branch, depth: int, growth: float = math.e, placement: Placement = "none",
    skip: float = 1.0,
) -> float:  # fmt: skip
    """The constant branch scale at which the mean-square gradient grows by a factor over L layers.

    For homogeneous f without norm the signal grows alike, (skip^2 + scale^2 V)^L = growth; else
    the smallest root in the wide limit for inputs of mean square 1.

    Args:
        branch: the branch.
        depth: number of branches L, at least 1.
        growth: mean-square gradient at the input over that at the output, positive.
        placement: where the norm is.
        skip: factor on the trunk.

    Returns:
        The scale, relative error below 1e-9.

    Raises:
        ArgumentError: if no scale from 1e-6 to 1e3 reaches the growth from below.

    >>> from equipoise.theory import activations
    >>> he = Branch(activations.relu(), last_var=2.0)
    >>> round(branch_scale(he, 100), 9)  # sqrt(e^(1/100) - 1)
    0.100250522
    """
    target = math.log(_checks.positive("growth", growth))

    def excess(log_scale: float) -> float:
        scaling = BranchScaling("constant", skip, math.exp(log_scale))
        trunk = wide_trunk(branch, depth, scaling, placement)
        return sum(map(math.log, trunk.gradient_factors)) - target

    for low, high in pairwise(math.log(10.0) * k / 4 for k in range(-24, 13)):
        if excess(low) < 0.0 <= excess(high):
            return math.exp(optimize.brentq(excess, low, high, xtol=1e-10))
    raise ArgumentError(
        f"growth must be met by a scale from 1e-6 to 1e3, got {growth}. Choose another, above "
        "skip^(2 depth) and within the branch's reach."
    )
