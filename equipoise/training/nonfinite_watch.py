"""Watching every operation of a block, forward, backward and in the optimizer's step."""

import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise.training.nonfinite_judge import Judge
from equipoise.training.nonfinite_place import Place, Stack
from equipoise.training.nonfinite_schema import Signature, signature_of
from equipoise.training.nonfinite_seen import Ends, Input, Seen
from equipoise.training.nonfinite_span import FLOATS, REDUCED, ends, values_of

# Forward places that are kept, by number of the node: several steps of a large model.
_PLACES = 400_000
# How far back the operation before a node is looked for: nodes that autograd makes by itself lie
# right behind the one that they belong to.
_BACK = 64
_RECENT = 8


@dataclass(frozen=True, eq=False)
class _Call:
    """A call whose outputs nobody has looked at yet, or that are not finite.

    Attributes:
        flags: finite only if the outputs are.
        versions: of the inputs when it ran, () where nobody can have changed them since.
    """

    signature: Signature
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[torch.Tensor, ...]
    before: Mapping[int, Ends]
    place: Place
    node: Any
    recent: tuple[tuple[str, Place | None], ...]
    flags: tuple[torch.Tensor, ...]
    versions: tuple[int, ...]


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the outputs of every operation, one reduction each.

    A sum is finite only if every entry is: neither infinity nor nan ever gets back to a number. The
    opposite does not hold, since sums overflow, so that what is not finite is looked at again.
    """

    def __init__(self, judge: Judge, stack: Stack, read_every: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._judge, self._stack, self._read_every = judge, stack, read_every
        self._signatures: dict[OpOverload, Signature] = {}
        self._places: dict[int, Place] = {}
        self._sequence = torch._C._autograd._get_sequence_nr()
        self._thread = threading.get_ident()
        self._waiting = list[_Call]()
        self._is_backward = False
        self._recent: deque[tuple[str, Place | None]] = deque(maxlen=_RECENT)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # The wrapper that keeps torch's compiler out costs as much as the rest of a look, and
        # compiled functions run eagerly while this watches.
        return False

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        judge = self._judge
        if judge.is_settled:
            return func(*args, **given)
        signature = self._signatures.get(func)
        if signature is None:
            signature = self._signatures[func] = signature_of(func)
        if signature.is_scaler:
            self.read()
            judge.forgive()
        elif self._is_backward and not signature.is_unseen:
            # Gradients that wait are judged before anything is done with them.
            self._is_backward = torch._C._current_autograd_node() is not None
            if not self._is_backward:
                self.read()
        if judge.is_pending and not signature.is_unseen:
            judge.settle_before_step(self._stack.here())
        if signature.is_like:
            self._starts_backward(args[0])
        before = _before(signature, args) if signature.updated else {}
        out = func(*args, **given)
        sequence = torch._C._autograd._get_sequence_nr()
        place: Place | None = None
        if sequence != self._sequence and threading.get_ident() == self._thread:
            self._sequence = sequence
            place = self._note(sequence - 1)
        if signature.is_unseen and not signature.is_detach:
            return out
        if not self._is_sound(signature, out, place):
            self._look(func, signature, args, given, out, before, place)
        return out

    def _is_sound(self, signature: Signature, out: Any, place: Place | None) -> bool:
        """The short way through the most frequent case: one plain tensor, read at once."""
        if self._read_every > 1 or signature.is_detach or not signature.returns_all:
            return False
        if type(out) is not torch.Tensor and type(out) is not torch.nn.Parameter:
            return False
        if out.dtype not in REDUCED:
            return out.dtype not in FLOATS
        if out.layout is not torch.strided or out.is_meta or not math.isfinite(out.sum().item()):
            return False
        self._recent.append((signature.name, place))
        return True

    def _look(
        self,
        func: OpOverload,
        signature: Signature,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        out: Any,
        before: Mapping[int, Ends],
        place: Place | None,
    ) -> None:
        """Take the flags of an operation's outputs, and read them now or later."""
        node = None
        if signature.is_detach:
            # Gradients are handed over to their parameters as views.
            node = torch._C._current_autograd_node()
            if node is None or not _accumulates(node):
                return
        outputs = list(_tensors(out))
        for i in (*signature.updated, *signature.overwritten):
            value = (args[i] if i < len(args) else None) if isinstance(i, int) else kwargs.get(i)
            outputs += [t for t in _tensors(value) if not any(t is x for x in outputs)]
        outputs, flags = _flags(outputs)
        if not outputs:
            return
        recent = tuple(self._recent)
        if not signature.is_detach:
            self._recent.append((signature.name, place))
        if self._read_every == 1 and all(_is_finite(flag) for flag in flags):
            return
        node = node or torch._C._current_autograd_node()
        # The stack is still that of the operation, so that all of it can be told where it counts.
        if self._read_every == 1:
            place = self._stack.here()
        elif place is None or node is not None:
            place = self._stack.here(lines=2)
        self._is_backward = node is not None and self._read_every > 1
        call = _Call(
            signature, args, kwargs, tuple(outputs), before, place, node, recent,
            tuple(flags),
            tuple(_version(t) for _, t in _named(signature, args, kwargs))
            if self._read_every > 1 else (),
        )  # fmt: skip
        if self._read_every == 1:
            self._judge.see(self._seen(call))
            return
        self._waiting.append(call)
        if len(self._waiting) >= self._read_every:
            self.read()

    def _seen(self, call: _Call) -> Seen:
        """All that the judge wants to know of a call."""
        before, signature = call.before, call.signature
        named = _named(signature, call.args, call.kwargs)
        inputs = tuple(
            Input(name, t, before.get(id(t)), call.versions[i] if call.versions else None)
            for i, (name, t) in enumerate(named)
        )
        written = frozenset(
            i for i, t in enumerate(call.outputs) if id(t) in before or signature.overwritten
        )
        made = self._made_at(call.node) if call.node is not None else None
        numbers = tuple(_numbers(signature, call.args, call.kwargs))
        return Seen(signature, inputs, call.outputs, written, numbers, call.place, made, call.node,
                    call.recent)  # fmt: skip

    def read(self) -> None:
        """Look at the flags that wait: one transfer for each device."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        by_device: dict[torch.device, list[tuple[int, torch.Tensor]]] = {}
        for i, one in enumerate(waiting):
            for flag in one.flags:
                by_device.setdefault(flag.device, []).append((i, flag.float()))
        bad = set[int]()
        for flags in by_device.values():
            numbers = torch.stack([flag for _, flag in flags]).tolist()
            bad |= {i for (i, _), x in zip(flags, numbers, strict=True) if not math.isfinite(x)}
        for i in sorted(bad):
            self._judge.see(self._seen(waiting[i]))

    def _starts_backward(self, loss: torch.Tensor) -> None:
        """Judge a loss before it is differentiated."""
        self.read()
        self._judge.sees_loss(loss)

    def _note(self, number: int) -> Place:
        """Remember where the operation that a node belongs to was asked for."""
        place, node = self._stack.here(lines=2), torch._C._current_autograd_node()
        if node is not None:
            # Nodes that a backward pass makes, to be differentiated itself or by checkpointing.
            made = self._made_at(node)
            if made is not None and not place.lines:
                place = made
            elif made is not None and place.module is None:
                place = replace(place, module=made.module)
        self._places[number] = place
        if len(self._places) > _PLACES:
            for old in list(self._places)[: _PLACES // 2]:
                del self._places[old]
        return place

    def _made_at(self, node: Any) -> Place | None:
        """Where the forward operation of a node was asked for."""
        number = node._sequence_nr()
        for i in range(_BACK):
            place = self._places.get(number - i)
            if place is not None:
                return place
        return None


def _accumulates(node: Any) -> bool:
    return bool(node.name() == "torch::autograd::AccumulateGrad")


def _before(signature: Signature, args: tuple[Any, ...]) -> dict[int, Ends]:
    """Ends of what an operation in place is about to overwrite, not read yet."""
    found = dict[int, Ends]()
    for i in signature.updated:
        for tensor in _tensors(args[i]) if i < len(args) else ():
            both = ends(tensor)
            if both is not None:
                found[id(tensor)] = both
    return found


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Floating-point tensors in an argument or result."""
    if isinstance(value, torch.Tensor):
        if value.dtype in FLOATS:
            yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)


def _flags(tensors: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Tensors that hold numbers, and a number for each that is finite only if all of them are."""
    kept, flags = list[torch.Tensor](), list[torch.Tensor]()
    for tensor in tensors:
        values = values_of(tensor)
        if values is not None:
            kept.append(tensor)
            flags.append(values.sum())
    return kept, flags


def _is_finite(flag: torch.Tensor) -> bool:
    return math.isfinite(flag.item())


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _named(
    signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that an operation reads, with the names of their arguments."""
    for i, value in enumerate(args):
        if i not in signature.overwritten:
            for tensor in _tensors(value):
                yield signature.arguments[i], tensor
    for name, value in kwargs.items():
        if name not in signature.overwritten:
            for tensor in _tensors(value):
                yield name, tensor


def _numbers(
    signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, float]]:
    """Numbers among the arguments."""
    for name, value in (*zip(signature.arguments, args, strict=False), *kwargs.items()):
        if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
            yield name, float(value)
