"""What is wrong inside a layer: its weights, its biases and what its units do."""

from collections.abc import Mapping

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.rules.finding import Finding
from equipoise.rules.remedy import Remedy
from equipoise.rules.zeros import Zeros, zero_weights

# Where half of the entries are flat in most layers, little of any gradient is left to learn from:
# digits, tanh at 10 times the framework's default (57 % flat), Adam at its best of three rates, end
# at 0.59 with 4 hidden layers of 64 and 0.32 with 8, at 20 times (79 %) at 0.33 and 0.17, where the
# default gives 0.97 and 0.94. One such layer among others costs little.
_SATURATED, _SEVERAL = 0.5, 2
_DEAD = 0.5
# Of one input half of all kinked units are 0 by chance, of n independent ones 2^-n; and of a weight
# between two of them the share 1 - (3/4)^n has a gradient.
_LEAST_CASES = 8
# A bias dominates where it makes up this share of the output and what differs between inputs is no
# more than that: from 1 % on networks learn as well as others (see ``rules.alike``).
_BIAS, _DIFFERS = 0.8, 0.01
_TWINS = 0.25
# Preactivations at which no common bounded activation is flat.
_LIVELY = 1.0


def in_units(
    m: Measurements, activations: Mapping[str, str], remedy: Remedy, zeros: Zeros
) -> list[Finding]:
    """Findings on single layers, each rule once, at the layer where it is worst.

    Args:
        m: what was measured.
        activations: name of the activation behind each layer.
        remedy: what to do about a layer's stack.
        zeros: layers that start at 0 on purpose, and those that wait for them.
    """
    return [
        *_few_rows(m),
        *zero_weights(m, zeros),
        *_symmetric(m),
        *_dead(m, activations, remedy, zeros),
        *_saturated(m, activations),
        *_biases(m),
    ]


def tells_units(m: Measurements, sites: int = 1) -> bool:
    """Whether so many sites of the inputs sent tell units that are off from units that are dead."""
    return m.distinct_inputs * sites >= _LEAST_CASES


def is_ruled_by_bias(x: LayerMeasurement) -> bool:
    """Whether a layer's output is little more than its bias, whatever the input."""
    has_both = x.width > 1 and x.weight_norm != 0.0
    return has_both and x.bias_share >= _BIAS and x.input_share <= _DIFFERS


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


def _few_rows(m: Measurements) -> list[Finding]:
    off = [x for x in m.layers if x.dead > 0 and not tells_units(m, x.sites)]
    if not off and (m.without_gradient == 0.0 or tells_units(m) or not m.layers):
        return []
    seen = m.distinct_inputs
    return [
        Finding("few-rows", "info", "inputs",
                "too few distinct rows to judge which units are dead and which weights are reached",
                f"at least {_LEAST_CASES}", f"{seen} of {m.rows} rows",
                "Pass a batch of the data that the model is for: a few hundred rows.")
    ]  # fmt: skip


def _dead(
    m: Measurements, activations: Mapping[str, str], remedy: Remedy, zeros: Zeros
) -> list[Finding]:
    judged = [
        x for i, x in enumerate(m.layers)
        if i not in zeros.meant and tells_units(m, x.sites)
    ]  # fmt: skip
    dead = max(judged, key=lambda x: x.dead, default=None)
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
    many = sum(x.saturation >= _SATURATED for x in m.hidden)
    is_all_over = many >= _SEVERAL and 2 * many > len(m.hidden)
    return [
        Finding("saturation", "error" if is_all_over else "warning", flat.layer,
                "entries sit where the activation is flat", f"fewer than {_SATURATED:.0%}",
                f"{flat.saturation:.0%}{f', and as much in {many - 1} more layers' * (many > 1)}",
                cure)
    ]  # fmt: skip


def _biases(m: Measurements) -> list[Finding]:
    """Hidden layers only: the last bias may well carry the mean of the targets."""
    # Of inputs that are one and the same nothing differs whatever the bias.
    ruled = [x for x in m.hidden if is_ruled_by_bias(x)] if m.distinct_inputs > 1 else []
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
