"""Rules against torch's own clipping, and against slow transcriptions of the papers."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.training.gradient_norms import tensor_norms, unit_norms


def grads(seed, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(8, 5), (8,), (4, 3, 2, 2), (1,), (3, 8)]
    return [scale * torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)
            for s in shapes]  # fmt: skip


def parameters(gradients):
    found = []
    for gradient in gradients:
        p = torch.zeros_like(gradient, requires_grad=True)
        p.grad = gradient.clone()
        found.append(p)
    return found


def real(seed):
    """Gradients of a network that is trained: convolution, norm, linear layers, embedding."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3),
        nn.Flatten(), nn.Linear(4 * 36, 16), nn.GELU(), nn.Linear(16, 4),
    )  # fmt: skip
    x = torch.randn(6, 3, 6, 6)
    nn.functional.cross_entropy(30 * model(x), torch.arange(6) % 4).backward()
    return model


@pytest.mark.parametrize("limit", [0.1, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_global_norm_is_torch_bit_for_bit(limit, dtype):
    model = real(0).to(dtype)
    for p in model.parameters():
        p.grad = p.grad.to(dtype)
    other = copy.deepcopy(model)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        q.grad = p.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(other.parameters(), limit)
    found = eq.clip_gradients_(list(model.parameters()), eq.GlobalNorm(limit))
    assert torch.equal(found.norm, norm)
    assert found.is_clipped.item() == (norm.item() > limit)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("limit", [1e-3, 0.3, 1e6])
def test_value_is_torch_bit_for_bit(limit):
    model = real(1)
    mine = parameters([p.grad for p in model.parameters()])
    torch.nn.utils.clip_grad_value_(model.parameters(), limit)
    largest = max(p.grad.abs().max().item() for p in mine)
    found = eq.clip_gradients_(mine, eq.Value(limit))
    assert found.is_clipped.item() == (largest > limit)
    for p, q in zip(mine, model.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e12])
def test_a_value_is_met_where_an_entry_is_above_it(dtype, scale):
    """Whatever of norms, root mean squares and entries the limit lies between."""
    given = [*grads(9, scale, dtype), torch.zeros(0, 2, dtype=dtype), torch.zeros(3, dtype=dtype)]
    given[2][0, 0, 0, 0] *= 5
    parts = [torch.view_as_real(g) if dtype.is_complex else g for g in given]
    largest = max(p.abs().max().item() for p in parts if p.numel())
    norms = [p.double().norm().item() for p in parts if p.numel()]
    limits = [largest, *(norm * by for norm in norms for by in (0.2, 0.9995, 1.0005, 3.0))]
    limits += [largest * by for by in (0.01, 0.3, 0.999, 1.001, 2.0)]
    for limit in limits:
        if limit > 0:
            _, found = eq.clip_gradients(given, eq.Value(limit))
            assert found.is_clipped.item() == (largest > limit), limit


def test_a_value_is_not_judged_by_norms_that_are_not_finite():
    # The norm of the first overflows in single precision, none of its entries does.
    large = [torch.full((4,), 1e30), torch.ones(2)]
    assert eq.clip_gradients(large, eq.Value(1e29))[1].is_clipped
    assert not eq.clip_gradients(large, eq.Value(1e31))[1].is_clipped
    spoiled = [torch.tensor([math.inf, 1.0]), torch.ones(2)]
    assert eq.clip_gradients(spoiled, eq.Value(5.0))[1].is_clipped


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    mine = grads(2, 300.0, dtype)
    _, found = eq.clip_gradients(mine, eq.GlobalNorm(1.0))
    exact = math.sqrt(sum((g.double() ** 2).sum().item() for g in mine))
    assert found.norm.item() == pytest.approx(exact, rel=1e-5)
    # 1e5 is infinite in float16, which ends at 65,504.
    large = [torch.full((40, 40), 2500.0, dtype=dtype)]
    assert eq.clip_gradients(large, eq.GlobalNorm(1.0))[1].norm.item() == pytest.approx(1e5, 1e-2)


def test_the_pure_form_changes_nothing_and_agrees_with_the_one_in_place():
    for rule in (eq.GlobalNorm(0.5), eq.Value(0.2), eq.PerLayer(0.4), eq.PerUnit(0.1)):
        given = grads(3)
        weights = [g.abs() for g in grads(4)]
        kept = [g.clone() for g in given]
        out, _ = eq.clip_gradients(given, rule, weights)
        assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
        ps = [w.clone().requires_grad_() for w in weights]
        for p, g in zip(ps, given, strict=True):
            p.grad = g.clone()
        eq.clip_gradients_(ps, rule)
        assert all(torch.equal(p.grad, o) for p, o in zip(ps, out, strict=True))
        assert not torch.equal(out[0], given[0])


def test_layers_are_clipped_each_by_itself():
    layers = ["a", "a", "b", "b", "c"]
    given = grads(5, 2.0)
    given[4] *= 1e-3
    out, found = eq.clip_gradients(given, eq.PerLayer(1.0), layers=layers)
    for name in "abc":
        own = [i for i, layer in enumerate(layers) if layer == name]
        norm = math.sqrt(sum((given[i].double() ** 2).sum().item() for i in own))
        for i in own:
            torch.testing.assert_close(out[i], given[i] * min(1.0, 1.0 / (norm + 1e-6)))
    assert found.is_clipped
    assert torch.equal(out[4], given[4])
    alone, _ = eq.clip_gradients(given, eq.PerLayer(1.0))
    norms = [g.norm() for g in alone]
    torch.testing.assert_close(torch.stack(norms[:2]), torch.ones(2), rtol=1e-5, atol=0)


def test_units_are_clipped_as_the_paper_writes_it():
    rule = eq.PerUnit(0.05, floor=1e-2)
    given, weights = grads(6), [0.3 * g for g in grads(7)]
    weights[0][2] = 0.0
    given[0][3] = 0.0
    out, found = eq.clip_gradients(given, rule, weights)
    for g, w, o in zip(given, weights, out, strict=True):
        units = [(g, w, o)] if g.dim() < 2 else list(zip(g, w, o, strict=True))
        for gi, wi, oi in units:
            most = rule.limit * max(wi.norm().item(), rule.floor)
            expected = gi * most / gi.norm() if gi.norm().item() > most else gi
            torch.testing.assert_close(oi, expected)
    assert found.is_clipped
    assert not eq.clip_gradients(given, eq.PerUnit(1e6), weights)[1].is_clipped


def test_units_lie_where_they_are_said_to():
    g = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([g[:, i].norm() for i in range(5)])
    torch.testing.assert_close(unit_norms(g, 1).flatten(), expected)


def test_a_guard_reads_units_once_and_knows_the_norm_of_all():
    model, other = real(2), real(2)
    rule = eq.PerUnit(0.01)
    names = [name for name, _ in model.named_parameters()]
    guard = eq.Guard(
        torch.optim.SGD(model.parameters(), 1.0), {names[0]: eq.GlobalNorm(0.1), "*": rule},
        model=model,
    )  # fmt: skip
    before = [p.detach().clone() for p in model.parameters()]
    first, *rest = list(other.parameters())
    norm = math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in other.parameters()))
    eq.clip_gradients_([first], eq.GlobalNorm(0.1))
    for p in rest:
        # A transposed convolution has its units along the second axis.
        axis = 1 if p is other[3].weight else 0
        turned = p.detach().movedim(axis, 0).contiguous().requires_grad_()
        turned.grad = p.grad.movedim(axis, 0).contiguous()
        eq.clip_gradients_([turned], rule)
        p.grad = turned.grad.movedim(0, axis)
    guard.step()
    assert guard.history["gradient_norm"][0] == pytest.approx(norm, rel=1e-5)
    for p, old, q in zip(model.parameters(), before, other.parameters(), strict=True):
        torch.testing.assert_close(p, old - q.grad)


