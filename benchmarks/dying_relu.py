"""ReLU units that die: what a monitor finds, and what each remedy is worth.

    python benchmarks/dying_relu.py            # some six minutes of one core; goes on if stopped
    python benchmarks/dying_relu.py --quick    # 2 seeds

Dense networks on digits, 300 steps of 64 rows, in three settings in which units die: a rate that
is too high, biases far below 0, and a deep narrow network. Each remedy is taken from the start, and
in another training of the same seed in the step of the first finding, when the harm is done: the
slope, the rate and the clip for the whole network from then on, the bias for each layer that is
named, as it is named. ``silent`` is the share of hidden units that are below 0 on every row of the
test part, which are dead unless there is a slope below 0; the loss is the cross-entropy there, at
most log 10 = 2.30, that of a network that says nothing; ``lost`` is how many end above 2.2.

Prints a table and writes JSON.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

import equipoise.torch as eq
from equipoise.lab.data import digits

STEPS, ROWS, EVERY, LOST = 300, 64, 5, 2.2
SLOPE, LESS, LIMIT = 0.01, 10.0, 1.0

Remedy = Literal["none", "slope", "bias", "rate", "clip", "balance"]
WORDS: dict[Remedy, str] = {
    "none": "none",
    "slope": f"LeakyReLU({SLOPE})",
    "bias": "biases 0",
    "rate": f"rate / {LESS:g}",
    "clip": f"Guard, GlobalNorm({LIMIT:g})",
    "balance": "eq.initialize",
}


@dataclass(frozen=True)
class Setting:
    """Where units die.

    Attributes:
        depth, width: of the hidden layers.
        optimizer: makes one of parameters and a rate.
        rate: of it.
        bias: that hidden layers start with; None for the draw of torch.
        words: for the table.
    """

    depth: int
    width: int
    optimizer: Callable[..., torch.optim.Optimizer]
    rate: float
    bias: float | None
    words: str


def momentum(parameters: Any, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9)


SETTINGS: dict[str, Setting] = {
    "rate": Setting(6, 64, torch.optim.Adam, 0.03, None, "rate too high: 6 x 64, Adam, 0.03"),
    "bias": Setting(6, 64, momentum, 0.02, -2.0, "biases at -2: 6 x 64, SGD, 0.02"),
    "deep": Setting(24, 6, torch.optim.Adam, 3e-3, None, "deep and narrow: 24 x 6, Adam, 0.003"),
}


def network(setting: Setting, is_leaky: bool, has_bias: bool) -> nn.Sequential:
    sizes = [64] + setting.depth * [setting.width]
    layers: list[nn.Module] = []
    for i in range(setting.depth):
        layer = nn.Linear(sizes[i], sizes[i + 1])
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if not has_bias:
            nn.init.zeros_(layer.bias)
        elif setting.bias is not None:
            nn.init.constant_(layer.bias, setting.bias)
        layers += [layer, nn.LeakyReLU(SLOPE) if is_leaky else nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(setting.width, 10))


def silent_share(model: nn.Sequential, x: torch.Tensor) -> float:
    """Share of the hidden units that are below 0 on all rows."""
    count = total = 0
    with torch.no_grad():
        for module in model[:-1]:
            if not isinstance(module, nn.Linear):
                count, total = count + int((x.amax(0) <= 0).sum()), total + x.shape[1]
            x = module(x)
    return count / total


class Run:
    """One training.

    Args:
        setting: where units die.
        remedy: what is done about it.
        is_late: whether only when a finding asks for it.
        seed: of everything.
    """

    def __init__(self, setting: Setting, remedy: Remedy, is_late: bool, seed: int) -> None:
        torch.manual_seed(seed)
        early = "none" if is_late else remedy
        self.task = digits(1024)
        self.model = network(setting, early == "slope", early != "bias")
        if early == "balance":
            generator = torch.Generator().manual_seed(seed)
            eq.initialize(self.model, self.task.x_train[:256], generator=generator)
        self.remedy, self.is_late = remedy, is_late
        self.optimizer = setting.optimizer(
            self.model.parameters(), setting.rate / (LESS if early == "rate" else 1.0)
        )
        self.guard: eq.Guard | None = None
        if early == "clip":
            self.guard = eq.Guard(self.optimizer, eq.GlobalNorm(LIMIT), model=self.model)
        self.generator = torch.Generator().manual_seed(seed + 50_000)
        self.monitor = eq.Monitor(self.model, self.optimizer, every=EVERY)
        self.found: list[tuple[int, eq.Finding]] = []

    def train(self) -> dict[str, Any]:
        """All steps; what the network is then, and what was found."""
        task = self.task
        for step in range(1, STEPS + 1):
            rows = torch.randint(task.rows, (ROWS,), generator=self.generator)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(task.x_train[rows]), task.y_train[rows])
            loss.backward()
            if self.guard is None:
                self.optimizer.step()
            else:
                self.guard.step(loss=loss)
            for finding in self.monitor.step(loss):
                if finding.code in ("dead-units", "dying-units"):
                    self.found.append((step, finding))
                    if self.is_late:
                        self.mend(finding.where)
        self.monitor.close()
        with torch.no_grad():
            loss = F.cross_entropy(self.model(task.x_test), task.y_test)
            share = (self.model(task.x_test).argmax(1) == task.y_test).float().mean()
        end = min(loss.item(), math.log(10)) if math.isfinite(loss.item()) else math.log(10)
        first = self.found[0] if self.found else None
        return {
            "silent": silent_share(self.model, task.x_test), "loss": end, "right": share.item(),
            "found": None if first is None else first[0],
            "said": None if first is None else f"{first[1].code} {first[1].where}",
        }  # fmt: skip

    def mend(self, layer: str) -> None:
        """What the finding asks for, in the training as it is."""
        match self.remedy:
            case "slope":
                for i, module in enumerate(self.model):
                    if isinstance(module, nn.ReLU):
                        self.model[i] = nn.LeakyReLU(SLOPE)
            case "bias":
                module = self.model.get_submodule(layer)
                with torch.no_grad():
                    module.bias.zero_()
            case "rate" if len(self.found) == 1:
                for group in self.optimizer.param_groups:
                    group["lr"] /= LESS
            case "clip" if self.guard is None:
                self.guard = eq.Guard(self.optimizer, eq.GlobalNorm(LIMIT), model=self.model)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 seeds")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/dying_relu.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.first, options.first + (2 if options.quick else options.seeds))
    done: dict[str, dict[str, Any]] = {}
    if options.out.exists():
        done = json.loads(options.out.read_text(encoding="utf-8"))
    table = Table("setting", "remedy", "found", "step", "silent", "loss", "lost",
                  "silent, late", "loss, late", "lost, late")  # fmt: skip
    for name in options.settings:
        setting = SETTINGS[name]
        for remedy, words in WORDS.items():
            rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
            for is_late in (False, True) if remedy not in ("none", "balance") else (False,):
                for seed in seeds:
                    key = f"{name}/{remedy}/{'late' if is_late else 'early'}/{seed}"
                    if key not in done:
                        done[key] = Run(setting, remedy, is_late, seed).train()
                    rows[is_late].append(done[key])
                store(options.out, done)
            steps = [r["found"] for r in rows[False] if r["found"] is not None]
            table.add_row(setting.words if remedy == "none" else "", words,
                          f"{len(steps)} of {len(seeds)}",
                          f"{statistics.median(steps):g}" if steps else "",
                          *_cells(rows[False]), *_cells(rows[True]))  # fmt: skip
        table.add_section()
    Console(width=150).print(table)
    return 0


def store(path: Path, done: dict[str, dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in done.items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def _cells(rows: list[dict[str, Any]]) -> tuple[str, str, str]:
    if not rows:
        return "", "", ""
    return (_mean([r["silent"] for r in rows], ".0%"), _mean([r["loss"] for r in rows], ".2f"),
            str(sum(r["loss"] > LOST for r in rows)))  # fmt: skip


def _mean(numbers: list[float], form: str) -> str:
    error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return f"{statistics.mean(numbers):{form}} ± {error:{form}}"


if __name__ == "__main__":
    sys.exit(main())
