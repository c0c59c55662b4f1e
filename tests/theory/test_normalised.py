"""Finite-width trunks against real random networks, forward and backward, and exact integrals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.branch import Branch, BranchScaling, branch_scaling
from equipoise.theory.normalised import post_norm_growth, residual_stack
from equipoise.theory.residual import wide_trunk

RELU = Branch(activations.relu(), last_var=2.0)
TANH = Branch(activations.tanh(), last_var=1.5, first_var=2.0)
GELU = Branch(activations.gelu(), last_var=2.0, expansion=4.0)
LINEAR = Branch(activations.identity(), matrices=1)
ONE_RELU = Branch(activations.relu(), 1, 2.0)
ABS = Branch(activations.leaky_relu(-1.0), matrices=1)
NARROW = Branch(activations.relu(), expansion=0.1)
PLAIN = BranchScaling("plain")
AVERAGED = branch_scaling("averaged", 1)


def _normed(x, norm):
    x = x - x.mean(-1, keepdims=True) if norm == "layer" else x
    size = np.sqrt((x * x).mean(-1, keepdims=True))
    return x / size, size


def _pulled(v, y, size, norm):
    """A cotangent through the norm whose output is y."""
    v = v - v.mean(-1, keepdims=True) if norm == "layer" else v
    return (v - y * (v * y).mean(-1, keepdims=True)) / size


def _network(branch, depth, n, scaling, placement, norm, draws, seed, q=1.0):
    """Mean squares of trunk and gradient, shape (L + 1, draws), weights drawn in full."""
    branch, f, df = scaling.of(branch), branch.activation.f, branch.activation.df
    m = round(branch.expansion * n)
    expected = wide_trunk(branch, depth, BranchScaling("", scaling.skip, scaling.scale), placement)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((draws, n))
    x = math.sqrt(q) * _normed(x, norm if placement == "post" else "rms")[0]
    trunk, tape = [x], []
    for layer in range(depth):
        y, size = x, 1.0
        if placement == "pre":
            y, size = _normed(x, norm)
        elif placement == "tracked":
            size = math.sqrt(expected.signal[layer])
            y = x / size
        if branch.matrices == 1:
            first, h = None, y
            last = rng.standard_normal((draws, n, n)) * math.sqrt(branch.last_var / n)
        else:
            first = rng.standard_normal((draws, m, n)) * math.sqrt(branch.first_var / n)
            last = rng.standard_normal((draws, n, m)) * math.sqrt(branch.last_var / m)
            h = np.einsum("rij,rj->ri", first, y)
        x = scaling.skip * x + scaling.scale * np.einsum("rij,rj->ri", last, f(h))
        after = 1.0
        if placement == "post":
            x, after = _normed(x, norm)
        tape.append((y, size, first, df(h), last, x, after))
        trunk.append(x)
    v = rng.standard_normal((draws, n))
    if placement == "post":
        v = _pulled(v, x, 1.0, norm)
    gradient = [v]
    for (y, size, first, slopes, last, x, after), entry in zip(
        tape[::-1], trunk[-2::-1], strict=True
    ):
        if placement == "post":
            v = _pulled(v, x, after, norm)
        back = slopes * np.einsum("rij,ri->rj", last, scaling.scale * v)
        if first is not None:
            back = np.einsum("rij,ri->rj", first, back)
        back = _pulled(back, y, size, norm) if placement == "pre" else back / size
        v = scaling.skip * v + back
        if placement == "post":
            v = _pulled(v, entry, 1.0, norm)
        gradient.append(v)
    inside = n if placement != "post" else n - (2 if norm == "layer" else 1)
    return (np.array(trunk) ** 2).mean(-1), (np.array(gradient[::-1]) ** 2).sum(-1) / inside


def _agree(values, expected, slack=0.0):
    """The mean of ``values`` within 4 standard errors, and a share ``slack`` of ``expected``."""
    error = 4 * values.std() / math.sqrt(len(values)) + slack * abs(expected)
    assert values.mean() == pytest.approx(expected, abs=error)


@pytest.mark.parametrize(
    ("branch", "depth", "n", "scaling", "placement"),
    [
        (RELU, 20, 4, "inverse_depth", "none"),
        (RELU, 20, 8, "depth", "none"),
        (RELU, 20, 16, "gpt2", "none"),
        (RELU, 10, 64, "averaged", "none"),
        (RELU, 20, 8, "depth", "tracked"),
        (LINEAR, 20, 8, "depth", "none"),
        (ABS, 20, 8, "depth", "none"),
        (RELU, 1000, 4, "inverse_depth", "none"),
    ],
)
def test_exact_means_without_norm(branch, depth, n, scaling, placement):
    scaling = branch_scaling(scaling, depth)
    draws = 150 if depth == 1000 else 300_000 // n**2
    trunk, gradient = _network(branch, depth, n, scaling, placement, "rms", draws, 1)
    stack = residual_stack(branch, depth, n, scaling, placement)
    assert stack.signal_is_exact
    assert stack.gradient_is_exact
    for layer in (0, depth // 2, depth):
        _agree(trunk[layer], stack.signal[layer], 1e-12)
        _agree(gradient[layer], math.exp(stack.gradient_log[layer]), 1e-12)


@pytest.mark.parametrize("branch", [RELU, TANH], ids=lambda b: str(b.activation))
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_pre_norm_signal_is_exact_and_gradient_of_order_one_over_n_squared(branch, norm):
    n, depth = 16, 20
    scaling = branch_scaling("depth", depth)
    trunk, gradient = _network(branch, depth, n, scaling, "pre", norm, 1500, 2, q=0.8)
    stack = residual_stack(branch, depth, n, scaling, "pre", norm, 0.8)
    assert stack.signal_is_exact
    assert not stack.gradient_is_exact
    _agree(trunk[-1], stack.signal[-1])
    for layer in (0, depth // 2):
        _agree(gradient[layer], math.exp(stack.gradient_log[layer]), 8 / n**2)


@pytest.mark.parametrize("branch", [RELU, TANH], ids=lambda b: str(b.activation))
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_post_norm_layer_of_a_real_network(branch, norm):
    n = 16
    trunk, gradient = _network(branch, 1, n, AVERAGED, "post", norm, 20_000, 3)
    assert trunk == pytest.approx(1.0)
    _agree(gradient[0], post_norm_growth(branch, n, AVERAGED, norm) + 2.5 / n**2, 2 / n**2)


def _over_laplace(g):
    return integrate.quad(g, 0, math.inf, epsabs=0, epsrel=1e-11)[0]


def _linear_normed(n, skip, scale, var):
    """E |P_z w|^2 / (|z|^2 / n), z = s x + t W x and w = s u + t W P_x u, at u across and along x.

    |z|^-2 and |z|^-4 are integrals of exp(-theta |z|^2), whose mean over W is known.
    """
    a, s2 = scale**2 * var, skip**2

    def transform(theta, power=0):
        spread = 1 + 2 * theta * a
        return spread ** (-n / 2 - power) * math.exp(-theta * s2 * n / spread)

    inverse = _over_laplace(transform)
    side = _over_laplace(lambda x: x * transform(x, 1))
    fourth = s2 * n * _over_laplace(lambda x: x * transform(x, 2)) + a * side
    across = n * ((s2 + a * (n - 1) / n) * inverse - s2 * a * side)
    return across, n * s2 * (inverse - fourth)


LINEAR_CASES = pytest.mark.parametrize(
    ("skip", "scale", "var"), [(1.0, 1.0, 1.0), (0.6, 1.0, 2.0), (2.0, 0.5, 1.0)]
)


def _is_of_order_one_over_n_squared(gap, bound):
    gaps = [n**2 * gap(n) for n in (100, 200, 400)]
    assert np.ptp(gaps) < 0.1 * abs(gaps[2]) + 0.1
    assert abs(gaps[2]) < bound


@LINEAR_CASES
def test_post_norm_of_linear_branches_by_exact_integrals(skip, scale, var):
    branch, scaling = Branch(activations.identity(), 1, var), BranchScaling("any", skip, scale)

    def gap(n):
        exact, _ = _linear_normed(n, skip, scale, var)
        return post_norm_growth(branch, n, scaling, "rms") - exact

    _is_of_order_one_over_n_squared(gap, 6)


@LINEAR_CASES
def test_two_pre_norm_layers_of_linear_branches_by_exact_integrals(skip, scale, var):
    branch, scaling = Branch(activations.identity(), 1, var), BranchScaling("any", skip, scale)
    s2, a = skip**2, scale**2 * var

    def grown(n, norm="rms"):
        return math.exp(residual_stack(branch, 2, n, scaling, "pre", norm).gradient_log[0])

    def gap(n):
        across, along = _linear_normed(n, skip, scale, var)
        return grown(n) - s2 * (s2 + a * (n - 1) / n) - a * ((n - 1) * across + along) / n

    _is_of_order_one_over_n_squared(gap, 20)
    # LayerNorm is RMSNorm in one dimension less: the mean takes an equal share of what is sent.
    assert grown(401, "layer") == pytest.approx(grown(400), rel=1e-5)


def test_post_norm_of_a_trunk_of_branches_alone():
    """Linear, skip 0: u' and z are independent: (n-1) E 1/chi^2_n = (n - 1)/(n - 2)."""
    growth = post_norm_growth(LINEAR, 1000, BranchScaling("chain", skip=0.0), "rms")
    assert growth == pytest.approx(999 / 998, abs=5e-6)
    # LayerNorm is the same problem in one dimension less.
    layer = post_norm_growth(LINEAR, 1001, BranchScaling("chain", skip=0.0), "layer")
    assert layer == pytest.approx(growth, rel=1e-9)


