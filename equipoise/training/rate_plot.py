"""The picture of a range test."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from equipoise.training.rate_curve import Reading
from equipoise.training.rate_sweep import RateCurve

# Blue and orange keep a contrast of 3 on white and on near black, and differ for the colour-blind.
_BLUE, _ORANGE, _GREY, _GRID = "#3b82d6", "#d2691e", "#808080", "rgba(128,128,128,0.25)"


def rate_figure(
    curves: Sequence[RateCurve], readings: Sequence[Reading], rate: float, title: str
) -> go.Figure:
    """Every sweep as points, its smoothed curve, and the answer as a line.

    Args:
        curves: of a range test.
        readings: of the curves.
        rate: the answer.
        title: in words.
    """
    figure = go.Figure()
    for k, (curve, reading) in enumerate(zip(curves, readings, strict=True)):
        top = max(reading.smooth, default=0.0)
        shown = [y if y <= top else None for y in curve.change]
        figure.add_scatter(
            x=curve.rates, y=shown, mode="markers", name="one batch", showlegend=k == 0,
            marker={"size": 4, "color": _GREY, "opacity": 0.5},
        )  # fmt: skip
        figure.add_scatter(
            x=curve.rates, y=reading.smooth, mode="lines", name="smoothed", showlegend=k == 0,
            line={"width": 2, "color": _BLUE},
        )  # fmt: skip
    if rate > 0:
        # An axis with a logarithm takes lines at the logarithm.
        figure.add_vline(x=rate, line={"width": 2, "dash": "dash", "color": _ORANGE})
        figure.add_annotation(
            x=math.log10(rate), y=1.0, yref="paper", text=f"{rate:.2g}", showarrow=False,
            font={"color": _ORANGE}, xanchor="left", xshift=4,
        )  # fmt: skip
    axis = {"gridcolor": _GRID, "linecolor": _GRID, "zerolinecolor": _GREY}
    figure.update_layout(
        title={"text": title, "font": {"size": 14}}, template="none", height=420,
        font={"color": _GREY, "family": "system-ui, sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 64, "r": 12, "t": 48, "b": 56}, legend={"orientation": "h", "y": -0.2},
        xaxis=axis | {"type": "log", "title": {"text": "learning rate"}, "exponentformat": "power"},
        yaxis=axis | {"title": {"text": "loss less that at the start"}},
    )  # fmt: skip
    return figure
