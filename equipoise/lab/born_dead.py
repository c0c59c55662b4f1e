"""ReLU networks that are dead at birth for an input: every unit of some layer is below 0 on it."""

import numpy as np

from equipoise import _checks


def born_dead(width: int, depth: int, networks: int, rows: int, seed: int) -> float:
    """Share of pairs of a drawn network and an input for which some layer passes nothing.

    Weights are Gaussian and biases 0; a scale does not matter.

    Args:
        width: of the network; inputs have as many features.
        depth: of the network.
        networks: number of them.
        rows: normal inputs of each.
        seed: of all of it.

    Returns:
        The share.

    >>> born_dead(2, 100, 20, 10, 0)
    1.0
    """
    for name, value in (("width", width), ("depth", depth), ("networks", networks), ("rows", rows)):
        _checks.at_least(name, value, 1)
    rng = np.random.default_rng([seed, width, depth])
    h = rng.standard_normal((networks, rows, width))
    for _ in range(depth):
        h = np.maximum(h @ rng.standard_normal((networks, width, width)), 0.0)
        # A scale for each input: nothing fades or grows, and what is 0 stays so.
        size = h.max(axis=2, keepdims=True)
        h /= np.where(size > 0, size, 1.0)
    return float((h.max(axis=2) == 0).mean())


def chance_of_death(width: int, depth: int) -> float:
    """1 - (1 - 2^-n)^L: each layer passes nothing of a given input with probability 2^-n.

    Source: Lu, Shin, Su and Karniadakis 2019, arXiv 1903.06733.

    >>> round(chance_of_death(4, 30), 3)
    0.856
    """
    _checks.at_least("width", width, 1)
    _checks.at_least("depth", depth, 1)
    return float(-np.expm1(depth * np.log1p(-(2.0**-width))))