def test_layers_of_post_norm_multiply():
    stack = residual_stack(TANH, 30, 32, AVERAGED, "post", correlation=0.2)
    growth = post_norm_growth(TANH, 32, AVERAGED)
    assert stack.gradient_log[12] == pytest.approx(18 * math.log(growth))
    assert stack.log_norm_std == stack.log_norm_mean == (0.0,) * 31
    assert stack.correlation == wide_trunk(TANH, 30, AVERAGED, "post", 1.0, 0.2).correlation
    assert stack.signal_is_exact


@pytest.mark.parametrize("placement", ["none", "pre", "post"])
def test_wide_limit_is_reached(placement):
    scaling = branch_scaling("depth", 25)
    stack = residual_stack(TANH, 25, 10**7, scaling, placement)
    trunk = wide_trunk(TANH, 25, scaling, placement)
    wide = np.log(trunk.gradient_factors).sum()
    assert stack.gradient_log[0] == pytest.approx(wide, abs=1e-5)
    assert stack.log_norm_mean == pytest.approx(np.log(trunk.signal) / 2, abs=1e-5)
    assert max(stack.log_norm_std) < 1e-3


@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_drift_and_spread_of_a_linear_layer_by_exact_integrals(scale):
    """Y = q'/q is noncentral chi-squared: E Y^-e is an integral, hence E log Y and Var log Y."""

    def moments(n):
        a = 2 * scale**2 / n

        def transform(t):
            return (1 + a * t) ** (-n / 2) * math.exp(-t / (1 + a * t))

        # E log Y = int (e^-t - E e^(-tY)) / t
        def gap(y):
            t = math.exp(y)
            return math.exp(-t) - transform(t)

        mean = integrate.quad(gap, -40, 8, epsabs=1e-12, limit=200)[0]
        rest = integrate.quad(lambda y: 2 * y * gap(y), -40, 8, epsabs=1e-12, limit=200)[0]
        # int 2 log t (e^-t - E e^-tY) / t = -(E log^2 Y) - 2 gammaE E log Y
        second = -rest - 2 * np.euler_gamma * mean
        return mean / 2, math.sqrt(second - mean**2) / 2

    for n in (64, 256):
        stack = residual_stack(LINEAR, 1, n, BranchScaling("any", scale=scale))
        mean, std = moments(n)
        assert stack.log_norm_mean[1] == pytest.approx(mean, abs=2 / n**2)
        assert stack.log_norm_std[1] == pytest.approx(std, rel=2 / n)


