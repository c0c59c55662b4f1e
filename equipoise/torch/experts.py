"""Linear maps by one of several matrices that stand in one parameter, such as experts."""

from dataclasses import replace
from typing import Any

from torch import fx

from equipoise.schemes.convolution import DENSE
from equipoise.torch.derived import Derived
from equipoise.torch.graph import layer_of, op_name, shape_of
from equipoise.torch.layers import affine
from equipoise.torch.reading import Reading

_GROUPED = frozenset({"_grouped_mm", "grouped_mm", "grouped_mm_fallback", "bmm", "matmul", "mm"})


def read_experts(state: Reading, node: fx.Node) -> bool:
    """Read x W_e, all experts at once or one of them; whether it was that.

    Every expert is one matrix: its fans are those of the matrix, and none is drawn like another.
    """
    name = op_name(node)
    if name == "linear":
        args = [*node.args, *node.kwargs.values()]
        source, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
    elif name in _GROUPED and len(node.args) >= 2:
        (source, weight), bias = node.args[:2], None
    else:
        return False
    found = _several(state, weight)
    if found is None or not isinstance(source, fx.Node) or not state.is_read(source):
        return False
    derived, count = found
    offset = ""
    if bias is not None:
        named = state.derived.get(state.memory.now(bias)) if isinstance(bias, fx.Node) else None
        if named is None or named.offset:
            return False
        offset = named.parameter
    held, shape = state.value(state.memory.now(source)), shape_of(node) or ()
    # x @ W has its inputs on the first axis of each matrix, F.linear on the second.
    is_turned = derived.is_turned == (name == "linear")
    names = (layer_of(node) or derived.parameter.rpartition(".")[0] or derived.parameter,
             derived.parameter, offset)  # fmt: skip
    made, layer = affine(state.values, held, shape, DENSE, names, is_turned=is_turned)
    state.held[node] = made
    state.nodes.append(replace(layer, several=count))
    return True


def _several(state: Reading, node: Any) -> tuple[Derived, int] | None:
    """The parameter of three axes that a node is, or is one matrix of, and how many it holds."""
    derived = state.derived.get(state.memory.now(node)) if isinstance(node, fx.Node) else None
    if derived is None or not derived.is_whole or derived.offset:
        return None
    shape = tuple(state.tensors[derived.parameter].shape)
    used = shape_of(node) or ()
    if len(shape) != 3 or len(used) != (2 if derived.is_part else 3):
        return None
    return derived, shape[0]
