"""Rules on single layers and on the whole, from numbers alone."""

import math
from dataclasses import replace

import pytest

from equipoise.diagnose import diagnose
from equipoise.measurement import LayerMeasurement, Measurements

LAYER = LayerMeasurement(
    "a", "a.weight", 16, 1.0, 0.1, 0.1, 0.2, 0.0, 0.0, weight_norm=1.0, entries=256
)


def codes(*layers, **more):
    m = Measurements(layers, 1.0, 0.0, 0.0, 1.0, True, 64)
    return {f.code: f for f in diagnose(replace(m, **more))}


def ranks(*pairs):
    layers = [
        replace(LAYER, layer=f"{i}", rank=r, most_directions=n) for i, (r, n) in enumerate(pairs)
    ]
    # The output is no part of it.
    return codes(*layers, replace(LAYER, layer="out", rank=1.0, most_directions=4))


def test_rank_is_held_against_what_inputs_and_widths_allow():
    found = ranks((9.0, 40), (8.0, 7), (1.2, 64), (1.0, 40))["rank-collapse"]
    assert found.where == "2"
    assert "the first layer has 9.0, and '1', the narrowest, 7 directions" in found.expected
    # Three mirrored pairs are as many as 6 units hold; 5 units hold two.
    assert "rank-collapse" in ranks((9.0, 40), (8.0, 6), (1.0, 40))
    assert not ranks((9.0, 40), (3.0, 5), (1.0, 40))
    assert not ranks((2.9, 40), (1.0, 40), (1.0, 40))
    assert "rank-collapse" in ranks((3.0, 40), (1.0, 40), (1.49, 40))
    assert not ranks((9.0, 40), (1.0, 40), (1.5, 40))


def test_layers_of_no_units_are_named_and_judged_by_nothing_else():
    empty = replace(
        LAYER, layer="b", width=0, signal=math.nan, gradient=math.nan, weight_norm=0.0, entries=0
    )
    behind = replace(
        LAYER, layer="c", weight_norm=0.0, dead=1.0, signal=0.0, gradient=0.0, entries=0
    )
    found = codes(LAYER, empty, behind, replace(LAYER, layer="d"))
    assert set(found) == {"empty-layer"}
    assert found["empty-layer"].where == "b"
    assert found["empty-layer"].severity == "warning"
    assert "0 units made, 0 weights in 2 of 4 layers" in found["empty-layer"].observed


def test_an_output_without_numbers_is_said_to_be_so():
    unseen = replace(LAYER, gradient=math.nan)
    found = codes(unseen, unseen, output_rms=math.nan)
    assert "returns no floating-point numbers" in found["not-measured"].what
    # A loss may be of what is no floating-point number itself.
    assert not codes(LAYER, LAYER, output_rms=math.nan, loss=1.0, loss_name="own")
    found = codes(unseen, unseen)
    assert "no gradient reaches some layers" in found["not-measured"].what
    found = codes(unseen, unseen, output_rms=math.nan, output_is_finite=False)
    assert "no gradient reaches some layers" in found["not-measured"].what


def test_one_layer_without_gradient_is_not_in_balance():
    assert codes(replace(LAYER, gradient=0.0))["vanished-gradient"].severity == "error"
    assert not codes(LAYER)


THRESHOLDS = [
    ("dead-units", lambda x: replace(LAYER, dead=x), 0.49, 0.5),
    ("saturation", lambda x: replace(LAYER, saturation=x), 0.49, 0.5),
    ("symmetric-units", lambda x: replace(LAYER, twins=x), 0.24, 0.25),
    ("bias-dominates", lambda x: replace(LAYER, bias_share=x, input_share=0.01), 0.79, 0.8),
    ("bias-dominates", lambda x: replace(LAYER, bias_share=0.9, input_share=1 - x), 0.989, 0.991),
    ("lost-correlation", lambda x: replace(LAYER, correlation=x), 0.994, 0.996),
]


@pytest.mark.parametrize(("code", "made", "below", "above"), THRESHOLDS)
def test_thresholds(code, made, below, above):
    rest = LAYER if code != "lost-correlation" else None
    for value, is_found in ((below, False), (above, True)):
        layers = [made(value), rest or made(value)]
        assert (code in codes(*layers)) is is_found


