"""A chain of layers with what was planned and is expected of it, as gradients pass it."""

import math
from dataclasses import dataclass

import numpy as np

from equipoise.plan.predict_joined import Part
from equipoise.plan.stack_plan import Expected, StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Array, Framed, OffsetBias, SpreadBias, Zero
from equipoise.schemes.part_laws import Rows


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain of layers with what was planned and is expected of it.

    Attributes:
        layers: the chain, as one stack.
        first: its first stack as it was planned; None where it was not.
        expected: what is expected of all of it.
    """

    layers: Stack
    first: Part | None
    expected: Expected

    @property
    def centre(self) -> Array:
        """What the bias of the first layer takes off its inputs, which are those of the model.

        A number for each of them, or for each channel and tap; empty where it takes nothing off.
        """
        planned = self.first.planned if self.first else None
        match planned.biases[0] if planned else None:
            case OffsetBias(centre=name) | SpreadBias(centre=name) if planned and name:
                return planned.arrays[name]
            case _:
                return np.zeros(0)

    @property
    def has_quiet_rows(self) -> bool:
        """Whether some rows of its only weight are drawn smaller than others."""
        planned = self.first.planned if self.first else None
        return (
            planned is not None
            and len(planned.weights) == 1
            and isinstance(planned.weights[0], Rows)
        )

    def to_entry(self, found: Expected | StackPlan, fan: float) -> float:
        """Second moment of the gradient at what enters over that at the last layer.

        Args:
            found: signal and gradient of each layer.
            fan: numbers that the first layer makes over those that it reads.

        Returns:
            Their ratio, nan where it is not known.
        """
        told = found.at_entry if isinstance(found, Expected) else math.nan
        if math.isfinite(told):
            # A product overflows to infinity where a power is an error.
            return told * told
        part = self.first
        if part is None or part.planned.biases[0] != Zero():
            return math.nan
        # The energy of a row of the first weight, as what it makes of its inputs tells it.
        power = found.signal[0] * found.signal[0] / part.inputs.mean_square
        # What comes back into the directions of a frame lies in those that the next one reads.
        law, width = part.planned.weights[0], self.layers.affines[0].out_size
        if self.layers.hidden and isinstance(law, Framed) and law.rank < width:
            return math.nan
        return found.gradient[0] * found.gradient[0] * power * fan