def test_percentile_is_autoclip():
    rule, memory, seen = eq.Percentile(10.0, window=40), None, []
    rng = np.random.default_rng(0)
    for step in range(100):
        given = grads(step, float(rng.lognormal()))
        out, found = eq.clip_gradients(given, rule, memory=memory)
        memory = found.memory
        seen.append(math.sqrt(sum((g.double() ** 2).sum().item() for g in given)))
        limit = np.percentile(seen[-40:], 10.0)
        assert found.limit.item() == pytest.approx(limit, rel=1e-5)
        torch.testing.assert_close(out[0], given[0] * min(1.0, limit / (seen[-1] + 1e-6)))


def test_percentile_waits_and_passes_over_what_is_not_finite():
    rule, memory = eq.Percentile(50.0, window=10, warmup=3), None
    for norm in (1.0, 2.0, math.nan, 3.0):
        (out,), found = eq.clip_gradients([torch.tensor([norm])], rule, memory=memory)
        memory = found.memory
    assert found.limit.item() == 2.0
    assert out.item() == pytest.approx(2.0, rel=1e-5)
    _, first = eq.clip_gradients([torch.tensor([9.0])], rule)
    assert math.isinf(first.limit)
    assert not first.is_clipped


def zclip(norms, rule):
    """The algorithm of arXiv 2504.02507 on plain numbers; the norm after clipping of each step."""
    warm, mean, var, out = [], None, None, []
    for g in norms:
        if len(warm) < rule.warmup:
            warm.append(g)
            out.append(g)
            if len(warm) == rule.warmup:
                mean = sum(warm) / len(warm)
                var = sum((x - mean) ** 2 for x in warm) / len(warm)
            continue
        std = math.sqrt(var)
        z = (g - mean) / (std + 1e-6)
        if z > rule.threshold:
            g = mean + rule.threshold * std / (z / rule.threshold)
        out.append(g)
        mean = rule.decay * mean + (1 - rule.decay) * g
        var = rule.decay * var + (1 - rule.decay) * (g - mean) ** 2
    return out


