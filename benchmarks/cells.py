"""What the benchmark of the one call trains: tasks, networks, the accuracy to reach, the rivals."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from equipoise.lab.data import (
    Classification,
    checkerboard,
    digits,
    sign_products,
    teacher,
    two_spirals,
)
from equipoise.lab.image_files import image_task
from equipoise.lab.models import Arctan, Erf, Sine, mlp, plain_cnn


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Entry by entry."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.01),
    "softplus": nn.Softplus,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "quick_gelu": QuickGELU,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softsign": nn.Softsign,
    "arctan": Arctan,
    "erf": Erf,
    "sin": Sine,
}
# Rows held back to pick the learning rate: of 1,400 digits, of 2,000 drawn rows.
_DIGITS, _DRAWN, _IMAGES = 200, 400, 1000
TASKS: dict[str, tuple[Callable[[], Classification], int]] = {
    "digits": (digits, _DIGITS),
    "spirals": (partial(two_spirals, turns=1.5), _DRAWN),
    "signs of 2": (sign_products, _DRAWN),
    "signs of 3": (partial(sign_products, order=3), _DRAWN),
    "checkerboard": (partial(checkerboard, cells=3), _DRAWN),
    "teacher": (teacher, _DRAWN),
    "mnist": (partial(image_task, "mnist", train_rows=5000), _IMAGES),
    "fashion": (partial(image_task, "fashion_mnist", train_rows=5000), _IMAGES),
}


@dataclass(frozen=True)
class Cell:
    """One network on one task.

    Attributes:
        activation: of ``ACTIVATIONS``.
        hidden: hidden widths; empty for a convolutional network.
        target: accuracy to reach, nan where only rivals count.
        rate: centre of the learning rates, 0.5 / (depth * width) rounded to half a decade or so.
        quick: methods of the quick form, which leaves the cell out where there are none.
        task: of ``TASKS``.
        convolutions: number of 3 x 3 convolutions of 16 channels, 0 for an MLP.
        stride: of the first of them: 2 makes maps of 4 x 4.
        most: methods of the full form; empty for all.
        draws: in the full form, of each training and of each learning rate.
    """

    activation: str
    hidden: tuple[int, ...]
    target: float
    rate: float
    quick: tuple[str, ...] = ()
    task: str = "digits"
    convolutions: int = 0
    stride: int = 2
    most: tuple[str, ...] = ()
    draws: int = 16

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return self.convolutions or len(self.hidden)

    @property
    def name(self) -> str:
        """Activation, shape and task."""
        if self.convolutions:
            side = 8 // self.stride
            shape = f"cnn {side}x{side} x {self.convolutions}"
        else:
            widths = list(dict.fromkeys(self.hidden))
            shape = f"{', '.join(map(str, widths))} x {len(self.hidden) // len(widths)}"
        on = "" if self.task == "digits" else f", {self.task}"
        return f"{self.activation} {shape}{on}"

    @property
    def needs_files(self) -> bool:
        """Whether its data lies in a folder of the user's."""
        return self.task in ("mnist", "fashion")

    def data(self) -> tuple[Classification, Classification]:
        """The task, and the same with rows held back from its training part in place of a test."""
        make, held_back = TASKS[self.task]
        task = make()
        if self.convolutions:
            task = task.images()
        return task, task.validation(held_back)

    def model(self, task: Classification) -> nn.Sequential:
        """A fresh network for the task."""
        activation = ACTIVATIONS[self.activation]
        if self.convolutions:
            return plain_cnn(self.convolutions, activation, stride=self.stride)
        return mlp((task.features, *self.hidden, task.classes), activation)

    def milliseconds(self, inputs: int) -> float:
        """About how long one step of one replica takes on one core of 2020s make, batch 64.

        Fitted to a few measurements: products at 25 GFLOP/s, Adam at 6 ns for each parameter,
        activations at 8 ns for each entry, forward and backward; convolutions as they came out.
        """
        if self.convolutions:
            sites = (8 // self.stride) ** 2
            return self.convolutions * (0.04 + 0.0144 * sites)
        widths = (inputs, *self.hidden, 10)
        total = 0.0
        for a, b in pairwise(widths):
            total += 0.002 + a * b * (6 * 64 / 25e6 + 6e-6) + 64 * b * 8e-6
        return total


_DEEP = ("auto", "orthogonal", "he", "default", "lsuv", "anyinit")
_CNN = (*_DEEP, "mirrored", "centred")
_ALL_KINDS = ("auto", "orthogonal", "lsuv", "anyinit")
_NARROW = (16,) * 100
_QUICK_NARROW = {
    "gelu": _ALL_KINDS, "relu": _ALL_KINDS, "tanh": _ALL_KINDS,
    "mish": ("auto", "lsuv"), "selu": ("auto", "orthogonal"),
    "sigmoid": ("auto", "orthogonal", "lsuv"),
}  # fmt: skip
_TARGETS = {
    "gelu": 0.92, "silu": 0.92, "relu": 0.90, "leaky_relu": 0.90, "softplus": 0.89, "mish": 0.89,
    "hardswish": 0.92, "quick_gelu": 0.92, "selu": 0.92, "elu": 0.92, "celu": 0.92,
    "sigmoid": 0.93, "tanh": 0.945, "softsign": 0.95, "arctan": 0.945, "erf": 0.945, "sin": 0.945,
}  # fmt: skip
_QUICK_DEEP = {"gelu": ("auto",)}
_QUICK_WIDE = {"relu": ("auto", "default"), "tanh": ("auto", "he", "default")}
_QUICK_NONLINEAR = {
    "spirals": "gelu", "signs of 2": "tanh", "signs of 3": "tanh", "checkerboard": "gelu",
    "teacher": "tanh",
}  # fmt: skip

CELLS = (
    *(
        Cell(name, _NARROW, _TARGETS[name], 3e-4, _QUICK_NARROW.get(name, ()))
        for name in ACTIVATIONS
    ),
    Cell("relu", (8,) * 50, 0.87, 1e-3, _ALL_KINDS),
    Cell("tanh", (8,) * 50, 0.92, 1e-3, ("auto", "orthogonal", "diagonal_noise")),
    Cell("tanh", (16,) * 500, 0.93, 1e-4, ("auto", "orthogonal"), most=(*_DEEP, "diagonal_noise")),
    Cell("tanh", (16, 4) * 50, 0.80, 6e-4, ("auto", "diagonal_noise")),
    *(
        Cell(name, (32,) * 1000, 0.90, 3e-5, _QUICK_DEEP.get(name, ()), most=_DEEP, draws=8)
        for name in ("gelu", "relu", "tanh", "sigmoid")
    ),
    *(
        Cell(name, (256,) * 3, math.nan, 1e-3, _QUICK_WIDE.get(name, ()))
        for name in ("relu", "gelu", "tanh")
    ),
    *(
        Cell(
            name,
            (16,) * 50,
            math.nan,
            6e-4,
            ("auto", "orthogonal", "lsuv") if _QUICK_NONLINEAR[task] == name else (),
            task,
        )
        for task in _QUICK_NONLINEAR
        for name in ("tanh", "gelu", "relu")
    ),
    Cell(
        "gelu", (), 0.96, 3e-4, ("auto", "orthogonal", "lsuv"), convolutions=50, most=_CNN, draws=8
    ),
    Cell("relu", (), 0.95, 1e-4, ("auto",), convolutions=200, most=_CNN, draws=8),
    Cell("gelu", (), math.nan, 3e-4, convolutions=50, stride=1, most=_DEEP, draws=4),
    *(
        Cell(name, (16,) * 50, math.nan, 6e-4, (), task, most=_DEEP, draws=8)
        for task in ("mnist", "fashion")
        for name in ("tanh", "gelu")
    ),
)
BY_NAME = {cell.name: cell for cell in CELLS}