@pytest.mark.parametrize("placement", ["none", "tracked", "pre"])
@pytest.mark.parametrize("branch", [RELU, TANH, ONE_RELU], ids=["relu", "tanh", "one"])
def test_log_norm_of_real_networks(branch, placement):
    n, depth, draws = 16, 20, 1500
    scaling = branch_scaling("depth", depth)
    trunk, _ = _network(branch, depth, n, scaling, placement, "layer", draws, 4)
    stack = residual_stack(branch, depth, n, scaling, placement)
    logs = np.log(trunk[-1]) / 2
    # One nonlinear matrix has no law of order 1/n for its mean.
    _agree(logs, stack.log_norm_mean[-1], 0.0 if branch.matrices == 2 else 0.05)
    spread = logs.std()
    assert spread == pytest.approx(stack.log_norm_std[-1], rel=4 / math.sqrt(2 * draws) + 1 / n)


@given(st.sampled_from([RELU, TANH, ONE_RELU]), st.sampled_from(["none", "pre"]))
@settings(max_examples=8, deadline=None)
def test_spread_falls_as_the_root_of_the_width(branch, placement):
    a, b = (residual_stack(branch, 10, n, PLAIN, placement, "rms") for n in (50, 200))
    assert a.log_norm_std == pytest.approx([2 * x for x in b.log_norm_std], rel=1e-9)


