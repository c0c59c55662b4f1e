"""Residual trunks in the wide limit: signal, gradient and correlation against depth.

The trunk is x' = skip x + scale F(y), y = x or x over its size. The weights of F are independent
Gaussians of mean 0, so x and F are orthogonal in the mean: with q the mean square of x, V that of
F, q' = skip^2 q + scale^2 V; tangents and cotangents grow by skip^2 + scale^2 chi.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from scipy import optimize

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.bivariate import correlated_second_moment
from equipoise.theory.gaussian import expectation
from equipoise.theory.hermite import statistics

Placement = Literal["none", "tracked", "pre", "post"]


@dataclass(frozen=True)
class BranchMoments:
    """Gaussian moments of a branch F at one level of its input, z the argument of f.

    Attributes:
        energy: V, mean square of F.
        slope_energy: chi, factor on the mean square of a tangent orthogonal to the input.
        elasticity: d log V / d log q, 1 for a homogeneous f.
        energy_spread: Var f(z)^2 / (E f(z)^2)^2.
        overlap: E f(z)^2 f'(z)^2 / (E f(z)^2 E f'(z)^2).
    """

    energy: float
    slope_energy: float
    elasticity: float
    energy_spread: float
    overlap: float


@dataclass(frozen=True)
class Branch:
    """A residual branch F(x) = W f(x) (one matrix) or F(x) = W2 f(W1 x) (two), without biases.

    Attributes:
        activation: f, without jumps.
        matrices: 1 or 2.
        last_var: entries of the last weight have variance last_var / fan_in, at least 0.
        first_var: the same of W1, positive; unused for one matrix.
        expansion: hidden width over trunk width, positive; unused for one matrix.
    """

    activation: Activation
    matrices: int = 2
    last_var: float = 1.0
    first_var: float = 1.0
    expansion: float = 1.0

    def __post_init__(self) -> None:
        if self.matrices not in (1, 2):
            raise ArgumentError(
                f"matrices must be 1 or 2, got {self.matrices}. Count the weights of one branch."
            )
        if self.last_var != 0.0:
            _checks.positive("last_var", self.last_var, "Pass the variance times the fan-in, or 0.")
        _checks.positive("first_var", self.first_var, "Pass the variance times the fan-in.")
        _checks.positive("expansion", self.expansion, "Pass hidden width / trunk width.")
        if self.activation.jumps:
            raise ArgumentError(
                f"activation must be continuous, got {self.activation}. Pass one without jumps."
            )

    @property
    def is_homogeneous(self) -> bool:
        """Whether f is linear on each side of 0, so that V and chi do not depend on the level.

        >>> from equipoise.theory import activations
        >>> Branch(activations.relu()).is_homogeneous, Branch(activations.gelu()).is_homogeneous
        (True, False)
        """
        return _is_homogeneous(self.activation)

    def moments(self, q: float) -> BranchMoments:
        """Gaussian moments of the branch for inputs of mean square q.

        V = last_var E f(z)^2 and chi = last_var first_var E f'(z)^2, z ~ N(0, first_var q), with
        first_var = 1 for one matrix. For two matrices z is exactly Gaussian given the input.

        Args:
            q: mean square of the branch's input, positive.

        Returns:
            The moments, relative error below 1e-8.

        Raises:
            ArgumentError: if q is not positive and finite.

        >>> from equipoise.theory import activations
        >>> round(Branch(activations.relu(), last_var=2.0).moments(3.0).energy, 9)
        3.0
        """
        _checks.positive("q", q)
        first = self.first_var if self.matrices == 2 else 1.0
        if self.is_homogeneous:
            unit = _moments(self.activation, first, self.last_var)
            return replace(unit, energy=q * unit.energy)
        found = _moments(self.activation, first * q, self.last_var)
        return replace(found, slope_energy=found.slope_energy / q)


@lru_cache(maxsize=256)
def _is_homogeneous(activation: Activation) -> bool:
    values = activation.f(rays := np.outer([-1.0, 1.0], [1.0, 1e-3, 0.3, 7.0, 1e3]))
    return np.allclose(values, values[:, :1] * abs(rays), rtol=1e-12, atol=0.0)


@lru_cache(maxsize=4096)
def _moments(activation: Activation, level: float, last_var: float) -> BranchMoments:
    """Moments at z ~ N(0, level); the slope energy is that of z, so that of x at q = 1."""
    f, df, s = activation.f, activation.df, statistics(activation, level)
    energy, slope = last_var * s.second_moment, last_var * level * s.slope_energy
    if s.second_moment == 0.0 or s.slope_energy == 0.0:
        return BranchMoments(energy, slope, 1.0, 0.0, 1.0)
    # d E f(z)^2 / d log level = E f^2 (z^2 / level - 1) / 2: no derivative of f, so no kink.
    growth = expectation(lambda z: f(z) ** 2 * (z * z / level - 1) / 2, level, activation.kinks)
    overlap = expectation(lambda z: (f(z) * df(z)) ** 2, level, activation.kinks)
    # A product of floats overflows to infinity, a power raises.
    spread = s.fourth_moment / (s.second_moment * s.second_moment) - 1.0
    together = overlap.value / (s.second_moment * s.slope_energy)
    return BranchMoments(energy, slope, growth.value / s.second_moment, spread, together)


@dataclass(frozen=True)
class BranchScaling:
    """How a trunk weighs its branches.

    Attributes:
        name: the field's name.
        skip: factor on the trunk.
        scale: factor on the branch.
        last_gain: factor on the entries of the branch's last weight.
        inner_gain: factor on the entries of W1.
    """

    name: str
    skip: float = 1.0
    scale: float = 1.0
    last_gain: float = 1.0
    inner_gain: float = 1.0

    def of(self, branch: Branch) -> Branch:
        """The branch with its gains multiplied in.

        >>> from equipoise.theory import activations
        >>> BranchScaling("half", last_gain=0.5).of(Branch(activations.relu())).last_var
        0.25
        """
        return replace(
            branch,
            last_var=branch.last_var * self.last_gain**2,
            first_var=branch.first_var * self.inner_gain**2,
        )


def branch_scaling(name: str, depth: int, matrices: int = 2) -> BranchScaling:
    """The usual branch scalings, by name, for a trunk of L = depth branches.

    - ``plain``: skip = scale = 1.
    - ``depth``: scale = 1/sqrt(L). Source: arXiv 2309.16620, 2310.02244.
    - ``inverse_depth``: scale = 1/L, Euler steps. Source: arXiv 1806.07366.
    - ``averaged``: (x + F) / sqrt(2). Source: arXiv 1705.03122.
    - ``zero``: scale = 0 at birth (SkipInit, ReZero). Source: arXiv 2002.10444, 2003.04887.
    - ``fixup``: last weight 0, others times L^(-1/(2 m - 2)), m = 2. Source: arXiv 1901.09321.
    - ``gpt2``: last weight times 1/sqrt(L), L branches of either kind: 1/sqrt(2 blocks).
    - ``deepnorm``: skip = L^(1/4), Xavier weights times (4 L)^(-1/4), with post-norm; these are
      (2 N)^(1/4), (8 N)^(-1/4) for an encoder of N = L/2 layers. Source: arXiv 2203.00555.

    Args:
        name: one of the names above.
        depth: number of branches L, at least 1.
        matrices: weights in a branch.

    Returns:
        The scaling.

    Raises:
        ArgumentError: for an unknown name, a depth below 1, or fixup with one matrix.

    >>> branch_scaling("deepnorm", 16).skip
    2.0
    """
    root = math.sqrt(_checks.at_least("depth", depth, 1))
    half, gain = math.sqrt(0.5), (4 * depth) ** -0.25
    if name == "fixup" and matrices != 2:
        raise ArgumentError(f"matrices must be 2 for fixup, got {matrices}. Use zero for 1.")
    scalings = (
        BranchScaling("plain"),
        BranchScaling("depth", scale=1 / root),
        BranchScaling("inverse_depth", scale=1 / depth),
        BranchScaling("averaged", skip=half, scale=half),
        BranchScaling("zero", scale=0.0),
        BranchScaling("fixup", last_gain=0.0, inner_gain=1 / root),
        BranchScaling("gpt2", last_gain=1 / root),
        BranchScaling("deepnorm", skip=depth**0.25, last_gain=gain, inner_gain=gain),
    )
    known = {scaling.name: scaling for scaling in scalings}
    return known[_checks.one_of("name", name, known)]


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


def wide_limit(
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
    >>> he = Branch(activations.relu(), last_var=2.0)
    >>> pre = wide_limit(he, 2, branch_scaling("plain", 2), "pre", correlation=0.0)
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


def critical_scale(
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
    >>> round(critical_scale(he, 100), 9)  # sqrt(e^(1/100) - 1)
    0.100250522
    """
    target = math.log(_checks.positive("growth", growth))

    def excess(log_scale: float) -> float:
        scaling = BranchScaling("constant", skip, math.exp(log_scale))
        trunk = wide_limit(branch, depth, scaling, placement)
        return sum(map(math.log, trunk.gradient_factors)) - target

    for low, high in pairwise(math.log(10.0) * k / 4 for k in range(-24, 13)):
        if excess(low) < 0.0 <= excess(high):
            return math.exp(optimize.brentq(excess, low, high, xtol=1e-10))
    raise ArgumentError(
        f"growth must be met by a scale from 1e-6 to 1e3, got {growth}. Choose another, above "
        "skip^(2 depth) and within the branch's reach."
    )
