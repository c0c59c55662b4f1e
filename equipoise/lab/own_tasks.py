"""Regressions of one shape, one for each replica: draws of a study that differ in the task too."""

import math
from dataclasses import dataclass, field

import torch

from equipoise.errors import ArgumentError
from equipoise.lab.regression import Regression
from equipoise.lab.task import MOST_ROWS, Forward


@dataclass(frozen=True, eq=False)
class OwnTasks:
    """Replica i is trained and tested on task i.

    Attributes:
        tasks: of one shape, one for each replica.

    Raises:
        ArgumentError: for no task, or shapes that differ.
    """

    tasks: tuple[Regression, ...]
    _x: torch.Tensor = field(init=False, repr=False)
    _y: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shapes = {
            tuple(tuple(part.shape) for part in (t.x_train, t.y_train, t.x_test, t.y_test))
            for t in self.tasks
        }
        if len(shapes) != 1:
            raise ArgumentError(
                f"tasks must be one or more of one shape, got {len(self.tasks)} of {len(shapes)} "
                "shapes. Make them with the same numbers of rows, inputs and outputs."
            )
        # Stacked once: every step gathers from them.
        object.__setattr__(self, "_x", torch.stack([t.x_train for t in self.tasks]))
        object.__setattr__(self, "_y", torch.stack([t.y_train for t in self.tasks]))

    @property
    def x_train(self) -> torch.Tensor:
        """Inputs of the first task: all have its shape."""
        return self.tasks[0].x_train

    @property
    def x_test(self) -> torch.Tensor:
        """Test inputs of the first task."""
        return self.tasks[0].x_test

    @property
    def rows(self) -> int:
        """Number of rows of each to train on."""
        return self.tasks[0].rows

    @property
    def features(self) -> int:
        """Numbers in one input."""
        return self.tasks[0].features

    @property
    def outputs(self) -> int:
        """Outputs that a network needs."""
        return self.tasks[0].outputs

    @property
    def score_name(self) -> str:
        """What ``scores`` measures."""
        return self.tasks[0].score_name

    @property
    def needs_derivatives(self) -> bool:
        """False: the loss is one of outputs alone."""
        return False

    def losses(self, call: Forward, batch: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each replica on its own batch of its own task.

        Args:
            call: outputs of the replicas, shape (R, B, outputs), for inputs of shape (R, B, ...).
            batch: int64 numbers of training rows, shape (R, B).

        Returns:
            Shape (R,).
        """
        own = torch.arange(len(batch))[:, None]
        return (call(self._x[own, batch]) - self._y[own, batch]).square().mean((1, 2))

    def scores(self, call: Forward) -> torch.Tensor:
        """Share of the variance of its own test targets that each replica explains.

        Args:
            call: outputs of the replicas, shape (R, B, outputs), for inputs of shape (R, B, ...).

        Returns:
            Shape (R,), at most 1; -inf where the squared error is not finite.
        """
        x = torch.stack([t.x_test for t in self.tasks])
        y = torch.stack([t.y_test for t in self.tasks])
        parts = zip(torch.split(x, MOST_ROWS, 1), torch.split(y, MOST_ROWS, 1), strict=True)
        error = sum((call(a) - b).square().sum((1, 2)) for a, b in parts)
        assert isinstance(error, torch.Tensor)
        share = 1 - error / (y - y.mean(1, keepdim=True)).square().sum((1, 2))
        return torch.where(torch.isfinite(share), share, -math.inf)

    def validation(self, rows: int) -> "OwnTasks":
        """The same tasks with the last rows of their training parts for test parts.

        Raises:
            ArgumentError: if no rows would be left to train on.
        """
        return OwnTasks(tuple(task.validation(rows) for task in self.tasks))
