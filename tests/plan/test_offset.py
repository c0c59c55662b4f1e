"""A constant beside few inputs: where auto gives one, how loud it is, and what it does."""

import math

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.lab.models import mlp, residual_mlp
from equipoise.schemes.laws import OffsetBias
from equipoise.torch.apply import draw_all


def rows(size, count=400):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1))


def noises(model, x, **more):
    """Standard deviation of the noise of each bias, 0 where it has none, and the reason."""
    plan = eq.plan(model, x, **more)
    found = {a.parameter: a.law for a in plan.assignments if a.parameter.endswith("bias")}
    stds = [law.std if isinstance(law, OffsetBias) else 0.0 for law in found.values()]
    return stds, plan


@pytest.mark.parametrize(
    ("act", "size"), [(nn.Tanh, 1), (nn.Sigmoid, 2), (nn.ELU, 6), (nn.Mish, 1), (nn.Mish, 6)]
)
def test_biases_of_one_layer_are_as_loud_as_inputs_of_few_directions(act, size):
    stds, plan = noises(mlp([size, *[16] * 30, 1], act), rows(size))
    assert stds[0] > 0
    assert not any(stds[1:])
    assert "biases of the first layer are as loud as the inputs" in plan.choice[0]
    net, square = mlp([size, *[16] * 30, 1], act), 0.0
    for seed in range(60):
        net.load_state_dict(draw_all(net, plan, seed), strict=False)
        with torch.no_grad():
            square += float((net[0](rows(size)) - net[0].bias).square().mean()) / 60
    assert math.sqrt(square) == pytest.approx(stds[0], rel=0.1)


@pytest.mark.parametrize("act", [nn.Tanh, nn.ELU])
def test_levels_are_those_of_the_plan_without_it(act):
    def levels(scheme):
        plan = eq.plan(mlp([2, *[32] * 20, 3], act), rows(2), scheme)
        return [p.signal for p in plan.predictions]

    for ours, plain in zip(levels("auto")[:-1], levels("centred")[:-1], strict=True):
        assert ours == pytest.approx(plain, rel=0.15)


def test_what_was_promised_is_measured_over_draws():
    net, x, draws = mlp([3, *[32] * 20, 3], nn.Tanh), rows(3), 40
    plan = eq.plan(net, x)
    signal, cosine = [0.0] * 20, [0.0] * 20
    for seed in range(draws):
        net.load_state_dict(draw_all(net, plan, seed), strict=False)
        place, h = 0, x
        for layer in net[:-1]:
            with torch.no_grad():
                h = layer(h)
            if isinstance(layer, nn.Linear):
                units = nn.functional.normalize(h, dim=1)
                alike = float((units.sum(0).square().sum() - len(x)) / (len(x) * (len(x) - 1)))
                signal[place] += float(h.square().mean().sqrt()) / draws
                cosine[place] += alike / draws
                place += 1
    for seen, angle, expected in zip(signal, cosine, plan.predictions[:-1], strict=True):
        assert seen == pytest.approx(expected.signal, rel=0.1), expected
        assert angle == pytest.approx(expected.correlation, abs=0.06), expected


def test_the_network_is_no_longer_odd_and_all_gradients_arrive():
    x, draws = rows(2), 8
    share = dict.fromkeys(("auto", "centred"), 0.0)
    for scheme in share:
        net = mlp([2, *[16] * 30, 1], nn.Tanh)
        plan = eq.plan(net, x, scheme)
        for seed in range(draws):
            net.load_state_dict(draw_all(net, plan, seed), strict=False)
            with torch.no_grad():
                even, odd = net(x) + net(-x), net(x) - net(-x)
            share[scheme] += float(even.square().mean() / odd.square().mean()) / draws
        net(x).square().mean().backward()
        grads = [float(layer.weight.grad.norm()) for layer in net if isinstance(layer, nn.Linear)]
        assert max(grads[:-1]) < 10 * min(grads[:-1])
    assert share["centred"] < 1e-6
    assert share["auto"] > 0.1


def test_the_narrowest_layer_has_it_and_where_columns_are_few_it_is_one_of_them():
    stds, plan = noises(mlp([2, *[16, 4] * 10, 1], nn.Tanh), rows(2))
    assert [i for i, std in enumerate(stds) if std] == [1]
    assert stds[1] == pytest.approx(math.sqrt(0.5) * plan.predictions[1].signal, rel=0.1)
    stds, plan = noises(mlp([4, *[4] * 20, 1], nn.Tanh), rows(4))
    assert "as loud as one direction of the inputs, which vary in" in plan.choice[0]
    assert stds[0] == pytest.approx(math.sqrt(1 / 5) * plan.predictions[0].signal, rel=0.1)


