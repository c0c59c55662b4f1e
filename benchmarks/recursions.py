"""Every recursion of the theory against networks whose weights are drawn in full.

    python benchmarks/recursions.py            # 1,000 layers at widths 4 and 8 only, minutes
    python benchmarks/recursions.py --full     # everything: half an hour or so

Each network sends a pair of inputs and a tangent down and a cotangent up. "exact": the theory has
no error, so z = (simulated - theory) / standard error is all there is; where both sides have no
spread the largest deviation stands instead. "leading order": the error counts, relative or, for
logs (nats), cosines and memories, absolute. A mean square whose log has a standard deviation above
1.1 is carried by few draws. Then its log is compared, as "heavy": half the variance of that log
parts the mean log from the log of the mean, whatever the theory.
Prints tables and writes JSON; a run that was stopped goes on from its JSON.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy import special, stats

from equipoise.theory import activations
from equipoise.theory.activations import Activation
from equipoise.theory.angles import stack_correlation
from equipoise.theory.branch import Branch, branch_scaling
from equipoise.theory.convolution import circular_drift, independent_positions
from equipoise.theory.diagonal_noise import small_noise
from equipoise.theory.fluctuation import gradient_fluctuation, signal_fluctuation
from equipoise.theory.lyapunov import log_gain, log_gains, stack_log_gain
from equipoise.theory.meanfield import chi_1, correlation_map, length_map
from equipoise.theory.moments import critical_scale, fractional_moment
from equipoise.theory.noise_chain import noise_chain
from equipoise.theory.noise_density import noise_density
from equipoise.theory.normalised import residual_stack
from equipoise.theory.odds import survival_probability, usable_odds
from equipoise.theory.residual import wide_trunk
from equipoise.theory.shift import shift_for_departure
from equipoise.theory.structured import HiddenLayer, balance

Array = NDArray[np.float64]
Layers = Iterable[tuple[Array, Array | float]]
Row = dict[str, Any]

SEED, WIDTHS, DEPTHS = 20240607, (4, 8, 16, 64), (20, 100, 1000)
# Numbers drawn for one network, and the fewest and most draws of it.
EFFORT = {"default": (1e7, 200, 10_000), "full": (4e7, 250, 40_000)}
# Cost of a weight: QR, two matrices, or kernels on all positions.
COST = {"haar": 4, "centred": 4, "mirrored": 2, "shifted": 4, "residual": 2, "convolution": 8}
BATCH = 1.5e7
HEAVY, FEWEST, BUDGET, ALPHA, DEPARTS, POSITIONS = 1.1, 100, 0.3, 0.085, 0.1, 16
EXACT, BOUND, LEADING = "exact", "bound", "leading order"
SLOPES = {"relu": 0.0, "leaky .01": 0.01, "leaky .3": 0.3, "identity": 1.0}
RESIDUAL = ("relu plain none", "relu depth none", "relu depth pre", "relu averaged post",
            "tanh depth none", "tanh depth pre", "tanh averaged post")  # fmt: skip
NETWORKS = {
    "gaussian": [f"{scale} {act}" for scale in ("he", "lyapunov") for act in SLOPES],
    "haar": [f"critical {act}" for act in SLOPES],
    "centred": [f"{a}{w}" for a in ("tanh", "sigmoid", "elu") for w in ("", " 4n, n")],
    "mirrored": ["gelu", "relu"],
    "shifted": ["relu", "leaky .01"],
    "noise": ["tanh"],
    "residual": list(RESIDUAL),
    "mean field": ["tanh 1.3 0.1", "tanh 2.25 0.05"],
    "convolution": ["leaky .01", "leaky .3"],
}


@dataclass(frozen=True)
class Job:
    """One kind of network at one width and depth."""

    family: str
    network: str
    width: int
    depth: int
    draws: int

    @property
    def label(self) -> str:
        """Name in the rows."""
        return f"{self.family} {self.network}"

    def rng(self) -> np.random.Generator:
        """A stream of its own."""
        name = f"{self.label} {self.width} {self.depth}".encode()
        return np.random.default_rng([SEED, zlib.crc32(name)])


class Rows(list[Row]):
    """Comparisons of one job."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def add(
        self, theory: str, claim: str, what: str, expected: float, found: float, error: float,
        z: float | None = None, relative: bool = True,
    ) -> None:  # fmt: skip
        """One comparison."""
        z = (found - expected) / error if z is None and error > 0 else z
        off = found / expected - 1 if relative else found - expected
        self.append({
            "theory": theory, "claim": claim, "network": self.job.label, "width": self.job.width,
            "depth": self.job.depth, "quantity": what, "expected": float(expected),
            "simulated": float(f"{found:.8g}"), "standard_error": float(f"{error:.4g}"),
            "z": None if z is None else float(f"{z:.4g}"), "error": float(f"{off:.6g}"),
            "draws": self.job.draws,
        })  # fmt: skip

    def mean(
        self, theory: str, claim: str, what: str, expected: float, values: Array,
        relative: bool = True, error: float = 0.0,
    ) -> None:  # fmt: skip
        """Mean of independent values; ``error`` is the standard error of a sampled theory."""
        own = values.std(ddof=1) / math.sqrt(values.size)
        self.add(theory, claim, what, expected, float(values.mean()), math.hypot(own, error),
                 relative=relative)  # fmt: skip

    def square(self, theory: str, claim: str, what: str, expected: float, logs: Array) -> None:
        """Mean of exp(2 log), or of the log where few draws carry that mean (heavy tails)."""
        if 2 * logs.std() <= HEAVY:
            self.mean(theory, claim, what, expected, np.exp(2 * logs))
        else:
            self.mean(theory, LEADING, f"heavy log {what}", math.log(expected) / 2, logs, False)

    def spread(
        self, theory: str, claim: str, what: str, expected: float, values: Array, error: float = 0.0
    ) -> None:
        """Standard deviation of independent values."""
        centred = values - values.mean()
        std = values.std(ddof=1)
        own = math.sqrt(((centred**4).mean() - std**4) / values.size) / (2 * std)
        self.add(theory, claim, what, expected, float(std), math.hypot(own, error))

    def share(self, theory: str, claim: str, what: str, expected: float, hits: Array) -> None:
        """Share of draws; z by the mid-p of the binomial law, which holds for rare events too."""
        n, k = hits.size, int(hits.sum())
        p = min(1.0, max(0.0, expected))
        half = stats.binom.pmf(k, n, p) / 2
        below, above = stats.binom.cdf(k - 1, n, p) + half, stats.binom.sf(k, n, p) + half
        tail = special.ndtri(max(1e-300, min(below, above)))
        z = tail if below < above else -tail
        self.add(theory, claim, what, expected, k / n, math.sqrt(p * (1 - p) / n), z, False)

    def same(self, theory: str, what: str, deviations: Array) -> None:
        """Largest deviation of what has no spread."""
        worst = float(np.abs(deviations).max())
        self.add(theory, EXACT, f"{what}, largest", 0.0, worst, 0.0, relative=False)


