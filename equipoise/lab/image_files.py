"""MNIST, Fashion-MNIST and CIFAR-10 from files that lie in a folder; nothing is downloaded."""

import os
from pathlib import Path

import numpy as np

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.cifar_files import read_cifar10
from equipoise.lab.classification import Classification, balanced_rows, split
from equipoise.lab.mnist_files import CHECKSUMS, read_mnist

FOLDER_VARIABLE = "EQUIPOISE_DATA"
IMAGES = (*CHECKSUMS, "cifar10")
_CLASSES = 10
# The rarest class has 5,421 training and 892 test rows in MNIST, 5,000 and 1,000 in the others.
MOST_TRAIN_ROWS = 50_000
MOST_TEST_ROWS = 8_000


def image_task(
    name: str,
    folder: Path | str = "",
    train_rows: int = 10_000,
    test_rows: int = 2_000,
    seed: int = 0,
) -> Classification:
    """A subset of a set of images with as many rows of each class, all pixels in a row.

    Args:
        name: ``mnist``, ``fashion_mnist`` (28 x 28 grey) or ``cifar10`` (32 x 32 in colour).
        folder: holds ``<name>.npz`` with arrays x_train, y_train, x_test and y_test, or a folder
            ``<name>`` (``fashion-mnist`` will do) with the four original IDX files, gzipped; for
            CIFAR-10 the six files of its Python or binary version, or their folder as the archive
            names it. Left out, it is what the environment variable EQUIPOISE_DATA names.
        train_rows: drawn from the original training part, a multiple of 10 and at most 50,000.
        test_rows: drawn from the original test part, a multiple of 10 and at most 8,000.
        seed: of the choice of rows and of their order.

    Returns:
        The task.

    Raises:
        ArgumentError: if files are missing or are not the original data, or a number is out of
            range.

    Source: LeCun et al. 1998, MNIST; Xiao et al. 2017, Fashion-MNIST, arXiv 1708.07747;
    Krizhevsky 2009, CIFAR-10.
    """
    _checks.one_of("name", name, IMAGES)
    _checks.at_least("seed", seed, 0)
    for label, rows, most in (
        ("train_rows", train_rows, MOST_TRAIN_ROWS),
        ("test_rows", test_rows, MOST_TEST_ROWS),
    ):
        if not (0 < rows <= most and rows % _CLASSES == 0):
            raise ArgumentError(
                f"{label} must be a multiple of {_CLASSES} from {_CLASSES} to {most}, got {rows}. "
                "Each class gets the same number."
            )
    place = folder or os.environ.get(FOLDER_VARIABLE)
    if not place:
        raise ArgumentError(
            f"folder must name where the files of {name} lie, got nothing. Pass it or set "
            f"{FOLDER_VARIABLE}."
        )
    path = Path(place).expanduser()
    arrays = read_cifar10(path) if name == "cifar10" else read_mnist(name, path)
    rng = np.random.default_rng(seed)
    train, test = (
        balanced_rows(arrays[part], rows // _CLASSES, _CLASSES, rng)
        for part, rows in (("y_train", train_rows), ("y_test", test_rows))
    )
    x = np.concatenate([arrays["x_train"][train], arrays["x_test"][test]])
    y = np.concatenate([arrays["y_train"][train], arrays["y_test"][test]])
    return split(x.astype(np.float32), y, train_rows, _CLASSES)
