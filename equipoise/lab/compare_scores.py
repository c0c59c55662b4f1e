"""From test losses to scores: what is averaged, and which draws trained."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Below this a loss counts as this: nothing that is computed in float32 tells them apart.
_LEAST = 1e-12


@dataclass(frozen=True)
class Scale:
    """How losses become scores, higher is better.

    Losses that are positive become minus their logarithm: a score that is .01 higher is a loss that
    is 1% lower, whatever its unit. Others are taken as they are, in units of the typical loss at
    birth.

    Attributes:
        is_log: whether logarithms are taken.
        unit: of the others.
    """

    is_log: bool
    unit: float = 1.0

    @staticmethod
    def of(ends: Sequence[float], births: Sequence[float]) -> "Scale":
        """The scale for these finite losses."""
        if all(loss >= 0 for loss in (*ends, *births)):
            return Scale(True)
        return Scale(False, statistics.median(abs(loss) for loss in births) or 1.0)

    def score(self, loss: float) -> float:
        """The score of a loss."""
        return -math.log(max(loss, _LEAST)) if self.is_log else -loss / self.unit

    def loss(self, score: float) -> float:
        """The loss of a score."""
        return math.exp(-score) if self.is_log else -score * self.unit

    def mean(self, losses: Sequence[float]) -> tuple[float, float]:
        """Mean loss and its standard error; geometric where logarithms are taken.

        >>> mean, error = Scale(True).mean([1.0, 4.0])
        >>> round(mean, 12), round(error / mean, 3)
        (2.0, 0.693)
        """
        scores = [self.score(loss) for loss in losses]
        mean = self.loss(statistics.mean(scores))
        error = statistics.stdev(scores) / math.sqrt(len(scores)) if scores[1:] else math.nan
        return mean, error * (mean if self.is_log else self.unit)


def counted(
    at_end: torch.Tensor, at_birth: torch.Tensor, has_diverged: torch.Tensor, worst: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What draws count with: a draw that diverged counts as if it had not been trained.

    Args:
        at_end: test loss after training.
        at_birth: test loss before it.
        has_diverged: which draws diverged.
        worst: stands for a loss at birth that is not finite.

    Returns:
        Losses at the end and at birth, all finite.
    """
    births = torch.where(torch.isfinite(at_birth), at_birth, torch.full_like(at_birth, worst))
    is_lost = has_diverged | ~torch.isfinite(at_end)
    return torch.where(is_lost, births, at_end), births


def worst_of(*losses: torch.Tensor) -> float:
    """The largest finite loss, 1 where there is none."""
    finite = [loss[torch.isfinite(loss)] for loss in losses]
    return max((float(loss.max()) for loss in finite if len(loss)), default=1.0)


def have_trained(
    at_end: torch.Tensor,
    at_birth: torch.Tensor,
    has_diverged: torch.Tensor,
    constant: float,
    margin: float,
) -> torch.Tensor:
    """Which draws ended by a margin below their birth and below the best constant output.

    Args:
        at_end: test loss after training.
        at_birth: test loss before it.
        has_diverged: which draws diverged; they did not train.
        constant: loss of the best constant output, nan where there is none.
        margin: share of the lower of the two that must be gained.

    Returns:
        A bool for each draw.
    """
    births = torch.where(torch.isfinite(at_birth), at_birth, torch.full_like(at_birth, math.inf))
    # A loud start can fall a long way and still know nothing of the inputs.
    bar = births if math.isnan(constant) else births.clamp(max=constant)
    goal = torch.where(torch.isfinite(bar), bar - margin * bar.abs(), bar)
    return torch.isfinite(at_end) & (at_end < goal) & ~has_diverged
