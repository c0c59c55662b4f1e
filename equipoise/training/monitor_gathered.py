"""What the passes of one step have shown, on the device, until the step ends."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from equipoise.training.monitor_attention import Scores
from equipoise.training.monitor_outputs import Takers

Place = Literal["layer", "activation", "norm", "input"]


@dataclass(frozen=True, eq=False)
class Site:
    """One call of a layer.

    Attributes:
        layer: its name.
        width, sites, batch: units, sites of each, inputs.
        dtype: of its output.
        squares: sum of squares of the output.
        count: entries of the output.
        rows: a part of the output; None for all calls but the first of a layer.
        largest: absolute entry; None where the range of the numbers is no concern.
    """

    layer: str
    width: int
    sites: int
    batch: int
    dtype: torch.dtype
    squares: torch.Tensor
    count: int
    rows: torch.Tensor | None
    largest: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Check:
    """A number that is finite only if a tensor was, in order of the forward pass.

    Attributes:
        layer: who is to blame for it.
        place: what was looked at: ``input`` is a tensor that no operation seen here has made.
        number: on the device.
        is_half: whether the tensor was in float16.
    """

    layer: str
    place: Place
    number: torch.Tensor
    is_half: bool


@dataclass(frozen=True, eq=False)
class Activated:
    """One call of an activation.

    Attributes:
        layer: whose outputs it reads.
        flat: share of entries where it is flat; None where it is not bounded.
        silent: share of units that are 0 on the whole batch.
        dead: share of units that have been so in the last looks.
    """

    layer: str
    flat: torch.Tensor | None
    silent: torch.Tensor
    dead: torch.Tensor


@dataclass(eq=False)
class Gathered:
    """What the forward and backward passes of one step have shown so far, on the device.

    Attributes:
        quiet: layers that make queries and keys, since the beginning.
        ages: by layer, for how many looks each unit has been silent; this stays from step to step.
        takers: who takes in whose output; what it learned stays as well.
    """

    sites: list[Site] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    activations: list[Activated] = field(default_factory=list)
    scores: list[tuple[str, Scores]] = field(default_factory=list)
    gradients: list[tuple[Site, torch.Tensor]] = field(default_factory=list)
    sampled: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)
    ages: dict[str, torch.Tensor] = field(default_factory=dict)
    takers: Takers = field(default_factory=Takers)

    def clear(self) -> None:
        """Forget it."""
        for some in (self.sites, self.checks, self.activations, self.scores, self.gradients):
            some.clear()
        self.sampled.clear()
        self.takers.clear()


def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to, also where its weight is computed from others.

    >>> layer_of("body.0.parametrizations.weight.original0"), layer_of("body.0.bias")
    ('body.0', 'body.0')
    """
    owner, mark, _ = parameter.partition(".parametrizations.")
    return owner if mark else parameter.rpartition(".")[0] or parameter
