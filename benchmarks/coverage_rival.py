"""The closest other initializer on the same architectures, measured in the same way."""

import math
import re
import time
from typing import Any

import torch
from rich.console import Console
from zoo import Built

import equipoise.torch as eq
from equipoise.measurement import LayerMeasurement

Layers = tuple[LayerMeasurement, ...]
# A signal that grows or shrinks by more than this across depth has drifted.
_MOST_DRIFT = 10.0


def roles(layers: Layers, of: str) -> dict[tuple[str, int], list[float]]:
    """A number of each layer, those together that differ in the numbers of their blocks only."""
    found: dict[tuple[str, int], list[float]] = {}
    for layer in layers:
        role = re.sub(r"(?<![^.])\d+(?![^.])", "#", layer.weight)
        value = float(getattr(layer, of))
        if role != layer.weight and not math.isnan(value):
            found.setdefault((role, layer.entries), []).append(value)
    return found


def ratio(layers: Layers, of: str) -> float:
    """Largest over smallest number among layers of one role.

    Infinite where a role has it at one depth and not at another; nan where no role stands at two.
    """
    found = [
        max(values) / min(values) if min(values) > 0 else math.inf
        for values in roles(layers, of).values()
        if len(values) > 1 and max(values) > 0
    ]
    return max(found, default=math.nan)


def rival(made: Built) -> dict[str, Any]:
    """AnyInit on one architecture: what it sets, how long it takes, and what comes of it."""
    import anyinit

    model = made.model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    begun = time.time()
    try:
        report = anyinit.initialize(model, seed=0)
    # Whatever stops it is a result.
    except Exception as error:
        lines = str(error).strip().splitlines()
        return {
            "status": "crashed",
            "reason": f"{type(error).__name__}: {(lines or [''])[0]}"[:150],
        }
    found: dict[str, Any] = {
        "status": "done",
        "seconds": time.time() - begun,
        "fidelity": str(report.graph_fidelity),
        "set": sum(
            p.numel() for n, p in model.named_parameters()
            if p.dim() > 1 and not torch.equal(p, before[n])
        ),
    }  # fmt: skip
    try:
        layers = eq.diagnose(model, made.inputs).measurements.layers
    except Exception as error:
        return found | {"unmeasured": str(error)[:150]}
    return found | {"signal": ratio(layers, "signal"), "gradient": ratio(layers, "weight_gradient")}


def beside(results: dict[str, dict[str, Any]]) -> list[str]:
    """Both side by side, over the architectures that both were run on; nothing where none was."""
    both = [r for r in results.values() if "anyinit" in r]
    if not both:
        return []
    others = [r["anyinit"] for r in both]
    done = [(r, r["anyinit"]) for r in both if r["anyinit"]["status"] == "done"]

    def steady(values: list[float]) -> str:
        known = [v for v in values if not math.isnan(v)]
        return f"{100 * sum(v <= _MOST_DRIFT for v in known) / max(1, len(known)):.0f}%"

    ours = [r for r in both if r["status"] == "planned"]
    graphs = sum(o.get("fidelity") == "graph" for o in others)
    mine = [r["initialize"] for r in ours]
    return [
        f"Beside AnyInit on {len(both)} architectures (ours / AnyInit):",
        "",
        f"- traced as a graph: {len(ours)} / {graphs}",
        f"- ended by an error: {sum(r['status'] == 'crashed' for r in both)} / "
        f"{sum(o['status'] == 'crashed' for o in others)}",
        "- matrix entries set: "
        f"{_mean([r['assigned'] / r['matrices'] for r in ours if r['matrices']]):.0f}% / "
        f"{_mean([o['set'] / r['matrices'] for r, o in done if r['matrices']]):.0f}%",
        f"- seconds, median: {_median([r['plan_seconds'] for r in ours]):.2f} (plan) / "
        f"{_median([o['seconds'] for _, o in done]):.2f}",
        "- signals of one role within a factor 10 across depth: "
        f"{steady([float(m.get('signal_ratio', math.nan)) for m in mine])} / "
        f"{steady([float(o.get('signal', math.nan)) for _, o in done])}",
        "- gradients of one role within a factor 10: "
        f"{steady([float(m.get('gradient_ratio', math.nan)) for m in mine])} / "
        f"{steady([float(o.get('gradient', math.nan)) for _, o in done])}",
    ]


def show_rival(console: Console, results: dict[str, dict[str, Any]]) -> None:
    """Print both side by side."""
    for line in beside(results):
        console.print(line)


def _mean(values: list[float]) -> float:
    return 100 * sum(values) / max(1, len(values))


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else math.nan
