"""Maps: a sample of inputs in the columns of the frames at each site, and the way through a stack.

The columns at a site are all that a stack on frames knows of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.schemes.laws import Array
from equipoise.schemes.sites import Pooling, Sites

_MOST_SAMPLES = 1024


@dataclass(frozen=True, eq=False)
class Passage:
    """What lies between two weights.

    Attributes:
        reads: the sites that the next weight reads.
        early: poolings before the activation.
        late: poolings behind it.
    """

    reads: Sites
    early: tuple[Pooling, ...] = ()
    late: tuple[Pooling, ...] = ()

    @property
    def count(self) -> int:
        """Number of sites at the output of the weight before."""
        pools = (*self.early, *self.late)
        return pools[0].sites.count if pools else self.reads.count

    @property
    def has_maximum(self) -> bool:
        """Whether some pooling takes the largest."""
        return any(pool.kind == "maximum" for pool in (*self.early, *self.late))

    @property
    def is_pointwise(self) -> bool:
        """Whether each site goes on by itself."""
        return not (self.early or self.late) and self.reads.is_identity


@dataclass(frozen=True, eq=False)
class Maps:
    """A sample of inputs as the first weight reads it, and the way through the stack.

    Attributes:
        values: shape (rows, columns, sites), centred; along the principal axes in order where the
            entry has a basis, else the features themselves, which a Haar frame mixes.
        is_ordered: whether they are along principal axes.
        passages: one for each hidden space.
    """

    values: Array
    is_ordered: bool
    passages: tuple[Passage, ...]


@dataclass(eq=False)
class FrameColumns:
    """Columns of the frame at each site, as far as they are known.

    ``values`` has shape (rows, columns, sites) and ``factor`` (rows, sites). Where a Haar frame
    mixes the columns the values are some of the same energy: those that enter the mixture.
    ``common`` is the energy of what all rows and sites share, the mean of functions such as ELU; it
    comes on top.
    """

    values: Array
    factor: Array
    is_ordered: bool
    columns: int
    common: float = 0.0

    def energy(self) -> Array:
        """Total over the columns, shape (rows, sites)."""
        return self.factor**2 * squares(self.values) + self.common

    def scale(self, factor: float) -> None:
        """Multiply everything."""
        self.factor = self.factor * factor
        self.common *= factor**2

    def fixed(self) -> Array:
        """The values with their factor."""
        return np.asarray(self.values * self.factor[:, None])

    def participation(self) -> float:
        """Effective number of directions in which the columns vary over rows and sites."""
        samples = np.moveaxis(self.fixed(), 1, 2).reshape(-1, self.values.shape[1])
        if len(samples) > _MOST_SAMPLES:
            samples = samples[np.linspace(0, len(samples) - 1, _MOST_SAMPLES).astype(int)]
        gram = samples @ samples.T if len(samples) < samples.shape[1] else samples.T @ samples
        shared = len(samples) * self.common
        squared = float(np.square(gram).sum()) + shared**2
        return (float(np.trace(gram)) + shared) ** 2 / squared if squared > 0 else 0.0

    def replace(self, values: Array) -> None:
        """Set values of the same columns at other sites."""
        self.values, self.factor = values, np.ones((len(values), values.shape[2]))

    def keep(self, count: int) -> None:
        """Leave all but the first columns behind."""
        if count < self.columns:
            if self.is_ordered:
                self.values = self.values[:, :count]
            else:
                self.values = self.values * math.sqrt(count / self.columns)
            self.common *= count / self.columns
            self.columns = count


def pooled(maps: Array, pools: Sequence[Pooling]) -> Array:
    """Maps of shape (rows, channels, sites) behind some poolings."""
    for pool in pools:
        maps = pool.pooled(maps)
    return maps


def squares(maps: Array) -> Array:
    """Energy of each site, shape (rows, sites)."""
    return np.asarray(np.square(maps).sum(axis=1))


def loudness(energy: Array) -> float:
    """Mean energy of a site, weighted by energy: silent sites do not lower it."""
    total = float(energy.sum())
    return float(np.square(energy).sum()) / total if total > 0 else 0.0
