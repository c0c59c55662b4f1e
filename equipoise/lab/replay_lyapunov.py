"""Replay: exponents of leaky ReLU networks, their limit theorems, and the transition in sigma."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

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
from equipoise.schemes.entries import semi_orthogonal
from equipoise.theory import activations
from equipoise.theory.lyapunov import LogGain, WeightLaw, log_gain
from equipoise.theory.moments import critical_scale
from equipoise.theory.odds import usable_odds

Array = NDArray[np.float64]

_WIDTHS = (2, 4, 8, 16, 64)
_SLOPES = (0.01, 0.1, 0.5)
_LAWS: tuple[WeightLaw, ...] = ("gaussian", "haar")
# Networks of a unit of work, and layers of each, by width: narrow ones stray most.
_NETWORKS: Mapping[Budget, int] = {"quick": 20, "paper": 100}
_DEPTH = 200
# The case of the pictures, and factors of the critical scale of the transition.
_SHOWN = (2, 0.1)
_FACTORS = (0.4, 1.3)
_DECADES = 1.0


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """Networks of each width, slope and law; He's scale is faithful, the critical one corrected."""
    found: dict[str, Arguments] = {}
    cases: list[tuple[str, float, float, WeightLaw]] = []
    if "faithful" in modes:
        cases += [("he", w, s, law) for w in _WIDTHS for s in _SLOPES for law in _LAWS]
    if "corrected" in modes:
        cases += [("lyapunov", w, s, "gaussian") for w in _WIDTHS for s in _SLOPES]
    for scale, width, slope, law in cases:
        for seed in seeds:
            found[f"{scale}, {law}, width {width}, slope {slope:g}, draw {seed}"] = {
                "scale": scale, "width": width, "slope": slope, "law": law, "seed": seed,
                "networks": _NETWORKS[budget], "depth": _DEPTH,
            }  # fmt: skip
    return found


def walk(arguments: Arguments) -> dict[str, Any]:
    """Log norms of one input through drawn networks.

    Args:
        arguments: ``scale``: ``he`` or ``lyapunov``; ``law``, ``width``, ``slope``, ``networks``,
            ``depth`` and ``seed``.

    Returns:
        ``mean`` and ``variance`` of log(|x'| / |x|) over all layers of all networks, ``layer`` and
        ``log_norm``: log(|x_l| / |x_0|) there, one list for each network.
    """
    width, depth, count = arguments["width"], arguments["depth"], arguments["networks"]
    slope, law = arguments["slope"], arguments["law"]
    key = [arguments["seed"], width, round(1000 * slope), law == "haar"]
    rng = np.random.default_rng([*key, arguments["scale"] == "he"])
    x = np.ones((count, width)) / math.sqrt(width)
    scale = scale_of(arguments["scale"], width, slope, law)
    steps = np.empty((depth, count))
    for i in range(depth):
        weights = rng.standard_normal((count, width, width))
        if law == "haar":
            weights = np.stack([semi_orthogonal(w, w.shape) for w in weights])
        z = scale * np.einsum("rij,rj->ri", weights, x)
        x = np.where(z > 0, z, slope * z)
        norms = np.linalg.norm(x, axis=1)
        steps[i] = np.log(norms)
        # At norm 1 again: no number of layers leaves the range of floats.
        x /= norms[:, None]
    layers = [i for i in range(depth) if (i + 1) % 10 == 0]
    return {
        "mean": float(steps.mean()),
        "variance": float(steps.var(ddof=1)),
        "layer": [i + 1 for i in layers],
        "log_norm": steps.cumsum(axis=0)[layers].T.tolist(),
    }


@lru_cache(maxsize=256)
def scale_of(name: str, width: int, slope: float, law: WeightLaw) -> float:
    """The scale of the weights: He's, or the critical one.

    For orthogonal weights He's gain sqrt(2 / (1 + a^2)) keeps mean squares likewise.

    >>> round(scale_of("he", 8, 0.0, "gaussian"), 9)
    0.5
    """
    f = activations.leaky_relu(slope)
    if name == "he":
        gain = math.sqrt(2.0 / (1.0 + slope * slope))
        return gain / math.sqrt(width) if law == "gaussian" else gain
    return critical_scale(f, width, law=law)


