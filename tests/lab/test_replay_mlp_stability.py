"""Units that no input moves, clips of parts, and the replay of stability."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError, PlanError
from equipoise.lab import replay_mlp_stability as replay
from equipoise.lab import stability_study
from equipoise.lab.batched import Replicas
from equipoise.lab.born_dead import born_dead, chance_of_death
from equipoise.lab.clip_parts import PartClipping, UsualClipping, layer_places, unit_places
from equipoise.lab.data import digits
from equipoise.lab.models import mlp
from equipoise.lab.replay_data import MODES, Picture
from equipoise.lab.replay_html import drawn
from equipoise.lab.stability_study import StabilityCase, StabilityDraw, train_case
from equipoise.lab.trainability_map import MAP_STARTS
from equipoise.lab.unit_states import gradient_sizes, unit_states


def networks(count, activation=nn.ReLU):
    torch.manual_seed(1)
    return [mlp([64, 12, 9, 10], activation) for _ in range(count)]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU])
def test_flat_units_are_those_that_autograd_finds_flat(activation):
    models = networks(3, activation)
    with torch.no_grad():
        for model in models:
            model[0].weight.mul_(20.0)
            model[2].bias[:3] = -30.0
    x = digits(100).x_train[:40]
    found = unit_states(Replicas.of(models), x)
    grid = torch.linspace(-8, 8, 3001, requires_grad=True)
    (most,) = torch.autograd.grad(activation()(grid).sum(), grid)
    for i, model in enumerate(models):
        h, flats = x, []
        for layer in model:
            if isinstance(layer, nn.Linear):
                h = layer(h).detach().requires_grad_()
            else:
                (slope,) = torch.autograd.grad(layer(h).sum(), h)
                flats.append(slope.abs() < 0.01 * most.abs().max())
                h = layer(h).detach()
        flat = torch.cat(flats, 1)
        assert float(found.stuck[i]) == pytest.approx(float(flat.all(0).float().mean()), abs=1e-6)
        assert float(found.saturated[i]) == pytest.approx(float(flat.float().mean()), abs=1e-6)
        assert not bool(found.silent[i])


def test_a_layer_of_dead_units_is_silent():
    (model,) = networks(1)
    with torch.no_grad():
        model[2].bias.fill_(-1e4)
    found = unit_states(Replicas.of([model]), digits(100).x_train)
    assert bool(found.silent[0])
    with pytest.raises(ArgumentError, match="replicas must have hidden units"):
        unit_states(Replicas.of([nn.Sequential(nn.Linear(64, 10))]), torch.zeros(2, 64))


def test_gradients_are_those_of_autograd():
    models, task = networks(2), digits(200)
    found = gradient_sizes(Replicas.of(models), task, 50)
    for i, model in enumerate(models):
        loss = nn.functional.cross_entropy(model(task.x_train[:50]), task.y_train[:50])
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        assert float(found.norm[i]) == pytest.approx(norm, rel=1e-4)
        ratio = float(model[0].weight.grad.norm() / model[-1].weight.grad.norm())
        assert float(found.ratio[i]) == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("kind", ["layer", "unit"])
def test_parts_are_clipped_by_themselves(kind):
    models = networks(2)
    layers = tuple(models[0])
    rows = torch.stack([nn.utils.parameters_to_vector(m.parameters()).detach() for m in models])
    places = layer_places(layers) if kind == "layer" else unit_places(layers)
    cut = PartClipping(0.4, places).cut(rows)
    for i, model in enumerate(models):
        for linear in (m for m in model if isinstance(m, nn.Linear)):
            both = torch.cat([linear.weight.data, linear.bias.data[:, None]], 1)
            norm = both.norm() if kind == "layer" else both.norm(dim=1, keepdim=True)
            both.mul_((0.4 / norm).clamp(max=1.0))
            linear.weight.data.copy_(both[:, :-1])
            linear.bias.data.copy_(both[:, -1])
        told = nn.utils.parameters_to_vector(model.parameters())
        torch.testing.assert_close(cut[i], told.detach(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ArgumentError, match="limit must be positive"):
        PartClipping(0.0, places)


def test_usual_norms_are_quantiles_of_the_past():
    clip, past = UsualClipping(0.5), [[], []]
    for gradient in torch.randn(9, 2, 6, generator=torch.Generator().manual_seed(0)).exp():
        cut = clip.cut(gradient)
        for i in range(2):
            past[i].append(float(gradient[i].norm()))
            told = min(past[i][-1], float(np.quantile(past[i], 0.5)))
            assert float(cut[i].norm()) == pytest.approx(told, rel=1e-4)
    assert bool(torch.isfinite(clip.cut(torch.ones(2, 6))).all())
    with pytest.raises(ArgumentError, match="quantile must be"):
        UsualClipping(1.5)


def test_inputs_die_as_often_as_they_should():
    for width, depth in ((2, 10), (4, 30)):
        shares = [born_dead(width, depth, 100, 4, seed) for seed in range(20)]
        error = np.std(shares, ddof=1) / math.sqrt(20)
        assert np.mean(shares) == pytest.approx(chance_of_death(width, depth), abs=4 * error)
    with pytest.raises(ArgumentError, match="networks must be"):
        born_dead(2, 3, 0, 1, 0)
    with pytest.raises(ArgumentError, match="width must be"):
        chance_of_death(0, 3)


def case(**changes):
    given = {"width": 8, "depth": 2, "activation": "relu", "methods": ("he",), "optimizer": "Adam",
             "rates": (1e-3, 1e-2), "epochs": 1}  # fmt: skip
    return StabilityCase(**{**given, **changes})


def test_naive_losses_are_those_of_torch_until_they_break():
    calm = train_case(case(), (0, 1))
    naive = train_case(case(is_naive=True), (0, 1))
    for a, b in zip(calm, naive, strict=True):
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.02)
        assert b["diverged_at"] == (-1, -1) or b["diverged_at"] == [-1, -1]
    loud = train_case(case(is_naive=True, loud_output=300.0), (0, 1))
    assert all(d == 1 for draw in loud for d in draw["diverged_at"])
    kept = train_case(case(loud_output=300.0), (0, 1))
    assert all(d == -1 for draw in kept for d in draw["diverged_at"])


@pytest.mark.parametrize("clip", stability_study.CLIPS)
def test_every_clip_trains(clip):
    (draw,) = train_case(case(clip=clip, epochs=3), (0,))
    assert draw["accuracy"][1] > 0.2
    assert math.isfinite(draw["born_norm"])


def test_starts_are_trained_together_as_alone():
    both = train_case(case(methods=("he", "auto")), (0, 1))
    alone = train_case(case(methods=("auto",)), (0, 1))
    assert [(d["method"], d["seed"]) for d in both] == [
        ("he", 0), ("he", 1), ("auto", 0), ("auto", 1)
    ]  # fmt: skip
    for a, b in zip(both[2:], alone, strict=True):
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.02)
        assert a["born_norm"] == pytest.approx(b["born_norm"], rel=1e-4)


def test_what_does_not_serve_is_refused():
    with pytest.raises(PlanError, match="odd"):
        train_case(case(methods=("odd_sigmoid",)), (0,))
    with pytest.raises(ArgumentError, match="optimizer must be"):
        case(optimizer="Adagrad")
    with pytest.raises(ArgumentError, match="clip must be"):
        case(clip="some")


def made(given, share):
    """Draws of a case of which a share trains at the first rate, and none at the others."""
    rates = given.rates
    return [
        StabilityDraw(
            method, seed, 0.1, 0.2, False, 10.0, 0.01,
            tuple(0.9 if i == 0 and seed < 10 * share else 0.1 for i in range(len(rates))),
            (0.3,) * len(rates), (0.4,) * len(rates), (5,) * len(rates),
        )
        for method in given.methods
        for seed in range(10)
    ]  # fmt: skip


def test_findings_and_the_map():
    units = replay.units("quick", MODES, range(10))
    done = []
    for arguments in units.values():
        if arguments["part"] == "born dead":
            done.append((arguments, [0.5] * 10))
        else:
            draws = made(replay.case_of(arguments), 0.5)
            done.append((arguments, [vars(draw) for draw in draws]))
    found = replay.findings(done, MODES)
    assert len(found.tables) == 10
    assert "0.25 by auto" in found.headline
    deaths, dying = found.tables[:2]
    assert deaths.rows[0].values[0].reference == pytest.approx(1 - (1 - 1 / 4) ** 10)
    assert [v.mean for v in dying.rows[0].values] == pytest.approx([0.1, 0.3, 0.5, 0.3, 0, 0.3, 0])
    clip = found.tables[3]
    assert [v.mean for v in clip.rows[0].values] == pytest.approx([1, 0.5, 1, 0, 1, 0, 1])
    (picture,) = found.pictures
    (heat,) = picture.heat
    assert len(heat.y) == len(picture.y_names) == 6 * len(MAP_STARTS)
    assert len(heat.x) == len(picture.x_names) == 8
    for row in heat.z:
        assert sorted(row) == pytest.approx([0.0] * 4 + [0.5] * 4)
    figure = drawn(picture)
    assert list(figure.layout.yaxis.ticktext) == list(picture.y_names)
    assert figure.layout.height > 600
    alone = replay.findings(
        [d for d in done if d[0]["mode"] == "faithful"], ("faithful",)
    )  # fmt: skip
    assert len(alone.tables) == 5
    assert "dead at birth" in alone.headline


def test_a_unit_is_trained_from_its_arguments(monkeypatch):
    monkeypatch.setattr(stability_study, "_ROWS", 128)
    units = replay.units("quick", ("faithful",), (0, 1))
    dead = replay.trained(units["born dead, width 2, depth 10"])
    assert dead == [born_dead(2, 10, 50, 16, seed) for seed in (0, 1)]
    (key,) = [k for k in units if k == "softmax, faithful, x 1, naive False"]
    draws = replay.trained(units[key])
    assert [StabilityDraw(**draw).seed for draw in draws] == [0, 1]


def test_axes_of_numbers_have_no_names():
    figure = drawn(Picture("t", "s.", "x", "y", ()))
    assert figure.layout.yaxis.ticktext is None
    assert figure.layout.height == 390
