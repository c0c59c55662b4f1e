"""Replay: which moment of the norm which scale of the weights keeps, at depth."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from equipoise.lab.replay_data import (
    Arguments,
    Budget,
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
from equipoise.theory import activations
from equipoise.theory.activations import Activation
from equipoise.theory.lyapunov import log_gain
from equipoise.theory.moments import critical_scale, log_moment
from equipoise.theory.odds import usable_odds

WIDTH, DEPTH = 32, 10
# Orders that scales keep; 0 keeps the typical draw and is not among the published ones.
_ORDERS: Mapping[Mode, tuple[float, ...]] = {
    "faithful": (0.5, 1.0, 2.0), "corrected": (0.0, 0.5, 1.0, 2.0),
}  # fmt: skip
MEASURED = (0.5, 1.0, 2.0)
# Leaky ReLU of slope 0 is ReLU, of slope 1 a line.
_SLOPES: Mapping[float, str] = {0.0: "ReLU", 0.1: "leaky ReLU, .1", 1.0: "linear"}
_NETWORKS: Mapping[Budget, int] = {"quick": 2000, "paper": 20_000}
# Networks at a time, and the depth of the odds.
_AT_ONCE, _DEEP = 500, 100


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """Networks of each activation and scale; what both modes look at is drawn once."""
    orders = sorted({order for mode in modes for order in _ORDERS[mode]})
    return {
        f"slope {slope:g}, sigma of order {order:g}, draw {seed}": {
            "slope": slope, "order": order, "seed": seed, "width": WIDTH, "depth": DEPTH,
            "networks": _NETWORKS[budget],
        }
        for slope in _SLOPES
        for order in orders
        for seed in seeds
    }  # fmt: skip


def moments(arguments: Arguments) -> dict[str, Any]:
    """Moments of the growth of one input's norm over drawn networks.

    Args:
        arguments: ``slope``, ``order`` of the moment that the scale keeps, ``width``, ``depth``,
            ``networks`` and ``seed``.

    Returns:
        ``moments``: mean of (|x_L| / |x_0|)^s for each s of ``MEASURED``; ``log``: mean log of the
        draws that live.
    """
    slope, width, depth = arguments["slope"], arguments["width"], arguments["depth"]
    scale = critical_scale(_activation(slope), width, order=arguments["order"])
    key = [arguments["seed"], round(100 * slope), round(100 * arguments["order"])]
    rng = np.random.default_rng(key)
    norms = []
    for first in range(0, arguments["networks"], _AT_ONCE):
        count = min(_AT_ONCE, arguments["networks"] - first)
        x = np.ones((count, width)) / math.sqrt(width)
        for _ in range(depth):
            z = np.einsum("rij,rj->ri", scale * rng.standard_normal((count, width, width)), x)
            x = np.where(z > 0, z, slope * z)
        norms.append(np.linalg.norm(x, axis=1))
    grown = np.concatenate(norms)
    return {
        "moments": [float((grown**s).mean()) for s in MEASURED],
        "log": float(np.log(grown[grown > 0]).mean()),
    }


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Moments at depth against their closed form, and what a kept moment means for one draw."""
    cases: dict[tuple[float, float], list[Any]] = {}
    for a, result in done:
        cases.setdefault((a["slope"], a["order"]), []).append(result)
    kept = [
        Estimate.of([r["moments"][MEASURED.index(order)] for r in results], 1.0)
        for (_, order), results in cases.items()
        if order > 0
    ]
    worst = max((abs(e.errors_off) for e in kept if e.standard_error > 0), default=math.nan)
    tables = []
    if "faithful" in modes:
        tables.append(_kept({c: r for c, r in cases.items() if c[1] in _ORDERS["faithful"]}))
    if "corrected" in modes:
        tables.append(_typical(cases))
    return Findings(
        f"the moment that a scale is made for is 1 behind {DEPTH} layers of width {WIDTH} within "
        f"{worst:.1f} standard errors in {len(kept)} cases",
        (
            "A scale sigma_s keeps E |x|^s; lower moments then fade and higher ones grow. s = 2 is "
            "He's rule for the activation at hand, s = 0 the typical draw.",
            "Closed forms are exact at every width (equipoise.theory.log_moment). Means of high "
            "moments rest on few draws, so their standard error is itself uncertain.",
        ),
        tuple(tables),
        (_moment_picture(), _odds_picture()),
    )


