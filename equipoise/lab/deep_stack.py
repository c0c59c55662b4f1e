"""Laws of a very deep plain stack, and its weights drawn layer by layer.

A model of 10,000 layers need not exist: a plan for one stack says how each weight is drawn, and
only the weight at hand is held.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.plan.entry import Inputs
from equipoise.plan.independent import laws_apart
from equipoise.plan.nodes import Affine
from equipoise.plan.plan_stack import plan_stack
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.catalogue import parse_scheme
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import Array, Frame, Law, Zero
from equipoise.theory.activations import Activation, identity

# Layers that share streams: what they have factorized is then forgotten.
_TOGETHER = 64
# Schemes that couple the layers of a stack.
_FRAMED = ("auto", "centred", "mirrored", "shifted")
# Their weights or phases depend on more than their own layer.
_NOT_ALONE = ("sampled", "siren")


@dataclass(frozen=True, eq=False)
class DeepStack:
    """How the hidden layers of a stack are drawn.

    Attributes:
        widths: number of inputs, then units of each hidden layer.
        activation: behind each weight.
        names: of the weights.
        weights: their laws, without that of the last weight, which makes the outputs.
        biases: likewise.
        frames: what the laws refer to, by id.
        reason: what was chosen and why.
    """

    widths: tuple[int, ...]
    activation: Activation
    names: tuple[str, ...]
    weights: tuple[Law, ...]
    biases: tuple[Law, ...]
    frames: dict[str, Frame]
    reason: str

    def layers(self, seed: int) -> Iterator[tuple[Array, Array]]:
        """Weight (out, in) and bias (out,) of each hidden layer, drawn when asked for."""
        shapes = list(zip(self.widths[1:], self.widths[:-1], strict=True))
        for first in range(0, len(self.weights), _TOGETHER):
            here = range(first, min(first + _TOGETHER, len(self.weights)))
            given = {self.names[i]: (self.weights[i], shapes[i]) for i in here}
            streams = Streams(seed, self.frames, weights=given)
            for i in here:
                weight = draw(self.weights[i], self.names[i], shapes[i], streams)
                yield weight, draw(self.biases[i], f"{i}.bias", shapes[i][:1], streams)

    def values(self, inputs: Array, seed: int) -> Iterator[Array]:
        """What each hidden layer makes of inputs, shape (rows, units), one after another."""
        values = inputs
        for weight, bias in self.layers(seed):
            made = values @ weight.T
            if bias.any():
                made += bias
            values = self.activation.f(made)
            yield values


@lru_cache(maxsize=8)
def deep_stack(activation: Activation, widths: tuple[int, ...], scheme: str) -> DeepStack:
    """The laws of a stack for inputs of RMS 1.

    Args:
        activation: behind each hidden weight.
        widths: number of inputs, then units of each hidden layer, at least one of them. As many
            outputs follow as there are units in the last, but are not drawn.
        scheme: of the catalogue, with options in brackets.

    Returns:
        The stack.

    Raises:
        ArgumentError: for a scheme or option that is not known, or one whose weights cannot be
            drawn layer by layer.
        PlanError: if the scheme cannot serve the activation.

    >>> from equipoise.theory import activations
    >>> made = deep_stack(activations.tanh(), (4, 6, 4), "orthogonal")
    >>> [weight.shape for weight, _ in made.layers(0)]
    [(6, 4), (4, 6)]
    """
    wanted = parse_scheme(scheme)
    if wanted.name in _NOT_ALONE:
        raise ArgumentError(
            f"scheme must be one whose weights are drawn layer by layer, got {scheme!r}. "
            "Use another, or a model."
        )
    if len(widths) < 2 or min(widths) < 1:
        raise ArgumentError(
            f"widths must hold the inputs and at least one hidden layer, each 1 or more, got "
            f"{list(widths)}. Add a layer."
        )
    depth = len(widths) - 1
    sizes = [*pairwise(widths), (widths[-1], widths[-1])]
    affines = tuple(
        Affine(f"{i}", f"{i}.weight", f"{i}.bias", 2 * i, 2 * i + 1, i, i + 1, n_in, n_out)
        for i, (n_in, n_out) in enumerate(sizes)
    )
    hidden = tuple(Hidden(i + 1, width, activation) for i, width in enumerate(widths[1:]))
    stack = Stack(affines, hidden, identity(), 2 * depth + 1, (True,) * (depth + 1))
    names = tuple(affine.weight for affine in affines[:-1])
    if wanted.name not in _FRAMED:
        # Expectations of 10,000 layers would take longer than the layers themselves.
        laws = tuple(laws_apart(stack, wanted))[:-1]
        zeros = (Zero(),) * depth
        return DeepStack(widths, activation, names, laws, zeros, {}, f"{wanted}, as asked for")
    planned = plan_stack(stack, scheme, Inputs(1.0, np.empty(0)))
    return DeepStack(
        widths, activation, names, planned.weights[:-1], planned.biases[:-1],
        {frame.id: frame for frame in planned.frames}, planned.reason,
    )  # fmt: skip
