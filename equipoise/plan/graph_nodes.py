"""Nodes of general graphs: tables, norms, products, attention, recurrence, entries joined.

Values and spaces are numbers (``plan.trace``); axes are counted from the end.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Lookup:
    """A parameter that stands for a value itself: rows of a table by index, or all of it.

    Attributes:
        layer: name of the module, or of the parameter where there is none.
        weight: parameter name.
        output: value number.
        space: of the feature axis.
        count: number of rows of a table that is looked up; 0 where the whole parameter is used.
        size: number of features of a row.
        share: chance that two sites of one input look up the same row.
        padding: index of a row that stands for nothing, -1 where there is none.
    """

    layer: str
    weight: str
    output: int
    space: int
    count: int
    size: int
    share: float = 0.0
    padding: int = -1


@dataclass(frozen=True)
class Constant:
    """A value that depends on no parameter and no floating-point input.

    ``mean_square`` is its second moment, nan where it is not known.
    """

    output: int
    mean_square: float


@dataclass(frozen=True)
class Norm:
    """Values brought to second moment 1, or to variance 1, over some of their entries.

    Attributes:
        layer: name of the module, or ''.
        kind: ``layer``, ``rms``, ``batch``, ``group`` or ``instance``.
        weight, bias: names of gain and offset of each feature, or ''.
        input, output: value numbers.
        space: of the feature axis.
        epsilon: what is added to the variance.
        is_tracked: whether running statistics are used in place of the batch's own.
        offset: what the model adds to ``weight`` before it multiplies by it, 0 or 1.
        size: number of entries that are normalized together, 0 where that is not known.
        scale, centre: means over features of 1 / variance, and of the squared mean over the
            variance, of running statistics that are used; nan where they have no values.
        weight_square, bias_square: second moments of gain (with its offset) and offset as they
            stand.
    """

    layer: str
    kind: str
    weight: str
    bias: str
    input: int
    output: int
    space: int
    epsilon: float = 0.0
    is_tracked: bool = False
    offset: float = 0.0
    size: int = 0
    scale: float = 1.0
    centre: float = 0.0
    weight_square: float = 1.0
    bias_square: float = 0.0


@dataclass(frozen=True)
class Product:
    """Two values multiplied entry by entry, one broadcast where it is smaller."""

    inputs: tuple[int, ...]
    output: int
    space: int


@dataclass(frozen=True)
class Gain:
    """A value times a parameter or constant, broadcast.

    Attributes:
        layer: name of the module, or of the parameter.
        parameter: its name, '' for a constant.
        input, output: value numbers.
        space: of the feature axis.
        mean_square: second moment of the factor as it stands, nan where it is not known.
        offset: what the model adds to the parameter before it multiplies by it, as a rule 0 or 1.
        is_kept: whether a function of the parameter, or 1 over it, is the factor, so that the
            parameter keeps its values.
        mean: of a parameter's factor as it stands, nan where it is not known.
    """

    layer: str
    parameter: str
    input: int
    output: int
    space: int
    mean_square: float
    offset: float = 0.0
    is_kept: bool = False
    mean: float = math.nan


@dataclass(frozen=True)
class Shift:
    """A value plus a parameter or constant, broadcast.

    Attributes:
        layer: name of the module, or of the parameter.
        parameter: its name, '' for a constant.
        input, output: value numbers.
        space: of the feature axis.
        mean_square: second moment of what is added as it stands, nan where it is not known; entries
            that mask (below -1e4) are left out.
        offset: what the model adds to the parameter before it adds that, as a rule 0.
        is_kept: whether a function of the parameter is added, so that it keeps its values.
    """

    layer: str
    parameter: str
    input: int
    output: int
    space: int
    mean_square: float
    offset: float = 0.0
    is_kept: bool = False


@dataclass(frozen=True)
class Softmax:
    """Weights that add up to 1 along an axis of ``size`` entries, counted from the last."""

    layer: str
    input: int
    output: int
    space: int
    size: int
    axis: int = -1


@dataclass(frozen=True)
class Contract:
    """Products of two values, summed over an axis of ``size`` entries that both have.

    Where the first is made by a softmax over that axis, the result is an average of the second.
    """

    inputs: tuple[int, int]
    output: int
    space: int
    size: int


@dataclass(frozen=True)
class Attention:
    """softmax(scale * Q K^T) V over sites, head by head.

    Attributes:
        layer: name of the module, or ''.
        inputs: value numbers of queries, keys and values.
        output: value number.
        space: of the feature axis.
        size: features of a head.
        sites: number of keys.
        scale: factor of the scores.
        visible: mean over queries of 1 / (number of keys that a query sees).
    """

    layer: str
    inputs: tuple[int, int, int]
    output: int
    space: int
    size: int
    sites: int
    scale: float
    visible: float


@dataclass(frozen=True)
class Concat:
    """Values joined along an axis; ``sizes`` are theirs on it, ``axis`` counts from the end."""

    inputs: tuple[int, ...]
    output: int
    space: int
    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Take:
    """Some of the entries of a value, whichever: a slice, one of several parts, rows by index.

    Attributes:
        input, output: value numbers.
        space: of the feature axis.
        axis: along which entries are taken, counted from the end of the input's; 0 where it is not
            known.
    """

    input: int
    output: int
    space: int
    axis: int = 0


@dataclass(frozen=True)
class Spread:
    """The entries of a value, each several times: expanded, repeated, upsampled.

    Attributes:
        input, output: value numbers.
        space: of the feature axis.
        kept: sum of the squared weights where neighbours are averaged, as by bilinear upsampling;
            else 1.
    """

    input: int
    output: int
    space: int
    kept: float = 1.0


@dataclass(frozen=True)
class Recurrent:
    """One layer of a recurrent network in one direction, over all its steps, or one step of a cell.

    Attributes:
        layer: name of the module.
        kind: ``tanh``, ``relu``, ``lstm`` or ``gru``.
        weight, state_weight: names of what reads the inputs and what reads the state.
        bias, state_bias: names, '' where there is none.
        projection: name of what brings an lstm's state to fewer numbers, '' where there is none.
        input: number of the value that is read step by step.
        states: numbers of the states that it starts from; () where they are 0.
        outputs: numbers of the states after every step, of the last one, and of the last cell.
        space: of the state.
        in_size, state_size, out_size: entries of an input, of the cell, and of the state.
        steps: number of steps.
        steps_axis: axis of the steps, counted from the end; 0 for a cell.
        turn: steps that a cell with the same weights has made before.
    """

    layer: str
    kind: str
    weight: str
    state_weight: str
    bias: str
    state_bias: str
    projection: str
    input: int
    states: tuple[int, ...]
    outputs: tuple[int, ...]
    space: int
    in_size: int
    state_size: int
    out_size: int
    steps: int
    steps_axis: int = 0
    turn: int = 0
