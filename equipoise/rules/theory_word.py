"""Theory's word on a net as it stands: where weights like these take signal and gradient.

Only where weights look like independent entries or like orthogonal matrices drawn apart; for any
other the word is why there is none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from equipoise.drift import Drift, fit_drift
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.stacks import Stack
from equipoise.rules.birth_chain import Array, Link, births
from equipoise.rules.expected_slopes import exact_slopes, log_gain_of_net
from equipoise.rules.weight_law import LawKind, WeightFacts, law_of
from equipoise.theory.lyapunov import LogGain
from equipoise.theory.meanfield import MeanField, mean_field
from equipoise.theory.odds import largest_depth, usable_odds, usable_odds_normal

_LEAST_HIDDEN = 3
# Agreement: three standard deviations of the draw, and this much for what the theory leaves out
# (entries that are not Gaussian, inputs of different norms).
_DEVIATIONS, _SLACK = 3.0, 0.005
_DEEPEST = 1 << 24


@dataclass(frozen=True)
class Exponent:
    """A drift that theory expects, and the one that was measured.

    Attributes:
        expected: nats per layer.
        std: standard deviation of the slope of one draw, nats per layer.
        measured: nats per layer.
        error: standard error of ``measured`` as a drift, nats per layer.
        agrees: whether the two agree within three standard deviations.
    """

    expected: float
    std: float
    measured: float
    error: float
    agrees: bool


@dataclass(frozen=True)
class TheoryWord:
    """What theory says of one stack of layers with the weights it has.

    Attributes:
        where: names of its first and last layer.
        layers: names of the layers that make its hidden units.
        depth: number of hidden layers.
        widths: least and largest number of hidden units.
        activations: names.
        law: ``gaussian`` (independent entries), ``haar`` (orthogonal) or '' where neither.
        reason: why theory has no word, or how exact its word is.
        weight_var: mean square of an entry times the number of inputs, geometric mean over layers.
        bias_var: mean square of a bias, mean over layers.
        signal, gradient: drift, forward and backward; None where theory has no word.
        phase: of the wide limit, '' where it does not apply.
        chi_1: growth per layer of the mean-square gradient in the wide limit.
        q_star, c_star: second moment and correlation that the wide limit reaches.
        depth_scale: layers over which inputs become alike, or part, by e in the wide limit.
        odds: probability that such a draw keeps signal and gradient within a factor of 10.
        half_depth: depth at which that probability falls to a half, in layers.
        odds_method: how the odds were computed.
        words: all of it in a few sentences.
        signal_path: expected log RMS at each of the layers, less that at the first, nats.
        gradient_path: the same of the gradient, less that at the last.
    """

    where: str
    layers: tuple[str, ...]
    depth: int
    widths: tuple[int, int]
    activations: tuple[str, ...]
    law: LawKind
    reason: str
    words: str
    weight_var: float = math.nan
    bias_var: float = math.nan
    signal: Exponent | None = None
    gradient: Exponent | None = None
    phase: str = ""
    chi_1: float = math.nan
    q_star: float = math.nan
    c_star: float = math.nan
    depth_scale: float = math.nan
    odds: float = math.nan
    half_depth: float = math.nan
    odds_method: str = ""
    signal_path: tuple[float, ...] = ()
    gradient_path: tuple[float, ...] = ()


def theory_words(
    m: Measurements, stacks: Sequence[Stack], facts: Mapping[str, WeightFacts]
) -> tuple[TheoryWord, ...]:
    """Theory's word on each stack with at least three hidden layers.

    Args:
        m: what was measured.
        stacks: the stacks of the model.
        facts: statistics of the weights between hidden layers, by name.
    """
    seen = {x.weight: x for x in m.layers}
    return tuple(
        _word(stack, seen, facts)
        for stack in stacks
        if stack.depth >= _LEAST_HIDDEN and all(a.weight in seen for a in stack.affines)
    )


def _word(
    stack: Stack, seen: Mapping[str, LayerMeasurement], facts: Mapping[str, WeightFacts]
) -> TheoryWord:
    layers = [seen[a.weight] for a in stack.affines[:-1]]
    weights = [facts[a.weight] for a in stack.affines[1:-1]]
    laws = [law_of(w) for w in weights]
    kinds = {law for law, _ in laws}
    first, last = stack.affines[0].layer, stack.affines[-1].layer
    widths = [h.width for h in stack.hidden]
    names = tuple(dict.fromkeys(str(h.activation) for h in stack.hidden))
    law, reason = laws[0][0], next((why for _, why in laws if why), "")
    if not reason and len(kinds) > 1:
        law, reason = "", "some weights are orthogonal and some are independent"
    jumps = next((h.activation for h in stack.hidden if h.activation.jumps), None)
    if jumps is not None:
        reason = f"{jumps} jumps, which makes gradients of 0 or infinity"
    if not reason and not all(math.isfinite(x.log_signal) for x in layers):
        reason = "the signal is 0 or not finite"
    where = f"{first} to {last}"
    hidden = tuple(x.layer for x in layers)
    size = (min(widths), max(widths))
    if reason:
        said = f"has no word on these {stack.depth} hidden layers, since {reason}."
        return TheoryWord(where, hidden, stack.depth, size, names, "", reason, said)

    weight_var = math.exp(float(np.mean([
        math.log(w.std**2 * w.columns) for w in weights
    ])))  # fmt: skip
    bias_var = float(np.mean([w.bias_rms**2 for w in weights]))
    wide = _wide(stack, weight_var, bias_var)
    word = TheoryWord(where, hidden, stack.depth, size, names, law, "", "", weight_var, bias_var)
    if wide is not None:
        entries = sum(w.rows * w.columns for w in weights)
        word = replace(
            word, phase=_phase(wide, entries), chi_1=wide.chi_1, q_star=wide.q_star,
            c_star=wide.c_star, depth_scale=wide.xi_c,
        )  # fmt: skip
    if any(a.convolution.kernel for a in stack.affines[:-1]):
        reason = "sites share weights, and exact numbers are for layers that do not"
        said = (
            f"{', '.join(names)} with weight_var {weight_var:.3g} and bias_var {bias_var:.2g}. "
            f"{_in_the_wide_limit(word)} Nothing at this width is held against the measurement, "
            f"since {reason}."
        )
        return replace(word, reason=reason, words=said)
    return _compared(word, _links(stack, law, weights), layers)


def _links(stack: Stack, law: LawKind, weights: Sequence[WeightFacts]) -> list[Link]:
    links = [
        Link(h.width, h.activation, 1.0 - h.active_dropout, law,
             w.std if law == "gaussian" else w.gain, w.bias_rms)
        for h, w in zip(stack.hidden[:-1], weights, strict=True)
    ]  # fmt: skip
    last = stack.hidden[-1]
    return [*links, Link(last.width, last.activation, 1.0 - last.active_dropout)]


def _wide(stack: Stack, weight_var: float, bias_var: float) -> MeanField | None:
    f = stack.hidden[0].activation
    if any(h.activation != f or h.active_dropout for h in stack.hidden):
        return None
    # A bias that rounding alone made would change the phase.
    return mean_field(f, weight_var, bias_var if bias_var > 1e-12 else 0.0)


def _phase(wide: MeanField, entries: int) -> str:
    """The phase, critical where the entries cannot tell chi_1 from 1: they are a sample too."""
    is_close = abs(math.log(wide.chi_1)) <= _DEVIATIONS * math.sqrt(2 / entries)
    return "critical" if is_close else wide.phase


def _compared(
    word: TheoryWord,
    links: Sequence[Link],
    layers: Sequence[LayerMeasurement],
) -> TheoryWord:
    """The word with its exponents, beside those that were measured on the same layers."""
    drawn = births(links, layers[0].log_signal)
    found = exact_slopes(links)
    exponents = {}
    for name, logs in (
        ("signal", [x.log_signal for x in layers]),
        ("gradient", [x.log_gradient for x in reversed(layers)]),
    ):
        measured = fit_drift(logs)
        slopes = drawn.slopes(name)
        sampled = len(slopes) > 1
        mean = float(slopes.mean()) if sampled else math.nan
        std = float(slopes.std(ddof=1)) if sampled else math.nan
        unsure = std / math.sqrt(len(slopes)) if sampled else math.nan
        if name in found:
            (mean, std), unsure = found[name], 0.0
        exponents[name] = _exponent(mean, std, unsure, measured)
    exact = " and ".join(found)
    how = "sampled from the exact law of one input at these widths"
    if exact:
        how = f"{exact} exact at these widths" + ("" if len(found) == 2 else f", the rest {how}")
    odds, half, method = _odds(links, drawn.usable(), exponents)
    word = replace(
        word,
        reason=how,
        signal=exponents["signal"],
        gradient=exponents["gradient"],
        odds=odds,
        half_depth=half,
        odds_method=method,
        signal_path=_path(drawn.signal, 0),
        gradient_path=_path(drawn.gradient, -1),
    )
    return replace(word, words=_in_words(word))


def _path(logs: Array, start: int) -> tuple[float, ...]:
    """Mean over the draws that live, from the layer where the measurement starts."""
    alive = logs[np.isfinite(logs).all(axis=1)]
    if not len(alive):
        return ()
    mean = alive.mean(axis=0)
    return tuple(float(x) for x in mean - mean[start])


def _exponent(mean: float, std: float, unsure: float, measured: Drift) -> Exponent:
    edge = _DEVIATIONS * math.hypot(std, unsure) + _SLACK
    agrees = abs(measured.per_layer - mean) <= edge
    return Exponent(mean, std, measured.per_layer, measured.error, agrees)


def _odds(
    links: Sequence[Link], share: float, exponents: Mapping[str, Exponent]
) -> tuple[float, float, str]:
    """Odds that a draw keeps signal and gradient within a decade, and the depth of even odds."""
    net = log_gain_of_net(links)
    steps = len(links) - 1
    if net is not None and links[0].law == "gaussian":
        f, width, scale = net
        odds = usable_odds(f, width, steps, scale)
        half = float(largest_depth(f, width, 0.5, scale))
        return odds, half if half < _DEEPEST else math.inf, "exact, of the signal"
    method = "share of sampled draws"
    half = math.inf
    for exponent in exponents.values():
        # The slope of a walk varies by 6 / 5 of its variance over its length.
        variance = exponent.std**2 * steps / 1.2
        half = min(half, _even_depth(LogGain(exponent.expected, max(variance, 1e-18), 1.0)))
    return share, half, method


def _even_depth(layer: LogGain) -> float:
    """The largest depth at which a normal log norm stays within a decade with odds of a half."""
    if not math.isfinite(layer.mean):
        return math.nan
    low, high = 0, 1
    while high < _DEEPEST and usable_odds_normal(layer, high) >= 0.5:
        low, high = high, 2 * high
    if high >= _DEEPEST:
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if usable_odds_normal(layer, middle) >= 0.5 else (low, middle)
    return float(low)


def _in_the_wide_limit(word: TheoryWord) -> str:
    if not word.phase:
        return ""
    scale = ""
    if word.phase == "critical":
        scale = ": gradients keep their size, to the accuracy of these entries"
    elif 0 < word.depth_scale < math.inf:
        turn = "part" if word.phase == "chaotic" else "become alike"
        scale = f": inputs {turn} by a factor e in {word.depth_scale:.3g} layers"
    return f"In the wide limit {word.phase}, chi_1 = {word.chi_1:.4g}{scale}."


def _in_words(word: TheoryWord) -> str:
    assert word.signal is not None
    assert word.gradient is not None
    low, high = word.widths
    width = f"{low}" if low == high else f"{low} to {high}"
    law = "independent entries" if word.law == "gaussian" else "orthogonal weights"
    lines = [
        f"{', '.join(word.activations)}, {word.depth} hidden layers of width {width}, {law} with "
        f"weight_var {word.weight_var:.4g} and bias_var {word.bias_var:.2g}."
    ]
    for name, way, e in (
        ("signal", "forward", word.signal), ("gradient", "backward", word.gradient),
    ):  # fmt: skip
        verdict = "as" if e.agrees else "not as"
        lines.append(
            f"The {name} drifts by {e.measured:+.3g} nats per layer {way}, {verdict} expected of "
            f"such a draw: {e.expected:+.3g} +- {e.std:.2g}."
        )
    lines.append(_in_the_wide_limit(word))
    half = "at any depth" if math.isinf(word.half_depth) else (
        f"up to a depth of {word.half_depth:.0f}"
    )  # fmt: skip
    lines.append(
        f"A draw like this keeps within a factor of 10 with probability {word.odds:.2g}; "
        f"every second one does {half}."
    )
    return " ".join(line for line in lines if line)
