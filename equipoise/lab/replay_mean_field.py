"""Replay: depth scales of wide tanh networks, order and chaos, and what width takes away."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.lab.phase_map import Place, diagrams
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
from equipoise.theory.critical import critical_weight_var
from equipoise.theory.fluctuation import gradient_fluctuation
from equipoise.theory.hermite import statistics
from equipoise.theory.layermaps import correlation_map
from equipoise.theory.meanfield import MeanField, mean_field

Array = NDArray[np.float64]

BIAS_VAR = 0.05
_TANH = activations.tanh()
_WIDTH: Mapping[Budget, int] = {"quick": 300, "paper": 1000}
# Pairs of inputs, correlations that they start with, layers that are always passed.
_PAIRS, _STARTS, _LEAST_DEPTH = 48, (0.0, 0.9), 40
# Between these multiples of xi_c the decay is measured.
_FROM, _TO = 0.5, 2.0
# Networks without biases of real width: level, depth, and networks of a unit.
_LEVEL, _DEEP, _NETWORKS = 0.2, 50, 20
_NARROW = (16, 64, 256)


@lru_cache(maxsize=1)
def weight_vars() -> tuple[float, ...]:
    """Two in the ordered phase, the critical one, two in the chaotic phase.

    >>> weight_vars()[2]
    1.760955
    """
    return (1.0, 1.4, round(critical_weight_var(_TANH, BIAS_VAR)[0], 6), 2.5, 4.0)


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """A wide network for each point of the plane; some of real width in the corrected mode."""
    found: dict[str, Arguments] = {}
    if "faithful" in modes:
        for weight_var in weight_vars():
            for seed in seeds:
                found[f"weight_var {weight_var:g}, draw {seed}"] = {
                    "kind": "wide", "weight_var": weight_var, "width": _WIDTH[budget],
                    "seed": seed, "depth": _depth(weight_var),
                }  # fmt: skip
    if "corrected" in modes:
        for width in _NARROW:
            for seed in seeds:
                found[f"width {width}, draw {seed}"] = {
                    "kind": "narrow", "width": width, "seed": seed, "depth": _DEEP,
                    "networks": _NETWORKS,
                }  # fmt: skip
    return found


def passes(arguments: Arguments) -> dict[str, Any]:
    """Forward and backward passes through drawn tanh networks.

    Args:
        arguments: ``kind``, ``width``, ``depth`` and ``seed``; ``weight_var`` of a ``wide``
            network; ``networks`` of ``narrow`` ones.

    Returns:
        Of a wide network ``correlation`` of preactivations by start and layer, ``q`` by layer and
        ``growth``: log of the mean-square gradient's growth in each layer. Of narrow ones
        ``log_norm``: log|J v| of each, v uniform.
    """
    return _wide(arguments) if arguments["kind"] == "wide" else _narrow(arguments)


def _wide(arguments: Arguments) -> dict[str, Any]:
    width, depth, weight_var = (arguments[k] for k in ("width", "depth", "weight_var"))
    rng = np.random.default_rng([arguments["seed"], width, round(1e6 * weight_var)])
    size = math.sqrt((_theory(weight_var).q_star - BIAS_VAR) / weight_var)
    first = rng.standard_normal((_PAIRS, width))
    x = [first]
    for c in _STARTS:
        other = rng.standard_normal((_PAIRS, width))
        x.append(c * first + math.sqrt(1.0 - c * c) * other)
    # All at the fixed point from the first layer on.
    h = np.concatenate([size * v / np.sqrt(np.square(v).mean(axis=1))[:, None] for v in x])
    correlation: list[list[float]] = [[] for _ in _STARTS]
    q, weights, slopes = [], [], []
    for _ in range(depth):
        weight = math.sqrt(weight_var / width) * rng.standard_normal((width, width))
        z = h @ weight.T + math.sqrt(BIAS_VAR) * rng.standard_normal(width)
        square = np.square(z).mean(axis=1)
        q.append(float(square.mean()))
        for i in range(len(_STARTS)):
            pair = slice((i + 1) * _PAIRS, (i + 2) * _PAIRS)
            product = (z[:_PAIRS] * z[pair]).mean(axis=1)
            correlation[i].append(float((product / np.sqrt(square[:_PAIRS] * square[pair])).mean()))
        h = np.tanh(z)
        weights.append(weight)
        slopes.append(1.0 - np.square(h[:_PAIRS]))
    cotangent = rng.standard_normal((_PAIRS, width))
    growth = []
    for weight, slope in zip(weights[:0:-1], slopes[-2::-1], strict=True):
        before = float(np.square(cotangent).mean())
        cotangent = (cotangent @ weight) * slope
        after = float(np.square(cotangent).mean())
        growth.append(math.log(after / before))
        cotangent /= math.sqrt(after)
    return {"correlation": correlation, "q": q, "growth": growth}


def _narrow(arguments: Arguments) -> dict[str, Any]:
    width, depth, count = (arguments[k] for k in ("width", "depth", "networks"))
    rng = np.random.default_rng([arguments["seed"], width])
    energy = statistics(_TANH, _LEVEL).second_moment
    weight_var = _LEVEL / energy
    norms = []
    for _ in range(count):
        x = rng.standard_normal(width)
        x *= math.sqrt(width * energy) / np.linalg.norm(x)
        tangent = rng.standard_normal(width)
        tangent /= np.linalg.norm(tangent)
        total = 0.0
        # Forward along a tangent, without a store of layers: log|J^T u| has the same law.
        for _ in range(depth):
            weight = math.sqrt(weight_var / width) * rng.standard_normal((width, width))
            x = np.tanh(weight @ x)
            tangent = (1.0 - np.square(x)) * (weight @ tangent)
            norm = float(np.linalg.norm(tangent))
            total += math.log(norm)
            tangent /= norm
        norms.append(total)
    return {"log_norm": norms}


@lru_cache(maxsize=64)
def _theory(weight_var: float) -> MeanField:
    return mean_field(_TANH, weight_var, BIAS_VAR)


def _is_critical(weight_var: float) -> bool:
    return _theory(weight_var).xi_c > 1e3


def _ends(weight_var: float) -> tuple[int, int]:
    """Layers between which the decay of correlations is measured, counted from 0."""
    xi = _theory(weight_var).xi_c
    return round(_FROM * xi), round(_TO * xi)


def _depth(weight_var: float) -> int:
    return _LEAST_DEPTH if _is_critical(weight_var) else max(_LEAST_DEPTH, _ends(weight_var)[1] + 1)


@lru_cache(maxsize=64)
def expected_correlation(weight_var: float, start: float, depth: int) -> tuple[float, ...]:
    """Correlation of preactivations by layer for inputs of correlation ``start``, infinite width.

    >>> expected_correlation(1.4, 1.0, 2)
    (1.0, 1.0)
    """
    q = _theory(weight_var).q_star
    c = ((q - BIAS_VAR) * start + BIAS_VAR) / q
    found = []
    for _ in range(depth):
        found.append(min(c, 1.0))
        c = correlation_map(_TANH, found[-1], q, weight_var, BIAS_VAR)
    return tuple(found)


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Depth scales, correlations over depth, the phase diagram, and gradients at real width."""
    wide: dict[float, list[tuple[Arguments, Any]]] = {}
    narrow: dict[int, list[Any]] = {}
    for a, result in done:
        if a["kind"] == "wide":
            wide.setdefault(a["weight_var"], []).append((a, result))
        else:
            narrow.setdefault(a["width"], []).append(result)
    tables, pictures = [], []
    said = []
    if "faithful" in modes:
        tables.append(_scales(wide))
        pictures += [*_courses(wide), *_diagram()]
        gaps = [row.values[0] for row in tables[0].rows if not math.isnan(row.values[0].reference)]
        worst = max(abs(v.mean / v.reference - 1.0) for v in gaps)
        said.append(f"depth scales of correlations are as predicted within {worst:.0%}")
    if "corrected" in modes:
        tables.append(_gradients(narrow))
        narrowest = min(narrow)
        spread = next(r for r in tables[-1].rows if r.names[0] == str(narrowest)).values[1]
        said.append(
            f"at width {narrowest} the gradient's log norm strays by {spread.mean:.2g} nats over "
            f"{_DEEP} layers, of which the wide limit knows nothing"
        )
    return Findings("; ".join(said), _sentences(modes), tuple(tables), tuple(pictures))


