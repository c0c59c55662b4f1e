"""Results of the benchmark of the one call: the file they lie in, and the tables made of them."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from equipoise.lab.comparison import Comparison, compare

Results = dict[str, dict[str, Any]]


def load(path: Path, settings: dict[str, object], redo: list[str]) -> tuple[Results, float]:
    """Results of an earlier run and its seconds; those of methods to redo are left out."""
    if not path.exists():
        return {}, 0.0
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["settings"] != settings:
        raise SystemExit(
            f"{path} was written with {data['settings']}, this is {settings}. "
            "Delete it or pass another --out."
        )
    kept = {
        key: value
        for key, value in data["results"].items()
        if key.split(" | ")[2].split(" from ")[0] not in redo
    }
    # Further draws are of the best rival at the time: they go with any change.
    if redo:
        kept = {key: value for key, value in kept.items() if not key.startswith("more")}
    return kept, float(data["seconds"])


def save(path: Path, settings: dict[str, object], results: Results, seconds: float) -> None:
    """Write everything, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    data = {
        "settings": settings,
        "seconds": seconds,
        "comparisons": summary(results),
        "results": plain(results),
    }
    draft.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
    draft.replace(path)


def plain(value: Any) -> Any:
    """The same with words for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def cells_of(results: Results) -> list[str]:
    return list(dict.fromkeys(key.split(" | ")[1] for key in results))


def rows_of(results: Results, cell: str) -> dict[str, list[float]]:
    """Accuracies of all draws by method, in the order of the draws."""
    found: dict[str, list[float]] = {}
    for key, value in results.items():
        kind, place, method = key.split(" | ")
        if place == cell and kind == "train" and "scores" in value:
            found[method] = list(value["scores"])
    for method, scores in found.items():
        while (key := f"more | {cell} | {method} from {len(scores)}") in results:
            scores += results[key].get("scores", [])
    return found


def comparison(results: Results, cell: str) -> Comparison | None:
    """Auto against the best of the others, None while there is nothing to compare.

    The rival is picked among all; where more draws of the best were made, they count.
    """
    rows = rows_of(results, cell)
    ours = rows.pop("auto", None)
    if not ours or not rows:
        return None
    return compare(ours, rows)


def summary(results: Results) -> dict[str, dict[str, object]]:
    made = {cell: comparison(results, cell) for cell in cells_of(results)}
    return {
        cell: {**vars(c), "verdict": c.verdict, "is_settled": c.is_settled}
        for cell, c in made.items()
        if c is not None
    }


def show(console: Console, results: Results, targets: dict[str, float]) -> None:
    """All tables, for the cells named in ``targets`` in that order by name."""
    reached, missed = accuracy_table(console, results, targets)
    verdicts = verdict_table(console, results, targets)
    birth_table(console, results, targets)
    prediction_table(console, results, targets)
    refusals = [f"{k.split(' | ', 1)[1]}: {v['refused']}" for k, v in results.items()
                if "refused" in v and k.startswith("train")]  # fmt: skip
    for line in refusals:
        console.print(f"refused {line}", markup=False, style="dim")
    console.print(
        f"targets reached: {reached} of {reached + missed}; against the best rival: "
        + ", ".join(f"{verdicts.count(v)} {v}" for v in ("win", "tie", "loss"))
    )


def accuracy_table(
    console: Console, results: Results, targets: dict[str, float]
) -> tuple[int, int]:
    table = table_of("Test accuracy", "cell", "method", "accuracy", "rate", "draws", "target")
    reached = missed = 0
    for cell in sorted(targets):
        rows = rows_of(results, cell)
        for method in sorted(rows, key=lambda m: -statistics.mean(rows[m])):
            scores = rows[method]
            mean = statistics.mean(scores)
            error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
            words = ""
            if method == "auto" and targets[cell] == targets[cell]:
                is_reached = mean >= targets[cell]
                reached, missed = reached + is_reached, missed + (not is_reached)
                words = f"{targets[cell]:.3f} {'reached' if is_reached else 'MISSED'}"
            rate = results[f"train | {cell} | {method}"]["rate"]
            table.add_row(
                cell, method, f"{mean:.4f} +- {error:.4f}", f"{rate:.2g}", str(len(scores)), words,
                style="bold" if method == "auto" else "",
            )  # fmt: skip
    if table.row_count:
        console.print(table)
    return reached, missed


def verdict_table(console: Console, results: Results, targets: dict[str, float]) -> list[str]:
    table = table_of(
        "auto against the best rival", "cell", "rival", "difference", "pairs", "verdict", ""
    )
    verdicts = []
    for cell in sorted(targets):
        made = comparison(results, cell)
        if made is None:
            continue
        verdicts.append(made.verdict)
        table.add_row(
            cell, made.rival, f"{made.difference:+.4f} +- {made.standard_error:.4f}",
            str(made.draws), made.verdict,
            "" if made.is_settled else "standard error above .01",
            style="red" if made.verdict == "loss" else "",
        )  # fmt: skip
    if table.row_count:
        console.print(table)
    return verdicts


def birth_table(console: Console, results: Results, targets: dict[str, float]) -> None:
    table = table_of(
        "At birth: drift in nats per layer (median draw) and time of one call",
        "cell", "method", "signal", "gradient", "seconds",
    )  # fmt: skip
    for cell in sorted(targets):
        for key, value in results.items():
            kind, place, method = key.split(" | ")
            if kind == "birth" and place == cell and "seconds" in value:
                table.add_row(
                    cell, method, f"{float(value['forward_drift']):+.4f}",
                    f"{float(value['gradient_drift']):+.4f}", f"{value['seconds']:.2f}",
                    style="bold" if method == "auto" else "",
                )  # fmt: skip
    if table.row_count:
        console.print(table)


def prediction_table(console: Console, results: Results, targets: dict[str, float]) -> None:
    table = table_of(
        "auto: measured over predicted RMS in the median draw, the layer farthest off",
        "cell", "signal", "gradient", "layers predicted",
    )  # fmt: skip
    for cell in sorted(targets):
        value = results.get(f"birth | {cell} | auto", {})
        if "signal_gap" in value:
            table.add_row(
                cell, f"factor {math.exp(float(value['signal_gap'])):.3f}",
                f"factor {math.exp(float(value['gradient_gap'])):.3f}",
                f"{value['predicted_layers']} of {value['layers']}",
            )  # fmt: skip
    if table.row_count:
        console.print(table)


def table_of(title: str, *names: str) -> Table:
    return Table(*(Column(name, no_wrap=True) for name in names), title=title)
