"""Steps that are not finite: skipped, counted, and their producer named."""

import math

import pytest
import torch
from torch import nn

import equipoise.torch as eq


class Spoiled(nn.Module):
    """Hands on what comes in, with a nan at the places and in the passes it is told to."""

    def __init__(self):
        super().__init__()
        self.spoil = ""

    def forward(self, x):
        if self.spoil == "forward":
            return x / (x * 0.0)
        if self.spoil == "backward":
            # sqrt(0) is 0 and its slope infinite; times 0 that is nan.
            return x + 0.0 * torch.sqrt(x - x.detach())
        return x


class Block(nn.Module):
    """A residual block with room for faults of its own."""

    def __init__(self):
        super().__init__()
        self.up, self.fault, self.down = nn.Linear(8, 8), Spoiled(), nn.Linear(8, 8)
        self.spoil = False

    def forward(self, x):
        h = torch.tanh(self.up(x))
        if self.spoil:
            h = h * torch.tensor(math.inf)
        return x + self.down(self.fault(h))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(5, 8), nn.BatchNorm1d(8)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 2)

    def forward(self, x, scale=1.0):
        x = self.norm(self.stem(x)) * scale
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))


def net():
    torch.manual_seed(0)
    return Net()


def trained(model, guard, spoil=None, steps=2, loss_factor=1.0, x=None):
    """Some good steps, then one that is spoiled; all in the same manner."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps + 1):
        rows = torch.randn(6, 5, generator=generator)
        is_last = step == steps
        if is_last and spoil is not None:
            spoil()
        if is_last and x is not None:
            rows = x
        guard.zero_grad()
        loss = model(rows).square().mean() * (loss_factor if is_last else 1.0)
        loss.backward()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        guard.step(loss=loss)
    return before


def guarded(**options):
    model = net()
    guard = eq.Guard(torch.optim.Adam(model.parameters(), 1e-2), model=model, **options)
    return model, guard


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_module_that_spoils_the_forward_pass(k):
    model, guard = guarded()
    trained(model, guard, lambda: setattr(model.blocks[k].fault, "spoil", "forward"))
    found = guard.findings[-1]
    assert (found.code, found.where) == ("non-finite-gradient", f"blocks.{k}.fault")
    assert "forward pass" in found.what
    assert guard.skipped == 1


@pytest.mark.parametrize("k", [0, 1, 2])
def test_code_between_modules_is_that_of_the_parent(k):
    model, guard = guarded()
    trained(model, guard, lambda: setattr(model.blocks[k], "spoil", True))
    found = guard.findings[-1]
    assert found.where == f"blocks.{k}"
    assert f"before it calls 'blocks.{k}.fault'" in found.what


@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_way_back_is_spoiled_from_one_layer_on(k):
    """The last layer in forward order whose gradient is not finite is the nearest to the fault."""
    model, guard = guarded()
    trained(model, guard, lambda: setattr(model.blocks[k].fault, "spoil", "backward"))
    found = guard.findings[-1]
    assert found.where == f"blocks.{k}.up"
    assert "made on the way back" in found.what
    assert "slope" in found.remedy


def test_without_a_model_gradients_alone_tell_backward_faults():
    model = net()
    guard = eq.Guard(torch.optim.Adam(model.named_parameters(), 1e-2))
    trained(model, guard, lambda: setattr(model.blocks[1].fault, "spoil", "backward"))
    assert guard.findings[-1].where == "blocks.1.up"
    guard = eq.Guard(torch.optim.Adam(model.named_parameters(), 1e-2))
    trained(model, guard, lambda: setattr(model.blocks[1].fault, "spoil", "forward"))
    assert "Pass model=" in guard.findings[-1].remedy


def test_without_names_there_are_places():
    model = net()
    guard = eq.Guard(torch.optim.Adam(model.parameters(), 1e-2))
    trained(model, guard, lambda: setattr(model.blocks[0].fault, "spoil", "backward"))
    # stem and norm are parameters 0 to 3, the first layer of the first block 4 and 5.
    assert guard.findings[-1].where == "group 0, parameter 5"


def test_a_weight_that_is_not_finite():
    model, guard = guarded()

    def spoil():
        model.blocks[1].up.weight.data[0, 0] = math.nan

    trained(model, guard, spoil)
    assert guard.findings[-1].where == "blocks.1.up.weight"
    assert "rollback" in guard.findings[-1].remedy


def test_a_batch_that_is_not_finite_and_running_statistics():
    model, guard = guarded()
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    x[2, 3] = math.nan
    before = trained(model, guard, x=x)
    assert guard.findings[-1].where == "inputs"
    assert before["norm.running_mean"].isnan().any()
    assert model.norm.running_mean.isfinite().all()
    # Nothing else has moved.
    for name, value in model.state_dict().items():
        if "running" not in name and "batches" not in name:
            assert torch.equal(value, before[name])
    assert model.norm.num_batches_tracked.item() == 2


def test_running_statistics_of_a_step_skipped_on_the_device():
    model = net()
    guard = eq.Guard(
        torch.optim.Adam(model.parameters(), 1e-2, fused=True), model=model, read_every=10
    )
    x = torch.full((6, 5), math.nan)
    trained(model, guard, x=x)
    assert model.norm.running_var.isfinite().all()
    assert model.norm.num_batches_tracked.item() == 2
    assert guard.skipped == 1
    # What was skipped on the device is looked at more closely when it comes again.
    trained(model, guard, x=x, steps=0)
    trained(model, guard, lambda: setattr(model.blocks[1].fault, "spoil", "forward"), steps=1)
    assert guard.findings[-1].where == "blocks.1.fault"


def test_a_loss_that_is_not_finite_though_gradients_are():
    model, guard = guarded()
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        guard.zero_grad()
        loss = model(torch.randn(4, 5, generator=generator)).square().mean()
        if step == 2:
            loss = loss + math.inf
        loss.backward()
        before = [p.clone() for p in model.parameters()]
        guard.step(loss=loss)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    found = guard.findings[-1]
    assert (found.code, found.where, guard.skipped) == ("non-finite-loss", "loss", 1)
    assert math.isinf(guard.history["loss"][-1])


def test_a_loss_alone_without_a_model():
    p = torch.ones(2, requires_grad=True)
    guard = eq.Guard(torch.optim.SGD([p], 0.1))
    p.sum().backward()
    guard.step(loss=math.nan)
    assert guard.skipped == 1
    assert p.tolist() == [1.0, 1.0]
    assert guard.findings[0].code == "non-finite-loss"


def test_a_loss_that_spoils_the_way_back():
    model, guard = guarded()
    trained(model, guard, loss_factor=math.inf)
    assert guard.findings[-1].where == "loss"


def test_a_norm_beyond_single_precision():
    p = torch.ones(4, requires_grad=True)
    guard = eq.Guard(torch.optim.SGD([p], 0.1), eq.GlobalNorm(1.0))
    (p * 1e25).sum().backward()
    guard.step()
    assert guard.skipped == 1
    assert p.tolist() == [1.0] * 4
    assert "their norm is not" in guard.findings[0].what


def test_masks_are_not_accused():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask, self.key, self.fault = nn.Identity(), nn.Linear(4, 4), Spoiled()

        def forward(self, x):
            scores = self.key(x).masked_fill(torch.eye(4, dtype=torch.bool), -math.inf)
            return self.fault(self.mask(scores).softmax(-1))

    torch.manual_seed(0)
    model = Masked()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.1), model=model)
    model.fault.spoil = "forward"
    loss = model(torch.randn(4, 4)).sum()
    loss.backward()
    guard.step(loss=loss)
    assert guard.findings[-1].where == "fault"


def test_words_are_few_and_counts_go_on():
    said = []
    model, guard = guarded(on_finding=said.append)
    model.blocks[0].fault.spoil = "forward"
    for _ in range(25):
        guard.zero_grad()
        loss = model(torch.ones(4, 5)).sum()
        loss.backward()
        guard.step(loss=loss)
    assert guard.skipped == guard.steps == 25
    # The first, and where a row of them grows long.
    assert [f.severity for f in said] == ["warning", "error", "error"]
    assert "10 steps in a row" in said[2].observed
    assert math.isnan(guard.clipped_share)


def test_the_second_look_changes_nothing():
    """Random numbers and buffers are as if the forward pass had run once."""
    runs = []
    for explain in (eq.find_producer, lambda incident: eq.Producer("unknown", "a", "b")):
        model, guard = guarded(explain=explain)
        trained(model, guard, lambda m=model: setattr(m.blocks[1].fault, "spoil", "forward"))
        runs.append([torch.rand(3), *model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_an_explaining_function_is_asked():
    seen = []

    def explain(incident):
        seen.append(incident)
        return eq.Producer("forward", "there", "as I say")

    model, guard = guarded(explain=explain)
    trained(model, guard, lambda: setattr(model.blocks[1].fault, "spoil", "forward"))
    assert guard.findings[-1].where == "there"
    (incident,) = seen
    assert incident.model is model
    assert incident.step == 3
    assert incident.is_loss_bad
    assert len(incident.calls) == 1
    assert len(incident.non_finite) == len(incident.names) == len(list(model.parameters()))


def test_every_call_of_an_accumulated_step_is_looked_at():
    model, guard = guarded()
    for part in range(3):
        x = torch.ones(4, 5) * (1.0 + part)
        scale = math.inf if part == 1 else 1.0
        model(x, scale=scale).sum().backward()
    guard.step()
    # An infinite argument is a number and no tensor: the block is the first that sees it.
    assert guard.findings[-1].where == "model"
    assert "before it calls 'blocks.0'" in guard.findings[-1].what


def test_autocast_is_used_again():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            # 4e4 squared is beyond float16 and far within float32.
            h = self.one(x)
            return self.two(h * h)

    torch.manual_seed(0)
    model = Large()
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 1e-3), model=model)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(4e4 * torch.ones(3, 4)).sum()
    loss.backward()
    guard.step(loss=loss)
    assert guard.findings[-1].where == "model"
    assert "before it calls 'two'" in guard.findings[-1].what


def test_a_model_compiled_in_place_is_not_hooked():
    model = net()
    model.compile(backend="eager")
    guard = eq.Guard(torch.optim.SGD(model.parameters(), 0.1), model=model)
    assert not model._forward_pre_hooks
    guard.close()
    other = net()
    guard = eq.Guard(torch.optim.SGD(other.parameters(), 0.1), model=other)
    assert len(other._forward_pre_hooks) == 1
    guard.close()
    assert not other._forward_pre_hooks