def _kept(cases: Mapping[tuple[float, float], Sequence[Any]]) -> ResultTable:
    rows = [
        Row(
            (_SLOPES[slope], f"{order:g}"),
            tuple(
                Estimate.of([r["moments"][i] for r in results], exact(slope, order, s))
                for i, s in enumerate(MEASURED)
            ),
        )
        for (slope, order), results in cases.items()
    ]
    return ResultTable(
        f"Moments of |x_L| / |x_0| behind {DEPTH} layers of width {WIDTH}", "faithful",
        ("activation", "sigma keeps s ="), tuple(f"E (..)^{s:g}" for s in MEASURED), "closed form",
        tuple(rows),
    )  # fmt: skip


def _typical(cases: Mapping[tuple[float, float], Sequence[Any]]) -> ResultTable:
    rows = []
    for (slope, order), results in cases.items():
        f = _activation(slope)
        scale = critical_scale(f, WIDTH, order=order)
        told = DEPTH * log_gain(f, WIDTH, scale=scale).mean
        rows.append(
            Row(
                (_SLOPES[slope], f"{order:g}"),
                (
                    Estimate(scale * math.sqrt(WIDTH), 0.0, 1),
                    Estimate.of([r["log"] for r in results], told),
                    Estimate(usable_odds(f, WIDTH, _DEEP, scale), 0.0, 1),
                ),
            )
        )
    return ResultTable(
        "What a kept moment means for one draw", "corrected", ("activation", "sigma keeps s ="),
        ("sigma sqrt(n)", f"mean log at layer {DEPTH}, nats",
         f"share within a factor 10 at layer {_DEEP}, exact"),
        "closed form", tuple(rows),
    )  # fmt: skip


@lru_cache(maxsize=256)
def exact(slope: float, kept: float, order: float, depth: int = DEPTH) -> float:
    """E (|x_L| / |x_0|)^order at the scale that keeps another order, in closed form.

    >>> round(exact(1.0, 1.0, 1.0), 12)
    1.0
    """
    f = _activation(slope)
    scale = critical_scale(f, WIDTH, order=kept)
    return math.exp(depth * log_moment(f, order, WIDTH, scale=scale))


def _activation(slope: float) -> Activation:
    match slope:
        case 0.0:
            return activations.relu()
        case 1.0:
            return activations.identity()
        case _:
            return activations.leaky_relu(slope)


def _moment_picture() -> Picture:
    depths = (1, 2, 5, 10, 20, 50, 100)
    curves = tuple(
        Curve(f"sigma keeps s = {kept:g}", tuple(map(float, depths)),
              tuple(exact(0.0, kept, 1.0, depth) for depth in depths))
        for kept in (0.0, *MEASURED)
    )  # fmt: skip
    return Picture(
        f"E |x_L| / |x_0| over depth by scale: ReLU, width {WIDTH}, in closed form",
        "It is 1 at all depths for the scale that keeps s = 1, fades for He's and grows for the "
        "typical draw's.",
        "layer", "E |x_L| / |x_0|", curves, log_x=True, log_y=True,
    )  # fmt: skip


def _odds_picture() -> Picture:
    orders = tuple(float(s) for s in np.linspace(0.05, 2.0, 14))
    curves = []
    for slope, name in _SLOPES.items():
        f = _activation(slope)
        odds = [usable_odds(f, WIDTH, _DEEP, critical_scale(f, WIDTH, order=s)) for s in orders]
        curves.append(Curve(name, orders, tuple(odds)))
    return Picture(
        f"Share of draws within a factor 10 at layer {_DEEP}, width {WIDTH}, by order kept",
        "The share is largest for orders near 0 and smallest for 2, He's rule.",
        "order s whose moment is kept", "share of draws", tuple(curves),
    )  # fmt: skip


REPLAY = Replay(
    name="fractional-moments",
    source="Gurbuzbalaban and Hu 2020, arXiv 2005.11878",
    title="which scale of the weights keeps which moment of the norm at depth",
    setting="Gaussian weights; ReLU, leaky ReLU and linear networks; scales that keep moments of "
    "order s up to 2.",
    faithful=f"moments of order .5, 1 and 2 of |x_L| / |x_0| behind {DEPTH} layers of width "
    f"{WIDTH}, over drawn networks, for scales that keep each of them.",
    corrected="a moment is a mean over draws, and a network is one draw: the scale of order 0, "
    f"outside the source's range, the typical draw and the share of draws within a factor of 10 "
    f"at layer {_DEEP} stand beside it.",
    draws={"quick": 10, "paper": 10},
    units=units,
    work=moments,
    findings=findings,
)
