"""Laws of recurrent layers, and the states that they make.

Every gate reads its inputs at the same scale, whatever their size and RMS, and the state through an
orthogonal matrix, which passes it on without loss. What a network must remember over all its steps
is up to the bias of the gate that keeps: chrono biases spread the memory of its units from one
step to all that were traced.
"""

import math

import numpy as np

from equipoise.plan.nodes import Recurrent
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import (
    Array,
    Constant,
    Identity,
    Law,
    Matrix,
    Orthogonal,
    Zero,
)
from equipoise.schemes.part_laws import Blocks, Chrono
from equipoise.theory.recurrence import GATES, run

# With fewer steps there is nothing to spread: a bias of 1 keeps 73 % of each step.
_FEW_STEPS = 6
_KEEPS = 1.0
# What is simulated: more units, rows or steps change no second moment by much.
_MOST_UNITS, _MOST_ROWS, _MOST_STEPS = 96, 24, 400
_SEED = 20_261_126


def cell_laws(
    node: Recurrent, mean_square: float, share: float, steps: int
) -> dict[str, tuple[Law, str]]:
    """What a recurrent layer is drawn from.

    Args:
        node: the layer.
        mean_square: second moment of what it reads, positive.
        share: part of that which all steps have in common.
        steps: number of steps that its state lasts.
    """
    weight, state, bias, words = _laws(
        node.kind, node.in_size, node.state_size, mean_square, share, steps
    )
    reads = f"every gate reads inputs of RMS {math.sqrt(mean_square):.3g} at {words[0]}"
    found: dict[str, tuple[Law, str]] = {
        node.weight: (weight, reads),
        node.state_weight: (state, words[1]),
    }
    if node.bias:
        found[node.bias] = (bias, words[2])
    if node.state_bias:
        found[node.state_bias] = (Zero(), "the other bias of the same gates is enough")
    if node.projection:
        found[node.projection] = (
            _projection(node.state_size, node.out_size), "passes on as much as the cell shows"
        )  # fmt: skip
    return found


def in_words(node: Recurrent, steps: int) -> str:
    """The rule for a layer in one sentence, without its full stop."""
    *_, (_, passes, keeping) = _laws(node.kind, node.in_size, node.state_size, 1.0, 0.0, steps)
    return f"{passes}; {keeping}" if GATES[node.kind] > 1 and node.bias else passes


def _laws(
    kind: str, in_size: int, size: int, mean_square: float, share: float, steps: int
) -> tuple[Law, Law, Law, tuple[str, str, str]]:
    """Laws of weight, state weight and bias, and how to say what they do."""
    gates = GATES[kind]
    rms = 1.0
    if gates == 1:
        # Without a gate all steps add up, what they have in common in step: the last state is to
        # have second moment 1. An orthogonal matrix turns what it keeps, the identity does not.
        alike = share if kind == "relu" else 0.0
        rms = 1.0 / math.sqrt(steps * (1.0 + alike * (steps - 1)))
    gain = rms * math.sqrt(max(1.0, size / in_size) / mean_square)
    weight: Matrix = Orthogonal(gain)
    state: Matrix = Identity(1.0) if kind == "relu" else Orthogonal(1.0)
    biases: tuple[Matrix | Chrono, ...] = (Zero(),) * gates
    keeping = "starts at 0"
    if gates > 1:
        keeps = Chrono(steps) if steps >= _FEW_STEPS else Constant(_KEEPS)
        lets_in = Chrono(steps, -1.0) if steps >= _FEW_STEPS else Zero()
        biases = (lets_in, keeps, Zero(), Zero()) if kind == "lstm" else (Zero(), keeps, Zero())
        keeping = (
            f"its units keep what they hold for 1 to {steps} steps, as many as were traced"
            if steps >= _FEW_STEPS
            else f"the gate that keeps starts open, at {_KEEPS:g}"
        )
    passes = "the identity" if kind == "relu" else "an orthogonal matrix for each gate"
    if kind == "tanh":
        passes = "an orthogonal matrix"
    return (
        Blocks((weight,) * gates) if gates > 1 else weight,
        Blocks((state,) * gates) if gates > 1 else state,
        Blocks(biases) if gates > 1 else Zero(),
        (f"RMS {rms:.3g}", f"the state passes through {passes}", keeping),
    )


def simulated(
    node: Recurrent, mean_square: float, share: float, steps: int, inputs: Array
) -> tuple[Array, Array]:
    """States of a drawn layer of the kind that was planned, and its cells.

    Args:
        node: the layer.
        mean_square: second moment of what it reads.
        share: part of that which all steps have in common, where ``inputs`` are not known.
        steps: how many.
        inputs: what it reads, shape (rows, steps, in); empty where that is not known.

    Returns:
        Shape (rows, steps, units) of both, of at most 96 units and 400 steps.
    """
    steps, size = min(steps, _MOST_STEPS), min(node.state_size, _MOST_UNITS)
    rng = np.random.default_rng(_SEED)
    if inputs.ndim == 3 and inputs.size:
        x = inputs[:_MOST_ROWS, :steps]
        mean_square = float(np.mean(x**2)) or 1.0
    else:
        in_size = min(node.in_size, _MOST_UNITS)
        common = rng.standard_normal((_MOST_ROWS, 1, in_size))
        own = rng.standard_normal((_MOST_ROWS, steps, in_size))
        x = math.sqrt(mean_square) * (
            math.sqrt(max(share, 0.0)) * common + math.sqrt(max(0.0, 1.0 - share)) * own
        )
    weight, state, bias, _ = _laws(node.kind, x.shape[2], size, mean_square, share, steps)
    rows, streams = GATES[node.kind] * size, Streams(_SEED)
    out, projection = size, None
    if node.projection:
        out = max(1, size * node.out_size // node.state_size)
        projection = draw(_projection(size, out), "projection", (out, size), streams)
    return run(
        node.kind,
        draw(weight, "weight", (rows, x.shape[2]), streams),
        draw(state, "state", (rows, out), streams),
        draw(bias, "bias", (rows,), streams) if node.bias else np.zeros(rows),
        x,
        projection,
    )


def _projection(size: int, out: int) -> Matrix:
    """Brings a state to fewer numbers of the same RMS."""
    return Orthogonal(math.sqrt(max(1.0, size / out)))
