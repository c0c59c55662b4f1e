"""Networks for equations: inputs brought to one scale, Fourier features, slopes that learn."""

from collections.abc import Sequence

import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError


class Rescaled(nn.Module):
    """factor * x + shift, which takes a box to [-1, 1] in each coordinate.

    Args:
        lower: corner of the box, one number for each input.
        upper: the opposite corner, larger in each.
    """

    factor: torch.Tensor
    shift: torch.Tensor

    def __init__(self, lower: Sequence[float], upper: Sequence[float]) -> None:
        super().__init__()
        if len(lower) != len(upper) or not all(a < b for a, b in zip(lower, upper, strict=True)):
            raise ArgumentError(
                f"upper must lie above lower in each coordinate, got {list(upper)} above "
                f"{list(lower)}. Pass the corners of the domain."
            )
        low, high = (torch.tensor(v, dtype=torch.float64) for v in (lower, upper))
        self.register_buffer("factor", 2 / (high - low))
        self.register_buffer("shift", -(high + low) / (high - low))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The inputs on the box from -1 to 1."""
        return x * self.factor + self.shift


class Sloped(nn.Module):
    """f(a x), where the slope a learns; one number for all units of a layer.

    Args:
        activation: f.
        slope: a at birth.

    Source: Jagtap, Kawaguchi and Karniadakis 2020, arXiv 1906.01170.
    """

    def __init__(self, activation: nn.Module, slope: float = 1.0) -> None:
        super().__init__()
        _checks.positive("slope", slope)
        self.activation = activation
        self.factor = nn.Parameter(torch.tensor(float(slope)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Entry by entry."""
        made: torch.Tensor = self.activation(self.factor * x)
        return made


class FourierFeatures(nn.Module):
    """sin(W x) and cos(W x), W normal and fixed: frequencies that the network starts with.

    Args:
        inputs: number of coordinates.
        count: number of frequencies; twice as many features come out.
        bandwidth: standard deviation of the entries of W, radians for a unit of x.
        generator: of W.

    Source: Tancik et al. 2020, arXiv 2006.10739.
    """

    def __init__(
        self,
        inputs: int,
        count: int,
        bandwidth: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _checks.at_least("inputs", inputs, 1)
        _checks.at_least("count", count, 1)
        _checks.positive("bandwidth", bandwidth)
        drawn = torch.randn(count, inputs, dtype=torch.float64, generator=generator)
        self.weight = nn.Parameter(bandwidth * drawn, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (rows, 2 * count): sines, then cosines."""
        z = nn.functional.linear(x, self.weight)
        return torch.cat([torch.sin(z), torch.cos(z)], dim=1)
