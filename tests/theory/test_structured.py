"""Balanced stacks against other solutions, a recursion column by column, and real networks."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import optimize

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activation import Activation
from equipoise.theory.structured import HiddenLayer, balance

SMOOTH = [
    activations.tanh(), activations.erf(), activations.arctan(), activations.softsign(),
    activations.inverse_sqrt(), activations.sin(), activations.sigmoid(), activations.hardtanh(),
]  # fmt: skip


@pytest.fixture
def moments(gaussian_mean):
    """E f0^2, E f' and E f'^2 without the library's quadrature."""

    def of(activation, q):
        f, df, zero, kinks = (
            activation.f, activation.df, activation.value_at_zero, activation.kinks
        )  # fmt: skip
        return (
            gaussian_mean(lambda z: (f(z) - zero) ** 2, q, kinks),
            gaussian_mean(df, q, kinks),
            gaussian_mean(lambda z: df(z) ** 2, q, kinks),
        )

    return of


@pytest.fixture
def degree(moments):
    def of(activation, q):
        energy, _, slope = moments(activation, q)
        return q * slope / energy

    return of


@pytest.fixture
def solve(moments, degree):
    """Smallest level where the mean Hermite degree has a value, and the gain there."""

    def of(activation, wanted):
        levels = np.geomspace(1e-8, 1e3, 60)
        first = next(i for i, q in enumerate(levels) if degree(activation, q) > wanted)
        log_q = optimize.brentq(
            lambda x: degree(activation, math.exp(x)) - wanted,
            math.log(levels[first - 1]), math.log(levels[first]), xtol=1e-13,
        )  # fmt: skip
        q = math.exp(log_q)
        return q, math.sqrt(q / moments(activation, q)[0])

    return of


@pytest.mark.parametrize("depth", [3, 100])
def test_a_nearly_linear_function_stays_at_level_1(depth):
    """x + 0.002 sin x: its tiny growth is largest far out, where no signal should be sent."""
    act = Activation(
        "wavy", lambda x: x + 0.002 * np.sin(x), lambda x: 1 + 0.002 * np.cos(x), parity="odd",
        slope_left=1.002, slope_right=1.002,
    )  # fmt: skip
    stack = balance([HiddenLayer(8, act)] * depth, 8, 8, 0.3)
    assert stack.q == pytest.approx([1.0] * depth, rel=1e-6)
    assert not stack.reached


def _stack(activation, depth, width=16, budget=0.15, fan_out=10):
    return balance([HiddenLayer(width, activation)] * depth, width, fan_out, budget)


@pytest.mark.parametrize(
    ("activation", "depth", "golden"),
    [
        (activations.tanh(), 50, 1.0511),
        (activations.tanh(), 200, 1.0246),
        (activations.softsign(), 50, 1.0931),
        (activations.softsign(), 200, 1.0451),
    ],
    ids=str,
)
def test_golden_gains(activation, depth, golden, solve):
    """The golden numbers spend B / L in each of L layers; here L - 1 weights spend exp(B / (L-1)).

    That both are roots of one function ties the code to the golden numbers.
    """
    budget = 0.15
    assert solve(activation, 1 + budget / depth)[1] == pytest.approx(golden, abs=5.1e-5)
    q, gain = solve(activation, math.exp(budget / (depth - 1)))
    stack = _stack(activation, depth)
    assert stack.gains[0] == pytest.approx(gain, rel=1e-8)
    assert stack.q[0] == pytest.approx(q, rel=1e-6)
    # One layer less, spent evenly, moves the root by a share 1/L of its distance to 1 at most.
    assert stack.gains[0] == pytest.approx(golden, abs=1.2 * (golden - 1) / depth + 5.1e-5)


@pytest.mark.parametrize("depth", [200, 2000])
def test_gain_of_cubic_functions(depth):
    """kappa G = (1 - sqrt(3 B / L))^(-1/2) to leading order, for f = kappa z - c z^3 + ..."""
    x = math.sqrt(3 * 0.15 / depth)
    for activation in (activations.tanh(), activations.sin(2.0), activations.erf()):
        gain = _stack(activation, depth).gains[0] * activation.slope
        assert abs(gain - (1 - x) ** -0.5) < 2 * x * x


