"""Sharpness against dense Hessians, closed forms, and trainings on both sides of the edge."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.training.lanczos import largest_eigenpair
from equipoise.training.step_law import law_of


def flat_hessian(model, loss_of):
    """The dense Hessian by the trained parameters, by torch.func, and those parameters."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in trained.values()]

    def loss(flat):
        parts = flat.split(sizes)
        values = {n: v.view_as(trained[n]) for n, v in zip(names, parts, strict=True)}
        return loss_of(lambda *a, **k: torch.func.functional_call(model, values, a, k))

    start = torch.cat([p.reshape(-1) for p in trained.values()])
    return torch.autograd.functional.hessian(loss, start)


def network(seed=0, activation=nn.Tanh):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 3)).double()


def data(rows=20, seed=1, inputs=5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (rows,), generator=generator)


def tight(model, loss, batches, optimizer=None, **more):
    return eq.sharpness(
        model, loss, batches, optimizer, tolerance=1e-8, most_products=200, **more
    )  # fmt: skip


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU])
def test_equals_the_dense_eigenvalue(activation):
    model, (x, y) = network(activation=activation), data()
    dense = flat_hessian(model, lambda f: F.cross_entropy(f(x), y))
    found = tight(model, F.cross_entropy, (x, y))
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-10)
    assert found.largest_rate == pytest.approx(2 / found.value)
    assert found.has_converged
    assert found.parameters == len(dense)
    assert math.isnan(found.sampling_error)
    assert "fresh" not in str(found)


def test_gauss_newton_equals_the_dense_product():
    model, (x, y) = network(), data()
    names = [n for n, _ in model.named_parameters()]
    values = tuple(p.detach() for p in model.parameters())
    jacobians = torch.autograd.functional.jacobian(
        lambda *v: torch.func.functional_call(model, dict(zip(names, v, strict=True)), (x,)), values
    )
    jacobian = torch.cat([j.reshape(60, -1) for j in jacobians], dim=1)
    z = model(x).detach()
    outer = torch.autograd.functional.hessian(lambda v: F.cross_entropy(v, y), z).reshape(60, 60)
    expected = torch.linalg.eigvalsh(jacobian.T @ outer @ jacobian)[-1]
    found = tight(model, F.cross_entropy, (x, y), curvature="gauss-newton")
    assert found.value == pytest.approx(float(expected), rel=1e-10)


def test_the_mean_over_batches_and_its_sampling_error():
    model = network()
    batches = [data(seed=k) for k in range(5)]

    def mean_loss(f):
        return sum(F.cross_entropy(f(x), y) for x, y in batches) / 5

    values, vectors = torch.linalg.eigh(flat_hessian(model, mean_loss))
    found = tight(model, F.cross_entropy, batches)
    assert found.value == pytest.approx(float(values[-1]), rel=1e-10)
    u = vectors[:, -1]
    each = [
        float(u @ flat_hessian(model, lambda f, b=b: F.cross_entropy(f(b[0]), b[1])) @ u)
        for b in batches
    ]
    assert found.sampling_error == pytest.approx(np.std(each, ddof=1) / math.sqrt(5), rel=1e-4)
    assert found.batches == 5


def test_the_error_holds_the_distance_to_the_eigenvalue_at_any_budget():
    model, (x, y) = network(), data()
    eigenvalues = torch.linalg.eigvalsh(flat_hessian(model, lambda f: F.cross_entropy(f(x), y)))
    for most in range(1, 12):
        found = eq.sharpness(
            model, F.cross_entropy, (x, y), tolerance=1e-12, most_products=most, seed=3
        )
        assert float((eigenvalues - found.value).abs().min()) <= found.error + 1e-12
        assert found.value <= float(eigenvalues[-1]) + 1e-12
        assert found.products == most
        assert not found.has_converged
    assert "raise most_products" in str(found)


