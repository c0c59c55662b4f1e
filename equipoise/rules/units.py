"""What is wrong inside a layer: its weights, its biases and what its units do."""

from collections.abc import Mapping

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.rules.finding import Finding
from equipoise.rules.remedy import Remedy

_SATURATED = 0.5
_DEAD = 0.5
# A bias dominates where it makes up this share of the output and the inputs less than the rest.
_BIAS = 0.8
_TWINS = 0.25
# Preactivations at which no common bounded activation is flat.
_LIVELY = 1.0


def in_units(m: Measurements, activations: Mapping[str, str], remedy: Remedy) -> list[Finding]:
    """Findings on single layers, each rule once, at the layer where it is worst.

    Args:
        m: what was measured.
        activations: name of the activation behind each layer.
        remedy: what to do about a layer's stack.
    """
    return [
        *_zero_weights(m),
        *_symmetric(m),
        *_dead(m, activations, remedy),
        *_saturated(m, activations),
        *_biases(m),
    ]


def empty_layers(m: Measurements) -> list[Finding]:
    """A finding on layers that join no units; nothing else can be said of them."""
    empty = [x for x in m.layers if not x.entries]
    if not empty:
        return []
    first = empty[0]
    more = f" in {len(empty)} of {len(m.layers)} layers" if empty[1:] else ""
    return [
        Finding("empty-layer", "warning", first.layer, "nothing gets through a layer of 0 units",
                "at least one unit on each side",
                f"{first.width} units made, {first.entries} weights{more}",
                f"Give {first.layer!r} units on both sides, or take it out of the model.")
    ]  # fmt: skip


def _zero_weights(m: Measurements) -> list[Finding]:
    zero = [x for x in m.layers if x.weight_norm == 0.0]
    if not zero:
        return []
    is_head = zero == [m.layers[-1]]
    after = "Only the bias learns in the first step; " if is_head else ""
    return [
        Finding("zero-weights", "warning" if is_head else "error", zero[0].layer,
                "all weights are 0", "a weight that passes something on",
                f"norm 0 in {len(zero)} of {len(m.layers)} layers",
                f"{after}draw {zero[0].weight!r} with equipoise.torch.initialize, or leave it so "
                "on purpose in a residual branch." if not is_head else
                f"{after}that may be meant. Otherwise draw {zero[0].weight!r}.")
    ]  # fmt: skip


def _symmetric(m: Measurements) -> list[Finding]:
    worst = max((x for x in m.layers if x.weight_norm != 0.0), key=_by_twins, default=None)
    if worst is None or worst.twins < _TWINS:
        return []
    return [
        Finding("symmetric-units", "error", worst.layer,
                "units with equal weights receive equal gradients and never part",
                "units that differ", f"{worst.twins:.0%} of the units repeat an earlier one",
                f"Draw {worst.weight!r} at random: any scheme does, a constant does not.")
    ]  # fmt: skip


def _by_twins(x: LayerMeasurement) -> float:
    return x.twins


def _dead(m: Measurements, activations: Mapping[str, str], remedy: Remedy) -> list[Finding]:
    dead = max(m.layers, key=lambda x: x.dead, default=None)
    if dead is None or dead.dead < _DEAD:
        return []
    if dead.mean < 0 and dead.bias_share > 0.1 and dead.weight_norm > 0:
        cure = f"Set the bias of {dead.layer!r} to 0: it holds its units below the kink."
    elif "relu" in activations.get(dead.layer, ""):
        cure = f"{remedy(dead.layer)} A slope of 0.01 below 0 (LeakyReLU) lets units return."
    else:
        cure = remedy(dead.layer)
    return [
        Finding("dead-units", "error" if dead.dead == 1.0 else "warning", dead.layer,
                "units give 0 on the whole batch", f"fewer than {_DEAD:.0%} of the units",
                f"{dead.dead:.0%}", cure)
    ]  # fmt: skip


def _saturated(m: Measurements, activations: Mapping[str, str]) -> list[Finding]:
    flat = max(m.layers, key=lambda x: x.saturation, default=None)
    if flat is None or flat.saturation < _SATURATED:
        return []
    behind = activations.get(flat.layer, "the activation")
    if flat.bias_share > 0.5:
        cure = f"Set the bias of {flat.layer!r} to 0: it holds the units where {behind} is flat."
    else:
        cure = (
            f"Multiply the weight of {flat.layer!r} by {_LIVELY / max(flat.signal, 1e-300):.2g}: "
            f"{behind} is steep where preactivations have RMS 1, here they have {flat.signal:.3g}."
        )
    return [
        Finding("saturation", "warning", flat.layer,
                "entries sit where the activation is flat", f"fewer than {_SATURATED:.0%}",
                f"{flat.saturation:.0%}", cure)
    ]  # fmt: skip


def _biases(m: Measurements) -> list[Finding]:
    """Hidden layers only: the last bias may well carry the mean of the targets."""
    ruled = [
        x for x in m.hidden
        if x.width > 1 and x.bias_share >= _BIAS and x.input_share <= 1 - _BIAS
    ]  # fmt: skip
    if not ruled:
        return []
    first = ruled[0]
    more = f", and of {len(ruled) - 1} more layers" if ruled[1:] else ""
    return [
        Finding("bias-dominates", "warning", first.layer,
                "the output is little more than the bias, whatever the input",
                f"less than {_BIAS:.0%} of the mean square", f"{min(first.bias_share, 1):.0%}",
                f"Set the bias of {first.layer!r}{more} to 0 at birth.")
    ]  # fmt: skip
