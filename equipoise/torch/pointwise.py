"""Pointwise subgraphs of an exported model, read as activations.

Operations on one value and constants are gathered into one function of that value, whatever way
the model writes it (module, functional call, method, arithmetic). A single operation with known
arguments is named at once; everything else is evaluated and probed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, Array
from equipoise.theory.probe import probe
from equipoise.torch.graph import op_name, written_operand

# Pointwise operations that torch does not tag as such.
_UNTAGGED = frozenset(
    {
        "hardswish",
        "log_sigmoid",
        "prelu",
        "zeros_like",
        "ones_like",
        "full_like",
        "_to_copy",
        "to",
        "float",
    }
)
# They draw random numbers, or fill: not a function of one entry.
_NOT_A_FUNCTION = frozenset({"dropout", "bernoulli", "normal", "rand_like", "randn_like"})


@dataclass(frozen=True)
class Expression:
    """A chain of pointwise operations on one value.

    Attributes:
        base: number of the value.
        source: graph node that holds the value.
        nodes: the operations in order.
        constants: values of one-entry parameters among the operands, by graph node.
        parameters: names of those parameters.
        layer: module of the last operation.
    """

    base: int
    source: fx.Node
    nodes: tuple[fx.Node, ...]
    constants: tuple[tuple[fx.Node, float], ...]
    parameters: tuple[str, ...]
    layer: str


def is_pointwise(node: fx.Node) -> bool:
    """Whether a graph node works on each entry alone."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    name = op_name(node)
    if name in _NOT_A_FUNCTION:
        return False
    return torch.Tag.pointwise in node.target.tags or name in _UNTAGGED


class ActivationReader:
    """Turns expressions into activations, each distinct one once."""

    def __init__(self) -> None:
        self._known: dict[object, Activation] = {}

    def read(self, expression: Expression) -> Activation:
        """The activation an expression computes.

        Raises:
            ArgumentError: if it is not a finite pointwise function.
        """
        key = _key(expression)
        if key not in self._known:
            try:
                self._known[key] = _named(expression) or _probed(expression)
            except ArgumentError:
                # A parameter outside the family's usual range: the function is still a function.
                self._known[key] = _probed(expression)
        return self._known[key]


def _key(expression: Expression) -> object:
    place = {node: i for i, node in enumerate((expression.source, *expression.nodes))}
    constants = dict(expression.constants)

    def argument(a: Any) -> object:
        if isinstance(a, fx.Node):
            return ("constant", constants[a]) if a in constants else ("node", place[a])
        return repr(a)

    return tuple(
        (str(n.target), tuple(argument(a) for a in n.args), repr(sorted(n.kwargs.items(), key=str)))
        for n in expression.nodes
    )


def _named(expression: Expression) -> Activation | None:
    """A single operation of a parametric family, by its arguments."""
    if len(expression.nodes) != 1:
        return None
    node = expression.nodes[0]
    constants = dict(expression.constants)
    if node.args[0] is not expression.source or node.kwargs:
        return None
    arguments: list[Any] = [
        constants.get(a, a) if isinstance(a, fx.Node) else a for a in node.args[1:]
    ]
    match op_name(node), arguments:
        case "leaky_relu", [*rest]:
            return activations.leaky_relu(*(float(v) for v in rest))
        case "prelu", [float(slope)]:
            return activations.prelu(slope)
        case "rrelu", [float(low), float(high), *rest]:
            return activations.rrelu(low, high, training=rest[:1] == [True])
        case "elu", [*rest]:
            return activations.elu(*(float(v) for v in rest))
        case "celu", [*rest]:
            return activations.celu(*(float(v) for v in rest))
        case "softplus", [beta, *_]:
            return activations.softplus(float(beta))
        case "hardtanh", [float(low), float(high)]:
            return activations.hardtanh(low, high)
        case "softshrink", [float(threshold)]:
            return activations.softshrink(threshold)
        case "hardshrink", [float(threshold)]:
            return activations.hardshrink(threshold)
        case _:
            return None


def _probed(expression: Expression) -> Activation:
    names = [op_name(n) for n in expression.nodes]
    run = _callable(expression)

    def f(x: Array) -> Array:
        with torch.no_grad():
            return np.asarray(run(torch.from_numpy(np.ascontiguousarray(x))).numpy())

    def df(x: Array) -> Array:
        with torch.enable_grad():
            leaf = torch.from_numpy(np.ascontiguousarray(x)).clone().requires_grad_()
            out = run(leaf)
            if not out.requires_grad:
                return np.zeros_like(x)
            (gradient,) = torch.autograd.grad(out.sum(), leaf)
        return np.asarray(gradient.numpy())

    return probe(f, "+".join(names) if len(names) < 6 else f"{names[0]}...{names[-1]}", df)


def _callable(expression: Expression) -> Callable[[torch.Tensor], torch.Tensor]:
    constants: dict[fx.Node, Any] = dict(expression.constants)

    def run(x: torch.Tensor) -> torch.Tensor:
        values: dict[fx.Node, Any] = {expression.source: x, **constants}

        def look(a: Any) -> Any:
            if isinstance(a, fx.Node):
                v = values[a]
                return torch.tensor(v, dtype=x.dtype) if isinstance(v, float) else v
            return a

        for node in expression.nodes:
            name = op_name(node)
            if name in ("to", "_to_copy", "float", "clone"):
                # A cast changes no number here: probing stays in float64.
                values[node] = look(node.args[0])
                continue
            assert isinstance(node.target, torch._ops.OpOverload)
            args = tuple(fx.node.map_arg(a, look) for a in node.args)
            kwargs = {k: fx.node.map_arg(v, look) for k, v in node.kwargs.items()}
            values[node] = _out_of_place(node.target)(*args, **kwargs)
            written = written_operand(node)
            if written is not None:
                values[written] = values[node]
        out = values[expression.nodes[-1]]
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            raise ArgumentError(
                f"{op_name(expression.nodes[-1])} must give floating-point numbers, got "
                f"{getattr(out, 'dtype', type(out).__name__)}. It is not an activation."
            )
        return out

    return run


def _out_of_place(target: torch._ops.OpOverload) -> Callable[..., Any]:
    """The operation that makes what an in-place one writes; autograd follows any chain of these."""
    if not target._schema.is_mutable:
        return target
    name = target._schema.name.split("::")[-1].rstrip("_")
    packet: Callable[..., Any] = getattr(torch.ops.aten, name)
    return packet
