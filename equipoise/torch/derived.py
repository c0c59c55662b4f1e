"""What graph nodes make of parameters before a value meets them."""

from dataclasses import dataclass, replace

import torch
from torch import fx

from equipoise.torch.axes import is_reshape
from equipoise.torch.graph import op_name, shape_of, written_operand
from equipoise.torch.pointwise import is_cast, is_pointwise

_EXPANSIONS = frozenset({"expand", "expand_as", "repeat", "broadcast_to"})
_PARTS = frozenset(
    {"split", "split_with_sizes", "unsafe_split", "chunk", "tensor_split", "unbind", "slice",
     "narrow"}
)  # fmt: skip
_TURNS = frozenset({"t", "numpy_T", "transpose", "permute", "mT", "swapaxes"})


@dataclass(frozen=True)
class Derived:
    """A parameter that was moved, expanded or offset before it is used.

    Attributes:
        parameter: its name.
        is_turned: whether its last two axes stand the other way round.
        offset: a number that was added to it.
        is_whole: whether its axes are its own (turned or not), and not reshaped.
        is_part: whether it is one of several matrices that stand along its first axis.
        steps: functions of entries that it, offset and all, goes through in order.
    """

    parameter: str
    is_turned: bool = False
    offset: float = 0.0
    is_whole: bool = True
    is_part: bool = False
    steps: tuple[fx.Node, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether its entries are those of the parameter."""
        return not self.offset and not self.steps

    def numbers(self, parameter: torch.Tensor) -> torch.Tensor:
        """What becomes of the entries of the parameter, in float64."""
        now = parameter.detach().double() + self.offset
        for step in self.steps:
            assert isinstance(step.target, torch._ops.OpOverload)
            args = fx.node.map_arg(step.args, lambda _: now)  # noqa: B023
            now = step.target(*args, **step.kwargs)
        return now


def derive(node: fx.Node, before: Derived) -> Derived | None:
    """What an operation makes of a parameter; None where it is no longer one.

    Args:
        node: the operation, whose first tensor operand stands for ``before``.
        before: what that is.
    """
    name = op_name(node)
    if is_cast(node) or name in ("clone", "contiguous", "detach", "alias", "lift_fresh_copy"):
        return before
    if name in _TURNS and before.is_whole:
        source = next(iter(node.all_input_nodes))
        first, shape = shape_of(source), shape_of(node)
        if first and shape and _swaps_last(node, first, shape):
            return replace(before, is_turned=not before.is_turned)
        return replace(before, is_whole=False)
    if name in _PARTS or (name == "select" and not before.is_whole):
        return replace(before, is_whole=False)
    if name == "select" and not before.is_part and _index(node, 1) == 0:
        several = len(shape_of(node.all_input_nodes[0]) or ()) == 3
        return replace(before, is_part=True) if several else replace(before, is_whole=False)
    if (
        name in _EXPANSIONS
        or name.lstrip("_").startswith("upsample")
        or is_reshape(node)
        or name in ("unsqueeze", "squeeze", *_TURNS)
    ):
        return (
            before
            if shape_of(node) == shape_of(node.all_input_nodes[0])
            else replace(before, is_whole=False)
        )
    if name in ("add", "sub") and len(node.all_input_nodes) == 1 and not before.steps:
        numbers = [a for a in node.args if isinstance(a, int | float)]
        if len(numbers) == 1 and (name == "add" or node.args[1] == numbers[0]):
            sign = 1.0 if name == "add" else -1.0
            return replace(before, offset=before.offset + sign * float(numbers[0]))
    if _is_function(node):
        return replace(before, steps=(*before.steps, node))
    return None


def _swaps_last(node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether the last two axes, and no others, change places."""
    rank = len(before)
    if rank < 2 or after != (*before[:-2], before[-1], before[-2]):
        return False
    given = node.args[1:]
    if op_name(node) in ("t", "numpy_T", "mT"):
        return rank == 2 or op_name(node) == "mT"
    if op_name(node) == "permute":
        order = given[0] if given else None
        turned = [*range(rank - 2), rank - 1, rank - 2]
        return isinstance(order, list | tuple) and [int(str(i)) % rank for i in order] == turned
    axes = {int(str(i)) % rank for i in given[:2]}
    return axes == {rank - 1, rank - 2}


def _index(node: fx.Node, place: int) -> object:
    return node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)


def _is_function(node: fx.Node) -> bool:
    """Whether an operation makes one number of each entry, and of nothing else."""
    if not is_pointwise(node) or len(node.all_input_nodes) != 1 or written_operand(node):
        return False
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()
