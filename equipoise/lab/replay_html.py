"""A replayed result as one HTML page."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from markupsafe import escape

from equipoise.lab.figures import COLOURS, DASHES, figure, titled
from equipoise.lab.replay_data import Curve, HeatMap, Picture
from equipoise.lab.replay_result import Replayed, heading, text_of
from equipoise.report.html import document, figure_html, section, table_html
from equipoise.report.panels import shown


def page(found: Replayed) -> str:
    """All of a replay as one HTML page that needs no network."""
    tables = [
        (
            heading(table),
            (*table.names, *table.quantities),
            [(*row.names, *(text_of(value) for value in row.values)) for row in table.rows],
        )
        for table in found.findings.tables
    ]
    return pictures_page(found.headline(), found.sentences(), tables, found.findings.pictures)


def pictures_page(
    title: str,
    sentences: Sequence[str],
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    pictures: Sequence[Picture],
) -> str:
    """A page of sentences, tables (title, headings, rows) and pictures."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in sentences)
    parts = [section("What this is", f'<ul class="sentences">{lines}</ul>')]
    parts += [section(name, table_html(heads, rows, name)) for name, heads, rows in tables]
    parts += [section(one.title, figure_html(drawn(one))) for one in pictures]
    return document(title, parts)


def drawn(picture: Picture) -> go.Figure:
    """A picture with its legend, for ``report.html.figure_html``; the section has its title."""
    names = list(dict.fromkeys(curve.name for curve in picture.curves))
    traces: list[Any] = [_heat(heat) for heat in picture.heat]
    told: set[str] = set()
    for curve in picture.curves:
        i = names.index(curve.name)
        traces += _traces(curve, picture, i, curve.name not in told)
        told.add(curve.name)
    x = titled(picture.x_title) | ({"type": "log"} if picture.log_x else {})
    y = titled(picture.y_title) | ({"type": "log"} if picture.log_y else {})
    if picture.log_y and not math.isnan(picture.y_least):
        top = max((v for curve in picture.curves for v in curve.y if _fits(v, True)), default=1.0)
        y |= {"range": [math.log10(picture.y_least), math.log10(top) + 0.2]}
    x, y = x | _named(picture.x_names), y | _named(picture.y_names)
    height = max(330, 20 * len(picture.y_names))
    return figure(traces, picture.summary, picture.summary, x, y, len(names), height)


def _named(names: Sequence[str]) -> dict[str, Any]:
    """What an axis of names has beside its title."""
    if not names:
        return {}
    return {"tickvals": list(range(len(names))), "ticktext": [str(escape(n)) for n in names]}


def _traces(curve: Curve, picture: Picture, place: int, is_first: bool) -> list[go.Scatter]:
    """The curve, and the band around it."""
    colour = COLOURS[place % len(COLOURS)]
    name = str(escape(curve.name))
    kept = [
        i
        for i, (x, y) in enumerate(zip(curve.x, curve.y, strict=True))
        if _fits(x, picture.log_x) and _fits(y, picture.log_y)
    ]
    x, y = [curve.x[i] for i in kept], [curve.y[i] for i in kept]
    both = {"legendgroup": name, "hoverinfo": "text"}
    made = []
    if curve.error and curve.style != "points":
        made += [_band(curve, picture, kept, colour, both)]
    dash = "dash" if curve.style == "dashed" else DASHES[place // len(COLOURS) % len(DASHES)]
    texts = [f"{name}: {shown(a)}, {shown(b)}" for a, b in zip(x, y, strict=True)]
    bars = {}
    if curve.error and curve.style == "points":
        bars = {"error_y": {"array": [curve.error[i] for i in kept], "color": colour}}
    made.append(
        go.Scatter(
            both | bars, x=x, y=y, name=name, hovertext=texts, showlegend=is_first,
            mode="markers" if curve.style == "points" or len(x) == 1 else "lines",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"color": colour, "size": 8},
        )
    )  # fmt: skip
    return made


def _band(
    curve: Curve, picture: Picture, kept: Sequence[int], colour: str, both: dict[str, Any]
) -> go.Scatter:
    x = [curve.x[i] for i in kept]
    high = [curve.y[i] + curve.error[i] for i in kept]
    low = [curve.y[i] - curve.error[i] for i in kept]
    if picture.log_y:
        # An axis of powers has no place for what lies below 0.
        low = [max(b, curve.y[i] / 10) for b, i in zip(low, kept, strict=True)]
    return go.Scatter(
        both, x=[*x, *x[::-1]], y=[*high, *low[::-1]], mode="lines", fill="toself",
        fillcolor=colour, opacity=0.18, line={"width": 0}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _heat(heat: HeatMap) -> go.Heatmap:
    given: dict[str, Any] = {} if math.isnan(heat.middle) else {"zmid": heat.middle}
    z = [[v if math.isfinite(v) else None for v in row] for row in heat.z]
    return go.Heatmap(
        given, x=heat.x, y=heat.y, z=z, colorscale="RdBu", reversescale=True,
        colorbar={"title": {"text": str(escape(heat.title))}},
    )  # fmt: skip


def _fits(value: float, is_log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not is_log)
