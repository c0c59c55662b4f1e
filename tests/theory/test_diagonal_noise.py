"""Little noise and the wide limit: finite differences, other quadratures, particles."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg, special

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation
from equipoise.theory.diagonal_noise import (
    noise_scale_for_negative_share,
    noise_scale_for_rms,
    noise_scale_for_sign_memory,
    small_noise,
    well,
)
from equipoise.theory.noise_density import inverse_slope, noise_density

TANH, SOFTSIGN = activations.tanh(), activations.softsign()


class _Differences:
    """The generator -L = d^2 - y|y|^(p-1) d on 2m + 1 points."""

    def __init__(self, p, m):
        reach = (32.0 * (p + 1)) ** (1 / (p + 1))
        self.y = np.linspace(-reach, reach, 2 * m + 1)
        h = self.y[1] - self.y[0]
        middle = (self.y[1:] + self.y[:-1]) / 2
        rate = np.exp(-(np.abs(middle) ** (p + 1)) / (p + 1)) / h**2
        density = np.exp(-(np.abs(self.y) ** (p + 1)) / (p + 1))
        up, down = np.append(rate, 0) / density, np.insert(rate, 0, 0) / density
        self.generator = np.diag(-up - down) + np.diag(up[:-1], 1) + np.diag(down[1:], -1)
        self.density = density / density.sum()

    @property
    def symmetric(self):
        root = np.sqrt(self.density)
        return root[:, None] * self.generator / root


def _extrapolated(of, m=150):
    """Differences have an error ~ h^2: two grids remove it."""
    coarse, fine = of(m), of(2 * m)
    return fine + (fine - coarse) / 3


@pytest.mark.parametrize("p", [2, 3, 5])
def test_moments_of_the_well(p):
    def moment(k):
        return integrate.quad(
            lambda y: y**k * math.exp(-(y ** (p + 1)) / (p + 1)), 0, 9, epsabs=1e-14, limit=200
        )[0]

    second = moment(2) / moment(0)
    assert well(p).second_moment == pytest.approx(second, rel=1e-11)
    assert well(p).kurtosis == pytest.approx(moment(4) / moment(0) / second**2, rel=1e-11)


@pytest.mark.parametrize("p", [2, 3])
def test_sign_memory_by_differences(p):
    def first(m):
        d = _Differences(p, m)
        energy, modes = np.linalg.eigh(-d.symmetric)
        # The lowest mode is the density itself, the next is odd.
        share = float(np.sign(d.y) * np.sqrt(d.density) @ modes[:, 1]) ** 2
        return np.array([energy[1], energy[3], share])

    rate, third, share = _extrapolated(first)
    unit = well(p).second_moment / 2
    assert well(p).sign_rates[:2] == pytest.approx((unit * rate, unit * third), rel=1e-5)
    assert well(p).sign_amplitudes[0] == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("p", [2, 3])
def test_sign_rate_by_the_partner_potential(p):
    """y^(2p)/4 + p|y|^(p-1)/2 has the well's spectrum without its zero."""
    y = np.linspace(-8, 8, 8001)
    h = y[1] - y[0]
    potential = np.abs(y) ** (2 * p) / 4 + p * np.abs(y) ** (p - 1) / 2
    lowest = linalg.eigh_tridiagonal(
        potential + 2 / h**2, np.full(len(y) - 1, -1 / h**2), select="i", select_range=(0, 0)
    )[0][0]
    assert well(p).sign_rates[0] == pytest.approx(lowest * well(p).second_moment / 2, rel=1e-5)


@pytest.mark.parametrize("p", [2, 3])
def test_relaxation_by_differences(p):
    """Linear response of the density, whose noise follows E y^2, as one matrix."""

    def slowest(m):
        d = _Differences(p, m)
        second = float(d.density @ d.y**2)
        # Diffusion alone: density'' = generator^T density + (drift density)', both on the grid.
        drift = np.diag(d.y * np.abs(d.y) ** (p - 1))
        h = d.y[1] - d.y[0]
        slope = (np.eye(len(d.y), k=1) - np.eye(len(d.y), k=-1)) / (2 * h)
        bent = -slope @ drift @ d.density
        matrix = d.generator.T + np.outer(bent, d.y**2) / second
        levels = np.sort(-np.linalg.eigvals(matrix).real)
        # Mass is conserved; the odd modes decay as without feedback.
        odd = np.linalg.eigvalsh(-d.symmetric)[1]
        return min(v for v in levels if v > 1e-6 and abs(v - odd) > 1e-3)

    found = _extrapolated(slowest, 100) * well(p).second_moment / 2
    assert well(p).relaxation == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("p", [2, 3])
