"""A trainability grid as one HTML page."""

import plotly.graph_objects as go
from markupsafe import escape

from equipoise.lab.figures import COLOURS, figure, titled
from equipoise.lab.grid_result import HEADINGS, Grid
from equipoise.report.html import document, figure_html, section, table_html
from equipoise.report.picture import GREY

_VERDICTS = {"win": COLOURS[2], "tie": GREY, "loss": COLOURS[1]}
_WORDS = {"win": "auto better", "tie": "level", "loss": "auto worse"}


def page(grid: Grid) -> str:
    """The whole grid as one HTML page that needs no network."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in grid.sentences())
    factors = [
        section(
            f"By {name}",
            figure_html(figure_factor(name, levels)),
        )
        for name, levels in grid.groups().items()
    ]
    rows = [cell.texts() for cell in grid.cells]
    return document(
        grid.headline(),
        [
            section("What this says", f'<ul class="sentences">{lines}</ul>'),
            section("Every cell", figure_html(figure_cells(grid))),
            section("Every start, over all cells", figure_html(figure_means(grid))),
            *factors,
            section("The cells in numbers", table_html(HEADINGS, rows, "Cells of the grid")),
        ],
    )


def figure_cells(grid: Grid) -> go.Figure:
    """Mean score of ``auto`` in each cell against that of its best rival."""
    traces = [
        go.Scatter(
            x=[0, 1], y=[0, 1], mode="lines", name="equal", hoverinfo="skip",
            line={"color": GREY, "dash": "dash", "width": 1},
        )
    ]  # fmt: skip
    for verdict, colour in _VERDICTS.items():
        cells = [c for c in grid.cells if c.comparison and c.verdict == verdict]
        pairs = [(c.row(c.comparison[0].rival), c.row("auto")) for c in cells]
        texts = [
            f"{escape(c.setting.name)}<br>auto {ours.score:.3f}, {escape(theirs.method)} "
            f"{theirs.score:.3f}"
            for c, (theirs, ours) in zip(cells, pairs, strict=True)
        ]
        traces.append(
            go.Scatter(
                x=[theirs.score for theirs, _ in pairs], y=[ours.score for _, ours in pairs],
                mode="markers", name=_WORDS[verdict], hoverinfo="text", hovertext=texts,
                marker={"color": colour, "size": 9, "opacity": 0.75},
            )
        )  # fmt: skip
    counts = ", ".join(f"{_WORDS[v]} in {grid.count(v)}" for v in _VERDICTS)
    return figure(
        traces,
        "Mean score of auto in each cell against that of the best other start there",
        f"{counts} of {len(grid.cells)} cells.",
        titled("best other start") | {"range": [-0.02, 1.02]},
        titled("auto") | {"range": [-0.02, 1.02]},
        len(traces),
    )


def figure_means(grid: Grid) -> go.Figure:
    """Mean score of each start over all cells."""
    means = grid.means()
    names = [str(escape(name)) for name in means]
    bars = go.Bar(
        x=names, y=list(means.values()), showlegend=False, hoverinfo="text",
        hovertext=[f"{name}: {mean:.3f}" for name, mean in zip(names, means.values(), strict=True)],
        marker={"color": [COLOURS[0] if name == "auto" else GREY for name in means]},
    )  # fmt: skip
    return figure(
        [bars],
        "Mean score over all cells; where a start refuses the network, that of a constant answer",
        ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()) + ".",
        {"showgrid": False, "tickangle": -40},
        titled("mean score") | {"rangemode": "tozero"},
        0,
    )


def figure_factor(name: str, levels: dict[str, tuple[int, int, int]]) -> go.Figure:
    """Cells won, level and lost by level of one factor."""
    labels = [str(escape(level)) for level in levels]
    traces = [
        go.Bar(
            x=labels, y=[counts[i] for counts in levels.values()], name=_WORDS[verdict],
            hoverinfo="text", marker={"color": colour},
            hovertext=[f"{label}: {counts[i]} {_WORDS[verdict]}"
                       for label, counts in zip(labels, levels.values(), strict=True)],
        )
        for i, (verdict, colour) in enumerate(_VERDICTS.items())
    ]  # fmt: skip
    summary = "; ".join(f"{label} {won}, {tied}, {lost}"
                        for label, (won, tied, lost) in levels.items())  # fmt: skip
    picture = figure(
        traces,
        f"Cells by {name} in which auto is better, level or worse",
        f"Better, level, worse: {summary}.",
        {"type": "category", "showgrid": False, "tickangle": -40},
        titled("cells") | {"rangemode": "tozero"},
        3,
    )
    return picture.update_layout(barmode="stack")
