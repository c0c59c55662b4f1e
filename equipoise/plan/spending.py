"""How much gradient growth the units of a stack ask for."""

import math

from scipy.optimize import brentq

from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Layout, Plain
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import statistics

# A step on a weight also moves what the resting value f(0) of its inputs adds to every unit. With
# Adam that shakes the signal f - f(0) in proportion to |f(0)| over its RMS: 1,000 sigmoid layers of
# width 32 reach .78 on digits where that is 8.5, .913 where it is 6; the best rate is lower too.
_LOUDEST_REST = 6.0
# Nats that may be spent on it.
_MOST = 3.0
_LOWEST_Q, _HIGHEST_Q = 1e-8, 10.0


def resting_budget(stack: Stack, layouts: tuple[Layout, ...]) -> float:
    """Nats of gradient growth at which no signal is six times quieter than what its units rest at.

    At constant width the gradient grows by the mean Hermite degree of f0 = f - f(0) from each
    hidden layer to the one before, so the level q at which RMS f0 = |f(0)| / 6 costs
    (depth - 1) * log(degree(q)) nats.

    Args:
        stack: the layers.
        layouts: of its hidden spaces; pairs have no resting value.

    Returns:
        The cost of the dearest activation, 0 where all rest at 0, at most 3.
    """
    resting = {
        h.activation
        for h, layout in zip(stack.hidden, layouts, strict=True)
        if isinstance(layout, Plain) and h.activation.value_at_zero != 0.0
    }
    return max((_cost(f, stack.depth) for f in resting), default=0.0)


def _cost(f: Activation, depth: int) -> float:
    wanted = (f.value_at_zero / _LOUDEST_REST) ** 2

    def excess(log_q: float) -> float:
        return statistics(f, math.exp(log_q)).centred_energy - wanted

    low, high = math.log(_LOWEST_Q), math.log(_HIGHEST_Q)
    if excess(high) <= 0.0:
        return _MOST
    q = math.exp(brentq(excess, low, high, xtol=1e-6)) if excess(low) < 0.0 else _LOWEST_Q
    at = statistics(f, q)
    # There is one weight less between hidden layers than there are layers.
    return min(_MOST, max(0.0, (depth - 1) * math.log(at.mean_hermite_degree)))
