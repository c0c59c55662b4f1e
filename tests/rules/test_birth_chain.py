"""The chain of vectors has the law of drawn weight matrices, forward and backward."""

import math
from itertools import pairwise

import numpy as np
import pytest

from equipoise.rules.birth_chain import Link, births
from equipoise.rules.expected_slopes import exact_slopes, log_gain_of_net
from equipoise.theory import activations
from equipoise.theory.lyapunov import stack_log_gain


def links(f, widths, law, scale, bias=0.0, kept=1.0):
    scales = np.broadcast_to(scale, len(widths) - 1)
    inner = [
        Link(n, f, kept, law, float(s), bias) for n, s in zip(widths[:-1], scales, strict=True)
    ]
    return [*inner, Link(widths[-1], f, kept)]


def haar(rng, rows, columns):
    most = max(rows, columns)
    q, r = np.linalg.qr(rng.normal(size=(most, most)))
    return (q * np.sign(np.diag(r)))[:rows, :columns]


def literal(chain, log_start, draws, seed):
    """Weights as matrices, one input forward and one cotangent back by the chain rule."""
    rng = np.random.default_rng(seed)
    signal, gradient = [], []
    for _ in range(draws):
        z = math.exp(log_start) * rng.normal(size=chain[0].width)
        zs, ws = [z], []
        for a, b in pairwise(chain):
            w = (rng.normal(size=(b.width, a.width)) if a.law == "gaussian"
                 else haar(rng, b.width, a.width)) * a.scale  # fmt: skip
            z = w @ a.activation.f(z) + a.bias_rms * rng.normal(size=b.width)
            zs.append(z)
            ws.append(w)
        g = rng.normal(size=z.shape) * chain[-1].activation.df(z)
        gs = [g]
        for a, w, z in zip(chain[-2::-1], ws[::-1], zs[-2::-1], strict=True):
            g = a.activation.df(z) * (w.T @ g)
            gs.append(g)
        signal.append([0.5 * np.log((z**2).mean()) for z in zs])
        gradient.append([0.5 * np.log((g**2).mean()) for g in gs[::-1]])
    return np.array(signal), np.array(gradient)


CASES = [
    (activations.tanh(), [6, 9, 5, 7, 6], "gaussian", 0.5, 0.3),
    (activations.tanh(), [6, 9, 5, 7, 6], "haar", 1.3, 0.0),
    (activations.gelu(), [5, 5, 12, 4], "haar", 1.6, 0.2),
    (activations.leaky_relu(0.2), [8, 4, 8, 8], "gaussian", 0.6, 0.0),
    (activations.softplus(), [6, 6, 6], "gaussian", 0.4, 0.1),
]


@pytest.mark.parametrize(("f", "widths", "law", "scale", "bias"), CASES)
def test_the_chain_has_the_law_of_drawn_matrices(f, widths, law, scale, bias):
    chain = links(f, widths, law, scale, bias)
    count = 1500
    signal, gradient = literal(chain, -0.3, count, 0)
    parts = [births(chain, -0.3, seed) for seed in range(12)]
    ours = [np.concatenate([getattr(p, name) for p in parts]) for name in ("signal", "gradient")]
    for drawn, walked in zip((signal, gradient), ours, strict=True):
        # The gradient's constant is the cotangent's, the same in both.
        error = np.sqrt(drawn.var(0) / count + walked.var(0) / len(walked))
        assert (abs(drawn.mean(0) - walked.mean(0)) < 4 * error + 1e-9).all()
        spread = drawn.std(0) / walked.std(0)
        assert (abs(np.log(spread)) < 0.15).all()
        # How layers move together counts for slopes.
        steps = np.diff(drawn, axis=1).std(0) / np.diff(walked, axis=1).std(0)
        assert (abs(np.log(steps)) < 0.15).all()


@pytest.mark.parametrize("law", ["gaussian", "haar"])
@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_closed_slopes_are_those_of_the_chain(law, slope):
    f = activations.leaky_relu(slope) if slope else activations.relu()
    chain = links(f, [12, 20, 8, 16, 12, 12], law, [0.3, 0.4, 0.35, 0.3, 0.4])
    found = exact_slopes(chain)
    assert set(found) == ({"signal", "gradient"} if law == "gaussian" else {"signal"})
    for name, (mean, std) in found.items():
        slopes = np.concatenate([births(chain, 0.0, seed).slopes(name) for seed in range(12)])
        assert slopes.mean() == pytest.approx(mean, abs=4 * std / math.sqrt(len(slopes)) + 1e-9)
        if std > 1e-6:
            assert slopes.std() == pytest.approx(std, rel=0.1)


def test_biases_leave_the_gradient_of_two_lines_as_it_is():
    chain = links(activations.leaky_relu(0.1), [10] * 6, "gaussian", 0.4, bias=0.7)
    found = exact_slopes(chain)
    assert set(found) == {"gradient"}
    mean, std = found["gradient"]
    slopes = np.concatenate([births(chain, 0.0, seed).slopes("gradient") for seed in range(12)])
    assert slopes.mean() == pytest.approx(mean, abs=4 * std / math.sqrt(len(slopes)))


def test_the_slope_of_two_layers_is_the_log_gain():
    chain = links(activations.leaky_relu(0.3), [7, 7], "gaussian", 0.5)
    forward = stack_log_gain(activations.leaky_relu(0.3), [7, 7], 0.5)
    assert exact_slopes(chain)["signal"][0] == pytest.approx(forward.mean, abs=1e-12)


def test_smooth_functions_and_dropout_have_no_closed_slope():
    assert not exact_slopes(links(activations.tanh(), [8, 8], "gaussian", 0.3))
    assert not exact_slopes(links(activations.relu(), [8, 8], "gaussian", 0.3, kept=0.5))
    assert log_gain_of_net(links(activations.relu(), [8, 9], "gaussian", 0.3)) is None
    assert log_gain_of_net(links(activations.relu(), [8, 8], "gaussian", 0.3))[1:] == (8, 0.3)


def test_dropout_keeps_the_mean_and_adds_energy():
    wide = [Link(2000, activations.identity(), 0.5, "gaussian", 1 / math.sqrt(2000)),
            Link(2000, activations.identity(), 0.5)]  # fmt: skip
    logs = births(wide, 0.0).signal
    assert logs[:, 1].mean() == pytest.approx(0.5 * math.log(2), abs=0.02)


def test_inputs_that_die_are_left_out_of_slopes_and_count_as_lost():
    chain = links(activations.relu(), [2] * 8, "gaussian", 1.0)
    drawn = births(chain, 0.0)
    alive = np.isfinite(drawn.signal).all(axis=1)
    assert 0 < alive.mean() < 1
    assert np.isfinite(drawn.slopes("signal")).all()
    assert drawn.usable() <= alive.mean()
