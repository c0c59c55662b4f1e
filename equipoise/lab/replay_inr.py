"""Replay: networks that map coordinates to a picture, over activations and starts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from equipoise.errors import EquipoiseError, PlanError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.models import activation_module, mlp
from equipoise.lab.pictures import picture_task
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
from equipoise.lab.rivals import starters
from equipoise.lab.vi3nr import vi3nr_

# Hidden layers, and by budget side of the picture, width and steps.
DEPTH = 4
_SIZES: Mapping[Budget, tuple[int, int, int]] = {"quick": (32, 32, 250), "paper": (64, 64, 1000)}
ACTIVATIONS = ("sin(30)", "gauss(0.1)", "tanh", "gelu", "relu")
# Starts by the name in tables; VI3NR is no method of ``rivals``.
_METHODS: Mapping[str, str] = {"framework default": "default", "SIREN": "siren", "auto": "auto"}
# The rate of the published fits, and those among which each start has its best.
_PUBLISHED_RATE = 1e-4
_RATES: Mapping[str, tuple[float, ...]] = {
    "sin(30)": (1e-4, 3e-4, 1e-3), "gauss(0.1)": (3e-4, 1e-3, 3e-3),
    "tanh": (1e-3, 3e-3, 1e-2), "gelu": (1e-3, 3e-3, 1e-2), "relu": (1e-3, 3e-3, 1e-2),
}  # fmt: skip


def _starts(activation: str, mode: Mode) -> tuple[str, ...]:
    chosen = ["framework default"]
    if activation.startswith("sin"):
        chosen.append("SIREN")
    chosen.append("VI3NR")
    if mode == "corrected":
        chosen.append("auto")
    return tuple(chosen)


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """All draws and rates of one activation and start are one unit."""
    side, width, steps = _SIZES[budget]
    return {
        f"{mode}, {f}, {start}": {
            "mode": mode, "activation": f, "start": start, "side": side, "width": width,
            "steps": steps, "seeds": list(seeds),
            "rates": [_PUBLISHED_RATE] if mode == "faithful" else list(_RATES[f]),
        }
        for mode in modes
        for f in ACTIVATIONS
        for start in _starts(f, mode)
    }  # fmt: skip


def fitted(arguments: Arguments) -> dict[str, Any]:
    """Fit one half of the pixels, all at each step, by Adam.

    Args:
        arguments: ``activation``, ``start``, ``side``, ``width``, ``steps``, ``rates``, ``seeds``.

    Returns:
        ``steps``: some of them; ``fitted``: by rate and draw the peak signal-to-noise ratio there
        in dB, on the pixels that are fitted; ``held``: by rate and draw that on the others at the
        end.

    Raises:
        PlanError: if the start cannot serve the network.
    """
    made = picture_task(arguments["side"])
    task, width, seeds = made.task, arguments["width"], arguments["seeds"]

    def network() -> nn.Sequential:
        sizes = [2, *(width,) * DEPTH, 1]
        return mlp(sizes, lambda: activation_module(arguments["activation"]))

    models = [network() for _ in seeds]
    _start(models, arguments["start"], seeds, task.x_train)
    rates = arguments["rates"]
    done = train(
        Replicas.of(models).repeat(len(rates)), task, [rate for rate in rates for _ in seeds],
        [*seeds] * len(rates), arguments["steps"], task.rows,
    )  # fmt: skip
    shown = steps_shown(arguments["steps"])
    with torch.no_grad():
        outputs = done.replicas.forward(task.x_test)
        held = (outputs - task.y_test).square().mean((1, 2))
    # Loss i is that before step i.
    errors = [done.loss[i - 1].tolist() for i in shown]
    count = len(seeds)
    return {
        "steps": list(shown),
        "fitted": [
            [
                [made.decibels(error[place * count + draw]) for error in errors]
                for draw in range(count)
            ]
            for place in range(len(rates))
        ],
        "held": [
            [made.decibels(float(held[place * count + draw])) for draw in range(count)]
            for place in range(len(rates))
        ],
    }


def _start(
    models: Sequence[nn.Sequential], name: str, seeds: Sequence[int], inputs: torch.Tensor
) -> None:
    if name == "VI3NR":
        for model, seed in zip(models, seeds, strict=True):
            vi3nr_(model, inputs, torch.Generator().manual_seed(seed))
        return
    method = _METHODS[name]
    start = starters(models[0], (method,), inputs)[method]
    if isinstance(start, EquipoiseError):
        raise PlanError(str(start))
    for model, seed in zip(models, seeds, strict=True):
        start(model, seed)


def steps_shown(steps: int) -> tuple[int, ...]:
    """Steps 1, 2, 3, 5, 8, 13 ... up to the last, about five to a decade.

    >>> steps_shown(20)
    (1, 2, 3, 4, 6, 10, 16, 20)
    """
    found = {round(10 ** (i / 5)) for i in range(round(5 * math.log10(steps)) + 1)}
    return tuple(sorted({i for i in found if i < steps} | {steps}))


Cases = Mapping[tuple[Mode, str, str], tuple[Arguments, Any]]


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Peak signal-to-noise by activation and start, and its course."""
    cases = {(a["mode"], a["activation"], a["start"]): (a, result) for a, result in done}
    tables = tuple(_table(cases, mode) for mode in modes)
    pictures = tuple(
        _picture(cases, mode, f) for mode in modes for f in dict.fromkeys(f for _, f, _ in cases)
    )
    return Findings(
        "; ".join(_said(cases, mode) for mode in modes), _SENTENCES, tables, pictures
    )  # fmt: skip


