"""Replay: leaky ReLU networks of width 2 and depth 40 that learn a polynomial of degree 5."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from equipoise.lab.best_rate import best_rate
from equipoise.lab.narrow_cases import (
    BATCH,
    METHODS,
    ROWS,
    Cases,
    epochs_of,
    gathered,
    methods_of,
    slopes_of,
    units,
)
from equipoise.lab.narrow_study import fate, train_draws
from equipoise.lab.regression_tasks import polynomial
from equipoise.lab.replay_data import (
    Arguments,
    Curve,
    Done,
    Estimate,
    Findings,
    Mode,
    Picture,
    Replay,
    ResultTable,
    Row,
)

WIDTH, DEPTH, DEGREE = 2, 40, 5
# Share solved at slopes .5, .1 and .01 by Lyapunov initialization, as the source reports it.
_PUBLISHED = {("Lyapunov, Gaussian", 0.5): 0.91, ("Lyapunov, Gaussian", 0.1): 0.39,
              ("Lyapunov, Gaussian", 0.01): 0.08}  # fmt: skip
# A mean squared error of .1 where targets have variance 1.
SOLVED = 0.9
_FATES = ("solved", "silent", "straight", "bent")


def trained(arguments: Arguments) -> list[dict[str, Any]]:
    """Train draws of all starts.

    Args:
        arguments: ``mode``, ``slope``, ``rates``, ``steps`` and ``seeds``.

    Returns:
        Fields of one ``NarrowDraw`` for each start and seed.
    """
    is_one = arguments["mode"] == "faithful"
    tasks = [
        polynomial(DEGREE, rows=ROWS, seed=0 if is_one else seed) for seed in arguments["seeds"]
    ]
    return train_draws(
        WIDTH, DEPTH, f"leaky_relu({arguments['slope']:g})", tuple(METHODS.values()),
        arguments["rates"], arguments["seeds"], tasks, epochs_of(arguments["steps"]), BATCH,
    )  # fmt: skip


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Share solved by start, slope and rate, and what became of the others."""
    cases, rates = gathered(done)
    tables: list[ResultTable] = []
    pictures: list[Picture] = []
    said: list[str] = []
    for mode in modes:
        tables.append(_shares(cases, rates, mode))
        pictures.append(_by_rate(cases, rates, mode))
        said.append(_said(cases, rates, mode))
    if "corrected" in modes:
        tables += [_fates(cases, rates), _birth(cases)]
    return Findings("; ".join(said), _sentences(modes), tuple(tables), tuple(pictures))


def share(
    cases: Cases, rates: Sequence[float], mode: Mode, slope: float, method: str
) -> tuple[Estimate, float]:
    """Share solved at the best rate, and that rate; apart from its choice where corrected."""
    scores = [draw.scores for draw in cases[mode, slope, method]]
    reference = _PUBLISHED.get((method, slope), math.nan) if mode == "faithful" else math.nan
    found = best_rate(scores, rates, SOLVED, reference, is_apart=mode == "corrected")
    return found.share, found.rate


def _shares(cases: Cases, rates: Sequence[float], mode: Mode) -> ResultTable:
    slopes = slopes_of(cases, mode)
    rows = []
    for method in methods_of(cases, mode):
        found = [share(cases, rates, mode, slope, method) for slope in slopes]
        rows.append(Row((method, ", ".join(f"{rate:g}" for _, rate in found)),
                        tuple(estimate for estimate, _ in found)))  # fmt: skip
    what = "one polynomial" if mode == "faithful" else "another polynomial for each draw"
    return ResultTable(
        f"Share solved at the best rate, {what}", mode, ("start", "best rates"),
        tuple(f"slope {slope:g}" for slope in slopes), "published", tuple(rows),
    )  # fmt: skip


def _fates(cases: Cases, rates: Sequence[float]) -> ResultTable:
    rows = []
    for slope in slopes_of(cases, "corrected"):
        for method in methods_of(cases, "corrected"):
            draws = cases["corrected", slope, method]
            place = rates.index(share(cases, rates, "corrected", slope, method)[1])
            counts = Counter(fate(draw, place, SOLVED) for draw in draws)
            values = []
            for kind in _FATES:
                part = counts[kind] / len(draws)
                error = math.sqrt(part * (1 - part) / len(draws))
                values.append(Estimate(part, error, len(draws)))
            rows.append(Row((f"{slope:g}", method), tuple(values)))
    return ResultTable(
        "What became of the draws at the best rate, shares", "corrected", ("slope", "start"),
        _FATES, "none", tuple(rows),
    )  # fmt: skip


