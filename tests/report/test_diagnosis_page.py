"""The page of a diagnosis holds its findings, pictures, words and numbers, all of them escaped."""

import json
import math
import re

import pytest

from equipoise.diagnose import diagnose
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.report.diagnosis import Diagnosis
from equipoise.report.diagnosis_html import figure_course, figure_difference
from equipoise.rules.finding import Finding
from equipoise.rules.theory_word import Exponent, TheoryWord

EVIL = "<script>alert(1)</script>"


def layers(count, name="layer", signal=1.0):
    return tuple(
        LayerMeasurement(
            f"{name}.{i}", f"{name}.{i}.weight", 16, signal, 0.1 * 0.5**i, 0.1, 0.2, 0.0, 0.0,
            rank=4.0, directions=9, most_directions=16, log_signal=math.log(signal),
            log_gradient=-float(i), weight_norm=2.0,
        )
        for i in range(count)
    )  # fmt: skip


def word(count, name="layer", spoken=True):
    names = tuple(f"{name}.{i}" for i in range(count))
    one = Exponent(-0.1, 0.01, -0.1, 0.01, True)
    path = tuple(-0.1 * i for i in range(count))
    return TheoryWord(
        f"{name}.0 to {name}.{count}", names, count, (16, 16), ("tanh",), "gaussian", "",
        f"{name} speaks.", signal=one if spoken else None, gradient=one if spoken else None,
        signal_path=path if spoken else (), gradient_path=path[::-1] if spoken else (),
    )  # fmt: skip


def diagnosis(count=5, words=True, findings=None, **kwargs):
    seen = Measurements(layers(count, **kwargs), 1.0, 0.0, 0.01, 1.0, True, 64, 64)
    found = diagnose(seen) if findings is None else findings
    name = kwargs.get("name", "layer")
    return Diagnosis("Net", seen, found, (word(count - 1, name),) if words else ())


def test_the_page_is_whole_and_needs_no_network():
    text = diagnosis().page()
    for words in ("Net is in balance", "In balance", "layer speaks.", "Theory&#39;s word",
                  "participation ratio", "4 of 16", "Nothing is wrong"):  # fmt: skip
        assert words in text
    assert "://" not in text.split("<script>")[0]
    assert len(re.findall(r"<figure>", text)) == 2
    assert sum(len(s) > 1_000_000 for s in re.findall(r"<script>(.*?)</script>", text, re.S)) == 1


def test_strings_of_the_model_are_escaped():
    hurt = (Finding("rule", "error", EVIL, EVIL, EVIL, EVIL, EVIL),)
    page = diagnosis(name=EVIL, findings=hurt).page()
    assert EVIL not in page
    assert "Error: will not train" in page
    assert "Net is out of balance" in page


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_any_depth_has_a_page_and_a_text(count):
    seen = diagnosis(count, words=count > 1, findings=())
    assert seen.page().count("<figure>") == (2 if count else 0)
    assert "Net as it stands" in str(seen)
    json.loads(seen.to_json())
    assert ("12 of 100 layers" in str(seen)) is (count == 100)


def test_theory_is_drawn_where_it_speaks_and_starts_at_the_measurement():
    figure = figure_course(diagnosis(5), "t")
    drawn = {(t.name, t.yaxis): t for t in figure.data}
    signal = drawn["expected by theory", "y"]
    assert list(signal.y[:4]) == pytest.approx([math.exp(-0.1 * i) for i in range(4)])
    assert signal.y[4] is None
    gradient = drawn["expected by theory", "y2"]
    # The path of this word ends at 0, where the last hidden layer was measured: 0.1 / 2^3.
    assert gradient.y[3] == pytest.approx(0.1 * 0.5**3)
    assert gradient.y[0] == pytest.approx(0.1 * 0.5**3 * math.exp(-0.3))
    silent = Diagnosis("Net", diagnosis().measurements, (), (word(4, spoken=False),))
    assert {t.name for t in figure_course(silent, "t").data} == {"measured"}
    assert "Theory has no word" in silent.page()


def test_rank_stands_beside_what_it_could_be():
    names = {t.name for t in figure_difference(diagnosis(), "t").data}
    assert names == {"measured", "inputs", "most that can be"}


def test_a_remedy_is_printed_once():
    finding = Finding("rule", "error", "a", "b", "c", "d", "Do this at once.")
    text = str(diagnosis(findings=(finding, finding, finding)))
    assert text.count("Do this at once.") == 1
    assert text.count("The remedy is the same.") == 2


def test_the_sentences_name_rows_loss_and_drift():
    seen = Measurements(layers(6), 1, 0, 0, 1, True, 64, 640, loss=1.5, loss_name="mine",
                        classes=10, without_gradient=0.25)  # fmt: skip
    lines = " ".join(Diagnosis("Net", seen, ()).sentences())
    for words in ("64 of 640 rows", "Loss 1.5 on these 64 rows (mine), a guess has ln 10 = 2.303",
                  "gradient, backward: +1", "25.0% of the trainable"):  # fmt: skip
        assert words in lines
    assert "no loss was given" in " ".join(diagnosis().sentences())
