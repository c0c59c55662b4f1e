"""Mixtures of Gaussians on a line: noisy samples, and the score that a network is to learn."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.regression import Regression

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """sum_k w_k N(m_k, s_k^2).

    Attributes:
        weights: of the components, positive, with sum 1.
        means: of the components.
        stds: of the components, positive.
    """

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.weights), len(self.means), len(self.stds)}
        if len(sizes) != 1 or not self.weights:
            raise ArgumentError(
                "weights, means and stds must be of one number of components, at least 1, got "
                f"{len(self.weights)}, {len(self.means)} and {len(self.stds)}. Pass one of each."
            )
        for name, values in (("weights", self.weights), ("stds", self.stds)):
            for value in values:
                _checks.positive(name, value)
        if abs(math.fsum(self.weights) - 1.0) > 1e-9:
            raise ArgumentError(
                f"weights must have the sum 1, got {math.fsum(self.weights):.9g}. Divide by it."
            )

    def noisy(self, noise: float) -> "Mixture":
        """The law of samples with Gaussian noise of a standard deviation added.

        >>> Mixture((1.0,), (2.0,), (3.0,)).noisy(4.0).stds
        (5.0,)
        """
        _checks.not_negative("noise", noise)
        return Mixture(self.weights, self.means, tuple(math.hypot(s, noise) for s in self.stds))

    def score(self, x: Array) -> Array:
        """D log p(x) / dx.

        >>> Mixture((1.0,), (2.0,), (3.0,)).score(np.array([5.0])).tolist()
        [-0.3333333333333333]
        """
        z = (x[:, None] - np.array(self.means)) / np.array(self.stds)
        log_density = np.log(self.weights) - np.log(self.stds) - 0.5 * z**2
        shares = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        found: Array = -(shares * z / np.array(self.stds)).sum(axis=1)
        return found

    def samples(self, rng: np.random.Generator, count: int) -> Array:
        """Independent samples, shape (count,)."""
        which = rng.choice(len(self.weights), count, p=self.weights)
        return np.asarray(
            rng.normal(np.array(self.means)[which], np.array(self.stds)[which]), dtype=np.float64
        )


def three_gaussians(seed: int = -1) -> Mixture:
    """Three Gaussians: weights .3, .4, .3 at -2, 0 and 2 with std .4, or a drawn one.

    Args:
        seed: at least 0 for a mixture whose weights are drawn in (.2, .5) before they are divided
            by their sum, means each moved by up to .5, stds in (.3, .5); -1 for the first.

    Returns:
        The mixture.

    >>> three_gaussians().means, len(three_gaussians(3).weights)
    ((-2.0, 0.0, 2.0), 3)
    """
    if _checks.at_least("seed", seed, -1) < 0:
        return Mixture((0.3, 0.4, 0.3), (-2.0, 0.0, 2.0), (0.4, 0.4, 0.4))
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.2, 0.5, 3)
    means = np.array([-2.0, 0.0, 2.0]) + rng.uniform(-0.5, 0.5, 3)
    return Mixture(
        tuple((weights / weights.sum()).tolist()), tuple(means.tolist()),
        tuple(rng.uniform(0.3, 0.5, 3).tolist()),
    )  # fmt: skip


@dataclass(frozen=True)
class ScoreTask:
    """Denoising score matching as a regression.

    Attributes:
        task: inputs are noisy samples y = x + sigma e, centred and divided by their standard
            deviation; training targets are -e, whose mean given y is sigma times the score of the
            noisy law, and test targets are that score times sigma. Both are divided by its root
            mean square, so that a score of the task is the share of the score's variance that is
            explained.
        floor: mean squared error on training targets that the exact score itself has.
    """

    task: Regression
    floor: float


def score_task(mixture: Mixture, noise: float, rows: int, seed: int) -> ScoreTask:
    """Noisy samples of a mixture to learn its score from, and half as many to test on.

    Args:
        mixture: of the clean samples.
        noise: sigma, positive.
        rows: to train on, at least 10.
        seed: of samples and noise.

    Returns:
        The task and its floor.

    Source: Vincent 2011, A connection between score matching and denoising autoencoders.

    >>> score_task(three_gaussians(), 0.3, 100, 0).task.x_test.shape
    torch.Size([50, 1])
    """
    noise = _checks.positive("noise", noise)
    _checks.at_least("rows", rows, 10)
    _checks.at_least("seed", seed, 0)
    rng = np.random.default_rng(seed)
    count = rows + rows // 2
    clean, e = mixture.samples(rng, count), rng.standard_normal(count)
    y = clean + noise * e
    exact = noise * mixture.noisy(noise).score(y)
    size = math.sqrt(float(np.square(exact[:rows]).mean()))
    x = (y - y[:rows].mean()) / y[:rows].std()
    columns = [
        torch.from_numpy(a[:, None]).float()
        for a in (x[:rows], -e[:rows] / size, x[rows:], exact[rows:] / size)
    ]
    floor = float(np.square(e + exact)[:rows].mean()) / size**2
    return ScoreTask(Regression(*columns), floor)
