"""A gradient at one value of a model, in second moments."""

import math
from dataclasses import dataclass, replace

from equipoise.plan.levels import Levels
from equipoise.plan.nodes import Merge


@dataclass(frozen=True)
class Flow:
    """Second moment of a gradient per entry, nan where nothing is known.

    Attributes:
        energy: the second moment.
        common: the part of it that all sites of a row share.
        doubt: the part of it that may be another one in another draw.
        louder: energy that passes the weight which made the value, over that which would pass if
            all its rows had the same.
    """

    energy: float = 0.0
    common: float = 0.0
    doubt: float = 0.0
    louder: float = 1.0

    def __add__(self, other: "Flow") -> "Flow":
        energy = self.energy + other.energy
        passes = self.louder * self.energy + other.louder * other.energy
        louder = passes / energy if energy and passes != energy else 1.0
        return Flow(energy, self.common + other.common, self.doubt + other.doubt, louder)

    def doubted(self, part: float = 1.0) -> "Flow":
        """The same where so much of it, or more than all, may be another one."""
        return replace(self, doubt=max(self.doubt, self.energy * part)) if self.energy else self

    def times(self, factor: float, common: float | None = None) -> "Flow":
        """All parts times a factor, the common one perhaps times another."""
        shared = self.common * (factor if common is None else common)
        return Flow(self.energy * factor, shared, self.doubt * factor)

    def made_of(self, energy: float, common: float = 0.0) -> "Flow":
        """Another gradient that this one becomes, in doubt as far as it is."""
        return Flow(energy, common, self.doubt * energy / self.energy if self.energy else 0.0)


def interference(node: Merge, levels: Levels) -> float:
    """How much of the gradient of a sum may be another one where its terms meet again.

    Terms that were made of one value without weights in between correlate, and so do the gradients
    that they send back to it: these add up, or cancel, as amplitudes.
    """
    means = [levels.mean(v) for v in node.inputs]
    apart = sum(levels.of(v) - m * m for v, m in zip(node.inputs, means, strict=True))
    together = levels.of(node.output) - levels.mean(node.output) ** 2
    return abs(together / apart - 1.0) if apart > 0 and math.isfinite(together) else 0.0


# Where nothing is known.
UNKNOWN = Flow(math.nan, math.nan, math.nan)
