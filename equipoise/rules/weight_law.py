"""What a weight looks like as it stands: independent entries, orthogonal, or neither and why."""

import math
from dataclasses import dataclass
from typing import Literal

LawKind = Literal["gaussian", "haar", ""]

# Deviations from what independent entries give, in standard deviations; together with the number of
# tests made on a deep net, chance hardly ever exceeds this.
_DEVIATIONS = 6.0
_ALIKE = 1e-4
_REPEATS, _LEAST_LENGTH = 0.98, 8
_HEAVY, _LEAST_ENTRIES = 3.0, 64
_SLACK = 0.02
# Of so many random numbers hardly any are so parallel to others.
_CENTRING, _LEAST_ROWS = 0.99, 4


@dataclass(frozen=True)
class WeightFacts:
    """Statistics of one weight as a matrix (out, in * taps).

    Attributes:
        weight: its name.
        rows, columns: of the matrix.
        taps: of the kernel; 1 for a linear layer.
        mean, std: of the entries, ``std`` about 0.
        kurtosis: E w^4 / (E w^2)^2 - 3.
        evenness: mean of the fourth powers of the singular values over their mean square squared; 1
            where all are alike, (rows + columns + 1) / max(rows, columns) for independent ones.
        nearest: largest absolute cosine between two rows.
        coupling: |W V|^2 n / (|W|^2 |V|^2) with the weight V before it and the n units between
            them; 1 on average where either is turned at random, nan without such a weight.
        coupling_std: standard deviation of that over random turns.
        bias_rms: RMS of the bias, 0 without one.
        centring: absolute cosine of the bias with the row sums of W: 1 where the bias takes away
            what inputs that rest at one value add, as centred units ask for.
    """

    weight: str
    rows: int
    columns: int
    taps: int
    mean: float
    std: float
    kurtosis: float
    evenness: float
    nearest: float
    coupling: float
    coupling_std: float
    bias_rms: float
    centring: float = 0.0

    @property
    def gain(self) -> float:
        """The singular value, if all are alike."""
        return self.std * math.sqrt(max(self.rows, self.columns))


def law_of(facts: WeightFacts) -> tuple[LawKind, str]:
    """Which law the entries look like: independent (``gaussian``), orthogonal (``haar``) or none.

    Independent entries of any shape of density serve the theory alike to first order in 1 / width,
    so uniform ones count as well. Tests: mean against 0, singular values, rows that repeat, heavy
    tails, and whether the weight knows of the one before it, or the bias of the weight.

    Args:
        facts: of the weight.

    Returns:
        The law, and the reason where there is none ('' else).

    >>> one = WeightFacts("w", 64, 64, 1, 0.0, 0.1, 0.0, 2.0, 0.4, 1.0, 0.02, 0.0)
    >>> law_of(one)
    ('gaussian', '')
    """
    name, entries = repr(facts.weight), facts.rows * facts.columns
    most, least = max(facts.rows, facts.columns), min(facts.rows, facts.columns)
    if not entries:
        return "", f"{name} has no entries"
    if not math.isfinite(facts.std):
        return "", f"{name} holds numbers that are not finite"
    if facts.std == 0.0:
        return "", f"{name} is 0"
    if entries >= _LEAST_ENTRIES and facts.kurtosis > _HEAVY:
        return "", (
            f"a few entries of {name} carry most of it (excess kurtosis {facts.kurtosis:.1f}), "
            "as in an identity, a sparse or a heavy-tailed weight"
        )
    if abs(facts.coupling - 1) > _DEVIATIONS * facts.coupling_std + _SLACK:
        return "", (
            f"{name} is aligned with the weight before it ({facts.coupling:.2f} times what chance "
            "gives): they were drawn together, as in coupled schemes, or have learned of each other"
        )
    if facts.rows >= _LEAST_ROWS and facts.centring > _CENTRING:
        return "", f"the bias beside {name} centres what enters: the two were drawn together"
    if least > 1 and facts.evenness < 1 + _ALIKE:
        return "haar", ""
    if abs(facts.mean) * math.sqrt(entries) > _DEVIATIONS * facts.std:
        return "", f"the entries of {name} have mean {facts.mean:.2g} and not 0"
    if facts.columns >= _LEAST_LENGTH and facts.nearest > _REPEATS:
        return "", f"rows of {name} repeat each other"
    independent = (facts.rows + facts.columns + 1 + facts.kurtosis) / most
    # Over draws the spread of the evenness is 2 / max(rows, columns).
    if abs(facts.evenness - independent) > 2 * _DEVIATIONS / most + _SLACK:
        return "", (
            f"the singular values of {name} are not those of independent entries (evenness "
            f"{facts.evenness:.2f}, independent {independent:.2f}, orthogonal 1)"
        )
    return "gaussian", ""
