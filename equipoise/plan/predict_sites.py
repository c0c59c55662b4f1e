"""Convolutions, pooling and flattening of batches of maps, forward and back.

A batch of maps has shape (draws, channels, rows * sites), the sites of a row together.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import sparse

from equipoise.plan.nodes import Affine, Pool
from equipoise.plan.predict_weights import Drawing, Weight, weight_of
from equipoise.plan.rows import pooling
from equipoise.schemes.laws import Array, Law, Taps
from equipoise.schemes.sites import Sites, block_sites, central_slices, window_sites

Back = Callable[[Array], Array]


class SitesDifferError(ValueError):
    """Sites were cut, joined or moved on the way to a convolution in a way that a stack hides."""


def layer_of(law: Law, affine: Affine, drawing: Drawing) -> "Weight | OnSites | str":
    """A layer as a map of batches, or why there is none.

    Args:
        law: of its weight.
        affine: the layer.
        drawing: what the weights share.

    Returns:
        The map, or one sentence.
    """
    convolution, name = affine.convolution, affine.weight
    if not convolution.kernel:
        matrix = law.matrix if isinstance(law, Taps) else law
        return weight_of(matrix, name, affine.out_size, affine.in_size, drawing)
    block = law.block if isinstance(law, Taps) else convolution.kernel
    matrix = law.matrix if isinstance(law, Taps) else law
    groups, taps = convolution.groups, math.prod(block)
    rows, columns = affine.out_size // groups, affine.in_size // groups
    if convolution.is_transposed:
        table, rows = spread_sites(affine, block), rows * taps
    else:
        table = block_sites(convolution, block, affine.in_sites, affine.out_sites)
        columns *= taps
    parts = list[Weight]()
    for group in range(groups):
        found = weight_of(matrix, f"{name}/{group}", rows, columns, drawing)
        if isinstance(found, str):
            return found
        parts.append(found)
    return OnSites(parts, table, convolution.is_transposed, block)


def spread_sites(affine: Affine, block: tuple[int, ...]) -> Sites:
    """Where a transposed convolution sends each site: the reading of its mirror image."""
    c = affine.convolution
    return window_sites(
        affine.out_sites,
        affine.in_sites,
        block,
        c.stride or (1,) * len(c.kernel),
        [before for before, _ in c.padding or ((0, 0),) * len(c.kernel)],
        c.dilation,
        [part.start for part in central_slices(c.kernel, block)],
    )


class OnSites:
    """A matrix for each group of channels, applied to the window of every site."""

    def __init__(
        self, parts: list[Weight], table: Sites, is_transposed: bool, block: tuple[int, ...]
    ) -> None:
        self._parts, self._table, self._is_transposed = parts, table, is_transposed
        self._block = block
        # What is taken off every window, padding or not: shape (inputs of the matrix, 1).
        self.offset: Array | float = 0.0
        index = np.where(table.index < 0, table.count, table.index).ravel()
        ones = np.ones(index.size)
        self._gather = sparse.csr_matrix(
            (ones, (np.arange(index.size), index)), shape=(index.size, table.count + 1)
        )[:, : table.count].tocsr()

    def point(self, mean: Array) -> Array:
        """A mean over kernels, or over channels, as a column of the inputs of the matrix."""
        if mean.ndim > 1:
            mean = mean[(slice(None), *central_slices(mean.shape[1:], self._block))]
        return mean.reshape(-1, 1)

    def forward(self, x: Array) -> Array:
        """W x."""
        if self._is_transposed:
            return self._scattered(self._applied(x, is_back=False))
        return self._applied(self._windows(x) - self.offset, is_back=False)

    def back(self, u: Array) -> Array:
        """W^T u."""
        if self._is_transposed:
            return self._applied(self._windows(u), is_back=True)
        return self._scattered(self._applied(u, is_back=True))

    def _applied(self, x: Array, is_back: bool) -> Array:
        size = x.shape[1] // len(self._parts)
        parts = [x[:, i * size : (i + 1) * size] for i in range(len(self._parts))]
        made = [p.back(v) if is_back else p.forward(v)
                for p, v in zip(self._parts, parts, strict=True)]  # fmt: skip
        return made[0] if len(made) == 1 else np.concatenate(made, axis=1)

    def _windows(self, x: Array) -> Array:
        """(draws, channels * window, rows * sites) of (draws, channels, rows * sites read)."""
        draws, channels, length = x.shape
        count, window = self._table.count, self._table.width
        if length % count:
            raise SitesDifferError
        flat = x.reshape(-1, count)
        read = np.asarray((self._gather @ flat.T).T)
        shape = (draws, channels, -1, len(self._table.index), window)
        moved = read.reshape(shape).transpose(0, 1, 4, 2, 3)
        return np.ascontiguousarray(moved).reshape(draws, channels * window, -1)

    def _scattered(self, v: Array) -> Array:
        """The sum of all windows at the sites that they read."""
        draws, window, sites = len(v), self._table.width, len(self._table.index)
        channels = v.shape[1] // window
        parts = v.reshape(draws, channels, window, -1, sites).transpose(0, 1, 3, 4, 2)
        flat = np.ascontiguousarray(parts).reshape(-1, sites * window)
        return np.asarray((self._gather.T @ flat.T).T).reshape(draws, channels, -1)


def pooled(node: Pool, x: Array) -> tuple[Array, Back]:
    """A pooling of maps, and what sends a cotangent back through it."""
    found = pooling(node)
    table = found.sites
    draws, channels, _ = x.shape
    maps = x.reshape(-1, table.count)
    if found.kind == "average":
        index = np.where(table.index < 0, table.count, table.index)
        place = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
        matrix = sparse.csr_matrix(
            (found.shares.ravel(), (place.ravel(), index.ravel())),
            shape=(len(index), table.count + 1),
        )[:, : table.count].tocsr()

        def spread(u: Array) -> Array:
            flat = u.reshape(-1, len(index))
            return np.asarray((matrix.T @ flat.T).T).reshape(draws, channels, -1)

        return np.asarray((matrix @ maps.T).T).reshape(draws, channels, -1), spread

    edge = np.full((len(maps), 1), -math.inf)
    read = np.concatenate([maps, edge], axis=1)[:, table.index]
    chosen = read.argmax(axis=2)
    source = table.index[np.arange(len(table.index)), chosen]

    def routed(u: Array) -> Array:
        flat = u.reshape(-1, len(table.index))
        back = np.zeros((len(flat), table.count))
        np.add.at(back, (np.arange(len(flat))[:, None], source), flat)
        return back.reshape(draws, channels, -1)

    largest = np.take_along_axis(read, chosen[:, :, None], axis=2)
    return largest.reshape(draws, channels, -1), routed


def flattened(x: Array, sites: int) -> tuple[Array, Back]:
    """Channels and sites as one axis, unit = channel * sites + site, and the way back."""
    draws, channels, _ = x.shape
    maps = x.reshape(draws, channels, -1, sites)
    joined = np.ascontiguousarray(maps.transpose(0, 1, 3, 2)).reshape(draws, channels * sites, -1)

    def parted(u: Array) -> Array:
        parts = u.reshape(draws, channels, sites, -1).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(parts).reshape(draws, channels, -1)

    return joined, parted
