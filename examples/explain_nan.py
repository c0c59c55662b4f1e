"""A training that ends in nan, and which operation, module and line made the first one.

python examples/explain_nan.py
"""

import torch
from torch import nn

import equipoise.torch as eq


class Distances(nn.Module):
    """Distances of points to a few learned centres."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.centres = nn.Parameter(torch.zeros(3, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gaps = self.embed(x)[:, None] - self.centres
        # The root has no slope at 0, and a row of zeros lies on every centre.
        return gaps.square().sum(-1).sqrt()


def main() -> None:
    torch.manual_seed(0)
    model = Distances()
    nn.init.zeros_(model.embed.bias)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(16, 4)
    x[5] = 0.0
    with eq.explain_nonfinite(model, on_found="report") as found:
        model(x).mean().backward()
        sgd.step()
    print(found)
    print(f"\n{found.result.finding}" if found.result else "")


if __name__ == "__main__":
    main()