@pytest.mark.parametrize("activation", [*SMOOTH, activations.elu(), activations.selu()], ids=str)
@pytest.mark.parametrize("depth", [30, 120])
def test_constant_width_is_one_fixed_point(activation, depth, moments, degree):
    budget = 0.3
    stack = _stack(activation, depth, budget=budget)
    assert stack.reached
    assert stack.gradient_log_growth == pytest.approx(budget, abs=1e-8)
    for q, gain in zip(stack.q, stack.gains, strict=True):
        energy, _, slope = moments(activation, q)
        assert q == pytest.approx(stack.column_energy, rel=1e-11)
        last = gain is stack.gains[-1]
        if not last:  # the last weight leaves for fewer columns, which all keep their energy too
            assert gain**2 * energy == pytest.approx(q, rel=1e-9)
            assert gain**2 * slope == pytest.approx(degree(activation, q), rel=1e-9)
    steps = -np.diff(stack.cotangent_log)[:-1]
    np.testing.assert_allclose(steps, budget / (depth - 1), rtol=1e-4)


@pytest.mark.parametrize("activation", SMOOTH[:6], ids=str)
def test_the_smallest_level_is_taken(activation, degree):
    stack = _stack(activation, 40, budget=0.3)
    wanted = math.exp(0.3 / 39)
    below = stack.q[0] * np.geomspace(1e-6, 0.999, 40)
    assert all(degree(activation, q) < wanted for q in below)


def test_sin_in_closed_form():
    """The degree of sin is q coth q, E f^2 = (1 - exp(-2q)) / 2."""
    depth, budget = 60, 0.4
    stack = _stack(activations.sin(), depth, budget=budget)
    wanted = math.exp(budget / (depth - 1))
    q = optimize.brentq(lambda x: x / math.tanh(x) - wanted, 1e-6, 10.0, xtol=1e-14)
    assert stack.q[0] == pytest.approx(q, rel=1e-6)
    assert stack.gains[0] == pytest.approx(math.sqrt(2 * q / -math.expm1(-2 * q)), rel=1e-7)


@dataclass
class _ByColumn:
    """A stack followed one column at a time, literally as the module's docstring says."""

    q: list
    gains: list
    exit_energy: float
    cotangent_log: list


def _follow(layers, fan_in, fan_out, column_energy, spectrum, moments):
    widths = [layer.width for layer in layers]
    sizes = [fan_in, *widths, fan_out]
    kept = [min(a, b) for a, b in itertools.pairwise(sizes)]
    most = max(sizes)
    energy = np.zeros(most)
    energy[: kept[0]] = spectrum[: kept[0]]
    surviving = min([kept[0], *widths])
    energy *= column_energy / energy[:surviving].mean()
    q, gains, exits = [], [], 0.0
    for layer, k in zip(layers, kept[1:], strict=True):
        inside = energy[: layer.width]
        q.append(inside.sum() / layer.width)
        total, slope, _ = moments(layer.activation, q[-1])
        out = slope**2 * inside + (total - slope**2 * q[-1])
        gains.append(math.sqrt(inside[:k].sum() / out[:k].sum()))
        exits = out[:k].sum()
        energy = np.zeros(most)
        energy[:k] = gains[-1] ** 2 * out[:k]
    cotangent = np.zeros(most)
    cotangent[: kept[-1]] = 1 / kept[-1]
    logs = []
    for i in reversed(range(len(layers))):
        n = layers[i].width
        _, slope, power = moments(layers[i].activation, q[i])
        spread = (power - slope**2) * cotangent.sum() / n
        after = np.zeros(most)
        after[:n] = slope**2 * cotangent[:n] + spread
        logs.append(math.log(after.sum()))
        if i:
            cotangent = np.zeros(most)
            cotangent[: kept[i]] = gains[i - 1] ** 2 * after[: kept[i]]
    return _ByColumn(q, gains, exits, logs[::-1])


