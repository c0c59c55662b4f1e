"""Signal and gradient at birth, layer by layer, as plain forward and backward passes show them.

Written with hooks and autograd alone, so that it can judge ``equipoise.torch.measure``.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class Birth:
    """What one draw looks like before training.

    Attributes:
        weights: name of the weight of each Linear or convolution layer, in order of computation.
        signal: RMS of its output over units and inputs.
        gradient: RMS there of the gradient of a random projection of the model's output.
    """

    weights: tuple[str, ...]
    signal: tuple[float, ...]
    gradient: tuple[float, ...]

    @property
    def forward_drift(self) -> float:
        """Log RMS of the last hidden layer over the first, for each layer between, nats."""
        return _drift(self.signal[-2], self.signal[0], len(self.signal))

    @property
    def gradient_drift(self) -> float:
        """Log RMS gradient at the first hidden layer over the last, for each layer between."""
        return _drift(self.gradient[0], self.gradient[-2], len(self.gradient))


def birth(model: nn.Module, inputs: torch.Tensor, seed: int = 0) -> Birth:
    """Send inputs forward and a random cotangent back.

    Args:
        model: with at least two Linear or convolution layers.
        inputs: a batch as forward takes it.
        seed: of the cotangent, which has independent standard normal entries.

    Returns:
        What was seen; no gradient is left on any parameter.

    Raises:
        ArgumentError: for fewer than two such layers.

    >>> seen = birth(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(8, 4))
    >>> seen.weights
    ('0.weight', '2.weight')
    """
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        outputs[name] = output
        # An activation that works in place must not overwrite it.
        return output.clone()

    hooks = [
        module.register_forward_hook(partial(keep, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    try:
        with torch.enable_grad():
            # Frozen layers must have a gradient at their outputs too.
            result = model(inputs.detach().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if len(outputs) < 2:
        raise ArgumentError(
            f"model must have at least two Linear or convolution layers, got {len(outputs)}. "
            "There is no drift in one."
        )
    cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed))
    gradients = torch.autograd.grad(result, list(outputs.values()), cotangent)
    return Birth(
        tuple(f"{name}.weight" if name else "weight" for name in outputs),
        tuple(_rms(value) for value in outputs.values()),
        tuple(_rms(value) for value in gradients),
    )


def _rms(values: torch.Tensor) -> float:
    # In float64: squares of a vanished signal would underflow.
    return float(values.detach().double().square().mean().sqrt())


def _drift(end: float, start: float, layers: int) -> float:
    if layers < 3 or not (start > 0 and math.isfinite(start) and math.isfinite(end)):
        return math.nan
    return math.log(end / start) / (layers - 2) if end > 0 else -math.inf
