"""The critical line and phase diagrams: closed forms, published values, and the exact solver."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, known_activations
from equipoise.theory.critical import critical_line, critical_weight_var
from equipoise.theory.hermite import statistics
from equipoise.theory.meanfield import chi_1, length_map, mean_field
from equipoise.theory.phase import PHASES, phase_diagram

CONTINUOUS = [a for a in known_activations() if not a.jumps]
ERF, TANH, RELU = activations.erf(), activations.tanh(), activations.relu()


def test_critical_line_of_erf_and_sine():
    q = np.array([[1e-3, 0.1, 1.0], [7.0, 100.0, 1e4]])
    w, b = critical_line(ERF, q)
    exact = math.pi / 4 * np.sqrt(1 + 4 * q)
    np.testing.assert_allclose(w, exact, rtol=1e-10)
    np.testing.assert_allclose(b, q - exact * 2 / math.pi * np.arcsin(2 * q / (1 + 2 * q)), 1e-9, 0)
    w, b = critical_line(activations.sin(), q[q < 1e3])
    np.testing.assert_allclose(w, np.exp(q[q < 1e3]) / np.cosh(q[q < 1e3]), rtol=1e-9)
    np.testing.assert_allclose(b, q[q < 1e3] - np.tanh(q[q < 1e3]), rtol=1e-5)


def test_homogeneous_functions_are_critical_only_without_bias():
    for a, w in ((RELU, 2.0), (activations.leaky_relu(0.3), 2 / 1.09)):
        assert critical_line(a, 3.7)[0] == pytest.approx(w, rel=1e-12)
        assert critical_line(a, 3.7)[1] == 0.0
        assert critical_weight_var(a) == (pytest.approx(w, rel=1e-12),)
        assert critical_weight_var(a, 0.01) == ()
    assert critical_weight_var(activations.identity()) == (1.0,)


def test_published_critical_points():
    """Half-stable points of GELU and SiLU, where the slope of the length map is 1 as well.

    Source: Roberts, Yaida, Hanin 2021, arXiv 2106.10165.
    """
    gelu = critical_line(activations.gelu(), (3 + math.sqrt(17)) / 2)
    assert gelu[0] == pytest.approx(1.98305826, abs=5e-9)
    assert gelu[1] == pytest.approx(0.17292239, abs=5e-9)
    silu = critical_line(activations.silu(), 14.32017362)
    assert silu[0] == pytest.approx(1.98800468, abs=5e-9)
    assert silu[1] == pytest.approx(0.55514317, abs=5e-8)


@pytest.mark.parametrize("activation", CONTINUOUS, ids=str)
def test_the_line_is_critical_or_does_not_exist(activation):
    """On it q is a fixed point with chi_1 = 1; off it the mean degree of f is below 1."""
    for q in (0.01, 1.0, 30.0):
        w, b = (float(v) for v in critical_line(activation, q))
        s = statistics(activation, q)
        if math.isnan(b):
            assert math.isnan(w)
            assert s.slope_energy == 0.0 or q * s.slope_energy < s.second_moment
        else:
            assert chi_1(activation, q, w) == pytest.approx(1.0, rel=1e-10)
            assert length_map(activation, q, w, b) == pytest.approx(q, rel=1e-10)


def test_where_no_slope_is_left_there_is_no_line():
    assert np.isnan(critical_line(activations.softshrink(), 1e-5)).all()


@pytest.mark.parametrize("b", [0.0, 1e-3, 0.2, 2.0])
def test_critical_weight_var_of_erf(b):
    if b == 0.0:
        assert critical_weight_var(ERF) == (pytest.approx(math.pi / 4, rel=1e-9),)
        return

    def bias(q):
        ratio = math.sqrt(1 + 4 * q) / 2 * math.asin(2 * q / (1 + 2 * q))
        return q - ratio - b

    q = optimize.brentq(bias, 1e-6, 1e3, xtol=1e-14)
    exact = math.pi / 4 * math.sqrt(1 + 4 * q)
    assert critical_weight_var(ERF, b) == (pytest.approx(exact, rel=1e-8),)


@pytest.mark.parametrize("b", [0.0, 0.1])
@pytest.mark.parametrize("activation", CONTINUOUS, ids=str)
def test_critical_weight_vars_are_all_found(activation, b):
    """As many as sign changes of the bias variance of the line on a grid four times finer."""
    found = critical_weight_var(activation, b)
    assert list(found) == sorted(found)
    q = np.exp(np.linspace(-8.0, 13.0, 150))
    if activation.name == "sin":
        q = q[q < 1e4]
    s = [statistics(activation, v) for v in q]
    slopes = np.array([v.slope_energy for v in s])
    with np.errstate(divide="ignore"):
        excess = 1 - np.array([v.second_moment for v in s]) / (slopes * q) - b / q
    sign = np.sign(excess[np.isfinite(excess) & (np.abs(excess) > 1e-10)])
    changes = int(np.sum(sign[1:] != sign[:-1]))
    at_zero = (activation.slope_left**2 + activation.slope_right**2) / 2
    if b == 0.0 and activation.value_at_zero == 0.0 and at_zero > 0:
        assert min(abs(w * at_zero - 1) for w in found) < 1e-12
        changes += 1
    assert len(found) == changes


def test_a_flat_stretch_away_from_zero_counts_once():
    """Linear with slope 2 up to 1e-4, slope 1 far beyond: weight_var 1/4 at 0."""
    bent = Activation(
        "bent",
        lambda z: z + np.clip(z, -1e-4, 1e-4),
        lambda z: 1.0 + (np.abs(z) < 1e-4),
        kinks=(-1e-4, 1e-4),
        slope_left=2.0,
        slope_right=2.0,
    )
    found = critical_weight_var(bent)
    assert found[0] == pytest.approx(0.25, rel=1e-12)
    assert all(0.25 <= w <= 1.0 + 1e-3 for w in found)
    # The same with no slope given at 0: only the stretch itself is seen.
    hidden = Activation("hidden", bent.f, bent.df, bent.kinks)
    assert critical_weight_var(hidden)[0] == pytest.approx(0.25, rel=1e-9)


@pytest.mark.parametrize("b", [1e-3, 1e-6, 1e-9])
def test_homogeneous_functions_have_no_critical_point_with_any_bias(b):
    assert critical_weight_var(RELU, b) == ()
    assert critical_weight_var(activations.leaky_relu(0.2), b) == ()


def test_one_slope_at_both_ends_counts_once():
    """2 z + small bump: weight_var 1/4 at 0, and at high levels again."""
    bumped = Activation(
        "bumped",
        lambda z: 2 * z + 5e-5 * z**3 * np.exp(-z * z),
        lambda z: 2 + 5e-5 * (3 * z**2 - 2 * z**4) * np.exp(-z * z),
        slope_left=2.0,
        slope_right=2.0,
    )
    found = critical_weight_var(bumped)
    assert sum(abs(w - 0.25) < 1e-9 for w in found) == 1


@pytest.mark.parametrize("b", [0.0, 0.3])
def test_critical_weight_var_of_the_exponential(b):
    """E f^2 = E f'^2 = exp(2 q): q = 1 + b and weight_var = exp(-2 q); at q = 1e5 no float."""
    growing = Activation("exp", np.exp, np.exp, slope_left=1.0, slope_right=1.0)
    exact = math.exp(-2 * (1 + b))
    assert critical_weight_var(growing, b) == (pytest.approx(exact, rel=1e-9),)
    w, bias = critical_line(growing, [1 + b, 1e5])
    assert w[0] == pytest.approx(exact, rel=1e-10)
    assert bias[0] == pytest.approx(b, abs=1e-10)
    assert np.isnan([w[1], bias[1]]).all()