SHAPES = {
    "constant": ([16] * 6, 16, 16),
    "alternating": ([16, 4] * 3, 16, 4),
    "decreasing": ([24, 17, 9, 5], 30, 3),
    "expanding": ([3, 9, 20], 2, 40),
    "hourglass": ([12, 5, 12, 2, 12], 7, 6),
    "wide exit": ([4, 4, 4], 9, 31),
    "width one": ([1, 1, 6], 3, 1),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("flat", [True, False], ids=["equal", "spectrum"])
def test_column_by_column(shape, flat, moments):
    widths, fan_in, fan_out = SHAPES[shape]
    kinds = [activations.tanh(), activations.softsign(), activations.elu()]
    layers = [HiddenLayer(n, kinds[i % 3]) for i, n in enumerate(widths)]
    spectrum = () if flat else tuple(4.0 * 0.8**i for i in range(fan_in))
    stack = balance(layers, fan_in, fan_out, 0.3, spectrum)
    expected = _follow(
        layers, fan_in, fan_out, stack.column_energy, spectrum or np.ones(fan_in), moments
    )
    np.testing.assert_allclose(stack.q, expected.q, rtol=1e-9)
    np.testing.assert_allclose(stack.gains, expected.gains, rtol=1e-9)
    np.testing.assert_allclose(stack.cotangent_log, expected.cotangent_log, atol=1e-8)
    assert stack.exit_energy == pytest.approx(expected.exit_energy, rel=1e-9)
    # Columns of the cotangent that end at a narrower layer, in a network of lines.
    holding = min([*widths[:-1], min(widths[-1], fan_out)])
    linear = math.log(holding / min(widths[-1], fan_out))
    assert stack.gradient_log_growth == pytest.approx(
        stack.cotangent_log[0] - stack.cotangent_log[-1] - linear, abs=1e-12
    )
    assert stack.reached
    assert stack.gradient_log_growth == pytest.approx(0.3, abs=1e-7)


def test_a_spectrum_of_equal_energies_is_no_spectrum():
    layers = [HiddenLayer(n, activations.tanh()) for n in (9, 5, 7)]
    plain = balance(layers, 12, 3, 0.3)
    scaled = balance(layers, 12, 3, 0.3, (7.0,) * 12)
    np.testing.assert_allclose(scaled.q, plain.q, rtol=1e-9)
    np.testing.assert_allclose(scaled.gains, plain.gains, rtol=1e-9)


# --- Levels that cannot spend the budget ---------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "peak"), [(activations.elu(), 1.054), (activations.selu(), 1.136)], ids=str
)
def test_shallow_elu_takes_its_peak(activation, peak, degree):
    found = optimize.minimize_scalar(
        lambda x: -degree(activation, math.exp(x)), bounds=(-8, 5), method="bounded"
    )
    assert -found.fun == pytest.approx(peak, abs=1e-3)
    for depth in (2, 3):
        stack = _stack(activation, depth, budget=0.5)
        assert not stack.reached
        assert stack.gradient_log_growth == pytest.approx((depth - 1) * math.log(-found.fun))
        assert stack.q[0] == pytest.approx(math.exp(found.x), rel=1e-2)
    assert _stack(activation, 40, budget=0.5).reached


@pytest.mark.parametrize("activation", [activations.elu(), activations.selu()], ids=str)
def test_a_budget_just_below_the_peak_is_reached(activation, degree):
    """Between the coarse levels of the search: only the refined peak can tell."""
    found = optimize.minimize_scalar(
        lambda x: -degree(activation, math.exp(x)), bounds=(-8, 5), method="bounded"
    )
    most = math.log(-found.fun)
    stack = _stack(activation, 2, budget=most * (1 - 1e-4))
    assert stack.reached
    assert stack.gradient_log_growth == pytest.approx(most * (1 - 1e-4), abs=1e-8)
    assert stack.q[0] < math.exp(found.x)
    assert not _stack(activation, 2, budget=most * (1 + 1e-4)).reached


@pytest.mark.parametrize(
    ("activation", "gain"),
    [
        (activations.identity(), 1.0),
        (activations.linear(-2.0), 0.5),
        (activations.linear(0.1), 10.0),
        (activations.relu(), math.sqrt(2.0)),
        (activations.leaky_relu(0.5), math.sqrt(2 / 1.25)),
    ],
    ids=str,
)
def test_homogeneous_functions_spend_nothing(activation, gain):
    """Their degree is 1 at any level: level 1 is taken."""
    stack = _stack(activation, 20, fan_out=16)
    assert not stack.reached
    assert stack.column_energy == 1.0
    np.testing.assert_allclose(stack.gains, gain, rtol=1e-10)
    np.testing.assert_allclose(stack.q, 1.0, rtol=1e-10)
    assert stack.gradient_log_growth == pytest.approx(0.0, abs=1e-9)
    assert stack.exit_energy == pytest.approx(16 / gain**2, rel=1e-10)


