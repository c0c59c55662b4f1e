"""Why an operation made nan or infinity out of finite numbers, and what helps."""

import math
from collections.abc import Sequence

from equipoise.training.nonfinite_later_cause import derivative_cause, update_cause
from equipoise.training.nonfinite_operation import (
    Cause,
    Operand,
    Operation,
    dtype_of,
    largest_of,
    stem,
)

_EXPONENTIALS = ("exp", "exp2", "expm1", "cosh", "sinh")
_LOGARITHMS = ("log", "log2", "log10", "log1p", "xlogy", "special_xlogy", "logit")
_PRODUCTS = (
    "addmm", "mm", "bmm", "baddbmm", "addbmm", "addmv", "mv", "dot", "vdot", "linear",
    "convolution", "convolution_backward", "mkldnn_rnn_layer",
)  # fmt: skip
_NORMS = ("layer_norm", "batch_norm", "group_norm", "rms_norm", "instance_norm")
_LOSSES = ("nll_loss", "nll_loss2d", "cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss")
_BOUNDED = ("acos", "asin", "atanh", "acosh", "erfinv", "lgamma", "digamma")
_HALF = ("float16", "bfloat16")


def cause_of(operation: Operation) -> Cause:
    """Why an operation made numbers that are not finite.

    Args:
        operation: with the ranges of what went in and came out.
    """
    name = stem(operation.aten)
    match operation.phase:
        case "update":
            return update_cause(operation)
        case "backward":
            return derivative_cause(operation) or _forward(operation, name)
    return _forward(operation, name)


def _forward(op: Operation, name: str) -> Cause:
    values = op.inputs
    if any(x.span.non_finite > 0 for x in values) or any(
        not math.isfinite(number) for _, number in op.numbers
    ):
        return _of_infinities(op, name)
    match name:
        case _ if name in _EXPONENTIALS:
            limit = _log_of_largest(op)
            return Cause(
                f"{name} of {op.absmax_in:.4g} overflows: above {limit:.4g} it is infinite in "
                f"{dtype_of(op)}",
                "Subtract the maximum first (softmax and logsumexp do), stay in logarithms, or "
                f"clamp what goes in below {limit:.4g}.",
            )
        case _ if name in _LOGARITHMS:
            return _logarithm(op, name)
        case "div" | "true_divide" | "reciprocal" | "rsqrt" | "remainder" | "fmod":
            return _division(op, name)
        case "sqrt":
            return Cause(
                f"square root of a negative number ({_least(values):.4g})",
                "Clamp at 0 before the root; rounding makes differences such as E x^2 - (E x)^2 "
                "negative.",
            )
        case "pow" | "float_power":
            return _power(op)
        case "std" | "var" | "std_mean" | "var_mean":
            return Cause(
                "the spread of a single value divides 0 by n - 1 = 0",
                "Pass correction=0, or reduce over more than one value.",
            )
        case "mean" if any(0 in x.span.shape for x in values) or not values:
            return Cause(
                "the mean of nothing is 0 / 0",
                "Leave out empty selections, or divide by max(n, 1).",
            )
        case _ if name in ("softmax", "log_softmax") and not values:
            return Cause("softmax of nothing finite", _MASKED)
        case _ if any(word in name for word in _LOSSES):
            return Cause(
                "the loss averages over no target at all (all are ignored), or overflows",
                "Skip batches whose targets are all ignore_index, or sum and divide by max(n, 1).",
            )
        case _ if any(word in name for word in _NORMS) and _squares_overflow(op):
            return Cause(
                f"the squares in the norm overflow {dtype_of(op)}: inputs go up to "
                f"{op.absmax_in:.4g}",
                "Weights or activations have exploded before it: lower the learning rate, clip "
                "gradients, initialize anew.",
            )
        case _ if any(word in name for word in _NORMS):
            return Cause(
                "the norm divides by a spread of 0",
                "Raise eps (1e-5 in float32, more in half precision); look why the inputs are all "
                "equal.",
            )
        case "to_copy" | "copy":
            return _cast(op)
        case _ if name in _PRODUCTS or "attention" in name:
            return _product(op)
        case _ if name in _BOUNDED:
            return Cause(
                f"{name} of a number outside of where it is defined ({_least(values):.4g} to "
                f"{_most(values):.4g})",
                f"Clamp what goes in, a little inside of the domain of {name}.",
            )
    if dtype_of(op) in _HALF or op.absmax_in > math.sqrt(largest_of(op)):
        return _overflow(op)
    return Cause(
        f"{op.words} made it of finite numbers",
        "Look at the ranges of the inputs: keep them inside of where the operation is defined.",
    )


