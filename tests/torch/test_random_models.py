"""Random models: each is right by measurement or refused with a reason.

``python benchmarks/random_models.py`` runs thousands more of them.
"""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import random_check
        import random_model

        yield random_model.random_model, random_check


@pytest.mark.parametrize("number", range(16))
def test_models_of_a_seed_keep_what_is_promised(bench, number):
    build, check = bench
    made = build(random.Random(number).choice, number)
    found = check.examine(made.model, made.inputs, number)
    assert not found.faults, f"{found.faults}\n{made.text}"


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_models_that_a_search_builds_keep_what_is_promised(bench, data):
    build, check = bench
    made = build(lambda options: data.draw(st.sampled_from(list(options))))
    found = check.examine(made.model, made.inputs)
    assert not found.faults, f"{found.faults}\n{made.text}"


def test_the_same_choices_build_the_same_model(bench):
    build, _ = bench
    first, second = (build(random.Random(5).choice, 5) for _ in range(2))
    assert first.text == second.text
    states = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# The check itself sees what it is there to see.


class Wrong(torch.nn.Module):
    """A layer whose outputs are scaled where nobody can read it: behind the operation itself."""

    def __init__(self, factor):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.factor = factor

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize(("factor", "is_fault"), [(1.0, False), (1.5, False), (5.0, True)])
def test_a_prediction_that_is_off_is_a_fault(bench, factor, is_fault, monkeypatch):
    _, check = bench
    rms = check._rms
    monkeypatch.setattr(check, "_rms", lambda x: factor * rms(x))
    found = check.examine(Wrong(factor), (torch.randn(64, 8),))
    assert bool([f for f in found.faults if f.startswith("signal")]) == is_fault


def test_what_the_call_itself_names_is_not_silent(bench):
    _, check = bench
    found = check.Examined(faults=["signal: a", "across: b", "crash: c"], named={"signal"})
    assert found.silent == ["across: b", "crash: c"]


def test_another_exception_is_a_fault(bench, monkeypatch):
    _, check = bench

    def fails(*args, **kwargs):
        raise KeyError("lost")

    monkeypatch.setattr(check.eq, "initialize", fails)
    found = check.examine(torch.nn.Linear(4, 4), (torch.randn(8, 4),))
    assert found.faults == ["crash: KeyError: [\"'lost'\"]"]


def test_a_refusal_is_no_fault(bench):
    _, check = bench
    found = check.examine(torch.nn.Linear(4, 4), (torch.randn(8, 3),))
    assert (found.status, found.faults) == ("refused", [])
    assert found.reason
