"""What a user of torch.nn.init expects of functions of the same name, and of their companions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from equipoise.theory import activations
from equipoise.torch import init

SHAPES = [(60, 90), (90, 60), (20, 30, 5), (16, 8, 5, 5), (8, 6, 3, 4, 5)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fits(tensor, cdf):
    """Whether entries follow a distribution (Kolmogorov-Smirnov, one in ten thousand fails)."""
    return stats.kstest(tensor.detach().double().numpy().ravel(), cdf).pvalue > 1e-4


def fans(shape):
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


# --- Distributions -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3000,), (60, 50), (30, 10, 10), ()])
@pytest.mark.parametrize(("a", "b"), [(-3.0, -1.0), (0.0, 1.0), (2.0, 7.0)])
def test_uniform(shape, a, b):
    w = init.uniform_(torch.empty(shape), a, b, seeded())
    assert w.shape == shape
    assert a <= float(w.min()) <= float(w.max()) <= b
    assert not shape or fits(w, stats.uniform(a, b - a).cdf)


@pytest.mark.parametrize("shape", [(3000,), (60, 50), (30, 10, 10)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-3.0, 0.5), (2.0, 4.0)])
def test_normal(shape, mean, std):
    assert fits(init.normal_(torch.empty(shape), mean, std, seeded()), stats.norm(mean, std).cdf)


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0.0, 1.0, -2.0, 2.0), (0.0, 0.02, -0.04, 0.04), (-1.0, 2.0, -1.5, 3.0),
        (0.0, 1.0, 3.0, 5.0), (0.0, 1.0, -9.0, -6.0), (0.0, 1.0, 20.0, 30.0), (5.0, 0.1, 0.0, 1.0),
    ],
)  # fmt: skip
def test_trunc_normal_wherever_the_bounds_are(mean, std, a, b):
    w = init.trunc_normal_(torch.empty(4000, dtype=torch.float64), mean, std, a, b, seeded())
    assert a <= float(w.min()) <= float(w.max()) <= b
    low, high = (a - mean) / std, (b - mean) / std
    assert fits(w, stats.truncnorm(low, high, mean, std).cdf)


def test_constants():
    for shape in ((), (4,), (2, 3), (1, 2, 3, 4)):
        assert (init.constant_(torch.empty(shape), -0.75) == -0.75).all()
        assert (init.ones_(torch.empty(shape)) == 1).all()
        assert (init.zeros_(torch.ones(shape)) == 0).all()


@pytest.mark.parametrize("shape", [(3, 3), (5, 2), (2, 5), (1, 1)])
def test_eye(shape):
    w = init.eye_(torch.empty(shape))
    np.testing.assert_array_equal(w.numpy(), np.eye(*shape))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize(("per_in", "per_out"), [(4, 4), (2, 5), (5, 2)])
def test_dirac_through_a_real_convolution(axes, groups, per_in, per_out):
    """As many channels of each group come out unchanged as there are; the others are 0."""
    conv_class = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    conv = conv_class(groups * per_in, groups * per_out, 3, padding=1, groups=groups, bias=False)
    assert init.dirac_(conv.weight, groups) is conv.weight
    x = torch.randn(2, groups * per_in, *[5] * axes, generator=seeded())
    y = conv(x).detach().unflatten(1, (groups, per_out))
    x = x.unflatten(1, (groups, per_in))
    kept = min(per_in, per_out)
    torch.testing.assert_close(y[:, :, :kept], x[:, :, :kept])
    assert not y[:, :, kept:].any()


def test_dirac_through_a_transposed_convolution():
    conv = nn.ConvTranspose2d(6, 4, 3, padding=1, groups=2, bias=False)
    init.dirac_(conv.weight, 2, transposed=True)
    x = torch.randn(2, 6, 5, 5, generator=seeded())
    y = conv(x).detach()
    torch.testing.assert_close(y, x[:, [0, 1, 3, 4]])


@pytest.mark.parametrize("shape", [(3, 3, 4), (2, 4, 4, 2), (5, 2, 1, 6)])
def test_the_centre_of_an_even_kernel_is_that_of_torch(shape):
    assert torch.equal(init.dirac_(torch.empty(shape)), nn.init.dirac_(torch.empty(shape)))


# --- Variances by fans ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gain", [1.0, 0.3, 2.0])
def test_xavier(shape, gain):
    std = gain * math.sqrt(2 / sum(fans(shape)))
    bound = math.sqrt(3) * std
    w = init.xavier_uniform_(torch.empty(shape), gain, seeded())
    assert fits(w, stats.uniform(-bound, 2 * bound).cdf)
    assert fits(init.xavier_normal_(torch.empty(shape), gain, seeded()), stats.norm(0, std).cdf)


GAINS = [
    ("linear", 0, 1.0), ("relu", 0, math.sqrt(2)), ("leaky_relu", 0, math.sqrt(2)),
    ("leaky_relu", 0.5, math.sqrt(2 / 1.25)), ("tanh", 0, 5 / 3), ("selu", 0, 0.75),
    # exact, by closed forms: E gelu(z)^2 and E erf(z)^2
    (nn.GELU(), 0, (1 / 3 + 1 / (2 * math.sqrt(3) * math.pi)) ** -0.5),
    (torch.erf, 0, (2 / math.pi * math.asin(2 / 3)) ** -0.5), (nn.ReLU, 0, math.sqrt(2)),
    (activations.leaky_relu(0.5), 0, math.sqrt(2 / 1.25)),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("nonlinearity", "a", "gain"), GAINS, ids=lambda v: str(v)[:12])
def test_kaiming_fan_in(shape, nonlinearity, a, gain):
    std = gain / math.sqrt(fans(shape)[0])
    bound = math.sqrt(3) * std
    w = init.kaiming_uniform_(torch.empty(shape), a, "fan_in", nonlinearity, seeded())
    assert fits(w, stats.uniform(-bound, 2 * bound).cdf)
    w = init.kaiming_normal_(torch.empty(shape), a, "fan_in", nonlinearity, seeded())
    assert fits(w, stats.norm(0, std).cdf)


@pytest.mark.parametrize("shape", SHAPES)
def test_kaiming_fan_out(shape):
    std = math.sqrt(2 / fans(shape)[1])
    w = init.kaiming_normal_(torch.empty(shape), mode="FAN_OUT", generator=seeded())
    assert fits(w, stats.norm(0, std).cdf)
    # E erf'(z)^2 = 4 / (pi sqrt 5): the slope counts on the way back
    std = (4 / (math.pi * math.sqrt(5)) * fans(shape)[1]) ** -0.5
    w = init.kaiming_normal_(torch.empty(shape), 0, "fan_out", torch.erf, seeded())
    assert fits(w, stats.norm(0, std).cdf)


@pytest.mark.parametrize("shape", SHAPES)
def test_kaiming_between_both_passes(shape):
    w = init.kaiming_normal_(torch.empty(shape), 0, "average", "tanh", seeded())
    assert fits(w, stats.norm(0, 5 / 3 * math.sqrt(2 / sum(fans(shape)))).cdf)


@pytest.mark.parametrize("degrees", [3.0, 30.0])
def test_degrees_of_the_noise_reach_the_weights(degrees):
    w = init.diagonal_noise_(torch.empty(90, 80), "tanh", 1.0, "student_t", degrees, seeded())
    noise = (w - torch.eye(90, 80)) * math.sqrt(80)
    noise[80:] -= torch.eye(10, 80) * math.sqrt(80)
    assert fits(noise, stats.t(degrees, 0, math.sqrt(1 - 2 / degrees)).cdf)


@pytest.mark.parametrize("shape", SHAPES)
def test_lecun(shape):
    std = 0.5 / math.sqrt(fans(shape)[0])
    assert fits(init.lecun_normal_(torch.empty(shape), 0.5, seeded()), stats.norm(0, std).cdf)
    w = init.lecun_uniform_(torch.empty(shape), 0.5, seeded())
    assert fits(w, stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std).cdf)


@pytest.mark.parametrize("bound", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(
    ("fill", "variance"),
    [
        (lambda w, b: init.xavier_trunc_normal_(w, 1.0, b, seeded()), 2 / (50 + 80)),
        (lambda w, b: init.kaiming_trunc_normal_(w, bound=b, generator=seeded()), 2 / 50),
        (lambda w, b: init.lecun_trunc_normal_(w, 1.0, b, seeded()), 1 / 50),
    ],
    ids=["xavier", "kaiming", "lecun"],
)
def test_truncated_entries_have_the_variance_wanted(fill, variance, bound):
    w = fill(torch.empty(80, 50), bound)
    uncut = math.sqrt(variance) / stats.truncnorm(-bound, bound).std()
    assert fits(w, stats.truncnorm(-bound, bound, 0, uncut).cdf)
    assert float(w.abs().max()) <= bound * uncut * (1 + 1e-6)
    assert float(w.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / 4000))


def test_gains():
    table = {
        "linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1, "conv_transpose1d": 1,
        "conv_transpose2d": 1, "conv_transpose3d": 1, "sigmoid": 1, "tanh": 5 / 3,
        "relu": 2**0.5, "selu": 0.75, "leaky_relu": (2 / 1.0001) ** 0.5,
    }  # fmt: skip
    for name, gain in table.items():
        assert init.calculate_gain(name) == gain == nn.init.calculate_gain(name)
    for slope in (10, 0.1, 0):
        assert init.calculate_gain("leaky_relu", slope) == math.sqrt(2 / (1 + slope**2))
    # Names of torch stand for the activation wherever more than its gain is wanted.
    for name, activation in (("conv2d", activations.identity()),
                             ("leaky_relu", activations.leaky_relu(0.01))):  # fmt: skip
        w = init.fractional_moment_(torch.empty(9, 7), 1.0, name, seeded())
        same = init.fractional_moment_(torch.empty(9, 7), 1.0, activation, seeded())
        assert torch.equal(w, same)
    # Exact ones: selu keeps second moments at 1 by its own constants.
    assert init.calculate_gain(nn.SELU()) == pytest.approx(1.0, abs=1e-7)
    assert init.calculate_gain(nn.LeakyReLU(0.2)) == pytest.approx(math.sqrt(2 / 1.04), rel=1e-9)
    assert init.calculate_gain("sin") == pytest.approx(math.sqrt(2 / (1 - math.exp(-2))), rel=1e-9)


# --- Orthogonal and sparse -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (8, 3), (3, 8), (4, 2, 3), (3, 4, 5, 2), (40, 2, 2, 3)])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_orthogonal(shape, gain):
    w = init.orthogonal_(torch.empty(shape, dtype=torch.float64), gain, seeded()).flatten(1)
    singular = torch.linalg.svdvals(w)
    torch.testing.assert_close(singular, torch.full_like(singular, gain), atol=1e-12, rtol=0)


def test_orthogonal_groups_are_matrices_of_their_own():
    w = init.orthogonal_(torch.empty(8, 3, 2, dtype=torch.float64), 1, seeded(), groups=2)
    for part in w.flatten(1).split(4):
        torch.testing.assert_close(part @ part.T, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(("gain", "expected"), [(None, 4.0), (1.5, 1.5)])
def test_centred_is_orthogonal_over_the_slope(gain, expected):
    """The slope of the sigmoid at 0 is 1 / 4."""
    w = torch.empty(5, 8, dtype=torch.float64)
    init.centred_(w, torch.empty(5), "sigmoid", gain, seeded())
    singular = torch.linalg.svdvals(w)
    torch.testing.assert_close(singular, torch.full_like(singular, expected))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.35, 1.0])
def test_sparse(sparsity):
    w = init.sparse_(torch.empty(50, 40), sparsity, 0.3, seeded())
    assert ((w == 0).sum(0) == math.ceil(sparsity * 50)).all()
    rest = w[w != 0]
    assert not rest.numel() or fits(rest, stats.norm(0, 0.3).cdf)
    # every row is hit: zeros do not prefer a place
    assert not 0.3 < sparsity < 1 or bool((w == 0).any(1).all())
