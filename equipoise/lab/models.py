"""Plain networks for experiments."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError


class Arctan(nn.Module):
    """arctan(x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Entry by entry."""
        return torch.atan(x)


class Erf(nn.Module):
    """erf(x), the error function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Entry by entry."""
        return torch.erf(x)


class Sine(nn.Module):
    """sin(frequency * x).

    Args:
        frequency: positive.
    """

    def __init__(self, frequency: float = 1.0) -> None:
        super().__init__()
        self.frequency = _checks.positive("frequency", frequency)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Entry by entry."""
        return torch.sin(self.frequency * x)

    def extra_repr(self) -> str:
        """The frequency, for display."""
        return f"frequency={self.frequency:g}"


class Scaled(nn.Module):
    """f(scale * x), the scale fixed; ``equation_models.Sloped`` has one that learns.

    Args:
        activation: f, without parameters.
        scale: positive.

    >>> Scaled(nn.Tanh(), 2.0)(torch.zeros(1))
    tensor([0.])
    """

    def __init__(self, activation: nn.Module, scale: float) -> None:
        super().__init__()
        self.activation = activation
        self.scale = _checks.positive("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Entry by entry."""
        made: torch.Tensor = self.activation(self.scale * x)
        return made

    def extra_repr(self) -> str:
        """The scale, for display."""
        return f"scale={self.scale:g}"


class Bump(nn.Module):
    """exp(-(x / scale)^2 / 2), the Gaussian of networks that read coordinates.

    Args:
        scale: positive.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = _checks.positive("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Entry by entry."""
        return torch.exp(-0.5 * (x / self.scale) ** 2)

    def extra_repr(self) -> str:
        """The scale, for display."""
        return f"scale={self.scale:g}"


_ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "arctan": Arctan, "celu": nn.CELU, "elu": nn.ELU, "erf": Erf, "gauss": Bump, "gelu": nn.GELU,
    "hardswish": nn.Hardswish, "identity": nn.Identity, "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish, "relu": nn.ReLU, "selu": nn.SELU, "sigmoid": nn.Sigmoid, "silu": nn.SiLU,
    "sin": Sine, "softplus": nn.Softplus, "softsign": nn.Softsign, "tanh": nn.Tanh,
}  # fmt: skip
# Those whose number is the scale a of f(a x).
_SCALED = frozenset({"arctan", "erf", "softsign", "tanh"})
# Those that take a number: a slope, a scale or a frequency.
_WITH_NUMBER = _SCALED | {"celu", "elu", "gauss", "leaky_relu", "sin", "softplus"}


def activation_module(text: str) -> nn.Module:
    """A module of torch from its name, with its one number in brackets where it has one.

    Args:
        text: such as ``tanh`` or ``leaky_relu(0.1)``; ``tanh(2)`` is tanh(2 x), and so are those of
            arctan, erf and softsign.

    Returns:
        A new module.

    Raises:
        ArgumentError: for another name, or a number that it does not take.

    >>> activation_module("leaky_relu(0.1)")
    LeakyReLU(negative_slope=0.1)
    """
    name, bracket, rest = text.strip().partition("(")
    make = _ACTIVATIONS[_checks.one_of("activation", name.strip(), _ACTIVATIONS)]
    if not bracket:
        return make()
    try:
        number = float(rest.removesuffix(")"))
    except ValueError:
        number = math.nan
    if name.strip() not in _WITH_NUMBER or not math.isfinite(number) or not rest.endswith(")"):
        raise ArgumentError(
            f"activation must be a name, or one of {', '.join(sorted(_WITH_NUMBER))} with one "
            f"number in brackets, got {text!r}. Write leaky_relu(0.1)."
        )
    return Scaled(make(), number) if name.strip() in _SCALED else make(number)


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


class Residual(nn.Module):
    """x + scale * branch(x).

    Args:
        branch: keeps the number of units.
        scale: a number that does not learn.
    """

    def __init__(self, branch: nn.Sequential, scale: float = 1.0) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        added: torch.Tensor = self.branch(x)
        return x + self.scale * added

    def extra_repr(self) -> str:
        """The scale, for display."""
        return f"scale={self.scale:g}"


def residual_mlp(
    inputs: int, width: int, blocks: int, outputs: int, activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """A linear layer, blocks x + W2 f(W1 x), and a linear head.

    Args:
        inputs: number of inputs.
        width: of the stream and inside each block.
        blocks: number of blocks, at least 1.
        outputs: number of outputs.
        activation: makes the activation, such as ``nn.GELU``.

    Returns:
        The network with the framework's default weights.

    Raises:
        ArgumentError: if a number is not positive.

    >>> residual_mlp(8, 16, 3, 2, nn.Tanh)(torch.zeros(5, 8)).shape
    torch.Size([5, 2])
    """
    for name, size in (("inputs", inputs), ("width", width), ("blocks", blocks)):
        _checks.at_least(name, size, 1)
    _checks.at_least("outputs", outputs, 1)
    inner = [
        Residual(nn.Sequential(nn.Linear(width, width), activation(), nn.Linear(width, width)))
        for _ in range(blocks)
    ]
    return nn.Sequential(nn.Linear(inputs, width), *inner, nn.Linear(width, outputs))
