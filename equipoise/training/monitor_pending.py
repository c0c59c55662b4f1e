"""Rows on their way from the device to the host, without waiting for either."""

from collections import deque

import numpy as np
import torch

from equipoise.training.monitor_row import Reading, Row, read

# Rows that may be on their way; beyond, the oldest is waited for, so that memory stays bounded.
_MOST = 256


class Pending:
    """Hands rows over in order, each as soon as its numbers have arrived.

    On the CPU that is at once. Elsewhere the copy runs behind the work of the device, into pinned
    memory, and an event says when it is done.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Row, torch.Tensor, torch.Event | None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, row: Row) -> None:
        """Send a row on its way."""
        device = row.vector.device
        if device.type == "cpu":
            self._waiting.append((row, row.vector, None))
            return
        copy = row.vector.to("cpu", non_blocking=True)
        event = torch.Event(device)
        event.record()
        self._waiting.append((row, copy, event))

    def arrived(self, is_all: bool) -> list[Reading]:
        """Those that have arrived, the oldest first.

        Args:
            is_all: whether to wait for the rest.
        """
        found = []
        while self._waiting:
            row, copy, event = self._waiting[0]
            if event is not None and not event.query():
                if not is_all and len(self._waiting) <= _MOST:
                    break
                event.synchronize()
            self._waiting.popleft()
            numbers: np.ndarray = copy.double().numpy()
            found.append(read(row, numbers))
        return found
