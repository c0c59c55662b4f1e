# ruff: noqa: D102
"""Small real networks with one line each that a fault can be planted in.

The line that a fault lies on ends in ``# plant: NAME``, so that what a tool names is held against
the source itself.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Attention by hand, with a mask of minus infinity."""

    def __init__(self, width: int, heads: int, fault: str) -> None:
        super().__init__()
        self.heads, self.fault = heads, fault
        self.packed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        split = self.packed(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = split.unbind(0)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.fault == "exp overflow":
            raw = (scores + 200.0).exp()  # plant: exp overflow
            shares = raw / raw.sum(-1, keepdim=True)
        elif self.fault == "0 * inf mask":
            scores = scores + mask * float("-inf")  # plant: 0 * inf mask
            shares = scores.softmax(-1)
        else:
            if self.fault == "masked row":
                mask = mask.clone()
                mask[0, 0, 2] = 1.0
            scores = scores.masked_fill(mask > 0, float("-inf"))
            shares = scores.softmax(-1)  # plant: masked row
        return self.out((shares @ v).transpose(1, 2).reshape(rows, length, width))


class Block(nn.Module):
    """Attention and two layers, pre-norm."""

    def __init__(self, width: int, heads: int, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads, fault)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm(x), mask)
        h = F.gelu(self.up(x))
        if self.fault == "root of rounding":
            mean, square = h.mean(-1, keepdim=True), h.square().mean(-1, keepdim=True)
            spread = square - mean.square() * 1.5 - 1.0
            h = h / (spread.sqrt() + 1.0)  # plant: root of rounding
        if self.fault == "std of one":
            h = h / h[..., :1].std(-1, keepdim=True)  # plant: std of one
        if self.fault == "root at 0":
            gap = (h - h.detach()).square().sum(-1, keepdim=True)
            h = h + gap.sqrt()  # plant: root at 0
        return x + self.down(h)


class Transformer(nn.Module):
    """A causal one on 16 symbols; the fault lies in one of its blocks."""

    def __init__(self, depth: int, width: int, fault: str = "", at: int = -1) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, width)
        self.blocks = nn.ModuleList(Block(width, 2, fault if i == at else "") for i in range(depth))
        self.head = nn.Linear(width, 16)
        self.register_buffer("mask", torch.ones(64, 64).triu(1)[None, None])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        mask = self.mask[..., : tokens.shape[1], : tokens.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


class Stage(nn.Module):
    """A convolution, a norm by hand and a function."""

    def __init__(self, inside: int, outside: int, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.convolution = nn.Conv2d(inside, outside, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.convolution(x)
        if self.fault == "0 / 0":
            h = torch.cat([h[:, :1] * 0.0, h[:, 1:]], 1)
            centred = h - h.mean((0, 2, 3), keepdim=True)
            h = centred / h.var((0, 2, 3), keepdim=True).sqrt()  # plant: 0 / 0
        if self.fault == "in place":
            h = h * 10.0 + 120.0
            h.exp_()  # plant: in place
        if self.fault == "logarithm behind where":
            kept = h * (h > 0)
            h = torch.where(kept > 0, kept.log(), kept)  # plant: logarithm behind where
        if self.fault == "division behind where":
            kept = h * (h > 0)
            h = torch.where(kept > 0, h / kept, kept)  # plant: division behind where
        return F.max_pool2d(F.relu(h), 2, padding=1)


class Convolutions(nn.Module):
    """Three stages and a head."""

    def __init__(self, fault: str = "", at: int = -1) -> None:
        super().__init__()
        widths = (3, 8, 8, 8)
        self.stages = nn.Sequential(
            *(Stage(widths[i], widths[i + 1], fault if i == at else "") for i in range(3))
        )
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(x).mean((2, 3)))


class Reciprocal(torch.autograd.Function):
    """1 / x whose backward forgets the 0 that its forward takes care of."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x == 0, torch.zeros_like(x), 1.0 / torch.where(x == 0, 1.0, x))

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return -gradient / x.square()  # plant: backward of its own


class Recurrent(nn.Module):
    """A recurrent network by hand."""

    def __init__(self, width: int, fault: str = "", at: int = -1) -> None:
        super().__init__()
        self.width, self.fault, self.at = width, fault, at
        self.enter = nn.Linear(4, width)
        self.state = nn.Parameter(nn.init.orthogonal_(torch.empty(width, width)))
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), self.width)
        for t in range(x.shape[1]):
            fault = self.fault if t == self.at else ""
            if self.fault == "state explodes":
                entered = self.enter(x[:, t])
                h = entered + h @ (self.state * 1e13)  # plant: state explodes
                continue
            h = torch.tanh(self.enter(x[:, t]) + h @ self.state)
            if fault == "broken power":
                h = h.pow(1.5)  # plant: broken power
            if fault == "power at 0":
                h = (h * (h > 0)).pow(0.5)  # plant: power at 0
            if fault == "arc cosine at 1":
                h = torch.acos(h / h.abs().clamp_min(1e-12))  # plant: arc cosine at 1
            if fault == "backward of its own":
                h = Reciprocal.apply(h * (h > 0)).tanh()
        return self.head(h)


class Dense(nn.Module):
    """Layers of one width, for half precision."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))  # plant: half precision overflows
        return self.head(x)


def cross_entropy_by_hand(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logarithms of probabilities that underflow."""
    shares = (logits * 1e4).softmax(-1)
    chosen = F.one_hot(targets, logits.shape[-1])
    return -(chosen * shares.log()).sum(-1).mean()  # plant: log of 0


def cast_loss(output: torch.Tensor) -> torch.Tensor:
    """A loss that goes through half precision."""
    squares = (output * 1e3).square() + 1e5
    return squares.half().float().mean()  # plant: cast
