"""A gradient at one value of a model, in second moments."""

import math
from dataclasses import dataclass, replace

from equipoise.plan.levels import Levels
from equipoise.plan.nodes import Merge, Norm


@dataclass(frozen=True)
class Flow:
    """Second moment of a gradient per entry, nan where nothing is known.

    Attributes:
        energy: the second moment.
        common: the part of it that all sites of a row share.
        doubt: the part of it that may be another one in another draw.
        louder: energy that passes the weight which made the value, over that which would pass if
            all its rows had the same.
        freed: the part of it that has nothing left along what a norm takes off.
    """

    energy: float = 0.0
    common: float = 0.0
    doubt: float = 0.0
    louder: float = 1.0
    freed: float = 0.0

    def __add__(self, other: "Flow") -> "Flow":
        energy = self.energy + other.energy
        passes = self.louder * self.energy + other.louder * other.energy
        louder = passes / energy if energy and passes != energy else 1.0
        common, doubt = self.common + other.common, self.doubt + other.doubt
        return Flow(energy, common, doubt, louder, self.freed + other.freed)

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


def through_norm(got: Flow, node: Norm, levels: Levels) -> Flow:
    """A gradient in front of a norm: its gain over what it divides by, less what it takes off.

    That is the mean of the row and its own direction. A norm that follows another one, with little
    added in between, takes off next to nothing more.
    """
    mean = 0.0 if node.kind == "rms" or node.is_tracked else levels.mean(node.input)
    before, behind = levels.of(node.input), levels.of(node.output)
    removed = {"rms": 1.0}.get(node.kind, 2.0) / node.size if node.size else 0.0
    variance = before - mean * mean
    if node.kind == "instance" and not node.is_tracked:
        variance = before * (1.0 - likely_share(node.input, levels))
    slope = behind / variance if variance > 0 else math.nan
    if node.is_tracked:
        return got.times(slope)
    freed = got.freed / got.energy if got.energy else 0.0
    flow = got.times(slope * (freed + (1.0 - freed) * max(0.0, 1.0 - removed)))
    return replace(flow, freed=flow.energy)


def likely_share(value: int, levels: Levels) -> float:
    """Part of a second moment that all sites share, half of it where that is not known."""
    share = levels.share(value)
    return 0.5 if math.isnan(share) else share


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
