"""A residual branch, its Gaussian moments, and the usual ways to weigh it against the trunk."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.gaussian import expectation
from equipoise.theory.hermite import statistics


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
        return self.activation.homogeneity == 1.0

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


@lru_cache(maxsize=4096)
def _moments(activation: Activation, level: float, last_var: float) -> BranchMoments:
    """Moments at z ~ N(0, level); the slope energy is that of z, so that of x at q = 1."""
    f, df, s = activation.f, activation.df, statistics(activation, level)
    energy, slope = last_var * s.second_moment, last_var * level * s.slope_energy
    if s.second_moment == 0.0 or s.slope_energy == 0.0:
        return BranchMoments(energy, slope, 1.0, 0.0, 1.0)
    # d E f(z)^2 / d log level = E f^2 (z^2 / level - 1) / 2: no derivative of f, so no kink.
    growth = expectation(lambda z: f(z) ** 2 * (z * z / level - 1) / 2, level, activation.kinks)
    # Of f and f' in units of their sizes: fourth powers leave the range of floats early.
    size, steep = math.sqrt(s.second_moment), math.sqrt(s.slope_energy)
    fourth = expectation(lambda z: (f(z) / size) ** 4, level, activation.kinks)
    overlap = expectation(lambda z: (f(z) / size * df(z) / steep) ** 2, level, activation.kinks)
    elasticity = growth.value / s.second_moment
    return BranchMoments(energy, slope, elasticity, fourth.value - 1.0, overlap.value)


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
