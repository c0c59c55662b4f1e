"""The frame of every picture of a page: colours, axes, the legend below, and its two sizes."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from markupsafe import escape

# Blue and orange keep a contrast of 3 on white and on near black, and differ for the colour-blind.
BLUE, ORANGE, GREY = "#3b82d6", "#d2691e", "#808080"
_GRID = "rgba(128,128,128,0.25)"
AXIS: dict[str, Any] = {
    "gridcolor": _GRID, "linecolor": _GRID, "zeroline": False, "fixedrange": True,
}  # fmt: skip


def axis_title(text: str) -> dict[str, Any]:
    """The title of an axis."""
    return {"text": text, "standoff": 8, "font": {"size": 13}}


def picture(
    traces: Sequence[go.Scatter | go.Bar],
    title: str,
    summary: str,
    layout: dict[str, Any],
    wide: dict[str, Any],
    narrow: dict[str, Any],
) -> go.Figure:
    """A picture that ``html.figure_html`` shows, in the manner of all others.

    Args:
        traces: what is drawn.
        title: caption, as text.
        summary: what is seen, in a sentence for those who do not see it.
        layout: margins, axes made of ``AXIS``, and whatever else the picture has of its own.
        wide: changes of the layout for wide screens, such as ``{"height": 380, "margin.b": 80}``;
            the figure itself has them.
        narrow: changes for narrow ones.

    Returns:
        The figure; ``layout.meta`` holds title, text alternative and both sizes.

    >>> made = picture([], "Loss", "It falls.", {"xaxis": AXIS}, {"height": 380}, {"height": 300})
    >>> made.layout.height, made.layout.meta["alt"]
    (380, 'Loss. It falls.')
    """
    frame: dict[str, Any] = {
        "title": {"text": str(escape(title))}, "template": "none", "dragmode": False,
        "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom",
                   "itemclick": False, "itemdoubleclick": False},
        "meta": {"title": title, "alt": f"{title}. {summary}", "wide": wide, "narrow": narrow},
    }  # fmt: skip
    changes = {key.replace(".", "_"): value for key, value in wide.items()}
    return go.Figure(list(traces), frame | layout).update_layout(changes)
