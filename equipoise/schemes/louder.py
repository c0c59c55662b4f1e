"""A law of weights that are larger by a factor."""

from dataclasses import replace

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.laws import (
    Constant,
    DiagonalNoise,
    Directions,
    Framed,
    Identity,
    Law,
    Matrix,
    Normal,
    Orthogonal,
    Paired,
    Sparse,
    Table,
    Taps,
    TruncatedNormal,
    Turned,
    Uniform,
    Zero,
)
from equipoise.schemes.part_laws import Blocks, Each, Rows


def louder(law: Law, factor: float) -> Law:
    """The law of ``factor`` times what a law draws.

    Args:
        law: of a weight.
        factor: positive.

    Returns:
        A law of the same kind.

    Raises:
        ArgumentError: for a factor that is not positive, a law of a bias, whose scale belongs to
            its weight, or one that was chosen among draws, whose scale decided the choice.

    >>> louder(Normal(0.5), 3.0)
    Normal(std=1.5, mean=0.0)
    """
    factor = _checks.positive("factor", factor)
    if isinstance(law, Turned):
        inner = louder(law.matrix, factor)
        assert isinstance(inner, Matrix | Rows)
        return replace(law, matrix=inner)
    if isinstance(law, Taps):
        return replace(law, matrix=_matrix(law.matrix, factor))
    if isinstance(law, Each):
        one = louder(law.matrix, factor)
        assert isinstance(one, Matrix | Turned)
        return replace(law, matrix=one)
    if isinstance(law, Rows):
        return replace(law, matrix=_matrix(law.matrix, factor))
    if isinstance(law, Blocks):
        return Blocks(tuple(_matrix(part, factor) for part in law.parts))
    if isinstance(law, Table):
        return replace(law, std=law.std * factor)
    return _matrix(law, factor)


def _matrix(law: Law, factor: float) -> Matrix:
    match law:
        case Zero():
            return law
        case Constant(value=value):
            return Constant(value * factor)
        case Normal(std=std, mean=mean):
            return Normal(std * factor, mean * factor)
        case Uniform(bound=bound, mean=mean):
            return Uniform(bound * factor, mean * factor)
        case TruncatedNormal(scale=scale, low=low, high=high, mean=mean):
            return TruncatedNormal(scale * factor, low * factor, high * factor, mean * factor)
        case Sparse(std=std):
            return replace(law, std=std * factor)
        case Identity(gain=gain) | Orthogonal(gain=gain):
            return replace(law, gain=gain * factor)
        case Directions(norm=norm):
            return replace(law, norm=norm * factor)
        case DiagonalNoise(diagonal=diagonal, noise_std=std):
            return replace(law, diagonal=diagonal * factor, noise_std=std * factor)
        case Framed(scale=scale):
            return replace(law, scale=scale * factor)
        case Paired(matrix=matrix):
            return replace(law, matrix=_matrix(matrix, factor))
        case _:
            raise ArgumentError(
                f"law must be one that can be scaled, got {type(law).__name__}. "
                "Scale the law that it chooses from, or the weight of the bias."
            )
