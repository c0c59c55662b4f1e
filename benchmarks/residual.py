"""How loud residual branches should start: gains of the model's own, and post-norm transformers.

    python benchmarks/residual.py gains     24 blocks on handwritten digits, 6 draws, 3 rates
    python benchmarks/residual.py postnorm  12 post-norm layers that sort, no warm-up, 3 draws
    python benchmarks/residual.py           prints what residual.json beside this file holds

Every replica (a draw at a learning rate) is trained side by side in products of batches of
matrices, with Adam of its own: the sum of losses has each replica's gradient. Each takes minutes on
one core.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

PLACE = Path(__file__).with_suffix(".json")
Weights = dict[str, torch.Tensor]


def train(
    weights: Weights,
    loss: Callable[[Weights, int], torch.Tensor],
    rates: torch.Tensor,
    steps: int,
) -> None:
    """Adam on each replica; ``rates`` has one learning rate for each, ``loss`` one number."""
    first = {k: torch.zeros_like(w) for k, w in weights.items()}
    second = {k: torch.zeros_like(w) for k, w in weights.items()}
    for w in weights.values():
        w.requires_grad_()
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(loss(weights, step).sum(), list(weights.values()))
        with torch.no_grad():
            for (k, w), g in zip(weights.items(), gradients, strict=True):
                g = torch.nan_to_num(g)
                first[k].mul_(0.9).add_(g, alpha=0.1)
                second[k].mul_(0.999).addcmul_(g, g, value=0.001)
                move = first[k] / (1 - 0.9**step)
                move /= (second[k] / (1 - 0.999**step)).sqrt() + 1e-8
                w -= rates.view(-1, *[1] * (w.dim() - 1)) * move


# Gains: x + g * W2 gelu(W1 x), 24 times.

WIDTH, BLOCKS, GAIN_RATES, GAIN_DRAWS = 32, 24, (1e-3, 3e-3, 1e-2), 6
GAINS = {
    "rezero: gain 0, weights at 1": (0.0, 1.0),
    "layerscale: gain 1e-5, weights at 1": (1e-5, 1.0),
    "gain 0.1, weights at 1": (0.1, 1.0),
    "gain at the share, weights at 1": (BLOCKS**-0.5, 1.0),
    "gain 1, weights at the share": (1.0, BLOCKS**-0.5),
    "gain 1, weights at 1": (1.0, 1.0),
    "gain at the share, weights at the share": (BLOCKS**-0.5, BLOCKS**-0.5),
}

# Branches that end in a norm: what the gain of that norm starts at.
NORMED = {
    "gain 1": (1.0, 1.0),
    "gain at the share": (BLOCKS**-0.5, 1.0),
    "gain 1/L": (1 / BLOCKS, 1.0),
    "gain 0": (0.0, 1.0),
}


def gains(form: str, epochs: int = 12) -> dict[str, list[list[float]]]:
    """Test accuracy by way of starting, rate and draw.

    ``form`` is ``scalar`` or ``vector``, or ``norm`` for vectors behind a norm of the branch.
    """
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    x = torch.tensor(data.data[order] / 16.0, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(data.target[order])
    replicas = len(GAIN_RATES) * GAIN_DRAWS
    rates = torch.tensor(GAIN_RATES).repeat_interleave(GAIN_DRAWS)
    found = {}
    # E gelu(z)^2 = 0.4252 at z of variance 1.
    last = (0.4252 * 2 * WIDTH) ** -0.5
    for name, (gain, loud) in (NORMED if form == "norm" else GAINS).items():
        g = torch.Generator().manual_seed(1)

        def normal(*shape: int, std: float, g: torch.Generator = g) -> torch.Tensor:
            # All rates start from the same draws.
            return std * torch.randn(GAIN_DRAWS, *shape, generator=g).repeat(
                len(GAIN_RATES), *[1] * len(shape)
            )

        size = 1 if form == "scalar" else WIDTH
        w = {
            "in": normal(64, WIDTH, std=0.125),
            "a": normal(BLOCKS, WIDTH, 2 * WIDTH, std=WIDTH**-0.5),
            "b": normal(BLOCKS, 2 * WIDTH, WIDTH, std=loud * last),
            "gain": torch.full((replicas, BLOCKS, 1, size), gain),
            "out": normal(WIDTH, 10, std=WIDTH**-0.5),
            "a0": torch.zeros(replicas, BLOCKS, 1, 2 * WIDTH),
            "b0": torch.zeros(replicas, BLOCKS, 1, WIDTH),
        }

        def run(w: Weights, rows: torch.Tensor) -> torch.Tensor:
            h = rows @ w["in"]
            for i in range(BLOCKS):
                z = F.gelu(h @ w["a"][:, i] + w["a0"][:, i]) @ w["b"][:, i] + w["b0"][:, i]
                if form == "norm":
                    z = F.layer_norm(z, (WIDTH,))
                h = h + w["gain"][:, i] * z
            return h @ w["out"]

        batches = [b for _ in range(epochs) for b in torch.randperm(1400, generator=g).split(100)]

        def loss(w: Weights, step: int, batches: list[torch.Tensor] = batches) -> torch.Tensor:
            rows = batches[step - 1]
            out = run(w, x[rows])
            return F.cross_entropy(
                out.flatten(0, 1), y[rows].repeat(replicas), reduction="none"
            ).view(replicas, -1).mean(1)  # fmt: skip

        train(w, loss, rates, len(batches))
        with torch.no_grad():
            right = (run(w, x[1400:]).argmax(-1) == y[1400:]).float().mean(1)
        found[name] = right.view(len(GAIN_RATES), GAIN_DRAWS).tolist()
        print(f"{form:7} {name:42}", summary(found[name], best=max), flush=True)
    return found


# Post-norm: norm(x + branch), attention and MLP, 12 layers, sorting 6 tokens out of 12.

LAYERS, MODEL, HEADS, SITES, TOKENS, BATCH = 12, 32, 4, 6, 12, 32
POST_RATES, POST_DRAWS = (3e-4, 1e-3, 3e-3), 3
SHARES = {
    "1": 1.0,
    "L^-1/4": (2 * LAYERS) ** -0.25,
    "L^-1/2": (2 * LAYERS) ** -0.5,
    "L^-1": (2 * LAYERS) ** -1.0,
    "0": 0.0,
}


def normed(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Layer norm over the last axis with a gain."""
    return F.layer_norm(x, (MODEL,)) * gain


