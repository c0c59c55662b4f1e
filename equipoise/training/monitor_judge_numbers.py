"""Who made a number that is not finite, from what one step showed."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from equipoise.rules.finding import Finding, Severity
from equipoise.training.guard_names import Watched
from equipoise.training.guard_producer import Producer
from equipoise.training.monitor_limits import HEADROOM, SCALER_STEPS
from equipoise.training.monitor_row import Reading

_HALF = 65504.0
_LOST = "If the step was taken, load an earlier checkpoint; a Guard would have skipped it."
_FORWARD = "Look for a division, root, logarithm or exponential there, or lower the learning rate."
_BACKWARD = (
    "Look for a root, norm, power or division that is finite where its slope is not, and add a "
    "small number inside it."
)
_RANGE = "Use bfloat16 or float32 for this layer, or lower the learning rate."
_SCALE = "The scaler lowers the loss scale; if that goes on, use bfloat16 for this layer."


class Numbers:
    """Speaks when numbers stop being finite, and is silent until they are finite again."""

    def __init__(self, watched: Sequence[Watched], has_scaler: bool) -> None:
        self._watched, self._has_scaler = watched, has_scaler
        self._in_a_row = 0

    @property
    def is_lost(self) -> bool:
        """Whether the last step was not finite."""
        return self._in_a_row > 0

    def judge(self, one: Reading) -> list[Finding]:
        """What a step says.

        Args:
            one: the step.
        """
        gradient = one.by_parameter.get("gradient")
        is_bad = gradient is not None and not np.isfinite(gradient[one.has_gradient]).all()
        found = self._forward(one) or self._backward(one)
        if found is None and is_bad and not one.checks:
            found = self._unwatched(one)
        found = found or self._loss(one) or (self._unwatched(one) if is_bad else None)
        self._in_a_row = 0 if found is None else self._in_a_row + 1
        if found is None:
            return _near_the_end(one)
        # A scaler finds its scale by overflowing, but not for long.
        if self._in_a_row == SCALER_STEPS and found.severity == "info":
            return [replace(found, severity="error")]
        return [found] if self._in_a_row == 1 else []

    def _forward(self, one: Reading) -> Finding | None:
        bad = next((c for c in one.checks if not math.isfinite(c.number)), None)
        if bad is None:
            return None
        weights = one.by_parameter.get("weight")
        if weights is not None:
            taken = one.taken["weight"] & ~np.isfinite(weights)
            held = [w.name for w, is_bad in zip(self._watched, taken, strict=True) if is_bad]
            if held:
                return _given(held[0], "the weight itself holds nan or infinity", one.step)
        if bad.place == "input" and bad.layer == "inputs":
            return _given("inputs", "the batch holds nan or infinity", one.step)
        if bad.is_half and math.isinf(bad.number):
            return Finding(
                "half-overflow", "error", bad.layer,
                f"in step {one.step} numbers leave the range of float16 here",
                f"at most {_HALF:g}", "infinity", _RANGE,
            )  # fmt: skip
        words = {
            "layer": "its output", "activation": "its activation", "norm": "its output",
            "input": "what was made of its output",
        }  # fmt: skip
        return Finding(
            "non-finite-forward", "error", bad.layer,
            f"in step {one.step} {words[bad.place]} is the first in the forward pass that holds "
            f"nan or infinity", "finite numbers", "nan" if math.isnan(bad.number) else "infinity",
            f"{_FORWARD} {_LOST}",
        )  # fmt: skip

    def _backward(self, one: Reading) -> Finding | None:
        """The last layer in forward order whose gradient is not finite, and whose output's is."""
        order = {layer: i for i, (layer, _, _) in enumerate(reversed(one.arrived))}
        outputs = {layer: is_half for layer, number, is_half in one.arrived
                   if not math.isfinite(number)}  # fmt: skip
        if not one.arrived or (one.has_loss and not math.isfinite(one.loss)):
            return None
        gradient = one.by_parameter.get("gradient")
        owners = set()
        if gradient is not None:
            owners = {w.layer for w, norm, has in
                      zip(self._watched, gradient, one.has_gradient, strict=True)
                      if has and not math.isfinite(norm)}  # fmt: skip
        bad = [layer for layer in {*outputs, *owners} if layer in order]
        if not bad:
            return None
        where = max(bad, key=order.__getitem__)
        # Autocast computes the gradient of a weight in the precision of its layer; what overflows
        # there is infinite, and no nan.
        halves = {layer for layer, _, is_half in one.arrived if is_half}
        is_over = where in halves and where not in outputs and self._is_infinite(one, where)
        if outputs.get(where, False) or is_over or self._has_scaler:
            severity: Severity = "info" if self._has_scaler else "error"
            return Finding(
                "half-overflow", severity, where,
                f"in step {one.step} gradients leave the range of float16 here",
                f"at most {_HALF:g}", "infinity or nan", _SCALE if self._has_scaler else _RANGE,
            )  # fmt: skip
        what = "the gradient at its output" if where in outputs else "the gradient of its weights"
        return Finding(
            "non-finite-backward", "error", where,
            f"in step {one.step} {what} is the first on the way back that holds nan or infinity",
            "finite numbers", f"{len(bad)} of {len(order)} layers are not finite",
            f"{_BACKWARD} {_LOST}",
        )  # fmt: skip

    def _is_infinite(self, one: Reading, layer: str) -> bool:
        """Whether gradients of a layer hold infinity, and none of them nan."""
        norms = [norm for w, norm, has in
                 zip(self._watched, one.by_parameter["gradient"], one.has_gradient, strict=True)
                 if has and w.layer == layer]  # fmt: skip
        return any(math.isinf(x) for x in norms) and not any(math.isnan(x) for x in norms)

    def _loss(self, one: Reading) -> Finding | None:
        return _bad_loss(one) if one.has_loss and not math.isfinite(one.loss) else None

    def _unwatched(self, one: Reading) -> Finding:
        """Of a step whose layers were not looked at."""
        made = one.explained or self._from_gradients(one)
        if made.place in ("weight", "input"):
            return _given(made.where, made.what, one.step)
        if made.place == "loss":
            return _bad_loss(one)
        cure = _BACKWARD if made.place == "backward" else _FORWARD
        if made.place == "forward":
            return Finding(
                "non-finite-forward", "error", made.where, f"in step {one.step}: {made.what}",
                "finite numbers", "nan or infinity", f"{cure} {_LOST}",
            )  # fmt: skip
        if self._has_scaler:
            cure = _SCALE
        return Finding(
            "non-finite-gradient", "info" if self._has_scaler else "error", made.where,
            f"in step {one.step}: {made.what}", "finite numbers", "nan or infinity",
            f"{cure} {_LOST}",
        )  # fmt: skip

    def _from_gradients(self, one: Reading) -> Producer:
        gradient = one.by_parameter["gradient"]
        bad = [w.layer for w, norm, has in
               zip(self._watched, gradient, one.has_gradient, strict=True)
               if has and not math.isfinite(norm)]  # fmt: skip
        share = f"{len(bad)} of {int(one.has_gradient.sum())} gradients are not finite"
        if len(bad) == int(one.has_gradient.sum()):
            share += "; pass every=1 to see which layer made the first"
        return Producer("unknown", bad[-1], share)


def _bad_loss(one: Reading) -> Finding:
    return Finding(
        "non-finite-loss", "error", "loss",
        f"in step {one.step} the loss is not finite though every layer is",
        "a finite number", str(one.loss) if one.has_loss else "nan or infinity",
        "Compute the loss from logits, with a form that is defined at 0 and at -inf.",
    )  # fmt: skip


def _given(where: str, what: str, step: int) -> Finding:
    return Finding(
        "non-finite-given", "error", where, f"in step {step} {what}", "finite numbers",
        "nan or infinity",
        "Filter or replace what is not finite in the data, and put back weights from a checkpoint.",
    )  # fmt: skip


def _near_the_end(one: Reading) -> list[Finding]:
    """Outputs in float16 that are near the end of its range."""
    high = max(one.largest.items(), key=lambda item: item[1], default=None)
    if high is None or not high[1] > HEADROOM * _HALF:
        return []
    return [
        Finding("half-overflow", "warning", high[0],
                f"in step {one.step} numbers come near the end of the range of float16",
                f"at most {HEADROOM:.0%} of {_HALF:g}", f"{high[1]:.3g}", _RANGE)
    ]  # fmt: skip
