"""Lines to copy: the call that does it all, and what it comes to in plain PyTorch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from equipoise.schemes.laws import (
    BestOf,
    Constant,
    DiagonalNoise,
    Directions,
    Framed,
    Identity,
    Law,
    Mirrored,
    Normal,
    OffsetBias,
    Orthogonal,
    Paired,
    Sparse,
    SpreadBias,
    Table,
    Taps,
    TruncatedNormal,
    Turned,
    Uniform,
    Zero,
)
from equipoise.schemes.part_laws import Blocks, Chrono, Each, Rows
from equipoise.theory.activations import Activation

_CALL = """\
import torch
from torch import nn
import equipoise.torch as eq
eq.initialize(model, x{scheme})  # your model and a batch of its inputs"""
_BY_HAND = """\
# or by hand, for each nn.Linear(width, width) between hidden units:
with torch.no_grad():"""

_ZERO = Zero()


def snippet(f: Activation, laws: Sequence[Law], scheme: str = "auto", bias: Law = _ZERO) -> str:
    """The call, and what it comes to for the hidden layers of a network of constant width.

    Args:
        f: the activation.
        laws: of the weights, from the first to the last.
        scheme: name of the scheme.
        bias: of a hidden layer.

    Returns:
        Python text.

    >>> from equipoise.theory import activations
    >>> print(snippet(activations.relu(), [Normal(0.5)] * 3, "he").splitlines()[-2].strip())
    nn.init.normal_(layer.weight, std=0.5)
    """
    call = _CALL.format(scheme="" if scheme == "auto" else f', scheme="{scheme}"')
    if len(laws) < 3:
        # No weight lies between hidden units.
        return call
    first, hidden = laws[0], laws[len(laws) // 2]
    if isinstance(first, Framed) and isinstance(laws[1], Framed) and isinstance(hidden, Framed):
        # A quiet first layer is made up for by the second weight: by hand all layers are alike.
        first = replace(first, scale=first.scale * laws[1].scale / hidden.scale)
    lines = _by_hand(f, first, hidden, laws[-1], bias)
    if not lines:
        return call
    return "\n".join([call, _BY_HAND, *(f"    {line}" for line in lines)])


def _by_hand(f: Activation, first: Law, hidden: Law, last: Law, rest: Law) -> list[str]:
    bias = "layer.bias.zero_()"
    match hidden:
        case Framed(scale=scale, out_layout=Mirrored()):
            return [
                "# width is even, units come in pairs",
                "o = nn.init.orthogonal_(torch.empty(width // 2, width // 2))",
                "pairs = torch.cat([torch.cat([o, -o], 1), torch.cat([-o, o], 1)])",
                f"layer.weight.copy_({scale:.6g} * pairs)",
                bias,
                f"# first layer {_gain(first)} * torch.cat([o, -o]), last layer "
                f"{_gain(last)} * torch.cat([o, -o], 1)",
            ]
        case Framed(scale=gain):
            if isinstance(rest, OffsetBias) and rest.level:
                passed = f"{rest.level:.6g} - {rest.constant:.6g} * layer.weight.sum(1)"
                bias = f"layer.bias.copy_({passed})  # units rest at {rest.level:.6g}"
            elif f.value_at_zero != 0.0:
                passed = f"{-f.value_at_zero:.6g} * layer.weight.sum(1)"
                bias = f"layer.bias.copy_({passed})  # f works around f(0)"
            return [f"nn.init.orthogonal_(layer.weight, gain={gain:.6g})", bias]
        case Orthogonal(gain=gain):
            return [f"nn.init.orthogonal_(layer.weight, gain={gain:.6g})", bias]
        case Normal(std=std, mean=mean):
            at = f"mean={mean:.6g}, " if mean else ""
            return [f"nn.init.normal_(layer.weight, {at}std={std:.6g})", bias]
        case Uniform(bound=bound, mean=mean):
            low, high = mean - bound, mean + bound
            return [f"nn.init.uniform_(layer.weight, {low:.6g}, {high:.6g})", bias]
        case TruncatedNormal(scale=scale, low=low, high=high, mean=mean):
            return [
                f"nn.init.trunc_normal_(layer.weight, {mean:.6g}, {scale:.6g}, {low:.6g}, "
                f"{high:.6g})",
                bias,
            ]
        case Constant(value=value):
            return [f"nn.init.constant_(layer.weight, {value:.6g})", bias]
        case Sparse(share=share, std=std):
            return [f"nn.init.sparse_(layer.weight, {share:.6g}, {std:.6g})", bias]
        case Identity(gain=gain):
            return [f"layer.weight.copy_({gain:.6g} * torch.eye(width))", bias]
        case DiagonalNoise(diagonal=diagonal, noise_std=std, noise="normal"):
            return [
                f"nn.init.normal_(layer.weight, std={std:.6g})",
                f"layer.weight.add_({diagonal:.6g} * torch.eye(width))",
                bias,
            ]
        case Zero():
            return ["layer.weight.zero_()", bias]
        case (
            DiagonalNoise()
            | Directions()
            | Paired()
            | BestOf()
            | Taps()
            | Table()
            | Turned()
            | OffsetBias()
            | SpreadBias()
            | Blocks()
            | Chrono()
            | Each()
            | Rows()
        ):
            # More than a few lines of plain PyTorch.
            return []
        case _:
            assert_never(hidden)


def _gain(law: Law) -> str:
    assert isinstance(law, Framed)
    return f"{law.scale:.6g}"
