"""Whether mirrored pairs pay: what plain weights would cost over a depth and a width.

Pairing units halves the rank of the network at birth. It pays where the plain law would lose more:
linear information to the activation's nonlinear part, or the signal's level to chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import ActivationClass, classify
from equipoise.theory.structured import HiddenLayer

LOSS_WORTH_MIRRORING = 2.0
SPREAD_WORTH_MIRRORING = 2.3


@dataclass(frozen=True)
class PlainCost:
    """What variance scaling would cost a stack.

    Attributes:
        loss: sum over layers of the share of the second moment of f outside its linear part.
        spread: standard deviation of the log norm of the signal after the whole stack, nats.
    """

    loss: float
    spread: float

    @property
    def is_worth_mirroring(self) -> bool:
        """Whether either cost is above its threshold: 2 shares, 2.3 nats.

        >>> PlainCost(1.9, 0.5).is_worth_mirroring, PlainCost(2.1, 0.5).is_worth_mirroring
        (False, True)
        """
        return self.loss > LOSS_WORTH_MIRRORING or self.spread > SPREAD_WORTH_MIRRORING


@dataclass(frozen=True)
class MirroringVerdict:
    """Whether units of one activation should be paired, with the numbers that decide.

    Attributes:
        pays: the verdict.
        cost: what plain weights would cost.
        reason: one sentence.
    """

    pays: bool
    cost: PlainCost
    reason: str


def plain_cost(layers: Sequence[HiddenLayer]) -> PlainCost:
    """The cost of orthogonal weights scaled to second moments, at preactivations of variance 1.

    The linear share of one layer is (E f')^2 / E f^2 (Stein), so what a layer loses of it is 1
    minus that: (1 - a)^2 / (2 (1 + a^2)) for slopes 1 and a. The log norm of n independent units
    has variance (Var f^2 / (E f^2)^2 / 4 - 1/2) / n to first order in 1 / n, exact for homogeneous
    f; elsewhere 1/2 stands for s^2 / 2 with s = d log E f^2 / d log q, and no restoring force is
    counted (``signal_fluctuation`` counts it).

    Args:
        layers: the hidden layers as units, not as pairs; a stack of none costs nothing.

    Returns:
        The two costs, to the quadrature's relative error of about 1e-9.

    Raises:
        ArgumentError: if a width is below 1 or an activation is 0 everywhere.

    >>> from equipoise.theory import activations
    >>> cost = plain_cost([HiddenLayer(16, activations.relu())] * 8)
    >>> round(cost.loss, 9), round(cost.spread, 9)  # 8 / 2 and sqrt(8 * 0.75 / 16)
    (4.0, 0.612372436)
    """
    loss, variance = 0.0, 0.0
    for layer in layers:
        width = _checks.at_least("width", layer.width, 1)
        s = statistics(layer.activation, 1.0)
        if s.second_moment == 0.0:
            raise ArgumentError(
                f"activation must not be 0 everywhere, got {layer.activation}. No signal passes it."
            )
        loss += max(0.0, 1.0 - s.linear**2 / s.second_moment)
        variance += max(0.0, s.log_norm_coefficient - 0.5) / width
    return PlainCost(loss, math.sqrt(variance))


def mirroring_pays(activation: Activation, width: int, depth: int) -> MirroringVerdict:
    """Whether pairing the units of a stack of one activation is worth half its rank.

    It is if the odd part of f is far more linear than f (class ``mirror``), there are two units to
    pair, and plain weights would lose over 2 shares of linear signal or spread the log norm by over
    2.3 nats. The thresholds are a fit to few trained networks, not a theorem.

    Args:
        activation: f.
        width: units of each hidden layer, at least 1.
        depth: number of hidden layers, at least 1.

    Returns:
        The verdict with its numbers.

    Raises:
        ArgumentError: if width or depth is below 1, or the activation is 0 everywhere.

    >>> from equipoise.theory import activations
    >>> [mirroring_pays(activations.relu(), n, depth).pays for n, depth in ((256, 3), (16, 50))]
    [False, True]
    """
    width, depth = _checks.at_least("width", width, 1), _checks.at_least("depth", depth, 1)
    found = classify(activation)
    cost = _cost(activation, width, depth)
    if found.kind is not ActivationClass.MIRROR:
        return MirroringVerdict(False, cost, f"nothing to gain: {found.reason}")
    size = (
        f"plain weights would lose {cost.loss / depth:.0%} of the linear signal in each of {depth} "
        f"hidden {'layer' if depth == 1 else 'layers'} of width {width} ({cost.loss:.1f} in all; "
        f"pairing pays above {LOSS_WORTH_MIRRORING:g}) and chance would spread its log norm by "
        f"{cost.spread:.2f} (above {SPREAD_WORTH_MIRRORING:g})"
    )
    if width < 2 and cost.is_worth_mirroring:
        return MirroringVerdict(False, cost, f"one unit has no pair to mirror, though {size}")
    return MirroringVerdict(cost.is_worth_mirroring, cost, size)


def _cost(activation: Activation, width: int, depth: int) -> PlainCost:
    one = plain_cost([HiddenLayer(width, activation)])
    return PlainCost(depth * one.loss, math.sqrt(depth) * one.spread)
