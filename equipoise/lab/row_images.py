"""Images as rows of pixels, and networks that read every row alone with the same weights."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.classification import Classification, split
from equipoise.lab.data import digits
from equipoise.lab.image_files import FOLDER_VARIABLE
from equipoise.lab.mnist_files import CHECKSUMS, idx_folder, read_mnist
from equipoise.lab.models import activation_module

_DIGITS = "digits"
# Of all three sets.
_CLASSES = 10
# What a replay says of a set whose files it does not find.
DIGITS_STAND_IN = (
    f"is not at hand ({FOLDER_VARIABLE} names no folder with its files): these are "
    "scikit-learn's digits of 8 x 8 pixels"
)


def images_at_hand(name: str) -> str:
    """The set of images by this name where its files are, else scikit-learn's ``digits``.

    Args:
        name: ``mnist`` or ``fashion_mnist``, in the folder that EQUIPOISE_DATA names.

    Returns:
        ``name`` or ``digits``.

    >>> images_at_hand("digits")
    'digits'
    """
    _checks.one_of("name", name, (*CHECKSUMS, _DIGITS))
    place = os.environ.get(FOLDER_VARIABLE, "")
    folder = Path(place).expanduser()
    is_there = (folder / f"{name}.npz").is_file() or idx_folder(name, folder).is_dir()
    return name if place and is_there else _DIGITS


def row_task(
    name: str, rows: int = 0, test_rows: int = 0, is_standardized: bool = True, seed: int = 0
) -> Classification:
    """A set of images, every one as its rows of pixels.

    Args:
        name: ``mnist`` or ``fashion_mnist``, in the folder that EQUIPOISE_DATA names, or
            ``digits``, which needs none.
        rows: images to train on, 0 for all of the original training part (of digits, 1,400).
        test_rows: images to test on, 0 for all of the original test part.
        is_standardized: whether pixels have mean 0 and standard deviation 1 over the training
            part; otherwise they are 0 to 1.
        seed: of the choice of images where they are not all.

    Returns:
        The task, inputs of shape (images, rows of one, pixels of a row).

    Raises:
        ArgumentError: if files are missing or are not the original data, or there are fewer images
            than asked for.

    >>> row_task("digits", rows=100).x_train.shape
    torch.Size([100, 8, 8])
    """
    _checks.one_of("name", name, (*CHECKSUMS, _DIGITS))
    for label, count in (("rows", rows), ("test_rows", test_rows), ("seed", seed)):
        _checks.at_least(label, count, 0)
    if name == _DIGITS:
        # Its 17 grey levels, back from what the task makes of them.
        raw = digits()
        both = torch.cat([raw.x_train, raw.x_test])
        levels = (both - both.min()) / (both.max() - both.min())
        arrays = {
            "x_train": levels[: raw.rows].numpy(), "y_train": raw.y_train.numpy(),
            "x_test": levels[raw.rows :].numpy(), "y_test": raw.y_test.numpy(),
        }  # fmt: skip
    else:
        arrays = read_mnist(name, Path(os.environ.get(FOLDER_VARIABLE, "")).expanduser())
    rng = np.random.default_rng(seed)
    chosen = {}
    for part, label, count in (("train", "rows", rows), ("test", "test_rows", test_rows)):
        there = len(arrays[f"y_{part}"])
        if count > there:
            raise ArgumentError(
                f"{label} must be at most the {there} images of {name}, got {count}. Take fewer."
            )
        chosen[part] = rng.permutation(there)[:count] if count else np.arange(there)
    x = np.concatenate([arrays[f"x_{part}"][places] for part, places in chosen.items()])
    y = np.concatenate([arrays[f"y_{part}"][places] for part, places in chosen.items()])
    side = isqrt(x.shape[1])
    pixels = x.astype(np.float32).reshape(-1, side, side)
    count = len(chosen["train"])
    made = split(pixels, y, count, _CLASSES)
    if is_standardized:
        return made
    grey = torch.from_numpy(pixels) / (255.0 if x.dtype == np.uint8 else 1.0)
    return replace(made, x_train=grey[:count], x_test=grey[count:])


def row_shared_network(
    side: int, widths: Sequence[int], activation: str = "tanh", classes: int = _CLASSES
) -> nn.Sequential:
    """Dense layers that act on each row of an image alone, and a linear layer of what they made.

    Args:
        side: rows of an image, and pixels of a row.
        widths: units of the layers that share their weights among the rows.
        activation: behind each of them, as ``activation_module`` reads it.
        classes: number of outputs.

    Returns:
        The network with the framework's default weights.

    Raises:
        ArgumentError: for no layer, or an activation that is not known.

    >>> row_shared_network(28, (16, 4))[-1]
    Linear(in_features=112, out_features=10, bias=True)
    """
    if not widths:
        raise ArgumentError("widths must hold at least one layer, got none. Add one.")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((_checks.at_least("side", side, 1), *widths)):
        layers += [nn.Linear(fan_in, fan_out), activation_module(activation)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(side * widths[-1], classes))
