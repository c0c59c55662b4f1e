"""Stacks of sines that read coordinates, and the published law for them."""

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.stacks import Stack
from equipoise.schemes.catalogue import Scheme
from equipoise.schemes.laws import Law, Zero
from equipoise.schemes.siren import frequency_of, sine_frequency, siren, siren_phase

# Space, time and one more: what reads more numbers than these reads features.
_MOST_COORDINATES = 4


def siren_laws(stack: Stack, scheme: Scheme) -> list[Law]:
    """Laws of the weights of a stack of sines.

    Args:
        stack: the layers; the first one reads coordinates unless a sine stands before it.
        scheme: ``siren`` with its options.

    Returns:
        A law for each weight.

    Raises:
        PlanError: naming the layer whose activation is not odd.
    """
    c, first = scheme.number("c"), scheme.number("first")
    behind = [h.activation for h in stack.hidden]
    # The last layer is followed by nothing: it is scaled as the ones before it are.
    last = behind[-1] if behind else stack.exit_activation
    is_first = sine_frequency(stack.entry_activation) == 0.0
    laws: list[Law] = []
    for place, (affine, f) in enumerate(zip(stack.affines, [*behind, last], strict=True)):
        try:
            w = frequency_of(f)
        except ArgumentError as error:
            raise PlanError(f"layer {affine.layer!r}: {error}") from error
        laws.append(siren(affine.fans, w, c, is_first and place == 0, first))
    return laws


def siren_phases(stack: Stack) -> list[Law]:
    """Laws of the biases of a stack of sines."""
    return [
        siren_phase(affine.fans) if can_shift else Zero()
        for affine, can_shift in zip(stack.affines, stack.can_shift, strict=True)
    ]


def reads_coordinates(stack: Stack) -> bool:
    """Whether a stack is a network of sines on few coordinates, whose frequency is set on purpose.

    It is where a first layer of four inputs or fewer feeds sin(w x) with w above 1, and only sines
    lie between the others.
    """
    frequencies = [sine_frequency(h.activation) for h in stack.hidden]
    few = stack.affines[0].in_size <= _MOST_COORDINATES and not stack.affines[0].convolution.kernel
    return few and bool(frequencies) and all(frequencies) and frequencies[0] > 1.0
