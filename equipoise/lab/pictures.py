"""A picture that is made, not downloaded, for networks that map coordinates to brightness."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise import _checks
from equipoise.lab.regression import Regression


def made_picture(side: int = 64, seed: int = 0) -> NDArray[np.float64]:
    """Blobs, edges and waves of several frequencies.

    Args:
        side: pixels of each side, at least 8.
        seed: of everything random.

    Returns:
        Brightness with mean 0 and variance 1, shape (side, side).

    >>> image = made_picture(16)
    >>> image.shape, round(float(image.std()), 6)
    ((16, 16), 1.0)
    """
    _checks.at_least("side", side, 8)
    _checks.at_least("seed", seed, 0)
    rng, grid = np.random.default_rng(seed), np.linspace(-1, 1, side)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    values = np.zeros((side, side))
    for _ in range(12):
        across, down = rng.uniform(-1, 1, 2)
        size = rng.uniform(0.05, 0.4)
        values += rng.normal() * np.exp(-((x - across) ** 2 + (y - down) ** 2) / (2 * size**2))
    for _ in range(6):
        turn, offset = rng.uniform(0, np.pi), rng.uniform(-0.7, 0.7)
        values += 0.5 * rng.normal() * (np.cos(turn) * x + np.sin(turn) * y > offset)
    for waves in (5, 10, 20, 35):
        turn, phase = rng.uniform(0, np.pi), rng.uniform(0, 6)
        values += 0.3 * np.sin(waves * (np.cos(turn) * x + np.sin(turn) * y) + phase)
    return np.asarray((values - values.mean()) / values.std(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class PictureTask:
    """Pixels to fit and pixels held back.

    Attributes:
        task: coordinates in [-1, 1]^2 and brightness, half of the pixels in each part; brightness
            has variance 1 over the whole picture.
        span: brightest less darkest pixel, the peak of the peak signal-to-noise ratio.
    """

    task: Regression
    span: float

    def decibels(self, error: float) -> float:
        """Peak signal-to-noise ratio 10 log10(span^2 / error); -inf where it is not finite.

        >>> PictureTask(picture_task(8).task, 10.0).decibels(1.0)
        20.0
        """
        if not 0 < error < math.inf:
            return math.inf if error == 0 else -math.inf
        return 10.0 * math.log10(self.span**2 / error)


def picture_task(side: int = 64, seed: int = 0) -> PictureTask:
    """The made picture, half of its pixels to fit and half held back.

    Args:
        side: pixels of each side, at least 8.
        seed: of the picture and of the choice of pixels.

    Returns:
        The task and its span.

    >>> picture_task(16).task.x_train.shape
    torch.Size([128, 2])
    """
    values, grid = made_picture(side, seed), np.linspace(-1, 1, side)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    places = torch.from_numpy(np.stack([y, x], axis=-1).reshape(-1, 2)).float()
    brightness = torch.from_numpy(values.reshape(-1, 1)).float()
    order = np.random.default_rng([seed, 1]).permutation(len(places))
    fitted, held = (
        torch.from_numpy(order[: len(order) // 2]),
        torch.from_numpy(order[len(order) // 2 :]),
    )
    task = Regression(places[fitted], brightness[fitted], places[held], brightness[held])
    return PictureTask(task, float(np.ptp(values)))
