"""A training that would die, guarded: spikes are clipped, bad batches skipped, trouble undone.

python examples/guarded.py
"""

import torch
from torch import nn

import equipoise.torch as eq


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 1))
    guard = eq.Guard(
        torch.optim.AdamW(model.parameters(), 3e-3),
        (eq.GlobalNorm(1.0), eq.ZScore()),  # a hard limit, and outliers below it
        model=model,
        exclude="*.bias",
        rollback=eq.Rollback(every=50, patience=3),
        on_finding=print,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(guard, 300)
    for step in range(300):
        x = torch.randn(64, 8)
        if step == 120:
            x[3, 5] = float("nan")  # a bad batch
        if 200 <= step < 203:
            x = x * float("inf")  # and some in a row
        loss = (model(x) - x[:, :1]).square().mean()
        guard.zero_grad()
        loss.backward()
        guard.step(loss=loss)
        schedule.step()
    print(guard)
    print(f"{guard.clipped_share:.0%} of steps clipped, {guard.rollbacks} rollback,")
    print(f"{guard.snapshot_bytes:,} bytes of snapshots, last loss {guard.history['loss'][-1]:.3f}")


if __name__ == "__main__":
    main()
