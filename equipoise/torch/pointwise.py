"""Pointwise subgraphs of an exported model, read as activations.

Operations on one value and constants are gathered into one function of that value, whatever way
the model writes it (module, functional call, method, arithmetic). A single operation with known
arguments is named at once; everything else is evaluated and probed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, Array
from equipoise.theory.probe import probe
from equipoise.torch.graph import first_operand, op_name

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


# What an operand of a step stands for: the result of an earlier step, a parameter, or the value
# that the chain starts from, by its number.
Operand = fx.Node | int

_CASTS = frozenset({"to", "_to_copy", "float", "clone"})


@dataclass(frozen=True)
class Step:
    """One operation of a chain.

    Attributes:
        node: the operation.
        place: its place in the order of computation.
        operands: what each graph node among its arguments stands for at that moment.
    """

    node: fx.Node
    place: int
    operands: tuple[tuple[fx.Node, Operand], ...]


@dataclass(frozen=True)
class Expression:
    """A chain of pointwise operations on one value.

    Attributes:
        base: number of the value.
        steps: the operations in order.
        constants: values of one-entry parameters among the operands, by graph node.
        parameters: names of those parameters.
        layer: module of the last operation.
    """

    base: int
    steps: tuple[Step, ...] = ()
    constants: tuple[tuple[fx.Node, float], ...] = ()
    parameters: tuple[str, ...] = ()
    layer: str = ""

    @property
    def is_cast(self) -> bool:
        """Whether it changes nothing but the floating-point type or the memory of its value."""
        return all(is_cast(step.node) for step in self.steps)


def is_cast(node: fx.Node) -> bool:
    """Whether a graph node changes floating-point type, device or memory and no number."""
    return op_name(node) in _CASTS and node.meta["val"].is_floating_point()


def grown(
    parts: list[Expression],
    step: Step,
    constants: dict[fx.Node, float],
    parameters: list[str],
    layer: str,
) -> Expression:
    """The chain that ends in a step which reads these chains of one value, and constants."""
    steps = {earlier.place: earlier for part in parts for earlier in part.steps}
    for part in parts:
        constants = dict(part.constants) | constants
        parameters = [*part.parameters, *parameters]
    return Expression(
        parts[0].base,
        (*(steps[place] for place in sorted(steps)), step),
        tuple(constants.items()),
        tuple(dict.fromkeys(parameters)),
        layer,
    )


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
    place: dict[Operand, int] = {expression.base: 0}
    for i, step in enumerate(expression.steps):
        place[step.node] = i + 1
    constants = dict(expression.constants)

    def argument(a: Any, operands: dict[fx.Node, Operand]) -> object:
        if not isinstance(a, fx.Node):
            return repr(a)
        operand = operands[a]
        if isinstance(operand, fx.Node) and operand in constants:
            return ("constant", constants[operand])
        return ("step", place[operand])

    return tuple(
        (
            str(step.node.target),
            tuple(argument(a, dict(step.operands)) for a in step.node.args),
            repr(sorted(step.node.kwargs.items(), key=str)),
        )
        for step in expression.steps
    )


def _named(expression: Expression) -> Activation | None:
    """A single operation of a parametric family, by its arguments."""
    if len(expression.steps) != 1:
        return None
    node = expression.steps[0].node
    constants, operands = dict(expression.constants), dict(expression.steps[0].operands)
    first = node.args[0]
    if not isinstance(first, fx.Node) or operands[first] != expression.base or node.kwargs:
        return None
    arguments: list[Any] = [
        constants.get(cast(fx.Node, operands[a]), a) if isinstance(a, fx.Node) else a
        for a in node.args[1:]
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
    names = [op_name(step.node) for step in expression.steps]
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
    def run(x: torch.Tensor) -> torch.Tensor:
        values: dict[Operand, torch.Tensor] = {expression.base: x}
        for parameter, number in expression.constants:
            values[parameter] = torch.tensor(number, dtype=x.dtype, device=x.device)
        for step in expression.steps:
            node, operands = step.node, dict(step.operands)
            read = {raw: values[operand] for raw, operand in operands.items()}
            if is_cast(node):
                # Probing stays in float64, whatever type the model casts to.
                values[node] = read[first_operand(node)].to(x.dtype)
                continue
            assert isinstance(node.target, torch._ops.OpOverload)
            args = tuple(fx.node.map_arg(a, read.__getitem__) for a in node.args)
            kwargs = {k: fx.node.map_arg(v, read.__getitem__) for k, v in node.kwargs.items()}
            values[node] = _out_of_place(node.target)(*args, **kwargs)
        last = expression.steps[-1].node
        out = values[last]
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            raise ArgumentError(
                f"{op_name(last)} must give floating-point numbers, got "
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
