# ruff: noqa: D102
"""Healthy small trainings on which a monitor has to be silent.

Ten of them; none is one of ``monitor_healthy.py``, on which thresholds were chosen. They use what
real scripts use: warm-up, cosine schedules, weight decay, dropout, accumulated gradients, clipping,
two optimizers, tied weights, embeddings, several outputs, losses of other kinds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# Runs the model, and looks at gradients; both may say something.
Forward = Callable[[Any], tuple[Any, list[tuple[str, str]]]]
Look = Callable[[Any], list[tuple[str, str]]]


@dataclass(eq=False)
class Training:
    """One training.

    Attributes:
        model: what trains, called with one tensor.
        optimizer: one or several.
        batch: gives inputs and targets.
        loss: of an output, inputs and targets.
        rate: factor on learning rates, by step.
        parts: batches that are accumulated.
        clip: largest norm of all gradients.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
    batch: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    loss: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
    rate: Callable[[int], float] = lambda step: 1.0
    parts: int = 1
    clip: float = math.inf

    def __post_init__(self) -> None:
        one = self.optimizer
        self.movers = list(one) if isinstance(one, Sequence) else [one]
        self.rates = [[g["lr"] for g in o.param_groups] for o in self.movers]

    def step(
        self, step: int, forward: Forward, look: Look
    ) -> tuple[torch.Tensor | None, list[tuple[str, str]]]:
        """One step; without a loss where ``forward`` gave up."""
        for mover, rates in zip(self.movers, self.rates, strict=True):
            mover.zero_grad()
            for group, rate in zip(mover.param_groups, rates, strict=True):
                group["lr"] = rate * self.rate(step)
        total, said = torch.zeros(()), list[tuple[str, str]]()
        for _ in range(self.parts):
            x, y = self.batch()
            out, words = forward(x)
            said += words
            if out is None:
                return None, said
            loss = self.loss(out, x, y) / self.parts
            loss.backward()
            total = total + loss.detach()
        said += look(x)
        if self.clip < math.inf:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for mover in self.movers:
            mover.step()
        return total, said


def warmed(steps: int, total: int = 150) -> Callable[[int], float]:
    """A line up, then a cosine down to a tenth."""

    def rate(step: int) -> float:
        if step <= steps:
            return step / steps
        return 0.55 + 0.45 * math.cos(math.pi * (step - steps) / (total - steps))

    return rate


def _start(seed: int) -> torch.Generator:
    torch.manual_seed(seed + 9_000)
    return torch.Generator().manual_seed(seed + 5_000)


class Swish(nn.Module):
    """Gated blocks behind an RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(12, 40), nn.Linear(40, 1)
        self.norms = nn.ModuleList(nn.RMSNorm(40) for _ in range(4))
        self.gates = nn.ModuleList(nn.Linear(40, 80, bias=False) for _ in range(4))
        self.values = nn.ModuleList(nn.Linear(40, 80, bias=False) for _ in range(4))
        self.outs = nn.ModuleList(nn.Linear(80, 40, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for norm, gate, value, out in zip(
            self.norms, self.gates, self.values, self.outs, strict=True
        ):
            z = norm(x)
            x = x + out(F.silu(gate(z)) * value(z))
        return self.head(x)


def gated(seed: int) -> Training:
    g = _start(seed)
    w = torch.randn(12, 3, generator=g)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(48, 12, generator=g)
        return x, torch.sin(x @ w).prod(1, keepdim=True)

    model = Swish()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.1)
    return Training(model, optimizer, batch, lambda o, x, y: F.mse_loss(o, y), warmed(20), clip=1.0)


def autoencoder(seed: int) -> Training:
    g = _start(seed)
    basis = torch.randn(4, 24, generator=g)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tanh(torch.randn(64, 4, generator=g) @ basis)
        return x, x + 0.05 * torch.randn(64, 24, generator=g)

    model = nn.Sequential(
        nn.Linear(24, 32), nn.ELU(), nn.Linear(32, 6), nn.Linear(6, 32), nn.ELU(), nn.Linear(32, 24)
    )
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-3)
    return Training(model, optimizer, batch, lambda o, x, y: F.smooth_l1_loss(o, y))


class Skipped(nn.Module):
    """Convolutions with group norms, a skip and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.a, self.b = nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.na, self.nb = nn.GroupNorm(4, 16), nn.GroupNorm(4, 16)
        self.down, self.head = nn.Conv2d(16, 32, 2, 2), nn.Linear(32, 6)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.stem(x), 0.1)
        x = x + self.nb(self.b(F.relu(self.na(self.a(x)))))
        x = F.relu(self.down(F.relu(x)))
        return self.head(self.drop(x.mean((2, 3))))


def images(seed: int) -> Training:
    g = _start(seed)
    shapes = torch.randn(6, 3, 8, 8, generator=g)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.randint(6, (32,), generator=g)
        return shapes[y] + 1.5 * torch.randn(32, 3, 8, 8, generator=g), y

    model = Skipped()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)
    return Training(
        model, optimizer, batch, lambda o, x, y: F.cross_entropy(o, y, label_smoothing=0.1),
        warmed(10),
    )  # fmt: skip


