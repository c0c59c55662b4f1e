"""What the benchmark of any model trains: small real architectures, tasks, published starts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise

import torch
from cells import TASKS
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from equipoise.lab.data import Classification
from equipoise.lab.models import plain_cnn

Pair = tuple[torch.Tensor, torch.Tensor]
# Of generated tasks: rows that choose the rate and rows that are scored, made from these seeds.
_HELD_BACK_SEED, _TEST_SEED, _ROWS = 1, 2, 512
_OMEGA = 30.0


@dataclass(frozen=True)
class Data:
    """What one training reads.

    Attributes:
        sample: makes a training batch of so many rows.
        test: inputs and targets that are scored.
    """

    sample: Callable[[torch.Generator, int], Pair]
    test: Pair


@dataclass(frozen=True)
class Task:
    """One architecture on one task.

    Attributes:
        name: of the architecture and what it learns.
        build: makes a fresh model.
        data: of the trial trainings that choose the rate (False) and of the final ones (True).
        loss: of outputs and targets, a mean over rows.
        score: of outputs and targets on the test part, the more the better; at most 1 but for
            ``bels``.
        unit: what the score counts.
        published: the starts that the architecture's papers ask for, by name.
        rate: centre of the three learning rates, half a decade apart.
        steps: of Adam.
        batch: rows in a batch.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[bool], Data]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    score: Callable[[torch.Tensor, torch.Tensor], float]
    unit: str
    published: dict[str, Callable[[nn.Module], None]] = field(default_factory=dict)
    rate: float = 1e-3
    steps: int = 250
    batch: int = 64

    @property
    def methods(self) -> tuple[str, ...]:
        """Every start that is compared, equipoise's first."""
        return ("auto", "default", *self.published, "lsuv", "anyinit")


# Models


class ResidualMLP(nn.Module):
    """x + W2 relu(W1 x), block after block, and nothing that normalizes."""

    def __init__(self, blocks: int = 24, width: int = 32, inputs: int = 64, classes: int = 10):
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of rows."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Block(nn.Module):
    """Self-attention and an MLP, normalized before (GPT-2) or after (the first transformer)."""

    def __init__(self, width: int, heads: int, is_pre: bool):
        super().__init__()
        self.heads, self.is_pre = heads, is_pre
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sequences of vectors, shape (rows, length, width)."""
        if self.is_pre:
            x = x + self.attend(self.norm1(x))
            return x + self.down(functional.gelu(self.up(self.norm2(x))))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Every position reads every other."""
        rows, length, width = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        read = functional.scaled_dot_product_attention(q, k, v)
        return self.out(read.transpose(1, 2).reshape(rows, length, width))


class Transformer(nn.Module):
    """An encoder that gives each position of a sequence of symbols logits over the symbols."""

    def __init__(
        self, depth: int, is_pre: bool, symbols: int, length: int, width: int = 32, heads: int = 2
    ):
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, is_pre) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if is_pre else nn.Identity()
        self.head = nn.Linear(width, symbols)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (rows, length, symbols)."""
        x = self.symbols(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Adder(nn.Module):
    """Two layers of LSTM; the last state is read."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.cells = nn.LSTM(2, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One number for each sequence."""
        states, _ = self.cells(x)
        return self.head(states[:, -1])


class Siren(nn.Module):
    """sin(30 (W x + b)), layer after layer, from places in the plane to a grey value."""

    def __init__(self, depth: int = 4, width: int = 64):
        super().__init__()
        sizes = (2, *(width,) * depth)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Grey values of places."""
        for layer in self.hidden:
            x = torch.sin(_OMEGA * layer(x))
        return self.head(x)


# Published starts; each is called with torch's generator at the draw's seed.


def zero_last(model: ResidualMLP) -> None:
    """He's weights, and the last of each branch 0 (Goyal et al. 2017, arXiv 1706.02677)."""
    he(model)
    for block in model.blocks:
        nn.init.zeros_(block[2].weight)


def fixup(model: ResidualMLP) -> None:
    """Zhang et al. 2019, arXiv 1901.09321, without its scalar parameters: the model has none.

    The first weight of each branch of two is He's over sqrt(L), the last is 0, as is the head.
    """
    zero_last(model)
    with torch.no_grad():
        for block in model.blocks:
            block[0].weight.mul_(len(model.blocks) ** -0.5)
    nn.init.zeros_(model.head.weight)


def he(model: nn.Module) -> None:
    """He et al. 2015, arXiv 1502.01852: entries of variance 2 / fan_in, biases 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


def bert(model: nn.Module, std: float = 0.02) -> None:
    """Devlin et al. 2018, arXiv 1810.04805: entries of standard deviation .02, biases 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(layer.weight, 0.0, std, -2 * std, 2 * std)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)


