"""Linear maps written as products of a value with a parameter."""

from torch import fx

from equipoise.schemes.convolution import DENSE
from equipoise.torch.derived import Derived
from equipoise.torch.graph import layer_of, op_name, shape_of
from equipoise.torch.layers import affine
from equipoise.torch.reading import Reading


def read_matmul(state: Reading, node: fx.Node) -> bool:
    """Read x @ W, x @ W.T and b + x @ W with a parameter of two axes; whether it was that."""
    name = op_name(node)
    if name in ("matmul", "mm", "bmm"):
        left, right, bias = node.args[0], node.args[1], None
    elif name == "addmm" and not node.kwargs:
        bias, left, right = node.args[:3]
    else:
        return False
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return False
    source, weight = state.memory.now(left), state.memory.now(right)
    derived = state.derived.get(weight)
    if derived is None or not state.is_read(source) or not _is_matrix(state, derived):
        return False
    offset = ""
    if bias is not None:
        found = state.parameter_named(bias)
        if not found:
            return False
        offset = found
    names = (layer_of(node) or derived.parameter.rpartition(".")[0] or derived.parameter,
             derived.parameter, offset)  # fmt: skip
    # A parameter that stands as it is has its inputs on the first axis.
    made, layer = affine(
        state.values, state.value(source), shape_of(node) or (), DENSE, names,
        is_turned=not derived.is_turned,
    )  # fmt: skip
    state.held[node] = made
    state.nodes.append(layer)
    return True


def _is_matrix(state: Reading, derived: Derived) -> bool:
    is_whole = derived.is_whole and not derived.offset
    return is_whole and state.tensors[derived.parameter].dim() == 2
