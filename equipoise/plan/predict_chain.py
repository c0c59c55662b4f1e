"""A batch of inputs and of cotangents through a stack, drawn many times."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from equipoise.plan.chain_sites import in_sites, numbers, out_sites
from equipoise.plan.entry import Inputs
from equipoise.plan.predict_sites import (
    Back,
    OnSites,
    SitesDifferError,
    flattened,
    layer_of,
    pooled,
)
from equipoise.plan.predict_weights import Drawing, Weight
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import (
    Array,
    BestOf,
    Constant,
    Frame,
    Law,
    Normal,
    OffsetBias,
    SpreadBias,
    Uniform,
    Zero,
)

# Numbers that one set of draws may hold.
_AT_ONCE = 1_500_000
_SEED = 20_260_719


@dataclass(frozen=True, eq=False)
class Laws:
    """Laws of a stack with what they name.

    Attributes:
        weights, biases: layer by layer.
        frames: frames of orthonormal columns.
        arrays: arrays of the plan by name.
    """

    weights: Sequence[Law]
    biases: Sequence[Law]
    frames: Sequence[Frame]
    arrays: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Draws:
    """What each of many drawn networks showed at the output of each layer.

    Attributes:
        signal: log RMS over units and rows, shape (draws, layers); -inf where all rows died.
        gradient: the same of the cotangent, which has RMS 1 at the last layer.
        cosine: mean cosine of two rows; nan where one died, or there is one.
        norm: mean over rows of the log norm of one row, less that of the row which entered.
        back_norm: mean over rows of the log norm of one cotangent, less that at the last layer.
        unlike: variance over the rows of a draw of the log of their squared norms, louder half.
        back_unlike: the same of their cotangents.
        entry: log RMS of the cotangent at what enters the first layer, shape (draws,).
    """

    signal: Array
    gradient: Array
    cosine: Array
    norm: Array
    back_norm: Array
    unlike: Array
    back_unlike: Array
    entry: Array


def draw_chain(
    stack: Stack,
    laws: Laws,
    entry: Inputs,
    draws: int,
    count: int,
    seed: int = 0,
) -> Draws | str:
    """Send a batch through many draws of a stack and a random cotangent of each row back.

    Args:
        stack: the layers.
        laws: of weights and biases.
        entry: what enters; without values of it, Gaussian ones are drawn.
        draws: number of networks.
        count: number of rows that each of them is sent.
        seed: another one gives other draws.

    Returns:
        What they showed, or why this stack cannot be followed.
    """
    rng = np.random.default_rng((_SEED, count, seed))
    size = max(1, min(draws, int(_AT_ONCE / (count * numbers(stack) + _held(stack, laws)))))
    frames = {frame.id: frame for frame in laws.frames}
    found = []
    for start in range(0, draws, size):
        drawing = Drawing(rng, min(size, draws - start), frames, laws.arrays)
        # What leaves the range of floats is told by the signal itself.
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                part = _pass(stack, laws, _entering(stack, laws, entry, count, drawing), drawing)
            except SitesDifferError:
                return "sites change between its layers in a way that is not followed"
        if isinstance(part, str):
            return part
        found.append(part)
    return together(found)


def together(parts: Sequence[Draws]) -> Draws:
    """Several sets of draws as one."""
    return Draws(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Draws)))


def _held(stack: Stack, laws: Laws) -> int:
    """Numbers of the weights that are drawn whole and kept for the way back."""
    return sum(
        a.in_size * a.out_size * a.convolution.taps // a.convolution.groups
        for a, law in zip(stack.affines, laws.weights, strict=True)
        if a.convolution.kernel or isinstance(law, BestOf)
    )


def _entering(stack: Stack, laws: Laws, entry: Inputs, count: int, drawing: Drawing) -> Array:
    """Some of the rows for each draw, shape (draws, fan_in, rows * sites).

    Several rows are given the second moment of all, so that the choice of rows moves no RMS; but
    not where a bias takes away their mean, from which they keep their distance.
    """
    first, rng, draws = stack.affines[0], drawing.rng, drawing.draws
    sites = math.prod(in_sites(stack))
    given = entry.maps if first.in_sites else entry.rows
    if sites > 1 and not first.in_sites:
        # A linear layer on maps: its rows are their sites, one map after another.
        whole = len(given) - len(given) % sites
        given = np.moveaxis(given[:whole].reshape(-1, sites, first.in_size), 1, 2)
    if not given.size or given.shape[1] != first.in_size:
        x = rng.standard_normal((draws, first.in_size, count * sites))
        of_mean, drawn = entry.share_of_mean, entry.drawn_share
        x *= math.sqrt(max(0.0, 1.0 - of_mean - drawn))
        if drawn:
            x += math.sqrt(drawn) * rng.standard_normal((draws, first.in_size, 1))
        x += math.sqrt(of_mean)
        return np.asarray(math.sqrt(entry.mean_square) * x)
    count = min(count, len(given))
    chosen = rng.random((draws, len(given))).argsort(axis=1)[:, :count]
    x = np.moveaxis(given[chosen], 1, 2).reshape(draws, first.in_size, -1)
    if count == 1 or any(isinstance(b, OffsetBias) and b.centre for b in laws.biases):
        return x
    energy = np.mean(x**2, axis=(1, 2), keepdims=True)
    return np.asarray(x * np.sqrt(entry.mean_square / np.where(energy > 0, energy, 1.0)))


def _pass(stack: Stack, laws: Laws, x: Array, drawing: Drawing) -> Draws | str:
    signal, cosine, norm, back_norm = list[Array](), list[Array](), list[Array](), list[Array]()
    unlike, back_unlike = list[Array](), list[Array]()
    maps, backs = list[Weight | OnSites](), list[Back]()
    spread: dict[str, Array] = {}
    sites = [math.prod(s) for s in out_sites(stack)]
    entered = _log_norms(x, math.prod(in_sites(stack)))
    for place, affine in enumerate(stack.affines):
        found = layer_of(laws.weights[place], affine, drawing)
        if isinstance(found, str):
            return found
        shifted = _shifted(found, laws.biases[place], x, affine.out_size, spread, drawing)
        if isinstance(shifted, str):
            return shifted
        z = shifted
        maps.append(found)
        signal.append(_log_rms(z))
        norms = _log_norms(z, sites[place])
        norm.append((norms - entered).mean(axis=1))
        unlike.append(_loudness(2 * norms))
        cosine.append(_cosine(_by_row(z, sites[place])))
        if place < len(stack.hidden):
            x, back = _activated(stack.hidden[place], z, drawing)
            backs.append(back)

    u = drawing.rng.standard_normal(z.shape)
    u = u / np.exp(_log_rms(u))[:, None, None]
    gradient = [np.zeros(len(u))]
    norms = _log_norms(u, sites[-1])
    started = norms.mean(axis=1)
    back_norm.append(np.zeros(len(u)))
    back_unlike.append(_loudness(2 * norms))
    for place in range(len(stack.hidden) - 1, -1, -1):
        u = backs[place](maps[place + 1].back(u))
        size = _log_rms(u)
        # The cotangent is linear: its size is kept apart, so that no depth overflows.
        u = u / np.exp(np.where(np.isfinite(size), size, 0.0))[:, None, None]
        gradient.append(gradient[-1] + size)
        norms = _log_norms(u, sites[place])
        back_norm.append(norms.mean(axis=1) - started + gradient[-1])
        back_unlike.append(_loudness(2 * norms))
    at_entry = gradient[-1] + _log_rms(maps[0].back(u))
    for backward in (gradient, back_norm, back_unlike):
        backward.reverse()
    layers = (signal, gradient, cosine, norm, back_norm, unlike, back_unlike)
    return Draws(*[*(np.stack(v, axis=1) for v in layers), at_entry])


def _shifted(
    weight: Weight | OnSites,
    bias: Law,
    x: Array,
    width: int,
    spread: dict[str, Array],
    drawing: Drawing,
) -> Array | str:
    """W x + b."""
    match bias:
        case Zero():
            return weight.forward(x)
        case Constant(value=value):
            return weight.forward(x) + value
        case Normal(std=std, mean=mean):
            return weight.forward(x) + mean + std * drawing.rng.standard_normal((len(x), width, 1))
        case Uniform(bound=bound, mean=mean):
            entries = drawing.rng.uniform(mean - bound, mean + bound, (len(x), width, 1))
            return weight.forward(x) + entries
        case OffsetBias(constant=constant, centre=centre, level=level, std=std):
            about = drawing.arrays[centre] if centre else np.zeros(1)
            point = weight.point(about) if isinstance(weight, OnSites) else about.reshape(-1, 1)
            offset = constant + point
            moved = level + (std * drawing.rng.standard_normal((len(x), width, 1)) if std else 0.0)
            if isinstance(weight, OnSites):
                weight.offset = offset
                return weight.forward(x) + moved
            return weight.forward(x - offset) + moved
        case SpreadBias(centre=centre, slope=slope) if not isinstance(weight, OnSites):
            rest = drawing.arrays[centre][:, None] if centre else 0.0
            if bias.in_space:
                before = spread[bias.in_space]
                x = x.copy()
                x[:, : before.shape[1]] -= slope * before
            z = weight.forward(x - rest)
            if bias.space:
                beta = bias.std * drawing.rng.standard_normal((len(x), width // 2, 1))
                spread[bias.space] = beta
                odd = np.zeros((len(x), width % 2, 1))
                z = z + np.concatenate([beta, -beta, odd], axis=1)
            return z
        case _:
            return f"no theory of {type(bias).__name__} biases is at hand"


def _activated(hidden: Hidden, z: Array, drawing: Drawing) -> tuple[Array, Back]:
    """What an activation, dropout and pooling make of values, and the way back through them."""
    steps, x = list[Back](), z
    for pool in hidden.early_pools:
        x, back = pooled(pool, x)
        steps.append(back)
    flat, shape = x.ravel(), x.shape
    x = np.asarray(hidden.activation.f(flat)).reshape(shape)
    slope = np.asarray(hidden.activation.df(flat)).reshape(shape)
    steps.append(lambda u: u * slope)
    for pool in hidden.pools:
        x, back = pooled(pool, x)
        steps.append(back)
    if hidden.active_dropout:
        kept = 1.0 - hidden.active_dropout
        mask = (drawing.rng.random(x.shape) < kept) / kept if kept else np.zeros(x.shape)
        x = x * mask
        steps.append(lambda u: u * mask)
    if hidden.copies > 1:
        x, back = flattened(x, hidden.copies)
        steps.append(back)

    def all_back(u: Array) -> Array:
        for step in reversed(steps):
            u = step(u)
        return u

    return x, all_back


def _log_rms(z: Array) -> Array:
    # Squares would leave the range of floats long before the values do.
    largest = np.abs(z).max(axis=(1, 2), initial=0.0)
    with np.errstate(divide="ignore"):
        unit = z / np.where(largest > 0, largest, 1.0)[:, None, None]
        return np.asarray(np.log(largest) + 0.5 * np.log(np.mean(unit**2, axis=(1, 2))))


def _by_row(z: Array, sites: int) -> Array:
    """One column for each row, whatever the number of its sites: (draws, units, rows)."""
    return z if sites == 1 else flattened(z, sites)[0]


def _log_norms(z: Array, sites: int) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 * np.log(np.sum(_by_row(z, sites) ** 2, axis=1)))


def _loudness(logs: Array) -> Array:
    """Mean square of how far the louder half of the rows lies above their median, (draws,).

    It is the variance where the law is symmetric. Rows that are nearly 0 move no RMS.
    """
    middle = np.median(logs, axis=1, keepdims=True)
    above = np.where(np.isfinite(middle) & (logs > middle), logs - middle, 0.0)
    return np.asarray(np.sum(above**2, axis=1) / max(logs.shape[1] // 2, 1))


def _cosine(z: Array) -> Array:
    rows = z.shape[2]
    norms = np.sqrt(np.sum(z**2, axis=1, keepdims=True))
    if rows < 2:
        return np.full(len(z), math.nan)
    with np.errstate(divide="ignore"):
        unit = z / norms
        total = np.sum(np.sum(unit, axis=2) ** 2, axis=1)
    return np.asarray((total - rows) / (rows * (rows - 1)))
