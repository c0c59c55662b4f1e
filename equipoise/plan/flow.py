"""A gradient at one value of a model, in second moments."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Flow:
    """Second moment of a gradient per entry, nan where nothing is known.

    Attributes:
        energy: the second moment.
        common: the part of it that all sites of a row share.
        doubt: the part of it that may be another one in another draw.
    """

    energy: float = 0.0
    common: float = 0.0
    doubt: float = 0.0

    def __add__(self, other: "Flow") -> "Flow":
        return Flow(
            self.energy + other.energy, self.common + other.common, self.doubt + other.doubt
        )

    def times(self, factor: float, common: float | None = None) -> "Flow":
        """All parts times a factor, the common one perhaps times another."""
        shared = self.common * (factor if common is None else common)
        return Flow(self.energy * factor, shared, self.doubt * factor)

    def made_of(self, energy: float, common: float = 0.0) -> "Flow":
        """Another gradient that this one becomes, in doubt as far as it is."""
        return Flow(energy, common, self.doubt * energy / self.energy if self.energy else 0.0)


# Where nothing is known.
UNKNOWN = Flow(math.nan, math.nan, math.nan)
