"""Derivatives of networks with respect to their inputs, carried forward layer by layer.

A jet is the value of a function with the partial derivatives that are wanted. A linear layer maps
each of them by its weight; a function of single numbers mixes them by the chain rule (Faa di
Bruno), with derivatives in closed form. One pass gives all of them, and the way back to the
parameters is one ordinary backward pass, not one through nested graphs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from equipoise.errors import ArgumentError
from equipoise.lab.equation_models import FourierFeatures, Rescaled, Sloped
from equipoise.lab.jet_rule import Orders, Rule, chain_rule
from equipoise.lab.jet_slopes import COSINE, SINE, Smooth, smooth_or_refuse
from equipoise.lab.models import Residual, Scaled


def jets(
    network: nn.Module,
    inputs: torch.Tensor,
    wanted: Sequence[Orders],
    directions: torch.Tensor | None = None,
) -> dict[Orders, torch.Tensor]:
    """The outputs of a network and their partial derivatives, with a graph to its parameters.

    A derivative is told by its order along each direction: (1, 0) is u_x of u(x, t), (2, 0) is
    u_xx, (1, 1) is u_xt. Those that it is made of are computed and returned as well.

    Args:
        network: dense: Linear, smooth activations, ``Scaled``, ``Sloped``, ``Rescaled``,
            ``FourierFeatures``, ``Residual`` and Sequential of them.
        inputs: shape (rows, features). No gradient goes back to them.
        wanted: orders along each direction, of 8 in all at most.
        directions: shape (count, features); left out, the coordinate axes.

    Returns:
        By orders, shape (rows, outputs); all zeros stand for the value.

    Raises:
        ArgumentError: for shapes or orders that do not fit, or a layer that is not served.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> found = jets(net, torch.zeros(5, 2), [(2, 0), (0, 1)])
    >>> sorted(found), found[2, 0].shape
    ([(0, 0), (0, 1), (1, 0), (2, 0)], torch.Size([5, 1]))
    """
    if inputs.ndim != 2:
        raise ArgumentError(
            f"inputs must have shape (rows, features), got {tuple(inputs.shape)}. "
            "Make each point a row."
        )
    found = _carried(network, {}, inputs[None], wanted, directions)
    return {orders: value[0] for orders, value in found.items()}


def jets_together(
    network: nn.Module,
    parameters: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    wanted: Sequence[Orders],
) -> dict[Orders, torch.Tensor]:
    """``jets`` of several networks of one form in one pass, each on points of its own.

    Args:
        network: their form; its own parameters are read where ``parameters`` has none.
        parameters: by the names of ``network.named_parameters()``, stacked: shape (count, ...).
        inputs: shape (count, rows, features).
        wanted: orders along the coordinate axes.

    Returns:
        By orders, shape (count, rows, outputs).

    Raises:
        ArgumentError: as ``jets``.

    >>> net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> stacked = {name: torch.stack([p, 2 * p]) for name, p in net.named_parameters()}
    >>> jets_together(net, stacked, torch.zeros(2, 5, 1), [(1,)])[(1,)].shape
    torch.Size([2, 5, 1])
    """
    if inputs.ndim != 3:
        raise ArgumentError(
            f"inputs must have shape (count, rows, features), got {tuple(inputs.shape)}. "
            "Stack the points of each network."
        )
    own = {id(p): parameters[n] for n, p in network.named_parameters() if n in parameters}
    return _carried(network, own, inputs, wanted, None)


def _carried(
    network: nn.Module,
    own: Mapping[int, torch.Tensor],
    inputs: torch.Tensor,
    wanted: Sequence[Orders],
    directions: torch.Tensor | None,
) -> dict[Orders, torch.Tensor]:
    features = inputs.shape[-1]
    if directions is None:
        directions = torch.eye(features, dtype=inputs.dtype, device=inputs.device)
    if directions.ndim != 2 or directions.shape[1] != features:
        raise ArgumentError(
            f"directions must have shape (count, {features}), one row for each, got "
            f"{tuple(directions.shape)}. Make each direction a row."
        )
    rule = chain_rule(tuple(tuple(orders) for orders in wanted), len(directions))
    count, rows, _ = inputs.shape
    h = inputs.new_zeros((len(rule.places), count, features, rows))
    h[0] = inputs.transpose(1, 2)
    for orders, place in rule.places.items():
        if sum(orders) == 1:
            h[place] = directions[orders.index(1)][:, None]
    h = _Carrier(rule, own).through(network, h)
    return {orders: h[place].transpose(1, 2) for orders, place in rule.places.items()}


@dataclass(frozen=True)
class _Carrier:
    """Carries jets, shape (channels, networks, units, rows), through modules."""

    rule: Rule
    own: Mapping[int, torch.Tensor]

    def through(self, module: nn.Module, h: torch.Tensor) -> torch.Tensor:
        match module:
            case nn.Sequential():
                for layer in module:
                    h = self.through(layer, h)
                return h
            case nn.Linear():
                bias = None if module.bias is None else self.of(module.bias)
                return _linear(h, self.of(module.weight), bias)
            case Rescaled():
                return _linear(h, torch.diag(module.factor)[None], module.shift[None])
            case FourierFeatures():
                z = _linear(h, self.of(module.weight), None)
                return torch.cat([_bend(z, f, self.rule) for f in (SINE, COSINE)], dim=2)
            case Sloped():
                z = h * self.of(module.factor)[:, None, None]
                return _bend(z, smooth_or_refuse(module.activation), self.rule)
            case Scaled():
                return _bend(module.scale * h, smooth_or_refuse(module.activation), self.rule)
            case Residual():
                return h + module.scale * self.through(module.branch, h)
            case _:
                return _bend(h, smooth_or_refuse(module), self.rule)

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """The parameter of each network."""
        stacked = self.own.get(id(parameter))
        return parameter[None] if stacked is None else stacked


def _linear(h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    made: torch.Tensor = _Linear.apply(h, weight, bias)  # type: ignore[no-untyped-call]
    return made


def _bend(z: torch.Tensor, f: Smooth, rule: Rule) -> torch.Tensor:
    made: torch.Tensor = _Bend.apply(z, f, rule)  # type: ignore[no-untyped-call]
    return made


def _by_channel(weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A weight of each network, for every channel: shape (channels * networks, out, in)."""
    every: torch.Tensor = weight.expand(*like.shape[:2], *weight.shape[1:])
    return every.flatten(0, 1)


