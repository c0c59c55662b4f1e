"""Manners of every function that fills a tensor: what comes back, what moves, what is refused."""

import math
import warnings

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, EquipoiseError, PlanError
from equipoise.torch import init


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


FILLS = {
    "uniform_": init.uniform_, "normal_": init.normal_, "trunc_normal_": init.trunc_normal_,
    "xavier_uniform_": init.xavier_uniform_, "xavier_normal_": init.xavier_normal_,
    "xavier_trunc_normal_": init.xavier_trunc_normal_, "kaiming_uniform_": init.kaiming_uniform_,
    "kaiming_normal_": init.kaiming_normal_, "kaiming_trunc_normal_": init.kaiming_trunc_normal_,
    "lecun_uniform_": init.lecun_uniform_, "lecun_normal_": init.lecun_normal_,
    "lecun_trunc_normal_": init.lecun_trunc_normal_, "orthogonal_": init.orthogonal_,
    "diagonal_noise_": init.diagonal_noise_, "lyapunov_normal_": init.lyapunov_normal_,
    "lyapunov_orthogonal_": init.lyapunov_orthogonal_, "sampled_": init.sampled_,
    "mirrored_": init.mirrored_, "siren_": init.siren_,
    "sparse_": lambda w, generator=None: init.sparse_(w, 0.3, generator=generator),
    "odd_sigmoid_": lambda w, generator=None: init.odd_sigmoid_(w, 50, generator=generator),
    "fractional_moment_": lambda w, generator=None: init.fractional_moment_(
        w, 0.5, generator=generator
    ),
    "centred_": lambda w, generator=None: init.centred_(
        w, torch.empty(len(w), device=w.device), "sigmoid", generator=generator
    ),
    "shifted_": lambda w, generator=None: init.shifted_(
        w, torch.empty(len(w), device=w.device), generator=generator
    ),
    "mirrored_spread_": lambda w, generator=None: init.mirrored_spread_(
        w, torch.empty(len(w), device=w.device), generator=generator
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILLS)
def test_manners(name):
    """The object itself comes back, the generator decides, autograd does not notice."""
    fill = FILLS[name]
    parameter = nn.Parameter(torch.zeros(12, 16))
    assert fill(parameter, generator=seeded(1)) is parameter
    assert parameter.requires_grad
    assert parameter.grad_fn is None
    again = fill(torch.zeros(12, 16), generator=seeded(1))
    assert torch.equal(parameter.detach(), again)
    assert not torch.equal(again, fill(torch.zeros(12, 16), generator=seeded(2)))
    torch.manual_seed(5)
    first = fill(torch.zeros(12, 16))
    second = fill(torch.zeros(12, 16))
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(first, fill(torch.zeros(12, 16)))
    # a view that is not contiguous is filled where it lies
    base = torch.zeros(16, 24)
    view = base.t()[::2]
    assert fill(view, generator=seeded(1)) is view
    assert torch.equal(base.t()[::2], again)
    assert not base.t()[1::2].any()


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_rounded_once(name, dtype):
    wide = FILLS[name](torch.empty(12, 16), generator=seeded())
    narrow = FILLS[name](torch.empty(12, 16, dtype=dtype), generator=seeded())
    assert narrow.dtype is dtype
    assert torch.equal(narrow, wide.to(dtype))


@pytest.mark.parametrize("name", FILLS)
def test_meta_tensors_are_left_alone(name):
    """So that a model can be built there; the generator does not move."""
    generator = seeded(3)
    w = torch.empty(12, 16, device="meta")
    assert FILLS[name](w, generator=generator) is w
    assert torch.equal(generator.get_state(), seeded(3).get_state())


def test_functions_are_reached_from_the_package():
    assert eq.init is init
    w = torch.empty(3, 2)
    assert eq.init.xavier_uniform_(w) is w
    assert callable(eq.initialize)


@pytest.mark.parametrize("name", FILLS)
def test_inference_mode(name):
    """A parameter made outside is filled inside and stays an ordinary one."""
    parameter = nn.Parameter(torch.zeros(12, 16))
    with torch.inference_mode():
        assert FILLS[name](parameter, generator=seeded(1)) is parameter
    assert parameter.requires_grad
    assert not parameter.is_inference()
    again = FILLS[name](torch.zeros(12, 16), generator=seeded(1))
    assert torch.equal(parameter.detach(), again)


def test_constants_do_not_move_the_global_generator():
    before = torch.get_rng_state()
    init.zeros_(torch.empty(3))
    init.dirac_(torch.empty(2, 2, 3))
    init.eye_(torch.empty(2, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3)])