def gather(job: Job, one: Callable[[int], tuple[Array, ...]]) -> tuple[Array, ...]:
    """Draws of a job in batches that fit into memory."""
    size = max(1, int(BATCH / (COST.get(job.family, 1) * job.width**2 * job.depth)))
    sizes = [min(size, job.draws - i) for i in range(0, job.draws, size)]
    return tuple(np.concatenate(a) for a in zip(*map(one, sizes), strict=True))


def haar(rng: np.random.Generator, draws: int, n: int) -> Array:
    q, r = np.linalg.qr(rng.standard_normal((draws, n, n)))
    signs = np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)
    return q * signs[:, None, :]


def framed(
    rng: np.random.Generator, draws: int, widths: list[int], gains: Iterable[float]
) -> Iterator[Array]:
    """Weights on telescoping frames."""
    before = haar(rng, draws, widths[0])
    for (m, n), gain in zip(itertools.pairwise(widths), gains, strict=True):
        after, k = haar(rng, draws, n), min(m, n)
        yield gain * after[:, :, :k] @ before[:, :, :k].transpose(0, 2, 1)
        before = after


def unit(rng: np.random.Generator, draws: int, n: int) -> Array:
    v = rng.standard_normal((draws, n))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def start(rng: np.random.Generator, draws: int, n: int) -> Array:
    """Two inputs of RMS 1 and correlation 1/2, and a Gaussian tangent."""
    x, p = unit(rng, draws, n), rng.standard_normal((draws, n))
    p -= x * (x * p).sum(axis=1, keepdims=True)
    y = x / 2 + math.sqrt(0.75) * p / np.linalg.norm(p, axis=1, keepdims=True)
    return np.stack([math.sqrt(n) * x, math.sqrt(n) * y, rng.standard_normal((draws, n))], axis=2)


def cosine(state: Array) -> Array:
    x, y = state[..., 0], state[..., 1]
    return (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))


