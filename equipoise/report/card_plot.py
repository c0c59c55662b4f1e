"""The picture of a card: the function, its critical curve, and what depth does to gradients."""

from pathlib import Path
from typing import Any

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.report.card import Card
from equipoise.theory.activations import Activation

_ENDINGS = (".svg", ".png", ".pdf")
_INK = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")


def draw_card(card: Card, path: str | Path) -> Path:
    """Draw a card and write it.

    Args:
        card: the card.
        path: where to; the ending says as what: .svg, .png or .pdf.

    Returns:
        The path.

    Raises:
        ArgumentError: as ``check_path``.

    >>> from equipoise.report.card import make_card
    >>> from equipoise.theory import activations
    >>> draw_card(make_card(activations.relu(), 8, 5), "card.gif")
    Traceback (most recent call last):
        ...
    equipoise.errors.ArgumentError: path must end in .svg, .png or .pdf, got .gif. Rename.
    """
    path = check_path(path)
    # The object interface: no window system, and no state of the caller's pyplot is touched.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    figure.suptitle(
        f"{card.function}   width {card.width}, depth {card.depth}   "
        f"class: {card.classification.kind.value}"
    )
    places = figure.subplots(2, 2)
    _function(places[0, 0], card.function)
    _critical(places[0, 1], card)
    _gradients(places[1, 0], card)
    _expected(places[1, 1], card)
    figure.savefig(path, dpi=130)
    return path


def check_path(path: str | Path) -> Path:
    """The path of a picture that can be drawn; refuses others before any work is done.

    Raises:
        ArgumentError: for another ending or a missing folder, or if matplotlib is not installed.

    >>> check_path("card.svg").name
    'card.svg'
    """
    path = Path(path)
    if path.suffix not in _ENDINGS:
        raise ArgumentError(
            f"path must end in .svg, .png or .pdf, got {path.suffix or path.name}. Rename."
        )
    if not path.parent.is_dir():
        raise ArgumentError(
            f"path must lie in a folder that is there, got {path}. Make {path.parent} first."
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            "a picture needs matplotlib, which is not installed. Install 'equipoise[plot]', or "
            "leave --plot out."
        ) from error
    return path


def _function(place: Any, f: Activation) -> None:
    x = np.linspace(-4, 4, 801)
    # A gap, not a slope, where the function or its derivative jumps.
    slopes, values = f.df(x), f.f(x)
    for breaks, y in ((f.jumps, values), ((*f.jumps, *f.corners), slopes)):
        for b in breaks:
            y[np.abs(x - b) < 0.006] = np.nan
    place.plot(x, values, color=_INK[0], label="f")
    place.plot(x, slopes, color=_INK[1], linewidth=1, label="f'")
    place.plot(x, (f.f(x) - f.f(-x)) / 2, color=_INK[2], linestyle="--", label="odd part")
    place.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    place.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    # Steep slopes, such as those of sin(30 z), would squeeze the function into a line.
    reach = 1.2 * float(np.nanmax(np.abs(values))) + 0.1
    low, high = place.get_ylim()
    place.set_ylim(max(low, -2 * reach), min(high, 2 * reach))
    _title(place, "the function")
    place.set(xlabel="z")
    place.legend()


def _critical(place: Any, card: Card) -> None:
    _title(place, "growth of the squared gradient per layer, at a held level")
    place.set(xlabel="q = E z²", ylabel="χ₁")
    if not card.curve:
        place.text(0.5, 0.5, "f jumps: χ₁ is infinite", ha="center", transform=place.transAxes)
        return
    q = [point.q for point in card.curve]
    place.semilogx(q, [p.chi_1 for p in card.curve], color=_INK[0], label="no bias")
    centred = [p.centred for p in card.curve]
    if any(p.centred != p.chi_1 for p in card.curve):
        place.semilogx(q, centred, color=_INK[2], linestyle="--", label="centred at f(0)")
    place.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    top = max(min(3.0, max(centred)), 1.1)
    place.set_ylim(min(0.95, *(p.chi_1 for p in card.curve)), top * 1.05)
    place.legend()


def _gradients(place: Any, card: Card) -> None:
    _title(place, f"gradient over {card.depth} layers of width {card.width}: mean ± one spread")
    place.set(xlabel="log₁₀ of first over last")
    if not card.growths:
        place.text(0.5, 0.5, "no law covers this function", ha="center", transform=place.transAxes)
        return
    rows = list(reversed(card.growths))
    heights = range(len(rows))
    place.axvspan(-1, 1, color="0.93", zorder=0)
    place.errorbar([r.decades for r in rows], heights, xerr=[r.spread for r in rows], fmt="o",
                   color=_INK[0], capsize=4)  # fmt: skip
    place.set_yticks(list(heights), [f"{r.name}\n{r.odds:.0%} within a decade" for r in rows])
    place.set_ylim(-0.6, len(rows) - 0.4)


def _expected(place: Any, card: Card) -> None:
    _title(place, f"expected under {card.scheme}: {card.laws[1]}")
    place.set(xlabel="layer")
    layers = range(1, len(card.signal) + 1)
    lines = ((card.signal, "signal RMS", "-"), (card.gradient, "gradient RMS", "--"))
    for colour, (y, label, style) in zip(_INK, lines, strict=False):
        if np.isfinite(y).all() and min(y) > 0:
            place.semilogy(layers, y, color=colour, linestyle=style, label=label)
    if place.get_legend_handles_labels()[0]:
        low, high = place.get_ylim()
        # A line that is straight should look straight.
        place.set_ylim(min(low, 0.1), max(high, 10.0))
        place.legend()


def _title(place: Any, text: str) -> None:
    place.set_title(text, fontsize=10, loc="left")
