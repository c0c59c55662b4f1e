"""Laws for one stack: what a scheme, chosen or asked for, makes of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from equipoise.errors import PlanError
from equipoise.plan import predict as prediction
from equipoise.plan.choose import Choice, choose
from equipoise.plan.entry import Inputs, mean_matters, principal_axes
from equipoise.plan.stacks import Stack
from equipoise.plan.trace import Affine
from equipoise.schemes.diagonal_noise import diagonal_noise
from equipoise.schemes.fans import Fans
from equipoise.schemes.framed import DEFAULT_BUDGET, Entry, Space, framed_stack
from equipoise.schemes.laws import Array, Frame, Law, Mirrored, Plain, Zero
from equipoise.schemes.orthogonal import orthogonal
from equipoise.schemes.variance import he, xavier
from equipoise.theory.activations import identity
from equipoise.theory.oddpart import ActivationClass, classify

SCHEMES = ("auto", "xavier", "he", "orthogonal", "diagonal_noise", "centred", "mirrored")


@dataclass(frozen=True)
class StackPlan:
    """What one stack contributes to a plan.

    Attributes:
        weights, biases: laws, layer by layer.
        signal, gradient: expected RMS at the output of each layer, the latter relative to the last.
        reason: what was chosen and why.
        log_std: how far a draw strays from what is expected, nats.
        warning: what theory says against any scheme here, or ''.
        frames, arrays: what the laws refer to.
    """

    weights: tuple[Law, ...]
    biases: tuple[Law, ...]
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    reason: str
    log_std: float
    warning: str = ""
    frames: tuple[Frame, ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)


def plan_stack(
    stack: Stack, scheme: str, inputs: Inputs, uses: int = 1, budget: float = DEFAULT_BUDGET
) -> StackPlan:
    """Laws for a stack.

    Args:
        stack: the layers.
        scheme: one of ``SCHEMES``.
        inputs: what enters.
        uses: how often the model uses the stack's weight.
        budget: nats of gradient growth that framed stacks may spend.

    Returns:
        Its part of the plan.

    Raises:
        PlanError: if the scheme cannot serve a layer.
    """
    if uses > 1:
        # Its input and output may be the same units, for which frames make a projection.
        law = orthogonal(identity())
        return _independent(stack, [law], inputs, f"orthogonal, since it is used {uses} times")
    if scheme == "auto":
        choice = choose(stack)
        if choice.scheme == "he":
            laws = _each_he(stack, math.sqrt(inputs.mean_square))
            planned = _independent(stack, laws, inputs, choice.reason)
        else:
            planned = _framed(stack, choice, inputs, budget)
        return replace(planned, warning=choice.warning)
    if scheme in ("centred", "mirrored"):
        return _framed(stack, _named_choice(stack, scheme), inputs, budget)
    return _independent(stack, _each(stack, scheme), inputs, f"{scheme}, as asked for")


def _named_choice(stack: Stack, scheme: str) -> Choice:
    reason = f"{scheme}, as asked for"
    if scheme == "centred":
        return Choice("framed", tuple(Plain() for _ in stack.hidden), reason)
    for affine, h in zip(stack.affines, stack.hidden, strict=False):
        if h.width < 2:
            raise PlanError(
                f"layer {affine.layer!r} must have at least 2 units to be mirrored, got {h.width}. "
                "Use scheme='auto' or 'centred'."
            )
    tied = (ActivationClass.CENTRE, ActivationClass.LINEAR)
    for h in stack.hidden:
        if classify(h.activation).kind in tied:
            reason += f", although pairs of {h.activation} hardly part in training"
            break
    return Choice("framed", tuple(Mirrored() for _ in stack.hidden), reason)


def _each(stack: Stack, scheme: str) -> list[Law]:
    feeds = [identity(), *(h.activation for h in stack.hidden)]
    laws: list[Law] = []
    for affine, feed, follow in zip(stack.affines, feeds, [*feeds[1:], identity()], strict=True):
        fans = Fans(affine.fan_in, affine.fan_out)
        if scheme == "xavier":
            laws.append(xavier(fans))
        elif scheme == "orthogonal":
            laws.append(orthogonal(feed))
        elif scheme == "diagonal_noise":
            laws.append(diagonal_noise(fans, follow))
        else:
            laws.append(he(fans, feed))
    return laws


def _each_he(stack: Stack, input_rms: float) -> list[Law]:
    fans = [Fans(a.fan_in, a.fan_out) for a in stack.affines]
    return [
        he(fans[0], identity(), input_rms),
        *(he(f, h.activation) for f, h in zip(fans[1:], stack.hidden, strict=True)),
    ]


def _independent(stack: Stack, laws: Sequence[Law], inputs: Inputs, reason: str) -> StackPlan:
    expected = prediction.predict(stack, laws, inputs.mean_square)
    return StackPlan(
        tuple(laws), tuple(Zero() for _ in laws), expected.signal, expected.gradient, reason,
        expected.log_std,
    )  # fmt: skip


def _framed(stack: Stack, choice: Choice, inputs: Inputs, budget: float) -> StackPlan:
    first = stack.affines[0]
    spaces = [
        Space(f"{a.weight}:out", h.width, h.activation, layout)
        for a, h, layout in zip(stack.affines, stack.hidden, choice.layouts, strict=False)
    ]
    entry, arrays = _entry(first, inputs, spaces[0].size if spaces else 0)
    planned = framed_stack(
        [a.weight for a in stack.affines],
        entry,
        spaces,
        f"{stack.affines[-1].weight}:out",
        stack.affines[-1].fan_out,
        budget=budget,
    )
    reason = choice.reason
    if entry.basis:
        reason += f"; the {spaces[0].size} columns that fit follow the inputs' principal axes"
    return StackPlan(
        planned.weights, planned.biases, planned.signal, planned.gradient, reason,
        planned.log_std, frames=planned.frames, arrays=arrays,
    )  # fmt: skip


def _entry(first: Affine, inputs: Inputs, units: int) -> tuple[Entry, dict[str, Array]]:
    """The entry of a framed stack, with axes and mean where the inputs can settle them."""
    frame = f"{first.weight}:in"
    rank = min(first.fan_in, units)
    plain = Entry(frame, first.fan_in, inputs.mean_square)
    found = principal_axes(inputs.rows, rank) if rank else None
    if found is None:
        return plain, {}
    centre = mean_matters(found, len(inputs.rows)) and bool(first.bias)
    basis = first.fan_in > rank
    arrays: dict[str, Array] = {}
    if centre:
        arrays[f"{frame}:mean"] = found.mean
    if not basis:
        mean_square = found.total_variance / first.fan_in if centre else inputs.mean_square
        return Entry(
            frame, first.fan_in, mean_square, "", f"{frame}:mean" if centre else ""
        ), arrays
    arrays[f"{frame}:axes"] = found.axes
    along = found.variances + (0.0 if centre else np.square(found.axes @ found.mean))
    spectrum = tuple(float(v) for v in along)
    entry = Entry(
        frame, first.fan_in, float(np.mean(along)), f"{frame}:axes",
        f"{frame}:mean" if centre else "", spectrum,
    )  # fmt: skip
    return entry, arrays
