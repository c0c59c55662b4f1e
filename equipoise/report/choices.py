"""What a plan chose for each stack, in as few sentences as there are different choices."""

from collections.abc import Sequence

_LAYER, _LAYERS = "layer ", "layers "


def grouped(choices: Sequence[str]) -> tuple[str, ...]:
    """Sentences such as ``layers a to b: why.``, those of equal reasons joined in one.

    Args:
        choices: one sentence for each stack, as a plan has them.

    Returns:
        One sentence for each reason, in the order of first appearance.

    >>> grouped(["layer a: why.", "layer b: why.", "layers c to d: why not."])
    ('2 layers alone (a, b): why.', 'layers c to d: why not.')
    """
    places: dict[tuple[bool, str], list[str]] = {}
    for choice in choices:
        place, _, reason = choice.partition(": ")
        places.setdefault((place.startswith(_LAYERS), reason), []).append(place)
    return tuple(
        f"{_named(found, is_stack) if found[1:] else found[0]}: {reason}"
        for (is_stack, reason), found in places.items()
    )


def _named(places: Sequence[str], is_stack: bool) -> str:
    start, kind = (_LAYERS, "stacks") if is_stack else (_LAYER, "layers alone")
    names = [place.removeprefix(start) for place in places]
    shown = names if len(names) <= 3 else [names[0], names[1], "...", names[-1]]
    return f"{len(places)} {kind} ({', '.join(shown)})"
