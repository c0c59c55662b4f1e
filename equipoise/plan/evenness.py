"""Whether rows that are nearly silent decide about the gradient in front of a norm.

A norm multiplies gradients by one over the size of what it divides by. Where that is nearly 0 for
some rows, the mean square of the gradient is theirs, and no second moment of the signal tells it.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import ndtri

from equipoise.plan.levels import Levels
from equipoise.plan.moments import behind
from equipoise.plan.nodes import (
    Dropout,
    Node,
    Nonlinearity,
    Norm,
    Opaque,
    Pool,
    Product,
    Shift,
    Softmax,
    makes,
    reads,
)
from equipoise.plan.rows_behind import rows_behind
from equipoise.plan.trace import Trace
from equipoise.plan.unit_energies import numbers_behind_units
from equipoise.schemes.laws import Array

# Of so few numbers a norm may find next to nothing.
_NARROW = 4
# Of rows whose energy s has a larger E s E 1/s some are nearly silent.
_UNEVEN = 2.0
# Units that are made of more numbers are large at sites where these are about as always.
_MOST_CHOSEN = 16
# A function whose energy grows more where that of its argument is twice as large; 4 of a square.
_STEEP = 4.5
# Norms divide what is silent by the root of about this, and multiply its gradient by the inverse.
_RARELY_SILENT = 1e-5
_NORMAL = ndtri((np.arange(1000) + 0.5) / 1000)
# Sum of fourth powers over the square of that of squares: 3 / n of n normal numbers.
_MOST_FEWNESS = 0.2


class Evenness:
    """How even the rows are that the norms of a trace divide by their size.

    Args:
        trace: the model.
        levels: values of its inputs.
        producer: the node that makes each value.
        centres: by the output of a layer, what its bias takes off its inputs: a number for each of
            them, or for each channel and tap.
    """

    def __init__(
        self,
        trace: Trace,
        levels: Levels,
        producer: Mapping[int, Node],
        centres: Mapping[int, Array],
    ) -> None:
        self._trace, self._levels, self._producer = trace, levels, producer
        self._centres = centres
        self._numbers = numbers_behind_units(trace, levels)
        # Values of which all units of a site are 0 now and then.
        self._silent: set[int] = set()
        for node in trace.nodes:
            if self._may_be_silent(node):
                self._silent.update(makes(node))

    def doubt(self, node: Norm) -> float:
        """How much of the gradient in front of a norm may be another one, as told and over it.

        0 where rows are even. Where second moments cannot tell it, the mean square may be that of
        rows that are nearly silent: E s E 1/s of their energies s is how much larger it is then.
        """
        if node.is_tracked:
            return 0.0
        if node.kind == "batch":
            found = self._of_few_numbers(node)
            return found if found > _UNEVEN else 0.0
        by_site = node.kind in ("layer", "rms")
        source = self._trace.values[node.input]
        # Over an axis of sites it is their differences that count.
        if by_site and node.size not in (0, source.shape[source.axis]):
            return math.inf
        if by_site and node.input in self._silent:
            return math.inf
        if self._is_behind_steep(node.input):
            return math.inf
        # Of normal numbers, one less where a mean is removed: E 1/s is finite from three on.
        narrow = _of_squares(node.size - (node.kind != "rms"))
        found = max(self._unevenness(node.input, by_site), self._of_few_numbers(node))
        if 0 < node.size <= _NARROW:
            return max(narrow, found)
        return found if found > _UNEVEN else 0.0

    def _of_few_numbers(self, node: Norm) -> float:
        """E s E 1/s of the energies s that a norm divides by, of units or rows of few numbers."""
        source = self._trace.values[node.input]
        sites = math.prod(source.shape[1:]) // source.shape[source.axis]
        units = max(1, node.size // sites) if node.kind == "group" else 1
        # As many squares of about normal numbers.
        return _of_squares(units * self._numbers.get(node.input, math.inf))

    def chosen(self, node: Pool) -> float:
        """1 where the largest sites of few numbers are taken, at which slopes are not typical."""
        is_of_few = self._numbers.get(node.input, math.inf) <= _MOST_CHOSEN
        return float(node.is_global and is_of_few)

    def _is_behind_steep(self, value: int) -> bool:
        """Whether a function made a value that is far louder where its argument is louder.

        One that is flat around 0 leaves the size of a row to the largest of its numbers.
        """
        node = self._producer.get(value)
        if not isinstance(node, Nonlinearity):
            return False
        level = self._levels.of(node.input)
        found, more = behind(node.activation, level), behind(node.activation, 2.0 * level)
        return more > _STEEP * found

    def _may_be_silent(self, node: Node) -> bool:
        """Whether now and then all units of a site that a node makes are 0."""
        sources = [v in self._silent for v in reads(node)]
        chance = 0.0
        match node:
            case Product():
                return any(sources)
            case Dropout(probability=p, is_active=True):
                chance = p
            case Nonlinearity(input=source, activation=f):
                if f.value_at_zero != 0.0:
                    return False
                level = self._levels.of(source)
                # Levels within a chain are its own matter: about 1, in general.
                rms = math.sqrt(level) if level > 0 else 1.0
                chance = float(np.mean(f.f(rms * _NORMAL) == 0.0))
            case Shift() | Opaque() | Softmax():
                return False
        made = self._trace.values[makes(node)[0]]
        width = made.shape[made.axis] if made.shape else 0
        if sources and all(sources):
            return True
        return width > 0 and chance**width > _RARELY_SILENT

    def is_of_few(self, value: int) -> bool:
        """Whether few of the numbers of the inputs make up what a function is given.

        Second moments tell the mean square of its slope for numbers that are about normal.
        """
        for _, rows in self._behind(value):
            squares = np.square(rows)
            if float(np.square(squares).sum()) > _MOST_FEWNESS * float(squares.sum()) ** 2:
                return True
        return False

    def _unevenness(self, value: int, by_site: bool) -> float:
        """E s E 1/s of the energy s of rows, or sites, as far as it is that of inputs."""
        most = 1.0
        for found, rows in self._behind(value, through_layers=True):
            axis = self._trace.values[found].axis
            axes = (axis,) if by_site else tuple(range(1, rows.ndim))
            energy = np.mean(np.square(rows), axis=axes)
            if not energy.all():
                return math.inf
            most = max(most, float(energy.mean() * np.mean(1.0 / energy)))
        return most

    def _behind(self, value: int, through_layers: bool = False) -> Iterator[tuple[int, Array]]:
        """Values given by the inputs that a value is made of, less what layers take off them."""
        found = rows_behind(value, self._producer, self._levels.rows, through_layers)
        for source, rows, layer in found:
            centre = self._centres.get(layer, np.zeros(0))
            yield source, _about(rows, centre, self._trace.values[source].axis)


def _of_squares(count: float) -> float:
    """E s E 1/s of the sum s of so many squares of normal numbers, inf for two and fewer."""
    return 1.0 + 2.0 / (count - 2.0) if count > 2 else math.inf


def _about(rows: Array, centre: Array, axis: int) -> Array:
    """Rows less what is taken off each entry of an axis, taps on average."""
    units = rows.shape[axis]
    if not centre.size or centre.size % units:
        return rows
    shape = [1] * rows.ndim
    shape[axis] = units
    return np.asarray(rows - centre.reshape(units, -1).mean(axis=1).reshape(shape))
