"""The rows that starts are compared on: to train on, to choose a learning rate on, to test on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from equipoise.errors import ArgumentError

_FORMS = "(x, y) or ((x_train, y_train), (x_test, y_test))"
_LEAST = 4


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs and targets; the first axis of both counts the rows.

    Attributes:
        x: inputs, shape (rows, ...).
        y: targets, shape (rows, ...).
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)

    def at(self, index: torch.Tensor) -> "Rows":
        """The rows of these numbers."""
        return Rows(self.x[index], self.y[index])

    def to(self, device: torch.device) -> "Rows":
        """The same rows on a device."""
        return Rows(self.x.to(device), self.y.to(device))

    def pieces(self, size: int) -> Iterator["Rows"]:
        """The same rows in order, ``size`` at a time."""
        for x, y in zip(torch.split(self.x, size), torch.split(self.y, size), strict=True):
            yield Rows(x, y)

    def parted(self, share: float, seed: int, name: str) -> tuple["Rows", "Rows"]:
        """Two parts, drawn at random: what remains, and a share of at least one row.

        Raises:
            ArgumentError: naming the share, if it leaves too few rows to train on.
        """
        held = max(1, round(share * len(self)))
        if not 0 < share < 1 or len(self) - held < _LEAST:
            raise ArgumentError(
                f"{name} must be above 0 and leave at least {_LEAST} of {len(self)} rows, got "
                f"{share}. Pass a share such as 0.2, or more rows."
            )
        # Files are often sorted: the last rows may all be of one kind.
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.at(order[held:]), self.at(order[:held])


def read_rows(data: Any, test_share: float, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on and rows to test on.

    Args:
        data: ``(x, y)``, of which a share is held back, or ``((x, y), (x, y))``.
        test_share: what is held back of one part.
        seed: of that choice.

    Returns:
        Both parts.

    Raises:
        ArgumentError: if the data have another form, or inputs and targets differ in rows.

    >>> both = read_rows((torch.zeros(10, 3), torch.zeros(10)), 0.2, 0)
    >>> [len(part) for part in both]
    [8, 2]
    """
    if not isinstance(data, list | tuple) or len(data) != 2:
        got = f"{type(data).__name__}" + (f" of {len(data)}" if hasattr(data, "__len__") else "")
        raise ArgumentError(f"data must be {_FORMS}, got {got}. Return two tensors.")
    if all(isinstance(part, list | tuple) and len(part) == 2 for part in data):
        return _rows(data[0], "data[0]"), _rows(data[1], "data[1]")
    return _rows(data, "data").parted(test_share, seed, "test_share")


def _rows(pair: Any, name: str) -> Rows:
    for value in pair:
        if not isinstance(value, torch.Tensor):
            raise ArgumentError(
                f"{name} must hold tensors, got {type(value).__name__}: {_FORMS}. "
                "Wrap arrays in torch.as_tensor."
            )
    x, y = pair
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    if not x.dim() or not y.dim() or len(x) != len(y) or not len(x):
        raise ArgumentError(
            f"{name} must hold as many targets as inputs, at least one, got shapes {shapes}. "
            "The first axis of both counts the rows."
        )
    return Rows(x.detach(), y.detach())
