"""Exponent and spread at real width: closed forms, another integral, high precision, chance."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.laplace import slopes
from equipoise.theory.lyapunov import (
    LogGain,
    log_gain,
    log_gains,
    stack_log_gain,
    wide_log_gain,
)

# width, slope (0 is ReLU given survival), I, gamma^2.
GOLDEN = [
    (1, 0.0, -0.63518142273074, 1.23370055013615),
    (2, 0.0, -0.40413236254409, 1.06631220875438),
    (8, 0.0, +0.49375854562657, 0.31174728194165),
    (16, 0.0, +0.95152210863639, 0.10489834852669),
    (64, 0.0, +1.71281365198199, 0.02074933763911),
    (1, 0.01, -2.93776651572478, 6.53559866061447),
    (2, 0.01, -1.43492521352121, 4.08673104359688),
    (4, 0.01, -0.25878309249535, 1.60848415316512),
    (8, 0.01, +0.47886950352442, 0.36733792496435),
    (16, 0.01, +0.95156016514849, 0.10496575101677),
    (64, 0.01, +1.71286892521070, 0.02074349210392),
    (2, 0.1, -0.81659901579712, 1.36000387289522),
    (4, 0.1, -0.06364239762969, 0.65305996089636),
    (16, 0.1, +0.96002772577926, 0.09820364153029),
    (64, 0.1, +1.71830429443614, 0.02017964643517),
    (2, 0.5, -0.25916207353667, 0.50074724791447),
    (8, 0.5, +0.70917250765793, 0.10370093024118),
    (64, 0.5, +1.83239777775755, 0.01219084254763),
    (2, 1.0, +0.05796575782921, 0.41123351671204),
    (8, 1.0, +0.97463242449587, 0.07095573893427),
    (64, 1.0, +2.07158835554747, 0.00793584163007),
]
WIDTHS = st.floats(0.1, 1e6)
SLOPES = st.floats(1e-4, 1.0)


def leaky(slope):
    return activations.leaky_relu(slope)


@pytest.mark.parametrize(("width", "slope", "mean", "variance"), GOLDEN)
def test_golden_numbers(width, slope, mean, variance):
    one = log_gain(leaky(slope), width)
    assert one.mean == pytest.approx(mean, abs=1e-13)
    assert one.variance == pytest.approx(variance, abs=1e-13)


@pytest.mark.parametrize("width", [0.05, 0.5, 1.0, 1.7, 8.0, 333.3, 1e6])
def test_a_line_has_the_chi_law(width):
    one = log_gain(activations.identity(), width)
    mean = (special.psi(width / 2) + math.log(2)) / 2
    variance = special.polygamma(1, width / 2) / 4
    assert one.mean == pytest.approx(mean, rel=4e-15, abs=2e-15)
    assert one.variance == pytest.approx(variance, rel=4e-15, abs=2e-15)


@pytest.mark.parametrize("width", [1, 3, 10, 40])
def test_surviving_relu_is_a_mixture_of_chi(width):
    """Given k live units, |f(g)|^2 is chi-square of k; k is binomial, not 0."""
    k = np.arange(1, width + 1)
    weight = special.comb(width, k) / (2.0**width - 1)
    parts = (special.psi(k / 2) + math.log(2)) / 2
    mean = float(weight @ parts)
    variance = float(weight @ (special.polygamma(1, k / 2) / 4 + (parts - mean) ** 2))
    one = log_gain(activations.relu(), width)
    assert one.mean == pytest.approx(mean, abs=2e-14)
    assert one.variance == pytest.approx(variance, abs=2e-14)
    assert one.survival == pytest.approx(1 - 2.0**-width, rel=1e-15)


@pytest.mark.parametrize(("width", "slope"), [(1.0, 0.3), (2.5, 0.05), (16.0, 0.01)])
def test_the_difference_of_laplace_transforms(width, slope):
    """E log|f(g)| = (1/2) integral of (exp(-t) - M(t)^d) / t, at 30 digits."""
    with mpmath.workdps(30):
        a = mpmath.mpf(slope)

        def m(t):
            return (1 / mpmath.sqrt(1 + 2 * t) + 1 / mpmath.sqrt(1 + 2 * a * a * t)) / 2

        def integrand(y):
            t = mpmath.exp(y)
            return mpmath.exp(-t) - m(t) ** mpmath.mpf(width)

        panels = [-80, -40, -20, -10, -4, -1, 1, 4, 10, 20, 50, 100, 200]
        value = mpmath.quad(integrand, panels) / 2
    assert log_gain(leaky(slope), width).mean == pytest.approx(float(value), abs=1e-13)


@pytest.mark.parametrize("slope", [1e-8, 1e-100, 1e-160, 1e-300])
def test_very_flat_slopes_are_not_relu(slope):
    """Width 1: |f(g)| is chi of one, times 1 or the slope with equal chance."""
    flat = math.log(slope)
    mean = (special.psi(0.5) + math.log(2)) / 2 + flat / 2
    variance = special.polygamma(1, 0.5) / 4 + flat**2 / 4
    many = log_gains(leaky(slope), [1.0])
    for one in (log_gain(leaky(slope), 1), LogGain(many.mean[0], many.variance[0], 1.0)):
        assert one.mean == pytest.approx(mean, rel=1e-14)
        assert one.variance == pytest.approx(variance, rel=1e-14)
        assert one.survival == 1.0


def test_the_range_of_floats_is_no_limit():
    act = activations.linear(1e-300)
    tiny = math.log(1e-300)
    base = log_gain(activations.identity(), 8)
    assert log_gain(act, 8, scale=1e-300).mean == pytest.approx(base.mean + 2 * tiny, rel=1e-15)
    assert log_gains(act, 8, scale=1e-300).mean == pytest.approx(base.mean + 2 * tiny, rel=1e-15)
    assert log_gains(act, 8).mean.shape == ()
    assert wide_log_gain(activations.identity(), 1e300).mean == pytest.approx(150 * math.log(10))
    narrow = log_gain(activations.identity(), 1e-3)
    assert narrow.variance == pytest.approx(special.polygamma(1, 5e-4) / 4, rel=1.5e-13)


def test_two_units_by_their_angle():
    """d = 2: |f(g)| = r h(angle), so log|f| splits into log chi_2 and an integral over angles."""
    a = 0.2

    def log_h(angle):
        c, s = math.cos(angle), math.sin(angle)
        return 0.5 * math.log((c if c > 0 else a * c) ** 2 + (s if s > 0 else a * s) ** 2)

    quarter = math.pi / 2
    parts = [integrate.quad(log_h, i * quarter, (i + 1) * quarter)[0] for i in range(4)]
    squares = [
        integrate.quad(lambda t: log_h(t) ** 2, i * quarter, (i + 1) * quarter)[0] for i in range(4)
    ]
    mean = sum(parts) / (2 * math.pi)
    gaussian, haar = log_gain(leaky(a), 2), log_gain(leaky(a), 2, law="haar")
    assert gaussian.mean == pytest.approx(mean + (special.psi(1.0) + math.log(2)) / 2, abs=1e-10)
    assert haar.mean == pytest.approx(mean, abs=1e-10)
    assert haar.variance == pytest.approx(sum(squares) / (2 * math.pi) - mean**2, abs=1e-10)


def haar(rng, fan_out, fan_in, count):
    """Matrices whose longer side has orthonormal vectors."""
    tall, short = max(fan_out, fan_in), min(fan_out, fan_in)
    q, r = np.linalg.qr(rng.standard_normal((count, tall, short)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return q if fan_out >= fan_in else np.swapaxes(q, 1, 2)


@pytest.mark.parametrize("law", ["gaussian", "haar"])
@pytest.mark.parametrize(("fan_out", "fan_in"), [(4, 4), (3, 8), (8, 3), (16, 16)])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_real_layers(law, fan_out, fan_in, slope):
    """A fixed input through drawn weights; ReLU draws that die are left out."""
    rng = np.random.default_rng(fan_out * 100 + fan_in)
    count, scale = 20_000, 0.7
    x = np.linspace(1, 2, fan_in)
    if law == "gaussian":
        weights = rng.standard_normal((count, fan_out, fan_in))
    else:
        weights = haar(rng, fan_out, fan_in, count)
    out = leaky(slope).f(scale * weights @ x)
    norms = np.linalg.norm(out, axis=1) / np.linalg.norm(x)
    one = log_gain(leaky(slope), fan_out, fan_in, scale, law)
    alive = norms > 0
    assert alive.mean() == pytest.approx(
        one.survival, abs=4 * math.sqrt(one.survival * (1 - one.survival) / count) + 1e-15
    )
    logs = np.log(norms[alive])
    assert logs.mean() == pytest.approx(one.mean, abs=4 * logs.std() / math.sqrt(len(logs)))
    squares = (logs - one.mean) ** 2
    assert squares.mean() == pytest.approx(
        one.variance, abs=4 * squares.std() / math.sqrt(len(squares))
    )


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("slope", [0.2, 1.0])
def test_real_stacks_forward_and_backward(backward, slope):
    rng = np.random.default_rng(7)
    widths, scales, count = [5, 3, 8, 4], [0.5, 0.9, 0.4], 10_000
    x = np.tile(np.arange(1.0, 6.0), (count, 1))
    masks, weights = [], []
    for fan_in, fan_out, scale in zip(widths, widths[1:], scales, strict=False):
        w = scale * rng.standard_normal((count, fan_out, fan_in))
        z = np.einsum("noi,ni->no", w, x)
        weights.append(w)
        masks.append(leaky(slope).df(z))
        x = leaky(slope).f(z)
    logs = np.log(np.linalg.norm(x, axis=1) / np.linalg.norm(np.arange(1.0, 6.0)))
    if backward:
        v = rng.standard_normal((count, 4))
        for w, mask in zip(reversed(weights), reversed(masks), strict=True):
            v = np.einsum("noi,no->ni", w, mask * v)
        logs = np.log(np.linalg.norm(v, axis=1))
    law = stack_log_gain(leaky(slope), widths, scales, backward=backward)
    assert logs.mean() == pytest.approx(law.mean, abs=4 * logs.std() / math.sqrt(count))
    squares = (logs - law.mean) ** 2
    assert squares.mean() == pytest.approx(law.variance, abs=4 * squares.std() / math.sqrt(count))


@given(WIDTHS, SLOPES)
def test_growth_with_width_and_slope(width, slope):
    one = log_gain(leaky(slope), width)
    assert log_gain(leaky(slope), 1.01 * width).mean > one.mean
    assert log_gain(leaky(min(1.0, 1.1 * slope)), width).mean >= one.mean
    # Jensen: the typical draw lies below the mean square.
    assert one.mean < 0.5 * math.log(width * (1 + slope**2) / 2)
    assert one.variance > 0


@given(WIDTHS, SLOPES, st.floats(1e-3, 1e3))
def test_scale_only_shifts(width, slope, scale):
    one, other = log_gain(leaky(slope), width), log_gain(leaky(slope), width, scale=scale)
    assert other.mean - one.mean == pytest.approx(math.log(scale), abs=1e-12)
    assert other.variance == one.variance


@given(WIDTHS, SLOPES)
def test_sides_and_signs_do_not_matter(width, slope):
    mirrored = log_gain(leaky(-slope), width)
    assert mirrored.mean == log_gain(leaky(slope), width).mean
    steep = log_gain(leaky(1 / slope), width)
    assert steep.mean == pytest.approx(
        log_gain(leaky(slope), width).mean - math.log(slope), abs=1e-12
    )


def test_arrays_agree_with_single_widths():
    widths = np.concatenate([np.geomspace(0.02, 1e6, 60), [3, 3, 7]]).reshape(7, 9)
    scales = np.linspace(0.5, 2, 9)
    for act in (leaky(0.01), activations.relu(), activations.identity()):
        for law in ("gaussian", "haar"):
            many = log_gains(act, widths, widths + 2, scales, law)
            assert many.mean.shape == many.variance.shape == many.survival.shape == (7, 9)
            for (i, j), width in np.ndenumerate(widths):
                one = log_gain(act, width, width + 2, scales[j], law)
                size = 1 + abs(one.mean)
                assert many.mean[i, j] == pytest.approx(one.mean, abs=1e-14 * size)
                assert many.variance[i, j] == pytest.approx(
                    one.variance, abs=1e-13 * (1 + one.variance)
                )
                assert many.survival[i, j] == pytest.approx(one.survival, rel=1e-15)


@pytest.mark.parametrize("law", ["gaussian", "haar"])
@pytest.mark.parametrize("slope", [0.0, 0.01, 0.5, 1.0])
def test_wide_limit_is_second_order(slope, law):
    act = activations.linear(3.0) if slope == 1.0 else leaky(slope)
    errors = []
    for width in (100.0, 1000.0):
        exact, wide = log_gain(act, width, law=law), wide_log_gain(act, width, law)
        errors.append(abs(exact.mean - wide.mean))
        assert exact.variance == pytest.approx(wide.variance, abs=30 / width**2)
        assert wide.survival == exact.survival
    assert errors[0] < 30 / 100**3
    assert errors[1] < max(errors[0] / 500, 1e-13)


def test_he_decays_by_c_over_the_width():
    """Per layer -5 / (4 n) for ReLU: a mean that is kept is not a typical draw that is kept."""
    width = 1e4
    he = log_gain(activations.relu(), width, scale=math.sqrt(2 / width))
    assert he.mean * width == pytest.approx(-1.25, abs=1e-3)


def test_orthogonal_lines_do_not_fluctuate():
    for act in (activations.identity(), leaky(-1.0)):
        one = log_gain(act, 9, law="haar")
        assert (one.mean, one.variance) == (0.0, 0.0)
        many = log_gains(act, [9, 5, 9], [9, 5, 4], 2.0, "haar")
        assert many.mean.tolist() == [math.log(2.0)] * 3
        assert many.variance.tolist() == [0.0] * 3
    # A contraction, which keeps 4 of 9 dimensions, does fluctuate.
    assert log_gains(activations.identity(), 4, 9, law="haar").variance > 0.01


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: log_gain(activations.tanh(), 8), "activation must be a line on each side"),
        (lambda: log_gain(activations.linear(0.0), 8), "must not vanish everywhere"),
        (lambda: log_gain(leaky(0.1), 0.0), "fan_out must be finite and at least"),
        (lambda: log_gain(leaky(0.1), 8, math.inf), "fan_in must be finite and at least"),
        (lambda: log_gain(leaky(0.1), 8, scale=-1.0), "scale must be positive"),
        (lambda: log_gain(leaky(0.1), 8, law="uniform"), "law must be one of gaussian, haar"),
        (lambda: log_gains(leaky(0.1), [8, -2.0]), "fan_out must be finite .* got -2.0"),
        (lambda: log_gains(leaky(0.1), [8], [math.nan]), "fan_in must be finite .* got nan"),
        (lambda: log_gains(leaky(0.1), [8], scale=[0.0]), "scale must be positive .* got 0.0"),
        (lambda: log_gains(leaky(0.1), [8], law="cauchy"), "law must be one of"),
        (lambda: log_gains(leaky(0.1), [8, 9], [8, 9, 7]), "must broadcast, got shapes"),
        (lambda: wide_log_gain(leaky(0.1), 8, "cauchy"), "law must be one of"),
        (lambda: stack_log_gain(leaky(0.1), [8], 1.0), "widths must be n_0"),
        (lambda: stack_log_gain(leaky(0.1), [8, 8], [1.0, 2.0]), "scales must be one number or 1"),
        (
            lambda: stack_log_gain(leaky(0.1), [8, 8], 1.0, "haar", backward=True),
            "law must be gaussian for the backward",
        ),
        (lambda: slopes(activations.squared_relu()), "must be a line on each side"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()


def test_results_are_plain_data():
    assert log_gain(activations.relu(), 1) == LogGain(
        pytest.approx(-0.63518142273074), pytest.approx(1.23370055013615), 0.5
    )
