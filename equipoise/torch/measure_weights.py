"""Statistics of weights as they stand, for the law that they look like."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from equipoise.plan.nodes import Affine
from equipoise.plan.stacks import Stack
from equipoise.rules.weight_law import WeightFacts
from equipoise.torch.parametrized import effective
from equipoise.training.affine_watch import Seen

# Along the shorter axis as many vectors are looked at; a part of independent entries is
# independent, and a part of orthonormal vectors is orthonormal.
_MOST_VECTORS = 512


def weigh(model: nn.Module, stacks: Iterable[Stack]) -> dict[str, WeightFacts]:
    """Statistics of the weights between hidden layers, of all stacks that have two of these.

    Args:
        model: the model.
        stacks: its stacks.

    Returns:
        Facts by name of the weight.
    """
    with effective(model):
        parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for stack in stacks:
        for i in range(1, len(stack.hidden)):
            affine = stack.affines[i]
            before = parameters.get(stack.affines[i - 1].weight) if i > 0 else None
            weight = parameters.get(affine.weight)
            if weight is not None:
                bias = parameters.get(affine.bias)
                found[affine.weight] = _facts(affine, stack.affines[i - 1], weight, before, bias)
    return found


def _facts(
    affine: Affine,
    earlier: Affine,
    weight: torch.Tensor,
    before: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> WeightFacts:
    matrix = _matrix(affine, weight)
    rows, columns = matrix.shape
    taps = affine.convolution.taps
    bias_rms = 0.0 if bias is None else float(bias.detach().double().square().mean().sqrt())
    if not matrix.numel() or not bool(torch.isfinite(matrix).all()):
        nan = math.nan
        return WeightFacts(affine.weight, rows, columns, taps, nan, nan, nan, nan, nan, nan, nan,
                           bias_rms)  # fmt: skip
    power = float(matrix.square().mean())
    coupling, coupling_std = math.nan, math.nan
    is_dense = taps == 1 and before is not None and earlier.convolution.taps == 1
    if is_dense and before is not None and len(before) == columns and power > 0:
        coupling, coupling_std = _coupling(matrix, _matrix(earlier, before))
    return WeightFacts(
        weight=affine.weight,
        rows=rows,
        columns=columns,
        taps=taps,
        mean=float(matrix.mean()),
        std=math.sqrt(power),
        kurtosis=float(matrix.pow(4).mean()) / power**2 - 3 if power > 0 else 0.0,
        evenness=_evenness(matrix) if power > 0 else math.nan,
        nearest=_nearest(matrix) if power > 0 else 0.0,
        coupling=coupling,
        coupling_std=coupling_std,
        bias_rms=bias_rms,
        centring=0.0 if bias is None else _centring(matrix, bias),
    )


def _centring(matrix: torch.Tensor, bias: torch.Tensor) -> float:
    """Absolute cosine of a bias with the row sums of its weight; 0 where either is 0."""
    sums, values = matrix.sum(dim=1), bias.detach().double().cpu()
    lengths = float(sums.norm() * values.norm())
    return abs(float(sums @ values)) / lengths if lengths > 0 and math.isfinite(lengths) else 0.0


def _matrix(affine: Affine, weight: torch.Tensor) -> torch.Tensor:
    """A weight as (out, in * taps), float64."""
    seen = Seen(affine.weight, weight, None, 0, affine.convolution.groups,
                affine.convolution.is_transposed)  # fmt: skip
    return seen.by_unit(weight.detach().double().cpu())


def _some(count: int) -> torch.Tensor:
    """Numbers below ``count``, all or a fixed random choice."""
    if count <= _MOST_VECTORS:
        return torch.arange(count, device="cpu")
    chosen = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=chosen, device="cpu")[:_MOST_VECTORS].sort().values


def _evenness(matrix: torch.Tensor) -> float:
    """Mean fourth power of the singular values over the square of their mean square.

    Where only a part of the shorter axis is looked at, the value is carried over to the whole: for
    independent entries its excess over 1 is proportional to the number of vectors.
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    part = short[_some(len(short))]
    gram = part @ part.T
    evenness = len(part) * float(gram.square().sum()) / float(gram.trace()) ** 2
    return 1 + (evenness - 1) * (len(short) / len(part))


def _nearest(matrix: torch.Tensor) -> float:
    """Largest absolute cosine between two of at most 512 rows."""
    rows = matrix[_some(len(matrix))]
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)
    gram = (rows @ rows.T).abs()
    gram.fill_diagonal_(0.0)
    return float(gram.max())


def _coupling(after: torch.Tensor, before: torch.Tensor) -> tuple[float, float]:
    """How much more two weights pass on together than chance gives, and its spread by chance."""
    units = after.shape[1]
    chosen = torch.randn(
        before.shape[1], min(_MOST_VECTORS, before.shape[1]),
        generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu",
    )  # fmt: skip
    is_small = before.shape[1] <= _MOST_VECTORS
    sent = before if is_small else before @ chosen
    power = float(sent.square().sum()) * float(after.square().sum())
    if power == 0.0:
        return math.nan, math.nan
    found = units * float((after @ sent).square().sum()) / power
    spreads = [
        max(0.0, units * _fourth(m) / float(m.square().sum()) ** 2 - 1) for m in (after.T, sent)
    ]
    return found, math.sqrt(2 * spreads[0] * spreads[1]) / units


def _fourth(matrix: torch.Tensor) -> float:
    """Sum of the fourth powers of the singular values."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return float((short @ short.T).square().sum())
