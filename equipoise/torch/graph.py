"""Exported graphs: names, shapes and modules of their nodes, and which of them share memory."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

# They may or may not copy: a write through one may reach the other.
_PERHAPS_VIEWS = frozenset(
    {"reshape", "flatten", "contiguous", "view_as", "reshape_as", "unflatten", "getitem"}
)


def op_name(node: fx.Node) -> str:
    """Name of an ATen operation without overload and in-place mark, such as ``leaky_relu``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].rstrip("_")
    return getattr(target, "__name__", str(target))


def written_operand(node: fx.Node) -> fx.Node | None:
    """The operand that an in-place operation writes to."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return None
    first = node.args[0] if node.args else None
    info = node.target._schema.arguments[0].alias_info
    return first if isinstance(first, fx.Node) and info is not None and info.is_write else None


def first_operand(node: fx.Node) -> fx.Node:
    """The first operand of an operation that has one."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an ATen operation by their names, defaults included."""
    assert isinstance(node.target, torch._ops.OpOverload)
    named = {}
    for place, argument in enumerate(node.target._schema.arguments):
        if place < len(node.args):
            named[argument.name] = node.args[place]
        elif argument.name in node.kwargs:
            named[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            named[argument.name] = argument.default_value
    return named


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of a tensor in the graph; None for anything else (tuples, numbers)."""
    value = node.meta.get("val")
    return tuple(int(n) for n in value.shape) if isinstance(value, torch.Tensor) else None


def shapes_of(node: fx.Node) -> dict[int, tuple[int, ...]]:
    """Shapes of all tensors that an operation makes, by their place among its results."""
    value = node.meta.get("val")
    made = value if isinstance(value, list | tuple) else (value,)
    return {
        i: tuple(int(n) for n in tensor.shape)
        for i, tensor in enumerate(made)
        if isinstance(tensor, torch.Tensor)
    }


def layer_of(node: fx.Node) -> str:
    """Name of the module whose forward made a graph node."""
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def why_not_read(node: fx.Node) -> str:
    """The reason that stands beside an operation that has no model."""
    stack = node.meta.get("nn_module_stack") or {}
    kind = list(stack.values())[-1][1] if len(stack) > 1 else ""
    kind = kind if isinstance(kind, str) else kind.__name__
    kind = kind.rpartition(".")[-1]
    operation = f"operation {op_name(node)!r}"
    return f"{operation} of {kind} is not modelled" if kind else f"{operation} is not modelled"


def region_body(node: fx.Node) -> tuple[fx.Graph, tuple[fx.Node, ...]] | None:
    """The graph of a region under autocast or without gradients and what is passed to it.

    None for any other node.
    """
    match op_name(node):
        case "wrap_with_autocast":
            _device, _dtype, _is_enabled, _caches, body, *given = node.args
        case "wrap_with_set_grad_enabled":
            _is_enabled, body, *given = node.args
        case _:
            return None
    assert isinstance(body, fx.Node)
    assert isinstance(body.target, str)
    module = getattr(node.graph.owning_module, body.target)
    return module.graph, tuple(a for a in given if isinstance(a, fx.Node))


def in_order(graph: fx.Graph) -> Iterator[fx.Node]:
    """Nodes in the order of computation, those of regions before their region."""
    for node in graph.nodes:
        body = region_body(node) if node.op == "call_function" else None
        if body is not None:
            yield from in_order(body[0])
        yield node


class Memory:
    """Follows in-place operations and views in the order of computation.

    Args:
        nodes: all operations in that order.
    """

    def __init__(self, nodes: Iterable[fx.Node]) -> None:
        self._place = {node: i for i, node in enumerate(nodes)}
        self._result: dict[fx.Node, fx.Node] = {}
        self._root: dict[fx.Node, fx.Node] = {}
        self._views: dict[fx.Node, list[fx.Node]] = {}

    def now(self, node: fx.Node) -> fx.Node:
        """The node that holds what stands in a node's memory by now."""
        while node in self._result:
            node = self._result[node]
        return node

    def place(self, node: fx.Node) -> int:
        """Place of an operation in the order of computation."""
        return self._place[node]

    def sharing(self, write: fx.Node, written: fx.Node) -> list[fx.Node]:
        """All whose memory a write changes, if any but what is written is read later; else none."""
        root = self._root.get(written, written)
        everyone = [root, *self._views.get(root, [])]
        own = self._stages(written)
        others = (stage for n in everyone for stage in self._stages(n) if stage not in own)
        is_read_later = any(
            self._place[user] > self._place[write] for n in others for user in n.users
        )
        return everyone if is_read_later else []

    def _stages(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that held one after another what stood in a node's memory."""
        stages = [node]
        while stages[-1] in self._result:
            stages.append(self._result[stages[-1]])
        return stages

    def is_view_of(self, node: fx.Node, source: fx.Node) -> None:
        """Take note that a node shares the memory of another."""
        self._root[node] = self._root.get(source, source)
        self._views.setdefault(self._root[node], []).append(node)

    def follow(self, node: fx.Node) -> None:
        """Take note of an operation, if it writes in place or makes a view."""
        written = written_operand(node)
        if written is not None:
            self._root[node] = self._root.get(written, written)
            self._result[self.now(written)] = node
        elif _is_view(node):
            self.is_view_of(node, first_operand(node))


def _is_view(node: fx.Node) -> bool:
    """Whether a result may share memory with the first operand."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if op_name(node) in _PERHAPS_VIEWS:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return any(r.alias_info is not None for r in node.target._schema.returns)
