"""Which functions are activations, and where they are flat."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F

Kind = Literal["rectifier", "sigmoid", "tanh", "hard", "softsign", "other"]

# By the function that forward calls: modules of torch call these too.
ACTIVATIONS: Mapping[Callable[..., Any], Kind] = {
    **dict.fromkeys(
        (F.relu, F.relu_, F.relu6, F.threshold, torch.relu, torch.relu_,
         torch.Tensor.relu, torch.Tensor.relu_),
        "rectifier",
    ),
    **dict.fromkeys(
        (F.sigmoid, torch.sigmoid, torch.sigmoid_, torch.special.expit, torch.Tensor.sigmoid,
         torch.Tensor.sigmoid_),
        "sigmoid",
    ),
    **dict.fromkeys(
        (F.tanh, torch.tanh, torch.tanh_, torch.Tensor.tanh, torch.Tensor.tanh_), "tanh",
    ),
    **dict.fromkeys((F.hardtanh, F.hardtanh_, F.hardsigmoid), "hard"),
    F.softsign: "softsign",
    **dict.fromkeys(
        (F.gelu, F.silu, F.mish, F.elu, F.elu_, F.selu, F.selu_, F.celu, F.celu_, F.leaky_relu,
         F.leaky_relu_, F.rrelu, F.rrelu_, F.prelu, torch.prelu, F.softplus, F.hardswish,
         F.logsigmoid, F.tanhshrink, F.hardshrink, F.softshrink, torch.sin, torch.Tensor.sin),
        "other",
    ),
}  # fmt: skip
# Activations that are written as a bound: forward then says where it lies.
CLAMPS = (
    torch.clamp, torch.clamp_, torch.clip, torch.clamp_min, torch.Tensor.clamp,
    torch.Tensor.clamp_, torch.Tensor.clamp_min, torch.Tensor.clamp_min_, torch.Tensor.clip,
)  # fmt: skip


def kind_of(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Kind | None:
    """What kind of activation a call is; None for any other call.

    >>> kind_of(torch.clamp, (torch.zeros(1),), {"min": 0})
    'rectifier'
    """
    kind = ACTIVATIONS.get(func)
    if kind is not None:
        return kind
    if func in CLAMPS:
        low = args[1] if len(args) > 1 else kwargs.get("min")
        high = args[2] if len(args) > 2 else kwargs.get("max")
        if high is None and isinstance(low, int | float) and low == 0:
            return "rectifier"
    return None


def flat_share(sample: torch.Tensor, kind: Kind) -> torch.Tensor | None:
    """Share of entries with |f'| below 1 % of its largest value; None where f is not bounded.

    A rectifier is flat on half of its entries by design: only bounded functions saturate.

    Args:
        sample: what the activation gave, shape (rows, units).
        kind: of the activation.

    >>> flat_share(torch.tensor([[0.0, 0.999]]), "tanh").item()
    0.5
    """
    match kind:
        case "sigmoid":
            # f' = y (1 - y), at most 1/4.
            flat = sample * (1 - sample) < 0.0025
        case "tanh":
            flat = sample.square() > 0.99
        case "hard":
            flat = (sample == sample.amax()) | (sample == sample.amin())
            # A batch that meets no end has one largest and one smallest entry by chance.
            flat = flat & ((flat.sum() > 2) | (sample.numel() < 3))
        case "softsign":
            # f' = (1 - |y|)^2.
            flat = sample.abs() > 0.9
        case _:
            return None
    return flat.float().mean()