def test_levels_without_a_number_have_no_critical_point():
    """tanh that is nan beyond 700, as (e^x - e^-x) / (e^x + e^-x) is in floats."""
    naive = Activation(
        "naive",
        lambda z: np.where(np.abs(z) < 700, np.tanh(z), math.nan),
        TANH.df,
        slope_left=1.0,
        slope_right=1.0,
    )
    assert critical_weight_var(naive, 0.1) == pytest.approx(critical_weight_var(TANH, 0.1))
    assert np.isnan(critical_line(naive, 1e5)).all()


@pytest.mark.parametrize("bound", [1e-3, 0.1, 30.0])
def test_thresholds_have_no_critical_point_at_any_scale(bound):
    """Softshrink is flat at 0 and a line far out: its mean degree stays above 1 between."""
    assert critical_weight_var(activations.softshrink(bound)) == ()


GRID_W, GRID_B = np.linspace(0.05, 6.0, 40), np.linspace(0.0, 1.0, 15)
MANY = [
    TANH, RELU, activations.gelu(), activations.sin(), activations.sigmoid(),
    activations.hardtanh(), activations.softshrink(), activations.squared_relu(),
]  # fmt: skip


@pytest.mark.parametrize("activation", MANY, ids=str)
def test_diagrams_agree_with_the_exact_solver(activation):
    diagram = phase_diagram(activation, GRID_W, GRID_B)
    assert diagram.interpolation_error < 1e-8
    rng = np.random.default_rng(0)
    for _ in range(8):
        i, j = int(rng.integers(len(GRID_W))), int(rng.integers(len(GRID_B)))
        exact = mean_field(activation, float(GRID_W[i]), float(GRID_B[j]))
        assert PHASES[diagram.phase[i, j]] == exact.phase
        q = diagram.q_star[i, j]
        if exact.phase == "exploding":
            assert q == math.inf
            assert np.isnan([diagram.chi_1[i, j], diagram.xi_q[i, j], diagram.xi_c[i, j]]).all()
            continue
        assert q == pytest.approx(exact.q_star, rel=1e-7)
        assert diagram.chi_1[i, j] == pytest.approx(exact.chi_1, rel=1e-7, abs=1e-11)
        assert diagram.xi_q[i, j] == pytest.approx(exact.xi_q, rel=1e-5)
        if exact.phase in ("ordered", "vanishing"):
            assert diagram.xi_c[i, j] == pytest.approx(exact.xi_c, rel=1e-5)


