# ruff: noqa: D101, D102
"""Whether a monitor names what goes wrong, and is silent where nothing does.

    python benchmarks/fault_injection.py    # some 20 minutes of one core; goes on if stopped
    python benchmarks/fault_injection.py --seeds 2 --first 1000 --healthy 0 --out results/try.json

Twelve kinds of faults with 20 seeds each (``injected_faults.py``), in small real trainings, watched
by ``Monitor(every=1)``, ``Monitor(every=10)`` and by peers where they are installed: Hugging Face's
DebugUnderflowOverflow, torchdiag (``check_gradients`` and ``check_dead_neurons`` in every step) and
smartclip (its z-score clip of each layer, without its warm-up of 100 numbers beyond 20 steps).

A run is right if a finding names rule and layer within 10 steps of the cause, and nothing but
``info`` was said before the fault was planted. ``first`` is the share of runs in which the first
thing that is said is right as well. A peer's words are taken at their best: see ``_KINDS_OF``.

50 healthy trainings (``healthy_trainings.py``) count false alarms. Neither these nor the faults are
where thresholds were chosen; the digest of the file with thresholds is kept with the results, and
results under another digest are thrown away.

Prints a table and writes JSON.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from healthy_trainings import HEALTHY, Training
from injected_faults import KINDS, Planted, plant
from rich.console import Console
from rich.table import Table
from torch import nn

import equipoise.torch as eq
from equipoise.training import monitor_limits

WITHIN = 10
# Steps that a fault may take to creep in.
SLOWEST = 50
HEALTHY_STEPS = 150

# What was said in a step: code and place.
Said = tuple[str, str]


class Watched:
    """A tool at work. A step is begun, gradients come, the step ends; each may say something."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor | None, list[Said]]:
        return self.model(x), []

    def gradients(self, x: torch.Tensor) -> list[Said]:
        return []

    def end(self, loss: torch.Tensor) -> list[Said]:
        return []


class Monitored(Watched):
    def __init__(self, planted: Planted | Training, every: int) -> None:
        super().__init__(planted.model)
        given = planted.initialized or None if isinstance(planted, Planted) else None
        movers = planted.optimizer
        self.monitor = eq.Monitor(planted.model, movers, every=every, initialized=given)

    def end(self, loss: torch.Tensor) -> list[Said]:
        return [(f.code, f.where) for f in self.monitor.step(loss) if f.severity != "info"]


class HuggingFace(Watched):
    def __init__(self, planted: Planted | Training) -> None:
        super().__init__(planted.model)
        from transformers.debug_utils import DebugUnderflowOverflow

        with contextlib.redirect_stdout(io.StringIO()):
            self.detector = DebugUnderflowOverflow(planted.model)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor | None, list[Said]]:
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                return self.model(x), []
        except ValueError as error:
            if "DebugUnderflowOverflow" not in str(error):
                raise
        lines = out.getvalue().splitlines()
        first = next(x for x in lines if x.endswith(("has nans", "has infs")))
        frame = [x for x in lines if re.match(r"\s{8,}\S* ?[A-Z]\w+$", x)][-1].split()
        return None, [(first.split()[-1], frame[0] if len(frame) > 1 else "")]


class TorchDiag(Watched):
    """Speaks of what is out of order now and was not one step before."""

    def __init__(self, planted: Planted | Training) -> None:
        super().__init__(planted.model)
        self.before: set[Said] | None = None

    def gradients(self, x: torch.Tensor) -> list[Said]:
        import torchdiag

        with contextlib.redirect_stdout(io.StringIO()):
            by_name = torchdiag.check_gradients(self.model)
            dead = torchdiag.check_dead_neurons(self.model, x)
        now = {(v["status"], n) for n, v in by_name.items() if v["status"] != "OK"}
        now |= {("dead", n.replace("acts", "body")) for n, v in dead.items() if v["dead_pct"] > 50}
        new = now - (self.before or set())
        self.before = now
        return sorted(new)


