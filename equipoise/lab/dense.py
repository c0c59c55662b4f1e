"""Replicas of one dense network, forward and back, without a graph.

Two layouts, chosen by width. Wide layers are batched matrix products, values of shape (R, B, n). Of
layers of up to four units a product is too small to be one: there each entry of a weight is a
vector over the replicas, values have shape (n, B, R), and a layer is n multiply-adds with the
replicas innermost, where they are contiguous for every operand.

Microseconds of one training step (forward and backward, batch 64, one thread of two busy ones) for
each replica; ``benchmarks/batched.py`` measures them anew:

    width x depth, replicas        products    replicas innermost    fused by torch.compile
    2 x 40, 1,200                     123                 47                   34 (24 s to compile)
    2 x 40, 256                         -                 37                   52
    4 x 50, 128                       266                121                    -
    8 x 50, 128                       156                341                    -
    16 x 50, 128                      223              2,568                    -

Layers that act on each row of an image alone, until a Flatten joins the rows, lie as in
``row_layout``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from equipoise.lab.models import Residual
from equipoise.lab.pointwise import Pointwise, pointwise
from equipoise.lab.row_layout import Columns, Dense

# Layers of more units are batched products.
_MOST_UNROLLED = 4


@dataclass(frozen=True)
class _Fork:
    """Where a residual branch begins."""


@dataclass(frozen=True)
class _Join:
    """Where a residual branch, times a number, is added to what went around it."""

    scale: float


@dataclass(frozen=True)
class _Rows:
    """Where what was made of each row of an image is joined to one vector."""


_Step = Dense | Pointwise | _Fork | _Join | _Rows


class DenseProgram:
    """The layers of a dense network as steps.

    Args:
        layers: Linear with bias, functions of each number alone, and ``Residual`` blocks of them;
            one Flatten behind layers that act on each row of an image alone.

    Attributes:
        size: number of parameters of one replica.
        is_unrolled: whether the replicas are innermost.
        reads_rows: whether inputs are images, of which the first layers see a row at a time.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.steps: list[_Step] = []
        self.size = 0
        self._enter(layers)
        self.reads_rows = _Rows() in self.steps
        widest = max(max(s.fan_in, s.fan_out) for s in self.steps if isinstance(s, Dense))
        self.is_unrolled = widest <= _MOST_UNROLLED and not self.reads_rows

    def _enter(self, layers: Sequence[nn.Module]) -> None:
        for layer in layers:
            if isinstance(layer, nn.Linear):
                self.steps.append(Dense(layer.in_features, layer.out_features, self.size))
                self.size += layer.in_features * layer.out_features + layer.out_features
            elif isinstance(layer, Residual):
                self.steps.append(_Fork())
                self._enter(tuple(layer.branch))
                self.steps.append(_Join(layer.scale))
            elif isinstance(layer, nn.Flatten):
                self.steps.append(_Rows())
            else:
                self.steps.append(pointwise(layer))

    def __call__(self, weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Outputs of all replicas; differentiable once, by the weights.

        Args:
            weights: shape (R, P).
            x: shape (R, B, features), or (B, features) for all replicas; images have shape
                (R, B, rows, features) or (B, rows, features).

        Returns:
            Shape (R, B, outputs).
        """
        made: torch.Tensor = _Function.apply(weights, x, self)  # type: ignore[no-untyped-call]
        return made


def _layout(program: DenseProgram) -> "type[_Products | _Unrolled | Columns]":
    if program.reads_rows:
        return Columns
    return _Unrolled if program.is_unrolled else _Products


class _Function(torch.autograd.Function):
    """One node of autograd for all layers."""

    @staticmethod
    def forward(
        ctx: Any, weights: torch.Tensor, x: torch.Tensor, program: DenseProgram
    ) -> torch.Tensor:
        held = _layout(program)(weights)
        values, kept, around = held.entering(x), list[Any](), list[torch.Tensor]()
        for step in program.steps:
            match step:
                case Dense():
                    kept.append(values)
                    values = held.forward(step, values)
                case _Fork():
                    around.append(values)
                    kept.append(None)
                case _Join(scale=scale):
                    kept.append(None)
                    values = torch.add(around.pop(), values, alpha=scale)
                case _Rows():
                    assert isinstance(held, Columns)
                    kept.append(values.shape[1])
                    values = held.joined(values)
                case Pointwise():
                    values, saved = step.forward(values)
                    kept.append(saved)
        ctx.state = program, held, kept
        return held.leaving(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        program, held, kept = ctx.state
        g, around = held.arriving(gradient), list[torch.Tensor]()
        found = held.nothing()
        first = next(i for i, s in enumerate(program.steps) if isinstance(s, Dense))
        for i in range(len(program.steps) - 1, -1, -1):
            step, saved = program.steps[i], kept[i]
            match step:
                case Dense():
                    g = held.back(step, g, saved, found, is_first=i == first)
                case _Join(scale=scale):
                    around.append(g)
                    g = g * scale
                case _Fork():
                    g = g + around.pop()
                case _Rows():
                    assert isinstance(held, Columns)
                    g = held.parted(g, saved)
                case Pointwise():
                    g = step.backward(g, saved)
            if i == first:
                break
        return held.gradient(found), None, None


class _Products:
    """Values (R, B, n); a layer is one batched product."""

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights = weights.detach()

    def entering(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(len(self._weights), *x.shape[-2:])

    def leaving(self, values: torch.Tensor) -> torch.Tensor:
        return values

    arriving = leaving

    def nothing(self) -> torch.Tensor:
        return torch.empty_like(self._weights)

    def gradient(self, found: torch.Tensor) -> torch.Tensor:
        return found

    def _weight(self, step: Dense, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, step.start : step.bias].view(-1, step.fan_out, step.fan_in)

    def forward(self, step: Dense, h: torch.Tensor) -> torch.Tensor:
        bias = self._weights[:, None, step.bias : step.end]
        return torch.baddbmm(bias, h, self._weight(step, self._weights).transpose(1, 2))

    def back(
        self, step: Dense, g: torch.Tensor, h: torch.Tensor, found: torch.Tensor, is_first: bool
    ) -> torch.Tensor:
        torch.sum(g, 1, out=found[:, step.bias : step.end])
        self._weight(step, found).copy_(torch.bmm(g.transpose(1, 2), h))
        return g if is_first else torch.bmm(g, self._weight(step, self._weights))


class _Unrolled:
    """Values (n, B, R); a layer is a sum of products with vectors over the replicas."""

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights = weights.detach().t().contiguous()

    def entering(self, x: torch.Tensor) -> torch.Tensor:
        x = x.expand(self._weights.shape[1], *x.shape[-2:])
        return x.permute(2, 1, 0).contiguous()

    def leaving(self, values: torch.Tensor) -> torch.Tensor:
        return values.permute(2, 1, 0).contiguous()

    arriving = entering

    def nothing(self) -> torch.Tensor:
        return torch.empty_like(self._weights)

    def gradient(self, found: torch.Tensor) -> torch.Tensor:
        return found.t()

    def _weight(self, step: Dense, rows: torch.Tensor) -> torch.Tensor:
        return rows[step.start : step.bias].view(step.fan_out, step.fan_in, -1)

    def forward(self, step: Dense, h: torch.Tensor) -> torch.Tensor:
        weight, bias = self._weight(step, self._weights), self._weights[step.bias : step.end]
        z = torch.addcmul(bias[:, None], weight[:, 0, None], h[0])
        for j in range(1, step.fan_in):
            z.addcmul_(weight[:, j, None], h[j])
        return z

    def back(
        self, step: Dense, g: torch.Tensor, h: torch.Tensor, found: torch.Tensor, is_first: bool
    ) -> torch.Tensor:
        torch.sum(g, 1, out=found[step.bias : step.end])
        torch.sum(g[:, None] * h, 2, out=self._weight(step, found))
        if is_first:
            return g
        weight = self._weight(step, self._weights)
        before = weight[0, :, None] * g[0]
        for i in range(1, step.fan_out):
            before.addcmul_(weight[i, :, None], g[i])
        return before