def test_diagram_of_erf_against_closed_forms():
    diagram = phase_diagram(ERF, GRID_W, GRID_B[1:])
    for i, w in enumerate(GRID_W):
        for j, b in enumerate(GRID_B[1:]):

            def gap(q, w=w, b=b):
                return w * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) + b - q

            q = optimize.brentq(gap, 1e-9, 20.0, xtol=1e-14)
            growth = w * 4 / math.pi / math.sqrt(1 + 4 * q)
            assert diagram.q_star[i, j] == pytest.approx(q, rel=1e-8)
            assert diagram.chi_1[i, j] == pytest.approx(growth, rel=1e-8)
            slope = growth / (1 + 2 * q)
            assert diagram.xi_q[i, j] == pytest.approx(-1 / math.log(slope), rel=1e-6)
            assert diagram.xi_c[i, j] == pytest.approx(1 / abs(math.log(growth)), rel=1e-6)


def test_critical_points_are_marked():
    w = critical_weight_var(TANH, 0.1)[0]
    diagram = phase_diagram(TANH, [w / 1.01, w, w * 1.01], [0.1])
    assert [PHASES[k] for k in diagram.phase[:, 0]] == ["ordered", "critical", "chaotic"]
    assert diagram.xi_c[1, 0] == math.inf
    flat = phase_diagram(RELU, [1.0, 2.0, 3.0], [0.0, 0.5])
    assert [PHASES[k] for k in flat.phase[:, 0]] == ["vanishing", "critical", "exploding"]
    assert [PHASES[k] for k in flat.phase[:, 1]] == ["ordered", "exploding", "exploding"]
    assert flat.q_star[:, 0].tolist() == [0.0, 1.0, math.inf]


def test_of_two_levels_the_one_below_1_or_none_is_reached():
    """Squared ReLU: up to b = 1/(6 w) the lower root, if the upper one is above 1."""
    diagram = phase_diagram(activations.squared_relu(), [0.5, 1.0], [0.0, 0.1])
    assert diagram.q_star[0, 0] == 0.0
    assert diagram.q_star[0, 1] == pytest.approx(float(np.roots([0.75, -1.0, 0.1]).min()), rel=1e-8)
    assert diagram.q_star[1, 0] == math.inf


def test_levels_far_below_1():
    diagram = phase_diagram(RELU, [1.0], [1e-20, 1e-10])
    np.testing.assert_allclose(diagram.q_star, [[2e-20, 2e-10]], rtol=1e-9)
    steep = phase_diagram(activations.tanhshrink(), [1.0], [0.0])
    assert (steep.q_star[0, 0], steep.xi_q[0, 0], steep.xi_c[0, 0]) == (0.0, 0.0, 0.0)


