"""What a monitor measures, against the same numbers computed another way; and how it is used."""

import copy
import csv
import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent))
from monitored import Attention, Tokens, Vectors, dense, loss_of, train

import equipoise.torch as eq
from equipoise.errors import ArgumentError


class Functional(nn.Module):
    """No module but for the parameters."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(24, 16) / 4)
        self.b = nn.Parameter(torch.randn(24, 10) / 4)
        self.c = nn.Linear(10, 3)

    def forward(self, x):
        hidden = torch.tanh(F.relu(F.linear(x, self.a)) @ self.b)
        return self.c(hidden)


def column(m, metric, layer, look=-1):
    return m.history[metric][look, m.layers.index(layer)]


def backward_of(model, x, y):
    """The same step in float64 with gradients kept at every layer."""
    twin = copy.deepcopy(model).double()
    x = x.double() if x.is_floating_point() else x
    kept = {}

    def keep(name):
        def hook(_, args, out):
            out.retain_grad()
            kept[name] = out

        return hook

    for name, module in twin.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(keep(name))
    loss_of(twin(x), y).backward()
    return twin, kept


def rms(t):
    return t.detach().double().square().mean().sqrt().item()


def test_every_number_of_a_dense_network():
    torch.manual_seed(0)
    model = dense(nn.ReLU, 2, 12)
    model[0].bias.data[:3] = -100.0
    x, y = Vectors(0)(48)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    twin, kept = backward_of(model, x, y)
    m = eq.Monitor(model, optimizer, every=1)
    loss = loss_of(model(x), y)
    loss.backward()
    before = copy.deepcopy(model)
    optimizer.step()
    m.step(loss)
    m.close()
    for name in ("0", "2", "4"):
        ours = twin.get_submodule(name)
        assert column(m, "signal", name) == pytest.approx(rms(kept[name]), rel=1e-5)
        assert column(m, "output_gradient", name) == pytest.approx(rms(kept[name].grad), rel=1e-4)
        gradient = math.hypot(ours.weight.grad.norm(), ours.bias.grad.norm())
        assert column(m, "gradient_norm", name) == pytest.approx(gradient, rel=1e-4)
        held = before.get_submodule(name)
        weight = math.hypot(held.weight.detach().norm(), held.bias.detach().norm())
        assert column(m, "weight_norm", name) == pytest.approx(weight, rel=1e-5)
        # All entries of tensors this small are followed.
        assert column(m, "update_norm", name) == pytest.approx(0.1 * gradient, rel=1e-4)
        assert column(m, "update_ratio", name) == pytest.approx(0.1 * gradient / weight, rel=1e-4)
        values = kept[name].detach().numpy()
        assert column(m, "mean", name) == pytest.approx(values.mean(), abs=1e-5)
        power = np.linalg.eigvalsh(np.cov(values.T))
        assert column(m, "rank", name) == pytest.approx(power.sum() ** 2 / (power**2).sum(), 1e-4)
    dead = (F.relu(kept["0"]).amax(0) == 0).double().mean().item()
    assert dead >= 0.25
    assert column(m, "dead", "0") == pytest.approx(dead)
    assert m.history["loss"][0] == pytest.approx(loss.item())
    assert m.latest()["signal/0"] == column(m, "signal", "0")


def test_functions_are_seen_as_modules_are():
    torch.manual_seed(1)
    model = Functional()
    model.a.data[:6] = 0.0
    x = 5 * torch.randn(40, 16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    m = eq.Monitor(model, optimizer, every=1)
    loss = model(x).square().mean()
    loss.backward()
    signal = rms(F.linear(x, model.a))
    first = F.relu(x @ model.a.T).detach()
    middle = (first @ model.b).detach()
    second = torch.tanh(middle)
    optimizer.step()
    m.step()
    assert column(m, "signal", "a") == pytest.approx(signal, rel=1e-5)
    assert column(m, "dead", "a") == pytest.approx((first.amax(0) == 0).float().mean().item())
    assert column(m, "signal", "b") == pytest.approx(rms(middle), rel=1e-5)
    # The slope of tanh is 1 - y^2.
    flat = (1 - second.square() < 0.01).float().mean().item()
    assert 0.05 < flat < 1
    assert column(m, "saturation", "b") == pytest.approx(flat)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_by_modules_functions_and_hand(causal):
    torch.manual_seed(0)
    rows, length, width, heads = 3, 8, 16, 4

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width)

        def forward(self, x):
            q, k, v = self.qkv(x).view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            scores = q @ k.transpose(-1, -2) / 2.0
            if causal:
                mask = torch.ones(length, length).triu(1).bool()
                scores = scores.masked_fill(mask, torch.finfo(torch.float32).min)
            return torch.softmax(scores, dim=-1) @ v

    class Called(ByHand):
        def forward(self, x):
            q, k, v = self.qkv(x).view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.MultiheadAttention(width, heads, batch_first=True)

        def forward(self, x):
            mask = torch.ones(length, length).triu(1).bool() if causal else None
            return self.qkv(x, x, x, attn_mask=mask, need_weights=False)[0]

    x = torch.randn(rows, length, width)
    hand = ByHand()
    hand.qkv.weight.data *= 3
    called = Called()
    called.load_state_dict(hand.state_dict())
    module = Heads()
    module.qkv.in_proj_weight.data = hand.qkv.weight.data.clone()
    module.qkv.in_proj_bias.data = hand.qkv.bias.data.clone()
    q, k, _ = hand.qkv(x[:1]).view(1, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 2.0).double().detach()
    if causal:
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
    p = scores.softmax(-1)
    entropy = torch.special.entr(p).sum(-1)
    counts = torch.arange(1, length + 1).double() if causal else torch.full((length,), 8.0)
    shares = (entropy / counts.clamp(min=2).log())[..., counts > 1]
    for model in (hand, called, module):
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        m = eq.Monitor(model, optimizer, every=1)
        model(x).sum().backward()
        optimizer.step()
        m.step()
        (layer,) = [n for n in m.layers if not math.isnan(column(m, "entropy", n))]
        assert layer == "qkv"
        assert column(m, "logit_max", layer) == pytest.approx(scores.max().item(), rel=1e-4)
        assert column(m, "entropy", layer) == pytest.approx(shares.mean().item(), rel=1e-4)


def test_the_noise_of_the_gradient():
    """Of a loss g . w with g normal about a mean, the noise scale is the quotient of both."""
    torch.manual_seed(0)
    model = nn.Linear(200, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    m = eq.Monitor(model, optimizer, every=1)
    mean = torch.full((1, 200), 0.5)
    for _ in range(400):
        optimizer.zero_grad()
        model(mean + torch.randn(1, 200)).sum().backward()
        optimizer.step()
        m.step()
    m.close()
    # trace of the covariance 200, squared norm of the mean 200 / 4
    assert m.history["noise_scale"][-200:].mean() == pytest.approx(4.0, rel=0.15)


def test_gradient_accumulation_is_one_step():
    torch.manual_seed(0)
    model, data = dense(), Vectors(0)
    x, y = data(64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    twin, kept = backward_of(model, x, y)
    with eq.Monitor(model, optimizer, every=1) as m:
        for part in range(4):
            rows = slice(16 * part, 16 * part + 16)
            (loss_of(model(x[rows]), y[rows]) / 4).backward()
        optimizer.step()
    assert m.steps == 1
    assert column(m, "signal", "0") == pytest.approx(rms(kept["0"]), rel=1e-5)
    norm = math.hypot(twin[0].weight.grad.norm(), twin[0].bias.grad.norm())
    assert column(m, "gradient_norm", "0") == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_and_autocast(fused):
    torch.manual_seed(0)
    model = dense(nn.Tanh)
    x, y = Vectors(0)(64)
    twin, kept = backward_of(model, x, y)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with eq.Monitor(model, optimizer, every=1, scaler=scaler) as m:
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                out = model(x)
            scaler.scale(loss_of(out.float(), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    norm = math.hypot(twin[2].weight.grad.norm(), twin[2].bias.grad.norm())
    assert m.steps == 2
    assert column(m, "gradient_norm", "2", 0) == pytest.approx(norm, rel=0.05)
    assert column(m, "output_gradient", "2", 0) == pytest.approx(rms(kept["2"].grad), rel=0.05)
    assert not [f for f in m.findings if f.severity != "info"]


def test_a_step_that_the_scaler_skips():
    torch.manual_seed(0)
    model, data = dense(), Vectors(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    with eq.Monitor(model, optimizer, every=1, scaler=scaler) as m:
        for _ in range(12):
            x, y = data()
            optimizer.zero_grad()
            scaler.scale(1e12 * loss_of(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update(2.0**100)
    assert m.steps == 12
    assert m.findings[0].severity == "info"
    assert "scaler" in m.findings[0].remedy
    # A scaler that never finds its scale is an error.
    assert [f.severity for f in m.findings] == ["info", "error"]


def test_two_optimizers_that_take_turns():
    torch.manual_seed(0)
    model, data = dense(), Vectors(0)
    p = list(model.parameters())
    one, two = torch.optim.SGD(p[:4], 0.01), torch.optim.Adam(p[4:], 1e-3)
    with eq.Monitor(model, (one, two), every=1) as m:
        for _ in range(3):
            for optimizer in (one, two):
                one.zero_grad()
                two.zero_grad()
                x, y = data()
                loss_of(model(x), y).backward()
                optimizer.step()
    assert m.steps == 3
    assert not m.findings
    assert np.isfinite(m.history["update_norm"]).all()
    one.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


def test_a_guard_and_a_closure():
    torch.manual_seed(0)
    model, data = dense(), Vectors(0)
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.01), eq.GlobalNorm(1e-3), model=model)
    m = train(model, data, 5, monitor=eq.Monitor(model, guard, every=1))
    total = np.sqrt((m.history["gradient_norm"] ** 2).sum(axis=1))
    # Before clipping.
    assert total == pytest.approx(guard.history["gradient_norm"], rel=1e-5)
    model = dense()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=2)
    x, y = data()
    with eq.Monitor(model, optimizer, every=1) as m:
        for _ in range(2):

            def closure():
                optimizer.zero_grad()
                loss = loss_of(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert (m.history["gradient_norm"] > 0).all()


def test_a_run_is_the_same_with_and_without():
    found = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(inplace=True), nn.Dropout(0.3),
                              nn.BatchNorm1d(32), nn.Linear(32, 4))  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        data = Vectors(0)
        m = eq.Monitor(model, optimizer, every=1) if is_watched else None
        for _ in range(8):
            x, y = data()
            optimizer.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
        if m is not None:
            m.close()
        found.append(model.state_dict())
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_checkpointing_changes_nothing():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = dense(nn.Tanh, 2, outputs=8)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=False))

    torch.manual_seed(0)
    m = train(Checkpointed(), Vectors(0), 4)
    assert m.steps == 4
    assert np.isfinite(m.history["signal"]).all()
    assert not m.findings


class Reads(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")
        if func.__name__.partition(".")[0] in names:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("every", [1, 3])
def test_nothing_asks_for_a_number(every, monkeypatch):
    torch.manual_seed(0)
    # As on a device: what the CPU may read, it reads.
    monkeypatch.setattr("equipoise.training.monitor_steps.can_read", lambda tensor: False)
    model, data = Attention(), Tokens(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    m = eq.Monitor(model, optimizer, every=every)
    with Reads() as reads:
        for _ in range(7):
            x, y = data()
            optimizer.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
            m.step(loss)
    m.close()
    assert reads.count == 0
    assert m.steps == 7


def test_rows_that_arrive_late(monkeypatch):
    from equipoise.training import monitor_pending

    class Late:
        done = False

        def __init__(self, device):
            pass

        def record(self):
            pass

        def query(self):
            return Late.done

        def synchronize(self):
            pass

    class Vector:
        device = torch.device("cuda")

        def __init__(self, vector):
            self.vector = vector

        def to(self, device, non_blocking):
            assert (device, non_blocking) == ("cpu", True)
            return self.vector

    monkeypatch.setattr(torch, "Event", Late)
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    rows = []
    m = eq.Monitor(model, optimizer, every=1)
    monkeypatch.setattr(m._pending, "put", rows.append)
    model(torch.randn(4, 16)).sum().backward()
    optimizer.step()
    m.step()
    (row,) = rows
    late = monitor_pending.Pending()
    object.__setattr__(row, "vector", Vector(row.vector))
    late.put(row)
    assert late.arrived(False) == []
    assert len(late) == 1
    (reading,) = late.arrived(True)
    assert reading.step == 1
    late.put(row)
    Late.done = True
    assert len(late.arrived(False)) == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_what_is_compiled_cannot_be_seen():
    torch.manual_seed(0)
    model = dense()
    compiled = torch.compile(model, backend="eager")
    m = train(compiled, Vectors(0), 3)
    assert [(f.code, f.where, f.severity) for f in m.findings] == [
        ("not-measured", "model", "info")
    ]
    assert np.isnan(m.history["signal"]).all()
    assert np.isfinite(m.history["gradient_norm"]).all()
    assert m.layers == ("0", "2", "4", "6", "8")
    # Compiled later on, of which the model knows nothing.
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    m = eq.Monitor(model, optimizer, every=1)
    later = torch.compile(model, backend="eager")
    for _ in range(2):
        loss_of(later(torch.randn(8, 16)), torch.zeros(8, dtype=torch.long)).backward()
        optimizer.step()
        m.step()
    assert [f.code for f in m.findings] == ["not-measured"]
    # A part that is compiled, and what is around it.
    outer = nn.Sequential(nn.Linear(16, 16), torch.compile(dense(), backend="eager"),
                          nn.Linear(4, 4))  # fmt: skip
    m = train(outer, Vectors(0), 3)
    assert [f.where for f in m.findings] == ["1"]
    seen = dict(zip(m.layers, np.isfinite(m.history["signal"][-1]), strict=True))
    assert seen["0"]
    assert seen["2"]
    assert not seen["1.2"]


def test_copies_of_a_model_are_not_watched():
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 8))
    model = nn.Sequential(normed, nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    m = eq.Monitor(model, optimizer, every=1)
    x, y = Vectors(0)()
    loss_of(model(x), y).backward()
    twin = copy.deepcopy(model)
    loss_of(twin(x), y).backward()
    optimizer.step()
    m.step()
    assert m.steps == 1
    assert column(m, "signal", "0") == pytest.approx(rms(normed(x)), rel=0.05)
    plain = dense()
    eq.Monitor(plain, torch.optim.SGD(plain.parameters(), 0.01))
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x), plain(x))


def test_parts_that_are_called_one_by_one():
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": dense(outputs=8), "head": nn.Linear(8, 4)})
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with eq.Monitor(model, optimizer, every=1) as m:
        x, y = Vectors(0)()
        loss_of(model["head"](model["body"](x)), y).backward()
        optimizer.step()
        model.eval()
        model["body"](x)
    assert np.isfinite(m.history["signal"]).all()


def test_weights_that_are_computed():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(16, 8))
    m = train(nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 4)), Vectors(0), 2)
    assert m.layers == ("0", "2")
    assert np.isfinite(m.history["signal"]).all()
    assert np.isfinite(m.history["weight_norm"]).all()


def test_memory_is_bounded_and_quantiles_are_of_all():
    torch.manual_seed(0)
    m = train(dense(depth=1, width=8), Vectors(0), 60, capacity=7)
    assert m.history["step"].tolist() == list(range(54, 61))
    whole = train(dense(depth=1, width=8), Vectors(0), 60).history["signal"][:, 0]
    torch.manual_seed(0)
    again = train(dense(depth=1, width=8), Vectors(0), 60, capacity=100)
    every = again.history["signal"][:, 0]
    found = m.quantiles("signal", "0", (0.0, 0.5, 1.0))
    expected = np.quantile(every, (0.0, 0.5, 1.0), method="lower")
    assert found == pytest.approx(expected, rel=0.021)
    assert len(whole) == 60
    assert np.isnan(m.quantiles("entropy", "0", (0.5,))).all()


def test_the_table(tmp_path):
    torch.manual_seed(0)
    m = train(dense(), Vectors(0), 4, every=2)
    m.to_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(m.layers)
    last = next(r for r in rows if r["step"] == "3" and r["layer"] == "2")
    assert float(last["signal"]) == column(m, "signal", "2")
    assert last["entropy"] == ""
    assert float(last["loss"]) == m.history["loss"][1]


def test_parquet_only_with_pyarrow(tmp_path, monkeypatch):
    m = train(dense(), Vectors(0), 1)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArgumentError, match=r"needs pyarrow.*to_csv"):
        m.to_parquet(tmp_path / "run.parquet")


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    m = train(dense(), Vectors(0), 2)
    m.to_parquet(tmp_path / "run.parquet")
    table = parquet.read_table(tmp_path / "run.parquet").to_pydict()
    assert table["signal"][0] == m.history["signal"][0, 0]


def test_findings_are_handed_on_as_they_happen():
    seen = []
    torch.manual_seed(0)
    model = dense()
    optimizer = torch.optim.SGD(list(model.parameters())[:-2], 0.01)
    m = eq.Monitor(model, optimizer, every=1, on_finding=seen.append)
    model(torch.randn(8, 16)).sum().backward()
    optimizer.step()
    (found,) = m.step()
    assert seen == [found]
    assert m.step() == ()
    assert repr(m) == "Monitor(Sequential, 1 steps, 1 findings)"
    m.close()
    m.close()
    assert not model._forward_hooks
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": 3}, "model must be a torch.nn.Module, got int"),
        ({"optimizer": 3}, "optimizer must be a torch.optim.Optimizer or a sequence of them"),
        ({"optimizer": ()}, "got nothing"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))])}, "got none of them"),
        ({"every": 0}, "every must be an integer of at least 1"),
        ({"capacity": 0}, "capacity must be an integer of at least 1"),
        ({"initialized": {"9.weight": torch.ones(1)}}, "initialized must hold the model's own"),
        ({"initialized": {"0.bias": torch.ones(2)}}, r"got '0.bias' of shape \(2,\)"),
    ],
)
def test_refusals(change, words):
    model = dense()
    given = {"model": model, "optimizer": torch.optim.SGD(model.parameters())} | change
    with pytest.raises(ArgumentError, match=words):
        eq.Monitor(**given)
    assert not model._forward_hooks


def test_refusals_of_numbers():
    m = train(dense(), Vectors(0), 1)
    with pytest.raises(ArgumentError, match="loss must be one number"):
        m.observe(torch.ones(2))
    with pytest.raises(ArgumentError, match="metric must be one of"):
        m.quantiles("signals", "0", (0.5,))
    with pytest.raises(ArgumentError, match="layer must be one of"):
        m.quantiles("signal", "7", (0.5,))
    with pytest.raises(ArgumentError, match="share must be from 0 to 1"):
        m.quantiles("signal", "0", (2.0,))
