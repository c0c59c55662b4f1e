"""Replay: the width that deep linear networks need, Gaussian and orthogonal, and balancedness."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import polygamma, psi

from equipoise.lab.deep_stack import DeepStack, deep_stack
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

_WIDTHS, _DEPTHS = (4, 16, 64), (10, 50, 200)
# Schemes by the name in tables.
METHODS: Mapping[str, str] = {"Gaussian": "lecun", "orthogonal": "orthogonal", "auto": "auto"}
_PUBLISHED = ("Gaussian", "orthogonal")
_NETWORKS: Mapping[Budget, int] = {"quick": 20, "paper": 100}
# Layers of widths that change, in turn.
CHANGING, _CHANGES = (16, 4), 100
# A width is enough where the log norm strays by this many nats.
_MOST_NATS = 1.0


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """Networks of each width and depth; of widths that change in the corrected mode."""
    found: dict[str, Arguments] = {}
    cases: list[tuple[str, tuple[int, ...], str]] = []
    if "faithful" in modes:
        cases += [
            (f"width {n}, depth {depth}", (n,) * (depth + 1), method)
            for n in _WIDTHS
            for depth in _DEPTHS
            for method in _PUBLISHED
        ]
    if "corrected" in modes:
        widths = CHANGING * (_CHANGES // 2) + CHANGING[:1]
        cases += [("changing widths", widths, method) for method in METHODS]
    for name, widths, method in cases:
        for seed in seeds:
            found[f"{name}, {method}, draw {seed}"] = {
                "widths": list(widths), "method": method, "seed": seed,
                "networks": _NETWORKS[budget],
            }  # fmt: skip
    return found


def products(arguments: Arguments) -> dict[str, list[float]]:
    """Products of drawn weights.

    Args:
        arguments: ``widths``, ``method``, ``networks`` and ``seed``.

    Returns:
        One number for each network: ``log_norm``: log|P x| for a unit vector x; ``condition``:
        log10 of the largest over the smallest diagonal entry of the triangular factor of P, which
        its condition number is at least (nan where widths change); ``largest``: log10 of the
        largest singular value; ``alive``: singular values within a factor 10 of it; ``balance``:
        root mean square over layers of |W_(l+1)^T W_(l+1) - W_l W_l^T| relative to |W_l W_l^T|.
    """
    stack = deep_stack(
        activations.identity(), tuple(arguments["widths"]), METHODS[arguments["method"]]
    )
    kinds = ("log_norm", "condition", "largest", "alive", "balance")
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for i in range(arguments["networks"]):
        measured = _product(stack, arguments["networks"] * arguments["seed"] + i)
        for kind, value in zip(kinds, measured, strict=True):
            found[kind].append(value)
    return found


def _product(stack: DeepStack, seed: int) -> tuple[float, float, float, float, float]:
    widths = stack.widths
    is_square = len(set(widths)) == 1
    basis, diagonal = np.eye(widths[0]), np.zeros(widths[0])
    product, log_scale = np.eye(widths[0]), 0.0
    uneven, energy = 0.0, 0.0
    before = None
    for weight, _ in stack.layers(seed):
        if is_square:
            basis, triangle = np.linalg.qr(weight @ basis)
            diagonal += np.log(np.abs(np.diag(triangle)))
        product = weight @ product
        size = float(np.linalg.norm(product))
        product, log_scale = product / size, log_scale + math.log(size)
        if before is not None:
            uneven += float(np.square(weight.T @ weight - before).sum())
            energy += float(np.square(before).sum())
        before = weight @ weight.T
    singular = np.linalg.svd(product, compute_uv=False)
    condition = float(diagonal.max() - diagonal.min()) / math.log(10.0) if is_square else math.nan
    return (
        log_scale + math.log(float(np.linalg.norm(product[:, 0]))),
        condition,
        (log_scale + math.log(float(singular[0]))) / math.log(10.0),
        float((singular > 0.1 * singular[0]).sum()),
        math.sqrt(uneven / energy),
    )


def exact_std(method: str, width: float, depth: int) -> float:
    """Standard deviation of log|P x| over draws: sqrt(L psi'(n / 2)) / 2 of Gaussian weights.

    >>> round(exact_std("Gaussian", 16, 50), 4)
    1.29
    """
    if method != "Gaussian":
        return 0.0
    return math.sqrt(depth * float(polygamma(1, width / 2))) / 2.0


def exact_condition(method: str, width: int, depth: int) -> float:
    """Mean of log10 (r_1 / r_n), diagonal entries of the triangular factor of the product.

    Those of one Gaussian layer are chi_n, ..., chi_1 (Bartlett), and the next layer meets an
    orthonormal basis again: L (psi(n / 2) - psi(1 / 2)) / (2 log 10), exactly.

    >>> round(exact_condition("Gaussian", 4, 10), 2)
    5.18
    """
    if method != "Gaussian":
        return 0.0
    return depth * float(psi(width / 2) - psi(0.5)) / (2.0 * math.log(10.0))


def exact_balance(method: str, width: int) -> float:
    """Root of E|A - B|^2 over E|A|^2 for A = W W^T and an independent B = V^T V: 0 if orthogonal.

    For Gaussian entries of variance 1 / n: E|A|^2 = 2 n + 1, E A = 1, so 2 (n + 1) / (2 n + 1).

    >>> exact_balance("orthogonal", 8)
    0.0
    """
    return math.sqrt(2.0 * (width + 1) / (2 * width + 1)) if method == "Gaussian" else 0.0


@lru_cache(maxsize=64)
def width_needed(depth: int, nats: float = _MOST_NATS) -> float:
    """The real width at which the log norm of Gaussian networks strays by so many nats.

    >>> round(width_needed(1000) / 1000, 3)
    0.501
    """

    def excess(log_width: float) -> float:
        return math.log(exact_std("Gaussian", math.exp(log_width), depth) / nats)

    return math.exp(optimize.brentq(excess, -2.0, math.log(depth / nats**2) + 5.0, xtol=1e-10))


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Spread, condition and balancedness; what widths that change leave of the singular values."""
    cases: dict[tuple[int, int, str], list[Any]] = {}
    changing: dict[str, list[Any]] = {}
    for a, result in done:
        widths, method = a["widths"], a["method"]
        if len(set(widths)) > 1:
            changing.setdefault(method, []).append(result)
        else:
            cases.setdefault((widths[0], len(widths) - 1, method), []).append(result)
    tables, pictures, said = [], [], []
    if "faithful" in modes:
        tables += [_constant(cases), _needed()]
        pictures += [_spread_picture(cases), _condition_picture(cases)]
        said.append(
            f"Gaussian networks need a width of {width_needed(200) / 200:.2f} times the depth for "
            "a log norm that strays by one nat, orthogonal ones any"
        )
    if "corrected" in modes:
        tables.append(_changing(changing))
        alive = [f"{_mean(changing[m], 'alive').mean:.1f} by {m}" for m in changing]
        said.append(
            f"of the 4 singular values that {_CHANGES} layers of 16 and 4 units can keep within a "
            f"factor of 10 there are {', '.join(alive)}"
        )
    return Findings("; ".join(said), _sentences(modes), tuple(tables), tuple(pictures))


def _sentences(modes: Sequence[Mode]) -> tuple[str, ...]:
    said = []
    if "faithful" in modes:
        said += [
            "The source proves that the width needed to train grows linearly in depth for "
            "Gaussian weights and not at all for orthogonal ones. At birth the reason is in closed "
            "form: log|P x| has the variance L psi'(n / 2) / 4, close to L / (2 n).",
            "Balancedness W_(l+1)^T W_(l+1) = W_l W_l^T is kept by gradient flow (arXiv "
            "1806.00900): orthogonal weights have it, Gaussian ones differ by as much as they are.",
        ]
    if "corrected" in modes:
        said.append(
            "Where widths change, independent orthogonal weights lose energy at every contraction; "
            "frames that telescope (auto) pass the same directions on, through any widths."
        )
    return tuple(said)


def _mean(results: Sequence[Any], kind: str, reference: float = math.nan) -> Estimate:
    """Over draws, each the mean over its networks."""
    return Estimate.of([float(np.mean(r[kind])) for r in results], reference)


def _std(results: Sequence[Any], reference: float) -> Estimate:
    """Root of the mean over draws of the variance over a draw's networks, and its error."""
    variance = Estimate.of([float(np.var(r["log_norm"], ddof=1)) for r in results])
    root = math.sqrt(variance.mean)
    error = variance.standard_error / (2.0 * root) if root > 1e-9 else 0.0
    return Estimate(root if root > 1e-9 else 0.0, error, variance.draws, reference)


def _constant(cases: Mapping[tuple[int, int, str], Sequence[Any]]) -> ResultTable:
    rows = [
        Row(
            (str(width), str(depth), method),
            (
                _std(results, exact_std(method, width, depth)),
                _rounded(_mean(results, "condition", exact_condition(method, width, depth))),
                _rounded(_mean(results, "balance", exact_balance(method, width))),
            ),
        )
        for (width, depth, method), results in cases.items()
    ]
    return ResultTable(
        "Products of square weights", "faithful", ("width", "depth", "weights"),
        ("std of log|P x|, nats", "log10 (r_1 / r_n)", "unbalancedness"), "closed form",
        tuple(rows),
    )  # fmt: skip


def _rounded(value: Estimate) -> Estimate:
    """0 where a number is rounding alone."""
    if abs(value.mean) > 1e-9:
        return value
    return Estimate(0.0, 0.0, value.draws, value.reference)


def _needed() -> ResultTable:
    rows = [
        Row((str(depth),), (Estimate(width_needed(depth), 0.0, 1), Estimate(1.0, 0.0, 1)))
        for depth in (10, 50, 200, 1000)
    ]
    return ResultTable(
        f"Width at which log|P x| strays by {_MOST_NATS:g} nat, in closed form", "faithful",
        ("depth",), ("Gaussian", "orthogonal"), "published", tuple(rows),
    )  # fmt: skip


def _changing(changing: Mapping[str, Sequence[Any]]) -> ResultTable:
    rows = [
        Row((method,), (_rounded(_mean(results, "largest")), _mean(results, "alive")))
        for method, results in changing.items()
    ]
    return ResultTable(
        f"{_CHANGES} layers of {CHANGING[0]} and {CHANGING[1]} units in turn", "corrected",
        ("weights",),
        ("log10 of the largest singular value", "singular values within a factor 10 of it, of 4"),
        "published", tuple(rows),
    )  # fmt: skip


def _spread_picture(cases: Mapping[tuple[int, int, str], Sequence[Any]]) -> Picture:
    widths = tuple(float(n) for n in np.logspace(math.log10(2), math.log10(1000), 40))
    curves = []
    for depth in dict.fromkeys(depth for _, depth, _ in cases):
        seen = [(n, r) for (n, d, m), r in cases.items() if d == depth and m == "Gaussian"]
        values = [_std(results, math.nan) for _, results in seen]
        name = f"{depth} layers"
        told = tuple(exact_std("Gaussian", n, depth) for n in widths)
        curves += [
            Curve(
                name, tuple(float(n) for n, _ in seen), tuple(v.mean for v in values),
                tuple(v.standard_error for v in values), "points",
            ),
            Curve(name, widths, told, (), "dashed"),
        ]  # fmt: skip
    curves.append(Curve("one nat", (widths[0], widths[-1]), (_MOST_NATS, _MOST_NATS)))
    return Picture(
        "Spread of log|P x| over Gaussian draws by width",
        "It falls as sqrt(L / (2 n)): twice the depth asks for twice the width.",
        "width", "standard deviation, nats", tuple(curves), log_x=True, log_y=True,
    )  # fmt: skip


def _condition_picture(cases: Mapping[tuple[int, int, str], Sequence[Any]]) -> Picture:
    curves = []
    for width in dict.fromkeys(n for n, _, _ in cases):
        seen = [(d, r) for (n, d, m), r in cases.items() if n == width and m == "Gaussian"]
        values = [_mean(results, "condition") for _, results in seen]
        depths = tuple(float(d) for d, _ in seen)
        name = f"width {width}"
        told = tuple(exact_condition("Gaussian", width, round(d)) for d in depths)
        curves += [
            Curve(name, depths, tuple(v.mean for v in values), (), "points"),
            Curve(name, depths, told, (), "dashed"),
        ]
    return Picture(
        "Condition of Gaussian products: log10 (r_1 / r_n) over depth",
        "It grows in proportion to depth, faster in wide layers; orthogonal products have 0.",
        "layer", "decades", tuple(curves),
    )  # fmt: skip


REPLAY = Replay(
    name="deep-linear",
    source="Hu, Xiao and Pennington 2020, arXiv 2001.05992; Du, Hu and Lee 2018, arXiv 1806.00900",
    title="the width that deep linear networks need, and how balanced they start",
    setting="Deep linear networks of one width, Gaussian entries of variance 1 / n or orthogonal "
    "weights.",
    faithful="what decides it at birth, for the two kinds of weights: spread of log norms, "
    "condition of the product, balancedness. The source trains; this replay does not.",
    corrected="one width is the easy case: with widths of 16 and 4 in turn independent orthogonal "
    "weights stand beside frames that telescope.",
    draws={"quick": 10, "paper": 10},
    units=units,
    work=products,
    findings=findings,
)
