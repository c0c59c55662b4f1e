"""Random PyTorch models: branches, merges, reuse, odd shapes, and operations of all kinds.

``random_model`` asks a function ``choose`` for each decision, so that the ``choice`` of a seeded
``random.Random`` and a search such as Hypothesis's build from the same parts (``random_parts.py``).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from random_parts import MAPS, ROWS, Call, Choose, conv, linear, pure, to_rows
from torch import nn

# Larger values are not grown any further, so that models stay quick.
_MOST_ENTRIES = 20_000
# Wider values are read by nothing whose weight grows with the square of the width.
_WIDEST = 64


@dataclass(frozen=True)
class Made:
    """A random model.

    Attributes:
        model: it.
        inputs: what its forward takes.
        lines: one for each step, as a program.
    """

    model: nn.Module
    inputs: tuple[torch.Tensor, ...]
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The model as a program."""
        return "\n".join(self.lines)


class Steps(nn.Module):
    """Modules that read earlier values by number; some values are what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList()
        self.reads: list[tuple[int, ...]] = []
        self.results: tuple[int, ...] = ()
        self.kind = "tensor"

    def add(self, module: nn.Module, *reads: int) -> None:
        """One more step."""
        self.body.append(module)
        self.reads.append(reads)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """All steps in order."""
        values = list(inputs)
        for module, reads in zip(self.body, self.reads, strict=True):
            values.append(module(*(values[i] for i in reads)))
        found = tuple(values[i] for i in self.results)
        if self.kind == "dict":
            return {f"out{i}": v for i, v in enumerate(found)}
        return found[0] if self.kind == "tensor" else found


class Builder:
    """Grows ``Steps`` one decision at a time; values of tensors say what fits next."""

    def __init__(self, choose: Choose[Any], inputs: list[tuple[torch.Tensor, str]]) -> None:
        self.choose = choose
        self.steps = Steps()
        self.values = [x for x, _ in inputs]
        self.kinds = [kind for _, kind in inputs]
        self.lines: list[str] = []

    @property
    def last(self) -> int:
        """Number of the newest value."""
        return len(self.values) - 1

    def add(self, module: nn.Module, kind: str, *reads: int) -> int:
        """One more step; the number of its value."""
        with torch.no_grad():
            # In-place operations must not change what later steps are tried on.
            made = module(*(self.values[i].clone() for i in reads))
        self.steps.add(module, *reads)
        self.values.append(made)
        self.kinds.append(kind)
        read = ", ".join(f"v{i}" for i in reads)
        text = " ".join(str(module).split())
        self.lines.append(f"v{self.last} = {text} of {read}  # {tuple(made.shape)}")
        return self.last

    def part(self, at: int) -> int:
        """One more operation on a value."""
        x, kind = self.values[at], self.kinds[at]
        parts = [p for p, chances in (ROWS if kind == "rows" else MAPS) for _ in range(chances)]
        part = self.choose(parts)
        module = part(self.choose, x)
        if module is None:
            return at
        text = str(module)
        after = "rows" if kind == "rows" or "unfold" in text else "maps"
        return self.add(module, after, at)

    def chain(self, at: int, length: int) -> int:
        """Several operations one after the other."""
        for _ in range(length):
            if self.values[at].numel() > _MOST_ENTRIES:
                return self.as_rows(at) if self.kinds[at] == "maps" else at
            at = self.part(at)
        return at

    def as_rows(self, at: int) -> int:
        """A value with its features last."""
        if self.kinds[at] == "rows":
            return at
        return self.add(to_rows(self.choose, self.values[at]), "rows", at)

    def like(self, at: int, other: int) -> int:
        """A value brought to the features of another one; the other axes must agree."""
        x, y = self.values[at], self.values[other]
        if self.kinds[at] == "rows":
            if x.shape[:-1] != y.shape[:-1] or min(x.shape[-1], y.shape[-1]) > _WIDEST:
                return -1
            return at if x.shape == y.shape else self.add(
                nn.Linear(x.shape[-1], y.shape[-1]), "rows", at
            )  # fmt: skip
        if (len(x), x.shape[2:]) != (len(y), y.shape[2:]):
            return -1
        axes = x.dim() - 2
        make = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
        return at if x.shape == y.shape else self.add(make(x.shape[1], y.shape[1], 1), "maps", at)

    def merge(self, first: int, second: int) -> int:
        """Two values of like shapes made one."""
        axis = -1 if self.kinds[first] == "rows" else 1
        kind = self.choose(
            ("add", "add", "sum", "mul", "gate", "cat", "sub", "stack", "mean", "add_", "maximum")
        )
        module = {
            "add": pure("x + y", torch.add),
            "sum": pure("0.5 * x + y", lambda x, y: 0.5 * x + y),
            "mul": pure("x * y", torch.mul),
            "gate": pure("x * sigmoid(y)", lambda x, y: x * torch.sigmoid(y)),
            "cat": pure("cat([x, y])", lambda x, y: torch.cat([x, y], axis)),
            "sub": pure("x - y", torch.sub),
            "stack": pure("stack([x, y]).sum(0)", lambda x, y: torch.stack([x, y]).sum(0)),
            "mean": pure("stack([x, y]).mean(0)", lambda x, y: torch.stack([x, y]).mean(0)),
            "add_": pure("x.clone().add_(y)", lambda x, y: x.clone().add_(y)),
            "maximum": pure("maximum(x, y)", torch.maximum),
        }[kind]
        return self.add(module, self.kinds[first], first, second)

    def residual(self, at: int) -> int:
        """A stream: x + branch(x), several times, perhaps with norms and scales of branches."""
        norm, scaled = self.choose(("none", "pre", "post")), self.choose((False, False, True))
        channels = self.kinds[at] == "maps"
        n = self.values[at].shape[1 if channels else -1]
        alone = channels and self.values[at][0].numel() == 1
        if n > _WIDEST or alone:
            # A norm of a single number is refused by torch.
            return at
        for _ in range(self.choose((1, 2, 4))):
            begun = at
            if norm == "pre":
                at = self.add(
                    nn.GroupNorm(1, n) if channels else nn.LayerNorm(n), self.kinds[at], at
                )
            width = self.choose((n, 2 * n, 5))
            if channels:
                make = {1: nn.Conv1d, 2: nn.Conv2d}[self.values[at].dim() - 2]
                first, second = make(n, width, 3, padding=1), make(width, n, 1)
            else:
                first, second = nn.Linear(n, width), nn.Linear(width, n)
            act = self.choose((nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU))
            at = self.add(nn.Sequential(first, act(), second), self.kinds[at], at)
            if scaled:
                shape = (n, 1, 1)[: self.values[at].dim() - 1] if channels else (n,)
                gain = Call("x * g", lambda s, x: x * s.g, g=torch.full(shape, 0.1))
                at = self.add(gain, self.kinds[at], at)
            at = self.add(pure("x + y", torch.add), self.kinds[at], begun, at)
            if norm == "post":
                at = self.add(
                    nn.GroupNorm(1, n) if channels else nn.LayerNorm(n), self.kinds[at], at
                )
        return at

    def reuse(self, at: int) -> int:
        """A module of earlier once more, or its weight tied."""
        fitting = [
            (module, i)
            for i, module in enumerate(self.steps.body)
            if isinstance(module, nn.Linear)
            and self.kinds[at] == "rows"
            and self.values[at].shape[-1] in (module.in_features, module.out_features)
        ]
        if not fitting:
            return at
        module, _ = self.choose(fitting)
        if self.values[at].shape[-1] == module.in_features:
            return self.add(module, "rows", at)
        tied = Call("x @ weight of an earlier layer", lambda s, x: x @ s.inner.weight, inner=module)
        return self.add(tied, "rows", at)


def _input(choose: Choose[Any]) -> tuple[torch.Tensor, str]:
    batch, width = choose((1, 2, 7, 32)), choose((1, 3, 8, 17, 24))
    shapes = {
        "vectors": (choose((2, 32, 128)), width), "sequences": (batch, choose((1, 3, 6)), width),
        "maps": (batch, choose((1, 3, 8)), choose((4, 6, 8)), choose((4, 6, 8))),
        "series": (batch, width, 8), "extra": (batch, 2, 3, width), "tokens": (batch, 5),
    }  # fmt: skip
    kind = choose(("vectors", "vectors", "sequences", "maps", "maps", "series", "extra", "tokens"))
    shape = shapes[kind]
    if kind == "tokens":
        return torch.randint(0, 11, shape), "tokens"
    scale, mean = choose((1.0, 1.0, 0.1, 10.0)), choose((0.0, 0.0, 1.0))
    x = torch.randn(shape)
    if kind == "maps" and choose((False, True)):
        x = F.interpolate(torch.randn(*shape[:2], 2, 2), size=shape[2:], mode="bilinear")
    x = scale * (x + mean)
    return x, "maps" if kind in ("maps", "series") else "rows"


def random_model(choose: Choose[Any], seed: int = 0) -> Made:
    """A model and inputs for it.

    Args:
        choose: picks one of several options.
        seed: of the values of inputs and of parameters before they are started.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _grown(choose)


