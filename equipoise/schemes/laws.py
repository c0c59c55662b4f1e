"""Laws: how the entries of one parameter are drawn. Small frozen data, drawn with numpy.

A law holds no tensor and no random state. ``draw(law, shape, streams)`` is the only place where
numbers are made, in float64, from one stream per parameter or frame that is keyed by its name:
the same seed gives the same weights in any framework, on any device, in any order, for one
parameter alone. Weights have shape (fan_out, fan_in).
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import PlanError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Zero:
    """Every entry 0."""


@dataclass(frozen=True)
class Normal:
    """Independent entries N(0, std^2)."""

    std: float


@dataclass(frozen=True)
class Uniform:
    """Independent entries, uniform on [-bound, bound]."""

    bound: float


@dataclass(frozen=True)
class Orthogonal:
    """Haar-distributed semi-orthogonal weight times gain: all singular values equal gain."""

    gain: float


@dataclass(frozen=True)
class DiagonalNoise:
    """W = diagonal * D + Z, D_ij = 1 where i = j (mod fan_in), Z_ij ~ N(0, noise_std^2).

    Source: arXiv 2410.02242.
    """

    diagonal: float
    noise_std: float


@dataclass(frozen=True)
class Plain:
    """Each unit stands for itself."""


@dataclass(frozen=True)
class Mirrored:
    """Units i and i + n // 2 are a pair with opposite preactivations; an odd last unit is left."""


Layout = Plain | Mirrored


@dataclass(frozen=True)
class Framed:
    """W = scale * V_out[:, :rank] V_in[:, :rank]^T on the frames of two spaces of units.

    A mirrored output space repeats the rows with the opposite sign, a mirrored input space the
    columns. An odd leftover unit receives a random row of the same norm and sends nothing.
    """

    out_frame: str
    in_frame: str
    rank: int
    scale: float
    out_layout: Layout = Plain()
    in_layout: Layout = Plain()


@dataclass(frozen=True)
class OffsetBias:
    """b = -W (constant * 1 + centre) for the weight W of the same layer.

    ``constant`` is the value f(0) at which centred units rest; ``centre`` names an array of the
    plan, the mean of the inputs, which is moved to the origin. Either may be absent (0 and '').
    """

    weight: str
    constant: float = 0.0
    centre: str = ""


Law = Zero | Normal | Uniform | Orthogonal | DiagonalNoise | Framed | OffsetBias


@dataclass(frozen=True)
class Frame:
    """Orthonormal columns in one space of units, shared by every weight that touches it.

    Attributes:
        id: name of the space.
        size: number of units, or of pairs in a mirrored space.
        columns: number of columns that are used, at most ``size``.
        basis: name of an array of the plan whose rows the columns follow in order, or '' for a
            Haar-distributed frame.
    """

    id: str
    size: int
    columns: int
    basis: str = ""


@dataclass(frozen=True, eq=False)
class Streams:
    """Random streams keyed by name, and what laws refer to: frames, arrays and other weights.

    Attributes:
        seed: root seed, a non-negative integer.
        frames: frames by id.
        arrays: arrays of the plan by name (axes of the inputs, their mean).
        weights: the law and shape of every weight that a bias law may name.
    """

    seed: int
    frames: Mapping[str, Frame] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    weights: Mapping[str, tuple["Law", tuple[int, ...]]] = field(default_factory=dict)
    # Two weights touch each frame: without this every frame would be factorized twice.
    _columns: dict[str, Array] = field(default_factory=dict, repr=False)

    def rng(self, kind: str, name: str) -> np.random.Generator:
        """The generator of one 'parameter' or 'frame'."""
        text = f"{self.seed}/{kind}/{name}".encode()
        words = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype=np.uint32)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(words.tolist())))

    def columns(self, frame_id: str) -> Array:
        """Orthonormal columns of a frame, shape (size, columns)."""
        if frame_id not in self._columns:
            frame = self.frames[frame_id]
            normals = self.rng("frame", frame.id).standard_normal((frame.size, frame.columns))
            if frame.basis:
                # Columns beyond the given axes are Haar in what the axes leave.
                axes = self.arrays[frame.basis][: frame.columns]
                normals[:, : len(axes)] = axes.T
            self._columns[frame_id] = semi_orthogonal(normals, normals.shape)
        return self._columns[frame_id]


