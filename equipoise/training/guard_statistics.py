"""Running statistics of normalization layers, put back where a step is skipped.

A batch with a nan leaves a nan in every running mean behind it; that a step is skipped does not
undo that, and evaluation stays broken for good.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """Means and variances of batch and instance norms as they were after the last good step."""

    def __init__(self, model: nn.Module) -> None:
        self._live = [
            buffer
            for module in model.modules()
            if isinstance(module, _NormBase)
            for buffer in module.buffers(recurse=False)
        ]
        self._kept = [buffer.clone() for buffer in self._live]

    def keep(self) -> None:
        """Remember them."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)

    def put_back(self) -> None:
        """Write them as they were remembered."""
        if self._live:
            torch._foreach_copy_(self._live, self._kept)

    def settle(self, is_bad: torch.Tensor) -> None:
        """Remember or put back, as a flag on the device has it, without waiting for it."""
        for live, kept in zip(self._live, self._kept, strict=True):
            torch.where(is_bad.to(live.device), kept, live, out=live)
            kept.copy_(live)
