"""Tables of the coverage benchmark."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from zoo_families import FAMILIES

Result = dict[str, Any]
Results = dict[str, Result]
_SHOWN = 25


def group(reason: str) -> str:
    """A reason without what is particular to one model: names of layers, numbers, classes."""
    reason = re.sub(r"^belongs to \S+( \S+)?: ", "belongs to a layer: ", reason)
    reason = re.sub(r"forward of \w+", "forward", reason)
    reason = re.sub(r"operation '(\w+)' of \w+", r"operation '\1'", reason)
    reason = re.sub(r"\b[uzs]+\d+\b|\d+(\.\d+)?(e-?\d+)?", "#", reason)
    return reason[:150]


def mean(values: Iterable[float]) -> float:
    """The mean, nan of nothing."""
    known = [v for v in values if not math.isnan(v)]
    return statistics.fmean(known) if known else math.nan


def share(part: float, whole: float) -> float:
    """A share, nan of nothing."""
    return part / whole if whole else math.nan


def drawn(results: Iterable[Result]) -> list[Result]:
    """What was measured, of those that were initialized."""
    return [r["initialize"] for r in results if r.get("initialize", {}).get("measured") is not None]


def row(results: list[Result]) -> dict[str, float]:
    """The numbers of one family; shares are means over architectures."""
    ran = [r for r in results if r["status"] != "not built"]
    done = [r for r in ran if r["status"] == "planned"]
    seen = drawn(done)
    # Numbers that JSON does not have are words there.
    ratios = [float(r["gradient_ratio"]) for r in seen]
    deep = [r for r in ratios if not math.isnan(r)]
    return {
        "run": len(ran),
        "planned": share(len(done), len(ran)),
        "seconds": statistics.median([r["plan_seconds"] for r in done]) if done else math.nan,
        "assigned": mean(share(r["assigned"], r["matrices"]) for r in done),
        "opaque": mean(share(r["under_opaque"], r["parameters"]) for r in done),
        "predicted": mean(share(r["finite_predictions"], r["predictions"]) for r in done),
        "within 2": mean(share(r["within_factor"], len(r["compared"])) for r in seen),
        "gradients": mean(share(r["told_gradients"], r["predictions"]) for r in done),
        "in 2": mean(share(r["gradients_within"], len(r["gradients"])) for r in seen),
        "forward": mean(float(r["forward_is_finite"]) for r in seen),
        "backward": mean(float(r["gradient_is_finite"]) for r in seen),
        "gradient": share(sum(r <= 10 for r in deep), len(deep)),
        "crashes": sum(has_crashed(r) for r in ran),
    }


def has_crashed(result: Result) -> bool:
    """Whether anything but a refusal ended a call."""
    return "crashed" in (result["status"], result.get("initialize", {}).get("status"))


def summary(results: Results) -> dict[str, dict[str, float]]:
    """The numbers of each family and of all."""
    by_family: dict[str, list[Result]] = {name: [] for name in FAMILIES}
    for result in results.values():
        by_family[result.get("family", "other")].append(result)
    found = {name: row(members) for name, members in by_family.items() if members}
    return {**found, "all": row(list(results.values()))}


def count(value: float) -> str:
    return f"{value:.0f}"


def percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.0f}%"


_HEADS: dict[str, Callable[[float], str]] = {
    "run": count,
    "planned": percent,
    "seconds": lambda value: f"{value:.1f}",
    "assigned": percent,
    "opaque": percent,
    "predicted": percent,
    "within 2": percent,
    "gradients": percent,
    "in 2": percent,
    "forward": percent,
    "backward": percent,
    "gradient": percent,
    "crashes": count,
}


def show(console: Console, results: Results) -> None:
    """The table by family, one line for each number, and what to read next."""
    if not results:
        console.print("nothing known yet")
        return
    numbers = summary(results)
    table = Table("family", *_HEADS, box=None)
    for name, values in numbers.items():
        table.add_row(name, *(text(values[head]) for head, text in _HEADS.items()))
    console.print(table)
    done = [r for r in results.values() if r["status"] == "planned"]
    whole = numbers["all"]
    for line in (
        f"{whole['run']:.0f} of {len(results)} architectures run, {len(done)} are planned "
        f"({percent(whole['planned'])}), in {whole['seconds']:.1f} s (median)",
        f"matrix parameters assigned: {percent(whole['assigned'])}, under operations that were "
        f"not read: {percent(whole['opaque'])} of all parameters",
        f"weights with a predicted signal: {percent(whole['predicted'])}, measured within a "
        f"factor 2 of it: {percent(whole['within 2'])}",
        f"weights with a predicted gradient: {percent(whole['gradients'])}, measured within a "
        f"factor 2 of it: {percent(whole['in 2'])}",
        f"gradients of one role within a factor 10 across depth: {percent(whole['gradient'])}",
        f"forward finite: {percent(whole['forward'])}, backward: {percent(whole['backward'])}, "
        f"crashes: {whole['crashes']:.0f}",
    ):
        console.print(line)
    listing(console, "refused, architectures", Counter(
        group(r["reason"]) for r in results.values() if r["status"] == "refused"))  # fmt: skip
    listing(console, "refused by initialize alone", Counter(
        group(r["initialize"]["reason"]) for r in done if r["initialize"]["status"] == "refused"
    ))  # fmt: skip
    listing(console, "untouched matrices, mean share in %, of", untouched(done))
    listing(console, "operations not read, architectures (uses)", operations(results.values()))
    for name, result in results.items():
        for one in (result, result.get("initialize", {})):
            if one.get("status") == "crashed":
                console.print(f"crash {name}: {one['reason']}", markup=False, soft_wrap=True)
        if not result.get("initialize", {}).get("forward_is_finite", True):
            console.print(f"not finite {name}", markup=False)


def untouched(done: list[Result]) -> Counter[str]:
    """Reasons by their share of matrix parameters in the mean architecture, percent."""
    found: dict[str, float] = {}
    for result in done:
        for reason, entries in result["untouched"].items():
            part = 100 * share(entries, result["matrices"]) / len(done)
            found[reason] = found.get(reason, 0.0) + (0.0 if math.isnan(part) else part)
    return Counter({reason: round(part, 2) for reason, part in found.items()})  # type: ignore[misc]


def operations(results: Iterable[Result]) -> Counter[str]:
    """Unread operations by the number of architectures that hold them."""
    held: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    for result in results:
        held.update(result.get("unread", {}).keys())
        uses.update(result.get("unread", {}))
    return Counter({f"{name} ({uses[name]})": count for name, count in held.items()})


def listing(console: Console, title: str, counts: Counter[str]) -> None:
    """The most frequent entries."""
    if not counts:
        return
    console.print(f"\n{title}:")
    for name, times in counts.most_common(_SHOWN):
        console.print(f"  {times:>6} {name}", markup=False, highlight=False, soft_wrap=True)


def markdown(results: Results, versions: str, beside: Iterable[str]) -> str:
    """The table by family as a page of the docs.

    Args:
        results: of every architecture that was run.
        versions: what they were run with.
        beside: lines of a comparison.
    """
    numbers = summary(results)
    whole = numbers["all"]
    head = " | ".join(_HEADS)
    rows = [
        f"| {name} | " + " | ".join(text(values[h]) for h, text in _HEADS.items()) + " |"
        for name, values in numbers.items()
    ]
    refused = Counter(group(r["reason"]) for r in results.values() if r["status"] == "refused")
    unbuilt = sum(r["status"] == "not built" for r in results.values())
    lines = [
        "# Coverage of architectures",
        "",
        f"Written by `python benchmarks/coverage.py --markdown docs/coverage.md` ({versions}).",
        f"{len(results)} architectures of transformers were shrunken offline; {unbuilt} could not",
        f"be built that way, {whole['run']:.0f} run. Shares are means over the architectures of a",
        "family that are planned. *assigned*: entries of matrices that get a law; the others are",
        "parts that the inputs given do not reach, and frozen ones. *opaque*: parameters under",
        "operations that were not read. *predicted*: layers with an expected signal. *within 2*:",
        "those measured within a factor 2 of it. *gradients*, *in 2*: the same for the gradient of",
        "the whole model. *gradient*: models in which gradients of weights that differ in depth",
        "only are within a factor 10.",
        "",
        f"| family | {head} |",
        "|---" * (len(_HEADS) + 1) + "|",
        *rows,
        "",
        *(f"- {reason} ({n})" for reason, n in refused.most_common()),
        "",
        *beside,
    ]
    return "\n".join(lines).rstrip() + "\n"
