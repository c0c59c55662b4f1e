"""A model written by hand: initialize it, read what was done, keep the plan, take it back.

python examples/deep_narrow.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import equipoise.torch as eq


class Controller(nn.Module):
    """60 narrow layers of an activation that no table of gains has."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 12)
        self.body = nn.ModuleList(nn.Linear(12, 12) for _ in range(60))
        self.decode = nn.Linear(12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.encode(x)
        for layer in self.body:
            h = layer(h * torch.sigmoid(2 * h) + 0.1 * F.softsign(h))
        return self.decode(h).tanh()


def main() -> None:
    states = torch.randn(512, 4) * torch.tensor([1.0, 0.2, 3.0, 0.5])
    model = Controller()
    print(eq.diagnose(model, states), "\n")

    report = eq.initialize(model, states, generator=torch.Generator().manual_seed(0))
    print(report)
    report.raise_if_unhealthy()

    first = report.plan.assignments[0]
    print(f"\n{first.parameter} is drawn from {first.law}: {first.reason}.")
    report.undo()


if __name__ == "__main__":
    main()