def postnorm(steps: int) -> dict[str, list[list[float]]]:
    """Mean test loss by share, rate and draw."""
    replicas = len(POST_RATES) * POST_DRAWS
    rates = torch.tensor(POST_RATES).repeat_interleave(POST_DRAWS)
    found = {}
    for name, share in SHARES.items():
        g = torch.Generator().manual_seed(2)

        def normal(*shape: int, std: float, g: torch.Generator = g) -> torch.Tensor:
            return std * torch.randn(POST_DRAWS, *shape, generator=g).repeat(
                len(POST_RATES), *[1] * len(shape)
            )

        root = MODEL**-0.5
        w = {
            "token": normal(TOKENS, MODEL, std=0.5**0.5),
            "place": normal(1, SITES, MODEL, std=0.5**0.5),
            "qkv": normal(LAYERS, MODEL, 3 * MODEL, std=root),
            "out": normal(LAYERS, MODEL, MODEL, std=root),
            "up": normal(LAYERS, MODEL, 2 * MODEL, std=root),
            "down": normal(LAYERS, 2 * MODEL, MODEL, std=(2 * MODEL) ** -0.5),
            "gains": torch.ones(replicas, LAYERS, 2, 1, 1, MODEL),
            "head": normal(MODEL, TOKENS, std=root),
        }

        def attend(h: torch.Tensor, w: Weights, i: int) -> torch.Tensor:
            parts = h.flatten(1, 2) @ w["qkv"][:, i]
            q, k, v = parts.view(*h.shape[:3], 3, HEADS, -1).permute(3, 0, 1, 4, 2, 5)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3)
            return (mixed.flatten(1, 2) @ w["out"][:, i]).view_as(h)

        def perceive(h: torch.Tensor, w: Weights, i: int) -> torch.Tensor:
            hidden = F.gelu(h.flatten(1, 2) @ w["up"][:, i])
            return (hidden @ w["down"][:, i]).view_as(h)

        def run(w: Weights, t: torch.Tensor, level: float | None = None) -> torch.Tensor:
            h = w["token"][:, t] + w["place"]
            h = F.layer_norm(h, (MODEL,))
            for i in range(LAYERS):
                for j, (branch, last) in enumerate(((attend, "out"), (perceive, "down"))):
                    made = branch(h, w, i)
                    if level is not None:
                        factor = level / made.square().mean((1, 2, 3)).sqrt()
                        w[last][:, i] *= factor.view(-1, 1, 1)
                        made = made * factor.view(-1, 1, 1, 1)
                    h = normed(h + made, w["gains"][:, i, j])
            return (h.flatten(1, 2) @ w["head"]).view(*h.shape[:3], TOKENS)

        def batch(count: int, g: torch.Generator = g) -> torch.Tensor:
            return torch.randint(0, TOKENS, (count, SITES), generator=g)

        def loss(w: Weights, step: int, rows: torch.Tensor | None = None) -> torch.Tensor:
            t = batch(BATCH) if rows is None else rows
            out, wanted = run(w, t), t.sort(1).values
            return F.cross_entropy(
                out.flatten(0, 2), wanted.flatten().repeat(replicas), reduction="none"
            ).view(replicas, -1).mean(1)  # fmt: skip

        with torch.no_grad():
            run(w, batch(64), share)
        train(w, loss, rates, steps)
        with torch.no_grad():
            last = loss(w, 0, batch(256))
        found[name] = last.view(len(POST_RATES), POST_DRAWS).tolist()
        print(f"share {name:8}", summary(found[name], best=min), flush=True)
    return found


def summary(by_rate: list[list[float]], best: Callable[..., float]) -> str:
    """The rate with the best mean, its mean and standard error, and the means of all."""
    means = [float(np.mean(draws)) for draws in by_rate]
    at = means.index(best(means))
    error = float(np.std(by_rate[at], ddof=1)) / math.sqrt(len(by_rate[at]))
    every = ", ".join(f"{m:.3f}" for m in means)
    return f"{means[at]:.3f} +- {error:.3f}   by rate: {every}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("gains", "postnorm"))
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    if given.what == "gains":
        found = {f"gains, {form}": gains(form) for form in ("vector", "scalar", "norm")}
    elif given.what == "postnorm":
        found = {"postnorm": postnorm(given.steps)}
    else:
        found = {}
    kept = (json.loads(PLACE.read_text()) if PLACE.exists() else {}) | found
    if given.what:
        PLACE.write_text(json.dumps(kept, indent=1) + "\n")
        return
    for what, rows in kept.items():
        print(what)
        for name, by_rate in rows.items():
            print(f"  {name:42}", summary(by_rate, min if what == "postnorm" else max))


if __name__ == "__main__":
    main()