def test_gradient_growth_by_differences(p):
    def growth(m):
        d = _Differences(p, m)
        root = np.sqrt(d.density)
        second = float(d.density @ d.y**2)
        bend = np.diag(2 * p * np.abs(d.y) ** (p - 1))
        return np.linalg.eigvalsh(d.symmetric - bend + np.outer(root, root) * 2 / second)[-1]

    found = _extrapolated(growth) * well(p).second_moment / 2
    assert well(p).gradient_growth == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("p", [2, 3])
def test_correlation_decay_by_a_sylvester_equation(p):
    """(L1 + L2 - decay) h = y1^p y2^p * 2 / E y^2 must return E y1 y2 h = 1."""

    def returned(m):
        d = _Differences(p, m)
        second = float(d.density @ d.y**2)
        drift = d.y * np.abs(d.y) ** (p - 1)
        decay = well(p).correlation_decay / (second / 2)
        a = -d.generator - decay / 2 * np.eye(len(d.y))
        h = linalg.solve_sylvester(a, a.T, np.outer(drift, drift) * 2 / second)
        weight = d.density * d.y
        return weight @ h @ weight

    assert _extrapolated(returned, 60) == pytest.approx(1.0, rel=2e-3)


@pytest.mark.parametrize(
    ("activation", "alpha"),
    [(TANH, 0.085), (activations.erf(), 0.085), (activations.arctan(), 0.15), (SOFTSIGN, 0.15),
     (activations.tanh(2.0), 0.05)],
    ids=str,
)  # fmt: skip
def test_little_noise_is_the_leading_order_of_the_density(activation, alpha):
    found = small_noise(activation, alpha)
    t = (activation.slope * alpha) ** 2
    depth = int(14 / t)
    exact = noise_density(activation, depth, alpha)
    assert 0.3 * t < math.sqrt(found.mean_square / exact.mean_square[-1]) - 1 < 1.0 * t
    assert 0.1 * t < found.kurtosis / exact.kurtosis[-1] - 1 < 0.5 * t
    tail = np.log(exact.sign_memory[depth // 2] / exact.sign_memory[-1])
    assert found.sign_rate * (depth - depth // 2) == pytest.approx(tail, rel=0.8 * t)
    growth = exact.gradient[-1] / exact.gradient[-2]
    slack = 0.05 if activation is SOFTSIGN else 0.6 * t
    assert found.chi - 1 == pytest.approx(growth - 1, rel=slack)


def test_relaxation_of_the_density():
    exact = noise_density(TANH, 3000, 0.085).mean_square
    gap = exact - exact[-1]
    rate = math.log(gap[900] / gap[1100]) / 200
    assert rate == pytest.approx(small_noise(TANH, 0.085).relaxation, rel=0.01)


def test_golden_constants():
    """Published with the derivation; all but relaxation agree to the digits given."""
    w = well()
    assert w.second_moment**2 / 2 == pytest.approx(0.2285, abs=5e-5)
    assert (round(w.kurtosis, 3), round(w.sign_rates[0], 4)) == (2.188, 0.4626)
    assert round(w.gradient_growth, 4) == 0.1273
    assert w.sign_amplitudes[0] == pytest.approx(0.776, abs=5e-4)
    rms = math.sqrt(small_noise(SOFTSIGN, 0.1).mean_square)
    assert rms == pytest.approx(1.5 / special.gamma(1 / 3) ** 1.5 * 0.01, rel=1e-9)
    assert math.sqrt(small_noise(TANH, 0.085).mean_square) == pytest.approx(0.0704, abs=5e-5)


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(0.1, 10.0), share=st.floats(0.02, 0.5))
def test_scaling_of_the_input(scale, share):
    """tanh(k x) with noise alpha / k does to x what tanh does with alpha: W absorbs k."""
    one, other = small_noise(TANH, share), small_noise(activations.tanh(scale), share / scale)
    assert other.mean_square == pytest.approx(one.mean_square, rel=1e-8)
    assert other.sign_rate == pytest.approx(one.sign_rate, rel=1e-9)
    assert one.correlation_decay == pytest.approx(share**2 * well().correlation_decay, rel=1e-12)


@pytest.mark.parametrize("activation", [TANH, SOFTSIGN, activations.erf()], ids=str)
def test_scales_invert_what_they_name(activation):
    for level in (1e-140, 1e-3, 0.05):
        alpha = noise_scale_for_rms(activation, level)
        assert small_noise(activation, alpha).mean_square == pytest.approx(level**2, rel=1e-10)
    for memory in (0.01, 0.3, 0.8):
        alpha = noise_scale_for_sign_memory(activation, 1000, memory)
        w = well(2 if activation is SOFTSIGN else 3)
        kept = w.sign_memory((activation.slope * alpha) ** 2 * 1000)
        assert kept == pytest.approx(memory, rel=1e-10)
    by_hand = math.sqrt(math.log(0.77605 / 0.05) / (0.46257 * 400))
    assert noise_scale_for_sign_memory(TANH, 400, 0.05) == pytest.approx(by_hand, rel=1e-5)


def test_sign_memory_reached_by_the_density():
    """From a stationary signal: the ratio of later memories, whose first mode is all there is."""
    alpha = noise_scale_for_sign_memory(TANH, 1000, 0.1)
    exact = noise_density(TANH, 4000, alpha).sign_memory
    first = well().sign_amplitudes[0]
    assert first * exact[4000] / exact[3000] == pytest.approx(0.1, rel=0.02)


def test_negative_share_by_multiplying_gains():
    rng = np.random.default_rng(21)
    sigma = noise_scale_for_negative_share(0.2, 20, 0.9)
    gains = rng.normal(0.9, sigma, (40000, 20))
    share = np.mean(np.prod(np.sign(gains), axis=1) < 0)
    assert abs(share - 0.2) < 4 * math.sqrt(0.16 / 40000)
    # One layer: p itself; a tiny share over a great depth keeps its digits.
    assert noise_scale_for_negative_share(0.3, 1) == pytest.approx(-1 / special.ndtri(0.3))
    tiny = -1 / special.ndtri(1e-9 / 1e6)
    assert noise_scale_for_negative_share(1e-9, 10**6) == pytest.approx(tiny, rel=1e-9)


def test_linear_networks_in_closed_form():
    """f = identity: all Gaussian, growth omega^2 + alpha^2, sign memory an arcsine."""
    found = noise_density(activations.identity(), 12, 0.3, 0.9, 2.0)
    layers = np.arange(13)
    np.testing.assert_allclose(found.mean_square, 2.0 * 0.9**layers, rtol=1e-9)
    np.testing.assert_allclose(found.gradient, 0.9**layers, rtol=1e-9)
    np.testing.assert_allclose(found.kurtosis, 3.0, rtol=1e-9)
    memory = 2 / math.pi * np.arcsin((0.9 / math.sqrt(0.9)) ** layers)
    np.testing.assert_allclose(found.sign_memory, memory, rtol=1e-7)


@pytest.mark.parametrize(("alpha", "omega"), [(0.5, 1.0), (0.25, 1.2)])
@pytest.mark.parametrize(("f", "digits"), [(TANH, 1e-8), (SOFTSIGN, 1e-5)], ids=str)
def test_density_by_gauss_legendre_and_a_backward_gradient(f, digits, alpha, omega):
    """Forward by a dense kernel on Legendre nodes; the gradient from the last layer back.

    Half a line has its own nodes: without its own term the kink of softsign would cost 2%.
    """
    depth = 8
    u, w = np.polynomial.legendre.leggauss(250)
    u, w = np.concatenate([4 * u - 4, 4 * u + 4]), np.tile(4 * w, 2)
    x, slope = f.f(u), f.df(u)
    q, moments, laws, kernels = 1.0, [1.0], [], []
    variance = omega**2 + alpha**2
    law = np.exp(-u * u / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    for _ in range(depth):
        laws.append(law)
        q = float(w @ (law * x * x))
        moments.append(q)
        std = alpha * math.sqrt(q)
        kernels.append(
            np.exp(-(((u[:, None] - omega * x) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        )
        law = kernels[-1] @ (w * law)
    # Growth to the input of what v is at the last output, per unit of u.
    growth = [1.0]
    for last in range(depth):
        v = np.ones_like(u)
        for layer in range(last, 0, -1):
            seen = slope**2 * v
            v = omega**2 * kernels[layer - 1].T @ (w * seen) + alpha**2 * (w @ (laws[layer] * seen))
        growth.append((omega**2 + alpha**2) * float(w @ (laws[0] * slope**2 * v)))
    found = noise_density(f, depth, alpha, omega)
    np.testing.assert_allclose(found.mean_square, moments, rtol=digits)
    np.testing.assert_allclose(found.gradient, growth, rtol=1e-7 if f is TANH else 1e-3)


def test_density_by_particles():
    rng = np.random.default_rng(22)
    count, alpha, depth = 200_000, 0.3, 12
    x = rng.standard_normal(count)
    first, tangent = np.sign(x), rng.standard_normal(count)
    for _ in range(depth):
        z = x + alpha * math.sqrt(np.mean(x**2)) * rng.standard_normal(count)
        push = tangent + alpha * math.sqrt(np.mean(tangent**2)) * rng.standard_normal(count)
        x, tangent = z / (1 + np.abs(z)), push / (1 + np.abs(z)) ** 2
    found = noise_density(SOFTSIGN, depth, alpha)
    for sample, name in ((x**2, "mean_square"), (first * np.sign(x), "sign_memory"),
                         (tangent**2, "gradient")):  # fmt: skip
        # Each layer's mean square is itself a sample, which about doubles the variance.
        error = 2 * sample.std() / math.sqrt(count)
        assert abs(sample.mean() - getattr(found, name)[-1]) < 4 * error


DOWN = {"slope_left": -1.0, "slope_right": -1.0}
FALLING = Activation("falling", lambda x: -np.tanh(x), lambda x: np.tanh(x) ** 2 - 1, **DOWN)
FALLING_AWAY = Activation("away", lambda x: -np.sinh(x), lambda x: -np.cosh(x), **DOWN)


def test_functions_that_fall_mirror_those_that_rise():
    """-tanh at omega = -1 does to x what tanh does at 1; only the preactivation turns."""
    one, other = small_noise(TANH, 0.1), small_noise(FALLING, 0.1)
    assert other.mean_square == pytest.approx(one.mean_square, rel=1e-9)
    assert noise_scale_for_rms(FALLING, 0.05) == pytest.approx(noise_scale_for_rms(TANH, 0.05))
    up, down = noise_density(TANH, 9, 0.3), noise_density(FALLING, 9, 0.3)
    np.testing.assert_allclose(down.mean_square, up.mean_square, rtol=1e-12)
    np.testing.assert_allclose(-down.sign_memory[1:], up.sign_memory[1:], rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units_of_the_preactivation_do_not_matter(scale):
    """tanh(k x) at noise alpha / k is tanh(x) at alpha: the grid follows the bend of f."""
    alpha = 1.5
    one = noise_density(TANH, 6, alpha)
    other = noise_density(activations.tanh(scale), 6, alpha / scale)
    np.testing.assert_allclose(other.mean_square, one.mean_square, rtol=1e-9)
    np.testing.assert_allclose(other.sign_memory, one.sign_memory, rtol=1e-7)
    np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-8)


BENT_AWAY = Activation("sinh", np.sinh, np.cosh, slope_left=1.0, slope_right=1.0, parity="odd")


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: well(1), "order must"),
        (lambda: well(21), "order must"),
        (lambda: small_noise(FALLING_AWAY, 0.1), "activation must"),
        (lambda: noise_scale_for_rms(TANH, 1e200), "target must.*smaller RMS"),
        (lambda: noise_density(TANH, 5, 300.0), "alpha must leave a grid"),
        (lambda: noise_density(TANH, 5, 0.1, 1e5), "alpha must leave a grid"),
        (lambda: noise_density(BENT_AWAY, 9, 0.01, 1.0, 1e4), "omega must keep.*after layer"),
        (lambda: small_noise(TANH, 0.0), "alpha must"),
        (lambda: small_noise(activations.identity(), 0.1), "activation must"),
        (lambda: small_noise(activations.tanhshrink(), 0.1), "activation must"),
        (lambda: small_noise(BENT_AWAY, 0.1), "activation must"),
        (lambda: noise_scale_for_sign_memory(TANH, 0, 0.5), "depth must"),
        (lambda: noise_scale_for_sign_memory(TANH, 10, 0.9), "memory must"),
        (lambda: noise_scale_for_sign_memory(TANH, 10, 0.0), "memory must"),
        (lambda: noise_scale_for_sign_memory(TANH, 2, 0.1), "target must.*more memory"),
        (lambda: noise_scale_for_rms(TANH, 0.0), "rms must"),
        (lambda: noise_scale_for_rms(TANH, 0.9), "target must.*smaller RMS"),
        (lambda: noise_scale_for_negative_share(0.5, 10), "share must"),
        (lambda: noise_scale_for_negative_share(0.0, 10), "share must"),
        (lambda: noise_scale_for_negative_share(0.1, 0), "depth must"),
        (lambda: noise_scale_for_negative_share(0.1, 10, -1.0), "omega must"),
        (lambda: noise_density(TANH, 0, 0.1), "depth must"),
        (lambda: noise_density(TANH, 5, -0.1), "alpha must"),
        (lambda: noise_density(TANH, 5, 1e-4), "alpha must be at least"),
        (lambda: noise_density(TANH, 5, 0.1, math.inf), "omega must"),
        (lambda: noise_density(TANH, 5, 0.1, mean_square=0.0), "mean_square must"),
        (lambda: noise_density(activations.hardtanh(), 5, 0.1), "activation must"),
        (lambda: noise_density(activations.hardshrink(), 5, 0.1), "activation must"),
        (lambda: noise_density(activations.tanhshrink(), 5, 0.1), "activation must"),
        (lambda: noise_density(TANH, 400, 0.1, 0.1), "omega must keep.*after layer"),
        (lambda: inverse_slope(activations.softshrink()), "activation must"),
    ],
)
def test_refusals(call, word):
    with pytest.raises(ArgumentError, match=f"^{word}"):
        call()
