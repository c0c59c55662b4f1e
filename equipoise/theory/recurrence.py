"""Recurrent cells, step by step, as PyTorch lays their gates out.

An lstm's gates stand in the order input, forget, candidate, output; a gru's in the order reset,
keep, candidate. Everything here is arithmetic on given weights; ``plan.recurrent`` draws them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from equipoise.errors import ArgumentError

Array = NDArray[np.float64]

GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}


def run(
    kind: str,
    weight: Array,
    state_weight: Array,
    bias: Array,
    inputs: Array,
    projection: Array | None = None,
) -> tuple[Array, Array]:
    """The states of a recurrent layer that starts from 0.

    Args:
        kind: ``tanh``, ``relu``, ``lstm`` or ``gru``.
        weight: shape (gates * size, in).
        state_weight: shape (gates * size, out), out the size or what the projection makes of it.
        bias: shape (gates * size,); of a gru's candidate it stands outside the reset gate.
        inputs: shape (rows, steps, in).
        projection: shape (out, size), for an lstm only.

    Returns:
        States after each step, shape (rows, steps, out), and cells, shape (rows, steps, size);
        without cells of their own those are the states.

    Raises:
        ArgumentError: for another kind, or a projection of anything but an lstm.

    >>> one = np.ones((1, 1))
    >>> states, _ = run("relu", one, one, np.zeros(1), np.ones((1, 3, 1)))
    >>> states.ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    if kind not in GATES:
        raise ArgumentError(f"kind must be one of {', '.join(GATES)}, got {kind!r}. Pass one.")
    if projection is not None and kind != "lstm":
        raise ArgumentError(f"projection must be left out for {kind!r}. Only an lstm has one.")
    step = _STEPS[kind]
    size, rows = len(weight) // GATES[kind], len(inputs)
    out = size if projection is None else len(projection)
    driven = inputs @ weight.T + bias
    state, cell = np.zeros((rows, out)), np.zeros((rows, size))
    states = np.zeros((rows, inputs.shape[1], out))
    cells = np.zeros((rows, inputs.shape[1], size))
    for t in range(inputs.shape[1]):
        state, cell = step(driven[:, t], state @ state_weight.T, state, cell)
        if projection is not None:
            state = state @ projection.T
        states[:, t], cells[:, t] = state, cell
    return states, cells


_Step = Callable[[Array, Array, Array, Array], tuple[Array, Array]]


def _tanh(driven: Array, kept: Array, state: Array, cell: Array) -> tuple[Array, Array]:
    now = np.tanh(driven + kept)
    return now, now


def _relu(driven: Array, kept: Array, state: Array, cell: Array) -> tuple[Array, Array]:
    now = np.maximum(driven + kept, 0.0)
    return now, now


def _lstm(driven: Array, kept: Array, state: Array, cell: Array) -> tuple[Array, Array]:
    let_in, keep, candidate, show = np.split(driven + kept, 4, axis=1)
    cell = expit(keep) * cell + expit(let_in) * np.tanh(candidate)
    return expit(show) * np.tanh(cell), cell


def _gru(driven: Array, kept: Array, state: Array, cell: Array) -> tuple[Array, Array]:
    reset, keep, candidate = np.split(driven, 3, axis=1)
    reset_state, keep_state, candidate_state = np.split(kept, 3, axis=1)
    new = np.tanh(candidate + expit(reset + reset_state) * candidate_state)
    share = expit(keep + keep_state)
    now = (1.0 - share) * new + share * state
    return now, now


_STEPS: dict[str, _Step] = {"tanh": _tanh, "relu": _relu, "lstm": _lstm, "gru": _gru}
