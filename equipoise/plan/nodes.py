"""The nodes of a trace: what each kind of operation does to the values that it reads."""

from equipoise.plan.graph_nodes import (
    Attention,
    Concat,
    Constant,
    Contract,
    Gain,
    Lookup,
    Norm,
    Product,
    Recurrent,
    Shift,
    Softmax,
    Spread,
    Take,
)
from equipoise.plan.layer_nodes import (
    Affine,
    Dropout,
    Flatten,
    Merge,
    Nonlinearity,
    Opaque,
    Permute,
    Pool,
    Reshape,
)

__all__ = [
    "Affine",
    "Attention",
    "Concat",
    "Constant",
    "Contract",
    "Dropout",
    "Flatten",
    "Gain",
    "Lookup",
    "Merge",
    "Node",
    "Nonlinearity",
    "Norm",
    "Opaque",
    "Permute",
    "Pool",
    "Product",
    "Recurrent",
    "Reshape",
    "Shift",
    "Softmax",
    "Spread",
    "Take",
    "makes",
    "reads",
    "uses",
]

Node = (
    Affine
    | Nonlinearity
    | Pool
    | Flatten
    | Reshape
    | Permute
    | Dropout
    | Merge
    | Opaque
    | Lookup
    | Constant
    | Norm
    | Product
    | Gain
    | Shift
    | Softmax
    | Contract
    | Attention
    | Concat
    | Take
    | Spread
    | Recurrent
)


def reads(node: Node) -> tuple[int, ...]:
    """Numbers of the values that a node reads."""
    match node:
        case Merge() | Opaque() | Product() | Contract() | Attention() | Concat():
            return node.inputs
        case Lookup() | Constant():
            return ()
        case Recurrent():
            return (node.input, *node.states)
        case _:
            return (node.input,)


def makes(node: Node) -> tuple[int, ...]:
    """Numbers of the values that a node makes."""
    return node.outputs if isinstance(node, Opaque | Recurrent) else (node.output,)


def uses(node: Node) -> tuple[str, ...]:
    """Names of the parameters that a node uses."""
    match node:
        case Affine() | Norm():
            return tuple(name for name in (node.weight, node.bias) if name)
        case Recurrent():
            named = (node.weight, node.state_weight, node.bias, node.state_bias, node.projection)
            return tuple(name for name in named if name)
        case Lookup():
            return (node.weight,)
        case Gain() | Shift():
            return (node.parameter,) if node.parameter else ()
        case Nonlinearity() | Opaque():
            return node.parameters
        case _:
            return ()
