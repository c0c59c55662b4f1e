"""Clipping unit by unit: norms of what each unit reads, and what its gradient is multiplied by.

A model has many small tensors, so that what can be done for all of them at once is.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from equipoise.errors import ArgumentError
from equipoise.training.clipping import PerUnit
from equipoise.training.gradient_norms import HALVES, is_sharded, tensor_norms, unit_norms

_Kind = tuple[torch.device, torch.dtype]


def all_unit_norms(
    tensors: Sequence[torch.Tensor], axes: Sequence[int] = ()
) -> tuple[torch.Tensor, ...]:
    """What ``unit_norms`` says of each tensor.

    Args:
        tensors: settled, not sparse.
        axes: where the units of each lie; 0 for all where left out.

    >>> [n.flatten().tolist() for n in all_unit_norms([torch.eye(2), torch.tensor([3.0, 4.0])])]
    [[1.0, 1.0], [5.0]]
    """
    norms: dict[int, torch.Tensor] = {}
    alone: dict[_Kind, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.dim() > 1 or is_sharded(tensor):
            norms[i] = unit_norms(tensor, axes[i] if axes else 0)
        else:
            alone.setdefault((tensor.device, tensor.dtype), []).append(i)
    for (_, dtype), places in alone.items():
        wide = torch.float32 if dtype in HALVES else None
        found = torch._foreach_norm([tensors[i] for i in places], 2, dtype=wide)
        norms.update(zip(places, found, strict=True))
    return tuple(norms[i] for i in range(len(tensors)))


def norms_by_units(
    gradients: Sequence[torch.Tensor], axes: Mapping[int, int]
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Norm of each gradient, and norms of the units of some, each read once.

    Args:
        gradients: settled.
        axes: by place of the gradients whose units are asked for, where these lie.

    Returns:
        Norms as of ``tensor_norms``; by place, norms as of ``unit_norms``.
    """
    places = [i for i in axes if not gradients[i].is_sparse]
    found = all_unit_norms([gradients[i] for i in places], [axes[i] for i in places])
    units = dict(zip(places, found, strict=True))
    # The norm of the norms of all units is that of the whole, where all of it is here.
    small = [
        units[i] if i in units and not is_sharded(gradient) else gradient
        for i, gradient in enumerate(gradients)
    ]
    return tensor_norms(small), units


def unit_factors(
    rule: PerUnit,
    gradients: Sequence[torch.Tensor],
    parameters: Sequence[torch.Tensor],
    axes: Sequence[int],
    units: Sequence[torch.Tensor],
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """What each gradient is multiplied by, and the smallest of all these numbers.

    Args:
        rule: what to clip by.
        gradients: settled.
        parameters: whose they are.
        axes: where their units lie; 0 for all where left out.
        units: norms of the units of the gradients, where they are known.

    Raises:
        ArgumentError: If a gradient is sparse.
    """
    for gradient in gradients:
        if gradient.is_sparse:
            raise ArgumentError(
                f"gradients must be dense for PerUnit, got a sparse one of shape "
                f"{tuple(gradient.shape)}. Exclude its parameter, or pass sparse=False to the "
                f"embedding."
            )
    norms = units or all_unit_norms(gradients, axes)
    weights = all_unit_norms([p.detach() for p in parameters], axes)
    kinds: dict[_Kind, list[int]] = {}
    for i, norm in enumerate(norms):
        kinds.setdefault((norm.device, norm.dtype), []).append(i)
    factors: dict[int, torch.Tensor] = {}
    # None of them is above 1. The kind is the same on every rank, whatever its shards hold.
    widest = torch.float64 if any(n.dtype == torch.float64 for n in norms) else torch.float32
    lowest = torch.ones((), dtype=widest, device=norms[0].device if norms else None)
    for (device, dtype), places in kinds.items():
        some = [norms[i] for i in places]
        of_weights = _joined([weights[i] for i in places]).to(device, dtype)
        every = (rule.limit * of_weights.clamp_(min=rule.floor) / _joined(some)).clamp_(max=1.0)
        parts = torch._utils._unflatten_dense_tensors(every, some)  # type: ignore[no-untyped-call]
        factors.update(zip(places, parts, strict=True))
        # An empty shard has no smallest factor.
        if every.numel():
            lowest = torch.minimum(lowest, every.amin().to(lowest))
    for mesh in dict.fromkeys(g.device_mesh for g in gradients if is_sharded(g)):
        for axis in range(mesh.ndim):
            dist.all_reduce(lowest, dist.ReduceOp.MIN, group=mesh.get_group(axis))
    return tuple(factors[i] for i in range(len(norms))), lowest


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All entries of some tensors in a row."""
    flat: torch.Tensor = torch._utils._flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
    return flat