def test_levels_far_above_1():
    diagram = phase_diagram(RELU, [1.0], [1e12])
    assert diagram.q_star[0, 0] == pytest.approx(2e12, rel=1e-9)
    bounded = phase_diagram(ERF, [1e9], [0.0])
    assert bounded.q_star[0, 0] == pytest.approx(1e9, rel=1e-4)
    beyond = phase_diagram(ERF, [1e13], [0.1])
    assert beyond.q_star[0, 0] == pytest.approx(1e13, rel=1e-6)
    nearly = phase_diagram(RELU, [2 - 2e-9], [1.0])
    assert nearly.q_star[0, 0] == pytest.approx(1e9, rel=1e-4)


def test_signals_that_leave_the_range_of_floats_explode():
    """f = exp: q' = w exp(2 q), which has its smaller root at -W(-2 w) / 2."""
    growing = Activation("exp", np.exp, np.exp, slope_left=1.0, slope_right=1.0)
    diagram = phase_diagram(growing, [0.01, 1.0], [0.0])
    assert diagram.q_star[0, 0] == pytest.approx(-special.lambertw(-0.02).real / 2, rel=1e-8)
    assert diagram.q_star[1, 0] == math.inf


def test_moments_that_leave_the_range_of_floats_below_1():
    """f = z exp(z^2): E f^2 is infinite from q = 1/4 on."""
    steep = Activation(
        "steep",
        lambda z: z * np.exp(z * z),
        lambda z: (1 + 2 * z * z) * np.exp(z * z),
        slope_left=1.0,
        slope_right=1.0,
    )
    diagram = phase_diagram(steep, [0.1], [0.0, 0.05])
    assert [PHASES[k] for k in diagram.phase[0]] == ["exploding", "exploding"]
    assert np.isnan(diagram.chi_1).all()
    assert mean_field(steep, 0.1).phase == "exploding"


def test_axes_of_single_precision():
    single = np.array([0.5, 2.1], dtype=np.float32)
    found = phase_diagram(TANH, single, single / 10)
    assert found.q_star.dtype == np.float64
    exact = mean_field(TANH, single[1], (single / 10)[1])
    assert found.q_star[1, 1] == pytest.approx(exact.q_star, rel=1e-8)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(w=st.floats(0.2, 6.0), b=st.floats(0.0, 1.0), factor=st.floats(1.01, 2.0))
def test_levels_rise_with_both_variances(w, b, factor):
    diagram = phase_diagram(TANH, [w, w * factor], [b, b + 0.1])
    assert (np.diff(diagram.q_star, axis=0) >= 0).all()
    assert (np.diff(diagram.q_star, axis=1) > 0).all()


def test_scaling_the_input_moves_the_diagram():
    """f(z) = tanh(2 z) at (w, b) is tanh at (4 w, 4 b): q* is 4 times as large there."""
    scaled = phase_diagram(activations.tanh(2.0), [0.2, 0.7], [0.05, 0.3])
    plain = phase_diagram(TANH, [0.8, 2.8], [0.2, 1.2])
    np.testing.assert_allclose(4 * scaled.q_star, plain.q_star, rtol=1e-8)
    np.testing.assert_allclose(scaled.chi_1, plain.chi_1, rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: phase_diagram(RELU, [], [0.1]), "weight_vars must be a one-dimensional array"),
        (lambda: phase_diagram(RELU, [1.0], [[0.1]]), r"bias_vars must be .* got shape \(1, 1\)"),
        (lambda: phase_diagram(RELU, [0.0], [0.1]), "weight_var must be positive and finite"),
        (lambda: phase_diagram(RELU, [1.0], [-0.1]), "bias_var must be finite and at least 0"),
        (lambda: phase_diagram(activations.hardshrink(), [1.0], [0.1]), "which jumps"),
        (lambda: critical_line(RELU, [1.0, 0.0]), "q must be positive and finite"),
        (lambda: critical_line(activations.hardshrink(), 1.0), "which jumps"),
        (lambda: critical_weight_var(activations.hardshrink()), "which jumps"),
        (lambda: critical_weight_var(RELU, math.inf), "bias_var must be finite"),
    ],
)
def test_arguments_out_of_range_are_refused(call, text):
    with pytest.raises(ArgumentError, match=text):
        call()
