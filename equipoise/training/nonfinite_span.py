"""The range of a tensor: what is finite in it, what is not, and how much room its dtype leaves."""

import math
from dataclasses import dataclass

import torch

FLOATS = frozenset(
    dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)
)
# Those that reductions are written for.
REDUCED = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_PLAIN = (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Span:
    """Range of a tensor.

    Attributes:
        shape: of the tensor.
        dtype: such as ``float16``.
        minimum, maximum: of the finite entries, nan where there are none.
        absmin: smallest absolute value of the finite entries; nan where it was not looked for.
        nan, positive, negative: share of the entries that are nan, infinity and minus infinity;
            nan where the values were gone before they could be counted.
        largest: largest finite number of the dtype.
        rows: first rows (indices along axis 0) with an entry that is not finite.
    """

    shape: tuple[int, ...]
    dtype: str
    minimum: float
    maximum: float
    absmin: float
    nan: float
    positive: float
    negative: float
    largest: float
    rows: tuple[int, ...] = ()

    @property
    def absmax(self) -> float:
        """Largest absolute value of the finite entries, nan where there are none."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def non_finite(self) -> float:
        """Share of the entries that are not finite, 0 to 1."""
        return self.nan + self.positive + self.negative

    @property
    def headroom(self) -> float:
        """log2 of the largest number of the dtype over ``absmax``: doublings until it overflows."""
        if math.isnan(self.absmax) or self.absmax == 0.0:
            return math.nan if math.isnan(self.absmax) else math.inf
        return math.log2(self.largest) - math.log2(self.absmax)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        if math.isnan(self.absmax):
            held = "no finite entry"
        else:
            room = "" if math.isinf(self.headroom) else f", head-room 2^{self.headroom:.1f}"
            low, high = f"{self.minimum:.4g}", f"{self.maximum:.4g}"
            held = f"{low} to {high}, absmax {self.absmax:.4g}{room}"
        if math.isnan(self.non_finite):
            return f"{self.dtype} {shape}, not all of it finite (overwritten since)"
        bad = ", ".join(
            f"{word} {share:.3g}"
            for word, share in (("nan", self.nan), ("inf", self.positive), ("-inf", self.negative))
            if share > 0
        )
        return f"{self.dtype} {shape}, {held}" + (f", share {bad}" if bad else ", all finite")


@dataclass(frozen=True)
class Kind:
    """Which numbers that are not finite a tensor holds; nan hides the others."""

    nan: bool
    positive: bool
    negative: bool

    def __bool__(self) -> bool:
        return self.nan or self.positive or self.negative


FINITE = Kind(False, False, False)


def values_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """The real numbers of a tensor in a dtype that can be reduced, or None where there are none.

    Sparse tensors give what they store, distributed ones the shard that lies here.
    """
    if tensor.dtype not in FLOATS or tensor.is_meta or tensor.is_nested:
        return None
    if tensor.layout is not torch.strided:
        tensor = tensor._values() if tensor.is_sparse else tensor.values()
    if type(tensor) not in _PLAIN and hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if tensor.numel() == 0:
        return None
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor if tensor.dtype in REDUCED else tensor.float()


def ends(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Minimum and maximum as tensors that nobody has waited for, or None without numbers."""
    values = values_of(tensor)
    if values is None:
        return None
    low, high = torch.aminmax(values)
    return low, high


def kind_of(low: float, high: float) -> Kind:
    """What is not finite in a tensor with these ends.

    >>> kind_of(-math.inf, 1.0)
    Kind(nan=False, positive=False, negative=True)
    """
    if math.isnan(low) or math.isnan(high):
        return Kind(True, False, False)
    return Kind(False, high == math.inf, low == -math.inf)


def kind_in(tensor: torch.Tensor) -> Kind:
    """What is not finite in a tensor."""
    found = ends(tensor)
    return FINITE if found is None else kind_of(found[0].item(), found[1].item())


def span_of(tensor: torch.Tensor, rows: bool = False) -> Span:
    """Range of a tensor.

    Args:
        tensor: any floating-point tensor; a complex one counts its parts.
        rows: whether to tell which rows are not finite.
    """
    values = values_of(tensor)
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    largest = torch.finfo(tensor.dtype).max if tensor.dtype in FLOATS else math.nan
    if values is None:
        return Span(shape, dtype, math.nan, math.nan, math.nan, 0.0, 0.0, 0.0, largest)
    is_finite = torch.isfinite(values)
    count = values.numel()
    kept = values[is_finite]
    low = high = least = math.nan
    if kept.numel():
        low, high = kept.min().item(), kept.max().item()
        least = kept.abs().min().item()
    nan, positive, negative = (
        float(mask.sum().item()) / count
        for mask in (torch.isnan(values), torch.isposinf(values), torch.isneginf(values))
    )
    bad = tuple[int, ...]()
    if rows and values.dim() > 0:
        by_row = (~is_finite).reshape(len(values), -1).any(1)
        bad = tuple(by_row.nonzero().flatten()[:8].tolist())
    return Span(shape, dtype, low, high, least, nan, positive, negative, largest, bad)


def span_between(tensor: torch.Tensor, low: float, high: float) -> Span:
    """Range of what a tensor held before it was overwritten, from its ends alone."""
    kind = kind_of(low, high)
    share = math.nan if kind else 0.0
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    return Span(
        shape, dtype, low if math.isfinite(low) else math.nan,
        high if math.isfinite(high) else math.nan, math.nan, share, share, share,
        torch.finfo(tensor.dtype).max,
    )  # fmt: skip
