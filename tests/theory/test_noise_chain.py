"""The exact sampler against networks whose weights are drawn in full."""

import itertools
import math

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.theory import activations, noiselaw
from equipoise.theory.noise_chain import noise_chain
from equipoise.theory.noise_density import noise_density

TANH = activations.tanh()


def _networks(activation, widths, alpha, omega, correlation, replicates, rng, draw=None):
    """Literal transcription: D, Z, the forward pass of two inputs and the whole Jacobian."""
    n0 = widths[0]
    x = rng.standard_normal((replicates, n0, 1))
    y = correlation * x + math.sqrt(1 - correlation**2) * rng.standard_normal(x.shape)
    first, jacobian = np.sign(x), np.broadcast_to(np.eye(n0), (replicates, n0, n0))
    ancestor = list(range(n0))
    for n, m in itertools.pairwise(widths):
        d = np.array([[float(j == i % n) for j in range(n)] for i in range(m)])
        z = draw(rng, (replicates, m, n)) if draw else rng.standard_normal((replicates, m, n))
        w = omega * d + z * alpha / math.sqrt(n)
        u = w @ x
        x, y = activation.f(u), activation.f(w @ y)
        jacobian = activation.df(u) * (w @ jacobian)
        ancestor = [ancestor[i % n] for i in range(m)]
    norm = np.linalg.norm(x, axis=(1, 2))
    cotangent = rng.standard_normal((replicates, 1, widths[-1]))
    cotangent /= np.linalg.norm(cotangent, axis=2, keepdims=True)
    probe = jacobian @ rng.standard_normal((replicates, n0, 1))
    return {
        "mean_square": np.mean(x**2, axis=(1, 2)),
        "log_norm": np.log(norm / math.sqrt(widths[-1])),
        "correlation": (x * y).sum(axis=(1, 2)) / (norm * np.linalg.norm(y, axis=(1, 2))),
        "sign_memory": np.mean(np.sign(x) * first[:, ancestor], axis=(1, 2)),
        # Backward: the gradient of a random unit cotangent.
        "gradient": np.sum((cotangent @ jacobian) ** 2, axis=(1, 2)),
        "log_gradient": np.log(np.mean(probe**2, axis=(1, 2))) / 2,
    }


def _agree(chain, networks):
    for name, sample in networks.items():
        found = getattr(chain, name)
        error = sample.std() / math.sqrt(len(sample))
        gap = abs(found.value[-1] - sample.mean())
        assert gap < 4 * math.hypot(error, found.standard_error[-1]), name
    log_norm = networks["log_norm"]
    centred = log_norm - log_norm.mean()
    error = math.sqrt(np.var(centred**2) / len(centred)) / (2 * log_norm.std())
    gap = abs(chain.log_norm_std.value[-1] - log_norm.std())
    assert gap < 4 * math.hypot(error, chain.log_norm_std.standard_error[-1])


@pytest.mark.parametrize(
    ("widths", "replicates"),
    [
        ([4] * 101, 1500),
        ([4] * 1001, 400),
        ([8] * 61, 1000),
        ([16] * 41, 500),
        ([64] * 21, 60),
        ([16, 4] * 10 + [16], 1500),
        ([5, 12, 3, 7], 3000),
        ([3, 1, 2], 3000),
        ([3, 12, 7], 3000),
    ],
    ids=lambda v: f"{v[0]}x{len(v)}" if isinstance(v, list) else str(v),
)
@pytest.mark.parametrize("alpha", [0.085, 0.4])
def test_exact_at_every_width(widths, replicates, alpha):
    rng = np.random.default_rng(11)
    chain = noise_chain(TANH, widths, alpha, rng, 2 * replicates, correlation=0.6)
    _agree(chain, _networks(TANH, widths, alpha, 1.0, 0.6, replicates, rng))


@pytest.mark.parametrize(
    ("activation", "omega"),
    [(activations.softsign(), 1.0), (activations.erf(), 0.8), (activations.sin(2.0), 0.6)],
    ids=str,
)
def test_other_activations_and_diagonals(activation, omega):
    rng = np.random.default_rng(12)
    widths = [6, 6, 9, 6, 6, 6]
    chain = noise_chain(activation, widths, 0.3, rng, 4000, omega, correlation=-0.3)
    _agree(chain, _networks(activation, widths, 0.3, omega, -0.3, 3000, rng))


@pytest.mark.parametrize(
    "law",
    [noiselaw.uniform(), noiselaw.truncated_normal(1.0), noiselaw.laplace(),
     noiselaw.student_t(5.0)],
    ids=lambda law: law.name,
)  # fmt: skip
def test_other_laws_draw_their_weights(law):
    rng = np.random.default_rng(13)
    widths = [4, 4, 6, 4, 4, 4]
    chain = noise_chain(TANH, widths, 0.3, rng, 3000, law=law, correlation=0.2)
    _agree(chain, _networks(TANH, widths, 0.3, 1.0, 0.2, 3000, rng, law.draw))


def test_the_law_of_the_noise_fades_with_the_width():
    """Sums of many entries are Gaussian: at width 64 heavy tails leave E x^2 as it is."""
    rng = np.random.default_rng(14)
    one = noise_chain(TANH, [64] * 31, 0.3, rng, 100).mean_square
    other = noise_chain(TANH, [64] * 31, 0.3, rng, 100, law=noiselaw.student_t(5.0)).mean_square
    error = np.hypot(one.standard_error, other.standard_error)
    assert np.all(np.abs(one.value - other.value) < 4.5 * error)


