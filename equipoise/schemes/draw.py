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
from equipoise.schemes import entries
from equipoise.schemes.call_text import activation_of
from equipoise.schemes.entries import even_rows, semi_orthogonal
from equipoise.schemes.laws import (
    Array,
    BestOf,
    Constant,
    DiagonalNoise,
    Directions,
    Frame,
    Framed,
    Identity,
    Law,
    Matrix,
    Mirrored,
    Normal,
    OffsetBias,
    Orthogonal,
    Paired,
    Sparse,
    SpreadBias,
    Table,
    Taps,
    TruncatedNormal,
    Turned,
    Uniform,
    Zero,
)
from equipoise.schemes.part_laws import Blocks, Chrono, Each, Rows
from equipoise.schemes.sites import central_slices

__all__ = ["PROBES", "Streams", "draw", "semi_orthogonal"]

# Probes that follow the signal past sampled weights. Deep in a network they are all alike, but for
# one weight alone 16 of them would leave more noise than there is difference between candidates.
PROBES = 64
_ANEW = "Make the plan anew for this model."
_NEEDS_TWO_AXES = (Sparse, Identity, Directions, Orthogonal, DiagonalNoise, Framed, Paired, BestOf)


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
    # Likewise a sampled weight needs the signal that all before it have passed on.
    _signals: dict[str, Array] = field(default_factory=dict, repr=False)

    def rng(self, kind: str, name: str) -> np.random.Generator:
        """The generator of one 'parameter' or 'frame'."""
        text = f"{self.seed}/{kind}/{name}".encode()
        words = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype=np.uint32)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(words.tolist())))

    def apart(self, name: str) -> "Streams":
        """Streams of one matrix among several, in which frames are drawn anew."""
        seed = int(self.rng("part", name).integers(2**63))
        return Streams(seed, self.frames, self.arrays, self.weights)

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
            columns = semi_orthogonal(normals, normals.shape)
            self._columns[frame_id] = even_rows(columns) if frame.is_even else columns
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

    def signal_before(self, law: BestOf, name: str, inputs: int) -> Array:
        """Probes at the input of a sampled weight, shape (inputs, probes)."""
        chain = []
        previous = law.previous
        while previous and previous not in self._signals:
            chain.append(previous)
            before, _ = self.weights[previous]
            assert isinstance(before, BestOf)
            previous = before.previous
        # From the start of the stack on, so that no depth exhausts Python's own stack.
        for weight in reversed(chain):
            found, shape = self.weights[weight]
            draw(found, weight, shape, self)
        if law.previous:
            return self._signals[law.previous]
        feed = activation_of(law.feed)
        probes = feed.f(self.rng("probes", name).standard_normal((inputs, PROBES)))
        if feed.homogeneity == 1.0:
            # Only their direction counts; the level of each would add its own fluctuation.
            return np.asarray(probes / np.exp(entries.log_rms(probes)))
        return probes

    def keep_signal(self, name: str, signal: Array) -> None:
        """Remember what a sampled weight passes on."""
        self._signals[name] = signal


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
        case OffsetBias(weight=weight, constant=constant, centre=centre, level=level, std=std):
            w, weight_shape = _weight(weight, streams)
            taps = math.prod(weight_shape[2:])
            # The mean of a patch has a value for each tap, any other is the same at all of them.
            point = streams.arrays[centre] if centre else np.zeros(weight_shape[1])
            point = np.broadcast_to(point.reshape(weight_shape[1], -1), (weight_shape[1], taps))
            noise = std * streams.rng("parameter", name).standard_normal(shape)
            return np.asarray(level + noise - w.reshape(len(w), -1) @ (constant + point).ravel())
        case SpreadBias():
            return _spread_bias(law, shape, streams)
        case Taps():
            return _kernel(law, name, shape, streams)
        case Table(std=std, padding=padding):
            values = std * streams.rng("parameter", name).standard_normal(shape)
            values[padding] = 0.0
            return values
        case Turned(matrix=matrix):
            return draw(matrix, name, shape[::-1], streams).T
        case Blocks() | Each() | Chrono() | Rows():
            return _parts(law, name, shape, streams)
        case _:
            return _draw_matrix(law, name, shape, streams, streams.rng("parameter", name))


