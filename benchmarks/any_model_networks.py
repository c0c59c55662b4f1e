"""Networks of the benchmark of any model, and the starts that were published for them."""

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

_OMEGA = 30.0

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