def test_lines_keep_any_sequence_of_widths():
    stack = balance([HiddenLayer(n, activations.identity()) for n in (16, 4, 9, 4)], 12, 7, 0.3)
    np.testing.assert_allclose(stack.gains, 1.0, rtol=1e-12)
    np.testing.assert_allclose(stack.q, [12 / 16, 1.0, 4 / 9, 1.0], rtol=1e-12)
    np.testing.assert_allclose(stack.exit_energy, 4.0, rtol=1e-12)


def test_a_stack_that_overspends_at_every_level():
    """ReLU on one column of five: energy spreads, the two columns kept need a large gain.

    Per column energy c the level is q = c / 5, so 1/4 c + 1/4 q is left in the first column and
    1/4 q in the second: gain^2 = 1 / 0.35. A cotangent loses half: it grows by 0.5 / 0.35, which
    is more than exp(0.3), and no level changes that.
    """
    layers = [HiddenLayer(5, activations.relu()), HiddenLayer(2, activations.relu())]
    stack = balance(layers, 1, 1, 0.3)
    assert not stack.reached
    assert stack.gains[0] ** 2 == pytest.approx(1 / 0.35, rel=1e-9)
    assert stack.gradient_log_growth == pytest.approx(math.log(0.5 / 0.35), rel=1e-9)
    assert 0 < stack.column_energy < math.inf


def test_one_hidden_layer_has_nothing_to_grow():
    stack = balance([HiddenLayer(8, activations.tanh())], 8, 8, 0.3)
    assert not stack.reached
    assert stack.gradient_log_growth == 0.0
    assert stack.column_energy == 1.0


def test_lines_among_others_leave_the_budget_to_them(solve):
    """Half of the layers are lines: the others spend all, in L - 1 weights of which half count."""
    layers = [HiddenLayer(16, activations.tanh()), HiddenLayer(16, activations.identity())] * 20
    stack = balance(layers, 16, 16, 0.3)
    q, gain = solve(activations.tanh(), math.exp(0.3 / 20))
    assert stack.q[0] == pytest.approx(q, rel=1e-6)
    np.testing.assert_allclose(stack.gains[0::2], gain, rtol=1e-7)
    np.testing.assert_allclose(stack.gains[1::2], 1.0, rtol=1e-9)


# --- Refusals ------------------------------------------------------------------------------------


def _refused(match, layers=None, fan_in=4, fan_out=4, budget=0.3, spectrum=()):
    layers = [HiddenLayer(4, activations.tanh())] * 3 if layers is None else layers
    with pytest.raises(ArgumentError, match=match):
        balance(layers, fan_in, fan_out, budget, spectrum)


@pytest.mark.parametrize("budget", [0.0, -0.1, math.nan, math.inf])
def test_budget_must_be_positive(budget):
    _refused("budget must be positive", budget=budget)


def test_layers_must_not_be_empty():
    _refused("at least one hidden layer", layers=[])


@pytest.mark.parametrize("width", [0, -3, 2.5])
def test_widths_must_be_positive_integers(width):
    _refused("width must be an integer", layers=[HiddenLayer(width, activations.tanh())])


def test_activations_must_not_jump():
    _refused("must be continuous", layers=[HiddenLayer(4, activations.hardshrink())])


@pytest.mark.parametrize("spectrum", [(1.0, 1.0), (0.0,) * 4, (math.inf, 1.0, 1.0, 1.0),
                                      (math.nan,) * 4, (2.0, 2.0, 2.0, -1.0)])  # fmt: skip
def test_spectrum_must_fill_the_columns(spectrum):
    _refused("spectrum must hold 4", spectrum=spectrum)


@pytest.mark.parametrize("name", ["fan_in", "fan_out"])
def test_fans_must_be_positive(name):
    _refused("must", **{name: 0})


@pytest.mark.parametrize("activation", [activations.tanh(), activations.sigmoid()])
@pytest.mark.parametrize("loudest", [0.3, 1.0])
def test_no_layer_is_louder_than_it_may_be(activation, loudest):
    layers = [HiddenLayer(n, activation, loudest=loudest) for n in (64, 2, 64)]
    stack = balance(layers, 16, 16, 5.0)
    # The budget would allow more: all layers are brought to the highest level.
    assert stack.q == pytest.approx([loudest] * 3, rel=1e-6)
    assert not stack.reached
    free = balance([HiddenLayer(n, activation) for n in (64, 2, 64)], 16, 16, 5.0)
    assert max(free.q) > 3 * loudest