def test_empty_tensors(shape):
    for fill in (init.uniform_, init.normal_, init.zeros_, init.ones_):
        assert fill(torch.empty(shape)).shape == shape
    if len(shape) < 2:
        return
    for fill in (init.kaiming_normal_, init.xavier_uniform_, init.lyapunov_normal_):
        with pytest.warns(UserWarning, match="zero-element tensors is a no-op"):
            assert fill(torch.empty(shape)).shape == shape
    assert init.orthogonal_(torch.empty(shape)).shape == shape


WEIGHTS = [n for n in FILLS if n not in ("uniform_", "normal_", "trunc_normal_")]


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("shape", [(), (7,)])
def test_weights_need_two_axes(name, shape):
    w = torch.full(shape, 3.0)
    fill = {
        "centred_": lambda w: init.centred_(w, w, "tanh"),
        "shifted_": lambda w: init.shifted_(w, w),
        "mirrored_spread_": lambda w: init.mirrored_spread_(w, w),
    }.get(name, FILLS[name])
    with pytest.raises(ValueError, match="at least 2 axes"):
        fill(w)
    assert (w == 3).all()


def quantized():
    with warnings.catch_warnings():
        # torch announces the end of these tensors; they still exist.
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(4, 4), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(4, 4, dtype=torch.int64),
        lambda: torch.zeros(4, 4, dtype=torch.bool),
        lambda: torch.zeros(4, 4, dtype=torch.complex64),
        lambda: torch.zeros(4, 4).to_sparse(),
        quantized,
        lambda: torch.zeros(1, 4).expand(4, 4),
    ],
    ids=["int", "bool", "complex", "sparse", "quantized", "expanded"],
)
def test_tensors_that_hold_no_weights_are_refused(make):
    tensor = make()
    for fill in (init.normal_, init.kaiming_uniform_, init.orthogonal_, init.zeros_):
        with pytest.raises(PlanError, match="must"):
            fill(tensor)


