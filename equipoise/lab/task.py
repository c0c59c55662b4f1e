"""What a trainer asks of a task, whether it is a classification or a regression."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from equipoise import _checks
from equipoise.errors import ArgumentError

# Outputs of R replicas, shape (R, B, outputs), for inputs of shape (R, B, ...), or (B, ...) where
# every replica sees the same rows.
Forward = Callable[[torch.Tensor], torch.Tensor]

# A test part of thousands of images would not fit as one batch of many replicas.
MOST_ROWS = 512


class Task(Protocol):
    """Rows to train on, rows to test on, and how replicas are judged on them."""

    @property
    def x_train(self) -> torch.Tensor:
        """Inputs to train on, float32, the rows first."""

    @property
    def x_test(self) -> torch.Tensor:
        """Inputs to test on, float32, the rows first."""

    @property
    def rows(self) -> int:
        """Number of rows to train on."""

    @property
    def features(self) -> int:
        """Numbers in one input."""

    @property
    def outputs(self) -> int:
        """Outputs that a network needs: classes, or columns of targets."""

    @property
    def score_name(self) -> str:
        """What ``scores`` measures."""

    @property
    def needs_derivatives(self) -> bool:
        """Whether losses differentiate the network by its inputs, as those of equations do."""

    def losses(self, call: Forward, batch: torch.Tensor) -> torch.Tensor:
        """Mean loss of each replica on its own batch, shape (R,), for row numbers (R, B)."""

    def scores(self, call: Forward) -> torch.Tensor:
        """Score of each replica on the test part, shape (R,); higher is better."""

    def validation(self, rows: int) -> "Task":
        """The same task with the last rows of its training part for a test part."""


def chunks(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of a test part in their order, at most 512 at a time.

    >>> [len(x) for x, _ in chunks(torch.zeros(1200, 3), torch.zeros(1200))]
    [512, 512, 176]
    """
    return zip(torch.split(x, MOST_ROWS), torch.split(y, MOST_ROWS), strict=True)


def held_back(rows: int, of: int) -> int:
    """The number of rows to hold back from training.

    Args:
        rows: as asked for, 1 to ``of`` - 1.
        of: rows to train on.

    Returns:
        ``rows``.

    Raises:
        ArgumentError: if no rows would be left to train on.

    >>> held_back(200, 1400)
    200
    """
    _checks.at_least("rows", rows, 1)
    if rows >= of:
        raise ArgumentError(
            f"rows must be below the {of} training rows, got {rows}. Hold back fewer."
        )
    return rows
