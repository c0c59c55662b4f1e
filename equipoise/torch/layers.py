"""Nodes of affine layers and poolings, with the values and spaces that they make."""

import math

from torch import fx

from equipoise.plan.nodes import Affine, Dropout, Gain, Node, Pool, Reshape
from equipoise.schemes.convolution import Convolution
from equipoise.torch.geometry import Windows
from equipoise.torch.graph import arguments, op_name
from equipoise.torch.values import Held, Values

_MEANS = {"mean": "average", "sum": "average", "amax": "maximum", "max": "maximum"}


def affine(
    values: Values,
    source: Held,
    shape: tuple[int, ...],
    convolution: Convolution,
    names: tuple[str, str, str],
    is_turned: bool = False,
) -> tuple[Held, Affine]:
    """The value and node of a linear layer or convolution.

    Args:
        values: all values so far.
        source: what the layer reads.
        shape: shape of its result.
        convolution: its geometry.
        names: of layer, weight and bias.
        is_turned: whether the weight has its inputs on the first axis.
    """
    axes = len(convolution.kernel)
    axis = -1 - axes
    source.settle(axis)
    in_size, out_size = source.shape[axis], shape[axis]
    first, last = len(shape) - axes, len(shape)
    made = values.new(shape, dict(enumerate(source.spaces[: first - 1])), axis)
    return made, Affine(
        *names,
        source.number,
        made.number,
        source.spaces[axis],
        made.spaces[axis],
        in_size,
        out_size,
        convolution,
        source.shape[first:last],
        shape[first:last],
        axis,
        is_turned,
    )


def pool(
    values: Values, source: Held, shape: tuple[int, ...], windows: Windows, layer: str
) -> tuple[Held, Pool]:
    """The value and node of a pooling over the last axes, channels before them."""
    axes = len(windows.window)
    source.settle(-1 - axes)
    first = len(shape) - axes
    made = values.new(shape, dict(enumerate(source.spaces[:first])), -1 - axes)
    return made, _pool(source, made, windows, tuple(range(-axes, 0)), layer)


def dropout(
    values: Values, source: Held, layer: str, probability: float, is_active: bool
) -> tuple[Held, Dropout]:
    """The value and node of a dropout."""
    made = values.same(source)
    return made, Dropout(layer, probability, is_active, source.number, made.number, source.space)


def is_reduction(node: fx.Node) -> bool:
    """Whether a graph node is a mean, sum or maximum over axes."""
    return op_name(node) in _MEANS


def reduction(node: fx.Node, values: Values, source: Held, layer: str) -> list[Node] | None:
    """Nodes of a mean, sum or maximum over axes of sites; None for anything else.

    The last value made is what the operation gives.
    """
    given = arguments(node)
    dims = given.get("dim")
    if dims is None or given.get("dtype") is not None:
        return None
    rank = len(source.shape)
    places = {int(d) % rank for d in (dims if isinstance(dims, list | tuple) else [dims])}
    sites = source.site_axes
    if not places or not places.issubset(sites):
        return None
    window = tuple(source.shape[i] if i in places else 1 for i in sites)
    whole = tuple(1 if i in places else size for i, size in enumerate(source.shape))
    spaces = {i: space for i, space in enumerate(source.spaces) if i not in places}
    made = values.new(whole, spaces, source.axis)
    windows = Windows(_MEANS[op_name(node)], window, window)
    nodes: list[Node] = [_pool(source, made, windows, tuple(i - rank for i in sites), layer)]
    if not given["keepdim"]:
        left = [i for i in range(rank) if i not in places]
        axis = left.index(source.place) - len(left)
        squeezed = values.new(
            tuple(whole[i] for i in left),
            {new: made.spaces[old] for new, old in enumerate(left)},
            axis,
        )
        nodes.append(
            Reshape(made.number, squeezed.number, made.space, squeezed.space, whole[source.place])
        )
    if op_name(node) == "sum":
        # A mean, times as many sites as there are.
        mean, count = values.held[-1], math.prod(window)
        total = values.same(mean)
        nodes.append(Gain(layer, "", mean.number, total.number, total.space, float(count) ** 2))
    return nodes


def _pool(source: Held, made: Held, windows: Windows, axes: tuple[int, ...], layer: str) -> Pool:
    return Pool(
        layer,
        windows.kind,
        windows.window,
        windows.stride,
        source.number,
        made.number,
        source.space,
        tuple(source.shape[i] for i in axes),
        tuple(made.shape[i] for i in axes),
        windows.padding,
        windows.counts_padding,
        windows.dilation,
        axes,
    )
