"""What is wrong with a network as a whole: its loss, its targets and its inputs."""

import math

from equipoise.measurement import Measurements
from equipoise.rules.finding import Finding

# Nats above the loss of a guess. Far above, training spends itself on unlearning: digits, ReLU with
# weights of standard deviation 1 and tanh at 10 times the framework's default start 6 nats and more
# above and end at 0.84 and 0.82 (2 hidden layers of 64, Adam at its best of three rates) or 0.68
# and 0.32 (8 layers) where others reach 0.97 and 0.94.
_ABOVE_CHANCE, _FAR_ABOVE = 1.0, 10.0


def on_the_whole(m: Measurements) -> list[Finding]:
    """Findings on loss and data."""
    return [
        *_loss_is_no_number(m),
        *_loss(m),
        *_targets(m),
        *_inputs(m),
    ]


def _loss_is_no_number(m: Measurements) -> list[Finding]:
    """A loss of finite outputs that is nan or infinite; of others the forward pass is to blame."""
    if not has_loss(m) or math.isfinite(m.loss) or not m.output_is_finite:
        return []
    return [
        Finding("non-finite", "error", "loss", f"the loss, {m.loss_name}, is {m.loss}",
                "a finite number", f"{m.loss} of outputs of RMS {m.output_rms:.3g}",
                "Look in it for the logarithm of 0, a division by 0 or a factor that is not "
                "finite, and for targets that it cannot take.")
    ]  # fmt: skip


def has_loss(m: Measurements) -> bool:
    """Whether gradients are of a loss that was computed."""
    return bool(m.loss_name) and not m.target_problem


def _loss(m: Measurements) -> list[Finding]:
    """A guess that knows nothing loses ln C; logits of variance s^2 lose about s^2 / 2 more."""
    if not m.classes or not m.loss > math.log(m.classes) + _ABOVE_CHANCE or not m.layers:
        return []
    head = m.layers[-1]
    is_far = m.loss > math.log(m.classes) + _FAR_ABOVE
    return [
        Finding("loss-above-chance", "error" if is_far else "warning", head.layer,
                "the loss is worse than that of a guess",
                f"at most ln {m.classes} + {_ABOVE_CHANCE:g} = "
                f"{math.log(m.classes) + _ABOVE_CHANCE:.2f}", f"{m.loss:.3g}",
                f"Multiply weight and bias of {head.layer!r} by "
                f"{1 / max(m.output_rms, 1e-300):.2g}: logits of RMS {m.output_rms:.3g} are "
                "confident of the wrong class. Or check that the targets belong to these inputs.")
    ]  # fmt: skip


def _targets(m: Measurements) -> list[Finding]:
    found = []
    if m.target_problem:
        found.append(
            Finding("targets-out-of-range", "error", "targets", m.target_problem,
                    f"class numbers from 0 to {m.classes - 1}" if m.classes else "finite targets",
                    "no loss can be computed; gradients are of a random cotangent",
                    "Number classes from 0 on, and give the last layer one output for each."
                    if m.classes else "Remove these rows from the data.")
        )  # fmt: skip
    elif _is_far(m.target_rms, m.target_mean):
        found.append(
            Finding("target-scale", "info", "targets", "the targets are far from mean 0 and RMS 1",
                    "mean near 0, RMS near 1",
                    f"mean {m.target_mean:.3g}, RMS {m.target_rms:.3g}",
                    "Standardize them, or put their mean into the last bias and their spread into "
                    "the last weight.")
        )  # fmt: skip
    return found


def _inputs(m: Measurements) -> list[Finding]:
    if not _is_far(m.input_rms, m.input_mean):
        return []
    return [
        Finding("input-scale", "info", "inputs", "the inputs are far from mean 0 and RMS 1",
                "mean near 0, RMS near 1", f"mean {m.input_mean:.3g}, RMS {m.input_rms:.3g}",
                "Standardize them: the first layer trains faster.")
    ]  # fmt: skip


def _is_far(rms: float, mean: float) -> bool:
    """Whether numbers are far from mean 0 and RMS 1; nan and all zeros are not."""
    spread = math.sqrt(max(0.0, rms**2 - mean**2)) if math.isfinite(rms) else math.nan
    return rms > 0 and (rms > 30 or rms < 0.03 or abs(mean) > 3 * spread)
