"""What a stack's laws lead to: signal, gradient and angles in the typical draw, layer by layer.

The typical draw is the median one. At finite width its log RMS drifts by the Lyapunov exponent, not
by the log of the mean square, which rare large draws carry. Stacks are followed exactly in law
(``predict_chain``) with a fixed seed; where each activation is a line on each side of 0, the exact
exponents (``theory.lyapunov``) take the place of the sampled mean. Where a stack is too large, or a
law has no theory, everything is nan and a note says why.

A number is told where what few rows lack against many, and twice its standard error, are below 10 %
for a signal and a factor 1.5 for a gradient. ``benchmarks/predictions.py`` draws nets to compare.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from equipoise.plan.alike_stacks import signature
from equipoise.plan.chain_sites import numbers, products
from equipoise.plan.entry import Inputs, principal_axes
from equipoise.plan.odds import normal_odds, usable_share
from equipoise.plan.predict_alone import at_some_sites, expect_alone
from equipoise.plan.predict_chain import Draws, Laws, draw_chain, together
from equipoise.plan.predict_exact import exact_means
from equipoise.plan.stack_plan import Expected, StackPlan
from equipoise.plan.stacks import Stack
from equipoise.plan.typical import lack, spread, typical
from equipoise.schemes.laws import Array, BestOf, Frame, Law, Zero
from equipoise.schemes.lyapunov import is_two_lines

# Numbers that a batch of rows, and a single input, may draw: a third of a second of one core each.
_NUMBERS = 3e6
# Draws of a batch and of a single input, at least and at most.
_BATCHES, _SINGLES = (16, 200), (24, 1000)
# Draws to begin with. Share of a log RMS up to which its standard error is of no account.
_FIRST, _ENOUGH = 24, 0.01
# Draws after which a share of 0 or 1 is believed.
_SURE = 100
# Frames hold a stack of more layers than these so closely that draws of it are not worth seconds.
_DEEP = 120
# Beyond so many numbers nothing is sampled; entries of candidates are cheap.
_TOO_MANY, _TOO_MANY_TRIED = 2e7, 4e7
_MOST_ROWS = 32
# Numbers that the fewest batches may draw, so that deep stacks are sent as many rows as others.
_DEEP_NUMBERS = 8e6
# A log RMS is told where what few rows lack, and twice its standard error, are below these, nats.
SIGNAL_DOUBT, _GRADIENT_DOUBT = 0.1, 0.4
# The same for maps, in products: rows of a batch, draws at least and at most.
_PRODUCTS, _TOO_MANY_PRODUCTS = 5e8, 2e9
_MAP_ROWS, _MAPS, _LARGE_MAP, _PASSES = 4, (4, 200), 2e7, 30
_DOUBT = "draws or rows differ too much for a number within 10 % (signal) or 1.5 (gradient)"
# Nats by which scales of first order in 1 / width may miss, about half of the sum of 1 / width.
_NO_DRIFT = 0.15
# What was found of stacks that differ from another in names only, oldest first.
_MOST_FOUND = 512
_FOUND: dict[Hashable, Expected] = {}


def forget_alike() -> None:
    """Begin anew with stacks that are alike, so that no plan depends on those before it."""
    _FOUND.clear()


def predict(
    stack: Stack,
    weights: Sequence[Law],
    entry: Inputs | float,
    biases: Sequence[Law] = (),
    frames: Sequence[Frame] = (),
    arrays: Mapping[str, Array] | None = None,
    doubt: float = SIGNAL_DOUBT,
) -> Expected:
    """Expectations of a stack under given laws.

    Args:
        stack: the layers.
        weights: law of each weight.
        entry: what enters, or its second moment where nothing else is known of it; then Gaussian
            inputs are assumed.
        biases: law of each bias, all 0 where left out.
        frames: frames that laws name.
        arrays: arrays that laws and frames name.
        doubt: nats up to which the log of a signal may be off and still be told.

    Returns:
        The expectations, exact in law but for entries other than normal ones, of which only the
        variance counts from 16 inputs on. Their sampling error is that of 16 to 200 batches, with
        24 to 1,000 single inputs as control variates: about log_std / 20.
    """
    inputs = Inputs(float(entry), np.zeros((0, 0))) if isinstance(entry, float | int) else entry
    known = signature(stack, [*weights, *biases], frames, inputs, arrays or {})
    key = (known, len(weights), doubt, isinstance(entry, Inputs))
    if known is None:
        return _predict(stack, weights, entry, biases, frames, arrays, doubt)
    if key not in _FOUND:
        found = _predict(stack, weights, entry, biases, frames, arrays, doubt)
        while len(_FOUND) >= _MOST_FOUND:
            _FOUND.pop(next(iter(_FOUND)), None)
        _FOUND[key] = found
    return _FOUND[key]


def _predict(
    stack: Stack,
    weights: Sequence[Law],
    entry: Inputs | float,
    biases: Sequence[Law],
    frames: Sequence[Frame],
    arrays: Mapping[str, Array] | None,
    doubt: float,
) -> Expected:
    inputs = Inputs(float(entry), np.zeros((0, 0))) if isinstance(entry, float | int) else entry
    count = len(stack.affines)
    if not (math.isfinite(inputs.mean_square) and inputs.mean_square > 0):
        return Expected.nothing(count, "the scale of what enters is not known")
    bias = biases[0] if biases else Zero()
    whole = stack
    stack, first, inputs = at_some_sites(stack, weights[0], bias, inputs)
    rows, batches, singles = _effort(stack, weights := [first, *weights[1:]])
    alone = expect_alone(stack, first, bias, inputs, rows)
    if alone is not None:
        return _without_correlation(alone, entry)
    chosen = ""
    if not batches and any(isinstance(law, BestOf) for law in weights) and _hardly_drifts(stack):
        weights = [law.matrix if isinstance(law, BestOf) else law for law in weights]
        rows, batches, singles = _effort(stack, weights)
        chosen = ", as if there were one candidate for each weight"
    laws = Laws(weights, biases or [Zero()] * count, frames, arrays or {})
    if not batches:
        return Expected.nothing(count, "a stack of this size is not followed")
    widths = [h.width for h in stack.hidden]

    def settled(found: Draws) -> bool:
        widest = max(spread(found.signal).max(), spread(found.gradient).max())
        alive = np.isfinite(found.signal).all() and np.isfinite(found.gradient).all()
        return bool(alive and widest < _ENOUGH * math.sqrt(len(found.signal)))

    def certain(found: Draws) -> bool:
        return len(found.signal) > _SURE and usable_share(found, widths) in (0.0, 1.0)

    batch = _more(stack, laws, inputs, batches, rows, settled)
    if isinstance(batch, str):
        return Expected.nothing(count, batch)
    single = _more(stack, laws, inputs, singles, 1, certain)
    assert isinstance(single, Draws)
    exact = None if any(b != Zero() for b in biases) else exact_means(stack, weights)
    found = _summary(batch, single, exact, widths, rows, doubt)
    # Windows that were read apart are not what enters.
    at_entry = found.at_entry if stack is whole else math.nan
    found = replace(found, method=found.method + chosen, at_entry=at_entry)
    return _without_correlation(found, entry)


def _without_correlation(found: Expected, entry: Inputs | float) -> Expected:
    """How alike two inputs are is known of the inputs only."""
    if isinstance(entry, Inputs) and not (entry.maps.size or entry.rows.size):
        nothing = (math.nan,) * len(found.signal)
        return replace(found, correlation=nothing, correlation_std=())
    return found


def expect(stack: Stack, planned: StackPlan, inputs: Inputs) -> Expected:
    """Expectations of a planned stack.

    Of a stack on frames that is too large or too deep to be sampled they are those of the scheme
    itself: signal and gradient, with the odds of a log that is normal with its ``log_std``.

    Args:
        stack: the layers.
        planned: its part of the plan.
        inputs: what enters.

    Returns:
        The expectations.
    """
    if planned.expected is not None:
        return planned.expected
    if planned.frames and stack.depth > _DEEP:
        return _by_scheme(stack, planned, inputs)
    found = predict(stack, planned.weights, inputs, planned.biases, planned.frames, planned.arrays)
    return found if found.method or not planned.frames else _by_scheme(stack, planned, inputs)


def _by_scheme(stack: Stack, planned: StackPlan, inputs: Inputs) -> Expected:
    """What the scheme of a stack on frames expects itself.

    Its spread is that of one input; inputs in several directions stray apart from each other, and
    the RMS of all of them by so much less.
    """
    first = stack.affines[0]
    axes = principal_axes(inputs.rows, min(first.in_size, first.out_size))
    spread = planned.log_std / math.sqrt(axes.participation if axes else 1.0)
    same = (spread,) * len(planned.weights)
    unknown = (math.nan,) * len(planned.weights)
    widths = [h.width for h in stack.hidden]
    odds = normal_odds(planned.signal, planned.gradient, planned.log_std, widths)
    return Expected(
        planned.signal, planned.gradient, same, same, unknown, odds, 0.0,
        "normal law with the spread of the scheme",
    )  # fmt: skip


def _effort(stack: Stack, weights: Sequence[Law]) -> tuple[int, int, int]:
    """Rows of a batch, batches and single inputs that there is time for; no batches if too few."""
    if any(a.convolution.kernel for a in stack.affines):
        # Kernels are drawn whole: their products take time, and passes over large maps.
        cost = max(products(stack), _PASSES * numbers(stack))
        rows = _MAP_ROWS if cost < _LARGE_MAP else 2
        batches, singles = _draws(_PRODUCTS / cost / rows, _MAPS), _draws(_PRODUCTS / cost, _MAPS)
        return rows, batches * (cost * rows * batches <= _TOO_MANY_PRODUCTS), singles
    cost, tried = numbers(stack), _tried(stack, weights)
    rows = max(4, min(_MOST_ROWS, int(_DEEP_NUMBERS / cost / _BATCHES[0])))
    batches = _draws(_NUMBERS / (cost * rows + tried), _BATCHES)
    singles = _draws(_NUMBERS / (cost + tried), _SINGLES)
    fits = cost * rows * batches <= _TOO_MANY and tried * batches <= _TOO_MANY_TRIED
    return rows, batches * fits, singles


def _tried(stack: Stack, weights: Sequence[Law]) -> int:
    """Numbers that one draw of the weights takes where the best of several is kept."""
    return sum(
        law.draws * a.in_size * a.out_size
        for law, a in zip(weights, stack.affines, strict=True)
        if isinstance(law, BestOf)
    )


def _hardly_drifts(stack: Stack) -> bool:
    """Whether a stack of scaled weights keeps its target without a choice between several."""
    if all(is_two_lines(h.activation) for h in stack.hidden):
        return True
    return sum(1.0 / h.width for h in stack.hidden) <= _NO_DRIFT


def _more(
    stack: Stack, laws: Laws, inputs: Inputs, most: int, rows: int, enough: Callable[[Draws], bool]
) -> Draws | str:
    """Draws until there are enough of them, in parts each twice as large as all before."""
    parts = list[Draws]()
    made, size = 0, min(most, _FIRST)
    while True:
        found = draw_chain(stack, laws, inputs, size, rows, len(parts))
        if isinstance(found, str):
            return found
        parts.append(found)
        made += size
        if made >= most or enough(together(parts)):
            return together(parts)
        size = min(most - made, 2 * made)


def _draws(wanted: float, limits: tuple[int, int]) -> int:
    return int(min(max(wanted, limits[0]), limits[1]))


def _summary(
    batch: Draws,
    single: Draws,
    exact: tuple[Array, Array | None] | None,
    widths: list[int],
    rows: int,
    most_doubt: float,
) -> Expected:
    known = exact or (None, None)
    log_signal, error = typical(batch.signal, batch.norm, single.norm, known[0])
    log_gradient, back_error = typical(batch.gradient, batch.back_norm, single.back_norm, known[1])
    alive = np.isfinite(batch.cosine)
    cosine = np.where(alive, batch.cosine, 0.0).sum(axis=0) / np.maximum(alive.sum(axis=0), 1)
    odds = usable_share(single, widths)
    count = len(single.signal)
    doubt = np.maximum(2 * error, lack(batch.unlike, rows))
    back_doubt = np.maximum(2 * back_error, lack(batch.back_unlike, rows))
    lost = doubt > most_doubt, back_doubt > _GRADIENT_DOUBT
    return Expected(
        _floats(np.where(lost[0], math.nan, np.exp(log_signal))),
        _floats(np.where(lost[1], math.nan, np.exp(log_gradient))),
        _floats(spread(batch.signal)),
        _floats(spread(batch.gradient)),
        _floats(np.where(alive.any(axis=0), cosine, math.nan)),
        odds,
        math.sqrt(max(odds * (1 - odds), 1 / count) / count),
        "sampled exactly in law" + (", with exact exponents" if exact else ""),
        _DOUBT if lost[0].any() or lost[1].any() else "",
        _floats(spread(batch.cosine)),
        float(np.exp(log_signal[-1])),
        math.nan if lost[1][0] else float(np.exp(np.median(batch.entry))),
    )


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
