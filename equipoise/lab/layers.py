"""Replicas of one Sequential as one tensor program: which layers it may have, and the forward pass.

Between dense layers the replica axis leads, shape (R, B, features), and a layer of R replicas is
one batched matrix product. Between convolutions it is part of the channel axis, shape
(B, R * channels, height, width), and a layer of R replicas is one convolution in R groups.

Why groups: milliseconds of one step (forward and backward) for each layer and replica, 3 x 3 taps,
16 channels, batch 64, one thread, best of 3, 16 replicas; 4 x 4 maps 50 deep, 8 x 8 maps 20 deep:

    one convolution in R groups                  .28    .69
    the same, channels last                      .32    .71
    a convolution for each replica               .45   1.11
    shifted copies, batched matrix product       .67   2.92    (batch axis last, own backward pass)
    shifted copies, by torch.cat and autograd    .71   3.88
    unfold, batched matrix product              1.68   6.82
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.dense import DenseProgram
from equipoise.lab.models import Residual


def common_layers(models: Sequence[nn.Sequential]) -> tuple[nn.Module, ...]:
    """Layers that all models share in type and shape; the weights of the first are not read.

    Args:
        models: Linear and Conv2d (both with bias), Flatten, and parameter-free modules that act on
            each number alone or, behind convolutions, on each channel of each image alone. Linear
            before Flatten acts on each row of an image alone.

    Returns:
        The layers of the first.

    Raises:
        ArgumentError: for no model, differing layers or a layer of another kind.
    """
    if not models:
        raise ArgumentError("models must hold at least one model, got none. Add one.")
    layers = tuple(models[0])
    for i, model in enumerate(models[1:], 1):
        if [repr(layer) for layer in model] != [repr(layer) for layer in layers]:
            raise ArgumentError(
                f"models must have the same layers, got number {i} unlike the first. "
                "Train each shape apart."
            )
    reads_rows = has_shared_rows(layers)
    flat_from = next((i for i, x in enumerate(layers) if isinstance(x, nn.Flatten | nn.Linear)), 0)
    checked: set[tuple[type, bool]] = set()
    for i, layer in enumerate(layers):
        # A deep network repeats one activation.
        key = (type(layer), i < flat_from)
        known = key in checked and next(layer.parameters(), None) is None
        if isinstance(layer, nn.Flatten):
            is_place = reads_rows or 0 < i == flat_from
            served = is_place and (layer.start_dim, layer.end_dim) == (1, -1)
        else:
            served = known or _is_served(layer, is_image=i < flat_from)
        if not served:
            raise ArgumentError(
                f"models must be made of Linear and Conv2d with bias (one group, zero padding), "
                f"Flatten, Residual branches of dense layers and parameter-free layers that mix no "
                f"units, got {layer!r} at place {i}. "
                "Build them with lab.models."
            )
        checked.add(key)
    return layers


def has_shared_rows(layers: Sequence[nn.Module]) -> bool:
    """Whether dense layers act on each row of an image alone, until one Flatten joins the rows.

    >>> has_shared_rows([nn.Linear(28, 4), nn.Tanh(), nn.Flatten(), nn.Linear(112, 10)])
    True
    """
    kinds = [type(x) for x in layers if isinstance(x, nn.Linear | nn.Conv2d | nn.Flatten)]
    return (
        kinds.count(nn.Flatten) == 1
        and nn.Conv2d not in kinds
        and kinds[0] is kinds[-1] is nn.Linear
    )


def forward(
    weights: torch.Tensor, layers: Sequence[nn.Module], inputs: torch.Tensor
) -> torch.Tensor:
    """Outputs of all replicas.

    Args:
        weights: shape (R, P): weight and bias of each layer in turn.
        layers: as ``common_layers`` returns them.
        inputs: shape (R, B, ...), or (B, ...) for all replicas.

    Returns:
        Shape (R, B, outputs).
    """
    count = len(weights)
    if has_shared_rows(layers):
        return DenseProgram(layers)(weights, inputs)
    owners = list(_owners(layers))
    sizes = [p.numel() for layer in owners for p in layer.parameters()]
    # One split has one backward pass: a slice for each layer would fill a whole matrix each.
    parts = iter(torch.split(weights, sizes, dim=1))
    is_image = isinstance(owners[0], nn.Conv2d)
    h = inputs.expand(count, *inputs.shape[-4 if is_image else -2 :])
    if is_image:
        h = h.transpose(0, 1).flatten(1, 2)
    return _through(layers, h, parts, count)


def _owners(layers: Sequence[nn.Module]) -> Iterator[nn.Linear | nn.Conv2d]:
    """Layers with parameters, those of residual branches in their place."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from _owners(tuple(layer.branch))
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            yield layer


def _through(
    layers: Sequence[nn.Module], h: torch.Tensor, parts: Iterator[torch.Tensor], count: int
) -> torch.Tensor:
    for layer in layers:
        match layer:
            case Residual(branch=branch, scale=scale):
                h = h + scale * _through(tuple(branch), h, parts, count)
            case nn.Linear(in_features=fan_in, out_features=fan_out):
                weight = next(parts).view(count, fan_out, fan_in)
                bias = next(parts).view(count, 1, fan_out)
                h = torch.baddbmm(bias, h, weight.transpose(1, 2))
            case nn.Conv2d():
                weight = next(parts).reshape(count * layer.out_channels, *layer.weight.shape[1:])
                bias = next(parts).reshape(-1)
                h = nn.functional.conv2d(
                    h, weight, bias, layer.stride, layer.padding, layer.dilation, groups=count
                )
            case nn.Flatten():
                h = h.reshape(len(h), count, -1).transpose(0, 1)
            case _:
                h = layer(h)
    return h


def _is_served(layer: nn.Module, is_image: bool) -> bool:
    match layer:
        case nn.Linear():
            return layer.bias is not None
        case Residual(branch=branch):
            # Maps of images would share the channel axis with other replicas.
            return not is_image and all(_is_served(x, is_image=False) for x in branch)
        case nn.Conv2d(groups=groups, padding_mode=mode):
            return is_image and layer.bias is not None and groups == 1 and mode == "zeros"
        case _:
            return next(layer.parameters(), None) is None and _mixes_nothing(layer, is_image)


@torch.no_grad()
def _mixes_nothing(layer: nn.Module, is_image: bool) -> bool:
    """Whether a layer treats rows and channels (or single numbers) alone and always alike.

    Replicas share the channel axis, so whatever mixes channels would mix replicas; dropout would
    make a replica differ from a run of its own.
    """
    noise = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, 32, 32) if is_image else (2, 3, 4), generator=noise)
    # Clones, since a layer may work in place.
    whole = layer(x.clone())
    by_row = torch.cat([layer(row) for row in torch.split(x.clone(), 1)])
    axis = 1 if is_image else 2
    by_channel = torch.cat([layer(part) for part in torch.split(x.clone(), 1, axis)], axis)
    return all(
        part.shape == whole.shape and torch.allclose(part, whole, 1e-5, 1e-6, equal_nan=True)
        for part in (by_row, by_channel)
    )
