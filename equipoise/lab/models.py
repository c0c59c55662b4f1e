"""Plain networks for experiments."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from equipoise.errors import ArgumentError


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers with an activation after each but the last.

    Args:
        widths: inputs, hidden widths, outputs; at least two numbers.
        activation: makes the activation, such as ``nn.GELU``.

    Returns:
        The network with the framework's default weights.

    Raises:
        ArgumentError: for fewer than two widths.

    >>> len(mlp([64, 16, 16, 10], nn.Tanh))
    5
    """
    if len(widths) < 2:
        raise ArgumentError(f"widths must name inputs and outputs, got {list(widths)}. Add one.")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])
