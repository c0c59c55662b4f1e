"""Which tool names what made a nan, and what watching costs.

    python benchmarks/explain_nonfinite.py            # some ten minutes on one core
    python benchmarks/explain_nonfinite.py --quick    # two minutes

Faults: each is planted in a small training with each seed, and each tool watches up to five steps.
Operation, module and line are right if they are those that ``nonfinite_faults.py`` says. Trainings
without a fault count false alarms. ``torch.autograd.detect_anomaly`` names a node of the backward
pass and the line that made it: its operation is right where the node belongs to the operation.
Hugging Face's DebugUnderflowOverflow names modules: its module is right where it is the module with
the fault or one inside, its operation where the module does nothing else; tensors that were bad
when they came in count where it names the tensor. A dash is what a tool never tells.

Cost: seconds of a step of training under each tool over those of a plain one, in one process, by
turns; the mean over rounds and its standard error. One thread.
"""

import argparse
import contextlib
import io
import json
import math
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from nonfinite_faults import FAULTS, HEALTHY, Planted, Step
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

import equipoise.torch as eq

STEPS = 5
TOOLS = ("equipoise", "anomaly", "hugging face")


@dataclass(frozen=True)
class Named:
    """What a tool says: whether it fired, and what it named."""

    fired: bool = False
    operation: str = ""
    module: str | None = ""
    line: tuple[str, int] = ("", 0)


def by_equipoise(model: nn.Module, step: Step, read_every: int | None = None) -> Named:
    with eq.explain_nonfinite(model, on_found="report", read_every=read_every) as found:
        for _ in range(STEPS):
            if not found:
                step()
    result = found.result
    if result is None:
        return Named()
    operation = result.operation
    line = operation.lines[0] if operation and operation.lines else None
    where = {"outside the model": None, "the model's own forward": ""}
    return Named(True, operation.aten if operation else "", where.get(result.where, result.where),
                 (line.file, line.number) if line else ("", 0))  # fmt: skip


def by_anomaly(model: nn.Module, step: Step) -> Named:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with torch.autograd.detect_anomaly():
                for _ in range(STEPS):
                    step()
        except RuntimeError as error:
            node = re.search(r"Function '(\w+?)(Backward\d*)?' returned nan", str(error))
            text = "\n".join(
                str(w.message) for w in said if "Traceback of forward" in str(w.message)
            )
            files = re.findall(r'File "([^"]*nonfinite_\w+\.py)", line (\d+)', text)
            line = (files[-1][0], int(files[-1][1])) if files else ("", 0)
            return Named(True, node.group(1) if node else "", "", line)
    return Named()


def by_hugging_face(model: nn.Module, step: Step) -> Named:
    from transformers.debug_utils import DebugUnderflowOverflow

    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watching = DebugUnderflowOverflow(model)
        try:
            for _ in range(STEPS):
                step()
        except ValueError as error:
            if "DebugUnderflowOverflow" not in str(error):
                raise
            first = next(
                x for x in out.getvalue().splitlines() if x.endswith(("has nans", "has infs"))
            )
            frame = [x for x in out.getvalue().splitlines() if re.match(r"\s{8,}\S* ?[A-Z]\w+$", x)]
            words = frame[-1].split()
            name = words[0] if len(words) > 1 else ""
            return Named(True, f"{words[-1]} {first.split()[0]}", name)
    del watching
    return Named()


RUN: dict[str, Callable[[nn.Module, Step], Named]] = {
    "equipoise": by_equipoise, "anomaly": by_anomaly, "hugging face": by_hugging_face,
}  # fmt: skip


def judged(tool: str, planted: Planted, named: Named) -> dict[str, bool | None]:
    """Which of operation, module and line are right; None where the tool tells no such thing."""
    line = planted.line
    right_line = None if not line[0] else named.fired and named.line == line
    is_given = not planted.operations
    match tool:
        case "equipoise":
            operation = named.fired and named.operation in (planted.operations or ("",))
            module: bool | None = named.fired and named.module == planted.module
        case "anomaly":
            operation = named.fired and bool(planted.node) and named.operation == planted.node
            module = None
        case _:
            right_line = None
            kind, _, tensor = named.operation.partition(" ")
            does = {"Linear": ("addmm", "mm"), "Conv2d": ("convolution",)}.get(kind, ())
            operation = named.fired and bool(set(does) & set(planted.operations))
            owner = planted.module or ""
            if is_given:
                owner = owner.split("'")[1].rpartition(".")[0] if "parameter" in owner else ""
                operation = named.fired and tensor in ("weight", "bias", "input[0]")
            inside = named.module == owner or str(named.module).startswith(f"{owner}.")
            module = named.fired and planted.module is not None and inside
    return {"operation": operation, "module": module, "line": right_line}


