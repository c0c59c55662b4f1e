"""Recurrent layers while a plan is made: their laws, and the levels of their states."""

import math
from collections import Counter

import numpy as np

from equipoise.plan.levels import Levels
from equipoise.plan.nodes import Concat, Dropout, Node, Recurrent, makes, uses
from equipoise.plan.recurrent import cell_laws, in_words, simulated
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Array, Law

_NOTHING = np.zeros(0)


class States:
    """Plans recurrent layers one after another and remembers the states that they make.

    A state depends on all that came before it, and those of one row are alike: what the next layer
    reads is known from a drawn one better than from its second moment.

    Args:
        trace: the model.
        levels: what is known; it is told of every state.
        fixed: parameters that keep their values.
    """

    def __init__(self, trace: Trace, levels: Levels, fixed: frozenset[str]) -> None:
        self._levels, self._fixed = levels, fixed
        self._producer: dict[int, Node] = {v: n for n in trace.nodes for v in makes(n)}
        self._turns = Counter(n.weight for n in trace.nodes if isinstance(n, Recurrent))
        self._planned: set[str] = set()
        self.choices: list[str] = []
        self._drawn: dict[int, Array] = {}
        # States and cells after each step of a cell that is called step by step.
        self._course: dict[str, tuple[Array, Array]] = {}

    def plan(self, node: Recurrent) -> dict[str, tuple[Law, str]]:
        """Laws of what a layer uses, where it has not been planned before."""
        if self._fixed.intersection((node.weight, node.state_weight, node.projection)):
            self._say(node, _NOTHING, _NOTHING, _NOTHING)
        else:
            self._follow(node)
        if node.weight in self._planned:
            return {}
        self._planned.add(node.weight)
        self.choices.append(f"layer {node.layer}: {in_words(node, self._steps(node))}.")
        laws = cell_laws(node, self._level(node), self._share(node), self._steps(node))
        return {k: law for k, law in laws.items() if k in uses(node) and k not in self._fixed}

    def _level(self, node: Recurrent) -> float:
        known = self._sequence(node)
        # Of a cell that is called step by step, the first step is not like the others.
        level = float(np.mean(known**2)) if known.size else self._levels.of(node.input)
        return level if level > 0 else 1.0

    def _share(self, node: Recurrent) -> float:
        share = self._levels.share(node.input)
        return min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0

    def _steps(self, node: Recurrent) -> int:
        return max(node.steps, self._turns[node.weight])

    def _follow(self, node: Recurrent) -> None:
        """Draw a layer once and tell the levels of its states."""
        if node.steps > 1 or self._turns[node.weight] == 1:
            states, cells = self._simulated(node)
            self._drawn[node.outputs[0]] = states
            self._say(node, states, states[:, -1:], cells[:, -1:])
            return
        if node.weight not in self._course:
            self._course[node.weight] = self._simulated(node)
        states, cells = self._course[node.weight]
        turn = min(node.turn, states.shape[1] - 1)
        state, cell = states[:, turn : turn + 1], cells[:, turn : turn + 1]
        self._say(node, state, state, cell)

    def _simulated(self, node: Recurrent) -> tuple[Array, Array]:
        return simulated(
            node, self._level(node), self._share(node), self._steps(node),
            self._sequence(node),
        )  # fmt: skip

    def _say(self, node: Recurrent, *made: Array) -> None:
        """Tell what is known of the states of all steps, of the last one, and of the last cell."""
        for value, drawn in zip(node.outputs, made, strict=False):
            energy = float(np.mean(drawn**2)) if drawn.size else math.nan
            self._levels.set_level(value, energy)
            if energy > 0:
                steps = float(np.mean(drawn.mean(axis=1) ** 2)) / energy
                rows = float(np.mean(drawn.mean(axis=(0, 1)) ** 2)) / energy
                self._levels.set_shares(value, min(1.0, steps), min(1.0, rows))

    def _sequence(self, node: Recurrent) -> Array:
        """What a layer reads, shape (rows, steps, in); empty where that is not known."""
        known = self._before(node.input)
        if known.size:
            return known
        rows = self._levels.rows(node.input)
        if rows.ndim != 3 or not rows.size or not node.steps_axis or rows.shape[-1] != node.in_size:
            return _NOTHING
        return np.moveaxis(rows, node.steps_axis, 1)

    def _before(self, value: int) -> Array:
        """States that a drawn layer made, through what lies between two layers."""
        if value in self._drawn:
            return self._drawn[value]
        match self._producer.get(value):
            case Recurrent(weight=weight, outputs=(state, *_)) if state == value:
                return self._course[weight][0] if weight in self._course else _NOTHING
            case Dropout(input=source):
                return self._before(source)
            case Concat(axis=-1, inputs=sources):
                parts = [self._before(v) for v in sources]
                if all(p.size for p in parts) and len({p.shape[:2] for p in parts}) == 1:
                    return np.concatenate(parts, axis=2)
        return _NOTHING