_MASKED = (
    "A row is masked altogether: keep at least one entry (the token itself), fill with "
    "torch.finfo(dtype).min in place of -inf, or use a softmax that is 0 there."
)


def _of_infinities(op: Operation, name: str) -> Cause:
    """What met infinities that were put there on purpose."""
    match name:
        case "softmax" | "log_softmax" | "safe_softmax":
            return Cause("softmax of a row that is -inf throughout is 0 / 0", _MASKED)
        case _ if "attention" in name:
            return Cause("attention over a row whose mask is -inf throughout", _MASKED)
        case "sub" | "rsub" | "add" | "sum" | "mean" | "cumsum" | "logsumexp":
            return Cause(
                "inf - inf: infinities of opposite meaning cancel",
                "Take the masked entries out before the sum (torch.where, or a large finite "
                "number in place of inf).",
            )
        case "mul":
            return Cause(
                "0 * inf: an infinity meets a factor of 0",
                "Choose with torch.where and do not multiply by a mask; the entry that is not "
                "wanted must be finite too.",
            )
        case "div":
            return Cause(
                "inf / inf", "Divide before the infinity arises: work in logarithms, or clamp."
            )
    return Cause(
        f"{op.words} reads an infinity and cannot end in a number",
        "Take the infinity out before: torch.where, masked_fill, or a large finite number.",
    )


def _logarithm(op: Operation, name: str) -> Cause:
    least = _least(op.inputs)
    if name == "logit":
        return Cause("logit of 0 or 1 is infinite", "Pass eps to torch.logit, or keep the logits.")
    limit = -1.0 if name == "log1p" else 0.0
    if least < limit:
        return Cause(
            f"{name} of a negative number ({least:.4g})",
            "Look why it is negative; clamp what goes in at a small positive number.",
        )
    return Cause(
        f"{name} of {limit:g} is -inf",
        "Add or clamp at a small number before the logarithm, or stay with logits "
        "(log_softmax, logsigmoid, *_with_logits).",
    )


def _division(op: Operation, name: str) -> Cause:
    divisor = op.inputs[-1] if op.inputs else None
    number = next((value for key, value in op.numbers if key == "other"), None)
    smallest = 0.0 if number == 0.0 or divisor is None else _closest_to_zero(divisor)
    if name == "rsqrt" and divisor is not None and divisor.span.minimum < 0:
        return Cause(
            f"1 / square root of a negative number ({divisor.span.minimum:.4g})",
            "Clamp at a small positive number before the root.",
        )
    if smallest == 0.0:
        what = "0 / 0" if op.has_nan else "division by 0"
        return Cause(
            f"{what}: the divisor holds 0",
            "Add a small number to the divisor, or clamp it; where a standard deviation or norm "
            "may vanish, put eps under the root.",
        )
    return Cause(
        f"division overflows: the divisor goes down to {smallest:.4g}",
        "Keep the divisor away from 0 (clamp, eps under the root).",
    )


