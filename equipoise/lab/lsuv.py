"""Layer-sequential unit-variance initialization: orthonormal, then scaled on a batch of data."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from equipoise.errors import ArgumentError

_Layer = (
    nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)  # fmt: skip
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True)
class Scaled:
    """What was done to one layer.

    Attributes:
        layer: its name.
        variance: of its output under the orthonormal weight; the weight was divided by its root.
    """

    layer: str
    variance: float


def lsuv_(
    model: nn.Module, inputs: torch.Tensor, generator: torch.Generator | None = None
) -> tuple[Scaled, ...]:
    """Start a model by LSUV, in place.

    Weights are orthonormal, biases 0; then, from the first layer to the last, each weight is
    divided by the standard deviation of its layer's output on the inputs. The published algorithm
    repeats this until the variance is within a tolerance of 1; without a bias the output is linear
    in the weight, so it ends after one round, and one forward pass serves all layers.

    Args:
        model: with Linear or convolution layers; called in eval mode, so that nothing random and
            no running statistic takes part.
        inputs: a batch, as forward takes it.
        generator: of the orthonormal start; torch's global state where it is left out.

    Returns:
        The variances that were divided out, in the order of computation. A layer that is used
        several times is scaled at its first use; one that is not used keeps its start.

    Raises:
        ArgumentError: if there is no such layer, or an output is constant or not finite; the model
            is then as it was.

    Source: Mishkin and Matas 2015, arXiv 1511.06422.

    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> batch = torch.randn(256, 8)
    >>> [s.layer for s in lsuv_(net, batch)]
    ['0', '2']
    >>> abs(float(net(batch).detach().var(correction=0)) - 1) < 1e-4
    True
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _Layer)}
    if not layers:
        raise ArgumentError(
            f"model must have Linear or convolution layers, got none in {type(model).__name__}. "
            "Pass the module that holds them."
        )
    before = [(p, p.detach().clone()) for layer in layers.values() for p in layer.parameters()]
    modes = [(m, m.training) for m in model.modules()]
    scaled: dict[str, Scaled] = {}
    hooks = [
        layer.register_forward_hook(partial(_scale, name, scaled)) for name, layer in layers.items()
    ]
    is_done = False
    try:
        with torch.no_grad():
            for layer in layers.values():
                _orthonormal_(layer, generator)
            model.eval()(inputs)
        is_done = True
    finally:
        if not is_done:
            with torch.no_grad():
                for parameter, old in before:
                    parameter.copy_(old)
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return tuple(scaled.values())


def _orthonormal_(layer: nn.Module, generator: torch.Generator | None) -> None:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    # The first axis of a transposed convolution is what it reads, not what it makes.
    rows_first = weight.transpose(0, 1) if isinstance(layer, _TRANSPOSED) else weight
    rows_first.copy_(nn.init.orthogonal_(torch.empty(rows_first.shape), generator=generator))
    if isinstance(layer.bias, torch.Tensor):
        layer.bias.zero_()


def _scale(
    name: str, scaled: dict[str, Scaled], layer: nn.Module, args: object, output: torch.Tensor
) -> torch.Tensor | None:
    """Forward hook: divide weight and output by the standard deviation of the output."""
    if name in scaled:
        return None
    variance = float(output.var(correction=0))
    if not (math.isfinite(variance) and variance > 0):
        raise ArgumentError(
            f"the output of layer {name!r} must vary over the batch, got variance {variance}. "
            "LSUV cannot scale it: pass more inputs or another activation."
        )
    scaled[name] = Scaled(name, variance)
    assert isinstance(layer.weight, torch.Tensor)
    layer.weight.div_(math.sqrt(variance))
    return output / math.sqrt(variance)