def test_lanczos_agrees_with_arpack_and_closes_early():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(120, 120, generator=generator, dtype=torch.float64)
    a = a + a.T
    start = torch.randn(120, generator=generator, dtype=torch.float64)
    pair = largest_eigenpair(lambda v: a @ v, start, 1e-9, 120)
    arpack = eigsh(a.numpy(), k=1, which="LA", return_eigenvectors=False)[0]
    assert pair.value == pytest.approx(float(arpack), rel=1e-9)
    residual = torch.linalg.vector_norm(a @ pair.vector - pair.value * pair.vector)
    assert float(residual) == pytest.approx(pair.residual, abs=1e-8)
    # Two eigenvalues are two products, whatever the size.
    two = torch.cat([torch.full((60,), 2.0), torch.full((60,), -5.0)]).double()
    pair = largest_eigenpair(lambda v: two * v, start, 1e-14, 100)
    assert pair.value == pytest.approx(2.0, rel=1e-12)
    assert pair.products <= 3


def quadratic(curvatures):
    """A layer whose loss is half the sum of c w^2."""
    layer = nn.Linear(len(curvatures), 1, bias=False).double()
    nn.init.ones_(layer.weight)
    roots = torch.diag(torch.tensor(curvatures, dtype=torch.float64).sqrt())
    return layer, roots, lambda out: 0.5 * out.square().sum()


def radius(curvature, rate, step):
    """Largest modulus of the roots of a linear recursion of (weight, memory)."""
    columns = [step(e, curvature, rate) for e in ((1.0, 0.0), (0.0, 1.0))]
    return np.abs(np.linalg.eigvals(np.array(columns).T)).max()


def descent(momentum=0.0, dampening=0.0, nesterov=False, decay=0.0):
    def step(state, curvature, rate):
        x, v = state
        g = (curvature + decay) * x
        v = momentum * v + (1 - dampening) * g
        return x - rate * (g + momentum * v if nesterov else v), v

    return step


def mean_of_gradients(beta, decay=0.0, decoupled=0.0):
    """Adam with its divisor held at 1."""

    def step(state, curvature, rate):
        x, m = state
        m = beta * m + (1 - beta) * (curvature + decay) * x
        return (1 - rate * decoupled) * x - rate * m, m

    return step


