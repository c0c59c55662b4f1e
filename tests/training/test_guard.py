"""A guarded training against the same training written out by hand."""

import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import equipoise.torch as eq
from equipoise.errors import ArgumentError

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adamw, fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
    "sgd, fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3),
}


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 16), nn.GELU(),
        nn.Linear(16, 3),
    )  # fmt: skip


def batch(step, rows=8):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(rows, 6, generator=generator), torch.randint(3, (rows,), generator=generator)


def loss_of(model, step, rows=8):
    x, y = batch(step, rows)
    return nn.functional.cross_entropy(model(x), y)


def same(model, other):
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("read_every", [1, 4])
def test_a_clipped_training_is_the_one_by_hand(name, read_every):
    mine, hand = net(), net()
    guard = eq.Guard(
        OPTIMIZERS[name](mine.parameters()), eq.GlobalNorm(0.5), model=mine, read_every=read_every
    )
    plain = OPTIMIZERS[name](hand.parameters())
    norms, limits = [], 0
    for step in range(25):
        guard.zero_grad()
        loss = loss_of(mine, step)
        loss.backward()
        guard.step(loss=loss)
        plain.zero_grad()
        loss_of(hand, step).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.5).item())
        limits += norms[-1] > 0.5
        plain.step()
        same(mine, hand)
    np.testing.assert_allclose(guard.history["gradient_norm"], norms)
    assert guard.history["step"].tolist() == list(range(1, 26))
    assert (guard.steps, guard.skipped) == (25, 0)
    assert guard.clipped_share == limits / 25
    assert 0 < limits < 25


def test_value_then_norm():
    mine, hand = net(), net()
    rules = (eq.Value(0.05), eq.GlobalNorm(0.3))
    guard = eq.Guard(torch.optim.SGD(mine.parameters(), 0.1), rules)
    plain = torch.optim.SGD(hand.parameters(), 0.1)
    for step in range(5):
        guard.zero_grad()
        loss_of(mine, step).backward()
        guard.step()
        plain.zero_grad()
        loss_of(hand, step).backward()
        torch.nn.utils.clip_grad_value_(hand.parameters(), 0.05)
        torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.3)
        plain.step()
        same(mine, hand)
    assert guard.clipped_share == 1.0
    assert np.isnan(guard.history["loss"]).all()


def test_rules_by_name_and_parameters_left_out():
    mine, hand = net(), net()
    clip = {"0.*": eq.GlobalNorm(0.1), "5.*": eq.Value(1e-3), "*": eq.GlobalNorm(0.2)}
    guard = eq.Guard(
        torch.optim.SGD(mine.parameters(), 0.1), clip, model=mine,
        exclude=["1.*", lambda name, p: name == "3.bias"],
    )  # fmt: skip
    plain = torch.optim.SGD(hand.parameters(), 0.1)
    for step in range(3):
        guard.zero_grad()
        loss_of(mine, step).backward()
        guard.step()
        plain.zero_grad()
        loss_of(hand, step).backward()
        torch.nn.utils.clip_grad_norm_(hand[0].parameters(), 0.1)
        torch.nn.utils.clip_grad_value_(hand[5].parameters(), 1e-3)
        torch.nn.utils.clip_grad_norm_([hand[3].weight], 0.2)
        plain.step()
        same(mine, hand)


def test_frozen_and_unused_parameters():
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.1), eq.GlobalNorm(0.1))
    for step in range(3):
        guard.zero_grad()
        loss_of(model, step).backward()
        guard.step()
    assert torch.equal(model[0].weight, before)
    guard.zero_grad()
    guard.step()
    assert guard.history["gradient_norm"][-1] == 0.0


