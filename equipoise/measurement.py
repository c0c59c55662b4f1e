"""Measurements: what one forward and one backward pass showed, layer by layer. Data only."""

import math
from dataclasses import dataclass

from equipoise.drift import Drift, fit_drift

# Distinct inputs are counted up to so many: more decide nothing.
MOST_COUNTED = 16


@dataclass(frozen=True)
class LayerMeasurement:
    """What was seen at the output of one affine layer and of the activation behind it.

    A unit is a feature of a linear layer or a channel of a convolution; RMS, mean and shares are
    over units, inputs and sites.

    Attributes:
        layer: name of the layer.
        weight: name of its weight.
        width: number of units it makes.
        signal: RMS of the output.
        gradient: RMS there of the gradient of the loss, or of a random projection of the model's
            output where there is none.
        weight_gradient: Frobenius norm of the same gradient with respect to the weight.
        correlation: mean cosine between the outputs for different inputs, all sites of an input
            together; nan for one input.
        saturation: share of entries with |f'| below 1 % of its largest value, 0 without activation.
        dead: share of units whose activation is 0 on the whole batch.
        mean: mean of the output.
        log_signal: mean over inputs of the log of the RMS of one input's output, nats.
        log_gradient: the same of the gradient.
        rank: participation ratio of the covariance of the centred output over its units,
            (sum of eigenvalues)^2 / sum of their squares.
        directions: number of directions whose standard deviation is above 1e-3 of the largest.
        most_directions: what both are bounded by: units looked at, or rows less 1.
        weight_norm: Frobenius norm of the weight.
        bias_share: mean square of the bias over that of the output, 0 without bias.
        input_share: share of the output's mean square that differs between inputs.
        twins: share of units that have the same weights and bias as an earlier unit, bit for bit.
        non_finite: number of entries of the output that are nan or infinite.
        sites: number of sites of each unit.
        entries: number of entries of the weight; 0 where it joins 0 units.
        is_trainable: whether the weight asks for a gradient.
        distinct_inputs: number of inputs whose outputs differ, counted up to 16.
        is_output: whether no other layer takes in its output, where that was looked at.
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
    mean: float = math.nan
    log_signal: float = math.nan
    log_gradient: float = math.nan
    rank: float = math.nan
    directions: int = 0
    most_directions: int = 0
    weight_norm: float = math.nan
    bias_share: float = 0.0
    input_share: float = math.nan
    twins: float = 0.0
    non_finite: int = 0
    sites: int = 1
    entries: int = 1
    is_trainable: bool = True
    distinct_inputs: int = MOST_COUNTED
    is_output: bool = False

    @property
    def relative_gradient(self) -> float:
        """Norm of the weight's gradient over that of the weight; nan where the weight is 0."""
        return self.weight_gradient / self.weight_norm if self.weight_norm > 0 else math.nan


@dataclass(frozen=True)
class Measurements:
    """One forward and one backward pass through a model.

    Attributes:
        layers: in the order of computation.
        input_rms: RMS of the floating-point inputs.
        input_mean: mean of all their entries.
        input_correlation: mean cosine between different inputs.
        output_rms: RMS of the floating-point numbers that forward returns; nan if there are none.
        output_is_finite: whether it held no nan and no infinity.
        rows: size of the batch that was sent.
        given_rows: size of the batch that was given; ``rows`` of them were sent, evenly spaced.
        output_input_share: share of the output's mean square that differs between inputs.
        loss: its value on the rows sent; nan where there is none.
        loss_name: what it is, in words; '' where gradients come from a random cotangent.
        cotangent: RMS of the random cotangent at the outputs; nan where gradients are of a loss.
        classes: number of classes of a cross-entropy, 0 elsewhere.
        target_rms, target_mean: of floating-point targets; nan elsewhere.
        target_problem: why targets cannot be used, or ''.
        without_gradient: share of the trainable numbers whose gradient is exactly 0 or absent.
        silent: names of trainable parameters with such a gradient throughout.
    """

    layers: tuple[LayerMeasurement, ...]
    input_rms: float
    input_mean: float
    input_correlation: float
    output_rms: float
    output_is_finite: bool
    rows: int
    given_rows: int = 0
    output_input_share: float = math.nan
    loss: float = math.nan
    loss_name: str = ""
    cotangent: float = math.nan
    classes: int = 0
    target_rms: float = math.nan
    target_mean: float = math.nan
    target_problem: str = ""
    without_gradient: float = 0.0
    silent: tuple[str, ...] = ()

    @property
    def hidden(self) -> tuple[LayerMeasurement, ...]:
        """The layers but those that make outputs: how loud an output is, is a choice."""
        return tuple(
            x for x, is_one in zip(self.layers, self.makes_output, strict=True) if not is_one
        )

    @property
    def makes_output(self) -> tuple[bool, ...]:
        """For each layer, whether it makes an output: the last, unless it is known which do."""
        marked = tuple(x.is_output for x in self.layers)
        return marked if any(marked) else (*marked[:-1], *(True for _ in marked[-1:]))

    @property
    def distinct_inputs(self) -> int:
        """Number of inputs that some layer tells apart, counted up to 16; 0 without layers."""
        return max((x.distinct_inputs for x in self.layers), default=0)

    def gradient_ratio(self) -> float:
        """Gradient norm of the first hidden-to-hidden weight over that of the last, or nan."""
        hidden = self.layers[1:-1]
        if len(hidden) < 2 or not hidden[-1].weight_gradient > 0:
            return math.nan
        return hidden[0].weight_gradient / hidden[-1].weight_gradient

    def signal_drift(self) -> Drift:
        """Nats per hidden layer by which the log RMS of one input's signal grows, forward."""
        return fit_drift([x.log_signal for x in self.hidden])

    def gradient_drift(self) -> Drift:
        """Nats per hidden layer by which the log RMS of one input's gradient grows, backward."""
        return fit_drift([x.log_gradient for x in reversed(self.hidden)])

    def difference_drift(self) -> Drift:
        """Nats per hidden layer by which 1 - correlation grows, forward."""
        apart = [1.0 - x.correlation for x in self.hidden]
        return fit_drift([math.log(d) if d > _ROUNDING else math.nan for d in apart])


# A mean cosine of float32 outputs is known to about this.
_ROUNDING = 1e-7
