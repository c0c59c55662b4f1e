"""What plans expect against drawn networks: signal, gradient, angles, and the odds of a draw.

    python benchmarks/predictions.py             a part of the grid, about three minutes
    python benchmarks/predictions.py --full      all of it, for hours; goes on where it was stopped
    python benchmarks/predictions.py --odds      the odds of 20 kinds of networks, 200 draws each

Networks are drawn as a plan is drawn (``schemes.draw``) and run as they stand, with none of the
shortcuts of the prediction. Numbers go to predictions.json beside this file.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from scipy.stats import binom
from sklearn.datasets import load_digits

from equipoise.errors import EquipoiseError
from equipoise.plan.entry import Inputs
from equipoise.plan.levels import Levels
from equipoise.plan.make import make_plan
from equipoise.plan.nodes import Affine, Nonlinearity
from equipoise.plan.plan import Plan
from equipoise.plan.predict import predict
from equipoise.plan.stack_plan import Expected
from equipoise.plan.stacks import Stack, find_stacks
from equipoise.plan.trace import Parameter, Trace
from equipoise.schemes.draw import draw
from equipoise.theory import activations as known
from equipoise.theory.activation import Activation

PLACE = Path(__file__).with_suffix(".json")
ROWS, DRAWS, ODDS_DRAWS = 128, 30, 200
SCHEMES = (
    "he", "xavier", "lecun", "orthogonal", "lyapunov", "fractional_moment", "sampled",
    "diagonal_noise", "auto", "centred", "mirrored",
)  # fmt: skip
ACTIVATIONS = {
    "relu": known.relu(), "leaky .01": known.leaky_relu(0.01), "leaky .2": known.leaky_relu(0.2),
    "gelu": known.gelu(), "silu": known.silu(), "tanh": known.tanh(), "sigmoid": known.sigmoid(),
    "softplus": known.softplus(), "selu": known.selu(), "elu": known.elu(), "mish": known.mish(),
    "sin": known.sin(), "softsign": known.softsign(), "erf": known.erf(),
    "hardtanh": known.hardtanh(),
}  # fmt: skip
WIDTHS = ("16", "32", "64", "32/16", "growing")
DEPTHS = (3, 20, 100)
INPUTS = ("gaussian", "digits")

# scheme, activation, width, depth; both ends of the range of odds and what lies between.
ODDS_CELLS = (
    ("he", "relu", "16", 50), ("he", "relu", "8", 30), ("he", "leaky .01", "32", 100),
    ("he", "gelu", "32", 20), ("he", "tanh", "16", 50), ("xavier", "tanh", "64", 50),
    ("xavier", "tanh", "16", 10), ("xavier", "softsign", "32", 20), ("lyapunov", "relu", "16", 50),
    ("lyapunov", "leaky .01", "16", 100), ("lyapunov", "leaky .2", "64", 200),
    ("lyapunov", "relu", "8", 20), ("orthogonal", "relu", "32", 50),
    ("orthogonal", "tanh", "16", 200), ("orthogonal", "leaky .2", "16", 100),
    ("orthogonal", "leaky .2", "32/16", 20), ("lyapunov", "leaky .2", "32/16", 50),
    ("auto", "tanh", "16", 100), ("auto", "elu", "8", 200), ("diagonal_noise", "tanh", "16", 100),
)  # fmt: skip


def hidden_widths(name: str, depth: int) -> list[int]:
    """Widths of the hidden layers."""
    match name:
        case "growing":
            return [round(16 * 4 ** (i / max(depth - 1, 1))) for i in range(depth)]
        case "32/16":
            return [(32, 16)[i % 2] for i in range(depth)]
        case _:
            return [int(name)] * depth


def network(widths: list[int], activation: Activation) -> Trace:
    """A chain of linear layers with one activation, as a trace."""
    nodes: list[Affine | Nonlinearity] = []
    parameters = []
    for i, (a, b) in enumerate(pairwise(widths)):
        weight, bias = f"{i}.weight", f"{i}.bias"
        nodes.append(Affine(str(i), weight, bias, 2 * i, 2 * i + 1, i, i + 1, a, b))
        if i < len(widths) - 2:
            nodes.append(Nonlinearity("", activation, 2 * i + 1, 2 * i + 2, i + 1))
        parameters += [Parameter(weight, (b, a), "float32"), Parameter(bias, (b,), "float32")]
    return Trace(tuple(nodes), (0,), (2 * len(widths) - 3,), tuple(widths), tuple(parameters))


def rows_of(name: str) -> np.ndarray:
    """Inputs, shape (rows, features)."""
    if name == "digits":
        return np.asarray(load_digits().data[:1024] / 16.0)
    return np.random.default_rng(1).standard_normal((1024, 20))


def planned(
    scheme: str, activation: str, widths: str, depth: int, rows: np.ndarray
) -> tuple[Plan, Stack, Expected]:
    """A plan of one network, and what is expected of it."""
    trace = network([rows.shape[1], *hidden_widths(widths, depth), 10], ACTIVATIONS[activation])
    plan = make_plan(trace, scheme, {0: rows})
    stack = find_stacks(trace)[0]
    inputs: Inputs = Levels(trace, {0: rows}).at(stack)
    law = {a.parameter: a.law for a in plan.assignments}
    expected = predict(
        stack,
        [law[a.weight] for a in stack.affines],
        inputs,
        [law[a.bias] for a in stack.affines],
        plan.frames,
        plan.arrays,
    )
    return plan, stack, expected


def run(
    plan: Plan, stack: Stack, x: np.ndarray, seed: int
) -> tuple[list[float], list[float], float]:
    """Log RMS of signal and of gradient at each layer of one draw, and the last mean cosine."""
    law, streams = {a.parameter: a.law for a in plan.assignments}, plan.streams(seed)
    weights, slopes, signal = [], [], []
    for affine, hidden in zip(stack.affines, [*stack.hidden, None], strict=True):
        shape = (affine.out_size, affine.in_size)
        weight = draw(law[affine.weight], affine.weight, shape, streams)
        bias = draw(law[affine.bias], affine.bias, shape[:1], streams)
        z = x @ weight.T + bias
        weights.append(weight)
        signal.append(log_rms(z))
        if hidden:
            x, slope = hidden.activation.f(z), hidden.activation.df(z)
            slopes.append(slope)
    u = np.random.default_rng((7, seed)).standard_normal(z.shape)
    u, gradient = u / math.exp(log_rms(u)), [0.0]
    for weight, slope in zip(reversed(weights[1:]), reversed(slopes), strict=True):
        u = (u @ weight) * slope
        size = log_rms(u)
        gradient.append(gradient[-1] + size)
        u = u / math.exp(size) if math.isfinite(size) else u
    return signal, gradient[::-1], cosine(z)


def log_rms(z: np.ndarray) -> float:
    """Log of the root mean square, -inf for zeros."""
    largest = float(np.abs(z).max())
    if not largest > 0:
        return -math.inf
    return math.log(largest) + 0.5 * math.log(float(np.mean((z / largest) ** 2)))


def cosine(z: np.ndarray) -> float:
    """Mean cosine of two different rows, nan where one is 0."""
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    if len(z) < 2 or not (norms > 0).all():
        return math.nan
    total = float(np.square((z / norms).sum(axis=0)).sum())
    return (total - len(z)) / (len(z) * (len(z) - 1))


def table_cells(is_full: bool) -> list[tuple[str, str, str, int, str]]:
    """The grid, or a part of it in which each scheme and each activation occurs alike."""
    grid = list(product(SCHEMES, ACTIVATIONS, WIDTHS, DEPTHS, INPUTS))
    if is_full:
        return grid
    rng = np.random.default_rng(0)
    shallow = [cell for cell in grid if cell[3] <= 20]
    return [shallow[i] for i in sorted(rng.permutation(len(shallow))[:110])]


def table_cell(cell: tuple[str, str, str, int, str]) -> dict[str, object]:
    """One cell: the largest misses over layers, as factors, and what chance explains of them."""
    scheme, activation, widths, depth, name = cell
    rows = rows_of(name)
    result: dict[str, object] = {"cell": list(cell)}
    try:
        started = time.perf_counter()
        plan, stack, expected = planned(scheme, activation, widths, depth, rows)
    except EquipoiseError as error:
        return result | {"refused": str(error)}
    result["seconds"] = round(time.perf_counter() - started, 3)
    if not expected.method:
        return result | {"note": expected.note}
    x = rows[np.linspace(0, len(rows) - 1, ROWS).astype(int)]
    x = x * math.sqrt(np.mean(rows**2) / np.mean(x**2))
    drawn = [run(plan, stack, x, seed) for seed in range(DRAWS)]
    for place, wanted, spread in (
        (0, expected.signal, expected.log_std),
        (1, expected.gradient, expected.gradient_log_std),
    ):
        seen = np.array([d[place] for d in drawn])
        middle = np.median(seen, axis=0)
        # Standard error of a median of normal draws, with the spread that was seen.
        finite = np.where(np.isfinite(seen), seen, np.nan)
        std = np.nan_to_num(np.nanstd(finite, axis=0, ddof=1))
        chance = 1.2533 * std / math.sqrt(DRAWS)
        with np.errstate(divide="ignore", invalid="ignore"):
            miss = np.abs(np.log(wanted) - middle)
        told = ~np.isnan(wanted)
        result[f"{('signal', 'gradient')[place]}_told"] = float(told.mean())
        miss = np.where(np.isfinite(miss), miss, np.where(np.isinf(middle), 0.0, np.inf))
        miss = np.where(told, miss, 0.0)
        worst = int(np.argmax(miss))
        kind = ("signal", "gradient")[place]
        result[kind] = float(np.exp(miss[worst]))
        result[f"{kind}_chance"] = float(np.exp(3 * chance[worst]))
        result[f"{kind}_excess"] = float(np.exp(np.max(miss - 3 * chance)))
        result[f"{kind}_std"] = [float(spread[-1 if place == 0 else 0]),
                                 float(std[-1 if place == 0 else 0])]  # fmt: skip
    with np.errstate(invalid="ignore"):
        seen_cosine = np.array([d[2] for d in drawn])
    alive = seen_cosine[np.isfinite(seen_cosine)]
    if len(alive):
        result["cosine"] = [expected.correlation[-1], float(alive.mean())]
    return result


def odds_cell(cell: tuple[str, str, str, int]) -> dict[str, object]:
    """One cell: the share of usable draws and whether the odds that were told explain it."""
    scheme, activation, widths, depth = cell
    rows = rows_of("gaussian")
    plan, stack, expected = planned(scheme, activation, widths, depth, rows)
    usable = 0
    for seed in range(ODDS_DRAWS):
        signal, gradient, _ = run(plan, stack, rows[seed : seed + 1], seed)
        usable += is_usable(signal, gradient, [h.width for h in stack.hidden])
    low, high = binom.interval(0.99, ODDS_DRAWS, min(max(expected.odds, 0.0), 1.0))
    return {
        "cell": list(cell), "expected": expected.odds, "error": expected.odds_error,
        "seen": usable / ODDS_DRAWS, "inside": bool(low <= usable <= high),
        "method": expected.method,
    }  # fmt: skip


def is_usable(signal: list[float], gradient: list[float], widths: list[int]) -> bool:
    """Whether signal and gradient keep to a factor 10 over the hidden layers, in RMS or norm."""
    if not (np.isfinite(signal).all() and np.isfinite(gradient).all()):
        return False
    last, wider = len(widths) - 1, 0.5 * math.log(widths[-1] / widths[0])
    changes = ((signal[last] - signal[0], wider), (gradient[0] - gradient[last], -wider))
    return all(min(c, c + w) <= math.log(10) and max(c, c + w) >= -math.log(10) for c, w in changes)


def summary(results: list[dict[str, object]]) -> Iterator[str]:
    """Lines of a table: each scheme over all of its cells."""
    yield (
        f"{'scheme':18}{'cells':>6}{'nan':>5}{'refused':>8}"
        f"{'signal <10%':>12}{'<10%+3se':>10}{'worst':>7}"
        f"{'grad <1.5':>11}{'<1.5+3se':>10}{'worst':>7}"
    )
    for scheme in (*SCHEMES, "all"):
        mine = [r for r in results if scheme in (r["cell"][0], "all")]  # type: ignore[index]
        told = [r for r in mine if "signal" in r]
        partly = sum(min(r["signal_told"], r["gradient_told"]) < 1 for r in told)  # type: ignore[type-var]
        if not mine:
            continue
        signal, gradient = (np.array([r[k] for r in told]) for k in ("signal", "gradient"))
        beyond_s, beyond_g = (
            np.array([r[f"{k}_excess"] for r in told]) for k in ("signal", "gradient")
        )
        count = max(len(told), 1)
        yield (
            f"{scheme:18}{len(mine):6}{sum('note' in r for r in mine) + partly:5}"
            f"{sum('refused' in r for r in mine):8}"
            f"{(signal < 1.1).sum() / count:12.0%}{(beyond_s < 1.1).sum() / count:10.0%}"
            f"{signal.max(initial=1.0):7.2f}"
            f"{(gradient < 1.5).sum() / count:11.0%}{(beyond_g < 1.5).sum() / count:10.0%}"
            f"{gradient.max(initial=1.0):7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="the whole grid, for hours")
    parser.add_argument("--odds", action="store_true", help="the odds of a draw instead")
    parser.add_argument("--fresh", action="store_true", help="forget earlier numbers")
    parser.add_argument("--json", type=Path, default=PLACE)
    options = parser.parse_args()
    kept = json.loads(options.json.read_text()) if options.json.exists() else {}
    if options.fresh:
        kept.pop("odds" if options.odds else "table", None)
    results: dict[str, dict[str, object]] = kept.setdefault("odds" if options.odds else "table", {})
    cells = ODDS_CELLS if options.odds else table_cells(options.full)
    for cell in cells:
        key = " ".join(map(str, cell))
        if key not in results:
            results[key] = odds_cell(cell) if options.odds else table_cell(cell)
            options.json.write_text(json.dumps(kept, indent=1))
        if options.odds:
            r = results[key]
            print(f"{key:40} expected {r['expected']:.3f} seen {r['seen']:.3f} "
                  f"{'' if r['inside'] else 'OUTSIDE'}", flush=True)  # fmt: skip
    if options.odds:
        inside = sum(bool(r["inside"]) for r in results.values())
        print(f"{inside} of {len(results)} within the binomial 99 % band of {ODDS_DRAWS} draws")
    else:
        print("\n".join(summary(list(results.values()))))


if __name__ == "__main__":
    main()
