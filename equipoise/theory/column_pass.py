"""One pass down and up a stack on frames, column by column: levels, gains and cotangents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.columns import Columns
from equipoise.theory.hermite import GaussianStatistics, statistics


@dataclass(frozen=True)
class HiddenLayer:
    """One hidden space of units and the function applied there.

    Attributes:
        width: number of units, or of mirrored pairs of units; channels, in a convolution.
        activation: f, or for pairs f(v) - f(-v).
        copies: number of sites of each unit that the next weight reads at once.
        is_centred: whether the next bias takes E f(z) away, and not only f(0).
        kept: share of the units that dropout keeps, divided by it: 1 without dropout.
        loudest: largest second moment that the preactivation may have.
    """

    width: int
    activation: Activation
    copies: int = 1
    is_centred: bool = False
    kept: float = 1.0
    loudest: float = math.inf


@dataclass(frozen=True)
class BalancedStack:
    """Gains of a stack of orthogonal layers at a common fixed point of the signal.

    Attributes:
        column_energy: second moment of the preactivation along each carried direction.
        q: second moment of the preactivation of each hidden layer, shape (L,).
        gains: G of the weight that leaves each hidden layer, shape (L,); the last one is the gain
            at which the weight that leaves the stack would keep the energy.
        exit_energy: total second moment of f0 in the columns that leave the stack, before that
            last weight.
        cotangent_log: log of the total mean-square cotangent at the preactivations of each hidden
            layer, shape (L,), for one of total 1 at what the last weight reads; summed over the
            sites that are joined further on.
        gradient_log_growth: log of the mean-square gradient at the first hidden layer over that
            at the last, each relative to the signal, less the same of a linear network of these
            widths, in which some columns may end; the budget if it was reached.
        reached: whether the budget was reached.
    """

    column_energy: float
    q: tuple[float, ...]
    gains: tuple[float, ...]
    exit_energy: float
    cotangent_log: tuple[float, ...]
    gradient_log_growth: float
    reached: bool


def kinds_of(layers: Sequence[HiddenLayer]) -> tuple[int, ...]:
    """A number for each layer, the same for equal layers.

    >>> from equipoise.theory.activations import relu, tanh
    >>> kinds_of([HiddenLayer(8, tanh()), HiddenLayer(8, relu()), HiddenLayer(8, tanh())])
    (0, 1, 0)
    """
    numbers: dict[HiddenLayer, int] = {}
    return tuple(numbers.setdefault(layer, len(numbers)) for layer in layers)


def run_stack(
    layers: Sequence[HiddenLayer],
    kinds: tuple[int, ...],
    columns: Columns,
    column_energy: float,
    evenness: float = 0.0,
    quiet: float = 1.0,
    linear: float = 0.0,
) -> BalancedStack:
    """Send a signal down and a cotangent up a stack that keeps the energy of kept columns.

    Args:
        layers: the hidden layers.
        kinds: of them, by ``kinds_of``.
        columns: of their frames.
        column_energy: of the columns that survive, behind the first weight.
        evenness: 0 to keep energies between layers of different width, 1 to keep second moments.
        quiet: factor of the first layer's energy, which the second weight makes up for.
        linear: log growth of a linear network, which is left out.

    Returns:
        The stack, not said to have reached any budget.

    >>> from equipoise.theory.activations import identity
    >>> pair = [HiddenLayer(4, identity())] * 2
    >>> run_stack(pair, (0, 0), Columns.of((4, 4), 4, 4), 0.5).q
    (0.5, 0.5)
    """
    following = [*(layer.width for layer in layers[1:]), 0]
    # In a stack of constant width every layer is the same step: it is worked out once.
    forward: dict[tuple[object, ...], _Step] = {}
    profile = tuple(quiet * column_energy * e for e in columns.entry)
    steps: list[_Step] = []
    for weight, (layer, kind) in enumerate(zip(layers, kinds, strict=True), 1):
        key = (kind, following[weight - 1], columns.kept[weight], columns.read[weight], profile)
        if key not in forward:
            forward[key] = _forward(
                layer, weight, profile, columns, following[weight - 1], evenness
            )
            if weight == 1 and following[0]:
                forward[key] = forward[key].louder(1.0 / quiet)
        steps.append(forward[key])
        profile = steps[-1].profile

    backward: dict[tuple[object, ...], tuple[float, tuple[float, ...]]] = {}
    cotangent = tuple(1.0 / columns.kept[-1] if end <= columns.kept[-1] else 0.0
                      for end in columns.ends)  # fmt: skip
    log_total, logs = 0.0, []
    gain = 1.0
    for weight in range(len(layers), 0, -1):
        layer, step = layers[weight - 1], steps[weight - 1]
        back = (kinds[weight - 1], step.q, gain, columns.kept[weight], columns.read[weight],
                cotangent)  # fmt: skip
        if back not in backward:
            backward[back] = _backward(layer, step.q, gain, weight, cotangent, columns)
        total, cotangent = backward[back]
        log_total += math.log(total)
        logs.append(log_total)
        # The weight that leaves the layer before this one carries that layer's gain.
        index = len(layers) - len(logs) - 1
        gain = steps[index].gain if index >= 0 else 1.0
    logs.reverse()
    return BalancedStack(
        column_energy=column_energy,
        q=tuple(step.q for step in steps),
        gains=tuple(step.gain for step in steps),
        exit_energy=steps[-1].kept_energy / steps[-1].gain ** 2,
        cotangent_log=tuple(logs),
        gradient_log_growth=logs[0] - logs[-1] - sum(step.log_raised for step in steps) - linear,
        reached=False,
    )


@dataclass(frozen=True)
class _Step:
    """One hidden layer and the weight that leaves it: level, gain, energies passed on.

    ``log_raised`` is the log of what the weight makes of the energy that it keeps.
    """

    q: float
    gain: float
    kept_energy: float
    profile: tuple[float, ...]
    log_raised: float

    def louder(self, factor: float) -> "_Step":
        """The same with a weight that brings a second moment larger by a factor."""
        return _Step(
            self.q,
            self.gain * math.sqrt(factor),
            self.kept_energy * factor,
            tuple(e * factor for e in self.profile),
            self.log_raised + math.log(factor),
        )


def _statistics(layer: HiddenLayer, q: float) -> GaussianStatistics:
    # Rounding keeps the cache of expectations effective; it moves nothing above 1e-12.
    return statistics(layer.activation, float(f"{q:.12e}"))


def _forward(
    layer: HiddenLayer,
    weight: int,
    profile: tuple[float, ...],
    columns: Columns,
    following: int,
    evenness: float,
) -> _Step:
    ends, sizes = columns.ends, columns.sizes
    inside = [e * n if end <= layer.width else 0.0
              for e, n, end in zip(profile, sizes, ends, strict=True)]  # fmt: skip
    q = sum(inside) / layer.width
    s = _statistics(layer, q)
    if not (math.isfinite(s.centred_energy) and math.isfinite(s.slope_energy)):
        raise ArgumentError(
            f"activation must have finite energies, got {layer.activation} at q = {q:.3g}. "
            "Pass one that grows more slowly, or a smaller budget."
        )
    linear = s.linear**2
    mean = s.mean - layer.activation.value_at_zero if layer.is_centred else 0.0
    spread = max(0.0, (s.centred_energy - mean * mean) / layer.kept - linear * q)
    own = [e if end <= layer.width else 0.0 for e, end in zip(profile, ends, strict=True)]
    carried = columns.carried(weight, own)
    before = sum(e * n for e, n in zip(carried, sizes, strict=True))
    out = columns.carried(weight, [linear * e + spread for e in profile])
    raised = (q * following / before) ** evenness if following else 1.0
    before *= raised
    power = before / sum(e * n for e, n in zip(out, sizes, strict=True))
    return _Step(q, math.sqrt(power), before, tuple(power * e for e in out), math.log(raised))


def _backward(
    layer: HiddenLayer,
    q: float,
    gain: float,
    weight: int,
    profile: tuple[float, ...],
    columns: Columns,
) -> tuple[float, tuple[float, ...]]:
    """Growth of the total mean-square cotangent over one layer, and its profile at total 1."""
    ends, sizes = columns.ends, columns.sizes
    s = _statistics(layer, q)
    linear = s.linear**2
    arriving = columns.returned(weight, [gain**2 * b for b in profile])
    mean = sum(b * n for b, n in zip(arriving, sizes, strict=True)) / layer.width
    spread = max(0.0, s.slope_energy / layer.kept - linear) * mean
    out = [
        linear * b + spread if end <= layer.width else 0.0
        for b, end in zip(arriving, ends, strict=True)
    ]
    total = sum(b * n for b, n in zip(out, sizes, strict=True))
    return total, tuple(b / total for b in out)
