"""A training that is watched: what goes wrong is said as it happens, with its layer and a remedy.

python examples/monitored.py
"""

import torch
from torch import nn

import equipoise.torch as eq


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    monitor = eq.Monitor(model, optimizer, every=5, on_finding=print)
    for step in range(1, 301):
        x = torch.randn(64, 8)
        y = (x[:, :2] * x[:, 2:4]).sum(dim=1, keepdim=True)
        if step == 100:
            x = 40 * x  # a bad batch
        if step == 150:
            optimizer.param_groups[0]["lr"] *= 200  # somebody's schedule
        if step == 151:
            optimizer.param_groups[0]["lr"] /= 200
        if step == 200:
            model[2].bias.data -= 50.0  # units that die
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.step(loss)
    monitor.close()
    print(monitor)
    signal, dead = monitor.history["signal"], monitor.history["dead"]
    for i, layer in enumerate(monitor.layers):
        low, middle, high = monitor.quantiles("update_ratio", layer, (0.05, 0.5, 0.95))
        print(
            f"layer {layer}: signal {signal[0, i]:.2f} -> {signal[-1, i]:.2f}, "
            f"dead {dead[-1, i]:.0%}, update / weight {middle:.1e} ({low:.1e} to {high:.1e})"
        )


if __name__ == "__main__":
    main()
