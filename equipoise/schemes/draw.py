"""Draws laws: the only place where random numbers are made, in float64, with numpy.

There is one stream for each parameter or frame, keyed by its name: the same seed gives the same
weights in any framework, on any device, in any order, for one parameter alone.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from equipoise.errors import PlanError
from equipoise.schemes.laws import (
    Array,
    DiagonalNoise,
    Frame,
    Framed,
    Law,
    Matrix,
    Mirrored,
    Normal,
    OffsetBias,
    Orthogonal,
    Taps,
    Uniform,
    Zero,
)


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
    weights: Mapping[str, tuple[Law, tuple[int, ...]]] = field(default_factory=dict)
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
            if frame.parent:
                self._columns[frame_id] = self._joined(frame)
                return self._columns[frame_id]
            normals = self.rng("frame", frame.id).standard_normal((frame.size, frame.columns))
            if frame.basis:
                # Columns beyond the given axes are Haar in what the axes leave.
                axes = self.arrays[frame.basis][: frame.columns]
                normals[:, : len(axes)] = axes.T
            self._columns[frame_id] = semi_orthogonal(normals, normals.shape)
        return self._columns[frame_id]

    def _joined(self, frame: Frame) -> Array:
        """Columns over channels and sites that stay inside what the parent's columns carry."""
        carried = self.columns(frame.parent)
        inner = carried.shape[1] * frame.copies
        normals = self.rng("frame", frame.id).standard_normal((inner, frame.columns))
        mixture = semi_orthogonal(normals, normals.shape)
        sites = mixture.reshape(carried.shape[1], frame.copies, frame.columns)
        joined = np.einsum("ck,kpj->cpj", carried, sites)
        return np.asarray(joined.reshape(frame.size, frame.columns))


def draw(law: Law, name: str, shape: tuple[int, ...], streams: Streams) -> Array:
    """Draw one parameter.

    Args:
        law: how to draw it.
        name: its name, the key of its stream.
        shape: (out, in) for matrices, with the kernel behind for convolutions, (out,) for biases.
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
    match law:
        case OffsetBias(weight=weight, constant=constant, centre=centre):
            weight_law, weight_shape = streams.weights[weight]
            w = draw(weight_law, weight, weight_shape, streams)
            # A kernel gathers the same offset at every tap.
            w = w.reshape(len(w), weight_shape[1], -1).sum(-1)
            point = streams.arrays[centre] if centre else np.zeros(weight_shape[1])
            return np.asarray(-w @ (constant + point))
        case Taps():
            return _kernel(law, name, shape, streams)
        case _:
            return _draw_matrix(law, name, shape, streams, streams.rng("parameter", name))


def _draw_matrix(
    law: Matrix,
    name: str,
    shape: tuple[int, ...],
    streams: Streams,
    rng: np.random.Generator,
) -> Array:
    if len(shape) != 2 and isinstance(law, Orthogonal | DiagonalNoise | Framed):
        raise PlanError(
            f"{name!r} has shape {shape}: {type(law).__name__} needs 2 axes. "
            "Wrap it in Taps for a convolution; leave other shapes to Normal, Uniform or Zero."
        )
    match law:
        case Zero():
            return np.zeros(shape)
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


def _kernel(law: Taps, name: str, shape: tuple[int, ...], streams: Streams) -> Array:
    """A kernel whose block of taps around the centre is one matrix for each group."""
    kernel, taps = shape[2:], math.prod(law.block)
    lead = shape[0] // law.groups
    if (
        len(law.block) != len(kernel)
        or any(not 1 <= b <= k for b, k in zip(law.block, kernel, strict=True))
        or shape[0] % law.groups
    ):
        raise PlanError(
            f"{name!r} has shape {shape}: it must hold a block of {law.block} taps in each of "
            f"{law.groups} groups. Make the plan anew for this model."
        )
    rng = streams.rng("parameter", name)
    weight = np.zeros(shape)
    centre = tuple(slice((k - b + 1) // 2, (k - b + 1) // 2 + b)
                   for k, b in zip(kernel, law.block, strict=True))  # fmt: skip
    for group in range(law.groups):
        if law.is_transposed:
            # (in, out, taps) of the parameter is (out, taps, in) of the matrix.
            matrix = _draw_matrix(law.matrix, name, (shape[1] * taps, lead), streams, rng)
            block = np.moveaxis(matrix.reshape(shape[1], *law.block, lead), -1, 0)
        else:
            matrix = _draw_matrix(law.matrix, name, (lead, shape[1] * taps), streams, rng)
            block = matrix.reshape(lead, shape[1], *law.block)
        weight[(slice(group * lead, (group + 1) * lead), slice(None), *centre)] = block
    return weight


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
