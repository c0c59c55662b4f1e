"""A card for one activation: what theory says of it, and how to start a deep stack of it."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from equipoise import _checks
from equipoise._text import json_text, printed, without_nan
from equipoise.errors import ArgumentError
from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Affine
from equipoise.plan.plan_stack import plan_stack
from equipoise.plan.stacks import Hidden, Stack
from equipoise.report.growth import Growth, growths
from equipoise.report.snippet import snippet
from equipoise.schemes.catalogue import parse_scheme
from equipoise.schemes.law_data import describe
from equipoise.theory.activations import Activation, identity
from equipoise.theory.critical import critical_line, critical_weight_var
from equipoise.theory.evidence import Evidence
from equipoise.theory.gaussian import expectation
from equipoise.theory.layermaps import energy, slope_energy
from equipoise.theory.meanfield import MeanField, mean_field
from equipoise.theory.oddpart import Classification, classify
from equipoise.theory.oddsigmoid import odd_sigmoid
from equipoise.theory.probe import examine

_LEVELS = tuple(float(f"{q:.4g}") for q in np.logspace(-3, 3, 49))
_SHOWN_LEVELS = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class CurvePoint:
    """What one layer does at a level that plain weights without bias hold.

    Attributes:
        q: second moment of the preactivation.
        weight_var: the fan_in times variance of a weight that holds it, q / E f^2.
        chi_1: growth per layer of the mean-square gradient there, q E f'^2 / E f^2.
        centred: the same about f(0), the mean Hermite degree q E f'^2 / E f0^2.
        critical_weight_var, critical_bias_var: the point of the critical line at this level, nan
            where it would take a negative bias variance.
    """

    q: float
    weight_var: float
    chi_1: float
    centred: float
    critical_weight_var: float
    critical_bias_var: float


@dataclass(frozen=True)
class Card:
    """Everything theory has to say of one activation at one width and depth.

    Attributes:
        function: the activation.
        evidence: its properties, each with how sure it is.
        classification: which start a deep stack of it can be given.
        odd_sigmoid: whether it is in the class that diagonal + noise weights need, and why not.
        curve: chi_1 and the weight variance by level; empty where f jumps.
        critical: weight variances with chi_1 = 1 at a fixed point, without bias.
        wide: the phase of a wide network with He's weights; None where f jumps.
        width, depth: units and hidden layers.
        growths: how the gradient grows over the whole depth, by way of drawing.
        scheme: the scheme asked for.
        laws: what the first, the hidden and the last weight are drawn from.
        reason: why.
        warning: what theory says against it, or ''.
        signal: expected RMS at each affine layer.
        gradient: expected RMS at each affine layer, relative to the last.
        log_std: standard deviation over draws of the log of either, nats; nan where no level is
            stable and the signal itself cannot be told.
        code: lines to copy.
    """

    function: Activation
    evidence: tuple[Evidence, ...]
    classification: Classification
    odd_sigmoid: str
    curve: tuple[CurvePoint, ...]
    critical: tuple[float, ...]
    wide: MeanField | None
    width: int
    depth: int
    growths: tuple[Growth, ...]
    scheme: str
    laws: tuple[str, str, str]
    reason: str
    warning: str
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    log_std: float
    code: str

    def to_dict(self) -> dict[str, Any]:
        """The card as plain JSON types; nan and infinity become null.

        >>> from equipoise.theory import activations
        >>> make_card(activations.relu(), 16, 50).to_dict()["classification"]["kind"]
        'mirror'
        """
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "function"}
        for name in ("evidence", "curve", "growths"):
            plain[name] = [asdict(entry) for entry in plain[name]]
        plain["classification"] = asdict(self.classification)
        plain["classification"]["kind"] = self.classification.kind.value
        plain["wide"] = None if self.wide is None else asdict(self.wide)
        done: dict[str, Any] = without_nan({"activation": str(self.function), **plain})
        return done

    def to_json(self) -> str:
        """The card as JSON text."""
        return json_text(self.to_dict())

    def __str__(self) -> str:
        return printed(self.print)

    def print(self, console: Console) -> None:
        """Print the card to a rich console."""
        head = f"[bold]{escape(str(self.function))}[/bold], {self.classification.kind.value}: "
        console.print(head + escape(self.classification.reason), highlight=False)
        _print_facts(console, self.evidence)
        console.print(f"odd-sigmoid class: {self.odd_sigmoid}", markup=False)
        console.print()
        if self.wide is not None:
            console.print("wide network, no bias", style="bold")
            console.print(_curve_table(self.curve))
            console.print(_critical_words(self.critical), markup=False)
            console.print(f"He's weights: {self.wide.reason}", markup=False)
            console.print()
        if self.growths:
            title = f"log10 of the gradient's growth over {self.depth} layers of width {self.width}"
            console.print(title, style="bold")
            console.print(_growth_table(self.growths))
            console.print()
        console.print(f"start: {self.scheme}", style="bold")
        console.print(f"{self.reason}.", markup=False)
        if self.warning and self.warning not in self.reason:
            console.print(f"warning: {self.warning}", style="yellow", markup=False)
        first, hidden, last = self.laws
        console.print(f"first weight {first}; hidden weights {hidden}; last weight {last}",
                      markup=False)  # fmt: skip
        console.print(
            f"expected: signal RMS {_number(self.signal[0])} at the first layer, "
            f"{_number(self.signal[-2])} at the last hidden one, {_number(self.signal[-1])} at the "
            f"output; gradient at the first over that at the last {_number(self.gradient[0])}; "
            + _stray_words(self.log_std),
            markup=False,
        )
        console.print()
        console.print(self.code, markup=False, style="cyan", soft_wrap=True)


def make_card(
    activation: Activation | Callable[[Any], Any],
    width: int,
    depth: int,
    scheme: str = "auto",
    name: str = "probed",
) -> Card:
    """The card of an activation, or of any pointwise callable.

    Args:
        activation: f, or a callable that ``examine`` can read.
        width: units of each hidden layer, at least 2.
        depth: number of hidden layers, at least 1.
        scheme: what to draw by: ``auto`` or one of the schemes by name.
        name: name for a callable that is not a known activation.

    Returns:
        The card.

    Raises:
        ArgumentError: for a callable that is not pointwise, or arguments out of range.
        PlanError: if the scheme cannot serve this activation.

    >>> from equipoise.theory import activations
    >>> card = make_card(activations.tanh(), 16, 50)
    >>> card.classification.kind.value, card.critical
    ('centre', (1.0,))
    """
    _checks.at_least("width", width, 2, "One unit has no stack to balance.")
    _checks.at_least("depth", depth, 1)
    parse_scheme(scheme)
    if isinstance(activation, Activation):
        f, evidence = activation, _declared(activation)
    else:
        found = examine(activation, name)
        f, evidence = found.activation, found.evidence
    if f.lower == f.upper:
        raise ArgumentError(f"activation must not be constant, got {f}. No signal passes it.")
    planned = plan_stack(_stack(f, width, depth), scheme, Inputs(1.0, np.empty(0)))
    curve, critical, wide = _wide_limit(f)
    first, last = planned.weights[0], planned.weights[-1]
    hidden = planned.weights[1] if depth > 1 else last
    settles = not planned.is_unstable or planned.signal[-1] > 0
    return Card(
        function=f,
        evidence=evidence,
        classification=classify(f),
        odd_sigmoid=odd_sigmoid(f).reason,
        curve=curve,
        critical=critical,
        wide=wide,
        width=width,
        depth=depth,
        growths=growths(f, width, depth),
        scheme=scheme,
        laws=(describe(first), describe(hidden), describe(last)),
        reason=planned.reason,
        warning=planned.warning,
        signal=planned.signal,
        gradient=planned.gradient,
        log_std=planned.log_std if settles else math.nan,
        code=snippet(f, planned.weights, scheme, planned.biases[len(planned.biases) // 2]),
    )


def _declared(f: Activation) -> tuple[Evidence, ...]:
    said = {
        "parity": f.parity, "homogeneity": f.homogeneity, "jumps": f.jumps, "kinks": f.kinks,
        "corners": f.corners, "slope_left": f.slope_left, "slope_right": f.slope_right,
        "lower": f.lower, "upper": f.upper,
    }  # fmt: skip
    return tuple(Evidence(k, v, "exact", f"a property of {f}") for k, v in said.items())


def _stack(f: Activation, width: int, depth: int) -> Stack:
    """A plain network of ``depth`` hidden layers, all sizes equal."""
    affines = tuple(
        Affine(f"{i}", f"{i}.weight", f"{i}.bias", 2 * i, 2 * i + 1, i, i + 1, width, width)
        for i in range(depth + 1)
    )
    hidden = tuple(Hidden(i + 1, width, f) for i in range(depth))
    return Stack(affines, hidden, identity(), 2 * depth + 1, (True,) * (depth + 1))


def _wide_limit(
    f: Activation,
) -> tuple[tuple[CurvePoint, ...], tuple[float, ...], MeanField | None]:
    if f.jumps:
        return (), (), None
    zero = f.value_at_zero
    curve = []
    for q in sorted({*_LEVELS, *_SHOWN_LEVELS}):
        second, slopes = energy(f, q), slope_energy(f, q)
        centred = second
        if zero != 0.0:
            centred = expectation(lambda z: (f.f(z) - zero) ** 2, q, f.kinks).value
        if second > 0.0 and centred > 0.0:
            held, degree = q / second, q * slopes / second
            weight_var, bias_var = (float(v) for v in critical_line(f, q))
            curve.append(CurvePoint(q, held, degree, q * slopes / centred, weight_var, bias_var))
    at_one = energy(f, 1.0)
    wide = mean_field(f, 1.0 / at_one) if at_one > 0.0 else None
    return tuple(curve), critical_weight_var(f), wide


def _print_facts(console: Console, evidence: tuple[Evidence, ...]) -> None:
    exact = [f"{e.property} {e.shown()}" for e in evidence if e.certainty == "exact"]
    if exact:
        console.print(f"known: {', '.join(exact)}", markup=False)
    found = [e for e in evidence if e.certainty != "exact"]
    if found:
        table = Table(box=None, pad_edge=False, show_header=False)
        for column in ("property", "value", "ground"):
            table.add_column(column, overflow="fold")
        for e in found:
            table.add_row(e.property, e.shown(), f"[dim]{e.certainty}: {escape(e.how)}[/dim]")
        console.print(table)


def _curve_table(curve: tuple[CurvePoint, ...]) -> Table:
    table = _table(
        "level q", "held by weight_var", "chi_1", "centred", "critical weight_var, bias_var"
    )
    for point in curve:
        if point.q in _SHOWN_LEVELS:
            line = "-"
            if not math.isnan(point.critical_bias_var):
                line = f"{_number(point.critical_weight_var)}, {_number(point.critical_bias_var)}"
            row = map(_number, (point.q, point.weight_var, point.chi_1, point.centred))
            table.add_row(*row, line)
    return table


def _critical_words(critical: tuple[float, ...]) -> str:
    if not critical:
        return "critical point without bias: none, at any weight variance"
    listed = ", ".join(f"{w:.9g}" for w in critical)
    return f"critical point without bias: chi_1 = 1 at weight_var {listed}"


def _stray_words(log_std: float) -> str:
    if math.isnan(log_std):
        return "how far one draw strays cannot be told, since no level of the signal is stable"
    return f"one draw strays by a factor {_number(math.exp(log_std))}"


def _growth_table(rows: tuple[Growth, ...]) -> Table:
    table = _table("drawn", "scale", "growth", "spread", "P(within 1)", "half to depth", "theory")
    for row in rows:
        even = "any" if math.isinf(row.even_depth) else _number(row.even_depth)
        table.add_row(row.name, _number(row.scale), _number(row.decades), _number(row.spread),
                      _number(row.odds), even, row.claim)  # fmt: skip
    return table


def _table(*columns: str) -> Table:
    """A bare table with numbers to the right and words to the left."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("drawn", "theory") else "right")
    return table


def _number(x: float) -> str:
    if math.isnan(x):
        return "-"
    # A scale that was solved for leaves rounding where 0 is meant.
    return f"{x:.4g}" if abs(x) > 1e-12 else "0"
