"""Fixed points against iteration, closed forms and mpmath; membership and expansion at zero."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, known_activations
from equipoise.theory.fixedpoint import fixed_points, near_zero_fixed_point
from equipoise.theory.oddsigmoid import expansion_at_zero, odd_sigmoid
from equipoise.theory.probe import probe

SIGMOIDS = [
    activations.tanh(), activations.erf(), activations.arctan(), activations.inverse_sqrt(),
    activations.tanh(3.0), activations.softsign(),
]  # fmt: skip


def _iterate(activation, gain, x, steps=4000):
    for _ in range(steps):
        x = activation.f(gain * x)
    return x


@pytest.mark.parametrize("activation", SIGMOIDS, ids=str)
@pytest.mark.parametrize("excess", [1.05, 1.5, 4.0])
def test_above_the_edge_zero_repels_and_a_pair_attracts(activation, excess):
    gain = excess / activation.slope
    low, zero, high = fixed_points(activation, gain).points
    assert zero.x == 0.0
    assert zero.kind == "repelling"
    assert zero.slope == pytest.approx(excess, rel=1e-12)
    assert not zero.attracts_below
    assert not zero.attracts_above
    assert low.kind == high.kind == "attracting"
    assert low.x == pytest.approx(-high.x, rel=1e-12)
    limit = _iterate(activation, gain, np.array([1e-3, 0.9]))
    np.testing.assert_allclose(limit, high.x, rtol=1e-10)
    h = 1e-6 * high.x
    ends = activation.f(gain * (high.x + np.array([-h, h])))
    assert high.slope == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=1e-5)


def test_closed_forms():
    # softsign: x (1 + a x) = a x; inverse_sqrt: a^2 x^2 = a^2 - 1; erf and tanh by mpmath.
    for a in (1.1, 2.0, 7.0):
        assert fixed_points(activations.softsign(), a).points[-1].x == pytest.approx(
            1 - 1 / a, rel=1e-12
        )
        assert fixed_points(activations.inverse_sqrt(), a).points[-1].x == pytest.approx(
            math.sqrt(1 - 1 / a**2), rel=1e-12
        )
        for activation, f in ((activations.tanh(), mpmath.tanh), (activations.erf(), mpmath.erf)):
            root = mpmath.findroot(lambda x, f=f, a=a: f(a * x) - x, 0.6 if a < 2 else 1)
            assert fixed_points(activation, a).points[-1].x == pytest.approx(float(root), rel=1e-12)


@pytest.mark.parametrize("activation", SIGMOIDS, ids=str)
@settings(deadline=None, max_examples=15)
@given(share=st.floats(0.05, 0.999))
def test_below_the_edge_only_zero(activation, share):
    found = fixed_points(activation, share / activation.slope)
    (point,) = found.points
    assert (point.x, point.kind) == (0.0, "attracting")
    assert found.cycles == ()
    assert found.attracting == (0.0,)


@pytest.mark.parametrize("activation", SIGMOIDS, ids=str)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_at_the_edge_zero_attracts_algebraically(activation, sign):
    found = fixed_points(activation, sign / activation.slope)
    (point,) = found.points
    assert point.kind == "neutral"
    assert point.attracts_below
    assert point.attracts_above
    assert found.cycles == ()


def test_algebraic_rate_at_the_edge():
    """x_l ~ sqrt(3 / 2l) for tanh at gain 1."""
    x = _iterate(activations.tanh(), 1.0, np.array([1.0]), 20000)[0]
    assert x == pytest.approx(math.sqrt(3 / 40000), rel=1e-3)


@pytest.mark.parametrize("activation", SIGMOIDS, ids=str)
def test_negative_gain_gives_an_attracting_cycle(activation):
    gain = 1.7 / activation.slope
    found = fixed_points(activation, -gain)
    xi = fixed_points(activation, gain).points[-1]
    (cycle,) = found.cycles
    assert cycle.high == pytest.approx(xi.x, rel=1e-12)
    assert cycle.low == pytest.approx(-xi.x, rel=1e-12)
    assert cycle.multiplier == pytest.approx(xi.slope**2, rel=1e-9)
    assert cycle.kind == "attracting"
    assert [p.kind for p in found.points] == ["repelling"]
    one = _iterate(activation, -gain, np.array([0.3]), 2001)
    assert abs(one[0]) == pytest.approx(xi.x, rel=1e-9)


def test_no_fixed_point_where_a_circulating_claim_puts_one():
    """+-sqrt(1 - a^2) is no fixed point of tanh(a x) for |a| < 1."""
    for a in (-0.9, -0.3, 0.3, 0.6, 0.9):
        x = math.sqrt(1 - a * a)
        assert abs(math.tanh(a * x) - x) > 0.05
        assert [p.x for p in fixed_points(activations.tanh(), a).points] == [0.0]


def test_sin_doubles_its_period():
    found = fixed_points(activations.sin(2.5), 1.0)
    assert {p.kind for p in found.points} == {"repelling"}
    assert [c.kind for c in found.cycles] == ["attracting", "attracting"]
    for c in found.cycles:
        assert math.sin(2.5 * c.low) == pytest.approx(c.high, rel=1e-12)
        assert math.sin(2.5 * c.high) == pytest.approx(c.low, rel=1e-12)


def test_a_young_cycle_of_the_logistic_map():
    """x = (r + 1 +- sqrt((r - 3)(r + 1))) / 2r, multiplier 4 + 2r - r^2: near its fixed point."""
    r = 3.001
    logistic = Activation("logistic", lambda x: r * x * (1 - x), lambda x: r * (1 - 2 * x),
                          slope_left=r, slope_right=r)  # fmt: skip
    (cycle,) = fixed_points(logistic, reach=1.5).cycles
    gap = math.sqrt((r - 3) * (r + 1))
    assert (cycle.low, cycle.high) == pytest.approx(
        ((r + 1 - gap) / (2 * r), (r + 1 + gap) / (2 * r)), rel=1e-11
    )
    assert cycle.multiplier == pytest.approx(4 + 2 * r - r * r, rel=1e-9)


def test_kinks_have_two_slopes():
    up, down = activations.relu(), activations.leaky_relu(0.5)
    (point,) = fixed_points(up, 2.0).points
    assert (point.kind, point.attracts_below, point.attracts_above) == ("repelling", True, False)
    assert point.slope == 2.0
    assert fixed_points(up, 0.5).points[0].kind == "attracting"
    # Below 0 a point is sent above, and from there to 0.
    assert fixed_points(up, -2.0).points[0].kind == "attracting"
    # Both slopes are met in turn: 1.5 * 0.75 > 1, 1.3 * 0.65 < 1.
    assert fixed_points(down, -1.5).points[0].kind == "repelling"
    assert fixed_points(down, -1.3).points[0].kind == "attracting"
    # f(-x) of a falling f: 2 below 0, where f sees the right side, and 1/2 above.
    falling = Activation("falling", lambda x: np.where(x > 0, -2.0, -0.5) * x,
                         lambda x: np.where(x > 0, -2.0, -0.5), kinks=(0.0,), slope_left=-0.5,
                         slope_right=-2.0)  # fmt: skip
    (point,) = fixed_points(falling, -1.0).points
    assert (point.attracts_below, point.attracts_above) == (False, True)
    three = [p.x for p in fixed_points(activations.hardtanh(), 2.0).points]
    assert three == pytest.approx([-1.0, 0.0, 1.0], rel=1e-14)
    ends = [p.x for p in fixed_points(activations.hardtanh(), 2.0, reach=1.0).points]
    assert ends == [-1.0, 0.0, 1.0]
    corner = Activation(
        "corner", lambda x: 1 + np.where(x > 1, 0.5, 2.0) * (x - 1),
        lambda x: np.where(x > 1, 0.5, 2.0), kinks=(1.0,),
    )  # fmt: skip
    (point,) = fixed_points(corner, reach=3.0).points
    assert point.x == pytest.approx(1.0, abs=1e-12)
    assert (point.attracts_below, point.attracts_above) == (False, True)


def test_touching_points_attract_from_one_side():
    """x^2 + 1/4 touches the diagonal at 1/2: from below it is reached, from above left."""
    touching = Activation("touching", lambda x: x * x + 0.25, lambda x: 2 * x)
    (point,) = [p for p in fixed_points(touching, reach=2.0).points if p.x > 0]
    assert point.x == pytest.approx(0.5, abs=1e-6)
    assert (point.kind, point.attracts_below, point.attracts_above) == ("neutral", True, False)


def test_a_crossing_at_a_kink_is_no_touching_point():
    """Slopes 1/2 and 1/5 meet at 1, which lies on the grid: both sides are drawn to it."""
    bent = Activation(
        "bent", lambda x: 1 + np.where(x > 1, 0.2, 0.5) * (x - 1),
        lambda x: np.where(x > 1, 0.2, 0.5), kinks=(1.0,),
    )  # fmt: skip
    (point,) = fixed_points(bent, reach=2.5).points
    assert point.x == pytest.approx(1.0, abs=1e-15)
    assert (point.kind, point.slope) == ("attracting", 0.5)


def test_a_cycle_that_touches_is_neutral():
    """f = -g, g(x) = x + 2 x (x^2 - 1/4)^2, swaps +-1/2, where g touches the diagonal."""
    swap = Activation(
        "swap", lambda x: -x - 2 * x * (x * x - 0.25) ** 2,
        lambda x: -1 - 2 * (x * x - 0.25) ** 2 - 8 * x * x * (x * x - 0.25), parity="odd",
        slope_left=-1.125, slope_right=-1.125,
    )  # fmt: skip
    (cycle,) = fixed_points(swap, reach=1.0).cycles
    assert (cycle.low, cycle.high) == pytest.approx((-0.5, 0.5), abs=1e-6)
    assert cycle.multiplier == pytest.approx(1.0, abs=1e-6)
    assert cycle.kind == "neutral"


@pytest.mark.parametrize("reach", [1e-2, 10.0, 1e4, 1e5, 1e308])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_attraction_is_judged_near_the_point(reach, sign):
    """sin at slope +-1 attracts to 0, however its far oscillations look; sinh repels."""
    zero = next(p for p in fixed_points(activations.sin(), sign, reach).points if p.x == 0.0)
    assert (zero.kind, zero.attracts_below, zero.attracts_above) == ("neutral", True, True)
    sinh = Activation("sinh", np.sinh, np.cosh, slope_left=1.0, slope_right=1.0, parity="odd")
    (zero,) = fixed_points(sinh, sign, reach).points
    assert (zero.kind, zero.attracts_below, zero.attracts_above) == ("neutral", False, False)


def test_gains_at_the_end_of_the_floats():
    for gain in (1e-308, 1e308):
        found = fixed_points(activations.tanh(), gain).attracting
        assert found == ((0.0,) if gain < 1 else (-1.0, 1.0))


def test_gelu_at_the_edge_attracts_from_below_only():
    point = fixed_points(activations.gelu(), 2.0, reach=1.0).points[-1]
    assert (point.x, point.kind) == (0.0, "neutral")
    assert (point.attracts_below, point.attracts_above) == (True, False)


@pytest.mark.parametrize(
    ("activation", "gain", "reach", "word"),
    [
        (activations.tanh(), 0.0, 1.0, "gain"),
        (activations.tanh(), math.nan, 1.0, "gain"),
        (activations.tanh(), 1.0, -1.0, "reach"),
        (activations.hardshrink(), 1.0, 1.0, "activation"),
        (activations.identity(), 1.0, 1.0, "gain"),
        (activations.identity(), -1.0, 1.0, "gain"),
        (activations.relu(), 1.0, 1.0, "gain"),
    ],
)
def test_refusals(activation, gain, reach, word):
    with pytest.raises(ArgumentError, match=f"^{word} must"):
        fixed_points(activation, gain, reach)


@pytest.mark.parametrize("activation", SIGMOIDS, ids=str)
def test_asymptote_near_zero(activation):
    """Halving the excess halves the relative error: the next order is linear in it."""
    errors = []
    for excess in (2e-3, 1e-3):
        gain = (1 + excess) / activation.slope
        exact = fixed_points(activation, gain).points[-1].x
        errors.append(near_zero_fixed_point(activation, gain) / exact - 1)
    assert abs(errors[0]) < 1.05 * 2e-3
    assert errors[1] / errors[0] == pytest.approx(0.5, rel=0.01)


def test_asymptote_of_functions_that_fall():
    """f = -tanh at gain -a is tanh at a; -sinh bends away from the axis and has no such point."""
    falling = Activation("falling", lambda x: -np.tanh(x), lambda x: np.tanh(x) ** 2 - 1,
                         slope_left=-1.0, slope_right=-1.0, parity="odd")  # fmt: skip
    there = near_zero_fixed_point(falling, -1.1)
    assert there == pytest.approx(near_zero_fixed_point(activations.tanh(), 1.1), rel=1e-9)
    away = Activation("away", lambda x: -np.sinh(x), lambda x: -np.cosh(x), slope_left=-1.0,
                      slope_right=-1.0, parity="odd")  # fmt: skip
    assert [p.x for p in fixed_points(away, -1.1, 5.0).points] == [0.0]
    with pytest.raises(ArgumentError, match="activation must bend"):
        near_zero_fixed_point(away, -1.1)


def test_asymptote_refusals():
    with pytest.raises(ArgumentError, match=r"gain must exceed 1 / f'\(0\) = 1"):
        near_zero_fixed_point(activations.tanh(), 1.0)
    with pytest.raises(ArgumentError, match="= inf"):
        near_zero_fixed_point(activations.tanhshrink(), 3.0)
    with pytest.raises(ArgumentError, match="activation must bend"):
        near_zero_fixed_point(activations.identity(), 2.0)
    with pytest.raises(ArgumentError, match="activation must bend"):
        near_zero_fixed_point(Activation("sinh", np.sinh, np.cosh, slope_left=1.0,
                                         slope_right=1.0, parity="odd"), 2.0)  # fmt: skip


MEMBERS = {"tanh", "arctan", "erf", "inverse_sqrt"}
FIRST_FAILING = {
    "identity": "bounded", "softsign": "smooth", "hardtanh": "smooth", "sin": "increasing",
    "tanhshrink": "bounded", "softshrink": "smooth", "hardshrink": "smooth",
}  # fmt: skip


@pytest.mark.parametrize("activation", known_activations(), ids=str)
def test_membership_of_every_known_activation(activation):
    found = odd_sigmoid(activation)
    assert found.is_member == (activation.name in MEMBERS)
    assert found.is_wide_member == (activation.name in MEMBERS | {"softsign"})
    assert str(activation) in found.reason
    if not found.is_member:
        assert found.failing[0] == FIRST_FAILING.get(activation.name, "odd")
    assert odd_sigmoid(activation) is found


def test_reasons_name_the_property():
    assert odd_sigmoid(activations.sin()).failing == ("increasing", "concave")
    assert odd_sigmoid(activations.tanhshrink()).failing == ("bounded", "concave")
    assert "slope breaks at -1, 1" in odd_sigmoid(activations.hardtanh()).reason
    assert "only once differentiable" in odd_sigmoid(activations.softsign()).reason
    assert "f(1) = 0.731 and f(-1) = 0.269" in odd_sigmoid(activations.sigmoid()).reason
    for f, df, failing in (
        (np.arcsinh, lambda x: 1 / np.sqrt(1 + x * x), ("bounded",)),
        (np.cbrt, lambda x: np.ones_like(x), ("bounded",)),
        (lambda x: np.tanh(x**3), lambda x: 3 * x**2 / np.cosh(np.minimum(abs(x), 6) ** 3) ** 2,
         ("concave",)),
        (np.zeros_like, np.zeros_like, ("increasing",)),
    ):  # fmt: skip
        assert odd_sigmoid(Activation("made", f, df)).failing == failing


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_scaled_copies_stay_members(scale):
    assert odd_sigmoid(activations.tanh(scale)).is_member
    assert odd_sigmoid(probe(lambda x: scale * np.arctan(0.7 * x))).is_member


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 7.0, 1e6])
@pytest.mark.parametrize(
    ("f", "exact"),
    [
        (np.tanh, mpmath.tanh),
        (activations.erf().f, mpmath.erf),
        (np.arctan, mpmath.atan),
        (activations.inverse_sqrt().f, lambda x: x / mpmath.sqrt(1 + x * x)),
        (np.sin, mpmath.sin),
        (activations.tanhshrink().f, lambda x: x - mpmath.tanh(x)),
    ],
    ids=["tanh", "erf", "arctan", "inverse_sqrt", "sin", "tanhshrink"],
)
def test_expansion_against_mpmath(f, exact, scale):
    _, kappa, _, minus_c = (float(v) for v in mpmath.taylor(exact, 0, 3))
    found = expansion_at_zero(Activation("made", lambda x: f(scale * x), np.ones_like))
    assert found.quadratic == 0.0
    assert found.slope == pytest.approx(kappa * scale, rel=1e-13, abs=1e-13 * scale)
    assert found.cubic == pytest.approx(-minus_c * scale**3, rel=1e-10)
    assert abs(found.cubic + minus_c * scale**3) <= found.error
    assert found.order == 3
    assert found.coefficient == found.cubic


def test_expansion_of_softsign_lines_and_even_parts():
    found = expansion_at_zero(activations.softsign())
    assert (found.slope, found.order) == (1.0, 2)
    assert found.coefficient == found.quadratic == pytest.approx(1.0, abs=1e-11)
    assert found.cubic == pytest.approx(-1.0, abs=1e-9)
    line = expansion_at_zero(activations.identity())
    assert (line.slope, line.order, line.coefficient) == (1.0, 0, 0.0)
    assert expansion_at_zero(activations.sigmoid()).cubic == pytest.approx(1 / 48, rel=1e-10)
    assert expansion_at_zero(activations.mish()).slope == 0.6
