"""A Report as one self-contained HTML page, and the pieces of which such pages are made.

Every string that comes from a model passes through jinja2's escaping, or through markupsafe where
it enters a picture: plotly reads its texts as a small dialect of HTML.
"""

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from equipoise.diagnose import Finding, expected_by_layer
from equipoise.measurement import Measurements
from equipoise.plan.plan import Plan
from equipoise.report.choices import grouped
from equipoise.report.ends import draws_usable, ends
from equipoise.report.panels import Panel, panels_figure, shown
from equipoise.schemes.law_data import describe

if TYPE_CHECKING:
    from equipoise.report.diagnosis import Diagnosis
    from equipoise.report.report import Report

_SPREADS = ("log_std", "gradient_log_std")


def page(report: "Report") -> str:
    """The whole report as one HTML page that needs no network."""
    plan, measured = report.plan, report.measurements
    n = len(measured.layers)
    caption = f"{n} affine layer{'s' * (n != 1)}, measured on a batch of {measured.rows}"
    course = Markup(figure_html(figure_signal_gradient(measured, plan, caption)))
    cosine = Markup(figure_html(figure_correlation(measured, caption)))
    strays = [max((getattr(p, k) for p in plan.predictions), default=0.0) for k in _SPREADS]
    words = [shown(math.exp(min(s, 700.0))) if s > math.log(2.0) else "" for s in strays]
    expected = list(zip(*_expected(measured, plan), strict=True))
    laws, last = Markup(plan_table(report)), _ends(report)
    body = _pieces().report(report, course, cosine, laws, expected, words, last)
    return document(f"{report.model} starts {'in' if report.ok else 'out of'} balance", [str(body)])


def document(title: str, sections: Sequence[str]) -> str:
    """A complete page: style, headline, the sections, and plotly.js once.

    Args:
        title: the message of the page, as text.
        sections: HTML as ``section`` gives it.
    """
    return str(_pieces().document(title, [Markup(s) for s in sections], Markup(get_plotlyjs())))


def section(title: str, body_html: str) -> str:
    """One section of a page: a heading, given as text, and a body, given as HTML."""
    return str(_pieces().section(title, Markup(body_html)))


def table_html(columns: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """A table of texts; the first column names the row, the others hold numbers.

    Args:
        columns: headings.
        rows: cells, as texts.
        label: what the table holds, for those who do not see it.
    """
    return str(_pieces().table(columns, list(rows), label, len(columns) - 1))


def figure_html(figure: go.Figure) -> str:
    """A figure as a div that ``document`` draws, with its caption and its text alternative.

    ``layout.meta`` may hold ``title`` and ``alt`` (plain texts) and ``wide`` and ``narrow``
    (changes of the layout for wide and narrow screens).
    """
    data = json.loads(figure.to_json())
    title = data["layout"].pop("title", {}).get("text", "")
    meta = data["layout"].get("meta") or {}
    title = meta.get("title", title)
    return str(_pieces().figure(data, title, meta.get("alt", title)))


def diagnosis_html(
    diagnosis: "Diagnosis",
    course: go.Figure,
    difference: go.Figure,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> str:
    """The body of a diagnosis: findings, pictures, theory's word and numbers by layer."""
    pictures = [Markup(figure_html(figure)) for figure in (course, difference)]
    return str(_pieces().diagnosis(diagnosis, *pictures, diagnosis.words, columns, rows))


def plan_table(report: "Report") -> str:
    """Every parameter that is drawn: its shape, its law in words and the reason."""
    return str(_pieces().parameters(report.plan.assignments))


def findings_list(findings: Iterable[Finding]) -> str:
    """Findings with severity, place, expected, observed and remedy."""
    return str(_pieces().findings(tuple(findings)))


def figure_signal_gradient(measurements: Measurements, plan: Plan | None, title: str) -> go.Figure:
    """RMS of signal and of gradient by layer on logarithmic axes.

    Args:
        measurements: what was measured.
        plan: what theory expects, drawn as a dashed line where it reaches.
        title: caption, as text.
    """
    layers = measurements.layers
    signal, gradient = _expected(measurements, plan)
    names = [x.layer for x in layers]
    return panels_figure([
        Panel("Signal", "signal RMS", names, [x.signal for x in layers], signal),
        Panel("Gradient", "gradient RMS", names, [x.gradient for x in layers], gradient),
    ], title)  # fmt: skip


def figure_correlation(measurements: Measurements, title: str) -> go.Figure:
    """Mean cosine between the outputs for different inputs by layer, and that of the inputs."""
    layers, start = measurements.layers, measurements.input_correlation
    names, values = [x.layer for x in layers], [x.correlation for x in layers]
    held = [start] * len(layers)
    return panels_figure(
        [Panel("Cosine", "mean cosine", names, values, held, "inputs", False)], title
    )


def _ends(report: "Report") -> list[tuple[str, ...]]:
    """Each stack: what was expected and measured, and the odds with their method."""
    rows = []
    for end in ends(report.plan, report.measurements):
        e = end.expected
        pairs = (
            (e.signal, end.signal), (e.gradient, end.gradient), (e.correlation, end.correlation),
        )  # fmt: skip
        numbers = (f"{shown(wanted)}, measured {shown(seen)}" for wanted, seen in pairs)
        odds = draws_usable(e.odds, e.odds_error).removesuffix(" usable") or "-"
        rows.append((e.where, *numbers, odds, e.odds_method or "-"))
    return rows


def _expected(measurements: Measurements, plan: Plan | None) -> tuple[list[float], list[float]]:
    """Signal and gradient that the plan expects by layer, nan where it expects nothing."""
    found = expected_by_layer(measurements, plan)
    return [e.signal for e in found], [e.gradient for e in found]


@cache
def _pieces() -> Any:
    """The macros of the template; autoescape holds for all of them."""
    loader = PackageLoader("equipoise.report", "")
    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, undefined=StrictUndefined, **options)
    environment.filters |= {"describe": describe, "number": shown, "grouped": grouped}
    return environment.get_template("page.html.j2").module