def test_a_bent_energy_moves_the_mean_by_its_curvature():
    """sin without skip: log E sin^2 over log q by finite differences, two layers by hand."""
    branch = Branch(activations.sin(), last_var=4.0, first_var=1.0)
    chain, n = BranchScaling("chain", skip=0.0), 100

    def log_map(u):
        return math.log(2.0 * -math.expm1(-2 * math.exp(u)))

    stack = residual_stack(branch, 2, n, chain, q=0.5)
    u1, h = log_map(math.log(0.5)), 1e-3
    slope = (log_map(u1 + h) - log_map(u1 - h)) / (2 * h)
    curve = (log_map(u1 + h) - 2 * log_map(u1) + log_map(u1 - h)) / h**2

    def noise(q):
        mean = -math.expm1(-2 * q) / 2
        fourth = (3 - 4 * math.exp(-2 * q) + math.exp(-8 * q)) / 8
        return (2 + fourth / mean**2 - 1) / n

    first = noise(0.5)
    variance = slope**2 * first + noise(math.exp(u1))
    mean = log_map(u1) - slope * first / 2 + (curve * first - noise(math.exp(u1))) / 2
    assert 2 * stack.log_norm_std[2] == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert 2 * stack.log_norm_mean[2] == pytest.approx(mean, abs=1e-8)


def test_a_long_weak_trunk_stays_in_range():
    stack = residual_stack(RELU, 900, 16, BranchScaling("weak", 0.5, 1e-3), "pre")
    assert math.isfinite(stack.gradient_log[0])
    assert np.all(np.isfinite(stack.log_norm_mean))


def test_no_branch_at_birth():
    stack = residual_stack(RELU, 10, 8, branch_scaling("fixup", 10), "pre")
    assert stack.gradient_log == pytest.approx((0.0,) * 11, abs=1e-12)
    assert stack.log_norm_std == (0.0,) * 11
    zero = residual_stack(Branch(activations.linear(0.0), 1), 3, 8, PLAIN)
    assert zero.signal == (1.0,) * 4


@pytest.mark.parametrize(
    ("placement", "norm", "pattern"),
    [("none", "rms", 3.0), ("pre", "rms", 3.0), ("pre", "layer", 3.0 - 8 / math.pi)],
)
def test_pattern_of_two_slopes(placement, norm, pattern):
    """One layer, one matrix: n times the variance of the mean of f^2 on the sphere.

    f^2 / E f^2 = z^2 + z|z|: the sphere fixes the first, centring takes (E |z|^3)^2 = 8/pi.
    """
    stack = residual_stack(ONE_RELU, 1, 50, BranchScaling("", 0.0), placement, norm)
    assert 4 * stack.log_norm_std[1] ** 2 == pytest.approx((2 + pattern) / 50, rel=2e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: residual_stack(RELU, 3, 3, PLAIN), "width must be an integer of at least 4"),
        (lambda: residual_stack(RELU, 3, 8, PLAIN, "pre", "batch"), "norm must be one of"),
        (lambda: post_norm_growth(RELU, 2, PLAIN), "width must be an integer of at least 4"),
        (lambda: post_norm_growth(RELU, 8, PLAIN, "group"), "norm must be one of"),
        (lambda: residual_stack(NARROW, 3, 10, PLAIN, "pre"), "expansion must leave a hidden"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
