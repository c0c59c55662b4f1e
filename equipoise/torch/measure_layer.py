"""The numbers of one affine layer: its output, the gradient there, and its weight."""

import math
from functools import lru_cache

import numpy as np
import torch

from equipoise.measurement import MOST_COUNTED, LayerMeasurement
from equipoise.theory.activations import Activation
from equipoise.torch.inputs import batch_rms
from equipoise.training.affine_watch import Seen

# What shares, cosines and ranks are read from: inputs, and entries of all their units and sites.
_MOST_INPUTS, _MOST_ENTRIES, _LEAST_INPUTS = 512, 4_000_000, 16
# Rows and units of the covariance whose eigenvalues are the rank.
_MOST_ROWS, _MOST_UNITS = 512, 512
_LEAST_DIRECTION = 1e-3
# The cosine of scalars is 1 or -1, of pairs not much else.
_LEAST_UNITS = 4
_SAME = 1e-5


def layer_measurement(
    layer: str,
    seen: Seen,
    weight: torch.Tensor,
    gradient: torch.Tensor | None,
    weight_gradient: torch.Tensor | None,
    activation: Activation,
) -> LayerMeasurement:
    """What is to be said of one call of a layer.

    Args:
        layer: its name.
        seen: the call.
        weight: its weight.
        gradient: at the output, of the output's shape; None where none arrives.
        weight_gradient: at the weight, of the weight's shape; None where none arrives.
        activation: what follows.

    Returns:
        The measurement; nan where an output is empty or not finite.
    """
    values = seen.values(seen.output)
    _, sites, units = values.shape
    nan = math.nan
    if values.numel() == 0:
        return LayerMeasurement(
            layer, seen.weight, units, nan, nan, nan, nan, 0.0, 0.0, entries=weight.numel(),
            distinct_inputs=0,
        )  # fmt: skip
    bad = int((~torch.isfinite(values)).sum())
    part = _part(values)
    saturation, dead = _shares(values, part, activation)
    rank, directions, most = _rank(part) if not bad else (nan, 0, 0)
    signal = batch_rms(values)
    bias_power = 0.0 if seen.bias is None else batch_rms(seen.bias) ** 2
    return LayerMeasurement(
        layer,
        seen.weight,
        units,
        signal,
        nan if gradient is None else batch_rms(gradient),
        nan if weight_gradient is None else float(weight_gradient.double().norm()),
        cosine(part.reshape(len(part), -1), _LEAST_UNITS),
        saturation,
        dead,
        mean=float(values.double().mean()),
        log_signal=_log_rms(values),
        log_gradient=nan if gradient is None else _log_rms(seen.values(gradient)),
        rank=rank,
        directions=directions,
        most_directions=most,
        weight_norm=float(weight.detach().double().norm()),
        bias_share=bias_power / signal**2 if signal > 0 else 0.0,
        input_share=input_share(part.reshape(len(part), -1)),
        twins=_twins(seen, weight, weight_gradient),
        non_finite=bad,
        sites=sites,
        entries=weight.numel(),
        distinct_inputs=_distinct(values),
    )