def propagate(
    layers: Layers, f: Callable[[Array], Array], df: Callable[[Array], Array], state: Array,
    cotangent: Array, rescale: bool = False,
) -> tuple[Array, ...]:  # fmt: skip
    """Log growth of the norm in each layer, final pair, log |J^T v| and log |J u|."""
    tape, steps, tangent = [], [], np.zeros(len(state))
    size = np.linalg.norm(state[..., 0], axis=1)
    # An input that ReLU has killed has norm 0: its rows are left out later.
    with np.errstate(divide="ignore", invalid="ignore"):
        for w, b in layers:
            z = w @ state
            z[..., :2] += b
            slope = df(z[..., 0])
            state = np.concatenate([f(z[..., :2]), slope[..., None] * z[..., 2:]], axis=2)
            norms = np.linalg.norm(state, axis=1)
            steps.append(np.log(norms[:, 0] / size))
            tangent += np.log(norms[:, 2])
            # Tangents are linear, and so is a homogeneous net: no depth overflows.
            keep = norms if rescale else np.stack([*np.ones((2, len(norms))), norms[:, 2]], axis=1)
            state = state / keep[:, None, :]
            size = norms[:, 0] / keep[:, 0]
            tape.append((w, slope))
        v, gradient = cotangent, np.zeros(len(state))
        for w, slope in reversed(tape):
            v = ((slope * v)[:, None, :] @ w)[:, 0]
            norm = np.linalg.norm(v, axis=1)
            v, gradient = v / norm[:, None], gradient + np.log(norm)
    return np.stack(steps, axis=1), state[..., :2], gradient, tangent


@lru_cache
def homogeneous_correlation(activation: Activation, depth: int) -> float:
    c = 0.5
    for _ in range(depth):
        c = min(1.0, correlation_map(activation, c, 1.0, 1.0))
    return c


def homogeneous(job: Job, rows: Rows) -> None:
    """A line on each side of 0, independent Gaussian or Haar weights."""
    rng, n, depth = job.rng(), job.width, job.depth
    kind, name = job.network.split(" ", 1)
    a, law = SLOPES[name], job.family
    act = activations.relu() if a == 0 else activations.leaky_relu(a)
    act = activations.identity() if a == 1 else act
    scale = critical_scale(act, n, law=law, order=2.0 if kind == "he" else 0.0)

    def weights(draws: int) -> Iterator[tuple[Array, float]]:
        for _ in range(depth):
            w = rng.standard_normal((draws, n, n)) if law == "gaussian" else haar(rng, draws, n)
            yield scale * w, 0.0

    def one(draws: int) -> tuple[Array, ...]:
        v = rng.standard_normal((draws, n)) if law == "gaussian" else unit(rng, draws, n)
        return propagate(weights(draws), act.f, act.df, start(rng, draws, n), v, rescale=True)

    steps, out, gradient, _ = gather(job, one)
    layer, log_norm = log_gain(act, n, scale=scale, law=law), steps.sum(axis=1)
    if layer.variance == 0.0:
        rows.same("lyapunov.log_gain", "log norm", log_norm - depth * layer.mean)
        rows.same("lyapunov.log_gain", "log gradient", gradient - depth * layer.mean)
        rows.same("meanfield.correlation_map", "cosine", cosine(out) - 0.5)
        return
    alive = np.isfinite(log_norm)
    odds = usable_odds(act, n, depth, scale, law)
    rows.share("odds.usable_odds", EXACT, "usable draws", odds, abs(log_norm) <= math.log(10))
    if a == 0:
        chance = survival_probability(n, depth)
        rows.share("odds.survival_probability", EXACT, "surviving draws", chance, alive)
    known = steps[np.isfinite(steps)]
    for order in (0.5, 2.0):
        moment = fractional_moment(act, order, n, scale=scale, law=law, given_survival=a == 0)
        rows.mean("moments.fractional_moment", EXACT, f"moment {order:g} of a layer", moment,
                  np.exp(order * known))  # fmt: skip
    if alive.sum() < FEWEST:
        return
    sums, std = log_norm[alive], math.sqrt(depth * layer.variance)
    rows.mean("lyapunov.log_gain", EXACT, "log norm", depth * layer.mean, sums, relative=False)
    rows.spread("lyapunov.log_gain", EXACT, "log norm, std", std, sums)
    back = gradient[alive]
    if law == "gaussian":
        whole = stack_log_gain(act, [n] * (depth + 1), scale, backward=True)
        name = "lyapunov.stack_log_gain"
        rows.mean(name, EXACT, "log gradient", whole.mean, back, relative=False)
        rows.spread(name, EXACT, "log gradient, std", math.sqrt(whole.variance), back)
    else:
        shift = depth * math.log(scale * math.sqrt((1 + a * a) / 2))
        for name, values in (("signal", sums), ("gradient", back)):
            theory = gradient_fluctuation if name == "gradient" else signal_fluctuation
            wide, what = theory(act, 1.0, n, depth), f"log {name.replace('signal', 'norm')}"
            rows.mean(f"fluctuation.{name}, lines", LEADING, what, wide.mean + shift, values, False)
            rows.spread(f"fluctuation.{name}, lines", LEADING, f"{what}, std", wide.std, values)
    both = cosine(out)
    rows.mean("meanfield.correlation_map", LEADING, "cosine",
              homogeneous_correlation(act, depth), both[np.isfinite(both)], False)  # fmt: skip


