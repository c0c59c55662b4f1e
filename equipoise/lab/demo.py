"""The demo: two dead 100-layer networks, what ails them, and how they learn once started."""

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import plotly.graph_objects as go
import torch
from markupsafe import escape
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import equipoise.torch as eq
from equipoise import _checks
from equipoise.lab.batched import Replicas, Training, train
from equipoise.lab.data import Classification, digits
from equipoise.lab.models import mlp
from equipoise.report.html import (
    document,
    figure_correlation,
    figure_html,
    figure_signal_gradient,
    findings_list,
    plan_table,
    section,
)

DRAWS = 4
EPOCHS = 20
# Both starts get the better of the two; the default learns at no rate at all.
RATES = (3e-4, 1e-3)
HIDDEN = (16,) * 100
_GRID = "rgba(128,128,128,0.25)"


@dataclass(frozen=True, eq=False)
class Case:
    """One activation, started both ways.

    Attributes:
        name: of the activation.
        dead: diagnosis of the framework's default.
        report: of the first draw from equipoise.
        curves: test accuracy at the better rate by start, each of shape (epochs, draws).
        rates: that rate, by start.
        gradient_ratio: first over last hidden-to-hidden weight gradient of the first draw.
    """

    name: str
    dead: eq.Diagnosis
    report: eq.Initialization
    curves: dict[str, torch.Tensor]
    rates: dict[str, float]
    gradient_ratio: float

    def scores(self, start: str) -> list[float]:
        """Test accuracy of each draw at the end."""
        return [float(a) for a in self.curves[start][-1]]


