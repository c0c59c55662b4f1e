"""Expectations of a chain: stacks that are planned apart while one signal goes through them all.

What a draw of one stack does to the level, and to how alike inputs and sites are, it hands on to
the next, so neither medians nor spreads of stacks can be told apart from what came before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from equipoise.plan.entry import Inputs
from equipoise.plan.predict import SIGNAL_DOUBT, predict
from equipoise.plan.stack_plan import Expected, StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.convolution import DENSE
from equipoise.schemes.laws import Array, Frame, Law, Orthogonal, Zero

# A level to plan with serves although a draw strays from it, and to tell it better takes time.
_LEVEL_DOUBT = 0.4
_TOO_LARGE = "behind its first stack nothing is expected, since {}"


@dataclass(frozen=True, eq=False)
class Part:
    """One stack of a chain as it was planned.

    Attributes:
        planned: its laws.
        inputs: what was taken to enter it.
        alone: what is expected of it for inputs that differ and have just that level.
        is_known: whether nothing but the plan decides what it makes of its inputs.
        leaves: RMS that its last layer makes, to plan with where it is not told.
        is_sure: whether draws keep to that.
    """

    planned: StackPlan
    inputs: Inputs
    alone: Expected
    is_known: bool
    leaves: float = math.nan
    is_sure: bool = True


def expect_chain(chain: Stack, parts: Sequence[Part]) -> Expected:
    """Expectations of a chain under the laws of its stacks.

    Args:
        chain: all layers, as one stack.
        parts: the stacks in order, each planned.

    Returns:
        What is expected, the gradient relative to the chain's last layer. Where a chain is too
        large to be followed only the signal of its first stack is known.
    """
    first = parts[0]
    if len(parts) == 1:
        return first.alone
    count = len(chain.affines)
    if not first.is_known:
        return Expected.nothing(count, "")
    found = _predicted(chain, parts)
    if found.method:
        return found
    # The gradient's reference, the last layer of the chain, is out of reach.
    rest = (math.nan,) * (count - len(first.alone.signal))
    return Expected(
        first.alone.signal + rest,
        (math.nan,) * count,
        first.alone.log_std + rest,
        (math.nan,) * count,
        first.alone.correlation + rest,
        note=_TOO_LARGE.format(found.note),
    )


def entering(chain: Stack, parts: Sequence[Part]) -> float:
    """Second moment, in the median draw, of what enters the stack behind those that are planned.

    Args:
        chain: all layers, as one stack.
        parts: the stacks before, in order, each planned.

    Returns:
        The second moment per unit; 0 where no stack comes before, or it cannot be told.
    """
    if not parts or not all(part.is_known for part in parts):
        return 0.0
    made = sum(len(part.planned.weights) for part in parts)
    # Seen through a rotation at each site, which keeps every norm.
    after = chain.affines[made]
    eye = replace(after, out_size=after.in_size, convolution=DENSE, out_sites=())
    until = replace(chain, affines=(*chain.affines[:made], eye), hidden=chain.hidden[:made])
    rms = _predicted(until, parts, [Orthogonal(1.0)], _LEVEL_DOUBT).signal[-1]
    return rms**2 if rms > 0 else 0.0


def _predicted(
    chain: Stack, parts: Sequence[Part], further: Sequence[Law] = (), doubt: float = SIGNAL_DOUBT
) -> Expected:
    """Expectations under the laws of planned stacks, and of further weights without biases."""
    weights, biases = list[Law](), list[Law]()
    frames, arrays = list[Frame](), dict[str, Array]()
    for part in parts:
        weights += part.planned.weights
        biases += part.planned.biases
        frames += part.planned.frames
        arrays |= part.planned.arrays
    biases += [Zero()] * len(further)
    return predict(chain, [*weights, *further], parts[0].inputs, biases, frames, arrays, doubt)