def test_zscore_is_zclip():
    rng = np.random.default_rng(1)
    norms = rng.lognormal(sigma=0.3, size=200)
    norms[[30, 90, 91, 150]] *= 50.0
    rule, memory, kept, clipped = eq.ZScore(2.5, 0.95, 20), None, [], 0
    for norm in norms:
        given = torch.full((4,), norm / 2, dtype=torch.float64)
        (out,), found = eq.clip_gradients([given], rule, memory=memory)
        memory = found.memory
        kept.append(out.norm().item())
        clipped += found.is_clipped.item()
    np.testing.assert_allclose(kept, zclip(norms, rule), rtol=1e-5)
    assert 4 <= clipped < 30


def test_zscore_passes_over_what_is_not_finite():
    rule = eq.ZScore(warmup=5)
    norms = [1.0, 1.2, math.nan, 0.9, 1.1, math.inf, 1.0, 1.3, math.nan, 50.0]
    memory = None
    for norm in norms:
        (out,), found = eq.clip_gradients([torch.tensor([norm])], rule, memory=memory)
        memory = found.memory
    expected = zclip([n for n in norms if math.isfinite(n)], rule)[-1]
    assert out.item() == pytest.approx(expected, rel=1e-4)


def test_sparse_gradients_count_each_entry_once():
    table = nn.Embedding(10, 4, sparse=True)
    dense = nn.Embedding(10, 4)
    dense.weight.data.copy_(table.weight.data)
    rows = torch.tensor([1, 1, 7, 1])
    for one in (table, dense):
        (one(rows) ** 3).sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(dense.parameters(), 0.5)
    found = eq.clip_gradients_([table.weight], eq.GlobalNorm(0.5))
    torch.testing.assert_close(found.norm, norm)
    torch.testing.assert_close(table.weight.grad.to_dense(), dense.weight.grad)


def test_complex_gradients():
    g = torch.tensor([3.0 + 4.0j, 0.1j])
    (out,), found = eq.clip_gradients([g], eq.GlobalNorm(1.0))
    assert found.norm.item() == pytest.approx(math.sqrt(25.01))
    torch.testing.assert_close(out, g / math.sqrt(25.01), rtol=1e-5, atol=0)
    (cut,), _ = eq.clip_gradients([g], eq.Value(1.0))
    # Parts are cut, and the modulus of 5 is above them.
    assert not eq.clip_gradients([g], eq.Value(4.5))[1].is_clipped
    torch.testing.assert_close(cut, torch.tensor([1.0 + 1.0j, 0.1j]))


def test_nothing_to_clip():
    p = torch.zeros(3, requires_grad=True)
    for rule in (eq.GlobalNorm(), eq.Value(), eq.PerLayer(), eq.PerUnit(), eq.Percentile()):
        found = eq.clip_gradients_([p], rule)
        assert found.norm.item() == 0.0
        assert not found.is_clipped
    assert tensor_norms([torch.zeros(0, 3), torch.ones(4)], math.inf).tolist() == [0.0, 1.0]


def test_the_largest_entry_is_the_infinity_norm():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        given = grads(8, dtype=dtype)
        given[0][1, 1] = -7.0
        expected = torch.stack([g.float().abs().max() for g in given]).to(torch.float64)
        found = tensor_norms(given, math.inf)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
        given[2][0, 0, 0, 0] = math.nan
        assert tensor_norms(given, math.inf)[2].isnan()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: eq.GlobalNorm(0.0), "limit"),
        (lambda: eq.Value(-1.0), "limit"),
        (lambda: eq.PerLayer(math.nan), "limit"),
        (lambda: eq.PerUnit(0.0), "limit"),
        (lambda: eq.PerUnit(0.1, 0.0), "floor"),
        (lambda: eq.Percentile(0.0), "percentile"),
        (lambda: eq.Percentile(101.0), "percentile"),
        (lambda: eq.Percentile(10.0, 0), "window"),
        (lambda: eq.Percentile(10.0, 10, -1), "warmup"),
        (lambda: eq.ZScore(0.0), "threshold"),
        (lambda: eq.ZScore(decay=1.5), "decay"),
        (lambda: eq.ZScore(warmup=1), "warmup"),
        (lambda: eq.clip_gradients(grads(0), eq.PerUnit()), "parameters"),
        (lambda: eq.clip_gradients(grads(0), eq.Value(), grads(1)[:2]), "parameters"),
        (lambda: eq.clip_gradients(grads(0), eq.PerLayer(), layers=["a"]), "layers"),
        (lambda: eq.clip_gradients_(parameters(grads(0)), eq.PerLayer(), ["a"]), "layers"),
    ],
)
def test_what_cannot_be_is_named(make, name):
    with pytest.raises(ArgumentError, match=f"{name}.* must"):
        make()


def test_units_of_a_sparse_gradient_are_refused():
    table = nn.Embedding(10, 4, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ArgumentError, match="gradients must be dense for PerUnit"):
        eq.clip_gradients_([table.weight], eq.PerUnit())
