"""Replay: leaky ReLU networks of width 2 and depth 30 that learn the score of three Gaussians."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from equipoise.lab.best_rate import best_rate
from equipoise.lab.mixtures import score_task, three_gaussians
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
from equipoise.lab.narrow_study import NarrowDraw, train_draws
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

WIDTH, DEPTH = 2, 30
# Standard deviation of the noise of the samples whose score is learnt.
NOISE = 0.3
# Share of the score's variance that counts as learnt.
LEARNT = 0.9


def trained(arguments: Arguments) -> list[dict[str, Any]]:
    """Train draws of all starts.

    Args:
        arguments: ``mode``, ``slope``, ``rates``, ``steps`` and ``seeds``.

    Returns:
        Fields of one ``NarrowDraw`` for each start and seed.
    """
    is_one = arguments["mode"] == "faithful"
    tasks = [
        score_task(three_gaussians(-1 if is_one else seed), NOISE, ROWS, 0 if is_one else seed)
        for seed in arguments["seeds"]
    ]
    return train_draws(
        WIDTH, DEPTH, f"leaky_relu({arguments['slope']:g})", tuple(METHODS.values()),
        arguments["rates"], arguments["seeds"], [one.task for one in tasks],
        epochs_of(arguments["steps"]), BATCH,
    )  # fmt: skip


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Share of draws that learn the score, and how much of it the typical draw knows."""
    cases, rates = gathered(done)
    tables = tuple(_table(cases, rates, mode) for mode in modes)
    said = [_said(cases, rates, mode) for mode in modes]
    pictures = (*(_by_rate(cases, rates, mode) for mode in modes), _score_picture())
    return Findings("; ".join(said), _SENTENCES, tables, pictures)


def _explained(draw: NarrowDraw, place: int) -> float:
    """Share of the score's variance, with failures at 0."""
    return max(0.0, draw.scores[place])


def _best(cases: Cases, rates: Sequence[float], mode: Mode, slope: float, method: str
          ) -> tuple[Estimate, Estimate, float]:  # fmt: skip
    """Share that learns at the best rate, mean of what is known there, and the rate."""
    draws = cases[mode, slope, method]
    found = best_rate([d.scores for d in draws], rates, LEARNT, is_apart=mode == "corrected")
    place = list(rates).index(found.rate)
    return found.share, Estimate.of([_explained(d, place) for d in draws]), found.rate


def _table(cases: Cases, rates: Sequence[float], mode: Mode) -> ResultTable:
    slopes = slopes_of(cases, mode)
    rows = []
    for method in methods_of(cases, mode):
        found = [_best(cases, rates, mode, slope, method) for slope in slopes]
        values = [value for share, known, _ in found for value in (share, known)]
        rows.append(Row((method,), tuple(values)))
    what = "one mixture" if mode == "faithful" else "another mixture for each draw"
    heads = [f"{kind}, slope {slope:g}" for slope in slopes for kind in ("share learnt", "known")]
    return ResultTable(
        f"Share of draws that learn the score, and what part of it they know, {what}", mode,
        ("start",), tuple(heads), "published", tuple(rows),
    )  # fmt: skip


def _by_rate(cases: Cases, rates: Sequence[float], mode: Mode) -> Picture:
    slope = slopes_of(cases, mode)[-1]
    curves = []
    for method in methods_of(cases, mode):
        draws = cases[mode, slope, method]
        values = [Estimate.of([_explained(d, i) for d in draws]) for i in range(len(rates))]
        errors = tuple(v.standard_error for v in values) if len(draws) > 1 else ()
        curves.append(Curve(method, tuple(rates), tuple(v.mean for v in values), errors))
    best = max(curves, key=lambda curve: max(curve.y))
    what = "one mixture" if mode == "faithful" else "another mixture for each draw"
    return Picture(
        f"Share of the score's variance that is explained, slope {slope:g}, {what}",
        f"The best is {best.name}, {max(best.y):.2f}.",
        "learning rate", "share explained", tuple(curves), log_x=True,
    )  # fmt: skip


def _score_picture() -> Picture:
    mixture = three_gaussians()
    x = np.linspace(-3.5, 3.5, 141)
    places = tuple(x.tolist())
    clean, noisy = mixture.score(x), mixture.noisy(NOISE).score(x)
    return Picture(
        "The score of the mixture, and what noise makes of it",
        "It falls in each component and rises between them: five pieces, none of which a network "
        "that is a line has.",
        "x", "d log p / dx",
        (
            Curve("mixture", places, tuple(clean.tolist()), (), "dashed"),
            Curve(f"with noise {NOISE:g}, which is learnt", places, tuple(noisy.tolist())),
        ),
    )  # fmt: skip


def _said(cases: Cases, rates: Sequence[float], mode: Mode) -> str:
    slopes = slopes_of(cases, mode)
    parts = []
    for method in ("auto", "Lyapunov, Gaussian", "He"):
        found = [_best(cases, rates, mode, slope, method)[0].mean for slope in slopes]
        parts.append(f"{', '.join(f'{s:.2f}' for s in found)} by {method}")
    where = "of one mixture" if mode == "faithful" else "where every draw has its own"
    return (
        f"share that learns the score {where} at slopes {', '.join(f'{s:g}' for s in slopes)}: "
        + "; ".join(parts)
    )


_SENTENCES = (
    "The source shows curves, without numbers to set beside; where its components lie is not known "
    "to us. Ours: weights .3, .4, .3 at -2, 0 and 2 with standard deviation .4, samples with noise "
    f"{NOISE:g}.",
    "Training is denoising score matching: targets are the noise alone. Tests are against the "
    "score of the noisy law in closed form; a draw has learnt it at 90 % of its variance.",
)

REPLAY = Replay(
    name="score-learning",
    source="Kogler, Schwarz and Kittle 2026, arXiv 2602.10949",
    title="leaky ReLU networks of width 2 and depth 30 on the score of three Gaussians",
    setting="Width 2, depth 30, leaky ReLU, denoising score matching of a mixture of three "
    "Gaussians on a line; starts compared.",
    faithful="one mixture for all draws, and the rate that is best on the same draws; Adam, "
    "batches of 64 of 2,000 noisy samples; the budget quick has two rates and 1,000 steps.",
    corrected="every draw has a mixture of its own, and the rate of each draw is the best of all "
    "others.",
    draws={"quick": 12, "paper": 100},
    units=units,
    work=trained,
    findings=findings,
)
