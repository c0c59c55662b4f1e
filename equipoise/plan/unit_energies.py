"""Of how many numbers of their inputs the units of a value are made.

A unit that a layer makes of r numbers has an energy like a chi-squared one of r degrees of freedom,
drawn once: at r = 1 or 2 some unit of many is nearly silent, whatever the inputs are. So has a row
of units that are all made of the same r numbers, where these are about normal.
"""

import math
from collections.abc import Mapping

from equipoise.plan.levels import Levels
from equipoise.plan.nodes import (
    Affine,
    Concat,
    Flatten,
    Merge,
    Node,
    Nonlinearity,
    Norm,
    Product,
    makes,
    reads,
)
from equipoise.plan.trace import Trace

# What is quieter than this part of a sum leaves it as uneven as it was.
_QUIET = 0.1
_MANY = (math.inf, math.inf)


def numbers_behind_units(trace: Trace, levels: Levels) -> dict[int, float]:
    """Numbers of which a unit of each value is made by the layer before it; inf of inputs.

    Args:
        trace: the model.
        levels: second moments of its values.

    Returns:
        By value. A sum has those of the term that has most of them, unless it is quiet.
    """
    # With each the directions in which all units together vary, which a layer cannot make more of.
    found: dict[int, tuple[float, float]] = {}
    for node in trace.nodes:
        for value in makes(node):
            found[value] = _made(node, value, levels, found)
    return {value: numbers for value, (numbers, _) in found.items()}


def _made(
    node: Node, value: int, levels: Levels, found: Mapping[int, tuple[float, float]]
) -> tuple[float, float]:
    before = [found.get(v, _MANY) for v in reads(node)]
    match node:
        case Affine():
            taps, several = node.convolution.taps, max(1, node.several)
            read = node.in_size // node.convolution.groups * taps
            least = min(read, before[0][1] * taps * several)
            return least, least
        case Merge(inputs=sources):
            total = levels.of(value)
            loud = [
                b for v, b in zip(sources, before, strict=True) if not levels.of(v) < _QUIET * total
            ]
            return max(b[0] for b in loud or before), sum(b[1] for b in loud or before)
        case Norm(kind="batch" | "instance", is_tracked=False):
            return math.inf, before[0][1]
        case Nonlinearity():
            return before[0][0], math.inf
        case Flatten():
            return _MANY
        case Concat() | Product():
            return min(b[0] for b in before), math.inf
        case _:
            return before[0] if len(before) == 1 else _MANY
