"""Whole models with branches, attention and tables: planned, drawn and measured."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.lab.models import mlp
from equipoise.plan.plan import Plan

WIDTH, HEADS, SITES, TOKENS = 32, 4, 12, 40


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape):
    return torch.randn(*shape, generator=seeded())


class Attention(nn.Module):
    """Self-attention written by hand; one weight for queries, keys and values."""

    def __init__(self, causal=False):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.causal = causal

    def forward(self, x):
        parts = self.qkv(x).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        if self.causal:
            made = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            made = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.out(made.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """SwiGLU: a product of two linear maps, one through SiLU."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(a, b, bias=False)
            for a, b in ((WIDTH, 2 * WIDTH), (WIDTH, 2 * WIDTH), (2 * WIDTH, WIDTH))
        )

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


def bend():
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Block(nn.Module):
    """Attention and MLP, with norms before them or behind the sums."""

    def __init__(self, post=False, causal=False, mlp=bend):
        super().__init__()
        self.a, self.b, self.post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), post
        self.attention, self.mlp = Attention(causal), mlp()

    def forward(self, x):
        if self.post:
            x = self.a(x + self.attention(x))
            return self.b(x + self.mlp(x))
        x = x + self.attention(self.a(x))
        return x + self.mlp(self.b(x))


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.first = nn.Linear(16, WIDTH)
        self.blocks = nn.Sequential(*[Block(**options) for _ in range(4)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.first(x))).mean(1))


class GPT(nn.Module):
    """Tokens and places, causal blocks, and a head that is the table of tokens."""

    def __init__(self, tied=True):
        super().__init__()
        self.token, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(SITES, WIDTH)
        self.blocks = nn.Sequential(*[Block(causal=True) for _ in range(4)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, t):
        h = self.token(t) + self.place(torch.arange(t.shape[1], device=t.device))
        return self.head(self.norm(self.blocks(h)))


class ConvBlock(nn.Module):
    def __init__(self, given, out, stride=1):
        super().__init__()
        self.a, self.b = nn.Conv2d(given, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.n, self.m = nn.BatchNorm2d(given), nn.BatchNorm2d(out)
        same = given == out and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(given, out, 1, stride)

    def forward(self, x):
        return self.skip(x) + self.b(torch.relu(self.m(self.a(torch.relu(self.n(x))))))


def residual_cnn():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), ConvBlock(16, 16), ConvBlock(16, 16), ConvBlock(16, 24, 2),
        ConvBlock(24, 24), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(24, 5),
    )  # fmt: skip


