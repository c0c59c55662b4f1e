"""The replay of deep linear networks against plain products, torch and sampling."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from equipoise.lab import replay_deep_linear as replay
from equipoise.lab.deep_stack import deep_stack
from equipoise.lab.replay_data import MODES
from equipoise.theory import activations


def unit(method="Gaussian", widths=(5,) * 7, networks=4, seed=0):
    return {"widths": list(widths), "method": method, "networks": networks, "seed": seed}


def test_numbers_are_those_of_the_product():
    found = replay.products(unit())
    for i in range(4):
        weights = [w for w, _ in deep_stack(activations.identity(), (5,) * 7, "lecun").layers(i)]
        product = np.linalg.multi_dot(weights[::-1])
        singular = np.linalg.svd(product, compute_uv=False)
        assert found["log_norm"][i] == pytest.approx(math.log(np.linalg.norm(product[:, 0])))
        assert found["largest"][i] == pytest.approx(math.log10(singular[0]))
        assert found["alive"][i] == (singular > 0.1 * singular[0]).sum()
        diagonal = np.abs(np.diag(np.linalg.qr(product)[1]))
        told = math.log10(diagonal.max() / diagonal.min())
        assert found["condition"][i] == pytest.approx(told)
        assert told <= math.log10(np.linalg.cond(product)) + 1e-9
        gaps = [b.T @ b - a @ a.T for a, b in pairwise(weights)]
        size = sum((np.square(a @ a.T)).sum() for a in weights[:-1])
        told = math.sqrt(sum(np.square(g).sum() for g in gaps) / size)
        assert found["balance"][i] == pytest.approx(told)


def test_orthogonal_products_are_orthogonal():
    found = replay.products(unit("orthogonal", (6,) * 40, 2))
    for kind, value in (("log_norm", 0.0), ("condition", 0.0), ("balance", 0.0), ("alive", 6.0)):
        assert found[kind] == pytest.approx([value] * 2, abs=1e-12)


def test_closed_forms_by_sampling():
    rng = np.random.default_rng(2)
    w = rng.standard_normal((20_000, 4, 4)) / 2.0
    spread = np.log(np.linalg.norm(w[:, :, 0], axis=1)).std()
    assert replay.exact_std("Gaussian", 4, 9) == pytest.approx(3 * spread, rel=0.03)
    diagonal = np.abs(np.diagonal(np.linalg.qr(w)[1], axis1=1, axis2=2))
    ratios = np.log10(diagonal[:, 0] / diagonal[:, 3])
    error = 4 * ratios.std() / math.sqrt(20_000)
    assert replay.exact_condition("Gaussian", 4, 1) == pytest.approx(ratios.mean(), abs=error)
    a, b = w[:10_000] @ np.swapaxes(w[:10_000], 1, 2), np.swapaxes(w[10_000:], 1, 2) @ w[10_000:]
    told = math.sqrt(np.square(a - b).sum() / np.square(a).sum())
    assert replay.exact_balance("Gaussian", 4) == pytest.approx(told, rel=0.02)


@pytest.mark.parametrize("depth", [5, 200])
def test_the_width_needed_is_where_the_spread_is_one_nat(depth):
    width = replay.width_needed(depth)
    variance = stats.loggamma(width / 2).var() / 4 * depth
    assert variance == pytest.approx(1.0, rel=1e-6)


def test_frames_keep_what_changing_widths_can():
    widths = replay.CHANGING * 20 + replay.CHANGING[:1]
    found = {m: replay.products(unit(m, widths, 2)) for m in replay.METHODS}
    assert found["auto"]["alive"] == [4.0, 4.0]
    assert found["auto"]["largest"] == pytest.approx([0.0] * 2, abs=1e-9)
    assert max(found["orthogonal"]["largest"]) < -3.0
    assert np.isnan(found["auto"]["condition"]).all()


def test_gradient_flow_keeps_the_balance():
    weights = [
        torch.tensor(w).requires_grad_()
        for w, _ in deep_stack(activations.identity(), (5,) * 4, "lecun").layers(3)
    ]
    product = weights[2] @ weights[1] @ weights[0]
    (product - torch.eye(5)).square().sum().backward()
    for a, b in pairwise(weights):
        # The derivative of b^T b - a a^T along the gradient.
        moved = b.grad.T @ b + b.T @ b.grad - a.grad @ a.T - a @ a.grad.T
        assert float(moved.detach().abs().max()) < 1e-12


def test_findings():
    done = [
        (a, replay.products(a))
        for method in ("Gaussian", "orthogonal")
        for seed in (0, 1)
        for a in (unit(method, (4,) * 11, 6, seed),)
    ]
    done += [(a, replay.products(a)) for m in replay.METHODS for a in (unit(m, (16, 4, 16), 2),)]
    found = replay.findings(done, MODES)
    square, needed, changing = found.tables
    assert [row.names for row in square.rows] == [
        ("4", "10", "Gaussian"), ("4", "10", "orthogonal")
    ]  # fmt: skip
    spreads = [np.var(r["log_norm"], ddof=1) for a, r in done[:2]]
    assert square.rows[0].values[0].mean == pytest.approx(math.sqrt(np.mean(spreads)))
    assert square.rows[1].values[0].mean == 0.0
    assert [row.names[0] for row in changing.rows] == list(replay.METHODS)
    assert changing.rows[2].values[1].mean == 4.0
    assert needed.rows[2].values[0].mean == pytest.approx(101, rel=0.01)
    assert len(found.pictures) == 2
    assert replay.findings(done[4:], ("corrected",)).pictures == ()
