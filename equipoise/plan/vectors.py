"""Laws of parameters that are no linear map: tables, gains and offsets."""

import math
from collections import Counter

from equipoise.plan.aim import Aim
from equipoise.plan.levels import Levels
from equipoise.plan.nodes import (
    Affine,
    Contract,
    Dropout,
    Gain,
    Lookup,
    Merge,
    Node,
    Nonlinearity,
    Norm,
    Opaque,
    Permute,
    Recurrent,
    Reshape,
    Shift,
    Spread,
    Take,
    makes,
)
from equipoise.plan.states import States
from equipoise.plan.trace import Trace, readers
from equipoise.schemes.laws import Constant, Law, Normal, Table, Zero

# Of many positions or tokens each is seen by few rows: they start as loud as what they are added
# to, but for offsets of features, which all rows share.
_SHARED_OFFSET = 1
# Axes of so many entries at most are those of a kernel.
_MOST_TAPS = 7


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a parameter of this shape can be a linear map."""
    return len(shape) >= 2


def as_head(law: Law) -> Law:
    """The law of a table as a linear map that reads its rows: one row of zeros is not counted."""
    return Normal(law.std) if isinstance(law, Table) else law


class VectorLaws:
    """What tables, gains and offsets are drawn from, found while levels are known up to them.

    Args:
        trace: the model.
        levels: what is known; it is told of every law.
        fixed: parameters that keep their values.
        aim: what the model is for.
    """

    def __init__(self, trace: Trace, levels: Levels, fixed: frozenset[str], aim: Aim) -> None:
        self._levels, self._fixed, self._aim = levels, fixed, aim
        self._producer: dict[int, Node] = {v: n for n in trace.nodes for v in makes(n)}
        self._readers = readers(trace.nodes)
        self._heads = {n.weight: n for n in trace.nodes if isinstance(n, Affine)}
        self._shapes = {p.name: p.shape for p in trace.parameters}
        self._tables = Counter(n.weight for n in trace.nodes if isinstance(n, Lookup))
        self._states = States(trace, levels, fixed)
        self.laws: dict[str, tuple[Law, str]] = {}

    @property
    def choices(self) -> list[str]:
        """What was decided for recurrent layers, one sentence each, and once for those alike."""
        return list(dict.fromkeys(self._states.choices))

    def plan(self, node: Node) -> None:
        """Find laws for what a node uses, and record what they make of its value."""
        match node:
            case Lookup():
                self._table(node)
            case Norm():
                if node.weight and node.weight not in self._fixed:
                    law = Constant(1.0 - node.offset)
                    self.laws[node.weight] = (law, "normalized values keep second moment 1")
                if node.bias and node.bias not in self._fixed:
                    self.laws[node.bias] = (Zero(), "starts at 0")
            case Gain(parameter=name) if name and name not in self._fixed:
                self._gain(node)
            case Shift(parameter=name) if name and name not in self._fixed:
                self._shift(node)
            case Recurrent():
                self.laws |= self._states.plan(node)
            case Opaque(is_linear=True, parameters=names, fan_in=fan_in):
                for name in names:
                    if name not in self._fixed:
                        self._unread(name, fan_in)
            case _:
                pass

    def _unread(self, name: str, fan_in: int) -> None:
        """A matrix in an operation that was not read: only its shape tells its fans."""
        shape = self._shapes[name]
        if fan_in:
            law = Normal(1.0 / math.sqrt(fan_in))
        elif len(shape) > 2 and min(shape[-2:]) > _MOST_TAPS:
            # Several matrices in one, such as experts: which axis is read is not known.
            law = Normal(math.sqrt(2.0 / (shape[-1] + shape[-2])))
        else:
            law = Normal(1.0 / math.sqrt(math.prod(shape[1:])))
        self.laws.setdefault(name, (law, "its operation was not read: second moments by its shape"))

    def _table(self, node: Lookup) -> None:
        name = node.weight
        if name in self._fixed:
            self._levels.set_level(node.output, math.nan)
            return
        if name not in self.laws:
            summed = self._summed(node.output) if not node.count else 0
            if summed:
                reason = "keeps the second moment of what it multiplies"
                self.laws[name] = (Normal(1.0 / math.sqrt(summed)), reason)
                self._levels.set_level(node.output, 1.0 / summed)
                return
            terms, factor = self._terms(node.output), self._factor_behind(node.output)
            std, reason = 1.0 / (factor * math.sqrt(terms)), "rows start at RMS 1"
            if terms > 1:
                reason = f"rows start at RMS 1 / sqrt({terms}), as one of {terms} that are added up"
            if factor != 1.0:
                reason += f" behind the factor {factor:.4g} that they are multiplied by"
            head = self._heads.get(name)
            if head is not None:
                # Logits are products of a normalized signal with these very rows.
                std = self._aim.exit_rms(head.out_size) / math.sqrt(head.in_size)
                rms = self._aim.exit_rms(head.out_size)
                reason = f"it is the head too, whose outputs start at RMS {rms:.3g}"
            self.laws[name] = (
                Table(std, node.padding) if node.padding >= 0 else Normal(std), reason
            )  # fmt: skip
        law = self.laws[name][0]
        level = law.std**2 if isinstance(law, Normal | Table) else math.nan
        self._levels.set_level(node.output, level)

    def _factor_behind(self, value: int) -> float:
        """What a table is multiplied by before anything else: sqrt(width), as a rule."""
        factor = 1.0
        while len(after := self._readers.get(value, [])) == 1:
            match after[0]:
                case Gain(parameter="", mean_square=square) if 0 < square < math.inf:
                    factor *= math.sqrt(square)
                case Nonlinearity(activation=f) if f.homogeneity == 1.0 and f.is_smooth:
                    factor *= abs(f.slope) or 1.0
                case Dropout() | Reshape():
                    pass
                case _:
                    break
            value = after[0].output
        return factor

    def _summed(self, value: int) -> int:
        """Over how many entries a product with a parameter as a value sums; 0 where none does."""
        waiting = [value]
        while waiting:
            for node in self._readers.get(waiting.pop(), []):
                if isinstance(node, Contract):
                    return node.size
                if isinstance(node, Reshape | Permute | Spread | Take):
                    waiting.append(node.output)
        return 0

    def _terms(self, value: int) -> int:
        """How many tables are added up with this one."""
        count, now = 1, value
        while True:
            after = self._readers.get(now, [])
            if len(after) != 1 or not isinstance(after[0], Merge | Dropout | Reshape):
                return count
            node = after[0]
            if isinstance(node, Merge):
                others = [v for v in node.inputs if v != now]
                if not all(self._is_table(v) for v in others):
                    return count
                count += sum(self._tables_in(v) for v in others)
            now = node.output

    def _is_table(self, value: int) -> bool:
        return self._tables_in(value) > 0

    def _tables_in(self, value: int) -> int:
        """Number of tables of which a value is the sum, 0 where there is anything else in it."""
        match self._producer.get(value):
            case Lookup():
                return 1
            case Merge(inputs=sources):
                found = [self._tables_in(v) for v in sources]
                return sum(found) if all(found) else 0
            case Reshape(input=source) | Dropout(input=source):
                return self._tables_in(source)
            case _:
                return 0

    def _gain(self, node: Gain) -> None:
        name = node.parameter
        if isinstance(self._producer.get(node.input), Norm):
            law = Constant(1.0 - node.offset)
            self.laws[name] = (law, "normalized values keep second moment 1")
            self._levels.set_factor(name, 1.0)

    def _shift(self, node: Shift) -> None:
        name = node.parameter
        shape = self._shapes.get(name, ())
        wide = [n for n in shape if n > 1]
        if len(wide) <= _SHARED_OFFSET:
            self.laws.setdefault(name, (Zero(), "starts at 0"))
            self._levels.set_factor(name, node.offset**2)
            return
        level = self._levels.of(node.input)
        std = math.sqrt(level) if level > 0 else 1.0
        self.laws.setdefault(name, (Normal(std), "starts as loud as what it is added to"))
        self._levels.set_factor(name, std**2 + node.offset**2)
