"""Where a network stands in the phase diagram of its activation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from equipoise import _checks
from equipoise._text import without_nan
from equipoise.errors import ArgumentError
from equipoise.lab.presented import Presented
from equipoise.lab.replay_data import Curve, HeatMap, Picture
from equipoise.plan.plan import Plan
from equipoise.report.panels import shown
from equipoise.schemes.draw import draw
from equipoise.theory.activations import Activation
from equipoise.theory.critical import critical_line
from equipoise.theory.meanfield import mean_field
from equipoise.theory.phase import phase_diagram

# Points of the fine maps and of the one that takes a root for each.
_FINE, _COARSE = (48, 32), (11, 7)
# Room beyond the networks that are placed.
_ROOM = 1.25
_WEIGHT_VARS, _BIAS_VARS = (0.25, 4.0), (0.0, 0.3)


@dataclass(frozen=True)
class Place:
    """One weight of a network in the phase diagram.

    Attributes:
        network: name of the network.
        weight: name of the weight.
        weight_var: mean over units of the squared norm of their incoming weights.
        bias_var: mean square of the biases.
        phase: of a wide network all of whose layers are so.
        chi_1: growth per layer of its mean-square gradient; nan where the signal explodes.
        trainable_depth: 6 xi_c, in layers; nan likewise.
    """

    network: str
    weight: str
    weight_var: float
    bias_var: float
    phase: str
    chi_1: float
    trainable_depth: float


@dataclass(frozen=True)
class PhaseMap(Presented):
    """The phase diagram of an activation with networks on it.

    Attributes:
        activation: in words.
        places: of every weight of the networks.
        pictures: chi_1, q* and c* over the plane.
    """

    activation: str
    places: tuple[Place, ...]
    pictures: tuple[Picture, ...]

    def headline(self) -> str:
        """What the page is about."""
        counts = {p.phase: 0 for p in self.places}
        for place in self.places:
            counts[place.phase] += 1
        told = ", ".join(f"{count} {phase}" for phase, count in counts.items())
        return f"Phase diagram of {self.activation}" + (f": {told} weights" if told else "")

    def sentences(self) -> tuple[str, ...]:
        """How it is to be read."""
        return (
            "Mean field: wide networks whose entries are independent, or whose weights are "
            "orthogonal, all layers alike. A weight is placed by the squared norm of its rows, as "
            "the plan draws it. Layers on frames whose units are centred or mirrored are more "
            "ordered than their place says: their biases and pairs depend on the weights.",
            "xi_c is the depth scale of correlations; networks have been seen to train to about 6 "
            "of it. Sources: arXiv 1606.05340, 1611.01232.",
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types; nan and infinity become null."""
        data: dict[str, Any] = without_nan(asdict(self))
        return {"headline": self.headline()} | data

    def page(self) -> str:
        """All of it as one HTML page that needs no network."""
        from equipoise.lab.replay_html import pictures_page

        rows = [_texts(place) for place in self.places]
        tables = [("Where each weight stands", _HEADINGS, rows)] if rows else []
        return pictures_page(self.headline(), self.sentences(), tables, self.pictures)

    def print(self, console: Console) -> None:
        """Print it to a rich console."""
        console.print(f"{self.headline()}.", markup=False, style="bold")
        if self.places:
            table = Table(box=None, pad_edge=False)
            for i, heading in enumerate(_HEADINGS):
                table.add_column(heading, justify="right" if i > 1 else "left")
            for place in self.places:
                table.add_row(*_texts(place))
            console.print(table)
        for line in self.sentences():
            console.print(f"  {line}", markup=False)


_HEADINGS = ("network", "weight", "weight_var", "bias_var", "phase", "chi_1", "6 xi_c")


def phase_map(
    activation: Activation,
    networks: Mapping[str, Plan] | None = None,
    weight_vars: tuple[float, float] = _WEIGHT_VARS,
    bias_vars: tuple[float, float] = _BIAS_VARS,
    seed: int = 0,
) -> PhaseMap:
    """The phase diagram of an activation, with networks placed on it.

    Args:
        activation: f, without jumps.
        networks: plans by a name for each; every weight of two axes or more is drawn once and
            placed, the last one left out, which no activation follows.
        weight_vars: ends of the axis of fan_in times the variance of a weight, positive; moved
            apart where a network lies beyond.
        bias_vars: ends of the axis of the variance of a bias, not negative.
        seed: of the draws.

    Returns:
        The map.

    Raises:
        ArgumentError: for an activation that jumps, ends that are no range, or a plan without a
            hidden weight.

    >>> from equipoise.theory import activations
    >>> phase_map(activations.tanh()).headline()
    'Phase diagram of tanh'
    """
    low_w = _checks.positive("weight_vars", weight_vars[0])
    low_b = _checks.not_negative("bias_vars", bias_vars[0])
    for name, (low, high) in (("weight_vars", weight_vars), ("bias_vars", bias_vars)):
        if not low < _checks.finite(name, high):
            raise ArgumentError(
                f"{name} must be a range, got {low:g} to {high:g}. Put the smaller number first."
            )
    places = [
        place
        for name, plan in (networks or {}).items()
        for place in _placed(activation, name, plan, seed)
    ]
    low_w = min([low_w, *(p.weight_var / _ROOM for p in places if p.weight_var > 0)])
    high_w = max([weight_vars[1], *(_ROOM * p.weight_var for p in places)])
    high_b = max([bias_vars[1], *(_ROOM * p.bias_var for p in places)])
    ends = ((low_w, high_w), (low_b, high_b))
    return PhaseMap(str(activation), tuple(places), diagrams(activation, *ends, places))


