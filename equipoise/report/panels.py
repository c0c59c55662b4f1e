"""Panels of a picture: values by layer on their own axes, and what they are held against."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from markupsafe import escape

from equipoise.report.picture import AXIS, BLUE, GREY, ORANGE, axis_title, picture

_LONG_NAME = 60
_ZERO, _LOST = "exactly 0", "not finite"
_SYMBOLS = {_ZERO: "x", _LOST: "diamond"}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: values by layer, and the line they are held against."""

    heading: str
    quantity: str
    names: list[str]
    values: list[float]
    expected: list[float]
    against: str = "expected by theory"
    is_log: bool = True

    def place(self, y: float) -> float | None:
        """The value, or None where the axis has no place for it."""
        return y if math.isfinite(y) and (y > 0 or not self.is_log) else None

    def kept(self, values: Iterable[float]) -> list[float]:
        """Those values that the axis has a place for."""
        return [y for y in values if self.place(y) is not None]

    def lost(self) -> dict[str, list[int]]:
        """Indices of the layers that the axis has no place for, by the words for it."""
        found: dict[str, list[int]] = {}
        for i, y in enumerate(self.values):
            if self.place(y) is None:
                found.setdefault(_ZERO if y == 0 else _LOST, []).append(i)
        return found

    def message(self) -> str:
        """What the panel shows, in a few words."""
        seen, n = self.kept(self.values), len(self.values)
        if lost := self.lost():
            words = ", ".join(
                f"{w.removeprefix('exactly ')} in {len(at)}" for w, at in lost.items()
            )
            return f"{self.heading} {words} of {n}"
        if not seen:
            return f"{self.heading}: no layer"
        if self.is_log:
            return f"{self.heading} spans a factor of {shown(max(seen) / min(seen))}"
        return f"{self.heading} {shown(seen[0])} at first, {shown(seen[-1])} at last"

    def alternative(self) -> str:
        """The panel in words, for those who do not see it."""
        words = [self.message()]
        for label, values in (("measured", self.values), (self.against, self.expected)):
            if seen := self.kept(values):
                words.append(f"{label} {shown(min(seen))} to {shown(max(seen))}")
        return ", ".join(words) + "."

    def hover(self, i: int) -> str:
        """Text for one layer."""
        name, value, held = self.names[i], self.values[i], self.expected[i]
        if len(name) > _LONG_NAME:
            name = f"{name[: _LONG_NAME // 2]}...{name[-_LONG_NAME // 2 :]}"
        text = _LOST if not math.isfinite(value) else _ZERO if value == 0 else shown(value)
        lines = [f"{name} ({i + 1} of {len(self.names)})", f"{self.quantity}: {text}"]
        lines += [f"{self.against}: {shown(y)}" for y in self.kept([held])]
        return "<br>".join(str(escape(line)) for line in lines)

    def has_lone_expected(self) -> bool:
        """Whether some expected value stands between two that are missing: no line shows it."""
        there = [False, *(self.place(y) is not None for y in self.expected), False]
        return any(b and not (a or c) for a, b, c in zip(there, there[1:], there[2:], strict=False))

    def axis(self) -> tuple[dict[str, Any], float]:
        """Range and ticks of the vertical axis, and the height of the row for lost values."""
        seen = self.kept([*self.values, *self.expected])
        if self.is_log:
            logs = [math.log10(y) for y in seen] or [0.0]
            middle = (min(logs) + max(logs)) / 2
            # Never less than two decades, so that what is level looks level.
            low, high = min(min(logs) - 0.1, middle - 1), max(max(logs) + 0.1, middle + 1)
            step = math.ceil((high - low) / 6)
            marks = (1, 2, 5) if high - low < 2.5 else (1,)
            decades = range(math.floor(low), math.floor(high) + 1)
            at = [m * 10.0**k for k in decades if k % step == 0 for m in marks
                  if low <= math.log10(m) + k <= high]  # fmt: skip
            is_plain = all(1e-3 <= y <= 1e3 for y in at)
            text = [f"{y:g}" if is_plain else _power(y) for y in at]
        else:
            low, high = -1.05 if min(seen, default=0.0) < -0.25 else -0.3, 1.05
            at = [k / 4 for k in range(-4, 5) if low < k / 4]
            text = [f"{y:g}" for y in at]
        floor = low - 0.08 * (high - low)
        row = 10.0**floor if self.is_log else floor
        if lost := self.lost():
            low = floor - 0.06 * (high - low)
            text.append(", ".join("0" if w == _ZERO else "nan" for w in lost))
            at.append(row)
        scale = {"type": "log" if self.is_log else "linear", "range": [low, high],
                 "tickvals": at, "ticktext": text, "automargin": True}  # fmt: skip
        return scale, row

    def traces(self, k: str) -> list[go.Scatter]:
        """The curves, on the axes numbered k."""
        n, reached, row = len(self.values), self.kept(self.expected), self.axis()[1]
        both: dict[str, Any] = {"xaxis": f"x{k}", "yaxis": f"y{k}", "cliponaxis": False}
        both["x"] = list(range(1, n + 1))
        measured = both | {
            "name": "measured", "y": [self.place(y) for y in self.values],
            "mode": "lines+markers", "hoverinfo": "text",
            "hovertext": [self.hover(i) for i in range(n)], "line": {"width": 1.5, "color": BLUE},
            "marker": {"size": 4 if n > 40 else 7, "color": BLUE},
        }  # fmt: skip
        held = both | {
            "name": self.against, "y": [self.place(y) for y in self.expected],
            "mode": "lines+markers" if self.has_lone_expected() else "lines", "hoverinfo": "skip",
            "line": {"dash": "dash", "width": 2, "color": ORANGE},
            "marker": {"symbol": "line-ew-open", "size": 12, "color": ORANGE},
        }  # fmt: skip
        rows = [
            both | {
                "name": words, "x": [i + 1 for i in at], "y": [row] * len(at), "mode": "markers",
                "hoverinfo": "text", "hovertext": [self.hover(i) for i in at],
                "marker": {"symbol": _SYMBOLS[words], "size": 7, "color": GREY},
            }
            for words, at in self.lost().items()
        ]  # fmt: skip
        return [go.Scatter(t) for t in (measured, *([held] if reached else []), *rows)]