def _birth(cases: Cases) -> ResultTable:
    rows = [
        Row(
            (f"{slope:g}", method),
            (
                Estimate.of([float(d.born_pieces) for d in cases["corrected", slope, method]]),
                Estimate.of([d.born_known for d in cases["corrected", slope, method]]),
            ),
        )
        for slope in slopes_of(cases, "corrected")
        for method in methods_of(cases, "corrected")
    ]
    return ResultTable(
        "At birth, behind the last hidden layer", "corrected", ("slope", "start"),
        ("linear pieces", "share of the input known"), "none", tuple(rows),
    )  # fmt: skip


def _by_rate(cases: Cases, rates: Sequence[float], mode: Mode) -> Picture:
    slope = slopes_of(cases, mode)[-1]
    curves = []
    for method in methods_of(cases, mode):
        draws = cases[mode, slope, method]
        shares = [
            sum(draw.scores[i] > SOLVED for draw in draws) / len(draws) for i in range(len(rates))
        ]
        errors = tuple(math.sqrt(s * (1 - s) / len(draws)) for s in shares)
        curves.append(Curve(method, tuple(rates), tuple(shares), errors))
    what = "one polynomial" if mode == "faithful" else "another polynomial for each draw"
    best = max(curves, key=lambda curve: max(curve.y))
    return Picture(
        f"Share solved by learning rate at slope {slope:g}, {what}",
        f"The best is {best.name}, {max(best.y):.2f}.",
        "learning rate", "share solved", tuple(curves), log_x=True,
    )  # fmt: skip


def _said(cases: Cases, rates: Sequence[float], mode: Mode) -> str:
    slopes = slopes_of(cases, mode)
    parts = []
    for method in ("auto", "shifted", "Lyapunov, Gaussian"):
        found = [share(cases, rates, mode, slope, method)[0].mean for slope in slopes]
        parts.append(f"{', '.join(f'{s:.2f}' for s in found)} by {method}")
    where = "of one polynomial" if mode == "faithful" else "where every draw has its own"
    return f"share solved {where} at slopes {', '.join(f'{s:g}' for s in slopes)}: " + "; ".join(
        parts
    )


def _sentences(modes: Sequence[Mode]) -> tuple[str, ...]:
    said = [
        "A draw has solved its task at a test mean squared error below .1, where targets have "
        "variance 1. Coefficients and inputs of the source's polynomial are not known to us: ours "
        "has standard normal coefficients and inputs uniform with variance 1, and published "
        "shares are numbers of another polynomial.",
    ]
    if "corrected" in modes:
        said.append(
            "Of the draws that fail, silent ones have outputs that hardly vary, straight ones no "
            "kink of any unit among the inputs, so that they are lines whatever they learn, and "
            "bent ones bend in too few places or at the wrong ones."
        )
    return tuple(said)


REPLAY = Replay(
    name="polynomial",
    source="Kogler, Schwarz and Kittle 2026, arXiv 2602.10949",
    title="leaky ReLU networks of width 2 and depth 40 on polynomials of degree 5",
    setting="Width 2, depth 40, leaky ReLU of slopes .5, .1 and .01, a polynomial of degree 5, "
    "100 draws of seven starts at several learning rates; solved below a test error of .1.",
    faithful="one polynomial for all draws; the share solved is that at the rate which is best on "
    "the same draws. Adam, batches of 64 of 2,000 rows; the budget quick has two rates and 1,000 "
    "steps.",
    corrected="one polynomial may be an easy one, and a rate chosen by the draws that it is judged "
    "by is chosen for its luck: every draw has a polynomial of its own, the rate of each draw is "
    "the best of all others, and what became of the draws that fail is said.",
    draws={"quick": 12, "paper": 100},
    units=units,
    work=trained,
    findings=findings,
)