def test_loss_inputs_and_constants():
    chance = math.log(10)
    assert "loss-above-chance" not in codes(LAYER, classes=10, loss=chance + 0.99)
    found = codes(LAYER, classes=10, loss=chance + 9.9)
    assert found["loss-above-chance"].severity == "warning"
    found = codes(LAYER, classes=10, loss=chance + 10.1)
    assert found["loss-above-chance"].severity == "error"
    found = codes(LAYER, classes=10, loss=chance + 1.01, output_rms=4.0)
    assert "by 0.25:" in found["loss-above-chance"].remedy
    far = {"input_mean": 0.0, "input_rms": 31.0}
    assert set(codes(LAYER, **far)) == {"input-scale"}
    assert not codes(LAYER, input_rms=29.0)
    assert not codes(LAYER, input_rms=0.04)
    assert set(codes(LAYER, input_rms=0.02)) == {"input-scale"}
    # A mean of 3 standard deviations: mean^2 = 0.9 of the mean square.
    assert not codes(LAYER, input_rms=1.0, input_mean=math.sqrt(0.89))
    assert set(codes(LAYER, input_rms=1.0, input_mean=-math.sqrt(0.91))) == {"input-scale"}
    seen = replace(LAYER, input_share=0.5)
    assert not codes(seen, output_input_share=2e-9)
    assert set(codes(seen, output_input_share=5e-10)) == {"constant-output"}
    assert not codes(replace(LAYER, input_share=0.0), output_input_share=5e-10)
    assert not codes(seen, output_input_share=0.0, output_rms=0.0)


@pytest.mark.parametrize(
    ("factor", "severity"), [(29.0, None), (31.0, "warning"), (990.0, "warning"), (1010.0, "error")]
)
@pytest.mark.parametrize("quantity", ["signal", "gradient"])
def test_travel_is_judged_by_its_worst_hidden_layer(quantity, factor, severity):
    first = replace(LAYER, layer="a", **{quantity: 1.0})
    worst = replace(LAYER, layer="b", **{quantity: 1.0 / factor})
    out = replace(LAYER, layer="out")
    order = [first, worst, out] if quantity == "signal" else [worst, first, out]
    found = codes(*order)
    assert ({f.severity for f in found.values()} or {None}) == {severity}
    if severity:
        assert set(found) == {f"vanishing-{quantity}"}
    # One layer over and over is hidden in all its turns but the last.
    turns = codes(*(replace(x, layer="same") for x in order))
    assert {f.severity for f in turns.values()} == {f.severity for f in found.values()}
    grown = [worst, first, out] if quantity == "signal" else [first, worst, out]
    assert set(codes(*grown)) == ({f"exploding-{quantity}"} if severity else set())


@pytest.mark.parametrize("more", [{"width": 16 * 1600}, {"width": 16, "sites": 1600}])
def test_what_spreads_over_more_numbers_has_not_vanished(more):
    """RMS falls by 40 and the norm stays; where the norm falls by 40 too it has."""
    first, out = replace(LAYER, layer="a"), replace(LAYER, layer="out")
    spread = replace(LAYER, layer="b", signal=1 / 40, **more)
    assert not codes(first, spread, out)
    assert set(codes(first, replace(spread, signal=1 / 1600), out)) == {"vanishing-signal"}
    loud = replace(first, signal=40.0)
    assert not codes(replace(spread, signal=1.0), replace(loud, layer="b"), out)


def test_remedies_name_the_cause():
    """A bias below the kink, a bias where f is flat, a weight that is too large."""
    held = replace(LAYER, layer="b", dead=0.6, mean=-2.0, bias_share=0.5, input_share=0.5)
    assert "bias of 'b' to 0" in codes(LAYER, held, LAYER)["dead-units"].remedy
    lively = replace(held, mean=2.0)
    assert "bias" not in codes(LAYER, lively, LAYER)["dead-units"].remedy
    flat = replace(LAYER, layer="b", saturation=0.6, signal=5.0, bias_share=0.45)
    assert "weight of 'b' by 0.2:" in codes(LAYER, flat, LAYER)["saturation"].remedy
    flat = replace(flat, bias_share=0.55)
    assert "bias of 'b' to 0" in codes(LAYER, flat, LAYER)["saturation"].remedy


def test_zero_weights_of_the_head_may_be_meant():
    zero = replace(LAYER, layer="z", weight_norm=0.0)
    assert codes(LAYER, LAYER, zero)["zero-weights"].severity == "warning"
    assert codes(LAYER, zero, LAYER)["zero-weights"].severity == "error"
    assert codes(LAYER, zero, zero)["zero-weights"].severity == "error"


