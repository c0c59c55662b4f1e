"""Networks and images of the odd-sigmoid replay: what is varied, one thing at a time.

A middle case has its depth, width, activation, images and labels varied in turn. Every case is one
network on a few images, of which all starts are trained at several rates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from equipoise.lab.models import activation_module
from equipoise.lab.replay_data import (
    Arguments,
    Budget,
    Done,
    Estimate,
    Mode,
    Picture,
    ResultTable,
    Row,
)
from equipoise.lab.start_trials import train_starts
from equipoise.lab.starts_at_rates import (
    Compared,
    Scores,
    by_rate_picture,
    compared,
    few_image_setting,
    few_images,
    in_words,
)
from equipoise.torch.filling import activation_from

OURS = "auto"
THEIRS = "odd-sigmoid"
# Kinds of noise in the weights, of one standard deviation.
LAWS: Mapping[str, str] = {
    "odd-sigmoid, normal noise": "odd_sigmoid",
    "odd-sigmoid, uniform noise": "odd_sigmoid(noise='uniform')",
    "odd-sigmoid, truncated normal noise": "odd_sigmoid(noise='truncated_normal')",
    "odd-sigmoid, Laplace noise": "odd_sigmoid(noise='laplace')",
    "odd-sigmoid, Student's t, 5 degrees": "odd_sigmoid(noise='student_t')",
    "odd-sigmoid, Student's t, 3 degrees": "odd_sigmoid(degrees=3, noise='student_t')",
}
_RATES: Mapping[Budget, tuple[float, ...]] = {
    "quick": (1e-4, 3e-4, 1e-3, 3e-3), "paper": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}  # fmt: skip
_THEIR_RATE = 1e-3
_STEPS: Mapping[Budget, int] = {"quick": 300, "paper": 2000}
_TEST_ROWS: Mapping[Budget, int] = {"quick": 1000, "paper": 8000}


@dataclass(frozen=True)
class Case:
    """One network on one choice of images.

    Attributes:
        topic: what is varied: ``depth``, ``width``, ``scale``, ``images``, ``labels`` or ``noise``;
            ``middle`` for what the others differ from.
        depth, width: of the hidden layers.
        activation: as ``activation_module`` reads it.
        count: images to train on.
        noise: share of their labels that are wrong.
    """

    topic: str
    depth: int = 30
    width: int = 16
    activation: str = "tanh"
    count: int = 500
    noise: float = 0.0

    @property
    def name(self) -> str:
        """Network, images and labels.

        >>> Case("labels", noise=0.2).name
        'tanh 16 x 30, 500 images, 20 % wrong labels'
        """
        wrong = f", {self.noise:.0%} wrong labels".replace("%", " %") if self.noise else ""
        return f"{self.activation} {self.width} x {self.depth}, {self.count} images{wrong}"


def cases(budget: Budget) -> tuple[Case, ...]:
    """What is trained.

    >>> [case.depth for case in cases("quick") if case.topic == "depth"]
    [10, 60]
    """
    middle = Case("middle")
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    shares: tuple[float, ...]
    further: tuple[Case, ...] = ()
    match budget:
        case "quick":
            depths, widths, shares = (10, 60), (8, 32), (0.2, 0.4)
            activations = ["tanh(0.5)", "tanh(4)", "arctan(4)", "erf(0.5)"]
        case "paper":
            depths, widths, shares = (10, 60, 100), (8, 32, 128), (0.2, 0.4, 0.6)
            activations = [
                f"{f}({a:g})" if a != 1.0 else f
                for f in ("tanh", "arctan", "erf", "softsign")
                for a in (0.25, 0.5, 1.0, 2.0, 4.0)
                if (f, a) != ("tanh", 1.0)
            ]
            further = (replace(middle, topic="noise", width=8),)
    return (
        middle,
        *(replace(middle, topic="depth", depth=depth) for depth in depths),
        *(replace(middle, topic="width", width=width) for width in widths),
        *(replace(middle, topic="scale", activation=f) for f in activations),
        replace(middle, topic="images", count=100),
        *(replace(middle, topic="labels", noise=share) for share in shares),
        replace(middle, topic="noise"),
        *further,
    )


def starts(mode: Mode, case: Case) -> dict[str, str]:
    """Schemes by name.

    As the source has them the rivals do not know the scale of the activation; corrected they do.

    >>> starts("faithful", Case("middle"))["orthogonal"]
    'orthogonal(gain=1)'
    >>> starts("corrected", Case("scale", activation="tanh(4)"))["Xavier"]
    "xavier(distribution='normal', gain=0.25)"
    """
    if case.topic == "noise":
        return dict(LAWS) | {OURS: "auto"}
    if mode == "faithful":
        return {
            "Xavier": "xavier(distribution='normal')",
            "He": f"lecun(gain={math.sqrt(2.0)!r})",
            "orthogonal": "orthogonal(gain=1)",
            THEIRS: "odd_sigmoid",
        }
    slope = activation_from(activation_module(case.activation)).slope
    return {
        "Xavier": f"xavier(distribution='normal', gain={1 / slope:.6g})",
        "He, exact moments": "he",
        "orthogonal": "orthogonal",
        THEIRS: "odd_sigmoid",
        OURS: "auto",
    }


def units(
    images: str, budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]
) -> dict[str, Arguments]:
    """All starts and rates on the images of one draw; where all draws share theirs, all draws."""
    made: dict[str, Arguments] = {}
    for mode in modes:
        for case in cases(budget):
            if (mode, case.topic) == ("faithful", "noise"):
                # The source has normal noise.
                continue
            about = {
                "part": "images", "mode": mode, "images": images, "topic": case.topic,
                "depth": case.depth, "width": case.width, "activation": case.activation,
                "count": case.count, "noise": case.noise, "steps": _STEPS[budget],
                "test_rows": _TEST_ROWS[budget], "starts": starts(mode, case),
            }  # fmt: skip
            key = f"{mode}, {case.topic}, {images}, {case.name}"
            if mode == "faithful":
                made[key] = about | {"rates": [_THEIR_RATE], "seeds": list(seeds), "choice": 0}
                continue
            rates = list(_RATES[budget])
            for seed in seeds:
                made[f"{key}, draw {seed}"] = about | {
                    "rates": rates, "seeds": [seed], "choice": seed,
                }  # fmt: skip
    return made


def trained(arguments: Arguments) -> dict[str, list[list[float]]]:
    """Train every start at every rate.

    Args:
        arguments: as ``units`` makes them.

    Returns:
        By start, a row for each seed of one test accuracy for each rate; a start that cannot serve
        the network is left out.
    """
    a = arguments
    task = few_images(a["images"], a["count"], a["choice"], a["test_rows"], a["noise"])
    hidden = [a["width"]] * a["depth"]
    setting = few_image_setting(task, a["count"], hidden, a["activation"], a["steps"])
    done = train_starts(setting, a["starts"], a["rates"], a["seeds"])
    return {name: one.scores for name, one in done.items()}


@dataclass(frozen=True)
class Judged:
    """A case with what came of it.

    Attributes:
        case: the network.
        rates: learning rates.
        by_start: scores of each start.
        found: each start at its rate, beside ours.
    """

    case: Case
    rates: tuple[float, ...]
    by_start: Mapping[str, Scores]
    found: tuple[Compared, ...]


def judged(done: Sequence[Done], mode: Mode) -> list[Judged]:
    """Cases of one mode, in order."""
    by_case: dict[Case, tuple[tuple[float, ...], dict[str, list[list[float]]]]] = {}
    for a, result in done:
        if a["mode"] != mode:
            continue
        case = Case(*(a[n] for n in ("topic", "depth", "width", "activation", "count", "noise")))
        _, by_start = by_case.setdefault(case, (tuple(a["rates"]), {}))
        # A store may have the starts in another order.
        for start in a["starts"]:
            if start in result:
                by_start.setdefault(start, []).extend(result[start])
    return [
        Judged(case, rates, by_start, tuple(compared(by_start, rates, OURS)))
        for case, (rates, by_start) in by_case.items()
    ]


def score_table(cases: Sequence[Judged], mode: Mode) -> ResultTable:
    """Test accuracy of every start in every case."""
    rows = [
        Row((j.case.topic, j.case.name, c.start, f"{c.rate:g}"), (c.score, c.gain))
        for j in cases
        for c in j.found
    ]
    return ResultTable(
        "Test accuracy on images", mode, ("varied", "network", "start", "best rate"),
        ("test accuracy", "auto is ahead by"), "none", tuple(rows),
    )  # fmt: skip


def sensitivity_table(cases: Sequence[Judged], mode: Mode) -> ResultTable:
    """What is lost between the best and the worst of the networks of a topic, draw by draw.

    Which network is the best and which the worst is picked by their means.
    """
    middle = [j for j in cases if j.case.topic == "middle"]
    rows = []
    for topic in ("depth", "width", "scale", "labels"):
        own = [j for j in cases if j.case.topic == topic]
        by_start: dict[str, list[Compared]] = {}
        for j in (*middle, *own):
            for c in j.found:
                by_start.setdefault(c.start, []).append(c)
        for start, found in by_start.items():
            if len(found) < 2:
                continue
            best, worst = (f(found, key=lambda c: c.score.mean) for f in (max, min))
            lost = [a - b for a, b in zip(best.scores, worst.scores, strict=True)]
            rows.append(Row((topic, start), (best.score, worst.score, Estimate.of(lost))))
    return ResultTable(
        "Sensitivity: the best and the worst network of what is varied", mode, ("varied", "start"),
        ("best", "worst", "lost between them"), "none", tuple(rows),
    )  # fmt: skip


def pictures(cases: Sequence[Judged]) -> tuple[Picture, ...]:
    """Accuracy by learning rate, where there are several."""
    return tuple(
        by_rate_picture(
            f"Test accuracy by rate: {j.case.name} ({j.case.topic})", j.by_start, j.rates
        )
        for j in cases
        if len(j.rates) > 1
    )


def said(cases: Sequence[Judged]) -> str:
    """The middle case, and the worst case of each of the two that matter."""
    words = [in_words(j.case.name, j.found, OURS) for j in cases if j.case.topic == "middle"]
    for start in (THEIRS, OURS):
        own = [(c.score.mean, j.case.name) for j in cases for c in j.found if c.start == start]
        if len(own) > 1:
            worst, name = min(own)
            words.append(f"{start} at its worst {worst:.3f} ({name})")
    return "; ".join(words)
