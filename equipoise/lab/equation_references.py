"""Reference solutions: Cole-Hopf by quadrature for Burgers, Chebyshev for Allen-Cahn."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from scipy.integrate import solve_ivp

from equipoise import _checks
from equipoise.schemes.laws import Array

# Step of the sum in standard deviations of the kernel; exact to rounding from 1e-3 on.
_STEP = 0.02
_BLOCK = 256
# Points of Chebyshev's grid: fronts of width .02 have a dozen of them each.
_CHEBYSHEV = 256
_TIMES = 65


def burgers_solution(x: Array, t: Array, viscosity: float) -> Array:
    """U of u_t + u u_x = viscosity u_xx from u(x, 0) = -sin(pi x), by Cole and Hopf.

    u = -E sin(pi y) / E 1 under the weight exp(-cos(pi y) / (2 pi viscosity)) times the heat
    kernel around x, by a trapezoidal sum.

    Args:
        x: places, any real numbers: u has period 2.
        t: times, not negative, of the same shape.
        viscosity: at least 1e-3 for 1e-9.

    Returns:
        u, of that shape.

    Source: Basdevant et al. 1986, Spectral and finite difference solutions of the Burgers equation.

    >>> burgers_solution(np.array([0.0, 0.5]), np.array([0.5, 0.0]), 0.1).round(9).tolist()
    [-0.0, -1.0]
    """
    x, t = np.broadcast_arrays(np.asarray(x, float), np.asarray(t, float))
    _checks.positive("viscosity", viscosity)
    _checks.not_negative("t", float(t.min(initial=0.0)))
    # Characteristics bring what is at most |u| t away: so far the weight may move the peak.
    latest = float(t.max(initial=0.0))
    reach = 10.0 + math.sqrt(latest / (4 * viscosity))
    s = np.arange(-reach, reach + _STEP, _STEP)
    flat_x, flat_t = x.ravel(), t.ravel()
    found = np.empty(flat_x.shape)
    for first in range(0, len(found), _BLOCK):
        here = slice(first, first + _BLOCK)
        y = flat_x[here, None] - 2 * np.sqrt(viscosity * flat_t[here, None]) * s
        exponent = -np.cos(math.pi * y) / (2 * math.pi * viscosity) - s * s
        weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        found[here] = -(weight * np.sin(math.pi * y)).sum(axis=1) / weight.sum(axis=1)
    return found.reshape(x.shape)


@lru_cache(maxsize=4)
def allen_cahn_field(diffusivity: float) -> Callable[[Array], Array]:
    """U of ``equations.allen_cahn`` by Chebyshev collocation in x and in t.

    Args:
        diffusivity: from 1e-4 to 1.

    Returns:
        A function of points, shape (rows, 2) to (rows,).

    >>> u = allen_cahn_field(1e-2)
    >>> float(u(np.array([[1.0, 0.5]]))[0].round(6))
    -1.0
    """
    n = _CHEBYSHEV
    x = np.cos(math.pi * np.arange(n + 1) / n)
    second = differentiation(n) @ differentiation(n)
    inner = slice(1, n)
    # u = v - 1 with v = 0 at the walls.
    inside, across = second[inner, inner], second[inner, :][:, [0, n]].sum(axis=1)

    def slope(t: float, u: Array) -> Array:
        return np.asarray(diffusivity * (inside @ u - across) + 5 * (u - u**3))

    def jacobian(t: float, u: Array) -> Array:
        return np.asarray(diffusivity * inside + np.diag(5 - 15 * u * u))

    # Chebyshev in time as well: what is between the times is then a polynomial.
    times = (1 - np.cos(math.pi * np.arange(_TIMES) / (_TIMES - 1))) / 2
    start = np.square(x[inner]) * np.cos(math.pi * x[inner])
    found = solve_ivp(slope, (0.0, 1.0), start, "Radau", times, rtol=1e-9, atol=1e-10, jac=jacobian)
    values = np.full((n + 1, _TIMES), -1.0)
    values[inner] = found.y
    by_x = np.linalg.solve(chebyshev.chebvander(x, n), values)
    coefficients = np.linalg.solve(chebyshev.chebvander(2 * times - 1, _TIMES - 1), by_x.T).T

    def field(points: Array) -> Array:
        return np.asarray(chebyshev.chebval2d(points[:, 0], 2 * points[:, 1] - 1, coefficients))

    return field


@lru_cache(maxsize=8)
def differentiation(n: int) -> Array:
    """The matrix that differentiates a polynomial on the points cos(pi j / n), j = 0 ... n.

    Source: Trefethen 2000, Spectral Methods in MATLAB, chapter 6.

    >>> x = np.cos(np.pi * np.arange(5) / 4)
    >>> bool(np.allclose(differentiation(4) @ x**3, 3 * x**2))
    True
    """
    _checks.at_least("n", n, 1)
    x = np.cos(math.pi * np.arange(n + 1) / n)
    c = np.where(np.isin(np.arange(n + 1), (0, n)), 2.0, 1.0) * (-1.0) ** np.arange(n + 1)
    gaps = x[:, None] - x[None, :] + np.eye(n + 1)
    made = np.outer(c, 1 / c) / gaps
    return np.asarray(made - np.diag(made.sum(axis=1)))