def _sentences(modes: Sequence[Mode]) -> tuple[str, ...]:
    said = []
    if "faithful" in modes:
        said += [
            "xi_c is measured as the decay of the difference between correlations that start "
            f"apart, from {_FROM:g} to {_TO:g} xi_c; in brackets what the correlation map gives "
            "for the same layers, beside it its limit.",
            "The source finds that networks train to about 6 xi_c. Whether they do is a matter of "
            "training; this replay is of the forward and backward pass at birth.",
        ]
    if "corrected" in modes:
        said.append(
            "At real width the closed form is of first order in 1 / width (measured for "
            "independent entries: up to 11 % too small at width 16): deviations at width 16 beyond "
            "the standard error are its own."
        )
    return tuple(said)


def _scales(wide: Mapping[float, Sequence[tuple[Arguments, Any]]]) -> ResultTable:
    rows = []
    for weight_var, pairs in wide.items():
        told = _theory(weight_var)
        depth = pairs[0][0]["depth"]
        results = [result for _, result in pairs]
        xi, limit = Estimate(math.nan, math.nan, len(pairs)), told.trainable_depth
        if not _is_critical(weight_var):
            low, high = (
                expected_correlation(weight_var, _STARTS[0], depth),
                expected_correlation(weight_var, _STARTS[1], depth),
            )
            reference = _scale(low, high, weight_var)
            xi = Estimate.of(
                [_scale(r["correlation"][0], r["correlation"][1], weight_var) for r in results],
                reference,
            )
        else:
            limit = math.inf
        chi = Estimate.of([math.exp(float(np.mean(r["growth"]))) for r in results], told.chi_1)
        q = Estimate.of([r["q"][-1] for r in results], told.q_star)
        ends = [expected_correlation(weight_var, c, depth)[-1] for c in _STARTS]
        last = Estimate.of([r["correlation"][0][-1] for r in results], ends[0])
        rows.append(
            Row(
                (f"{weight_var:.4g}", "critical" if _is_critical(weight_var) else told.phase),
                (xi, Estimate(limit, 0.0, 1), chi, q, last),
            )
        )
    return ResultTable(
        f"Depth scales of tanh networks, bias_var {BIAS_VAR:g}", "faithful",
        ("weight_var", "phase"),
        ("xi_c, layers", "6 xi_c, limit", "chi_1", "q at the last layer", "c there, from 0"),
        "infinite width", tuple(rows),
    )  # fmt: skip