class SmartClip(Watched):
    """Speaks where it clips a layer by more than half, of the layer that it clips most."""

    def __init__(self, planted: Planted | Training) -> None:
        super().__init__(planted.model)
        import smartclip

        layers = sum(1 for m in self.model.modules() if list(m.parameters(recurse=False)))
        self.clipper = smartclip.ZScoreClip(
            scope="per_layer", warmup_steps=20 * layers, min_history=20 * layers
        )

    def gradients(self, x: torch.Tensor) -> list[Said]:
        import smartclip

        told: list[dict[str, Any]] = []
        smartclip.apply(self.model, self.clipper, told.append)
        least = min(told, key=lambda r: r["scale"], default=None)
        if least is None or least["scale"] > 0.5:
            return []
        return [("clipped", least["key"][-1])]


TOOLS: dict[str, tuple[Callable[[Any], Watched], str]] = {
    "every=1": (lambda p: Monitored(p, 1), "torch"),
    "every=10": (lambda p: Monitored(p, 10), "torch"),
    "Hugging Face": (HuggingFace, "transformers"),
    "torchdiag": (TorchDiag, "torchdiag"),
    "smartclip": (SmartClip, "smartclip"),
}
# Words of peers that count as the rule of a kind; a clip is the right answer to a spike.
_KINDS_OF: dict[str, dict[str, tuple[str, ...]]] = {
    "Hugging Face": {"nan forward": ("nans", "infs"), "half overflow": ("infs", "nans")},
    "torchdiag": {
        "dying ReLU": ("dead",), "gradient spike": ("EXPLODE",), "vanishing": ("VANISH",),
        "frozen by mistake": ("NO GRAD", "no_grad"), "exploding rate": ("EXPLODE",),
        "bad batch": ("EXPLODE",),
    },
    "smartclip": {"gradient spike": ("clipped",), "bad batch": ("clipped",),
                  "exploding rate": ("clipped",)},
}  # fmt: skip


def is_right(tool: str, kind: str, planted: Planted, said: Said) -> bool:
    code, where = said
    if tool in _KINDS_OF:
        if code not in _KINDS_OF[tool].get(kind, ()):
            return False
        # A peer cannot say that it means the batch or the rate.
        places = [frozenset()] if kind == "bad batch" else list(planted.right.values())
    elif code not in planted.right:
        return False
    else:
        places = [planted.right[code]]
    return any(not p or any(where in (x, f"{x}.weight", f"{x}.bias") or x == f"{where}"
                            for x in p) for p in places)  # fmt: skip


def forward(planted: Planted, watched: Watched, x: torch.Tensor) -> tuple[Any, list[Said]]:
    if not planted.is_half:
        return watched.forward(x)
    with torch.autocast("cpu", torch.float16):
        out, said = watched.forward(x)
    return (None if out is None else out.float()), said


def inject(kind: str, seed: int, tool: str) -> dict[str, Any]:
    """One training with a fault under one tool."""
    planted = plant(kind, seed)
    watched = TOOLS[tool][0](planted)
    begins = max(planted.at, 1)
    cause = None if planted.has_come else begins
    said: list[tuple[int, Said]] = []
    step = 0
    while step < (begins + SLOWEST if cause is None else cause + WITHIN):
        step += 1
        x, y = planted.task.batch()
        x, y = planted.change(step, x, y) or (x, y)
        planted.optimizer.zero_grad()
        out, words = forward(planted, watched, x)
        if out is not None:
            loss = planted.task.loss(out, y)
            loss.backward()
            words = [*words, *watched.gradients(x)]
            planted.optimizer.step()
            words += watched.end(loss)
        said += [(step, word) for word in words]
        if cause is None and step >= begins and planted.has_come and planted.has_come():
            cause = step
        if out is None:
            # This tool ends a training when it speaks.
            cause = cause or step
            break
    early = [x for x in said if x[0] < begins]
    right = [n for n, x in said if n >= begins and is_right(tool, kind, planted, x)]
    late = [x for x in said if x[0] >= begins]
    is_first = bool(late) and late[0][0] in right
    return {
        "kind": kind, "seed": seed, "tool": tool, "way": planted.way, "begins": begins,
        "cause": cause, "right": bool(right) and not early, "first": is_first and not early,
        "step": right[0] if right else None, "early": len(early),
        "wanted": {k: sorted(v)[:3] for k, v in planted.right.items()},
        "said": [f"{n}: {code} {where}" for n, (code, where) in said[:6]],
    }  # fmt: skip