def panels_figure(panels: Sequence[Panel], title: str) -> go.Figure:
    """Panels side by side, one above the other on narrow screens."""
    count = len(panels)
    traces = [t for i, p in enumerate(panels) for t in p.traces(str(i + 1) if i else "")]
    for i, t in enumerate(traces):
        t.showlegend = t.name not in [earlier.name for earlier in traces[:i]]
    kinds = len({t.name for t in traces})
    # A narrow screen has room for two names side by side, and for more only one above the other.
    below = 56 + 22 * kinds if kinds > 2 else 80
    wide: dict[str, Any] = {"height": 380, "margin.b": 80}
    narrow: dict[str, Any] = {"height": 36 + below + 250 * count, "margin.b": below}
    layout: dict[str, Any] = {"margin": {"l": 52, "r": 12, "t": 36}, "annotations": []}
    for i, p in enumerate(panels):
        k, n = str(i + 1) if i else "", len(p.values)
        step = next(s for e in range(9) for m in (1, 2, 5) if (s := m * 10**e) * 8 >= n)
        layout[f"yaxis{k}"] = AXIS | p.axis()[0] | {"anchor": f"x{k}"}
        layout[f"xaxis{k}"] = AXIS | {
            "anchor": f"y{k}", "showgrid": False,
            "title": axis_title("layer in order of computation"),
            "range": [0.5, n + 0.5], "tick0": 0, "dtick": step,
        }  # fmt: skip
        layout["annotations"].append({
            "text": f"<b>{escape(p.message())}</b>", "xref": f"x{k} domain", "yref": f"y{k} domain",
            "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "yshift": 6, "showarrow": False,
        })  # fmt: skip
        wide |= {f"xaxis{k}.domain": [0.56 * i, 0.56 * i + (0.44 if count > 1 else 1)],
                 f"yaxis{k}.domain": [0, 1]}  # fmt: skip
        bottom = 0.58 if i + 1 < count else 0
        narrow |= {f"xaxis{k}.domain": [0, 1], f"yaxis{k}.domain": [bottom, 1 - 0.58 * i]}
    summary = " ".join(p.alternative() for p in panels)
    return picture(traces, title, summary, layout, wide, narrow)


def shown(x: float, otherwise: str = _LOST) -> str:
    """A number in three digits, or words for one that is not finite.

    >>> shown(12345.0), shown(0.00012), shown(math.nan)
    ('12,300', '0.00012', 'not finite')
    """
    if not math.isfinite(x):
        return otherwise
    return f"{float(f'{x:.3g}'):,.0f}" if 1e3 <= abs(x) < 1e6 else f"{x:.3g}"


def _power(y: float) -> str:
    digit, _, power = f"{y:.0e}".partition("e")
    return f"{digit}\N{MIDDLE DOT}10<sup>{int(power)}</sup>".removeprefix("1\N{MIDDLE DOT}")
