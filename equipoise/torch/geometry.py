"""Convolutions and poolings of an exported graph as geometry."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import fx

from equipoise.schemes.convolution import Convolution
from equipoise.torch.graph import arguments, op_name, shape_of
from equipoise.torch.values import Held

_CONVOLUTIONS = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
     "convolution"}
)  # fmt: skip
_POOLS = {
    f"{prefix}{kind}_pool{axes}d{suffix}": ("average" if kind == "avg" else "maximum", axes)
    for prefix in ("", "adaptive_")
    for kind in ("avg", "max")
    for axes in (1, 2, 3)
    for suffix in ("", "_with_indices")
}
_PAD_MODES = {
    "constant": "zeros",
    "circular": "circular",
    "reflect": "reflect",
    "replicate": "replicate",
}


@dataclass(frozen=True)
class Pad:
    """Sites added around a value, which the convolution that reads it may take as its own.

    Attributes:
        node: the operation.
        source: the value that is padded.
        amounts: entries added before and after each axis, the last axis last.
        mode: ``zeros``, ``circular``, ``reflect`` or ``replicate``.
    """

    node: fx.Node
    source: Held
    amounts: tuple[tuple[int, int], ...]
    mode: str


@dataclass(frozen=True)
class Windows:
    """How a pooling forms windows of sites; every tuple has one entry for each pooled axis."""

    kind: str
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] = ()
    counts_padding: bool = True
    dilation: tuple[int, ...] = ()


def is_convolution(node: fx.Node) -> bool:
    """Whether a graph node is a convolution of any kind."""
    return op_name(node) in _CONVOLUTIONS


def pooled_axes(node: fx.Node) -> int:
    """Over how many axes a graph node pools windows; 0 if it does not."""
    return _POOLS.get(op_name(node), ("", 0))[1]


def works_on_sites(node: fx.Node, axes: int) -> bool:
    """Whether a graph node only moves sites around, on the last ``axes`` axes."""
    name = op_name(node)
    if is_pad(node):
        return not any(arguments(node)["pad"][2 * axes :])
    if name in ("slice", "narrow"):
        rank = len(shape_of(node) or ())
        return int(arguments(node)["dim"]) % rank >= rank - axes
    return name.startswith("upsample")


def is_pad(node: fx.Node) -> bool:
    """Whether a graph node adds sites at the ends of axes."""
    return op_name(node) in ("pad", "constant_pad_nd")


def read_pad(node: fx.Node, source: Held) -> Pad | None:
    """A padding of a value that a convolution could have done itself; None for any other."""
    given = arguments(node)
    ends = [int(n) for n in given["pad"]]
    if given.get("value") or min(ends, default=0) < 0:
        return None
    # Torch lists the last axis first.
    pairs = tuple(zip(ends[0::2], ends[1::2], strict=True))[::-1]
    return Pad(node, source, pairs, _PAD_MODES[given.get("mode", "constant")])


def read_convolution(node: fx.Node, pad: Pad | None) -> tuple[Convolution, bool]:
    """Geometry of a convolution, and whether it takes the padding done before it as its own.

    Args:
        node: the operation; its weight is a tensor.
        pad: what pads its input, None where nothing does.
    """
    given, name = arguments(node), op_name(node)
    shape = shape_of(given["weight"]) or ()
    kernel = shape[2:]
    axes = len(kernel)
    stride, dilation = _each(given["stride"], axes), _each(given["dilation"], axes)
    is_transposed = "transpose" in name or bool(given.get("transposed", False))
    padding: tuple[tuple[int, int], ...]
    if given["padding"] == "valid":
        padding = ((0, 0),) * axes
    elif given["padding"] == "same":
        # Where the padding is odd, torch adds the site that is left at the end.
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple((n // 2, n - n // 2) for n in totals)
    elif is_transposed:
        more = _each(given["output_padding"], axes)
        padding = tuple(
            (p, p - m) for p, m in zip(_each(given["padding"], axes), more, strict=True)
        )
    else:
        padding = tuple((p, p) for p in _each(given["padding"], axes))
    mode, together = "zeros", None if is_transposed or pad is None else _sum(pad, padding)
    if pad is not None and together is not None:
        mode, padding = pad.mode, together
    convolution = Convolution(
        kernel, stride, padding, dilation, int(given["groups"]), is_transposed, mode
    )
    return convolution, together is not None


def _sum(pad: Pad, own: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...] | None:
    """Two paddings, one after the other, as one; None where there is no such one."""
    outer, inner = pad.amounts[: -len(own)], pad.amounts[-len(own) :]
    inner = ((0, 0),) * (len(own) - len(inner)) + inner
    # Zeros around a reflection are neither one nor the other.
    if any(map(any, outer)) or (pad.mode != "zeros" and any(map(any, own))):
        return None
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(own, inner, strict=True))


def read_windows(node: fx.Node, in_sites: tuple[int, ...]) -> Windows | str:
    """The windows of a pooling over ``in_sites``, or why they cannot be told."""
    given = arguments(node)
    kind, axes = _POOLS[op_name(node)]
    if "output_size" in given:
        return _adaptive(kind, in_sites, _each(given["output_size"], axes))
    window = _each(given["kernel_size"], axes)
    divisor = given.get("divisor_override")
    if divisor not in (None, math.prod(window)):
        return f"pooling divides by {divisor} in place of the size of its window"
    padding, dilation = _each(given["padding"], axes), _each(given.get("dilation", 1), axes)
    return Windows(
        kind,
        window,
        _each(given["stride"], axes) if given["stride"] else window,
        padding if any(padding) else (),
        bool(given.get("count_include_pad", True)),
        dilation if any(d > 1 for d in dilation) else (),
    )


def _adaptive(kind: str, in_sites: tuple[int, ...], out_sites: tuple[int, ...]) -> Windows | str:
    """Windows from floor(i n / m) to ceil((i + 1) n / m), where they are all alike."""
    window, stride = [], []
    for n, m in zip(in_sites, out_sites, strict=True):
        starts = [i * n // m for i in range(m)]
        sizes = {-(-(i + 1) * n // m) - start for i, start in enumerate(starts)}
        steps = {b - a for a, b in pairwise(starts)}
        if len(sizes) != 1 or len(steps) > 1 or steps == {0}:
            return (
                f"adaptive pooling of {n} sites to {m} has windows of unequal size or spacing; "
                "choose an input size that is a multiple of the output size"
            )
        window.append(sizes.pop())
        stride.append(steps.pop() if steps else window[-1])
    return Windows(kind, tuple(window), tuple(stride))


def _each(value: Any, axes: int) -> tuple[int, ...]:
    """One number for each axis: torch lets one stand for all."""
    numbers = tuple(int(n) for n in value) if isinstance(value, list | tuple) else (int(value),)
    return numbers * axes if len(numbers) == 1 else numbers
