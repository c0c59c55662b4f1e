"""The maps of a stack: what its convolutions read of each other and of the inputs."""

import math
from dataclasses import dataclass

import numpy as np

from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Affine
from equipoise.plan.rows import pooling
from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Array
from equipoise.schemes.maps import Passage
from equipoise.schemes.sites import Sites, block_sites, central_slices

# Numbers in a sample of patches: enough for the second moments, little enough for a large image.
_MOST_NUMBERS = 2**20
_ROWS_WITHOUT_INPUTS = 64


@dataclass(frozen=True, eq=False)
class Patches:
    """What the first weight of a stack reads.

    Attributes:
        values: shape (rows, channels * taps, sites).
        is_known: whether they are the inputs themselves.
    """

    values: Array
    is_known: bool

    @property
    def rows(self) -> Array:
        """One row for each site, shape (rows * sites, channels * taps)."""
        return np.moveaxis(self.values, 1, 2).reshape(-1, self.values.shape[1])


def has_maps(stack: Stack) -> bool:
    """Whether anything in a stack joins, pools or strides over sites."""
    return any(a.convolution.kernel for a in stack.affines) or any(
        h.pools or h.early_pools or h.copies > 1 for h in stack.hidden
    )


def cannot_be_framed(stack: Stack) -> str:
    """Why the weights of a stack cannot share frames, or ''."""
    for affine in stack.affines:
        if affine.convolution.groups > 1:
            return f"the groups of layer {affine.layer!r} do not see each other"
        if affine.convolution.is_transposed:
            return f"layer {affine.layer!r} is transposed"
    return ""


def block_of(affine: Affine, units: int, is_first: bool) -> tuple[int, ...]:
    """Taps that a layer reads: as many as its stride is long; all, where channels are too few.

    A first layer of few channels that read one tap would give each site but as many directions.
    """
    block = affine.convolution.stride_block
    if is_first and affine.in_size * math.prod(block) < units:
        return affine.convolution.kernel
    return block


def passages(stack: Stack, blocks: list[tuple[int, ...]]) -> tuple[Passage, ...]:
    """What lies between the weights of a stack.

    Args:
        stack: the layers.
        blocks: taps that each of them reads.

    Returns:
        One passage for each hidden space.
    """
    found: list[Passage] = []
    after = math.prod(stack.affines[-1].out_sites)
    for h, following, block in zip(
        stack.hidden[::-1], stack.affines[:0:-1], blocks[:0:-1], strict=True
    ):
        if following.convolution.kernel:
            reads = block_sites(
                following.convolution, block, following.in_sites, following.out_sites
            )
        elif h.copies > 1:
            # Flattened maps have one site.
            reads = Sites(h.copies, np.arange(h.copies)[None])
        else:
            reads = Sites(after, np.arange(after)[:, None])
        early, late = ([pooling(pool) for pool in pools] for pools in (h.early_pools, h.pools))
        found.append(Passage(reads, tuple(early), tuple(late)))
        after = found[-1].count
    return tuple(found[::-1])


def first_patches(stack: Stack, inputs: Inputs, block: tuple[int, ...], sites: int) -> Patches:
    """A sample of what the first weight reads.

    Where inputs do not reach it, half of the energy is taken to be common to all sites.

    Args:
        stack: the layers.
        inputs: what enters.
        block: taps that the first weight reads.
        sites: number of sites that the first layer makes.

    Returns:
        The sample.
    """
    first = stack.affines[0]
    reads = block_sites(first.convolution, block, first.in_sites, first.out_sites)
    maps, is_known = inputs.maps, bool(inputs.maps.size and inputs.maps.any())
    most = max(2, _MOST_NUMBERS // (first.in_size * reads.index.size))
    if not is_known:
        count = math.prod(first.in_sites) if first.convolution.kernel else sites
        rng = np.random.Generator(np.random.Philox(0))
        shape = (min(_ROWS_WITHOUT_INPUTS, most), first.in_size)
        own, common = rng.standard_normal((*shape, count)), rng.standard_normal((*shape, 1))
        maps = math.sqrt(inputs.mean_square / 2) * (own + common)
    if not first.convolution.kernel:
        return Patches(maps, is_known)
    some = maps
    if len(maps) > most:
        some = maps[np.linspace(0, len(maps) - 1, most).astype(int)]
    read = reads.joined(some)
    if not read.any() and len(maps) > most:
        # Those in between are silent.
        loudest = np.argsort(-np.square(maps).sum(axis=(1, 2)))
        read = reads.joined(maps[loudest[:most]])
    if not read.any():
        # The block reads silence; what it would read of other maps is drawn.
        read = math.sqrt(inputs.mean_square) * np.random.Generator(
            np.random.Philox(0)
        ).standard_normal(read.shape)
        is_known = False
    return Patches(read, is_known)


def kernel_point(affine: Affine, block: tuple[int, ...], point: Array) -> Array:
    """A point of the space of patches as an array over channels and all taps, 0 beyond the block.

    Args:
        affine: the layer.
        block: taps that it reads.
        point: shape (channels * taps of the block,).

    Returns:
        Shape (channels, *kernel).
    """
    kernel = affine.convolution.kernel
    found = np.zeros((affine.in_size, *kernel))
    found[(slice(None), *central_slices(kernel, block))] = point.reshape(affine.in_size, *block)
    return found


def remarks(stack: Stack, way: tuple[Passage, ...], patches: Patches | None) -> list[str]:
    """What a reader should know of the maps of a framed stack."""
    found: list[str] = []
    if patches and way and not patches.is_known:
        found.append("half of what enters is taken to be alike at all sites")
    for affine, passage in zip(stack.affines[1:], way, strict=False):
        if passage.reads.unread and affine.convolution.steps > 1:
            read = passage.reads.count - passage.reads.unread
            found.append(f"{affine.layer!r} reads {read} of {passage.reads.count} sites")
    for affine, h, passage in zip(stack.affines[1:], stack.hidden, way, strict=False):
        if h.activation.value_at_zero != 0.0 and passage.reads.reads_padding:
            found.append(f"the padding that {affine.layer!r} reads is not centred")
            break
    if any(passage.has_maximum for passage in way):
        found.append("behind a maximum the level is that of drawn units")
    return found
