"""A loop of Hugging Face's accelerate, watched and guarded.

python examples/with_accelerate.py
"""

from importlib.util import find_spec

import torch
from torch import nn

import equipoise.torch as eq


def main() -> None:
    if find_spec("accelerate") is None:
        print("This example needs accelerate: pip install accelerate")
        return
    from accelerate import Accelerator

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
    # The guard goes in where the optimizer would: accelerate wraps it as it wraps any other.
    guard = eq.Guard(torch.optim.Adam(model.parameters(), 2e-3), eq.GlobalNorm(1.0), model=model)
    x = torch.randn(2048, 8)
    data = torch.utils.data.TensorDataset(x, (x[:, :2] * x[:, 2:4]).sum(1, keepdim=True))
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, guard, loader)
    monitor = eq.Monitor(model, guard, every=10, on_finding=print)
    for step, (inputs, targets) in enumerate(loader):
        if step == 40:
            inputs[3] = float("nan")  # a bad row
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        guard.observe(loss)
        optimizer.step()
        monitor.step(loss)
    monitor.close()
    print(f"{guard.steps} steps, {guard.skipped} skipped, {guard.clipped_share:.0%} clipped")


if __name__ == "__main__":
    main()
