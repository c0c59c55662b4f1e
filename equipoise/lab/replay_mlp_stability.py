"""Replay: how plain networks fail to train, remedy by remedy, and one map of what trains."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

from equipoise.lab.born_dead import born_dead
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
from equipoise.lab.stability_study import CLIPS, StabilityCase, StabilityDraw, train_case
from equipoise.lab.stability_tables import (
    born_dead_table,
    clip_table,
    dying_table,
    saturation_table,
    softmax_table,
)
from equipoise.lab.trainability_map import MAP_STARTS, map_picture, map_table, share_that_trains

DEATHS = tuple(product((2, 4, 8), (10, 30, 100)))
RECTIFIERS = ("relu", "leaky_relu(0.01)", "elu", "gelu")
_ADAM_RATES = (1e-3, 1e-2, 3e-2)
_SGD_RATES = (1e-3, 1e-2, 1e-1)
# Weights of variance 1 whatever the fan-in, as textbooks have them: LeCun's times its root.
STANDARD = "lecun(gain=4)"
_EXPLODING = {
    "tanh, weights x 3": StabilityCase(
        32, 8, "tanh", ("xavier",), "SGD, momentum .9", _SGD_RATES, loud_hidden=3.0
    ),
    "ReLU, weights x 1.5": StabilityCase(
        32, 8, "relu", ("he",), "SGD, momentum .9", _SGD_RATES, loud_hidden=1.5
    ),
}
_LOUD = (1.0, 10.0, 30.0, 100.0)
# The map: activations, and optimizers with their rates; clipped or not.
MAP_ACTIVATIONS = ("relu", "leaky_relu(0.1)", "gelu", "elu", "tanh", "sigmoid")
_MAP_RATES = {"SGD, momentum .9": (3e-3, 3e-2), "Adam": (1e-3, 1e-2)}
_MAP_CLIPS = ("none", "global norm 1")
_MAP_SHAPE: Mapping[Budget, tuple[int, int, int]] = {"quick": (16, 12, 6), "paper": (16, 30, 25)}


def cases(budget: Budget, modes: Sequence[Mode]) -> dict[str, tuple[str, Mode, StabilityCase]]:
    """Trainings by key: what they show, the mode they belong to, and the case.

    >>> len(cases("quick", ("faithful",))), len(cases("quick", ("corrected",)))
    (32, 42)
    """
    found: dict[str, tuple[str, Mode, StabilityCase]] = {}
    epochs = {"quick": 13, "paper": 40}[budget]
    for mode in modes:
        is_faithful = mode == "faithful"
        for f, depth in product(RECTIFIERS, (10, 30)):
            start = "he" if is_faithful else "auto"
            case = StabilityCase(16, depth, f, (start,), "Adam", _ADAM_RATES, epochs=epochs)
            found[f"dying, {mode}, {f}, depth {depth}"] = "dying", mode, case
        for f, depth in product(("sigmoid", "tanh"), (5, 20)):
            methods = (STANDARD, "xavier") if is_faithful else ("auto",)
            case = StabilityCase(16, depth, f, methods, "Adam", _ADAM_RATES[:2], epochs=epochs)
            found[f"saturation, {mode}, {f}, depth {depth}"] = "saturation", mode, case
        for name, loud in _EXPLODING.items():
            case = replace(loud, epochs=epochs)
            if is_faithful:
                for clip in CLIPS:
                    found[f"clip, {name}, {clip}"] = "clip", mode, replace(case, clip=clip)
            else:
                balanced = replace(case, methods=("auto",), loud_hidden=1.0)
                found[f"clip, {name}, balanced"] = "clip", mode, balanced
        forms = (False, True) if is_faithful else (False,)
        for loud_output, is_naive in product(_LOUD, forms):
            case = StabilityCase(
                64, 2, "relu", ("he",) if is_faithful else ("auto",), "Adam", (1e-3,),
                epochs=epochs, loud_output=loud_output, is_naive=is_naive,
            )  # fmt: skip
            found[f"softmax, {mode}, x {loud_output:g}, naive {is_naive}"] = "softmax", mode, case
        if not is_faithful:
            found |= _map_cases(budget)
    return found


def _map_cases(budget: Budget) -> dict[str, tuple[str, Mode, StabilityCase]]:
    width, depth, epochs = _MAP_SHAPE[budget]
    return {
        f"map, {f}, {optimizer}, {clip}": (
            "map", "corrected",
            StabilityCase(
                width, depth, f, MAP_STARTS, optimizer, _MAP_RATES[optimizer], clip, epochs
            ),
        )
        for f in MAP_ACTIVATIONS
        for optimizer in _MAP_RATES
        for clip in _MAP_CLIPS
    }  # fmt: skip


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """All draws of a case are one unit; networks that are only drawn are one for each shape."""
    networks = {"quick": 50, "paper": 400}[budget]
    made: dict[str, Arguments] = {}
    if "faithful" in modes:
        made |= {
            f"born dead, width {width}, depth {depth}": {
                "part": "born dead", "mode": "faithful", "width": width, "depth": depth,
                "networks": networks, "seeds": list(seeds),
            }
            for width, depth in DEATHS
        }  # fmt: skip
    for key, (part, mode, case) in cases(budget, modes).items():
        made[key] = {"part": part, "mode": mode, "case": asdict(case), "seeds": list(seeds)}
    return made


def trained(arguments: Arguments) -> list[Any]:
    """One case with all of its draws.

    Args:
        arguments: ``part``, ``seeds``, and ``case`` or ``width``, ``depth`` and ``networks``.

    Returns:
        Fields of one ``StabilityDraw`` for each draw, or shares of inputs that die.
    """
    if arguments["part"] == "born dead":
        shape = (arguments["width"], arguments["depth"], arguments["networks"])
        return [born_dead(*shape, 16, seed) for seed in arguments["seeds"]]
    return train_case(case_of(arguments), arguments["seeds"])


def case_of(arguments: Arguments) -> StabilityCase:
    """The case of a unit, also after a way through JSON."""
    given = dict(arguments["case"])
    given["methods"], given["rates"] = tuple(given["methods"]), tuple(given["rates"])
    return StabilityCase(**given)


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """A table for each way to fail, and the map."""
    deaths = {(a["width"], a["depth"]): r for a, r in done if a["part"] == "born dead"}
    found: dict[tuple[str, Mode], list[tuple[StabilityCase, list[StabilityDraw]]]] = {}
    for a, result in done:
        if a["part"] == "born dead":
            continue
        draws = [StabilityDraw(**draw) for draw in result]
        case = case_of(a)
        for method in case.methods:
            mine = [draw for draw in draws if draw.method == method]
            found.setdefault((a["part"], a["mode"]), []).append(
                (replace(case, methods=(method,)), mine)
            )
    tables: list[ResultTable] = []
    pictures: list[Picture] = []
    for mode in modes:
        if mode == "faithful":
            tables.append(born_dead_table(deaths))
        tables += [
            dying_table(found["dying", mode], mode),
            saturation_table(found["saturation", mode], mode),
            clip_table(found["clip", mode], mode),
            softmax_table(found["softmax", mode], mode),
        ]
        if mode == "corrected":
            tables.append(map_table(found["map", mode]))
            pictures.append(map_picture(found["map", mode]))
    return Findings(_headline(found), _SENTENCES, tuple(tables), tuple(pictures))


def _headline(
    found: Mapping[tuple[str, Mode], Sequence[tuple[StabilityCase, Sequence[StabilityDraw]]]],
) -> str:
    if ("map", "corrected") in found:
        case = found["map", "corrected"][0][0]
        said = [
            f"{share_that_trains(found['map', 'corrected'], start):.2f} by {start}"
            for start in MAP_STARTS
        ]
        return (
            f"of all activations, optimizers, rates and clips at width {case.width} and depth "
            f"{case.depth} the share that trains is {', '.join(said)}"
        )
    dead = next(d for c, d in found["dying", "faithful"] if (c.activation, c.depth) == ("relu", 30))
    share = sum(draw.born_stuck for draw in dead) / len(dead)
    return f"of the units of 30 ReLU layers of width 16 from He's law {share:.2f} are dead at birth"


_SENTENCES = (
    "Digits of 8 x 8 pixels, 1,024 rows in batches of 64; a network has trained at a test accuracy "
    "above .8.",
    "A unit is stuck where its slope is below 1 % of the largest on every row of the test part, "
    "which for ReLU means dead; saturated is the share of units and rows with such a slope. A ReLU "
    "is flat on half of all rows without harm.",
    "Clipping by what norms usually are, unit by unit, and in single trainings with the guard are "
    "in benchmarks/clipping.py; remedies against dead units in benchmarks/dying_relu.py.",
)

REPLAY = Replay(
    name="mlp-stability",
    source="Lu et al. 2019, arXiv 1903.06733; Glorot and Bengio 2010; Pascanu et al. 2013, "
    "arXiv 1211.5063",
    title="dead units, saturation, exploding gradients, softmax, and one map of what trains",
    setting="Plain networks of 5 to 100 layers from the starts that are in use.",
    faithful="each trouble from the starts in which it is known: He's for rectifiers, Xavier's "
    "and weights of variance 1 for sigmoids, weights that are too large for clipping, large "
    "outputs for the softmax.",
    corrected="the same networks from auto, since most of these troubles are there at birth; and a "
    "map over start, activation, optimizer, learning rate and clipping, of which each of the "
    "published experiments sees one row.",
    draws={"quick": 10, "paper": 10},
    units=units,
    work=trained,
    findings=findings,
)