SGD = torch.optim.SGD
LAWS = {
    "plain": (lambda p: SGD(p, 0.1), descent()),
    "momentum": (lambda p: SGD(p, 0.1, 0.9), descent(0.9)),
    "damped": (lambda p: SGD(p, 0.1, 0.8, dampening=0.3), descent(0.8, 0.3)),
    "nesterov": (lambda p: SGD(p, 0.1, 0.9, nesterov=True), descent(0.9, nesterov=True)),
    "decay": (lambda p: SGD(p, 0.1, 0.5, weight_decay=0.7), descent(0.5, decay=0.7)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_the_edge_of_descent_is_where_the_recursion_leaves_the_circle(name):
    make, step = LAWS[name]
    layer, x, loss = quadratic([0.5, 3.0, 1.0])
    edge = tight(layer, loss, x, make(layer.parameters())).largest_rate
    assert radius(3.0, 0.999 * edge, step) < 1 < radius(3.0, 1.001 * edge, step)


def with_moments(optimizer, layer, seconds, steps=100_000):
    """Give an optimizer the second moments of a long training."""
    state = optimizer.state[layer.weight]
    state["step"] = torch.tensor(float(steps))
    state["exp_avg"] = torch.zeros_like(layer.weight)
    state["exp_avg_sq"] = torch.tensor([seconds], dtype=torch.float64)
    return optimizer


def test_the_edge_of_adam_is_38_over_the_rate_for_the_usual_mean():
    layer, x, loss = quadratic([0.5, 3.0, 1.0])
    adam = with_moments(torch.optim.Adam(layer.parameters(), 0.1), layer, [1.0, 1.0, 1.0])
    found = tight(layer, loss, x, adam)
    assert found.reach == pytest.approx(38.0)
    assert found.has_own_moments
    assert found.largest_rate == pytest.approx(38.0 / 3.0, rel=1e-6)
    step = mean_of_gradients(0.9)
    assert radius(3.0, 0.999 * found.largest_rate, step) < 1
    assert radius(3.0, 1.001 * found.largest_rate, step) > 1


def test_torchs_own_adam_settles_just_below_its_edge_and_grows_just_above():
    layer, x, loss = quadratic([0.5, 3.0, 1.0])
    ends = {}
    for factor in (0.98, 1.02):
        nn.init.constant_(layer.weight, 1e-3)
        # Second moments that no gradient of this training can change.
        adam = torch.optim.Adam(layer.parameters(), 0.1, betas=(0.9, 1 - 1e-9))
        with_moments(adam, layer, [4.0, 1.0, 0.25], steps=10**11)
        edge = tight(layer, loss, x, adam).largest_rate
        assert edge == pytest.approx(38.0 / 3.0, rel=1e-6)
        adam.param_groups[0]["lr"] = factor * edge
        # Not much longer: what has grown large brings second moments, and rates, down after all.
        for _ in range(60):
            adam.zero_grad()
            loss(layer(x)).backward()
            adam.step()
        ends[factor] = float(layer.weight.detach().norm())
    assert ends[0.98] < 1e-3
    assert ends[1.02] > 1.0


@pytest.mark.parametrize("decoupled", [False, True])
def test_the_edge_of_adam_with_decay(decoupled):
    layer, x, loss = quadratic([0.5, 3.0, 1.0])
    make = torch.optim.AdamW if decoupled else torch.optim.Adam
    adam = make(layer.parameters(), 0.1, betas=(0.7, 0.99), weight_decay=0.4)
    with_moments(adam, layer, [1.0, 1.0, 1.0])
    edge = tight(layer, loss, x, adam).largest_rate
    step = mean_of_gradients(0.7, *((0.0, 0.4) if decoupled else (0.4, 0.0)))
    assert radius(3.0, 0.999 * edge, step) < 1 < radius(3.0, 1.001 * edge, step)


def test_the_preconditioned_eigenvalue_is_that_of_the_dense_matrix():
    model, (x, y) = network(), data()
    adam = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.9, 0.99), eps=1e-3)
    for _ in range(7):
        adam.zero_grad()
        F.cross_entropy(model(x), y).backward()
        adam.step()
    # Literally, from Adam's state: P = (1 - b1^t) (sqrt(v / (1 - b2^t)) + eps).
    p = torch.cat([
        ((1 - 0.9**7) * ((adam.state[w]["exp_avg_sq"] / (1 - 0.99**7)).sqrt() + 1e-3)).reshape(-1)
        for w in model.parameters()
    ])  # fmt: skip
    dense = flat_hessian(model, lambda f: F.cross_entropy(f(x), y))
    expected = max(np.linalg.eigvals((dense / p[:, None]).numpy()).real)
    found = tight(model, F.cross_entropy, (x, y), adam)
    assert found.value == pytest.approx(expected, rel=1e-8)
    assert found.largest_rate == pytest.approx(38 / expected, rel=1e-8)


def test_a_fresh_adam_borrows_the_moments_of_the_batches():
    model, batches = network(), [data(seed=k) for k in range(3)]
    squares = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in batches:
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        for s, g in zip(squares, gradients, strict=True):
            s += g**2 / 3
    p = torch.cat([(s.sqrt() + 1e-2).reshape(-1) for s in squares])
    dense = flat_hessian(
        model, lambda f: sum(F.cross_entropy(f(x), y) for x, y in batches) / 3
    )  # fmt: skip
    expected = max(np.linalg.eigvals((dense / p[:, None]).numpy()).real)
    adam = torch.optim.Adam(model.parameters(), eps=1e-2)
    found = tight(model, F.cross_entropy, batches, adam)
    assert found.value == pytest.approx(expected, rel=1e-8)
    assert not found.has_own_moments
    assert "the optimizer is fresh" in str(found)
    assert not adam.state


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_divides_by_its_own_root(centered):
    layer, x, loss = quadratic([0.5, 3.0, 1.0])
    rms = torch.optim.RMSprop(layer.parameters(), momentum=0.5, centered=centered, eps=0.0)
    state = rms.state[layer.weight]
    state["square_avg"] = torch.tensor([[4.0, 16.0, 1.0]], dtype=torch.float64)
    state["grad_avg"] = torch.tensor([[0.0, 0.0, 0.6]], dtype=torch.float64)
    found = tight(layer, loss, x, rms)
    assert found.value == pytest.approx(1.0 / 0.8 if centered else 1.0)
    assert found.reach == pytest.approx(3.0)


