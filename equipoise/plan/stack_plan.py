"""What one stack contributes to a plan, and what is expected of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from equipoise.schemes.laws import Array, Frame, Law


@dataclass(frozen=True)
class Expected:
    """What is expected at the output of each affine layer of a stack, nan where nothing is.

    Attributes:
        signal: RMS over units and inputs, in the median draw.
        gradient: RMS relative to the last layer's, in the median draw.
        log_std: standard deviation over draws of the log of the signal's RMS, nats; of the draws
            that live.
        gradient_log_std: the same of the gradient.
        correlation: mean cosine of the outputs for two different inputs.
        odds: chance that a draw is usable (``plan.odds``).
        odds_error: standard error of that number.
        method: how all this was found.
        note: why something is nan, or ''; ``method`` is '' where nothing is expected.
        correlation_std: standard deviation over draws of the mean cosine, () where not known.
        at_exit: RMS at the last layer as well as it is known, where ``signal`` is in doubt too:
            what comes after is scaled for it.
        at_entry: RMS of the gradient at what enters the first layer, relative to that at the last
            layer; nan where it was not found.
    """

    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    log_std: tuple[float, ...]
    gradient_log_std: tuple[float, ...]
    correlation: tuple[float, ...]
    odds: float = math.nan
    odds_error: float = math.nan
    method: str = ""
    note: str = ""
    correlation_std: tuple[float, ...] = ()
    at_exit: float = math.nan
    at_entry: float = math.nan

    @property
    def exit_rms(self) -> float:
        """RMS at the last layer, in doubt or not; nan where nothing is known."""
        told = self.signal[-1]
        return self.at_exit if math.isnan(told) else told

    @staticmethod
    def nothing(layers: int, note: str) -> "Expected":
        """No expectation, and why."""
        nan = (math.nan,) * layers
        return Expected(nan, nan, nan, nan, nan, note=note)

    def silent_at(self, place: int) -> "Expected":
        """The same where the weight of a layer is 0: neither signal nor cotangent passes it."""
        nothing = tuple(0.0 * g for g in self.gradient[:place])
        return replace(
            self,
            signal=(*self.signal[:place], 0.0, *self.signal[place + 1 :]),
            gradient=(*nothing, *self.gradient[place:]),
            at_entry=0.0 * self.at_entry,
            correlation=(*self.correlation[:place], math.nan, *self.correlation[place + 1 :]),
        )


@dataclass(frozen=True)
class StackPlan:
    """What one stack contributes to a plan.

    Attributes:
        weights, biases: laws, layer by layer.
        signal, gradient: expected RMS at the output of each layer, the latter relative to the last.
        reason: what was chosen and why.
        log_std: how far a draw strays from what is expected, nats.
        warning: what theory says against any scheme here, or ''.
        is_unstable: whether the warning is that no level of the signal is stable in depth.
        frames, arrays: what the laws refer to.
        expected: all of what is expected, where the scheme has found it out already.
    """

    weights: tuple[Law, ...]
    biases: tuple[Law, ...]
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    reason: str
    log_std: float
    warning: str = ""
    is_unstable: bool = False
    frames: tuple[Frame, ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
    expected: Expected | None = None