@lru_cache(maxsize=256)
def exact(name: str, width: int, slope: float, law: WeightLaw) -> LogGain:
    """Mean and variance of log(|x'| / |x|) in closed form."""
    f = activations.leaky_relu(slope)
    return log_gain(f, width, scale=scale_of(name, width, slope, law), law=law)


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """The table of exponents, odds of a usable draw, and pictures of the limit theorems."""
    cases: dict[tuple[str, int, float, WeightLaw], list[Any]] = {}
    for a, result in done:
        key = (a["scale"], a["width"], a["slope"], a["law"])
        cases.setdefault(key, []).append(result)
    tables, pictures = [], []
    off = [
        Estimate.of([r["mean"] for r in results], exact(*case).mean).errors_off
        for case, results in cases.items()
    ]
    if "faithful" in modes:
        tables.append(_exponents({c: r for c, r in cases.items() if c[0] == "he"}))
    if "corrected" in modes:
        tables.append(_odds({c: r for c, r in cases.items() if c[0] == "lyapunov"}))
    shown = [c for c in cases if c[1:3] == _SHOWN and c[3] == "gaussian"]
    pictures += [_growth(cases, shown), _spread(cases, shown), _normal(cases[shown[0]], shown[0])]
    pictures += [_transition()]
    worst = max((abs(v) for v in off if math.isfinite(v)), default=math.nan)
    return Findings(
        f"{len(off)} exponents by Monte Carlo lie within {worst:.1f} standard errors of their "
        "closed form",
        _sentences(len(off)),
        tuple(tables),
        tuple(pictures),
    )


def _sentences(count: int) -> tuple[str, ...]:
    expected = float(ndtri(1.0 - 0.5 / (2.0 * count)))
    return (
        "The exponent lambda is the mean of log(|x'| / |x|) in nats per layer, gamma^2 its "
        "variance; closed forms are exact at every width (equipoise.theory.log_gain).",
        f"The largest of {count} deviations is expected at about {expected:.1f} standard errors "
        "where all is right (errors are themselves estimates, which makes it a little larger).",
        "At the critical scale the typical draw keeps its norm, but the log norm still strays by "
        "gamma sqrt(L): in narrow networks few draws stay within a factor of 10.",
    )


def _exponents(cases: Mapping[tuple[str, int, float, WeightLaw], Sequence[Any]]) -> ResultTable:
    rows = []
    for case, results in cases.items():
        _, width, slope, law = case
        told = exact(*case)
        values = (
            Estimate.of([r["mean"] for r in results], told.mean),
            Estimate.of([r["variance"] for r in results], told.variance),
        )
        rows.append(Row((str(width), f"{slope:g}", law), values))
    return ResultTable(
        "Exponent of He-scaled weights by width, slope and law", "faithful",
        ("width", "slope", "weights"), ("lambda, nats per layer", "gamma^2"), "closed form",
        tuple(rows),
    )  # fmt: skip


def _odds(cases: Mapping[tuple[str, int, float, WeightLaw], Sequence[Any]]) -> ResultTable:
    rows = []
    limit = _DECADES * math.log(10.0)
    for case, results in cases.items():
        _, width, slope, _ = case
        f = activations.leaky_relu(slope)
        told = usable_odds(f, width, _DEPTH, scale_of(*case), decades=_DECADES)
        shares = [float((np.abs(np.array(r["log_norm"])[:, -1]) <= limit).mean()) for r in results]
        he = usable_odds(
            f, width, _DEPTH, scale_of("he", width, slope, "gaussian"), decades=_DECADES
        )
        sigma = scale_of(*case) / scale_of("he", width, slope, "gaussian")
        rows.append(
            Row(
                (str(width), f"{slope:g}"),
                (
                    Estimate(sigma, 0.0, 1),
                    Estimate.of([r["mean"] for r in results], 0.0),
                    Estimate.of(shares, told),
                    # The inversion behind it is good to some 1e-13.
                    Estimate(round(he, 12), 0.0, 1),
                ),
            )
        )
    quantities = (
        "sigma / He's", "lambda, nats per layer", f"share within a factor 10 at layer {_DEPTH}",
        "that share at He's scale, exact",
    )  # fmt: skip
    return ResultTable(
        "The critical scale: what it mends and what it cannot", "corrected", ("width", "slope"),
        quantities, "closed form", tuple(rows),
    )  # fmt: skip


def _log_norms(results: Sequence[Any]) -> Array:
    """Log norms of all networks, shape (networks, layers shown)."""
    return np.concatenate([np.array(r["log_norm"]) for r in results])


