"""What gradients become on the way back through a whole model, in second moments.

A random cotangent of RMS 1 starts at every entry of every output. Each node hands on what it gets:
a weight as much energy as its rows have, a function the mean square of its slope, a norm one over
the level it has removed, a sum all of it to every term. What two ways back bring to one value adds
up, since weights that were drawn apart turn them apart; ways without weights leave it in doubt.

Gradients of the sites of one row may be alike: behind a mean over sites they are one vector. What
they share adds up as amplitudes wherever sites are summed, the rest as energies.

Keys and values of an attention are taken to be unrelated. Where both are made of n sites that lie
in P directions, the gradient of the queries is sqrt(1 + n / P) times as large.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from equipoise.plan.chain import Chain
from equipoise.plan.covariance import slopes
from equipoise.plan.evenness import Evenness
from equipoise.plan.flow import UNKNOWN, Flow, interference, likely_share, through_norm
from equipoise.plan.levels import Levels
from equipoise.plan.moments import averaging
from equipoise.plan.nodes import (
    Affine,
    Attention,
    Concat,
    Contract,
    Dropout,
    Flatten,
    Gain,
    Lookup,
    Merge,
    Node,
    Nonlinearity,
    Norm,
    Permute,
    Pool,
    Product,
    Reshape,
    Shift,
    Softmax,
    Spread,
    Take,
    makes,
    reads,
)
from equipoise.plan.origins import averages_copies, copied_spaces, site_spaces
from equipoise.plan.participation import participation
from equipoise.plan.predict import expect
from equipoise.plan.stack_plan import Expected, StackPlan
from equipoise.plan.trace import Trace

# Queries of a causal attention see few keys or many: E (sum over queries of a weight)^2 of a key is
# the mean of log(x)^2 over (0, 1), 2, against 1 where all see all.
_CAUSAL = 2.0
_IS_CAUSAL = 1.5
# Of values that are more alike than this at all sites the rest is known too roughly.
_MOST_SHARED = 0.75
# Part of a second moment that may be in doubt.
_LITTLE = 0.1


def gradients(trace: Trace, levels: Levels, chains: Sequence[Chain]) -> dict[int, float]:
    """RMS of the gradient at the output of each layer, over that at the model's outputs.

    Args:
        trace: the model.
        levels: second moments of its values under the plan.
        chains: every affine layer in one of them.

    Returns:
        By the value that the layer makes; nan where it is not known. Empty for a trace that does
        not hold the shapes of its values.
    """
    if not trace.values:
        return {}
    return _Backward(trace, levels, chains).found


class _Backward:
    def __init__(self, trace: Trace, levels: Levels, chains: Sequence[Chain]) -> None:
        self._trace, self._levels = trace, levels
        self._producer = {v: node for node in trace.nodes for v in makes(node)}
        self._chain = {a.output: chain for chain in chains for a in chain.layers.affines}
        centres = {c.layers.affines[0].output: c.centre for c in chains}
        self._evenness = Evenness(trace, levels, self._producer, centres)
        self._sites_of, self._copied = site_spaces(trace), copied_spaces(trace)
        self._uses = Counter(n.weight for n in trace.nodes if isinstance(n, Affine))
        self._normed = {n.input for n in trace.nodes if isinstance(n, Norm)}
        self._flow: dict[int, Flow] = {}
        self.found: dict[int, float] = {}
        for value in trace.outputs:
            self._flow[value] = self._flow.get(value, Flow()) + Flow(1.0)
        for node in reversed(trace.nodes):
            got = [self._flow.get(v, Flow()) for v in makes(node)]
            if all(g.energy == 0.0 for g in got):
                continue
            is_sure = all(levels.is_sure(v) for v in self._decisive(node))
            for value, flow in self._through(node, got[0]):
                known = flow if is_sure else flow.doubted()
                self._flow[value] = self._flow.get(value, Flow()) + known

    def _decisive(self, node: Node) -> tuple[int, ...]:
        """Values whose second moments decide what becomes of a gradient."""
        match node:
            case Nonlinearity() | Norm() | Product() | Attention() | Contract():
                return reads(node)
            case Softmax(output=made):
                return (made,)
            case _:
                return ()

    def _through(self, node: Node, got: Flow) -> Iterator[tuple[int, Flow]]:
        match node:
            case Affine():
                yield self._through_chain(self._chain[node.output], got)
            case Lookup():
                return
            case Merge(inputs=sources):
                met = got.doubted(interference(node, self._levels))
                whole = self._level(node.output)
                for value in sources:
                    flow = self._to_smaller(met, node.output, value)
                    part = min(1.0, self._level(value) / whole) if whole > 0 else 0.0
                    yield value, replace(flow, freed=flow.freed * part)
            case Concat(inputs=sources):
                yield from ((v, got) for v in sources)
            case Product(inputs=sources):
                yield from self._through_product(node, got, sources)
            case Attention():
                yield from self._through_attention(node, got)
            case Contract():
                yield from self._through_contract(node, got)
            case _ if len(reads(node)) == 1:
                yield reads(node)[0], self._through_one(node, got)
            case _:
                yield from ((v, UNKNOWN) for v in reads(node))

    def _through_one(self, node: Node, got: Flow) -> Flow:
        match node:
            case Reshape() | Flatten() | Permute() | Shift():
                return got
            case Nonlinearity(activation=f, input=source):
                linear, square = slopes(f, self._level(source), self._levels.mean(source))
                share = likely_share(source, self._levels)
                flow = got.times(square, linear**2 + share * (square - linear**2))
                return flow.doubted() if self._evenness.is_of_few(source) else flow
            case Norm():
                if node.kind == "instance" and not node.is_tracked:
                    # What all sites share is taken off.
                    got = got.made_of(got.energy - got.common)
                flow, doubt = through_norm(got, node, self._levels), self._evenness.doubt(node)
                return flow.doubted(doubt) if doubt else flow
            case Gain():
                return got.times(self._levels.factor_of(node)[0])
            case Dropout(probability=p, is_active=active):
                return got.times(1.0 / (1.0 - p * active) if p < 1 else math.nan, 1.0)
            case Take():
                return self._taken(node, got)
            case Spread(kept=kept):
                ratio = self._ratio(node.output, node.input)
                values = self._trace.values
                if values[node.output].space == values[node.input].space:
                    # Each site was sent to several: what these have in common adds up.
                    return self._summed(got, ratio, kept)
                return got.times(ratio * kept)
            case Pool(kind="average", window=window):
                window_size = math.prod(window)
                back = got.times(self._ratio(node.output, node.input) / window_size)
                back = replace(back, common=back.energy) if node.is_global else back
                return back.doubted(float(averages_copies(node, self._trace, self._copied)))
            case Pool():
                back = got.times(self._ratio(node.output, node.input), 0.0)
                return back.doubted(self._evenness.chosen(node))
            case Softmax(size=size):
                return got.times(self._level(node.output) * (1.0 - 1.0 / max(size, 1)), 0.0)
            case _:
                return UNKNOWN

    def _through_chain(self, chain: Chain, got: Flow) -> tuple[int, Flow]:
        """Through all layers of a chain, from the last to what enters the first."""
        first, stack = chain.layers.affines[0], chain.layers
        part, last = chain.first, stack.affines[-1].output
        self._tell(last, got, True)
        if part is None:
            return first.input, UNKNOWN
        # A level moves no slope where all functions are lines on each side of 0.
        is_line = all(h.activation.homogeneity == 1.0 for h in stack.hidden)
        is_followed = is_line and not stack.keeps_bias and self._level(stack.entry_value) > 0
        found: Expected | StackPlan = chain.expected
        if not part.is_known:
            # What a plan aims at serves where nothing is promised.
            found = part.planned.expected or part.planned
            if is_followed and stack.hidden and len(found.gradient) == len(stack.affines):
                found = expect(stack, part.planned, part.inputs)
        if len(found.gradient) != len(stack.affines):
            return first.input, UNKNOWN
        is_sure = part.is_known or is_followed
        for layer, ratio in zip(stack.affines, found.gradient, strict=True):
            self._tell(layer.output, got.times(ratio * ratio), is_sure)
        factor = chain.to_entry(found, self._ratio(first.output, first.input))
        # Sites that a stride sends through other taps are turned apart.
        phases = [1 if a.convolution.is_transposed else a.convolution.steps for a in stack.affines]
        kept = 1.0 / math.prod(phases)
        for hidden, rms in zip(stack.hidden, found.signal, strict=False):
            # A signal beyond all numbers says nothing of slopes.
            if not math.isfinite(rms * rms):
                return first.input, UNKNOWN
            linear, square = slopes(hidden.activation, rms * rms, 0.0)
            kept *= linear**2 / square if square > 0 else 0.0
        factor *= got.louder
        flow = got.times(factor, factor * kept)
        if any(p.kind == "average" for h in stack.hidden for p in (*h.early_pools, *h.pools)):
            flow = replace(flow, common=flow.energy)
        # A weight that is used again meets what it made itself.
        is_sure &= all(self._uses[a.weight] == 1 or a.several for a in stack.affines)
        return first.input, flow if is_sure else flow.doubted()

    def _tell(self, value: int, flow: Flow, is_sure: bool) -> None:
        """Take note of the RMS of the gradient at a layer, where draws keep to it."""
        is_told = is_sure and flow.doubt <= _LITTLE * flow.energy < math.inf
        self.found[value] = math.sqrt(flow.energy) if is_told else math.nan

    def _taken(self, node: Take, got: Flow) -> Flow:
        """Entries that nobody takes get nothing."""
        ratio = self._ratio(node.output, node.input)
        source = self._trace.values[node.input]
        # Parts of what a packed weight makes are no sites, wherever their axis has come to stand.
        if not source.shape or node.axis == 0 or source.spaces[node.axis] not in self._sites_of:
            return replace(got.times(ratio), louder=self._loudness(node))
        # Of sites taken, those that were taken both may be alike.
        count = source.shape[node.axis]
        taken = round(ratio * count)
        pairs = taken * (taken - 1) / (count * (count - 1)) if count > 1 else 1.0
        return got.times(ratio, pairs)

    def _loudness(self, node: Take) -> float:
        """Energy of a row that makes one part over that of all rows, where a law has quiet ones."""
        value = node.input
        while isinstance(made := self._producer.get(value), Reshape | Permute | Flatten):
            value = made.input
        chain = self._chain.get(value)
        if chain is None or chain.layers.affines[-1].output != value or not chain.has_quiet_rows:
            return 1.0
        told, level = chain.expected.signal[-1], self._level(node.output)
        return level / (told * told) if told > 0 and level > 0 else 1.0

    def _through_product(
        self, node: Product, got: Flow, sources: tuple[int, int] | tuple[int, ...]
    ) -> Iterator[tuple[int, Flow]]:
        first, second = sources
        # The slope of a square is twice its argument: both terms of it point the same way.
        twice = 2.0 if first == second else 1.0
        for value, other in ((first, second), (second, first)):
            mean = self._levels.mean(other)
            flow = got.times(twice * self._level(other), twice * mean * mean)
            if node.output in self._normed and self._ratio(node.output, value) > 1:
                # A norm takes the size off that a gate gives.
                flow = flow.doubted()
            yield value, self._to_smaller(flow, node.output, value)

    def _through_attention(self, node: Attention, got: Flow) -> Iterator[tuple[int, Flow]]:
        query, key, value = node.inputs
        q, k, v = (self._level(x) for x in node.inputs)
        k_apart, v_apart = (
            k * (1.0 - likely_share(key, self._levels)),
            v * (1.0 - likely_share(value, self._levels)),
        )
        squares = participation(node.scale**2 * node.size * q * k_apart, 1.0 / node.visible)
        if math.isnan(q * k_apart):
            squares = math.nan
        weights = node.size * got.energy * v_apart * squares * node.scale**2
        for source, other, count in (
            (query, k_apart, 1.0),
            (key, q, self._ratio(node.output, key)),
        ):
            flow = got.made_of(weights * other * count)
            yield source, self._doubted_by_shares(flow, key, value)
        yield value, self._to_values(node.output, value, got, squares, node.sites, node.visible)

    def _to_values(
        self, made: int, value: int, got: Flow, squares: float, keys: int, visible: float
    ) -> Flow:
        """What an average hands to the values that it is made of."""
        ratio = self._ratio(made, value)
        several = _CAUSAL if visible * keys > _IS_CAUSAL else 1.0
        apart, alike = got.energy - got.common, ratio**2 * several * got.common
        # All weights are about 1 / keys, so that what one query sends is alike at all keys.
        common = min(ratio * apart * several / keys, ratio * squares * apart) + alike
        return got.made_of(ratio * squares * apart + alike, common)

    def _through_contract(self, node: Contract, got: Flow) -> Iterator[tuple[int, Flow]]:
        weights = averaging(node, self._producer)
        for place, value in enumerate(node.inputs):
            other = node.inputs[1 - place]
            if weights and place != weights.place:
                squares = min(1.0, node.size * self._level(other))
                keys = max(1, node.size)
                yield value, self._to_values(node.output, value, got, squares, keys, 1.0 / keys)
                continue
            # What all keys have in common moves no softmax, before it or behind it.
            level = self._level(other) * (1.0 - likely_share(other, self._levels))
            sums = self._entries(node.output) * node.size / self._entries(value)
            flow = self._doubted_by_shares(got.times(sums * level, 0.0), other)
            # Weights that add up over queries take off what gradients of queries have in common.
            is_other = weights is not None and not weights.is_average
            yield value, flow.doubted() if is_other else flow

    def _to_smaller(self, got: Flow, made: int, value: int) -> Flow:
        """To a term of a sum, which may have been broadcast to it."""
        ratio = self._ratio(made, value)
        if ratio == 1.0:
            return got
        same_units = self._sites(value) < self._sites(made)
        return self._summed(got, ratio) if same_units else got.times(ratio)

    def _summed(self, got: Flow, count: float, kept: float = 1.0) -> Flow:
        """The sum over so many sites, or of their averages that keep a part of what differs."""
        alike = count**2 * got.common
        return got.made_of(count * kept * (got.energy - got.common) + alike, alike)

    def _level(self, value: int) -> float:
        return self._levels.of(value)

    def _doubted_by_shares(self, flow: Flow, *values: int) -> Flow:
        """A gradient that depends on what sites do not share: in doubt if that is hardly known."""
        is_sure = all(self._levels.share(v) <= _MOST_SHARED for v in values)
        return flow if is_sure else flow.doubted()

    def _entries(self, value: int) -> int:
        return max(1, math.prod(self._trace.values[value].shape))

    def _ratio(self, made: int, value: int) -> float:
        return self._entries(made) / self._entries(value)

    def _sites(self, value: int) -> int:
        """Sites of a row: all axes but the first and that of features."""
        found = self._trace.values[value]
        axes = [n for i, n in enumerate(found.shape) if i not in (0, len(found.shape) + found.axis)]
        return math.prod(axes)
