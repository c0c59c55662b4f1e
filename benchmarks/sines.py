"""Networks of sines on a picture: ``auto`` beside the published initialization.

A picture of 64 x 64 pixels made of blobs, edges and waves. Half of the pixels are fitted by Adam,
the other half are held back; printed is the peak of 10 log10(variance / error) over learning rates.

    python benchmarks/sines.py --steps 200
"""

import argparse
import math

import numpy as np
import torch
from torch import nn

from equipoise.lab.pictures import made_picture
from equipoise.torch import initialize

RATES = (2e-4, 5e-4, 1e-3, 2e-3)
FREQUENCY = 30.0


class Sine(nn.Module):
    """sin(w x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        return torch.sin(FREQUENCY * x)


def picture(side: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates in [-1, 1]^2 and values of mean 0 and variance 1."""
    grid = np.linspace(-1, 1, side)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    values = made_picture(side, seed)
    places = np.stack([y, x], axis=-1).reshape(-1, 2)
    return torch.from_numpy(places).float(), torch.from_numpy(values.reshape(-1, 1)).float()


def network(width: int = 64, depth: int = 3) -> nn.Sequential:
    """Sines between linear layers."""
    layers: list[nn.Module] = [nn.Linear(2, width), Sine()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), Sine()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def fit(scheme: str, rate: float, steps: int, seed: int) -> tuple[float, float]:
    """Decibels on the pixels that were fitted and on those held back, after the last step."""
    places, values = picture()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    fitted, held = order[: len(order) // 2], order[len(order) // 2 :]
    model = network()
    initialize(model, places, scheme, torch.Generator().manual_seed(seed))
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        (model(places[fitted]) - values[fitted]).square().mean().backward()
        adam.step()
    with torch.no_grad():
        errors = [float((model(places[p]) - values[p]).square().mean()) for p in (fitted, held)]
    return -10 * math.log10(errors[0]), -10 * math.log10(errors[1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for scheme in ("siren", "auto"):
        for seed in range(given.seeds):
            found = [fit(scheme, rate, given.steps, seed) for rate in RATES]
            row = "  ".join(f"{a:5.1f} / {b:5.1f}" for a, b in found)
            best = [max(column) for column in zip(*found, strict=True)]
            print(f"{scheme:6} {row}   best {best[0]:5.1f} / {best[1]:5.1f}", flush=True)


if __name__ == "__main__":
    main()