class Tied(nn.Module):
    """A small language model whose head is its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(24, 32), nn.Embedding(10, 32)
        nn.init.normal_(self.table.weight, 0, 0.05)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 2, 96, 0.1, F.gelu, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.table(x) + self.places(torch.arange(x.shape[1]))
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        for layer in self.layers:
            z = layer(z, src_mask=mask)
        return self.norm(z) @ self.table.weight.T


def language(seed: int) -> Training:
    g = _start(seed)
    chances = torch.randn(24, 24, generator=g).mul(2).softmax(1)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        rows = [torch.randint(24, (16,), generator=g)]
        for _ in range(10):
            rows.append(torch.multinomial(chances[rows[-1]], 1, generator=g)[:, 0])
        x = torch.stack(rows, 1)
        return x[:, :-1], x[:, 1:]

    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, (0.9, 0.95), weight_decay=0.1)
    return Training(
        model, optimizer, batch, lambda o, x, y: F.cross_entropy(o.flatten(0, 1), y.flatten()),
        warmed(25), parts=2, clip=1.0,
    )  # fmt: skip


class Both(nn.Module):
    """Reads a sequence both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 20, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0].amax(1))


def sequences(seed: int) -> Training:
    g = _start(seed)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(48, 16, 3, generator=g).cumsum(1) / 4
        return x, (x[:, -1, 0] > x[:, 4, 1]).long()

    model = Both()
    optimizer = torch.optim.NAdam(model.parameters(), 3e-3)
    return Training(model, optimizer, batch, lambda o, x, y: F.cross_entropy(o, y), clip=1.0)


class Sines(nn.Module):
    """A sine network for a field in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(2 if i == 0 else 48, 48) for i in range(3))
        self.head = nn.Linear(48, 1)
        for i, layer in enumerate(self.body):
            bound = 0.5 if i == 0 else math.sqrt(6 / 48) / 10
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.body:
            x = torch.sin(10.0 * layer(x))
        return self.head(x)


def field(seed: int) -> Training:
    g = _start(seed)
    w = 4 * torch.randn(2, 3, generator=g)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = 2 * torch.rand(128, 2, generator=g) - 1
        return x, torch.cos(x @ w).sum(1, keepdim=True)

    model = Sines()
    return Training(model, torch.optim.Adam(model.parameters(), 1e-3), batch,
                    lambda o, x, y: F.mse_loss(o, y))  # fmt: skip


class Equation(nn.Module):
    """Solves u'' = f on a line; the output is the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Some tools call it where gradients are off.
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            u = x * (1 - x) * self.net(x)
            (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        return second


def equation(seed: int) -> Training:
    g = _start(seed)
    phase = float(torch.rand((), generator=g))

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(64, 1, generator=g)
        return x, torch.sin(3 * x + phase)

    model = Equation()
    return Training(model, torch.optim.Adam(model.parameters(), 2e-3), batch,
                    lambda o, x, y: F.mse_loss(o, y))  # fmt: skip


class Pairs(nn.Module):
    """Tables of users and items, and a small head."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(60, 16), nn.Embedding(80, 16)
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.cat([self.users(x[:, 0]), self.items(x[:, 1])], 1)
        return self.b(F.relu(self.a(z)))[:, 0]


def recommender(seed: int) -> Training:
    g = _start(seed)
    taste, kind = torch.randn(60, 4, generator=g), torch.randn(80, 4, generator=g)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.stack([torch.randint(60, (96,), generator=g),
                         torch.randint(80, (96,), generator=g)], 1)  # fmt: skip
        return x, ((taste[x[:, 0]] * kind[x[:, 1]]).sum(1) > 0).float()

    model = Pairs()
    return Training(model, torch.optim.Adagrad(model.parameters(), 0.03), batch,
                    lambda o, x, y: F.binary_cross_entropy_with_logits(o, y))  # fmt: skip


class Views(nn.Module):
    """An encoder whose two views of a row have to agree."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64),
            nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.body(x), dim=1)


def contrastive(seed: int) -> Training:
    g = _start(seed)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(48, 16, generator=g)
        noise = 0.3 * torch.randn(2, 48, 16, generator=g)
        return torch.cat([x + noise[0], x + noise[1]]), torch.arange(48)

    model = Views()
    return Training(model, torch.optim.AdamW(model.parameters(), 2e-3), batch,
                    lambda o, x, y: F.cross_entropy(o[:48] @ o[48:].T / 0.2, y))  # fmt: skip


class TwoHeads(nn.Module):
    """A trunk with a policy and a value, as of an actor and critic."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(10, 48), nn.Mish(), nn.Linear(48, 48), nn.Mish())
        self.policy, self.value = nn.Linear(48, 4), nn.Linear(48, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.trunk(x)
        return torch.cat([self.policy(z), self.value(z)], 1)


def two_heads(seed: int) -> Training:
    g = _start(seed)
    w = torch.randn(10, 4, generator=g)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(64, 10, generator=g)
        return x, (x @ w).argmax(1)

    def loss(out: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        value = (x @ w).amax(1)
        return F.cross_entropy(out[:, :4], y) + 0.1 * F.mse_loss(out[:, 4], value)

    model = TwoHeads()
    heads = [*model.policy.parameters(), *model.value.parameters()]
    movers = [torch.optim.Adam(model.trunk.parameters(), 1e-3),
              torch.optim.SGD(heads, 0.02, momentum=0.9)]  # fmt: skip
    return Training(model, movers, batch, loss, clip=5.0)


HEALTHY: dict[str, Callable[[int], Training]] = {
    "gated blocks, AdamW, warm-up, clipping": gated,
    "autoencoder, RMSprop": autoencoder,
    "convolutions with skips, SGD, cosine": images,
    "language model, tied, accumulated": language,
    "LSTM both ways, NAdam": sequences,
    "sine network, Adam": field,
    "equation, Adam": equation,
    "recommender, Adagrad": recommender,
    "contrastive, AdamW": contrastive,
    "actor and critic, two optimizers": two_heads,
}
