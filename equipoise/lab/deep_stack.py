"""Laws of a very deep plain stack, and its weights drawn layer by layer.

A model of 10,000 layers need not exist: a plan for one stack says how each weight is drawn, and
only the weight at hand is held.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

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
    """How the hidden layers of a stack of constant width are drawn.

    Attributes:
        width: inputs and units of each layer.
        activation: behind each weight.
        names: of the weights.
        weights: their laws, without that of the last weight, which makes the outputs.
        biases: likewise.
        frames: what the laws refer to, by id.
        reason: what was chosen and why.
    """

    width: int
    activation: Activation
    names: tuple[str, ...]
    weights: tuple[Law, ...]
    biases: tuple[Law, ...]
    frames: dict[str, Frame]
    reason: str

    def layers(self, seed: int) -> Iterator[tuple[Array, Array]]:
        """Weight (width, width) and bias (width,) of each hidden layer, drawn when asked for."""
        shape = (self.width, self.width)
        for first in range(0, len(self.weights), _TOGETHER):
            stop = first + _TOGETHER
            laws = zip(self.names[first:stop], self.weights[first:stop], strict=True)
            given = {name: (law, shape) for name, law in laws}
            streams = Streams(seed, self.frames, weights=given)
            for i in range(first, min(stop, len(self.weights))):
                name = self.names[i]
                weight = draw(self.weights[i], name, shape, streams)
                bias = draw(self.biases[i], f"{i}.bias", (self.width,), streams)
                yield weight, bias

    def values(self, inputs: Array, seed: int) -> Iterator[Array]:
        """What each hidden layer makes of inputs, shape (rows, width), one after another."""
        values = inputs
        for weight, bias in self.layers(seed):
            values = self.activation.f(values @ weight.T + bias)
            yield values


@lru_cache(maxsize=8)
def deep_stack(activation: Activation, width: int, depth: int, scheme: str) -> DeepStack:
    """The laws of a stack of constant width for inputs of RMS 1.

    Args:
        activation: behind each hidden weight.
        width: inputs and units of each layer, at least 2.
        depth: hidden layers, at least 1.
        scheme: of the catalogue, with options in brackets.

    Returns:
        The stack.

    Raises:
        ArgumentError: for a scheme or option that is not known, or one whose weights cannot be
            drawn layer by layer.
        PlanError: if the scheme cannot serve the activation.

    >>> from equipoise.theory import activations
    >>> made = deep_stack(activations.tanh(), 4, 3, "orthogonal")
    >>> [weight.shape for weight, _ in made.layers(0)]
    [(4, 4), (4, 4), (4, 4)]
    """
    wanted = parse_scheme(scheme)
    if wanted.name in _NOT_ALONE:
        raise ArgumentError(
            f"scheme must be one whose weights are drawn layer by layer, got {scheme!r}. "
            "Use another, or a model."
        )
    affines = tuple(
        Affine(f"{i}", f"{i}.weight", f"{i}.bias", 2 * i, 2 * i + 1, i, i + 1, width, width)
        for i in range(depth + 1)
    )
    hidden = tuple(Hidden(i + 1, width, activation) for i in range(depth))
    stack = Stack(affines, hidden, identity(), 2 * depth + 1, (True,) * (depth + 1))
    names = tuple(affine.weight for affine in affines[:-1])
    if wanted.name not in _FRAMED:
        # Expectations of 10,000 layers would take longer than the layers themselves.
        laws = tuple(laws_apart(stack, wanted))[:-1]
        zeros = (Zero(),) * depth
        return DeepStack(width, activation, names, laws, zeros, {}, f"{wanted}, as asked for")
    planned = plan_stack(stack, scheme, Inputs(1.0, np.empty(0)))
    return DeepStack(
        width, activation, names, planned.weights[:-1], planned.biases[:-1],
        {frame.id: frame for frame in planned.frames}, planned.reason,
    )  # fmt: skip
