"""Classification tasks: the data, how replicas are judged, subsets and noise in the labels."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.task import Forward, chunks, held_back

# A stream each, so that the choice of rows, the noise and the data stay independent where a caller
# gives all three one seed.
_SUBSET, _NOISE = 1, 2


@dataclass(frozen=True, eq=False)
class Classification:
    """A classification task.

    Attributes:
        x_train, x_test: float32, shape (rows, features) or (rows, channels, height, width),
            standardized by the training part's mean and standard deviation over all entries.
        y_train, y_test: int64 class numbers, shape (rows,).
        classes: number of classes.
    """

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    classes: int

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
        """Outputs that a network needs: one for each class."""
        return self.classes

    @property
    def score_name(self) -> str:
        """What ``scores`` measures."""
        return "accuracy"

    @property
    def needs_derivatives(self) -> bool:
        """False: the loss is one of outputs alone."""
        return False

    def losses(self, call: Forward, batch: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of each replica on its own batch, in nats.

        Args:
            call: outputs of the replicas, shape (R, B, classes), for inputs of shape (R, B, ...).
            batch: int64 numbers of training rows, shape (R, B).

        Returns:
            Shape (R,).
        """
        outputs = call(self.x_train[batch])
        loss = nn.functional.cross_entropy(
            outputs.flatten(0, 1), self.y_train[batch].flatten(), reduction="none"
        )
        return loss.view(batch.shape).mean(1)

    def scores(self, call: Forward) -> torch.Tensor:
        """Accuracy of each replica on the test part; outputs that are not finite are wrong.

        Args:
            call: outputs of the replicas, shape (R, B, classes), for inputs of shape (B, ...) that
                every replica sees, B at most 512. The caller turns gradients off.

        Returns:
            Shape (R,), from 0 to 1.
        """
        right = []
        for x, y in chunks(self.x_test, self.y_test):
            outputs = call(x)
            is_right = (outputs.argmax(-1) == y) & torch.isfinite(outputs).all(-1)
            right.append(is_right.float().sum(1))
        return torch.stack(right).sum(0) / len(self.y_test)

    def validation(self, rows: int) -> "Classification":
        """The same task with the last rows of its training part for a test part.

        Raises:
            ArgumentError: if no rows would be left to train on.
        """
        held_back(rows, self.rows)
        return Classification(
            self.x_train[:-rows],
            self.y_train[:-rows],
            self.x_train[-rows:],
            self.y_train[-rows:],
            self.classes,
        )

    def images(self) -> "Classification":
        """The same rows as square images, shape (rows, channels, side, side).

        A square number of inputs makes one channel; three times a square makes three, which come
        one after the other as the files of CIFAR-10 have them. No number is both.

        Raises:
            ArgumentError: if the number of inputs is neither.
        """
        for channels in (1, 3):
            side = math.isqrt(self.features // channels)
            if channels * side * side == self.features:
                shape = (-1, channels, side, side)
                return replace(
                    self, x_train=self.x_train.reshape(shape), x_test=self.x_test.reshape(shape)
                )
        raise ArgumentError(
            "features must be a square number, or three times one, to make images, got "
            f"{self.features}. Use digits, MNIST, Fashion-MNIST or CIFAR-10."
        )

    def balanced(self, rows: int, seed: int = 0) -> "Classification":
        """A random subset of the training part with as many rows of each class, in random order.

        Inputs keep the standardization of the whole training part; the test part stays as it is.

        Args:
            rows: to keep, a multiple of the number of classes.
            seed: of the choice and the order.

        Returns:
            The smaller task.

        Raises:
            ArgumentError: if classes cannot have the same number, or one has too few rows.
        """
        _checks.at_least("seed", seed, 0)
        each, rest = divmod(_checks.at_least("rows", rows, self.classes), self.classes)
        if rest:
            raise ArgumentError(
                f"rows must be a multiple of the {self.classes} classes to balance them, got "
                f"{rows}. Take {each * self.classes} or {(each + 1) * self.classes}."
            )
        counts = torch.bincount(self.y_train, minlength=self.classes)
        rarest = int(counts.argmin())
        if counts[rarest] < each:
            raise ArgumentError(
                f"rows must be at most {self.classes * int(counts[rarest])} to balance the classes "
                f"(class {rarest} has {int(counts[rarest])} training rows), got {rows}. Take fewer."
            )
        rng = np.random.default_rng([seed, _SUBSET])
        labels = self.y_train.numpy()
        chosen = torch.from_numpy(balanced_rows(labels, each, self.classes, rng))
        return replace(self, x_train=self.x_train[chosen], y_train=self.y_train[chosen])

    def with_label_noise(self, share: float, seed: int = 0) -> "Classification":
        """The task with wrong labels on a random share of its training rows.

        Rows that ``validation`` holds back later are training rows too: hold them back first where
        they should keep their labels.

        Args:
            share: of the training rows, 0 to 1, rounded to whole rows; each of them gets one of
                the other classes, all equally likely.
            seed: of the choice of rows and classes.

        Returns:
            The noisy task; its test part is untouched.

        Raises:
            ArgumentError: if the share is out of range, or there is no other class.
        """
        _checks.at_least("seed", seed, 0)
        if not 0 <= _checks.finite("share", share) <= 1:
            raise ArgumentError(
                f"share must be a number from 0 to 1, got {share}. Pass 0.2 for a fifth of the "
                "labels."
            )
        if self.classes < 2:
            raise ArgumentError(
                f"classes must be at least 2 for labels to be wrong, got {self.classes}. "
                "Use a task with more classes."
            )
        rng = np.random.default_rng([seed, _NOISE])
        count = round(share * self.rows)
        wrong = torch.from_numpy(rng.choice(self.rows, count, replace=False))
        # A turn by 1 to classes - 1 reaches every other class once, and never the class itself.
        turn = torch.from_numpy(rng.integers(1, self.classes, count))
        labels = self.y_train.clone()
        labels[wrong] = (labels[wrong] + turn) % self.classes
        return replace(self, y_train=labels)


def balanced_rows(
    labels: np.ndarray, each: int, classes: int, rng: np.random.Generator
) -> np.ndarray:
    """Numbers of rows with each class as often, in random order.

    Args:
        labels: class numbers, shape (rows,).
        each: rows of each class, no more than the rarest has.
        classes: number of classes.
        rng: makes the choice.

    Returns:
        Shape (each * classes,).

    >>> rows = balanced_rows(np.array([0, 1, 0, 1, 1]), 2, 2, np.random.default_rng(0))
    >>> len(rows), {0, 2} <= set(rows.tolist())
    (4, True)
    """
    chosen = [rng.choice(np.flatnonzero(labels == c), each, replace=False) for c in range(classes)]
    return rng.permutation(np.concatenate(chosen))


def split(x: np.ndarray, y: np.ndarray, train_rows: int, classes: int) -> Classification:
    """The first rows to train on, the others to test on, standardized by the former.

    Args:
        x: shape (rows, features).
        y: class numbers, shape (rows,).
        train_rows: 1 to rows - 1.
        classes: number of classes.

    Returns:
        The task.

    >>> split(np.eye(4), np.arange(4) % 2, 3, 2).y_test.tolist()
    [1]
    """
    inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(y).long()
    train = inputs[:train_rows]
    inputs = (inputs - train.mean()) / train.std()
    return Classification(
        inputs[:train_rows], labels[:train_rows], inputs[train_rows:], labels[train_rows:], classes
    )
