"""A Lightning trainer, watched and guarded by one callback.

python examples/with_lightning.py
"""

from importlib.util import find_spec

import torch
from torch import nn

import equipoise.torch as eq


def main() -> None:
    if find_spec("lightning") is None:
        print("This example needs Lightning: pip install lightning")
        return
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        """A small regression."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))

        def training_step(
            self, pair: tuple[torch.Tensor, torch.Tensor], index: int
        ) -> torch.Tensor:
            inputs, targets = pair
            if index == 40:
                inputs = inputs.clone()
                inputs[3] = float("nan")  # a bad row
            return nn.functional.mse_loss(self.net(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 2e-3)

    torch.manual_seed(0)
    x = torch.randn(2048, 8)
    data = torch.utils.data.TensorDataset(x, (x[:, :2] * x[:, 2:4]).sum(1, keepdim=True))
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    callback = eq.lightning_callback(clip=eq.GlobalNorm(1.0), on_finding=print)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), loader)
    (guard,) = callback.watch.guards
    print(f"{guard.steps} steps, {guard.skipped} skipped, {guard.clipped_share:.0%} clipped")


if __name__ == "__main__":
    main()
