"""The graph of a model's forward, however it was found, with what its placeholders stand for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from equipoise.plan.trace import Trace
from equipoise.torch.inputs import ModelInputs


@dataclass(frozen=True, eq=False)
class Program:
    """A graph of operations.

    Attributes:
        graph: ATen operations in the order of computation.
        parameters: placeholders of parameters, with one of the names of each.
        inputs: placeholders of what the caller gives.
        outputs: nodes whose values forward returns.
        known: values of placeholders and constants that are no parameters.
        why_recorded: why one real forward was recorded in place of an export, '' where it was not.
    """

    graph: fx.Graph
    parameters: Mapping[fx.Node, str]
    inputs: frozenset[fx.Node]
    outputs: tuple[fx.Node, ...]
    known: Mapping[fx.Node, torch.Tensor]
    why_recorded: str = ""


@dataclass(frozen=True, eq=False)
class Read:
    """A trace beside the graph that it was read from.

    Attributes:
        trace: the trace.
        program: the graph.
        places: the graph node that makes each value of the trace, by the value's number.
    """

    trace: Trace
    program: Program
    places: Mapping[int, fx.Node]


def exported(program: torch.export.ExportedProgram, given: ModelInputs) -> Program:
    """An exported program in this form.

    Args:
        program: the exported model.
        given: the inputs that it was exported with.
    """
    signature = program.graph_signature
    # Properties that walk the whole signature each time.
    parameters = signature.inputs_to_parameters
    user_inputs = {n for n in signature.user_inputs if isinstance(n, str)}
    user_outputs = {n for n in signature.user_outputs if isinstance(n, str)}
    places = [n for n in program.graph.nodes if n.op == "placeholder"]
    last = next(n for n in reversed(program.graph.nodes) if n.op == "output")
    return Program(
        program.graph,
        {n: parameters[n.name] for n in places if n.name in parameters},
        frozenset(n for n in places if n.name in user_inputs),
        tuple(n for n in last.all_input_nodes if n.name in user_outputs),
        _known(program, given),
    )


def _known(
    program: torch.export.ExportedProgram, given: ModelInputs
) -> dict[fx.Node, torch.Tensor]:
    """Values of placeholders that are no parameters: buffers, constants, inputs given."""
    signature = program.graph_signature
    buffers, lifted = signature.inputs_to_buffers, signature.inputs_to_lifted_tensor_constants
    leaves = pytree.tree_leaves((given.args, dict(given.kwargs)))
    by_name = dict(zip(signature.user_inputs, leaves, strict=False))
    found: dict[fx.Node, torch.Tensor] = {}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        value: Any = by_name.get(node.name)
        if node.name in buffers:
            name = buffers[node.name]
            value = program.state_dict.get(name, program.constants.get(name))
        elif node.name in lifted:
            value = program.constants.get(lifted[node.name])
        if isinstance(value, torch.Tensor) and not value.is_meta:
            found[node] = value.cpu()
    return found
