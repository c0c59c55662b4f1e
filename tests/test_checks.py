"""Checks of arguments refuse whatever is not a number of the right kind."""

import math

import numpy as np
import pytest

from equipoise import _checks
from equipoise.errors import ArgumentError


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "3", None, [1.0]])
def test_positive_refuses(value):
    with pytest.raises(ArgumentError, match="x must be positive and finite, got"):
        _checks.positive("x", value)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, "3", None])
def test_not_negative_refuses(value):
    with pytest.raises(ArgumentError, match="x must be finite and not negative, got"):
        _checks.not_negative("x", value)
    assert _checks.not_negative("x", 0) == 0.0


@pytest.mark.parametrize("value", [math.nan, -math.inf, "3", None])
def test_finite_refuses(value):
    with pytest.raises(ArgumentError, match="x must be finite, got"):
        _checks.finite("x", value)


@pytest.mark.parametrize("value", [0, 1.5, True, math.nan, math.inf, "3", None])
def test_at_least_refuses(value):
    with pytest.raises(ArgumentError, match="x must be an integer of at least 1, got"):
        _checks.at_least("x", value, 1)


def test_numpy_numbers_become_plain_ones():
    for value in (np.float32(2.0), np.int64(2), 2, 2.0):
        assert type(_checks.positive("x", value)) is float
        assert type(_checks.finite("x", value)) is float
        assert type(_checks.at_least("x", value, 1)) is int


def test_one_of_suggests_the_nearest():
    assert _checks.one_of("x", "he", ("he", "xavier")) == "he"
    with pytest.raises(ArgumentError, match="Did you mean 'xavier'"):
        _checks.one_of("x", "xavir", ("he", "xavier"))
    with pytest.raises(ArgumentError, match="Pass one of these names"):
        _checks.one_of("x", "qqqq", ("he", "xavier"))


def test_every_refusal_quotes_words_and_says_what_to_do():
    for check in (_checks.positive, _checks.not_negative, _checks.finite):
        with pytest.raises(ArgumentError, match=r"got 'a'\. Pass .*\.$"):
            check("x", "a")
        with pytest.raises(ArgumentError, match=r"got nan\. Mend it\.$"):
            check("x", math.nan, "Mend it.")
    with pytest.raises(ArgumentError, match=r"got 'a'\. Pass a whole number from 2 on\.$"):
        _checks.at_least("x", "a", 2)


def test_an_empty_name_that_is_allowed_is_shown():
    with pytest.raises(ArgumentError, match="x must be one of '', he, got 'foo'"):
        _checks.one_of("x", "foo", ("", "he"))
