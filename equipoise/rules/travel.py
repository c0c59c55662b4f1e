"""Whether signal and gradient get from one end of the network to the other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.rules.finding import Finding
from equipoise.rules.remedy import Remedy
from equipoise.rules.units import is_ruled_by_bias, tells_units
from equipoise.rules.whole import has_loss
from equipoise.rules.zeros import Zeros

# A factor of 1e3 from one end of a network to the other is beyond what Adam's rescaling or any
# single learning rate evens out; 30 slows training visibly.
_SEVERE, _NOTABLE = 1e3, 30.0
# Share of the trainable weights without gradient that is worth a word.
_SILENT = 0.5


@dataclass(frozen=True)
class _Stop:
    """A quantity at one layer: RMS over units, norm up to a constant, and whether it counts.

    What an output carries is a choice, so that it is no part of the trip.
    """

    layer: str
    rms: float
    norm: float
    counts: bool
    is_output: bool


def travels(m: Measurements, remedy: Remedy, zeros: Zeros) -> list[Finding]:
    """Findings on numbers that are not finite, and on signal and gradient on their way.

    Args:
        m: what was measured.
        remedy: what to do about a layer's stack.
        zeros: layers that start at 0 on purpose, and those that wait for them.
    """
    # A bias that rules its layer makes it loud or quiet by itself, and has a finding of its own.
    signal = [
        _stop(x, x.signal, i not in zeros.meant and not is_ruled_by_bias(x), ends)
        for i, (x, ends) in enumerate(zip(m.layers, m.makes_output, strict=True))
    ]
    gradient = [
        _stop(x, x.gradient, i not in zeros.waiting, ends)
        for i, (x, ends) in enumerate(zip(m.layers, m.makes_output, strict=True))
    ]
    return [
        *_not_measured(m),
        *_numbers(m, remedy),
        *_travel("signal", "from", signal, remedy),
        *_travel("gradient", "back from", gradient[::-1], remedy),
        *_without_gradient(m, remedy),
    ]


def _stop(x: LayerMeasurement, rms: float, counts: bool, is_output: bool) -> _Stop:
    return _Stop(x.layer, rms, rms * math.sqrt(x.width * x.sites), counts, is_output)


def _numbers(m: Measurements, remedy: Remedy) -> list[Finding]:
    bad = next(
        (x for x in m.layers if x.non_finite or math.isinf(x.signal + x.weight_norm)), None,
    )  # fmt: skip
    if bad is None and m.output_is_finite:
        return []
    where = bad.layer if bad else "output"
    in_weight = [x for x in m.layers if not math.isfinite(x.weight_norm) and x.non_finite]
    if bad is not None and bad in in_weight:
        what = "the weight itself holds nan or infinity"
        cure = "Load an earlier checkpoint, or initialize; then lower the learning rate."
    else:
        what = "nan or infinity in the forward pass"
        cure = f"{remedy(where)} Or look for a division or logarithm in forward."
    observed = f"{bad.non_finite} entries are not finite" if bad else "not finite"
    return [Finding("non-finite", "error", where, what, "finite numbers", observed, cure)]


def _travel(
    quantity: str,
    trip: str,
    trip_stops: Sequence[_Stop],
    remedy: Remedy,
) -> list[Finding]:
    """Whether a quantity gets from where it starts to where it ends.

    Where widths change, an isometry changes the RMS and a map that keeps the RMS changes the norm:
    only what changes both by the same large factor is on its way out.

    Args:
        quantity: ``signal`` or ``gradient``.
        trip: where it comes from, in words.
        trip_stops: in the order of the trip.
        remedy: what to do about a layer.
    """
    stops = [stop for stop in trip_stops if stop.counts and math.isfinite(stop.rms)]
    zero = next((stop.layer for stop in stops if stop.rms == 0.0), None)
    if zero is not None:
        return [
            Finding(f"vanished-{quantity}", "error", zero,
                    f"the {quantity} is exactly 0 here and wherever it would go from here",
                    f"a {quantity}", "RMS 0", remedy(zero))
        ]  # fmt: skip
    hidden = [stop for stop in stops if not stop.is_output]
    if len(hidden) < 2:
        return []
    start = hidden[0]
    factors: tuple[tuple[str, Callable[[_Stop], float]], ...] = (
        ("vanishing", lambda s: min(start.rms / s.rms, start.norm / s.norm)),
        ("exploding", lambda s: min(s.rms / start.rms, s.norm / start.norm)),
    )
    findings = []
    for word, factor in factors:
        worst = max(hidden, key=factor)
        if factor(worst) >= _NOTABLE:
            findings.append(
                Finding(f"{word}-{quantity}",
                        "error" if factor(worst) >= _SEVERE else "warning", worst.layer,
                        f"the {quantity} is {word} on its way {trip} {start.layer!r}",
                        f"RMS within a factor {_NOTABLE:g} of {start.rms:.3g}",
                        f"RMS {worst.rms:.3g}", remedy(worst.layer))
            )  # fmt: skip
    return findings


def _without_gradient(m: Measurements, remedy: Remedy) -> list[Finding]:
    """Weights that cannot move, where no layer on their way says why."""
    is_cut = any(math.isnan(x.gradient) or x.gradient == 0.0 for x in m.layers)
    if m.without_gradient < _SILENT or is_cut or not m.layers:
        return []
    if not m.silent and not tells_units(m):
        return []
    named = ", ".join(m.silent[:3]) + (f" and {len(m.silent) - 3} more" if m.silent[3:] else "")
    where = m.silent[0] if m.silent else "model"
    cure = (
        f"Look why forward does not use {named}, or freeze them."
        if m.silent else remedy(max(m.layers, key=lambda x: x.dead).layer)
    )  # fmt: skip
    return [
        Finding("weights-without-gradient", "warning", where,
                "trainable weights receive a gradient of exactly 0",
                f"less than {_SILENT:.0%} of them", f"{m.without_gradient:.0%}", cure)
    ]  # fmt: skip


def _not_measured(m: Measurements) -> list[Finding]:
    """What was not seen cannot be called in balance."""
    unseen = [x.layer for x in m.layers if math.isnan(x.gradient)]
    # An output that is nan has an RMS of nan too.
    if m.layers and not m.loss_name and m.output_is_finite and math.isnan(m.output_rms):
        return [
            Finding("not-measured", "warning", "output",
                    "forward returns no floating-point numbers, so no gradient can start there",
                    "a real tensor, alone or in tuples, lists or dicts", "none",
                    "Return what the loss is computed of: logits or losses, not class numbers; the "
                    "fields of a class of your own as a dict.")
        ]  # fmt: skip
    if m.layers and not unseen:
        return []
    if has_loss(m) and not math.isfinite(m.loss):
        # Nothing finite can come back from such a loss.
        return []
    what = "no affine layer was seen" if not m.layers else "no gradient reaches some layers"
    return [
        Finding("not-measured", "warning", unseen[0] if unseen else "model", what,
                "a signal and a gradient at every layer",
                f"{len(unseen)} of {len(m.layers)} layers without a gradient"
                if m.layers else "no layer whose weight is a parameter itself",
                "Pass the part of the model that is differentiable and made of linear layers or "
                "convolutions.")
    ]  # fmt: skip
