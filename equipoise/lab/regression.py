"""Regression tasks: the data, how replicas are judged, and noise in the targets."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.task import Forward, chunks, held_back

# A stream of its own: data and noise stay independent where a caller gives both one seed.
_NOISE = 2


@dataclass(frozen=True, eq=False)
class Regression:
    """A regression task.

    Attributes:
        x_train, x_test: float32, shape (rows, features); each column less the mean of its training
            part, over that part's standard deviation (a constant column is only centred).
        y_train, y_test: float32, shape (rows, outputs), each column standardized likewise: on the
            training part, always answering the mean has a mean squared error of 1.

    Raises:
        ArgumentError: if shapes do not fit, or the test targets are constant.
    """

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor

    def __post_init__(self) -> None:
        for part, x, y in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            if y.ndim != 2 or len(y) != len(x) or not len(y):
                raise ArgumentError(
                    f"y_{part} must have shape (rows, outputs) with a row for each of the "
                    f"{len(x)} of x_{part}, at least one, got {tuple(y.shape)}. "
                    "A single target is a column: y[:, None]."
                )
        if self.y_train.shape[1] != self.y_test.shape[1]:
            raise ArgumentError(
                f"y_test must have the {self.y_train.shape[1]} columns of y_train, got "
                f"{self.y_test.shape[1]}. Pass the same targets."
            )
        # Rounding gives equal rows a variance above 0.
        if bool((self.y_test == self.y_test[0]).all()):
            raise ArgumentError(
                f"y_test must vary, so that there is variance to explain, got {len(self.y_test)} "
                "equal rows. Test on more rows."
            )

    @property
    def rows(self) -> int:
        """Number of rows to train on."""
        return len(self.x_train)

    @property
    def features(self) -> int:
        """Numbers in one input."""
        return math.prod(self.x_train.shape[1:])

    @property
    def outputs(self) -> int:
        """Outputs that a network needs: one for each column of targets."""
        return int(self.y_train.shape[1])

    @property
    def score_name(self) -> str:
        """What ``scores`` measures."""
        return "variance explained"

    @property
    def needs_derivatives(self) -> bool:
        """False: the loss is one of outputs alone."""
        return False

    def losses(self, call: Forward, batch: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each replica on its own batch, over rows and columns.

        Args:
            call: outputs of the replicas, shape (R, B, outputs), for inputs of shape (R, B, ...).
            batch: int64 numbers of training rows, shape (R, B).

        Returns:
            Shape (R,).
        """
        return (call(self.x_train[batch]) - self.y_train[batch]).square().mean((1, 2))

    def scores(self, call: Forward) -> torch.Tensor:
        """Share of the test targets' variance that each replica explains, 1 - MSE / Var(y).

        All columns are summed in both; Var(y) is about the test part's own means, so that no
        constant answer scores above 0.

        Args:
            call: outputs of the replicas, shape (R, B, outputs), for inputs of shape (B, ...) that
                every replica sees, B at most 512. The caller turns gradients off.

        Returns:
            Shape (R,), at most 1; -inf where the squared error is not finite.
        """
        errors = [(call(x) - y).square().sum((1, 2)) for x, y in chunks(self.x_test, self.y_test)]
        share = 1 - torch.stack(errors).sum(0) / _scatter(self.y_test)
        return torch.where(torch.isfinite(share), share, -math.inf)

    def validation(self, rows: int) -> "Regression":
        """The same task with the last rows of its training part for a test part.

        Raises:
            ArgumentError: if no rows would be left to train on, or the targets of those held back
                are all the same.
        """
        held_back(rows, self.rows)
        return Regression(
            self.x_train[:-rows], self.y_train[:-rows], self.x_train[-rows:], self.y_train[-rows:]
        )

    def with_target_noise(self, scale: float, seed: int = 0) -> "Regression":
        """The task with Gaussian noise on its training targets.

        Rows that ``validation`` holds back later are training rows too: hold them back first where
        they should keep their targets. Targets are not standardized again.

        Args:
            scale: standard deviation of the noise in that of the training targets, not negative.
            seed: of the noise.

        Returns:
            The noisy task; its test part is untouched.
        """
        _checks.at_least("seed", seed, 0)
        _checks.not_negative("scale", scale)
        noise = np.random.default_rng([seed, _NOISE]).standard_normal(tuple(self.y_train.shape))
        return replace(self, y_train=self.y_train + scale * torch.from_numpy(noise).float())


def standardized(x: np.ndarray, y: np.ndarray, train_rows: int) -> Regression:
    """The first rows to train on, the others to test on, standardized by the former.

    Each column of inputs and targets is centred at the mean of its training part and divided by
    that part's standard deviation, since columns may have different units; a column of inputs that
    is constant there is only centred.

    Args:
        x: finite, shape (rows, features).
        y: finite, shape (rows,) or (rows, outputs).
        train_rows: 2 to rows - 2.

    Returns:
        The task.

    Raises:
        ArgumentError: for too few rows, numbers that are not finite, or a constant target.

    >>> task = standardized(np.arange(6.0)[:, None], np.arange(6.0), 4)
    >>> round(float(task.y_train.square().mean()), 6), task.y_test.shape
    (1.0, torch.Size([2, 1]))
    """
    _checks.at_least("train_rows", train_rows, 2)
    if train_rows > len(x) - 2:
        raise ArgumentError(
            f"train_rows must leave 2 of the {len(x)} rows to test on, got {train_rows}. "
            "Take fewer."
        )
    inputs = np.asarray(x, np.float64)
    targets = np.asarray(y, np.float64).reshape(len(y), -1)
    for name, array in (("x", inputs), ("y", targets)):
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise ArgumentError(
                f"{name} must be finite, got {array[row].tolist()} in row {row}. "
                "Leave such rows out."
            )
    varies = np.ptp(targets[:train_rows], axis=0) > 0
    if not varies.all():
        column = int(np.argmin(varies))
        raise ArgumentError(
            f"y must vary over the training rows, got only {targets[0, column]} in column "
            f"{column}. Take more rows, or leave the column out."
        )
    inputs, targets = (_by_training_part(a, train_rows) for a in (inputs, targets))
    parts = [
        torch.from_numpy(a).float()
        for a in (inputs[:train_rows], targets[:train_rows], inputs[train_rows:],
                  targets[train_rows:])
    ]  # fmt: skip
    return Regression(*parts)


def _by_training_part(array: np.ndarray, train_rows: int) -> np.ndarray:
    train = array[:train_rows]
    # Rounding gives a constant column a standard deviation above 0, but no range.
    spread = np.where(np.ptp(train, axis=0) > 0, train.std(axis=0), 1.0)
    result: np.ndarray = (array - train.mean(axis=0)) / spread
    return result


def _scatter(y: torch.Tensor) -> torch.Tensor:
    """Sum of squared distances from the column means, shape ()."""
    return (y - y.mean(0)).square().sum()
