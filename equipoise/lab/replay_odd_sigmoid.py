"""Replay: odd-sigmoid activations, whose noise scale follows from a target layer in closed form."""

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.lab import odd_sigmoid_cases, odd_sigmoid_equations, odd_sigmoid_memory
from equipoise.lab.replay_data import (
    Arguments,
    Budget,
    Done,
    Findings,
    Mode,
    Picture,
    Replay,
    ResultTable,
)
from equipoise.lab.row_images import images_at_hand
from equipoise.lab.starts_at_rates import BATCH, RATE_WORDS, about_images

_MODES: Mapping[Mode, str] = {"faithful": "one rate", "corrected": "best rate of each"}


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """Signs at birth, networks on equations, networks on images."""
    made: dict[str, Arguments] = {}
    if "corrected" in modes:
        made |= odd_sigmoid_memory.units(budget, seeds)
    made |= odd_sigmoid_equations.units(budget, modes, seeds)
    return made | odd_sigmoid_cases.units(images_at_hand("mnist"), budget, modes, seeds)


def work(arguments: Arguments) -> Any:
    """One unit, by its ``part``.

    Args:
        arguments: as the part's own ``units`` makes them.

    Returns:
        What the part's own work does.
    """
    match arguments["part"]:
        case "signs":
            return odd_sigmoid_memory.signs_kept(arguments)
        case "images":
            return odd_sigmoid_cases.trained(arguments)
        case _:
            return odd_sigmoid_equations.trained(arguments)


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Accuracies and what is lost over each axis, losses of equations, signs at birth."""
    parts: dict[str, list[Done]] = {part: [] for part in ("signs", "images", "equations")}
    for arguments, result in done:
        parts[arguments["part"]].append((arguments, result))
    tables: list[ResultTable] = []
    pictures: list[Picture] = []
    words: list[str] = []
    for mode in modes:
        cases = odd_sigmoid_cases.judged(parts["images"], mode)
        tables += [
            odd_sigmoid_cases.score_table(cases, mode),
            odd_sigmoid_cases.sensitivity_table(cases, mode),
            odd_sigmoid_equations.table(parts["equations"], mode),
        ]
        pictures += odd_sigmoid_cases.pictures(cases)
        words.append(f"{_MODES[mode]}: {odd_sigmoid_cases.said(cases)}")
    if parts["signs"]:
        tables.append(odd_sigmoid_memory.sign_table(parts["signs"]))
    return Findings(
        "; ".join(words), _sentences(parts["images"][0][0], modes), tuple(tables), tuple(pictures)
    )


def _sentences(first: Arguments, modes: Sequence[Mode]) -> tuple[str, ...]:
    said = (
        f"{first['steps']:,} steps of Adam with batches of {BATCH}; accuracies of the source are "
        "not known to us, nor is its own constant: the scale of the noise is the closed form of "
        "this library, which leaves half of the signs at the last layer.",
        "Weights of odd-sigmoid for f(a x) are those for f(x) over a, up to the last layer: the "
        "network is the same function at birth, and a step of Adam is a times as large for it.",
        *about_images(first["images"]),
    )
    if "corrected" not in modes:
        return said
    return (
        *said, RATE_WORDS,
        "Of equations the rate of a draw is the one of the lowest mean log loss of all other "
        "draws; losses have all weights 1, and ours is ahead by a difference of logarithms.",
    )  # fmt: skip


REPLAY = Replay(
    name="odd-sigmoid",
    source="Lee, Choi and Kim 2025, arXiv 2509.23085",
    title="odd-sigmoid activations over depth, width, scale, few and noisy data, and equations",
    setting="networks of tanh, arctan, erf and their scaled copies from diagonal + noise weights "
    "with a scale in closed form, against Xavier, He and orthogonal ones; few data, noisy data, "
    "and equations by networks of scaled activations.",
    faithful="the starts of the source, rivals without knowledge of the activation's scale "
    "(Xavier, He with the gain of ReLU, orthogonal of gain 1), all at one rate of 0.001 and on one "
    "choice of images; losses of equations with all weights 1.",
    corrected="rivals are told the slope of the activation, He has its exact moments; every draw "
    "has its own images, and every start the best of several rates, chosen without the draw that "
    "it is used for; auto stands beside them; other laws of the noise; the signs that the closed "
    "form promises are counted; misses at given values of equations weigh 10.",
    draws={"quick": 10, "paper": 3},
    units=units,
    work=work,
    findings=findings,
)
