"""Which learning rate does this network take? Ask before the training, not after it has died.

python examples/learning_rate.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import equipoise.torch as eq


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    y = (x[:, 0] * x[:, 1] + 0.3 * x[:, 2] > 0).long()
    batches = list(zip(x.split(32), y.split(32), strict=True))
    hidden = [layer for _ in range(9) for layer in (nn.Linear(24, 24), nn.GELU())]
    model = nn.Sequential(nn.Linear(8, 24), nn.GELU(), *hidden, nn.Linear(24, 2))
    eq.initialize(model, x[:256], generator=torch.Generator().manual_seed(0))
    adam = torch.optim.Adam(model.parameters(), lr=0.1)

    print(eq.advise(model, adam, batches, F.cross_entropy), "\n")
    print(eq.find_learning_rate(model, adam, batches, F.cross_entropy), "\n")
    print(eq.sharpness(model, F.cross_entropy, batches))


if __name__ == "__main__":
    main()
