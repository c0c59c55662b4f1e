"""Whether rows that are nearly silent decide about the gradient in front of a norm.

A norm multiplies gradients by one over the size of what it divides by. Where that is nearly 0 for
some rows, the mean square of the gradient is theirs, and no second moment of the signal tells it.
"""

import math
from collections.abc import Mapping

import numpy as np

from equipoise.plan.levels import Levels
from equipoise.plan.nodes import Lookup, Node, Norm, reads
from equipoise.plan.trace import Trace

# Of so few numbers a norm may find next to nothing.
_NARROW = 4
# Of rows whose energy s has a larger E s E 1/s some are nearly silent.
_UNEVEN = 2.0


class Evenness:
    """How even the rows are that the norms of a trace divide by their size.

    Args:
        trace: the model.
        levels: values of its inputs.
        producer: the node that makes each value.
    """

    def __init__(self, trace: Trace, levels: Levels, producer: Mapping[int, Node]) -> None:
        self._trace, self._levels, self._producer = trace, levels, producer

    def is_doubtful(self, node: Norm) -> bool:
        """Whether the gradient in front of a norm cannot be told from second moments."""
        if node.is_tracked or node.kind == "batch":
            return False
        by_site = node.kind in ("layer", "rms")
        source = self._trace.values[node.input]
        # Over an axis of sites it is their differences that count.
        is_turned = by_site and node.size not in (0, source.shape[source.axis])
        is_narrow = 0 < node.size <= _NARROW
        return is_turned or is_narrow or self._unevenness(node.input, by_site) > _UNEVEN

    def _unevenness(self, value: int, by_site: bool) -> float:
        """E s E 1/s of the energy s of rows, or sites, as far as it is that of inputs."""
        waiting, seen, most = [value], set[int](), 1.0
        while waiting:
            top = waiting.pop()
            node = self._producer.get(top)
            if top in seen or isinstance(node, Norm | Lookup):
                continue
            seen.add(top)
            rows = self._levels.rows(top)
            if not rows.size:
                waiting += reads(node) if node else ()
                continue
            axes = (self._trace.values[top].axis,) if by_site else tuple(range(1, rows.ndim))
            energy = np.mean(np.square(rows), axis=axes)
            if not energy.all():
                return math.inf
            most = max(most, float(energy.mean() * np.mean(1.0 / energy)))
        return most