class Convolved(nn.Sequential):
    """Sites, which a bias would move alike."""

    def __init__(self):
        super().__init__(nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1))


def test_what_has_many_directions_or_cannot_be_offset_is_left_alone():
    no_bias = mlp([2, *[16] * 20, 1], nn.Tanh)
    no_bias[0].bias = None
    cases = {
        "many directions": (mlp([64, *[16] * 20, 1], nn.Tanh), rows(64)),
        "no bias": (no_bias, rows(2)),
        "pairs": (mlp([2, *[16] * 60, 1], nn.ReLU), rows(2)),
        "at rest on a line": (mlp([64, *[4] * 60, 10], nn.ReLU), rows(64) @ rows(64, 64)),
        "one layer": (mlp([2, 1], nn.Tanh), rows(2)),
        "sites": (Convolved(), rows(2 * 64).reshape(-1, 2, 8, 8)),
    }
    for name, (model, x) in cases.items():
        assert not any(noises(model, x)[0]), name
    assert not any(noises(mlp([2, *[16] * 20, 1], nn.Tanh), rows(2), scheme="centred")[0])


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU])
def test_independent_layers_have_biases_for_few_directions_and_keep_their_level(act):
    def square_at(net, x, plan):
        found, draws = [0.0] * 3, 60
        for seed in range(draws):
            net.load_state_dict(draw_all(net, plan, seed), strict=False)
            with torch.no_grad():
                for i in range(3):
                    found[i] += float(net[: 2 * i + 1](x).square().mean()) / draws
        return found

    net, x = mlp([2, 64, 64, 64, 1], act), rows(2)
    stds, plan = noises(net, x)
    assert "hidden biases have a share of the energy" in plan.choice[0]
    assert all(stds[:3])
    assert stds[3] == 0.0
    seen = square_at(net, x, plan)
    for place, (square, share) in enumerate(zip(seen, (0.5, 0.25, 0.25), strict=True)):
        assert square == pytest.approx(plan.predictions[place].signal ** 2, rel=0.15)
        assert stds[place] ** 2 == pytest.approx(share * square, rel=0.15)
    net(x).square().mean().backward()
    grads = [float(layer.weight.grad.norm()) for layer in net if isinstance(layer, nn.Linear)]
    assert max(grads) < 10 * min(grads)
    assert not any(noises(mlp([64, 64, 64, 1], act), rows(64))[0])
    no_bias = mlp([2, 64, 64, 1], act)
    no_bias[2].bias = None
    assert not any(noises(no_bias, rows(2))[0])


def test_layers_of_few_units_whose_level_chance_hides_have_biases_too():
    net, x = mlp([2, *[6] * 4, 1], nn.ReLU), rows(2)
    assert any(math.isnan(p.signal) for p in eq.plan(net, x, "he").predictions[:-1])
    stds, _ = noises(net, x)
    assert all(0.1 < std < 1 for std in stds[:-1])


def test_rectifiers_of_few_directions_do_not_all_bend_at_one_input():
    net, x = mlp([1, 64, 64, 1], nn.ReLU), torch.linspace(-1, 1, 400)[:, None]
    plan = eq.plan(net, x)
    net.load_state_dict(draw_all(net, plan, 0), strict=False)
    kinks = (-net[0].bias / net[0].weight[:, 0]).detach()
    assert int((kinks.abs() < 1).sum()) > 16
    assert float(kinks.std()) > 0.1


def test_a_layer_that_feeds_residual_branches_has_a_constant():
    net, x, draws = residual_mlp(2, 16, 6, 3, nn.ReLU), rows(2), 40
    stds, plan = noises(net, x)
    assert stds[0] == pytest.approx(math.sqrt(0.5) * plan.predictions[0].signal, rel=0.1)
    assert not any(stds[1:])
    assert "all units would bend at one input" in " ".join(plan.choice)
    last = 0.0
    for seed in range(draws):
        net.load_state_dict(draw_all(net, plan, seed), strict=False)
        with torch.no_grad():
            last += float(net[:-1](x).square().mean()) / draws
    assert math.sqrt(last) == pytest.approx(1.0, rel=0.15)
    net(x).square().mean().backward()
    grads = [float(p.grad.norm()) for n, p in net.named_parameters() if n.endswith("0.weight")]
    assert max(grads) < 30 * min(grads)
    assert not any(noises(residual_mlp(64, 16, 6, 3, nn.ReLU), rows(64))[0])
