"""Losses against torch's: time and peak memory of forward and backward.

    python benchmarks/losses.py             # some minutes on one core
    python benchmarks/losses.py --quick     # without the largest size
    python benchmarks/losses.py --compile   # both through torch.compile as well

Ours and torch's run in turn in one process, on the same numbers, and the ratio is that of the
medians of one seed; the error is the standard error over seeds. Time is that of the thread, on one
core. Peak memory is that of a fresh process, in sizes of the input, beside the input itself.

Without more words nothing is excluded. ``masked`` excludes a tenth of the classes, for torch by
``masked_fill``. ``z-loss`` adds the squared log partition, for torch by ``logsumexp``.
``empty rows`` and ``-inf targets`` have one such row in 20; torch's result is then nan or inf.

Prints a table and writes JSON.
"""

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from equipoise.training import losses

Tensor = torch.Tensor
Step = Callable[[Tensor], Tensor]
SIZES = [(64, 10), (256, 100), (1024, 1000), (512, 8000), (4096, 32000)]
KINDS = [
    "cross_entropy", "cross_entropy, masked", "cross_entropy, z-loss",
    "cross_entropy, probabilities", "cross_entropy, bfloat16", "cross_entropy, empty rows",
    "cross_entropy, -inf targets",
    "binary_cross_entropy", "binary_cross_entropy, bfloat16", "softmax", "log_softmax",
    "log_softmax, bfloat16", "softmax, empty rows",
]  # fmt: skip
# What the largest size is asked of; the others differ in nothing that size would show.
LARGE = ["cross_entropy"]


def prepared(kind: str, shape: tuple[int, int], seed: int) -> tuple[Tensor, Step, Step]:
    """Logits, our loss and torch's."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g)
    y = torch.randint(shape[1], (shape[0],), generator=g)
    match kind:
        case "cross_entropy, masked":
            mask = torch.rand(shape, generator=g) > 0.1
            mask[torch.arange(shape[0]), y] = True
            return (
                x,
                lambda x: losses.cross_entropy(x, y, mask=mask),
                lambda x: F.cross_entropy(x.masked_fill(~mask, -math.inf), y),
            )
        case "cross_entropy, z-loss":
            return (
                x,
                lambda x: losses.cross_entropy(x, y, z_loss=1e-4),
                lambda x: F.cross_entropy(x, y) + 1e-4 * (torch.logsumexp(x, 1) ** 2).mean(),
            )
        case "cross_entropy, probabilities":
            t = torch.rand(shape, generator=g).softmax(1)
            return x, lambda x: losses.cross_entropy(x, t), lambda x: F.cross_entropy(x, t)
        case "cross_entropy, bfloat16":
            x = x.bfloat16()
        case "cross_entropy, empty rows":
            x[::20] = -math.inf
        case "cross_entropy, -inf targets":
            rows = torch.arange(0, shape[0], 20)
            x[rows, y[rows]] = -math.inf
        case "binary_cross_entropy" | "binary_cross_entropy, bfloat16":
            x = x.bfloat16() if "bfloat16" in kind else x
            t = torch.randint(2, shape, generator=g).to(x.dtype)
            return (
                x,
                lambda x: losses.binary_cross_entropy_with_logits(x, t),
                lambda x: F.binary_cross_entropy_with_logits(x, t),
            )
        case "softmax" | "log_softmax" | "log_softmax, bfloat16" | "softmax, empty rows":
            name = kind.split(",")[0]
            ours, theirs = getattr(losses, name), getattr(torch, name)
            x = x.bfloat16() if "bfloat16" in kind else x
            if "empty" in kind:
                x[::20] = -math.inf
            factor = torch.randn(shape, generator=g).to(x.dtype)
            return x, lambda x: (ours(x) * factor).sum(), lambda x: (theirs(x, -1) * factor).sum()
    return x, lambda x: losses.cross_entropy(x, y), lambda x: F.cross_entropy(x, y)


def step(loss_of: Step, x: Tensor) -> None:
    x.grad = None
    loss_of(x).backward()


def seconds(loss_of: Step, x: Tensor, times: int) -> float:
    begun = time.thread_time()
    for _ in range(times):
        step(loss_of, x)
    return (time.thread_time() - begun) / times


def compare(
    kind: str, shape: tuple[int, int], seeds: Sequence[int], rounds: int, is_compiled: bool
) -> dict[str, Any]:
    """Times of ours and of torch's in turn, a ratio for each seed."""
    ratios, ours, theirs = list[float](), list[float](), list[float]()
    for seed in seeds:
        x, mine, torchs = prepared(kind, shape, seed)
        x.requires_grad_()
        if is_compiled:
            mine, torchs = torch.compile(mine, fullgraph=True), torch.compile(torchs)
        pair = (mine, torchs)
        found: tuple[list[float], list[float]] = ([], [])
        once = [seconds(f, x, 1) and seconds(f, x, 1) for f in pair]
        times = max(1, min(300, int(0.03 / max(once[1], 1e-6))))
        for _ in range(rounds if x.numel() < 10**8 else 3):
            for f, into in zip(pair, found, strict=True):
                into.append(seconds(f, x, times))
        ours.append(statistics.median(found[0]))
        theirs.append(statistics.median(found[1]))
        ratios.append(ours[-1] / theirs[-1])
    return {
        "kind": kind + (", compiled" if is_compiled else ""),
        "shape": shape,
        "ours_us": 1e6 * statistics.median(ours),
        "torch_us": 1e6 * statistics.median(theirs),
        "ratio": statistics.mean(ratios),
        "error": statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan,
    }


