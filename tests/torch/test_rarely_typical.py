"""What one draw, one picture or one batch shows is not taken for what all of them do."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(model, x, plan, count):
    """RMS of the outputs in so many draws."""
    made = []
    for seed in range(count):
        eq.apply(model, plan, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            made.append(float(model(x).square().mean().sqrt()))
    return made


class Cubes(nn.Module):
    """Powers of normal numbers behind a gain that keeps its value."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 16)
        self.gain = nn.Parameter(normal(8))

    def forward(self, x):
        x = self.table(x)
        cubes = x * torch.relu(F.layer_norm(x, (8,)) * F.softplus(self.gain)) ** 2
        return self.head(F.softshrink(cubes).amax(1))


@pytest.mark.parametrize("first", range(4))
def test_a_level_that_differs_from_draw_to_draw_is_the_middle_one_or_not_told(first):
    """Of single draws one in three has another level by more than a factor 2."""
    model, x = Cubes(), torch.tensor([[1, 4, 2, 7, 9]]) + first % 2
    torch.nn.init.normal_(model.gain, std=1 + first)
    plan = eq.plan(model, x)
    (found,) = plan.predictions
    made = drawn(model, x, plan, 41)
    assert math.isnan(found.signal) or 0.5 < np.median(made) / found.signal < 2.0


class Tracked(nn.Module):
    """A batch norm that evaluates takes no mean off, a norm of the row does, a mean sees it."""

    def __init__(self):
        super().__init__()
        self.first, self.batch = nn.Conv2d(8, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.branch = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))
        self.norm, self.head = nn.GroupNorm(1, 2), nn.Linear(2, 16)

    def forward(self, x):
        x = self.batch(F.logsigmoid(self.first(x)))
        return self.head(self.norm(x + self.branch(x)).mean((2, 3)))


def test_a_mean_that_a_tracked_norm_leaves_is_taken_off_by_the_next():
    x = normal(7, 8, 12, 12)
    told = {p.layer: p.signal for p in eq.plan(Tracked().eval(), x).predictions}
    assert math.isnan(told["head"])


def test_one_picture_is_not_centred_by_itself():
    """Its mean over sites is all that a mean over sites leaves of it."""
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(12, 16))  # fmt: skip
    one = normal(1, 3, 8, 8) + 1.5
    report = eq.initialize(model, one, generator=torch.Generator().manual_seed(0))
    assert 0.5 < float(model(one).detach().square().mean().sqrt()) < 2.0
    assert 0.5 < report.plan.predictions[-1].signal < 2.0
    # Of several it is the mean of all that is taken off.
    eq.initialize(model, normal(24, 3, 8, 8) + 1.5)
    assert float(model[0].bias.detach().abs().max()) > 0.1


def test_one_picture_of_one_channel_has_a_largest_site():
    """That is one number, which is not told from its mean."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
                          nn.Linear(1, 16))  # fmt: skip
    one = normal(1, 1, 4, 6) + 1.1
    eq.initialize(model, one, generator=torch.Generator().manual_seed(0))
    assert 0.5 < float(model(one).detach().square().mean().sqrt()) < 2.0


class Copied(nn.Module):
    """Copies less their mean: nothing but rounding."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 16)

    def forward(self, x):
        x = self.a(x.unsqueeze(1).expand(-1, 3, -1, -1))
        return self.b(x - x.mean(1, keepdim=True))


def test_a_mean_of_copies_is_what_was_copied():
    (first, second) = eq.plan(Copied(), normal(7, 5, 8)).predictions
    assert math.isnan(second.signal) or second.signal == 0.0
    assert math.isnan(first.across)


class Dropped(nn.Module):
    """Dropout in front of a function that is not 0 where its argument is."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(24, 32), nn.Linear(32, 16), nn.Dropout(0.5)

    def forward(self, x):
        return self.b(F.softplus(torch.tanh(self.drop(self.a(x)))))


def test_dropout_in_front_of_a_function_is_not_that_behind_it():
    model, x = Dropped(), normal(64, 24)
    plan = eq.plan(model, x)
    made = drawn(model, x, plan, 20)
    assert np.median(made) == pytest.approx(plan.predictions[-1].signal, rel=0.1)


@pytest.mark.parametrize("is_training", [True, False])
def test_inputs_behind_dropout_are_as_loud_as_it_makes_them(is_training):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 8))
    model, x = model.train(is_training), normal(1024, 16)
    plan = eq.initialize(model, x, generator=torch.Generator().manual_seed(0)).plan
    torch.manual_seed(0)
    with torch.no_grad():
        made = float(model[:2](x).square().mean().sqrt())
    assert made == pytest.approx(plan.predictions[0].signal, rel=0.03)


class Opposite(nn.Module):
    """Two sites less their mean are opposite: of a mean of them nothing is left."""

    def __init__(self):
        super().__init__()
        self.first, self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(4))
        self.out = nn.Linear(32, 8)

    def forward(self, x):
        x = self.first(x)
        x = x - x.mean(1, keepdim=True)
        weights = (self.q(x) @ self.k(x).mT / 32**0.5).softmax(-1)
        return self.out(weights @ self.v(x))


def test_an_average_of_values_less_their_mean_is_not_told():
    told = {p.layer: p.signal for p in eq.plan(Opposite(), normal(32, 2, 32)).predictions}
    assert math.isnan(told["out"])
    assert told["v"] > 0.5


class Windows(nn.Module):
    """Attention whose sites are channels and taps, and whose units are windows."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        x = F.unfold(self.first(x), 2, stride=2)
        weights = (self.q(x) @ self.k(x).mT / 6**0.5).softmax(-1)
        return self.out(weights @ self.v(x))


