"""Patterns on the names of parameters and modules."""

import pytest

from equipoise.errors import ArgumentError
from equipoise.plan.selection import Selection
from equipoise.plan.trace import Parameter

NAMES = ("embed.weight", "encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "head.weight")
PARAMETERS = tuple(Parameter(name, (2, 2), "float32") for name in NAMES)


def drawn(*only, skip=()):
    kept = Selection(only, tuple(skip)).kept(PARAMETERS)
    return [name for name in NAMES if name not in kept]


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        ((), (), NAMES),
        (("head.*",), (), ["head.weight"]),
        (("head",), (), ["head.weight"]),
        (("encoder",), (), ["encoder.0.weight", "encoder.0.bias", "encoder.1.weight"]),
        (("encoder.[0]",), (), ["encoder.0.weight", "encoder.0.bias"]),
        (("*.bias",), (), ["encoder.0.bias"]),
        (("*.?",), (), ["encoder.0.weight", "encoder.0.bias", "encoder.1.weight"]),
        (("embed", "head.weight"), (), ["embed.weight", "head.weight"]),
        (("encoder",), ("*.bias",), ["encoder.0.weight", "encoder.1.weight"]),
        ((), ("encoder", "embed"), ["head.weight"]),
    ],
)
def test_patterns_stand_for_parameters_and_for_all_beneath_modules(only, skip, expected):
    assert drawn(*only, skip=skip) == list(expected)


def test_what_is_kept_says_by_what():
    kept = Selection(("head.*",)).kept(PARAMETERS)
    assert kept["embed.weight"] == "kept: not selected by only='head.*'"
    kept = Selection(("a*", "e*", "h*", "x*"), ("embed", "encoder"))
    assert str(kept) == "only=['a*', 'e*', 'h*', ...] and skip=['embed', 'encoder']"
    kept = Selection((), ("encoder",)).kept(PARAMETERS)
    assert set(kept.values()) == {"kept: skip='encoder' leaves it out"}
    named = Selection(("head.weight",), (), ("only",)).kept(PARAMETERS)
    assert named["embed.weight"] == "kept: not selected by only=, a function"
    assert str(Selection()) == "everything"


def test_a_tied_parameter_is_meant_by_any_of_its_names():
    tied = (Parameter("embed.weight", (2, 2), "float32", True, ("head.weight",)), PARAMETERS[1])
    assert list(Selection(("head",)).kept(tied)) == ["encoder.0.weight"]
    assert list(Selection((), ("head.*",)).kept(tied)) == ["embed.weight"]


def test_a_pattern_that_matches_nothing_is_named_with_the_nearest_names():
    with pytest.raises(ArgumentError, match=r"only must name .* got 'haed', .* 'head'"):
        drawn("head", "haed")
    with pytest.raises(ArgumentError, match=r"skip must name .* got 'encodr.\*'.*'encoder"):
        drawn(skip=["encodr.*"])
    with pytest.raises(ArgumentError, match=r"keeps all 5 parameters. Leave one of the two out"):
        drawn("head", skip=["h*", "e*"])