def xavier(model: Transformer) -> None:
    """As the first transformer starts (arXiv 1706.03762): Glorot's weights, embeddings of RMS 1.

    Tables start at 1 / sqrt(width) there and are multiplied by sqrt(width) where they are read.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(model.symbols.weight)
    nn.init.normal_(model.places.weight)


def gpt2(model: Transformer) -> None:
    """Radford et al. 2019: standard deviation .02, ends of branches over sqrt(2 L), biases 0."""
    bert(model)
    for block in model.blocks:
        for end in (block.out, block.down):
            nn.init.normal_(end.weight, 0.0, 0.02 / math.sqrt(2 * len(model.blocks)))


def open_forget(model: Adder) -> None:
    """Forget gates start open, recurrent weights orthogonal (arXiv 1504.00941, 1312.6120)."""
    width = model.cells.hidden_size
    for name, parameter in model.cells.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.detach().split(width):
                nn.init.orthogonal_(gate)
        elif name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
            # Both biases are added up: one of them opens the gate.
            if name.startswith("bias_ih"):
                nn.init.ones_(parameter.detach()[width : 2 * width])


def siren(model: Siren) -> None:
    """Sitzmann et al. 2020, arXiv 2006.09661: U(1/n), then U(sqrt(6/n) / 30)."""
    for layer in (*model.hidden, model.head):
        n = layer.in_features
        bound = 1 / n if layer is model.hidden[0] else math.sqrt(6 / n) / _OMEGA
        nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(layer.bias, -1 / math.sqrt(n), 1 / math.sqrt(n))


# Data


@cache
def digits(is_image: bool, is_final: bool) -> Data:
    """Rows of the digits drawn at random; rows held back from training choose the rate."""
    make, held_back = TASKS["digits"]
    task: Classification = make()
    if is_image:
        task = task.images()
    part = task if is_final else task.validation(held_back)

    def sample(generator: torch.Generator, rows: int) -> Pair:
        chosen = torch.randint(len(part.x_train), (rows,), generator=generator)
        return part.x_train[chosen], part.y_train[chosen]

    return Data(sample, (part.x_test, part.y_test))


def generated(make: Callable[[torch.Generator, int], Pair], is_final: bool) -> Data:
    """Endless fresh rows, tested on rows of a seed of their own."""
    seed = _TEST_SEED if is_final else _HELD_BACK_SEED
    return Data(make, make(torch.Generator().manual_seed(seed), _ROWS))


def sorting(symbols: int, length: int, generator: torch.Generator, rows: int) -> Pair:
    """Symbols, and the same in order."""
    x = torch.randint(symbols, (rows, length), generator=generator)
    return x, x.sort(1).values


def adding(length: int, generator: torch.Generator, rows: int) -> Pair:
    """Numbers and two marks, one in each half; the target is the sum of the marked numbers.

    Source: Hochreiter and Schmidhuber 1997.
    """
    values = torch.rand(rows, length, generator=generator)
    half = length // 2
    first = torch.randint(half, (rows, 1), generator=generator)
    second = torch.randint(half, length, (rows, 1), generator=generator)
    marks = torch.zeros(rows, length).scatter_(1, torch.cat([first, second], 1), 1.0)
    return torch.stack([values, marks], 2), (values * marks).sum(1, keepdim=True)


@cache
def mosaic(is_final: bool) -> Data:
    """64 digits side by side as one image of 64 x 64, grey values between -1 and 1.

    A fit has no unseen part: trial and final trainings differ in draws and batches.
    """
    tiles = torch.from_numpy(load_digits().images[:64]).float().view(8, 8, 8, 8)
    grey = tiles.transpose(1, 2).reshape(-1, 1) / 8 - 1
    axis = torch.linspace(-1, 1, 64)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)

    def sample(generator: torch.Generator, rows: int) -> Pair:
        chosen = torch.randint(len(places), (rows,), generator=generator)
        return places[chosen], grey[chosen]

    return Data(sample, (places, grey))


# Scores


def symbol_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, whatever axes rows have."""
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of right answers; what is not finite is wrong."""
    right = (outputs.argmax(-1) == targets) & outputs.isfinite().all(-1)
    return float(right.float().mean())


def explained(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of the targets' variance that is explained, 0 where none is."""
    return max(0.0, 1.0 - _unexplained(outputs, targets))


def bels(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """log10 of the targets' variance over the mean square error, 0 where none is explained.

    A tenth of a decibel is .01: the difference that a comparison takes for notable.
    """
    return max(0.0, -math.log10(_unexplained(outputs, targets)))


def _unexplained(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    error = float((outputs - targets).double().square().mean())
    return error / float(targets.double().var(correction=0)) if math.isfinite(error) else math.inf


_SORTING = {"symbols": 16, "length": 8}
_SORTED = partial(generated, partial(sorting, *_SORTING.values()))
SEQUENCES = {"loss": symbol_loss, "score": accuracy, "unit": "accuracy", "batch": 16}
TASKS_BY_NAME = {
    task.name: task
    for task in (
        Task(
            "residual MLP x 24, no norm, digits",
            ResidualMLP, partial(digits, False), symbol_loss, accuracy, "accuracy",
            {"zero last": zero_last, "fixup": fixup},
        ),
        Task(
            "plain CNN x 20, digits",
            partial(plain_cnn, 20, nn.ReLU, stride=2), partial(digits, True), symbol_loss, accuracy,
            "accuracy", {"he": he},
        ),
        Task(
            "post-norm transformer x 12, sorting",
            partial(Transformer, 12, False, **_SORTING), _SORTED,
            published={"bert .02": bert, "xavier": xavier}, **SEQUENCES,
        ),
        Task(
            "pre-norm transformer x 24, sorting",
            partial(Transformer, 24, True, **_SORTING), _SORTED,
            published={"gpt-2": gpt2}, steps=200, **SEQUENCES,
        ),
        Task(
            "LSTM x 2, adding over 50 steps",
            Adder, partial(generated, partial(adding, 50)), functional.mse_loss, explained,
            "variance explained", {"open forget": open_forget}, rate=1e-2, steps=1500, batch=32,
        ),
        Task(
            "SIREN x 4, image of 64 x 64",
            Siren, mosaic, functional.mse_loss, bels, "bels", {"siren": siren},
            rate=3e-4, steps=400, batch=512,
        ),
    )
}  # fmt: skip
