"""One layer alone: closed forms against draws of the same layer."""

import math

import numpy as np
import pytest

from equipoise.plan import predict as module
from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Affine
from equipoise.plan.predict_alone import at_some_sites, expect_alone
from equipoise.plan.predict_chain import Draws, Laws, draw_chain
from equipoise.plan.stack_plan import Expected
from equipoise.plan.stacks import Stack
from equipoise.schemes.convolution import Convolution
from equipoise.schemes.laws import (
    Constant,
    Framed,
    Identity,
    Law,
    Mirrored,
    Normal,
    Orthogonal,
    Taps,
    TruncatedNormal,
    Uniform,
    Zero,
)
from equipoise.theory import activations

ROWS = 4
DENSE = Affine("a", "a.weight", "a.bias", 0, 1, 0, 1, 64, 32)
SAME = Convolution((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
IMAGES = ((8, 8), (8, 8))


def convolved(
    ins: int,
    outs: int,
    convolution: Convolution = SAME,
    sites: tuple[tuple[int, int], tuple[int, int]] = IMAGES,
) -> Affine:
    return Affine("a", "a.weight", "a.bias", 0, 1, 0, 1, ins, outs, convolution, *sites, axis=-3)


def stack_of(affine: Affine) -> Stack:
    return Stack((affine,), (), activations.identity(), 1, (True,))


def entering(share: float = 0.0) -> Inputs:
    return Inputs(2.0, np.zeros((0, 0)), share=share)


HALVED = Convolution((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4)
DOUBLED = Convolution((4, 4), (2, 2), ((1, 1), (1, 1)), (1, 1), is_transposed=True)
CASES: dict[str, tuple[Affine, list[Law]]] = {
    "dense": (DENSE, [Normal(0.1), Uniform(0.2), TruncatedNormal(0.1, -0.2, 0.2), Orthogonal(1.3)]),
    "wider": (Affine("a", "a.weight", "", 0, 1, 0, 1, 24, 60), [Normal(0.2), Orthogonal(0.7)]),
    "image": (
        convolved(12, 16),
        [Normal(0.1), Taps(Orthogonal(1.3), (1, 1)), Taps(Orthogonal(1.3), (3, 3))],
    ),
    "groups": (
        convolved(8, 16, HALVED, ((8, 8), (4, 4))),
        [Normal(0.1), Taps(Orthogonal(1.3), (3, 3), 4)],
    ),
    "doubled": (convolved(8, 16, DOUBLED, ((4, 4), (8, 8))), [Normal(0.1)]),
}


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_signal_and_spread_are_those_of_draws(
    case: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    affine, laws = CASES[case]
    stack, entry = stack_of(affine), entering(share)
    rows = module._effort(stack, [laws[0]])[0]
    for law in laws:
        found = expect_alone(stack, law, Zero(), entry, rows)
        assert found is not None
        with monkeypatch.context() as patch:
            patch.setattr(module, "expect_alone", lambda *_: None)
            drawn = module._predict(stack, [law], entry, (), (), {}, 1.0)
        assert drawn.method.startswith("sampled")
        std = drawn.log_std[0]
        # Of 24 draws or more: 4 standard errors of a middle, and half of the spread.
        assert math.log(found.signal[0] / drawn.signal[0]) == pytest.approx(0, abs=std + 0.005)
        assert found.log_std[0] == pytest.approx(std, rel=0.6, abs=0.02)
        assert (found.gradient, found.odds, drawn.odds) == ((1.0,), 1.0, 1.0)


def test_second_moments_are_exact() -> None:
    many = Inputs(3.0, np.zeros((0, 0)))
    wide = Affine("a", "a.weight", "", 0, 1, 0, 1, 10_000, 8_000)
    found = expect_alone(stack_of(wide), Normal(0.02), Zero(), many, 32)
    assert found is not None
    assert found.signal[0] == pytest.approx(math.sqrt(3 * 10_000) * 0.02, rel=1e-4)
    # Of 3 taps, the outer ones meet padding at 8 of 64 sites each: (3 * 8 - 2)^2 / 64 reads.
    image = expect_alone(stack_of(convolved(500, 900)), Normal(0.02), Zero(), many, ROWS)
    assert image is not None
    assert image.signal[0] == pytest.approx(0.02 * math.sqrt(3 * 500 * 22**2 / 64), rel=1e-3)


@pytest.mark.parametrize(
    ("law", "bias", "entry"),
    [
        (Normal(0.1), Constant(0.1), entering()),
        (Normal(0.1, mean=0.1), Zero(), entering()),
        (Normal(0.1), Zero(), Inputs(1.0, np.ones((5, 64)))),
        (Identity(1.0), Zero(), entering()),
        (Framed("b", "a", 8, 1.0, out_layout=Mirrored()), Zero(), entering()),
        # One row of one direction strays by a factor 2.
        (Framed("b", "a", 1, 1.0), Zero(), entering(1.0)),
    ],
)
def test_what_has_no_closed_form_is_left_to_draws(law: Law, bias: Law, entry: Inputs) -> None:
    assert expect_alone(stack_of(DENSE), law, bias, entry, ROWS) is None


def test_frames_are_isometries_on_some_directions() -> None:
    found = expect_alone(stack_of(DENSE), Framed("b", "a", 16, 2.0), Zero(), entering(), 32)
    assert isinstance(found, Expected)
    assert found.signal[0] == pytest.approx(2.0 * math.sqrt(2.0 * 64 * 16 / 64 / 32), rel=0.01)


def test_taps_that_meet_padding_alone_have_no_closed_form() -> None:
    apart = Convolution((2,), (1,), ((3, 3),), (6,))
    beside = Affine("a", "a.weight", "", 0, 1, 0, 1, 8, 8, apart, (1,), (1,), axis=-2)
    assert expect_alone(stack_of(beside), Normal(0.1), Zero(), entering(), ROWS) is None


def test_nothing_is_said_of_few_entries_of_an_uneven_law() -> None:
    alone = convolved(16, 16, Convolution((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 16))
    assert expect_alone(stack_of(alone), Uniform(0.2), Zero(), entering(), ROWS) is None


@pytest.mark.parametrize(
    ("convolution", "law"),
    [
        (SAME, Taps(Orthogonal(1.3), (3, 3))),
        (SAME, Normal(0.2)),
        (Convolution((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 2), Normal(0.2)),
    ],
)
def test_few_sites_of_many_tell_the_same(convolution: Convolution, law: Law) -> None:
    stride = convolution.stride[0]
    affine = convolved(4, 10, convolution, ((24, 24), (24 // stride, 24 // stride)))
    rng = np.random.default_rng(0)
    # Smooth images on an offset: neighbours are alike, borders read padding.
    waves = np.cumsum(rng.standard_normal((20, 4, 24, 24)), axis=3) + 3.0
    maps = waves.reshape(20, 4, -1)
    entry = Inputs(float(np.mean(maps**2)), np.moveaxis(maps, 1, 2).reshape(-1, 4), maps)
    stack = stack_of(affine)
    fewer, moved, inputs = at_some_sites(stack, law, Zero(), entry)
    assert math.prod(fewer.affines[0].out_sites) < math.prod(affine.out_sites)
    few = module._predict(fewer, [moved], inputs, (), (), {}, 1.0)
    laws = Laws([law], [Zero()], (), {})
    whole = draw_chain(stack, laws, entry, 60, 4)
    assert isinstance(whole, Draws)
    found = float(np.exp(np.median(whole.signal)))
    error = float(np.std(whole.signal)) / math.sqrt(60)
    assert math.log(few.signal[0] / found) == pytest.approx(0, abs=5 * error + 0.01)
    assert few.correlation[0] == pytest.approx(float(whole.cosine.mean()), abs=0.1)
    one = stack_of(convolved(4, 10))
    assert at_some_sites(one, law, Zero(), entry)[0] is one
    assert at_some_sites(stack, Identity(1.0), Zero(), entry)[0] is stack
