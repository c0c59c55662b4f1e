"""Operations that random models are made of, each as a module that fits a given tensor.

A part is a function of ``choose`` and a tensor; it returns a module, or None where it does not fit.
Features are the last axis of ``rows`` (any axes before it) and the axis behind the batch of
``maps``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

T = TypeVar("T")
Choose = Callable[[Sequence[T]], T]
Part = Callable[[Choose[Any], torch.Tensor], nn.Module | None]
WIDTHS = (1, 3, 8, 16, 17, 32, 48)


class Call(nn.Module):
    """Any function of the module and its inputs, with parameters and modules by name."""

    def __init__(self, text: str, function: Callable[..., torch.Tensor], **held: Any) -> None:
        super().__init__()
        self.text, self.function = text, function
        for name, value in held.items():
            plain = isinstance(value, torch.Tensor)
            setattr(self, name, nn.Parameter(value) if plain else value)

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        """The function of its inputs."""
        return self.function(self, *x)

    def extra_repr(self) -> str:
        """What it computes."""
        return self.text


def pure(text: str, function: Callable[..., torch.Tensor]) -> Call:
    """A function without parameters."""
    return Call(text, lambda m, *x: function(*x))


def rough(*shape: int) -> torch.Tensor:
    """Values that a parameter may hold before it is started."""
    return torch.rand(shape) * 2 - 0.5


# Linear maps, whichever way they are written.


def linear(choose: Choose[Any], x: torch.Tensor) -> nn.Module:
    return nn.Linear(x.shape[-1], choose(WIDTHS), bias=choose((True, True, False)))


def written_linear(choose: Choose[Any], x: torch.Tensor) -> nn.Module:
    n, m = x.shape[-1], choose(WIDTHS)
    axes = "abcde"[: x.dim() - 1]
    straight, turned = rough(m, n), rough(n, m)
    return choose(
        (
            Call("F.linear(x, w, b)", lambda s, x: F.linear(x, s.w, s.b), w=straight, b=rough(m)),
            Call("x @ w", lambda s, x: x @ s.w, w=turned),
            Call("x @ w + b", lambda s, x: x @ s.w + s.b, w=turned, b=rough(m)),
            Call("x @ w.T", lambda s, x: x @ s.w.T, w=straight),
            Call("torch.matmul(x, w.t())", lambda s, x: torch.matmul(x, s.w.t()), w=straight),
            Call("(w @ x.mT).mT", lambda s, x: (s.w @ x.mT).mT, w=straight),
            Call("(w.mT @ x.mT).mT", lambda s, x: (s.w.mT @ x.mT).mT, w=turned),
            Call(
                f"einsum('{axes}i,oi->{axes}o', x, w)",
                lambda s, x: torch.einsum(f"{axes}i,oi->{axes}o", x, s.w), w=straight,
            ),
            Call(
                f"einsum('io,{axes}i->{axes}o', w, x) + b",
                lambda s, x: torch.einsum(f"io,{axes}i->{axes}o", s.w, x) + s.b,
                w=turned, b=rough(m),
            ),
            Call("torch.tensordot(x, w, 1)", lambda s, x: torch.tensordot(x, s.w, 1), w=turned),
            Call("2 * F.linear(x, w)", lambda s, x: 2 * F.linear(x, s.w), w=straight),
            Call(
                "einsum('...i,oi->...o', x, w)",
                lambda s, x: torch.einsum("...i,oi->...o", x, s.w), w=straight,
            ),
        )
    )  # fmt: skip


def bilinear(choose: Choose[Any], x: torch.Tensor) -> nn.Module | None:
    if x.shape[-1] > 32:
        return None
    inner = nn.Bilinear(x.shape[-1], x.shape[-1], choose(WIDTHS))
    return Call("bilinear(x, x)", lambda s, x: s.inner(x, x), inner=inner)


def over_sites(choose: Choose[Any], x: torch.Tensor) -> nn.Module | None:
    """A linear map over the axis before the features."""
    if x.dim() < 3 or x.shape[-2] > 64:
        return None
    n, m = x.shape[-2], choose((x.shape[-2], 3, 7))
    return choose(
        (
            Call("lin(x.mT).mT", lambda s, x: s.lin(x.mT).mT, lin=nn.Linear(n, m)),
            Call("w @ x", lambda s, x: s.w @ x, w=rough(m, n)),
            Call(
                "einsum('ot,...tc->...oc', w, x)",
                lambda s, x: torch.einsum("ot,...tc->...oc", s.w, x), w=rough(m, n),
            ),
        )
    )  # fmt: skip


# Functions of entries.

FUNCTIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.ReLU, lambda: nn.ReLU(inplace=True), nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU,
    nn.SELU, nn.Softplus, nn.LeakyReLU, nn.PReLU, nn.Hardswish, nn.Hardtanh, nn.Softsign, nn.Mish,
    nn.Softshrink, nn.ReLU6, nn.LogSigmoid, nn.Tanhshrink, nn.Identity,
    lambda: pure("sin(x)", torch.sin), lambda: pure("cos(x)", torch.cos),
    lambda: pure("x * sigmoid(1.7 x)", lambda x: x * torch.sigmoid(1.7 * x)),
    lambda: pure("relu(x) ** 2", lambda x: torch.relu(x) ** 2),
    lambda: pure("x ** 2", lambda x: x**2), lambda: pure("abs(x)", torch.abs),
    lambda: pure("clamp(x, -1, 1.5)", lambda x: x.clamp(-1, 1.5)),
    lambda: pure("x.clone().relu_()", lambda x: x.clone().relu_()),
    lambda: pure("exp(-x * x)", lambda x: torch.exp(-x * x)),
    lambda: pure("where(x > 0, x, 0.1 x)", lambda x: torch.where(x > 0, x, 0.1 * x)),
    lambda: pure("x + 1", lambda x: x + 1.0), lambda: pure("x * 0.5", lambda x: x * 0.5),
    lambda: pure("maximum(x, 0.3)", lambda x: torch.clamp_min(x, 0.3)),
    lambda: pure("erf(x)", torch.erf), lambda: pure("1 - x", lambda x: 1 - x),
    lambda: nn.Sequential(nn.Tanh(), nn.Sequential(nn.Softplus())),
)  # fmt: skip


def function(choose: Choose[Any], x: torch.Tensor) -> nn.Module:
    return choose(FUNCTIONS)()


def dropout(choose: Choose[Any], x: torch.Tensor) -> nn.Module:
    return nn.Dropout(choose((0.1, 0.5)))


def own(choose: Choose[Any], x: torch.Tensor) -> nn.Module:
    """Gains and offsets that are the model's own."""
    n = x.shape[-1]
    return choose(
        (
            Call("x * g", lambda s, x: x * s.g, g=rough(n)),
            Call("x * g, layer scale", lambda s, x: s.g * x, g=torch.full((n,), 0.1)),
            Call("x * (1 + g)", lambda s, x: x * (1 + s.g), g=torch.zeros(n)),
            Call("x * t.exp()", lambda s, x: x * s.t.exp(), t=torch.tensor(0.7)),
            Call("x / t", lambda s, x: x / s.t, t=torch.tensor([2.0])),
            Call("x * softplus(g)", lambda s, x: x * F.softplus(s.g), g=rough(n)),
            Call("x * sigmoid(t)", lambda s, x: x * torch.sigmoid(s.t), t=torch.zeros(1)),
            Call("x + b", lambda s, x: x + s.b, b=rough(n)),
            Call("x + (b + 1)", lambda s, x: x + (s.b + 1), b=rough(n)),
            Call("x - b", lambda s, x: x - s.b, b=rough(n)),
            Call("x + b, b of all but the batch", lambda s, x: x + s.b, b=rough(*x.shape[1:])),
            Call("x * g + b", lambda s, x: x * s.g + s.b, g=torch.ones(n), b=torch.zeros(n)),
            Call("torch.addcmul(b, x, g)", lambda s, x: torch.addcmul(s.b, x, s.g),
                 g=torch.ones(n), b=torch.zeros(n)),
        )
    )  # fmt: skip