def by_input(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as float64 with one row for each input, (inputs, all else)."""
    values = tensor.double()
    return values.flatten(1) if values.dim() > 1 else values.reshape(-1, 1)


def cosine(rows: torch.Tensor, least_units: int = 1) -> float:
    """Mean cosine over pairs of different rows; nan for fewer units than say anything."""
    n = len(rows)
    if n < 2 or rows.shape[1] < least_units:
        return math.nan
    rows = rows.double()
    norms = rows.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        return math.nan
    total = float((rows / norms).sum(0).square().sum())
    return (total - n) / (n * (n - 1))


def input_share(rows: torch.Tensor) -> float:
    """Share of the mean square that differs between rows: their variance over their mean square."""
    rows = rows.double()
    power = float(rows.square().mean())
    if len(rows) < 2 or not 0 < power < math.inf:
        return math.nan
    return min(1.0, float(rows.var(dim=0).mean()) / power)


def _distinct(values: torch.Tensor) -> int:
    """Number of different inputs, counted up to where it decides nothing."""
    found: set[bytes] = set()
    for start in range(0, len(values), MOST_COUNTED):
        rows = values[start : start + MOST_COUNTED].double().cpu().numpy()
        found.update(row.tobytes() for row in rows)
        if len(found) >= MOST_COUNTED:
            return MOST_COUNTED
    return len(found)


def _part(values: torch.Tensor) -> torch.Tensor:
    """Evenly spaced inputs, float64: as many as shares, cosines and ranks are read from."""
    inputs, sites, units = values.shape
    most = min(_MOST_INPUTS, max(_LEAST_INPUTS, _MOST_ENTRIES // (sites * units)))
    if inputs > most:
        chosen = torch.linspace(0, inputs - 1, most, device="cpu").long()
        values = values[chosen.to(values.device)]
    return values.double()


def _log_rms(values: torch.Tensor) -> float:
    """Mean over inputs of the log of one input's RMS; nan if none is finite and not 0."""
    rms = values.double().square().mean(dim=(1, 2)).sqrt()
    rms = rms[torch.isfinite(rms) & (rms > 0)]
    return float(rms.log().mean()) if len(rms) else math.nan


def _shares(
    values: torch.Tensor, part: torch.Tensor, activation: Activation
) -> tuple[float, float]:
    """Share of entries where f is flat, and of units that are 0 throughout."""
    units = part.shape[-1]
    z = part.reshape(-1, units).cpu().numpy()
    with torch.no_grad(), np.errstate(all="ignore"):
        still = abs(activation.f(z)).max(axis=0) == 0
        if still.any() and part.shape[0] < values.shape[0]:
            # What is 0 on a part may be alive on the rest.
            suspects = torch.from_numpy(np.flatnonzero(still)).to(values.device)
            rest = values[..., suspects].double().reshape(-1, len(suspects)).cpu().numpy()
            still[still] = abs(activation.f(rest)).max(axis=0) == 0
        # A kinked unit is flat on half its inputs by design: only bounded functions saturate.
        steepest = _steepest_if_bounded(activation)
        flat = float((abs(activation.df(z)) < 0.01 * steepest).mean()) if steepest else 0.0
    return flat, float(still.mean())


@lru_cache
def _steepest_if_bounded(activation: Activation) -> float:
    """Largest |f'| of a bounded activation; 0 for an unbounded one, or one flat on a side of 0."""
    if 0.0 in (activation.slope_left, activation.slope_right):
        return 0.0
    far = float(abs(activation.f(np.array([-1e4, 1e4]))).max())
    return float(abs(activation.df(np.linspace(-6, 6, 2001))).max()) if far < 1e3 else 0.0


def _rank(part: torch.Tensor) -> tuple[float, int, int]:
    """Participation ratio, directions above 1e-3 of the largest, and what bounds both.

    Rows are inputs and sites; a fixed random choice of 512 of them and of 512 units stands for all.
    """
    rows = part.reshape(-1, part.shape[-1])
    chosen = torch.Generator().manual_seed(0)
    for axis, most in ((0, _MOST_ROWS), (1, _MOST_UNITS)):
        if rows.shape[axis] > most:
            picked = torch.randperm(rows.shape[axis], generator=chosen, device="cpu")[:most]
            rows = rows.index_select(axis, picked.sort().values.to(rows.device))
    count, units = rows.shape
    most = min(count - 1, units)
    if most < 1:
        return math.nan, 0, 0
    centred = rows - rows.mean(dim=0)
    scale = float(centred.abs().max())
    if scale == 0.0:
        return 0.0, 0, most
    centred = centred / scale
    # The smaller of the two Gram matrices has the same non-zero spectrum.
    gram = centred.T @ centred if units <= count else centred @ centred.T
    power = torch.linalg.eigvalsh(gram).clamp(min=0.0)
    rank = float(power.sum()) ** 2 / float(power.square().sum())
    return rank, int((power > _LEAST_DIRECTION**2 * power.max()).sum()), most


def _twins(seen: Seen, weight: torch.Tensor, gradient: torch.Tensor | None) -> float:
    """Share of units that are the same as an earlier one in weights, bias and gradient.

    Equal weights alone would part at the first step if what reads the units differs; equal
    gradients say that they never do.
    """
    rows = seen.by_unit(weight.detach())
    count = len(rows)
    if count < 2 or gradient is None or not weight.numel():
        return 0.0
    # Groups of a convolution read different channels.
    marks = [torch.arange(count, device=rows.device)[:, None] * seen.groups // count]
    if seen.bias is not None:
        marks.append(seen.bias.detach().reshape(count, -1))
    key = torch.cat([m.to(rows.dtype) for m in marks] + [rows[:, :8]], dim=1)
    if len(torch.unique(key, dim=0)) == count:
        return 0.0
    key = torch.cat([key, rows[:, 8:]], dim=1)
    groups, place = torch.unique(key, dim=0, return_inverse=True)
    first = torch.full((len(groups),), count, device=rows.device)
    numbers = torch.arange(count, device=rows.device)
    first.scatter_reduce_(0, place, numbers, "amin")
    slopes = seen.by_unit(gradient)
    apart = (slopes - slopes[first[place]]).abs().amax(dim=1)
    same = apart <= _SAME * slopes.abs().amax()
    return float((same & (first[place] != numbers)).double().mean())