def draw(law: Law, name: str, shape: tuple[int, ...], streams: Streams) -> Array:
    """Draw one parameter.

    Args:
        law: how to draw it.
        name: its name, the key of its stream.
        shape: (fan_out, fan_in) for weights, (fan_out,) for biases.
        streams: root seed with frames, arrays and weights.

    Returns:
        float64 array of the shape.

    Raises:
        PlanError: if the law cannot fill the shape.

    >>> s = Streams(0)
    >>> w = draw(Orthogonal(2.0), "w", (3, 5), s)
    >>> bool(np.allclose(w @ w.T, 4 * np.eye(3)))
    True
    """
    if len(shape) != 2 and isinstance(law, Orthogonal | DiagonalNoise | Framed):
        raise PlanError(
            f"{name!r} has shape {shape}: {type(law).__name__} needs 2 axes. "
            "Leave parameters of other shapes to Normal, Uniform or Zero."
        )
    match law:
        case Zero():
            return np.zeros(shape)
        case OffsetBias(weight=weight, constant=constant, centre=centre):
            weight_law, weight_shape = streams.weights[weight]
            w = draw(weight_law, weight, weight_shape, streams)
            point = streams.arrays[centre] if centre else np.zeros(weight_shape[1])
            return np.asarray(-w @ (constant + point))
        case _:
            return _draw_weight(law, name, shape, streams, streams.rng("parameter", name))


def _draw_weight(
    law: Normal | Uniform | Orthogonal | DiagonalNoise | Framed,
    name: str,
    shape: tuple[int, ...],
    streams: Streams,
    rng: np.random.Generator,
) -> Array:
    match law:
        case Normal(std=std):
            return np.asarray(std * rng.standard_normal(shape))
        case Uniform(bound=bound):
            return np.asarray(rng.uniform(-bound, bound, shape))
        case Orthogonal(gain=gain):
            return gain * semi_orthogonal(rng.standard_normal((max(shape), min(shape))), shape)
        case DiagonalNoise(diagonal=diagonal, noise_std=noise_std):
            rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
            ones = (rows % shape[1] == columns).astype(np.float64)
            return np.asarray(diagonal * ones + noise_std * rng.standard_normal(shape))
        case Framed():
            return _framed(law, name, shape, streams, rng)
        case _:
            assert_never(law)


def semi_orthogonal(normals: Array, shape: tuple[int, int] | tuple[int, ...]) -> Array:
    """Haar semi-orthogonal matrix of a shape, from normals of shape (max, min) of it.

    QR with the signs of R's diagonal folded in, without which the law is not Haar.
    Source: arXiv math-ph/0609050.
    """
    q, r = np.linalg.qr(normals)
    signs = np.where(np.diagonal(r) < 0, -1.0, 1.0)
    q = q * signs
    return np.ascontiguousarray(q if shape[0] >= shape[1] else q.T)


def _framed(
    law: Framed, name: str, shape: tuple[int, ...], streams: Streams, rng: np.random.Generator
) -> Array:
    out_frame, in_frame = streams.frames[law.out_frame], streams.frames[law.in_frame]
    left = streams.columns(law.out_frame)[:, : law.rank]
    right = streams.columns(law.in_frame)[:, : law.rank]
    core = law.scale * left @ right.T
    expected = tuple(
        2 * f.size + n % 2 if isinstance(layout, Mirrored) else f.size
        for f, layout, n in zip(
            (out_frame, in_frame), (law.out_layout, law.in_layout), shape, strict=True
        )
    )
    if expected != tuple(shape):
        raise PlanError(
            f"{name!r} has shape {tuple(shape)}, but its frames make {expected}. "
            "Make the plan anew for this model."
        )
    weight = core
    if isinstance(law.in_layout, Mirrored):
        weight = np.concatenate([weight, -weight], axis=1)
    if isinstance(law.out_layout, Mirrored):
        weight = np.concatenate([weight, -weight], axis=0)
    missing_row, missing_column = shape[0] - weight.shape[0], shape[1] - weight.shape[1]
    if missing_row:
        row = rng.standard_normal((1, weight.shape[1]))
        norm = np.linalg.norm(weight) / math.sqrt(weight.shape[0]) if weight.size else law.scale
        weight = np.concatenate([weight, row * (norm / np.linalg.norm(row))], axis=0)
    if missing_column:
        weight = np.concatenate([weight, np.zeros((weight.shape[0], 1))], axis=1)
    return np.asarray(weight)
