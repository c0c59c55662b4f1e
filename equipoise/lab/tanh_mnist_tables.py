"""Tables and pictures of the replay of tanh networks on images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from equipoise.lab.rate_choice import AtBestRate, ahead, errors_ahead
from equipoise.lab.replay_data import Curve, Estimate, Mode, Picture, ResultTable, Row
from equipoise.schemes.diagonal_noise import PUBLISHED_ALPHA

_NAN = math.nan
# Starts by the name in tables; all but the last are published.
METHODS: Mapping[str, str] = {
    "Xavier": "xavier(distribution='normal')",
    "He, exact moments": "he",
    "orthogonal": "orthogonal",
    "diagonal + noise": "diagonal_noise",
    "auto": "auto",
}
THEIRS, OURS = "diagonal + noise", "auto"
# Scales of the noise besides the published one, from too small to too large.
ALPHAS = (0.005, 0.02, 0.05, 0.15, 0.3, 1.0)
SWEEP: Mapping[str, str] = {f"alpha {a:g}": f"diagonal_noise(alpha={a:g})" for a in ALPHAS}
# Width and depth of the network that pictures and the sweep go through.
MIDDLE = (16, 50)
# Lowest and highest accuracy over widths that a summary of the source gives.
SUMMARY = (0.48, 0.96)


@dataclass(frozen=True)
class Case:
    """One network on one set of images.

    Attributes:
        mode: how it is trained.
        images: ``mnist``, ``fashion_mnist`` or ``digits``.
        width: of the hidden layers.
        depth: number of them.
    """

    mode: Mode
    images: str
    width: int
    depth: int


Cases = Mapping[Case, Mapping[str, AtBestRate]]


@dataclass(frozen=True)
class Lead:
    """How far our rule is ahead of the best published start on one network.

    Attributes:
        case: the network.
        rival: the published start of the highest mean.
        gain: accuracy that ours has more, draw by draw.
    """

    case: Case
    rival: str
    gain: Estimate

    @property
    def is_clear(self) -> bool:
        """Whether it is more than two standard errors; never for a single draw."""
        return errors_ahead(self.gain) > 2


def leads(cases: Cases) -> list[Lead]:
    """Our rule against the best published start, for all networks that it was trained on."""
    found = []
    for case, by_start in cases.items():
        rivals = {name: mean(by_start[name]) for name in METHODS if name in by_start}
        if rivals.pop(OURS, None) is not None and rivals:
            best = max(rivals, key=lambda name: rivals[name])
            gain = ahead(by_start[OURS].scores, by_start[best].scores)
            found.append(Lead(case, best, gain))
    return found


def mean(one: AtBestRate) -> float:
    """Mean accuracy over the draws.

    >>> mean(AtBestRate((0.25, 0.75), 1e-3, (0, 0)))
    0.5
    """
    return sum(one.scores) / len(one.scores)


def tables(cases: Cases, mode: Mode) -> tuple[ResultTable, ...]:
    """All tables of a mode: accuracy and rate by width and depth, range, lead and sweep."""
    of = {case: by_start for case, by_start in cases.items() if case.mode == mode}
    made = []
    for images in _images(of):
        accuracy, rate = _by_width(of, mode, images)
        made += [accuracy, rate] if mode == "corrected" else [accuracy]
    made.append(_ranges(of, mode))
    if mode == "corrected":
        made += [_lead_table(of), _sweep_table(of)]
    return tuple(table for table in made if table.rows)


def _images(cases: Cases) -> list[str]:
    return list(dict.fromkeys(case.images for case in cases))


def _by_width(cases: Cases, mode: Mode, images: str) -> tuple[ResultTable, ResultTable]:
    """Test accuracy, and the learning rates it was reached at: a column for each width."""
    of = {(c.depth, c.width): found for c, found in cases.items() if c.images == images}
    widths = sorted({width for _, width in of})
    accuracy, rates = [], []
    for depth in sorted({depth for depth, _ in of}):
        for start in METHODS:
            found = [of.get((depth, width), {}).get(start) for width in widths]
            if any(found):
                names = (str(depth), start)
                accuracy.append(Row(names, tuple(_accuracy(one) for one in found)))
                rates.append(
                    Row(names, tuple(Estimate(one.rate if one else _NAN, 0, 1) for one in found))
                )
    heads = ("depth", "start"), tuple(f"width {width}" for width in widths), "none"
    return (
        ResultTable(f"Test accuracy over widths and depths: {images}", mode, *heads,
                    tuple(accuracy)),
        ResultTable(f"Learning rates of these: {images}", mode, *heads, tuple(rates)),
    )  # fmt: skip


def _accuracy(one: AtBestRate | None) -> Estimate:
    return Estimate.of(one.scores) if one else Estimate(_NAN, _NAN, 1)


def _ranges(cases: Cases, mode: Mode) -> ResultTable:
    """Lowest and highest mean over widths, where a depth has several."""
    rows = []
    for images in _images(cases):
        for depth in sorted({c.depth for c in cases if c.images == images}):
            for start in (THEIRS, OURS):
                found = {c.width: by[start] for c, by in cases.items()
                         if (c.images, c.depth) == (images, depth) and start in by}  # fmt: skip
                if len(found) > 1:
                    ends = [pick(found, key=lambda w: mean(found[w])) for pick in (min, max)]
                    is_theirs = start == THEIRS and images != "digits"
                    held_against = SUMMARY if is_theirs else (_NAN, _NAN)
                    rows.append(
                        Row(
                            (images, str(depth), start, *(str(width) for width in ends)),
                            tuple(Estimate.of(found[width].scores, reference)
                                  for width, reference in zip(ends, held_against, strict=True)),
                        )
                    )  # fmt: skip
    return ResultTable(
        "Test accuracy over widths: lowest and highest mean", mode,
        ("images", "depth", "start", "lowest at width", "highest at width"),
        ("lowest", "highest"), "a summary of the source, over widths", tuple(rows),
    )  # fmt: skip


def _lead_table(cases: Cases) -> ResultTable:
    rows = []
    for lead in leads(cases):
        case, by_start = lead.case, cases[lead.case]
        rows.append(
            Row(
                (case.images, str(case.depth), str(case.width), lead.rival),
                (
                    Estimate.of(by_start[OURS].scores), Estimate.of(by_start[lead.rival].scores),
                    lead.gain, Estimate(errors_ahead(lead.gain), 0, 1),
                ),
            )
        )  # fmt: skip
    return ResultTable(
        "auto against the best published start of each network", "corrected",
        ("images", "depth", "width", "best published"),
        ("auto", "the published", "auto is ahead by", "in standard errors"), "none", tuple(rows),
    )  # fmt: skip


def swept(by_start: Mapping[str, AtBestRate]) -> dict[float, AtBestRate]:
    """What each alpha came to, in order; nothing where only the published one was trained."""
    found = {a: by_start[n] for a, n in zip(ALPHAS, SWEEP, strict=True) if n in by_start}
    if found and THEIRS in by_start:
        found[PUBLISHED_ALPHA] = by_start[THEIRS]
    return dict(sorted(found.items()))


def _sweep_table(cases: Cases) -> ResultTable:
    rows = [
        Row((c.images, f"{c.width} x {c.depth}", f"{alpha:g}", f"{one.rate:g}"), (_accuracy(one),))
        for c, by_start in cases.items()
        for alpha, one in swept(by_start).items()
    ]
    return ResultTable(
        f"Diagonal + noise over alpha; {PUBLISHED_ALPHA:g} is published", "corrected",
        ("images", "width x depth", "alpha", "learning rate"), ("test accuracy",), "none",
        tuple(rows),
    )  # fmt: skip


def pictures(cases: Cases, mode: Mode) -> tuple[Picture, ...]:
    """Accuracy over widths, over depths and, in the corrected mode, over alpha."""
    of = {case: by_start for case, by_start in cases.items() if case.mode == mode}
    width, depth = MIDDLE
    made = []
    for images in _images(of):
        here = {c: found for c, found in of.items() if c.images == images}
        wide = {float(c.width): found for c, found in here.items() if c.depth == depth}
        deep = {float(c.depth): found for c, found in here.items() if c.width == width}
        made += [
            _over(wide, "width", f"Test accuracy over widths behind {depth} layers: {images}"),
            _over(deep, "depth", f"Test accuracy over depths at width {width}: {images}"),
        ]
    made.append(_alpha_picture(of))
    return tuple(picture for picture in made if picture.curves)


def _over(by_place: Mapping[float, Mapping[str, AtBestRate]], x_title: str, title: str) -> Picture:
    places = sorted(by_place)
    curves = []
    # A single network is no course.
    for start in METHODS if len(places) > 1 else ():
        found = {x: by_place[x][start] for x in places if start in by_place[x]}
        if found:
            curves.append(_curve(start, found))
    ends = ", ".join(f"{curve.name} {curve.y[-1]:.3f}" for curve in curves)
    last = f"{places[-1]:g}" if places else ""
    return Picture(
        title, f"At {x_title} {last}: {ends}.", x_title, "test accuracy", tuple(curves), log_x=True
    )


def _alpha_picture(cases: Cases) -> Picture:
    curves, said = [], []
    for case, by_start in cases.items():
        found = swept(by_start)
        if not found:
            continue
        name = f"{case.images}, {case.width} x {case.depth}"
        curves.append(_curve(name, found))
        best = max(found, key=lambda alpha: mean(found[alpha]))
        said.append(f"{name}: the highest is {mean(found[best]):.3f}, at alpha {best:g}")
        if OURS in by_start:
            level = mean(by_start[OURS])
            curves.append(
                Curve(f"auto, {name}", (min(found), max(found)), (level, level), (), "dashed")
            )
    return Picture(
        "Test accuracy of diagonal + noise over alpha", f"{'; '.join(said)}.", "alpha",
        "test accuracy", tuple(curves), log_x=True,
    )  # fmt: skip


def _curve(name: str, found: Mapping[float, AtBestRate]) -> Curve:
    values = [Estimate.of(one.scores) for one in found.values()]
    errors = tuple(v.standard_error for v in values) if values[0].draws > 1 else ()
    return Curve(name, tuple(found), tuple(v.mean for v in values), errors)
