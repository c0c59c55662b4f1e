"""One weight of a plan as a map of batches, forward and back, with the law that it would have.

A law that has a shortcut is never drawn whole (``predict_maps``); entries that are not normal act
as normal ones of their variance where a unit reads many of them, and are drawn where it reads few.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from equipoise.plan.predict_entries import acts_as_normal, moments, power, whole
from equipoise.plan.predict_maps import Entries, Rotation
from equipoise.schemes.call_text import activation_of
from equipoise.schemes.draw import PROBES
from equipoise.schemes.laws import (
    Array,
    BestOf,
    Constant,
    DiagonalNoise,
    Frame,
    Framed,
    Identity,
    Law,
    Mirrored,
    Normal,
    Orthogonal,
    Paired,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zero,
)


class Weight(Protocol):
    """A linear map of batches of shape (draws, units, rows)."""

    def forward(self, x: Array) -> Array:
        """W x."""
        ...

    def back(self, u: Array) -> Array:
        """W^T u."""
        ...


@dataclass
class Drawing:
    """What the weights of one set of draws share: randomness, frames, arrays, probes.

    Attributes:
        rng: source of randomness.
        draws: number of networks that are drawn together.
        frames: of the plan, by id.
        arrays: of the plan, by name.
        probes: signals behind sampled weights, by name of the weight.
    """

    rng: np.random.Generator
    draws: int
    frames: Mapping[str, Frame]
    arrays: Mapping[str, Array]
    probes: dict[str, Array] = field(default_factory=dict)
    _rotations: dict[str, "Rotation | _Joined"] = field(default_factory=dict)

    def rotation(self, frame_id: str) -> "Rotation | _Joined":
        """The rotation whose leading columns are a frame: one for all weights that touch it."""
        if frame_id not in self._rotations:
            frame = self.frames[frame_id]
            if frame.parent:
                carried = self.frames[frame.parent].columns
                mixture = Rotation(self.rng, carried * frame.copies)
                self._rotations[frame_id] = _Joined(
                    self.rotation(frame.parent), mixture, frame.copies, carried
                )
            elif frame.basis:
                axes = self.arrays[frame.basis][: frame.columns]
                units = np.eye(frame.size, len(axes))
                self._rotations[frame_id] = Rotation(self.rng, frame.size, units, axes.T)
            else:
                self._rotations[frame_id] = Rotation(self.rng, frame.size)
        return self._rotations[frame_id]


def weight_of(law: Law, name: str, rows: int, columns: int, drawing: Drawing) -> Weight | str:
    """The map that a law makes, or why there is none.

    Args:
        law: of the weight, as a matrix.
        name: of the weight.
        rows: number of outputs.
        columns: number of inputs.
        drawing: what the weights share.

    Returns:
        The map, or one sentence.
    """
    shape, rng = (drawing.draws, rows, columns), drawing.rng
    match law:
        case Zero():
            return _Fixed(np.zeros((rows, columns)))
        case Constant(value=value):
            return _Fixed(np.full((rows, columns), value))
        case Identity(gain=gain):
            return _Fixed(gain * np.eye(rows, columns))
        case Normal() | Uniform() | TruncatedNormal() | Sparse():
            if not acts_as_normal(law, columns):
                return _Drawn(whole(law, shape, rng))
            mean, std = moments(law, rows)
            noise = Entries(rng, rows, columns, std)
            return _Sum(_Fixed(np.full((rows, columns), mean)), noise) if mean else noise
        case Orthogonal(gain=gain):
            return _SemiOrthogonal(Rotation(rng, max(rows, columns)), rows, columns, gain)
        case DiagonalNoise(diagonal=diagonal, noise_std=std):
            if acts_as_normal(law, columns):
                return _Sum(_Diagonal(rows, columns, diagonal), Entries(rng, rows, columns, std))
            return _Sum(_Diagonal(rows, columns, diagonal), _Drawn(whole(law, shape, rng)))
        case Framed():
            return _on_frames(law, rows, columns, drawing)
        case Paired():
            m, n = rows // (1 + law.rows), columns // (1 + law.columns)
            inner = weight_of(law.matrix, name, m, n, drawing)
            if isinstance(inner, str):
                return inner
            entry = math.sqrt(power(law.matrix, n, m) / n)
            extra = Entries(rng, rows - 2 * m, columns, entry) if law.rows else None
            return _InPairs(inner, m if law.rows else 0, n if law.columns else 0, columns, extra)
        case BestOf():
            return _best(law, name, rows, columns, drawing)
        case _:
            return f"there is no theory of {type(law).__name__} weights"


class _Fixed:
    """The same matrix in every draw."""

    def __init__(self, matrix: Array) -> None:
        self._matrix = matrix

    def forward(self, x: Array) -> Array:
        return np.asarray(self._matrix @ x)

    def back(self, u: Array) -> Array:
        return np.asarray(self._matrix.T @ u)


class _Drawn:
    """A whole matrix for each draw, shape (draws, rows, columns)."""

    def __init__(self, matrices: Array) -> None:
        self._matrices = matrices

    def forward(self, x: Array) -> Array:
        return np.asarray(self._matrices @ x)

    def back(self, u: Array) -> Array:
        return np.asarray(self._matrices.transpose(0, 2, 1) @ u)


class _Diagonal:
    """omega D, D_ij = 1 where i = j (mod columns)."""

    def __init__(self, rows: int, columns: int, diagonal: float) -> None:
        self._source, self._columns, self._diagonal = np.arange(rows) % columns, columns, diagonal

    def forward(self, x: Array) -> Array:
        return np.asarray(self._diagonal * x[:, self._source])

    def back(self, u: Array) -> Array:
        total = np.zeros((len(u), self._columns, u.shape[2]))
        for start in range(0, u.shape[1], self._columns):
            part = u[:, start : start + self._columns]
            total[:, : part.shape[1]] += part
        return np.asarray(self._diagonal * total)


class _Sum:
    """Two maps added."""

    def __init__(self, first: Weight, second: Weight) -> None:
        self._parts = (first, second)

    def forward(self, x: Array) -> Array:
        return self._parts[0].forward(x) + self._parts[1].forward(x)

    def back(self, u: Array) -> Array:
        return self._parts[0].back(u) + self._parts[1].back(u)


class _SemiOrthogonal:
    """A corner of a rotation of the larger of the two sizes."""

    def __init__(self, rotation: Rotation, rows: int, columns: int, gain: float) -> None:
        self._rotation, self._rows, self._columns, self._gain = rotation, rows, columns, gain

    def forward(self, x: Array) -> Array:
        return self._gain * self._rotation.forward(x)[:, : self._rows]

    def back(self, u: Array) -> Array:
        return self._gain * self._rotation.back(u)[:, : self._columns]


class _InPairs:
    """[M; -M] on outputs, [M, -M] on inputs, or both; units left over receive rows of their own.

    ``rows`` and ``columns`` are numbers of pairs, 0 where there are none.
    """

    def __init__(
        self, inner: Weight, rows: int, columns: int, inputs: int, extra: Weight | None
    ) -> None:
        self._inner, self._rows, self._columns = inner, rows, columns
        self._left, self._extra = inputs - 2 * columns, extra

    def forward(self, x: Array) -> Array:
        half = self._columns
        z = self._inner.forward(x[:, :half] - x[:, half : 2 * half] if half else x)
        if not self._rows:
            return z
        return np.concatenate([z, -z, *([self._extra.forward(x)] if self._extra else [])], axis=1)

    def back(self, u: Array) -> Array:
        half = self._rows
        v = self._inner.back(u[:, :half] - u[:, half : 2 * half] if half else u)
        if self._columns:
            left = np.zeros((len(v), self._left, v.shape[2]))
            v = np.concatenate([v, -v, left], axis=1)
        return v + self._extra.back(u[:, 2 * half :]) if half and self._extra else v


def _on_frames(law: Framed, rows: int, columns: int, drawing: Drawing) -> Weight:
    out, into = drawing.rotation(law.out_frame), drawing.rotation(law.in_frame)
    core = _Telescope(out, into, law.rank, law.scale)
    m = out.size if isinstance(law.out_layout, Mirrored) else 0
    n = into.size if isinstance(law.in_layout, Mirrored) else 0
    if not (m or n):
        return core
    extra = None
    if m and rows > 2 * m:
        energy = law.scale**2 * law.rank * 2 * (1 + (n > 0))
        row = math.sqrt(energy / (2 * m * columns))
        extra = Entries(drawing.rng, rows - 2 * m, columns, row)
    return _InPairs(core, m, n, columns, extra)


class _Telescope:
    """scale * V_out[:, :rank] V_in[:, :rank]^T, each frame the columns of a rotation."""

    def __init__(
        self, out: "Rotation | _Joined", into: "Rotation | _Joined", rank: int, scale: float
    ) -> None:
        self._out, self._into, self._rank, self._scale = out, into, rank, scale

    def forward(self, x: Array) -> Array:
        return self._scale * self._out.forward(self._into.back(x)[:, : self._rank])

    def back(self, u: Array) -> Array:
        return self._scale * self._into.forward(self._out.back(u)[:, : self._rank])


class _Joined:
    """The frame of joined sites: a rotation of what the parent's columns carry at every site."""

    def __init__(
        self, parent: "Rotation | _Joined", mixture: Rotation, copies: int, carried: int
    ) -> None:
        self._parent, self._mixture = parent, mixture
        self._copies, self._carried = copies, carried
        self.size: int = parent.size * copies

    def forward(self, x: Array) -> Array:
        draws, _, rows = x.shape
        inner = self._mixture.forward(x).reshape(draws, self._carried, self._copies * rows)
        return np.asarray(self._parent.forward(inner).reshape(draws, self.size, rows))

    def back(self, u: Array) -> Array:
        draws, _, rows = u.shape
        sites = u.reshape(draws, self._parent.size, self._copies * rows)
        inner = self._parent.back(sites)[:, : self._carried]
        return self._mixture.back(inner.reshape(draws, self._carried * self._copies, rows))


