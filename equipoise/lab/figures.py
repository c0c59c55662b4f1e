"""Pictures of the lab: colours, axes and a layout in the manner of the reports."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from markupsafe import escape

# Told apart by the colour-blind; a contrast of 3 on white and on near black.
COLOURS = ("#3b82d6", "#d2691e", "#2a9d6f", "#b8558f", "#8a7a1c", "#7b68c8", "#808080")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GREY, _GRID = "#808080", "rgba(128,128,128,0.25)"
_AXIS: dict[str, Any] = {
    "gridcolor": _GRID, "linecolor": _GRID, "zeroline": False, "fixedrange": True,
    "automargin": True,
}  # fmt: skip


def titled(title: str) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title, "standoff": 8, "font": {"size": 13}}}


def figure(
    traces: Sequence[go.Scatter | go.Bar],
    title: str,
    summary: str,
    x: dict[str, Any],
    y: dict[str, Any],
    names: int,
) -> go.Figure:
    """A picture in the manner of the reports, with a legend below."""
    # A narrow screen has room for two names side by side.
    below = {"wide": 80, "narrow": 70 + 22 * math.ceil(names / 2)}
    sizes = {
        kind: {"height": 330 + below[kind] - 20, "margin.b": below[kind]} for kind in below
    }  # fmt: skip
    layout: dict[str, Any] = {
        "title": {"text": str(escape(title))}, "template": "none", "dragmode": False,
        "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 12, "t": 12}, "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom",
                   "itemclick": False, "itemdoubleclick": False},
        "xaxis": _AXIS | x, "yaxis": _AXIS | y,
        "meta": {"title": title, "alt": f"{title}. {summary}", **sizes},
    }  # fmt: skip
    changes = {key.replace(".", "_"): value for key, value in sizes["wide"].items()}
    return go.Figure(list(traces), layout).update_layout(changes)
