"""What may stand in the brackets behind a name: options, their ranges, and their refusals."""

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.call_text import Call, Value


@dataclass(frozen=True)
class Option:
    """One option of a scheme, or of whatever else goes by a name with brackets.

    Attributes:
        name: as it is written.
        default: its value where it is left out.
        meaning: what it is, in a few words.
        least, most: range of a number; the ends count unless ``is_open``.
        is_open: whether the ends themselves are excluded.
        is_whole: whether the number must be an integer.
        choices: the words that are allowed, empty for numbers.
    """

    name: str
    default: Value
    meaning: str
    least: float = float("-inf")
    most: float = float("inf")
    is_open: bool = False
    is_whole: bool = False
    choices: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The values that are allowed, in words.

        >>> Option("draws", 16, "number of candidates", 1, 4096, is_whole=True).requirement
        'an integer from 1 to 4096'
        """
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = "an integer" if self.is_whole else "a number"
        if self.is_open:
            bounds = [f"above {self.least:g}"] * (self.least > float("-inf"))
            bounds += [f"below {self.most:g}"] * (self.most < float("inf"))
            return " ".join([kind, " and ".join(bounds)]).rstrip()
        if self.most < float("inf"):
            return f"{kind} from {self.least:g} to {self.most:g}"
        return f"{kind} of at least {self.least:g}" if self.least > float("-inf") else kind

    def allows(self, value: Value) -> bool:
        """Whether a value may be given.

        >>> Option("order", 1.0, "s", 0, 4, is_open=True).allows(4.0)
        False
        """
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if isinstance(value, str | bool) or not abs(value) < float("inf"):
            return False
        if self.is_whole and value != int(value):
            return False
        if self.is_open:
            return self.least < value < self.most
        return self.least <= value <= self.most


def options_given(owner: str, options: Sequence[Option], call: Call) -> dict[str, Value]:
    """The options that a call sets, each of them known, given once and within its range.

    Args:
        owner: whose options they are, in the words of a refusal: ``scheme 'he'``.
        options: what may be set; none where brackets are out of place.
        call: the text, as read.

    Returns:
        Values by name, in the order in which they were written.

    Raises:
        ArgumentError: naming the option that is unknown, or the value that it cannot have.

    >>> from equipoise.schemes.call_text import read_call
    >>> order = Option("order", 1.0, "s", 0.0, 4.0, is_open=True)
    >>> options_given("scheme 'a'", [order], read_call("a(order=0.5)", "scheme", "a"))
    {'order': 0.5}
    """
    known = {option.name: option for option in options}
    forms = ", ".join(f"{o.name}={o.default!r}" for o in options) or "no options"
    if call.given:
        raise ArgumentError(
            f"options of {owner} must be written by name, got {call.given[0]!r}. It has {forms}."
        )
    found: dict[str, Value] = {}
    for name, value in call.named:
        if not known:
            raise ArgumentError(
                f"{owner} must stand without options, got {name}={value!r}. Leave the brackets out."
            )
        option = known[_checks.one_of(f"option of {owner}", name, known)]
        if name in found or not option.allows(value):
            what = "given once" if name in found else option.requirement
            raise ArgumentError(
                f"{name} of {owner} must be {what}, got {value!r}. It is {option.meaning}; its "
                f"default is {option.default!r}."
            )
        found[name] = value
    return found
