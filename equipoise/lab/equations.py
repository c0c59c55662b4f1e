"""Equations with known solutions: Burgers, diffusion, Allen-Cahn, Poisson, Helmholtz."""

import math

import numpy as np
import torch

from equipoise import _checks
from equipoise.lab.equation import Array, Edge, Equation, Jet
from equipoise.lab.equation_references import allen_cahn_field, burgers_solution

# Viscosity of the usual test: a front a hundredth of the domain wide forms at t = 1/pi.
VISCOSITY = 0.01 / math.pi
_WALLS = (Edge("edges", 0, -1.0), Edge("edges", 0, 1.0))
_IN_TIME = (Edge("edges", 1, 0.0), *_WALLS)


def burgers(viscosity: float = VISCOSITY, drift: float = 0.0) -> Equation:
    """Burgers' equation from a sine, whose front stands still or drifts.

    u_t + u u_x = viscosity u_xx on [-1, 1] x [0, 1], u(x, 0) = drift - sin(pi x). Without drift u
    is 0 at both walls; with it u is that solution seen from a moving frame, periodic in x.

    Args:
        viscosity: positive; from 1e-3 on the reference has 1e-9.
        drift: speed of the frame.

    Returns:
        The equation.

    Source: the test of Raissi, Perdikaris and Karniadakis 2017, arXiv 1711.10561.

    >>> made = burgers()
    >>> float(made.reference(np.array([[0.5, 0.0]]))[0])
    -1.0
    """
    _checks.positive("viscosity", viscosity)
    _checks.finite("drift", drift)

    def residual(u: Jet, x: torch.Tensor) -> torch.Tensor:
        return u[0, 1] + u[0, 0] * u[1, 0] - viscosity * u[2, 0]

    def solution(x: Array) -> Array:
        return drift + burgers_solution(x[:, 0] - drift * x[:, 1], x[:, 1], viscosity)

    start = f"{drift:g} - sin(pi x)" if drift else "-sin(pi x)"
    return Equation(
        f"Burgers, drift {drift:g}" if drift else "Burgers",
        f"u_t + u u_x = {viscosity:.4g} u_xx, u(x, 0) = {start}",
        ("x", "t"), (-1.0, 0.0), (1.0, 1.0), ((2, 0), (0, 1)), residual, _IN_TIME,
        solution, solution,
    )  # fmt: skip


def diffusion() -> Equation:
    """Diffusion with a source: u_t = u_xx + e^-t (pi^2 - 1) sin(pi x), u = e^-t sin(pi x).

    On [-1, 1] x [0, 1], with u given at t = 0 and at both walls.

    Returns:
        The equation.

    Source: the example of DeepXDE, Lu et al. 2019, arXiv 1907.04502.

    >>> diffusion().terms
    ('residual', 'edges')
    """

    def residual(u: Jet, x: torch.Tensor) -> torch.Tensor:
        source = torch.exp(-x[:, 1:]) * (math.pi**2 - 1) * torch.sin(math.pi * x[:, :1])
        return u[0, 1] - u[2, 0] - source

    def solution(x: Array) -> Array:
        return np.asarray(np.exp(-x[:, 1]) * np.sin(math.pi * x[:, 0]))

    return Equation(
        "diffusion", "u_t = u_xx + exp(-t) (pi^2 - 1) sin(pi x), u = exp(-t) sin(pi x)",
        ("x", "t"), (-1.0, 0.0), (1.0, 1.0), ((2, 0), (0, 1)), residual, _IN_TIME,
        solution, solution,
    )  # fmt: skip


def allen_cahn(diffusivity: float = 1e-3) -> Equation:
    """Allen-Cahn: u_t = diffusivity u_xx + 5 (u - u^3), u(x, 0) = x^2 cos(pi x), u = -1 at walls.

    On [-1, 1] x [0, 1].

    Args:
        diffusivity: from 1e-4 to 1; fronts are about 2 sqrt(diffusivity) wide.

    Returns:
        The equation.

    Source: the example of DeepXDE, Lu et al. 2019, arXiv 1907.04502.

    >>> float(allen_cahn().given(np.array([[1.0, 0.3]]))[0])
    -1.0
    """
    _checks.positive("diffusivity", diffusivity)

    def residual(u: Jet, x: torch.Tensor) -> torch.Tensor:
        value = u[0, 0]
        return u[0, 1] - diffusivity * u[2, 0] - 5 * value * (1 - value * value)

    def given(x: Array) -> Array:
        start = np.square(x[:, 0]) * np.cos(math.pi * x[:, 0])
        return np.asarray(np.where(np.abs(x[:, 0]) < 1, start, -1.0))

    return Equation(
        "Allen-Cahn", f"u_t = {diffusivity:g} u_xx + 5 (u - u^3), u(x, 0) = x^2 cos(pi x)",
        ("x", "t"), (-1.0, 0.0), (1.0, 1.0), ((2, 0), (0, 1)), residual, _IN_TIME,
        given, lambda x: allen_cahn_field(diffusivity)(x),
    )  # fmt: skip


def poisson(frequency: float = 1.0) -> Equation:
    """Poisson in one dimension: u'' = -w^2 sin(w x), w = frequency pi, u = sin(w x) on [-1, 1].

    Args:
        frequency: half periods for each unit of x, positive.

    Returns:
        The equation.

    >>> poisson().axes
    ('x',)
    """
    w = math.pi * _checks.positive("frequency", frequency)

    def solution(x: Array) -> Array:
        return np.asarray(np.sin(w * x[:, 0]))

    def residual(u: Jet, x: torch.Tensor) -> torch.Tensor:
        return u[(2,)] + w * w * torch.sin(w * x)

    return Equation(
        "Poisson", f"u_xx = -(w^2) sin(w x), w = {frequency:g} pi, u = sin(w x)",
        ("x",), (-1.0,), (1.0,), ((2,),), residual, _WALLS, solution, solution,
    )  # fmt: skip


def helmholtz(a: float = 1.0, b: float = 4.0, wave_number: float = 1.0) -> Equation:
    """Helmholtz: u_xx + u_yy + k^2 u = q on [-1, 1]^2, u = sin(a pi x) sin(b pi y).

    u is given on all four sides; it is 0 there where a and b are whole numbers.

    Args:
        a: half periods for each unit of x, positive.
        b: the same along y.
        wave_number: k, not negative.

    Returns:
        The equation.

    Source: the test of Wang, Teng and Perdikaris 2020, arXiv 2001.04536.

    >>> helmholtz().terms
    ('residual', 'edges')
    """
    wx, wy = (math.pi * _checks.positive(n, v) for n, v in (("a", a), ("b", b)))
    square = _checks.not_negative("wave_number", wave_number) ** 2

    def solution(x: Array) -> Array:
        return np.asarray(np.sin(wx * x[:, 0]) * np.sin(wy * x[:, 1]))

    def residual(u: Jet, x: torch.Tensor) -> torch.Tensor:
        wave = torch.sin(wx * x[:, :1]) * torch.sin(wy * x[:, 1:])
        return u[2, 0] + u[0, 2] + square * u[0, 0] - (square - wx * wx - wy * wy) * wave

    return Equation(
        "Helmholtz", f"u_xx + u_yy + {square:g} u = q, u = sin({a:g} pi x) sin({b:g} pi y)",
        ("x", "y"), (-1.0, -1.0), (1.0, 1.0), ((2, 0), (0, 2)), residual,
        (*_WALLS, Edge("edges", 1, -1.0), Edge("edges", 1, 1.0)), solution, solution,
    )  # fmt: skip
