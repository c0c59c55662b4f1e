"""The variance-informed initialization of networks that read coordinates, for any activation."""

import math

import torch
from scipy import optimize
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError

# Preactivations are taken as normal; a grid of this reach leaves nothing that is seen.
_Z = torch.linspace(-9.0, 9.0, 20_001, dtype=torch.float64)
_DENSITY = torch.exp(-0.5 * _Z**2)
_LEAST, _MOST = 1e-3, 1e2


def _moments(activation: nn.Module, std: float) -> tuple[float, float]:
    """E f(z)^2 and E f'(z)^2 for z ~ N(0, std^2)."""
    z = (std * _Z).requires_grad_()
    with torch.enable_grad():
        values = activation(z.clone())
        (slopes,) = torch.autograd.grad(values.sum(), z)
    share = _DENSITY / _DENSITY.sum()
    return float(share @ values.detach() ** 2), float(share @ slopes**2)


def balanced_std(activation: nn.Module) -> float:
    """Standard deviation s of preactivations at which values and gradients both keep their level.

    Values ask for weights of variance s^2 / (n E f^2), gradients for 1 / (n E f'^2): both are the
    same where s^2 E f'^2 = E f^2, which a bump has at one s.

    Args:
        activation: a function of each number alone.

    Returns:
        s between 1e-3 and 100; where no s keeps both, as for sines and sigmoids, or any does, as
        for rectifiers, 1 over the slope at 0: sin(30 x) then sees normal numbers of variance 1.

    >>> from equipoise.lab.models import Bump
    >>> round(balanced_std(Bump(2.0)) ** 2 / 4, 6) == round(1 + 2**0.5, 6)
    True
    """

    def excess(log_std: float) -> float:
        values, slopes = _moments(activation, math.exp(log_std))
        return math.log(math.exp(2 * log_std) * slopes / values)

    logs = [math.log(_LEAST) + i * math.log(_MOST / _LEAST) / 100 for i in range(101)]
    found = [excess(x) for x in logs]
    for i in range(100):
        # Rounding alone crosses 0 where all s serve.
        if found[i] < -1e-6 and found[i + 1] > 1e-6:
            return math.exp(optimize.brentq(excess, logs[i], logs[i + 1], xtol=1e-12))
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation(zero.clone()).sum(), zero)
    return 1.0 / abs(float(slope)) if float(slope) != 0 and abs(float(slope)) > 1.0 else 1.0


def vi3nr_(
    model: nn.Sequential,
    inputs: torch.Tensor,
    generator: torch.Generator | None = None,
    std: float = 0.0,
) -> float:
    """Uniform weights of variance s^2 / (fan_in E x^2), biases 0, of a network in place.

    Args:
        model: Linear layers with one kind of function between them.
        inputs: what enters, shape (rows, features): its second moment counts.
        generator: of the draws; left out, torch's global state.
        std: s, 0 for ``balanced_std``.

    Returns:
        s.

    Raises:
        ArgumentError: if the model has no function, or functions of several kinds.

    Source: Koneputugodage et al. 2025, arXiv 2504.19270.

    >>> net = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 1))
    >>> vi3nr_(net, torch.rand(100, 2), torch.Generator().manual_seed(0))
    1.0
    """
    _checks.not_negative("std", std)
    functions = [m for m in model if not isinstance(m, nn.Linear)]
    if len({repr(m) for m in functions}) != 1:
        raise ArgumentError(
            "model must have functions of one kind between its Linear layers, got "
            f"{sorted({repr(m) for m in functions})}. Use one of them throughout."
        )
    wanted = std or balanced_std(functions[0])
    feeding = float(inputs.double().square().mean())
    values, _ = _moments(functions[0], wanted)
    for layer in model:
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(3.0 * wanted**2 / (layer.in_features * feeding))
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
            feeding = values
    return wanted