def test_what_is_left_of_a_budget_raises_the_quiet_layers():
    layers = [HiddenLayer(n, activations.tanh(), loudest=1.0) for n in (64, 4, 64, 4, 64)]
    alone, some, most = (balance(layers, 16, 16, b) for b in (0.05, 0.377, 5.0))
    # 16 columns of the inputs, then the 4 that the second layer holds.
    assert alone.q == pytest.approx(
        [alone.q[1] * r for r in (0.25, 1, 0.0625, 1, 0.0625)], rel=0.05
    )
    assert some.reached
    assert some.gradient_log_growth == pytest.approx(0.377, abs=1e-5)
    assert max(some.q) == pytest.approx(1.0, rel=1e-6)
    assert alone.q[2] < some.q[2] < most.q[2]
    assert most.q == pytest.approx([1.0] * 5, rel=1e-6)


def test_levels_of_different_width_are_no_growth():
    """A line spends nothing, whatever the levels that its units are told to have."""
    line = activations.identity()
    layers = [HiddenLayer(n, line, loudest=0.1) for n in (64, 4, 64)]
    stack = balance(layers, 16, 16, 0.5)
    assert stack.q == pytest.approx([0.1] * 3, rel=1e-6)
    assert stack.gradient_log_growth == pytest.approx(0.0, abs=1e-9)


def test_columns_that_end_are_no_growth():
    """Of what returns through the last weight only 4 of 16 columns reach the first layer."""
    layers = [HiddenLayer(n, activations.tanh()) for n in (64, 4, 64)]
    stack = balance(layers, 16, 16, 0.3)
    cotangent = math.exp(stack.cotangent_log[0] - stack.cotangent_log[-1])
    assert cotangent == pytest.approx(0.25 * math.exp(0.3), rel=1e-6)


@pytest.mark.parametrize("level", [0.1, 3.0])
def test_a_quiet_first_layer_is_made_up_for_by_the_next_weight(level, moments):
    layers = [HiddenLayer(16, activations.tanh())] * 6
    plain, quiet = balance(layers, 16, 16, 0.3), balance(layers, 16, 16, 0.3, first_level=level)
    assert quiet.q[0] == pytest.approx(level * quiet.q[1], rel=1e-9)
    assert quiet.q[1:] == pytest.approx([quiet.q[1]] * 5, rel=1e-9)
    energy, _, _ = moments(activations.tanh(), quiet.q[0])
    assert quiet.gains[0] ** 2 * energy == pytest.approx(quiet.q[1], rel=1e-7)
    assert quiet.gradient_log_growth == pytest.approx(0.3, abs=1e-6)
    # A quieter layer spends less and leaves more to the others.
    assert (quiet.q[1] > plain.q[1]) == (level < 1)
    one = balance(layers[:1], 16, 16, 0.3, first_level=level)
    assert one == balance(layers[:1], 16, 16, 0.3)


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_dropout_is_made_up_for(kept, moments):
    layers = [HiddenLayer(32, activations.tanh(), kept=kept)] * 6
    stack = balance(layers, 32, 32, 0.5)
    energy, _, _ = moments(activations.tanh(), stack.q[2])
    assert stack.q == pytest.approx([stack.q[0]] * 6, rel=1e-9)
    assert stack.gains[2] ** 2 * energy / kept == pytest.approx(stack.q[2], rel=1e-8)
    # The degree at a level does not depend on it.
    plain = balance([HiddenLayer(32, activations.tanh())] * 6, 32, 32, 0.5)
    assert stack.q == pytest.approx(plain.q, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"loudest": 0.0}, "loudest must be positive, got 0.0"), ({"loudest": math.nan}, "loudest"),
     ({"kept": 0.0}, "kept must be above 0 and at most 1, got 0.0"), ({"kept": 1.5}, "got 1.5")],
)  # fmt: skip
def test_limits_of_a_layer_must_make_sense(changes, message):
    with pytest.raises(ArgumentError, match=message):
        balance([HiddenLayer(4, activations.tanh(), **changes)], 4, 4, 0.3)
