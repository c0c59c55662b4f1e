"""Recurrent layers and cells of torch, one node for each layer and direction."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from equipoise.plan.nodes import Concat, Recurrent
from equipoise.theory.recurrence import GATES
from equipoise.torch.graph import arguments, layer_of, op_name, shape_of, shapes_of
from equipoise.torch.layers import dropout
from equipoise.torch.reading import Reading
from equipoise.torch.values import Held

_LAYERS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "tanh", "rnn_relu": "relu"}
_CELLS = {"lstm_cell": "lstm", "gru_cell": "gru", "rnn_tanh_cell": "tanh", "rnn_relu_cell": "relu"}


def read_recurrent(state: Reading, node: fx.Node) -> bool:
    """Read a recurrent layer or cell, or the last of its steps; whether it was one."""
    name = op_name(node)
    if name in _CELLS:
        return _cell(state, node, _CELLS[name])
    if name in _LAYERS:
        return _layers(state, node, _LAYERS[name])
    return name == "select" and _last_step(state, node)


def _named(state: Reading, nodes: list[Any]) -> list[str] | None:
    """Names of parameters, '' for none; None where one of them is something else."""
    found = [state.parameter_of.get(state.memory.now(n), "?") if n is not None else ""
             for n in nodes]  # fmt: skip
    return None if "?" in found else found


def _cell(state: Reading, node: fx.Node, kind: str) -> bool:
    given = arguments(node)
    source = state.memory.now(given["input"])
    names = _named(state, [given[k] for k in ("w_ih", "w_hh", "b_ih", "b_hh")])
    if names is None or not state.is_read(source):
        return False
    starts = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    held = state.value(source)
    size = state.tensors[names[0]].shape[0] // GATES[kind]
    shapes = shapes_of(node)
    made = {i: state.values.new(shape, {}, -1) for i, shape in shapes.items()}
    turn = sum(isinstance(n, Recurrent) and n.weight == names[0] for n in state.nodes)
    outputs = tuple(m.number for m in made.values())
    state.nodes.append(
        Recurrent(
            _owner(node, names[0]), kind, names[0], names[1], names[2], names[3], "",
            # The state after every step is the last one.
            held.number, _starts(state, starts), (outputs[0], *outputs), made[0].space,
            held.shape[-1], size, size, 1, 0, turn,
        )
    )  # fmt: skip
    held.settle(-1)
    state.results(node, made)
    return True


def _layers(state: Reading, node: fx.Node, kind: str) -> bool:
    given = arguments(node)
    packed = "batch_sizes" in given
    source = state.memory.now(given["data" if packed else "input"])
    if not state.is_read(source):
        return False
    starts = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    count, both = int(given["num_layers"]), bool(given["bidirectional"])
    names = _named(state, list(given["params"]))
    directions = 1 + both
    if names is None or len(names) % (count * directions):
        return False
    each = len(names) // (count * directions)
    has_biases, rank = bool(given["has_biases"]), len(shape_of(source) or ())
    steps_axis = 0 if packed or not given.get("batch_first") else rank - 2
    held = state.value(source)
    steps = _packed_steps(state, given) if packed else held.shape[steps_axis]
    first = _starts(state, starts)
    lasts: list[list[Held]] = []
    for layer in range(count):
        parts: list[Held] = []
        for direction in range(directions):
            place = (layer * directions + direction) * each
            mine = names[place : place + each]
            weights, rest = mine[:2], mine[2:]
            biases, projected = (rest[:2], rest[2:]) if has_biases else (["", ""], rest)
            made, last = _one(
                state, node, kind, held, [*weights, *biases, *(projected or [""])],
                None if packed else steps_axis, steps, first,
            )  # fmt: skip
            parts.append(made)
            lasts.append(last)
            if not both and layer == count - 1 and not packed:
                state.last_steps[made.number] = (steps_axis, last[0])
        held = parts[0] if not both else _joined(state, parts)
        drops = float(given["dropout"])
        if drops and layer < count - 1:
            active = bool(given["train"])
            held, dropping = dropout(state.values, held, layer_of(node), drops, active)
            state.nodes.append(dropping)
    results = {0: held}
    for i, shape in list(shapes_of(node).items())[1:]:
        results[i] = _stacked(state, [last[i - 1].number for last in lasts], shape)
    state.results(node, results)
    return True


def _one(
    state: Reading,
    node: fx.Node,
    kind: str,
    source: Held,
    names: list[str],
    steps_axis: int | None,
    steps: int,
    starts: tuple[int, ...],
) -> tuple[Held, list[Held]]:
    """One layer in one direction: its states, the last of them, and the last cell of an lstm."""
    weight, projection = names[0], names[4]
    size = state.tensors[weight].shape[0] // GATES[kind]
    out = state.tensors[projection].shape[0] if projection else size
    in_size = source.shape[-1]
    source.settle(-1)
    made = state.values.new((*source.shape[:-1], out), dict(enumerate(source.spaces[:-1])), -1)
    # Packed rows are no rows of a batch: how many there are is not seen.
    kept = [i for i in range(len(made.shape) - 1) if steps_axis is not None and i != steps_axis]
    lead, spaces = [made.shape[i] for i in kept], [made.spaces[i] for i in kept]
    last = [state.values.new((*lead, out), dict(enumerate([*spaces, made.space])), -1)]
    if kind == "lstm":
        last.append(state.values.new((*lead, size), dict(enumerate(spaces)), -1))
    numbers = (made.number, *(value.number for value in last))
    state.nodes.append(
        Recurrent(
            _owner(node, weight), kind, names[0], names[1], names[2], names[3],
            names[4], source.number, starts, numbers, made.space, in_size, size, out, steps,
            (steps_axis or 0) - len(made.shape),
        )
    )  # fmt: skip
    return made, last


def _owner(node: fx.Node, weight: str) -> str:
    return layer_of(node) or weight.rpartition(".")[0] or weight


def _starts(state: Reading, nodes: Sequence[Any]) -> tuple[int, ...]:
    """Values that a layer starts from; those that are known to be 0 are none."""
    now = [state.memory.now(n) for n in nodes]
    return tuple(
        state.value(n).number
        for n in now
        if state.has_value(n) and not (state.is_constant(n) and state.constants.mean_square(n) == 0)
    )


def _packed_steps(state: Reading, given: dict[str, Any]) -> int:
    shape = shape_of(given["batch_sizes"])
    return shape[0] if shape else 1


def _joined(state: Reading, parts: list[Held]) -> Held:
    """Both directions side by side."""
    sizes = tuple(p.shape[-1] for p in parts)
    shape = (*parts[0].shape[:-1], sum(sizes))
    made = state.values.new(shape, dict(enumerate(parts[0].spaces[:-1])), -1)
    numbers = tuple(p.number for p in parts)
    state.nodes.append(Concat(numbers, made.number, made.space, -1, sizes))
    return made


def _stacked(state: Reading, numbers: list[int], shape: tuple[int, ...]) -> Held:
    """Last states of all layers and directions, one above the other."""
    made = state.values.new(shape, {}, -1)
    sizes = (1,) * len(numbers)
    state.nodes.append(Concat(tuple(numbers), made.number, made.space, -len(shape), sizes))
    return made


def _last_step(state: Reading, node: fx.Node) -> bool:
    """The state after the last step, taken out of all of them."""
    source = state.memory.now(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    if source is None or source not in state.held:
        return False
    held = state.held[source]
    known = state.last_steps.get(held.number)
    if known is None:
        return False
    axis, last = known
    given = arguments(node)
    place, size = given["dim"] % len(held.shape), held.shape[axis]
    if place != axis or given["index"] % size != size - 1:
        return False
    state.held[node] = last
    return True