REFUSALS = [
    (lambda: init.normal_([1.0]), "tensor must be a torch.Tensor"),
    (lambda: init.xavier_normal_([1.0]), "tensor must be a torch.Tensor"),
    (lambda: init.uniform_(torch.empty(2), 1.0, 0.0), "a must not exceed b"),
    (lambda: init.uniform_(torch.empty(2), math.nan), "a must be finite"),
    (lambda: init.normal_(torch.empty(2), 0.0, -1.0), "std must be finite and not negative"),
    (lambda: init.trunc_normal_(torch.empty(2), a=1.0, b=1.0), "a must be below b"),
    (lambda: init.trunc_normal_(torch.empty(2), std=0.0), "std must be positive"),
    (lambda: init.constant_(torch.empty(2), math.inf), "val must be finite"),
    (lambda: init.eye_(torch.empty(2, 2, 2)), "must have 2 axes"),
    (lambda: init.sparse_(torch.empty(2, 2, 2), 0.1), "must have 2 axes"),
    (lambda: init.sparse_(torch.empty(2, 2), 1.5), "sparsity must lie"),
    (lambda: init.dirac_(torch.empty(2, 2)), "3, 4 or 5 axes"),
    (lambda: init.dirac_(torch.empty(5, 2, 3), 2), "groups must be"),
    (lambda: init.delta_orthogonal_(torch.empty(2, 2)), "must be a kernel"),
    (lambda: init.xavier_normal_(torch.empty(2, 2), groups=0), "groups must be"),
    (lambda: init.xavier_normal_(torch.empty(2, 2, 3), stride=(1, 2)), "stride must be"),
    (lambda: init.kaiming_normal_(torch.empty(2, 2), mode="fan"), "mode must be one of"),
    (lambda: init.kaiming_normal_(torch.empty(2, 2), nonlinearity="geluu"), "Did you mean 'gelu'"),
    (lambda: init.kaiming_normal_(torch.empty(2, 2), nonlinearity=3), "nonlinearity must be"),
    (lambda: init.kaiming_normal_(torch.empty(2, 2), True), "^a must be a number"),
    (lambda: init.calculate_gain("leaky_relu", "x"), "^param must be a number"),
    (lambda: init.calculate_gain("leaky_relu", math.nan), "^param must lie within"),
    (lambda: init.kaiming_normal_(torch.empty(2, 2), math.nan), "^a must lie within"),
    (lambda: init.kaiming_normal_(torch.empty(2, 2), 1e200), "^a must lie within"),
    (lambda: init.calculate_gain(nn.Threshold), "class that needs no arguments, got Threshold"),
    (lambda: init.normal_(nn.LazyLinear(2).weight), "tensor must have a shape"),
    (lambda: init.xavier_normal_(nn.LazyLinear(2).weight), "tensor must have a shape"),
    (lambda: init.xavier_normal_(torch.empty(2, 2, 3), stride=2.0), "stride must be"),
    (lambda: init.xavier_normal_(torch.empty(2, 2, 3), stride=None), "stride must be"),
    (lambda: init.xavier_normal_(torch.empty(2, 2, 3), stride=(0,)), "stride must be"),
    (lambda: init.normal_(torch.empty(2), generator=3), "generator must be"),
    (lambda: init.mirrored_(torch.empty(1, 4)), "rows must be at least 2"),
    (lambda: init.centred_(torch.empty(4, 4), torch.empty(3), "tanh"), "bias must have shape"),
    (lambda: init.centred_(torch.empty(4, 4), torch.empty(4), "tanhshrink"), "non-zero slope"),
    (
        lambda: init.centred_(
            torch.empty(4, 4, 2), torch.empty(4), "sigmoid", stride=2, transposed=True
        ),
        "stride must be 1",
    ),
    (lambda: init.shifted_(torch.empty(4, 4, 3), torch.empty(4)), "tensor must be a matrix"),
    (lambda: init.shifted_(torch.empty(4, 4), torch.empty(3)), "bias must have shape"),
    (lambda: init.shifted_(torch.empty(4, 4), None), "bias must have shape .* NoneType"),
    (lambda: init.shifted_(torch.empty(4, 4), torch.empty(4), 0.0), "shift must be a point"),
    (lambda: init.shifted_(torch.empty(4, 4), torch.empty(4), "x"), "shift must be finite"),
    (lambda: init.mirrored_spread_(torch.empty(1, 4), torch.empty(1)), "rows must be at least 2"),
    (
        lambda: init.mirrored_spread_(torch.empty(4, 4), torch.empty(4), spread=-1.0),
        "spread must be finite and not negative, got -1.0. 1.5 times",
    ),
    (
        lambda: init.mirrored_spread_(torch.empty(4, 4), torch.empty(4), torch.empty(2, 4)),
        "at_rest must have shape",
    ),
    (lambda: init.kaiming_normal_(torch.empty(2, 2), nonlinearity="foo"), "^nonlinearity must be"),
    (lambda: init.orthogonal_(torch.empty(2, 2), "x"), "gain must be finite, got 'x'. 1 leaves"),
    (lambda: init.xavier_normal_(torch.empty(2, 2), 0.0), "gain must be positive .* 1 leaves"),
    (lambda: init.normal_(torch.empty(2), std=-1.0), "It is a standard deviation"),
    (lambda: init.diagonal_noise_(torch.empty(2, 2), alpha=0.0), "0.085 is published"),
    (lambda: init.odd_sigmoid_(torch.empty(4, 4), 10, "relu"), "relu is not odd"),
    (lambda: init.odd_sigmoid_(torch.empty(4, 4), 0), "layer must be an integer"),
    (lambda: init.diagonal_noise_(torch.empty(4, 4), noise="cauchy"), "noise must be one of"),
    (lambda: init.fractional_moment_(torch.empty(4, 4), 4.0), "order must be below 4"),
    (lambda: init.sampled_(torch.empty(4, 4), lambda x: x + x**3 / 9), "must be a known one"),
    (lambda: init.sampled_(torch.empty(4, 4), draws=0), "draws must be an integer"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), REFUSALS, ids=lambda v: v if isinstance(v, str) else "")
def test_refusals(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()


def test_values_that_do_not_fit_are_refused_before_writing():
    w = torch.zeros(3, dtype=torch.float16)
    with pytest.raises(EquipoiseError, match="float16"):
        init.constant_(w, 1e6)
    assert not w.any()


def test_a_weight_and_its_bias_are_filled_together_or_not_at_all():
    w = torch.zeros(4, 4)
    with pytest.raises(PlanError, match="must hold real numbers"):
        init.centred_(w, torch.zeros(4, dtype=torch.int64), "sigmoid")
    assert not w.any()
    bias = torch.zeros(4, dtype=torch.float16)
    with pytest.raises(PlanError, match=r"values of 'bias' must fit torch.float16, got up to"):
        init.centred_(w, bias, "softplus", gain=1e6)
    assert not w.any()
    assert not bias.any()
    with pytest.raises(PlanError, match="'tensor'"):
        init.centred_(torch.zeros(1, 4).expand(4, 4), torch.zeros(4), "sigmoid")
