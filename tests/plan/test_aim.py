"""What a network is for, and what it may spend: by hand, and against the balance of a stack."""

import math

import pytest

from equipoise.errors import ArgumentError
from equipoise.plan.aim import PURPOSES, Aim
from equipoise.plan.nodes import Affine
from equipoise.plan.spending import resting_budget
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import Mirrored, Plain
from equipoise.theory import activations
from equipoise.theory.hermite import statistics
from equipoise.theory.structured import HiddenLayer, balance


def stack(activation, depth, width=16):
    affines = tuple(
        Affine(f"{i}", f"{i}.weight", f"{i}.bias", 2 * i, 2 * i + 1, i, i + 1, width, width)
        for i in range(depth + 1)
    )
    hidden = tuple(Hidden(i + 1, width, activation) for i in range(depth))
    return Stack(affines, hidden, activations.identity(), 2 * depth + 1, (True,) * (depth + 1))


@pytest.mark.parametrize(
    ("participation", "budget"),
    [(1.0, 0.85), (2.0, 1.2 / math.sqrt(2)), (4.0, 0.6), (16.0, 0.3), (20.0, 0.3), (1e6, 0.3),
     (0.0, 0.3), (math.nan, 0.3)],
)  # fmt: skip
def test_budget_by_the_directions_of_the_inputs(participation, budget):
    assert Aim().budget_for(participation) == pytest.approx(min(0.85, budget), rel=1e-12)


def test_budget_falls_as_directions_grow_and_is_what_was_asked_for():
    found = [Aim().budget_for(1.0 + 0.1 * k) for k in range(300)]
    assert sorted(found, reverse=True) == found
    assert Aim(budget=2.5).budget_for(1.0) == 2.5
    assert Aim(for_derivatives=True).budget_for(20.0) == 0.8
    assert Aim(budget=2.5, for_derivatives=True).budget_for(20.0) == 2.5
    assert Aim(purpose="regression").spending(0.1) == Aim(0.1, purpose="regression")


@pytest.mark.parametrize(
    ("aim", "outputs", "rms"),
    [
        (Aim(), 10, 1.0),
        (Aim(), 50_000, 1.0),
        (Aim(purpose="regression"), 50_000, 1.0),
        (Aim(purpose="classification"), 999, 1.0),
        (Aim(purpose="classification"), 1000, 0.1),
        (Aim(purpose="classification", output_rms=2.0), 1000, 2.0),
        (Aim(for_derivatives=True), 1, 0.3),
        (Aim(for_derivatives=True, output_rms=5.0), 1, 5.0),
    ],
)
def test_output_scale_by_purpose(aim, outputs, rms):
    assert aim.exit_rms(outputs) == rms


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["output_rms", "budget"])
def test_scales_that_are_none_are_refused(name, value):
    with pytest.raises(ArgumentError, match=f"{name} must be positive and finite, got {value}"):
        Aim(**{name: value})


def test_an_unknown_purpose_is_refused():
    with pytest.raises(ArgumentError, match=r"purpose must be one of .*got 'clasification'"):
        Aim(purpose="clasification")
    assert all(Aim(purpose=purpose).purpose == purpose for purpose in PURPOSES)


@pytest.mark.parametrize("f", [activations.sigmoid(), activations.softplus()])
@pytest.mark.parametrize("depth", [2, 10, 200])
def test_resting_units_are_given_a_signal_that_is_a_sixth_of_their_rest(f, depth):
    budget = resting_budget(stack(f, depth), (Plain(),) * depth)
    level = balance([HiddenLayer(16, f)] * depth, 16, 16, budget).q[0]
    rms = math.sqrt(statistics(f, level).centred_energy)
    assert f.value_at_zero / rms == pytest.approx(6.0, rel=1e-4)


def test_resting_budget_has_ends():
    assert resting_budget(stack(activations.tanh(), 50), (Plain(),) * 50) == 0.0
    assert resting_budget(stack(activations.sigmoid(), 50), (Mirrored(),) * 50) == 0.0
    assert resting_budget(stack(activations.sigmoid(), 1), (Plain(),)) == 0.0
    deep = stack(activations.softplus(), 10_000)
    assert resting_budget(deep, (Plain(),) * 10_000) == 3.0
