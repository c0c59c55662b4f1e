"""All numbers of one step as one vector on the device, and how they are read on the host."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from equipoise.measurement import MOST_COUNTED, LayerMeasurement
from equipoise.training.guard_producer import Producer
from equipoise.training.monitor_gathered import Gathered, Site
from equipoise.training.monitor_parameters import Piece
from equipoise.training.monitor_tensors import participation

Array = np.ndarray


@dataclass(frozen=True)
class Checked:
    """A tensor of the forward pass; ``number`` is finite only if all of it was.

    Attributes:
        layer: who is to blame for it.
        place: ``layer``, ``activation``, ``norm`` or ``input``.
        is_half: whether it was in float16.
    """

    layer: str
    place: str
    number: float
    is_half: bool


@dataclass(frozen=True, eq=False)
class Reading:
    """What one step showed, on the host.

    Attributes:
        step: its number, from 1.
        is_close: whether the step was looked at closely; only then is there anything of layers.
        loss: nan where none was given.
        has_loss: whether one was given.
        input_rms: of the floating-point inputs of the model; nan where there are none.
        rate: learning rate of the first group, nan if it is a tensor.
        parameters: number of them.
        by_parameter: by kind (``gradient``, ``update``, ``weight``, ``common``, ``differs``,
            ``twins``, ``since``, ``mark``, ``bound``), one number for each parameter, nan where
            there is none. Absent kinds were not taken.
        taken: by kind, for which parameters.
        slopes: along the last update, before and after it, by optimizer.
        layers: in order of the forward pass; gradients are still scaled where no scaler is known.
        scores: largest logit and entropy share of attention, by module.
        largest: absolute entry of outputs in float16, by layer.
        checks: in order of the forward pass.
        arrived: gradients at outputs in order of the backward pass: layer, sum of squares, and
            whether it is in half precision.
        dead: share of the units of each layer that were silent in the last looks.
        quiet: layers that make queries and keys.
        outputs: layers whose output no other takes in.
        explained: who made what is not finite, where that was asked.
    """

    step: int
    is_close: bool
    loss: float
    has_loss: bool
    input_rms: float
    rate: float
    parameters: int
    by_parameter: Mapping[str, Array]
    taken: Mapping[str, Array]
    slopes: tuple[tuple[float, float], ...]
    layers: tuple[LayerMeasurement, ...] = ()
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    largest: Mapping[str, float] = field(default_factory=dict)
    checks: tuple[Checked, ...] = ()
    arrived: tuple[tuple[str, float, bool], ...] = ()
    dead: Mapping[str, float] = field(default_factory=dict)
    quiet: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    explained: Producer | None = None

    @property
    def has_gradient(self) -> Array:
        """By parameter, whether there was a gradient."""
        found = self.taken.get("gradient")
        return np.zeros(self.parameters, dtype=bool) if found is None else found


@dataclass(frozen=True, eq=False)
class Row:
    """One step, not yet read.

    Attributes:
        vector: all numbers.
        lengths: of its parts.
    """

    step: int
    is_close: bool
    rate: float
    vector: torch.Tensor
    lengths: tuple[int, ...]
    pieces: tuple[Piece, ...]
    inputs: int
    parameters: int
    sites: tuple[Site, ...]
    firsts: tuple[tuple[int, ...], ...]
    checks: tuple[tuple[str, str, bool], ...]
    activations: tuple[tuple[str, bool], ...]
    scored: tuple[str, ...]
    arrived: tuple[tuple[str, bool], ...]
    arrived_at: tuple[int, ...]
    quiet: frozenset[str]
    outputs: frozenset[str]
    explained: Producer | None


def _joined(tensors: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Scalars and vectors as one vector."""
    if not tensors:
        return like.new_zeros(0)
    kinds = {(t.dtype, t.device, t.dim()) for t in tensors}
    if len(kinds) == 1 and tensors[0].dim() == 0:
        return torch.stack(tuple(tensors)).to(like)
    return torch.cat([t.detach().reshape(-1).to(like) for t in tensors])


