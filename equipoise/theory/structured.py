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

Where widths differ, keeping energy makes the narrow layers the loudest. A stack whose loudest layer
may not be louder, although budget is left, raises the others: a weight then brings the energy some
way (``evenness``, 0 to 1) to the level at which the next layer has the same q. That is a choice of
units between two layers and no growth; it is left out of the budget.

What f0 has for a mean, which all inputs share, may be taken away by the next bias; r is then
E f0^2 - (E f0)^2 - alpha^2 q, and the growth of a layer the mean Hermite degree without degree 0.

A convolution that reads one tap is a dense layer at each site. A weight that joins sites mixes the
carried columns of all of them (``theory.columns``); energies are then those of one site, cotangents
are summed over the sites that were joined.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from scipy import optimize

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import identity
from equipoise.theory.column_pass import BalancedStack, HiddenLayer, kinds_of, run_stack
from equipoise.theory.columns import Columns
from equipoise.theory.hermite import statistics

__all__ = ["BalancedStack", "HiddenLayer", "balance"]

_SMALLEST, _LARGEST = 1e-10, 1e4
# Share of the budget below which the level does not matter: nearly linear functions, whose growth
# may well be largest at some absurd level.
_NO_GROWTH = 0.01


def balance(
    layers: Sequence[HiddenLayer],
    fan_in: int,
    fan_out: int,
    budget: float,
    spectrum: Sequence[float] = (),
    first_level: float = 1.0,
) -> BalancedStack:
    """The gains and the signal level at which gradients grow by exp(budget) over the stack.

    The smallest such level is taken, and ``reached`` says if there is one. Where no level spends
    the budget (the mean Hermite degree of ELU and SELU has a peak) it is the level of largest
    growth; where the level does not matter (no level spends a hundredth of the budget, as for a
    function that is nearly linear) or every level overspends (a plain ReLU), it is 1. A level at
    which a layer is louder than its ``loudest`` is lowered until none is. Levels from 1e-10 to 1e4
    are searched: f should bend between 1e-4 and 1e3.

    Dropout while training divides E f0^2 and E f'^2 by the share kept and leaves E f' as it is: the
    gain brings the level back, what is lost is the share of it that is linear.

    Args:
        layers: the hidden layers in order, at least one, each with an odd or nearly affine
            activation and without jumps.
        fan_in: number of inputs of the stack.
        fan_out: number of outputs of the stack.
        budget: B in nats, positive.
        spectrum: relative second moments of the input along its first min(fan_in, width of the
            first layer) columns; equal where left out. They are scaled so that their mean over
            the columns that survive every width is ``column_energy``.
        first_level: second moment of the first hidden layer over what it would be, positive; the
            weight behind it makes up for it. Without effect on a single hidden layer.

    Returns:
        The balanced stack.

    Raises:
        ArgumentError: for an empty stack, a width below 1, a budget, ``loudest`` or ``kept`` that
            is not positive, an activation that jumps, is constant or grows too fast to have
            energies, or a spectrum as refused by ``Columns.of``.

    >>> from equipoise.theory import activations
    >>> stack = balance([HiddenLayer(16, activations.tanh())] * 50, 16, 10, 0.15)
    >>> round(stack.gains[0], 3), round(stack.gradient_log_growth, 9)
    (1.052, 0.15)
    """
    _checks.positive("budget", budget, "Pass nats of gradient growth, such as 0.3.")
    _checks.positive("first_level", first_level, "Pass 1 for a first layer like the others.")
    if not layers:
        raise ArgumentError("layers must hold at least one hidden layer, got none. Add one.")
    for layer in layers:
        if layer.activation.jumps:
            raise ArgumentError(
                f"activation must be continuous, got {layer.activation}, which jumps. "
                "No level is balanced for it."
            )
        if not layer.loudest > 0:
            raise ArgumentError(
                f"loudest must be positive, got {layer.loudest!r}. Pass inf for any level."
            )
        if not 0 < layer.kept <= 1:
            raise ArgumentError(
                f"kept must be above 0 and at most 1, got {layer.kept!r}. Pass 1 without dropout."
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
    kinds = kinds_of(layers)

    line = identity()
    lines = [replace(layer, activation=line, kept=1.0) for layer in layers]
    linear = run_stack(lines, kinds_of(lines), columns, 1.0).gradient_log_growth
    # A first layer alone has no weight behind it that could make up for a quiet start.
    quiet = first_level if len(layers) > 1 else 1.0

    def at(log_energy: float, evenness: float = 0.0) -> BalancedStack:
        return run_stack(layers, kinds, columns, math.exp(log_energy), evenness, quiet, linear)

    def excess(log_energy: float, evenness: float) -> float:
        try:
            return _too_loud(at(log_energy, evenness), layers)
        except (ArithmeticError, ValueError):
            # Too loud for floats, by any number that a root finder can use.
            return math.log(_LARGEST)

    def loudest(evenness: float) -> BalancedStack:
        """The stack at the highest level at which no layer is too loud."""
        ends = math.log(_SMALLEST), math.log(_LARGEST)
        if excess(ends[0], evenness) >= 0.0:
            return at(ends[0], evenness)
        return at(optimize.brentq(excess, *ends, args=(evenness,), xtol=1e-10), evenness)

    def run(log_energy: float, reached: bool = True) -> BalancedStack:
        """The stack at a level, or within what its layers may have."""
        if excess(log_energy, 0.0) <= 0.0:
            return replace(at(log_energy), reached=reached)
        even, uneven = loudest(1.0), loudest(0.0)
        if even.gradient_log_growth <= budget:
            return even
        if uneven.gradient_log_growth >= budget:
            return uneven
        share = optimize.brentq(
            lambda t: loudest(t).gradient_log_growth - budget, 0.0, 1.0, xtol=1e-6
        )
        return replace(loudest(share), reached=True)

    def growth(log_energy: float) -> float:
        try:
            return at(log_energy).gradient_log_growth
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


def _too_loud(found: BalancedStack, layers: Sequence[HiddenLayer]) -> float:
    """Log of the level of the loudest layer over what it may have, -inf where all may be any."""
    return max(
        math.log(q / layer.loudest) if layer.loudest < math.inf else -math.inf
        for q, layer in zip(found.q, layers, strict=True)
    )