def _peak(kind: str, shape: tuple[int, int], is_ours: bool) -> float:
    """Peak of one step, in sizes of the input; in a process of its own."""
    torch.set_num_threads(1)
    for warm, own in ((prepared(kind, (8, 8), 0), False), (prepared(kind, shape, 0), True)):
        x, mine, torchs = warm
        x.requires_grad_()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if own:
            # Making the data may have had a peak of its own; fill up to it.
            now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            slack = before * 1024 - now
        step(mine if is_ours else torchs, x)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return ((after - before) * 1024 + slack) / (x.numel() * x.element_size())


def peaks(kind: str, shape: tuple[int, int]) -> dict[str, Any]:
    found = []
    for is_ours in (True, False):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_peak, (kind, shape, is_ours)))
    return {"kind": kind, "shape": shape, "ours": found[0], "torch": found[1]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="without the largest size")
    parser.add_argument("--compile", action="store_true", help="compiled as well")
    parser.add_argument("--memory", action="store_true", help="memory alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=11, help="turns for each seed")
    parser.add_argument("--out", type=Path, default=Path("results/losses.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=100)
    table = Table("loss", "size", "torch, us", "ours, us", "ours / torch", title="time")
    rows = []
    # First, for a new process starts with the peak of the one that makes it.
    memory = [peaks(kind, (2048, 8000)) for kind in KINDS]
    for shape in [] if options.memory else SIZES[:-1] if options.quick else SIZES:
        for kind in LARGE if shape == (4096, 32000) else KINDS:
            for is_compiled in (False, True) if options.compile and kind in LARGE else (False,):
                row = compare(kind, shape, range(options.seeds), options.rounds, is_compiled)
                rows.append(row)
                table.add_row(
                    row["kind"], "x".join(map(str, shape)), f"{row['torch_us']:.0f}",
                    f"{row['ours_us']:.0f}", f"{row['ratio']:.2f} +- {row['error']:.2f}",
                )  # fmt: skip
    if rows:
        console.print(table)
    table = Table("loss, 2048x8000", "torch", "ours", title="peak memory, in sizes of the input")
    for row in memory:
        table.add_row(row["kind"], f"{row['torch']:.2f}", f"{row['ours']:.2f}")
    console.print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"time": rows, "memory": memory}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