def test_accumulated_gradients_are_clipped_once():
    mine, hand = net(), net()
    guard = eq.Guard(torch.optim.Adam(mine.parameters(), 1e-2), eq.GlobalNorm(0.2), model=mine)
    plain = torch.optim.Adam(hand.parameters(), 1e-2)
    for step in range(5):
        guard.zero_grad()
        plain.zero_grad()
        losses = []
        for part in range(4):
            loss = loss_of(mine, 10 * step + part) / 4
            loss.backward()
            guard.observe(4 * loss)
            losses.append(4 * loss.item())
            (loss_of(hand, 10 * step + part) / 4).backward()
        torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.2)
        guard.step()
        plain.step()
        same(mine, hand)
        assert guard.history["loss"][-1] == pytest.approx(sum(losses) / 4)


@pytest.mark.parametrize("name", ["adam", "adamw, fused"])
@pytest.mark.parametrize("is_unscaled_before", [False, True])
def test_a_scaler_unscales_once_before_clipping(name, is_unscaled_before):
    mine, hand = net(), net()
    guard = eq.Guard(OPTIMIZERS[name](mine.parameters()), eq.GlobalNorm(0.3), model=mine)
    plain = OPTIMIZERS[name](hand.parameters())
    # A scale that is no power of 2 shows which way it is divided by.
    scalers = [torch.amp.GradScaler("cpu", init_scale=3000.0, growth_interval=4) for _ in "ab"]
    for step in range(12):
        factor = 1e36 if step in (3, 4, 8) else 1.0
        guard.zero_grad()
        scalers[0].scale(factor * loss_of(mine, step)).backward()
        if is_unscaled_before:
            scalers[0].unscale_(guard)
        scalers[0].step(guard)
        scalers[0].update()
        plain.zero_grad()
        scalers[1].scale(factor * loss_of(hand, step)).backward()
        scalers[1].unscale_(plain)
        torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.3)
        scalers[1].step(plain)
        scalers[1].update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
        same(mine, hand)
    assert guard.skipped == 3
    assert scalers[0].get_scale() != 3000.0
    found = [f for f in guard.findings if f.code == "non-finite-gradient"]
    # 3 and 4 are one row of skipped steps.
    assert len(found) == 2
    assert all(f.severity == "info" and "lowers the loss scale" in f.remedy for f in found)


def test_a_scaler_that_is_off():
    model = net()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.1), eq.GlobalNorm(0.3))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss = loss_of(model, 0)
    scaler.scale(loss).backward()
    scaler.step(guard, loss=loss)
    scaler.update()
    assert guard.history["loss"][0] == pytest.approx(loss.item())


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=3),
                torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [3]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_inner", [False, True])
def test_schedules_go_on(make, is_inner):
    mine, hand = net(), net()
    inner = torch.optim.SGD(mine.parameters(), 0.1, momentum=0.9)
    guard = eq.Guard(inner, eq.GlobalNorm(1.0), model=mine)
    plain = torch.optim.SGD(hand.parameters(), 0.1, momentum=0.9)
    schedules = [make(inner if is_inner else guard), make(plain)]
    for step in range(10):
        guard.zero_grad()
        loss_of(mine, step).backward()
        guard.step()
        schedules[0].step()
        plain.zero_grad()
        loss_of(hand, step).backward()
        torch.nn.utils.clip_grad_norm_(hand.parameters(), 1.0)
        plain.step()
        schedules[1].step()
        same(mine, hand)
    assert schedules[0].get_last_lr() == schedules[1].get_last_lr()


def test_a_plateau_schedule():
    guard = eq.Guard(torch.optim.SGD(net().parameters(), 0.1))
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(guard, patience=0, factor=0.5)
    for _ in range(3):
        schedule.step(1.0)
    assert guard.param_groups[0]["lr"] == guard.optimizer.param_groups[0]["lr"] == 0.025


