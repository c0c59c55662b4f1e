"""The wide limit of residual trunks against closed forms, a second quadrature and real networks."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.branch import Branch, BranchScaling, branch_scaling
from equipoise.theory.normalised import post_norm_growth, residual_stack
from equipoise.theory.residual import branch_scale, wide_trunk

HE = Branch(activations.relu(), last_var=2.0)
SMOOTH = [activations.tanh(), activations.gelu(), activations.erf(), activations.softplus()]
TANH = Branch(activations.tanh(), last_var=1.5, first_var=2.0)
PLAIN = BranchScaling("plain")
AVERAGED = branch_scaling("averaged", 1)
positive = st.floats(0.05, 3.0)


def _erf_branch(variance=1.3, first=0.8):
    return Branch(activations.erf(), last_var=variance, first_var=first)


def _erf_energy(q, c=1.0, variance=1.3, first=0.8):
    p = first * q
    return variance * 2 / math.pi * math.asin(2 * p * c / (1 + 2 * p))


def _erf_slope(q, variance=1.3, first=0.8):
    return variance * first * 4 / math.pi / math.sqrt(1 + 4 * first * q)


@pytest.mark.parametrize("q", [1e-3, 0.4, 3.0, 1e3])
def test_moments_of_erf(q):
    m = _erf_branch().moments(q)
    assert m.energy == pytest.approx(_erf_energy(q), rel=1e-9)
    assert m.slope_energy == pytest.approx(_erf_slope(q), rel=1e-9)
    p = 0.8 * q
    by_hand = 2 * p / ((1 + 2 * p) * math.sqrt(1 + 4 * p) * math.asin(2 * p / (1 + 2 * p)))
    assert m.elasticity == pytest.approx(by_hand, rel=1e-7)


@pytest.mark.parametrize("activation", SMOOTH, ids=str)
@pytest.mark.parametrize("q", [0.05, 1.0, 6.0])
def test_moments_by_a_second_quadrature(activation, q, gaussian_mean):
    f, df, first = activation.f, activation.df, 0.7
    m = Branch(activation, 2, 1.9, first).moments(q)

    def mean(g, level=first * q):
        return gaussian_mean(g, level)

    square, slope = mean(lambda z: f(z) ** 2), mean(lambda z: df(z) ** 2)
    assert m.energy == pytest.approx(1.9 * square, rel=1e-9)
    assert m.slope_energy == pytest.approx(1.9 * first * slope, rel=1e-9)
    # Stein: dE f^2 / d log level = E z f f', another integrand than the one in the code.
    lifted = mean(lambda z: z * f(z) * df(z))
    assert m.elasticity == pytest.approx(lifted / square, rel=1e-7)
    assert m.energy_spread == pytest.approx(mean(lambda z: f(z) ** 4) / square**2 - 1, rel=1e-7)
    assert m.overlap == pytest.approx(mean(lambda z: (f(z) * df(z)) ** 2) / square / slope)
    one = Branch(activation, 1, 1.9, first).moments(q)
    assert one.energy == pytest.approx(1.9 * mean(lambda z: f(z) ** 2, q), rel=1e-9)


@given(slope=st.floats(-1.0, 1.0), q=st.floats(1e-6, 1e6), first=positive, last=positive)
@settings(max_examples=30, deadline=None)
def test_moments_of_two_slopes(slope, q, first, last):
    m = Branch(activations.leaky_relu(slope), 2, last, first).moments(q)
    half = (1 + slope**2) / 2
    assert m.energy == pytest.approx(last * first * q * half, rel=1e-9)
    assert m.slope_energy == pytest.approx(last * first * half, rel=1e-9)
    assert m.elasticity == pytest.approx(1.0, rel=1e-9)
    # E f^4 = 3 (1 + a^4) / 2 and f^2 f'^2 = f'^4 z^2
    fourth = (1 + slope**4) / 2
    assert m.energy_spread == pytest.approx(3 * fourth / half**2 - 1, rel=1e-9)
    assert m.overlap == pytest.approx(fourth / half**2, rel=1e-9)


def test_moments_near_the_ends_of_floats():
    """Tiny inputs see a line, huge ones ReLU: fourth powers leave the range, the moments do not."""
    tiny = Branch(activations.tanh(), 1).moments(1e-200)
    assert tiny.energy == pytest.approx(1e-200, rel=1e-9)
    assert (tiny.slope_energy, tiny.elasticity) == pytest.approx((1.0, 1.0), rel=1e-9)
    assert (tiny.energy_spread, tiny.overlap) == pytest.approx((2.0, 1.0), rel=1e-9)
    huge = Branch(activations.gelu(), 1).moments(1e300)
    assert (huge.energy_spread, huge.overlap) == pytest.approx((5.0, 2.0), rel=1e-9)


@pytest.mark.parametrize("activation", [activations.relu(), activations.tanh()], ids=str)
def test_one_post_norm_layer_from_its_gram_matrix(activation):
    """Trunk and tangent through two matrices: only their own plane and a Wishart matrix matter."""
    n, m, count, rng = 128, 64, 400_000, np.random.default_rng(8)
    branch = Branch(activation, last_var=2.0, expansion=m / n)
    z, turn = rng.standard_normal((2, count, m), dtype=np.float32)
    h, k = activation.f(z), activation.df(z) * turn / math.sqrt(n)
    scale = math.sqrt(2.0 / m)
    alpha = scale * np.linalg.norm(h, axis=1)
    beta = scale**2 * (h * k).sum(axis=1) / alpha
    gamma = np.sqrt(scale**2 * (k**2).sum(axis=1) - beta**2)
    # Two coordinates along the plane of trunk and tangent, and the Gram matrix of the n - 2 others.
    g, e = rng.standard_normal((2, 2, count))
    size, across = np.sqrt(rng.chisquare(n - 2, count)), rng.standard_normal(count)
    y = [math.sqrt(n) + alpha * g[0], alpha * g[1], alpha * size]
    v = [beta * g[0] + gamma * e[0], 1 + beta * g[1] + gamma * e[1], beta * size + gamma * across]
    length = sum(a * a for a in y)
    left = sum(a * a for a in v) + gamma**2 * rng.chisquare(n - 3, count)
    grown = (left - sum(a * b for a, b in zip(y, v, strict=True)) ** 2 / length) * n / length
    expected = post_norm_growth(branch, n, PLAIN, "rms")
    # The next order in 1/m is about 3/m^2; the overlap of f^2 and f'^2 is worth 16/m^2.
    allowed = 5 / m**2 + 4 * grown.std() / math.sqrt(count)
    assert grown.mean() == pytest.approx(expected, abs=allowed)


def test_a_branch_that_sends_nothing():
    zero = Branch(activations.linear(0.0))
    m = zero.moments(1.0)
    assert (m.energy, m.slope_energy) == (0.0, 0.0)
    assert wide_trunk(zero, 5, PLAIN).signal == (1.0,) * 6


@given(skip=positive, scale=positive, slope=st.floats(-1.0, 1.0), depth=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_homogeneous_without_norm_is_exponential(skip, scale, slope, depth):
    branch = Branch(activations.leaky_relu(slope), last_var=2.0)
    step = skip**2 + scale**2 * (1 + slope**2)
    trunk = wide_trunk(branch, depth, BranchScaling("any", skip, scale), q=0.3)
    assert trunk.signal[-1] == pytest.approx(0.3 * step**depth, rel=1e-7)
    assert trunk.gradient_factors == pytest.approx([step] * depth, rel=1e-9)


@pytest.mark.parametrize("matrices", [1, 2])
def test_bounded_functions_grow_linearly_without_norm(matrices):
    """Erf at a great level sends its square of 1 and no slope."""
    branch = Branch(activations.erf(), matrices)
    trunk = wide_trunk(branch, 50, PLAIN, q=1e8)
    assert trunk.signal[-1] - 1e8 == pytest.approx(50, rel=1e-3)
    assert math.prod(trunk.gradient_factors) == pytest.approx(1.0, abs=1e-2)


def test_erf_layer_by_layer():
    skip, scale, q, c = 0.9, 0.7, 0.6, 0.3
    trunk = wide_trunk(_erf_branch(), 12, BranchScaling("any", skip, scale), "none", q, c)
    for layer in range(12):
        assert trunk.signal[layer] == pytest.approx(q, rel=1e-9)
        assert trunk.correlation[layer] == pytest.approx(c, abs=1e-7)
        factor = skip**2 + scale**2 * _erf_slope(q)
        assert trunk.gradient_factors[layer] == pytest.approx(factor, rel=1e-9)
        after = skip**2 * q + scale**2 * _erf_energy(q)
        c = (skip**2 * q * c + scale**2 * _erf_energy(q, c)) / after
        q = after


@given(q=st.floats(0.1, 10.0), depth=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_pre_norm_is_linear_in_signal_and_a_ratio_of_gammas_in_gradient(q, depth):
    trunk = wide_trunk(_erf_branch(), depth, PLAIN, "pre", q)
    energy, slope = _erf_energy(1.0), _erf_slope(1.0)
    assert trunk.signal[-1] == pytest.approx(q + depth * energy, rel=1e-9)
    # prod (l + (q + chi)/V) / (l + q/V)
    a, b = (q + slope) / energy, q / energy
    gammas = special.gammaln([depth + a, a, depth + b, b])
    expected = gammas[0] - gammas[1] - gammas[2] + gammas[3]
    assert np.log(trunk.gradient_factors).sum() == pytest.approx(expected, rel=1e-8)
    assert wide_trunk(_erf_branch(), depth, PLAIN, "tracked", q) == trunk


def test_pre_norm_gradient_has_the_exponent_chi_over_energy():
    energy, slope = _erf_energy(1.0), _erf_slope(1.0)
    logs = [
        np.log(wide_trunk(_erf_branch(), depth, PLAIN, "pre").gradient_factors).sum()
        for depth in (2_000, 4_000)
    ]
    assert (logs[1] - logs[0]) / math.log(2) == pytest.approx(slope / energy, rel=1e-3)


def test_pre_norm_with_a_weaker_skip_settles():
    trunk = wide_trunk(_erf_branch(), 400, BranchScaling("leak", 0.9), "pre")
    energy, slope = _erf_energy(1.0), _erf_slope(1.0)
    assert trunk.signal[-1] == pytest.approx(energy / 0.19, rel=1e-9)
    assert trunk.gradient_factors[-1] == pytest.approx(0.81 + 0.19 * slope / energy, rel=1e-9)


@given(skip=positive, scale=positive)
@settings(max_examples=20, deadline=None)
def test_post_norm(skip, scale):
    trunk = wide_trunk(_erf_branch(), 3, BranchScaling("any", skip, scale), "post")
    s2, t2 = skip**2, scale**2
    factor = (s2 + t2 * _erf_slope(1.0)) / (s2 + t2 * _erf_energy(1.0))
    assert trunk.signal == (1.0,) * 4
    assert trunk.gradient_factors == pytest.approx([factor] * 3, rel=1e-9)
    he = wide_trunk(HE, 3, BranchScaling("any", skip, scale), "post")
    assert he.gradient_factors == pytest.approx([1.0] * 3, rel=1e-9)


def _arc_cosine(c):
    return (mpmath.sqrt(1 - c * c) + (mpmath.pi - mpmath.acos(c)) * c) / mpmath.pi


@pytest.mark.parametrize("placement", ["none", "pre", "post"])
@pytest.mark.parametrize("start", [-0.9, 0.0, 0.999])
def test_relu_correlation_by_the_arc_cosine_kernel(placement, start):
    trunk = wide_trunk(HE, 10, BranchScaling("any", 0.8, 0.5), placement, correlation=start)
    c, q = mpmath.mpf(start), mpmath.mpf(1)
    for found in trunk.correlation:
        assert found == pytest.approx(float(c), abs=1e-7)
        sent = q if placement == "none" else 1
        whole = mpmath.mpf("0.64") * q + sent / 4
        c = (mpmath.mpf("0.64") * q * c + sent * _arc_cosine(c) / 4) / whole
        q = mpmath.mpf(1) if placement == "post" else whole


def test_correlation_of_linear_branches_and_of_equal_inputs_stays():
    linear = Branch(activations.identity())
    assert wide_trunk(linear, 5, PLAIN, correlation=-0.4).correlation == pytest.approx([-0.4] * 6)
    assert wide_trunk(HE, 5, PLAIN).correlation == (1.0,) * 6
    near = wide_trunk(HE, 5, PLAIN, correlation=-1.0).correlation
    assert near[0] == -1.0
    assert list(near) == sorted(near)


def test_depth_scaling_bounds_growth_and_correlation():
    """(1 + V/L)^L rises to e^V; the correlation's way settles too."""
    totals, ends = [], []
    for depth in (4, 16, 64):
        trunk = wide_trunk(HE, depth, branch_scaling("depth", depth), correlation=0.0)
        totals.append(trunk.signal[-1])
        ends.append(trunk.correlation[-1])
    assert totals == sorted(totals)
    assert totals[-1] < math.e
    assert totals[-1] == pytest.approx(math.e, rel=1 / 64)
    assert abs(ends[2] - ends[1]) < abs(ends[1] - ends[0]) / 2


