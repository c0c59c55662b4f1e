"""What a network is for, as far as its start should know."""

import math
from dataclasses import dataclass, replace

from equipoise import _checks
from equipoise.schemes.framed import DEFAULT_BUDGET

PURPOSES = ("", "classification", "regression")
NOT_FOR_DERIVATIVES = "only scheme='auto' provides for derivatives"
UNMET = "derivatives are not provided for"
OUTPUT_UNMET = "the output scale is not provided for, since this scheme's is not foretold here"
# Logits of RMS s start the cross-entropy about s^2 / 2 above ln C. With very many classes that is
# paid for long, since each logit is seldom corrected; with few it is learnt away in a few steps.
_MANY_CLASSES, _QUIET_LOGITS = 1000, 0.1
# Standard deviation of the outputs where their derivatives are what is fitted.
_FIELD_RMS = 0.3
# Nats of gradient growth for inputs that vary in one direction or two; measured on digits (about
# 20 directions: 0.05 to 1.2 alike), checkerboards and spirals (2: more is better up to 2), signs of
# products and teachers in 8 (0.3 better than 1), and Burgers' equation (2: 0.8).
_FEW_DIRECTIONS, _MOST_BUDGET = 1.2, 0.85
_DERIVATIVE_BUDGET = 0.8


@dataclass(frozen=True)
class Aim:
    """What a plan is made for.

    Attributes:
        budget: nats of mean-square gradient growth that framed stacks may spend; nan to let the
            inputs decide.
        output_rms: RMS wanted of the model's outputs; nan to let the purpose decide.
        purpose: ``classification``, ``regression`` or ''.
        for_derivatives: whether the loss reads derivatives with respect to the inputs.
    """

    budget: float = math.nan
    output_rms: float = math.nan
    purpose: str = ""
    for_derivatives: bool = False

    def __post_init__(self) -> None:
        for name, value, remedy in (
            ("budget", self.budget, "Pass nats of gradient growth, such as 0.3."),
            ("output_rms", self.output_rms, "Pass the scale of the targets."),
        ):
            if not (isinstance(value, float) and math.isnan(value)):
                _checks.positive(name, value, remedy)
        _checks.one_of("purpose", self.purpose, PURPOSES)

    def spending(self, budget: float) -> "Aim":
        """The same with a budget that was asked for."""
        return replace(self, budget=budget)

    def budget_for(self, participation: float) -> float:
        """The budget for inputs that vary in so many directions; 0 where that is not known.

        Inputs of few directions can be told apart only by bending, those of many are nearly
        separable by planes: B = 1.2 / sqrt(directions) between the default and 0.85.
        """
        if not math.isnan(self.budget):
            return self.budget
        if self.for_derivatives:
            return _DERIVATIVE_BUDGET
        if not participation > 0:
            return DEFAULT_BUDGET
        wanted = _FEW_DIRECTIONS / math.sqrt(participation)
        return min(_MOST_BUDGET, max(DEFAULT_BUDGET, wanted))

    def exit_rms(self, outputs: int) -> float:
        """RMS of a model's last layer of so many units."""
        if not math.isnan(self.output_rms):
            return self.output_rms
        if self.for_derivatives:
            return _FIELD_RMS
        if self.purpose == "classification" and outputs >= _MANY_CLASSES:
            return _QUIET_LOGITS
        return 1.0