def test_a_closure_is_evaluated_once():
    mine, hand = net(), net()
    guard = eq.Guard(torch.optim.SGD(mine.parameters(), 0.1), eq.GlobalNorm(0.1))
    plain = torch.optim.SGD(hand.parameters(), 0.1)
    calls = []

    def closure():
        guard.zero_grad()
        loss = loss_of(mine, 0)
        loss.backward()
        calls.append(loss)
        return loss

    out = guard.step(closure)
    assert calls == [out]
    assert guard.history["loss"].tolist() == pytest.approx([out.item()])
    loss_of(hand, 0).backward()
    torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.1)
    plain.step()
    same(mine, hand)


def test_several_optimizers_share_one_norm():
    mine, hand = net(), net()
    parts = lambda m: (  # noqa: E731
        torch.optim.SGD(m[:3].parameters(), 0.1), torch.optim.Adam(m[3:].parameters(), 1e-2),
    )  # fmt: skip
    guard = eq.Guard(parts(mine), eq.GlobalNorm(0.2), model=mine)
    plain = parts(hand)
    schedule = torch.optim.lr_scheduler.StepLR(guard, 2, 0.5)
    for step in range(6):
        guard.zero_grad()
        loss_of(mine, step).backward()
        guard.step()
        schedule.step()
        for one in plain:
            one.zero_grad()
        loss_of(hand, step).backward()
        torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.2)
        for one in plain:
            one.step()
            if step % 2:
                one.param_groups[0]["lr"] *= 0.5
        same(mine, hand)
    assert len(guard.param_groups) == 2
    assert len(guard.state) == len(list(mine[3:].parameters()))
    other = eq.Guard(parts(mine), eq.GlobalNorm(0.2))
    other.load_state_dict(guard.state_dict())
    assert other.steps == 6
    with pytest.raises(ArgumentError, match="state_dict must be of 2 optimizers, got 1"):
        other.load_state_dict(plain[0].state_dict())


@pytest.mark.parametrize("rule", [eq.Percentile(30.0, window=8), eq.ZScore(0.3, warmup=4)])
def test_state_is_saved_with_the_optimizer(rule):
    """A run that is stopped and goes on is the run that was not stopped."""

    def go_on(guard, model, steps):
        for step in steps:
            guard.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            guard.step(loss=loss)

    whole, first = net(), net()
    one = eq.Guard(torch.optim.Adam(whole.parameters(), 1e-2), rule, model=whole)
    go_on(one, whole, range(20))
    two = eq.Guard(torch.optim.Adam(first.parameters(), 1e-2), rule, model=first)
    go_on(two, first, range(11))
    kept = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": two.state_dict()}, kept)
    kept.seek(0)
    held = torch.load(kept, weights_only=True)
    second = net(5)
    second.load_state_dict(held["model"])
    three = eq.Guard(torch.optim.Adam(second.parameters(), 1e-2), rule, model=second)
    three.load_state_dict(held["optimizer"])
    assert three.steps == 11
    go_on(three, second, range(11, 20))
    same(whole, second)
    assert three.clipped_share == one.clipped_share > 0


def test_checkpoints_with_and_without_a_guard_fit():
    model = net()
    guard = eq.Guard(torch.optim.Adam(model.parameters(), 1e-2))
    loss_of(model, 0).backward()
    guard.step()
    plain = torch.optim.Adam(model.parameters(), 1e-2)
    plain.load_state_dict(guard.state_dict())
    assert torch.equal(plain.state[model[0].weight]["exp_avg"],
                       guard.state[model[0].weight]["exp_avg"])  # fmt: skip
    fresh = eq.Guard(torch.optim.Adam(model.parameters(), 1e-2))
    fresh.load_state_dict(plain.state_dict())
    assert fresh.steps == 0
    # Rules that differ start anew.
    other = eq.Guard(torch.optim.Adam(model.parameters(), 1e-2), eq.Percentile())
    other.load_state_dict(guard.state_dict())
    other.step()
    assert other.steps == 2


