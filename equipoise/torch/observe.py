"""Runs the graph of a model's forward piece by piece, while a plan for it is being made."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from equipoise.plan.behind import Draws, Seen
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Array
from equipoise.torch.export import first_line
from equipoise.torch.graph import op_name, region_body, written_operand
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.program import Program
from equipoise.torch.stateless import own_randomness

# Principal axes need no more numbers than these, 128 MB.
_MOST_ENTRIES = 1 << 24
_NO_ROWS: Array = torch.zeros(0, dtype=torch.float64).numpy()


@dataclass(frozen=True, eq=False)
class _Step:
    """One node of a graph, those of regions in place.

    Attributes:
        node: the node.
        source: for a placeholder of a region, the node that is passed to it.
        results: for a region, the nodes that it hands out.
        cast: device type, dtype, switch and cache of the autocast region that it lies in.
    """

    node: fx.Node
    source: fx.Node | None = None
    results: tuple[Any, ...] | None = None
    cast: tuple[Any, ...] | None = None

    @property
    def needs(self) -> list[fx.Node]:
        """The nodes whose values it reads."""
        if self.source is not None:
            return [self.source]
        if self.results is not None:
            return [n for n in self.results if isinstance(n, fx.Node)]
        return self.node.all_input_nodes


class Runner:
    """The values of a trace, computed in the order of forward as far as parameters are known.

    Each operation runs once, without gradients and on copies of what it might write to; hooks and
    Python of the model do not run. What nothing will read any more is dropped.

    Args:
        model: the model; its own parameters stand for those without a law.
        program: the graph of its forward.
        places: the graph node of each value of the trace.
        inputs: what to send.
        trace: the model as it was read; the shapes and axes of its values.

    Attributes:
        failure: what an operation raised, '' while none has; then nothing more is seen.
    """

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        places: Mapping[int, fx.Node],
        inputs: ModelInputs,
        trace: Trace,
    ) -> None:
        self._again = partial(Runner, model, program, places, inputs, trace)
        self._model, self._places = model, places
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._name_of, self._known = program.parameters, program.known
        self._first = {alias: p.name for p in trace.parameters for alias in (p.name, *p.aliases)}
        self._axis = {i: value.axis for i, value in enumerate(trace.values)}
        given = (n for n in program.graph.nodes if n in program.inputs and _is_tensor(n))
        self._inputs = dict(zip(given, (t for _, t in inputs.tensors()), strict=False))
        self._waiting = list(_steps(program.graph, None))
        self._left: dict[fx.Node, int] = {}
        for step in self._waiting:
            for node in step.needs:
                self._left[node] = self._left.get(node, 0) + 1
        self._values: dict[fx.Node, Any] = {}
        self._done: set[fx.Node] = set()
        self._numbers: dict[fx.Node, list[int]] = {}
        for number, node in places.items():
            self._numbers.setdefault(node, []).append(number)
        self._seen: dict[int, tuple[float, float]] = {}
        self.failure = ""

    def again(self) -> "Runner":
        """One that begins anew, for another draw."""
        return self._again()

    def look(self, value: int, draws: Draws, with_rows: bool) -> Seen | None:
        """A value of the trace; None where it cannot be computed yet, or not at all.

        Args:
            value: its number.
            draws: values of parameters that are not the model's own.
            with_rows: whether the value itself is wanted.
        """
        if value not in self._places:
            return None
        node = self._places[value]
        if value not in self._seen and not self.failure:
            self._run_to(node, draws)
        if value not in self._seen:
            return None
        rows = _NO_ROWS
        if with_rows and node in self._values:
            rows = _rows(self._values[node])
        return Seen(*self._seen[value], rows)

    def _run_to(self, target: fx.Node, draws: Draws) -> None:
        """Run what can be run, in order, up to a node."""
        steps, waiting = self._waiting, list[_Step]()
        place, is_read_later = 0, False
        # Each piece has random numbers of its own, the same at each call.
        with (
            torch.no_grad(),
            own_randomness(self._model, seed=len(steps)),
            warnings.catch_warnings(),
        ):
            # Forward says them once more.
            warnings.simplefilter("ignore")
            while place < len(steps) and target not in self._done and not self.failure:
                step = steps[place]
                # A write must not come before a read that stands in front of it.
                if is_read_later and _writes(step):
                    break
                if not self._run(step, draws):
                    waiting.append(step)
                    is_read_later |= any(
                        n in self._values and n not in self._name_of for n in step.needs
                    )
                place += 1
        self._waiting = waiting + steps[place:]

    def _run(self, step: _Step, draws: Draws) -> bool:
        """Run one step; whether all that it needs is there."""
        if self._is_parameter(step):
            return True
        if any(n not in self._values and n not in self._name_of for n in step.needs):
            return False
        try:
            # Laws may change until the first operation reads what they make.
            given = {n: self._values[n] if n in self._values else self._held(n, draws)
                     for n in step.needs}  # fmt: skip
            if any(value is None for value in given.values()):
                return False
            found = self._result(step, given, draws)
        # As in forward, anything may be raised; then nothing more is seen.
        except Exception as error:
            self.failure = f"{op_name(step.node)}: {first_line(error)}"
            return False
        if found is None:
            return False
        self._done.add(step.node)
        if step.node in self._left:
            self._values[step.node] = found
        for number in self._numbers.get(step.node, ()):
            self._note(number, found)
        for node in step.needs:
            self._left[node] -= 1
            if not self._left[node]:
                self._values.pop(node, None)
        return True

    def _is_parameter(self, step: _Step) -> bool:
        is_held = step.node.op in ("placeholder", "get_attr") and step.source is None
        return is_held and step.node in self._name_of

    def _result(self, step: _Step, given: Mapping[fx.Node, Any], draws: Draws) -> Any:
        """What a step makes of the values that it needs; None where one has no values yet."""
        node = step.node
        if step.source is not None:
            return given[step.source]
        if step.results is not None:
            return tuple(given[n] if isinstance(n, fx.Node) else n for n in step.results)
        if node.op in ("placeholder", "get_attr"):
            return self._held(node, draws)
        args = fx.node.map_arg(node.args, given.__getitem__)
        kwargs = fx.node.map_arg(dict(node.kwargs), given.__getitem__)
        assert callable(node.target)
        if step.cast is None:
            made = node.target(*args, **kwargs)
        else:
            device, dtype, is_enabled, caches = step.cast
            with torch.autocast(device, dtype, is_enabled, caches):
                made = node.target(*args, **kwargs)
        # Some operations are done for what they do and return nothing.
        return () if made is None else made

    def _held(self, node: fx.Node, draws: Draws) -> Any:
        """A copy of a parameter, buffer, constant or input."""
        if node in self._inputs:
            return self._inputs[node].detach().clone()
        if node in self._known:
            return self._known[node].detach().to(node.meta["val"].device, copy=True)
        if node not in self._name_of:
            module = node.graph.owning_module
            # Bodies of regions, and numbers among the inputs, which no operation reads.
            return getattr(module, str(node.target), ()) if node.op == "get_attr" else ()
        name = self._first[self._name_of[node]]
        if draws.is_open(name):
            return None
        own, drawn = self._parameters[name].detach(), draws.draw(name)
        return own.clone() if drawn is None else torch.from_numpy(drawn).to(own)

    def _note(self, number: int, value: Any) -> None:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return
        if not value.numel():
            return
        mean_square = float(_squares(value))
        if mean_square < float("inf"):
            self._seen[number] = mean_square, _share(value, self._axis[number], mean_square)


def _steps(graph: fx.Graph, cast: tuple[Any, ...] | None) -> Iterator[_Step]:
    """Nodes in the order of computation, bodies of regions in front of their region."""
    for node in graph.nodes:
        body = region_body(node) if node.op == "call_function" else None
        if body is None:
            if node.op != "output":
                yield _Step(node, cast=cast)
            continue
        inner = cast
        if op_name(node) == "wrap_with_autocast":
            inner = tuple(node.args[:4])
        given = iter(body[1])
        results: tuple[Any, ...] = ()
        for step in _steps(body[0], inner):
            is_given = step.node.op == "placeholder" and step.node.graph is body[0]
            yield _Step(step.node, source=next(given)) if is_given else step
        for last in body[0].nodes:
            if last.op == "output":
                made = last.args[0]
                results = tuple(made) if isinstance(made, tuple | list) else (made,)
        yield _Step(node, results=results)


def _is_tensor(node: fx.Node) -> bool:
    return node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor)


def _writes(step: _Step) -> bool:
    """Whether a step changes a tensor that another one may read, unlike a counter of batches."""
    written = written_operand(step.node) if step.node.op == "call_function" else None
    return written is not None and not (written.op == "placeholder" and len(written.users) == 1)


def _squares(value: torch.Tensor, dims: tuple[int, ...] | None = None) -> torch.Tensor:
    """Mean of squares, or of squared means over some axes, summed in float64."""
    wide = value.detach()
    wide = wide if wide.dtype.itemsize > 2 else wide.float()
    if dims is not None:
        wide = wide.mean(dim=dims)
    return wide.square().mean(dtype=torch.float64)


def _share(value: torch.Tensor, axis: int, mean_square: float) -> float:
    """Part of the second moment that all sites have in common; all rows, where there are none."""
    if value.dim() < 2 or not mean_square > 0:
        return 0.0
    features = value.dim() + axis
    sites = [i for i in range(value.dim()) if i not in (0, features)]
    if not sites:
        sites = [i for i in range(value.dim()) if i != features]
    count = 1
    for i in sites:
        count *= value.shape[i]
    if count < 2:
        return 0.0
    # A mean over n sites that have nothing in common keeps 1 / n.
    common = float(_squares(value, tuple(sites))) / mean_square
    return min(1.0, max(0.0, (common - 1.0 / count) / (1.0 - 1.0 / count)))


def _rows(value: Any) -> Array:
    """A value as float64, or evenly spaced rows where it is very large."""
    if not isinstance(value, torch.Tensor) or not value.dim():
        return _NO_ROWS
    most = max(1, _MOST_ENTRIES * len(value) // max(1, value.numel()))
    if len(value) > most:
        value = value[torch.linspace(0, len(value) - 1, most, device="cpu").long().to(value.device)]
    found: Array = value.detach().to("cpu", torch.float64).numpy()
    return found
