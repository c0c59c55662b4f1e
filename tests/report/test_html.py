"""The page is whole, safe and honest: the strings and numbers of a report, and nothing of a net."""

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import plotly.graph_objects as go
import pytest

from equipoise.diagnose import Finding, diagnose
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.plan import Assignment, Plan, Prediction, Untouched
from equipoise.report import html
from equipoise.report.panels import Panel
from equipoise.report.report import Report
from equipoise.schemes.laws import Normal, Zero

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Reader(HTMLParser):
    """Collects tags, attributes, headings and the texts of scripts; checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.scripts, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    def find(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def layer(name, signal=1.0, gradient=0.1, correlation=0.0):
    return LayerMeasurement(
        name, f"{name}.weight", 16, signal, gradient, 0.1, correlation, 0.0, 0.0
    )


def measurements(*layers, is_finite=True):
    return Measurements(layers, 1.0, 0.0, 0.01, 1.0, is_finite, 64)


def report(layers, untouched=(), notes=(), findings=None, model="Net", log_std=0.0, **kwargs):
    plan = Plan(
        "auto",
        ("0 to 9: orthogonal, since tanh is odd.",),
        tuple(
            a
            for x in layers
            for a in (
                Assignment(x.weight, (16, 8), Normal(0.25), "keeps the signal"),
                Assignment(f"{x.layer}.bias", (16,), Zero(), "starts at 0"),
            )
        ),
        untouched,
        predictions=tuple(Prediction(x.layer, x.weight, 1.0, 1.0, 0, log_std) for x in layers),
        notes=notes,
    )
    seen = measurements(*layers)
    found = diagnose(seen, plan) if findings is None else findings
    return Report(model, plan, seen, found, 7, kwargs.get("is_applied", True))


def healthy(count=4, **kwargs):
    return report([layer(f"layers.{i}") for i in range(count)], **kwargs)


def traces(figure):
    return {(t.name, t.yaxis): t for t in figure.data}


def test_the_page_is_self_contained():
    text = html.page(healthy())
    reader = Reader(text)
    for _, attrs in reader.tags:
        assert not {"src", "href", "srcset", "data", "action"} & set(attrs)
    assert "@import" not in text.split("<script>")[0]
    assert "url(" not in text.split("<script>")[0]
    policy = next(m["content"] for m in reader.find("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_plotly_is_there_once():
    reader = Reader(html.page(healthy()))
    assert sum(len(script) > 1_000_000 for script in reader.scripts) == 1
    assert not any("plotly.js v" in s for s in Reader(html.section("A", "<p>b</p>")).scripts)


def test_the_same_report_gives_the_same_page():
    assert html.page(healthy()) == html.page(healthy())


def test_strings_of_the_model_are_escaped_everywhere():
    finding = Finding("rule", "error", EVIL, EVIL, EVIL, EVIL, EVIL)
    hurt = report(
        [layer(EVIL), layer(f"a{EVIL}", signal=0.0)],
        untouched=(Untouched(EVIL, (3,), EVIL),),
        notes=(f"{EVIL}: {EVIL}",),
        findings=(finding,),
        model=EVIL,
    )
    text = html.page(hurt)
    assert EVIL not in text
    reader = Reader(text)
    assert EVIL in reader.text
    executed = [s for s in reader.scripts if "alert(1)" in s and not s.lstrip().startswith("{")]
    assert executed == []


def test_pictures_show_names_literally():
    # Plotly reads <b> and <a href> in its texts, so these must reach it as entities.
    shown = measurements(layer("<b>bold</b>"), layer('<a href="https://example.org">x</a>'))
    figure = html.figure_signal_gradient(shown, None, "<i>title</i>")
    assert "&lt;b&gt;" in figure.data[0].hovertext[0]
    assert "<a" not in figure.data[0].hovertext[1]
    assert figure.layout.title.text == "&lt;i&gt;title&lt;/i&gt;"
    assert "&lt;i&gt;title&lt;/i&gt;" in html.figure_html(figure)
    assert "&amp;lt;" not in html.figure_html(figure).split("<script")[0]


@pytest.mark.parametrize("count", [3, 31])
def test_every_parameter_is_listed_and_long_lists_are_folded(count):
    whole = healthy(count, untouched=(Untouched("norm.scale", (), "not affine"),))
    reader = Reader(html.page(whole))
    for a in whole.plan.assignments:
        assert a.parameter in reader.words
    for words in ("norm.scale", "scalar", "not affine", "normal, std 0.25", "keeps the signal"):
        assert words in reader.text
    assert "16\xa0\xd7\xa08" in reader.words
    assert bool(Reader(html.plan_table(whole)).find("details")) is (2 * count > 60)


def test_zeros_and_nan_have_their_own_row():
    layers = [layer("a"), layer("b", 0.0, 0.0), layer("c", math.nan, math.inf, math.nan)]
    dead = report(layers)
    figure = html.figure_signal_gradient(dead.measurements, dead.plan, "t")
    drawn = traces(figure)
    for axis, scale in (("y", figure.layout.yaxis), ("y2", figure.layout.yaxis2)):
        zero, lost = drawn["exactly 0", axis], drawn["not finite", axis]
        assert list(zero.x) == [2]
        assert list(lost.x) == [3]
        assert "exactly 0" in zero.hovertext[0]
        assert "not finite" in lost.hovertext[0]
        assert scale.range[0] < math.log10(zero.y[0]) < scale.range[1]
        assert "0, nan" in scale.ticktext
        assert drawn["measured", axis].y[1:] == (None, None)
    text = Reader(html.page(dead)).text
    assert "not finite" in text
    assert "no gradient arrives" in text


def test_the_same_kind_is_named_once_in_the_legend():
    figure = html.figure_signal_gradient(healthy().measurements, healthy().plan, "t")
    named = [t.name for t in figure.data if t.showlegend]
    assert sorted(named) == ["expected by theory", "measured"]


def test_expected_gradient_is_scaled_by_the_end_of_its_stack():
    seen = measurements(*[layer(str(i), gradient=g) for i, g in enumerate([1.0, 2.0, 3.0, 5.0])])
    predictions = tuple(Prediction(str(i), f"{i}.weight", 1.0, 0.5, i // 2) for i in range(4))
    plan = Plan("auto", (), (), (), predictions=predictions)
    expected = traces(html.figure_signal_gradient(seen, plan, "t"))["expected by theory", "y2"]
    assert list(expected.y) == [1.0, 1.0, 2.5, 2.5]
    assert expected.line.dash == "dash"


@pytest.mark.parametrize("plan", [None, Plan("auto", (), (), ())])
def test_without_expectation_no_line_is_drawn(plan):
    figure = html.figure_signal_gradient(healthy().measurements, plan, "t")
    assert {t.name for t in figure.data} == {"measured"}


@pytest.mark.parametrize("factor", [1.0, 1.5, 1e4, 1e-30, 1e-300])
def test_axes_hold_the_values_and_have_few_ticks(factor):
    figure = html.figure_signal_gradient(measurements(layer("a"), layer("b", factor)), None, "t")
    axis = figure.layout.yaxis
    assert axis.range[0] < min(0.0, math.log10(factor))
    assert axis.range[1] > max(0.0, math.log10(factor))
    assert axis.range[1] - axis.range[0] >= 2
    assert 2 <= len(axis.tickvals) <= 8
    assert all(axis.range[0] <= math.log10(y) <= axis.range[1] for y in axis.tickvals)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_any_depth_has_a_page(count):
    reader = Reader(html.page(healthy(count)))
    assert len(reader.find("figure")) == (2 if count else 0)


@pytest.mark.parametrize(
    ("severity", "badge", "message"),
    [
        ("info", "In balance", "Net starts in balance"),
        ("warning", "Warning: will train badly", "Net starts out of balance"),
        ("error", "Error: will not train", "Net starts out of balance"),
    ],
)
def test_the_headline_says_it_in_words(severity, badge, message):
    finding = Finding("rule", severity, "layers.1", "what", "this", "that", "do so")
    reader = Reader(html.page(healthy(findings=(finding,), is_applied=False)))
    assert badge in reader.words
    assert message in reader.words
    for words in ("auto", "7", "layers.1", "this", "that", "do so", " What"):
        assert words in reader.words
    assert "not written" in reader.text
    assert "since tanh is odd" in reader.text


def test_the_stray_of_one_draw_is_told():
    assert "by a factor of up to 7.39" in Reader(html.page(healthy(log_std=2.0))).text
    assert "to stray" not in Reader(html.page(healthy())).text


def test_many_remarks_are_folded_but_errors_are_not():
    info = Finding("note", "info", "a", "b", "c", "d", "e")
    grave = Finding("bad", "error", "a", "b", "c", "d", "e")
    assert not Reader(html.findings_list([grave] * 9)).find("details")
    assert Reader(html.findings_list([grave, *[info] * 9])).find("details")
    assert "No rule" in html.findings_list([])


def test_a_remedy_is_written_out_once():
    findings = tuple(
        Finding(code, "error", "0", "it is wrong", "a", "b", remedy)
        for code, remedy in (("first", "Mend all."), ("second", "Other."), ("third", "Mend all."))
    )  # fmt: skip
    page = html.findings_list(findings)
    assert page.count("Mend all.") == 1
    assert "as for <code>first</code> above" in page


def test_markers_stand_only_where_no_line_shows_what_is_expected():
    def mode(expected):
        panel = Panel("Signal", "RMS", ["a"] * len(expected), [1.0] * len(expected), expected)
        return panel.traces("")[1].mode

    nan = math.nan
    assert mode([1.0, 1.0, nan, nan]) == "lines"
    assert mode([1.0, 1.0, nan, 1.0]) == "lines+markers"
    assert mode([1.0]) == "lines+markers"


def test_the_page_is_accessible():
    reader = Reader(html.page(healthy(notes=("a: b.",))))
    assert reader.find("html") == [{"lang": "en"}]
    levels = [int(t[1]) for t, _ in reader.tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(attrs.get("scope") in ("col", "row") for attrs in reader.find("th"))
    plots = [a for a in reader.find("div") if a.get("class") == "plot"]
    assert len(plots) == 2
    assert all(a["role"] == "img" and "measured" in a["aria-label"] for a in plots)


def test_any_figure_can_be_shown():
    text = html.figure_html(go.Figure(go.Bar(y=[1, 2]), {"title": {"text": "Bars"}}))
    reader = Reader(text)
    assert "Bars" in reader.words
    assert json.loads(reader.scripts[0])["data"][0]["type"] == "bar"
    assert Reader(html.figure_html(go.Figure())).find("figure")


def test_sections_escape_titles_and_keep_bodies():
    text = html.document("a < b", [html.section("c & d", "<p>body</p>")])
    reader = Reader(text)
    assert "a < b" in reader.words
    assert "c & d" in reader.words
    assert "<p>body</p>" in text


def test_a_real_initialization(tmp_path):
    torch = pytest.importorskip("torch")
    import equipoise.torch as eq

    sizes = [8, *[16] * 19]
    modules = [m for a, b in pairwise(sizes)
               for m in (torch.nn.Linear(a, b), torch.nn.Tanh())]  # fmt: skip
    net = torch.nn.Sequential(*modules, torch.nn.Linear(16, 4))
    generator = torch.Generator().manual_seed(0)
    made = eq.initialize(net, torch.randn(64, 8, generator=generator), generator=generator)
    path = made.save(tmp_path / "report.html")
    reader = Reader(path.read_text(encoding="utf-8"))
    for name, _ in net.named_parameters():
        assert name in reader.words
    assert "Sequential starts in balance" in reader.words
    pictures = [json.loads(s) for s in reader.scripts if s.lstrip().startswith("{")]
    assert [len(t["y"]) for t in pictures[0]["data"]] == [20] * 4
