"""Stacks that are planned apart and followed as one, against networks drawn in full."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import equipoise.torch as eq  # noqa: E402
from equipoise.plan.make import make_plan  # noqa: E402
from equipoise.plan.stacks import find_chains, find_stacks  # noqa: E402
from equipoise.torch.inputs import read_inputs  # noqa: E402
from equipoise.torch.trace import trace  # noqa: E402

nn = torch.nn


def depthwise():
    layers = [nn.Conv1d(4, 8, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [
            nn.Conv1d(8, 8, 3, padding=1, groups=8),
            nn.ReLU(),
            nn.Conv1d(8, 8, 1),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))


def in_groups():
    layers = [nn.Conv1d(4, 8, 3, padding=1), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv1d(8, 8, 3, padding=1, groups=4), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def transposed():
    layers = [nn.Conv1d(4, 8, 3, padding=1), nn.ReLU()]
    for _ in range(2):
        layers += [nn.ConvTranspose1d(8, 8, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("scheme", ["auto", "orthogonal", "sampled(draws=4)"])
@pytest.mark.parametrize("make", [depthwise, in_groups, transposed])
def test_medians_and_spreads_of_signal_and_gradient_are_those_of_draws(make, scheme):
    torch.manual_seed(0)
    x = torch.randn(16, 4, 12, dtype=torch.float64)
    model = make().double()
    plan = eq.plan(model, x, scheme)
    layers = [m for m in model if hasattr(m, "weight")]
    assert len({p.stack for p in plan.predictions}) == 1
    seen, count = [], 150
    for seed in range(count):
        model.load_state_dict(
            {a.parameter: torch.from_numpy(plan.draw(a.parameter, seed)) for a in plan.assignments}
        )
        made, hooks = [], []
        for layer in layers:
            hooks.append(layer.register_forward_hook(lambda m, i, o, made=made: made.append(o)))
        output = model(x)
        gradients = torch.autograd.grad(output, made, torch.randn_like(output))
        logs = [[float(v.detach().square().mean().sqrt().log()) for v in values]
                for values in (made, gradients)]  # fmt: skip
        for hook in hooks:
            hook.remove()
        seen.append([logs[0], np.array(logs[1]) - logs[1][-1]])
    signal, gradient = np.moveaxis(np.array(seen), 1, 0)
    for i, p in enumerate(plan.predictions):
        for found, typical, std, doubt in (
            (signal[:, i], p.signal, p.log_std, 0.1),
            (gradient[:, i], p.gradient, p.gradient_log_std, 0.4),
        ):
            # Of ReLU units behind narrow groups some draws die whole.
            spread = found[np.isfinite(found)].std(ddof=1)
            error = 1.25 * spread / math.sqrt(count)
            if math.isfinite(typical):
                assert abs(np.median(found) - math.log(typical)) < 4 * error + doubt
            # Both sides are sampled, from 24 draws at least.
            assert abs(spread - std) < 4 * spread * math.sqrt(1 / (2 * count) + 1 / 48) + 0.01
    assert max(p.log_std for p in plan.predictions) > 0.05


def test_a_level_behind_pooling_between_stacks_is_followed():
    torch.manual_seed(0)
    x = torch.randn(32, 4, 12)
    made = [
        eq.initialize(depthwise(), x, output_rms=5.0, generator=torch.Generator().manual_seed(s))
        for s in range(12)
    ]
    assert not any("is not known" in note for note in made[0].plan.notes)
    outputs = [math.log(r.measurements.layers[-1].signal / 5.0) for r in made]
    error = 1.25 * made[0].plan.predictions[-1].log_std / math.sqrt(len(made))
    assert abs(np.median(outputs)) < 4 * error + 0.4


def test_of_a_chain_that_is_too_large_nothing_is_told_behind_its_first_stack():
    wide = [m for _ in range(3) for m in (nn.Conv2d(256, 256, 3, padding=1, groups=2), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.ReLU(), *wide)
    plan = eq.plan(model, torch.randn(4, 3, 40, 40))
    first, *rest = plan.predictions
    assert first.signal > 0
    assert all(math.isnan(p.signal) and math.isnan(p.log_std) for p in rest)
    assert all(math.isnan(p.gradient) for p in plan.predictions)
    assert any("behind its first stack nothing is expected" in note for note in plan.notes)


def test_chains_join_what_only_laws_keep_apart():
    x = torch.randn(16, 4, 12)
    traced = trace(depthwise(), read_inputs(depthwise(), x))
    (chain,) = find_chains(traced)
    stacks = find_stacks(traced)
    assert len(stacks) > 1
    assert chain.affines == tuple(a for stack in stacks for a in stack.affines)
    assert (chain.exit_value, chain.is_last) == (stacks[-1].exit_value, True)
    assert len(find_chains(traced, frozenset({"2.weight"}))) == 3
    assert len(make_plan(traced).outlook) == 1


def test_behind_a_frozen_weight_only_what_is_measured_is_expected():
    model = depthwise()
    model[2].weight.requires_grad_(False)
    x = torch.randn(16, 4, 12)
    before, frozen, *after = eq.plan(model, x).predictions
    assert before.signal > 0
    assert math.isnan(frozen.signal)
    assert after[0].signal == pytest.approx(1.0, rel=0.1)
    _, frozen, *after = eq.plan(model.to("meta"), x.to("meta")).predictions
    assert all(math.isnan(p.signal) for p in (frozen, *after))
    assert frozen.stack not in (before.stack, after[0].stack)
