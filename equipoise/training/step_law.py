"""What an optimizer does to a quadratic: how sharp it may be for the steps to stay.

Near a point the loss is a quadratic with Hessian H, and a step x <- x - rate P^-1 m, with m a sum
of gradients in which older ones are worth less by a factor beta, is a linear recursion. Along an
eigenvector of P^-1 H of eigenvalue s it oscillates without growing exactly at

    rate s = reach,  where the root of the recursion that leaves the unit circle first is -1.

SGD with momentum beta and dampening tau: 2 (1 + beta) / (1 - tau); Nesterov: 2 (1 + beta) /
(1 + 2 beta); Adam, whose m is a mean: 2 (1 + beta1) / (1 - beta1), 38 for 0.9. A decay of weights
that is part of the gradient adds its strength w to H; one that shrinks the weights by 1 - rate w
adds reach w / 2 to P^-1 H.

Source: Cohen et al. 2021, arXiv 2103.00065; Cohen et al. 2022, arXiv 2207.14484.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from equipoise.errors import ArgumentError
from equipoise.training.one_step import group_shares


@dataclass(frozen=True, eq=False)
class StepLaw:
    """The quadratic that an optimizer sees, and how sharp it may be.

    The operator is ``root * H * root + added``, for one parameter after the other.

    Attributes:
        parameters: what is moved.
        root: square root of the rate of each weight over that of the first group, divided by what
            the optimizer divides by; a number, or a tensor of the parameter's shape.
        added: what decay adds on the diagonal, a number or a tensor.
        reach: rate times largest eigenvalue at the edge.
        name: of the optimizer.
        has_state: whether its second moments are its own, and not those of the batches given.
    """

    parameters: tuple[torch.Tensor, ...]
    root: tuple[torch.Tensor, ...]
    added: tuple[torch.Tensor, ...]
    reach: float
    name: str
    has_state: bool


def plain_law(parameters: Sequence[torch.Tensor]) -> StepLaw:
    """Gradient descent at one rate: the operator is H itself, and the edge at 2."""
    ones = tuple(torch.ones((), dtype=p.dtype, device=p.device) for p in parameters)
    zeros = tuple(torch.zeros_like(one) for one in ones)
    return StepLaw(tuple(parameters), ones, zeros, 2.0, "gradient descent", True)


def is_adaptive(optimizer: Any) -> bool:
    """Whether an optimizer divides by the root of second moments."""
    return isinstance(optimizer, torch.optim.Adam | torch.optim.RMSprop)


def law_of(
    optimizer: Any,
    parameters: Sequence[torch.Tensor],
    squares: Sequence[torch.Tensor] = (),
) -> StepLaw:
    """The law of an optimizer as it stands.

    Args:
        optimizer: SGD, Adam, AdamW or RMSprop of torch.optim.
        parameters: those of the model that are trained.
        squares: mean squared gradient of each over batches, for second moments that the optimizer
            does not have yet; needed for adaptive ones.

    Returns:
        The law, for those parameters that the optimizer moves.

    Raises:
        ArgumentError: for another optimizer, one that maximizes, or groups that differ in momentum.
    """
    name = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.SGD) and not is_adaptive(optimizer):
        raise ArgumentError(
            f"optimizer must be SGD, Adam, AdamW or RMSprop of torch.optim, got {name}: its "
            "edge of stability is not known. Leave it out for 2 / lambda_max, or call "
            "find_learning_rate."
        )
    if any(group["maximize"] for group in optimizer.param_groups):
        raise ArgumentError(
            "optimizer must minimize, got maximize=True. Change the sign of the loss instead."
        )
    reaches = {_reach(optimizer, group) for group in optimizer.param_groups}
    if len(reaches) > 1:
        raise ArgumentError(
            f"optimizer must have one momentum for all groups, got edges at {sorted(reaches)} over "
            "the sharpness. Ask for one group at a time, in an optimizer of its own."
        )
    (reach,) = reaches
    known = dict(zip(map(id, parameters), squares, strict=False))
    kept, roots, added, states = list[Any](), list[Any](), list[Any](), list[bool]()
    for group, share in zip(optimizer.param_groups, group_shares(optimizer), strict=True):
        for p in group["params"]:
            if not any(p is q for q in parameters) or share == 0.0:
                continue
            divisor, has_state = _divisor(optimizer, group, p, known)
            factor = share / divisor
            decay = float(group["weight_decay"])
            is_decoupled = bool(group.get("decoupled_weight_decay", False))
            kept.append(p)
            states.append(has_state)
            roots.append(factor.sqrt())
            added.append(decay * (share * reach / 2 if is_decoupled else factor))
    if not kept:
        raise ArgumentError(
            "optimizer must hold trained parameters of the model at a rate above 0, got none. Make "
            "it from model.parameters() of this very model."
        )
    added = [
        torch.as_tensor(a, dtype=p.dtype, device=p.device) for a, p in zip(added, kept, strict=True)
    ]
    return StepLaw(tuple(kept), tuple(roots), tuple(added), reach, name, all(states))


def _reach(optimizer: Any, group: Mapping[str, Any]) -> float:
    """Rate times sharpness at the edge."""
    if isinstance(optimizer, torch.optim.Adam):
        beta = float(group["betas"][0])
        return 2 * (1 + beta) / (1 - beta)
    beta = float(group["momentum"])
    if group.get("nesterov", False):
        return 2 * (1 + beta) / (1 + 2 * beta)
    return 2 * (1 + beta) / (1 - float(group.get("dampening", 0.0)))


def _divisor(
    optimizer: Any,
    group: Mapping[str, Any],
    p: torch.Tensor,
    squares: Mapping[int, torch.Tensor],
) -> tuple[torch.Tensor, bool]:
    """What the step of a parameter is divided by, and whether the optimizer itself knows it."""
    if not is_adaptive(optimizer):
        return torch.ones((), dtype=p.dtype, device=p.device), True
    state = optimizer.state.get(p, {})
    second = state.get("max_exp_avg_sq", state.get("exp_avg_sq", state.get("square_avg")))
    epsilon = float(group["eps"])
    if second is None:
        if id(p) not in squares:
            raise ArgumentError(
                f"optimizer must have taken a step where no gradients are given, got a fresh "
                f"{type(optimizer).__name__}. Take a step first."
            )
        return squares[id(p)].sqrt() + epsilon, False
    if isinstance(optimizer, torch.optim.Adam):
        # Both are means from 0, so early ones are short by these factors; Adam divides them out.
        steps = float(state["step"])
        second = second / (1 - group["betas"][1] ** steps)
        short = 1 - group["betas"][0] ** steps
        return short * (second.sqrt() + epsilon), True
    if group["centered"]:
        second = (second - state["grad_avg"].square()).clamp(min=0.0)
    return second.sqrt() + epsilon, True