def run(console: Console, out: Path, seed: int = 0) -> Path:
    """Run the demo.

    Args:
        console: to print to.
        out: folder for ``index.html`` and ``demo.json``, made if need be.
        seed: of draws and batches.

    Returns:
        The path of the page.
    """
    _checks.at_least("seed", seed, 0)
    out.mkdir(parents=True, exist_ok=True)
    task = digits()
    console.print(
        f"digits, {len(task.x_train)} to train on; 100 hidden layers of width 16; Adam, "
        f"{EPOCHS} epochs, {DRAWS} draws, the better of rates {RATES[0]:g} and {RATES[1]:g}"
    )
    cases = []
    columns = (TextColumn("{task.description:22}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for name, activation in (("gelu", nn.GELU), ("tanh", nn.Tanh)):
            bar = progress.add_task(f"{name}: 2 x {DRAWS} x {len(RATES)} runs", total=EPOCHS)
            done = partial(_advance, progress, bar)
            cases.append(_case(name, activation, task, seed, done))
    for case in cases:
        console.print(f"\n[bold]{case.name}, framework default[/bold]")
        for finding in case.dead.findings:
            console.print(f"  {finding}", markup=False)
        console.print(f"[bold]{case.name}, equipoise[/bold]")
        case.report.print(console)
    console.print(_table(cases))
    page = out / "index.html"
    page.write_text(_page(cases), encoding="utf-8")
    (out / "demo.json").write_text(json.dumps(_numbers(cases), indent=1), encoding="utf-8")
    return page


def _advance(progress: Progress, bar: TaskID, epochs: int) -> None:
    progress.update(bar, completed=epochs)


def _case(
    name: str,
    activation: Callable[[], nn.Module],
    task: Classification,
    seed: int,
    progress: Callable[[int], None],
) -> Case:
    torch.manual_seed(seed)
    widths = (task.features, *HIDDEN, task.classes)
    default = [mlp(widths, activation) for _ in range(DRAWS)]
    started = [mlp(widths, activation) for _ in range(DRAWS)]
    dead = eq.diagnose(default[0], task.x_train)
    reports = [
        eq.initialize(model, task.x_train, generator=torch.Generator().manual_seed(seed + i))
        for i, model in enumerate(started)
    ]
    replicas = Replicas.of([*default, *started]).repeat(len(RATES))
    rates = [rate for rate in RATES for _ in range(2 * DRAWS)]
    seeds = [seed + i for i in range(DRAWS)] * 2 * len(RATES)
    training = train(replicas, task, rates, seeds, EPOCHS, with_curve=True, progress=progress)
    curves, best = {}, {}
    for start, first in (("default", 0), ("equipoise", DRAWS)):
        curves[start], best[start] = _better(training, first)
    report = reports[0]
    return Case(name, dead, report, curves, best, report.measurements.gradient_ratio())


def _better(training: Training, first: int) -> tuple[torch.Tensor, float]:
    """Curves of four draws at the rate with the better mean at the end."""
    by_rate = training.curve.view(EPOCHS, len(RATES), 2 * DRAWS)[:, :, first : first + DRAWS]
    best = int(by_rate[-1].mean(1).argmax())
    return by_rate[:, best], RATES[best]


def _mean_error(scores: list[float]) -> tuple[float, float]:
    return statistics.mean(scores), statistics.stdev(scores) / math.sqrt(len(scores))


def _table(cases: list[Case]) -> Table:
    table = Table("activation", "start", "test accuracy", "draws", "rate")
    for case in cases:
        for start in case.curves:
            mean, error = _mean_error(case.scores(start))
            table.add_row(
                case.name,
                start,
                f"{mean:.3f} +- {error:.3f}",
                " ".join(f"{s:.3f}" for s in case.scores(start)),
                f"{case.rates[start]:g}",
            )
    return table


def _numbers(cases: list[Case]) -> dict[str, object]:
    return {
        case.name: {
            start: {
                "accuracy": _mean_error(case.scores(start))[0],
                "standard_error": _mean_error(case.scores(start))[1],
                "scores": case.scores(start),
                "learning_rate": case.rates[start],
                "curve": case.curves[start].tolist(),
            }
            for start in case.curves
        }
        | {"gradient_ratio": case.gradient_ratio, "findings_of_default": len(case.dead.findings)}
        for case in cases
    }


def _page(cases: list[Case]) -> str:
    sections = [
        section(
            "A network of 100 layers is dead at birth, and need not be",
            "<p>Two networks with 100 hidden layers of width 16 learn to read digits of 8 x 8 "
            "pixels. Each is started as the framework does by default, and by equipoise in one "
            f"call; everything else is the same: Adam, {EPOCHS} epochs, {DRAWS} draws, the better "
            f"of the learning rates {RATES[0]:g} and {RATES[1]:g}.</p>" + _html_table(cases),
        )
    ]
    for case in cases:
        sections.append(
            section(
                f"{case.name}: the default does not learn, the balanced start does",
                figure_html(_curves(case)),
            )
        )
        sections.append(
            section(
                f"{case.name}, default: signal and gradient do not get through",
                figure_html(
                    figure_signal_gradient(case.dead.measurements, None, f"{case.name}, default")
                )
                + figure_html(
                    figure_correlation(case.dead.measurements, "cosine between different inputs")
                )
                + findings_list(case.dead.findings),
            )
        )
        sections.append(
            section(
                f"{case.name}, equipoise: both arrive, as theory says",
                f"<p>{escape(' '.join(case.report.plan.choice))}</p>"
                + figure_html(
                    figure_signal_gradient(
                        case.report.measurements, case.report.plan, f"{case.name}, equipoise"
                    )
                )
                + findings_list(case.report.findings)
                + plan_table(case.report),
            )
        )
    return document("equipoise: a dead network learns", sections)


def _html_table(cases: list[Case]) -> str:
    rows = []
    for case in cases:
        for start in case.curves:
            mean, error = _mean_error(case.scores(start))
            draws = " ".join(f"{s:.3f}" for s in case.scores(start))
            rows.append(
                f"<tr><th scope='row'>{case.name}</th><td>{start}</td>"
                f"<td>{mean:.3f} &plusmn; {error:.3f}</td><td>{draws}</td>"
                f"<td>{case.rates[start]:g}</td></tr>"
            )
    head = "".join(
        f"<th scope='col'>{name}</th>"
        for name in ("activation", "start", "test accuracy", "by draw", "learning rate")
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _curves(case: Case) -> go.Figure:
    figure = go.Figure()
    epochs = list(range(1, EPOCHS + 1))
    for start, colour in (("default", "#b8433a"), ("equipoise", "#2a78b8")):
        for draw in range(DRAWS):
            figure.add_trace(
                go.Scatter(
                    x=epochs,
                    y=case.curves[start][:, draw].tolist(),
                    name=start,
                    legendgroup=start,
                    showlegend=draw == 0,
                    line={"color": colour, "dash": "dot" if start == "default" else "solid"},
                )
            )
    figure.update_layout(
        title=f"{case.name}: test accuracy over training, {DRAWS} draws each",
        xaxis={"title": "epoch", "gridcolor": _GRID},
        yaxis={"title": "test accuracy", "range": [0, 1], "gridcolor": _GRID},
        margin={"t": 20},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#808890"},
        height=380,
    )
    return figure
