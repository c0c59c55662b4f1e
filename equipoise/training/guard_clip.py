"""The rules of a guard at work: portions of the parameters, and what each rule remembers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from equipoise.training.clip_gradients import ClipMemory, Clipping, carry_out, decide
from equipoise.training.clip_units import norms_by_units
from equipoise.training.clipping import ClipRule, PerUnit
from equipoise.training.gradient_norms import tensor_norms
from equipoise.training.guard_names import Portion, Watched


@dataclass(frozen=True, eq=False)
class Decided:
    """What is to be done to one portion of the gradients."""

    rule: ClipRule
    clipping: Clipping
    gradients: tuple[torch.Tensor, ...]


class Clipper:
    """Clips portion by portion."""

    def __init__(self, portions: Sequence[Portion], parameters: Sequence[Watched]) -> None:
        self.portions = tuple(portions)
        self._parameters = tuple(parameters)
        self.memories: dict[str, ClipMemory] = {}

    def norms(
        self, members: Sequence[int], gradients: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Norms of gradients; by place, norms of the units of those that are clipped by units.

        Args:
            members: places of the parameters that have gradients.
            gradients: settled.
        """
        first = {
            member
            for portion in self.portions
            if isinstance(portion.rules[0], PerUnit)
            for member in portion.members
        }
        axes = {i: self._parameters[m].axis for i, m in enumerate(members) if m in first}
        return norms_by_units(gradients, axes)

    def decide(
        self,
        members: Sequence[int],
        gradients: Sequence[torch.Tensor],
        norms: torch.Tensor,
        units: Mapping[int, torch.Tensor],
    ) -> tuple[Decided, ...]:
        """What the last rule of each portion says; rules in front of it have been carried out.

        Args:
            members: places of the parameters that have gradients.
            gradients: settled.
            norms: of these.
            units: by place, norms of the units of some.
        """
        at = {member: i for i, member in enumerate(members)}
        found = []
        for i, portion in enumerate(self.portions):
            places = [at[member] for member in portion.members if member in at]
            own = tuple(gradients[place] for place in places)
            ones = [self._parameters[members[place]] for place in places]
            if not own:
                continue
            is_all = places == list(range(len(members)))
            known = norms if is_all else norms[torch.tensor(places, device=norms.device)]
            by_unit = [units[place] for place in places if place in units]
            was_clipped = torch.zeros((), dtype=torch.bool, device=norms.device)
            for j, rule in enumerate(portion.rules):
                key = f"{i}.{j} {rule}"
                clipping = decide(
                    own, rule, [one.parameter for one in ones], [one.layer for one in ones],
                    [one.axis for one in ones], known if j == 0 else tensor_norms(own),
                    self.memories.get(key), by_unit if j == 0 and len(by_unit) == len(own) else (),
                )  # fmt: skip
                if clipping.memory is not None:
                    self.memories[key] = clipping.memory
                if j + 1 < len(portion.rules):
                    carry_out(clipping, rule, own)
                    was_clipped = was_clipped | clipping.is_clipped
                    continue
                found.append((Decided(rule, clipping, own), was_clipped))
        return tuple(_with_earlier(decided, earlier) for decided, earlier in found)

    def carry_out(self, decided: Sequence[Decided], is_clipped: Sequence[bool] | None) -> None:
        """Clip.

        Args:
            decided: of each portion.
            is_clipped: which of them need it, where the host knows; else all are multiplied, most
                of them by 1.
        """
        for i, one in enumerate(decided):
            if is_clipped is None or is_clipped[i]:
                carry_out(one.clipping, one.rule, one.gradients)

    def state_dict(self) -> dict[str, dict[str, torch.Tensor | int]]:
        """What the rules remember, as tensors and numbers."""
        return {
            key: {"values": memory.values.clone(), "steps": memory.steps}
            for key, memory in self.memories.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, torch.Tensor | int]]) -> None:
        """Remember what was remembered; what belongs to other rules is left out."""
        known = {f"{i}.{j} {rule}" for i, p in enumerate(self.portions)
                 for j, rule in enumerate(p.rules)}  # fmt: skip
        self.memories = {
            key: ClipMemory(torch.as_tensor(value["values"]).clone(), int(value["steps"]))
            for key, value in state.items()
            if key in known
        }


def _with_earlier(decided: Decided, earlier: torch.Tensor) -> Decided:
    old = decided.clipping
    clipping = Clipping(old.norm, old.limit, old.is_clipped | earlier, old.factors, old.memory)
    return Decided(decided.rule, clipping, decided.gradients)