def test_hooks_of_an_optimizer():
    model = net()
    inner = torch.optim.SGD(model.parameters(), 0.1)
    guard = eq.Guard(inner)
    seen = []
    guard.register_step_pre_hook(lambda *_: seen.append("before"))
    inner.register_step_post_hook(lambda *_: seen.append("moved"))
    guard.register_step_post_hook(lambda *_: seen.append("after"))
    guard.register_state_dict_pre_hook(lambda *_: seen.append("to save"))
    guard.register_state_dict_post_hook(lambda g, s: {**s, "extra": 1})
    guard.register_load_state_dict_pre_hook(
        lambda g, s: {k: v for k, v in s.items() if k != "extra"}
    )
    guard.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    loss_of(model, 0).backward()
    guard.step()
    state = guard.state_dict()
    guard.load_state_dict(state)
    assert state["extra"] == 1
    assert seen == ["before", "moved", "after", "to save", "loaded"]


def test_parameters_that_are_added_later():
    model, head = net(), nn.Linear(3, 3)
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.1), eq.GlobalNorm(0.1))
    loss_of(model, 0).backward()
    guard.step()
    guard.add_param_group({"params": list(head.parameters())})
    guard.zero_grad()
    x, y = batch(1)
    nn.functional.cross_entropy(100 * head(model(x)), y).backward()
    both = [*model.parameters(), *head.parameters()]
    norm = torch.nn.utils.get_total_norm([p.grad for p in both])
    before = head.weight.clone()
    guard.step()
    assert guard.history["gradient_norm"][1] == pytest.approx(norm.item())
    moved = torch.nn.utils.get_total_norm([p.grad for p in both])
    assert moved.item() == pytest.approx(0.1, rel=1e-4)
    assert not torch.equal(head.weight, before)
    assert guard.steps == 2


