"""Findings, and the table of their codes: every rule of the diagnosis in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]

CODES: Mapping[str, str] = {
    "non-finite": "nan or infinity in a weight, in the forward pass or in the loss",
    "non-finite-forward": "an operation of the forward pass made nan or infinity that did harm",
    "non-finite-backward": "an operation of the backward pass made nan or infinity",
    "non-finite-update": "the optimizer's step made nan or infinity out of finite numbers",
    "non-finite-given": "nan or infinity came in with the weights, the buffers or the batch",
    "vanished-signal": "the signal is exactly 0 from a layer on",
    "vanishing-signal": "the signal falls by a factor of 30 or more over the hidden layers",
    "exploding-signal": "the signal grows by a factor of 30 or more over the hidden layers",
    "vanished-gradient": "the gradient is exactly 0 from a layer back",
    "vanishing-gradient": "the gradient falls by a factor of 30 or more on its way back",
    "exploding-gradient": "the gradient grows by a factor of 30 or more on its way back",
    "empty-layer": "a layer reads from 0 units, or makes 0: nothing gets through it",
    "zero-weights": "every weight of a layer is 0",
    "symmetric-units": "units with equal weights and equal gradients, which never part",
    "dead-units": "half of a layer's units or more give 0 on the whole batch",
    "saturation": "half of a layer's entries or more sit where a bounded activation is flat",
    "bias-dominates": "a layer's output is its bias, whatever the input",
    "few-rows": "too few distinct rows to judge which units are dead",
    "lost-correlation": "different inputs give nearly one direction",
    "rank-collapse": "different inputs differ along one direction only",
    "constant-output": "the output is the same for all inputs",
    "loss-above-chance": "the cross-entropy is more than 1 above that of a guess, ln C",
    "targets-out-of-range": "targets that no output can meet",
    "target-scale": "targets far from mean 0 and RMS 1",
    "input-scale": "inputs far from mean 0 and RMS 1",
    "weights-without-gradient": "half of the trainable weights or more have no gradient",
    "prediction-missed": "a measurement is not what the plan expects of its draw",
    "not-measured": "a layer, or its gradient, could not be seen",
    "not-read": "torch.export cannot follow forward: activations are not known",
    "no-better-law": "theory knows no law under which this network's signal stays",
    "plan-limit": "what the plan itself says of its limits",
    "non-finite-gradient": "nan or infinity in a gradient while training: the step was skipped",
    "non-finite-loss": "nan or infinity in the loss alone while training: the step was skipped",
    "update-spike": "an update that is far larger than those before it",
    "loss-spike": "a loss that is far above those before it, some steps in a row",
    "clips-always": "a limit on gradients that is below nearly every one of them",
    "rolled-back": "training went back to an earlier state",
    "dying-units": "units of a layer die while it trains",
    "gradient-spike": "a gradient that is far larger than those before it",
    "bad-batch": "one batch whose loss or inputs are far from those around it",
    "large-updates": "updates that replace much of a weight, step after step",
    "edge-of-stability": "steps that overshoot: the slope along them is turned round",
    "signal-drift": "the signal of a layer is far from what it was when training began",
    "weight-drift": "a weight is many times as large as when training began",
    "attention-collapse": "logits of attention so large that softmax chooses one key only",
    "half-overflow": "numbers that leave the range of float16, or nearly",
    "frozen-parameter": "a parameter that never moves while others do",
    "not-in-optimizer": "a trainable parameter that no optimizer moves",
    "identical-layers": "layers that start from the same weights",
    "swallowed-init": "weights that are not what they were initialized to",
    "default-init": "a layer that kept torch's own draw though most others were initialized",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing.

    Attributes:
        code: stable name of the rule, one of ``CODES``.
        severity: ``error`` (does not train, or ends far below what the same network reaches from
            another start), ``warning`` (trains worse or more slowly) or ``info``.
        where: name of a layer, parameter or input.
        what: the fact, in words.
        expected: what it should be, '' where the fact is all there is.
        observed: what it is.
        remedy: what to do, one line; '' where nothing is known that helps.
    """

    code: str
    severity: Severity
    where: str
    what: str
    expected: str
    observed: str
    remedy: str

    def __str__(self) -> str:
        held = f" (expected {self.expected}, observed {self.observed})" if self.expected else ""
        cure = f" {self.remedy}" if self.remedy else ""
        return f"{self.severity} {self.code} at {self.where!r}: {self.what}{held}.{cure}"