def _parts(
    law: Blocks | Each | Chrono | Rows, name: str, shape: tuple[int, ...], streams: Streams
) -> Array:
    """Several matrices or vectors in one tensor, each on a stream of its own."""
    match law:
        case Chrono(steps=steps, sign=sign):
            # The stream is that of the parameter, not of the part: opposite gates share it.
            rng = streams.rng("chrono", name.rpartition("#")[0] or name)
            return np.asarray(sign * np.log(rng.uniform(1.0, steps - 1.0, shape)))
        case Rows(matrix=matrix, factor=factor, rows=rows):
            whole = draw(matrix, name, shape, streams)
            for start, stop in rows:
                whole[start:stop] *= factor
            return whole
        case Blocks(parts=parts):
            if shape[0] % len(parts):
                must = f"its first axis must hold {len(parts)} equal parts"
                raise PlanError(f"{name!r} has shape {shape}: {must}. {_ANEW}")
            one = (shape[0] // len(parts), *shape[1:])
            made = [draw(part, f"{name}#{i}", one, streams) for i, part in enumerate(parts)]
            return np.concatenate(made)
        case Each(matrix=matrix):
            if len(shape) < 3:
                must = "it must have 3 axes or more to hold several matrices"
                raise PlanError(f"{name!r} has shape {shape}: {must}. {_ANEW}")
            lead = math.prod(shape[:-2])
            names = (f"{name}#{i}" for i in range(lead))
            # On one frame all of them would be the same matrix.
            made = [draw(matrix, one, shape[-2:], streams.apart(one)) for one in names]
            return np.stack(made).reshape(shape) if made else np.zeros(shape)


def _weight(name: str, streams: Streams) -> tuple[Array, tuple[int, ...]]:
    """A weight that a bias names, outputs first, and its shape that way round."""
    law, shape = streams.weights[name]
    w = draw(law, name, shape, streams)
    return (w.T, shape[::-1]) if isinstance(law, Turned) else (w, shape)


def _spread_bias(law: SpreadBias, shape: tuple[int, ...], streams: Streams) -> Array:
    """Opposite spreads for the two units of each pair, less what the pairs before send on."""
    bias = np.zeros(shape)
    if law.std:
        half = shape[0] // 2
        beta = law.std * streams.rng("spread", law.space).standard_normal(half)
        bias[: 2 * half] = np.concatenate([beta, -beta])
    w, weight_shape = _weight(law.weight, streams)
    inputs = weight_shape[1]
    point = streams.arrays[law.centre] if law.centre else np.zeros(inputs)
    if law.in_std:
        beta = law.in_std * streams.rng("spread", law.in_space).standard_normal(inputs // 2)
        point = point + np.concatenate([law.slope * beta, np.zeros(inputs - inputs // 2)])
    return np.asarray(bias - w @ point)


def _draw_matrix(
    law: Matrix,
    name: str,
    shape: tuple[int, ...],
    streams: Streams,
    rng: np.random.Generator,
) -> Array:
    if len(shape) != 2 and isinstance(law, _NEEDS_TWO_AXES):
        raise PlanError(
            f"{name!r} has shape {shape}: {type(law).__name__} needs 2 axes. "
            "Wrap it in Taps for a convolution; leave other shapes to Normal, Uniform or Zero."
        )
    match law:
        case Zero():
            return np.zeros(shape)
        case Constant(value=value):
            return np.full(shape, value, dtype=np.float64)
        case Normal(std=std, mean=mean):
            return np.asarray(mean + std * rng.standard_normal(shape))
        case Uniform(bound=bound, mean=mean):
            # The width of the widest range is not a float, half of it is.
            return np.asarray(mean + bound * rng.uniform(-1.0, 1.0, shape))
        case TruncatedNormal():
            return entries.truncated_normal(law, shape, rng)
        case Sparse():
            return entries.sparse(law, shape, rng)
        case Identity(gain=gain):
            return gain * np.eye(shape[0], shape[1])
        case Directions(scale=scale):
            return entries.directions(law, shape, rng) * (streams.arrays[scale] if scale else 1.0)
        case Orthogonal(gain=gain):
            return gain * semi_orthogonal(rng.standard_normal((max(shape), min(shape))), shape)
        case DiagonalNoise():
            return entries.diagonal_noise(law, shape, rng)
        case Framed():
            return _framed(law, name, shape, streams, rng)
        case Paired(matrix=inner, rows=rows, columns=columns):
            half = (shape[0] // (1 + rows), shape[1] // (1 + columns))
            core = _draw_matrix(inner, name, half, streams, rng)
            return entries.paired(core, shape, rows, columns, rng)
        case BestOf():
            return _best(law, name, shape, streams, rng)
        case _:
            assert_never(law)


def _best(
    law: BestOf, name: str, shape: tuple[int, ...], streams: Streams, rng: np.random.Generator
) -> Array:
    """The candidate after which the probes' mean log RMS is nearest to the target."""
    f, signal = activation_of(law.activation).f, streams.signal_before(law, name, shape[1])
    nearest = math.inf
    for i in range(law.draws):
        candidate = _draw_matrix(law.matrix, name, shape, streams, rng)
        sent = f(candidate @ signal)
        distance = abs(float(entries.log_rms(sent).mean()) - law.target)
        # The first stands where the signal of all leaves the range of floats.
        if i == 0 or distance < nearest:
            best, kept, nearest = candidate, sent, distance
    streams.keep_signal(name, kept)
    return best


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
    centre = central_slices(kernel, law.block)
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


def _framed(
    law: Framed, name: str, shape: tuple[int, ...], streams: Streams, rng: np.random.Generator
) -> Array:
    out_frame, in_frame = streams.frames[law.out_frame], streams.frames[law.in_frame]
    left = streams.columns(law.out_frame)[:, : law.rank]
    right = streams.columns(law.in_frame)[:, : law.rank]
    core = law.scale * left @ right.T
    expected = tuple(
        2 * f.size + f.copies * (n // f.copies % 2) if isinstance(layout, Mirrored) else f.size
        for f, layout, n in zip(
            (out_frame, in_frame), (law.out_layout, law.in_layout), shape, strict=True
        )
    )
    if expected != tuple(shape):
        raise PlanError(
            f"{name!r} has shape {tuple(shape)}, but its frames make {expected}. "
            "Make the plan anew for this model."
        )
    rows, columns = (isinstance(x, Mirrored) for x in (law.out_layout, law.in_layout))
    return entries.paired(core, shape, rows, columns, rng)
