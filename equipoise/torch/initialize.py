"""The calls a user makes: plan, initialize, diagnose."""

from dataclasses import dataclass, field

import torch
from torch import nn

from equipoise import _checks
from equipoise.diagnose import Finding
from equipoise.diagnose import diagnose as find
from equipoise.errors import ArgumentError, PlanError
from equipoise.measurement import Measurements
from equipoise.plan.make import make_plan
from equipoise.plan.plan import Plan
from equipoise.plan.plan_stack import SCHEMES
from equipoise.plan.trace import Trace
from equipoise.report.report import Report
from equipoise.torch.apply import draw_all, root_seed, write
from equipoise.torch.inputs import Inputs, ModelInputs, read_inputs
from equipoise.torch.measure import measure
from equipoise.torch.trace import trace


@dataclass(frozen=True)
class Initialization(Report):
    """A report that can take its own initialization back."""

    _model: nn.Module = field(kw_only=True, repr=False, compare=False)
    _before: dict[str, torch.Tensor] = field(kw_only=True, repr=False, compare=False)

    def undo(self) -> None:
        """Put back, bit for bit, the parameters that stood there before.

        Raises:
            PlanError: if nothing was written (a dry run) or it was undone already.
        """
        if not self._before:
            raise PlanError(
                "undo must follow an initialization that wrote weights, got a dry run or a second "
                "call. Nothing is to be put back."
            )
        write(self._model, self._before)
        self._before.clear()


@dataclass(frozen=True)
class Diagnosis:
    """What a model's forward and backward pass showed, and what is wrong.

    Attributes:
        model: name of the model's class.
        measurements: by layer.
        findings: the gravest first.
    """

    model: str
    measurements: Measurements
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no finding is an error or a warning."""
        return all(f.severity == "info" for f in self.findings)

    def __str__(self) -> str:
        words = [str(f) for f in self.findings] or [
            "in balance: signal and gradient reach every layer."
        ]
        return "\n".join([f"{self.model}, {len(self.measurements.layers)} affine layers:", *words])


def plan(model: nn.Module, inputs: Inputs = None, scheme: str = "auto") -> Plan:
    """What ``initialize`` would draw; no tensor is touched, and meta-device models are welcome.

    Forward runs once on tensors without values: hooks and Python side effects in it take place.

    Args:
        model: any module that torch.export can follow.
        inputs: a batch as forward takes it: a tensor, a tuple of positional arguments or a dict of
            keyword arguments. May be left out for a Sequential that starts with Linear. Its scale,
            mean and principal axes are read.
        scheme: ``auto``, ``xavier``, ``he``, ``orthogonal``, ``diagonal_noise``, ``centred`` or
            ``mirrored``.

    Returns:
        The plan.

    Raises:
        ArgumentError: for an unknown scheme, an empty model or inputs that are not usable.
        TraceError: if forward fails or cannot be followed.
        PlanError: if the scheme cannot serve the model.

    >>> p = plan(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    >>> [a.parameter for a in p.assignments]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    return _plan(model, inputs, scheme)[0]


def initialize(
    model: nn.Module,
    inputs: Inputs = None,
    scheme: str = "auto",
    generator: torch.Generator | None = None,
    dry_run: bool = False,
) -> Initialization:
    """Start a model in balance, in place, and report what was done and what came of it.

    The model is traced, every parameter gets a law or a reason to be left alone, all values are
    drawn and checked, and only then written. One forward and one backward pass on the inputs
    measure the result. On any error the model is as it was, bit for bit.

    Args:
        model: any module that torch.export can follow.
        inputs: as for ``plan``; a few hundred rows of real data serve best.
        scheme: as for ``plan``.
        generator: as in ``torch.nn.init``; one number is drawn from it as the root seed. Torch's
            global state is used where it is left out.
        dry_run: draw and measure without writing.

    Returns:
        The report, with ``undo``.

    Raises:
        ArgumentError: for an unknown scheme, an empty model or inputs that are not usable.
        TraceError: if forward fails or cannot be followed.
        PlanError: if the scheme cannot serve the model, or the model is on the meta device.

    >>> net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    >>> initialize(net, torch.randn(64, 16), generator=torch.Generator().manual_seed(0)).ok
    True
    """
    made, traced, arguments = _plan(model, inputs, scheme)
    seed = root_seed(generator)
    values = draw_all(model, made, seed)
    measured = measure(model, traced, arguments, values)
    findings = find(measured, made)
    # Nothing can fail from here on.
    before = {} if dry_run else write(model, values)
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


def diagnose(model: nn.Module, inputs: Inputs = None) -> Diagnosis:
    """Measure a model as it stands and say what is wrong with it; nothing is touched.

    Args:
        model: any module that torch.export can follow.
        inputs: as for ``plan``.

    Returns:
        Measurements and findings.

    Raises:
        ArgumentError: for an empty model or inputs that are not usable.
        TraceError: if forward fails or cannot be followed.
        PlanError: if the model is on the meta device.

    >>> dead = nn.Sequential(*[nn.Linear(16, 16) for _ in range(60)])
    >>> diagnose(dead, torch.randn(64, 16)).ok
    False
    """
    _refuse_unusable(model)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise PlanError(
                f"parameter {name!r} must have storage, got one on the meta device. "
                "Call model.to_empty(device='cpu') and load or initialize it first."
            )
    arguments = read_inputs(model, inputs)
    traced = trace(model, arguments)
    measured = measure(model, traced, arguments)
    return Diagnosis(type(model).__name__, measured, find(measured))


def _plan(model: nn.Module, inputs: Inputs, scheme: str) -> tuple[Plan, Trace, ModelInputs]:
    _checks.one_of("scheme", scheme, SCHEMES)
    _refuse_unusable(model)
    arguments = read_inputs(model, inputs)
    # A model without storage is traced without data; their scale and axes are read all the same.
    has_storage = not any(p.is_meta for p in model.parameters())
    traced = trace(model, arguments if has_storage else arguments.on_meta())
    samples = dict(zip(traced.inputs, arguments.rows(), strict=True))
    if not arguments.is_given:
        # Made-up inputs tell a scale of 1 and nothing more.
        samples = {}
    return make_plan(traced, scheme, samples), traced, arguments


def _refuse_unusable(model: nn.Module) -> None:
    """Refuse what is no model, holds nothing, or hides its layers."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model must be a torch.nn.Module, got {type(model).__name__}. Wrap functions in one."
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ArgumentError(
            f"model must be the module itself, got {type(model).__name__}. Pass model.module."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError(
            "model must be an eager module, got a ScriptModule. Initialize it before scripting."
        )
    if next(model.parameters(), None) is None:
        raise ArgumentError(
            f"model must have parameters, got none in {type(model).__name__}. "
            "Pass the module that holds the layers."
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ArgumentError(
                f"parameter {name!r} must have a shape, got a lazy one. "
                "Run one forward pass on real data first."
            )
