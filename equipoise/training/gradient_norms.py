"""Norms of gradients, whole or in shards, computed where they are and left there.

Nothing here waits for the device. Numbers in half precision are summed in single: a gradient in
float16 with entries of 1 has an infinite norm in float16 from 4.3e9 entries on.
"""

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

HALVES = (torch.float16, torch.bfloat16)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_sharded(tensor: torch.Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is a ``DTensor``."""
    # Asked for every tensor in every step, so that the usual kinds are told first.
    if type(tensor) in _PLAIN:
        return False
    # Its module takes half a second to import, and no DTensor exists before somebody has done so.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The dense numbers of a tensor that are here: a shard, or the values of a sparse one.

    It shares memory with the tensor. A sparse one must be coalesced.

    >>> local(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    if is_sharded(tensor):
        return tensor.to_local()
    return tensor._values() if tensor.is_sparse else tensor


def settled(tensor: torch.Tensor, parameter: torch.Tensor | None = None) -> torch.Tensor:
    """A gradient whose entries are final: sums over ranks carried out, sparse entries joined.

    A ``DTensor`` may stand for a sum over ranks that has not been carried out (``Partial``), of
    which neither a norm nor the largest entry can be read. Others are returned as they are.

    Args:
        tensor: the gradient.
        parameter: whose it is; the gradient is then laid out as the parameter is.
    """
    if is_sharded(tensor):
        from torch.distributed.tensor import Replicate

        placements = tuple(Replicate() if p.is_partial() else p for p in tensor.placements)
        if parameter is not None and is_sharded(parameter):
            placements = parameter.placements
        if placements != tensor.placements:
            return tensor.redistribute(placements=placements)
        return tensor
    return tensor.coalesce() if tensor.is_sparse else tensor


def tensor_norms(tensors: Sequence[torch.Tensor], order: float = 2.0) -> torch.Tensor:
    """Norm of each tensor, over all of its shards.

    Args:
        tensors: real or complex, of any devices and kinds, settled.
        order: 2, or infinity for the largest entry.

    Returns:
        Shape (tensors,), on the device of the first one; float32, or float64 where one of them is.

    >>> tensor_norms([torch.tensor([3.0, 4.0]), torch.zeros(2, 2)]).tolist()
    [5.0, 0.0]
    """
    if not tensors:
        return torch.zeros(0)
    device = local(tensors[0]).device
    norms: list[torch.Tensor] = [torch.zeros((), device=device)] * len(tensors)
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    here = [local(tensor) for tensor in tensors]
    for i, tensor in enumerate(here):
        # A shard may hold nothing, and nothing has no largest entry.
        if tensor.numel():
            kinds.setdefault((tensor.device, tensor.dtype), []).append(i)
    for (place, dtype), places in kinds.items():
        wide = torch.float32 if dtype in HALVES else None
        some = [here[i] for i in places]
        if order == math.inf and place.type == "cpu" and not dtype.is_complex:
            # Several times faster there than the norm.
            found = _largest(some, wide or dtype)
        else:
            found = torch._foreach_norm(some, order, dtype=wide)
        if len(places) == len(tensors):
            return over_shards(torch.stack(found), tensors, order)
        for i, norm in zip(places, found, strict=True):
            norms[i] = norm.to(device)
    return over_shards(torch.stack(norms), tensors, order)


def _largest(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    ends = [torch.aminmax(tensor) for tensor in tensors]
    low, high = (torch.stack([end[i] for end in ends]).to(dtype) for i in range(2))
    return torch.maximum(-low, high).unbind()


def total_norm(norms: torch.Tensor, order: float = 2.0) -> torch.Tensor:
    """Norm of everything together from the norm of each, a tensor without axes.

    >>> total_norm(torch.tensor([3.0, 4.0])).item()
    5.0
    """
    # Of no gradient at all, the largest entry is 0.
    return torch.linalg.vector_norm(norms, order) if norms.numel() else norms.sum()


def unit_norms(tensor: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """Norm of what each unit reads, for a weight whose units lie along ``axis``.

    A tensor of one axis or none (a bias) is one unit, as in arXiv 2102.06171.

    Args:
        tensor: real or complex, settled, not sparse.
        axis: where its units lie.

    Returns:
        Shape of the local part with every axis but ``axis`` of length 1; () for a bias.

    >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [[5.0], [1.0]]
    """
    here = local(tensor)
    wide = torch.float32 if here.dtype in HALVES else None
    is_one = here.dim() < 2
    summed = [i for i in range(here.dim()) if is_one or i != axis % here.dim()]
    norms: torch.Tensor = torch.linalg.vector_norm(
        here, dim=summed or None, keepdim=not is_one, dtype=wide
    )
    if is_sharded(tensor):
        split = _split_axes(tensor)
        for mesh_axis, tensor_axis in split.items():
            if tensor_axis in summed:
                norms = _reduced(norms, tensor.device_mesh, (mesh_axis,), 2.0)
    return norms


def _split_axes(tensor: "DTensor") -> dict[int, int]:
    """By axis of the mesh, the axis of the tensor that it divides."""
    # Shards that interleave (fully sharded and tensor parallel) have a class of their own, and
    # the name of the axis in common.
    return {
        i: int(getattr(placement, "dim"))  # noqa: B009
        for i, placement in enumerate(tensor.placements)
        if not placement.is_replicate() and not placement.is_partial()
    }


def over_shards(norms: torch.Tensor, tensors: Sequence[torch.Tensor], order: float) -> torch.Tensor:
    """Norms of whole tensors from those of the shards here: one sum over ranks for each mesh."""
    meshes: dict[tuple[DeviceMesh, tuple[int, ...]], list[int]] = {}
    for i, tensor in enumerate(tensors):
        if is_sharded(tensor):
            split = tuple(_split_axes(tensor))
            meshes.setdefault((tensor.device_mesh, split), []).append(i)
    for (mesh, split), places in meshes.items():
        index = torch.tensor(places, device=norms.device)
        norms[index] = _reduced(norms[index], mesh, split, order)
    return norms


def _reduced(
    norms: torch.Tensor, mesh: "DeviceMesh", axes: Sequence[int], order: float
) -> torch.Tensor:
    whole = norms if order == math.inf else norms.square()
    operation = dist.ReduceOp.MAX if order == math.inf else dist.ReduceOp.SUM
    whole = whole.contiguous()
    for axis in axes:
        dist.all_reduce(whole, operation, group=mesh.get_group(axis))
    return whole if order == math.inf else whole.sqrt()
