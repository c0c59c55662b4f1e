"""A comparison of starts as one HTML page."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from markupsafe import escape

from equipoise.lab.compare_result import HEADINGS, Compared
from equipoise.lab.figures import COLOURS, DASHES, figure, titled
from equipoise.report.html import document, figure_html, section, table_html
from equipoise.report.panels import shown
from equipoise.report.picture import GREY


def page(compared: Compared) -> str:
    """The whole comparison as one HTML page that needs no network."""
    rows = [row.cells() for row in compared.table]
    table = table_html(HEADINGS, rows, "Starts, the best first")
    lines = "".join(f"<li>{escape(line)}</li>" for line in compared.sentences())
    body = f"<p>{escape(compared.description())}.</p>{table}"
    return document(
        compared.headline(),
        [
            section("Test loss of each start, lower is better", body),
            section("How sure this is", f'<ul class="sentences">{lines}</ul>'),
            section("How the training loss fell", figure_html(figure_curves(compared))),
            section("Every draw", figure_html(figure_draws(compared))),
            section("Which learning rates work", figure_html(figure_rates(compared))),
        ],
    )


def figure_curves(compared: Compared) -> go.Figure:
    """Mean training loss by step, with a band of one standard deviation between draws."""
    traces, seen = [], []
    for i, curve in enumerate(compared.curves):
        line = {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i % len(DASHES)]}
        both = {"legendgroup": curve.scheme, "hoverinfo": "text", "mode": "lines"}
        seen += [*curve.low, *curve.high]
        traces.append(
            go.Scatter(
                both, x=[*curve.steps, *curve.steps[::-1]], y=[*curve.high, *curve.low[::-1]],
                fill="toself", fillcolor=line["color"], opacity=0.18, line={"width": 0},
                hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip
        texts = [
            f"{escape(curve.scheme)}, step {step:,}: {shown(mean)}"
            for step, mean in zip(curve.steps, curve.mean, strict=True)
        ]
        traces.append(
            go.Scatter(
                both, x=curve.steps, y=curve.mean, name=str(escape(curve.scheme)),
                line=line | {"width": 2}, hovertext=texts,
            )
        )  # fmt: skip
    title = f"Mean of {compared.setting.draws} draws at the rate chosen; the band is one standard "
    ends = [f"{c.scheme} {shown(c.mean[-1])}" for c in compared.curves if c.mean]
    return figure(
        traces,
        title + "deviation between draws",
        f"Training loss at the last step: {', '.join(ends)}.",
        titled("step") | {"range": [0, compared.setting.steps], "showgrid": False},
        _loss_axis("training loss", seen),
        len(compared.curves),
    )


def figure_draws(compared: Compared) -> go.Figure:
    """Test loss of every draw, at birth and at the end."""
    traces: list[go.Scatter] = []
    seen: list[float] = []
    names = [str(escape(row.scheme)) for row in compared.table]
    kinds = (("at birth", "circle-open", GREY, -0.14), ("trained", "circle", COLOURS[0], 0.14))
    for label, symbol, colour, shift in kinds:
        x, y, texts = [], [], []
        for i, row in enumerate(compared.table):
            for k, loss in enumerate(row.births if label == "at birth" else row.losses):
                # Draws side by side, so that equal ones stay apart.
                x.append(i + shift + 0.16 * (k / max(1, len(row.losses) - 1) - 0.5))
                y.append(loss)
                texts.append(f"{names[i]}, draw {k + 1}, {label}: {shown(loss)}")
        seen += y
        traces.append(
            go.Scatter(
                x=x, y=y, mode="markers", name=label, hoverinfo="text", hovertext=texts,
                marker={"symbol": symbol, "color": colour, "size": 8},
            )
        )  # fmt: skip
    constant, count = compared.setting.constant_loss, 2
    if math.isfinite(constant):
        seen.append(constant)
        count = 3
        traces.append(
            go.Scatter(
                x=[-0.5, len(names) - 0.5], y=[constant] * 2, mode="lines", hoverinfo="skip",
                name="best constant output", line={"color": COLOURS[1], "dash": "dash"},
            )
        )  # fmt: skip
    return figure(
        traces,
        "Test loss of every draw before and after training",
        "; ".join(f"{r.scheme} {shown(min(r.losses))} to {shown(max(r.losses))}"
                  for r in compared.table) + ".",
        {"tickvals": list(range(len(names))), "ticktext": names, "showgrid": False,
         "range": [-0.5, len(names) - 0.5]},
        _loss_axis("test loss", seen),
        count,
    )  # fmt: skip


def figure_rates(compared: Compared) -> go.Figure:
    """Mean loss on the rows held back by learning rate; filled where half of the draws trained."""
    traces: list[go.Scatter] = []
    seen: list[float] = []
    for i, row in enumerate(compared.table):
        colour, name = COLOURS[i % len(COLOURS)], str(escape(row.scheme))
        rates, losses, shares = zip(*row.by_rate, strict=True)
        seen += losses
        texts = [
            f"{name}, rate {shown(rate)}: {shown(loss)}, {share:.0%} of draws trained"
            for rate, loss, share in row.by_rate
        ]
        symbols = ["circle" if share >= 0.5 else "circle-open" for share in shares]
        traces.append(
            go.Scatter(
                x=rates, y=losses, name=name, mode="lines+markers", hoverinfo="text",
                hovertext=texts, line={"color": colour, "dash": DASHES[i % len(DASHES)]},
                marker={"symbol": symbols, "size": 9, "color": colour},
            )
        )  # fmt: skip
    rates = compared.setting.learning_rates
    return figure(
        traces,
        "Mean loss on the rows held back by learning rate; filled: at least half of the draws "
        "trained",
        "; ".join(f"{r.scheme} chose {shown(r.rate)}" for r in compared.table) + ".",
        titled("learning rate") | {"type": "log", "showgrid": False,
         "tickvals": rates, "ticktext": [shown(rate) for rate in rates]},
        _loss_axis("loss on held-back rows", seen),
        len(compared.table),
    )  # fmt: skip


def _loss_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic where all losses are positive."""
    axis = titled(title)
    if not values or min(values) <= 0:
        return axis
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.06 * (high - low), 0.02)
    marks = (1, 2, 5) if high - low < 3 else (1,)
    step = math.ceil((high - low) / 8) if high > low else 1
    at = [m * 10.0**k for k in range(math.floor(low) - 1, math.ceil(high) + 1) if k % step == 0
          for m in marks if low - room <= math.log10(m) + k <= high + room]  # fmt: skip
    axis |= {"type": "log", "range": [low - room, high + room]}
    # With fewer marks than these plotly's own are better.
    return axis | ({"tickvals": at, "ticktext": [shown(y) for y in at]} if at[2:] else {})