class _Linear(torch.autograd.Function):
    """A weight for every channel, and a bias for the values: derivatives do not have one."""

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # Batched products: matmul would copy both sides to make one of them.
        made = torch.bmm(_by_channel(weight, h), h.flatten(0, 1))
        made = made.view(*h.shape[:2], *made.shape[1:])
        if bias is not None:
            made[0] += bias[:, :, None]
        ctx.save_for_backward(h, weight)
        ctx.has_bias = bias is not None
        return made

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        h, weight = ctx.saved_tensors
        needs_h, needs_weight, _ = ctx.needs_input_grad
        flat, back, slope = gradient.flatten(0, 1), None, None
        if needs_h:
            turned = _by_channel(weight.transpose(1, 2), h)
            back = torch.bmm(turned, flat).view(h.shape)
        if needs_weight:
            slope = torch.bmm(flat, h.flatten(0, 1).transpose(1, 2))
            slope = slope.view(*h.shape[:2], *slope.shape[1:]).sum(0)
        return back, slope, gradient[0].sum(2) if ctx.has_bias else None


class _Bend(torch.autograd.Function):
    """The chain rule for a function of single numbers."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, f: Smooth, rule: Rule) -> torch.Tensor:
        value = f.value(z[0])
        # The way back needs one derivative more.
        slopes = f.slopes(z[0], value, rule.most + int(ctx.needs_input_grad[0]))
        made = torch.empty_like(z)
        made[0] = value
        if len(z) > 1:
            torch.mul(z[1:], slopes[0], out=made[1:])
        for term in rule.terms:
            made[term.place].addcmul_(
                slopes[len(term.factors) - 1], _product(z, term.factors), value=term.count
            )
        ctx.save_for_backward(z, *slopes)
        ctx.rule = rule
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        z, *slopes = ctx.saved_tensors
        rule = ctx.rule
        back = gradient * slopes[0]
        # What f^(m + 1) meets on its way to the value.
        meets = dict[int, torch.Tensor]()
        for place in range(1, len(rule.places)):
            _add(meets, 1, gradient[place], z[place])
        for term in rule.terms:
            m = len(term.factors)
            arriving = gradient[term.place]
            if term.count != 1:
                arriving = arriving * term.count
            _add(meets, m, arriving, _product(z, term.factors))
            sloped = arriving * slopes[m - 1]
            for factor, power in Counter(term.factors).items():
                others = list(term.factors)
                others.remove(factor)
                back[factor].addcmul_(sloped, _product(z, others), value=power)
        for m, found in meets.items():
            back[0].addcmul_(slopes[m], found)
        return back, None, None


def _add(sums: dict[int, torch.Tensor], m: int, a: torch.Tensor, b: torch.Tensor) -> None:
    if m in sums:
        sums[m].addcmul_(a, b)
    else:
        sums[m] = a * b


def _product(z: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    made = z[places[0]]
    for place in places[1:]:
        made = made * z[place]
    return made
