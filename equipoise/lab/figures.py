"""Pictures of the lab: one pair of axes in the frame of all, and colours of many curves."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from equipoise.report.picture import AXIS, BLUE, GREY, ORANGE, axis_title, picture

# Told apart by the colour-blind; a contrast of 3 on white and on near black.
COLOURS = (BLUE, ORANGE, "#2a9d6f", "#b8558f", "#8a7a1c", "#7b68c8", GREY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def titled(title: str) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": axis_title(title)}


def figure(
    traces: Sequence[go.Scatter | go.Bar],
    title: str,
    summary: str,
    x: dict[str, Any],
    y: dict[str, Any],
    names: int,
    height: int = 330,
) -> go.Figure:
    """One pair of axes, so many pixels high, with room for a legend of so many names below."""
    # A narrow screen has room for two names side by side.
    below = {"wide": 80, "narrow": 70 + 22 * math.ceil(names / 2)}
    sizes = {
        kind: {"height": height + below[kind] - 20, "margin.b": below[kind]} for kind in below
    }  # fmt: skip
    axis = AXIS | {"automargin": True}
    layout = {"margin": {"l": 64, "r": 12, "t": 12}, "xaxis": axis | x, "yaxis": axis | y}
    return picture(traces, title, summary, layout, sizes["wide"], sizes["narrow"])
