"""Low-rank adapters: y = W x + s B A x beside a weight W that keeps its values."""

import math
from collections import Counter

from equipoise.plan.nodes import (
    Affine,
    Dropout,
    Gain,
    Merge,
    Node,
    Nonlinearity,
    Opaque,
    Reshape,
    Shift,
    makes,
    reads,
)
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Law, Normal, Zero

_DOWN = "goes into a low-rank adapter: independent entries that bring its input to RMS 1"
_UP = "ends a low-rank adapter: 0, so that the model starts as {} leaves it"


class Adapters:
    """The low-rank adapters of a trace, and the laws of their weights.

    An adapter is a path of two linear maps through fewer units than either end has, with no bend
    between them, whose result is added to what a weight that keeps its values makes of the same
    input; or a product of two such matrices that is added to the weight itself. Its first weight is
    random and its last one 0: the model starts as it was, and the first step moves the last weight.
    A weight that is drawn anew needs no such care; its branch is then planned as any other.

    Source: Hu et al. 2021, arXiv 2106.09685.

    Args:
        trace: the model.
        fixed: parameters that keep their values.
    """

    def __init__(self, trace: Trace, fixed: frozenset[str]) -> None:
        self.laws: dict[str, tuple[Law, str]] = {}
        self._fixed = fixed
        self._producer: dict[int, Node] = {v: n for n in trace.nodes for v in makes(n)}
        self._readers = Counter(v for n in trace.nodes for v in reads(n))
        self._uses = Counter(n.weight for n in trace.nodes if isinstance(n, Affine))
        self._sizes = {p.name: p.shape for p in trace.parameters}
        # Values made by a weight that keeps its values and the adapters beside it, with their input
        # and the name of the weight.
        self._base: dict[int, tuple[int, str]] = {}
        for node in trace.nodes:
            match node:
                case Affine(weight=weight) if weight in fixed:
                    self._base[node.output] = (self._before(node.input), weight)
                case Merge(inputs=(first, second)):
                    self._added(node, first, second) or self._added(node, second, first)
                case Shift(parameter=weight) if weight in fixed:
                    self._inside(node)
                case _:
                    pass

    @property
    def weights(self) -> frozenset[str]:
        """Weights of adapters."""
        return frozenset(self.laws)

    def fit(self, affine: Affine, entering: float) -> float:
        """Scale the first weight of an adapter to what enters it, which is known by now.

        Args:
            affine: a layer of an adapter.
            entering: second moment of its input, nan where it is not known.

        Returns:
            Second moment of what it makes.
        """
        law, reason = self.laws[affine.weight]
        if not isinstance(law, Normal):
            return 0.0
        if not entering > 0:
            return entering
        std = 1.0 / math.sqrt(affine.fans.fan_in * entering)
        self.laws[affine.weight] = (Normal(std), reason)
        return 1.0

    def _added(self, node: Merge, base: int, path: int) -> bool:
        found = self._base.get(self._before(base))
        up = self._producer.get(self._before(path))
        down = self._producer.get(self._before(up.input)) if isinstance(up, Affine) else None
        if found is None or not isinstance(up, Affine) or not isinstance(down, Affine):
            return False
        entry, weight = found
        is_narrow = down.out_size < min(down.in_size, up.out_size)
        if not is_narrow or self._before(down.input) != entry:
            return False
        if not all(self._is_free(affine) for affine in (up, down)):
            return False
        self._assign(down.weight, down.fans.fan_in, up.weight, weight)
        for bias in (down.bias, up.bias):
            if bias and bias not in self._fixed:
                self.laws[bias] = (Zero(), "starts at 0")
        self._base[node.output] = found
        return True

    def _inside(self, node: Shift) -> None:
        """W + s B A, computed before it meets a value."""
        product = self._producer.get(self._before(node.input))
        if not isinstance(product, Opaque) or not product.is_linear or product.inputs:
            return
        shapes = [self._sizes[name] for name in product.parameters]
        if (
            len(shapes) != 2
            or any(len(s) != 2 for s in shapes)
            or self._fixed & {*product.parameters}
        ):
            return
        (rows, rank), (other, columns) = shapes
        if rank == other and rank < min(rows, columns):
            up, down = product.parameters
            self._assign(down, columns, up, node.parameter)

    def _assign(self, down: str, fan_in: float, up: str, base: str) -> None:
        self.laws[down] = (Normal(1.0 / math.sqrt(fan_in)), _DOWN)
        self.laws[up] = (Zero(), _UP.format(repr(base)))

    def _is_free(self, affine: Affine) -> bool:
        alone = self._uses[affine.weight] == 1 and self._readers[affine.output] == 1
        return alone and affine.weight not in self._fixed

    def _before(self, value: int) -> int:
        """The value before operations that drop, scale or reshape it."""
        while True:
            match self._producer.get(value):
                case (
                    Dropout(input=source) | Reshape(input=source) | Gain(parameter="", input=source)
                ):
                    value = source
                case Nonlinearity(activation=f, input=source) if (
                    f.homogeneity == 1.0 and f.is_smooth
                ):
                    value = source
                case _:
                    return value