def test_groups_count_with_their_share_of_the_rate():
    layer, x, loss = quadratic([1.0, 1.0])
    second = nn.Linear(2, 1, bias=False).double()
    model = nn.ModuleList([layer, second])

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return torch.cat([part(x) for part in self.parts])

    sgd = torch.optim.SGD([
        {"params": layer.parameters(), "lr": 0.1}, {"params": second.parameters(), "lr": 0.5}
    ])  # fmt: skip
    assert tight(Both(), loss, x, sgd).value == pytest.approx(5.0)


def train(model, batch, loss, rate, steps=60):
    torch.manual_seed(0)
    model = copy.deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), rate)
    losses = []
    for _ in range(steps):
        sgd.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        sgd.step()
        losses.append(float(value.detach()))
    return losses


def test_steps_just_below_the_edge_settle_and_just_above_grow():
    # At a minimum of a network that fits its data there is nothing but the quadratic.
    model, (x, _) = network(), data()
    y = model(x).detach()
    edge = tight(model, F.mse_loss, (x, y)).largest_rate
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-6 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    below, above = (train(model, (x, y), F.mse_loss, f * edge, 400) for f in (0.98, 1.02))
    assert below[-1] < below[0]
    assert above[-1] > 100 * above[0]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(5, 5)
        self.leave = nn.Linear(5, 5)
        self.leave.weight = self.enter.weight
        self.enter.bias.requires_grad_(False)

    def forward(self, x):
        return self.leave(self.enter(x).tanh())


def test_tied_and_frozen_parameters():
    torch.manual_seed(0)
    model, (x, _) = Tied().double(), data()
    dense = flat_hessian(model, lambda f: F.mse_loss(f(x), x))
    found = tight(model, F.mse_loss, (x, x))
    assert found.parameters == 30 == len(dense)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-10)


def test_batch_norm_and_dropout_leave_no_trace_and_have_one_mask():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    ).double()
    batches = [data(seed=k) for k in range(3)]
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    found = [tight(model, F.cross_entropy, batches) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].has_converged
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    # The mask of a batch is that of its own seed.
    model.eval()
    total = 0.0
    for k, (x, y) in enumerate(batches):

        def loss_of(f, k=k, x=x, y=y):
            torch.manual_seed(5 + k)
            return F.cross_entropy(f(x), y)

        twin = copy.deepcopy(model).train()
        twin[1] = copy.deepcopy(model[1]).train()
        total = total + flat_hessian(twin, loss_of) / 3
    expected = float(torch.linalg.eigvalsh(total)[-1])
    found = tight(model.train(), F.cross_entropy, batches, seed=5)
    assert found.value == pytest.approx(expected, rel=1e-9)