def _power(op: Operation) -> Cause:
    least = _least(op.inputs[:1])
    exponent = next((value for key, value in op.numbers if key == "exponent"), math.nan)
    if least < 0 and op.has_nan:
        return Cause(
            f"a negative number ({least:.4g}) to a broken power",
            "Clamp the base at 0, or use x.abs().pow(p) * x.sign().",
        )
    if exponent < 0 or (op.outputs and _closest_to_zero(op.inputs[0]) == 0.0):
        return Cause(
            "0 to a negative power is infinite", "Add a small number to the base, or clamp it."
        )
    return _overflow(op)


def _cast(op: Operation) -> Cause:
    to = op.outputs[0].span
    return Cause(
        f"{op.absmax_in:.4g} does not fit into {to.dtype} (largest {to.largest:.4g})",
        "Scale down before the cast, keep this part in float32, or use bfloat16.",
    )


def _product(op: Operation) -> Cause:
    if dtype_of(op) == "float16":
        return Cause(
            f"the products overflow float16 (largest {largest_of(op):.4g}) with inputs up to "
            f"{op.absmax_in:.4g}",
            "Use bfloat16 or float32 here, put a norm before it, or scale the inputs down "
            "(queries before the product).",
        )
    return Cause(
        f"the products overflow {dtype_of(op)} with inputs up to {op.absmax_in:.4g}",
        "Weights or activations have exploded: lower the learning rate, clip gradients, add a "
        "norm, initialize anew.",
    )


def _overflow(op: Operation) -> Cause:
    return Cause(
        f"{op.words} overflows {dtype_of(op)} (largest {largest_of(op):.4g}) with inputs up to "
        f"{op.absmax_in:.4g}",
        "Scale what goes in, or compute it in a wider dtype (bfloat16, float32).",
    )


def written_cause(operation: Operation) -> Cause:
    """What to do about an infinity that the code writes itself and that got through.

    Args:
        operation: that wrote it.
    """
    number = "nan" if operation.has_nan else "infinity"
    return Cause(
        f"the code writes {number} here, and it gets to where numbers must be finite",
        "Look whether a target or a row is masked that must not be; write a large finite number "
        "(torch.finfo(dtype).min) where it may be read.",
    )


def given_cause(operand: Operand) -> Cause:
    """What to do about numbers that were not finite when they came in.

    Args:
        operand: the tensor with what it is and its range.
    """
    source = operand.source
    rows = operand.span.rows
    listed = f", first in rows {', '.join(map(str, rows))}" if rows else ""
    what = f"{source} was not finite before any operation of the block ran{listed}"
    if source.startswith("parameter"):
        return Cause(
            what,
            "The damage is older: load an earlier checkpoint, lower the learning rate, and wrap "
            "the step that breaks it.",
        )
    if source.startswith("buffer"):
        return Cause(what, "Reset running statistics, and look which batch spoilt them.")
    if source.startswith("gradient"):
        return Cause(what, "Call optimizer.zero_grad() first, and wrap the step that made it.")
    return Cause(
        what, "Look at the data: filter or fill these rows (torch.nan_to_num), and check divisions "
        "in their preparation."
    )  # fmt: skip


def _log_of_largest(op: Operation) -> float:
    scale = {"exp2": math.log(2.0)}.get(stem(op.aten), 1.0)
    return math.log(largest_of(op)) / scale


def _squares_overflow(op: Operation) -> bool:
    """Whether sums of squares leave the dtype, with some room for the number of terms."""
    return op.absmax_in > 1e-3 * math.sqrt(largest_of(op))


def _least(values: Sequence[Operand]) -> float:
    return min((x.span.minimum for x in values), default=math.nan)


def _most(values: Sequence[Operand]) -> float:
    return max((x.span.maximum for x in values), default=math.nan)


def _closest_to_zero(value: Operand) -> float:
    """How near to 0 a tensor comes; of one that was overwritten, how near it may have come."""
    low, high, least = value.span.minimum, value.span.maximum, value.span.absmin
    if not math.isnan(least):
        return least
    return 0.0 if low <= 0.0 <= high else min(abs(low), abs(high))
