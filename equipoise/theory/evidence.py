"""What was found out about a function by evaluating it, and how sure that is."""

from dataclasses import dataclass
from typing import Literal

from equipoise import _checks
from equipoise.theory.activation import Activation

Certainty = Literal["exact", "firm", "weak"]
Value = float | bool | str | tuple[float, ...] | None


@dataclass(frozen=True)
class Evidence:
    """One property of a function with the ground for it.

    Attributes:
        property: its name, such as ``parity`` or ``kinks``.
        value: what was found.
        certainty: ``exact`` where the function is a known one; ``firm`` where the claim held at
            fresh random points that took no part in finding it; ``weak`` otherwise.
        how: what was evaluated and how well it agreed, one sentence.
    """

    property: str
    value: Value
    certainty: Certainty
    how: str

    def shown(self) -> str:
        """The value in words.

        >>> Evidence("kinks", (), "firm", "none stood out").shown()
        'none'
        """
        if isinstance(self.value, tuple):
            return ", ".join(f"{v:.10g}" for v in self.value) or "none"
        if isinstance(self.value, float):
            return f"{self.value:.10g}"
        return str(self.value).lower()

    def __str__(self) -> str:
        return f"{self.property}: {self.shown()} ({self.certainty}; {self.how})"


@dataclass(frozen=True)
class Probe:
    """An activation read off a callable, with the evidence for each of its properties.

    Attributes:
        activation: the activation.
        known: whether it is a named activation, recognised by its values.
        evidence: one entry for each property.
    """

    activation: Activation
    known: bool
    evidence: tuple[Evidence, ...]

    def about(self, name: str) -> Evidence:
        """The evidence for one property.

        Args:
            name: name of the property.

        Returns:
            Its evidence.

        Raises:
            ArgumentError: if there is no property of this name.

        >>> import numpy as np
        >>> from equipoise.theory.probe import examine
        >>> examine(lambda x: np.tanh(2 * x)).about("parity").value
        'odd'
        """
        entries = {e.property: e for e in self.evidence}
        return entries[_checks.one_of("name", name, entries)]

    def __str__(self) -> str:
        head = f"{self.activation}, {'a known activation' if self.known else 'not a known one'}"
        return "\n".join([head, *(f"  {e}" for e in self.evidence)])