def _grown(choose: Choose[Any]) -> Made:
    inputs = [_input(choose)]
    if inputs[0][1] == "rows" and choose((False, False, True)):
        inputs.append((torch.randn_like(inputs[0][0]), "rows"))
    b = Builder(choose, inputs)
    at = 0
    if b.kinds[0] == "tokens":
        at = b.add(nn.Embedding(11, choose((8, 16))), "rows", 0)
    elif choose((True, True, False)):
        first = linear if b.kinds[0] == "rows" else conv
        at = b.add(first(choose, b.values[0]), b.kinds[0], 0)  # type: ignore[arg-type]
    for i in range(1, len(inputs)):
        other = b.chain(b.add(linear(choose, b.values[i]), "rows", i), 1)
        one = b.like(other, at)
        at = b.merge(at, one) if one >= 0 else at
    for _ in range(choose((1, 2, 3, 4, 5))):
        match choose(("chain", "chain", "branch", "branch", "residual", "reuse", "rows")):
            case "chain":
                at = b.chain(at, choose((1, 2, 3)))
            case "branch":
                one, other = b.chain(at, choose((0, 1, 2))), b.chain(at, choose((1, 2, 3)))
                if b.kinds[one] != b.kinds[other]:
                    one, other = b.as_rows(one), b.as_rows(other)
                fitted = b.like(other, one)
                at = b.merge(one, fitted) if fitted >= 0 else other
            case "residual":
                at = b.residual(at)
            case "reuse":
                at = b.reuse(at)
            case "rows":
                at = b.as_rows(at)
    if choose((True, True, True, False)):
        at = b.as_rows(at)
        at = b.add(linear(choose, b.values[at]), "rows", at)
    b.steps.kind = choose(("tensor", "tensor", "tuple", "dict"))
    b.steps.results = (at,) if b.steps.kind == "tensor" else (at, b.last)
    model, lines = b.steps, list(b.lines)
    for i, x in enumerate(b.values[: len(inputs)]):
        mean = (
            f", mean {float(x.mean()):.2g}, std {float(x.std()):.2g}"
            if x.is_floating_point()
            else ""
        )
        lines.insert(i, f"v{i} = input {tuple(x.shape)}{mean}")
    lines += [f"return {b.steps.kind} {b.steps.results}"]
    if choose((False, False, False, True)):
        model.unused = nn.Linear(3, 3)
        lines.append("# and a layer that nothing uses")
    if choose((False, False, False, False, True)):
        names = [name for name, _ in model.named_parameters()]
        if names:
            frozen = choose(names)
            model.get_parameter(frozen).requires_grad_(False)
            lines.append(f"# {frozen} is frozen")
    values = tuple(b.values[: len(inputs)])
    if choose((False, False, False, True)):
        model.double()
        values = tuple(x.double() if x.is_floating_point() else x for x in values)
        lines.append("# in float64")
    if choose((False, False, True)):
        model.eval()
        lines.append("# in evaluation")
    return Made(model, values, tuple(lines))
