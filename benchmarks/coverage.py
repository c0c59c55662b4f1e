"""How much of every architecture of transformers is planned, drawn and predicted.

    python benchmarks/coverage.py                      # every model of the zoo, an hour on 2 cores
    python benchmarks/coverage.py --only bert gpt2     # names that hold a word
    python benchmarks/coverage.py --report             # what is known, without a run

Each architecture is shrunken (``zoo.py``) until it runs within a second or two on a CPU, with
random weights and inputs; nothing is downloaded. It is planned, initialized and measured in a
process of its own with a time limit. transformers is needed by this benchmark alone
(``pip install '.[zoo]'``).

Counted are entries of parameters with at least two axes (matrices), so embeddings count for less
than in models of full size. A refusal is an error of the library with its reason; a crash is any
other. Shares are means over the architectures that were planned.

AnyInit, where it is installed, is run on the same models and measured in the same way.

Prints tables and writes JSON after each; the same command goes on from there.
"""

import argparse
import importlib
import importlib.util
import math
import re
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from coverage_report import group, markdown, show
from coverage_rival import beside, ratio, rival, show_rival
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from torch import nn
from zoo import PRELOAD, Built, NotBuilt, build, chosen, load, save
from zoo_families import family
from zoo_processes import each

import equipoise.torch as eq
from equipoise.errors import EquipoiseError
from equipoise.measurement import Measurements
from equipoise.plan.layer_nodes import Opaque
from equipoise.plan.plan import Plan
from equipoise.plan.trace import Trace
from equipoise.rules.against_plan import predictions_by_layer
from equipoise.torch.program import Read

FACTOR = 2.0


def cover(name: str) -> dict[str, Any]:
    """Everything about one architecture, as plain data."""
    try:
        made = build(name)
    except NotBuilt as error:
        return {"status": "not built", "reason": str(error)}
    found = {
        "family": family(name),
        "parameters": sum(p.numel() for p in made.model.parameters()),
        "matrices": sum(size(p.shape) for p in made.model.parameters()),
        "without": list(made.without),
    }
    traces: list[Trace] = []
    begun = time.time()
    with traced_into(traces):
        status, plan = outcome(lambda: eq.plan(made.model, made.inputs))
    found |= {"plan_seconds": time.time() - begun, **status}
    if traces:
        found["unread"] = unread(traces[0])
    if plan is None:
        return found
    found |= planned(plan, made)
    was_finite = has_finite_outputs(made)
    begun = time.time()
    start = torch.Generator().manual_seed(0)
    status, report = outcome(lambda: eq.initialize(made.model, made.inputs, generator=start))
    found["initialize"] = {"seconds": time.time() - begun, **status}
    if report is not None:
        found["initialize"] |= measured(report)
        # Some models mark what is masked by infinity, whatever their weights are.
        is_finite = has_finite_outputs(made) or not was_finite
        found["initialize"]["forward_is_finite"] = is_finite
    if importlib.util.find_spec("anyinit"):
        found["anyinit"] = rival(made)
    return found


def outcome(call: Any) -> tuple[dict[str, Any], Any]:
    """What a call of the library makes of a model, and its result where it has one."""
    try:
        return {"status": "planned"}, call()
    except EquipoiseError as error:
        return {"status": "refused", "reason": str(error).splitlines()[0]}, None
    # A crash is what this benchmark looks for.
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno} {place.name}"
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__} at {where}: {lines[0] if lines else ''}"
        return {"status": "crashed", "reason": reason}, None


@contextmanager
def traced_into(traces: list[Trace]) -> Iterator[None]:
    """Keep the trace that a plan is made of: reading a model twice would take twice as long."""
    module = importlib.import_module("equipoise.torch.initialize")
    read = module.read

    def kept(*args: Any) -> Read:
        found = read(*args)
        traces.append(found.trace)
        return found

    with patch.object(module, "read", kept):
        yield


def size(shape: tuple[int, ...] | torch.Size) -> int:
    """Entries of a parameter if it is a matrix, else 0."""
    return math.prod(shape) if len(shape) >= 2 else 0


def unread(trace: Trace) -> dict[str, int]:
    """Operations that were not read, with their numbers."""
    reasons = [node.reason for node in trace.nodes if isinstance(node, Opaque)]
    names = [re.findall(r"operation '(\w+)'", reason) for reason in reasons]
    return dict(Counter(n[0] if n else r for n, r in zip(names, reasons, strict=True)))