def _scale(low: Sequence[float], high: Sequence[float], weight_var: float) -> float:
    """Layers over which two correlations approach each other by a factor e."""
    first, last = _ends(weight_var)
    return (last - first) / math.log((high[first] - low[first]) / (high[last] - low[last]))


def _gradients(narrow: Mapping[int, Sequence[Any]]) -> ResultTable:
    rows = []
    for width, results in narrow.items():
        told = gradient_fluctuation(_TANH, _LEVEL, width, _DEEP, "gaussian")
        means = [float(np.mean(r["log_norm"])) for r in results]
        spreads = [float(np.std(r["log_norm"], ddof=1)) for r in results]
        rows.append(
            Row(
                (str(width),),
                (
                    Estimate.of(means, told.mean), Estimate.of(spreads, told.std),
                    Estimate(told.wide, 0.0, 1),
                ),
            )
        )  # fmt: skip
    return ResultTable(
        f"Gradients: log|J v| over {_DEEP} tanh layers at q = {_LEVEL:g}, in nats", "corrected",
        ("width",), ("mean", "standard deviation over draws", "wide limit"),
        "closed form, first order in 1 / width", tuple(rows),
    )  # fmt: skip


def _courses(wide: Mapping[float, Sequence[tuple[Arguments, Any]]]) -> tuple[Picture, ...]:
    curves = []
    for weight_var, pairs in wide.items():
        depth = pairs[0][0]["depth"]
        layers = tuple(range(1, depth + 1))
        for i, start in enumerate(_STARTS):
            values = np.array([result["correlation"][i] for _, result in pairs])
            curves.append(
                Curve(f"weight_var {weight_var:.3g}", layers, tuple(values.mean(axis=0).tolist()))
            )
            told = expected_correlation(weight_var, start, depth)
            curves.append(Curve("infinite width", layers, told, (), "dashed"))
    return (
        Picture(
            "Correlation of two inputs over depth, from two starts",
            "In the ordered phase all pairs go to 1, in the chaotic one to c* below 1.",
            "layer", "correlation", tuple(curves),
        ),
    )  # fmt: skip


def _diagram() -> tuple[Picture, ...]:
    places = [
        Place("replayed", "", w, BIAS_VAR, t.phase, t.chi_1, t.trainable_depth)
        for w in weight_vars()
        for t in (_theory(w),)
    ]
    return diagrams(_TANH, (0.5, 4.5), (0.0, 0.3), places)


REPLAY = Replay(
    name="mean-field",
    source="Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2016, arXiv 1611.01232",
    title="order, chaos and depth scales of wide tanh networks, and what width takes away",
    setting="Wide tanh networks with independent Gaussian weights and biases at points of the "
    "plane of both variances.",
    faithful="correlations of two inputs and gradients over depth at five weight variances, "
    "against the maps of infinite width; width 300, 1,000 with the paper's budget.",
    corrected="the wide limit is a mean over draws: at widths 16 to 256 the log norm of the "
    "gradient is measured draw by draw, and its mean and spread are held against theory of first "
    "order in 1 / width.",
    draws={"quick": 10, "paper": 10},
    units=units,
    work=passes,
    findings=findings,
)
