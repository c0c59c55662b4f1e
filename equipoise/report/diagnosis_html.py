"""A Diagnosis as one self-contained HTML page."""

import math
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from equipoise.report.html import diagnosis_html, document
from equipoise.report.panels import Panel, panels_figure

if TYPE_CHECKING:
    from equipoise.report.diagnosis import Diagnosis


def diagnosis_page(diagnosis: "Diagnosis") -> str:
    """The whole diagnosis as one HTML page that needs no network."""
    from equipoise.report.diagnosis import COLUMNS, row

    n, rows = len(diagnosis.measurements.layers), diagnosis.measurements.rows
    caption = f"{n} affine layer{'s' * (n != 1)}, measured on a batch of {rows}"
    body = diagnosis_html(
        diagnosis,
        figure_course(diagnosis, caption),
        figure_difference(diagnosis, caption),
        COLUMNS,
        [row(x) for x in diagnosis.measurements.layers],
    )
    state = "in" if diagnosis.ok else "out of"
    return document(f"{diagnosis.model} is {state} balance", [body])


def figure_course(diagnosis: "Diagnosis", title: str) -> go.Figure:
    """RMS of signal and gradient by layer; dashed, what theory expects of such weights.

    The dashed line starts where the measurement does: at the first hidden layer of a stack for the
    signal, at the last for the gradient.
    """
    layers = diagnosis.measurements.layers
    names, width = [x.layer for x in layers], len(layers)
    signal, gradient = [math.nan] * width, [math.nan] * width
    place = {x.layer: i for i, x in enumerate(layers)}
    for word in diagnosis.words:
        at = [place[name] for name in word.layers]
        for i, nats in zip(at, word.signal_path, strict=False):
            signal[i] = layers[at[0]].signal * math.exp(nats)
        for i, nats in zip(at, word.gradient_path, strict=False):
            gradient[i] = layers[at[-1]].gradient * math.exp(nats)
    return panels_figure([
        Panel("Signal", "signal RMS", names, [x.signal for x in layers], signal),
        Panel("Gradient", "gradient RMS", names, [x.gradient for x in layers], gradient),
    ], title)  # fmt: skip


def figure_difference(diagnosis: "Diagnosis", title: str) -> go.Figure:
    """Mean cosine between outputs for different inputs, and the rank of what differs, by layer."""
    m = diagnosis.measurements
    names, inputs = [x.layer for x in m.layers], [m.input_correlation] * len(m.layers)
    most = [float(x.most_directions) or math.nan for x in m.layers]
    return panels_figure([
        Panel("Cosine", "mean cosine", names, [x.correlation for x in m.layers], inputs,
              "inputs", False),
        Panel("Rank", "participation ratio", names, [x.rank for x in m.layers], most,
              "most that can be"),
    ], title)  # fmt: skip
