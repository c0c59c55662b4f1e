"""What a plan chose for each stack, in as few sentences as there are different choices."""

from collections.abc import Sequence

from equipoise.plan.plan import Untouched

_LAYER, _LAYERS = "layer ", "layers "
_MOST_NAMED = 3


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


def kept(untouched: Sequence[Untouched]) -> tuple[str, ...]:
    """Sentences on parameters that keep their values, many of one reason joined in one.

    Args:
        untouched: the parameters, in the order of the model.

    Returns:
        One sentence for each, or for all that share a reason where these are more than three.

    >>> kept([Untouched(f"{i}.weight", (2, 2), "why") for i in range(9)])
    ('untouched 9 parameters (0.weight, 1.weight, ..., 8.weight): why',)
    """
    reasons: dict[str, list[str]] = {}
    for one in untouched:
        reasons.setdefault(one.reason, []).append(one.parameter)
    lines = list[str]()
    for reason, names in reasons.items():
        if len(names) > _MOST_NAMED:
            named = f"{len(names)} parameters ({names[0]}, {names[1]}, ..., {names[-1]})"
            lines.append(f"untouched {named}: {reason}")
        else:
            lines += [f"untouched {name}: {reason}" for name in names]
    return tuple(lines)