def _placed(activation: Activation, name: str, plan: Plan, seed: int) -> list[Place]:
    streams = plan.streams(seed)
    laws = {a.parameter: a for a in plan.assignments}
    weights = [a for a in plan.assignments if len(a.shape) >= 2][:-1]
    if not weights:
        raise ArgumentError(
            f"networks[{name!r}] must be a plan with a hidden weight, got none. "
            "A single layer has no depth."
        )
    found = []
    for a in weights:
        drawn = draw(a.law, a.parameter, a.shape, streams)
        weight_var = float(np.square(drawn).sum()) / a.shape[0]
        bias = laws.get(a.parameter.removesuffix("weight") + "bias")
        bias_var = 0.0
        if bias is not None and bias is not a:
            drawn = draw(bias.law, bias.parameter, bias.shape, streams)
            bias_var = float(np.square(drawn).mean())
        phase, chi, depth = "vanishing", 0.0, 0.0
        if weight_var > 0:
            told = mean_field(activation, weight_var, bias_var)
            phase, chi, depth = told.phase, told.chi_1, told.trainable_depth
        found.append(Place(name, a.parameter, weight_var, bias_var, phase, chi, depth))
    return found


def diagrams(
    activation: Activation,
    weight_vars: tuple[float, float],
    bias_vars: tuple[float, float],
    places: Sequence[Place],
) -> tuple[Picture, ...]:
    """chi_1, q* and c* over the plane of both variances, with the critical line and networks."""
    axes = [np.linspace(*weight_vars, _FINE[0]), np.linspace(*bias_vars, _FINE[1])]
    found = phase_diagram(activation, *axes)
    line = _critical(activation, weight_vars, bias_vars)
    names = dict.fromkeys(p.network for p in places)
    marks = [
        Curve(
            name, tuple(p.weight_var for p in places if p.network == name),
            tuple(p.bias_var for p in places if p.network == name), (), "points",
        )
        for name in names
    ]  # fmt: skip
    curves = (*line, *marks)
    x, y = (tuple(axis.tolist()) for axis in axes)
    chi = HeatMap(x, y, _rows(found.chi_1), "chi_1", 1.0)
    q_star = HeatMap(x, y, _rows(found.q_star), "q*")
    c_star = _c_star(activation, weight_vars, bias_vars)
    words = (
        ("chi_1: growth per layer of the mean-square gradient", chi),
        ("q*: second moment that the signal reaches", q_star),
        ("c*: correlation that two inputs reach", c_star),
    )
    return tuple(
        Picture(
            f"{title}, {activation}", "The critical line parts order from chaos.",
            "weight_var", "bias_var", curves, heat=(heat,),
        )
        for title, heat in words
    )  # fmt: skip


@lru_cache(maxsize=32)
def _c_star(
    activation: Activation, weight_vars: tuple[float, float], bias_vars: tuple[float, float]
) -> HeatMap:
    """c* by a root at each point, a tenth of a second where it is chaotic: hence few points."""
    x, y = (np.linspace(*e, n) for e, n in zip((weight_vars, bias_vars), _COARSE, strict=True))
    z = [[mean_field(activation, float(w), float(b)).c_star for b in y] for w in x]
    return HeatMap(tuple(x.tolist()), tuple(y.tolist()), _rows(np.array(z)), "c*")


def _critical(
    activation: Activation, weight_vars: tuple[float, float], bias_vars: tuple[float, float]
) -> list[Curve]:
    w, b = critical_line(activation, np.logspace(-4, 3, 141))
    inside = (w >= weight_vars[0]) & (w <= weight_vars[1]) & (b >= bias_vars[0])
    inside &= b <= bias_vars[1]
    if not inside.any():
        return []
    line = Curve("critical", tuple(w[inside].tolist()), tuple(b[inside].tolist()))
    return [line]


def _rows(values: Any) -> tuple[tuple[float, ...], ...]:
    """An array of shape (x, y) as one row for each y."""
    return tuple(tuple(float(v) for v in row) for row in values.T)


def _texts(place: Place) -> tuple[str, ...]:
    numbers = (place.weight_var, place.bias_var)
    return (
        place.network, place.weight, *(f"{v:.3g}" for v in numbers), place.phase,
        f"{place.chi_1:.4g}", shown(place.trainable_depth, "any"),
    )  # fmt: skip
