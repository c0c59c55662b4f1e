"""What a guard says, as findings."""

from equipoise.rules.finding import Finding, Severity
from equipoise.training.guard_producer import Producer
from equipoise.training.guard_spikes import SpikeFound

_CURES = {
    "weight": "Load an earlier checkpoint, or pass rollback=Rollback() to the guard; then lower "
    "the learning rate.",
    "input": "Look at this batch: filter or replace what is not finite before the model reads it.",
    "forward": "Look for a division, root, logarithm or exponential there, or lower the learning "
    "rate.",
    "loss": "Compute the loss from logits, with a form that is defined at 0 and at -inf.",
    "backward": "Look for a root, norm, power or division that is finite where its slope is not, "
    "and add a small number inside it.",
    "overflow": "Lower the learning rate: the loss is far out of scale.",
    "unknown": "Pass model= and the loss to the guard, and it names the module.",
}  # fmt: skip


def not_finite(
    producer: Producer, step: int, has_bad_gradient: bool, in_a_row: int, scale: float
) -> Finding:
    """A step that was skipped.

    Args:
        producer: who made it.
        step: number of the step.
        has_bad_gradient: whether a gradient is not finite, or the loss alone.
        in_a_row: skipped steps up to this one.
        scale: of the loss under mixed precision; 0 for none, nan if it is not known.
    """
    cure = _CURES[producer.place]
    severity: Severity = "warning" if in_a_row < 3 else "error"
    if scale and producer.place in ("backward", "unknown"):
        # A scaler finds its scale by overflowing.
        severity = "info" if in_a_row < 10 else "error"
        cure = "The scaler lowers the loss scale; if that goes on, use bfloat16 for this layer."
    scaled = f" at a loss scale of {scale:g}" if scale > 0 else ""
    code = "non-finite-gradient" if has_bad_gradient else "non-finite-loss"
    what = f"step {step} was skipped{scaled}: {producer.what}"
    observed = "nan or infinity" + (f", {in_a_row} steps in a row" if in_a_row > 1 else "")
    if code == "non-finite-loss":
        return Finding("non-finite-loss", severity, producer.where, what, "finite numbers",
                       observed, cure)  # fmt: skip
    return Finding("non-finite-gradient", severity, producer.where, what, "finite numbers",
                   observed, cure)  # fmt: skip


def update_spike(found: SpikeFound, where: str, step: int, rate_rise: float) -> Finding:
    """An update far from those before it.

    Args:
        found: how far.
        where: name of the parameter that stands out.
        step: number of the step.
        rate_rise: learning rate over that of the step before.
    """
    times = found.norm / found.median if found.median else float("inf")
    if rate_rise > 1.5:
        why = f"as the learning rate rose {rate_rise:.3g} times"
        cure = "Look at the schedule, or warm the rate up."
    else:
        why = "which comes before the loss shows it"
        cure = "Look at this batch, clip with ZScore(), or lower the rate or Adam's beta2."
    return Finding(
        "update-spike", "warning", where, f"the update of step {step} is out of scale, {why}",
        f"a norm about {found.median:.3g}",
        f"{found.norm:.3g}, {times:.3g} times that (robust z {found.z:.3g})", cure,
    )  # fmt: skip


def loss_spike(loss: float, median: float, z: float, step: int, in_a_row: int) -> Finding:
    """Losses far above those before, some in a row."""
    return Finding(
        "loss-spike", "warning", "loss",
        f"the loss of {in_a_row} steps in a row up to {step} is far above those before",
        f"about {median:.4g}", f"{loss:.4g} (robust z {z:.3g})",
        "Lower the learning rate, or pass rollback=Rollback() to the guard.",
    )  # fmt: skip


def clips_always(share: float, steps: int, median: float) -> Finding:
    """A limit that is below nearly every norm."""
    return Finding(
        "clips-always", "info", "clip",
        f"of the last {steps} steps nearly all were clipped, so that the limit sets the step and "
        f"not the gradient",
        "less than 90% of steps", f"{share:.0%}",
        f"If this is not meant, raise the limit to above the median norm, {median:.3g}.",
    )  # fmt: skip


def rolled_back(step: int, to: int, why: str, factor: float, times: int) -> Finding:
    """A return to an earlier state."""
    return Finding(
        "rolled-back", "warning" if times < 5 else "error", "model",
        f"after step {step} the model went back to its state of step {to}, since {why}",
        "no rollback", f"rollback {times}, learning rates times {factor:.3g}",
        "Lower the learning rate, or look at the batches between these steps.",
    )  # fmt: skip