@pytest.mark.parametrize("pass_compiled", [True, False])
def test_compiled_models(pass_compiled):
    mine, hand = net(), net()
    compiled = torch.compile(mine, backend="aot_eager")
    guard = eq.Guard(
        torch.optim.SGD(mine.parameters(), 0.1), eq.GlobalNorm(0.3),
        model=compiled if pass_compiled else mine,
    )  # fmt: skip
    plain = torch.optim.SGD(hand.parameters(), 0.1)
    for step in range(4):
        guard.zero_grad()
        loss = loss_of(compiled, step)
        loss.backward()
        guard.step(loss=loss)
        plain.zero_grad()
        loss_of(hand, step).backward()
        torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.3)
        plain.step()
    for p, q in zip(mine.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    x, _ = batch(0)
    x[0, 0] = math.nan
    loss = compiled(x).sum()
    loss.backward()
    guard.step(loss=loss)
    assert guard.skipped == 1
    if pass_compiled:
        assert guard.findings[-1].where == "inputs"


class Reads(TorchDispatchMode):
    """Counts how often a number of a tensor is asked for, where a device would be waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "rule",
    [eq.GlobalNorm(0.3), eq.Value(0.01), eq.PerLayer(0.1), eq.PerUnit(), eq.Percentile(),
     eq.ZScore(warmup=2)],
)  # fmt: skip
def test_nothing_asks_for_a_number_where_the_optimizer_can_skip(rule):
    model = net()
    guard = eq.Guard(
        torch.optim.AdamW(model.parameters(), 1e-2, fused=True), rule, model=model, read_every=50
    )
    for step in range(6):
        guard.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        with Reads() as reads:
            guard.step(loss=loss)
        # The first step makes the optimizer's state and is decided on the host.
        if step:
            assert reads.count == 0
    assert guard.steps == 6


@pytest.mark.parametrize("name", ["adamw, fused", "sgd, fused"])
def test_a_step_that_is_skipped_on_the_device(name):
    model = net()
    guard = eq.Guard(OPTIMIZERS[name](model.parameters()), model=model, read_every=4)
    for step in range(9):
        guard.zero_grad()
        loss = loss_of(model, step) * (math.nan if step == 5 else 1.0)
        loss.backward()
        before = [p.clone() for p in model.parameters()]
        state = copy.deepcopy(guard.state_dict()["state"]) if step == 5 else None
        guard.step(loss=loss)
        is_same = all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert is_same == (step == 5)
        if state is not None:
            now = guard.optimizer.state_dict()["state"]
            assert all(torch.equal(now[i][k], v) for i in state for k, v in state[i].items())
    assert guard.skipped == 1
    assert guard.history["skipped"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert guard.history["update_norm"][5] == 0.0
    assert [f.code for f in guard.findings] == ["non-finite-gradient"]


def test_history_is_bounded():
    model = net()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.01), capacity=7)
    for step in range(20):
        guard.zero_grad()
        loss_of(model, step).backward()
        guard.step()
    assert guard.history["step"].tolist() == list(range(14, 21))
    assert guard.steps == 20
    assert "Guard(SGD, 20 steps, 0 skipped)" == repr(guard)


def test_copies():
    model = net()
    guard = eq.Guard(torch.optim.Adam(model.parameters(), 1e-2), model=model)
    loss_of(model, 0).backward()
    guard.step()
    other_model, other = copy.deepcopy((model, guard))
    third_model, third = pickle.loads(pickle.dumps((model, guard)))
    for m, g in ((model, guard), (other_model, other), (third_model, third)):
        g.zero_grad()
        loss_of(m, 1).backward()
        g.step()
    same(model, other_model)
    same(model, third_model)
    assert third.steps == 2


def test_a_limit_that_is_always_met_deserves_a_word():
    model = net()
    said = []
    guard = eq.Guard(
        torch.optim.SGD(model.parameters(), 1e-3), eq.GlobalNorm(1e-3), on_finding=said.append
    )
    for step in range(220):
        guard.zero_grad()
        loss_of(model, step).backward()
        guard.step()
    assert [f.code for f in said] == ["clips-always"]
    assert f"{np.median(guard.history['gradient_norm'][:200]):.3g}" in said[0].remedy


class Demanding(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: eq.Guard(torch.optim.LBFGS(p)), "optimizer must step without a closure.*LBFGS"),
        (lambda p: eq.Guard(Demanding(p)), "optimizer must step without a closure"),
        (lambda p: eq.Guard(p), "optimizer must be a torch.optim.Optimizer.*Parameter"),
        (lambda p: eq.Guard(torch.optim.SGD(p), capacity=0), "capacity must be"),
        (lambda p: eq.Guard(torch.optim.SGD(p), read_every=0), "read_every must be"),
        (lambda p: eq.Guard(torch.optim.SGD(p), exclude="a.*"), "model must be given"),
        (lambda p: eq.Guard(torch.optim.SGD(p), {"a": eq.Value()}), "model must be given"),
        (lambda p: eq.Guard(torch.optim.SGD(p), model=net(), exclude="head.*"), "exclude must fit"),
        (lambda p: eq.Guard(torch.optim.SGD(p), {"q": eq.Value()}, model=net()), "clip must fit"),
        (lambda p: eq.Guard(torch.optim.SGD(p)).step(loss=torch.ones(2)), "loss must be one"),
    ],
)
def test_what_cannot_be_guarded_is_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make(list(net().parameters()))


def test_names_that_the_optimizer_was_given():
    model = net()
    guard = eq.Guard(
        torch.optim.SGD(model.named_parameters(), 0.1), eq.GlobalNorm(1e-9), exclude="*.bias"
    )
    loss_of(model, 0).backward()
    before = {name: p.clone() for name, p in model.named_parameters()}
    guard.step()
    for name, p in model.named_parameters():
        assert (p - before[name]).norm().item() > 1e-6 or name.endswith("weight")


def test_a_tensor_for_a_rate():
    model = net()
    rate = torch.tensor(0.1)
    guard = eq.Guard(torch.optim.Adam(model.parameters(), rate), eq.GlobalNorm())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_of(model, 0).backward()
        guard.step()
    assert guard.param_groups[0]["lr"] is rate