def best_place(result: Mapping[str, Any]) -> int:
    """Place of the rate with the highest mean over draws on the pixels that are fitted.

    >>> best_place({"fitted": [[[1.0, 9.0], [1.0, 7.0]], [[2.0, 8.5], [2.0, 8.5]]]})
    1
    """
    means = [math.fsum(draw[-1] for draw in draws) / len(draws) for draws in result["fitted"]]
    return max(range(len(means)), key=lambda i: means[i])


def _ends(result: Mapping[str, Any]) -> tuple[Estimate, Estimate]:
    """Decibels at the best rate, on pixels fitted and on those held back."""
    place = best_place(result)
    return (
        Estimate.of([draw[-1] for draw in result["fitted"][place]]),
        Estimate.of(result["held"][place]),
    )


def _table(cases: Cases, mode: Mode) -> ResultTable:
    rows = []
    for (m, f, start), (a, result) in cases.items():
        if m == mode:
            rate = a["rates"][best_place(result)]
            rows.append(Row((f, start, f"{rate:g}"), _ends(result)))
    a = next(a for (m, _, _), (a, _) in cases.items() if m == mode)
    return ResultTable(
        f"Peak signal-to-noise after {a['steps']} steps, dB, {a['side']} x {a['side']} pixels, "
        f"{DEPTH} layers of width {a['width']}",
        mode, ("activation", "start", "rate"), ("pixels fitted", "pixels held back"), "published",
        tuple(rows),
    )  # fmt: skip


def _picture(cases: Cases, mode: Mode, activation: str) -> Picture:
    curves = []
    for (m, f, start), (_, result) in cases.items():
        if (m, f) != (mode, activation):
            continue
        place = best_place(result)
        values = [
            Estimate.of([draw[i] for draw in result["fitted"][place]])
            for i in range(len(result["steps"]))
        ]
        errors = tuple(v.standard_error for v in values)
        curves.append(
            Curve(
                start, tuple(float(i) for i in result["steps"]), tuple(v.mean for v in values),
                errors if not any(map(math.isnan, errors)) else (),
            )
        )  # fmt: skip
    return Picture(
        f"{activation}: peak signal-to-noise of the fitted pixels over steps ({mode})",
        "At the end: " + ", ".join(f"{c.name} {c.y[-1]:.1f} dB" for c in curves) + ".",
        "step", "dB", tuple(curves), log_x=True,
    )  # fmt: skip


def _said(cases: Cases, mode: Mode) -> str:
    last = "auto" if mode == "corrected" else "VI3NR"
    parts = [
        f"{f} {_ends(cases[mode, f, 'framework default'][1])[0].mean:.1f} to "
        f"{_ends(cases[mode, f, last][1])[0].mean:.1f}"
        for f in dict.fromkeys(f for m, f, _ in cases if m == mode)
    ]
    rate = "at the published rate" if mode == "faithful" else "at the best rate of each"
    return f"dB from the framework's default to {last}, {rate}: {', '.join(parts)}"


_SENTENCES = (
    "The picture is made of blobs, edges and waves (lab/pictures.py): the sources' photographs are "
    "larger and other ones, so that their decibels are no numbers to set beside ours.",
    "The peak is the span from the darkest to the brightest pixel; half of the pixels are fitted, "
    "all at each step, the other half is held back.",
    "VI3NR has preactivations of the one standard deviation at which values and gradients keep "
    "their level, where there is such a one: a bump of scale s has it at 1.55 s.",
)

REPLAY = Replay(
    name="inr",
    source="Sitzmann et al. 2020, arXiv 2006.09661; Koneputugodage et al. 2025, arXiv 2504.19270",
    title="networks that map coordinates to a picture, over activations and starts",
    setting="SIREN: sin(30 x) from uniform weights, first layer 1 / fan_in; VI3NR: laws from exact "
    "second moments for any activation. Adam at 1e-4.",
    faithful="the published starts beside the framework's default at the published rate 1e-4, on a "
    "picture of ours.",
    corrected="one rate serves sines and starves the others: each start has the best of three, "
    "auto stands beside them, and pixels that were not fitted are scored too.",
    draws={"quick": 10, "paper": 3},
    units=units,
    work=fitted,
    findings=findings,
)
