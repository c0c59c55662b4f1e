"""What a forward pass shows, layer by layer, however its operations are called.

Everything is reduced where it is made and stays there. A ``TorchFunctionMode`` sees modules and
functions alike; gradients at the outputs of layers come by tensor hooks.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from equipoise.training.affine_watch import AXES, PRODUCTS, Seen, Watch
from equipoise.training.monitor_activations import ACTIVATIONS, CLAMPS, flat_share, kind_of
from equipoise.training.monitor_attention import (
    Scores,
    scores_of_call,
    scores_of_heads,
    scores_of_logits,
)
from equipoise.training.monitor_gathered import Activated, Check, Gathered, Site, layer_of
from equipoise.training.monitor_limits import PERSISTS, SILENT_LOOKS
from equipoise.training.monitor_tensors import (
    largest,
    sampled_rows,
    silent,
    sum_of_squares,
)

_SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax)
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_NORMS = (F.layer_norm, F.rms_norm, F.batch_norm, F.group_norm, F.instance_norm)
# What hands on the units of a layer, so that an activation behind it is still the layer's.
_PASSES = (
    *_NORMS, F.dropout, F.dropout1d, F.dropout2d, torch.Tensor.view, torch.Tensor.reshape,
    torch.reshape, torch.Tensor.transpose, torch.transpose, torch.Tensor.permute, torch.permute,
    torch.Tensor.contiguous, torch.Tensor.unflatten, torch.flatten, torch.Tensor.flatten,
    torch.Tensor.float, torch.Tensor.to, torch.Tensor.add, torch.add,
)  # fmt: skip
# Of these the numbers may be others than those that were looked at.
_CHANGES = (*_NORMS, torch.Tensor.add, torch.add)


class ForwardWatch(Watch):
    """Watches forward passes into a ``Gathered``.

    Args:
        names: names of parameters by id.
        gathered: where everything goes.
    """

    def __init__(self, names: Mapping[int, str], gathered: Gathered) -> None:
        super().__init__(names)
        self._gathered = gathered
        self._origins: dict[int, tuple[weakref.ref[torch.Tensor], str, int, bool]] = {}
        self._last = ""
        # Weights that are computed anew at each call have the name of their module.
        self.inside = ""

    def begin(self) -> None:
        """Before a forward pass."""
        self._origins.clear()
        self._turned.clear()
        self._gathered.takers.begin()
        self._last = ""

    def end(self, outputs: Sequence[Any]) -> None:
        """Behind a forward pass: what it returns may be none of what was seen.

        Args:
            outputs: what it returned, by leaf.
        """
        self._gathered.takers.end()
        with torch.no_grad():
            for tensor in outputs:
                if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                    continue
                known = self._origins.get(id(tensor))
                if known is None or known[0]() is not tensor or not known[3]:
                    # Masked logits may well be -inf.
                    open_ones = torch.where(tensor.isneginf(), 0.0, tensor)
                    self._look(open_ones, self._last or "inputs")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        first = args[0] if args else given.get("input")
        if func in ACTIVATIONS or func in CLAMPS:
            kind = kind_of(func, args, given)
            if kind is not None and isinstance(first, torch.Tensor):
                layer, axis = self._arrives(first)
                out = func(*args, **given)
                with torch.no_grad():
                    self._activation(layer, axis, kind, out)
                return out
        elif func is F.scaled_dot_product_attention:
            self._attends(scores_of_call(args, given), args[:2])
        elif func is F.multi_head_attention_forward:
            return self._heads(func, args, given)
        elif func in _SOFTMAX and isinstance(first, torch.Tensor):
            if _axis_of(args, given) in (-1, first.dim() - 1):
                self._attends(scores_of_logits(first), ())
        elif func in _NORMS:
            return self._norm(func, args, given)
        elif func in AXES:
            return self._affine(func, args, given)
        elif func in PRODUCTS and any(id(a) in self._names for a in args):
            signals = [a for a in args if isinstance(a, torch.Tensor) and a.dim() > 1]
            for tensor in signals:
                if id(tensor) not in self._names and id(tensor) not in self._turned:
                    self._arrives(tensor)
        elif getattr(func, "__name__", "") in _RECURRENT:
            return self._recurrent(func, args, given)
        out = super().__torch_function__(func, types, args, given)
        if func in _PASSES and isinstance(first, torch.Tensor):
            self._passes(first, out, func not in _CHANGES)
        return out

    def _affine(
        self, func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]
    ) -> Any:
        self._arrives(args[0] if args else given["input"])
        weight = args[1] if len(args) > 1 else given["weight"]
        if id(weight) in self._names or not self.inside:
            return super().__torch_function__(func, (), args, given)
        out: torch.Tensor = func(*args, **given)
        self._site(self.inside, out, out.dim() - 1 - AXES[func])
        return out

    def _recorded(self, seen: Seen) -> torch.Tensor:
        unit_axis = seen.output.dim() - 1 - seen.axes
        self._site(layer_of(seen.weight), seen.output, unit_axis)
        return seen.output

    def _site(self, layer: str, out: torch.Tensor, unit_axis: int) -> None:
        """Take in the output of a layer."""
        gathered = self._gathered
        if not out.numel() or not out.is_floating_point():
            return
        gathered.takers.made(layer, (out,))
        with torch.no_grad():
            squares = sum_of_squares(out)
            is_first = layer not in gathered.sampled
            gathered.sampled.add(layer)
            has_batch = out.dim() > 1 and unit_axis != 0
            batch = out.shape[0] if has_batch else 1
            width = out.shape[unit_axis]
            is_half = out.dtype == torch.float16
            site = Site(
                layer, width, max(1, out.numel() // (width * batch)), batch, out.dtype,
                squares, out.numel(), sampled_rows(out, unit_axis) if is_first else None,
                largest(out) if is_half else None,
            )  # fmt: skip
        gathered.sites.append(site)
        gathered.checks.append(Check(layer, "layer", squares, is_half))
        if out.requires_grad:

            def arrives(gradient: torch.Tensor) -> None:
                with torch.no_grad():
                    gathered.gradients.append((site, sum_of_squares(gradient)))

            out.register_hook(arrives)  # type: ignore[no-untyped-call]
        self._last = layer
        self._knows(out, layer, unit_axis, True)

    def _activation(self, layer: str, axis: int, kind: str, out: torch.Tensor) -> None:
        if not out.numel():
            return
        sample = sampled_rows(out, axis)
        flat = flat_share(sample, kind)  # type: ignore[arg-type]
        still = silent(out, axis, kind == "rectifier")
        ages = self._gathered.ages.get(layer)
        if ages is None or ages.shape != still.shape:
            # Who has not been heard in the first looks counts as silent for long.
            ages = torch.full_like(still, SILENT_LOOKS - PERSISTS)
        ages = (ages + 1) * still
        self._gathered.ages[layer] = ages
        self._gathered.activations.append(
            Activated(layer, flat, still.float().mean(), (ages >= SILENT_LOOKS).float().mean())
        )
        self._gathered.checks.append(
            Check(layer, "activation", sum_of_squares(out), out.dtype == torch.float16)
        )
        self._knows(out, layer, axis, True)

    def _norm(
        self, func: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any]
    ) -> torch.Tensor:
        layer, axis = self._arrives(args[0])
        out: torch.Tensor = func(*args, **given)
        own = [t for t in (*args[1:], *given.values())
               if isinstance(t, torch.Tensor) and id(t) in self._names]  # fmt: skip
        name = layer_of(self._names[id(own[0])]) if own else layer
        self._gathered.checks.append(
            Check(name, "norm", sum_of_squares(out), out.dtype == torch.float16)
        )
        self._knows(out, layer, axis, True)
        return out

    def _heads(
        self, func: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any]
    ) -> Any:
        self._arrives(args[0])
        out = func(*args, **given)
        known = [t for t in (*args, *given.values())
                 if isinstance(t, torch.Tensor) and id(t) in self._names]  # fmt: skip
        layer = layer_of(self._names[id(known[0])]) if known else self._last
        with torch.no_grad():
            scores = scores_of_heads(args, given)
        if scores is not None:
            self._gathered.scores.append((layer, scores))
        # What comes out is the projection behind the heads.
        ends = [t for t in known if self._names[id(t)].endswith("out_proj.weight")]
        self._site(layer_of(self._names[id(ends[0])]) if ends else layer, out[0],
                   out[0].dim() - 1)  # fmt: skip
        return out

    def _recurrent(
        self, func: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any]
    ) -> Any:
        self._arrives(args[0])
        out = func(*args, **given)
        lists = [a for a in args if isinstance(a, list | tuple)]
        weights = [t for some in lists for t in some if id(t) in self._names]
        layer = layer_of(self._names[id(weights[0])]) if weights else self._last
        self._site(layer, out[0], out[0].dim() - 1)
        # Who reads the last state alone reads this layer.
        self._gathered.takers.made(layer, out[1:])
        return out

    def _attends(self, scores: Scores | None, made: tuple[Any, ...]) -> None:
        if scores is None:
            return
        layer = self._last.rpartition(".")[0] or self._last
        self._gathered.scores.append((layer, scores))
        # Little gradient gets back through a softmax that chooses nothing yet, by design.
        for tensor in made:
            known = self._origins.get(id(tensor))
            if known is not None and known[0]() is tensor:
                self._gathered.quiet.add(known[1])

    def _arrives(self, tensor: torch.Tensor) -> tuple[str, int]:
        """Whose output a tensor is, and where its units lie; a new one is looked at."""
        known = self._origins.get(id(tensor))
        if known is not None and known[0]() is tensor:
            if not known[3]:
                # A sum keeps the units of what it adds to; what was added came last.
                self._look(tensor, self._last or known[1])
            return known[1], known[2]
        self._look(tensor, self._last or "inputs")
        axis = tensor.dim() - 1 if tensor.dim() < 4 else 1
        return self._last or "inputs", axis

    def _look(self, tensor: torch.Tensor, layer: str) -> None:
        if tensor.is_floating_point() and tensor.numel():
            self._gathered.checks.append(
                Check(layer, "input", sum_of_squares(tensor), tensor.dtype == torch.float16)
            )

    def _passes(self, first: torch.Tensor, out: Any, is_same: bool) -> None:
        known = self._origins.get(id(first))
        if known is None or known[0]() is not first or not isinstance(out, torch.Tensor):
            return
        axis = known[2] if out.dim() == first.dim() else out.dim() - 1
        self._knows(out, known[1], axis, is_same and known[3])

    def _knows(self, tensor: torch.Tensor, layer: str, axis: int, is_looked_at: bool) -> None:
        self._origins[id(tensor)] = (weakref.ref(tensor), layer, axis, is_looked_at)


def _axis_of(args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
    return args[1] if len(args) > 1 else given.get("dim")
