"""Which start trains a model best? A model and data of your own, as `equipoise compare` has them.

python examples/compare_starts.py
equipoise compare examples.compare_starts:net --data examples.compare_starts:load --out page.html
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from equipoise.lab import compare


def net() -> nn.Module:
    """30 hidden layers of width 16 that read digits."""
    hidden = [m for _ in range(29) for m in (nn.Linear(16, 16), nn.GELU())]
    return nn.Sequential(nn.Linear(64, 16), nn.GELU(), *hidden, nn.Linear(16, 10))


def load() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and class numbers; a part is held back to test on."""
    digits = load_digits()
    pixels = torch.as_tensor(digits.data, dtype=torch.float32)
    return (pixels - pixels.mean()) / pixels.std(), torch.as_tensor(digits.target)


def main() -> None:
    # A first look; the command's own defaults take a few minutes.
    found = compare(
        net, load(), "cross-entropy", ["auto", "default"], draws=4, learning_rates=[3e-3], steps=60
    )
    print(found)


if __name__ == "__main__":
    main()
