"""Units of many replicas on a batch: which no input moves, and which are mostly flat."""

from dataclasses import dataclass

import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas
from equipoise.lab.pointwise import pointwise
from equipoise.lab.task import Task

# A slope below this part of the largest is flat.
FLAT = 0.01
_REACH = torch.linspace(-8.0, 8.0, 4001)


@dataclass(frozen=True, eq=False)
class UnitStates:
    """Hidden units of each replica on a batch.

    Attributes:
        stuck: share of the units that are flat on every row, shape (R,): no input moves them, and
            no gradient passes. For ReLU those are the dead ones.
        saturated: share of all units and rows that are flat, shape (R,).
        silent: whether all units of some layer are stuck, shape (R,): nothing passes at all.
    """

    stuck: torch.Tensor
    saturated: torch.Tensor
    silent: torch.Tensor


@torch.no_grad()
def unit_states(replicas: Replicas, x: torch.Tensor) -> UnitStates:
    """Which hidden units are flat, |f'| below 1 % of its largest value, and for how many rows.

    Args:
        replicas: dense networks: Linear layers and functions of each number alone.
        x: inputs of all replicas, shape (rows, features).

    Returns:
        Shares over all hidden units.

    Raises:
        ArgumentError: if there is no hidden unit.

    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = net[0].weight.data.fill_(0.0), net[0].bias.data.copy_(torch.tensor([1.0, -1.0]))
    >>> unit_states(Replicas.of([net]), torch.zeros(5, 1)).stuck.tolist()
    [0.5]
    """
    count, place = len(replicas.parameters), 0
    values = x.expand(count, *x.shape)
    stuck, flat, silent = [], [], torch.zeros(count, dtype=torch.bool)
    for layer in replicas.layers:
        if isinstance(layer, nn.Linear):
            size = layer.in_features * layer.out_features
            weight = replicas.parameters[:, place : place + size].view(
                count, layer.out_features, -1
            )
            bias = replicas.parameters[:, place + size : place + size + layer.out_features]
            place += size + layer.out_features
            values = torch.baddbmm(bias[:, None], values, weight.transpose(1, 2))
            continue
        pair = pointwise(layer)
        slopes_over_all = pair.backward(torch.ones_like(_REACH), pair.forward(_REACH)[1])
        values, kept = pair.forward(values)
        slopes = pair.backward(torch.ones_like(values), kept).abs()
        is_flat = slopes < FLAT * slopes_over_all.abs().max()
        # Whatever is not finite passes nothing that can be used.
        is_flat |= ~torch.isfinite(slopes)
        stuck.append(is_flat.all(1))
        flat.append(is_flat.float().mean(1))
        silent |= is_flat.all(1).all(1)
    if not stuck:
        raise ArgumentError(
            f"replicas must have hidden units, got {replicas.layers}. Pass networks with a "
            "function between two Linear layers."
        )
    return UnitStates(torch.cat(stuck, 1).float().mean(1), torch.cat(flat, 1).mean(1), silent)


@dataclass(frozen=True, eq=False)
class GradientSizes:
    """Gradients of each replica on the first rows of its task.

    Attributes:
        norm: of all parameters together, shape (R,).
        ratio: of the first layer's weight over the last one's, shape (R,).
    """

    norm: torch.Tensor
    ratio: torch.Tensor


def gradient_sizes(replicas: Replicas, task: Task, rows: int = 128) -> GradientSizes:
    """Norms of gradients on one batch, the first rows of the training part.

    Args:
        replicas: dense networks.
        task: the data and the loss.
        rows: of the batch, at least 1.

    Returns:
        The norms.

    >>> from equipoise.lab.models import mlp
    >>> from equipoise.lab.data import digits
    >>> nets = Replicas.of([mlp([64, 8, 10], nn.Tanh)])
    >>> gradient_sizes(nets, digits(100)).norm.shape
    torch.Size([1])
    """
    weights = replicas.parameters.clone().requires_grad_()
    batch = torch.arange(min(rows, task.rows)).expand(len(weights), -1)
    moved = Replicas(replicas.layers, weights)
    loss = task.losses(moved.forward, batch).sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    owners = [layer for layer in replicas.layers if isinstance(layer, nn.Linear)]
    first, last = owners[0].weight.numel(), owners[-1].weight.numel()
    begin = gradient.shape[1] - last - owners[-1].out_features
    return GradientSizes(
        gradient.norm(dim=1),
        gradient[:, :first].norm(dim=1) / gradient[:, begin : begin + last].norm(dim=1),
    )