def _best(law: BestOf, name: str, rows: int, columns: int, drawing: Drawing) -> Weight | str:
    """The candidate after which the probes' mean log RMS is nearest to the target."""
    if not isinstance(law.matrix, Normal | Uniform | TruncatedNormal | Orthogonal):
        return f"there is no theory of the best of several {type(law.matrix).__name__} draws"
    rng, draws, f = drawing.rng, drawing.draws, activation_of(law.activation).f
    if law.previous:
        if law.previous not in drawing.probes:
            return "a sampled weight follows one that is not"
        signal = drawing.probes[law.previous]
    else:
        feed, probes = activation_of(law.feed), rng.standard_normal((draws, columns, PROBES))
        signal = np.asarray(feed.f(probes.ravel())).reshape(probes.shape)
        if feed.homogeneity == 1.0:
            signal = signal / np.exp(_log_rms(signal))[:, None]
    best, kept = np.zeros((draws, rows, columns)), np.zeros((draws, rows, PROBES))
    nearest = np.full(draws, math.inf)
    for i in range(law.draws):
        if isinstance(law.matrix, Orthogonal):
            turned = Rotation(rng, max(rows, columns)).whole(draws)
            candidate = law.matrix.gain * turned[:, :rows, :columns]
        else:
            candidate = whole(law.matrix, (draws, rows, columns), rng)
        sent = candidate @ signal
        sent = np.asarray(f(sent.ravel())).reshape(sent.shape)
        distance = abs(_log_rms(sent).mean(axis=1) - law.target)
        better = (distance < nearest) | (i == 0)
        best[better], kept[better] = candidate[better], sent[better]
        nearest[better] = distance[better]
    drawing.probes[name] = kept
    return _Drawn(best)


def _log_rms(x: Array) -> Array:
    """Of each vector, shape (draws, vectors); vectors of zeros count as 1e-150."""
    return np.asarray(0.5 * np.log(np.maximum(np.square(x).mean(axis=1), 1e-300)))