@pytest.mark.parametrize("depth", [1, 12, 100])
def test_scalings(depth):
    def total(name, placement="none"):
        trunk = wide_trunk(HE, depth, branch_scaling(name, depth), placement)
        return trunk.signal[-1], math.prod(trunk.gradient_factors)

    assert total("plain") == pytest.approx((2.0**depth,) * 2, rel=1e-7)
    assert total("depth") == pytest.approx(((1 + 1 / depth) ** depth,) * 2)
    assert total("gpt2") == pytest.approx(total("depth"))
    assert total("gpt2", "pre") == pytest.approx((2.0, 2.0))
    assert total("inverse_depth") == pytest.approx(((1 + depth**-2) ** depth,) * 2)
    assert total("averaged") == pytest.approx((1.0, 1.0))
    assert total("zero") == total("fixup") == (1.0, 1.0)
    fixup = branch_scaling("fixup", depth)
    assert (fixup.last_gain, fixup.inner_gain) == pytest.approx((0.0, depth**-0.5))


@pytest.mark.parametrize("layers", [2, 18, 500])
def test_deepnorm_as_published_for_an_encoder(layers):
    found = branch_scaling("deepnorm", 2 * layers)
    assert found.skip == pytest.approx((2 * layers) ** 0.25)
    assert found.inner_gain == found.last_gain == pytest.approx((8 * layers) ** -0.25)


