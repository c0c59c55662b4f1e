"""Replay: deep narrow networks of tanh and its kin that see 100 or 500 images."""

from collections.abc import Mapping, Sequence

from equipoise.lab.replay_data import (
    Arguments,
    Budget,
    Done,
    Findings,
    Mode,
    Replay,
    ResultTable,
    Row,
)
from equipoise.lab.row_images import images_at_hand
from equipoise.lab.start_trials import train_starts
from equipoise.lab.starts_at_rates import (
    BATCH,
    RATE_WORDS,
    about_images,
    by_rate_picture,
    compared,
    few_image_setting,
    few_images,
    in_words,
)

WIDTH, DEPTH = 16, 50
# Schemes by the name in tables; all but the last are published.
METHODS: Mapping[str, str] = {
    "Xavier": "xavier(distribution='normal')",
    "He, exact moments": "he",
    "orthogonal": "orthogonal",
    "Lyapunov": "lyapunov",
    "diagonal + noise": "diagonal_noise",
    "odd-sigmoid": "odd_sigmoid",
    "auto": "auto",
}
OURS = "auto"
_THEIRS = ("Xavier", "diagonal + noise")
# Activation and number of images of each case.
_CASES: Mapping[Budget, tuple[tuple[str, int], ...]] = {
    "quick": (("tanh", 100), ("tanh", 500), ("arctan", 100)),
    "paper": tuple(
        (f, count) for f in ("tanh", "arctan", "erf", "softsign") for count in (100, 500)
    ),
}
_RATES: Mapping[Budget, tuple[float, ...]] = {
    "quick": (1e-4, 3e-4, 1e-3, 3e-3), "paper": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
}  # fmt: skip
_THEIR_RATE = 1e-3
_STEPS: Mapping[Budget, int] = {"quick": 400, "paper": 2000}
_TEST_ROWS: Mapping[Budget, int] = {"quick": 1000, "paper": 8000}


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """All starts and rates on the images of one draw; where all draws share theirs, all draws."""
    images = images_at_hand("mnist")
    made: dict[str, Arguments] = {}
    for mode in modes:
        for activation, count in _CASES[budget]:
            case = {
                "mode": mode, "images": images, "activation": activation, "count": count,
                "steps": _STEPS[budget], "test_rows": _TEST_ROWS[budget],
            }  # fmt: skip
            name = f"{mode}, {images}, {activation}, {count} images"
            if mode == "faithful":
                made[name] = case | {
                    "seeds": list(seeds), "choice": 0, "methods": list(_THEIRS),
                    "rates": [_THEIR_RATE],
                }  # fmt: skip
                continue
            for seed in seeds:
                made[f"{name}, draw {seed}"] = case | {
                    "seeds": [seed], "choice": seed, "methods": list(METHODS),
                    "rates": list(_RATES[budget]),
                }  # fmt: skip
    return made


def trained(arguments: Arguments) -> dict[str, list[list[float]]]:
    """Train every start at every rate.

    Args:
        arguments: ``images``, ``activation``, ``count``, ``choice`` (of the images), ``steps``,
            ``test_rows``, ``methods``, ``rates`` and ``seeds``.

    Returns:
        By start, a row for each seed of one test accuracy for each rate; a start that cannot serve
        the network is left out.
    """
    count, activation = arguments["count"], arguments["activation"]
    task = few_images(arguments["images"], count, arguments["choice"], arguments["test_rows"])
    hidden = (WIDTH,) * DEPTH
    setting = few_image_setting(task, count, hidden, activation, arguments["steps"])
    starts = {name: METHODS[name] for name in arguments["methods"]}
    done = train_starts(setting, starts, arguments["rates"], arguments["seeds"])
    return {name: one.scores for name, one in done.items()}


Case = tuple[Mode, str, int]


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Accuracy of each start at its rate, and how far ours is ahead on the same draws."""
    cases: dict[Case, dict[str, list[list[float]]]] = {}
    rates: dict[Mode, tuple[float, ...]] = {}
    for a, result in done:
        rates[a["mode"]] = tuple(a["rates"])
        case = cases.setdefault((a["mode"], a["activation"], a["count"]), {})
        for method, rows in result.items():
            case.setdefault(method, []).extend(rows)
    images = done[0][0]["images"]
    return Findings(
        "; ".join(_said(cases, rates, mode) for mode in modes),
        _sentences(done[0][0], images, modes),
        tuple(_table(cases, rates, mode) for mode in modes),
        tuple(
            by_rate_picture(
                f"Test accuracy by learning rate: {case[1]}, {case[2]} images", by_method,
                rates[case[0]],
            )
            for case, by_method in cases.items()
            if case[0] == "corrected"
        ),
    )  # fmt: skip


def _cases(cases: Mapping[Case, object], mode: Mode) -> list[Case]:
    return [case for case in cases if case[0] == mode]


def _table(
    cases: Mapping[Case, Mapping[str, Sequence[Sequence[float]]]],
    rates: Mapping[Mode, Sequence[float]],
    mode: Mode,
) -> ResultTable:
    rows = [
        Row((case[1], str(case[2]), c.start, f"{c.rate:g}"), (c.score, c.gain))
        for case in _cases(cases, mode)
        for c in compared(cases[case], rates[mode], OURS)
    ]
    return ResultTable(
        f"Test accuracy behind {DEPTH} layers of width {WIDTH}", mode,
        ("activation", "images", "start", "best rate"), ("test accuracy", "auto is ahead by"),
        "none", tuple(rows),
    )  # fmt: skip


def _said(
    cases: Mapping[Case, Mapping[str, Sequence[Sequence[float]]]],
    rates: Mapping[Mode, Sequence[float]],
    mode: Mode,
) -> str:
    parts = [
        in_words(f"{case[2]} images, {case[1]}", compared(cases[case], rates[mode], OURS), OURS)
        for case in _cases(cases, mode)
    ]
    words = "one choice of images and rate" if mode == "faithful" else "best rate of each"
    return f"{words}: {'; '.join(parts)}"


def _sentences(first: Arguments, images: str, modes: Sequence[Mode]) -> tuple[str, ...]:
    said = (
        f"{first['steps']:,} steps of Adam with batches of {BATCH}; accuracies of the source "
        "for few images are not known to us, so none stands beside ours.",
        *about_images(images),
    )
    return (*said, RATE_WORDS) if "corrected" in modes else said


REPLAY = Replay(
    name="few-data",
    source="Lee, Choi and Kim 2024, arXiv 2410.02242, and 2025, arXiv 2509.23085",
    title="deep networks of tanh and its kin that see 100 or 500 images",
    setting="MNIST with a few images of each class, deep tanh networks, Xavier's weights against "
    "diagonal + noise; the second source has odd-sigmoid activations and its own scale of noise.",
    faithful=f"{DEPTH} layers of width {WIDTH}, one choice of images for all draws, one learning "
    f"rate of {_THEIR_RATE:g}, the two starts of the first source.",
    corrected="a choice of 100 images may be a lucky one, so every draw has its own; a rate that "
    "suits one start need not suit another, so each has the best of several, chosen without the "
    "draw that it is used for; all published starts and auto stand beside the two.",
    draws={"quick": 10, "paper": 10},
    units=units,
    work=trained,
    findings=findings,
)
