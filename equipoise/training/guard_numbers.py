"""The numbers of a step, put together on the device."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist

from equipoise.training.gradient_norms import is_sharded, local
from equipoise.training.guard_clip import Decided


def mean_loss(
    losses: Sequence[torch.Tensor],
    norm: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    group: dist.ProcessGroup | None,
) -> torch.Tensor | None:
    """Mean of some losses over all processes, so that each of them decides alike.

    Args:
        losses: without axes; None is returned where there are none.
        norm: whose device and kind are taken.
        parameters: the processes of their meshes take part.
        group: others that take part, or None.
    """
    if not losses:
        return None
    mean = torch.stack([loss.to(norm.device, norm.dtype) for loss in losses]).mean()
    groups = [group] if group is not None else []
    for mesh in dict.fromkeys(p.device_mesh for p in parameters if is_sharded(p)):
        groups.extend(mesh.get_group(axis) for axis in range(mesh.ndim))
    for some in groups:
        dist.all_reduce(mean, group=some)
        mean /= dist.get_world_size(some)
    return mean


def unscale(gradients: Sequence[torch.Tensor], scale: torch.Tensor) -> None:
    """Divide gradients by the scale of the loss, in place."""
    # As GradScaler has it: one over the scale in double precision, then in single.
    inverse = scale.double().reciprocal().float()
    here = [local(g) for g in gradients]
    for device in dict.fromkeys(g.device for g in here):
        torch._foreach_mul_([g for g in here if g.device == device], inverse.to(device))


def joined(
    norm: torch.Tensor,
    loss: torch.Tensor | None,
    decided: Sequence[Decided],
    is_bad: torch.Tensor,
    norms: torch.Tensor,
    updates: torch.Tensor,
) -> torch.Tensor:
    """All numbers of a step, in one tensor on the device."""
    limit = decided[0].clipping.limit if decided else torch.full_like(norm, math.inf)
    is_clipped = torch.zeros_like(is_bad)
    for one in decided:
        is_clipped = is_clipped | one.clipping.is_clipped
    first = [norm if loss is None else loss, norm, limit, is_clipped, is_bad]
    return torch.cat([torch.stack([x.to(norm) for x in first]), norms, updates.to(norms)])
