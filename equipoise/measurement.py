"""Measurements: what one forward and one backward pass showed, layer by layer. Data only."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerMeasurement:
    """What was seen at the output of one affine layer and of the activation behind it.

    Attributes:
        layer: name of the layer.
        weight: name of its weight.
        width: number of units it makes.
        signal: RMS of the output over units and inputs.
        gradient: RMS there of the gradient of a random projection of the model's output.
        weight_gradient: Frobenius norm of the same gradient with respect to the weight.
        correlation: mean cosine between the outputs for different inputs; nan for one input.
        saturation: share of entries with |f'| below 1 % of its largest value, 0 without activation.
        dead: share of units whose activation is 0 on the whole batch.
    """

    layer: str
    weight: str
    width: int
    signal: float
    gradient: float
    weight_gradient: float
    correlation: float
    saturation: float
    dead: float


@dataclass(frozen=True)
class Measurements:
    """One forward and one backward pass through a model.

    Attributes:
        layers: in the order of computation.
        input_rms: RMS of the floating-point inputs.
        input_mean: mean of all their entries.
        input_correlation: mean cosine between different inputs.
        output_rms: RMS of the model's output.
        output_is_finite: whether it held no nan and no infinity.
        rows: size of the batch.
    """

    layers: tuple[LayerMeasurement, ...]
    input_rms: float
    input_mean: float
    input_correlation: float
    output_rms: float
    output_is_finite: bool
    rows: int

    def gradient_ratio(self) -> float:
        """Gradient norm of the first hidden-to-hidden weight over that of the last, or nan."""
        hidden = self.layers[1:-1]
        if len(hidden) < 2 or not hidden[-1].weight_gradient > 0:
            return math.nan
        return hidden[0].weight_gradient / hidden[-1].weight_gradient
