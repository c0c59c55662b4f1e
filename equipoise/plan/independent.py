"""Schemes that draw the weights of a stack apart from each other."""

from collections.abc import Sequence

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.entry import Inputs
from equipoise.plan.predict import predict
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.diagonal_noise import diagonal_noise
from equipoise.schemes.laws import Law, Zero
from equipoise.schemes.orthogonal import orthogonal
from equipoise.schemes.variance import he, xavier
from equipoise.theory.activations import identity


def laws_apart(stack: Stack, scheme: str, input_rms: float = 1.0) -> list[Law]:
    """The law of each weight under a scheme that looks at one layer at a time."""
    feeds = [identity(), *(h.activation for h in stack.hidden)]
    laws: list[Law] = []
    for affine, feed, follow in zip(stack.affines, feeds, [*feeds[1:], identity()], strict=True):
        fans = affine.fans
        try:
            match scheme:
                case "xavier":
                    laws.append(xavier(fans))
                case "orthogonal":
                    laws.append(orthogonal(feed))
                case "diagonal_noise":
                    laws.append(diagonal_noise(fans, follow))
                case _:
                    laws.append(he(fans, feed, input_rms if not laws else 1.0))
        except ArgumentError as error:
            raise PlanError(f"layer {affine.layer!r}: {error}") from error
    return laws


def plan_apart(stack: Stack, laws: Sequence[Law], inputs: Inputs, reason: str) -> StackPlan:
    """The part of a plan that independent laws make, with what they lead to."""
    expected = predict(stack, laws, inputs.mean_square)
    return StackPlan(
        tuple(laws), tuple(Zero() for _ in laws), expected.signal, expected.gradient, reason,
        expected.log_std,
    )  # fmt: skip
