"""Plain networks for experiments."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from equipoise import _checks
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


def plain_cnn(
    depth: int,
    activation: Callable[[], nn.Module],
    channels: int = 16,
    side: int = 8,
    stride: int = 1,
    classes: int = 10,
) -> nn.Sequential:
    """Convolutions of 3 x 3 taps with an activation after each, no shortcut, and a dense head.

    Args:
        depth: number of convolutions, at least 1.
        activation: makes the activation, such as ``nn.GELU``.
        channels: of every map.
        side: of the square images that come in, of one channel.
        stride: of the first convolution: 2 halves the maps.
        classes: number of outputs.

    Returns:
        The network with the framework's default weights.

    Raises:
        ArgumentError: if a number is not positive.

    >>> net = plain_cnn(3, nn.ReLU, stride=2)
    >>> net[-1]
    Linear(in_features=256, out_features=10, bias=True)
    """
    for name, value in (
        ("depth", depth),
        ("channels", channels),
        ("side", side),
        ("stride", stride),
        ("classes", classes),
    ):
        _checks.at_least(name, value, 1)
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, stride, padding=1), activation()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), activation()]
    sites = math.ceil(side / stride) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * sites, classes))
