"""Stacks of sines that read coordinates, and the published law for them."""

import math

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.stacks import Stack
from equipoise.schemes.catalogue import Scheme
from equipoise.schemes.laws import Law, Orthogonal, Zero
from equipoise.schemes.siren import frequency_of, sine_frequency, siren, siren_phase

# Space, time and one more: what reads more numbers than these reads features.
_MOST_COORDINATES = 4
# RMS of outputs where none was asked for: what a network of sines starts with is noise of all its
# frequencies, which must first be unlearned. Measured on 64 x 64 pixels, 400 steps at the best of
# three rates, log10 of variance over error: 1.5 at RMS 1, 2.0 at 0.3, 1.9 at 0.05 and from the
# published law (``benchmarks/any_model.py``); on pixels held back (``benchmarks/sines.py``) 16.9
# and 18.3 dB at RMS 1, 18.0 and 18.9 at 0.3, 15.0 and 17.3 at 0.05, 16.9 and 17.1 as published.
QUIET_FIELD = 0.3


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


def sine_laws(stack: Stack, exit_rms: float) -> tuple[list[Law], list[Law]]:
    """Laws of weights and biases that ``auto`` gives a network of sines on coordinates.

    The first layer is the published one, phases and all. Behind it every sine gets numbers of
    variance 1 through orthogonal weights, and no further phases: on a picture of 64 x 64 pixels
    both the pixels that were fitted and those left out came out no worse than from the published
    law, at the best of several learning rates (``benchmarks/sines.py``).

    Args:
        stack: one that ``reads_coordinates``.
        exit_rms: RMS of the outputs.

    Returns:
        Laws of the weights, and of the biases.
    """
    first = stack.affines[0]
    w = sine_frequency(stack.hidden[0].activation)
    weights: list[Law] = [siren(first.fans, w, is_first=True)]
    biases: list[Law] = [siren_phases(stack)[0]]
    # Sines of phases that are spread over periods have second moment 1/2.
    feeding = 0.5
    targets = [1.0 / sine_frequency(h.activation) for h in stack.hidden[1:]] + [exit_rms]
    for affine, target in zip(stack.affines[1:], targets, strict=True):
        widening = math.sqrt(max(1.0, affine.out_size / affine.in_size))
        weights.append(Orthogonal(target / math.sqrt(feeding) * widening))
        biases.append(Zero())
        # E sin(z)^2, z ~ N(0, 1).
        feeding = 0.5 * (1.0 - math.exp(-2.0))
    return weights, biases


def reads_coordinates(stack: Stack) -> bool:
    """Whether a stack is a network of sines on few coordinates, whose frequency is set on purpose.

    It is where a first layer of four inputs or fewer feeds sin(w x) with w above 1, and only sines
    lie between the others.
    """
    frequencies = [sine_frequency(h.activation) for h in stack.hidden]
    few = stack.affines[0].in_size <= _MOST_COORDINATES
    is_dense = not any(a.convolution.kernel for a in stack.affines)
    return few and is_dense and bool(frequencies) and all(frequencies) and frequencies[0] > 1.0
