"""An operation with what went in and came out, and the names that a user knows it by."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from equipoise.training.nonfinite_place import Line
from equipoise.training.nonfinite_span import Span

Phase = Literal["forward", "backward", "update"]

# Names of torch's inner operations whose meaning their own name hides; the others are read as
# they are, without the underscores that mark them as inner or in place.
_WORDS: Mapping[str, str] = {
    "addmm": "linear layer (x @ W + b)",
    "mm": "matrix product",
    "bmm": "batched matrix product",
    "baddbmm": "batched matrix product with a sum",
    "addbmm": "batched matrix product with a sum",
    "addmv": "matrix times vector with a sum",
    "mv": "matrix times vector",
    "dot": "dot product",
    "vdot": "dot product",
    "linear": "linear layer (x @ W + b)",
    "mkldnn_rnn_layer": "LSTM layer",
    "convolution": "convolution",
    "convolution_overrideable": "convolution",
    "convolution_backward": "gradient of convolution",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "safe_softmax": "softmax",
    "softmax_backward_data": "gradient of softmax",
    "log_softmax_backward_data": "gradient of log_softmax",
    "native_layer_norm": "layer norm",
    "native_layer_norm_backward": "gradient of layer norm",
    "native_batch_norm": "batch norm",
    "native_batch_norm_legit": "batch norm",
    "native_batch_norm_legit_no_training": "batch norm",
    "batch_norm_with_update": "batch norm",
    "cudnn_batch_norm": "batch norm",
    "native_batch_norm_backward": "gradient of batch norm",
    "native_group_norm": "group norm",
    "native_group_norm_backward": "gradient of group norm",
    "fused_rms_norm": "RMS norm",
    "linalg_vector_norm": "vector norm",
    "scaled_dot_product_flash_attention_for_cpu": "attention",
    "scaled_dot_product_flash_attention": "attention",
    "scaled_dot_product_efficient_attention": "attention",
    "scaled_dot_product_cudnn_attention": "attention",
    "scaled_dot_product_fused_attention_overrideable": "attention",
    "scaled_dot_product_flash_attention_for_cpu_backward": "gradient of attention",
    "scaled_dot_product_flash_attention_backward": "gradient of attention",
    "scaled_dot_product_efficient_attention_backward": "gradient of attention",
    "nll_loss_forward": "negative log-likelihood",
    "nll_loss2d_forward": "negative log-likelihood",
    "nll_loss_backward": "gradient of negative log-likelihood",
    "native_dropout": "dropout",
    "div": "division",
    "true_divide": "division",
    "floor_divide": "division rounded down",
    "reciprocal": "reciprocal (1 / x)",
    "mul": "product",
    "sub": "difference",
    "rsub": "difference",
    "add": "sum of two",
    "neg": "negation",
    "sqrt": "square root",
    "rsqrt": "1 / square root",
    "exp": "exp",
    "pow": "power",
    "to_copy": "cast to another dtype",
    "copy": "copy",
    "sum": "sum",
    "mean": "mean",
    "std": "standard deviation",
    "var": "variance",
    "std_mean": "standard deviation",
    "var_mean": "variance",
    "addcdiv": "parameter step (x + a b / c)",
    "addcmul": "x + a b c",
    "lerp": "running mean",
    "fused_adam": "Adam step",
    "fused_adamw": "AdamW step",
    "fused_sgd": "SGD step",
    "mse_loss": "mean squared error",
    "mse_loss_backward": "gradient of mean squared error",
    "binary_cross_entropy": "binary cross-entropy",
    "binary_cross_entropy_backward": "gradient of binary cross-entropy",
}


@dataclass(frozen=True)
class Operand:
    """A tensor that went into an operation or came out of it.

    Attributes:
        name: of the argument, or ``output``.
        source: what it is where that is known, such as ``parameter 'fc.weight'``; else ''.
        span: its range.
    """

    name: str
    source: str
    span: Span

    def __str__(self) -> str:
        return f"{self.name}{f' ({self.source})' if self.source else ''}: {self.span}"


@dataclass(frozen=True)
class Operation:
    """One call of an operation, as evidence.

    Attributes:
        aten: torch's own name of the operation, such as ``div``.
        phase: part of the step that it ran in.
        node: node of the backward pass that ran it, such as ``SqrtBackward0``, else ''.
        module: path of the module that asked for it, '' for the model itself, None outside.
        lines: user code that asked for it, innermost first; of an operation of the backward pass,
            the code of the forward pass that it belongs to.
        is_recomputed: whether it ran in the backward pass to make the forward one again.
        inputs, outputs: with their ranges.
        numbers: numbers among the arguments, by name.
        made_at: forward code of an operation that user code ran in the backward pass.
    """

    aten: str
    phase: Phase
    node: str
    module: str | None
    lines: tuple[Line, ...]
    is_recomputed: bool
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    numbers: tuple[tuple[str, float], ...] = ()
    made_at: tuple[Line, ...] = ()

    @property
    def words(self) -> str:
        """What it is called, in words."""
        return words_of(self.aten)

    @property
    def where(self) -> str:
        """Module, or the line outside of the model."""
        if self.module:
            return self.module
        return "the model's own forward" if self.module == "" else "outside the model"

    @property
    def has_nan(self) -> bool:
        """Whether nan came out, and not infinities alone."""
        return any(x.span.nan > 0 for x in self.outputs)

    @property
    def absmax_in(self) -> float:
        """Largest absolute value that went in, 0 where there is none."""
        found = [x.span.absmax for x in self.inputs if not math.isnan(x.span.absmax)]
        return max(found, default=0.0)


@dataclass(frozen=True)
class Cause:
    """Why, and what helps.

    Attributes:
        what: the fact in words.
        remedy: what to do.
    """

    what: str
    remedy: str


def dtype_of(op: Operation) -> str:
    """Dtype of what came out."""
    return next((x.span.dtype for x in op.outputs), "its dtype")


def largest_of(op: Operation) -> float:
    """Largest number that the dtype of what came out can hold."""
    return next((x.span.largest for x in op.outputs), math.inf)


def stem(name: str) -> str:
    """Name of an operation without the marks of inner, in-place and list forms.

    >>> stem("_foreach_addcdiv_")
    'addcdiv'
    """
    return name.strip("_").removeprefix("foreach_")


def words_of(name: str) -> str:
    """An operation of torch in words that a user knows.

    >>> words_of("native_layer_norm")
    'layer norm'
    """
    plain = stem(name)
    if plain in _WORDS:
        return _WORDS[plain]
    if plain.endswith("_backward"):
        return f"gradient of {words_of(plain.removesuffix('_backward'))}"
    return plain.replace("_", " ")