@given(depth=st.integers(1, 400), growth=st.floats(1.01, 1e4))
@settings(max_examples=25, deadline=None)
def test_branch_scale_in_closed_form(depth, growth):
    step = growth ** (1 / depth)
    assert branch_scale(HE, depth, growth) == pytest.approx(math.sqrt(step - 1), rel=1e-8)
    # post-norm: t^2 = s^2 (g - 1) / (chi - g V)
    energy, slope = _erf_energy(1.0, variance=0.5), _erf_slope(1.0, variance=0.5)
    branch = _erf_branch(variance=0.5)
    if step < 0.95 * slope / energy:
        expected = 0.7 * math.sqrt((step - 1) / (slope - step * energy))
        found = branch_scale(branch, depth, growth, "post", skip=0.7)
        assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("placement", ["none", "pre"])
def test_branch_scale_meets_its_growth(placement):
    scale = branch_scale(_erf_branch(), 30, 5.0, placement)
    trunk = wide_trunk(_erf_branch(), 30, BranchScaling("found", scale=scale), placement)
    assert math.prod(trunk.gradient_factors) == pytest.approx(5.0, rel=1e-8)


@pytest.mark.parametrize("branch", [HE, TANH], ids=["relu", "tanh"])
@pytest.mark.parametrize(("placement", "depth"), [("pre", 20), ("post", 5)])
def test_few_hidden_units_by_the_chain_of_inner_products(branch, placement, depth):
    """For n to infinity at m = 40 the products x.x, x.u, u.u are a chain driven by W1 alone."""
    m, n, draws = 40, 10**9, 40_000
    rng, f, df = np.random.default_rng(5), branch.activation.f, branch.activation.df
    xx, xu, uu = np.ones(draws), np.zeros(draws), np.ones(draws)
    for _ in range(depth):
        across = uu - xu**2 / xx
        h, v = math.sqrt(branch.first_var) * rng.standard_normal((2, draws, m))
        v *= np.sqrt(across / xx)[:, None]
        out, moved = f(h), df(h) * v
        xx = xx + branch.last_var * (out * out).mean(1)
        xu = xu + branch.last_var * (out * moved).mean(1)
        uu = uu + branch.last_var * (moved * moved).mean(1)
        if placement == "post":
            xx, xu, uu = np.ones(draws), np.zeros(draws), (uu - xu**2 / xx) / xx
    few = Branch(branch.activation, 2, branch.last_var, branch.first_var, m / n)
    stack = residual_stack(few, depth, n, PLAIN, placement, "rms")
    found, error = math.exp(stack.gradient_log[0]), 4 * uu.std() / math.sqrt(draws)
    assert uu.mean() == pytest.approx(found, abs=error + 2 / m**2 * found)


