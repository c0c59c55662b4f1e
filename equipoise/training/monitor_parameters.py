"""Gradients, weights and updates of the parameters of one optimizer, taken around its step.

Every step: norms of gradients and of updates. In steps that are looked at closely: norms of
weights, and from a sample of 256 entries of each parameter the noise of its gradient and the
slope along the update. Nothing asks for a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from equipoise.training.gradient_norms import local, settled, tensor_norms
from equipoise.training.guard_names import Watched
from equipoise.training.guard_spikes import Spikes, Updates, sampled
from equipoise.training.monitor_limits import TWIN_EVERY
from equipoise.training.monitor_twins import bound, mark, twin_share

# Entries that are followed lie far apart in memory, which is what reading them costs. From 256 of
# them a norm is known to 4 %, that of all parameters together to far less.
_SPIKES = Spikes(sample=256)


@dataclass(frozen=True, eq=False)
class Piece:
    """Some numbers of one kind.

    Attributes:
        kind: what they are.
        places: of the parameters that they belong to, or whatever else the kind calls for.
        numbers: shape (places,), on the device.
    """

    kind: str
    places: Sequence[int]
    numbers: torch.Tensor


class Parameters:
    """Follows the parameters of one optimizer.

    Args:
        watched: them.
        offset: place of the first among those of all optimizers.
    """

    def __init__(self, watched: Sequence[Watched], offset: int) -> None:
        self.watched = tuple(watched)
        self.offset = offset
        self._updates = Updates(_SPIKES, [one.parameter for one in watched])
        self._members: tuple[int, ...] = ()
        # Sampled gradient of the last close look, sampled move of the last step, and the slope
        # along it before it was taken; all flat, over the members of then.
        self._known: tuple[tuple[int, ...], torch.Tensor] | None = None
        self._move: tuple[tuple[int, ...], torch.Tensor, torch.Tensor] | None = None
        self._now: torch.Tensor | None = None
        self._start: torch.Tensor | None = None
        self._bins: tuple[tuple[int, ...], torch.Tensor] | None = None

    def remember(self, given: Mapping[str, torch.Tensor]) -> None:
        """Remember the weights as they are, or those given by name, to compare the first with."""
        if self.watched:
            found = [
                given.get(one.name, one.parameter).detach().to(one.parameter)
                for one in self.watched
            ]
            laid = [_like(f, one.parameter) for f, one in zip(found, self.watched, strict=True)]
            self._start = torch.cat([_flat(tensor) for tensor in laid])

    def gradients(self, scale: torch.Tensor | None) -> list[Piece]:
        """Norms of the gradients as they are now.

        Args:
            scale: by which they are still scaled; None if they are not.
        """
        self._members = tuple(
            i for i, one in enumerate(self.watched) if one.parameter.grad is not None
        )
        if not self._members:
            return []
        norms = tensor_norms([self._gradient(i) for i in self._members])
        if scale is not None:
            norms = norms / scale.to(norms)
        return [Piece("gradient", self._placed(self._members), norms)]

    def before(self, scale: torch.Tensor | None, is_close: bool, number: int) -> list[Piece]:
        """Before the optimizer's step, once ``gradients`` has been called.

        Args:
            scale: by which gradients are still scaled; None if they are not.
            is_close: whether this step is looked at closely.
            number: of close looks so far.
        """
        found = []
        if self._start is not None:
            found.extend(self._since_start())
        self._now = None
        if self._members and (is_close or self._move is not None):
            self._now = self._sampled_gradients(scale)
            found.extend(self._slope())
        if is_close:
            found.extend(self._noise())
            if number % TWIN_EVERY == 0:
                found.extend(self._twins())
        self._move = None
        self._updates.begin()
        if is_close and self.watched:
            parameters = [settled(one.parameter.detach()) for one in self.watched]
            found.append(Piece("weight", self._placed(range(len(self.watched))),
                               tensor_norms(parameters)))  # fmt: skip
        return found

    def after(self, is_close: bool) -> list[Piece]:
        """After the optimizer's step."""
        if not self.watched:
            return []
        norms = self._updates.end()
        if is_close and self._now is not None:
            moved, factors = self._updates.moved, self._updates.factors
            move = torch.cat(
                [moved[i].reshape(-1).to(self._now) * -factors[i] for i in self._members]
            )
            self._move = self._members, move, torch.dot(self._now, move)
        return [Piece("update", self._placed(range(len(self.watched))), norms)]

    def _gradient(self, i: int) -> torch.Tensor:
        one = self.watched[i].parameter
        assert one.grad is not None
        return settled(one.grad, one)

    def _placed(self, members: Sequence[int]) -> Sequence[int]:
        return [self.offset + i for i in members]

    def _sampled_gradients(self, scale: torch.Tensor | None) -> torch.Tensor:
        """One vector of a sample of all gradients, as long as these are."""
        parts = []
        for i in self._members:
            gradient = self._gradient(i)
            if gradient.layout != torch.strided:
                gradient = gradient.to_dense()
            parts.append(_flat(_like(local(gradient), local(self.watched[i].parameter))))
        device = parts[0].device
        flat = torch.cat([part.to(device) for part in parts])
        return flat if scale is None else flat / scale.to(flat)

    def _slope(self) -> list[Piece]:
        """Slopes along the last move, before it and after it."""
        if self._move is None or self._now is None or self._move[0] != self._members:
            return []
        _, move, before = self._move
        if len(move) != len(self._now):
            return []
        return [Piece("slope", (self.offset,),
                      torch.stack([before, torch.dot(self._now, move)]))]  # fmt: skip

    def _noise(self) -> list[Piece]:
        """By parameter: what two gradients have in common, and half of what they differ by."""
        known, now = self._known, self._now
        self._known = None if now is None else (self._members, now)
        if known is None or now is None or known[0] != self._members or len(known[1]) != len(now):
            return []
        products = torch.stack([now * known[1], (now - known[1]).square() / 2])
        sums = now.new_zeros(2, len(self._members)).index_add_(1, self._places_of(now), products)
        places = self._placed(self._members)
        return [Piece("common", places, sums[0]), Piece("differs", places, sums[1])]

    def _places_of(self, flat: torch.Tensor) -> torch.Tensor:
        """For each entry of a sample of gradients, which of the members it belongs to."""
        if self._bins is None or self._bins[0] != self._members:
            counts = [_sampled_entries(self.watched[i].parameter) for i in self._members]
            bins = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
            self._bins = self._members, bins.to(flat.device)
        return self._bins[1]

    def _twins(self) -> list[Piece]:
        """Shares of units that repeat another one in weights and gradients."""
        chosen = [i for i in self._members if self.watched[i].parameter.dim() > 1]
        found = [
            twin_share(one.parameter.detach(), self._gradient(i), one.axis)
            for i, one in ((i, self.watched[i]) for i in chosen)
        ]
        if not found:
            return []
        return [Piece("twins", self._placed(chosen), torch.stack(found))]

    def _since_start(self) -> list[Piece]:
        """How far each weight is from what it started as, relative to that."""
        start, self._start = self._start, None
        assert start is not None
        found, at = [], 0
        for one in self.watched:
            flat = _flat(local(one.parameter.detach()))
            before = start[at : at + len(flat)]
            at += len(flat)
            found.append(torch.linalg.vector_norm(flat - before)
                         / torch.linalg.vector_norm(before).clamp(min=1e-30))  # fmt: skip
        places = self._placed(range(len(self.watched)))
        pieces = [Piece("since", places, torch.stack(found))]
        matrices = [i for i, one in enumerate(self.watched) if one.parameter.dim() > 1]
        if matrices:
            values = [self.watched[i].parameter.detach() for i in matrices]
            placed = self._placed(matrices)
            pieces.append(Piece("mark", placed, torch.stack([mark(v) for v in values])))
            pieces.append(Piece("bound", placed, torch.stack([bound(v) for v in values])))
        return pieces


def _like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A tensor laid out in memory as a parameter is, so that samples are of the same entries."""
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter.detach(), dtype=tensor.dtype).copy_(tensor)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """A sample as one vector, scaled so that its norm is about that of all entries."""
    view, scale = sampled(tensor.detach(), _SPIKES.sample)
    wide = view.reshape(-1)
    wide = wide.to(torch.float32 if wide.dtype.itemsize < 4 else wide.dtype)
    return wide * scale if scale != 1.0 else wide.clone()


def _sampled_entries(parameter: torch.Tensor) -> int:
    return sampled(local(parameter.detach()), _SPIKES.sample)[0].numel()
