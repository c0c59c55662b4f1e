"""What a value is made by, and whether second moments of sums and products follow from it."""

import pytest

from equipoise.plan.levels import Levels
from equipoise.plan.nodes import (
    Affine,
    Attention,
    Concat,
    Constant,
    Contract,
    Gain,
    Lookup,
    Merge,
    Nonlinearity,
    Norm,
    Opaque,
    Pool,
    Product,
    Shift,
    Softmax,
    Take,
)
from equipoise.plan.origins import Origin, Origins, are_independent
from equipoise.plan.trace import Trace, Value
from equipoise.theory import activations

X = Origin()


def affine(weight, source=0, made=1, is_turned=False):
    return Affine(weight, weight, "", source, made, 0, 0, 8, 8, is_turned=is_turned)


def function(name, source=1, made=2):
    return Nonlinearity("", getattr(activations, name)(), source, made, 0)


@pytest.fixture
def origins():
    return Origins(Trace((), (), (), (), ()), frozenset({"frozen"}))


@pytest.fixture
def made(origins):
    """Origins of values that two weights make of the inputs."""
    a, b = origins.of(affine("a"), [X]), origins.of(affine("b"), [X])
    return a, b


def is_sum_known(*parts):
    return are_independent(Merge(tuple(range(len(parts))), 9, 0), parts)


def is_product_known(*parts):
    return are_independent(Product(tuple(range(len(parts))), 9, 0), parts)


def test_a_weight_gives_its_sign(origins, made):
    a, b = made
    assert is_sum_known(a, b)
    assert is_sum_known(a, X)
    assert is_sum_known(X, a, b)
    assert not is_sum_known(a, a)
    assert not is_sum_known(X, X)
    # Twice through the same weight the sign is gone.
    twice = origins.of(affine("a"), [a])
    assert is_sum_known(twice, a)
    assert not is_sum_known(twice, X)


def test_a_frozen_weight_has_no_sign_of_chance(origins, made):
    assert origins.of(affine("frozen"), [X]) == replaced_seen(origins)
    assert not is_sum_known(origins.of(affine("frozen"), [X]), X)


def replaced_seen(origins):
    return Origin(seen=origins.of(affine("frozen"), [X]).seen)


@pytest.mark.parametrize(
    ("name", "with_inputs"), [("tanh", True), ("relu", False), ("sigmoid", False)]
)
def test_functions_keep_a_sign_if_they_are_odd(origins, made, name, with_inputs):
    bent = origins.of(function(name), [made[0]])
    assert is_sum_known(bent, X) == with_inputs
    assert is_sum_known(bent, made[1])
    assert not is_sum_known(bent, bent)
    assert not is_sum_known(bent, origins.of(function("relu"), [made[1]])) or name == "tanh"


def test_a_residual_branch_is_apart_from_its_stream(origins, made):
    stream = origins.of(Merge((0, 1), 2, 0), [X, made[0]])
    branch = origins.of(affine("c"), [origins.of(function("relu"), [stream])])
    assert is_sum_known(stream, branch)
    assert not is_sum_known(stream, X)


def test_shifts_spoil_a_sign_if_they_add_anything(origins, made):
    shift = Shift("", "", 1, 2, 0, 1.0)
    assert are_independent(shift, [made[0]])
    moved = origins.of(shift, [made[0]])
    assert not are_independent(shift, [moved])
    assert are_independent(shift, [moved], is_random=True)
    assert not is_sum_known(moved, X)
    assert is_sum_known(origins.of(shift, [made[0]], moves=False), X)


def test_products_need_a_weight_that_the_other_has_not(origins, made):
    a, b = made
    assert is_product_known(a, b)
    assert is_product_known(a, X)
    gate = origins.of(function("sigmoid"), [b])
    assert is_product_known(a, gate)
    assert not is_product_known(a, a)
    assert not is_product_known(a, origins.of(function("relu"), [a]))
    assert not is_product_known(a, origins.of(Merge((1, 2), 3, 0), [a, b]))
    # A gate keeps the sign of what it gates.
    assert is_sum_known(origins.of(Product((1, 2), 3, 0), [a, gate]), X)
    assert are_independent(Contract((1, 2), 3, 0, 8), [a, b])
    assert not are_independent(Contract((1, 2), 3, 0, 8), [a, a])


