"""The Trainer of transformers, watched and guarded by one callback.

python examples/with_transformers.py
"""

import tempfile
from importlib.util import find_spec

import torch
from torch import nn

import equipoise.torch as eq


class Regression(nn.Module):
    """Returns its loss, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of rows and what they should become."""
        out = self.net(x)
        return {"loss": nn.functional.mse_loss(out, labels), "logits": out}


def main() -> None:
    if find_spec("transformers") is None or find_spec("accelerate") is None:
        print("This example needs transformers and accelerate: pip install transformers accelerate")
        return
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(0)
    x = torch.randn(2048, 8)
    y = (x[:, :2] * x[:, 2:4]).sum(1, keepdim=True)
    x[1000] = float("nan")  # a bad row
    data = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    callback = eq.transformers_callback(clip=eq.GlobalNorm(1.0), on_finding=print)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=32, num_train_epochs=1, use_cpu=True,
            learning_rate=2e-3, report_to=[], save_strategy="no", disable_tqdm=True,
            max_grad_norm=0.0,  # the guard clips, behind its look at the gradients
        )  # fmt: skip
        Trainer(Regression(), arguments, train_dataset=data, callbacks=[callback]).train()
    (guard,) = callback.watch.guards
    print(f"{guard.steps} steps, {guard.skipped} skipped, {guard.clipped_share:.0%} clipped")


if __name__ == "__main__":
    main()
