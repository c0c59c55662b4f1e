"""Classification tasks that need no download: digits, and four that no linear model solves."""

import math
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_digits

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.classification import Classification, split

__all__ = [
    "Classification",
    "checkerboard",
    "digits",
    "sign_products",
    "split",
    "teacher",
    "two_spirals",
]

_ROWS = 2000


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
    >>> task.images().x_test.shape
    torch.Size([397, 1, 8, 8])
    """
    _checks.at_least("seed", seed, 0)
    if _checks.at_least("train_rows", train_rows, 10) > 1700:
        raise ArgumentError(f"train_rows must be 10 to 1700, got {train_rows}. Take fewer.")
    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(seed)).numpy()
    return split(raw.data[order], raw.target[order], train_rows, 10)


def two_spirals(
    rows: int = _ROWS, turns: float = 1.0, noise: float = 0.02, seed: int = 0
) -> Classification:
    """Two interleaved spirals in the plane, label = which of the two.

    Radius r is uniform on (0.15, 1), angle = 2 pi turns r, the second spiral is the first one
    turned by half a circle; every coordinate has Gaussian noise.

    Args:
        rows: of the training part; the test part has half as many.
        turns: of each spiral between the centre and radius 1, positive.
        noise: standard deviation, not negative; the arms lie about 1 / (2 turns) apart.
        seed: of everything random.

    Returns:
        The task.

    Source: Lang and Witbrock 1988, Learning to tell two spirals apart.

    >>> two_spirals().x_train.shape
    torch.Size([2000, 2])
    """
    _checks.positive("turns", turns)
    _checks.not_negative("noise", noise)

    def make(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        label = rng.integers(0, 2, count)
        radius = rng.uniform(0.15, 1.0, count)
        angle = math.tau * turns * radius + math.pi * label
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return x + noise * rng.standard_normal(x.shape), label

    return _drawn(make, rows, seed)


def sign_products(
    rows: int = _ROWS, order: int = 2, features: int = 8, seed: int = 0
) -> Classification:
    """Label = sign of the product of the first ``order`` of ``features`` coordinates (XOR, parity).

    Inputs are uniform on a cube: no proper subset of the coordinates of the product says anything
    about the label, and the others never do.

    Args:
        rows: of the training part; the test part has half as many.
        order: factors of the product, 1 (linear) to ``features``.
        features: number of inputs.
        seed: of everything random.

    Returns:
        The task.

    Source: parity, Minsky and Papert 1969, Perceptrons.

    >>> task = sign_products(order=3)
    >>> bool(((task.x_test[:, :3].prod(1) > 0) == (task.y_test == 1)).float().mean() > 0.95)
    True
    """
    _checks.at_least("order", order, 1)
    _checks.at_least("features", features, order, "It cannot be below order.")

    def make(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform(-1.0, 1.0, (count, features))
        return x, (x[:, :order].prod(axis=1) > 0).astype(int)

    return _drawn(make, rows, seed)


def checkerboard(rows: int = _ROWS, cells: int = 4, seed: int = 0) -> Classification:
    """A checkerboard in the plane, label = colour of the cell.

    Args:
        rows: of the training part; the test part has half as many.
        cells: along each side, at least 2.
        seed: of everything random.

    Returns:
        The task.

    Source: Ho and Kleinberg 1996, Building projectable classifiers of arbitrary complexity.

    >>> checkerboard().classes
    2
    """
    _checks.at_least("cells", cells, 2)

    def make(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform(0.0, cells, (count, 2))
        return x, np.floor(x).astype(int).sum(axis=1) % 2

    return _drawn(make, rows, seed)


def teacher(
    rows: int = _ROWS, features: int = 8, width: int = 16, gain: float = 3.0, seed: int = 0
) -> Classification:
    """Labels of a random network with two hidden layers of tanh; the two classes are balanced.

    Weights have independent Gaussian entries of variance gain^2 / fan_in, biases variance 1, inputs
    are standard normal; the label says on which side of its median the output lies.

    Args:
        rows: of the training part; the test part has half as many.
        features: number of inputs.
        width: of the hidden layers.
        gain: how strongly the teacher bends, positive.
        seed: of everything random, the teacher too.

    Returns:
        The task.

    Source: the setting of Gardner and Derrida 1989, with a deeper teacher: Poole et al. 2016,
    arXiv 1606.05340.

    >>> task = teacher()
    >>> 0.45 < float(task.y_train.float().mean()) < 0.55
    True
    """
    _checks.at_least("features", features, 1)
    _checks.at_least("width", width, 1)
    _checks.positive("gain", gain)

    def make(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((count, features))
        h = x
        for fan_in in (features, width):
            weight = rng.normal(0.0, gain / math.sqrt(fan_in), (fan_in, width))
            h = np.tanh(h @ weight + rng.standard_normal(width))
        output = h @ rng.standard_normal(width)
        return x, (output > np.median(output)).astype(int)

    return _drawn(make, rows, seed)


def _drawn(
    make: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]], rows: int, seed: int
) -> Classification:
    """A two-class task of fresh rows: as many to train on as asked for, half as many to test on."""
    _checks.at_least("rows", rows, 10)
    _checks.at_least("seed", seed, 0)
    x, y = make(np.random.default_rng(seed), rows + rows // 2)
    return split(x, y, rows, 2)
