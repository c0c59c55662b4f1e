"""What a monitor costs, as a share of a training step.

    python benchmarks/monitor_overhead.py            # six minutes of one core
    python benchmarks/monitor_overhead.py --quick    # two minutes, less sure

The two networks of ``benchmarks/guard_overhead.py``, a 12-layer transformer and one of the size of
ResNet-18, train with AdamW in one process, with no monitor, with one that looks closely at every
tenth step, and with one that does so at every step. In each round every variant takes one block of
ten whole steps, forward, backward and update, in turn step by step and in an order that is drawn
anew for each step, so that whatever else the machine does meets all of them alike; a block of ten
has one close look of the monitor with ``every=10``. Hooks of the others are off meanwhile. Times
are of the processor and not of the clock on the wall. A ratio is that of a block with a monitor to
the plain one of the same round; the table has the mean of the middle half and its standard error
over rounds.

Prints a table and writes JSON.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guard_overhead import CASES, Loss
from rich.console import Console
from rich.table import Table
from torch import nn

import equipoise.torch as eq

BLOCK = 10
VARIANTS = {"no monitor": 0, "every=10": 10, "every=1": 1}


def measure(make: Callable[[], tuple[nn.Module, Loss]], rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, loss_of = make()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    monitors = {
        name: eq.Monitor(model, optimizer, every=every) for name, every in VARIANTS.items() if every
    }
    for monitor in monitors.values():
        monitor.close()
    order, draw = list(VARIANTS), random.Random(0)
    blocks: dict[str, list[float]] = {name: [] for name in VARIANTS}

    def step(name: str) -> float:
        monitor = monitors.get(name)
        if monitor is not None:
            monitor.__enter__()
        begun = time.process_time()
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(loss)
        ended = time.process_time()
        if monitor is not None:
            monitor.close()
        return ended - begun

    # The first round fills windows and caches, and is not counted.
    for number in range(rounds + 1):
        spent = dict.fromkeys(VARIANTS, 0.0)
        for _ in range(BLOCK):
            draw.shuffle(order)
            for name in order:
                spent[name] += step(name)
        if number:
            for name, seconds in spent.items():
                blocks[name].append(seconds)
    plain = np.array(blocks["no monitor"])
    found = {}
    for name, times in blocks.items():
        ratios = np.sort(np.array(times) / plain)
        middle = ratios[len(ratios) // 4 : len(ratios) - len(ratios) // 4]
        found[name] = {
            "step_ms": 1e3 * float(np.median(times)) / BLOCK,
            "ratio": float(middle.mean()),
            "ratio_error": float(ratios.std() / np.sqrt(len(ratios))),
        }
    count = sum(p.numel() for p in model.parameters())
    return {"parameters": count, "variants": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="4 rounds")
    parser.add_argument("--rounds", type=int, default=16, help="blocks of ten steps per variant")
    parser.add_argument("--out", type=Path, default=Path("results/monitor_overhead.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, results = Console(width=100), {}
    table = Table("network", "monitor", "step, ms", "ratio to no monitor")
    for name, make in CASES.items():
        results[name] = found = measure(make, 4 if options.quick else options.rounds)
        for variant, x in found["variants"].items():
            is_plain = variant == "no monitor"
            table.add_row(
                name, variant, f"{x['step_ms']:.0f}",
                "1" if is_plain else f"{x['ratio']:.3f} ± {x['ratio_error']:.3f}",
            )  # fmt: skip
            name = ""
    console.print(table)
    console.print("one thread, processor time, blocks of ten steps")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