def make_row(
    step: int,
    is_close: bool,
    rate: float,
    losses: Sequence[torch.Tensor],
    inputs: Sequence[tuple[torch.Tensor, int]],
    pieces: Sequence[Piece],
    gathered: Gathered,
    scale: torch.Tensor | None,
    parameters: int,
    explained: Producer | None,
    device: torch.device,
) -> Row:
    """Put a step together; nothing is read.

    Args:
        step: its number.
        is_close: whether it was looked at closely.
        rate: learning rate.
        losses: without axes.
        inputs: sums of squares and counts.
        pieces: of the parameters.
        gathered: of the forward and backward pass.
        scale: of the loss, if known.
        parameters: number of them.
        explained: who made what is not finite, if known.
        device: where numbers are joined.
    """
    is_wide = any(p.numbers.dtype == torch.float64 for p in pieces)
    like = torch.zeros((), device=device, dtype=torch.float64 if is_wide else torch.float32)
    sites = gathered.sites
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, site in enumerate(sites):
        if site.rows is not None:
            shapes.setdefault(tuple(site.rows.shape), []).append(i)
    means, ranks = [], []
    for places in shapes.values():
        rows = torch.stack([r.to(device) for i in places if (r := sites[i].rows) is not None])
        means.append(rows.mean(dim=(1, 2)))
        ranks.append(participation(rows))
    largest = [site.largest for site in sites if site.largest is not None]
    known = [(site, squares) for site, squares in gathered.gradients]
    places_of = {id(site): i for i, site in enumerate(sites)}
    arrived = _joined([squares for _, squares in known], like)
    if scale is not None:
        arrived = arrived / scale.to(arrived).square()
    parts = [
        _joined([loss.float() for loss in losses], like),
        _joined([squares for squares, _ in inputs], like),
        *(piece.numbers.to(like) for piece in pieces),
        _joined([site.squares for site in sites], like),
        _joined(means, like),
        _joined(ranks, like),
        _joined(largest, like),
        _joined([check.number for check in gathered.checks], like),
        _joined([a.silent for a in gathered.activations], like),
        _joined([a.dead for a in gathered.activations], like),
        _joined([a.flat for a in gathered.activations if a.flat is not None], like),
        _joined([scores.numbers() for _, scores in gathered.scores], like),
        arrived,
    ]
    parts = [part.reshape(-1) for part in parts]
    return Row(
        step, is_close, rate, torch.cat(parts), tuple(len(part) for part in parts), tuple(pieces),
        sum(count for _, count in inputs), parameters,
        tuple(_light(site) for site in sites), tuple(tuple(p) for p in shapes.values()),
        tuple((check.layer, check.place, check.is_half) for check in gathered.checks),
        tuple((a.layer, a.flat is not None) for a in gathered.activations),
        tuple(layer for layer, _ in gathered.scores),
        tuple((site.layer, site.dtype == torch.float16) for site, _ in known),
        tuple(places_of.get(id(site), -1) for site, _ in known),
        frozenset(gathered.quiet),
        gathered.takers.outputs([site.layer for site in sites]), explained,
    )  # fmt: skip


_NOTHING = torch.zeros(0)


def _light(site: Site) -> Site:
    """Without its tensors, which the vector has."""
    held = None if site.largest is None else _NOTHING
    return Site(site.layer, site.width, site.sites, site.batch, site.dtype, _NOTHING, site.count,
                None, held)  # fmt: skip


