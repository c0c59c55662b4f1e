"""Replay: tanh networks of many widths and depths on MNIST and Fashion-MNIST, and over alpha."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from equipoise.lab.rate_choice import AtBestRate, at_best_rate
from equipoise.lab.replay_data import Arguments, Budget, Done, Findings, Mode, Replay
from equipoise.lab.row_images import DIGITS_STAND_IN, images_at_hand
from equipoise.lab.setting import Setting
from equipoise.lab.start_trials import StartScores, train_starts
from equipoise.lab.tanh_mnist_tables import (
    METHODS,
    MIDDLE,
    OURS,
    SWEEP,
    THEIRS,
    Case,
    Cases,
    leads,
    mean,
    pictures,
    tables,
)
from equipoise.lab.work import in_parts

_SETS = ("mnist", "fashion_mnist")
_THEIR_STARTS = ("Xavier", THEIRS)
# Width and depth.
_NETWORKS: Mapping[Budget, tuple[tuple[int, int], ...]] = {
    "quick": (*((width, depth) for depth in (10, 50) for width in (8, 16, 32, 64)), (16, 100)),
    "paper": (
        *((width, depth) for depth in (10, 50, 100) for width in (8, 16, 32, 64)), (128, 10),
    ),
}  # fmt: skip
_SWEPT: Mapping[Budget, tuple[tuple[int, int], ...]] = {
    "quick": (MIDDLE,), "paper": (MIDDLE, (16, 100), (64, 50)),
}  # fmt: skip
_RATES: Mapping[Budget, tuple[float, ...]] = {
    "quick": (1e-4, 3e-4, 1e-3, 3e-3), "paper": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
}  # fmt: skip
_THEIR_RATE = 1e-3
# Images to train on, to hold back and to test on; of digits, which are few, as in quick.
_ROWS: Mapping[Budget, tuple[int, int, int]] = {
    "quick": (1000, 200, 1000), "paper": (48_000, 2000, 8000),
}  # fmt: skip
_EPOCHS = 10
# Trainings in one tensor program: they must fit into memory, and a start is planned once for all.
_MOST_AT_ONCE = 240


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """Trainings of all starts at all rates on one network, for a part of the draws."""
    made: dict[str, Arguments] = {}
    for mode in modes:
        rates = (_THEIR_RATE,) if mode == "faithful" else _RATES[budget]
        for images in dict.fromkeys(images_at_hand(name) for name in _SETS):
            rows, held, test_rows = _ROWS["quick" if images == "digits" else budget]
            case = {
                "mode": mode, "images": images, "rows": rows, "test_rows": test_rows,
                "held": 0 if mode == "faithful" else held, "rates": list(rates), "epochs": _EPOCHS,
            }  # fmt: skip
            sweep = [] if mode == "faithful" else [(n, "sweep") for n in _SWEPT[budget]]
            for (width, depth), kind in [*((n, "starts") for n in _NETWORKS[budget]), *sweep]:
                methods = SWEEP if kind == "sweep" else METHODS
                names = list(_THEIR_STARTS if mode == "faithful" else methods)
                one = case | {"width": width, "depth": depth, "methods": names}
                key = f"{mode}, {images}, {width} x {depth}, {kind}"
                most = max(1, _MOST_AT_ONCE // (len(names) * len(rates)))
                made |= in_parts({key: one}, "seeds", seeds, most)
    return made


def trained(arguments: Arguments) -> dict[str, Any]:
    """Train every start at every rate and draw on one network.

    Args:
        arguments: ``images``, ``rows``, ``held``, ``test_rows``, ``width``, ``depth``,
            ``methods``, ``rates``, ``epochs`` and ``seeds``.

    Returns:
        Fields of ``StartScores`` by start; a start that cannot serve the network is left out.
    """
    rows, held = arguments["rows"], arguments["held"]
    task = f"digits(rows={rows + held})"
    if arguments["images"] != "digits":
        # Which images are taken is no part of a draw: the source has all of them.
        task = f"{arguments['images']}(rows={rows + held}, test_rows={arguments['test_rows']})"
    setting = Setting(
        task, (arguments["width"],) * arguments["depth"], "tanh", arguments["epochs"],
        validation=held,
    )  # fmt: skip
    known = {**METHODS, **SWEEP}
    methods = {name: known[name] for name in arguments["methods"]}
    done = train_starts(setting, methods, arguments["rates"], arguments["seeds"])
    return {name: asdict(one) for name, one in done.items()}


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Accuracy of each start at its rate over widths, depths and alpha, and our lead."""
    cases = at_chosen_rates(done)
    said = {"faithful": _faithful_words, "corrected": _corrected_words}
    return Findings(
        "; ".join(said[mode]({c: v for c, v in cases.items() if c.mode == mode})
                  for mode in modes),
        _sentences(done, modes),
        tuple(table for mode in modes for table in tables(cases, mode)),
        # The corrected mode has all starts of the other one and more.
        pictures(cases, "corrected" if "corrected" in modes else "faithful"),
    )  # fmt: skip


