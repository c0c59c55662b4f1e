"""Replay: what arrives behind 10,000 tanh layers, and what it still knows of the inputs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.lab.deep_stack import deep_stack
from equipoise.lab.gram import (
    budget_for_gram_correlation,
    gram_correlation,
    norm_factor,
    orthogonal_gram_correlation,
    participation_rank,
)
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
from equipoise.schemes.framed import DEFAULT_BUDGET
from equipoise.theory import activations

DEPTH = 10_000
_WIDTHS: Mapping[Budget, tuple[int, ...]] = {"quick": (16,), "paper": (16, 32, 64, 128)}
_ROWS: Mapping[Budget, int] = {"quick": 1000, "paper": 3000}
# Nats that leave the angles nearly as they are.
SMALL_BUDGET = 0.05
# Schemes by the name in tables.
METHODS: Mapping[str, str] = {
    "Xavier": "xavier(distribution='normal')",
    "diagonal + noise, alpha .085": "diagonal_noise",
    "diagonal + noise, alpha .01": "diagonal_noise(alpha=0.01)",
    "diagonal + noise, alpha .5": "diagonal_noise(alpha=0.5)",
    "He, exact moments": "he",
    "orthogonal": "orthogonal",
    "mirrored": "mirrored",
    "auto": "auto",
    f"centred, budget {SMALL_BUDGET:g}": f"centred(budget={SMALL_BUDGET:g})",
}
_PUBLISHED = ("Xavier", "diagonal + noise, alpha .085")
_BUDGETS = {"auto": DEFAULT_BUDGET, f"centred, budget {SMALL_BUDGET:g}": SMALL_BUDGET}
_WANTED = 0.9


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """One forward pass for each width, method and draw."""
    methods = METHODS if "corrected" in modes else _PUBLISHED
    return {
        f"width {width}, {method}, draw {seed}": {
            "width": width, "depth": DEPTH, "rows": _ROWS[budget], "method": method, "seed": seed,
        }
        for width in _WIDTHS[budget]
        for method in methods
        for seed in seeds
    }  # fmt: skip


def forward(arguments: Arguments) -> dict[str, list[float]]:
    """Normal inputs through one drawn network.

    Args:
        arguments: ``width``, ``depth``, ``rows``, ``method`` and ``seed``.

    Returns:
        ``layer`` and, there, ``spread``: largest less smallest activation; ``rms``; ``gram``:
        correlation of inner products with those of the inputs; ``rank``: participation of the
        second moments.
    """
    width, depth = arguments["width"], arguments["depth"]
    stack = deep_stack(activations.tanh(), (width,) * (depth + 1), METHODS[arguments["method"]])
    # The same inputs for every method.
    rng = np.random.default_rng([arguments["seed"], width])
    inputs = rng.standard_normal((arguments["rows"], width))
    shown = set(layers_shown(depth))
    found: dict[str, list[float]] = {k: [] for k in ("layer", "spread", "rms", "gram", "rank")}
    for i, values in enumerate(stack.values(inputs, arguments["seed"]), 1):
        if i in shown:
            found["layer"].append(i)
            found["spread"].append(float(values.max() - values.min()))
            largest = float(np.abs(values).max())
            # Squares of what is nearly gone would be 0.
            unit = values / largest if largest > 1e-300 else values
            found["rms"].append(largest * math.sqrt(float(np.square(unit).mean())))
            found["gram"].append(gram_correlation(inputs, values))
            found["rank"].append(participation_rank(values))
    return found


def layers_shown(depth: int) -> tuple[int, ...]:
    """Layers 1, 2, 3, 5, 10, 20 ... up to the last.

    >>> layers_shown(25)
    (1, 2, 3, 5, 10, 20, 25)
    """
    steps = [m * 10**k for k in range(len(str(depth))) for m in (1, 2, 3, 5)]
    return tuple(sorted({i for i in steps if i < depth} | {depth}))


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Tables at the last layer, and the course over depth at the smallest width."""
    by_case: dict[tuple[int, str], list[Any]] = {}
    for arguments, result in done:
        by_case.setdefault((arguments["width"], arguments["method"]), []).append(result)
    width = min(w for w, _ in by_case)
    tables: list[ResultTable] = []
    if "faithful" in modes:
        tables.append(_faithful({c: v for c, v in by_case.items() if c[1] in _PUBLISHED}))
    if "corrected" in modes:
        tables.append(_corrected(by_case))
    return Findings(
        _headline(by_case, width), _sentences(width, modes), tuple(tables),
        _pictures(by_case, width, modes),
    )  # fmt: skip


def _faithful(by_case: Mapping[tuple[int, str], Sequence[Any]]) -> ResultTable:
    rows = [
        Row((str(width), method), tuple(_at(results, "spread", place) for place in (0, -1)))
        for (width, method), results in by_case.items()
    ]
    return ResultTable(
        "Largest less smallest activation", "faithful", ("width", "method"),
        ("layer 1", f"layer {DEPTH:,}"), "published", tuple(rows),
    )  # fmt: skip


