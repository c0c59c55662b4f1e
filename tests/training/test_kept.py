"""Everything is put back bit for bit, however the work in between ends."""

import collections
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.training.kept import Kept, kept


def snapshot(*objects):
    """All bits by another route: pickled state, generators and identities of tensors."""
    parts = []
    for thing in objects:
        state = thing.state_dict()
        parts.append(torch.utils._pytree.tree_map_only(
            torch.Tensor, lambda t: (t.dtype, t.detach().numpy().tobytes()), state
        ))  # fmt: skip
    grads = [
        (id(p), id(p.grad), None if p.grad is None else p.grad.numpy().tobytes())
        for thing in objects if isinstance(thing, nn.Module) for p in thing.parameters()
    ]  # fmt: skip
    return repr((parts, grads, random.getstate(), torch.get_rng_state().tolist())) + repr(
        np.random.get_state()[1].tolist()
    )


class Counting(nn.Module):
    """A model that remembers more than its weights."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2)
        )
        self.calls = 0
        self.recent = collections.deque([1, 2])
        self.seen = {"a": [0]}
        self.kinds = {1}
        self.register_buffer("wide", torch.zeros(1).expand(5))
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        self.calls += 1
        self.recent.append(self.calls)
        self.seen["a"].append(self.calls)
        self.seen["b"] = []
        self.kinds.add(self.calls + 1)
        self.last = x
        torch.rand(1, generator=self.generator)
        return self.layers(x)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
    "adamw, tensor rate": lambda p: torch.optim.AdamW(p, torch.tensor(0.1)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, centered=True, momentum=0.5),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3),
}


def work(model, optimizer):
    def closure():
        optimizer.zero_grad()
        value = F.mse_loss(model(torch.randn(8, 4)), torch.zeros(8, 2))
        value.backward()
        return value

    random.random()
    np.random.rand()
    model.eval() if random.random() < 0.5 else model.train()
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].mul_(3)
        else:
            group["lr"] *= 3
    model.train()
    optimizer.step(closure)


@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_is_as_it_was(name, trained, ending):
    torch.manual_seed(0)
    model = Counting()
    optimizer = OPTIMIZERS[name](model.parameters())
    if trained:
        work(model, optimizer)
    before = snapshot(model, optimizer)
    aside = (model.calls, list(model.recent), str(model.seen), set(model.kinds))
    own = model.generator.get_state().tolist()

    def tried():
        with kept(model, optimizer):
            work(model, optimizer)
            work(model, optimizer)
            if ending is not None:
                raise ending

    if ending is None:
        tried()
    else:
        with pytest.raises(ending):
            tried()
    assert snapshot(model, optimizer) == before
    assert (model.calls, list(model.recent), str(model.seen), set(model.kinds)) == aside
    assert model.generator.get_state().tolist() == own
    assert hasattr(model, "last") == trained


def test_a_training_goes_on_as_if_nothing_had_been():
    ends = []
    for looks in (False, True):
        torch.manual_seed(0)
        model = Counting()
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            work(model, optimizer)
            if looks:
                with kept(model, optimizer):
                    work(model, optimizer)
        ends.append(snapshot(model, optimizer).replace(str(id(model)), ""))
        # Identities differ between the two models.
        ends[-1] = model.layers[0].weight.detach().numpy().tobytes()
    assert ends[0] == ends[1]


def test_a_second_interrupt_does_not_leave_half(monkeypatch):
    layer = nn.Linear(3, 3)
    before = snapshot(layer)
    real, calls = Kept.put_back, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(Kept, "put_back", interrupted)
    with pytest.raises(KeyboardInterrupt), kept(layer):
        nn.init.zeros_(layer.weight)
    assert snapshot(layer) == before
    assert len(calls) == 2


def test_storage_that_was_swapped_is_put_back():
    layer = nn.Linear(3, 3)
    alias, before = layer.weight.data, layer.weight.detach().clone()
    with kept(layer):
        layer.weight.data = torch.zeros(3, 3)
    assert layer.weight.data_ptr() == alias.data_ptr()
    assert torch.equal(layer.weight, before)


def test_what_wraps_an_optimizer_is_reached_through_its_attributes():
    class Wrapper:
        def __init__(self, inner):
            self.inner, self.count = inner, 0

    layer = nn.Linear(3, 3)
    wrapper = Wrapper(torch.optim.Adam(layer.parameters()))
    with kept(layer, wrapper, None):
        layer(torch.ones(1, 3)).sum().backward()
        wrapper.inner.step()
        wrapper.count = 5
    assert wrapper.count == 0
    assert not wrapper.inner.state
    assert layer.weight.grad is None
