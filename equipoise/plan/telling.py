"""How much of what is expected of a stack can be told, and what leaves it to plan with."""

import math
from collections.abc import Mapping
from dataclasses import replace

from equipoise.plan.entry import Inputs
from equipoise.plan.stack_plan import Expected, StackPlan
from equipoise.plan.stacks import Stack
from equipoise.plan.steady import is_steady
from equipoise.schemes.laws import Law, Turned
from equipoise.schemes.part_laws import Each

# A mean over so many sites at most leaves half of the RMS whatever they are.
_FEW_SITES = 4
# RMS whose square is still in the range of floats.
_LARGEST = 1e150


def as_drawn(
    stack: Stack, planned: StackPlan, laws: Mapping[str, tuple[Law, str]]
) -> tuple[StackPlan, bool]:
    """A plan with the law that an earlier use of its weight set, and whether it serves this one.

    A law is that of a matrix read one way, straight or turned round. A weight that is used several
    times is a stack of its own.
    """
    first = stack.affines[0]
    if first.weight not in laws:
        return planned, True
    law = laws[first.weight][0]
    law = law.matrix if isinstance(law, Each) else law
    if first.is_turned != isinstance(law, Turned):
        return planned, False
    drawn = law.matrix if isinstance(law, Turned) else law
    return replace(planned, weights=(drawn,), expected=None), True


def before_pools(stack: Stack, inputs: Inputs, expected: Expected) -> Expected:
    """Expectations without signals behind means over many sites, where these are not known.

    How much such a mean leaves depends on how alike sites are.
    """
    if inputs.rows.size or inputs.maps.size:
        return expected
    for place, hidden in enumerate(stack.hidden):
        pools = (*hidden.early_pools, *hidden.pools)
        if any(p.kind == "average" and math.prod(p.window) > _FEW_SITES for p in pools):
            known = expected.signal[: place + 1]
            unknown = (math.nan,) * (len(expected.signal) - len(known))
            return replace(expected, signal=known + unknown)
    return expected


def _keeps_silence(stack: Stack) -> bool:
    """Whether a stack makes nothing of nothing, as long as its biases are 0."""
    functions = [h.activation for h in stack.hidden]
    return all(f.value_at_zero == 0.0 for f in (*functions, stack.exit_activation))


def leaving(
    stack: Stack, planned: StackPlan, expected: Expected, entering: float
) -> tuple[float, bool]:
    """RMS that the last layer of a stack makes, to plan with, and whether draws keep to it.

    Args:
        stack: the stack.
        planned: its laws.
        expected: what is expected of them.
        entering: second moment of what enters.
    """
    if entering == 0.0 and _keeps_silence(stack):
        return 0.0, True
    told = expected.signal[-1]
    # What the scheme aims at serves where nothing is predicted.
    signal = expected.exit_rms if expected.exit_rms >= 0 else planned.signal[-1]
    # Python refuses to square numbers whose square is out of range.
    signal = math.inf if signal >= _LARGEST else signal
    steady = is_steady(stack.exit_activation, signal**2, stack.affines[-1].out_size)
    return signal, told >= 0 and steady