def at_chosen_rates(done: Sequence[Done]) -> dict[Case, dict[str, AtBestRate]]:
    """Test accuracy of each network and start, each draw at the rate that other draws choose."""
    gathered: dict[Case, dict[str, StartScores]] = {}
    rates: dict[Mode, tuple[float, ...]] = {}
    for a, result in done:
        rates[a["mode"]] = tuple(a["rates"])
        case = gathered.setdefault(Case(a["mode"], a["images"], a["width"], a["depth"]), {})
        for name, part in result.items():
            one = case.setdefault(name, StartScores([], []))
            one.scores.extend(part["scores"])
            one.held.extend(part["held"])
    return {
        case: {n: at_best_rate(s.scores, rates[case.mode], s.held) for n, s in by_start.items()}
        for case, by_start in gathered.items()
    }


def _faithful_words(cases: Cases) -> str:
    return f"at one rate of {_THEIR_RATE:g} over all networks: {_over_networks(cases)}"


def _corrected_words(cases: Cases) -> str:
    found = leads(cases)
    words = f"each start at its own rate, over all networks: {_over_networks(cases)}"
    clear = sum(lead.is_clear for lead in found)
    if found and found[0].gain.draws > 1:
        words += (
            f"; auto is ahead of the best published start by more than two standard errors on "
            f"{clear} of {len(found)} networks"
        )
    return words


def _over_networks(cases: Cases) -> str:
    parts = []
    for start in METHODS:
        means = [mean(by_start[start]) for by_start in cases.values() if start in by_start]
        if means and start in (*_THEIR_STARTS, OURS):
            parts.append(f"{start} {min(means):.3f} to {max(means):.3f}")
    return ", ".join(parts)


def _sentences(done: Sequence[Done], modes: Sequence[Mode]) -> tuple[str, ...]:
    first = done[0][0]
    said = [
        "A summary of the source gives .48 to .96 over widths; which width, depth and set of "
        "images has which is not known to us, so the two stand beside the lowest and the highest "
        "of every depth.",
        f"{first['epochs']} epochs of {first['rows']:,} images by Adam with batches of 64, the "
        "same images for all draws: a standard error is that of weights and batches.",
    ]
    if "corrected" in modes:
        held = next(a["held"] for a, _ in done if a["mode"] == "corrected")
        said.append(
            f"The rate of a draw is the one of the highest mean accuracy of all other draws on "
            f"{held:,} images that are held back, for every start from the same list; draw i has "
            "the same batches for every start, so that auto is compared draw by draw."
        )
    if any(a["images"] == "digits" for a, _ in done):
        there = {a["images"] for a, _ in done}
        lacking = [text for name, text in zip(_SETS, ("MNIST", "Fashion-MNIST"), strict=True)
                   if name not in there]  # fmt: skip
        said += [f"{text} {DIGITS_STAND_IN}." for text in lacking]
    return tuple(said)


REPLAY = Replay(
    name="tanh-mnist",
    source="Lee, Choi and Kim 2024, arXiv 2410.02242",
    title="tanh networks of many widths and depths on MNIST and Fashion-MNIST",
    setting="Tanh networks over widths and depths on MNIST and Fashion-MNIST, Xavier's weights "
    "against diagonal + noise with alpha .085; its learning rate and epochs are not known to us.",
    faithful=f"the two starts of the source at one rate of {_THEIR_RATE:g}, no image held back.",
    corrected="a rate that suits one start need not suit another, so each has the best of several, "
    "chosen without the draw and the images that it is judged by; He, orthogonal and auto stand "
    "beside the two; alpha goes from too small to too large.",
    draws={"quick": 10, "paper": 3},
    units=units,
    work=trained,
    findings=findings,
)
