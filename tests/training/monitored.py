"""Small trainings that the tests of the monitor share."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq


class Attention(nn.Module):
    """A causal transformer written with functions."""

    def __init__(self, width=32, heads=4, depth=3, tokens=16):
        super().__init__()
        self.heads = heads
        self.emb = nn.Embedding(tokens, width)
        self.pos = nn.Parameter(0.1 * torch.randn(12, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "n1": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width),
                "o": nn.Linear(width, width), "n2": nn.LayerNorm(width),
                "a": nn.Linear(width, 4 * width), "b": nn.Linear(4 * width, width),
            })
            for _ in range(depth)
        )  # fmt: skip
        self.head = nn.Linear(width, tokens)

    def forward(self, x):
        z = self.emb(x) + self.pos[: x.shape[1]]
        for block in self.blocks:
            rows, length, width = z.shape
            packed = block["qkv"](block["n1"](z))
            q, k, v = packed.view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            z = z + block["o"](y.transpose(1, 2).reshape(rows, length, width))
            z = z + block["b"](F.gelu(block["a"](block["n2"](z))))
        return self.head(z)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(4, 32, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def dense(act=nn.ReLU, depth=4, width=64, outputs=4, inputs=16):
    sizes = [inputs] + depth * [width]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


class Vectors:
    """Classes of vectors that a quadratic decides."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(16, 4, generator=self.generator)

    def __call__(self, rows=64):
        x = torch.randn(rows, 16, generator=self.generator)
        return x, (x @ self.weight + 0.5 * x.square() @ self.weight).argmax(1)


class Images(Vectors):
    def __call__(self, rows=64):
        y = torch.randint(4, (rows,), generator=self.generator)
        shapes = self.weight.T.reshape(4, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return shapes[y] + torch.randn(rows, 1, 8, 8, generator=self.generator), y


class Tokens(Vectors):
    def __call__(self, rows=32):
        x = torch.randint(16, (rows, 12), generator=self.generator)
        return x, x.cumsum(1) % 16


class Sums(Vectors):
    def __call__(self, rows=64):
        x = torch.randn(rows, 20, 4, generator=self.generator)
        return x, x[:, :5].sum((1, 2))[:, None] / 4


def loss_of(output, y):
    if y.dtype == torch.long:
        return F.cross_entropy(output.flatten(0, -2), y.flatten())
    return F.mse_loss(output, y)


def train(model, data, steps, make=None, every=1, before=None, monitor=None, **options):
    """A plain loop; ``before(step, model, optimizer, x, y)`` may return another batch."""
    make = make or (lambda p: torch.optim.Adam(p, 1e-3))
    optimizer = make(model.parameters()) if monitor is None else monitor.optimizers[0]
    monitor = monitor or eq.Monitor(model, optimizer, every=every, **options)
    for step in range(1, steps + 1):
        x, y = data()
        if before is not None:
            x, y = before(step, model, optimizer, x, y) or (x, y)
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        monitor.step(loss)
    monitor.close()
    return monitor
