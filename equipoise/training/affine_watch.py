"""Watching a forward pass: every linear map whose weight is a parameter, however it is called."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

# Number of axes that each operation runs over; a linear layer runs over none.
AXES: Mapping[Callable[..., Any], int] = {
    F.linear: 0,
    F.conv1d: 1,
    F.conv2d: 2,
    F.conv3d: 3,
    F.conv_transpose1d: 1,
    F.conv_transpose2d: 2,
    F.conv_transpose3d: 3,
}
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
# Products with a parameter, by the place of it among the arguments, and ways to turn one round.
PRODUCTS: Mapping[Callable[..., Any], int] = {
    torch.matmul: 1, torch.mm: 1, torch.Tensor.matmul: 1, torch.Tensor.mm: 1,
    torch.Tensor.__matmul__: 1, torch.addmm: 2,
}  # fmt: skip
_TURNS = (
    torch.t, torch.Tensor.t, torch.Tensor.T.__get__, torch.Tensor.mT.__get__,  # type: ignore[attr-defined]
    torch.transpose, torch.Tensor.transpose,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of an affine operation.

    Attributes:
        weight: name of its weight.
        output: what it returned.
        bias: its bias, or None.
        axes: number of axes that it runs over, 0 for a linear layer.
        groups: of channels.
        is_transposed: whether the weight has shape (in, out / groups, *kernel).
        is_turned: whether a matrix has its inputs on the first axis.
    """

    weight: str
    output: torch.Tensor
    bias: torch.Tensor | None = None
    axes: int = 0
    groups: int = 1
    is_transposed: bool = False
    is_turned: bool = False

    def by_unit(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight as one row of numbers for each unit, units in order of the output."""
        if self.is_transposed:
            each = len(weight) // self.groups
            split = weight.reshape(self.groups, each, *weight.shape[1:]).transpose(1, 2)
            return split.flatten(0, 1).flatten(1)
        if self.is_turned:
            return weight.T
        return weight.flatten(1)

    def values(self, tensor: torch.Tensor) -> torch.Tensor:
        """An output, or a gradient there, as (inputs, sites, units)."""
        unit_axis = tensor.dim() - 1 - self.axes
        moved = tensor.detach().movedim(unit_axis, -1)
        # Without a batch axis all of it is one input.
        inputs = len(moved) if tensor.dim() > self.axes + 1 else 1
        if moved.numel() == 0:
            return moved.new_zeros(0, 1, moved.shape[-1])
        return moved.reshape(inputs, -1, moved.shape[-1])


class Watch(TorchFunctionMode):
    """Records the output of every linear map whose weight is a parameter, however it is called."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        # Kept alive, so that no other tensor takes their place in memory.
        self._turned: dict[int, tuple[str, torch.Tensor]] = {}
        self.seen: list[Seen] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        if func in AXES:
            weight = args[1] if len(args) > 1 else given["weight"]
            if id(weight) in self._names:
                bias = args[2] if len(args) > 2 else given.get("bias")
                # The seventh argument of conv1d(input, weight, bias, stride, padding, dilation,
                # groups) and of conv_transpose1d(..., padding, output_padding, groups) alike.
                groups = args[6] if len(args) > 6 else given.get("groups", 1)
                return self._recorded(
                    Seen(self._names[id(weight)], out, bias, AXES[func], groups,
                         func in _TRANSPOSED)
                )  # fmt: skip
        elif func in PRODUCTS and len(args) > PRODUCTS[func]:
            return self._product(args, PRODUCTS[func], out)
        elif func is torch.einsum and len(args) == 3 and isinstance(args[0], str):
            return self._einsum(args[0], args[1:], out)
        elif func is torch.tensordot and len(args) > 1:
            return self._product(args, 1, out)
        elif func in _TURNS and args and id(args[0]) in self._names and args[0].dim() == 2:
            self._turned[id(out)] = self._names[id(args[0])], out
        return out

    def _matrix(self, tensor: Any) -> tuple[str, bool]:
        """Name of the parameter of two axes that a tensor is, '' for none, and whether turned."""
        if id(tensor) in self._turned:
            return self._turned[id(tensor)][0], True
        is_one = isinstance(tensor, torch.Tensor) and tensor.dim() == 2
        return self._names.get(id(tensor), "") if is_one else "", False

    def _product(self, args: tuple[Any, ...], place: int, out: torch.Tensor) -> torch.Tensor:
        """Record x @ W and x @ W.T with a parameter of two axes, and W @ x."""
        if id(args[place - 1]) in self._names and id(args[place]) in self._names:
            # A product of two parameters is a weight and no signal.
            return out
        name, turned = self._matrix(args[place])
        left, left_turned = self._matrix(args[0])
        if name:
            bias = args[0] if place == 2 else None
            return self._recorded(Seen(name, out, bias, is_turned=not turned))
        if left and place == 1 and out.dim() > 1:
            return self._recorded(Seen(left, out, axes=1, is_turned=left_turned))
        return out

    def _einsum(
        self, equation: str, operands: tuple[torch.Tensor, ...], out: torch.Tensor
    ) -> torch.Tensor:
        """Record a sum over the one axis that a matrix and a value have in common."""
        inputs, _, output = equation.replace(" ", "").partition("->")
        for word, operand in zip(inputs.split(","), operands, strict=False):
            name, turned = self._matrix(operand)
            units = [letter for letter in word if letter in output]
            if name and len(word) == 2 and len(units) == 1:
                behind = output[output.index(units[0]) + 1 :]
                axes = out.dim() - 1 - output.index(units[0]) if "." in behind else len(behind)
                is_turned = (word[1] == units[0]) != turned
                return self._recorded(Seen(name, out, axes=axes, is_turned=is_turned))
        return out

    def _recorded(self, seen: Seen) -> torch.Tensor:
        """Take a call in; what forward goes on with."""
        self.seen.append(seen)
        # An in-place activation behind it must not overwrite what is to be measured.
        return seen.output.clone()
