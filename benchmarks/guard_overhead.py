"""What a guard costs, as a share of a training step.

    python benchmarks/guard_overhead.py            # six minutes of one core
    python benchmarks/guard_overhead.py --quick    # two minutes, less sure

A 12-layer transformer (9.5 million parameters, 512 tokens) and a network of the size of ResNet-18
(11.2 million, 8 images of 32 x 32) train with AdamW in one process. In each round every variant
takes one whole step, forward, backward and update, in an order that is drawn anew, so that
whatever else the machine does meets all of them alike. Times are of the processor and not of the
clock on the wall. A ratio is that of a step with a guard to the plain one of the same round; the
table has the mean of the middle half and its standard error over rounds.

Prints a table and writes JSON.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

import equipoise.torch as eq

# A limit below every norm, so that each step is clipped, and one above every norm.
LOW, HIGH = 1e-3, 1e9
Loss = Callable[[], torch.Tensor]


class Residual(nn.Module):
    """The basic block of arXiv 1512.03385."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs) for _ in range(2)])
        self.short = (
            nn.Identity() if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                               nn.BatchNorm2d(outputs))
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images of (rows, channels, height, width)."""
        inner = self.norms[1](self.two(F.relu(self.norms[0](self.one(x)))))
        return F.relu(inner + self.short(x))


def resnet() -> tuple[nn.Module, Loss]:
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [Residual(a, b, 1 if a == b else 2) for a, b in pairwise(widths)]
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    x, y = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    return model, lambda: F.cross_entropy(model(x), y)


def transformer() -> tuple[nn.Module, Loss]:
    layer = nn.TransformerEncoderLayer(256, 8, 1024, 0.0, batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
    model = nn.ModuleDict({"body": body, "head": nn.Linear(256, 64)})
    x, y = torch.randn(8, 64, 256), torch.randint(64, (512,))
    return model, lambda: F.cross_entropy(model["head"](model["body"](x)).flatten(0, 1), y)


CASES = {"transformer, 12 layers": transformer, "ResNet-18": resnet}


def variants(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Callable[[torch.Tensor], Any]]:
    """Each way to step, given the loss."""

    def by_hand(loss: torch.Tensor) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), LOW)
        optimizer.step()

    def guarded(clip: Any, **options: Any) -> Callable[[torch.Tensor], Any]:
        guard = eq.Guard(optimizer, clip, model=model, **options)
        return lambda loss: guard.step(loss=loss)

    return {
        "no guard": lambda loss: optimizer.step(),
        "clip_grad_norm_ of torch": by_hand,
        "guard, ZScore": guarded(eq.ZScore()),
        "guard, no rule": guarded(None),
        "guard, no rule, no spikes": guarded(None, spikes=None),
        "guard, GlobalNorm, never met": guarded(eq.GlobalNorm(HIGH)),
        "guard, GlobalNorm": guarded(eq.GlobalNorm(LOW)),
        "guard, Percentile(10)": guarded(eq.Percentile()),
        "guard, PerLayer": guarded(eq.PerLayer(LOW)),
        "guard, Value": guarded(eq.Value(1e-9)),
        "guard, Value(0.01)": guarded(eq.Value(0.01)),
        "guard, PerUnit": guarded(eq.PerUnit(1e-6)),
        "guard, rollback every 20 steps": guarded(eq.ZScore(), rollback=eq.Rollback(every=20)),
    }


def measure(make: Callable[[], tuple[nn.Module, Loss]], rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, loss_of = make()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    steps = variants(model, optimizer)
    order, draw = list(steps), random.Random(0)
    whole: dict[str, list[float]] = {name: [] for name in steps}
    own: dict[str, list[float]] = {name: [] for name in steps}
    # Rounds that fill windows and caches are not counted.
    for number in range(rounds + 3):
        draw.shuffle(order)
        for name in order:
            begun = time.process_time()
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            stepped = time.process_time()
            steps[name](loss)
            ended = time.process_time()
            if number >= 3:
                whole[name].append(ended - begun)
                own[name].append(ended - stepped)
    plain, bare = np.array(whole["no guard"]), np.array(own["no guard"])
    found = {}
    for name in steps:
        ratios, mine = np.sort(np.array(whole[name]) / plain), np.array(own[name])
        middle = ratios[len(ratios) // 4 : len(ratios) - len(ratios) // 4]
        # What the update takes longer, over a step: free of the noise of forward and backward.
        shares = (mine - bare) / np.median(plain)
        centre = np.median(shares)
        spread = 1.4826 * np.median(np.abs(shares - centre))
        found[name] = {
            "step_ms": 1e3 * float(np.median(whole[name])),
            "update_ms": 1e3 * float(np.median(mine)),
            "ratio": float(middle.mean()),
            "ratio_error": float(ratios.std() / np.sqrt(len(ratios))),
            "share": float(centre),
            # 1.2533: of a median, in normal samples.
            "share_error": float(1.2533 * spread / np.sqrt(len(shares))),
        }
    return {"parameters": sum(p.numel() for p in model.parameters()), "variants": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="6 rounds")
    parser.add_argument("--rounds", type=int, default=24, help="steps of each variant")
    parser.add_argument("--out", type=Path, default=Path("results/guard_overhead.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, results = Console(width=110), {}
    table = Table("network", "variant", "step, ms", "update, ms", "steps, ratio", "added / step")
    for name, make in CASES.items():
        results[name] = found = measure(make, 6 if options.quick else options.rounds)
        for variant, x in found["variants"].items():
            is_plain = variant == "no guard"
            table.add_row(
                name, variant, f"{x['step_ms']:.0f}", f"{x['update_ms']:.1f}",
                "1" if is_plain else f"{x['ratio']:.3f} ± {x['ratio_error']:.3f}",
                "" if is_plain else f"{x['share']:.2%} ± {x['share_error']:.2%}",
            )  # fmt: skip
            name = ""
    console.print(table)
    console.print(
        "one thread, processor time; ZScore, Percentile and 'never met' apart, each step is clipped"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
