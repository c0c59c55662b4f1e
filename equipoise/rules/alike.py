"""What is left of the differences between inputs: alike in direction, in rank, in the output."""

import math
from collections.abc import Sequence
from itertools import pairwise

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.plan import Plan
from equipoise.plan.stacks import Stack
from equipoise.rules.against_plan import predictions_by_layer
from equipoise.rules.finding import Finding, Severity
from equipoise.rules.remedy import Remedy
from equipoise.rules.zeros import Zeros

# 1 - cosine at the last hidden layer: what inputs have in common is as many times stiffer as their
# differences are smaller. Digits, 64 units, framework defaults, Adam at its best of three rates, by
# the share of the energy that differs, which is 1 - cosine where biases hold all norms alike (test
# accuracy; 0.975, 0.951 and 0.963 for the three where differences are above 3e-2): ReLU 0.971 at
# 1e-2, 0.955 at 1.4e-3, 0.925 at 4e-5, 0.89 at 1e-6; sigmoid 0.92 at 8e-4, 0.80 at 1e-5, 0.41 at
# 3e-7; tanh 0.86 at 8e-4, 0.21 at 1e-8.
_SMALL, _LOST = 5e-3, 1e-4
# Inputs that are alike themselves are no fault of the weights.
_OF_THE_INPUTS = 0.1
# A plan foretold a loss if it expects no more than this many times what was measured.
_FORETOLD = 3.0
# One direction is left where the participation ratio is below the first of these, though inputs and
# widths allow more than the second. Of a layer's units mirrored pairs make half by design.
_ONE_DIRECTION, _SEVERAL, _PAIRED = 1.5, 3.0, 0.5
# Share of the output that differs between inputs, below which float32 tells none apart.
_CONSTANT, _VARIED = 1e-9, 1e-6


def alike(
    m: Measurements,
    remedy: Remedy,
    zeros: Zeros,
    plan: Plan | None = None,
    stacks: Sequence[Stack] = (),
) -> list[Finding]:
    """Findings on inputs that the network no longer tells apart.

    Args:
        m: what was measured.
        remedy: what to do about a layer's stack.
        zeros: layers that start at 0 on purpose; they tell nothing apart yet.
        plan: what was expected, if the network was planned.
        stacks: the stacks of its layers, as far as known; they say where sites are pooled.
    """
    hidden = [i for i in range(len(m.hidden)) if i not in zeros.meant]
    return [
        *_correlation(m, remedy, hidden, plan, stacks),
        *_rank([m.layers[i] for i in hidden], remedy),
        *_constant(m, remedy, zeros),
    ]


def _correlation(
    m: Measurements,
    remedy: Remedy,
    hidden: Sequence[int],
    plan: Plan | None,
    stacks: Sequence[Stack],
) -> list[Finding]:
    """Hidden layers only: an output may well rest on a bias that all inputs share."""
    pooled = _pooled(m.layers, stacks)
    differences = [(i, _difference(m.layers[i]) * pooled[i]) for i in hidden]
    apart = [(i, difference) for i, difference in differences if math.isfinite(difference)]
    limit = min(_SMALL, _OF_THE_INPUTS * (1.0 - m.input_correlation))
    if not apart or not apart[-1][1] < limit:
        return []
    first = last = apart[-1][0]
    for i, difference in reversed(apart):
        if difference >= limit:
            break
        first = i
    severity: Severity = "error" if apart[-1][1] < _LOST else "warning"
    seen = 1.0 - _difference(m.layers[last])
    expected = predictions_by_layer(m, plan)[last].correlation
    is_foretold = 1.0 - expected <= _FORETOLD * (1.0 - seen)
    return [
        Finding("lost-correlation", "warning" if is_foretold else severity, m.layers[first].layer,
                "different inputs give nearly the same output from here on"
                f"{', as the plan expects' if is_foretold else ''}",
                f"a mean cosine near that of the inputs, {m.input_correlation:.3f}",
                f"{seen:.6f} at {m.layers[last].layer!r}", remedy(m.layers[first].layer))
    ]  # fmt: skip


def _difference(x: LayerMeasurement) -> float:
    """1 - cosine; where an input of norm 0 or few units leave no cosine, the share of energy."""
    return 1.0 - x.correlation if math.isfinite(x.correlation) else x.input_share


def _pooled(layers: Sequence[LayerMeasurement], stacks: Sequence[Stack]) -> list[float]:
    """For each layer, by how much poolings before it may have shrunk 1 - cosine.

    A mean over n sites that vary apart keeps what they share and divides the energy of the rest by
    n; a maximum does hardly more. So much is no fault of any weight. Where a stack is known to
    reach fewer sites by strides or a flatten, nothing is averaged.
    """
    averages_nothing = {
        a.layer
        for s in stacks
        for a, h in zip(s.affines[1:], s.hidden, strict=True)
        if not (h.pools or h.early_pools)
    }
    found, factor = [1.0] * len(layers[:1]), 1.0
    for before, x in pairwise(layers):
        if x.sites > before.sites or x.layer not in averages_nothing:
            # A decoder that widens the map again has no more to be forgiven.
            factor = max(1.0, factor * before.sites / x.sites)
        found.append(factor)
    return found


def _rank(layers: Sequence[LayerMeasurement], remedy: Remedy) -> list[Finding]:
    hidden = [x for x in layers if math.isfinite(x.rank)]
    if len(hidden) < 2 or hidden[-1].rank >= _ONE_DIRECTION:
        return []
    narrowest = min(hidden, key=_by_directions)
    if min(hidden[0].rank, _PAIRED * narrowest.most_directions) < _SEVERAL:
        return []
    last = hidden[-1]
    first = next(x for x in hidden if x.rank < _ONE_DIRECTION)
    return [
        Finding("rank-collapse", "warning", first.layer,
                "what tells inputs apart has shrunk to one direction at most",
                f"a participation ratio of several: the first layer has {hidden[0].rank:.1f}, and "
                f"{narrowest.layer!r}, the narrowest, {narrowest.most_directions} directions",
                f"{last.rank:.2f}, with {last.directions} of {last.most_directions} directions "
                "above 1e-3 of the largest", remedy(first.layer))
    ]  # fmt: skip


def _by_directions(x: LayerMeasurement) -> int:
    return x.most_directions


def _constant(m: Measurements, remedy: Remedy, zeros: Zeros) -> list[Finding]:
    if not m.layers or not m.output_input_share < _CONSTANT or m.output_rms == 0.0:
        return []
    if not m.layers[0].input_share > _VARIED or len(m.layers) - 1 in zeros.meant:
        return []
    return [
        Finding("constant-output", "error", "output", "the output is the same for all inputs",
                "an output that depends on the input",
                f"{m.output_input_share:.1g} of its mean square differs between inputs",
                remedy(m.layers[-1].layer))
    ]  # fmt: skip
