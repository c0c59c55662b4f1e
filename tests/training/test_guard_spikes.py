"""Updates and losses out of scale."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.training.guard_spikes import LossWindow, Updates, UpdateWindow


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 3)
    )


def step(model, guard, number, scale=1.0):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(12, 1, 6, 6, generator=generator)
    y = torch.randint(3, (12,), generator=generator)
    guard.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    (scale * loss).backward()
    guard.step(loss=loss)


def test_all_entries_give_the_norm_itself():
    model = net()
    model[0].weight.data = model[0].weight.data.to(memory_format=torch.channels_last)
    watch = Updates(eq.Spikes(sample=0), list(model.parameters()))
    watch.begin()
    before = [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    expected = [(p - b).norm() for p, b in zip(model.parameters(), before, strict=True)]
    torch.testing.assert_close(watch.end(), torch.stack(expected).detach())


def test_a_sample_gives_it_within_its_error():
    torch.manual_seed(0)
    ps = [torch.randn(300, 256), torch.randn(7), torch.randn(64, 32, 3, 3), torch.zeros(0, 3),
          torch.randn(40, 50).T, torch.randn(100, 80)[::2, ::2]]  # fmt: skip
    watch = Updates(eq.Spikes(sample=1024), ps)
    for _ in range(3):
        watch.begin()
        moves = [torch.randn_like(p) for p in ps]
        for p, m in zip(ps, moves, strict=True):
            p.add_(m)
        found = watch.end()
        for norm, m in zip(found, moves, strict=True):
            # Of n Gaussian entries, a norm is known to 1 / sqrt(2 n).
            assert norm.item() == pytest.approx(m.norm().item(), rel=4 / math.sqrt(2 * 1024))
    assert found[3] == 0.0


def test_a_sample_meets_every_column():
    p = torch.zeros(512, 64)
    watch = Updates(eq.Spikes(sample=1024), [p])
    for column in range(64):
        watch.begin()
        p[:, column] += 1.0
        assert watch.end().item() == pytest.approx(math.sqrt(512), rel=0.2)


def test_weights_whose_memory_is_exchanged():
    model = nn.Linear(4, 4)
    watch = Updates(eq.Spikes(), [model.weight])
    watch.begin()
    watch.end()
    model.weight.data = torch.ones(4, 4)
    watch.begin()
    model.weight.data.add_(1.0)
    assert watch.end().item() == pytest.approx(4.0)


def test_a_wild_rate_is_a_spike_at_once_and_the_rate_is_blamed():
    model = net()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.01), None, model=model)
    for i in range(60):
        step(model, guard, i)
    assert not guard.findings
    guard.param_groups[0]["lr"] = 1.0
    step(model, guard, 60)
    (found,) = guard.findings
    assert found.code == "update-spike"
    assert "the learning rate rose 100 times" in found.what
    assert "step 61" in found.what


def test_one_bad_layer_is_named():
    model = net()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.01), None, model=model)
    for i in range(60):
        step(model, guard, i)
    handle = model[3].weight.register_hook(lambda g: 60 * g)
    step(model, guard, 60)
    handle.remove()
    (found,) = guard.findings
    assert (found.code, found.where) == ("update-spike", "3.weight")
    assert "loss" in found.what
    # The same row of spikes is said once.
    for i in range(20):
        step(model, guard, 70 + i)
    assert len(guard.findings) == 1


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
                                  lambda p: torch.optim.Adam(p, 3e-3)])  # fmt: skip
def test_healthy_runs_raise_no_alarm(make):
    for seed in range(2):
        torch.manual_seed(seed)
        model = net()
        guard = eq.Guard(make(model.parameters()), None, model=model)
        schedule = torch.optim.lr_scheduler.OneCycleLR(guard, 0.05, total_steps=110)
        for i in range(100):
            step(model, guard, 1000 * seed + i)
            schedule.step()
        assert [f.code for f in guard.findings] == []


def test_windows_against_plain_numbers():
    rng = np.random.default_rng(0)
    rule = eq.Spikes(window=16, threshold=5.0, factor=2.0, warmup=10)
    window, kept = UpdateWindow(rule, 1), []
    spikes = 0
    for i in range(80):
        u = float(rng.lognormal(sigma=0.1)) * (6.0 if i in (40, 70) else 1.0)
        found = window.judge(np.array([u]))
        if i >= 10:
            logs = np.log(kept[-16:])
            median = np.median(logs)
            z = (np.log(u) - median) / max(1.4826 * np.median(np.abs(logs - median)), 0.05)
            is_spike = z > 5.0 and np.log(u) - median > np.log(2.0)
            # The window is read anew every 8 steps only, which may tell by a little.
            assert (found is not None) == is_spike
            spikes += is_spike
            if found:
                assert found.median == pytest.approx(np.exp(median), rel=0.1)
        kept.append(u)
    assert spikes == 2


def test_losses_may_be_negative():
    window = LossWindow(eq.Spikes(window=16, warmup=8, threshold=6.0))
    rng = np.random.default_rng(0)
    assert not any(window.judge(-3.0 + 0.1 * rng.normal()) for _ in range(40))
    median, z = window.judge(5.0)
    assert median == pytest.approx(-3.0, abs=0.1)
    assert z > 6.0


def test_a_run_that_dies_at_once():
    window = LossWindow(eq.Spikes())
    assert not any(window.judge(x) for x in (2.3, 2.5, 2.2, 2.4, 2.6, 2.9))
    # The range is 0.7 and the median 2.45.
    assert window.judge(2.45 + 8 * 0.7 - 0.1) is None
    other = LossWindow(eq.Spikes())
    for x in (2.3, 2.5, 2.2, 2.4):
        other.judge(x)
    centre, z = other.judge(9.0)
    assert centre == pytest.approx(2.35)
    # A quarter of the median is more than the range of 0.3.
    assert z == pytest.approx((9.0 - 2.35) / (0.25 * 2.35))


def test_a_layer_that_is_thawed_is_no_spike():
    model = net()
    model[3].weight.requires_grad_(False)
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.01), None, model=model)
    for i in range(40):
        step(model, guard, i)
    model[3].weight.requires_grad_(True)
    step(model, guard, 40)
    assert not guard.findings


def test_nobody_looks():
    model = net()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.01), None, spikes=None)
    for i in range(30):
        step(model, guard, i)
    guard.param_groups[0]["lr"] = 10.0
    step(model, guard, 30)
    assert not guard.findings
    assert np.isnan(guard.history["update_norm"]).all()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"window": 7}, "window"), ({"threshold": 0.0}, "threshold"), ({"factor": 1.0}, "factor"),
        ({"warmup": 1}, "warmup"), ({"sample": -1}, "sample"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(options, name):
    with pytest.raises(ArgumentError, match=f"{name}.* must be"):
        eq.Spikes(**options)
