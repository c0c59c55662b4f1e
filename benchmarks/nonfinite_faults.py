"""Faults planted in small trainings, and trainings without one: what a tool should find.

What is right is written here, from the networks alone; no tool is read for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
        plant: name of the line, '' where the line is that of the step itself.
    """

    model: nn.Module
    step: Step
    operations: tuple[str, ...]
    module: str | None
    plant: str


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
    x = torch.randn(8, 64).half() * 1e-3
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


FAULTS: dict[str, tuple[str, Callable[[int], Planted]]] = {
    "exp overflow": ("forward", in_transformer("exp overflow", "exp")),
    "0 * inf mask": ("forward", in_transformer("0 * inf mask", "mul")),
    "masked row": ("forward", in_transformer("masked row", "_softmax")),
    "root of rounding": ("forward", in_transformer("root of rounding", "sqrt")),
    "std of one": ("forward", in_transformer("std of one", "std")),
    "0 / 0": ("forward", in_convolutions("0 / 0", "div")),
    "in place": ("forward", in_convolutions("in place", "exp_")),
    "state explodes": ("forward", in_recurrence("state explodes", "mm")),
    "broken power": ("forward", in_recurrence("broken power", "pow")),
    "log of 0": ("forward", log_of_0),
    "no target": ("forward", nothing_to_learn),
    "cast": ("forward", cast),
    "float16 forward": ("forward", half_overflow),
    "root at 0": ("backward", in_transformer("root at 0", "div")),
    "logarithm behind where": ("backward", in_convolutions("logarithm behind where", "div")),
    "division behind where": ("backward", in_convolutions("division behind where", "div")),
    "power at 0": ("backward", in_recurrence("power at 0", "pow")),
    "arc cosine at 1": ("backward", in_recurrence("arc cosine at 1", "rsqrt")),
    "backward of its own": ("backward", in_recurrence("backward of its own", "div")),
    "float16 backward": ("backward", half_backward),
    "Adam without eps": ("update", no_epsilon),
    "Adam in float16": ("update", half_adam),
    "wild rate": ("update", wild_rate),
    "nan in a weight": ("given", bad_weight),
    "bad batch": ("given", bad_batch),
}