def faults(seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Share of seeds with the right answer, by fault, tool and question."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, (_, plant) in FAULTS.items():
        results[name] = {}
        for tool in TOOLS:
            marks: dict[str, list[bool]] = {"operation": [], "module": [], "line": []}
            for seed in range(seeds):
                torch.manual_seed(seed)
                planted = plant(seed)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*degrees of freedom")
                    named = RUN[tool](planted.model, planted.step)
                for question, mark in judged(tool, planted, named).items():
                    if mark is not None:
                        marks[question].append(bool(mark))
            results[name][tool] = {q: sum(m) / len(m) if m else math.nan for q, m in marks.items()}
    return results


def alarms(seeds: int) -> dict[str, dict[str, int]]:
    """False alarms by training and tool."""
    results: dict[str, dict[str, int]] = {}
    for name, build in HEALTHY.items():
        results[name] = dict.fromkeys(TOOLS, 0)
        for tool in TOOLS:
            for seed in range(seeds):
                torch.manual_seed(seed)
                results[name][tool] += RUN[tool](*build()).fired
    return results


def transformer(width: int, length: int, rows: int) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, 0.1, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
    x = torch.randn(rows, length, width)
    return model, lambda: model(x).square().mean()


class Residual(nn.Module):
    """Two convolutions and a skip."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        self.skip = nn.Conv2d(inside, outside, 1, stride) if inside != outside else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return F.relu(self.branch(x) + self.skip(x))


def convolutions() -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    widths = (32, 32, 32, 64, 64, 128, 128, 256, 256)
    blocks = [Residual(a, b, 1 if a == b else 2) for a, b in pairwise(widths)]
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    x, y = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    return model, lambda: F.cross_entropy(model(x), y)


COSTS: dict[str, Callable[[], tuple[nn.Module, Callable[[], torch.Tensor]]]] = {
    "transformer, 12 layers of 256, 8 x 64": lambda: transformer(256, 64, 8),
    "transformer, 12 layers of 64, 2 x 16": lambda: transformer(64, 16, 2),
    "residual CNN, 18 layers of 32 to 256, 16 x 32 x 32": convolutions,
}


def seconds(step: Callable[[], None]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def costs(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Ratios to a plain step."""
    from transformers.debug_utils import DebugUnderflowOverflow

    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, make in COSTS.items():
        torch.manual_seed(0)
        model, loss_of = make()
        adam = torch.optim.AdamW(model.parameters(), 1e-4)

        def step(adam=adam, loss_of=loss_of) -> None:
            adam.zero_grad()
            loss_of().backward()
            adam.step()

        def watched(read_every: int, model=model, step=step) -> float:
            with eq.explain_nonfinite(model, read_every=read_every):
                step()
                return seconds(step)

        def anomaly(step=step) -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with torch.autograd.detect_anomaly():
                    return seconds(step)

        def hugging_face(model=model, step=step) -> float:
            DebugUnderflowOverflow(model)
            taken = seconds(step)
            for module in model.modules():
                module._forward_hooks.clear()
            return taken

        ways = {
            "equipoise": lambda: watched(1), "equipoise, 32 at a time": lambda: watched(32),
            "anomaly": anomaly, "hugging face": hugging_face,
        }  # fmt: skip
        for _ in range(2):
            step()
        ratios: dict[str, list[float]] = {way: [] for way in ways}
        plain = []
        for _ in range(rounds):
            for way, run in ways.items():
                before, taken = seconds(step), run()
                plain += [before, seconds(step)]
                ratios[way].append(2 * taken / (plain[-2] + plain[-1]))
        results[name] = {
            way: {"ratio": statistics.mean(r), "error": statistics.stdev(r) / math.sqrt(len(r)),
                  "median": statistics.median(r)}
            for way, r in ratios.items()
        }  # fmt: skip
        results[name]["plain"] = {"ms": 1e3 * statistics.median(plain)}
    return results


def share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, three rounds")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each cost")
    parser.add_argument("--only", choices=("faults", "alarms", "costs"))
    parser.add_argument("--out", type=Path, default=Path("results/explain_nonfinite.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, rounds = (2, 3) if options.quick else (options.seeds, options.rounds)
    console, found = Console(width=110), dict[str, Any]()
    if options.only in (None, "faults"):
        found["faults"] = named = faults(seeds)
        table = Table("fault", "in", *(f"{t}: operation, module, line" for t in TOOLS))
        for name, (kind, _) in FAULTS.items():
            table.add_row(name, kind, *(
                "  ".join(share(named[name][t][q]) for q in ("operation", "module", "line"))
                for t in TOOLS
            ))  # fmt: skip
        table.add_section()
        means = []
        for tool in TOOLS:
            cells = []
            for question in ("operation", "module", "line"):
                told = [named[n][tool][question] for n in FAULTS]
                told = [x for x in told if not math.isnan(x)]
                cells.append(share(statistics.mean(told) if told else math.nan))
            means.append("  ".join(cells))
        table.add_row("all", f"{len(FAULTS)} x {seeds}", *means)
        console.print("% of seeds with the right", table)
    if options.only in (None, "alarms"):
        found["alarms"] = wrong = alarms(seeds)
        table = Table("training without a fault", *TOOLS, title=f"false alarms of {seeds}")
        for name, counts in wrong.items():
            table.add_row(name, *(str(counts[t]) for t in TOOLS))
        console.print(table)
    if options.only in (None, "costs"):
        found["costs"] = taken = costs(rounds)
        ways = [way for way in next(iter(taken.values())) if way != "plain"]
        table = Table("network", "plain, ms", *ways, title="cost of a step, over a plain one")
        for name, numbers in taken.items():
            table.add_row(name, f"{numbers['plain']['ms']:.0f}", *(
                f"{numbers[w]['ratio']:.2f} +- {numbers[w]['error']:.2f}" for w in ways
            ))  # fmt: skip
        console.print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