def test_attention_keeps_the_sign_of_values(origins, made):
    a, b = made
    value = origins.of(affine("v"), [X])
    attended = origins.of(Attention("", (1, 2, 3), 4, 0, 8, 6, 0.3, 0.2), [a, b, value])
    assert is_sum_known(attended, X)
    assert not is_sum_known(origins.of(Softmax("", 1, 2, 0, 6), [a]), X)


def test_tables_joins_pools_and_what_is_not_read(origins, made):
    a, b = made
    table = origins.of(Lookup("t", "t", 5, 0, 9, 8), [])
    assert is_sum_known(table, X)
    joined = origins.of(Concat((1, 2), 3, 0, -1, (8, 8)), [a, b])
    assert not is_sum_known(joined, X)
    assert is_sum_known(joined, table)
    average = Pool("", "average", (2,), (2,), 1, 2, 0, (4,), (2,))
    maximum = Pool("", "maximum", (2,), (2,), 1, 2, 0, (4,), (2,))
    assert is_sum_known(origins.of(average, [a]), X)
    assert not is_sum_known(origins.of(maximum, [a]), X)
    unread = origins.of(Opaque("", "", ("p",), (1,), (2,)), [a])
    assert not is_sum_known(unread, X)
    assert is_sum_known(unread, b)
    assert origins.of(Opaque("", "", ("p",), (), (2,)), []).seen
    assert origins.of(Constant(1, 1.0), []) == X
    kept = origins.of(Norm("", "rms", "", "", 1, 2, 0), [a])
    assert kept == a == origins.of(Gain("", "", 1, 2, 0, 2.0), [a])


def test_parts_of_one_weight_are_apart_and_sites_are_not():
    values = (Value((4, 6, 8), (0, 1, 2)), Value((4, 6, 8), (0, 1, 3)))
    trace = Trace((affine("a"),), (0,), (), (4, 6, 8, 8), (), values)
    origins = Origins(trace, frozenset())
    a = origins.of(affine("a"), [X])
    units = [origins.of(Take(1, 2 + i, 3, -1), [a]) for i in range(2)]
    assert is_sum_known(*units)
    assert is_product_known(*units)
    sites = [origins.of(Take(1, 2 + i, 3, -2), [a]) for i in range(2)]
    assert not is_sum_known(*sites)
    assert not is_product_known(*sites)


def test_a_weight_that_is_turned_round_meets_itself(origins):
    a = origins.of(affine("a"), [X])
    assert origins.is_turned_round(affine("a", is_turned=True), a.seen)
    assert not origins.is_turned_round(affine("a"), a.seen)
    assert not origins.is_turned_round(affine("b", is_turned=True), a.seen)


def test_levels_of_sums_are_told_only_where_terms_are_apart():
    nodes = (
        affine("a"), affine("b", 0, 2), Merge((1, 2), 3, 0), Merge((1, 1), 4, 0),
        Product((1, 2), 5, 0), Product((1, 3), 6, 0), Shift("", "", 1, 7, 0, 4.0, 2.0),
        Norm("", "layer", "g", "", 1, 8, 0, weight_square=9.0, bias_square=5.0),
    )  # fmt: skip
    trace = Trace(nodes, (0,), (), (8,), ())
    levels = Levels(trace, {}, frozenset({"g"}))
    levels.set_level(1, 2.0)
    levels.set_level(2, 3.0)
    assert [levels.of(v) for v in (3, 4, 5, 7)] == [5.0, 8.0, 6.0, 6.0]
    assert [levels.is_sure(v) for v in range(3, 9)] == [True, True, True, False, True, True]
    # Terms that one weight made twice are not followed.
    again = Levels(Trace((*nodes, affine("a", 3, 9)), (0,), (), (8,), ()), {})
    again.set_level(1, 2.0)
    assert [again.is_sure(v) for v in (3, 4)] == [True, False]
    # The gain of a norm that keeps its values counts; an offset that is drawn starts at 0.
    assert levels.of(8) == pytest.approx(9.0)


def test_levels_behind_a_single_unit_are_not_told():
    values = tuple(Value((4, n), (0, i)) for i, n in enumerate((8, 1, 8, 8, 8), start=1))
    nodes = (
        affine("a"), affine("b", 1, 2), affine("c", 0, 3), Merge((2, 3), 4, 0),
    )  # fmt: skip
    levels = Levels(Trace(nodes, (0,), (), (4, 8, 1, 8, 8, 8), (), values), {})
    for value in (1, 2, 3):
        levels.set_level(value, 1.0)
    assert [levels.is_sure(v) for v in (1, 2, 3, 4)] == [False, False, True, False]