def planned(plan: Plan, made: Built) -> dict[str, Any]:
    """What a plan says of how many parameters."""
    untouched: Counter[str] = Counter()
    for one in plan.untouched:
        untouched[group(one.reason)] += size(one.shape)
    opaque = sum(math.prod(u.shape) for u in plan.untouched if u.reason.startswith("belongs to"))
    finite = [p for p in plan.predictions if math.isfinite(p.signal)]
    return {
        "assigned": sum(size(a.shape) for a in plan.assignments),
        "untouched": dict(untouched),
        "under_opaque": opaque,
        "predictions": len(plan.predictions),
        "finite_predictions": len(finite),
        "affines": affines(made.model),
        "told_gradients": sum(math.isfinite(p.across) for p in plan.predictions),
    }


def affines(model: nn.Module) -> int:
    """Linear layers and convolutions, used or not."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    return sum(isinstance(m, kinds) for m in model.modules())


def has_finite_outputs(made: Built) -> bool:
    """Whether all floating-point numbers that forward returns are finite."""
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = torch.utils._pytree.tree_leaves(made.model(**made.inputs))
    floats = [t for t in outputs if isinstance(t, torch.Tensor) and t.is_floating_point()]
    return all(bool(torch.isfinite(t).all()) for t in floats)


def measured(report: eq.Initialization) -> dict[str, Any]:
    """What became of signal and gradient."""
    layers = report.measurements.layers
    known = [x for x in layers if not math.isnan(x.gradient)]
    return {
        "gradient_is_finite": all(math.isfinite(x.gradient + x.weight_gradient) for x in known),
        "measured": len(layers),
        "compared": (ratios := prediction_ratios(report.plan, report.measurements)),
        "within_factor": sum(1 / FACTOR <= r <= FACTOR for r in ratios),
        "gradients": (across := gradient_ratios(report.plan, report.measurements)),
        "gradients_within": sum(1 / FACTOR <= r <= FACTOR for r in across),
        "gradient_ratio": ratio(layers, "weight_gradient"),
        "signal_ratio": ratio(layers, "signal"),
        "codes": sorted({f.code for f in report.findings}),
        "worst": sorted({f.severity for f in report.findings}),
    }


def gradient_ratios(plan: Plan, m: Measurements) -> list[float]:
    """Measured over predicted gradients of the whole model, relative to the middle of all."""
    pairs = zip(predictions_by_layer(m, plan), m.layers, strict=True)
    found = [x.gradient / p.across for p, x in pairs if p.across > 0 and x.gradient > 0]
    middle = statistics.median(found) if found else 1.0
    return [r / middle for r in found]


def prediction_ratios(plan: Plan, m: Measurements) -> list[float]:
    """Measured over predicted RMS, by weight and turn of its use."""
    pairs = zip(predictions_by_layer(m, plan), m.layers, strict=True)
    return [x.signal / p.signal for p, x in pairs if p.signal > 0 and math.isfinite(p.signal)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="*", default=[], help="names that hold a word, or are it: 'bert$'"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=180, help="time limit of each")
    parser.add_argument("--out", type=Path, default=Path("results/coverage.json"))
    parser.add_argument("--redo", action="store_true", help="forget results of those named")
    parser.add_argument("--report", action="store_true", help="only show what is known")
    parser.add_argument("--markdown", type=Path, help="write the table as a page")
    options = parser.parse_args()
    console = Console(width=118)
    results, wanted = load(options.out), chosen(options.only)
    todo = [n for n in wanted if n not in results or options.redo]
    if not options.report:
        with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bar:
            line = bar.add_task("", total=len(todo))

            def done(name: str, result: dict[str, Any]) -> None:
                if "died" in result:
                    reason = f"process: {result['died']}"
                    result = {"status": "crashed", "reason": reason, "family": family(name)}
                results[name] = result
                save(options.out, results)
                bar.update(line, advance=1, description=name[:30].ljust(30))

            each(todo, cover, options.jobs, options.seconds, done, [*PRELOAD, "equipoise.torch"])
    shown = {n: results[n] for n in wanted if n in results}
    show(console, shown)
    show_rival(console, shown)
    if options.markdown:
        versions = f"transformers {version('transformers')}, torch {torch.__version__}"
        options.markdown.write_text(markdown(shown, versions, beside(shown)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
