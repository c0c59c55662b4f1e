# ruff: noqa: D102
"""Faults planted in small trainings, and trainings without one: what a tool should find.

What is right is written here, from the networks alone; no tool is read for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from nonfinite_networks import (
    Convolutions,
    Dense,
    Recurrent,
    Transformer,
    cast_loss,
    cross_entropy_by_hand,
)
from torch import nn
from torch.nn import functional as F

DEPTH = 4
Step = Callable[[], None]


@dataclass(frozen=True)
class Planted:
    """A step that fails.

    Attributes:
        model: what is trained.
        step: forward, loss, backward and update.
        operations: torch's names of the operation to blame, any of which is right; () where the
            tensor was bad when it came in.
        module: path of the module it runs in, None outside; for updates and what came in, the name
            of the parameter or tensor.
        plant: name of the line that the fault lies on, '' where it lies on none.
        node: the node of the backward pass that anomaly detection should name, without its
            ending.
    """

    model: nn.Module
    step: Step
    operations: tuple[str, ...]
    module: str | None
    plant: str
    node: str = ""

    @property
    def line(self) -> tuple[str, int]:
        """File and number of the line, ('', 0) where it lies on none."""
        for path in sorted(Path(__file__).parent.glob("nonfinite_*.py")):
            for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if self.plant and text.rstrip().endswith(f"# plant: {self.plant}"):
                    return str(path), number
        return "", 0


def descent(model: nn.Module, loss_of: Callable[[], torch.Tensor], optimizer=None) -> Step:
    """A step of training."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()  # plant: step

    return step


def symbols(model: nn.Module) -> Callable[[], torch.Tensor]:
    tokens = torch.randint(16, (4, 13))
    return lambda: F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def pictures(model: nn.Module) -> Callable[[], torch.Tensor]:
    x, y = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    return lambda: F.cross_entropy(model(x), y)


def series(model: nn.Module) -> Callable[[], torch.Tensor]:
    x, y = torch.randn(8, 10, 4), torch.randn(8, 1)
    return lambda: F.mse_loss(model(x), y)


def in_transformer(fault: str, *operations: str) -> Callable[[int], Planted]:
    def plant(at: int) -> Planted:
        at %= DEPTH
        model = Transformer(DEPTH, 16, fault, at)
        inside = ".attention" if fault in ("exp overflow", "0 * inf mask", "masked row") else ""
        return Planted(model, descent(model, symbols(model)), operations,
                       f"blocks.{at}{inside}", fault)  # fmt: skip

    return plant


def in_convolutions(fault: str, *operations: str) -> Callable[[int], Planted]:
    def plant(at: int) -> Planted:
        model = Convolutions(fault, at % 3)
        return Planted(model, descent(model, pictures(model)), operations, f"stages.{at % 3}",
                       fault)  # fmt: skip

    return plant


def in_recurrence(fault: str, *operations: str) -> Callable[[int], Planted]:
    def plant(at: int) -> Planted:
        model = Recurrent(16, fault, at % 10)
        return Planted(model, descent(model, series(model)), operations, "", fault)

    return plant


def log_of_0(at: int) -> Planted:
    model = Transformer(2, 16)
    tokens = torch.randint(16, (4, 13))
    step = descent(
        model,
        lambda: cross_entropy_by_hand(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()),
    )
    return Planted(model, step, ("log",), None, "log of 0")


def nothing_to_learn(at: int) -> Planted:
    model = Convolutions()
    x, y = torch.randn(8, 3, 16, 16), torch.full((8,), -100)

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(x), y)  # plant: no target

    return Planted(model, descent(model, loss), ("nll_loss_forward",), None, "no target")


def cast(at: int) -> Planted:
    model = Recurrent(16)
    x = torch.randn(8, 10, 4)
    step = descent(model, lambda: cast_loss(model(x)))
    return Planted(model, step, ("_to_copy",), None, "cast")


def half_overflow(at: int) -> Planted:
    at %= DEPTH
    model = Dense(DEPTH, 64).half()
    with torch.no_grad():
        model.layers[at].weight *= 1e5 if at == 0 else 3e5
        model.layers[at].weight.clamp_(-6e4, 6e4)
    x, y = torch.randn(8, 64).half() * 4, torch.randint(10, (8,))
    step = descent(model, lambda: F.cross_entropy(model(x).float(), y))
    return Planted(model, step, ("addmm",), f"layers.{at}", "half precision overflows")


