"""Framed stacks against numpy networks that are drawn, run forward and run backward."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.framed import DEFAULT_BUDGET, Entry, Space, framed_stack
from equipoise.schemes.laws import Mirrored, OffsetBias, Plain, Zero
from equipoise.theory import activations
from equipoise.theory.oddpart import mirrored_pair

PLAIN, MIRRORED = Plain(), Mirrored()


def _spaces(*parts):
    return [Space(f"h{i}", n, a, layout) for i, (n, a, layout) in enumerate(parts)]


def _names(spaces):
    return [f"w{i}" for i in range(len(spaces) + 1)]


def _stack(spaces, fan_in=48, fan_out=32, mean_square=1.0, **options):
    entry = Entry("in", fan_in, mean_square)
    return framed_stack(_names(spaces), entry, spaces, "out", fan_out, **options)


def _parameters(stack, spaces, fan_in, fan_out, seed, arrays=()):
    """Weights and biases of one draw."""
    sizes = [fan_in, *(space.width for space in spaces), fan_out]
    names = _names(spaces)
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    streams = Streams(
        seed,
        frames={frame.id: frame for frame in stack.frames},
        arrays=dict(arrays),
        weights=dict(zip(names, zip(stack.weights, shapes, strict=True), strict=True)),
    )
    weights = [draw(w, n, s, streams) for w, n, s in zip(stack.weights, names, shapes, strict=True)]
    biases = [
        draw(b, f"{n}.bias", s[:1], streams)
        for b, n, s in zip(stack.biases, names, shapes, strict=True)
    ]
    return weights, biases


def _forward(spaces, weights, biases, x):
    """Outputs of every weight, for columns x."""
    z = [weights[0] @ x + biases[0][:, None]]
    for space, w, b in zip(spaces, weights[1:], biases[1:], strict=True):
        z.append(w @ space.activation.f(z[-1]) + b[:, None])
    return z


def _backward(spaces, weights, z, cotangent):
    """Gradients at the outputs of every weight."""
    found = [cotangent]
    for space, w, before in zip(spaces[::-1], weights[:0:-1], z[-2::-1], strict=True):
        found.append((w.T @ found[-1]) * space.activation.df(before))
    return found[::-1]


def _sphere(rng, size, count, mean_square):
    """Inputs of one norm: the level of the stack is that of one input, not of a mixture."""
    x = rng.standard_normal((size, count))
    return x * math.sqrt(mean_square * size) / np.linalg.norm(x, axis=0)


TANH, SIGMOID, ELU = activations.tanh(), activations.sigmoid(), activations.elu()
MISH, GELU, RELU = activations.mish(), activations.gelu(), activations.relu()

STACKS = {
    "tanh": [(48, TANH, PLAIN)] * 10,
    "sigmoid": [(48, SIGMOID, PLAIN)] * 10,
    "elu": [(48, ELU, PLAIN)] * 10,
    "softsign": [(48, activations.softsign(), PLAIN)] * 10,
    "mish": [(96, MISH, MIRRORED)] * 10,
    "gelu": [(96, GELU, MIRRORED)] * 10,
    "relu, odd widths": [(97, RELU, MIRRORED)] * 5,
    "softplus": [(96, activations.softplus(), MIRRORED)] * 5,
    "mixed": [(96, GELU, MIRRORED), (48, TANH, PLAIN), (65, MISH, MIRRORED), (40, ELU, PLAIN)] * 2,
    "widths": [(64, TANH, PLAIN), (32, TANH, PLAIN), (48, SIGMOID, PLAIN), (128, RELU, MIRRORED)],
}


@pytest.mark.parametrize("name", STACKS)
def test_drawn_networks_meet_the_prediction(name):
    """RMS of signal and gradient of every layer over 50 draws.

    The theory is that of many columns: energies are off by up to 2 / k with k columns, so RMS
    values by 1 / k (the share of a cotangent along the signal, the fourth moment on a sphere).
    """
    spaces, fan_in, fan_out, rms = _spaces(*STACKS[name]), 48, 32, 0.4
    stack = _stack(spaces, fan_in, fan_out, 2.5, output_rms=rms)
    rng = np.random.default_rng(8)
    signal, gradient = [], []
    for seed in range(50):
        weights, biases = _parameters(stack, spaces, fan_in, fan_out, seed)
        z = _forward(spaces, weights, biases, _sphere(rng, fan_in, 20, 2.5))
        c = _backward(spaces, weights, z, rng.standard_normal((fan_out, 20)))
        signal.append([np.square(v).mean() for v in z])
        gradient.append([np.square(v).mean() for v in c])
    allowance = 1 / min([fan_out, *(space.size for space in spaces)])
    for found, expected in ((signal, stack.signal), (gradient, stack.gradient)):
        found = np.array(found)
        mean = found.mean(axis=0)
        error = found.std(axis=0, ddof=1) / math.sqrt(len(found)) / mean
        off = np.abs(np.log(np.sqrt(mean) / expected))
        assert off.shape == (len(spaces) + 1,)
        assert (off < 4 * error / 2 + allowance).all()
    assert stack.signal[-1] == rms
    assert stack.gradient[-1] == 1.0


@pytest.mark.parametrize("name", ["gelu", "relu, odd widths", "softplus"])
def test_mirrored_gates_carry_the_signal_exactly(name):
    """Not on average: every draw and every input, to rounding."""
    spaces = _spaces(*STACKS[name])
    fan_in = fan_out = 48
    stack = _stack(spaces, fan_in, fan_out, 2.5, output_rms=0.7)
    weights, biases = _parameters(stack, spaces, fan_in, fan_out, 0)
    z = _forward(spaces, weights, biases, _sphere(np.random.default_rng(0), fan_in, 9, 2.5))
    for v, rms in zip(z, stack.signal, strict=True):
        units = v[: 2 * (v.shape[0] // 2)]  # a leftover unit listens but is heard by none
        np.testing.assert_allclose(np.square(units).mean(axis=0), rms**2, rtol=1e-10)
    jacobian = _forward(spaces, weights, biases, np.eye(fan_in))[-1]
    values = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(values, 0.7 / math.sqrt(2.5), rtol=1e-10)


def test_centred_spaces_rest_at_zero():
    """Zero inputs stay zero preactivations through any plain spaces."""
    spaces = _spaces((9, SIGMOID, PLAIN), (12, activations.softplus(), PLAIN), (8, TANH, PLAIN))
    stack = _stack(spaces, 6, 5)
    weights, biases = _parameters(stack, spaces, 6, 5, 0)
    for z in _forward(spaces, weights, biases, np.zeros((6, 1))):
        np.testing.assert_allclose(z, 0.0, atol=1e-13)
    assert stack.biases == (Zero(), OffsetBias("w1", 0.5), OffsetBias("w2", math.log(2)), Zero())


def test_mirrored_spaces_need_no_bias():
    spaces = _spaces((8, SIGMOID, MIRRORED), (8, activations.softplus(), MIRRORED))
    assert _stack(spaces, 6, 5).biases == (Zero(),) * 3


# --- Entry ---------------------------------------------------------------------------------------


@pytest.fixture
def skewed():
    """Inputs in 20 dimensions with a mean and a spectrum that falls off, shape (20, n)."""
    rng = np.random.default_rng(4)
    axes = np.linalg.qr(rng.standard_normal((20, 20)))[0].T
    spectrum = 9.0 * 0.75 ** np.arange(20)
    mean = 3 * rng.standard_normal(20)
    x = mean[:, None] + axes.T @ (np.sqrt(spectrum)[:, None] * rng.standard_normal((20, 3000)))
    return axes, spectrum, mean, x


@pytest.mark.parametrize("layout", [PLAIN, MIRRORED], ids=["plain", "mirrored"])
def test_entry_with_axes_and_centre(skewed, layout):
    axes, spectrum, mean, x = skewed
    kept = 8
    width = kept if layout == PLAIN else 2 * kept
    spaces = _spaces(*[(width, TANH if layout == PLAIN else GELU, layout)] * 3)
    entry = Entry(
        "in", 20, float(spectrum[:kept].mean()), "axes", "mean", tuple(spectrum[:kept].tolist())
    )
    stack = framed_stack(_names(spaces), entry, spaces, "out", 8)
    arrays = {"axes": axes[:kept], "mean": mean}
    weights, biases = _parameters(stack, spaces, 20, 8, 0, arrays)
    assert stack.frames[0].basis == "axes"
    assert stack.biases[0] == OffsetBias("w0", 0.0, "mean")

    # The law: the mean maps to 0, axis j to a direction of its own, all with one scale.
    np.testing.assert_allclose(weights[0] @ mean + biases[0], 0.0, atol=1e-12)
    images = weights[0] @ axes[:kept].T
    norm = stack.weights[0].scale ** 2 * (1 if layout == PLAIN else 2)
    np.testing.assert_allclose(images.T @ images, norm * np.eye(kept), atol=1e-12)
    np.testing.assert_allclose(weights[0] @ axes[kept:].T, 0.0, atol=1e-12)
    level = stack.weights[0].scale ** 2 * spectrum[:kept].mean()
    assert stack.signal[0] ** 2 == pytest.approx(level, rel=1e-9)

    # The network: centred inputs arrive at that level.
    z = _forward(spaces, weights, biases, x)[0]
    values = np.square(z).mean(axis=0)
    assert abs(values.mean() - level) < 4 * values.std() / math.sqrt(values.size)


def test_axes_that_do_not_survive_are_not_counted(skewed):
    """The column energy is the mean over the columns that pass the narrowest space."""
    _, spectrum, _, _ = skewed
    spaces = _spaces((10, TANH, PLAIN), (4, TANH, PLAIN), (10, TANH, PLAIN))
    entry = Entry("in", 20, float(spectrum[:10].mean()), "axes", "", tuple(spectrum[:10].tolist()))
    stack = framed_stack(_names(spaces), entry, spaces, "out", 4)
    scale = stack.weights[0].scale
    assert scale**2 * spectrum[:4].mean() == pytest.approx(stack.balanced.column_energy, rel=1e-9)
    assert stack.signal[0] ** 2 == pytest.approx(scale**2 * spectrum[:10].mean(), rel=1e-9)


@pytest.mark.parametrize("mean_square", [1e-4, 1.0, 37.0])
def test_only_the_first_weight_knows_the_inputs(mean_square):
    spaces = _spaces(*[(16, TANH, PLAIN)] * 4)
    reference, stack = _stack(spaces, 16, 16), _stack(spaces, 16, 16, mean_square)
    assert stack.weights[1:] == reference.weights[1:]
    assert stack.signal == reference.signal
    ratio = reference.weights[0].scale / stack.weights[0].scale
    assert ratio == pytest.approx(math.sqrt(mean_square), rel=1e-12)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(12, 5), (5, 12), (7, 7)])
def test_a_stack_without_hidden_spaces(fan_in, fan_out):
    """One weight: the output RMS over draws of inputs is the one wanted."""
    stack = _stack([], fan_in, fan_out, 4.0, output_rms=0.3)
    assert stack.balanced is None
    assert (stack.signal, stack.gradient, stack.log_std) == ((0.3,), (1.0,), 0.0)
    assert stack.biases == (Zero(),)
    found = []
    for seed in range(200):
        weights, _ = _parameters(stack, [], fan_in, fan_out, seed)
        x = 2 * np.random.default_rng(seed).standard_normal((fan_in, 10))
        found.append(np.square(weights[0] @ x).mean())
    assert abs(np.mean(found) - 0.09) < 4 * np.std(found) / math.sqrt(len(found))
    values = np.linalg.svd(weights[0], compute_uv=False)
    np.testing.assert_allclose(values, values[0], rtol=1e-12)


# --- Frames, layouts and spread ------------------------------------------------------------------


def test_frames_hold_the_columns_that_are_used():
    spaces = _spaces((30, TANH, PLAIN), (9, GELU, MIRRORED), (12, TANH, PLAIN))
    stack = _stack(spaces, 500, 3)
    found = [(f.id, f.size, f.columns, f.basis) for f in stack.frames]
    assert found == [
        ("in", 500, 30, ""),
        ("h0", 30, 30, ""),
        ("h1", 4, 4, ""),
        ("h2", 12, 4, ""),
        ("out", 3, 3, ""),
    ]
    assert [w.rank for w in stack.weights] == [30, 4, 4, 3]
    assert [(w.in_layout, w.out_layout) for w in stack.weights] == [
        (PLAIN, PLAIN), (PLAIN, MIRRORED), (MIRRORED, PLAIN), (PLAIN, PLAIN),
    ]  # fmt: skip


def test_size_and_function_of_a_space():
    assert Space("h", 9, GELU, MIRRORED).size == 4
    assert Space("h", 9, GELU, PLAIN).size == 9
    assert Space("h", 9, GELU, PLAIN).function is GELU
    assert Space("h", 9, GELU, MIRRORED).function is activations.identity()
    leaky = Space("h", 9, activations.leaky_relu(0.5), MIRRORED).function
    assert leaky is activations.linear(1.5)
    assert Space("h", 9, MISH, MIRRORED).function is mirrored_pair(MISH)


def test_mirrored_lines_scale_by_their_slope():
    """theory: hidden W = (1 / kappa) [[O, -O], [-O, O]], kappa = f'(0+) + f'(0-)."""
    spaces = _spaces(*[(16, activations.leaky_relu(0.5), MIRRORED)] * 3)
    stack = _stack(spaces, 8, 8)
    assert [w.scale for w in stack.weights[1:-1]] == pytest.approx([1 / 1.5] * 2, rel=1e-12)
    assert stack.balanced.gradient_log_growth == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("budget", [0.15, DEFAULT_BUDGET, 1.0])
def test_gradient_grows_by_the_budget(budget):
    spaces = _spaces(*[(24, TANH, PLAIN)] * 30)
    stack = _stack(spaces, 24, 24, budget=budget)
    assert 2 * math.log(stack.gradient[0] / stack.gradient[-2]) == pytest.approx(budget, abs=1e-7)


def test_spread_of_draws():
    """Standard deviation of log |J v| over draws, near a cubic fixed point: sqrt(20 B / n) / 2.

    The formula is the limit of deep stacks, sqrt(3 B L) >> 1, to first order in 1 / n: here a fifth
    too much, which is allowed beside the sampling error.
    """
    depth, n, budget, draws = 40, 24, 0.15, 150
    spaces = _spaces(*[(n, TANH, PLAIN)] * depth)
    stack = _stack(spaces, n, n, budget=budget)
    assert stack.log_std == pytest.approx(math.sqrt(20 * budget / n) / 2, rel=1e-6)
    rng = np.random.default_rng(0)
    logs = []
    for seed in range(draws):
        weights, biases = _parameters(stack, spaces, n, n, seed)
        z = _forward(spaces, weights, biases, _sphere(rng, n, 1, 1.0))
        v = _sphere(rng, n, 1, 1.0)
        for space, w, before in zip(spaces, weights[1:], z, strict=False):
            v = w @ (v * space.activation.df(before))
        logs.append(math.log(np.linalg.norm(v)))
    found = np.std(logs, ddof=1)
    assert abs(found / stack.log_std - 1) < 4 / math.sqrt(2 * draws) + 0.2


WIDTH = st.integers(2, 12)
PART = st.tuples(
    WIDTH, st.sampled_from([TANH, ELU, RELU, GELU, MISH]), st.sampled_from([PLAIN, MIRRORED])
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    parts=st.lists(PART, min_size=1, max_size=6),
    ends=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_any_stack_can_be_drawn(parts, ends):
    spaces = _spaces(*parts)
    stack = _stack(spaces, *ends)
    weights, biases = _parameters(stack, spaces, *ends, seed=0)
    z = _forward(spaces, weights, biases, np.ones((ends[0], 1)))
    assert all(np.isfinite(v).all() for v in z)
    assert all(0 < s < math.inf for s in (*stack.signal, *stack.gradient))
    assert len(stack.weights) == len(stack.biases) == len(spaces) + 1
    assert len(stack.frames) == len(spaces) + 2
    for law, w in zip(stack.weights, weights, strict=True):
        assert np.linalg.matrix_rank(w) >= law.rank


# --- Refusals ------------------------------------------------------------------------------------


def test_there_is_one_weight_more_than_spaces():
    spaces = _spaces((4, TANH, PLAIN))
    with pytest.raises(ArgumentError, match="weight_names must hold 2 names, got 1"):
        framed_stack(["w0"], Entry("in", 4, 1.0), spaces, "out", 4)


def test_a_mirrored_space_needs_a_pair():
    with pytest.raises(ArgumentError, match="number of units or pairs of 'h0' must be an integer"):
        _stack(_spaces((1, GELU, MIRRORED)), 4, 4)


@pytest.mark.parametrize("mean_square", [0.0, -1.0, math.nan])
def test_inputs_must_have_energy(mean_square):
    with pytest.raises(ArgumentError, match="mean_square must be positive"):
        _stack(_spaces((4, TANH, PLAIN)), 4, 4, mean_square)


def test_budget_must_be_positive():
    with pytest.raises(ArgumentError, match="budget must be positive"):
        _stack(_spaces((4, TANH, PLAIN)), 4, 4, budget=0.0)


@pytest.mark.parametrize("output_rms", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("parts", [[], [(4, TANH, PLAIN)]], ids=["one weight", "two weights"])
def test_output_must_have_energy(output_rms, parts):
    with pytest.raises(ArgumentError, match="output_rms must be"):
        _stack(_spaces(*parts), 4, 4, output_rms=output_rms)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("decay", [0.0, 0.5, 3.0])
def test_spread_of_the_energy_that_a_random_frame_catches(rank, decay):
    """Monte Carlo over Haar subspaces; chi-squared is good to a fifth."""
    eigenvalues = np.exp(-decay * np.arange(10))
    participation = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    entry = Entry("in", 10, 1.0, participation=float(participation))
    rng = np.random.default_rng(0)
    frames = np.linalg.qr(rng.standard_normal((20000, 10, rank)))[0]
    energy = np.einsum("dnk,n,dnk->d", frames, eigenvalues, frames)
    measured, expected = np.log(energy).var(), entry.log_variance(rank)
    assert abs(measured - expected) <= 0.2 * expected + 1e-12 or decay == 3.0
    # One direction only: the share of a unit vector in a subspace, Beta-distributed.
    if decay == 3.0:
        assert 0.4 < expected / measured < 2.5
