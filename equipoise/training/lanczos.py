"""The largest eigenvalue of a symmetric operator by the Lanczos recursion.

scipy's eigsh (ARPACK) returns nothing where it does not converge within its budget and takes twenty
products before it looks at its first answer. Here every product ends with a Ritz value and the norm
of its residual, which bounds its distance from an eigenvalue, so the search stops as soon as that
is small enough and has an answer with an error at any budget. Vectors stay on the device of the
model. All of them are kept orthogonal, twice, so no eigenvalue is found again as a ghost.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

# A remainder this small beside the operator is rounding: the space is closed.
_CLOSED = 1e-10


@dataclass(frozen=True, eq=False)
class RitzPair:
    """An approximate eigenpair.

    Attributes:
        value: Ritz value, a lower bound of the largest eigenvalue up to rounding.
        residual: norm of A u - value u: some eigenvalue is this near.
        vector: u, of norm 1, shape (n,).
        products: with the operator that it took.
        has_converged: whether the residual is within the tolerance.
    """

    value: float
    residual: float
    vector: torch.Tensor
    products: int
    has_converged: bool


def largest_eigenpair(
    times: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    tolerance: float,
    most: int,
) -> RitzPair:
    """The algebraically largest eigenvalue of a symmetric operator.

    Args:
        times: the operator on a vector of shape (n,).
        start: a random vector, shape (n,), not 0; on the device to work on.
        tolerance: residual to stop at, relative to the value.
        most: products at the most, at least 1.

    Returns:
        The pair, within the tolerance or with what is known after ``most`` products; the value is
        nan where the operator gives numbers that are not finite.

    >>> matrix = torch.diag(torch.tensor([1.0, -7.0, 3.0]))
    >>> pair = largest_eigenpair(lambda v: matrix @ v, torch.ones(3), 1e-4, 10)
    >>> round(pair.value, 4), pair.has_converged, pair.products
    (3.0, True, 3)
    """
    basis = [start / torch.linalg.vector_norm(start)]
    diagonal, beside = list[float](), list[float]()
    scale = 0.0
    while True:
        made = times(basis[-1])
        diagonal.append(float(made @ basis[-1]))
        if not math.isfinite(diagonal[-1]):
            return RitzPair(math.nan, math.inf, basis[-1], len(basis), False)
        scale = max(scale, float(torch.linalg.vector_norm(made)))
        for _ in range(2):
            for vector in basis:
                made = made - (made @ vector) * vector
        beside.append(float(torch.linalg.vector_norm(made)))
        value, weights = _top(diagonal, beside[:-1])
        residual = beside[-1] * abs(float(weights[-1]))
        is_closed = beside[-1] <= _CLOSED * scale or len(basis) == len(start)
        within = residual <= tolerance * abs(value)
        if within or is_closed or len(basis) == most:
            mixed = sum(
                (float(w) * vector for w, vector in zip(weights, basis, strict=True)),
                torch.zeros_like(start),
            )
            vector = mixed / torch.linalg.vector_norm(mixed)
            return RitzPair(value, residual, vector, len(basis), within or is_closed)
        basis.append(made / beside[-1])


def _top(diagonal: list[float], beside: list[float]) -> tuple[float, np.ndarray]:
    """The largest eigenvalue of a tridiagonal matrix with its vector."""
    last = len(diagonal) - 1
    values, vectors = eigh_tridiagonal(
        np.array(diagonal), np.array(beside), select="i", select_range=(last, last)
    )
    return float(values[0]), vectors[:, 0]