@pytest.mark.parametrize("alpha", [0.085, 0.3])
def test_wide_chains_reach_the_density(alpha):
    chain = noise_chain(TANH, [2000] * 61, alpha, np.random.default_rng(15), 20)
    limit = noise_density(TANH, 60, alpha)
    for name in ("mean_square", "sign_memory", "gradient"):
        found, expected = getattr(chain, name), getattr(limit, name)
        # A width of 2,000 takes 2 / 2,000 off at most (measured 1.3 / n at stationarity).
        slack = 4 * found.standard_error + 1e-3 * expected
        assert np.all(np.abs(found.value - expected)[[1, 20, 60]] < slack[[1, 20, 60]]), name


def test_linear_networks_in_closed_form():
    """f = identity: E x^2 and the gradient grow by omega^2 + alpha^2 per layer, at any width."""
    rng = np.random.default_rng(16)
    chain = noise_chain(activations.identity(), [4] * 9, 0.3, rng, 20000, 0.9, 2.0, 0.5)
    growth = (0.81 + 0.09) ** np.arange(9)
    for found, start in ((chain.mean_square, 2.0), (chain.gradient, 1.0)):
        assert np.all(np.abs(found.value - start * growth) < 4 * found.standard_error)
    assert chain.sign_memory.value[0] == 1.0


def test_equal_and_opposite_pairs_stay_so():
    """Also to the last digits: the second vector adds no noise of its own."""
    for c in (1.0, -1.0):
        rng = np.random.default_rng(17)
        chain = noise_chain(TANH, [8] * 200, 0.2, rng, 20, correlation=c)
        np.testing.assert_allclose(chain.correlation.value, c, rtol=1e-12)


def test_small_noise_of_near_pairs_is_resolved():
    """A pair 1e-10 apart parts at the rate of the tangent, far below the digits of its Gram."""
    rng = np.random.default_rng(18)
    near = noise_chain(TANH, [8] * 30, 0.2, rng, 50, correlation=1 - 1e-13)
    assert np.all(1 - near.correlation.value < 1e-10)


def test_standard_errors_are_those_of_repeated_samples():
    chains = [
        noise_chain(TANH, [4] * 5, 0.5, np.random.default_rng(seed), 60) for seed in range(300)
    ]
    for name in ("mean_square", "log_norm", "log_norm_std", "correlation", "sign_memory"):
        found = [getattr(c, name) for c in chains]
        spread = np.std([s.value[-1] for s in found], ddof=1)
        claimed = math.sqrt(np.mean([s.standard_error[-1] ** 2 for s in found]))
        # The spread of 300 values is known to 4 / sqrt(600).
        assert claimed == pytest.approx(spread, rel=0.17), name


def test_seeds_decide_and_depth_does_not_overflow():
    one, two = (
        noise_chain(TANH, [4] * 50, 0.1, np.random.default_rng(19), 16) for _ in range(2)
    )  # fmt: skip
    np.testing.assert_array_equal(one.mean_square.value, two.mean_square.value)
    rng = np.random.default_rng(20)
    wild = noise_chain(activations.sin(50.0), [4] * 300, 2.0, rng, 8, omega=1.0)
    assert np.all(np.isfinite(wild.log_gradient.value))
    assert wild.log_gradient.value.max() > 400
    assert np.isinf(wild.gradient.value).any()


@pytest.mark.parametrize("mean_square", [1e-290, 1e290])
def test_angles_of_signals_of_any_size(mean_square):
    """Linear networks keep their statistics at every scale of the input, also near the floats'."""
    chains = [
        noise_chain(activations.identity(), [6] * 5, 0.3, np.random.default_rng(21), 20,
                    mean_square=level) for level in (1.0, mean_square)
    ]  # fmt: skip
    one, other = (c.correlation.value for c in chains)
    np.testing.assert_allclose(other, one, rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"widths": [4]}, "number of widths must"),
        ({"widths": [4, 0]}, "widths must"),
        ({"alpha": 0.0}, "alpha must"),
        ({"replicates": 7}, "replicates must"),
        ({"mean_square": -1.0}, "mean_square must"),
        ({"correlation": 1.5}, "correlation must"),
        ({"omega": math.nan}, "omega must"),
        ({"activation": activations.tanhshrink()}, "activation must"),
        ({"activation": activations.hardshrink(9.0), "omega": 1.0}, "omega must keep"),
        ({"activation": activations.identity(), "widths": [4] * 99, "omega": 1e9}, "omega must k"),
        (
            {"activation": activations.squared_relu(), "mean_square": 1e200, "omega": 1.0},
            "omega must keep",
        ),
        ({"mean_square": 1.7e308}, "omega must keep"),
    ],
)
def test_refusals(changes, word):
    arguments = {"activation": TANH, "widths": [4] * 5, "alpha": 0.1,
                 "rng": np.random.default_rng(0), **changes}  # fmt: skip
    with pytest.raises(ArgumentError, match=f"^{word}"):
        noise_chain(**arguments)