# Norms.


def norm(choose: Choose[Any], x: torch.Tensor) -> nn.Module | None:
    n = x.shape[-1]

    def rms(s: Any, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * s.g

    def layer(s: Any, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return s.g * centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) + s.b

    options: list[nn.Module] = [
        nn.LayerNorm(n), nn.RMSNorm(n), nn.LayerNorm(n, elementwise_affine=False),
        Call("rms norm, written", rms, g=torch.ones(n)),
        Call("layer norm, written", layer, g=torch.ones(n), b=torch.zeros(n)),
        pure("F.normalize(x, dim=-1)", lambda x: F.normalize(x, dim=-1)),
    ]  # fmt: skip
    if x.dim() == 2 and len(x) > 1:
        options += [nn.BatchNorm1d(n), nn.BatchNorm1d(n, affine=False)]
    if x.dim() == 3 and len(x) > 1:
        turned = nn.BatchNorm1d(n)
        options.append(Call("batch norm of x.mT", lambda s, x: s.bn(x.mT).mT, bn=turned))
    return choose(options)


# What moves, joins and averages sites of rows.


def moved(choose: Choose[Any], x: torch.Tensor) -> nn.Module:
    n = x.shape[-1]
    options = [
        pure("x.flip(-1)", lambda x: x.flip(-1)), pure("x.roll(1, -1)", lambda x: x.roll(1, -1)),
        pure("x.flip(0)", lambda x: x.flip(0)),
        pure("repeat_interleave(x, 2, -1)", lambda x: x.repeat_interleave(2, -1)),
        pure("x.repeat(..., 2)", lambda x: x.repeat(*[1] * (x.dim() - 1), 2)),
        pure("index_select", lambda x: x.index_select(-1, torch.arange(n).flip(0))),
        pure("gather", lambda x: x.gather(-1, torch.arange(n).roll(1).expand_as(x))),
        pure("x[..., ::2]", lambda x: x[..., ::2]), pure("x[..., :1]", lambda x: x[..., :1]),
        pure("cat([x, x])", lambda x: torch.cat([x, x], -1)),
        pure("cat([x, -x])", lambda x: torch.cat([x, -x], -1)),
        pure("x.unsqueeze(1).expand(3)", lambda x: x.unsqueeze(1).expand(-1, 3, *x.shape[1:])),
        pure("cumsum(x, -1)", lambda x: x.cumsum(-1)),
        pure("pad", lambda x: F.pad(x, (1, 1))),
    ]  # fmt: skip
    if n % 2 == 0:
        options += [
            pure("glu", lambda x: F.glu(x, -1)),
            pure("chunk: a * sigmoid(b)",
                 lambda x: x.chunk(2, -1)[0] * torch.sigmoid(x.chunk(2, -1)[1])),
            pure("chunk: a + b", lambda x: sum(x.chunk(2, -1))),
            pure("chunk: a * gelu(b)", lambda x: (lambda p: p[0] * F.gelu(p[1]))(x.chunk(2, -1))),
            pure("rotated", lambda x: torch.cat([-x[..., n // 2 :], x[..., : n // 2]], -1)),
            pure("split to sites", lambda x: x.unflatten(-1, (2, n // 2))),
            pure("maxout", lambda x: torch.maximum(*x.chunk(2, -1))),
        ]  # fmt: skip
    return choose(options)


def sites(choose: Choose[Any], x: torch.Tensor) -> nn.Module | None:
    if x.dim() < 3:
        return None
    return choose(
        (
            pure("x.mean(1)", lambda x: x.mean(1)),
            pure("x.mean(-2)", lambda x: x.mean(-2)),
            pure("x.sum(1)", lambda x: x.sum(1)),
            pure("x.amax(1)", lambda x: x.amax(1)),
            pure("x.max(1).values", lambda x: x.max(1).values),
            pure("x.logsumexp(1)", lambda x: x.logsumexp(1)),
            pure("x[:, 0]", lambda x: x[:, 0]), pure("x[:, -1:]", lambda x: x[:, -1:]),
            pure("x[:, 1:] + x[:, :-1]", lambda x: x[:, 1:] + x[:, :-1])
            if x.shape[1] > 1
            else pure("x[:, 0]", lambda x: x[:, 0]),
            pure("x.roll(1, 1)", lambda x: x.roll(1, 1)),
            pure("x.mT", lambda x: x.mT), pure("x.flatten(1)", lambda x: x.flatten(1)),
            pure("cumsum over sites", lambda x: x.cumsum(1)),
            pure("running mean",
                 lambda x: x.cumsum(1) / torch.arange(1, x.shape[1] + 1).view(
                     1, -1, *[1] * (x.dim() - 2))),
            pure("softmax over sites, summed", lambda x: (x.softmax(1) * x).sum(1)),
            pure("softmax over features", lambda x: x.softmax(-1)),
            pure("stack(...).mean(0)", lambda x: torch.stack([x, torch.tanh(x)]).mean(0)),
            pure("flatten first axes", lambda x: x.flatten(0, 1)),
            pure("std over sites", lambda x: (x.var(1, correction=0) + 0.1).sqrt()),
            pure("x - x.mean(1)", lambda x: x - x.mean(1, keepdim=True)),
            Call("attention pooling", lambda s, x: (s.score(x).softmax(1) * x).sum(1),
                 score=nn.Linear(x.shape[-1], 1)),
            Call("cls token", lambda s, x: torch.cat(
                 [s.cls.expand(*x.shape[:-2], 1, x.shape[-1]), x], -2), cls=rough(x.shape[-1])),
        )
    )  # fmt: skip


def attention(choose: Choose[Any], x: torch.Tensor) -> nn.Module | None:
    if x.dim() != 3 or x.shape[-1] > 64:
        return None
    n = x.shape[-1]
    heads = choose([h for h in (1, 2, 4) if n % h == 0])
    causal = choose((False, True))
    masked = choose((False, True))

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def called(s: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (split(t) for t in s.qkv(x).chunk(3, -1))
        made = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return s.out(made.transpose(1, 2).flatten(2))

    def written(s: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = split(s.q(x)), split(s.k(x)), split(s.v(x))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if masked:
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
            scores = scores.masked_fill(~mask, -math.inf)
        return s.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def linear_attention(s: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = s.q(x).softmax(-1), s.k(x).softmax(-2), s.v(x)
        return s.out(q @ (k.mT @ v))

    def by_einsum(s: Any, x: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("bqc,bkc->bqk", s.q(x), s.k(x)) * n**-0.5
        return s.out(torch.einsum("bqk,bkc->bqc", scores.softmax(-1), s.v(x)))

    def turned(s: Any, x: torch.Tensor) -> torch.Tensor:
        """Weights that add up to 1 over queries: no average."""
        scores = s.q(x) @ s.k(x).mT / math.sqrt(n)
        return s.out(scores.softmax(1) @ s.v(x))

    maps = {name: nn.Linear(n, n) for name in ("q", "k", "v", "out")}
    return choose(
        (
            Call(f"sdpa, heads {heads}, causal {causal}", called,
                 qkv=nn.Linear(n, 3 * n), out=nn.Linear(n, n)),
            Call(f"written attention, heads {heads}, masked {masked}", written, **maps),
            Call("linear attention", linear_attention, **maps),
            Call("attention by einsum", by_einsum, **maps),
            Call("softmax over queries", turned, **maps),
            Call("nn.MultiheadAttention", lambda s, x: s.mha(x, x, x)[0],
                 mha=nn.MultiheadAttention(n, heads, batch_first=True)),
        )
    )  # fmt: skip


# Maps.


def conv(choose: Choose[Any], x: torch.Tensor) -> nn.Module | None:
    axes, c = x.dim() - 2, x.shape[1]
    if axes not in (1, 2):
        return None
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
    back = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[axes]
    least, m = min(x.shape[2:]), choose((1, 3, 8, 12, 16))
    options = [kind(c, m, 1), kind(c, m, 3, padding=1), kind(c, c, 3, padding=1, groups=c)]
    options += [back(c, m, 2, 2), kind(c, m, 3, padding=1, bias=False)]
    options += [kind(c, m, 3, padding="same", padding_mode="circular")] * (least >= 3)
    options += [kind(c, m, 2, 2)] * (least >= 2) + [kind(c, m, 3, 2, 1)] * (least >= 3)
    options += [kind(c, m, 3, dilation=2, padding=2)] * (least >= 3)
    options += [kind(c, c, 1, groups=2)] if c % 2 == 0 else []
    options += [back(c, m, 3, 2, 1, output_padding=1)] * (least >= 3)
    return choose(options)


def map_norm(choose: Choose[Any], x: torch.Tensor) -> nn.Module | None:
    axes, c = x.dim() - 2, x.shape[1]
    several = math.prod(x.shape[2:]) > 1
    options: list[nn.Module] = [nn.GroupNorm(1, c)] if several or c > 1 else []
    options += [nn.GroupNorm(c // 2, c)] if c % 2 == 0 else []
    if axes in (1, 2) and several:
        options += [{1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[axes](c)]
        options += [{1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d}[axes](c, affine=True)]
    if axes == 2:
        inner = nn.LayerNorm(c)
        options.append(
            Call("layer norm over channels",
                 lambda s, x: s.ln(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), ln=inner)
        )  # fmt: skip
    return choose(options) if options else None


def resized(choose: Choose[Any], x: torch.Tensor) -> nn.Module | None:
    if x.dim() != 4:
        return None
    c, (h, w) = x.shape[1], x.shape[2:]
    options: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=2)]
    options += [
        nn.Upsample(scale_factor=2, mode="bilinear"),
        pure("F.interpolate, nearest", lambda x: F.interpolate(x, scale_factor=2)),
        pure("F.interpolate, bilinear, corners",
             lambda x: F.interpolate(x, size=(2 * h, 2 * w), mode="bilinear", align_corners=True)),
        pure("F.interpolate, bicubic",
             lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
        pure("F.interpolate, area", lambda x: F.interpolate(x, size=(2 * h, 2 * w), mode="area")),
        pure("x.mean((2, 3))[..., None, None]", lambda x: x.mean((2, 3))[..., None, None]),
        pure("F.pad(x, (1, 1, 1, 1))", lambda x: F.pad(x, (1, 1, 1, 1))),
        pure("x.roll(1, 2)", lambda x: x.roll(1, 2)), pure("x.flip(3)", lambda x: x.flip(3)),
        Call("x * g, by channel", lambda s, x: x * s.g, g=rough(c, 1, 1)),
        Call("squeeze and excite", lambda s, x: x * torch.sigmoid(
             s.b(torch.relu(s.a(x.mean((2, 3)))))[..., None, None]),
             a=nn.Linear(c, 3), b=nn.Linear(3, c)),
        nn.Dropout2d(0.2),
    ]  # fmt: skip
    options += [nn.PixelShuffle(2)] * (c % 4 == 0)
    if min(h, w) >= 2 and h % 2 == 0 and w % 2 == 0:
        options += [
            nn.MaxPool2d(2), nn.AvgPool2d(2), nn.PixelUnshuffle(2), nn.AdaptiveAvgPool2d(2),
            pure("F.interpolate, down", lambda x: F.interpolate(x, scale_factor=0.5)),
            pure("F.interpolate, bilinear, down",
                 lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear")),
            pure("x[..., ::2, ::2]", lambda x: x[..., ::2, ::2]),
            pure("unfold", lambda x: F.unfold(x, 2, stride=2)),
            nn.LPPool2d(2, 2),
        ]  # fmt: skip
    if h >= 3 and w >= 3:
        options += [nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1)]
    return choose(options)


def to_rows(choose: Choose[Any], x: torch.Tensor) -> nn.Module:
    return choose(
        (
            pure("x.flatten(1)", lambda x: x.flatten(1)),
            pure("x.flatten(2).mT", lambda x: x.flatten(2).mT),
            pure("x.flatten(2).mean(-1)", lambda x: x.flatten(2).mean(-1)),
            pure("x.movedim(1, -1)", lambda x: x.movedim(1, -1)),
            pure("x.flatten(2).amax(-1)", lambda x: x.flatten(2).amax(-1)),
        )
    )


# With how many chances of being chosen.
ROWS: tuple[tuple[Part, int], ...] = (
    (linear, 6), (written_linear, 4), (function, 6), (norm, 3), (own, 2), (moved, 2), (sites, 2),
    (attention, 2), (over_sites, 1), (dropout, 1), (bilinear, 1),
)  # fmt: skip
MAPS: tuple[tuple[Part, int], ...] = (
    (conv, 6), (function, 4), (map_norm, 3), (resized, 3), (dropout, 1),
)  # fmt: skip
