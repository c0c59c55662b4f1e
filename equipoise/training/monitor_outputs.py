"""Which layers make the outputs of a model: those whose output no other layer takes in.

Read from the graph that the forward pass leaves for the way back. So a sum, a product or a function
that nobody knows hides nothing, and a value that is detached before it is used counts as an output,
as it answers to a target and to no layer.
"""

from collections.abc import Sequence

import torch
from torch.autograd.graph import Node


class Takers:
    """Follows the graph from each layer back to the layers whose outputs it takes in.

    Attributes:
        taken: layers that another one takes in, since the beginning.
        placed: layers whose output was part of a graph, since the beginning.
    """

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.placed: set[str] = set()
        self._nodes: dict[Node, str] = {}
        self._calls: list[tuple[Node, str]] = []
        self._walked: tuple[str, ...] = ()

    def begin(self) -> None:
        """Before a forward pass."""
        self._calls.clear()

    def made(self, layer: str, outputs: Sequence[torch.Tensor]) -> None:
        """A layer was called.

        Args:
            layer: its name.
            outputs: all tensors that it gave.
        """
        self._calls.extend((t.grad_fn, layer) for t in outputs if t.grad_fn is not None)

    def end(self) -> None:
        """Behind a forward pass: see who took in whom."""
        order = tuple(layer for _, layer in self._calls)
        # The same layers in the same order were followed a moment ago.
        if order != self._walked:
            self._walked = order
            self.placed.update(order)
            self._nodes.update(self._calls)
            self._walk()
        self._calls.clear()

    def clear(self) -> None:
        """The step is over: nothing of its graph is held any longer."""
        self._nodes.clear()

    def outputs(self, layers: Sequence[str]) -> frozenset[str]:
        """Those of some layers that make outputs.

        Args:
            layers: in the order of their calls.

        >>> Takers().outputs(["0", "2"])
        frozenset({'2'})
        """
        found = {x for x in layers if x in self.placed and x not in self.taken}
        # Without a graph (frozen, or run again on the way back) the order is all there is.
        if layers and layers[-1] not in self.placed:
            found.add(layers[-1])
        return frozenset(found)

    def _walk(self) -> None:
        # From which layer a node was met; '' if from several, and then it need not be met again.
        met: dict[Node, str] = {}
        for node, layer in self._calls:
            waiting = [node]
            while waiting:
                for before, _ in waiting.pop().next_functions:
                    if before is None:
                        continue
                    owner = self._nodes.get(before)
                    if owner is not None:
                        # A recurrent layer takes in its own output, and may be the last all the
                        # same.
                        if owner != layer:
                            self.taken.add(owner)
                        continue
                    first = met.get(before)
                    if first is None:
                        met[before] = layer
                    elif first and first != layer:
                        met[before] = ""
                    else:
                        continue
                    waiting.append(before)