def half_backward(at: int) -> Planted:
    at = 1 + at % (DEPTH - 1)
    model = Dense(DEPTH, 64).half()
    with torch.no_grad():
        # Hardly anything enters, so that only what comes back is large.
        for layer in (*model.layers, model.head):
            layer.bias.zero_()
        model.layers[at].weight.copy_(torch.randn(64, 64).half() * 2e3)
    x = torch.randn(8, 64).half() * 1e-5
    step = descent(model, lambda: (model(x).float() * 4e3).sum(),
                   torch.optim.SGD(model.parameters(), 1e-6))  # fmt: skip
    return Planted(model, step, ("mm",), f"layers.{at}", "half precision overflows")


def bad_weight(at: int) -> Planted:
    at %= DEPTH
    model = Transformer(DEPTH, 16)
    with torch.no_grad():
        model.blocks[at].down.weight[3, 5] = float("nan")
    return Planted(model, descent(model, symbols(model)), (),
                   f"parameter 'blocks.{at}.down.weight'", "")  # fmt: skip


def bad_batch(at: int) -> Planted:
    model = Convolutions()
    x, y = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    x[at % 8, 1, 4, 4] = float("nan") if at % 2 else float("inf")
    step = descent(model, lambda: F.cross_entropy(model(x), y))
    return Planted(model, step, (), "argument 'x' of the model", "")


def no_epsilon(at: int) -> Planted:
    at %= DEPTH
    model = Dense(DEPTH, 16)
    with torch.no_grad():
        model.layers[at].bias -= 100.0
        for layer in model.layers[at + 1 :]:
            layer.bias += 0.1
    adam = torch.optim.Adam(model.parameters(), 1e-3, eps=0.0)
    x, y = torch.randn(8, 16), torch.randint(10, (8,))
    step = descent(model, lambda: F.cross_entropy(model(x), y), adam)
    # Nothing gets through the dead layer, so the first parameter has no gradient.
    return Planted(model, step, ("addcdiv_",), "parameter 'layers.0.weight'", "step")


def half_adam(at: int) -> Planted:
    model = Dense(DEPTH, 16).half()
    x, y = torch.randn(8, 16).half(), torch.randint(10, (8,))
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    # Squares of gradients below 2.4e-4 are 0 in float16, and so is eps.
    step = descent(model, lambda: F.cross_entropy(model(x).float(), y) * 1e-3, adam)
    return Planted(model, step, ("addcdiv_",), "parameter 'layers.0.weight'", "step")


def wild_rate(at: int) -> Planted:
    model = Convolutions()
    descent_of = torch.optim.SGD(model.parameters(), float("inf") if at % 2 else 3e38, momentum=0.9)
    step = descent(model, lambda: pictures_loss(model) * 1e6, descent_of)
    return Planted(model, step, ("add_",), "parameter 'stages.0.convolution.weight'", "step")


def pictures_loss(model: nn.Module) -> torch.Tensor:
    x, y = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    return F.cross_entropy(model(x), y)


def _with_node(node: str, plant: Callable[[int], Planted]) -> Callable[[int], Planted]:
    return lambda at: replace(plant(at), node=node)


FAULTS: dict[str, tuple[str, Callable[[int], Planted]]] = {
    "exp overflow": ("forward", _with_node("Exp", in_transformer("exp overflow", "exp"))),
    "0 * inf mask": ("forward", in_transformer("0 * inf mask", "mul")),
    "masked row": ("forward", _with_node("Softmax", in_transformer("masked row", "_softmax"))),
    "root of rounding": ("forward", _with_node("Sqrt", in_transformer("root of rounding", "sqrt"))),
    "std of one": ("forward", _with_node("Std", in_transformer("std of one", "std"))),
    "0 / 0": ("forward", _with_node("Div", in_convolutions("0 / 0", "div"))),
    "in place": ("forward", _with_node("Exp", in_convolutions("in place", "exp_"))),
    "state explodes": ("forward", _with_node("Mm", in_recurrence("state explodes", "mm"))),
    "broken power": ("forward", _with_node("Pow", in_recurrence("broken power", "pow"))),
    "log of 0": ("forward", _with_node("Log", log_of_0)),
    "no target": ("forward", _with_node("NllLoss", nothing_to_learn)),
    "cast": ("forward", _with_node("ToCopy", cast)),
    "float16 forward": ("forward", _with_node("Addmm", half_overflow)),
    "root at 0": ("backward", _with_node("Sqrt", in_transformer("root at 0", "div"))),
    "logarithm behind where": (
        "backward",
        _with_node("Log", in_convolutions("logarithm behind where", "div")),
    ),
    "division behind where": (
        "backward",
        _with_node("Div", in_convolutions("division behind where", "div")),
    ),
    "power at 0": ("backward", _with_node("Pow", in_recurrence("power at 0", "pow"))),
    "arc cosine at 1": ("backward", _with_node("Acos", in_recurrence("arc cosine at 1", "rsqrt"))),
    "backward of its own": (
        "backward",
        _with_node("Reciprocal", in_recurrence("backward of its own", "div")),
    ),
    "float16 backward": ("backward", _with_node("Addmm", half_backward)),
    "Adam without eps": ("update", no_epsilon),
    "Adam in float16": ("update", half_adam),
    "wild rate": ("update", wild_rate),
    "nan in a weight": ("given", bad_weight),
    "bad batch": ("given", bad_batch),
}


