"""The cells of the trainability grid: fixed, stratified samples of networks and tasks.

All combinations of activations, depths, widths and tasks are days of work. A sample is balanced: it
has every activation, every shape and every task equally often (tasks by their weights), and two
factors meet as rarely twice as can be.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from equipoise import _checks
from equipoise.lab.setting import Setting

Sample = Literal["scoreboard", "held-out", "quick"]
SAMPLES: tuple[Sample, ...] = ("scoreboard", "held-out", "quick")


@dataclass(frozen=True)
class _Shape:
    """Hidden widths, and whether they are residual blocks."""

    hidden: tuple[int, ...]
    is_residual: bool = False


# Rows held back and passes, such that each task takes about 500 steps of 64 rows.
_TASKS = {
    "digits": (200, 26),
    "spirals": (400, 20),
    "sign_products(features=4)": (400, 20),
    "checkerboard(cells=3)": (400, 20),
    "teacher": (400, 20),
    "polynomial(inputs=2)": (400, 20),
    "friedman": (400, 20),
    "sine(frequency=2)": (400, 20),
    "diabetes": (60, 100),
    "mnist(rows=5000)": (1000, 8),
    "fashion_mnist(rows=5000)": (1000, 8),
    "spirals(turns=1.5)": (400, 20),
    "sign_products(order=3, features=5)": (400, 20),
    "checkerboard": (400, 20),
    "teacher(features=4, seed=1)": (400, 20),
    "polynomial(degree=7, inputs=3)": (400, 20),
    "friedman(function=2)": (400, 20),
}
_ACTIVATIONS = (
    "relu", "leaky_relu(0.1)", "gelu", "silu", "mish", "hardswish", "elu", "selu", "softplus",
    "sigmoid", "tanh", "softsign", "arctan", "erf", "sin", "celu(0.5)",
)  # fmt: skip
_WIDTHS = {10: (8, 32), 30: (4, 8, 16, 32), 60: (4, 8, 16, 32), 100: (4, 8, 16, 32), 200: (8, 16)}
_SHAPES = (
    *(_Shape((width,) * depth) for depth, widths in _WIDTHS.items() for width in widths),
    _Shape((64,) * 20),
    _Shape((16, 4) * 25),
    _Shape((32, 24, 16, 8) * 6),
    _Shape((16,) * 24, is_residual=True),
)
_SCOREBOARD_TASKS = (*list(_TASKS)[:9], "digits")
_HELD_OUT_TASKS = (*list(_TASKS)[9:], "mnist(rows=5000)", "fashion_mnist(rows=5000)")
# What is too deep to be met often, beside the balanced sample.
_DEEPEST = (("tanh", 500), ("gelu", 1000))
_QUICK = 12
# Of the draws of samples, and how many are tried for the one where factors meet most evenly.
_SCOREBOARD_SEED, _HELD_OUT_SEED, _TRIES = 1, 2, 400


def cells(sample: Sample) -> tuple[Setting, ...]:
    """The networks and tasks of one sample.

    Args:
        sample: ``scoreboard``, 80 cells; ``held-out``, 40 cells of tasks that the scoreboard does
            not have, a third of them on images in files; ``quick``, a few of the scoreboard's.

    Returns:
        The cells, always the same.

    Raises:
        ArgumentError: for another name.

    >>> len(cells("scoreboard")), len(cells("held-out"))
    (80, 40)
    """
    match _checks.one_of("sample", sample, SAMPLES):
        case "held-out":
            shapes = tuple(s for s in _SHAPES if len(s.hidden) <= 100)
            return _balanced(40, shapes, _HELD_OUT_TASKS, _HELD_OUT_SEED)
        case "quick":
            small = [s for s in cells("scoreboard") if len(s.hidden) <= 60]
            return tuple(small[:: len(small) // _QUICK][:_QUICK])
        case _:
            deep = tuple(_cell(a, _Shape((8,) * depth), "digits") for a, depth in _DEEPEST)
            return _balanced(78, _SHAPES, _SCOREBOARD_TASKS, _SCOREBOARD_SEED) + deep


def first_rate(setting: Setting) -> float:
    """A first guess of Adam's learning rate, 0.5 / (depth times mean width).

    >>> first_rate(Setting("digits", (16,) * 50, "tanh"))
    0.000625
    """
    return 0.5 / sum(setting.hidden)


def _balanced(
    count: int, shapes: Sequence[_Shape], tasks: Sequence[str], seed: int
) -> tuple[Setting, ...]:
    """Cells with all levels of each factor equally often."""
    generator = random.Random(seed)

    def drawn() -> tuple[tuple[str, _Shape, str], ...]:
        columns = []
        for levels in (_ACTIVATIONS, shapes, tasks):
            column = [levels[i % len(levels)] for i in range(count)]
            generator.shuffle(column)
            columns.append(column)
        return tuple(zip(*columns, strict=True))

    best = min((drawn() for _ in range(_TRIES)), key=_repeats)
    return tuple(_cell(*one) for one in best)


def _repeats(sample: Sequence[tuple[str, _Shape, str]]) -> int:
    """How often two levels meet that have met before."""
    met = Counter((i, j, cell[i], cell[j]) for cell in sample for i, j in combinations(range(3), 2))
    return sum(n - 1 for n in met.values())


def _cell(activation: str, shape: _Shape, task: str) -> Setting:
    held, epochs = _TASKS[task]
    return Setting(
        task, shape.hidden, activation, epochs, validation=held, is_residual=shape.is_residual
    )