def read(row: Row, vector: Array) -> Reading:
    """The numbers of a row.

    Args:
        row: as made.
        vector: its vector, on the host.
    """
    ends = np.cumsum(row.lengths)
    parts = [vector[end - n : end] for end, n in zip(ends, row.lengths, strict=True)]
    losses, inputs = parts[:2]
    by_kind, slopes = dict[str, Array](), list[tuple[float, float]]()
    taken = dict[str, Array]()
    for piece, numbers in zip(row.pieces, parts[2:], strict=False):
        if piece.kind == "slope":
            slopes.append((float(numbers[0]), float(numbers[1])))
            continue
        every = by_kind.setdefault(piece.kind, np.full(row.parameters, math.nan))
        every[list(piece.places)] = numbers
        taken.setdefault(piece.kind, np.zeros(row.parameters, dtype=bool))[list(piece.places)] = (
            True
        )
    rest = parts[2 + len(row.pieces) :]
    squares, means, ranks, largest, checks, silent, dead, flat, scores, arrived = rest
    return Reading(
        row.step, row.is_close, float(losses.mean()) if len(losses) else math.nan,
        len(losses) > 0,
        math.sqrt(max(0.0, float(inputs.sum())) / row.inputs) if row.inputs else math.nan,
        row.rate, row.parameters, by_kind, taken, tuple(slopes),
        _layers(row, squares, means, ranks, silent, flat, arrived),
        {layer: (float(scores[2 * i]), float(scores[2 * i + 1]))
         for i, layer in enumerate(row.scored)},
        _largest(row, largest),
        tuple(Checked(layer, place, float(number), is_half) for (layer, place, is_half), number
              in zip(row.checks, checks, strict=True)),
        tuple((layer, float(number), is_half) for (layer, is_half), number
              in zip(row.arrived, arrived, strict=True)),
        {layer: float(number) for (layer, _), number in zip(row.activations, dead, strict=True)},
        row.quiet, row.outputs, row.explained,
    )  # fmt: skip


def _largest(row: Row, largest: Array) -> dict[str, float]:
    halves = [site.layer for site in row.sites if site.largest is not None]
    found: dict[str, float] = {}
    for layer, number in zip(halves, largest, strict=True):
        found[layer] = max(found.get(layer, 0.0), float(number))
    return found


def _layers(
    row: Row, squares: Array, means: Array, ranks: Array, silent: Array, flat: Array, arrived: Array
) -> tuple[LayerMeasurement, ...]:
    """One measurement for each layer, over all its calls."""
    order = [i for places in row.firsts for i in places]
    first = {row.sites[i].layer: (float(means[k]), float(ranks[k])) for k, i in enumerate(order)}
    flats = iter(flat)
    dead: dict[str, float] = {}
    saturated: dict[str, float] = {}
    for (layer, has_flat), number in zip(row.activations, silent, strict=True):
        # Of several calls, a unit must be still in each.
        dead[layer] = min(dead.get(layer, 1.0), float(number))
        if has_flat:
            saturated[layer] = max(saturated.get(layer, 0.0), float(next(flats)))
    gradient: dict[str, list[tuple[float, int]]] = {}
    for place, number in zip(row.arrived_at, arrived, strict=True):
        if place >= 0:
            site = row.sites[place]
            gradient.setdefault(site.layer, []).append((float(number), site.count))
    found = []
    for layer, calls in _by_layer(row.sites).items():
        site = row.sites[calls[0]]
        total, count = sum(float(squares[i]) for i in calls), sum(row.sites[i].count for i in calls)
        back = gradient.get(layer, [])
        rms = math.nan
        if back:
            rms = _root(sum(number for number, _ in back) / sum(n for _, n in back))
        mean, rank = first[layer]
        found.append(
            LayerMeasurement(
                layer, layer, site.width, _root(total / count), rms, math.nan, math.nan,
                saturated.get(layer, 0.0), dead.get(layer, 0.0), mean=mean, rank=rank,
                most_directions=min(63, site.width, max(1, site.batch * site.sites - 1)),
                sites=site.sites, distinct_inputs=min(site.batch, MOST_COUNTED),
                is_output=layer in row.outputs,
            )
        )  # fmt: skip
    return tuple(found)


def _root(number: float) -> float:
    return math.sqrt(number) if number >= 0 else math.nan


def _by_layer(sites: Sequence[Site]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, site in enumerate(sites):
        found.setdefault(site.layer, []).append(i)
    return found
