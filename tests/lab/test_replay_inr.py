"""Networks of coordinates: the picture, the variance-informed start, and the replay."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from equipoise.errors import ArgumentError, PlanError
from equipoise.lab import replay_inr
from equipoise.lab.models import Bump, Sine, activation_module, mlp
from equipoise.lab.pictures import PictureTask, made_picture, picture_task
from equipoise.lab.replay_data import MODES
from equipoise.lab.vi3nr import balanced_std, vi3nr_


def test_pixels_are_fitted_or_held_back():
    made = picture_task(16, 3)
    task, image = made.task, made_picture(16, 3)
    places = torch.cat([task.x_train, task.x_test])
    assert len({tuple(place) for place in places.tolist()}) == 256
    values = torch.cat([task.y_train, task.y_test])[:, 0].double()
    grid = np.linspace(-1, 1, 16)
    rows = np.abs(places.numpy()[:, None, 0] - grid).argmin(1)
    columns = np.abs(places.numpy()[:, None, 1] - grid).argmin(1)
    np.testing.assert_allclose(values, image[rows, columns], atol=1e-6)
    assert made.span == pytest.approx(np.ptp(image))
    assert made.decibels(0.01) == pytest.approx(20 * math.log10(made.span / 0.1))
    assert made.decibels(math.nan) == made.decibels(math.inf) == -math.inf
    assert PictureTask(task, 1.0).decibels(0.0) == math.inf


@pytest.mark.parametrize("text", ["gauss(0.5)", "sin(2)", "sin"])
def test_activations_of_coordinates(text):
    x = torch.linspace(-2, 2, 9)
    told = {"gauss(0.5)": torch.exp(-2 * x**2), "sin(2)": torch.sin(2 * x), "sin": torch.sin(x)}
    torch.testing.assert_close(activation_module(text)(x), told[text])


@pytest.mark.parametrize("make", [Bump, Sine])
def test_a_scale_of_nothing_is_refused(make):
    with pytest.raises(ArgumentError, match="must be positive"):
        make(0.0)
    assert repr(make(0.5)).endswith("=0.5)")


def test_values_and_gradients_balance_for_a_bump_alone():
    std = balanced_std(Bump(0.3))
    law = stats.norm(0, std)
    values = integrate.quad(lambda z: math.exp(-((z / 0.3) ** 2)) * law.pdf(z), -5, 5)[0]
    slopes = integrate.quad(
        lambda z: (z / 0.09) ** 2 * math.exp(-((z / 0.3) ** 2)) * law.pdf(z), -5, 5
    )[0]
    assert std**2 * slopes == pytest.approx(values, rel=1e-6)
    assert balanced_std(nn.ReLU()) == balanced_std(nn.Tanh()) == 1.0
    assert balanced_std(Sine(30.0)) == pytest.approx(1 / 30)


def test_preactivations_keep_their_level():
    generator = torch.Generator().manual_seed(0)
    net = mlp([2, *(512,) * 6, 1], lambda: Bump(0.3))
    x = torch.rand(64, 2, generator=generator) * 2 - 1
    std = vi3nr_(net, x, generator)
    assert vi3nr_(mlp([2, 8, 1], nn.GELU), x, generator, 0.7) == 0.7
    h, seen = x, []
    with torch.no_grad():
        for layer in net:
            h = layer(h)
            if isinstance(layer, nn.Linear):
                seen.append(float(h.square().mean().sqrt()))
    assert seen[:-1] == pytest.approx([std] * 6, rel=0.1)
    with pytest.raises(ArgumentError, match="model must have functions of one kind"):
        vi3nr_(nn.Sequential(nn.Linear(2, 2)), x)
    with pytest.raises(ArgumentError, match="std must be"):
        vi3nr_(net, x, std=-1.0)


def unit(**changes):
    given = {
        "mode": "corrected", "activation": "sin(30)", "start": "SIREN", "side": 12, "width": 8,
        "steps": 5, "seeds": [0, 1], "rates": [1e-3, 1e-2],
    }  # fmt: skip
    return {**given, **changes}


def test_fits_in_plain_steps():
    found = replay_inr.fitted(unit())
    made = picture_task(12)
    task = made.task
    torch.manual_seed(0)
    net = mlp([2, *(8,) * replay_inr.DEPTH, 1], lambda: Sine(30.0))
    replay_inr._start([net], "SIREN", [1], task.x_train)
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    told = []
    for _ in range(5):
        loss = (net(task.x_train) - task.y_train).square().mean()
        told.append(made.decibels(loss.item()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    seen = dict(zip(found["steps"], found["fitted"][1][1], strict=True))
    assert [seen[i] for i in (1, 2, 3, 5)] == pytest.approx([told[i - 1] for i in (1, 2, 3, 5)],
                                                           abs=0.02)  # fmt: skip
    held = (net(task.x_test) - task.y_test).square().mean().item()
    assert found["held"][1][1] == pytest.approx(made.decibels(held), abs=0.05)


def test_a_start_that_does_not_serve_is_named():
    with pytest.raises(PlanError, match="0"):
        replay_inr.fitted(unit(activation="relu"))


def test_findings_show_every_start(monkeypatch):
    monkeypatch.setattr(replay_inr, "_SIZES", {"quick": (12, 8, 5)})
    monkeypatch.setattr(replay_inr, "ACTIVATIONS", ("sin(30)", "gelu"))
    units = replay_inr.units("quick", MODES, (0, 1))
    done = [(a, replay_inr.fitted(a)) for a in units.values()]
    found = replay_inr.findings(done, MODES)
    faithful, corrected = found.tables
    assert [row.names[:2] for row in faithful.rows] == [
        ("sin(30)", "framework default"), ("sin(30)", "SIREN"), ("sin(30)", "VI3NR"),
        ("gelu", "framework default"), ("gelu", "VI3NR"),
    ]  # fmt: skip
    assert [row.names[1] for row in corrected.rows].count("auto") == 2
    a, result = done[-1]
    place = replay_inr.best_place(result)
    mean = np.mean([draw[-1] for draw in result["fitted"][place]])
    assert corrected.rows[-1].values[0].mean == pytest.approx(mean)
    assert corrected.rows[-1].names[2] == f"{a['rates'][place]:g}"
    assert len(found.pictures) == 4
    assert all(math.isfinite(y) for picture in found.pictures for c in picture.curves for y in c.y)
    alone = replay_inr.findings([d for d in done if d[0]["mode"] == "faithful"], ("faithful",))
    assert len(alone.tables) == 1
