"""Carrying out a rule on gradients: decide from their norms, then scale or cut."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from equipoise.errors import ArgumentError
from equipoise.training.clip_units import unit_factors
from equipoise.training.clipping import (
    ClipRule,
    GlobalNorm,
    Percentile,
    PerLayer,
    PerUnit,
    Value,
    ZScore,
)
from equipoise.training.gradient_norms import (
    is_sharded,
    local,
    settled,
    tensor_norms,
    total_norm,
)

# What torch adds to a norm before it divides by it.
_TINY = 1e-6
# What bounds by norms leave to rounding, and the least limit whose square is far from the smallest
# number in single precision.
_ROUNDED, _SAFE = 1e-3, 1e-15


@dataclass(frozen=True, eq=False)
class ClipMemory:
    """What ``Percentile`` and ``ZScore`` remember of the steps before.

    Attributes:
        values: ``Percentile``: the last norms, nan where there is none, shape (window,).
            ``ZScore``: mean, variance (the sum of squares about the mean in warm-up) and number
            of norms, shape (3,).
        steps: recorded so far.
    """

    values: torch.Tensor
    steps: int = 0


@dataclass(frozen=True, eq=False)
class Clipping:
    """What a rule says of some gradients. Tensors stay on the device.

    Attributes:
        norm: of all gradients together before clipping, no axes.
        limit: of the rule at this step, no axes; infinite in warm-up.
        is_clipped: whether anything is above the limit, no axes.
        factors: what each gradient is multiplied by; one for all of them, or empty where entries
            are cut.
        memory: what to hand to the next step; None for rules that remember nothing.
    """

    norm: torch.Tensor
    limit: torch.Tensor
    is_clipped: torch.Tensor
    factors: tuple[torch.Tensor, ...]
    memory: ClipMemory | None = None


def clip_gradients(
    gradients: Sequence[torch.Tensor],
    rule: ClipRule,
    parameters: Sequence[torch.Tensor] = (),
    layers: Sequence[str] = (),
    memory: ClipMemory | None = None,
) -> tuple[tuple[torch.Tensor, ...], Clipping]:
    """Clipped copies of gradients; nothing that is passed in changes.

    Args:
        gradients: of any shapes; dense, sparse or ``DTensor``.
        rule: what to clip by.
        parameters: whose gradients they are, in the same order; ``PerUnit`` needs them.
        layers: name of the layer of each, for ``PerLayer``; without, each is a layer by itself.
        memory: of the last call, for ``Percentile`` and ``ZScore``.

    Raises:
        ArgumentError: If ``parameters`` or ``layers`` do not match the gradients.

    >>> (g,), found = clip_gradients([torch.tensor([3.0, 4.0])], GlobalNorm(1.0))
    >>> [round(x, 4) for x in g.tolist()], found.norm.item(), found.is_clipped.item()
    ([0.6, 0.8], 5.0, True)
    """
    with torch.no_grad():
        final = [settled(g, p) for g, p in _paired(gradients, parameters)]
        found = decide(final, rule, parameters, layers, memory=memory)
        copies = tuple(g.clone() for g in final)
        carry_out(found, rule, copies)
    return copies, found


def clip_gradients_(
    parameters: Sequence[torch.Tensor],
    rule: ClipRule,
    layers: Sequence[str] = (),
    memory: ClipMemory | None = None,
) -> Clipping:
    """Clip the gradients of parameters in place, as ``torch.nn.utils.clip_grad_norm_`` does.

    Nothing waits for the device. Gradients of a model in shards count as a whole.

    Args:
        parameters: those without a gradient are passed over.
        rule: what to clip by.
        layers: name of the layer of each, for ``PerLayer``; without, each is a layer by itself.
        memory: of the last call, for ``Percentile`` and ``ZScore``.

    Raises:
        ArgumentError: If ``layers`` does not match the parameters.

    >>> p = torch.zeros(2, requires_grad=True)
    >>> p.grad = torch.tensor([3.0, -0.5])
    >>> clip_gradients_([p], Value(1.0)).is_clipped.item(), p.grad.tolist()
    (True, [1.0, -0.5])
    """
    _match("layers", layers, parameters)
    with torch.no_grad():
        names = [name for name, p in zip(layers, parameters, strict=False) if p.grad is not None]
        held = [p for p in parameters if p.grad is not None]
        gradients = [settle_(p) for p in held]
        found = decide(gradients, rule, held, names, memory=memory)
        carry_out(found, rule, gradients)
    return found


def settle_(parameter: torch.Tensor) -> torch.Tensor:
    """The gradient of a parameter, put in its place where it had to be summed or joined first."""
    gradient = parameter.grad
    assert gradient is not None
    final = settled(gradient, parameter)
    if final is not gradient:
        parameter.grad = final
    return final


def decide(
    gradients: Sequence[torch.Tensor],
    rule: ClipRule,
    parameters: Sequence[torch.Tensor] = (),
    layers: Sequence[str] = (),
    axes: Sequence[int] = (),
    norms: torch.Tensor | None = None,
    memory: ClipMemory | None = None,
    units: Sequence[torch.Tensor] = (),
) -> Clipping:
    """What a rule says of settled gradients, which stay as they are.

    Args:
        gradients: settled.
        rule: what to clip by.
        parameters: whose they are; ``PerUnit`` needs them.
        layers: name of the layer of each.
        axes: axis of the units of each, for ``PerUnit``; 0 for all where left out.
        norms: of the gradients, shape (gradients,), where they are known.
        memory: of the last call.
        units: norms of the units of each gradient, for ``PerUnit``, where they are known.
    """
    _match("layers", layers, gradients)
    norms = tensor_norms(gradients) if norms is None else norms
    norm = total_norm(norms)
    match rule:
        case GlobalNorm():
            return _scaled(norm, rule.limit)
        case Percentile():
            return _adapted(norm, *_percentile(rule, norm, memory))
        case ZScore():
            return _adapted(norm, *_zscore(rule, norm, memory))
    fixed = torch.full_like(norm, rule.limit)
    match rule:
        case PerLayer():
            places = {name: i for i, name in enumerate(dict.fromkeys(layers))}
            of = [places[name] for name in layers] or list(range(len(gradients)))
            index = torch.tensor(of, device=norms.device, dtype=torch.long)
            squares = norms.new_zeros(max(of, default=-1) + 1)
            each = squares.index_add_(0, index, norms.square()).sqrt()
            shares = (rule.limit / (each + _TINY)).clamp(max=1.0)[index]
            return Clipping(norm, fixed, (shares < 1.0).any(), tuple(shares))
        case Value():
            return Clipping(norm, fixed, _has_entry_above(rule.limit, gradients, norms), ())
        case PerUnit():
            _match("parameters", parameters, gradients, is_needed=True)
            factors, lowest = unit_factors(rule, gradients, parameters, axes, units)
            return Clipping(norm, fixed, lowest.to(norm.device) < 1.0, factors)


def carry_out(found: Clipping, rule: ClipRule, gradients: Sequence[torch.Tensor]) -> None:
    """Scale or cut settled gradients in place."""
    here = [local(g) for g in gradients]
    if not here:
        return
    if isinstance(rule, Value):
        real = [torch.view_as_real(g) if g.is_complex() else g for g in here]
        if all(g.device.type == "cpu" for g in real):
            # One pass each, where two for all of them would be the slower.
            for gradient in real:
                gradient.clamp_(-rule.limit, rule.limit)
            return
        torch._foreach_clamp_min_(real, -rule.limit)
        torch._foreach_clamp_max_(real, rule.limit)
    elif len(found.factors) == 1 and not found.factors[0].dim():
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for gradient in here:
            by_device.setdefault(gradient.device, []).append(gradient)
        for device, some in by_device.items():
            torch._foreach_mul_(some, found.factors[0].to(device))
    else:
        if found.norm.is_cpu and not any(factor.dim() for factor in found.factors):
            # Numbers on the host cost nothing to read, and what is multiplied by 1 is left alone.
            numbers = torch.stack(found.factors).tolist()
            cut = [(g, n) for g, n in zip(here, numbers, strict=True) if n != 1.0]
            if cut:
                torch._foreach_mul_([g for g, _ in cut], [n for _, n in cut])
            return
        factors = [f.to(g.device) for f, g in zip(found.factors, here, strict=True)]
        for device in dict.fromkeys(g.device for g in here):
            places = [i for i, g in enumerate(here) if g.device == device]
            torch._foreach_mul_([here[i] for i in places], [factors[i] for i in places])


def _scaled(norm: torch.Tensor, limit: float) -> Clipping:
    # The steps of torch.nn.utils.clip_grad_norm_, so that the bits are the same.
    factor = torch.clamp(limit / (norm + _TINY), max=1.0)
    return Clipping(norm, torch.full_like(norm, limit), factor < 1.0, (factor,))


def _adapted(norm: torch.Tensor, limit: torch.Tensor, memory: ClipMemory) -> Clipping:
    # A norm that is the percentile itself is not clipped.
    is_clipped = ~(norm <= limit)
    factor = torch.where(is_clipped, limit / (norm + _TINY), 1.0)
    return Clipping(norm, limit, is_clipped, (factor,), memory)


def _percentile(
    rule: Percentile, norm: torch.Tensor, memory: ClipMemory | None
) -> tuple[torch.Tensor, ClipMemory]:
    if memory is None:
        memory = ClipMemory(norm.new_full((rule.window,), math.nan))
    steps = memory.steps + 1
    values = memory.values.to(norm.device, copy=True)
    # A norm that is not finite takes its place in the window and counts for nothing.
    values[memory.steps % rule.window] = torch.where(norm.isfinite(), norm, math.nan)
    limit = torch.nanquantile(values[: min(steps, rule.window)], rule.percentile / 100)
    if steps <= rule.warmup:
        limit = torch.full_like(norm, math.inf)
    return limit, ClipMemory(values, steps)


def _zscore(
    rule: ZScore, norm: torch.Tensor, memory: ClipMemory | None
) -> tuple[torch.Tensor, ClipMemory]:
    if memory is None:
        memory = ClipMemory(norm.new_zeros(3))
    values = memory.values.to(norm.device)
    mean, variance, count = values.unbind()
    # In warm-up, Welford's mean and sum of squares.
    first = mean + (norm - mean) / (count + 1)
    squares = variance + (norm - mean) * (norm - first)
    is_last = count + 1 >= rule.warmup
    warm = torch.stack([first, torch.where(is_last, squares / (count + 1), squares), count + 1])
    deviation = variance.sqrt()
    z = (norm - mean) / (deviation + _TINY)
    is_warm = count >= rule.warmup
    is_out = is_warm & (z > rule.threshold)
    limit = torch.where(is_out, mean + deviation * rule.threshold**2 / z, math.inf)
    kept = torch.minimum(norm, limit)
    moved = rule.decay * mean + (1 - rule.decay) * kept
    spread = rule.decay * variance + (1 - rule.decay) * (kept - moved).square()
    running = torch.where(is_warm, torch.stack([moved, spread, count]), warm)
    return limit, ClipMemory(torch.where(norm.isfinite(), running, values), memory.steps + 1)


def _has_entry_above(
    limit: float, gradients: Sequence[torch.Tensor], norms: torch.Tensor
) -> torch.Tensor:
    """Whether the largest entry is above the limit, a tensor without axes."""
    parts = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
    doubtful = parts
    # Norms of such numbers neither overflow nor vanish on the way.
    if norms.is_cpu and limit > _SAFE and not any(is_sharded(g) for g in parts):
        known = norms.tolist()
        # The largest entry lies between the root mean square and the norm.
        bounds = [norm / math.sqrt(max(1, g.numel())) for norm, g in zip(known, parts, strict=True)]
        if math.isfinite(sum(known)):
            if max(bounds, default=0.0) > limit * (1 + _ROUNDED):
                return torch.ones_like(norms[:1], dtype=torch.bool).reshape(())
            doubtful = [
                g for norm, g in zip(known, parts, strict=True) if norm > limit * (1 - _ROUNDED)
            ]
    return total_norm(tensor_norms(doubtful, math.inf), math.inf) > limit


def _paired(
    gradients: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    _match("parameters", parameters, gradients)
    return [(g, parameters[i] if parameters else None) for i, g in enumerate(gradients)]


def _match(
    name: str,
    given: Sequence[object],
    gradients: Sequence[torch.Tensor],
    is_needed: bool = False,
) -> None:
    if len(given) != len(gradients) and (given or is_needed):
        raise ArgumentError(
            f"{name} must have one entry for each of {len(gradients)} gradients, got {len(given)}. "
            f"Pass them in the same order."
        )