def _growth(cases: Mapping[Any, Sequence[Any]], shown: Sequence[Any]) -> Picture:
    """The law of large numbers: the mean log norm grows by lambda in each layer."""
    curves = []
    for case in shown:
        values, layers = _log_norms(cases[case]), cases[case][0]["layer"]
        mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values))
        name = "He's scale" if case[0] == "he" else "critical scale"
        told = exact(*case).mean
        curves.append(Curve(name, tuple(layers), tuple(mean.tolist()), tuple(error.tolist())))
        curves.append(
            Curve(f"lambda L, {name}", tuple(layers), tuple(told * i for i in layers), (), "dashed")
        )
    return Picture(
        f"Law of large numbers: mean log norm at width {_SHOWN[0]}, slope {_SHOWN[1]:g}",
        "The mean over networks follows lambda L.",
        "layer", "mean of log(|x_L| / |x_0|)", tuple(curves),
    )  # fmt: skip


def _spread(cases: Mapping[Any, Sequence[Any]], shown: Sequence[Any]) -> Picture:
    """The variance of the log norm grows by gamma^2 in each layer, at any scale."""
    case = shown[0]
    values, layers = _log_norms(cases[case]), cases[case][0]["layer"]
    variance = values.var(axis=0, ddof=1)
    # Of a normal variable the variance of n draws strays by sqrt(2 / (n - 1)) of itself.
    error = variance * math.sqrt(2.0 / (len(values) - 1))
    told = exact(*case).variance
    return Picture(
        f"Variance of the log norm over networks at width {_SHOWN[0]}, slope {_SHOWN[1]:g}",
        "It follows gamma^2 L.",
        "layer", "variance of log(|x_L| / |x_0|)",
        (
            Curve("measured", tuple(layers), tuple(variance.tolist()), tuple(error.tolist())),
            Curve("gamma^2 L", tuple(layers), tuple(told * i for i in layers), (), "dashed"),
        ),
    )  # fmt: skip


def _normal(results: Sequence[Any], case: Any) -> Picture:
    """The central limit: ordered standardised log norms against those of a normal variable."""
    told = exact(*case)
    values = np.sort(_log_norms(results)[:, -1])
    standard = (values - told.mean * _DEPTH) / math.sqrt(told.variance * _DEPTH)
    normal = ndtri((np.arange(len(values)) + 0.5) / len(values))
    ends = (float(normal[0]), float(normal[-1]))
    return Picture(
        f"Central limit: log norms of {len(values)} networks at layer {_DEPTH} against normal ones",
        "The points lie on the diagonal.",
        "normal quantile", "(log norm - lambda L) / (gamma sqrt L)",
        (
            Curve("networks", tuple(normal.tolist()), tuple(standard.tolist()), (), "points"),
            Curve("normal", ends, ends, (), "dashed"),
        ),
    )  # fmt: skip


def _transition() -> Picture:
    """The sharp transition: median log norm at three depths over the scale, in closed form."""
    width, slope = _SHOWN
    critical = scale_of("lyapunov", width, slope, "gaussian")
    factors = np.linspace(*_FACTORS, 46)
    curves = [
        Curve(
            f"{depth:,} layers", tuple((factors * critical).tolist()),
            tuple((depth * np.log(factors) / math.log(10.0)).tolist()),
        )
        for depth in (10, 100, 1000)
    ]  # fmt: skip
    he = scale_of("he", width, slope, "gaussian")
    told = exact("he", width, slope, "gaussian").mean / math.log(10.0)
    curves.append(
        Curve("He's scale", (he,) * 3, tuple(told * d for d in (10, 100, 1000)), (), "points")
    )
    return Picture(
        f"Transition: typical decades of growth over sigma at width {width}, slope {slope:g}",
        "All depths cross 0 at the critical scale, the deeper the steeper.",
        "sigma", "decades", tuple(curves),
    )  # fmt: skip


REPLAY = Replay(
    name="lyapunov",
    source="Kogler, Schwarz and Kittle 2026, arXiv 2602.10949",
    title="exponents of leaky ReLU networks, their limit theorems, the transition in sigma",
    setting="Leaky ReLU networks of one width without biases, Gaussian or orthogonal weights.",
    faithful=f"He-scaled weights at widths 2 to 64 and slopes .01 to .5; one input through "
    f"{_DEPTH} layers of drawn networks gives the exponent by Monte Carlo. The source states the "
    "exponents; the sum that gives them and the variance to the last digits is this library's.",
    corrected="a critical scale keeps the typical draw only, so the share of draws whose norm "
    "changes by less than a factor of 10 stands beside the exponent, measured and exact. The "
    "published central limit theorem has a variance above 0 throughout; for orthogonal weights and "
    "slopes of equal size it is 0.",
    draws={"quick": 10, "paper": 10},
    units=units,
    work=walk,
    findings=findings,
)
