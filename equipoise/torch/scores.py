"""Which rows of a weight make the queries and keys of attention, where it makes values too.

Packed projections are cut up in many ways: in thirds, head by head, by sizes of their own. What is
done to the output of the layer is done here to the numbers of its units, and tells which are which.
"""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from equipoise.plan.nodes import Affine
from equipoise.plan.scores import find_scores
from equipoise.torch.axes import is_reshape
from equipoise.torch.graph import op_name, shape_of
from equipoise.torch.program import Read

_MOVES = frozenset(
    {"transpose", "permute", "t", "numpy_T", "mT", "swapaxes", "movedim", "unsqueeze", "squeeze",
     "split", "split_with_sizes", "unsafe_split", "chunk", "tensor_split", "slice", "select",
     "narrow", "unbind", "getitem", "contiguous", "clone", "alias", "unflatten"}
)  # fmt: skip
Ranges = tuple[tuple[int, int], ...]


def score_rows(read: Read) -> tuple[tuple[int, Ranges], ...]:
    """Rows that make queries and keys, by the number of what the layer makes.

    Args:
        read: a trace with its graph.
    """
    layers = {n.output: n for n in read.trace.nodes if isinstance(n, Affine)}
    found = []
    for output, taken in find_scores(read.trace.nodes).parts.items():
        layer, units = layers[output], set[int]()
        if layer.axis != -1:
            continue
        for value in taken:
            these = _units(read.places, output, value, layer.out_size)
            if these is None:
                break
            units |= these
        else:
            if len(units) < layer.out_size:
                found.append((output, _ranges(sorted(units))))
    return tuple(found)


def _units(places: Mapping[int, fx.Node], output: int, value: int, size: int) -> set[int] | None:
    """Units of a layer's output that a value holds, None where moves alone do not lead there."""
    start, end = places.get(output), places.get(value)
    shape = shape_of(start) if start is not None else None
    if start is None or end is None or not shape or shape[-1] != size:
        return None
    chain = [end]
    while chain[-1] is not start:
        node = chain[-1]
        if node.op != "call_function" or not (op_name(node) in _MOVES or is_reshape(node)):
            return None
        before = [n for n in node.all_input_nodes if n.op == "call_function"]
        if len(before) != 1 or len(node.all_input_nodes) != 1:
            return None
        chain.append(before[0])
    made: Any = torch.arange(size).expand(shape)
    for node in reversed(chain[:-1]):
        args: Any = fx.node.map_arg(node.args, lambda _: made)  # noqa: B023
        if node.target is operator.getitem:
            made = args[0][args[1]]
        else:
            assert callable(node.target)
            made = node.target(*args, **node.kwargs)
    return set(made.flatten().tolist()) if isinstance(made, torch.Tensor) else None


def _ranges(units: list[int]) -> Ranges:
    found: list[tuple[int, int]] = []
    for unit in units:
        if found and found[-1][1] == unit:
            found[-1] = (found[-1][0], unit + 1)
        else:
            found.append((unit, unit + 1))
    return tuple(found)