def test_what_sites_share_is_another_thing_where_windows_are_units():
    told = {p.layer: p.signal for p in eq.plan(Windows(), normal(7, 3, 4, 6) + 1).predictions}
    assert math.isnan(told["out"])


class Padded(nn.Module):
    """One site in a frame of zeros, which a norm makes three times as loud."""

    def __init__(self, pad):
        super().__init__()
        self.first, self.norm, self.pad = nn.Conv2d(3, 12, 4), nn.GroupNorm(1, 12), pad
        self.inner, self.last = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = self.norm(F.pad(self.first(x), (self.pad,) * 4))
        return self.last(torch.tanh(self.inner(x)))


def test_a_frame_of_zeros_around_few_sites_leaves_no_level_for_functions():
    small, large = normal(32, 3, 4, 4), normal(32, 3, 12, 12)
    told = {p.layer: p.signal for p in eq.plan(Padded(1), small).predictions}
    assert math.isnan(told["last"])
    told = {p.layer: p.signal for p in eq.plan(Padded(1), large).predictions}
    assert told["last"] > 0


class OverSites(nn.Module):
    """A weight over sites makes new ones, which share nothing, however alike the old ones were."""

    def __init__(self):
        super().__init__()
        self.first, self.mix, self.head = nn.Linear(8, 32), nn.Linear(6, 6), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.mix(self.first(x).mT).mT.mean(1))


def test_sites_that_a_weight_makes_do_not_share_what_those_did_that_it_reads():
    x = normal(32, 1, 8) + 0.1 * normal(32, 6, 8, seed=1)
    told = {p.layer: p.signal for p in eq.plan(OverSites(), x).predictions}
    assert math.isnan(told["head"])


class GainedDifference(nn.Module):
    """A value less itself times a gain of both signs, which is little of it."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.gain = nn.Parameter(torch.linspace(-1.0, 1.0, 8))

    def forward(self, x):
        x = self.table(x)
        return self.head(torch.erf(x) - x * self.gain)


def test_of_a_gain_that_keeps_its_values_only_the_mean_correlates():
    model, x = GainedDifference(), torch.randint(0, 11, (32, 5))
    plan = eq.plan(model, x)
    made = drawn(model, x, plan, 20)
    assert np.median(made) == pytest.approx(plan.predictions[-1].signal, rel=0.15)


class Single(nn.Module):
    """One unit that reads values which are far from 0, as those of 1 - relu are."""

    def __init__(self, units):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(1, 16)
        self.conv, self.head = nn.Conv2d(16, units, 2, stride=2), nn.Linear(units, 3)

    def forward(self, x):
        x = 1 - torch.relu(F.tanhshrink(self.norm(self.stem(x))))
        return self.head(self.conv(x).amax((2, 3)))


@pytest.mark.parametrize("units", [1, 64])
def test_a_mean_that_inputs_share_is_drawn_once_for_each_unit(units):
    """One unit has more or less of it, many have it on average."""
    model, x = Single(units), normal(4, 3, 16, 8)
    plan = eq.plan(model, x)
    made = {"conv": [], "head": []}
    for name, kept in made.items():
        model.get_submodule(name).register_forward_hook(
            lambda m, i, o, kept=kept: kept.append(float(o.square().mean().sqrt()))
        )
    for seed in range(60):
        eq.apply(model, plan, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            model(x)
    for told in plan.predictions[1:]:
        logs = np.log(made[told.layer][-60:])
        if units > 1:
            assert abs(np.median(logs) - math.log(told.signal)) < 0.15
        assert math.isnan(told.signal) or abs(np.median(logs) - math.log(told.signal)) < 0.7
        # The spread that is told is that of draws, up to 4 standard errors of one of 60.
        assert abs(np.std(logs) - told.log_std) < 0.02 + 4 / math.sqrt(120) * told.log_std


class Cut(nn.Module):
    """A square of rectified sums of inputs, in a stream with dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.drop = nn.Linear(8, 16), nn.Dropout(0.5)
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.drop(x) + torch.relu(self.drop(x)) ** 2)


@pytest.mark.parametrize("is_even", [True, False])
def test_a_square_of_uneven_rows_has_another_level(is_even):
    x = normal(64, 8)
    x[::16] *= 1.0 if is_even else 12.0
    model = Cut().train()
    told = {p.layer: p for p in eq.plan(model, x).predictions}
    assert math.isnan(told["head"].signal) != is_even


def test_one_unit_divided_by_its_own_size_is_not_normal():
    """It is 1 or -1, as the inputs have it, and no draw makes it another thing."""

    class Sign(nn.Module):
        def __init__(self):
            super().__init__()
            self.batch, self.last = nn.BatchNorm1d(1, affine=False), nn.Linear(1, 17)

        def forward(self, x):
            return self.last(F.mish(self.batch(F.normalize(x, dim=-1))))

    x = normal(32, 1) + 1.5
    (told,) = eq.plan(Sign(), x).predictions
    assert math.isnan(told.signal)


class Joined(nn.Module):
    """A bump of loud and quiet values side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(24, 8), nn.Linear(24, 24), nn.Linear(32, 64)

    def forward(self, x):
        x = torch.cat([30.0 * self.a(x), self.b(x)], dim=-1)
        return self.head(torch.exp(-x * x))


def test_a_function_of_joined_values_sees_each_part_as_it_is():
    model, x = Joined(), normal(256, 24)
    plan = eq.plan(model, x)
    made = drawn(model, x, plan, 20)
    assert np.median(made) == pytest.approx(plan.predictions[-1].signal, rel=0.1)
