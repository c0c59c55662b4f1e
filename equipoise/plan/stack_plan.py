"""What one stack contributes to a plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from equipoise.schemes.laws import Array, Frame, Law


@dataclass(frozen=True)
class StackPlan:
    """What one stack contributes to a plan.

    Attributes:
        weights, biases: laws, layer by layer.
        signal, gradient: expected RMS at the output of each layer, the latter relative to the last.
        reason: what was chosen and why.
        log_std: how far a draw strays from what is expected, nats.
        warning: what theory says against any scheme here, or ''.
        frames, arrays: what the laws refer to.
    """

    weights: tuple[Law, ...]
    biases: tuple[Law, ...]
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    reason: str
    log_std: float
    warning: str = ""
    frames: tuple[Frame, ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
