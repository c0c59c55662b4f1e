"""Networks of orthogonal weights on telescoping frames: what one layer does, and the gain for it.

Weights are W_l = G_l V_{l+1}[:, :k] V_l[:, :k]^T with one Haar frame V_l per space of units and
k = min(n_l, n_{l+1}), so that the first columns of all frames carry the input through any sequence
of widths. The signal's energy is followed by column. With q = (sum of column energies) / n, a
layer turns energy e_j into alpha^2 e_j + r, where alpha = E f' is the linear part (Stein) and
r = E f0^2 - alpha^2 q the energy that leaves it, spread evenly over all columns; the next weight
keeps the first k. A cotangent behaves alike with alpha^2 and r = E f'^2 - alpha^2.

The gain keeps the energy of the kept columns, so the signal is at a fixed point in every layer;
what then remains free, the energy itself, is set so that the mean-square gradient grows by exp(B)
over the whole depth, for a budget B.

What f0 has for a mean, which all inputs share, may be taken away by the next bias; r is then
E f0^2 - (E f0)^2 - alpha^2 q, and the growth of a layer the mean Hermite degree without degree 0.

A convolution that reads one tap is a dense layer at each site. A weight that joins sites mixes the
carried columns of all of them (``theory.columns``); energies are then those of one site, cotangents
are summed over the sites that were joined.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import optimize

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.columns import Columns
from equipoise.theory.hermite import GaussianStatistics, statistics

_SMALLEST, _LARGEST = 1e-10, 1e4
# Share of the budget below which the level does not matter: nearly linear functions, whose growth
# may well be largest at some absurd level.
_NO_GROWTH = 0.01


@dataclass(frozen=True)
class HiddenLayer:
    """One hidden space of units and the function applied there.

    Attributes:
        width: number of units, or of mirrored pairs of units; channels, in a convolution.
        activation: f, or for pairs f(v) - f(-v).
        copies: number of sites of each unit that the next weight reads at once.
        is_centred: whether the next bias takes E f(z) away, and not only f(0).
    """

    width: int
    activation: Activation
    copies: int = 1
    is_centred: bool = False


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
            at the last; the budget if it was reached.
        reached: whether the budget was reached.
    """

    column_energy: float
    q: tuple[float, ...]
    gains: tuple[float, ...]
    exit_energy: float
    cotangent_log: tuple[float, ...]
    gradient_log_growth: float
    reached: bool


def balance(
    layers: Sequence[HiddenLayer],
    fan_in: int,
    fan_out: int,
    budget: float,
    spectrum: Sequence[float] = (),
) -> BalancedStack:
    """The gains and the signal level at which gradients grow by exp(budget) over the stack.

    The smallest such level is taken, and ``reached`` says if there is one. Where no level spends
    the budget (the mean Hermite degree of ELU and SELU has a peak) it is the level of largest
    growth; where the level does not matter (no level spends a hundredth of the budget, as for a
    function that is nearly linear) or every level overspends (a plain ReLU), it is 1. Levels from
    1e-10 to 1e4 are searched: f should bend between 1e-4 and 1e3.

    Args:
        layers: the hidden layers in order, at least one, each with an odd or nearly affine
            activation and without jumps.
        fan_in: number of inputs of the stack.
        fan_out: number of outputs of the stack.
        budget: B in nats, positive.
        spectrum: relative second moments of the input along its first min(fan_in, width of the
            first layer) columns; equal where left out. They are scaled so that their mean over
            the columns that survive every width is ``column_energy``.

    Returns:
        The balanced stack.

    Raises:
        ArgumentError: for an empty stack, a width below 1, a budget that is not positive, an
            activation that jumps, is constant or grows too fast to have energies, or a spectrum
            as refused by ``Columns.of``.

    >>> from equipoise.theory import activations
    >>> stack = balance([HiddenLayer(16, activations.tanh())] * 50, 16, 10, 0.15)
    >>> round(stack.gains[0], 3), round(stack.gradient_log_growth, 9)
    (1.052, 0.15)
    """
    _checks.positive("budget", budget, "Pass nats of gradient growth, such as 0.3.")
    if not layers:
        raise ArgumentError("layers must hold at least one hidden layer, got none. Add one.")
    for layer in layers:
        if layer.activation.jumps:
            raise ArgumentError(
                f"activation must be continuous, got {layer.activation}, which jumps. "
                "No level is balanced for it."
            )
        if statistics(layer.activation, 1.0).centred_energy == 0.0:
            raise ArgumentError(
                f"activation must not be constant, got {layer.activation}. No signal passes it."
            )
    columns = Columns.of(
        [layer.width for layer in layers],
        fan_in,
        fan_out,
        spectrum,
        [layer.copies for layer in layers],
    )
    kinds = _kinds(layers)

    def run(log_energy: float, reached: bool = True) -> BalancedStack:
        return _run(layers, kinds, columns, math.exp(log_energy), reached)

    def growth(log_energy: float) -> float:
        try:
            return run(log_energy).gradient_log_growth
        except (ArithmeticError, ValueError):
            # Energies of a function that grows faster than any power leave the range of floats.
            return math.inf

    def crossing(low: float, high: float) -> BalancedStack:
        level = optimize.brentq(lambda x: growth(x) - budget, low, high, xtol=1e-8)
        # Where energies end the growth jumps past the budget.
        return run(level, reached=math.isclose(growth(level), budget, rel_tol=1e-3))

    low, step = math.log(_SMALLEST), math.log(8.0)
    best, best_growth = low, growth(low)
    if best_growth >= budget:
        # The growth of kinked functions does not vanish with the signal: no level is balanced.
        return run(0.0, reached=False)
    while low < math.log(_LARGEST):
        high = low + step
        now = growth(high)
        if now >= budget:
            return crossing(low, high)
        if now > best_growth:
            best, best_growth = high, now
        low = high
    if best_growth <= _NO_GROWTH * budget:
        return run(0.0, reached=False)
    peak = optimize.minimize_scalar(
        lambda x: -growth(x), bounds=(best - step, best + step), method="bounded"
    )
    if -peak.fun >= budget:
        return crossing(best - step, float(peak.x))
    return run(float(peak.x), reached=False)