class MixerBlock(nn.Module):
    """An MLP over sites, then one over features."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.sites = nn.Sequential(nn.Linear(SITES, 24), nn.GELU(), nn.Linear(24, SITES))
        self.features = bend()

    def forward(self, x):
        x = x + self.sites(self.a(x).transpose(1, 2)).transpose(1, 2)
        return x + self.features(self.b(x))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, WIDTH)
        self.blocks = nn.Sequential(*[MixerBlock() for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.first(x))).mean(1))


class Added(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def residual_mlp():
    """24 blocks and no norm at all."""
    return nn.Sequential(
        nn.Linear(16, WIDTH), *[Added(bend()) for _ in range(24)], nn.Linear(WIDTH, 5)
    )


ROWS = data(32, SITES, 16)
IDS = torch.randint(0, TOKENS, (32, SITES), generator=seeded())
MODELS = {
    "pre-norm": (Encoder, ROWS),
    "post-norm": (lambda: Encoder(post=True), ROWS),
    "gated": (lambda: Encoder(mlp=Gated), ROWS),
    "gpt": (GPT, IDS),
    "gpt, head apart": (lambda: GPT(tied=False), IDS),
    "residual cnn": (residual_cnn, data(32, 3, 16, 16)),
    "mixer": (Mixer, ROWS),
    "residual mlp": (residual_mlp, data(64, 16)),
}


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def identical(before, model):
    return all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def built(name, seed=0):
    torch.manual_seed(seed)
    make, x = MODELS[name]
    return make(), x


@pytest.fixture(scope="module", params=MODELS)
def started(request):
    """A model as it was, as it was started, and the report."""
    model, x = built(request.param)
    before = state(model)
    report = eq.initialize(model, x, generator=seeded())
    return request.param, model, x, before, report


def test_every_parameter_is_drawn(started):
    _, model, _, _, report = started
    assigned = {a.parameter for a in report.plan.assignments}
    names = {name for name, _ in model.named_parameters()}
    assert assigned == names
    assert all(a.reason for a in report.plan.assignments)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_nothing_is_wrong_with_the_start(started):
    report = started[-1]
    assert report.ok, [f for f in report.findings if f.severity == "error"]
    assert report.measurements.output_is_finite


def test_predicted_signals_are_within_a_factor_of_2(started):
    report = started[-1]
    checked = 0
    for found, expected in zip(report.measurements.layers, report.plan.predictions, strict=True):
        assert found.weight == expected.weight
        if math.isfinite(expected.signal):
            checked += 1
            ratio = found.signal / expected.signal
            assert 0.5 < ratio < 2.0, (found.layer, found.signal, expected.signal)
    assert checked >= len(report.plan.predictions) / 2


def test_gradients_do_not_drift_in_depth(started):
    """Norms of the gradients of equal weights of all blocks, within a factor 10."""
    _, model, x, _, _ = started
    model.zero_grad()
    out = model(x)
    (out * torch.randn(out.shape, generator=seeded(1))).sum().backward()
    by_role = {}
    for name, p in model.named_parameters():
        if p.dim() < 2:
            continue
        role = (".".join(part for part in name.split(".") if not part.isdigit()), tuple(p.shape))
        by_role.setdefault(role, []).append(float(p.grad.norm()))
    deep = {role: norms for role, norms in by_role.items() if len(norms) > 1}
    assert deep
    for role, norms in deep.items():
        assert max(norms) < 10 * min(norms), (role, norms)


def test_undo_is_bit_for_bit(started):
    name, _, x, _, _ = started
    model, _ = built(name, 3)
    before = state(model)
    report = eq.initialize(model, x, generator=seeded())
    assert not identical(before, model)
    report.undo()
    assert identical(before, model)


def test_a_saved_plan_draws_the_same(started, tmp_path):
    _, model, _, _, report = started
    plan = Plan.load(report.plan.save(tmp_path / "plan.json"))
    for name, parameter in model.named_parameters():
        alone = torch.from_numpy(plan.draw(name, report.seed)).to(parameter.dtype)
        assert torch.equal(alone, parameter.detach()), name


@pytest.mark.parametrize("name", ["gpt", "gpt, head apart"])
def test_a_language_model_starts_near_chance(name):
    model, x = built(name)
    eq.initialize(model, x, purpose="classification", generator=seeded())
    with torch.no_grad():
        loss = F.cross_entropy(model(x).flatten(0, 1), IDS.roll(-1, 1).flatten())
    assert float(loss) < math.log(TOKENS) + 1


def test_a_tied_head_is_drawn_at_the_scale_of_its_logits():
    """Logits are products of a normalized signal with the rows, so their RMS is that of a row."""
    model, x = built("gpt")
    report = eq.initialize(model, x, output_rms=0.5, generator=seeded())
    rows = model.token.weight.detach().norm(dim=1)
    assert float(rows.square().mean().sqrt()) == pytest.approx(0.5, rel=0.2)
    assert report.measurements.output_rms == pytest.approx(0.5, rel=0.3)


def test_the_row_of_an_embedding_that_stands_for_padding_is_zero():
    model = nn.Sequential(nn.Embedding(TOKENS, WIDTH, padding_idx=3), nn.Linear(WIDTH, 5))
    eq.initialize(model, IDS, generator=seeded())
    rows = model[0].weight.detach()
    assert not rows[3].any()
    assert float(rows[4:].square().mean()) == pytest.approx(1.0, rel=0.2)


def test_branches_say_their_share_of_the_stream():
    model, x = built("residual mlp")
    ends = [c for c in eq.plan(model, x).choice if "it ends one of" in c]
    assert len(ends) == 24
    assert all("one of 24 residual branches, at 0.25/sqrt(24)" in c for c in ends)


def test_the_stream_of_a_deep_residual_network_hardly_grows():
    """(1 + 1/16/24)^24 in the mean of draws."""
    model, x = built("residual mlp")
    growths = []
    for seed in range(12):
        eq.apply(model, eq.plan(model, x), seeded(seed))
        with torch.no_grad():
            growths.append(float(model[:-1](x).square().mean() / model[0](x).square().mean()))
    drawn = torch.tensor(growths)
    error = 4 * float(drawn.std()) / math.sqrt(len(growths))
    assert float(drawn.mean()) == pytest.approx((1 + 1 / 16 / 24) ** 24, abs=error)


def test_a_weight_of_shape_in_by_out_is_drawn_as_its_transpose():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.empty(16, 64)), nn.Parameter(torch.empty(64, 5))
            self.offset = nn.Parameter(torch.ones(64))

        def forward(self, x):
            return torch.tanh(x @ self.a + self.offset) @ self.b

    x, straight = data(64, 16), mlp([16, 64, 5], nn.Tanh)
    model = Turned()
    torch.manual_seed(0)
    nn.init.normal_(model.a), nn.init.normal_(model.b)
    report = eq.initialize(model, x, generator=seeded())
    usual = eq.initialize(straight, x, generator=seeded())
    found, wanted = report.measurements.layers, usual.measurements.layers
    assert report.ok
    for one, other in zip(found, wanted, strict=True):
        assert (one.width, one.signal) == (other.width, pytest.approx(other.signal, rel=0.2))
    assert [p.signal for p in report.plan.predictions] == pytest.approx(
        [p.signal for p in usual.plan.predictions], rel=0.05
    )


def test_rounds_of_training_lower_the_loss_of_every_model(started):
    name, model, x, _, _ = started
    out = model(x)
    targets = torch.arange(out[..., 0].numel()).view(out.shape[:-1]) % out.shape[-1]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(x).flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0], name
