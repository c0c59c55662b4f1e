"""Schemes that draw the weights of a stack apart from each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Affine
from equipoise.plan.predict import predict
from equipoise.plan.siren_plan import siren_laws
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.call_text import activation_text
from equipoise.schemes.catalogue import Scheme
from equipoise.schemes.diagonal_noise import PUBLISHED_ALPHA, diagonal_noise, odd_sigmoid_scale
from equipoise.schemes.draw import PROBES
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import BestOf, Identity, Law, Matrix, Taps, Zero
from equipoise.schemes.lyapunov import is_two_lines, kept_moment, kept_moment_at_unit_level
from equipoise.schemes.orthogonal import orthogonal
from equipoise.schemes.variance import he, lecun, xavier
from equipoise.theory.activations import Activation, identity
from equipoise.theory.hermite import statistics


@dataclass(frozen=True)
class _Layer:
    """One layer of a stack, for a scheme that looks at one layer at a time.

    Attributes:
        affine: the layer.
        feed: activation whose values it reads, the identity where the inputs are read.
        follow: activation applied to what it makes, the identity for outputs of the model.
        feeding: number of units that feed it.
        before: the weight whose values it reads site by site, '' where there is none.
        depth: number of layers of the stack.
        is_exact: whether every activation of the stack is a line on each side of 0.
        input_rms: RMS of what enters the stack where this layer reads it, else 1.
    """

    affine: Affine
    feed: Activation
    follow: Activation
    feeding: int
    before: str
    depth: int
    is_exact: bool
    input_rms: float


def laws_apart(stack: Stack, scheme: Scheme, input_rms: float | None = None) -> list[Law]:
    """The law of each weight under a scheme that looks at one layer at a time.

    Args:
        stack: the layers.
        scheme: any but ``auto`` and those on frames.
        input_rms: RMS of what enters, which He's rule brings to 1; left out, the rule looks at the
            activation before the stack instead, and takes inputs of the model to have RMS 1.

    Returns:
        A law for each weight.

    Raises:
        PlanError: naming the layer that the scheme cannot serve, and the remedy.
    """
    if scheme.name == "siren":
        return siren_laws(stack, scheme)
    laws: list[Law] = []
    for layer in _layers(stack, input_rms):
        try:
            laws.append(_law(layer, scheme))
        except ArgumentError as error:
            raise PlanError(f"layer {layer.affine.layer!r}: {error}") from error
    return laws


def plan_apart(
    stack: Stack, laws: Sequence[Law], inputs: Inputs, reason: str, biases: Sequence[Law] = ()
) -> StackPlan:
    """The part of a plan that independent laws make, with what they lead to; biases are 0."""
    biases = tuple(biases) or tuple(Zero() for _ in laws)
    expected = predict(stack, laws, inputs, biases)
    return StackPlan(
        tuple(laws), biases, expected.signal, expected.gradient, reason,
        max(expected.log_std), expected=expected,
    )  # fmt: skip


def why_apart(stack: Stack, scheme: Scheme) -> str:
    """What a reader should know about a scheme that was asked for, in one sentence."""
    reason = f"{scheme}, as asked for"
    if scheme.name in ("lyapunov", "sampled", "fractional_moment"):
        inexact = next((h.activation for h in stack.hidden if not is_two_lines(h.activation)), None)
        if inexact is not None:
            reason += (
                f"; {inexact} is not a line on each side of 0, so the scale is of first order in "
                "1 / width at preactivations of variance 1"
            )
        elif any(a.convolution.taps > 1 for a in stack.affines):
            reason += "; kernels are scaled for images that are alike at all positions"
    if scheme.name == "sampled":
        draws = int(scheme.number("draws"))
        reason += (
            f"; each weight is the one of {draws} draws after which {PROBES} Gaussian probes have "
            f"come nearest to their level, at {draws} times the cost of drawing"
        )
    if scheme.name == "orthogonal" and scheme.word("kernel") == "delta":
        narrowing = [
            a.layer for a in stack.affines
            if a.convolution.kernel and not a.convolution.is_transposed and a.out_size < a.in_size
        ]  # fmt: skip
        if narrowing:
            reason += f"; {narrowing[0]!r} has fewer channels out than in and loses the others"
    return reason


def _layers(stack: Stack, input_rms: float | None) -> list[_Layer]:
    entry = stack.entry_activation if input_rms is None else identity()
    feeds = [entry, *(h.activation for h in stack.hidden)]
    # An activation on top of the model shapes its outputs; it need not pass a signal on.
    last = identity() if stack.is_last else stack.exit_activation
    widths = [stack.affines[0].in_size, *(h.width for h in stack.hidden)]
    joined = [True, *(bool(h.pools or h.early_pools) or h.copies > 1 for h in stack.hidden)]
    is_exact = all(is_two_lines(a) for a in (*feeds, last))
    before = ["", *(a.weight for a in stack.affines)]
    kernels = [True, *(bool(a.convolution.kernel) for a in stack.affines)]
    return [
        _Layer(
            affine,
            feeds[i],
            (*feeds, last)[i + 1],
            widths[i],
            "" if joined[i] or kernels[i] or kernels[i + 1] else before[i],
            len(stack.affines),
            is_exact,
            1.0 if i or input_rms is None else input_rms,
        )
        for i, affine in enumerate(stack.affines)
    ]


def _law(layer: _Layer, scheme: Scheme) -> Law:
    affine, fans = layer.affine, layer.affine.fans
    match scheme.name:
        case "xavier":
            gain, mode = scheme.number("gain"), scheme.word("mode")
            return xavier(fans, gain, scheme.word("distribution"), mode, scheme.number("bound"))
        case "lecun":
            distribution = scheme.word("distribution")
            return lecun(fans, scheme.number("gain"), distribution, scheme.number("bound"))
        case "he":
            distribution, mode = scheme.word("distribution"), scheme.word("mode")
            bound = scheme.number("bound")
            return he(fans, layer.feed, layer.input_rms, distribution, mode, bound)
        case "orthogonal":
            is_delta = scheme.word("kernel") == "delta"
            block = affine.convolution.stride_block if is_delta else affine.convolution.kernel
            return _at(affine, orthogonal(layer.feed, scheme.number("gain")), block)
        case "diagonal_noise":
            return _diagonal(layer, scheme, scheme.number("alpha"))
        case "odd_sigmoid":
            return _diagonal(layer, scheme, _alpha(layer, scheme))
        case "identity":
            return _one_tap(affine, Identity(scheme.number("gain")))
        case _:
            return _kept(layer, scheme)


def _kept(layer: _Layer, scheme: Scheme) -> Law:
    """Lyapunov, fractional moments and sampled draws: independent at all taps, or Haar at one."""
    affine, distribution = layer.affine, scheme.word("distribution")
    order = scheme.number("order") if scheme.name == "fractional_moment" else 0.0
    block = affine.convolution.stride_block
    fans, units = affine.fans, affine.out_size
    if distribution == "orthogonal":
        rows, columns = affine.convolution.block_shape(block, affine.in_size, affine.out_size)
        fans, units = Fans(columns, rows), rows
    if layer.is_exact:
        matrix: Matrix = kept_moment(fans, units, layer.follow, order, distribution)
        target = 0.0
    else:
        matrix = kept_moment_at_unit_level(fans, layer.feeding, layer.feed, order, distribution)
        target = 0.5 * math.log(statistics(layer.follow, 1.0).second_moment)
    if scheme.name == "sampled":
        follow, feed = activation_text(layer.follow), activation_text(layer.feed)
        draws = int(scheme.number("draws"))
        matrix = BestOf(matrix, draws, follow, target, layer.before, feed)
        if distribution == "normal":
            # The matrix of all taps is what one site reads.
            return _at(affine, matrix, affine.convolution.kernel)
    return _at(affine, matrix, block) if distribution == "orthogonal" else matrix


def _alpha(layer: _Layer, scheme: Scheme) -> float:
    """The noise that the target layer asks for; behind the last activation that of a line."""
    is_line = layer.follow.homogeneity == 1.0 and layer.follow.is_smooth
    bending = layer.feed if is_line else layer.follow
    if bending.homogeneity == 1.0 and bending.is_smooth:
        # A line alone keeps every sign: any noise serves, and the published one is small.
        return PUBLISHED_ALPHA
    target = int(scheme.number("layer")) or max(2, layer.depth)
    return odd_sigmoid_scale(bending, target, scheme.number("memory"))


def _diagonal(layer: _Layer, scheme: Scheme, alpha: float) -> Law:
    affine, noise = layer.affine, scheme.word("noise")
    parameter = {"truncated_normal": "bound", "student_t": "degrees"}.get(noise, "")
    block = (1,) * len(affine.convolution.kernel)
    rows, columns = affine.convolution.block_shape(block, affine.in_size, affine.out_size)
    law = diagonal_noise(
        Fans(columns, rows), layer.follow, alpha, noise,
        scheme.number(parameter) if parameter else 0.0,
    )  # fmt: skip
    return _one_tap(affine, law)


def _one_tap(affine: Affine, matrix: Matrix) -> Law:
    """A matrix at the centre tap of a convolution."""
    if affine.convolution.is_transposed and affine.convolution.steps > 1:
        raise ArgumentError(
            "a scheme of one tap must reach every output, got a transposed convolution of stride "
            f"{affine.convolution.stride}. Use 'orthogonal' or 'he'."
        )
    return _at(affine, matrix, (1,) * len(affine.convolution.kernel))


def _at(affine: Affine, matrix: Matrix, block: tuple[int, ...]) -> Law:
    """A matrix at a block of taps, or the matrix itself for a linear layer."""
    convolution = affine.convolution
    if not convolution.kernel:
        return matrix
    return Taps(matrix, block, convolution.groups, convolution.is_transposed)