def centred(job: Job, rows: Rows) -> None:
    """Orthogonal weights on frames, gains from the budget; widths n or 4 n and n in turn."""
    rng, n, depth = job.rng(), job.width, job.depth
    act = getattr(activations, job.network.split(" ")[0])()
    alternate = job.network.endswith("n")
    widths = [4 * n, n] * (depth // 2) if alternate else [n] * depth
    hidden = [HiddenLayer(k, act) for k in widths]
    stack, zero = balance(hidden, widths[0], n, BUDGET), act.value_at_zero
    gains = [math.sqrt(stack.column_energy), *stack.gains[:-1]]

    def one(draws: int) -> tuple[Array, ...]:
        weights = ((w, 0.0) for w in framed(rng, draws, [widths[0], *widths], gains))
        state = start(rng, draws, widths[0])
        return propagate(weights, lambda z: act.f(z) - zero, act.df, state, unit(rng, draws, n))

    steps, out, gradient, _ = gather(job, one)
    label = "structured.balance" + ", widths 4n, n" * alternate
    log_out = steps.sum(axis=1) + math.log(widths[0]) / 2
    up = gradient - math.log(gains[0])
    rows.square(label, LEADING, "mean square", stack.exit_energy, log_out)
    rows.square(label, LEADING, "gradient", math.exp(stack.cotangent_log[0]), up)
    expected = stack_correlation(hidden, stack, widths[0], n, 0.5).output
    energy, cross = (out**2).sum(axis=(1, 2)) / 2, (out[..., 0] * out[..., 1]).sum(axis=1)
    ratio = cross.mean() / energy.mean()
    # The delta method for a ratio of means.
    values = ratio + (cross - ratio * energy) / energy.mean()
    name = label.replace("structured.balance", "angles.stack_correlation")
    rows.mean(name, LEADING, "cosine", expected, values, relative=False)
    if not alternate:
        last, q = math.log(stack.gains[-1]), stack.q[-1]
        level = log_out + last - math.log(n * q) / 2
        for name, values in (("signal", level), ("gradient", up + last)):
            theory = gradient_fluctuation if name == "gradient" else signal_fluctuation
            law, what = theory(act, q, n, depth), f"log {name.replace('signal', 'norm')}"
            rows.mean(f"fluctuation.{name}", LEADING, what, law.mean, values, False)
            rows.spread(f"fluctuation.{name}", LEADING, f"{what}, std", law.std, values)


def mirrored(job: Job, rows: Rows) -> None:
    """Pairs of units (v, -v) on frames: linear to rounding, at any depth."""
    rng, m, depth = job.rng(), job.width // 2, job.depth
    act = getattr(activations, job.network)()
    kappa = act.slope_left + act.slope_right

    def weights(draws: int) -> Iterator[tuple[Array, float]]:
        frames = framed(rng, draws, [m] * (depth + 1), [1.0] * depth)
        yield np.concatenate([first := next(frames), -first], axis=1), 0.0
        for o in frames:
            yield np.block([[o, -o], [-o, o]]) / kappa, 0.0

    def one(draws: int) -> tuple[Array, ...]:
        u = unit(rng, draws, m)
        last = np.concatenate([u, -u], axis=1) / kappa
        return propagate(weights(draws), act.f, act.df, start(rng, draws, m), last)

    _, out, gradient, _ = gather(job, one)
    out = (out[:, :m] - out[:, m:]) / kappa
    norms = np.linalg.norm(out[..., 0], axis=1)
    rows.same("oddpart.mirrored_pair", "log norm", np.log(norms / math.sqrt(m)))
    rows.same("oddpart.mirrored_pair", "log gradient", gradient)
    rows.same("oddpart.mirrored_pair", "cosine", cosine(out) - 0.5)


def shifted(job: Job, rows: Rows) -> None:
    """Biases that hold every unit at a point c of the linear side."""
    rng, n, depth = job.rng(), job.width, job.depth
    is_relu = job.network == "relu"
    act = activations.relu() if is_relu else activations.leaky_relu(SLOPES[job.network])
    c = shift_for_departure(DEPARTS, n, depth, "gaussian" if is_relu else "one_norm")

    def weights(draws: int) -> Iterator[tuple[Array, Array | float]]:
        for layer in range(depth):
            o = haar(rng, draws, n)
            yield o, c * (1 - o.sum(axis=2, keepdims=True)) if layer else c

    def one(draws: int) -> tuple[Array, ...]:
        state, left = start(rng, draws, n), np.zeros((draws, 2), dtype=bool)
        if is_relu:
            state *= np.sqrt(rng.chisquare(n, (draws, 1, 1)) / n)

        def f(z: Array) -> Array:
            nonlocal left
            left |= (z <= 0).any(axis=1)
            return act.f(z)

        _, out, gradient, _ = propagate(weights(draws), f, act.df, state, unit(rng, draws, n))
        before, after = (np.linalg.norm(s[..., 0], axis=1) for s in (state, out - c))
        return np.log(after / before), cosine(out - c), gradient, left

    # A unit that departs to 0 leaves a norm of 0 where it was the only one.
    with np.errstate(divide="ignore", invalid="ignore"):
        log_norm, both, gradient, left = gather(job, one)
    rows.share("shift.departure", LEADING, "departing draws", DEPARTS, left[:, 0])
    stay = ~left[:, 0]
    rows.same("shift.shifted", "log norm", log_norm[stay])
    rows.same("shift.shifted", "log gradient", gradient[stay])
    rows.same("shift.shifted", "cosine", both[~left.any(axis=1)] - 0.5)


def noise(job: Job, rows: Rows) -> None:
    """W = D + Z, Gaussian inputs."""
    rng, n, depth = job.rng(), job.width, job.depth
    act = activations.tanh()

    def one(draws: int) -> tuple[Array, ...]:
        std = ALPHA / math.sqrt(n)
        weights = (
            (np.eye(n) + std * rng.standard_normal((draws, n, n)), 0.0) for _ in range(depth)
        )
        state = rng.standard_normal((draws, n, 3))
        state[..., 1] = state[..., 0] / 2 + math.sqrt(0.75) * state[..., 1]
        run = propagate(weights, act.f, act.df, state, unit(rng, draws, n))
        return *run[1:], (np.sign(state[..., 0]) * np.sign(run[1][..., 0])).mean(axis=1)

    out, back, forward, memory = gather(job, one)
    replicates = min(job.draws, int(4e6 / depth))
    chain = noise_chain(act, [n] * (depth + 1), ALPHA, rng, replicates)
    wide = noise_density(act, depth, ALPHA)
    power = (out[..., 0] ** 2).mean(axis=1)
    for name, what, values, relative in (
        ("mean_square", "mean square", power, True),
        ("log_norm", "log norm", np.log(power) / 2, False),
        ("correlation", "cosine", cosine(out), False),
        ("sign_memory", "sign memory", memory, False),
        ("log_gradient", "log gradient", forward - math.log(n) / 2, False),
    ):
        known = getattr(chain, name)
        rows.mean("noise_chain", EXACT, what, known.value[-1], values, relative,
                  known.standard_error[-1])  # fmt: skip
    known = chain.log_norm_std
    rows.spread("noise_chain", EXACT, "log norm, std", known.value[-1], np.log(power) / 2,
                known.standard_error[-1])  # fmt: skip
    if 2 * back.std() <= HEAVY:
        known = chain.gradient
        rows.mean("noise_chain", EXACT, "gradient", known.value[-1], np.exp(2 * back),
                  error=known.standard_error[-1])  # fmt: skip
    rows.mean("noise_density", LEADING, "mean square", wide.mean_square[-1], power)
    rows.mean("noise_density", LEADING, "sign memory", wide.sign_memory[-1], memory, False)
    rows.square("noise_density", LEADING, "gradient", wide.gradient[-1], back)
    if depth == DEPTHS[-1]:
        settled = small_noise(act, ALPHA).mean_square
        rows.mean("diagonal_noise.small_noise", LEADING, "mean square", settled, power)


def normed(x: Array) -> tuple[Array, Array]:
    """LayerNorm over axis 1 and the size it divides by."""
    x = x - x.mean(axis=1, keepdims=True)
    size = np.sqrt((x * x).mean(axis=1, keepdims=True))
    return x / size, size


def pulled(v: Array, y: Array, size: Array | float) -> Array:
    """A cotangent through the norm whose output is y."""
    v = v - v.mean(axis=1, keepdims=True)
    return (v - y * (v * y).mean(axis=1, keepdims=True)) / size


def residual(job: Job, rows: Rows) -> None:
    """Trunks with branches of two Gaussian matrices."""
    rng, n, depth = job.rng(), job.width, job.depth
    name, scale, placement = job.network.split(" ")
    scaling, branch = branch_scaling(scale, depth), Branch(getattr(activations, name)(), 2, 2.0)
    f, df, post = branch.activation.f, branch.activation.df, placement == "post"

    def one(draws: int) -> tuple[Array, ...]:
        x, tape = start(rng, draws, n)[..., :2], []
        if post:
            x[..., 0] = normed(x[..., 0])[0]
            p = x[..., 1] - x[..., 1].mean(axis=1, keepdims=True)
            p = normed(p - x[..., 0] * (p * x[..., 0]).mean(axis=1, keepdims=True))[0]
            x[..., 1] = x[..., 0] / 2 + math.sqrt(0.75) * p
        entry = x[..., 0]
        for _ in range(depth):
            y, size = normed(x) if placement == "pre" else (x, np.ones((draws, 1, 2)))
            first = rng.standard_normal((draws, n, n)) / math.sqrt(n)
            last = rng.standard_normal((draws, n, n)) * math.sqrt(2 / n)
            h = first @ y
            x = scaling.skip * x + scaling.scale * last @ f(h)
            x, after = normed(x) if post else (x, size)
            tape.append((first, last, df(h[..., 0]), y[..., 0], size[..., 0], x[..., 0],
                         after[..., 0]))  # fmt: skip
        v, log = rng.standard_normal((draws, n)), np.zeros(draws)
        v = pulled(v, x[..., 0], 1.0) if post else v
        for first, last, slopes, y, size, out, after in reversed(tape):
            v = pulled(v, out, after) if post else v
            back = ((slopes * (v[:, None] @ last)[:, 0])[:, None] @ first)[:, 0] * scaling.scale
            v = scaling.skip * v + (pulled(back, y, size) if placement == "pre" else back)
            norm = np.linalg.norm(v, axis=1)
            v, log = v / norm[:, None], log + np.log(norm)
        if post:
            log = log + np.log(np.linalg.norm(pulled(v, entry, 1.0), axis=1))
        return x, log - math.log(n - 2 * post) / 2

    out, gradient = gather(job, one)
    stack = residual_stack(branch, depth, n, scaling, placement)
    power = (out[..., 0] ** 2).mean(axis=1)
    label = f"normalised.residual_stack, {placement}"
    claim = EXACT if stack.signal_is_exact else LEADING
    if post:
        rows.same(label, "log norm", np.log(power) / 2)
    else:
        if np.log(power).std() <= HEAVY:
            rows.mean(label, claim, "mean square", stack.signal[-1], power)
        rows.mean(label, LEADING, "log norm", stack.log_norm_mean[-1], np.log(power) / 2, False)
        rows.spread(label, LEADING, "log norm, std", stack.log_norm_std[-1], np.log(power) / 2)
    claim = EXACT if stack.gradient_is_exact else LEADING
    rows.square(label, claim, "gradient", math.exp(stack.gradient_log[0]), gradient)
    wide = wide_trunk(branch, depth, scaling, placement, correlation=0.5)
    rows.mean(f"residual.wide_trunk, {placement}", LEADING, "cosine", wide.correlation[-1],
              cosine(out), False)  # fmt: skip


@lru_cache
def wide_path(weight_var: float, bias_var: float, depth: int) -> tuple[float, float, float]:
    """Mean square and cosine of tanh after a depth, and log |J^T u|, all in the wide limit."""
    act, growth = activations.tanh(), 0.0
    q = weight_var + bias_var
    c = (weight_var / 2 + bias_var) / q
    for _ in range(depth):
        growth += math.log(chi_1(act, q, weight_var)) / 2
        c = correlation_map(act, c, q, weight_var, bias_var)
        q = length_map(act, q, weight_var, bias_var)
    return (q - bias_var) / weight_var, (c * q - bias_var) / (q - bias_var), growth


def mean_field(job: Job, rows: Rows) -> None:
    """Gaussian weights and biases."""
    rng, n, depth = job.rng(), job.width, job.depth
    weight_var, bias_var = map(float, job.network.split(" ")[1:])
    act = activations.tanh()

    def one(draws: int) -> tuple[Array, ...]:
        root = math.sqrt(weight_var / n), math.sqrt(bias_var)
        layers = ((root[0] * rng.standard_normal((draws, n, n)),
                   root[1] * rng.standard_normal((draws, n, 1))) for _ in range(depth))  # fmt: skip
        state = start(rng, draws, n)
        return propagate(layers, act.f, act.df, state, unit(rng, draws, n))[1:3]

    out, gradient = gather(job, one)
    square, correlation, growth = wide_path(weight_var, bias_var, depth)
    power = (out[..., 0] ** 2).mean(axis=1)
    rows.mean("meanfield.length_map", LEADING, "mean square", square, power)
    rows.mean("meanfield.correlation_map", LEADING, "cosine", correlation, cosine(out), False)
    rows.mean("meanfield.chi_1", LEADING, "log gradient", growth, gradient, False)


def convolution(job: Job, rows: Rows) -> None:
    """Circular convolutions of white images, 3 taps, kernels that keep the mean square."""
    rng, n, depth, taps = job.rng(), job.width, job.depth, 3
    a = SLOPES[job.network]
    act, scale = activations.leaky_relu(a), math.sqrt(2 / (taps * n * (1 + a * a)))

    def one(draws: int) -> tuple[Array, ...]:
        x, steps, spread = rng.standard_normal((draws, n, POSITIONS)), [], []
        x /= np.linalg.norm(x, axis=(1, 2), keepdims=True)
        for _ in range(depth):
            patches = np.concatenate([np.roll(x, k, axis=2) for k in (-1, 0, 1)], axis=1)
            gram = patches.transpose(0, 2, 1) @ patches
            trace = np.trace(gram, axis1=1, axis2=2)
            spread.append(trace**2 / (gram**2).sum(axis=(1, 2)))
            x = act.f(scale * rng.standard_normal((draws, n, taps * n)) @ patches)
            size = np.linalg.norm(x, axis=(1, 2), keepdims=True)
            steps.append(np.log(size[:, 0, 0]))
            x /= size
        return np.stack(steps, axis=1), np.stack(spread, axis=1)

    steps, spread = gather(job, one)
    drift, bounds = steps.mean(axis=1), circular_drift(act, n, taps, scale)
    name, error = "convolution.circular_drift", drift.std(ddof=1) / math.sqrt(job.draws)
    rows.mean(name, EXACT, "mean square of a layer", math.exp(2 * bounds.upper),
              np.exp(2 * steps).mean(axis=1))  # fmt: skip
    for what, edge, sign in (("lower", bounds.lower, -1), ("upper", bounds.upper, 1)):
        z = max(0.0, sign * float(drift.mean() - edge) / error)
        rows.add(name, BOUND, f"drift, {what} bound", edge, float(drift.mean()), error, z, False)
    positions = np.maximum(1.0, spread[: int(2e5 / depth)])
    widths = n * positions
    seen = math.log(scale**2 * taps) / 2 - np.log(positions) / 2 + log_gains(act, widths).mean
    rows.mean(f"{name}, positions as drawn", LEADING, "drift", float(seen.mean()), drift, False)
    limit = [circular_drift(act, n, taps, scale, max(1.0, p)).estimate
             for p in independent_positions(act, POSITIONS, depth)[:-1]]  # fmt: skip
    rows.mean("convolution.independent_positions", LEADING, "drift", sum(limit) / depth, drift,
              False)  # fmt: skip


FAMILIES: dict[str, Callable[[Job, Rows], None]] = {
    "gaussian": homogeneous, "haar": homogeneous, "centred": centred, "mirrored": mirrored,
    "shifted": shifted, "noise": noise, "residual": residual, "mean field": mean_field,
    "convolution": convolution,
}  # fmt: skip


def jobs(mode: str) -> Iterator[Job]:
    entries, least, most = EFFORT[mode]
    for family, networks in NETWORKS.items():
        for network, width, depth in itertools.product(networks, WIDTHS, DEPTHS):
            # He's ratio of 4 is kept at 16, 4 and 64, 16; 2^1000 leaves no room in the floats.
            alternate = network.endswith("n") and family == "centred"
            if (alternate and width not in (4, 16)) or ("plain" in network and depth == DEPTHS[-1]):
                continue
            if mode == "default" and depth == DEPTHS[-1] and (width > 8 or family == "centred"):
                continue
            cost = COST.get(family, 1) * width * (width + 16) * depth * (8 if alternate else 1)
            draws = 20 if family == "mirrored" else int(min(most, max(least, entries / cost)))
            yield Job(family, network, width, depth, draws)


def work(job: Job) -> list[Row]:
    rows = Rows(job)
    FAMILIES[job.family](job, rows)
    return list(rows)


def ignore_interrupts() -> None:
    """Ctrl-C is for the process that writes the file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def load(path: Path, settings: Row, fresh: bool) -> tuple[list[Row], float]:
    """Rows already there of the same settings and numbers of draws, and the seconds they took."""
    if fresh or not path.exists():
        return [], 0.0
    kept = json.loads(path.read_text())
    if kept["settings"] != settings:
        return [], 0.0
    draws = {(j.label, j.width, j.depth): j.draws for j in jobs(settings["mode"])}
    rows = [r for r in kept["rows"]
            if draws.get((r["network"], r["width"], r["depth"])) == r["draws"]]  # fmt: skip
    return rows, kept["seconds"]


def save(path: Path, settings: Row, rows: list[Row], seconds: float) -> None:
    versions = {name: version(name) for name in ("equipoise", "numpy", "scipy")}
    versions["python"] = platform.python_version()
    kept = {"settings": settings, "seconds": round(seconds), "versions": versions,
            "summary": summary(rows)}  # fmt: skip
    # One row a line: two runs can be compared line by line.
    lines = ",\n".join(json.dumps(r, allow_nan=False) for r in rows)
    draft = path.with_suffix(".tmp")
    draft.write_text(f'{json.dumps(kept, indent=1)[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')
    draft.replace(path)


def summary(rows: list[Row]) -> Row:
    """Exact rows by their z, leading-order rows by their worst error at each width."""
    scores = [abs(r["z"]) for r in rows if r["claim"] == EXACT and r["z"] is not None]
    bounds = [r["z"] for r in rows if r["claim"] == BOUND]
    same = [r["simulated"] for r in rows if r["claim"] == EXACT and r["z"] is None]
    worst: dict[str, dict[str, float]] = {}
    for r in sorted(rows, key=lambda r: (r["theory"], r["quantity"], r["depth"])):
        if r["claim"] == LEADING:
            by_width = worst.setdefault(f"{r['theory']}: {r['quantity']}, L = {r['depth']}", {})
            width = str(r["width"])
            by_width[width] = max(by_width.get(width, 0.0), abs(r["error"]))
    return {
        "exact_rows": len(scores),
        "largest_abs_z": max(scores, default=0.0),
        "root_mean_square_z": math.sqrt(sum(z * z for z in scores) / max(1, len(scores))),
        "above_4": sum(z > 4 for z in scores),
        "expected_above_4": len(scores) * 2 * special.ndtr(-4.0),
        "rows_without_spread": len(same),
        "largest_deviation": max(same, default=0.0),
        "bounds": len(bounds),
        "largest_z_past_a_bound": max(bounds, default=0.0),
        "worst_error_by_width": worst,
    }


def report(console: Console, rows: list[Row]) -> None:
    by_theory = sorted(rows, key=lambda r: (r["claim"], r["theory"], r["network"]))
    for (claim, theory), group in itertools.groupby(
        by_theory, key=lambda r: (r["claim"], r["theory"])
    ):
        table = Table(title=f"{theory}: {claim}", title_justify="left", box=SIMPLE_HEAD,
                      padding=0, pad_edge=False)  # fmt: skip
        for name in ("network", "n", "L", "quantity"):
            table.add_column(name, no_wrap=True)
        for name in ("theory", "simulated", "s.e.", "z", "error"):
            table.add_column(name, no_wrap=True, justify="right")
        for _, network in itertools.groupby(group, key=lambda r: r["network"]):
            for r in network:
                numbers = [f"{r[k]:.4g}" for k in ("expected", "simulated")]
                error = f"{r['standard_error']:.1e}" if r["standard_error"] else ""
                z = "" if r["z"] is None else f"{r['z']:+.3g}"
                table.add_row(r["network"], str(r["width"]), str(r["depth"]), r["quantity"],
                              *numbers, error, z, f"{r['error']:+.2g}")  # fmt: skip
            table.add_section()
        console.print(table)
    found = summary(rows)
    title = "Leading order: worst error over networks"
    table = Table("theory: quantity, depth", *(f"n = {n}" for n in WIDTHS), title=title,
                  title_justify="left", box=SIMPLE_HEAD)  # fmt: skip
    for name, by_width in found["worst_error_by_width"].items():
        table.add_row(name, *(f"{by_width[k]:.3g}" if (k := str(n)) in by_width else ""
                              for n in WIDTHS))  # fmt: skip
    console.print(table)
    console.print(
        f"{found['exact_rows']} exact rows: largest |z| {found['largest_abs_z']:.2f}, root mean "
        f"square {found['root_mean_square_z']:.3f}; {found['above_4']} above 4, where chance alone "
        f"gives {found['expected_above_4']:.2f} (rows of one network go together). "
        f"{found['rows_without_spread']} rows without spread: off by at most "
        f"{found['largest_deviation']:.1e}. {found['bounds']} bounds: at most "
        f"{found['largest_z_past_a_bound']:.2f} standard errors past."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="1,000 layers everywhere, more draws")
    parser.add_argument("--fresh", action="store_true", help="redo rows that are already there")
    parser.add_argument("--out", type=Path, default=Path("results/recursions.json"))
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # Before the workers import numpy.
    os.environ["OMP_NUM_THREADS"] = "1"
    mode = "full" if options.full else "default"
    settings = {"mode": mode, "seed": SEED, "budget": BUDGET, "alpha": ALPHA, "heavy": HEAVY}
    rows, seconds = load(options.out, settings, options.fresh)
    begun = time.time() - seconds
    place = {(j.label, j.width, j.depth): i for i, j in enumerate(jobs(mode))}
    done = {(r["network"], r["width"], r["depth"]) for r in rows}
    todo = [j for j in jobs(mode) if (j.label, j.width, j.depth) not in done]
    todo.sort(key=lambda j: -j.draws * j.width * (j.width + 16) * j.depth * COST.get(j.family, 1))
    console = Console(width=110)
    pool = multiprocessing.get_context("spawn").Pool(options.jobs, ignore_interrupts)
    try:
        with pool, Progress(console=console) as bar:
            for new in bar.track(pool.imap_unordered(work, todo), len(todo), description="nets"):
                rows.extend(new)
                rows.sort(key=lambda r: place[r["network"], r["width"], r["depth"]])
                save(options.out, settings, rows, time.time() - begun)
    except KeyboardInterrupt:
        console.print("Stopped: the same command goes on from here.")
    report(console, rows)
    console.print(f"{time.time() - begun:.0f} s; {options.out}")


if __name__ == "__main__":
    main()