def _kinds(layers: Sequence[HiddenLayer]) -> tuple[int, ...]:
    """A number for each layer, the same for equal layers."""
    numbers: dict[HiddenLayer, int] = {}
    return tuple(numbers.setdefault(layer, len(numbers)) for layer in layers)


def _run(
    layers: Sequence[HiddenLayer],
    kinds: tuple[int, ...],
    columns: Columns,
    column_energy: float,
    reached: bool,
) -> BalancedStack:
    """Send a signal down and a cotangent up a stack that keeps the energy of kept columns."""
    # In a stack of constant width every layer is the same step: it is worked out once.
    forward: dict[tuple[object, ...], _Step] = {}
    profile = tuple(column_energy * e for e in columns.entry)
    steps: list[_Step] = []
    for weight, (layer, kind) in enumerate(zip(layers, kinds, strict=True), 1):
        key = (kind, columns.kept[weight], columns.read[weight], profile)
        if key not in forward:
            forward[key] = _forward(layer, weight, profile, columns)
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
        gradient_log_growth=logs[0] - logs[-1],
        reached=reached,
    )


@dataclass(frozen=True)
class _Step:
    """One hidden layer and the weight that leaves it: level, gain, energies passed on."""

    q: float
    gain: float
    kept_energy: float
    profile: tuple[float, ...]


def _statistics(layer: HiddenLayer, q: float) -> GaussianStatistics:
    # Rounding keeps the cache of expectations effective; it moves nothing above 1e-12.
    return statistics(layer.activation, float(f"{q:.12e}"))


def _forward(
    layer: HiddenLayer, weight: int, profile: tuple[float, ...], columns: Columns
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
    spread = max(0.0, s.centred_energy - mean * mean - linear * q)
    own = [e if end <= layer.width else 0.0 for e, end in zip(profile, ends, strict=True)]
    carried = columns.carried(weight, own)
    before = sum(e * n for e, n in zip(carried, sizes, strict=True))
    out = columns.carried(weight, [linear * e + spread for e in profile])
    power = before / sum(e * n for e, n in zip(out, sizes, strict=True))
    return _Step(q, math.sqrt(power), before, tuple(power * e for e in out))


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
    spread = max(0.0, s.slope_energy - linear) * mean
    out = [
        linear * b + spread if end <= layer.width else 0.0
        for b, end in zip(arriving, ends, strict=True)
    ]
    total = sum(b * n for b, n in zip(out, sizes, strict=True))
    return total, tuple(b / total for b in out)
