"""The replays of exponents and of fractional moments against routes of their own."""

import math

import numpy as np
import pytest
from scipy import special, stats

from equipoise.lab import replay_fractional, replay_lyapunov
from equipoise.lab.replay_data import MODES


def lyapunov_unit(**given):
    return {
        "scale": "he", "width": 4, "slope": 0.1, "law": "gaussian", "seed": 0, "networks": 30,
        "depth": 200,
    } | given  # fmt: skip


@pytest.mark.parametrize("law", ["gaussian", "haar"])
@pytest.mark.parametrize("scale", ["he", "lyapunov"])
def test_walks_agree_with_one_layer_on_random_inputs(law, scale):
    given = lyapunov_unit(law=law, scale=scale)
    found = replay_lyapunov.walk(given)
    # Increments do not depend on the direction: one layer, fresh directions, scipy's own matrices.
    rng = np.random.default_rng(7)
    sigma = replay_lyapunov.scale_of(scale, 4, 0.1, law)
    logs = []
    for _ in range(4000):
        w = rng.standard_normal((4, 4)) if law == "gaussian" else stats.ortho_group.rvs(4, 1, rng)
        x = rng.standard_normal(4)
        z = sigma * w @ x
        logs.append(math.log(np.linalg.norm(np.maximum(z, 0.1 * z)) / np.linalg.norm(x)))
    error = np.std(logs) * math.sqrt(1 / 4000 + 1 / 6000)
    assert found["mean"] == pytest.approx(np.mean(logs), abs=4 * error)
    assert found["variance"] == pytest.approx(np.var(logs), rel=0.15)
    told = replay_lyapunov.exact(scale, 4, 0.1, law)
    assert found["mean"] == pytest.approx(told.mean, abs=4 * math.sqrt(told.variance / 6000))


def test_log_norms_add_up():
    found = replay_lyapunov.walk(lyapunov_unit())
    ends = [log_norms[-1] for log_norms in found["log_norm"]]
    assert found["layer"][-1] == 200
    assert np.mean(ends) / 200 == pytest.approx(found["mean"])


def test_scales_are_those_of_the_literature():
    # Golden numbers of the exact exponent: I(4) at slope .1.
    assert replay_lyapunov.scale_of("lyapunov", 4, 0.1, "gaussian") == pytest.approx(
        math.exp(0.06364239762969), rel=1e-11
    )
    assert replay_lyapunov.exact("he", 16, 0.5, "gaussian").variance == pytest.approx(
        replay_lyapunov.exact("lyapunov", 16, 0.5, "gaussian").variance
    )
    assert replay_lyapunov.scale_of("he", 16, 1.0, "haar") == 1.0


def test_findings_of_exponents():
    widths, slopes = (2, 4), (0.1,)
    done = []
    for seed in range(3):
        for width in widths:
            for slope in slopes:
                for scale in ("he", "lyapunov"):
                    given = lyapunov_unit(scale=scale, width=width, slope=slope, seed=seed)
                    done.append((given, replay_lyapunov.walk(given)))
    found = replay_lyapunov.findings(done, MODES)
    exponents, odds = found.tables
    assert [row.names for row in exponents.rows] == [
        ("2", "0.1", "gaussian"),
        ("4", "0.1", "gaussian"),
    ]
    first = exponents.rows[0].values[0]
    # lambda = I(d) + log sigma, with I(2) at slope .1 from a table of its own.
    assert first.reference == pytest.approx(
        -0.81659901579712 + math.log(math.sqrt(2 / 1.01 / 2)), abs=1e-11
    )
    ends = [
        abs(log[-1]) <= math.log(10)
        for a, r in done
        if a["scale"] == "lyapunov" and a["width"] == 2
        for log in r["log_norm"]
    ]
    assert odds.rows[0].values[2].mean == pytest.approx(np.mean(ends))
    assert len(found.pictures) == 4
    normal = found.pictures[2].curves[0]
    assert len(normal.x) == 90
    assert normal.x[0] == pytest.approx(stats.norm.ppf(0.5 / 90))
    alone = replay_lyapunov.findings(
        [(a, r) for a, r in done if a["scale"] == "lyapunov"], ("corrected",)
    )
    assert [t.mode for t in alone.tables] == ["corrected"]


def fractional_unit(**given):
    return {
        "slope": 0.0, "order": 1.0, "seed": 0, "width": 32, "depth": 3, "networks": 700
    } | given  # fmt: skip


def test_moments_of_linear_networks_are_those_of_chi():
    found = replay_fractional.moments(fractional_unit(slope=1.0, order=2.0, networks=2000))
    for s, value in zip(replay_fractional.MEASURED, found["moments"], strict=True):
        # |x_L|^s is a product of independent (chi_32 / sqrt(32))^s.
        log_one = s / 2 * math.log(2 / 32) + special.gammaln((32 + s) / 2) - special.gammaln(16)
        log_two = s * math.log(2 / 32) + special.gammaln(16 + s) - special.gammaln(16)
        mean, square = math.exp(3 * log_one), math.exp(3 * log_two)
        assert value == pytest.approx(mean, abs=4 * math.sqrt((square - mean**2) / 2000))
        assert replay_fractional.exact(1.0, 2.0, s, 3) == pytest.approx(mean, rel=1e-9)


def test_he_keeps_the_second_moment_of_relu():
    assert replay_fractional.exact(0.0, 2.0, 2.0) == pytest.approx(1.0, abs=1e-10)
    # By Jensen lower moments then fade.
    assert replay_fractional.exact(0.0, 2.0, 1.0) < 1.0 < replay_fractional.exact(0.0, 0.5, 1.0)


def test_findings_of_moments():
    done = [
        (given, replay_fractional.moments(given))
        for slope in (0.0, 1.0)
        for order in (0.0, 1.0)
        for seed in (0, 1)
        for given in (fractional_unit(slope=slope, order=order, seed=seed, depth=10, networks=100),)
    ]
    found = replay_fractional.findings(done, MODES)
    kept, typical = found.tables
    assert [row.names[1] for row in kept.rows] == ["1", "1"]
    assert kept.rows[0].values[1].reference == pytest.approx(1.0)
    assert typical.rows[0].names == ("ReLU", "0")
    assert typical.rows[0].values[1].reference == pytest.approx(0.0, abs=1e-12)
    value = typical.rows[1].values[1]
    assert value.mean == pytest.approx(np.mean([r["log"] for a, r in done][2:4]))
    assert len(found.pictures) == 2
