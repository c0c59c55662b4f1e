"""The range test: always an answer, never a trace, and a curve that is not shifted."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.training.objective import Objective, read_batches
from equipoise.training.one_step import Stepper, group_shares, own_rate
from equipoise.training.rate_curve import read_curve
from equipoise.training.rate_sweep import RateCurve, losses_at_birth, sweep
from equipoise.training.rate_verdict import judge


def task(seed=0, rows=256):
    torch.manual_seed(seed)
    x = torch.randn(rows, 4)
    return x, 0.5 * x[:, :1] * x[:, 1:2] + x[:, 2:3]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1)
    )  # fmt: skip


def batches(seed=0):
    x, y = task(seed)
    return list(zip(x.split(32), y.split(32), strict=True))


def bits(model, optimizer):
    tensors = [*model.state_dict().values()]
    for state in optimizer.state.values():
        tensors += [v for v in state.values() if isinstance(v, torch.Tensor)]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    held = [t.detach().cpu().numpy().tobytes() for t in tensors]
    rates = [float(g["lr"]) for g in optimizer.param_groups]
    generators = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    return held, rates, generators, model.training


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-3),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, weight_decay=1e-4),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2),
    "tensor rate": lambda p: torch.optim.AdamW(p, torch.tensor(1e-3)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_leaves_no_trace_and_answers_for_any_optimizer(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())

    def closure():
        optimizer.zero_grad()
        value = F.mse_loss(model(task()[0]), task()[1])
        value.backward()
        return value

    optimizer.step(closure)
    before = bits(model, optimizer)
    found = eq.find_learning_rate(model, optimizer, batches(), F.mse_loss, repeats=2)
    after = bits(model, optimizer)
    # task() above seeds torch, so what counts is the state right before the call.
    assert after[0] == before[0]
    assert after[1] == before[1]
    assert after[3] == before[3]
    assert math.isfinite(found.rate)
    assert found.rate > 0
    assert found.follows_gradient == (name in ("sgd",))


def test_generators_and_loaders_go_on_where_they_were():
    x, y = task()
    ends = []
    for asks in (False, True):
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(9)
        loader = DataLoader(TensorDataset(x, y), 32, shuffle=True, generator=generator)
        model = network()
        adam = torch.optim.Adam(model.parameters())
        if asks:
            eq.find_learning_rate(model, adam, loader, F.mse_loss, repeats=1)
        ends.append([next(iter(loader))[0].numpy().tobytes(), torch.rand(1).item()])
    assert ends[0] == ends[1]


def test_a_loader_in_the_middle_of_an_epoch_goes_on():
    x, y = task()
    loader = DataLoader(
        TensorDataset(x, y), 32, num_workers=1, persistent_workers=True,
        multiprocessing_context="fork",
    )  # fmt: skip
    epoch = iter(loader)
    next(epoch)
    model = network()
    eq.find_learning_rate(
        model, torch.optim.Adam(model.parameters()), loader, F.mse_loss, repeats=1, most_batches=2
    )
    torch.testing.assert_close(next(epoch)[0], x[32:64])
    assert sum(1 for _ in epoch) == 6


class Fails(nn.Module):
    def __init__(self, error, after):
        super().__init__()
        self.inner, self.error, self.left = network(), error, after

    def forward(self, x):
        if self.training:
            self.left -= 1
        if self.left < 0:
            raise self.error("stop")
        return self.inner(x)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("after", [3, 15, 60])
def test_an_interrupt_at_any_time_leaves_no_trace(error, after):
    model = Fails(error, after)
    adam = torch.optim.Adam(model.parameters())
    data = batches()
    before = bits(model, adam)
    with pytest.raises(error):
        eq.find_learning_rate(model, adam, data, F.mse_loss)
    assert bits(model, adam) == before
    assert model.left == after


def test_half_precision_with_and_without_a_scaler():
    for precision, scaler in (
        (torch.bfloat16, None),
        (torch.float16, torch.amp.GradScaler("cpu", init_scale=2.0**10)),
    ):
        model = network()
        adam = torch.optim.Adam(model.parameters())
        state = None if scaler is None else scaler.state_dict()
        data = batches()
        before = bits(model, adam)
        found = eq.find_learning_rate(
            model, adam, data, F.mse_loss, precision=precision, scaler=scaler, repeats=2
        )
        assert bits(model, adam) == before
        assert found.verdict == "minimum"
        assert scaler is None or scaler.state_dict() == state
        full = eq.find_learning_rate(model, adam, data, F.mse_loss, repeats=2)
        assert 1 / 3 < found.rate / full.rate < 3


def test_the_rate_found_trains_and_ten_times_the_return_does_not():
    data = batches()
    for make in (torch.optim.Adam, torch.optim.SGD):
        model = network()
        found = eq.find_learning_rate(model, make(model.parameters(), 1e-3), data, F.mse_loss)
        assert found.verdict == "minimum"
        assert found.confidence in ("high", "fair")
        ends = {}
        for rate in (found.rate, 10 * found.returns_at):
            twin = network()
            optimizer = make(twin.parameters(), rate)
            for step in range(120):
                x, y = data[step % 8]
                optimizer.zero_grad()
                F.mse_loss(twin(x), y).backward()
                optimizer.step()
            ends[rate] = float(F.mse_loss(twin.eval()(task()[0]), task()[1]).detach())
        good, bad = ends.values()
        assert good < 0.5 * float(task()[1].var())
        # Batch norm forgives much: what is left is worse, not infinite.
        assert not bad < 2 * good


def sweep_once(model, make, data, rates, loss=F.mse_loss):
    objective = Objective(model, loss)
    optimizer = make(model.parameters())
    at_birth = losses_at_birth(objective, data)
    return sweep(Stepper(objective, optimizer), objective, data, at_birth, rates, 0)


def test_a_change_belongs_to_the_step_before_it():
    # Half of c w^2 by gradient descent is known in closed form: w shrinks by 1 - rate c.
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(layer.weight)
    x = torch.full((1, 1), math.sqrt(3.0), dtype=torch.float64)
    rates = [0.01 * 1.5**k for k in range(12)]
    curve = sweep_once(
        layer, lambda p: torch.optim.SGD(p, 1.0), [x], rates, lambda z: 0.5 * z.square().sum()
    )
    w = 1.0
    for rate, change in zip(rates, curve.change, strict=False):
        w *= 1 - 3.0 * rate
        assert change == pytest.approx(1.5 * (w**2 - 1), abs=1e-12)
    assert curve.gradient_norms[0] == pytest.approx(3.0)


def test_a_sweep_stops_when_the_loss_has_doubled():
    model = network()
    rates = [10 ** (k / 5) for k in range(-20, 40)]
    curve = sweep_once(model, lambda p: torch.optim.SGD(p, 1.0), batches(), rates)
    assert curve.has_diverged
    assert len(curve.rates) == len(curve.change) == len(curve.gradient_norms) < 50


def curve_of(function, noise=0.0, seed=0, steps=70):
    generator = np.random.default_rng(seed)
    rates = np.logspace(-5, 0, steps)
    change = [function(math.log10(r)) + noise * generator.standard_normal() for r in rates]
    return RateCurve(tuple(rates), tuple(change), (1.0,) * steps, False)


def valley(x):
    """Falls by 1, lowest at 10^-2, back at 10^-1.5."""
    return max(-1.0, -math.exp(-((x + 2) ** 2) / 0.3)) if x < -2 else 4 * (x + 2) ** 2 - 1


def test_smoothing_does_not_shift_the_minimum():
    assert read_curve(curve_of(valley)).lowest_at == pytest.approx(1e-2, rel=0.09)
    found = [read_curve(curve_of(valley, 0.1, seed)) for seed in range(40)]
    logs = np.log10([r.lowest_at for r in found])
    assert abs(logs.mean() + 2) < 4 * logs.std() / math.sqrt(40) + 0.04
    back = np.log10([r.returns_at for r in found])
    assert abs(back.mean() + 1.5) < 4 * back.std() / math.sqrt(40) + 0.04
    assert all(r.kind == "minimum" for r in found)
    assert np.mean([r.noise for r in found]) == pytest.approx(0.1, rel=0.15)


def test_noise_alone_is_called_flat():
    found = [read_curve(curve_of(lambda x: 0.0, 1.0, seed)).kind for seed in range(60)]
    assert found.count("flat") >= 50
    assert read_curve(curve_of(lambda x: 0.0)).kind == "flat"


def verdict_of(function, noise=0.0, own=1e-3, repeats=3, diverged=False):
    curves = [curve_of(function, noise, seed) for seed in range(repeats)]
    if diverged:
        curves = [RateCurve(c.rates, c.change, c.gradient_norms, True) for c in curves]
    return judge(curves, [read_curve(c) for c in curves], own, False)


def test_every_kind_of_curve_has_an_answer():
    good = verdict_of(valley, 0.02)
    assert (good.kind, good.confidence) == ("minimum", "high")
    assert good.rate == pytest.approx(math.sqrt(0.21e-2 * 0.042 * 10**-1.5), rel=0.25)
    once = verdict_of(valley, 0.02, repeats=1)
    assert (once.kind, once.confidence) == ("minimum", "low")
    falling = verdict_of(lambda x: -0.3 * (x + 5), 0.01)
    assert (falling.kind, falling.confidence) == ("falls to the end", "low")
    assert "Raise highest" in falling.reason
    rising = verdict_of(lambda x: 10 ** (x + 4.5), 1e-4)
    assert (rising.kind, rising.confidence) == ("diverges at once", "none")
    assert rising.rate == pytest.approx(1e-5)
    flat = verdict_of(lambda x: 0.0, 1.0, own=7e-4)
    assert (flat.kind, flat.confidence, flat.rate) == ("flat", "none", 7e-4)
    assert verdict_of(lambda x: 0.0, own=0.0).rate == pytest.approx(10**-2.5)
    late = verdict_of(lambda x: 0.0 if x < -1 else 5.0, 0.01, own=7e-4)
    assert (late.kind, late.confidence, late.rate) == ("flat", "none", 7e-4)


def test_sweeps_that_differ_are_called_noisy():
    curves = [
        curve_of(lambda x, s=shift: valley(x + s) if x + s < -1 else 3.0, 0.01)
        for shift in (-1.0, 0.0, 1.0)
    ]
    found = judge(curves, [read_curve(c) for c in curves], 1e-3, False)
    assert (found.kind, found.confidence) == ("noisy", "low")
    assert found.factor == pytest.approx(10.0, rel=0.4)
    # A fall that averaging finds in a noise as large as itself is an answer without confidence.
    faint = [curve_of(valley, 0.7, seed) for seed in range(3)]
    assert judge(faint, [read_curve(c) for c in faint], 1e-3, False).confidence == "low"
    some = [curve_of(valley, 0.02), *(curve_of(lambda x: 0.0, 1e-3, s) for s in (1, 2))]
    found = judge(some, [read_curve(c) for c in some], 1e-3, False)
    assert (found.kind, found.confidence) == ("noisy", "low")
    assert "Half of the sweeps" in found.reason
    pair = [*some[:1], *(curve_of(valley, 0.02, 4),) * 1, some[1]]
    lone = [pair[0], RateCurve(pair[0].rates[:3], (0.0,) * 3, (1.0,) * 3, False)]
    assert judge(lone, [read_curve(c) for c in lone], 1e-3, False).confidence == "low"


def test_a_model_that_cannot_learn_has_an_answer_without_confidence():
    data = batches()
    model = network()
    adam = torch.optim.Adam(model.parameters(), 3e-4)
    broken = eq.find_learning_rate(model, adam, data, lambda z, y: F.mse_loss(z, y) / 0 * 0)
    assert (broken.verdict, broken.confidence, broken.rate) == ("not finite", "none", 3e-4)
    assert "Diagnose" in str(broken)
    assert json.loads(broken.to_json())["curves"] == []
    broken.figure()
    constant = eq.find_learning_rate(model, adam, data, lambda z, y: 0 * z.sum() + 1.0, repeats=2)
    assert (constant.verdict, constant.confidence) == ("flat", "none")
    # Targets that have nothing to do with the inputs, seen once each: nothing is to be learned.
    worst = eq.find_learning_rate(
        model, adam, data, lambda z, y: z.square().mean() * 0 + (-z).exp().mean().clamp(max=1e3),
        repeats=2,
    )  # fmt: skip
    assert math.isfinite(worst.rate)


def test_a_sweep_that_rises_at_once_is_taken_lower():
    # The gradient points up the loss, so that every step makes it worse at any rate.
    class Uphill(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return -g

    model = network().eval()
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    found = eq.find_learning_rate(
        model, adam, batches(), lambda z, y: F.mse_loss(Uphill.apply(z), y), repeats=2
    )
    assert found.confidence == "none"
    assert found.curves[0].rates[0] < 1e-8


def test_ends_and_density_can_be_chosen():
    model = network()
    adam = torch.optim.Adam(model.parameters())
    found = eq.find_learning_rate(
        model, adam, batches(), F.mse_loss, lowest=1e-5, highest=1e-3, per_decade=5, repeats=1
    )
    assert found.curves[0].rates[0] == pytest.approx(1e-5)
    assert found.curves[0].rates[-1] == pytest.approx(1e-3)
    assert len(found.curves[0].rates) == 11
    half = eq.find_learning_rate(model, adam, batches(), F.mse_loss, highest=1e-2, repeats=1)
    assert half.curves[0].rates[-1] <= 1e-2 * (1 + 1e-9)


def test_groups_keep_their_ratios_and_a_warm_up_from_zero_is_no_obstacle():
    model = network()
    sgd = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[4].parameters()}], 0.02
    )
    assert group_shares(sgd) == pytest.approx([1.0, 0.2])
    stepper = Stepper(Objective(model, F.mse_loss), sgd)
    stepper.set_rate(1.0)
    assert [g["lr"] for g in sgd.param_groups] == pytest.approx([1.0, 0.2])
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    torch.optim.lr_scheduler.LambdaLR(adam, lambda step: step / 10)
    assert adam.param_groups[0]["lr"] == 0.0
    assert group_shares(adam) == [1.0]
    assert own_rate(adam) == 1e-3
    assert eq.find_learning_rate(model, adam, batches(), F.mse_loss, repeats=1).rate > 0
    assert adam.param_groups[0]["lr"] == 0.0
    bare = torch.optim.SGD(model.parameters(), 0.0)
    assert group_shares(bare) == [1.0]


def test_the_picture_and_the_numbers_can_be_kept(tmp_path):
    model = network()
    adam = torch.optim.Adam(model.parameters())
    found = eq.find_learning_rate(model, adam, batches(), F.mse_loss, repeats=2)
    page = found.to_html(tmp_path / "rate.html").read_text(encoding="utf-8")
    assert "learning rate" in page
    assert len(found.figure().data) == 4
    plain = json.loads(found.to_json())
    assert plain["rate"] == found.rate
    assert len(plain["curves"]) == 2
    assert "learning rate" in str(found)
    assert "▁" in str(found)
    assert found.gradient_norm > 0


def test_clipping_is_the_trainings_own():
    model = network()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    data = batches()
    free = eq.find_learning_rate(model, sgd, data, F.mse_loss, repeats=1)
    cut = eq.find_learning_rate(model, sgd, data, F.mse_loss, repeats=1, clip_norm=1e-3)
    assert cut.lowest_at > 30 * free.lowest_at


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(3, 1)

    def forward(self, left, right):
        return {"sum": self.a(left) + self.b(right)}


def test_batches_of_every_form():
    torch.manual_seed(0)
    left, right, y = torch.randn(8, 2), torch.randn(8, 3), torch.randn(8, 1)
    model = Named()
    loss = Objective(model, lambda z, *t: F.mse_loss(z["sum"], t[0] if t else 0 * y))
    expected = float(F.mse_loss(model(left, right)["sum"], y).detach())
    by_name = {"left": left, "right": right}
    assert float(loss.of(((left, right), y)).detach()) == pytest.approx(expected)
    assert float(loss.of((by_name, y)).detach()) == pytest.approx(expected)
    assert float(loss.of([(left, right), y]).detach()) == pytest.approx(expected)
    free = float(model(left, right)["sum"].square().mean().detach())
    assert float(loss.of(by_name).detach()) == pytest.approx(free)
    line = nn.Linear(2, 1)
    assert float(Objective(line, torch.sum).of(left).detach()) == pytest.approx(
        float(line(left).sum().detach()), rel=1e-5
    )
    assert len(read_batches([(left, y)] * 5, 3)) == 3
    assert len(read_batches([left, y], 3)) == 1
    assert len(read_batches((left, y), 3)) == 1
    assert len(read_batches(by_name, 3)) == 1
    assert len(read_batches(left, 3)) == 1

    class Stream(IterableDataset):
        def __iter__(self):
            yield from [(left[0], y[0])] * 7

    assert len(read_batches(DataLoader(Stream(), batch_size=2), 9)) == 4


def test_what_is_refused():
    model, data = network(), batches()
    adam = torch.optim.Adam(model.parameters())
    ask = eq.find_learning_rate
    with pytest.raises(ArgumentError, match=r"batch, a list of batches or a DataLoader.*islice"):
        ask(model, adam, iter(data), F.mse_loss)
    with pytest.raises(ArgumentError, match="at least one batch"):
        ask(model, adam, [], F.mse_loss)
    with pytest.raises(ArgumentError, match="got a tuple of 3"):
        ask(model, adam, (data[0][0], data[0][1], data[0][1]), F.mse_loss)
    with pytest.raises(ArgumentError, match="one real number"):
        ask(model, adam, data, lambda z, y: z - y)
    with pytest.raises(ArgumentError, match="one real number as a tensor, got float"):
        ask(model, adam, data, lambda z, y: 1.0)
    with pytest.raises(ArgumentError, match="without a gradient"):
        ask(model, adam, data, lambda z, y: z.detach().sum())
    with pytest.raises(ArgumentError, match="lowest must be below highest"):
        ask(model, adam, data, F.mse_loss, lowest=1.0, highest=0.1)
    with pytest.raises(ArgumentError, match="lowest must be positive"):
        ask(model, adam, data, F.mse_loss, lowest=-1.0)
    with pytest.raises(ArgumentError, match="clip_norm must be positive"):
        ask(model, adam, data, F.mse_loss, clip_norm=0.0)
    with pytest.raises(ArgumentError, match="repeats must be an integer"):
        ask(model, adam, data, F.mse_loss, repeats=0)
    with pytest.raises(ArgumentError, match="got none of them"):
        ask(model, torch.optim.Adam(network().parameters()), data, F.mse_loss)
    with pytest.raises(ArgumentError, match="param_groups with a learning rate 'lr', got object"):
        ask(model, object(), data, F.mse_loss)
    with pytest.raises(ArgumentError, match=r"precision must be None, torch.bfloat16"):
        ask(model, adam, data, F.mse_loss, precision=torch.float64)
    with pytest.raises(ArgumentError, match="scaler must be left out for LBFGS"):
        ask(
            model, torch.optim.LBFGS(model.parameters()), data, F.mse_loss,
            scaler=torch.amp.GradScaler("cpu"),
        )  # fmt: skip
    with pytest.raises(ArgumentError, match="meta device"):
        ask(network().to("meta"), adam, data, F.mse_loss)
    with pytest.raises(ArgumentError, match="none that requires a gradient"):
        ask(network().requires_grad_(False), adam, data, F.mse_loss)