def rest(name: str, seed: int, tool: str) -> dict[str, Any]:
    """One healthy training under one tool."""
    training = HEALTHY[name](seed)
    watched = TOOLS[tool][0](training)
    said: list[str] = []
    first = last = 0.0
    for step in range(1, HEALTHY_STEPS + 1):
        loss, words = training.step(step, watched.forward, watched.gradients)
        if loss is None:
            said += [f"{step}: {w[0]} {w[1]}" for w in words]
            break
        words = [*words, *watched.end(loss)]
        said += [f"{step}: {code} {where}" for code, where in words]
        if step <= 10:
            first += float(loss) / 10
        if step > HEALTHY_STEPS - 10:
            last += float(loss) / 10
    return {"kind": "healthy", "name": name, "seed": seed, "tool": tool, "alarms": len(said),
            "said": said[:6], "first_loss": first, "last_loss": last}  # fmt: skip


def digest() -> str:
    return hashlib.sha256(Path(str(monitor_limits.__file__)).read_bytes()).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--healthy", type=int, default=5, help="seeds of each healthy training")
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--tools", nargs="*", default=list(TOOLS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/fault_injection.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    # What the trainings themselves warn of is no part of this.
    warnings.simplefilter("ignore")
    tools = [t for t in options.tools if importlib.util.find_spec(TOOLS[t][1]) is not None]
    seeds = range(options.first, options.first + options.seeds)
    wanted: list[tuple[str, str, int, str]] = [
        ("fault", kind, seed, tool) for kind in options.kinds for seed in seeds for tool in tools
    ]
    wanted += [("healthy", name, options.first + i, tool) for name in HEALTHY
               for i in range(options.healthy) for tool in tools]  # fmt: skip
    done = stored(options.out)
    for n, (sort, name, seed, tool) in enumerate(wanted):
        key = f"{sort}/{name}/{seed}/{tool}"
        if key not in done:
            done[key] = (inject if sort == "fault" else rest)(name, seed, tool)
        if n % 10 == 9 or n == len(wanted) - 1:
            store(options.out, done)
    chosen = {f"{a}/{b}/{c}/{d}" for a, b, c, d in wanted}
    show([row for key, row in done.items() if key in chosen], options.kinds, tools)
    return 0


def stored(path: Path) -> dict[str, dict[str, Any]]:
    """What was measured before with the same thresholds."""
    if not path.exists():
        return {}
    held = json.loads(path.read_text(encoding="utf-8"))
    return dict(held["runs"]) if held["thresholds"] == digest() else {}


def store(path: Path, done: dict[str, dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in done.items())
    text = f'{{"thresholds": "{digest()}", "runs": {{\n{lines}\n}}}}\n'
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def show(rows: Iterable[dict[str, Any]], kinds: Iterable[str], tools: list[str]) -> None:
    rows = list(rows)
    console = Console(width=120)
    table = Table("right of the runs", *tools)
    for kind in [*kinds, "all"]:
        cells = []
        for tool in tools:
            mine = [r for r in rows if r["tool"] == tool and r["kind"] != "healthy"
                    and kind in (r["kind"], "all")]  # fmt: skip
            cell = f"{sum(r['right'] for r in mine)} of {len(mine)}"
            cells.append(cell + f", first {sum(r['first'] for r in mine)}")
        table.add_row(kind, *cells)
    alarms = []
    for tool in tools:
        mine = [r for r in rows if r["tool"] == tool and r["kind"] == "healthy"]
        alarms.append(f"{sum(r['alarms'] > 0 for r in mine)} of {len(mine)}")
    table.add_section()
    table.add_row("healthy, with an alarm", *alarms)
    console.print(table)
    for row in rows:
        if row["tool"] == "every=1" and not row.get("right", not row.get("alarms")):
            console.print({k: v for k, v in row.items() if k != "tool"}, soft_wrap=True)
    late = Counter(r["step"] - r["cause"] for r in rows
                   if r["tool"] == "every=1" and r.get("right"))  # fmt: skip
    console.print("every=1, steps from the cause to the finding:", dict(sorted(late.items())))


if __name__ == "__main__":
    sys.exit(main())
