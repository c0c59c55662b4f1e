"""What only derivatives and optimizer steps do wrong."""

import math

from equipoise.training.nonfinite_operation import (
    Cause,
    Operation,
    dtype_of,
    largest_of,
    stem,
)


def derivative_cause(op: Operation) -> Cause | None:
    """Causes that only the derivative has, None where the operation fails as in the forward pass.

    Args:
        op: an operation of the backward pass.
    """
    node = op.node.rstrip("0123456789").removesuffix("Backward")
    # Weight gradients and the like are products, and fail as such.
    double = (
        "If it lies behind torch.where, the branch that was not taken is differentiated too: "
        "make its input safe with a torch.where before it."
    )
    match node:
        case "Sqrt":
            return Cause(
                "the derivative of the square root at 0 is infinite",
                f"Put eps under the root: sqrt(x + eps). {double}",
            )
        case "Log" | "Log2" | "Log10" | "Log1P" | "Xlogy":
            return Cause(
                "the derivative of the logarithm at 0 is infinite",
                f"Clamp what goes in at a small positive number. {double}",
            )
        case "Div" | "Reciprocal" | "Rsqrt":
            return Cause(
                "the derivative of a division by 0, or by nearly 0",
                f"Add a small number to the divisor. {double}",
            )
        case "Pow":
            return Cause(
                "the derivative of a power below 1 at 0 is infinite",
                f"Add a small number to the base. {double}",
            )
        case "Acos" | "Asin" | "Atanh" | "Acosh":
            return Cause(
                f"the derivative of {node.lower()} at the end of its domain is infinite",
                "Clamp what goes in a little inside: x.clamp(-1 + eps, 1 - eps).",
            )
        case "LinalgVectorNorm" | "Norm":
            return Cause(
                "the derivative of a norm of 0", "Use sqrt(x.square().sum() + eps) instead."
            )
        case "LinalgSvd" | "LinalgEigh" | "LinalgEig" | "LinalgQr":
            return Cause(
                "the derivative of a decomposition with equal (or zero) singular or eigenvalues",
                "Add a small multiple of the identity, or use a part that does not need vectors.",
            )
    if node.startswith(("NativeLayerNorm", "NativeBatchNorm", "NativeGroupNorm", "FusedRmsNorm")):
        return Cause("the derivative of a norm whose spread is 0 or nearly so", "Raise eps.")
    return None


def update_cause(op: Operation) -> Cause:
    """Why an optimizer's step made numbers that are not finite.

    Args:
        op: an operation of the step.
    """
    name, numbers = stem(op.aten), dict(op.numbers)
    wild = [key for key, value in numbers.items() if not math.isfinite(value)]
    if wild:
        return Cause(
            f"the optimizer's own {wild[0]} is {numbers[wild[0]]}",
            "Look at the learning rate and its schedule: division by 0 steps, or an overflow.",
        )
    if name in ("addcdiv", "div") and op.has_nan:
        half = any(x.span.dtype == "float16" for x in op.inputs)
        why = "eps underflows to 0 in float16" if half else "eps is 0"
        return Cause(
            f"the step divides 0 by a root of 0: {why} and an entry had no gradient",
            "Keep parameters and optimizer state in float32."
            if half else "Give the optimizer an eps above 0 (1e-8).",
        )  # fmt: skip
    if name in ("addcmul", "mul", "pow") and op.absmax_in > math.sqrt(largest_of(op)) / 2:
        return Cause(
            f"the square of a gradient of {op.absmax_in:.4g} overflows {dtype_of(op)}",
            "Clip gradients before the step; keep the optimizer's state in float32.",
        )
    return Cause(
        f"the step overflows {dtype_of(op)} (largest {largest_of(op):.4g}) with numbers up to "
        f"{op.absmax_in:.4g}",
        "Lower the learning rate, warm it up and clip gradients; weights in float16 need a "
        "float32 copy.",
    )
