"""Starts trained on few images at several rates, and how far ours is ahead of the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.lab.rate_choice import ahead, at_best_rate, errors_ahead
from equipoise.lab.replay_data import Curve, Estimate, Picture
from equipoise.lab.row_images import DIGITS_STAND_IN
from equipoise.lab.setting import Setting

BATCH = 50
# Scores of a start: a row for each draw, of one score for each rate.
Scores = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Compared:
    """One start beside ours.

    Attributes:
        start: its name.
        rate: the best one over all draws.
        scores: of each draw, at the rate that is best for all others.
        places: of each draw, which rate that is.
        score: their mean.
        gain: by which ours is ahead, draw by draw; nan for ours, and where ours is missing.
    """

    start: str
    rate: float
    scores: tuple[float, ...]
    places: tuple[int, ...]
    score: Estimate
    gain: Estimate


def few_images(images: str, count: int, choice: int, test_rows: int, noise: float = 0.0) -> str:
    """The task of a few images, as ``task_named`` reads it.

    Args:
        images: ``digits``, or what lies in files, such as ``mnist``.
        count: to train on, as many of each class.
        choice: seed of which.
        test_rows: of images in files; digits are tested on all that they have.
        noise: share of the training labels that are wrong.

    Returns:
        The task in words.

    >>> few_images("mnist", 100, 3, 1000)
    'mnist(rows=100, test_rows=1000, seed=3)'
    >>> few_images("digits", 100, 3, 1000, noise=0.2)
    'digits(balanced=100, noise=0.2, seed=3)'
    """
    wrong = f"noise={noise:g}, " if noise else ""
    if images == "digits":
        return f"digits(balanced={count}, {wrong}seed={choice})"
    return f"{images}(rows={count}, test_rows={test_rows}, {wrong}seed={choice})"


def few_image_setting(
    task: str, count: int, hidden: Sequence[int], activation: str, steps: int
) -> Setting:
    """Adam in batches of 50, for at least so many steps.

    >>> few_image_setting("digits(balanced=100)", 100, (16, 16), "tanh", 301).epochs
    151
    """
    epochs = math.ceil(steps / math.ceil(count / BATCH))
    return Setting(task, tuple(hidden), activation, epochs, BATCH)


def compared(by_start: Mapping[str, Scores], rates: Sequence[float], ours: str) -> list[Compared]:
    """Each start at the rate that the other draws choose, beside ours.

    Args:
        by_start: scores of each start, of the same draws.
        rates: learning rates.
        ours: the name of our start, which may be missing.

    Returns:
        One for each start, in order.

    >>> found = compared({"he": [[0.2], [0.4]], "auto": [[0.5], [0.5]]}, (1e-3,), "auto")
    >>> round(found[0].gain.mean, 6), found[1].score.mean
    (0.2, 0.5)
    """
    best = {start: at_best_rate(scores, rates) for start, scores in by_start.items()}
    nothing = Estimate(math.nan, math.nan, 1)
    return [
        Compared(
            start, at.rate, at.scores, at.places, Estimate.of(at.scores),
            ahead(best[ours].scores, at.scores) if ours in best and start != ours else nothing,
        )
        for start, at in best.items()
    ]  # fmt: skip


def in_words(case: str, found: Sequence[Compared], ours: str) -> str:
    """A case in a few words: the best rival, ours, and by how many standard errors ours is ahead.

    >>> found = compared({"he": [[0.2], [0.4]], "auto": [[0.5], [0.5]]}, (1e-3,), "auto")
    >>> in_words("10 images", found, "auto")
    '10 images: 0.300 by he, 0.500 by auto, 2.0 standard errors more'
    """
    best = max((c for c in found if c.start != ours), key=lambda c: c.score.mean)
    words = f"{case}: {best.score.mean:.3f} by {best.start}"
    for own in (c for c in found if c.start == ours):
        words += f", {own.score.mean:.3f} by {ours}"
        if not math.isnan(errors_ahead(best.gain)):
            words += f", {errors_ahead(best.gain):.1f} standard errors more"
    return words


def by_rate_picture(title: str, by_start: Mapping[str, Scores], rates: Sequence[float]) -> Picture:
    """Test accuracy of each start by learning rate.

    >>> by_rate_picture("Few", {"he": [[0.2, 0.4]]}, (1e-3, 1e-2)).summary
    'The best is he, 0.400.'
    """
    curves = []
    for start, scores in by_start.items():
        values = [Estimate.of([row[i] for row in scores]) for i in range(len(rates))]
        errors = tuple(v.standard_error for v in values) if len(scores) > 1 else ()
        curves.append(Curve(start, tuple(rates), tuple(v.mean for v in values), errors))
    best = max(curves, key=lambda curve: max(curve.y))
    return Picture(
        title, f"The best is {best.name}, {max(best.y):.3f}.", "learning rate", "test accuracy",
        tuple(curves), log_x=True,
    )  # fmt: skip


def about_images(images: str) -> tuple[str, ...]:
    """What must be said where MNIST is not at hand.

    >>> about_images("mnist")
    ()
    """
    if images == "mnist":
        return ()
    return (f"MNIST {DIGITS_STAND_IN}.",)


RATE_WORDS = (
    "The rate of a draw is the one of the highest mean accuracy of all other draws, for "
    "every start from the same list. Draw i has the same images, test images and batches "
    "for every start, so that auto is compared draw by draw."
)
