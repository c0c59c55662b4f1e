"""Values of an exported graph that depend on no parameter and no floating-point input."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from equipoise.torch.graph import op_name
from equipoise.torch.pointwise import is_cast

_MOVES = frozenset({"unsqueeze", "expand", "slice", "cat", "view", "reshape", "mul"})
# What they make depends on the shape of what they are given, and on no value of it.
OF_SHAPE_ALONE = frozenset(
    {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
     "new_empty"}
)  # fmt: skip
# Additive masks are no signal: what they add is minus infinity or the least number of a type.
MASKS = -1e4
# Larger constants are not evaluated: masks of long sequences.
_MOST_ENTRIES = 1 << 22
_MOST_ROWS = 16


def mean_square(numbers: torch.Tensor, is_divisor: bool = False) -> float:
    """Second moment of numbers, or of 1 over them; nan where that is not finite."""
    found = float((1.0 / numbers if is_divisor else numbers).square().mean())
    return found if math.isfinite(found) else math.nan


class Constants:
    """Values of graph nodes that depend on no parameter and no floating-point input.

    Args:
        known: values of placeholders: buffers, lifted constants and integer inputs.
    """

    def __init__(self, known: Mapping[fx.Node, torch.Tensor]) -> None:
        self._values: dict[fx.Node, Any] = dict(known)
        self._same: dict[fx.Node, fx.Node] = {}

    def is_same(self, node: fx.Node, other: fx.Node) -> None:
        """Say that a graph node stands for what another one makes."""
        self._same[node] = other

    def numbers(self, node: object) -> torch.Tensor | None:
        """Entries of a constant in float64, None where they are not known or there are none."""
        value = self._value(node) if isinstance(node, fx.Node) else None
        if not isinstance(value, torch.Tensor) or value.is_meta or not value.numel():
            return None
        return value.detach().double()

    def mean_square(self, node: fx.Node, is_divisor: bool = False) -> float:
        """Second moment of a constant without its masking entries, or of 1 over it.

        Nan where it is not known.
        """
        value = self._value(node)
        if not isinstance(value, torch.Tensor) or value.is_meta or not value.numel():
            return math.nan if is_divisor else self._by_name(node)
        numbers = value.detach().double().flatten()
        if is_divisor:
            return mean_square(numbers, is_divisor)
        numbers = numbers[torch.isfinite(numbers) & (numbers > MASKS)]
        return mean_square(numbers) if numbers.numel() else 0.0

    def mean(self, node: fx.Node) -> float:
        """Mean of a constant, nan where it is not known."""
        numbers = self.numbers(node)
        return math.nan if numbers is None else float(numbers.mean())

    def same_everywhere(self, node: fx.Node) -> float | None:
        """The number that all entries of a constant are, None where they are not one."""
        if self._same.get(node, node).op != "call_function":
            return None
        numbers = self.numbers(node)
        if numbers is None or not bool((numbers == numbers.flatten()[0]).all()):
            return None
        return float(numbers.flatten()[0])

    def least(self, node: fx.Node) -> float:
        """Least entry of a constant, nan where it is not known."""
        numbers = self.numbers(node)
        return math.nan if numbers is None else float(numbers.min())

    def visible(self, node: fx.Node) -> float:
        """Mean over rows of 1 / (entries that a mask lets pass); 0 where it is not known."""
        mask = self._value(node)
        if not isinstance(mask, torch.Tensor) or mask.is_meta or not mask.numel():
            return 0.0
        passes = mask if mask.dtype == torch.bool else mask > MASKS
        seen = passes.reshape(-1, passes.shape[-1]).sum(dim=1).double()
        seen = seen[seen > 0]
        return float((1.0 / seen).mean()) if len(seen) else 0.0

    def alike(self, node: fx.Node | None) -> float:
        """Chance that two entries of a row of an index are the same, 0 where it is not known."""
        value = self._value(node) if node is not None else None
        if not isinstance(value, torch.Tensor) or value.is_meta or value.numel() < 2:
            return 0.0
        rows = value.detach().reshape(-1, value.shape[-1]) if value.dim() else value.reshape(1, 1)
        shares = []
        for row in rows[:_MOST_ROWS]:
            _, counts = torch.unique(row, return_counts=True)
            total = len(row)
            pairs = float((counts * (counts - 1)).sum())
            shares.append(pairs / (total * (total - 1)) if total > 1 else 0.0)
        return sum(shares) / len(shares)

    def _value(self, node: fx.Node) -> Any:
        # From the inputs on: a long chain must not exhaust Python's own stack.
        waiting = [node]
        while waiting:
            top = waiting[-1]
            same = self._same.get(top)
            needed = [] if op_name(top) in OF_SHAPE_ALONE else top.all_input_nodes
            needed = needed if same is None else [same]
            missing = [n for n in needed if n not in self._values]
            if top in self._values or not missing:
                if top not in self._values:
                    self._values[top] = self._run(top) if same is None else self._values[same]
                waiting.pop()
            else:
                waiting += missing
        return self._values[node]

    def _run(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if node.op != "call_function" or not callable(node.target):
            return None
        if isinstance(value, torch.Tensor) and value.numel() > _MOST_ENTRIES:
            return None
        if op_name(node) in OF_SHAPE_ALONE:
            return _of_shape(node)
        if any(self._values[n] is None for n in node.all_input_nodes):
            return None
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            return None
        args = fx.node.map_arg(node.args, self._values.__getitem__)
        kwargs = fx.node.map_arg(dict(node.kwargs), self._values.__getitem__)
        # On another device there may be nothing to run on.
        kwargs = {k: "cpu" if k == "device" and v is not None else v for k, v in kwargs.items()}
        try:
            with torch.no_grad():
                return node.target(*args, **kwargs)
        # A constant that cannot be computed here is simply not known.
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            return None

    def _by_name(self, node: fx.Node) -> float:
        """Cosines and sines of unknown angles have second moment one half."""
        while True:
            node = self._same.get(node, node)
            if op_name(node) in ("cos", "sin"):
                return 0.5
            inputs = [
                n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)
            ]
            moves = is_cast(node) or op_name(node) in _MOVES
            if node.op != "call_function" or not moves or not inputs:
                return math.nan
            node = inputs[0]


def _of_shape(node: fx.Node) -> torch.Tensor | None:
    """What an operation makes of a shape."""
    name, value = op_name(node), node.meta["val"]
    filled: object = float("ones" in name)
    if "full" in name:
        filled = node.args[1 if name == "full_like" else 2]
    if not isinstance(filled, bool | int | float):
        return None
    return torch.full(value.shape, filled, dtype=value.dtype)
