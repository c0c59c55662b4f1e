"""Going back to the last good state, and the learning rate behind it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.training.guard_rollback import RateCut, Snapshots, scaled_rates


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def step(model, guard, number, spoil=1.0):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(16, 4, generator=generator)
    guard.zero_grad()
    loss = (model(x) - x[:, :1]).square().mean() * spoil
    loss.backward()
    guard.step(loss=loss)
    return loss.item()


def state(model, optimizer):
    values = [v.clone() for v in model.state_dict().values()]
    held = optimizer.state_dict()["state"]
    return values + [torch.as_tensor(v).clone() for s in held.values() for v in s.values()]


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
    "fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("place", ["device", "cpu"])
@pytest.mark.parametrize("read_every", [1, 3])
def test_lasting_trouble_goes_back_to_the_last_snapshot(name, place, read_every):
    model = net()
    rule = eq.Rollback(every=10, patience=3, cut=0.25, recovery=4, place=place)
    guard = eq.Guard(
        OPTIMIZERS[name](model.parameters()), model=model, rollback=rule, read_every=read_every
    )
    for i in range(14):
        step(model, guard, i)
        if i == 9:
            kept = state(model, guard.optimizer)
    assert guard.rollbacks == 0
    for i in range(3):
        step(model, guard, 20 + i, math.nan)
    assert guard.rollbacks == 1
    now = state(model, guard.optimizer)
    assert len(now) == len(kept)
    assert all(torch.equal(a, b) for a, b in zip(now, kept, strict=True))
    found = guard.findings[-1]
    assert found.code == "rolled-back"
    assert "state of step 10" in found.what
    assert "3 steps in a row were not finite" in found.what
    assert guard.rate_factor == 0.25
    # That of the start has no state of the optimizer yet.
    values = sum(v.nbytes for v in model.state_dict().values())
    assert guard.snapshot_bytes == values + sum(v.nbytes for v in kept)


def test_the_cut_rate_is_used_and_recovers_and_schedules_never_see_it():
    model, hand = net(), net()
    rule = eq.Rollback(every=100, patience=1, cut=0.25, recovery=4)
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.1), None, model=model, rollback=rule)
    schedule = torch.optim.lr_scheduler.ExponentialLR(guard, 0.5)
    step(model, guard, 0, math.nan)
    schedule.step()
    factors = [0.25, 0.25**0.75, 0.25**0.5, 0.25**0.25, 1.0, 1.0]
    rates = [0.1 * 0.5 ** (i + 1) * factor for i, factor in enumerate(factors)]
    plain = torch.optim.SGD(hand.parameters(), 0.1)
    for i, rate in enumerate(rates):
        step(model, guard, i)
        schedule.step()
        plain.param_groups[0]["lr"] = rate
        plain.zero_grad()
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(i))
        (hand(x) - x[:, :1]).square().mean().backward()
        plain.step()
        for p, q in zip(model.parameters(), hand.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    assert guard.history["rate_factor"].tolist() == pytest.approx([1.0, *factors])
    assert guard.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**7)


def test_trouble_that_comes_back_goes_farther_back_and_lower():
    model = net()
    rule = eq.Rollback(every=5, keep=2, patience=1, cut=0.25, recovery=100)
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.1), model=model, rollback=rule)
    snapshots = []
    for i in range(12):
        step(model, guard, i)
        if i in (4, 9):
            snapshots.append(model[0].weight.clone())
    step(model, guard, 12, math.inf)
    assert torch.equal(model[0].weight, snapshots[1])
    step(model, guard, 13, math.inf)
    assert torch.equal(model[0].weight, snapshots[0])
    step(model, guard, 14, math.inf)
    assert torch.equal(model[0].weight, snapshots[0])
    assert guard.rollbacks == 3
    assert guard.rate_factor == pytest.approx(0.25**3, rel=0.1)


def test_no_snapshot_is_taken_in_trouble():
    model = net()
    rule = eq.Rollback(every=5, patience=4)
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.1), model=model, rollback=rule)
    for i in range(4):
        step(model, guard, i)
    step(model, guard, 4, math.nan)
    step(model, guard, 5)
    for i in range(4):
        step(model, guard, i, math.nan)
    # Step 5 was skipped, so that what is gone back to is the start.
    assert "state of step 0" in guard.findings[-1].what
    fresh = net()
    assert torch.equal(model[0].weight, fresh[0].weight)
    assert not guard.optimizer.state


def test_a_loss_that_runs_away_goes_back():
    model = net()
    rule = eq.Rollback(every=10, patience=3, cut=0.1)
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.05), None, model=model, rollback=rule)
    losses = [step(model, guard, i) for i in range(45)]
    # One bad batch is no reason.
    losses.append(step(model, guard, 99, 100.0))
    assert guard.rollbacks == 0
    model[3].weight.data.mul_(30.0)
    for i in range(3):
        losses.append(step(model, guard, 50 + i, 1e-0))
    assert guard.rollbacks == 1
    codes = [f.code for f in guard.findings]
    assert codes[-2:] == ["loss-spike", "rolled-back"]
    assert step(model, guard, 60) < 2 * np.median(losses[30:45])


def test_without_rollback_a_loss_that_runs_away_is_said():
    model = net()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.01), None, model=model)
    for i in range(40):
        step(model, guard, i)
    model[3].weight.data.mul_(30.0)
    for i in range(3):
        step(model, guard, 50 + i)
    said = [f for f in guard.findings if f.code == "loss-spike"]
    assert len(said) == 1
    assert "rollback" in said[0].remedy
    assert guard.rollbacks == guard.snapshot_bytes == 0


def test_a_state_is_loaded_before_a_snapshot_of_it():
    model = net()
    rule = eq.Rollback(every=100, patience=1)
    guard = eq.Guard(torch.optim.Adam(model.parameters(), 1e-2), model=model, rollback=rule)
    for i in range(3):
        step(model, guard, i)
    step(model, guard, 3, math.nan)
    saved, weights = guard.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    other = net(1)
    second = eq.Guard(torch.optim.Adam(other.parameters(), 1e-2), model=other, rollback=rule)
    step(other, second, 7)
    second.load_state_dict(saved)
    other.load_state_dict(weights)
    assert second.rate_factor == guard.rate_factor == 0.5
    assert second.rollbacks == 1
    step(other, second, 5, math.nan)
    assert torch.equal(other[0].weight, weights["0.weight"])


def test_the_rate_that_failed_is_not_reached_again():
    rule = eq.Rollback(cut=0.5, recovery=10)
    rate = RateCut().after_trouble(rule)
    assert (rate.factor, rate.ceiling) == (0.5, 1.0)
    for _ in range(5):
        rate = rate.after_step(rule)
    failed = rate.factor
    rate = rate.after_trouble(rule)
    for _ in range(50):
        rate = rate.after_step(rule)
    assert rate.factor == rate.ceiling == pytest.approx(failed * 0.5**0.5)
    # Long after, it is trouble of its own.
    late = rate.after_trouble(rule)
    assert late.ceiling == rate.ceiling
    held = RateCut().after_trouble(eq.Rollback(recovery=0)).after_step(eq.Rollback(recovery=0))
    assert held.factor == 0.5
    assert RateCut().after_step(rule) == RateCut()


def test_rates_are_put_back_even_by_an_error():
    groups = [{"lr": 0.1}, {"lr": 0.2}, {}]
    seen = []

    def fail():
        with scaled_rates(groups, 0.5):
            seen.extend(g.get("lr") for g in groups)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [0.05, 0.1, None]
    assert groups == [{"lr": 0.1}, {"lr": 0.2}, {}]


def test_states_that_are_no_tensors_go_back_too():
    p = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([p], 0.1)
    optimizer.state[p] = {"count": 1, "note": [1], "old": torch.ones(2)}
    snapshots = Snapshots(eq.Rollback(), [optimizer], [p])
    with torch.no_grad():
        snapshots.take(3, {})
        optimizer.state[p].update(count=7, extra=torch.ones(1), old=torch.zeros(3))
        optimizer.state[p]["note"].append(2)
        found = snapshots.go_back()
    assert found.step == 3
    held = optimizer.state[p]
    assert (held["count"], held["note"], held["old"].tolist()) == (1, [1], [1.0, 1.0])
    assert "extra" not in held


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"every": 0}, "every"), ({"keep": 0}, "keep"), ({"patience": 0}, "patience"),
        ({"cut": 0.0}, "cut"), ({"cut": 1.5}, "cut"), ({"recovery": -1}, "recovery"),
        ({"place": "disk"}, "place"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(options, name):
    with pytest.raises(ArgumentError, match=f"{name} must be"):
        eq.Rollback(**options)
