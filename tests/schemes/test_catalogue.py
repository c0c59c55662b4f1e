"""Schemes by name: what is read, what is refused and how."""

import re

import pytest

from equipoise.errors import ArgumentError
from equipoise.schemes.call_text import (
    Call,
    activation_of,
    activation_text,
    read_call,
    write_call,
)
from equipoise.schemes.catalogue import CATALOGUE, SCHEMES, parse_scheme
from equipoise.schemes.options import Option
from equipoise.theory import activations
from equipoise.theory.activations import known_activations


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_described(name):
    entry = CATALOGUE[name]
    assert entry.name == name
    assert entry.summary
    assert entry.suits
    assert len({o.name for o in entry.options}) == len(entry.options)
    for option in entry.options:
        assert option.allows(option.default), option.name
        assert option.meaning
    assert str(parse_scheme(name)) == name
    assert parse_scheme(name).entry is entry


@pytest.mark.parametrize("name", SCHEMES)
def test_defaults_may_be_written_out(name):
    options = {o.name: o.default for o in CATALOGUE[name].options}
    scheme = parse_scheme(write_call(name, options))
    assert str(parse_scheme(str(scheme))) == str(scheme)
    for option in CATALOGUE[name].options:
        assert scheme.has(option.name)
        if option.choices:
            assert scheme.word(option.name) == parse_scheme(name).word(option.name)
        else:
            assert scheme.number(option.name) == parse_scheme(name).number(option.name)


def test_options_are_read():
    scheme = parse_scheme(" diagonal_noise( alpha = 2e-1, noise='laplace' ) ")
    assert scheme.name == "diagonal_noise"
    assert scheme.number("alpha") == 0.2
    assert scheme.word("noise") == "laplace"
    assert scheme.number("degrees") == 5.0
    assert not scheme.has("degrees")
    assert parse_scheme("he()").given == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hee", "Did you mean 'he'"),
        ("", "scheme must be a name"),
        ("he(", "scheme must be a name"),
        ("he + xavier", "scheme must be a name"),
        ("a.b(c=1)", "scheme must be a name"),
        ("he(mode=fan_out)", "scheme must be a name"),
        ("he(**x)", "scheme must be a name"),
        ("he(mode=(1, 2))", "scheme must be a name"),
        ("he(\0)", "scheme must be a name"),
        ("__import__('os')", "scheme must be one of"),
        ("he('normal')", "must be written by name"),
        ("he(mod='fan_in')", "Did you mean 'mode'"),
        ("he(mode='fan')", "must be one of fan_in, fan_out, average, got 'fan'"),
        ("he(mode=1)", "must be one of fan_in"),
        ("he(mode='fan_in', mode='fan_out')", "must be given once"),
        ("auto(gain=1)", "must stand without options"),
        ("xavier(gain=0)", "must be a number above 0, got 0"),
        ("xavier(gain='1')", "must be a number above 0"),
        ("xavier(gain=True)", "must be a number above 0"),
        ("xavier(gain=1e999)", "must be a number above 0"),
        ("sampled(draws=2.5)", "must be an integer from 1 to 4096"),
        ("sampled(draws=0)", "must be an integer from 1 to 4096"),
        ("fractional_moment(order=4)", "must be a number above 0 and below 4"),
        ("odd_sigmoid(memory=0.9)", "must be a number from 1e-12 to 0.88"),
    ],
)
def test_refusals_name_scheme_option_and_value(text, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        parse_scheme(text)


@pytest.mark.parametrize("value", [3, None, ["he"], b"he"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ArgumentError, match="scheme must be a name"):
        parse_scheme(value)


def test_requirements_in_words():
    assert Option("x", 1.0, "").requirement == "a number"
    assert Option("x", 1, "", 0, is_whole=True).requirement == "an integer of at least 0"
    assert Option("x", 1.0, "", 0.0, 2.0).requirement == "a number from 0 to 2"


MORE = [
    activations.leaky_relu(1 / 3), activations.hardtanh(-1.0, 2.5), activations.linear(-2.0),
    activations.prelu(0.3), activations.tanh(2.0), activations.gelu("tanh"), activations.elu(2.0),
]  # fmt: skip


@pytest.mark.parametrize("activation", [*known_activations(), *MORE], ids=str)
def test_activations_survive_as_text(activation):
    """To the very object, with all digits of its parameters."""
    assert activation_of(activation_text(activation)) is activation


def test_unknown_activations_have_no_text():
    own = activations.Activation("tanh", lambda x: x, lambda x: 1 + 0 * x)
    with pytest.raises(ArgumentError, match="must be a known one"):
        activation_text(own)
    odd = activations.Activation("gelu", lambda x: x, lambda x: x, parameters=(("b", 1.0),))
    with pytest.raises(ArgumentError, match="must be a known one"):
        activation_text(odd)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("geluu", "Did you mean 'gelu'"),
        ("gelu(1", "activation must be a name"),
        ("leaky_relu(slope=1)", "arguments of leaky_relu must be numbers that it knows"),
        ("leaky_relu('x')", "arguments of leaky_relu|must be"),
    ],
)
def test_activations_that_cannot_be_read(text, words):
    with pytest.raises(ArgumentError, match=words):
        activation_of(text)


def test_calls_are_written_as_they_are_read():
    call = read_call("f(1, 'a', b=-2.5, c=True)", "x", "f")
    assert call == Call("f", (1, "a"), (("b", -2.5), ("c", True)))
    assert write_call("f", {"b": -2.5}) == "f(b=-2.5)"
    assert write_call("f", {}) == "f"
