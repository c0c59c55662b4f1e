"""The laws of stacks as they stand while a plan is made, by the names of parameters."""

from collections.abc import Collection, Mapping, MutableMapping

from equipoise.plan.predict_joined import Part
from equipoise.plan.reasons import bias_reason, laid_out, weight_reason
from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Array, Frame, Law, Zero


class LawBook:
    """Enters the laws of planned stacks, again where something later has changed them.

    Args:
        laws, frames, arrays: where they are entered.
        starting: every stack by the value that its first layer makes.
    """

    def __init__(
        self,
        laws: MutableMapping[str, tuple[Law, str]],
        frames: MutableMapping[str, Frame],
        arrays: MutableMapping[str, Array],
        starting: Mapping[int, Stack],
    ) -> None:
        self._laws, self._frames, self._arrays = laws, frames, arrays
        self._starting = starting
        self._entered: dict[int, Part] = {}
        # The first use of a weight decides its law.
        self._owner: dict[str, int] = {}

    def enter(self, parts: Mapping[int, Part]) -> None:
        """Enter stacks that are new, or that are not what they were."""
        for key, part in parts.items():
            if self._entered.get(key) is part:
                continue
            self._entered[key] = part
            stack, planned = self._starting[key], part.planned
            for place, (affine, weight, bias) in enumerate(
                zip(stack.affines, planned.weights, planned.biases, strict=True)
            ):
                if self._owner.setdefault(affine.weight, key) != key:
                    continue
                reason = weight_reason(place, stack, planned)
                self._laws[affine.weight] = (laid_out(weight, affine), reason)
                if affine.bias:
                    self._laws[affine.bias] = (bias, bias_reason(bias))
            self._frames.update({frame.id: frame for frame in planned.frames})
            self._arrays.update(planned.arrays)

    def silence(self, outputs: Collection[int], rule: str) -> None:
        """Let the weights that make these values start at 0, as a rule for branches asks."""
        for key in self._entered:
            for affine in self._starting[key].affines:
                if affine.output in outputs:
                    self._laws[affine.weight] = (
                        Zero(), f"starts at 0, as residual={rule!r} asks"
                    )  # fmt: skip
