"""Exported graphs: names, shapes and modules of their nodes, and which of them share memory."""

from collections.abc import Mapping
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


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of a tensor in the graph; None for anything else (tuples, numbers)."""
    value = node.meta.get("val")
    return tuple(int(n) for n in value.shape) if isinstance(value, torch.Tensor) else None


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


class Memory:
    """Follows in-place operations and views in the order of computation."""

    def __init__(self) -> None:
        self._result: dict[fx.Node, fx.Node] = {}
        self._root: dict[fx.Node, fx.Node] = {}
        self._views: dict[fx.Node, list[fx.Node]] = {}

    def now(self, node: fx.Node) -> fx.Node:
        """The node that holds what stands in a node's memory by now."""
        while node in self._result:
            node = self._result[node]
        return node

    def sharing(self, node: fx.Node) -> list[fx.Node]:
        """All whose memory a write to this one changes, empty if there is only itself."""
        root = self._root.get(node, node)
        views = self._views.get(root, [])
        return [root, *views] if views else []

    def follow(self, node: fx.Node) -> None:
        """Take note of an operation, if it writes in place or makes a view."""
        written = written_operand(node)
        if written is not None:
            self._root[node] = self._root.get(written, written)
            self._result[self.now(written)] = node
        elif _is_view(node):
            source = first_operand(node)
            self._root[node] = self._root.get(source, source)
            self._views.setdefault(self._root[node], []).append(node)


def _is_view(node: fx.Node) -> bool:
    """Whether a result may share memory with the first operand."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if op_name(node) in _PERHAPS_VIEWS:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return any(r.alias_info is not None for r in node.target._schema.returns)
