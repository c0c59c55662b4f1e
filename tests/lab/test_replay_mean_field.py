"""The replay of depth scales against plain torch, quadrature and its own maps."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from equipoise.lab import replay_mean_field as replay
from equipoise.lab.replay_data import MODES
from equipoise.theory import activations
from equipoise.theory.meanfield import mean_field


def wide_unit(weight_var=1.4, width=80, seed=0, depth=40):
    return {"kind": "wide", "weight_var": weight_var, "width": width, "seed": seed, "depth": depth}


def narrow_unit(width=16, seed=0, networks=10):
    return {"kind": "narrow", "width": width, "seed": seed, "depth": 50, "networks": networks}


def test_correlations_follow_the_map_of_infinite_width_by_quadrature():
    weight_var, bias_var = 2.5, replay.BIAS_VAR
    q = mean_field(activations.tanh(), weight_var, bias_var).q_star
    found = replay.expected_correlation(weight_var, 0.9, 3)
    c = ((q - bias_var) * 0.9 + bias_var) / q
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    for told in found:
        assert told == pytest.approx(c, abs=1e-8)
        a = math.sqrt(q) * nodes[:, None]
        b = math.sqrt(q) * (c * nodes[:, None] + math.sqrt(1 - c * c) * nodes[None, :])
        c = (weight_var * weights @ (np.tanh(a) * np.tanh(b)) @ weights + bias_var) / q


def test_the_pass_is_that_of_torch(monkeypatch):
    depth, width, weight_var = 12, 30, 1.4
    found = replay.passes(wide_unit(weight_var, width, 3, depth))
    rng = np.random.default_rng([3, width, 1_400_000])
    q = mean_field(activations.tanh(), weight_var, replay.BIAS_VAR).q_star
    first, a, b = (rng.standard_normal((48, width)) for _ in range(3))
    size = math.sqrt((q - replay.BIAS_VAR) / weight_var)
    rows = [first, a, 0.9 * first + math.sqrt(1 - 0.81) * b]
    h = torch.tensor(np.concatenate(rows))
    h = size * h / h.square().mean(1, keepdim=True).sqrt()
    z_of = []
    for _ in range(depth):
        weight = torch.tensor(rng.standard_normal((width, width))) * math.sqrt(weight_var / width)
        bias = torch.tensor(rng.standard_normal(width)) * math.sqrt(replay.BIAS_VAR)
        z = h @ weight.T + bias
        z.requires_grad_() if not z.requires_grad else z.retain_grad()
        z_of.append(z)
        h = torch.tanh(z)
    cosine = torch.nn.functional.cosine_similarity(z_of[4][:48], z_of[4][96:]).mean()
    assert found["correlation"][1][4] == pytest.approx(float(cosine.detach()), abs=1e-10)
    assert found["q"][7] == pytest.approx(float(z_of[7].square().mean().detach()), rel=1e-10)
    cotangent = torch.tensor(rng.standard_normal((48, width)))
    (z_of[-1][:48] * cotangent).sum().backward()
    sizes = [float(z.grad[:48].square().mean()) for z in z_of]
    told = np.diff(np.log(sizes[::-1]))
    np.testing.assert_allclose(found["growth"], told, atol=1e-9)


def test_narrow_gradients_are_those_of_autograd():
    found = replay.passes(narrow_unit(6, 1, 1) | {"depth": 5})
    rng = np.random.default_rng([1, 6])
    law = stats.norm(0, math.sqrt(0.2))
    energy = integrate.quad(lambda z: math.tanh(z) ** 2 * law.pdf(z), -6, 6)[0]
    x, v = rng.standard_normal(6), rng.standard_normal(6)
    x = torch.tensor(x * math.sqrt(6 * energy) / np.linalg.norm(x))
    weights = [torch.tensor(rng.standard_normal((6, 6))) * math.sqrt(0.2 / energy / 6)
               for _ in range(5)]  # fmt: skip

    def network(h):
        for weight in weights:
            h = torch.tanh(weight @ h)
        return h

    jacobian = torch.autograd.functional.jacobian(network, x)
    told = torch.linalg.norm(jacobian @ torch.tensor(v / np.linalg.norm(v))).log()
    assert found["log_norm"] == pytest.approx([float(told)], abs=1e-9)


def test_findings():
    done = [(a, replay.passes(a)) for w in (1.4, replay.weight_vars()[2]) for seed in (0, 1)
            for a in (wide_unit(w, seed=seed),)]  # fmt: skip
    done += [(a, replay.passes(a)) for n in (16, 32) for seed in (0, 1)
             for a in (narrow_unit(n, seed),)]  # fmt: skip
    found = replay.findings(done, MODES)
    scales, gradients = found.tables
    ordered, critical = scales.rows
    assert ordered.names[1] == "ordered"
    assert critical.names[1] == "critical"
    assert math.isnan(critical.values[0].mean)
    assert critical.values[2].reference == pytest.approx(1.0, abs=1e-5)
    told = mean_field(activations.tanh(), 1.4, 0.05)
    assert ordered.values[1].mean == pytest.approx(6 * told.xi_c)
    # From .5 to 2 xi_c the map is nearly at its limit.
    assert ordered.values[0].reference == pytest.approx(told.xi_c, rel=0.25)
    assert [row.names[0] for row in gradients.rows] == ["16", "32"]
    logs = [np.mean(r["log_norm"]) for a, r in done if a.get("networks") and a["width"] == 16]
    assert gradients.rows[0].values[0].mean == pytest.approx(np.mean(logs))
    assert len(found.pictures) == 4
    alone = replay.findings(done[4:], ("corrected",))
    assert [t.mode for t in alone.tables] == ["corrected"]
    assert alone.pictures == ()
