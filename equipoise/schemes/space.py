"""What a framed stack is made of: its entry, and the spaces of units between its weights."""

import math
from dataclasses import dataclass

from scipy.special import polygamma

from equipoise.schemes.laws import Layout, Mirrored, Plain
from equipoise.theory.activations import Activation, linear
from equipoise.theory.oddpart import affine_departure, mirrored_pair


@dataclass(frozen=True)
class Space:
    """The units between two weights of a stack.

    Attributes:
        frame: name for the frame of the space.
        width: number of units; channels, of a convolution.
        activation: what is applied there.
        layout: plain or mirrored.
        copies: number of sites of each unit that the next weight joins (all of a flattened map,
            the taps that a strided convolution reads).
        block: taps along each axis that the next weight reads; () where it is a linear layer.
        can_shift: whether the layer that reads the units has a bias that may centre them.
        kept: share of the units that dropout keeps while training.
        loudest: largest second moment that the preactivations may have.
    """

    frame: str
    width: int
    activation: Activation
    layout: Layout
    copies: int = 1
    block: tuple[int, ...] = ()
    can_shift: bool = True
    kept: float = 1.0
    loudest: float = math.inf

    @property
    def size(self) -> int:
        """Number of units that have a frame of their own: pairs where mirrored."""
        return self.width // 2 if isinstance(self.layout, Mirrored) else self.width

    @property
    def function(self) -> Activation:
        """What one column of the frame sees: f, or f(v) - f(-v)."""
        if isinstance(self.layout, Plain):
            return self.activation
        pair = mirrored_pair(self.activation)
        # Gates x g(x) with g(x) + g(-x) = 1 leave rounding only: the exact line has no spurious
        # gradient growth to be budgeted.
        return linear(pair.slope) if affine_departure(pair) == 0.0 else pair


@dataclass(frozen=True)
class Entry:
    """What enters a stack.

    Attributes:
        frame: name for the frame of the inputs.
        size: number of inputs; channels times taps that are read, of a convolution.
        mean_square: second moment per input (per kept axis and centred, if those are given).
        basis: name of the array of principal axes, or '' for a Haar frame.
        centre: name of the array of input means, or ''.
        spectrum: second moment along each axis of the basis, or empty for equal ones.
        participation: effective number of directions in which the inputs vary, 0 for ``size``.
        block: taps along each axis that the first weight reads; () where it is a linear layer.
    """

    frame: str
    size: int
    mean_square: float
    basis: str = ""
    centre: str = ""
    spectrum: tuple[float, ...] = ()
    participation: float = 0.0
    block: tuple[int, ...] = ()

    def log_variance(self, rank: int) -> float:
        """Variance of the log energy that a Haar frame of some rank catches of these inputs."""
        return 0.0 if self.basis else caught_log_variance(self.size, rank, self.participation)


def caught_log_variance(size: int, rank: int, participation: float = 0.0) -> float:
    """Variance of the log energy that ``rank`` Haar columns in ``size`` dimensions catch.

    For covariance eigenvalues l the energy has relative variance
    (2 / k) (1 - k / n) (sum l^2 / (sum l)^2 - 1 / n) and is nearly a scaled chi-squared; inputs
    that vary alike in all directions always give the same.

    Args:
        size: n, number of dimensions.
        rank: k, number of columns, 1 to n.
        participation: (sum l)^2 / sum l^2, 0 for n.

    Returns:
        The variance, in nats squared.

    >>> caught_log_variance(8, 8)
    0.0
    """
    uneven = 1.0 / (participation or size) - 1.0 / size
    relative = 2.0 / rank * (1.0 - rank / size) * uneven
    return float(polygamma(1, 1.0 / relative)) if relative > 0.0 else 0.0