def test_zeros_of_a_branch_may_be_meant():
    """Something differs behind them, so signal and gradient go around them."""
    zero = replace(LAYER, layer="z", weight_norm=0.0, signal=0.0, dead=1.0, input_share=math.nan)
    before, behind = replace(LAYER, gradient=0.0), replace(LAYER, input_share=0.5)
    found = codes(behind, before, zero, behind)
    assert set(found) == {"zero-weights"}
    assert found["zero-weights"].severity == "warning"
    assert "At the end of a branch" in found["zero-weights"].remedy
    # What no layer of zeros explains stays an error.
    assert "vanished-gradient" in codes(before, behind, before, zero, behind)
    assert codes(behind, zero, replace(LAYER, input_share=0.0))["zero-weights"].severity == "error"
    # A head that receives nothing never moves.
    stuck = replace(zero, weight_gradient=0.0)
    assert codes(LAYER, LAYER, stuck)["zero-weights"].severity == "error"


def test_inputs_are_alike_only_beyond_what_pooling_makes_of_them():
    wide = replace(LAYER, layer="map", sites=100, correlation=0.1)
    narrow = replace(LAYER, layer="pooled", correlation=0.9945)
    assert not codes(wide, narrow, LAYER)
    assert "lost-correlation" in codes(wide, replace(narrow, correlation=0.99996), LAYER)
    # A decoder that widens the map again has no more to be forgiven.
    again = replace(wide, correlation=0.996)
    assert codes(wide, narrow, again, LAYER)["lost-correlation"].where == "map"


def test_inputs_are_alike_from_the_layer_on_behind_which_they_stay_so():
    same = replace(LAYER, correlation=0.99995)
    layers = [LAYER, same, LAYER, replace(same, layer="from"), same, LAYER]
    found = codes(*layers)["lost-correlation"]
    assert (found.where, found.severity) == ("from", "error")
    assert codes(replace(LAYER, correlation=0.9997), LAYER)["lost-correlation"].severity == (
        "warning"
    )
    # Inputs that are nearly one are no fault of the weights.
    assert not codes(same, LAYER, input_correlation=0.9999)
    assert codes(same, LAYER, input_correlation=0.999)
    # Without a cosine the share that differs stands for it.
    dark = replace(same, correlation=math.nan, input_share=0.3)
    assert not codes(same, dark, LAYER)
    assert codes(same, replace(dark, input_share=1e-5), LAYER)


def test_saturation_of_most_hidden_layers_is_an_error():
    flat = replace(LAYER, saturation=0.6)
    assert codes(flat, LAYER, LAYER)["saturation"].severity == "warning"
    assert codes(flat, LAYER)["saturation"].severity == "warning"
    assert codes(flat, flat, LAYER, LAYER, LAYER)["saturation"].severity == "warning"
    found = codes(flat, flat, LAYER, LAYER)["saturation"]
    assert found.severity == "error"
    assert found.observed == "60%, and as much in 1 more layers"


def test_units_are_judged_by_eight_cases():
    few = replace(LAYER, dead=0.9, distinct_inputs=7)
    assert set(codes(few, few)) == {"few-rows"}
    assert "dead-units" in codes(few, replace(few, sites=2))
    assert set(codes(few, replace(few, distinct_inputs=8))) == {"dead-units"}
    whole = replace(few, dead=0.0)
    assert set(codes(whole, whole, without_gradient=0.6)) == {"few-rows"}
    assert not codes(whole, whole)
    # Parameters without any gradient are no matter of chance.
    found = codes(whole, whole, without_gradient=0.6, silent=("unused",))
    assert "weights-without-gradient" in found


def test_a_bias_that_rules_its_layer_is_no_part_of_the_signals_way():
    loud = replace(LAYER, layer="b", signal=40.0, bias_share=0.99, input_share=0.001)
    assert set(codes(LAYER, loud, LAYER, LAYER)) == {"bias-dominates"}
    # A bias that centres what enters is large too, but what is left differs between inputs.
    assert set(codes(LAYER, replace(loud, input_share=0.9), LAYER)) == {"exploding-signal"}


def test_a_loss_that_is_no_number_is_named():
    found = codes(replace(LAYER, gradient=math.nan), loss=math.nan, loss_name="own")
    assert set(found) == {"non-finite"}
    assert (found["non-finite"].where, found["non-finite"].severity) == ("loss", "error")
    found = codes(LAYER, loss=math.nan, loss_name="own", target_problem="out of range")
    assert set(found) == {"targets-out-of-range"}


def test_weights_without_gradient_count_from_half_of_them():
    assert not codes(LAYER, LAYER, without_gradient=0.49)
    assert set(codes(LAYER, LAYER, without_gradient=0.5)) == {"weights-without-gradient"}