class Reader(nn.Module):
    """An embedding, attention or a recurrent layer, and a norm."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.table = nn.Embedding(7, 8)
        self.mix = (
            nn.LSTM(8, 8, batch_first=True) if kind == "lstm"
            else nn.MultiheadAttention(8, 2, batch_first=True)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.table(tokens)
        h = self.mix(x)[0] if self.kind == "lstm" else self.mix(x, x, x, need_weights=False)[0]
        return self.head(self.norm(x + h).mean(1))


@pytest.mark.parametrize("kind", ["lstm", "attention"])
def test_recurrent_layers_and_fast_attention(kind):
    torch.manual_seed(0)
    model = Reader(kind).double()
    tokens, y = torch.randint(7, (6, 4)), torch.randint(3, (6,))
    found = tight(model, F.cross_entropy, (tokens, y))
    # By differences of gradients along the vector that a search of its own finds.
    parameters = list(model.parameters())
    v = [torch.randn_like(p) for p in parameters]
    for _ in range(300):
        size = math.sqrt(sum(float(t.square().sum()) for t in v))
        v = [t / size for t in v]
        sides = []
        for sign in (1e-5, -1e-5):
            twin = copy.deepcopy(model)
            with torch.no_grad():
                for p, t in zip(twin.parameters(), v, strict=True):
                    p.add_(t, alpha=sign)
            value = F.cross_entropy(twin(tokens), y)
            sides.append(torch.autograd.grad(value, list(twin.parameters())))
        hv = [(a - b) / 2e-5 for a, b in zip(*sides, strict=True)]
        rayleigh = sum(float((a * b).sum()) for a, b in zip(hv, v, strict=True))
        # Shifted, so that no negative eigenvalue wins.
        v = [h + 0.5 * found.value * t for h, t in zip(hv, v, strict=True)]
    assert found.value == pytest.approx(rayleigh, rel=1e-4)


def test_a_concave_loss_has_no_edge():
    layer, x, loss = quadratic([1.0, 2.0])
    found = tight(layer, lambda out: -loss(out), x)
    assert found.value == pytest.approx(-1.0)
    assert math.isinf(found.largest_rate)
    assert "no direction is curved upward" in str(found)
    assert json.loads(found.to_json())["largest_rate"] is None


def test_a_loss_without_curvature_has_none():
    layer, x, _ = quadratic([1.0, 2.0])
    found = eq.sharpness(layer, lambda out: out.sum(), x)
    assert (found.value, math.isinf(found.largest_rate)) == (0.0, True)
    wide = eq.sharpness(layer, lambda out: out.sum(), x, curvature="gauss-newton")
    assert wide.value == 0.0


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g


def ctc(z, y):
    return F.ctc_loss(
        z.log_softmax(-1)[:, None], torch.ones(1, 2, dtype=torch.long), (len(z),), (2,)
    )  # fmt: skip


def test_what_is_refused():
    model, batch = network(), data()
    with pytest.raises(ArgumentError, match="curvature must be one of"):
        eq.sharpness(model, F.cross_entropy, batch, curvature="fisher")
    with pytest.raises(ArgumentError, match="tolerance must be positive"):
        eq.sharpness(model, F.cross_entropy, batch, tolerance=0.0)
    with pytest.raises(ArgumentError, match="most_products must be an integer"):
        eq.sharpness(model, F.cross_entropy, batch, most_products=0)
    with pytest.raises(ArgumentError, match="Adagrad: its edge of stability is not known"):
        eq.sharpness(model, F.cross_entropy, batch, torch.optim.Adagrad(model.parameters()))
    with pytest.raises(ArgumentError, match="maximize=True"):
        eq.sharpness(
            model, F.cross_entropy, batch, torch.optim.SGD(model.parameters(), maximize=True)
        )
    halves = [{"params": [p], "momentum": 0.1 * k} for k, p in enumerate(model.parameters())]
    with pytest.raises(ArgumentError, match="one momentum for all groups"):
        eq.sharpness(model, F.cross_entropy, batch, torch.optim.SGD(halves))
    with pytest.raises(ArgumentError, match="hold trained parameters of the model at a rate"):
        eq.sharpness(model, F.cross_entropy, batch, SGD(network().parameters()))
    with pytest.raises(ArgumentError, match="loss must be finite for a sharpness, got nan"):
        eq.sharpness(model, lambda z, y: F.cross_entropy(z, y) * math.nan, batch)
    with pytest.raises(ArgumentError, match=r"once_differentiable, one of: Once\."):
        eq.sharpness(model, lambda z, y: F.cross_entropy(Once.apply(z), y), batch)
    with pytest.raises(ArgumentError, match=r"differentiable twice.*_ctc_loss_backward"):
        eq.sharpness(model, ctc, batch)
    with pytest.raises(ArgumentError, match="no gradients are given, got a fresh Adam"):
        law_of(torch.optim.Adam(model.parameters()), list(model.parameters()))


def test_an_error_of_the_model_stays_its_own():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, x):
            raise RuntimeError("a fault of mine")

    with pytest.raises(RuntimeError, match="a fault of mine"):
        eq.sharpness(Broken(), lambda z: z, torch.ones(2))


def test_a_curvature_that_overflows_is_refused():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.1)
    # The loss is 0 and its second derivative is infinite in float32.
    with pytest.raises(ArgumentError, match="finite curvature"):
        eq.sharpness(
            model, lambda z: (z - 1).square().sum() * 1e30 * 1e8, torch.full((1, 1), 1e1)
        )  # fmt: skip
