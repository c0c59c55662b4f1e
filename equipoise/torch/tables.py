"""Parameters that stand for values themselves: embeddings, tokens, tables of positions."""

from torch import fx

from equipoise.plan.nodes import Lookup
from equipoise.torch.graph import layer_of, op_name, shape_of
from equipoise.torch.reading import Reading

_LOOKUPS = frozenset({"embedding", "index_select", "index", "gather"})


def read_lookup(state: Reading, node: fx.Node) -> bool:
    """Read rows of a parameter by index; whether it was that."""
    name = op_name(node)
    if name not in _LOOKUPS:
        return False
    table = state.memory.now(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    derived = state.derived.get(table) if table is not None else None
    shape, full = shape_of(node), shape_of(table) if table is not None else None
    if (
        derived is None
        or not derived.is_plain
        or not shape
        or not full
        or len(full) < 2
        or shape[-1] != full[-1]
    ):
        return False
    made = state.values.new(shape, {}, -1)
    layer = layer_of(node) or derived.parameter.rpartition(".")[0] or derived.parameter
    state.held[node] = made
    state.nodes.append(
        Lookup(
            layer, derived.parameter, made.number, made.space, full[0], full[-1],
            state.constants.alike(_index(node)), _padding(node),
        )
    )  # fmt: skip
    return True


def _index(node: fx.Node) -> fx.Node | None:
    """The operand that says which rows are read."""
    for argument in node.args[1:]:
        if isinstance(argument, fx.Node):
            return argument
        if isinstance(argument, list | tuple):
            return next((a for a in argument if isinstance(a, fx.Node)), None)
    return None


def _padding(node: fx.Node) -> int:
    """The row of an embedding that stands for padding, -1 where there is none."""
    if op_name(node) != "embedding" or len(node.args) < 3 or not isinstance(node.args[2], int):
        return -1
    return node.args[2]
