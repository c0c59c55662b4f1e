"""Stacks whose derivatives with respect to the inputs are what is fitted, as for equations.

A framed network without biases bends every unit at the same place, the origin: it is nearly a
function of one direction, and its second derivatives are concentrated there. Small random biases
in the hidden layers and directions spread evenly over the first move the bends apart; the level of
the signal makes up for what biases take of the difference between inputs
(``theory.derivative_level``).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from equipoise.plan.entry import Inputs
from equipoise.plan.stack_maps import has_maps
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Array, Directions, Framed, Law, OffsetBias, Zero
from equipoise.schemes.louder import louder
from equipoise.theory.activation import Activation
from equipoise.theory.bivariate import product_expectation
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import ActivationClass, classify

# Share of each layer's energy that biases bring. The slope where all units rest is then three times
# the usual one, whatever the depth, and 77 times in 30 layers without biases. For tanh it puts the
# level at RMS .59 and biases at .13: between the .1 and .2 that were best on Burgers' equation.
BIAS_SHARE = 0.05
# A last weight that must be louder by more than 10 would amplify rounding and nothing else.
_LEAST_VARYING = 0.01
_FEW_OUTPUTS = 8


def why_not_for_derivatives(stack: Stack) -> str:
    """Why a stack cannot be started for its derivatives, or ''."""
    if has_maps(stack):
        return "it joins sites"
    if not stack.hidden:
        return "it has no hidden layer"
    for h in stack.hidden:
        if h.activation.kinks:
            return f"{h.activation} has no second derivative"
        if classify(h.activation).kind is not ActivationClass.CENTRE:
            return f"{h.activation} is not nearly affine around 0"
    fixed = next((a for a, ok in zip(stack.affines, stack.can_shift, strict=True) if not ok), None)
    return f"layer {fixed.layer!r} has no bias of its own" if fixed else ""


def for_derivatives(stack: Stack, planned: StackPlan, inputs: Inputs) -> StackPlan:
    """Spread the bends of a centred stack over the inputs.

    Args:
        stack: dense layers for which ``why_not_for_derivatives`` is ''.
        planned: its centred plan.
        inputs: what enters.

    Returns:
        The plan with even directions in the first layer, biases in the hidden ones, the last
        weight scaled to keep the output, and signal and gradient followed anew.
    """
    arrays = {n: a for n, a in planned.arrays.items() if not n.endswith(":axes")}
    name, scale = (f"{stack.affines[0].weight}:in:{word}" for word in ("mean", "scale"))
    rows = inputs.rows
    spread = math.sqrt(inputs.mean_square)
    varies = len(rows) > 1 and float(rows.var(axis=0).mean()) > 0
    if varies:
        arrays[name] = rows.mean(axis=0)
        spreads = rows.std(axis=0)
        # An input that never changes has no scale of its own.
        arrays[scale] = 1.0 / np.where(spreads > 1e-9 * spreads.max(), spreads, spreads.max())
    # The first layer starts at the level that the others keep.
    level = planned.signal[0]
    # One input has no directions to spread: there the biases must place the bends.
    first_weight = Directions(level, scale) if varies else Directions(level / spread)
    single = level if stack.affines[0].in_size == 1 else 0.0
    first = OffsetBias(
        stack.affines[0].weight, centre=name if name in arrays else "", std=single
    )  # fmt: skip
    stds = [single, *(math.sqrt(BIAS_SHARE) * s for s in planned.signal[1:-1])]
    # What biases bring the weights leave out.
    trunk = [louder(law, math.sqrt(1.0 - BIAS_SHARE)) for law in planned.weights[1:-1]]
    planned = replace(planned, weights=(planned.weights[0], *trunk, planned.weights[-1]))
    biases: list[Law] = [first if first != OffsetBias(first.weight) else Zero()]
    for affine, law, std in zip(stack.affines[1:-1], planned.biases[1:-1], stds[1:], strict=True):
        constant = law.constant if isinstance(law, OffsetBias) else 0.0
        biases.append(OffsetBias(affine.weight, constant, std=std))
    signal, slopes, exit_energy, common = _followed(stack, planned, stds)
    last = planned.weights[-1]
    assert isinstance(last, Framed)
    # The output that was planned is to be what differs between inputs.
    varying = max(1.0 - common / exit_energy, _LEAST_VARYING)
    arriving = math.sqrt(last.scale**2 * exit_energy / stack.affines[-1].out_size)
    factor = planned.signal[-1] / (arriving * math.sqrt(varying))
    gradient = _gradient(planned, slopes, factor)
    return replace(
        planned,
        weights=(
            first_weight,
            *planned.weights[1:-1],
            replace(last, scale=last.scale * factor),
        ),
        biases=(*biases, planned.biases[-1]),
        # One draw of few outputs says little of the mean over draws.
        signal=(*signal, factor * arriving if last.rank >= _FEW_OUTPUTS else math.nan),
        gradient=gradient,
        log_std=math.hypot(planned.log_std, math.sqrt(BIAS_SHARE / (2 * stack.hidden[0].width))),
        frames=tuple(replace(f, basis="") for f in planned.frames),
        arrays=arrays,
        reason=f"{planned.reason}; for its derivatives the first layer looks in evenly spread "
        "directions and small random biases move the bends of hidden units apart",
    )


def _followed(
    stack: Stack, planned: StackPlan, stds: Sequence[float]
) -> tuple[list[float], list[float], float, float]:
    """What even directions and biases make of a planned stack.

    The planned first weight puts the inputs into the first columns of a frame; even directions fill
    all of them alike, so energies are followed anew by column (``theory.structured``). Those that
    two inputs have in common are too: a bias is the same for all inputs.

    Returns the RMS at each hidden layer, E f'^2 there over that without biases, and the energies
    that the last weight reads: all of it, and what inputs have in common.
    """
    width = stack.hidden[0].width
    energy = np.full(width, planned.signal[0] ** 2 + stds[0] ** 2)
    shared = np.full(width, stds[0] ** 2)
    signal, slopes = list[float](), list[float]()
    for i, (h, law) in enumerate(zip(stack.hidden, planned.weights[1:], strict=True)):
        assert isinstance(law, Framed)
        q, common = float(energy.mean()), float(shared.mean())
        at = statistics(h.activation, q)
        signal.append(math.sqrt(q))
        slopes.append(
            at.slope_energy / statistics(h.activation, planned.signal[i] ** 2).slope_energy
        )
        both = _common_energy(h.activation, q, min(1.0, common / q))
        power = at.linear**2
        kept = power * energy[: law.rank] + at.centred_energy - power * q
        alike = power * shared[: law.rank] + both - power * common
        if i + 1 < len(stack.hidden):
            energy, shared = (
                np.pad(law.scale**2 * x, (0, stack.hidden[i + 1].width - law.rank))
                + stds[i + 1] ** 2
                for x in (kept, alike)
            )
    return signal, slopes, float(kept.sum()), float(alike.sum())


def _common_energy(f: Activation, q: float, correlation: float) -> float:
    """E f0(z1) f0(z2), f0 = f - f(0)."""
    rest = f.value_at_zero

    def centred(z: Array) -> Array:
        return np.asarray(f.f(z) - rest)

    return product_expectation(centred, centred, q, q, correlation, tolerance=1e-6).value


def _gradient(planned: StackPlan, slopes: Sequence[float], factor: float) -> tuple[float, ...]:
    """Planned gradients times the slopes behind each layer and the factor of the last weight."""
    behind: Array = np.cumprod(np.sqrt(np.asarray(slopes))[::-1])[::-1] * factor
    hidden = [float(g * b) for g, b in zip(planned.gradient[:-1], behind, strict=True)]
    return (*hidden, planned.gradient[-1])