@pytest.mark.parametrize(
    ("branch", "scaling", "placement", "words"),
    [
        (HE, PLAIN, "none", "exponential in depth"),
        (TANH, PLAIN, "none", "rates that move with q"),
        (HE, PLAIN, "tracked", "Signal linear in depth"),
        (HE, PLAIN, "pre", "Signal linear in depth, gradient of order depth"),
        (HE, AVERAGED, "pre", "Signal tends to 1;"),
        (HE, BranchScaling("up", 1.1), "pre", "as skip"),
        (HE, PLAIN, "post", "held at 1"),
        (HE, branch_scaling("zero", 5), "none", "No branch at birth"),
    ],
)
def test_laws_in_words(branch, scaling, placement, words):
    assert words in residual_stack(branch, 5, 64, scaling, placement).law


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Branch(activations.relu(), 3), "matrices must be 1 or 2, got 3"),
        (lambda: Branch(activations.relu(), last_var=-1.0), "last_var must be positive"),
        (lambda: Branch(activations.relu(), last_var=math.nan), "last_var must be positive"),
        (lambda: Branch(activations.relu(), first_var=0.0), "first_var must be positive"),
        (lambda: Branch(activations.relu(), expansion=math.inf), "expansion must be positive"),
        (lambda: Branch(activations.hardshrink()), "activation must be continuous"),
        (lambda: HE.moments(0.0), "q must be positive"),
        (lambda: branch_scaling("depht", 3), "Did you mean 'depth'"),
        (lambda: branch_scaling("plain", 0), "depth must be an integer of at least 1"),
        (lambda: branch_scaling("fixup", 3, matrices=1), "matrices must be 2 for fixup"),
        (lambda: wide_trunk(HE, 0, PLAIN), "depth must be"),
        (lambda: wide_trunk(HE, 1, PLAIN, "before"), "placement must be one of"),
        (lambda: wide_trunk(HE, 1, PLAIN, q=-1.0), "q must be positive"),
        (lambda: wide_trunk(HE, 1, PLAIN, "post", 2.0), "q must be 1 for post-norm"),
        (lambda: wide_trunk(HE, 1, BranchScaling("", 0.0, 0.0)), "got mean square 0.0"),
        (lambda: wide_trunk(HE, 1100, PLAIN), "scaling must keep signal and gradient"),
        (lambda: wide_trunk(HE, 1, BranchScaling("", math.nan)), "got mean square nan"),
        (lambda: wide_trunk(HE, 1, PLAIN, correlation=1.5), "correlation must be"),
        (lambda: branch_scale(HE, 10, -1.0), "growth must be positive"),
        (lambda: branch_scale(HE, 10, 0.5), "growth must be met by a scale"),
        (lambda: branch_scale(HE, 10, 2.0, "post"), "growth must be met by a scale"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()


def test_a_signal_that_leaves_the_floats_is_refused():
    explosive = Branch(activations.squared_relu())
    with pytest.raises(ArgumentError, match="range of floats"):
        wide_trunk(explosive, 20, PLAIN, q=100.0)
