"""Data sets that need no download."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits

from equipoise import _checks
from equipoise.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Classification:
    """A classification task.

    Attributes:
        x_train, x_test: float32, shape (rows, features), standardized by the training part's mean
            and standard deviation over all entries.
        y_train, y_test: int64 class numbers, shape (rows,).
        classes: number of classes.
    """

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    classes: int

    @property
    def features(self) -> int:
        """Number of inputs."""
        return int(self.x_train.shape[1])

    def validation(self, rows: int) -> "Classification":
        """The same task with the last rows of its training part for a test part.

        Raises:
            ArgumentError: if no rows would be left to train on.
        """
        _checks.at_least("rows", rows, 1)
        if rows >= len(self.x_train):
            raise ArgumentError(
                f"rows must be below the {len(self.x_train)} training rows, got {rows}. "
                "Hold back fewer."
            )
        return Classification(
            self.x_train[:-rows],
            self.y_train[:-rows],
            self.x_train[-rows:],
            self.y_train[-rows:],
            self.classes,
        )


def digits(train_rows: int = 1400, seed: int = 0) -> Classification:
    """Handwritten digits of 8 x 8 pixels, bundled with scikit-learn: 1,797 rows in 10 classes.

    Args:
        train_rows: rows to train on, 10 to 1,700; the others are the test part.
        seed: of the shuffle before the split.

    Returns:
        The task.

    Source: Alpaydin and Kaynak 1998, UCI machine learning repository, CC BY 4.0.

    >>> task = digits()
    >>> task.x_train.shape, len(task.x_test)
    (torch.Size([1400, 64]), 397)
    """
    if not 10 <= train_rows <= 1700:
        raise ArgumentError(f"train_rows must be 10 to 1700, got {train_rows}. Take fewer.")
    raw = load_digits()
    x = torch.from_numpy(raw.data).float()
    y = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    train = x[:train_rows]
    x = (x - train.mean()) / train.std()
    return Classification(x[:train_rows], y[:train_rows], x[train_rows:], y[train_rows:], 10)
