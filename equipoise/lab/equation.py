"""An equation as a task for a network: residual, points, terms of the loss, reference solution."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.jet_rule import Orders
from equipoise.lab.jets import jets

Array = NDArray[np.float64]
Jet = Mapping[Orders, torch.Tensor]
INSIDE = "residual"


@dataclass(frozen=True, eq=False)
class Edge:
    """A part of the boundary where the solution is known.

    Attributes:
        name: of the term of the loss that its misses count in, with those of others of that name.
        axis: the coordinate that is fixed.
        value: what it is fixed at.
    """

    name: str
    axis: int
    value: float


@dataclass(frozen=True, eq=False)
class Equation:
    """A differential equation on a box, with values given on some of its faces.

    Attributes:
        name: of the equation.
        words: the equation and its data as text.
        axes: names of the coordinates.
        lower, upper: corners of the box.
        orders: derivatives that the residual reads.
        residual: what is to vanish inside, from the jet and the points, shape (rows, 1).
        edges: faces with given values.
        given: those values at points, shape (rows, inputs) to (rows,).
        reference: the solution at points, likewise.
    """

    name: str
    words: str
    axes: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    orders: tuple[Orders, ...]
    residual: Callable[[Jet, torch.Tensor], torch.Tensor]
    edges: tuple[Edge, ...]
    given: Callable[[Array], Array]
    reference: Callable[[Array], Array]

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss, the residual first."""
        return (INSIDE, *dict.fromkeys(edge.name for edge in self.edges))

    def points(self, inside: int, on_edge: int, seed: int) -> "Points":
        """Points for the loss: a Latin hypercube inside, and one on each edge.

        Args:
            inside: number of collocation points.
            on_edge: number of points on each edge; an edge of one input is one point.
            seed: of the draw.

        Returns:
            The points with the values given there, in float64.
        """
        _checks.at_least("inside", inside, 1)
        _checks.at_least("on_edge", on_edge, 1)
        _checks.at_least("seed", seed, 0)
        rng = np.random.default_rng([seed, len(self.axes)])
        found: dict[str, list[Array]] = {}
        for edge in self.edges:
            x = self._spread(on_edge if len(self.axes) > 1 else 1, rng)
            x[:, edge.axis] = edge.value
            found.setdefault(edge.name, []).append(x)
        sides = {name: np.concatenate(parts) for name, parts in found.items()}
        return Points(
            torch.from_numpy(self._spread(inside, rng)),
            {name: torch.from_numpy(x) for name, x in sides.items()},
            {name: torch.from_numpy(self.given(x)[:, None]) for name, x in sides.items()},
        )

    def grid(self, count: int) -> tuple[Array, tuple[int, ...]]:
        """Even points of the box, count along each axis, shape (rows, inputs), and their grid."""
        _checks.at_least("count", count, 2)
        ticks = [np.linspace(a, b, count) for a, b in zip(self.lower, self.upper, strict=True)]
        mesh = np.meshgrid(*ticks, indexing="ij")
        return np.stack([m.ravel() for m in mesh], axis=1), (count,) * len(self.axes)

    def _spread(self, count: int, rng: np.random.Generator) -> Array:
        drawn = qmc.LatinHypercube(len(self.axes), rng=rng).random(count)
        return np.asarray(qmc.scale(drawn, self.lower, self.upper))


@dataclass(frozen=True, eq=False)
class Points:
    """Where a loss looks.

    Attributes:
        inside: collocation points, shape (rows, inputs).
        edges: points with given values, by the name of their term.
        values: those values, shape (rows, 1).
    """

    inside: torch.Tensor
    edges: Mapping[str, torch.Tensor]
    values: Mapping[str, torch.Tensor]

    @property
    def all(self) -> torch.Tensor:
        """All of them, as inputs to plan a start for."""
        return torch.cat([self.inside, *self.edges.values()])


@dataclass(frozen=True, eq=False)
class EquationLoss:
    """Mean squares of the residual and of the misses on edges, each times a weight.

    Attributes:
        equation: what is to be solved.
        points: where.
        weights: by the name of a term; those left out have 1.
    """

    equation: Equation
    points: Points
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            _checks.one_of("weights", name, self.equation.terms)
            _checks.positive(f"weight of {name}", weight)

    def terms(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """Each mean square, without its weight, with a graph to the parameters."""
        found = jets(network, self.points.inside, self.equation.orders)
        missing = self.equation.residual(found, self.points.inside)
        terms = {INSIDE: missing.square().mean()}
        for name, x in self.points.edges.items():
            terms[name] = (network(x) - self.points.values[name]).square().mean()
        return terms

    def weighted(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss that is minimised."""
        return torch.stack([self.weights.get(name, 1.0) * t for name, t in terms.items()]).sum()


def relative_error(network: nn.Module, at: Array, reference: Array) -> float:
    """|u - reference| / |reference| in the Euclidean norm over points.

    Args:
        network: u, one output.
        at: points, shape (rows, inputs).
        reference: the solution there, shape (rows,).

    Returns:
        The relative L2 error; inf where u is not finite.

    >>> net = nn.Linear(1, 1)
    >>> x = np.zeros((3, 1))
    >>> relative_error(net.double(), x, np.full(3, float(net.bias.detach())))
    0.0
    """
    scale = float(np.linalg.norm(reference))
    if not scale > 0:
        raise ArgumentError("reference must differ from 0 somewhere, got zeros. Check the points.")
    with torch.no_grad():
        u = network(torch.from_numpy(at)).numpy()[:, 0]
    error = float(np.linalg.norm(u - reference)) / scale
    return error if math.isfinite(error) else math.inf


def slices(equation: Equation, where: Sequence[float], count: int) -> list[Array]:
    """Points along the first axis at fixed values of the last, for pictures.

    >>> from equipoise.lab.equations import burgers
    >>> [s.shape for s in slices(burgers(), (0.25, 0.75), 11)]
    [(11, 2), (11, 2)]
    """
    along = np.linspace(equation.lower[0], equation.upper[0], count)
    if len(equation.axes) == 1:
        return [along[:, None]]
    return [np.stack([along, np.full(count, value)], axis=1) for value in where]
