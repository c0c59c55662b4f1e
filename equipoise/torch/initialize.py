"""The calls a user makes to start a model: plan, initialize."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from equipoise.diagnose import diagnose as find
from equipoise.errors import EquipoiseError, PlanError
from equipoise.plan.aim import Aim
from equipoise.plan.make import make_plan
from equipoise.plan.plan import Plan
from equipoise.plan.residual_rules import rule_named
from equipoise.plan.selection import Selection
from equipoise.plan.stacks import find_stacks
from equipoise.plan.trace import Trace
from equipoise.report.report import Report
from equipoise.schemes.catalogue import parse_scheme
from equipoise.torch.apply import draw_all, root_seed, unless_refused, write
from equipoise.torch.chosen import Chosen, read_selection
from equipoise.torch.inputs import Inputs, ModelInputs, read_inputs
from equipoise.torch.measure import measure
from equipoise.torch.observe import Runner
from equipoise.torch.parameters import parameters_of
from equipoise.torch.parametrized import originals, slots
from equipoise.torch.program import Read
from equipoise.torch.refusals import (
    refuse_meta,
    refuse_mixed_meta,
    refuse_unwritable,
    usable,
    warn_of_hidden_layers,
    warn_of_training,
)
from equipoise.torch.trace import read

_SHOWN = 3


@dataclass(frozen=True)
class Initialization(Report):
    """A report that can take its own initialization back."""

    _model: nn.Module = field(kw_only=True, repr=False, compare=False)
    _before: dict[str, torch.Tensor] = field(kw_only=True, repr=False, compare=False)

    def undo(self) -> None:
        """Put back, bit for bit, the parameters that stood there before.

        Also after training: what was learned in between is lost, since the values from before are
        kept nowhere else. Gradients and optimizers are not touched, and of buffers only those of
        spectral_norm and its like.

        Raises:
            PlanError: if nothing was written (a dry run), it was undone already, or a parameter has
                gone or has another shape or dtype by now; nothing is changed then.
        """
        if not self._before:
            raise PlanError(
                "undo must follow an initialization that wrote weights, got a dry run or a second "
                "call. Nothing is to be put back."
            )
        now = slots(self._model)
        for name, value in self._before.items():
            found = now.get(name)
            if found is None or (found.shape, found.dtype) != (value.shape, value.dtype):
                held = "none" if found is None else f"{tuple(found.shape)} of {found.dtype}"
                raise PlanError(
                    f"parameter {name!r} must still have shape {tuple(value.shape)} and "
                    f"{value.dtype} to be put back bit for bit, got {held}. Convert the model back "
                    "first."
                )
            refuse_unwritable(name, found)
        write(self._model, self._before)
        self._before.clear()


def plan(
    model: nn.Module,
    inputs: Inputs = None,
    scheme: str = "auto",
    *,
    purpose: str = "",
    for_derivatives: bool = False,
    output_rms: float = math.nan,
    only: Chosen = None,
    skip: Chosen = None,
    residual: str = "auto",
) -> Plan:
    """What ``initialize`` would draw; no tensor is touched, and meta-device models are welcome.

    Forward runs once on tensors without values: hooks and Python side effects in it take place.
    Where parameters keep their values, the operations so found run on copies of the inputs, too.

    Args:
        model: any module that torch.export can follow.
        inputs: a batch as forward takes it: a tensor, a tuple of positional arguments or a dict of
            keyword arguments. May be left out for a Sequential that starts with Linear. Its scale,
            mean and principal axes are read.
        scheme: ``auto``, or a scheme of the catalogue with its options, such as ``he`` or
            ``"he(distribution='uniform')"``; ``equipoise schemes`` lists them.
        purpose: what the outputs are for: ``classification`` (logits; with 1,000 classes or more
            they start at RMS 0.1), ``regression`` (targets of mean 0 and variance 1), or '' where
            it is not said.
        for_derivatives: whether the loss reads derivatives with respect to the inputs, as for
            differential equations. Its level suits solutions with fronts, such as those of Burgers'
            equation; smooth ones, such as those of diffusion, are learnt better without it.
        output_rms: RMS wanted of the outputs, positive, such as the scale of the targets; nan to
            let the purpose decide: 1, or 0.3 for derivatives.
        only: what is drawn, where not everything is: a pattern of parameters (``"head.*"``), a
            module (``"encoder"``, with everything beneath), a list of these, or a function of the
            name and the parameter. The rest keeps its values, and the inputs given are sent through
            it to see what enters what is drawn. A tied parameter is meant by any of its names.
        skip: what is not drawn, in the same forms; taken out of ``only``.
        residual: how loud residual branches start: ``auto`` (with scheme ``auto`` each at
            0.25/sqrt(L) of a stream of L branches, with a scheme asked for by name as that draws
            them), ``gpt2`` (last projections times 1/sqrt(their number)), ``depth`` (last weights
            times 1/sqrt(L)), ``fixup`` (arXiv 1901.09321), ``rezero`` or ``skipinit`` (the model's
            own gains at 0; arXiv 2003.04887, 2002.10444), ``zero-last`` (last weights, or the gains
            of norms behind them, at 0; arXiv 1706.02677), or ``none``.

    Returns:
        The plan.

    Raises:
        ArgumentError: for an unknown scheme or rule, an empty model, inputs that are not usable, or
            a pattern that matches nothing.
        TraceError: if forward fails or cannot be followed.
        PlanError: if the scheme cannot serve the model, or nothing selected can be drawn.

    >>> p = plan(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    >>> [a.parameter for a in p.assignments]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    aim = Aim(output_rms=output_rms, purpose=purpose, for_derivatives=for_derivatives)
    with torch.inference_mode(False):
        model = usable(model)
        refuse_mixed_meta(model)
        selection = read_selection(model, only, skip)
        return planned(model, inputs, scheme, aim, selection, residual)[0]


def initialize(
    model: nn.Module,
    inputs: Inputs = None,
    scheme: str = "auto",
    generator: torch.Generator | None = None,
    dry_run: bool = False,
    *,
    purpose: str = "",
    for_derivatives: bool = False,
    output_rms: float = math.nan,
    only: Chosen = None,
    skip: Chosen = None,
    residual: str = "auto",
) -> Initialization:
    """Start a model in balance, in place, and report what was done and what came of it.

    The model is traced, every parameter gets a law or a reason to be left alone, all values are
    drawn and checked, and only then written. One forward and one backward pass on the inputs
    measure the result. On any error the model is as it was, bit for bit, and so is the generator.
    Of a model from ``torch.compile`` the module inside is meant. Where parameters hold gradients or
    layers stand in a plain list, an ``EquipoiseWarning`` says so.

    Args:
        model: any module that torch.export can follow.
        inputs: as for ``plan``; a few hundred rows of real data serve best.
        scheme: as for ``plan``.
        generator: as in ``torch.nn.init``; one number is drawn from it as the root seed. Torch's
            global state is used where it is left out.
        dry_run: draw and measure without writing.
        purpose: as for ``plan``.
        for_derivatives: as for ``plan``.
        output_rms: as for ``plan``.
        only: as for ``plan``.
        skip: as for ``plan``.
        residual: as for ``plan``.

    Returns:
        The report, with ``undo``.

    Raises:
        ArgumentError: for an unknown scheme or rule, an empty model, inputs that are not usable, or
            a pattern that matches nothing.
        TraceError: if forward fails or cannot be followed.
        PlanError: if the scheme cannot serve the model, nothing selected can be drawn, or the model
            is on the meta device.

    >>> net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    >>> initialize(net, torch.randn(64, 16), generator=torch.Generator().manual_seed(0)).ok
    True
    """
    aim = Aim(output_rms=output_rms, purpose=purpose, for_derivatives=for_derivatives)
    with torch.inference_mode(False), unless_refused(generator):
        model = usable(model)
        refuse_mixed_meta(model)
        refuse_meta(model)
        selection = read_selection(model, only, skip)
        made, traced, arguments = planned(model, inputs, scheme, aim, selection, residual)
        seed = root_seed(generator)
        values = draw_all(model, made, seed)
        written = originals(model, values)
        measured = measure(model, traced, arguments, values)
        findings = find(measured, made, find_stacks(traced))
        # Here a filter may turn warnings into errors: nothing is written yet.
        warn_of_hidden_layers(model, stacklevel=2)
        if not dry_run:
            warn_of_training(model, stacklevel=2)
        before = {} if dry_run else write(model, written)
    return Initialization(
        type(model).__name__,
        made,
        measured,
        findings,
        seed,
        not dry_run,
        _model=model,
        _before=before,
    )


def planned(
    model: nn.Module,
    inputs: Inputs,
    scheme: str,
    aim: Aim,
    selection: Selection,
    residual: str = "auto",
) -> tuple[Plan, Trace, ModelInputs]:
    """A plan for a usable model, with what it was made from.

    Args:
        model: the model.
        inputs: as the caller gave them.
        scheme: name of a scheme.
        aim: what the model is for.
        selection: what is to be drawn.
        residual: name of a rule for residual branches.

    Returns:
        The plan, the trace, and the arguments of forward.

    Raises:
        ArgumentError, TraceError, PlanError: as ``plan`` does.
    """
    parse_scheme(scheme)
    rule_named(residual)
    seen = _seen(model, inputs)
    made = _made(model, seen, scheme, aim, selection, residual)
    return made, seen.found.trace, seen.arguments


def plans(
    model: nn.Module, inputs: Inputs, schemes: Sequence[str]
) -> dict[str, Plan | EquipoiseError]:
    """What ``plan`` gives for each of several schemes; the model is read once.

    Args:
        model: as for ``plan``.
        inputs: as for ``plan``.
        schemes: as for ``plan``.

    Returns:
        By scheme, a plan, or the reason why it cannot serve the model.

    Raises:
        ArgumentError: for an unknown scheme, an empty model or inputs that are not usable.
        TraceError: if forward fails or cannot be followed.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [type(p).__name__ for p in plans(net, None, ("he", "odd_sigmoid")).values()]
    ['Plan', 'PlanError']
    """
    for scheme in schemes:
        parse_scheme(scheme)
    with torch.inference_mode(False):
        model = usable(model)
        refuse_mixed_meta(model)
        seen, everything = _seen(model, inputs), read_selection(model, None, None)
        found: dict[str, Plan | EquipoiseError] = {}
        for scheme in schemes:
            try:
                found[scheme] = _made(model, seen, scheme, Aim(), everything, "auto")
            except PlanError as error:
                found[scheme] = error
    return found


@dataclass(frozen=True, eq=False)
class _Seen:
    """A model as it was read.

    Attributes:
        found: its trace and graph.
        arguments: of forward.
        has_storage: whether its parameters have values.
    """

    found: Read
    arguments: ModelInputs
    has_storage: bool


def _seen(model: nn.Module, inputs: Inputs) -> _Seen:
    arguments = read_inputs(model, inputs)
    # A model without storage is traced without data; their scale and axes are read all the same.
    has_storage = not any(p.is_meta for p in model.parameters())
    found = read(model, arguments if has_storage else arguments.on_meta())
    return _Seen(found, arguments, has_storage)


def _made(
    model: nn.Module, seen: _Seen, scheme: str, aim: Aim, selection: Selection, residual: str
) -> Plan:
    kept = selection.kept(parameters_of(model))
    traced, arguments = seen.found.trace, seen.arguments
    samples = dict(zip(traced.inputs, arguments.rows(), strict=True))
    runner: Runner | None = None
    if not arguments.is_given:
        # Made-up inputs tell a scale of 1 and nothing more.
        samples = {}
    elif seen.has_storage:
        runner = Runner(model, seen.found.program, seen.found.places, arguments, traced)
    made = make_plan(traced, scheme, samples, aim, residual, kept, runner)
    if kept and not made.assignments:
        why = [u for u in made.untouched if u.parameter not in kept]
        reasons = "; ".join(f"{u.parameter!r}: {u.reason}" for u in why[:_SHOWN])
        raise PlanError(
            f"only and skip must select something that can be drawn, got {selection}, of which "
            f"every parameter keeps its values ({reasons}). Select others, or unfreeze these."
        )
    return replace(made, selection=selection)