def _corrected(by_case: Mapping[tuple[int, str], Sequence[Any]]) -> ResultTable:
    rows = []
    for (width, method), results in by_case.items():
        expected = math.nan
        if method in _BUDGETS:
            expected = orthogonal_gram_correlation(width, _BUDGETS[method])
        rows.append(
            Row(
                (str(width), method),
                (
                    _at(results, "rms", -1), _at(results, "spread", -1),
                    _at(results, "gram", -1, expected), _at(results, "rank", -1),
                ),
            )
        )  # fmt: skip
    quantities = ("RMS", "max - min", "Gram correlation", "participation rank")
    return ResultTable(
        f"Behind layer {DEPTH:,}: spread and information", "corrected", ("width", "method"),
        quantities, "closed form", tuple(rows),
    )  # fmt: skip


def _headline(by_case: Mapping[tuple[int, str], Sequence[Any]], width: int) -> str:
    said = []
    for method in ("diagonal + noise, alpha .085", *_BUDGETS):
        if (width, method) in by_case:
            gram = _at(by_case[width, method], "gram", -1)
            said.append(f"{gram.mean:.3f} by {method}")
    return (
        f"behind {DEPTH:,} tanh layers of width {width} the correlation of inner products with "
        f"those of the inputs is {', '.join(said)}"
    )


def _sentences(width: int, modes: Sequence[Mode]) -> tuple[str, ...]:
    said = ["The source shows the spread over depth as a picture, without numbers to set beside."]
    if "corrected" not in modes:
        return tuple(said)
    budget = budget_for_gram_correlation(width, _WANTED)
    return (
        *said,
        "Gram correlation is that of x_i . x_j with y_i . y_j over pairs of inputs; participation "
        "rank is (sum lambda)^2 / sum lambda^2 of the second moments.",
        f"Closed form: norms are all drawn to one size, which leaves {norm_factor(width):.3f} at "
        f"width {width}; each layer's bend turns directions at random, which leaves "
        "exp(-v B / 2) of that for a budget of B nats, v = 0.59 at width 16 and 1 in wide layers.",
        f"auto spends {DEFAULT_BUDGET:g} nats by default, since digits are learnt alike from .05 "
        f"to 1.2; a Gram correlation of {_WANTED:g} at width {width} asks for at most "
        f"{budget:.2f}, such as initialize(model, inputs, 'centred(budget={SMALL_BUDGET:g})').",
    )


def _pictures(
    by_case: Mapping[tuple[int, str], Sequence[Any]], width: int, modes: Sequence[Mode]
) -> tuple[Picture, ...]:
    cases = {
        method: results
        for (w, method), results in by_case.items()
        if w == width and ("corrected" in modes or method in _PUBLISHED)
    }
    kinds = [("spread", "Largest less smallest activation", "max - min", True)]
    if "corrected" in modes:
        kinds += [
            ("gram", "Correlation of inner products with those of the inputs", "correlation",
             False),
            ("rank", "Directions that the values vary in", "participation rank", False),
        ]  # fmt: skip
    return tuple(
        Picture(
            f"{title} at width {width}, over depth",
            "At the last layer: "
            + ", ".join(f"{m} {_at(results, key, -1).mean:.3g}" for m, results in cases.items())
            + ".",
            "layer",
            quantity,
            tuple(_curve(method, results, key) for method, results in cases.items()),
            log_x=True,
            log_y=is_log,
            y_least=1e-8,
        )
        for key, title, quantity, is_log in kinds
    )


def _curve(method: str, results: Sequence[Any], key: str) -> Curve:
    layers = results[0]["layer"]
    values = [Estimate.of([r[key][i] for r in results]) for i in range(len(layers))]
    errors = tuple(v.standard_error for v in values) if len(results) > 1 else ()
    return Curve(method, tuple(layers), tuple(v.mean for v in values), errors)


def _at(results: Sequence[Any], key: str, place: int, reference: float = math.nan) -> Estimate:
    return Estimate.of([r[key][place] for r in results], reference)


REPLAY = Replay(
    name="tanh-depth",
    source="Lee, Choi and Kim 2024, arXiv 2410.02242",
    title="spread and information behind 10,000 tanh layers",
    setting="3,000 inputs through 10,000 tanh layers of width 16, 32, 64 or 128, from Xavier's "
    "weights and from diagonal + noise with alpha .085.",
    faithful="the spread of the activations alone, largest less smallest, of the two methods; "
    "inputs are normal numbers, as many as the layers are wide, and drawn several times.",
    corrected="activations that are spread out may all say the same, so the correlation of inner "
    "products with those of the inputs and the rank are measured too; further starts and scales "
    "of the noise stand beside the two; numbers are in float64, where nothing fades to 0.",
    draws={"quick": 10, "paper": 3},
    units=units,
    work=forward,
    findings=findings,
)
