"""The batch that a command sends through a model: read from a file, or made up."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise import _checks
from equipoise.cli.files import read_data
from equipoise.cli.imported import imported
from equipoise.errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from torch import nn

ROWS = 256
LARGEST_SEED = 2**63 - 1
_MOST_ENTRIES = 2**31


@dataclass(frozen=True, eq=False)
class Batch:
    """What goes into a model, and what should come out.

    Attributes:
        inputs: as ``initialize`` takes them.
        targets: None where there are none.
        rows: number of rows.
    """

    inputs: Any
    targets: Any
    rows: int


def make_batch(
    model: "nn.Module", shapes: Sequence[str], data: Path | None, rows: int, seed: int
) -> Batch:
    """Rows of a file, or normal entries of mean 0 and variance 1 of the shapes given.

    Args:
        model: whose dtype floating-point inputs get.
        shapes: of one input without the batch, one text for each argument of forward.
        data: a file to read in place of made-up inputs.
        rows: to take at most, at random, or to make.
        seed: of both.

    Returns:
        The batch; without shapes and file its inputs are None.

    Raises:
        ArgumentError: for both shapes and file, or if either cannot be used.
    """
    import torch

    _checks.at_least("--rows", rows, 1, f"Leave it out for {ROWS}.")
    generator = torch.Generator().manual_seed(seed)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if data is not None:
        if shapes:
            raise ArgumentError(
                f"--input must be left out where --data is given, got {', '.join(shapes)}. "
                "The file tells the shape."
            )
        return _from_file(data, rows, dtype, generator)
    if not shapes:
        return Batch(None, None, ROWS)
    parsed = [_shape(text, rows) for text in shapes]
    made = tuple(torch.randn(rows, *shape, generator=generator).to(dtype) for shape in parsed)
    return Batch(made, None, rows)


def read_loss(
    loss: str, classes: int | None, batch: Batch, seed: int
) -> tuple[Callable[..., Any] | None, Any]:
    """The loss and its targets; made-up targets where only the number of classes is given.

    Args:
        loss: ``cross_entropy``, ``mse``, package.module:function, or '' for none.
        classes: number of classes.
        batch: that the targets belong to.
        seed: of made-up targets.

    Returns:
        The loss, None where the targets tell it or there is none, and the targets.

    Raises:
        ArgumentError: if the loss needs targets that are not there, or they do not fit.
    """
    import torch
    from torch.nn import functional as F

    targets = batch.targets
    if classes is not None:
        _checks.at_least("--classes", classes, 2, "Count the classes of the targets.")
        if targets is None:
            generator = torch.Generator().manual_seed(seed)
            targets = torch.randint(classes, (batch.rows,), generator=generator)
        elif targets.is_floating_point() or not 0 <= int(targets.min()) <= int(targets.max()) < (
            classes
        ):
            raise ArgumentError(
                f"targets must be integers from 0 to {classes - 1} for --classes {classes}, got "
                f"{targets.dtype} from {targets.min():g} to {targets.max():g}. Number the classes "
                "from 0."
            )
    match loss:
        case "":
            return None, targets
        case "cross_entropy" | "mse":
            if targets is None:
                way = "--classes, or --data" if loss == "cross_entropy" else "--data"
                raise ArgumentError(
                    f"--loss {loss} must have targets, got none. Pass {way} with 'targets'."
                )
            return (F.cross_entropy if loss == "cross_entropy" else F.mse_loss), targets
        case _ if ":" in loss:
            return imported(loss, "--loss"), targets
        case _:
            raise ArgumentError(
                f"--loss must be cross_entropy, mse or package.module:function, got {loss!r}. "
                "Name a function of (outputs, targets) behind a colon."
            )


def _from_file(path: Path, rows: int, dtype: "torch.dtype", generator: "torch.Generator") -> Batch:
    import torch

    inputs, targets = read_data(path)
    held = inputs if isinstance(inputs, dict) else {"inputs": inputs}
    first, leading = next(iter(held.items()))
    if leading.dim() == 0 or not len(leading):
        raise ArgumentError(
            f"{first!r} of --data must have rows, got shape {tuple(leading.shape)}. "
            "Save a batch: the first axis counts its rows."
        )
    count = len(leading)
    if targets is not None and (targets.dim() == 0 or len(targets) != count):
        raise ArgumentError(
            f"targets of --data must have a row for each of {count} inputs, got shape "
            f"{tuple(targets.shape)}. Save both in the same order."
        )
    # Files are often sorted: the first rows may all be of one kind.
    chosen = torch.randperm(count, generator=generator)[:rows].sort().values

    def of(tensor: torch.Tensor) -> torch.Tensor:
        taken = tensor[chosen] if tensor.dim() and len(tensor) == count else tensor
        return taken.to(dtype) if taken.is_floating_point() else taken

    read = {name: of(tensor) for name, tensor in held.items()}
    wanted = targets if targets is None else of(targets)
    return Batch(read if isinstance(inputs, dict) else read["inputs"], wanted, len(chosen))


def _shape(text: str, rows: int) -> tuple[int, ...]:
    try:
        shape = tuple(int(n) for n in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ArgumentError(
            f"--input must be positive integers with commas between, got {text!r}. "
            "Give the shape of one input without the batch, such as 16 or 3,32,32."
        )
    if rows * math.prod(shape) > _MOST_ENTRIES:
        raise ArgumentError(
            f"--input must make at most {_MOST_ENTRIES} entries with --rows {rows}, got {text!r}. "
            "Use fewer rows."
        )
    return shape