class Masked(nn.Module):
    """A layer whose output is -inf by design."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 16), nn.Linear(16, 16)
        self.register_buffer(
            "banned", torch.zeros(16).masked_fill(torch.arange(16) > 12, -torch.inf)
        )
        self.ban = Ban()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.ban(self.head(self.embed(tokens)), self.banned)


class Ban(nn.Module):
    """Adds -inf to logits that must not be chosen."""

    def forward(self, logits: torch.Tensor, banned: torch.Tensor) -> torch.Tensor:
        return logits + banned


def healthy_masked() -> tuple[nn.Module, Step]:
    model, tokens = Masked(), torch.randint(12, (4, 12))
    loss = lambda: F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())  # noqa: E731
    return model, descent(model, loss)


def healthy_padding() -> tuple[nn.Module, Step]:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    x, padding = torch.randn(4, 9, 16), torch.arange(9) >= torch.tensor([[9], [7], [4], [2]])
    causal = nn.Transformer.generate_square_subsequent_mask(9)

    def loss() -> torch.Tensor:
        shut = torch.zeros(4, 9).masked_fill(padding, -torch.inf)
        return model(x, mask=causal, src_key_padding_mask=shut)[~padding].square().mean()

    return model, descent(model, loss)


def healthy_logarithm() -> tuple[nn.Module, Step]:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.Softmax(-1))
    x, y = torch.randn(16, 8), F.one_hot(torch.randint(4, (16,)), 4).float()

    def loss() -> torch.Tensor:
        p = model(x)
        entropy = torch.where(y > 0, y * y.log(), 0.0).sum()
        return entropy - (y * p.clamp_min(1e-9).log()).sum()

    return model, descent(model, loss)


def healthy_scaler() -> tuple[nn.Module, Step]:
    model = Dense(DEPTH, 32)
    sgd = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    x, y = torch.randn(16, 32), torch.randint(10, (16,))

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast("cpu", torch.float16):
            logits = model(x)
        scaler.scale(F.cross_entropy(logits.float(), y)).backward()
        scaler.unscale_(sgd)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(sgd)
        scaler.update()

    return model, step


def healthy_rows() -> tuple[nn.Module, Step]:
    """Rows that are masked altogether and filled again."""
    model = nn.Linear(8, 8)
    x, shut = torch.randn(4, 6, 8), torch.arange(4)[:, None, None] == 0

    def loss() -> torch.Tensor:
        q = model(x)
        with torch.no_grad():
            old = (q @ q.mT).masked_fill(shut, -torch.inf).softmax(-1).nan_to_num(0.0)
        return (old @ q).square().mean()

    return model, descent(model, loss)


def _plain(make: Callable[[], nn.Module], loss_of: Callable[..., Callable[[], torch.Tensor]]):
    def build() -> tuple[nn.Module, Step]:
        model = make()
        return model, descent(model, loss_of(model))

    return build


HEALTHY: dict[str, Callable[[], tuple[nn.Module, Step]]] = {
    "transformer": _plain(lambda: Transformer(DEPTH, 16), symbols),
    "convolutions": _plain(Convolutions, pictures),
    "recurrence": _plain(lambda: Recurrent(16), series),
    "banned logits": healthy_masked,
    "padding of -inf": healthy_padding,
    "logarithm of 0 behind where": healthy_logarithm,
    "gradient scaler": healthy_scaler,
    "rows masked and filled": healthy_rows,
}
