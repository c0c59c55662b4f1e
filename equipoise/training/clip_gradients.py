"""Carrying out a rule on gradients: decide from their norms, then scale or cut."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from equipoise.errors import ArgumentError
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
    unit_norms,
)

# What torch adds to a norm before it divides by it.
_TINY = 1e-6


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
            factors = (rule.limit / (each + _TINY)).clamp(max=1.0)[index]
            return Clipping(norm, fixed, (factors < 1.0).any(), tuple(factors))
        case Value():
            parts = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
            largest = total_norm(tensor_norms(parts, math.inf), math.inf)
            return Clipping(norm, fixed, largest > rule.limit, ())
        case PerUnit():
            _match("parameters", parameters, gradients, is_needed=True)
            ratios = _unit_factors(rule, gradients, parameters, axes or [0] * len(gradients))
            return Clipping(norm, fixed, _any_below_one(ratios, gradients, norm), tuple(ratios))


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
        for gradient, factor in zip(here, found.factors, strict=True):
            gradient.mul_(factor.to(gradient.device))


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


def _unit_factors(
    rule: PerUnit,
    gradients: Sequence[torch.Tensor],
    parameters: Sequence[torch.Tensor],
    axes: Sequence[int],
) -> list[torch.Tensor]:
    factors = []
    for gradient, parameter, axis in zip(gradients, parameters, axes, strict=True):
        if gradient.is_sparse:
            raise ArgumentError(
                f"gradients must be dense for PerUnit, got a sparse one of shape "
                f"{tuple(gradient.shape)}. Exclude its parameter, or pass sparse=False to the "
                f"embedding."
            )
        weight = unit_norms(parameter.detach(), axis).clamp(min=rule.floor)
        factors.append((rule.limit * weight / unit_norms(gradient, axis)).clamp(max=1.0))
    return factors


def _any_below_one(
    factors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], norm: torch.Tensor
) -> torch.Tensor:
    if not factors:
        return torch.zeros_like(norm, dtype=torch.bool)
    # An empty shard has no smallest factor.
    least = [f.amin().to(norm) for f in factors if f.numel()]
    lowest = torch.stack(least).amin() if least else torch.ones_like(norm)
    meshes = dict.fromkeys(g.device_mesh for g in gradients if is_sharded(g))
    for mesh in meshes:
        for axis in range(mesh.ndim):
            dist.all_reduce(lowest, dist.ReduceOp.MIN, group=mesh.get_group(axis))
    return lowest < 1.0


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
