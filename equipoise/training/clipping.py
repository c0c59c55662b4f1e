"""Rules that bound gradients, as data; ``clip_gradients`` carries them out.

Which rule for which trouble is measured by ``benchmarks/clipping.py``.
"""

from dataclasses import dataclass

from equipoise import _checks


@dataclass(frozen=True)
class GlobalNorm:
    """All gradients together, scaled to a norm of at most ``limit``.

    The same numbers as ``torch.nn.utils.clip_grad_norm_``: each gradient is multiplied by
    min(1, limit / (norm + 1e-6)).

    Source: Pascanu et al. 2013, arXiv 1211.5063.

    Attributes:
        limit: largest norm, above 0.

    >>> GlobalNorm(1.0)
    GlobalNorm(limit=1.0)
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        _checks.positive("limit", self.limit)


@dataclass(frozen=True)
class Value:
    """Every entry cut to between ``-limit`` and ``limit``, as ``clip_grad_value_``.

    It turns the gradient to another direction.

    Attributes:
        limit: largest entry, above 0.

    >>> Value(0.5)
    Value(limit=0.5)
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        _checks.positive("limit", self.limit)


@dataclass(frozen=True)
class PerLayer:
    """The gradient of each layer by itself, scaled to a norm of at most ``limit``.

    A layer is the parameters of one module, a weight and its bias. One bad layer does not take
    the step of the others, as it does with ``GlobalNorm``.

    Attributes:
        limit: largest norm of one layer, above 0.

    >>> PerLayer()
    PerLayer(limit=1.0)
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        _checks.positive("limit", self.limit)


@dataclass(frozen=True)
class PerUnit:
    """Adaptive gradient clipping: the gradient of each unit against the weights of that unit.

    The gradient of a unit with weights W is scaled to a norm of at most limit * max(norm of W,
    floor). A unit is a row of a matrix or a filter of a convolution; a bias is one unit. The
    authors leave out the last layer: exclude it.

    Source: Brock et al. 2021, arXiv 2102.06171.

    Attributes:
        limit: largest ratio of gradient to weight, above 0; the paper has 0.01 for batches
            of 4,096; smaller batches bear larger ones.
        floor: norm below which a weight counts as that, so that weights at 0 can move.

    >>> PerUnit(0.02)
    PerUnit(limit=0.02, floor=0.001)
    """

    limit: float = 0.01
    floor: float = 1e-3

    def __post_init__(self) -> None:
        _checks.positive("limit", self.limit)
        _checks.positive("floor", self.floor)


@dataclass(frozen=True)
class Percentile:
    """AutoClip: all gradients together, to a percentile of the norms seen so far.

    The norm of this step is among them. The paper keeps every norm; here the last ``window``,
    so that memory stays bounded and old norms are forgotten.

    Source: Seetharaman et al. 2020, arXiv 2007.14469.

    Attributes:
        percentile: above 0 to 100; the paper's 10 clips nine steps of ten.
        window: norms that are kept, at least 1.
        warmup: steps at the start that are recorded and not clipped.

    >>> Percentile(50.0, warmup=10)
    Percentile(percentile=50.0, window=1000, warmup=10)
    """

    percentile: float = 10.0
    window: int = 1_000
    warmup: int = 0

    def __post_init__(self) -> None:
        _checks.positive("percentile", self.percentile)
        _checks.in_unit_interval(
            "percentile / 100", self.percentile / 100, "Pass a percentile up to 100."
        )
        _checks.at_least("window", self.window, 1)
        _checks.at_least("warmup", self.warmup, 0)


@dataclass(frozen=True)
class ZScore:
    """All gradients together, where their norm is an outlier among those before it.

    With running mean m and standard deviation s of the norm, z = (norm - m) / s. Above
    ``threshold`` t the norm is cut to m + s t^2 / z: the farther out, the closer to the mean. What
    is left of it enters mean and deviation, so that a spike does not raise the bar for the next.

    Source: Kumar et al. 2025 (ZClip), arXiv 2504.02507.

    Attributes:
        threshold: standard deviations, above 0.
        decay: of mean and variance, 0 to below 1.
        warmup: steps at the start whose plain mean and variance start the running ones; they are
            not clipped. At least 2.

    >>> ZScore()
    ZScore(threshold=2.5, decay=0.97, warmup=25)
    """

    threshold: float = 2.5
    decay: float = 0.97
    warmup: int = 25

    def __post_init__(self) -> None:
        _checks.positive("threshold", self.threshold)
        _checks.in_unit_interval("decay", self.decay)
        _checks.at_least("warmup", self.warmup, 2)


ClipRule = GlobalNorm | Value | PerLayer | PerUnit | Percentile | ZScore
