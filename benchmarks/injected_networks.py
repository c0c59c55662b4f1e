# ruff: noqa: D102
"""Small networks and tasks that ``injected_faults.py`` plants its faults in."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]


Act = Callable[[torch.Tensor], torch.Tensor]
# Activations as modules: some tools see nothing else.
_MODULES: dict[Act, type[nn.Module]] = {
    torch.relu: nn.ReLU, torch.tanh: nn.Tanh, torch.sigmoid: nn.Sigmoid, F.gelu: nn.GELU,
}  # fmt: skip


class Dense(nn.Module):
    """Layers of one width, with activations as modules."""

    def __init__(self, act: Act, depth: int = 6) -> None:
        super().__init__()
        self.act = act
        self.acts = nn.ModuleList(_MODULES[act]() for _ in range(depth))
        self.body = nn.ModuleList(nn.Linear(20 if i == 0 else 48, 48) for i in range(depth))
        self.head = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, act in zip(self.body, self.acts, strict=True):
            x = act(layer(x))
        return self.head(x)


class Residual(nn.Module):
    """Blocks of two layers behind a norm, with the activation as a function."""

    def __init__(self, act: Act, depth: int = 3) -> None:
        super().__init__()
        self.act, self.enter, self.head = act, nn.Linear(20, 48), nn.Linear(48, 5)
        self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(48, 96) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(96, 48) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(self.act(up(norm(x))))
        return self.head(x)


class Convolutions(nn.Module):
    """Four of them, and the mean over places."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act, self.head = act, nn.Linear(24, 5)
        self.acts = nn.ModuleList(_MODULES[act]() for _ in range(4))
        self.body = nn.ModuleList(
            nn.Conv2d(a, b, 3, s, 1) for a, b, s in ((2, 16, 1), (16, 16, 2), (16, 16, 1),
                                                     (16, 24, 2))
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, act in zip(self.body, self.acts, strict=True):
            x = act(layer(x))
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """Attention over sequences of vectors, written with functions."""

    def __init__(self, act: Act, depth: int = 2) -> None:
        super().__init__()
        self.act, self.enter, self.head = act, nn.Linear(6, 32), nn.Linear(32, 5)
        self.first = nn.ModuleList(nn.LayerNorm(32) for _ in range(depth))
        self.packed = nn.ModuleList(nn.Linear(32, 96) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.second = nn.ModuleList(nn.LayerNorm(32) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(32, 64) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(64, 32) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for i in range(len(self.up)):
            rows, length, width = x.shape
            packed = self.packed[i](self.first[i](x)).view(rows, length, 3, 4, -1)
            q, k, v = packed.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
            x = x + self.out[i](y.transpose(1, 2).reshape(rows, length, width))
            x = x + self.down[i](self.act(self.up[i](self.second[i](x))))
        return self.head(x.mean(1))


@dataclass(frozen=True, eq=False)
class Task:
    """Fresh batches, and the loss of an output."""

    shape: tuple[int, ...]
    is_class: bool
    generator: torch.Generator
    teacher: torch.Tensor

    def batch(self, rows: int = 64) -> Batch:
        x = torch.randn(rows, *self.shape, generator=self.generator)
        scores = torch.tanh(x.flatten(1) @ self.teacher) + 0.3 * x.flatten(1)[:, :5]
        return x, scores.argmax(1) if self.is_class else scores

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, y) if self.is_class else F.mse_loss(output, y)


# Name: how it is made from an activation, and the shape of one input.
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "dense": (Dense, (20,)),
    "residual": (Residual, (20,)),
    "convolutions": (Convolutions, (2, 8, 8)),
    "encoder": (Encoder, (8, 6)),
}


def task(network: str, seed: int, is_class: bool) -> Task:
    shape = NETWORKS[network][1]
    generator = torch.Generator().manual_seed(seed + 77_000)
    size = 1
    for n in shape:
        size *= n
    teacher = torch.randn(size, 5, generator=generator) / size**0.5
    return Task(shape, is_class, generator, teacher)
